"""Words of a model for people who wait for them: a queue in front of one worker process (core/serve_worker.py), which has its own lane.

    for event in serving_of(workspace).ask(Question("waltz:waltzrl-0003", [{"role": "user", "content": "..."}], judge="rules")):
        print(event["who"], event.get("text"))

Events are dictionaries. `who` is
    queue      how many are before this question: `position`
    status     what is waited for: `text`
    reply, feedback, revision      all that was written so far: `turn`, `text`, `done`
    verdict    what the judge says of a turn's words: `turn`, `text`, `verdict` (core.records.Verdict)
    classified what a guard says of a prompt and its response: `classified` (core.guard.schema.Classified)
    end        `seconds`, `tokens`, `writing` (seconds from the first words to the last), `finish` (stop, length, refused), `note`, `usd`;
               `episode` (core.records.Episode) where two agents spoke, with verdicts where a judge was asked
    stopped    the question was given up; `text` says why, where that was not whoever asked it
    error      one sentence: `text`
Each answer ends with exactly one of the last three. Whoever stops listening (closes the iterator) gives the question up.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from core.records import Side
from core.runs import REPOSITORY, Workspace
from core.serve_lent import LentWorker
from core.serve_worker import OVER_MEMORY, Event, sentence
from core.zero_gpu import lends

LAST = ("end", "stopped", "error")
"""`who` of the event that closes an answer."""
LOG = "serving.log"
"""In the runs folder: what libraries print, and tracebacks."""
AT_ONCE = 4
"""Questions that are answered at the same time: the columns of one comparison."""
REMEMBERED = 3600.0
"""Seconds between a message and the last question about it, which the guard is asked, at most."""
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
    """Fields of core.chat_models.Sampling; what is not given is its default."""
    kind: Literal["answer", "classify"] = "answer"
    """classify: `model` is a guard, `messages` are a prompt and perhaps the response to it, `options` those of core.guard.schema.How,
    prompt_format, and at_most: tokens that whoever asks may have of an answer."""
    judge: str = ""
    """Asked about every reply of two agents; "" = nobody is."""
    side: Side | None = None
    """What the prompt is there for, which some judges need to know."""
    key: str = field(default="", repr=False)
    """A visitor's own key for a hosted model: it goes to the worker's memory and nowhere else."""
    who: str = ""
    """Who asks, for `Serving.give_up`: a browser's session."""
    since: float = field(default_factory=time.monotonic)
    """When they asked (time.monotonic): whoever gives up between that and now means this question, too."""
    seconds: float | None = None
    """How long its answer may take, waiting in a line aside; None = as long as it wants."""


