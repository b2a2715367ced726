"""A file that another process appends to: each look reads only what came since."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

AT_ONCE = 16_000_000
"""Bytes that are read in one event: about 0.2 s."""
EDGE = 64
"""Bytes at both ends of what was read, by which the file is known again."""


class Growing:
    """Whole lines of a file, each given once to `take` with the place where it begins; `renew` is called when the file begins anew.

    A deleted run's number is taken again, and the new file may get the old one's inode and be longer: so the bytes at both ends of what
    was read are compared at each look. The beginning alone would not do: the first episode of two runs may be the same.
    """

    def __init__(self, path: Path, take: Callable[[bytes, int], None], renew: Callable[[], None]) -> None:
        self.path, self._take, self._renew = path, take, renew
        self.done = self.total = 0
        """Bytes read, and bytes there were at the last look."""
        self._inode = -1
        self._edges = (b"", b"")

    def advance(self, at_once: int = AT_ONCE) -> None:
        """Read on, at most about `at_once` bytes. A torn last line waits for its end; a file that is not there is empty."""
        try:
            with self.path.open("rb") as file:
                self._read(file, at_once)
        except FileNotFoundError:
            self._begin(-1)
            self.total = 0

    def _read(self, file: IO[bytes], at_once: int) -> None:
        stat = os.fstat(file.fileno())
        self.total = stat.st_size
        if stat.st_ino != self._inode or stat.st_size < self.done or self._edges_in(file) != self._edges:
            self._begin(stat.st_ino)
        file.seek(self.done)
        last = self.done + at_once
        while self.done < last and (line := file.readline()).endswith(b"\n"):
            self._take(line, self.done)
            self.done += len(line)
        self._edges = self._edges_in(file)

    def _edges_in(self, file: IO[bytes]) -> tuple[bytes, bytes]:
        """The first and the last bytes of the part that was read."""
        count = min(EDGE, self.done)
        file.seek(0)
        first = file.read(count)
        file.seek(self.done - count)
        return first, file.read(count)

    def _begin(self, inode: int) -> None:
        if self.done:
            self._renew()
        self._inode, self._edges, self.done = inode, (b"", b""), 0

    @property
    def behind(self) -> bool:
        """Is there more than one look can read?"""
        return self.total - self.done > AT_ONCE
