"""From the `conversation` and `feedback` settings to the rows that each agent learns from: found, guarded, looked at once, divided.

Nothing is kept of a row but eight bytes: both sets are read again for each purpose, so their size does not matter.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.chat.balance import lot
from core.chat.messages import asked
from core.data import DataSource, find_chat, stream_chat
from core.methods import UserError
from core.mining.guarding import GuardTally, passing, refuse_test_rows
from core.records import ChatExample
from core.split_guard import keep_trained_keys, prompt_key
from core.waltz.feedback import read_feedback
from core.waltz.protocol import AGENTS, Role
from core.waltz.rules_file import RulesSeen

if TYPE_CHECKING:
    from core.lm.find import Found
    from core.runs import Workspace

SPLIT_SEED = 42
"""Which rows are held out depends on their prompts alone, so that runs with other seeds can be compared."""
RARE = 0.2
"""A rarer label than this share is learned badly; `check-data` says FAIL to it."""
UNREADABLE = "the answer is no feedback that can be read"


@dataclass
class AgentSet:
    """The rows of one agent, in the order of the file: without test rows, and without those of registered test sets."""

    role: Role
    source: DataSource
    workspace: Workspace
    allow: bool
    tally: GuardTally = field(default_factory=GuardTally)
    """What the split guard found in the last pass."""

    def __iter__(self) -> Iterator[ChatExample]:
        self.tally = GuardTally()
        rows = (row for row in stream_chat(self.source) if row.split != "test")
        return passing(rows, _asked, self.workspace.store, self.tally, allow=self.allow)

    def learnable(self) -> Iterator[ChatExample]:
        """Rows with something to learn: for the feedback agent those whose answer can be read."""
        return (row for row in self if self.role == "conversation" or not read_feedback(row.messages[-1]["content"]).malformed)


@dataclass
class Looked:
    """What one pass over an agent's rows showed."""

    rows: int = 0
    """Rows that can be learned from, the held-out ones among them."""
    unreadable: int = 0
    """Feedback rows without labels; they are left out."""
    labels: Counter[tuple[bool, bool]] = field(default_factory=Counter)
    """Rows by (unsafe, overrefuse); feedback only."""
    marked: int = 0
    """Rows that the set itself marks as validation rows."""
    threshold: int = -1
    """Rows whose prompt draws at most this lot are held out; -1 = none."""

    @property
    def held_out_from(self) -> str:
        """Where the held-out rows come from."""
        return "the set's validation rows" if self.marked else "a share of the rows, by prompt" if self.threshold >= 0 else "none"

    def holds_out(self, row: ChatExample) -> bool:
        """Is this row kept from training? Rows of one prompt are on one side, and both agents' sets hold out the same prompts first."""
        return row.split == "validation" if self.marked else lot_of(row) <= self.threshold

    @property
    def label_shares(self) -> dict[str, float]:
        """{label: share of rows that say yes}."""
        total = max(1, sum(self.labels.values()))
        return {name: sum(count for said, count in self.labels.items() if said[place]) / total
                for place, name in enumerate(("unsafe", "overrefuse"))}

    def record(self) -> dict[str, Any]:
        """For report.json."""
        counts = {f"unsafe {_yes(said[0])}, overrefuse {_yes(said[1])}": count for said, count in self.labels.most_common()}
        return {"usable": self.rows, "without_labels": self.unreadable, "labels": counts, "held_out_from": self.held_out_from}


@dataclass(frozen=True)
class PreparedAgents:
    """What the settings lead to, before any weights are read."""

    sets: dict[Role, AgentSet]
    looked: dict[Role, Looked]
    found: dict[Role, Found]
    """The model that each agent starts from."""
    rules: Any
    """core.waltz.protocol.Rules that the rows teach."""

    def train(self, role: Role) -> Iterator[ChatExample]:
        """Rows to learn from."""
        return (row for row in self.sets[role].learnable() if not self.looked[role].holds_out(row))

    def held_out(self, role: Role) -> Iterator[ChatExample]:
        """Rows kept from training."""
        return (row for row in self.sets[role].learnable() if self.looked[role].holds_out(row))

    @property
    def overridden(self) -> bool:
        """Were rows of test sets learned from because the settings said so?"""
        return any(one.allow and one.tally.count for one in self.sets.values())

    def guard_record(self) -> dict[str, Any]:
        """For report.json: both sets together."""
        return _together(self.sets).record(dropped=not any(one.allow for one in self.sets.values()))

    @property
    def hits(self) -> Any:
        """Rows of test sets in both, as core/split_guard.py words it."""
        return _together(self.sets).hits


