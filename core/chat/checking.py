"""One pass over a set of conversations: every rule looks at every row; then gates, offending rows and a report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Annotated, Any

from core.chat.answer_rules import LEAST_DISTINCT, MOST_SAME, DiversityRule, RepeatedRule
from core.chat.messages import agent_of, asked, read_chat, shape_problem
from core.chat.personal import PersonalData
from core.chat.row_rules import FormatRule, LengthRule, PersonalRule
from core.chat.rule import Rule
from core.chat.set_rules import DifficultyRule, LabelRule, NearRule, OverlapRule, TwiceRule
from core.data import DataSource
from core.files import replace_file
from core.methods import Config, FromRun, UserError, setting
from core.mining.guarding import GuardTally, marked
from core.records import ChatExample
from core.rows import BadRow
from core.words import plural

if TYPE_CHECKING:
    from core.active import ActiveRun

OFFENDING = "offending_rows.jsonl"
FIRST = 5
EXCERPT = 120
MOST_WORDS = 1500


class CheckConfig(Config):
    """Which set, and how strict each rule is."""

    data: Annotated[str, FromRun("data", chat=True)] = setting(min_length=1)
    """A set of conversations: name, run id or file; NAME:conversation or NAME:feedback of a run that made both."""
    model: Annotated[str, FromRun("model")] = setting("")
    """Model whose tokenizer and chat template measure the rows. Empty: rows are measured in words."""
    max_length: int = setting(2048, ge=1)
    """Longest row: tokens of the model, or, without one, words."""
    min_class_share: float = setting(0.2, ge=0, le=0.5)
    """The rarer class of each feedback label, and the rarest difficulty, make up at least this share."""
    max_personal: int = setting(0, ge=0)
    """Rows in which personal data may be found."""
    max_near_duplicates: float = setting(0.1, ge=0, le=1)
    """Share of rows that may ask nearly the same as an earlier one."""
    similarity: float = setting(0.8, ge=0.5, le=1, advanced=True)
    """From this Jaccard similarity of their character 5-grams on, two texts are nearly the same."""
    min_distinct_answers: float = setting(LEAST_DISTINCT, ge=0, le=1)
    """Least share of answers that are different ones, in the set and in each source of it that has 20 rows. Conversations only: feedback
    is made of few sentences on purpose."""
    max_same_answer: float = setting(MOST_SAME, ge=0, le=1)
    """Share of the rows that may have one and the same answer; 10 rows always may. Conversations only."""


class Offences:
    """Rows that break a rule: all of them go to a file, the first of each rule into the report."""

    def __init__(self, file: IO[str] | None = None) -> None:
        self._file = file
        self._finder = PersonalData()
        self.count: Counter[str] = Counter()
        self.first: dict[str, list[dict[str, Any]]] = {}

    def __call__(self, rule: str, line: int, reason: str, example: ChatExample | None) -> None:
        """Keep one. What is shown of the row has its personal data masked."""
        kept: dict[str, Any] = {"rule": rule, "line": line, "reason": reason}
        if example is not None:
            kept["begins"] = self._finder.hide(asked(example).prompt[:EXCERPT])
        self.count[rule] += 1
        if self.count[rule] <= FIRST:
            self.first.setdefault(rule, []).append(kept)
        if self._file:
            self._file.write(json.dumps(kept, ensure_ascii=False) + "\n")


def check_set(source: DataSource, config: CheckConfig, run: ActiveRun, tokens: Callable[[ChatExample], int] | None) -> dict[str, Any]:
    """Look at every row of the set and write what offends; returns report.json. UserError where the set has no rows."""
    with replace_file(run.dir / OFFENDING) as file:
        offend = Offences(file)
        report = _checked(source, config, run, tokens, offend)
    if not offend.count:
        (run.dir / OFFENDING).unlink()
    return report


def _checked(source: DataSource, config: CheckConfig, run: ActiveRun, tokens: Callable[[ChatExample], int] | None,
             offend: Offences) -> dict[str, Any]:
    form, overlap = FormatRule(source.path.name, source.path.stat().st_size, offend), OverlapRule(offend)
    diversity = DiversityRule(config.min_distinct_answers, offend)
    rules: list[Rule] = [
        PersonalRule(config.max_personal, offend), TwiceRule(offend), NearRule(config.max_near_duplicates, config.similarity, offend),
        diversity, RepeatedRule(config.max_same_answer, diversity, offend), DifficultyRule(config.min_class_share),
        LengthRule(config.max_length, "tokens" if tokens else "words", tokens or words_of, offend), overlap]
    labels: list[Rule] = [LabelRule(label, config.min_class_share) for label in ("unsafe", "overrefuse")]
    try:
        agents = _look(source, run, form, overlap, [*rules, *labels])
        if not agents and not offend.count:
            raise UserError(f"{source.name} ({source.path}) holds no rows.")
        judged = [form, *rules, *(labels if agents["feedback"] > agents["conversation"] else [])]
        gates = [{"model": None, "task": None, **rule.gate().model_dump()} for rule in judged]
        details = [{"rule": rule.name, "offending": offend.count[rule.name], "first": offend.first.get(rule.name, []),
                    "details": rule.details()} for rule in judged]
    finally:
        for rule in [*rules, *labels]:
            rule.close()
    failed = [gate["name"] for gate in gates if gate["verdict"] == "FAIL"]
    verdict = "FAIL" if failed else "PASS"
    undecided = sum(gate["verdict"] == "INSUFFICIENT DATA" for gate in gates)
    said = f"{plural(len(failed), 'rule')} of {len(gates)} failed: {', '.join(failed)}" if failed else \
        f"no rule of {len(gates)} failed" + (f", {undecided} could not be judged" if undecided else "")
    return {"kind": "check", "headline": f"{verdict}: {said}", "verdict": verdict, "failed": failed, "set": source.name,
            "set_run": source.run.id if source.run else "", "sha256": source.sha256(), "rows": agents.total(), "agents": dict(agents),
            "gates": gates, "rules": details}


def _look(source: DataSource, run: ActiveRun, form: FormatRule, overlap: OverlapRule, rules: list[Rule]) -> Counter[str]:
    """Show every row to every rule; returns whose rows they are. Rows that cannot be learned from are shown to the format rule alone."""
    agents: Counter[str] = Counter()
    rows = marked(_readable(source, form), _texts, run.workspace.store, GuardTally())
    for count, ((line, example), is_test) in enumerate(rows, start=1):
        if count % 200 == 0:
            run.progress(count, None, "rows")
            run.stop_if_asked()
        form.see(line, example)
        if shape_problem(example.messages):
            continue
        agents[agent_of(example)] += 1
        for rule in rules:
            rule.see(line, example)
        if is_test:
            overlap.see_test_row(line, example)
    return agents


def _readable(source: DataSource, form: FormatRule) -> Iterator[tuple[int, ChatExample]]:
    for line, made in read_chat(source.path):
        if isinstance(made, BadRow):
            form.see_bad(made)
        else:
            yield line, made


def words_of(example: ChatExample) -> int:
    """Words of all messages."""
    return sum(len(message["content"].split()) for message in example.messages)


def _texts(item: tuple[int, ChatExample]) -> tuple[str, str | None]:
    return asked(item[1])
