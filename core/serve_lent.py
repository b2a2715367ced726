"""Answers to people on a ZeroGPU Space: the model worker's place is taken by a process that `spaces` forks and gives a GPU for a while.

The app's own process calls the decorated function, inside the event of whoever asks, because `spaces` reads from that event's request
whose quota is used. What answers in the forked process is the same as in the worker: core/serve_worker.py.
"""

from __future__ import annotations

import importlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from functools import cache, partial
from typing import Any

from core.chat_models import chat_model_for
from core.methods import UserError
from core.runs import Workspace
from core.serve_worker import Event, ServeWorker
from core.zero_gpu import decorated, why_not

LAST = ("end", "stopped", "error")
LEAST, MOST = 45, 120
"""Seconds that are asked for: loading a model and a short answer, up to the longest."""
TOKENS_A_SECOND = 20
LOOK_EVERY = 0.5
"""Seconds between two words to a question that waits for another's GPU: a visitor's clock stands still at each of them."""

_worker: ServeWorker | None = None
"""In the forked process: it may be asked again, and then holds its models."""


def seconds(line: dict[str, Any], _runs_dir: str) -> float:
    """How long an answer may take."""
    tokens = (line.get("options") or {}).get("max_new_tokens") or 256
    return min(MOST, LEAST + int(tokens) / TOKENS_A_SECOND)


def answered(line: dict[str, Any], runs_dir: str) -> Generator[Event]:
    """In the forked process: the events of one question. Closing the iterator gives the question up."""
    global _worker
    said: queue.Queue[Event] = queue.Queue()
    if _worker is None:
        _worker = ServeWorker(said.put, Workspace(runs_dir))
    worker = _worker
    worker.send_to(said.put)
    thread = threading.Thread(target=worker.answer, args=(line,), name="answer", daemon=True)
    thread.start()
    try:
        while True:
            event = said.get()
            yield event
            if event["who"] in LAST:
                return
    finally:
        worker.cancelled.add(int(line["id"]))
        thread.join()
        worker.cancelled.clear()


@cache
def on_the_gpu() -> Callable[[dict[str, Any], str], Generator[Event]]:
    """`answered`, decorated. Called once before the app opens: a ZeroGPU Space without such a function is ended by the platform."""
    importlib.import_module("core.lm.engines")  # here, once, or each fork would spend its seconds on imports
    return decorated(answered, seconds)


class LentWorker:
    """Like the model worker, for models that compute here; one question at a time, so that four columns do not take four GPUs."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._cancelled: set[int] = set()
        self._line: list[int] = []
        """Numbers of questions, in the order in which they came; the first one has the GPU."""
        self._turn = threading.Condition()
        on_the_gpu()

    def takes(self, line: dict[str, Any]) -> bool:
        """Does answering need a GPU? What a service answers does not, and a bad name gets its sentence from the worker."""
        try:
            return chat_model_for(str(line["model"]), self.workspace)[0].local
        except UserError:
            return False

    def ask(self, line: dict[str, Any]) -> Iterator[Event]:
        """The events of one question, to the last; while others have the GPU, the "queue" events of core/serving.py."""
        number = int(line["id"])
        with self._turn:
            self._line.append(number)
        try:
            yield from self._waited(number)
            yield from self._heard(number, line)
        except Exception as error:
            yield {"who": "error", "text": f"ZeroGPU lent no GPU: {why_not(error)}."}
        finally:
            with self._turn:
                self._line.remove(number)
                self._cancelled.discard(number)
                self._turn.notify_all()

    def _waited(self, number: int) -> Iterator[Event]:
        """Until this question is the first in the line, or given up."""
        while number not in self._cancelled:
            with self._turn:
                position = self._line.index(number)
            if not position:
                return
            yield {"who": "queue", "position": position}
            with self._turn:
                self._turn.wait_for(partial(self._moved, number, position), LOOK_EVERY)

    def _moved(self, number: int, position: int) -> bool:
        return number in self._cancelled or self._line.index(number) != position

    def _heard(self, number: int, line: dict[str, Any]) -> Iterator[Event]:
        if number in self._cancelled:
            yield {"who": "stopped"}
            return
        yield {"who": "status", "text": "waiting for a GPU of ZeroGPU"}
        events = on_the_gpu()(line, str(self.workspace.runs_dir))
        try:
            for event in events:
                if number in self._cancelled and event["who"] not in LAST:
                    yield {"who": "stopped"}
                    return
                yield {name: value for name, value in event.items() if name != "id"}
        finally:
            events.close()  # the forked process sees it, and stops

    def give_up(self, number: int) -> None:
        """Stop this question, waiting or in work."""
        with self._turn:
            self._cancelled.add(number)
            self._turn.notify_all()
