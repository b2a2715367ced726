"""The chat models that a worker holds: opened when they are asked for, kept for the next question, let go where memory is short.

Models that share a base share it in memory, so keeping a second adapter costs little. One that is busy is opened a second time rather
than waited for: over the same base that costs its caches alone.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from core.chat_models import ChatModel, chat_model_for

if TYPE_CHECKING:
    from core.runs import Workspace

KEPT = 8
"""Models at most that nobody uses at the moment."""
FULL = 0.6
"""Of the memory limit: beyond it nothing unused is kept when another model is opened."""


class Models:
    """Of one worker; used by several threads."""

    def __init__(self, workspace: Workspace, limit: int) -> None:
        self.workspace, self.limit = workspace, limit
        self._lock = threading.Lock()
        self._idle: list[ChatModel] = []
        """The one that was used last stands last."""

    @contextmanager
    def taken(self, ref: str, key: str, tell: Callable[..., None]) -> Iterator[ChatModel]:
        """A model that nobody else uses meanwhile. A model that failed, or that a visitor's key opened, is not kept."""
        model = self._idle_one(ref) if not key else None
        if model is None:
            kind, parsed = chat_model_for(ref, self.workspace)
            if kind.local:
                self._make_room()
                tell("status", text=f"loading {ref}")
            model = kind(parsed, self.workspace, key)
        try:
            yield model
        except BaseException as error:
            self._end(model, keep=not key and type(error).__name__ in ("StopRequested", "Stopped"))
            raise
        self._end(model, keep=not key)

    def close(self) -> None:
        """Let go of everything that nobody uses."""
        with self._lock:
            idle, self._idle = self._idle, []
        _let_go(idle)

    def _idle_one(self, ref: str) -> ChatModel | None:
        with self._lock:
            found = next((model for model in reversed(self._idle) if str(model.ref) == ref), None)
            if found is not None:
                self._idle.remove(found)
        return found

    def _end(self, model: ChatModel, *, keep: bool) -> None:
        with self._lock:
            if keep:
                self._idle.append(model)
            spare = [] if keep else [model]
            while len(self._idle) > KEPT:
                spare.append(self._idle.pop(0))
        _let_go(spare)

    def _make_room(self) -> None:
        import psutil

        if psutil.Process().memory_info().rss > FULL * self.limit:
            self.close()


def _let_go(models: list[ChatModel]) -> None:
    for model in models:
        with contextlib.suppress(Exception):  # it may be what failed
            model.close()
    if not models:
        return
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