def prepare_agents(config: Any, workspace: Workspace) -> PreparedAgents:
    """Everything about data and models. `config` is that of the `waltz-sft` method, or one with the same fields."""
    from core.lm.agents_find import find_agents

    conversation, feedback = find_agents(models_of(config), workspace)
    sets = {role: AgentSet(role, find_chat(getattr(config, role), workspace, role), workspace, config.allow_test_rows) for role in AGENTS}
    seen = RulesSeen()
    looked = {role: look(one, seen, held_out_rows=config.held_out_rows, share=config.validation_share) for role, one in sets.items()}
    refuse_test_rows(_together(sets), exclude=config.exclude_test_rows, allow=config.allow_test_rows)
    for role in AGENTS:
        refuse_useless(sets[role], looked[role])
    return PreparedAgents(sets, looked, {"conversation": conversation, "feedback": feedback}, seen.rules)


def models_of(config: Any) -> str | tuple[str, str]:
    """What the agents start from, as `open_agents` takes it."""
    return (config.model, config.feedback_model) if config.feedback_model else str(config.model)


def look(rows: AgentSet, seen: RulesSeen, *, held_out_rows: int, share: float) -> Looked:
    """One pass: counts, labels, and which rows to hold out: the set's own, else `held_out_rows`, at most `share` of all."""
    found, lots = Looked(), array("Q")
    for row in rows:
        if rows.role == "feedback":
            read = read_feedback(row.messages[-1]["content"])
            if read.malformed:
                found.unreadable += 1
                continue
            found.labels[bool(read.unsafe), bool(read.overrefuse)] += 1
        seen.add(rows.role, row)
        found.rows += 1
        found.marked += row.split == "validation"
        lots.append(lot_of(row))
    wanted = min(held_out_rows, int(share * found.rows))
    if wanted and not found.marked:
        distinct, counts = np.unique(np.frombuffer(lots, np.uint64), return_counts=True)
        place = int(np.searchsorted(np.cumsum(counts), wanted))  # whole prompts, so a few rows more where a prompt has several
        found.threshold = int(distinct[place]) if place < len(distinct) - 1 else -1
    return found


def refuse_useless(rows: AgentSet, found: Looked) -> None:
    """UserError where nothing, or nothing worth learning, is there."""
    name = rows.source.name
    if rows.tally.count and not found.rows and not rows.allow:
        raise UserError(f"{name} holds {rows.tally.hits}; without them nothing is left for the {rows.role} agent.")
    if found.unreadable and not found.rows:
        raise UserError(f"None of the {found.unreadable:,} answers of {name} has labels that can be read, and the feedback agent learns "
                        "from them; make such rows from labelled replies with guard-to-feedback.")
    if found.rows - found.marked < 1:
        raise UserError(f"{name} holds no row for the {rows.role} agent to learn from; choose another set.")
    if rows.role == "feedback" and len({any(said) for said in found.labels}) == 1:
        kind = "finds a fault" if any(next(iter(found.labels))) else "finds no fault"
        raise UserError(f"Every one of the {found.rows:,} answers of {name} {kind}, and an agent that saw one class says it to everything; "
                        "mix in rows of the other with guard-to-feedback and mix.")


def lot_of(row: ChatExample) -> int:
    """64 bits of a hash of the user's prompt."""
    return lot(SPLIT_SEED, prompt_key(asked(row).prompt))


def write_keys(prepared: PreparedAgents, path: Path) -> int:
    """Write which prompts both agents are trained on. Memory stays constant."""
    with closing(sqlite3.connect("")) as keys:  # "" = a temporary file that SQLite removes by itself
        keys.execute("CREATE TABLE keys (key TEXT PRIMARY KEY) WITHOUT ROWID")
        for role in AGENTS:
            keys.executemany("INSERT OR IGNORE INTO keys VALUES (?)", ((prompt_key(asked(row).prompt),) for row in prepared.train(role)))
        return keep_trained_keys(path, (key for (key,) in keys.execute("SELECT key FROM keys ORDER BY key")))


def _asked(row: ChatExample) -> tuple[str, str | None]:
    """(prompt, reply) for the split guard; the conversation agent's answer is the reply."""
    about = asked(row)
    return about.prompt, about.reply if about.reply is not None else row.messages[-1]["content"]


def _together(sets: dict[Role, AgentSet]) -> GuardTally:
    tallies = [one.tally for one in sets.values()]
    by_set: Counter[str] = Counter()
    for tally in tallies:
        by_set.update(tally.by_set)
    return GuardTally(sum(tally.count for tally in tallies), sum(tally.exact for tally in tallies), by_set)


def _yes(label: bool) -> str:
    return "yes" if label else "no"
