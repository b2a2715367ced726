"""How a run's agents were taught to talk: system prompts, feedback format, revisions. Kept in the run's `rules.json`."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from core.files import read_json, write_json
from core.methods import UserError
from core.records import ChatExample
from core.refs import parse_model_ref
from core.waltz.feedback import SYSTEM, FeedbackFormat, read_feedback
from core.waltz.protocol import Role, Rules

if TYPE_CHECKING:
    from core.runs import Workspace

FILE = "rules.json"
VERSION = 2
"""1, which the file did not say: an empty feedback_system meant that of the format."""
MOST_SYSTEMS = 1_000
"""Different system prompts that are counted: a set with more has none that is the usual one."""


def write_rules(folder: Path, rules: Rules) -> None:
    """Keep the rules in a run folder."""
    write_json(folder / FILE, {"version": VERSION, **asdict(rules)})


def rules_of(ref: str, workspace: Workspace) -> Rules:
    """The rules that the run behind a `waltz:` reference kept, with one sample; the usual ones for any other model."""
    parsed = parse_model_ref(ref)
    if parsed.kind != "waltz":
        return Rules()
    kept = read_json(workspace.run(parsed.name).dir / FILE, {})
    if kept.pop("version", 1) < 2 and not kept.get("feedback_system"):
        kept["feedback_system"] = None
    try:
        return Rules(**{**kept, "samples": 1})
    except TypeError as error:
        raise UserError(f"{FILE} of run {parsed.name} cannot be read ({error}): another version wrote it; train the agents "
                        "again.") from error


class RulesSeen:
    """Looks at the rows of both chat sets as they go by, and says which rules they teach."""

    def __init__(self) -> None:
        self.systems: dict[Role, Counter[str]] = {"conversation": Counter(), "feedback": Counter()}
        self.formats: Counter[FeedbackFormat] = Counter()

    def add(self, role: Role, example: ChatExample) -> None:
        """Count one row."""
        first = example.messages[0]
        system = first["content"] if first.get("role") == "system" else ""
        counted = self.systems[role]
        if system in counted or len(counted) < MOST_SYSTEMS:
            counted[system] += 1
        if role == "feedback":
            read = read_feedback(example.messages[-1].get("content", ""))
            if not read.malformed:
                self.formats["json" if read.score is None else "score"] += 1

    @property
    def rules(self) -> Rules:
        """The usual system prompts and the usual format; one revision, as in the paper's training."""
        form: FeedbackFormat = self.formats.most_common(1)[0][0] if self.formats else "json"
        usual = {role: (counted.most_common(1)[0][0] if counted else None) for role, counted in self.systems.items()}
        conversation, feedback = usual["conversation"], usual["feedback"]
        plain = Rules()
        return Rules(feedback_format=form, conversation_system=plain.conversation_system if conversation is None else conversation,
                     feedback_system=None if feedback == SYSTEM[form] else feedback)
