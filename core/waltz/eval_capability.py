"""Did the training cost ability? 200 short instructions with answers that need no judge (assets/capability.jsonl).

The matcher is strict: the WHOLE reply must be the answer. Before they are compared, reply and answer are normalised alike:

1. Unicode NFKC; white space at the ends goes, white space inside becomes one space.
2. Pairs of quotes, asterisks or backticks around the whole, and one full stop at the end, are peeled off, again and again.
3. Capital letters do not count, except where they are what is asked for: kinds `copying` and `formats`.

"The answer is 42." is therefore wrong where 42 was asked for and "Answer with the number only." was said.
"""

from __future__ import annotations

import hashlib
import unicodedata
from functools import lru_cache
from pathlib import Path

from pydantic import Field

from core.methods import UserError
from core.records import Record, read_records
from core.runs import REPOSITORY
from core.waltz.protocol import Opening

FILE = REPOSITORY / "assets" / "capability.jsonl"
CASED = frozenset({"copying", "formats"})
"""Kinds in which capital letters count."""
TOKENS = 64
"""Longest reply: the longest answer has 12 words, and a reply that goes on is wrong anyhow."""
_PAIRS = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "*": "*", "`": "`"}


class Task(Record):
    """One instruction."""

    prompt: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    kind: str
    """arithmetic, spelling, copying, sorting, counting, facts, formats."""
    accept: list[str] = []
    """Other answers that are right, too."""


def tasks(count: int, path: Path = FILE) -> list[Task]:
    """`count` of the instructions, spread evenly over the file, which has its kinds one after the other; all where it has no more."""
    every = _read(path)
    if count >= len(every):
        return list(every)
    return [every[place * len(every) // count] for place in range(count)]


@lru_cache(maxsize=4)
def _read(path: Path) -> tuple[Task, ...]:
    try:
        return tuple(read_records(path, Task))
    except (OSError, ValueError) as error:
        raise UserError(f"The instructions in {path} cannot be read: {error}") from None


def task_openings(chosen: list[Task]) -> list[Opening]:
    """The instructions as prompts to play episodes on."""
    return [Opening(row, task.prompt, "benign", "capability", task.kind) for row, task in enumerate(chosen)]


def is_answer(reply: str, task: Task) -> bool:
    """Is the whole reply the answer? See the module for what is overlooked."""
    said = normal(reply, task.kind)
    return any(said == normal(right, task.kind) for right in (task.answer, *task.accept))


def normal(text: str, kind: str) -> str:
    """What is compared."""
    text = " ".join(unicodedata.normalize("NFKC", text).split())
    while (bare := _peeled(text)) != text:
        text = bare
    return text if kind in CASED else text.casefold()


def _peeled(text: str) -> str:
    if len(text) > 1 and _PAIRS.get(text[0]) == text[-1]:
        return text[1:-1].strip()
    return text[:-1].strip() if len(text) > 1 and text.endswith(".") else text


def digest(chosen: list[Task]) -> str:
    """Which instructions these are, for reports: evaluations with another digest asked something else."""
    return hashlib.sha256("\n".join(task.model_dump_json() for task in chosen).encode()).hexdigest()