class _Worker:
    """The process, and a thread that hands what it says to those who asked."""

    def __init__(self, workspace: Workspace) -> None:
        environment = {**os.environ, "GUARDWALTZ_RUNS": str(workspace.runs_dir), "TOKENIZERS_PARALLELISM": "false",
                       "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive")}
        workspace.runs_dir.mkdir(parents=True, exist_ok=True)
        with (workspace.runs_dir / LOG).open("wb") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "core.serve_worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=log, cwd=REPOSITORY, env=environment, start_new_session=True)
        self._lock = threading.Lock()
        self._heard: dict[int, queue.Queue[Event | None]] = {}
        self._over = False
        threading.Thread(target=self._read, name="serving", daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            with self._lock:
                listener = self._heard.get(event.pop("id"))
            if listener is not None:  # else the question was given up
                listener.put(event)
        with self._lock:
            self._over = True
            for listener in self._heard.values():
                listener.put(None)

    @property
    def alive(self) -> bool:
        """Does it still run?"""
        return self.process.poll() is None

    def ask(self, line: dict[str, Any]) -> Iterator[Event]:
        """The events of one question, to the last; fewer where the worker ends. Whoever stops listening gives the question up."""
        number, heard = int(line["id"]), queue.Queue[Event | None]()
        with self._lock:
            self._heard[number] = heard
            if self._over:
                heard.put(None)
        over = not self.send(line)
        try:
            while not over and (event := heard.get()) is not None:
                over = event["who"] in LAST
                yield event
        finally:
            with self._lock:
                del self._heard[number]
            if not over:
                self.send({"cancel": number})

    def send(self, line: dict[str, Any]) -> bool:
        """False where it has ended meanwhile."""
        assert self.process.stdin is not None
        with self._lock:
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
    """One worker for all who ask; a few questions at once, the others wait in the order in which they came."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._worker: _Worker | None = None
        self._lent = LentWorker(workspace) if lends() else None
        self._numbers = itertools.count(1)
        self._line: dict[int, str] = {}
        """{number of a question: who asked it}, in the order in which they came."""
        self._given_up: set[int] = set()
        self._gave_up: dict[str, float] = {}
        """{who: when they gave up last}, as long as a question may come that is older."""
        self._turn = threading.Condition()

    def ask(self, question: Question) -> Iterator[Event]:
        """The events of an answer (see above), as they come. The worker is started by the first question."""
        with contextlib.closing(self.ask_all([question])) as events:
            for _, event in events:
                yield event

    def ask_all(self, questions: Sequence[Question]) -> Generator[tuple[int, Event], None, None]:
        """The events of several answers as they come, each with the place of its question. Stopping to listen gives all of them up."""
        numbers = [self._stand_in_line(question) for question in questions]
        heard: queue.Queue[tuple[int, Event]] = queue.Queue()

        def listen(place: int) -> None:
            try:
                for event in self._through(numbers[place], questions[place]):
                    heard.put((place, event))
            except Exception as error:
                heard.put((place, {"who": "error", "text": sentence(error)}))
                raise

        for place in range(len(questions)):
            here = contextvars.copy_context()  # who asks: a lent GPU is taken from their quota
            threading.Thread(target=here.run, args=(listen, place), name="column", daemon=True).start()
        waited = set(range(len(questions)))
        began = dict.fromkeys(waited, time.monotonic())
        try:
            while waited:
                ends = {place: began[place] + limit for place in waited if (limit := questions[place].seconds) is not None}
                left = min(ends.values()) - time.monotonic() if ends else None
                if left is not None and left <= 0:  # its model may be silent for long, and is not waited for
                    place = min(ends, key=lambda one: ends[one])
                    self._give_up([numbers[place]])
                    event = {"who": "stopped", "text": f"its time is over: it could take {ends[place] - began[place]:.0f} seconds"}
                else:
                    try:
                        place, event = heard.get(timeout=left)
                    except queue.Empty:
                        continue
                if place in waited:
                    if event["who"] == "queue":
                        began[place] = time.monotonic()
                    elif event["who"] in LAST:
                        waited.remove(place)
                    yield place, event
        finally:
            if waited:
                self._give_up([numbers[place] for place in waited])

    def give_up(self, who: str) -> None:
        """Stop every question of this asker, waiting, in work or about to stand in line; their answers end with "stopped"."""
        with self._turn:
            now = time.monotonic()
            self._gave_up = {name: when for name, when in self._gave_up.items() if when > now - REMEMBERED} | {who: now}
            asked = [number for number, name in self._line.items() if name == who]
        self._give_up(asked)

    def _give_up(self, numbers: Sequence[int]) -> None:
        with self._turn:
            there = [number for number in numbers if number in self._line]
            self._given_up.update(there)
            self._turn.notify_all()
        for number in there:
            if self._worker is not None:
                self._worker.send({"cancel": number})
            if self._lent is not None:
                self._lent.give_up(number)

    def _stand_in_line(self, question: Question) -> int:
        number = next(self._numbers)
        with self._turn:
            self._line[number] = question.who
            if self._gave_up.get(question.who, 0.0) > question.since:
                self._given_up.add(number)
        return number

    def _through(self, number: int, question: Question) -> Iterator[Event]:
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

    def _waited(self, number: int) -> Iterator[Event]:
        """Until it is this question's turn."""
        told = 0
        while number not in self._given_up:
            with self._turn:
                position = self._before(number)
                if position and position == told:
                    self._turn.wait(LOOK_EVERY)
                    position = self._before(number)
            if not position:
                break
            told = position
            yield {"who": "queue", "position": position}
        if told and number not in self._given_up:
            yield {"who": "status", "text": "asked; no word yet"}  # it waits no more, and begins to be counted

    def _before(self, number: int) -> int:
        """How many questions must end first."""
        return max(0, list(self._line).index(number) + 1 - AT_ONCE)

    def _answer(self, number: int, question: Question) -> Iterator[Event]:
        line = {"id": number, "kind": question.kind, "model": question.model, "messages": list(question.messages),
                "options": question.options, "judge": question.judge, "side": question.side, "key": question.key}
        if self._lent is not None and self._lent.takes(line):
            yield from self._lent.ask(line)
            return
        for turn in range(2):  # an idle worker may end just as it is asked: then a new one is
            worker = self._ready()
            heard: Event | None = None
            for heard in worker.ask(line):
                yield heard
            if heard is not None and heard["who"] in LAST:
                return
            if heard is not None or turn:
                yield {"who": "error", "text": _why(worker.process.wait())}
                return
            worker.process.wait()

    def _ready(self) -> _Worker:
        with self._turn:
            if self._worker is None or not self._worker.alive:
                self.close()
                self._worker = _Worker(self.workspace)
            return self._worker

    @property
    def waiting(self) -> int:
        """Questions that are not answered yet, those in work included."""
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
