"""What a mining run found, counted as the rows come: hard, easy, unreadable, by source and by gold label, each with its interval."""

from __future__ import annotations

from collections import Counter
from typing import Any

from core.intervals import wilson
from core.mining.samples import KINDS, TASK_ORDER, Kind, Unparsed, hard_task, kind_of, outcome, tally, tasks_of
from core.records import MinedSample, Task
from core.words import plural

MOST_GROUPS = 200
"""Sources or categories that get a line of their own; what comes after is counted together, so that memory stays bounded."""
OTHERS = "(others)"


class Summary:
    """Counts over mined rows; add them in any order, ask for the record at any time."""

    def __init__(self, k: int, unparsed: Unparsed) -> None:
        self.k, self.unparsed = k, unparsed
        self.kinds: Counter[Kind] = Counter()
        self.outcomes: dict[Task, Counter[str]] = {}
        self.right: Counter[int] = Counter()
        self.groups: dict[str, dict[str, Counter[Kind]]] = {"source": {}, "gold": {}, "category": {}}
        self.tokens = 0
        self.cut = 0

    @property
    def rows(self) -> int:
        """Rows so far."""
        return self.kinds.total()

    @property
    def hard(self) -> int:
        """Hard ones among them."""
        return self.kinds["hard"]

    def add(self, sample: MinedSample) -> None:
        """Count one row."""
        kind = kind_of(sample, self.unparsed)
        self.kinds[kind] += 1
        tasks = tasks_of(sample)
        for task in tasks:
            self.outcomes.setdefault(task, Counter()).update(outcome(sample, output, task) for output in sample.outputs)
        if tasks:
            self.right[tally(sample, hard_task(sample, self.unparsed) or tasks[0], self.unparsed).correct] += 1
        self._group("source", sample.source or "(none)", kind)
        for task in tasks:
            self._group("gold", f"{task}: {getattr(sample.gold, task)}", kind)
        if sample.category:
            self._group("category", sample.category, kind)
        self.tokens += sum(output.tokens for output in sample.outputs)
        self.cut += sum(output.finish == "length" for output in sample.outputs)

    def _group(self, by: str, name: str, kind: Kind) -> None:
        groups = self.groups[by]
        if name not in groups and len(groups) >= MOST_GROUPS:
            name = OTHERS
        groups.setdefault(name, Counter())[kind] += 1

    def record(self) -> dict[str, Any]:
        """For report.json. Shares are fractions with 95 % Wilson intervals."""
        return {
            "rows": self.rows, "hard": self.hard,
            "kinds": {kind: _share(self.kinds[kind], self.rows) for kind in KINDS},
            "outputs": {task: _outcomes(self.outcomes[task]) for task in TASK_ORDER if task in self.outcomes},
            "histogram": [{"right": right, **_share(self.right[right], self.rows)} for right in range(self.k + 1)],
            **{f"by_{by}": [_group_record(name, counts) for name, counts in _largest_first(groups)] for by, groups in self.groups.items()},
            "answer_tokens": self.tokens, "cut_at_limit": _share(self.cut, self.rows * self.k),
        }

    def headline(self) -> str:
        """"30 of 481 rows are hard, 6.2 % (4.4 % to 8.8 %, n = 481)"."""
        return f"{self.hard:,} of {plural(self.rows, 'row')} hard: {wilson(self.hard, self.rows).text()}"

    def nothing_hard(self) -> str:
        """What to say, and to change, where no row was hard."""
        found = max(KINDS, key=lambda kind: self.kinds[kind])
        why = {"all right": "the guard is right about nearly all of them: mine harder rows, or a guard trained for fewer epochs or on "
                            "fewer rows; a higher temperature and a larger k find more",
               "all wrong": "the guard is wrong about nearly all of them: train it longer, or look whether the gold labels are right",
               "unparsed": "hardly an answer could be read: look at outputs.jsonl; raise max_new_tokens if answers are cut off, lower the "
                           "temperature if they are garbled, or train the guard longer",
               "hard": ""}[found]
        return (f"No hard sample among {plural(self.rows, 'row')} ({self.kinds['all right']:,} all right, {self.kinds['all wrong']:,} all "
                f"wrong, {self.kinds['unparsed']:,} unparsed): {why}. To change: a higher temperature, more rows (limit), a larger k, "
                "or a less trained guard. No pairs can be built from this run.")


def _share(count: int, of: int) -> dict[str, Any]:
    return {"count": count, "share": wilson(count, of).model_dump()}


def _outcomes(counts: Counter[str]) -> dict[str, Any]:
    total = counts.total()
    return {"n": total, **{name: _share(counts[name], total) for name in ("correct", "incorrect", "unparsed")}}


def _largest_first(groups: dict[str, Counter[Kind]]) -> list[tuple[str, Counter[Kind]]]:
    return sorted(groups.items(), key=lambda item: (item[0] == OTHERS, -item[1].total(), item[0]))


def _group_record(name: str, counts: Counter[Kind]) -> dict[str, Any]:
    return {"name": name, "rows": counts.total(), "hard": wilson(counts["hard"], counts.total()).model_dump(),
            "kinds": {kind: counts[kind] for kind in KINDS}}
