"""Rules of check-data about single rows: can it be learned from, does it hold personal data, is it too long?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from core.chat.messages import shape_problem
from core.chat.personal import PersonalData, masked
from core.chat.report import word_spread
from core.chat.rule import Offend, Rule, counted
from core.gates import Gate
from core.records import ChatExample
from core.rows import BadRow
from core.words import plural, size

MISTRAL_BYTES = 512 * 2**20
"""Largest training file of Mistral's fine-tuning service."""


class FormatRule(Rule):
    """One object a line, roles in order, the assistant last, no empty text, a .jsonl file of at most 512 MB: Mistral's rules and ours."""

    name = "format"

    def __init__(self, file: str, bytes_: int, offend: Offend) -> None:
        self._offend, self._rows, self._bad = offend, 0, 0
        self._file = [f"the file is {size(bytes_)}, more than 512 MB"] if bytes_ > MISTRAL_BYTES else []
        if not file.endswith(".jsonl"):
            self._file.append(f"{file} is no .jsonl file")

    def see_bad(self, row: BadRow) -> None:
        """A row that could not be read."""
        self._rows += 1
        self._bad += 1
        self._offend(self.name, row.line, f"{row.column}: {row.reason}" if row.column else row.reason, None)

    def see(self, line: int, example: ChatExample) -> None:
        """Look at the order of the messages."""
        self._rows += 1
        if problem := shape_problem(example.messages):
            self._bad += 1
            self._offend(self.name, line, problem, example)

    def gate(self) -> Gate:
        """No row may break the rules."""
        faults = self._bad + len(self._file)
        why = "; ".join(filter(None, [f"{plural(self._bad, 'row')} cannot be learned from" if self._bad else "", *self._file]))
        return counted("Format", float(faults), self._rows, most=0.0, unit="", why=why or "every row is a conversation with an answer.")

    def details(self) -> dict[str, Any]:
        """What is wrong with the file as a whole."""
        return {"rows": self._bad, "file": self._file}


class PersonalRule(Rule):
    """No personal data: addresses, phone, card and account numbers, ..."""

    name = "personal data"

    def __init__(self, most: int, offend: Offend) -> None:
        self._most, self._offend, self._found, self._rows, self._hits = most, offend, PersonalData(), 0, 0
        self._kinds: Counter[str] = Counter()

    def see(self, line: int, example: ChatExample) -> None:
        """Look into every message but the system prompt."""
        self._rows += 1
        places = []
        for number, message in enumerate(example.messages, start=1):
            if message["role"] != "system":
                for found in self._found.find(message["content"]):
                    self._kinds[found.kind] += 1
                    shown = masked(message["content"][found.start:found.end])
                    places.append(f"{found.kind} in message {number}, letters {found.start + 1} to {found.end}: {shown}")
        if places:
            self._hits += 1
            self._offend(self.name, line, "; ".join(places[:5]) + (f"; and {len(places) - 5} more" if len(places) > 5 else ""), None)

    def gate(self) -> Gate:
        """At most so many rows."""
        why = ", ".join(f"{kind}: {count:,}" for kind, count in self._kinds.most_common())
        return counted("Rows with personal data", float(self._hits), self._rows, most=float(self._most), unit="",
                       why=f"{why}." if why else f"none was found by {self._found.name}.")

    def details(self) -> dict[str, Any]:
        """What was found, by kind."""
        return {"rows": self._hits, "kinds": dict(self._kinds.most_common()), "detector": self._found.name}


class LengthRule(Rule):
    """No row is longer than what a model can be trained on."""

    name = "length"

    def __init__(self, most: int, unit: str, length: Callable[[ChatExample], int], offend: Offend) -> None:
        self._most, self._unit, self._length, self._offend = most, unit, length, offend
        self._lengths: Counter[int] = Counter()
        self._long = 0

    def see(self, line: int, example: ChatExample) -> None:
        """Measure the row."""
        length = self._length(example)
        self._lengths[length] += 1
        if length > self._most:
            self._long += 1
            self._offend(self.name, line, f"{length:,} {self._unit}, more than {self._most:,}", example)

    def gate(self) -> Gate:
        """None may be longer."""
        longest = f"the longest row has {max(self._lengths):,} {self._unit}, {self._most:,} are allowed." if self._lengths else "no rows."
        return counted(f"Rows over {self._most:,} {self._unit}", float(self._long), self._lengths.total(), most=0.0, unit="", why=longest)

    def details(self) -> dict[str, Any]:
        """How long rows are."""
        return {"rows": self._long, "unit": self._unit, "lengths": word_spread(self._lengths) if self._lengths else None}
