"""Who may compute: models that share a processor take turns, so that several answers grow side by side and none waits for a whole other."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

SLICE = 0.25
"""Seconds of a turn where others wait. Switching adapters costs some milliseconds, so it is much longer than one token."""


class Turns:
    """First come, first served; whoever has had a slice goes to the end of the line."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: deque[int] = deque()
        self._holder: int | None = None
        self._since = 0.0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Compute inside, and call `pass_on` often."""
        self._take()
        try:
            yield
        finally:
            self._give()

    def pass_on(self) -> None:
        """Let others go first where a slice is over; nothing where nobody waits. Only inside `held`."""
        if self._line and time.monotonic() - self._since > SLICE:
            self._give()
            self._take()

    def _take(self) -> None:
        me = threading.get_ident()
        with self._changed:
            self._line.append(me)
            self._changed.wait_for(lambda: self._holder is None and self._line[0] == me)
            self._line.popleft()
            self._holder, self._since = me, time.monotonic()

    def _give(self) -> None:
        with self._changed:
            self._holder = None
            self._changed.notify_all()
