"""Answers to rows that are not whole yet: kept on the disk as they are made, so that a killed run loses only what was being written.

outputs.jsonl takes whole rows in the order of the set, and one long answer holds up every row behind it. What has finished meanwhile
stands in ahead.jsonl, one answer a line; a resumed run takes it from there and asks for the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from core.answer_log import AnswerLog, read_log
from core.records import Record, write_records

FILE = "ahead.jsonl"
SPARE = 512
"""Lines of rows that are whole meanwhile: with more, and as many as are still wanted, the file is written anew."""


class Answer(Record):
    """One answer to a row."""

    row: int
    sample: int
    text: str
    tokens: int = 0
    finish: Literal["stop", "length"] = "stop"


class Ahead:
    """The answers of rows from number `first` on, by (row, sample), in memory and in a file. Used in a `with`; `done()` ends the file."""

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        kept = read_log(path, Answer, "take the line out; that answer is asked for again")
        self.held = {(one.row, one.sample): one for one in kept if one.row >= first}

    def __enter__(self) -> Ahead:
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._log.__exit__()

    def add(self, answer: Answer) -> None:
        """Keep an answer; it is the operating system's when this returns."""
        self.held[answer.row, answer.sample] = answer
        self._log.add(answer)
        if self._log.rows > SPARE + 2 * len(self.held):
            self._log.__exit__()
            self._open()

    def forget(self) -> None:
        """Hold nothing, in memory and in the file, where what is held cannot be used."""
        self.held.clear()
        self._log.__exit__()
        self._open()

    def done(self) -> None:
        """All rows are whole: the file goes."""
        self.path.unlink(missing_ok=True)

    def _open(self) -> None:
        """Write what is still wanted, whole or not at all, and go on behind it."""
        write_records(self.path, self.held.values())
        self._log = AnswerLog(self.path).__enter__()
