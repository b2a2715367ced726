"""Do the answers of a set differ? In the whole set, and in each source of it: a source that says ten things six hundred times is no better
for the good rows beside it. Feedback is made of labels and few sentences on purpose: there the numbers are told, not judged.
"""

from __future__ import annotations

import sqlite3
from typing import Any, NamedTuple

from core.chat.messages import agent_of, answer_of
from core.chat.personal import PersonalData
from core.chat.rule import Offend, Rule, counted
from core.gates import Gate
from core.records import ChatExample
from core.split_guard import prompt_key
from core.words import plural

LEAST_DISTINCT = 0.5
"""Share of a source's answers that are different ones, at least."""
MOST_SAME = 0.01
"""Share of the rows that may have one and the same answer."""
FEW = 10
"""So many rows may have the same answer in the smallest set."""
JUDGED_ROWS = 20
"""A source with fewer rows is not judged by itself."""
REPEATS = "A model that learns from them learns to repeat these answers, whatever is asked."


class OfSource(NamedTuple):
    """The answers of one source."""

    source: str
    rows: int
    distinct: int
    most: int
    """Rows of its commonest answer."""

    @property
    def words(self) -> str:
        """"10 distinct answers in 606 rows"."""
        return f"{plural(self.distinct, 'distinct answer')} in {plural(self.rows, 'row')}"

    @property
    def share(self) -> float:
        """Of distinct ones."""
        return self.distinct / self.rows


def may_repeat(rows: int, most: float = MOST_SAME) -> int:
    """In so many rows of a set one and the same answer may stand."""
    return max(FEW, int(most * rows))


class Answers:
    """How often each answer stands in each source; on the disk. Close it."""

    def __init__(self) -> None:
        self.rows = 0
        self._db = sqlite3.connect("")
        self._db.execute("CREATE TABLE answers (key TEXT, source TEXT, count INTEGER, line INTEGER, text TEXT, PRIMARY KEY (key, source)) "
                         "WITHOUT ROWID")

    def add(self, source: str, line: int, answer: str) -> None:
        """Count one."""
        self.rows += 1
        self._db.execute("INSERT INTO answers VALUES (?, ?, 1, ?, ?) ON CONFLICT (key, source) DO UPDATE SET count = count + 1",
                         (prompt_key(answer), source, line, answer[:120]))

    def distinct(self) -> int:
        """Different answers, whatever source they stand in."""
        return int(self._db.execute("SELECT COUNT(DISTINCT key) FROM answers").fetchone()[0])

    def sources(self) -> list[OfSource]:
        """Each source, the one with the smallest share of distinct answers first."""
        rows = self._db.execute("SELECT source, SUM(count), COUNT(*), MAX(count) FROM answers GROUP BY source "
                                "ORDER BY 1.0 * COUNT(*) / SUM(count), source")
        return [OfSource(*row) for row in rows]

    def common(self, limit: int = 10) -> list[tuple[int, int, str]]:
        """(first line, rows, first letters) of the answers that stand there more than once, the commonest first."""
        found = self._db.execute("SELECT MIN(line) AS first, SUM(count) AS rows, text FROM answers GROUP BY key HAVING rows > 1 "
                                 "ORDER BY rows DESC, first LIMIT ?", (limit,))
        return [(line, rows, text) for line, rows, text in found]

    def close(self) -> None:
        """Remove the file."""
        self._db.close()


class DiversityRule(Rule):
    """Enough different answers, in the set and in each source of it."""

    name = "answer diversity"

    def __init__(self, least: float, offend: Offend) -> None:
        self._least, self._offend, self._feedback = least, offend, 0
        self.answers = Answers()

    def see(self, line: int, example: ChatExample) -> None:
        """Count the answer."""
        self._feedback += agent_of(example) == "feedback"
        self.answers.add(example.source, line, answer_of(example))

    @property
    def is_feedback(self) -> bool:
        """Are most rows feedback?"""
        return self._feedback > self.answers.rows / 2

    def gate(self) -> Gate:
        """At least a share of the answers are different ones."""
        whole = OfSource("", self.answers.rows, self.answers.distinct(), 0)
        why = f"{whole.words}."
        if self.is_feedback or not whole.rows:
            return counted("Different answers", None, 0, least=self._least, why=f"not judged for feedback; {why}" if whole.rows else why)
        named = [one for one in self.answers.sources() if one.source and JUDGED_ROWS <= one.rows < whole.rows]
        worst = min([whole, *named], key=lambda one: one.share)
        if worst is not whole:
            why = f"{worst.words} of {worst.source}; {whole.words} in all."
        if worst.share < self._least:
            why += f" {REPEATS}"
            for line, rows, _ in self.answers.common():
                self._offend(self.name, line, f"this answer stands in {rows:,} rows", None)
        return counted("Different answers", worst.share, self.answers.rows, least=self._least, why=why)

    def details(self) -> dict[str, Any]:
        """How many distinct answers, in all and in the sources with the smallest share, and the commonest ones (first letters, masked)."""
        finder = PersonalData()
        common = [{"line": line, "count": rows, "text": finder.hide(text)} for line, rows, text in self.answers.common()]
        sources = [{"source": one.source, "rows": one.rows, "distinct": one.distinct} for one in self.answers.sources()[:10]]
        return {"distinct": self.answers.distinct(), "most_frequent": common, "sources": sources}

    def close(self) -> None:
        """Remove the file."""
        self.answers.close()


class RepeatedRule(Rule):
    """No answer stands in too many rows, however many good rows there are beside them."""

    name = "repeated answers"

    def __init__(self, most: float, of: DiversityRule, offend: Offend) -> None:
        self._most, self._of, self._offend = most, of, offend

    def see(self, line: int, example: ChatExample) -> None:
        """Nothing: the rule on diversity has counted the answer."""

    def gate(self) -> Gate:
        """At most a share of the rows, in a small set a few."""
        answers = self._of.answers
        common, bound = answers.common(), may_repeat(answers.rows, self._most)
        most = common[0][1] if common else min(1, answers.rows)
        why = f"the commonest answer stands in {plural(most, 'row')} of {answers.rows:,}."
        name = "Rows with one answer"
        if self._of.is_feedback or not answers.rows:
            return counted(name, None, 0, most=float(bound), unit="", why=f"not judged for feedback; {why}" if answers.rows else why)
        if most > bound:
            why += f" {REPEATS}"
            for line, rows, _ in common:
                if rows > bound:
                    self._offend(self.name, line, f"this answer stands in {rows:,} rows", None)
        return counted(name, float(most), answers.rows, most=float(bound), unit="", why=why)

    def details(self) -> dict[str, Any]:
        """The bound."""
        return {"may_repeat": may_repeat(self._of.answers.rows, self._most)}
