"""What a rule of check-data is: it looks at every row as it streams by and ends in one gate: PASS, FAIL, or INSUFFICIENT DATA.

The whole set is looked at, so a gate's number has no spread: its interval is the number itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core.gates import Gate, gate_at_least, gate_at_most
from core.intervals import Interval, Unit, number_words
from core.records import ChatExample

Offend = Callable[[str, int, str, ChatExample | None], None]
"""(rule, line, reason, row): a row that breaks a rule."""


class Rule:
    """Looks at rows, then says what it found."""

    name: str

    def see(self, line: int, example: ChatExample) -> None:
        """Look at a row."""
        raise NotImplementedError

    def gate(self) -> Gate:
        """The verdict, after the last row."""
        raise NotImplementedError

    def details(self) -> dict[str, Any]:
        """Numbers behind the verdict, once it is there."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what lies on the disk."""


def counted(name: str, value: float | None, n: int, *, most: float | None = None, least: float | None = None, unit: Unit = "%",
            why: str) -> Gate:
    """A gate on a number that was counted over all rows. `why`: the sentence for the screen; without a value it says what is missing."""
    interval = Interval(value=value, low=value, high=value, n=n if value is not None else 0)
    gate = gate_at_most(name, interval, most, unit=unit) if most is not None else gate_at_least(name, interval, least or 0.0, unit=unit)
    head = f"{number_words(value, unit)}: " if value is not None else ""
    return gate.model_copy(update={"explanation": head + why})
