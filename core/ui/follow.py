"""What a run has told so far, read once: each look reads only the lines that came since, for all browsers together."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.runs import Run
from core.ui.growing import Growing

KEPT = 32
"""Runs whose events stay in memory."""


@dataclass
class Story:
    """Events of one run, sorted by kind. `begun` is the first progress after the last (re)start, for the time left."""

    metrics: list[dict[str, Any]] = field(default_factory=list)
    notices: list[dict[str, Any]] = field(default_factory=list)
    begun: tuple[float, float] | None = None
    progress: dict[str, Any] | None = None

    def series(self, name: str) -> list[tuple[float, float]]:
        """(step, value) of one metric; a resumed run repeats steps, the later word counts."""
        return sorted({event["step"]: event[name] for event in self.metrics if _is_number(event.get(name))}.items())

    def names(self) -> list[str]:
        """Metric names in the order they appeared."""
        return list(dict.fromkeys(name for event in self.metrics for name in event if name not in ("t", "kind", "step")))

    def last(self, name: str) -> float | None:
        """The newest value of a metric."""
        return next((event[name] for event in reversed(self.metrics) if _is_number(event.get(name))), None)

    def seconds_left(self) -> float | None:
        """From the pace since the last (re)start; None while there is too little to tell."""
        if not self.progress or not self.begun or not self.progress.get("total"):
            return None
        done = self.progress["done"] - self.begun[1]
        seconds = self.progress["t"] - self.begun[0]
        left = self.progress["total"] - self.progress["done"]
        return seconds / done * left if done > 0 and seconds > 1 and left > 0 else None


class _Teller:
    """events.jsonl of one run, and the story as far as it was read."""

    def __init__(self, path: Path) -> None:
        self._begin()
        self.file = Growing(path, self._take, self._begin)

    def _begin(self) -> None:
        self.story = Story()

    def _take(self, line: bytes, _: int) -> None:
        with contextlib.suppress(ValueError):  # a full disk may have left half a line
            _add(self.story, json.loads(line))


_tellers: dict[Path, _Teller] = {}
_lock = threading.Lock()


def story_of(run: Run) -> Story:
    """The story up to now. Shared and read-only for the caller."""
    path = run.dir / "events.jsonl"
    with _lock:
        teller = _tellers.pop(path, None) or _Teller(path)
        _tellers[path] = teller
        while len(_tellers) > KEPT:
            _tellers.pop(next(iter(_tellers)))
        teller.file.advance(sys.maxsize)
        return teller.story


def _add(story: Story, event: dict[str, Any]) -> None:
    kind = event.get("kind")
    if kind == "metrics":
        story.metrics.append(event)
    elif kind == "notice":
        story.notices.append(event)
    elif kind == "state":
        story.begun = None
    elif kind == "progress":
        story.progress = event
        if story.begun is None and event.get("total"):  # loading a model is no pace
            story.begun = (event["t"], event["done"])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
