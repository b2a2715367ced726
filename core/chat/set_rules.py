"""Rules of check-data about the set as a whole: nothing twice, labels and difficulties in balance, no test rows."""

from __future__ import annotations

import sqlite3
from collections import Counter
from typing import Any

from core.chat.messages import answer_of, asked
from core.chat.near import NearDuplicates
from core.chat.rule import Offend, Rule, counted
from core.chat.seen import Seen
from core.gates import Gate
from core.records import ChatExample
from core.split_guard import pair_key, prompt_key
from core.waltz.feedback import read_feedback
from core.words import plural


class TwiceRule(Rule):
    """No conversation stands there twice, word for word."""

    name = "duplicates"

    def __init__(self, offend: Offend) -> None:
        self._offend, self._rows, self._twice, self._seen = offend, 0, 0, Seen()

    def see(self, line: int, example: ChatExample) -> None:
        """Compare with the rows before."""
        self._rows += 1
        spoken = "\n".join(message["content"] for message in example.messages[:-1] if message["role"] != "system")
        if not self._seen.first(pair_key(spoken, answer_of(example))):
            self._twice += 1
            self._offend(self.name, line, "the same conversation stands above", example)

    def gate(self) -> Gate:
        """None at all."""
        return counted("Rows that stand there twice", float(self._twice), self._rows, most=0.0, unit="",
                       why=f"{plural(self._twice, 'row')} of {self._rows:,}.")

    def details(self) -> dict[str, Any]:
        """How many."""
        return {"rows": self._twice}

    def close(self) -> None:
        """Remove the file."""
        self._seen.close()


class NearRule(Rule):
    """Few rows that ask nearly the same as an earlier one: what a feedback row asks about, or all that is said before the answer."""

    name = "near-duplicates"

    def __init__(self, most: float, similarity: float, offend: Offend) -> None:
        self._most, self._offend, self._rows, self._near = most, offend, 0, 0
        self._index = NearDuplicates(similarity)

    def see(self, line: int, example: ChatExample) -> None:
        """Compare with the rows before."""
        self._rows += 1
        prompt, reply = asked(example)
        before = " ".join(message["content"] for message in example.messages[:-1] if message["role"] != "system")
        if like := self._index.find(before if reply is None else f"{prompt} {reply}", line):
            self._near += 1
            self._offend(self.name, line, f"nearly the same as line {like.row} (similarity {like.similarity:.2f})", example)

    def gate(self) -> Gate:
        """At most a share of the rows."""
        share = self._near / self._rows if self._rows else None
        why = f"{plural(self._near, 'row')} of {self._rows:,} ask nearly the same as an earlier one."
        return counted("Near-duplicates", share, self._rows, most=self._most, why=why)

    def details(self) -> dict[str, Any]:
        """How many."""
        return {"rows": self._near}

    def close(self) -> None:
        """Remove the file."""
        self._index.close()


class DifficultyRule(Rule):
    """The rarest difficulty is not too rare."""

    name = "difficulty"

    def __init__(self, least: float) -> None:
        self._least = least
        self._counts: Counter[str] = Counter()

    def see(self, line: int, example: ChatExample) -> None:
        """Count it, where the row names one."""
        if example.difficulty:
            self._counts[example.difficulty] += 1

    def gate(self) -> Gate:
        """At least a share."""
        if not self._counts:
            return counted("Rarest difficulty", None, 0, least=self._least, why="no row names its difficulty: nothing can be decided.")
        total = self._counts.total()
        words = ", ".join(f"{name} {count:,}" for name, count in self._counts.most_common())
        rarest = min(self._counts.values()) / total
        alone = " There is only one." if len(self._counts) == 1 else ""
        return counted("Rarest difficulty", rarest if not alone else 0.0, total, least=self._least, why=f"{words}.{alone}")

    def details(self) -> dict[str, Any]:
        """Rows of each difficulty."""
        return {"counts": dict(self._counts.most_common())}


class LabelRule(Rule):
    """A feedback set has enough rows of the rarer class of a label, else the agent learns to say the other one always."""

    def __init__(self, label: str, least: float) -> None:
        self.name = f"label {label}"
        self._label, self._least = label, least
        self._counts: Counter[bool] = Counter()

    def see(self, line: int, example: ChatExample) -> None:
        """Read the label of a feedback row."""
        read = read_feedback(answer_of(example))
        if not read.malformed:
            self._counts[bool(getattr(read, self._label))] += 1

    def gate(self) -> Gate:
        """At least a share."""
        total, words = self._counts.total(), {"unsafe": "unsafe", "overrefuse": "over-refusal"}[self._label]
        name = f"Rarer class of {words}"
        if not total:
            return counted(name, None, 0, least=self._least, why="no row is feedback: nothing can be decided.")
        yes = self._counts[True]
        return counted(name, min(yes, total - yes) / total, total, least=self._least,
                       why=f"{yes:,} of {total:,} replies are called {'unsafe' if self._label == 'unsafe' else 'an over-refusal'}.")

    def details(self) -> dict[str, Any]:
        """Rows of each class."""
        return {"yes": self._counts[True], "no": self._counts[False]}


class OverlapRule(Rule):
    """No training row has a prompt of a registered test set, nor of the set's own held-out rows."""

    name = "train/test overlap"

    def __init__(self, offend: Offend) -> None:
        self._offend, self._rows, self._tests = offend, 0, 0
        self._db = sqlite3.connect("")
        self._db.execute("CREATE TABLE prompts (key TEXT, held INTEGER, line INTEGER)")

    def see(self, line: int, example: ChatExample) -> None:
        """Remember the prompt and its side."""
        self._rows += 1
        self._db.execute("INSERT INTO prompts VALUES (?, ?, ?)", (prompt_key(asked(example).prompt),
                                                                  example.split in ("test", "validation"), line))

    def see_test_row(self, line: int, example: ChatExample) -> None:
        """The prompt of this row is in a registered test set."""
        if example.split != "test":
            self._tests += 1
            self._offend(self.name, line, "its prompt is in a registered test set", example)

    def gate(self) -> Gate:
        """None at all."""
        self._db.execute("CREATE INDEX by_key ON prompts (key, held)")
        query = ("SELECT line FROM prompts AS one WHERE held = 0 AND EXISTS (SELECT 1 FROM prompts AS other WHERE other.key = one.key "
                 "AND other.held = 1) ORDER BY line")
        both = 0
        for (line,) in self._db.execute(query):
            both += 1
            self._offend(self.name, line, "its prompt is among the held-out rows of this set, too", None)
        self._own = both
        why = "; ".join(filter(None, [f"{plural(self._tests, 'row')} of registered test sets" if self._tests else "",
                                      f"{plural(both, 'training row')} share a prompt with held-out rows" if both else ""]))
        return counted("Rows shared with test sets", float(self._tests + both), self._rows, most=0.0, unit="", why=f"{why or 'none'}.")

    def details(self) -> dict[str, Any]:
        """How many of each kind."""
        return {"registered": self._tests, "held_out": self._own}

    def close(self) -> None:
        """Remove the file."""
        self._db.close()
