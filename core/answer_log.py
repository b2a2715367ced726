"""A JSONL file that grows record by record while a run works, so that a killed run goes on where it was.

Whole lines are the cursor: what ends in a line break was written whole, a torn last line is cut off on opening.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from core.methods import UserError
from core.records import Record, RecordT, lines_of


class AnswerLog:
    """Appends records of any kind. Opening it cuts off a torn last line, which a later record would otherwise be glued to. Several
    may append to one file, each whole lines; nobody's opening takes a line away that somebody else wrote.

    `rows` is the cursor of a file with one writer: how many whole lines it holds, so a run that writes one line a row skips that many.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = cut_torn_line(path) if path.exists() else 0

    def __enter__(self) -> AnswerLog:
        self._file: IO[bytes] = self.path.open("ab", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, *records: Record) -> None:
        """Write records, each one whole line, in one write call; they are the operating system's when this returns."""
        lines = b"".join(record.model_dump_json(exclude_none=True).encode() + b"\n" for record in records)
        with _alone(self._file):
            while lines:  # a write to a nearly full disk may take a part only; the next one then raises
                lines = lines[self._file.write(lines):]
        self.rows += len(records)


def read_log(path: Path, kind: type[RecordT], again: str = "start the run again") -> Iterator[RecordT]:
    """Records one after the other, never all in memory; a torn last line is left out, a missing file is empty.

    A damaged line in the middle is a UserError that names file and line; `again` says what to do then.
    """
    if not path.exists():
        return
    for number, line in lines_of(path):
        if line.endswith(b"\n"):
            try:
                yield kind.model_validate_json(line)
            except ValueError as error:
                raise UserError(f"{path}, line {number} is damaged ({str(error).splitlines()[0]}); {again}.") from None


def count_rows(path: Path) -> int:
    """Whole lines of a log, which may not be there yet: where a resumed run goes on. Changes nothing."""
    return sum(line.endswith(b"\n") for _, line in lines_of(path)) if path.exists() else 0


def cut_torn_line(path: Path) -> int:
    """Leave whole lines only, and count them."""
    rows, line = 0, b""
    with path.open("rb+") as file, _alone(file):  # so a torn line is a dead writer's, not one that is being written
        for line in file:
            rows += line.endswith(b"\n")
        if line and not line.endswith(b"\n"):
            file.truncate(file.tell() - len(line))
    return rows


@contextmanager
def _alone(file: IO[bytes]) -> Iterator[None]:
    """One at a time writes or cuts, over all processes and threads that opened the file; the lock of a dead one is gone.

    Some file systems of clusters have no such locks: there people who edit at once must do without.
    """
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
