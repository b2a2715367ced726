"""Words of a model for people who wait for them: a queue in front of one worker process (core/serve_worker.py), which has its own lane.

    for event in serving_of(workspace).ask(Question("waltz:waltzrl-0003", [{"role": "user", "content": "..."}], judge="rules")):
        print(event["who"], event.get("text"))

Events are dictionaries. `who` is
    queue      how many are before this question: `position`
    status     what is waited for: `text`
    reply, feedback, revision      all that was written so far: `turn`, `text`, `done`
    verdict    what the judge says of a turn's words: `turn`, `text`, `verdict` (core.records.Verdict)
    end        `seconds`; `episode` (core.records.Episode) where two agents spoke, with verdicts where a judge was asked
    stopped    the question was given up
    error      one sentence: `text`
Each answer ends with exactly one of the last three. Whoever stops listening (closes the iterator) gives the question up.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from core.records import Side
from core.runs import REPOSITORY, Workspace
from core.serve_worker import OVER_MEMORY, Event

LAST = ("end", "stopped", "error")
"""`who` of the event that closes an answer."""
LOG = "serving.log"
"""In the runs folder: what libraries print, and tracebacks."""
LOOK_EVERY = 0.5
"""Seconds between two looks at the queue, in which a listener may go away."""


@dataclass(frozen=True)
class Question:
    """What is asked of a model."""

    model: str
    """A model reference (core/refs.py): two agents of a run, one of its checkpoints, or any other model."""
    messages: Sequence[dict[str, str]]
    """[{role, content}]; the last one is the user's."""
    options: dict[str, Any] = field(default_factory=dict)
    """temperature, top_p, max_new_tokens, max_feedback_tokens, seed, revisions; what is not given is core.serve_worker.OPTIONS."""
    judge: str = ""
    """Asked about every reply of two agents; "" = nobody is."""
    side: Side | None = None
    """What the prompt is there for, which some judges need to know."""
    who: str = ""
    """Who asks, for `Serving.give_up`: a browser's session."""


class _Worker:
    """The process, and a thread that reads what it says."""

    def __init__(self, workspace: Workspace) -> None:
        environment = {**os.environ, "GUARDWALTZ_RUNS": str(workspace.runs_dir), "TOKENIZERS_PARALLELISM": "false",
                       "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive")}
        workspace.runs_dir.mkdir(parents=True, exist_ok=True)
        with (workspace.runs_dir / LOG).open("wb") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "core.serve_worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=log, cwd=REPOSITORY, env=environment, start_new_session=True)
        self.events: queue.Queue[Event | None] = queue.Queue()
        threading.Thread(target=self._read, name="serving", daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.put(json.loads(line))
        self.events.put(None)

    @property
    def alive(self) -> bool:
        """Does it still run?"""
        return self.process.poll() is None

    def send(self, line: dict[str, Any]) -> bool:
        """False where it has ended meanwhile."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(line).encode() + b"\n")
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return False
        return True

    def close(self) -> None:
        """Kill it; it has nothing to lose."""
        self.process.kill()
        self.process.wait()
        for end in (self.process.stdin, self.process.stdout):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.close()


class Serving:
    """One worker for all who ask, one question after the other, in the order in which they came."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._worker: _Worker | None = None
        self._numbers = itertools.count(1)
        self._line: dict[int, str] = {}
        """{number of a question: who asked it}, in the order in which they came."""
        self._given_up: set[int] = set()
        self._turn = threading.Condition()

    def ask(self, question: Question) -> Iterator[Event]:
        """The events of an answer (see above), as they come. The worker is started by the first question."""
        number = next(self._numbers)
        with self._turn:
            self._line[number] = question.who
        try:
            yield from self._waited(number)
            if number in self._given_up:
                yield {"who": "stopped"}
            else:
                yield from self._answer(number, question)
        finally:
            with self._turn:
                del self._line[number]
                self._given_up.discard(number)
                self._turn.notify_all()

    def give_up(self, who: str) -> None:
        """Stop every question of this asker, waiting or in work; their answers end with "stopped"."""
        with self._turn:
            asked = [number for number, name in self._line.items() if name == who]
            self._given_up.update(asked)
            first = next(iter(self._line), None)
            self._turn.notify_all()
        if first in asked and self._worker is not None:
            self._worker.send({"cancel": first})

    def _waited(self, number: int) -> Iterator[Event]:
        """Until it is this question's turn."""
        told = 0
        while number not in self._given_up:
            with self._turn:
                position = list(self._line).index(number)
                if position and position == told:
                    self._turn.wait(LOOK_EVERY)
                    position = list(self._line).index(number)
            if not position:
                return
            told = position
            yield {"who": "queue", "position": position}

    def _answer(self, number: int, question: Question) -> Iterator[Event]:
        line = {"id": number, "model": question.model, "messages": list(question.messages), "options": question.options,
                "judge": question.judge, "side": question.side}
        for _ in range(2):  # an idle worker may end just as it is asked: then a new one is
            worker = self._ready()
            if worker.send(line):
                heard, over = False, False
                try:
                    for event in self._events(worker, number):
                        heard, over = True, event["who"] in LAST
                        yield event
                finally:
                    if not over:
                        worker.send({"cancel": number})
                if heard:
                    if not over:
                        yield {"who": "error", "text": _why(worker.process.wait())}
                    return
            worker.process.wait()
        yield {"who": "error", "text": _why(worker.process.wait())}

    def _ready(self) -> _Worker:
        if self._worker is None or not self._worker.alive:
            self.close()
            self._worker = _Worker(self.workspace)
        return self._worker

    @staticmethod
    def _events(worker: _Worker, number: int) -> Iterator[Event]:
        """Those of one question; what is left of one that was given up is dropped. Ends early where the worker ends."""
        while (event := worker.events.get()) is not None:
            if event.pop("id") != number:
                continue
            yield event
            if event["who"] in LAST:
                return

    @property
    def waiting(self) -> int:
        """Questions that are not answered yet, the one in work included."""
        with self._turn:
            return len(self._line)

    @property
    def pid(self) -> int | None:
        """Of the worker; None where none runs."""
        return self._worker.process.pid if self._worker is not None and self._worker.alive else None

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None


def _why(code: int) -> str:
    """What a worker that ended in the middle leaves to be said."""
    if code == OVER_MEMORY:
        return "The model worker used more memory than it may; choose a smaller model, or set GUARDWALTZ_SERVING_MEMORY_GB."
    how = f"was killed by signal {-code}; the machine may be out of memory" if code < 0 else f"ended with code {code}"
    return f"The model worker {how}. Ask again, and it starts anew; {LOG} in the runs folder has its last words."


@lru_cache(maxsize=8)
def serving_of(workspace: Workspace) -> Serving:
    """The one Serving of a workspace in this process."""
    return Serving(workspace)
