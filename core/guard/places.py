"""Where in a guard's answer a label stands, and which words could stand there instead.

No prompt format has to say it: a word is the label of a task where another word in its place makes the format's own parser read the
other label. So the words are those that the parser takes, at the one place that it looks at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from core.records import NEGATIVE, POSITIVE, GuardExample, Task

_HARM = ("harmful", "unharmful", "harmless", "unsafe", "safe", "benign", "controversial", "yes", "no")
_REPLY = ("refusal", "compliance", "yes", "no")
_WORD = re.compile(r"\b(?:" + "|".join(sorted({*_HARM, *_REPLY})) + r")\b", re.IGNORECASE)
LOOK = 40
"""Words that are tried, from the end and from the beginning: a label stands at either end of an answer, not in the middle."""


@dataclass(frozen=True)
class LabelPlace:
    """The place of one label: the answer before it, the words that may stand there, and the label that each means."""

    before: str
    words: tuple[str, ...]
    labels: tuple[str, ...]

    def positive(self, chances: tuple[float, ...], task: Task) -> float:
        """Probability of the class one looks for, from those of the words."""
        return min(1.0, sum(chance for chance, label in zip(chances, self.labels, strict=True) if label == POSITIVE[task]))


def label_place(prompt_format: Any, text: str, example: GuardExample, task: Task) -> LabelPlace | None:
    """Where `text` gives the label of `task`; None where it gives none that can be exchanged."""
    given = getattr(prompt_format.parse(text, example).labels, task)
    if given is None:
        return None
    found = list(_WORD.finditer(text))
    ends = found[::-1] if len(found) <= 2 * LOOK else [*found[:-LOOK - 1:-1], *found[:LOOK]]
    for match in ends:
        read = {}
        for word in _REPLY if task == "completion" else _HARM:
            said = _as_written(word, match[0])
            label = getattr(prompt_format.parse(text[:match.start()] + said + text[match.end():], example).labels, task)
            if label is not None:
                read[said] = label
        if set(read.values()) == {POSITIVE[task], NEGATIVE[task]} and read.get(match[0]) == given:
            return LabelPlace(text[:match.start()], tuple(read), tuple(read.values()))
    return None


def _as_written(word: str, like: str) -> str:
    return word.upper() if like.isupper() else word.capitalize() if like[0].isupper() else word
