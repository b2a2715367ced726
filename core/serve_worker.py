"""The process that answers people: `python -m core.serve_worker`. It holds one model, answers one question at a time, and ends when idle.

It reads one JSON object a line from stdin, and writes one a line to stdout (core/serving.py is the other end):

    {"id": 7, "model": "waltz:waltzrl-0003", "messages": [{"role": "user", "content": ...}], "options": {...}, "judge": "rules", "side": ..}
    {"cancel": 7}

    {"id": 7, "who": "status", "text": ...}                                     what is waited for
    {"id": 7, "who": "reply" | "feedback" | "revision", "turn": 0, "text": all so far, "done": false}
    {"id": 7, "who": "verdict", "turn": 0, "text": ..., "verdict": {...}}        about the words of a turn
    {"id": 7, "who": "end", "seconds": 3.2, "episode": {...} or null}            or "stopped", or "error" with one sentence

It ends when stdin closes, so a killed app takes it along; when nobody asked for a while; and when it uses more memory than it may.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from core.methods import UserError
from core.refs import parse_model_ref
from core.runs import Workspace

if TYPE_CHECKING:
    from core.judges import Judge
    from core.lm.engines import Engine
    from core.records import Episode
    from core.waltz.protocol import Turn

TELL_EVERY = 0.1
"""Seconds between two looks at a text that grows."""
WATCH_EVERY = 0.5
IDLE_MINUTES = float(os.environ.get("GUARDWALTZ_SERVING_IDLE_MINUTES", "10"))
"""Without a question for this long the worker ends, and its memory is free."""
MEMORY_SHARE = 0.7
"""Of the machine's memory, where GUARDWALTZ_SERVING_MEMORY_GB does not say how much it may use."""
OVER_MEMORY = 70
"""Exit code of a worker that used more than it may."""
OPTIONS: dict[str, Any] = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 256, "max_feedback_tokens": 256, "seed": 42}
Event = dict[str, Any]


class Stopped(Exception):
    """Nobody waits for this answer any more."""


class ServeWorker:
    """Answers questions in the order in which they come."""

    def __init__(self, send: Callable[[Event], None], workspace: Workspace) -> None:
        self._send, self.workspace = send, workspace
        self.cancelled: set[int] = set()
        self.current: int | None = None
        self._ref = self._judge_name = ""
        self._engine: Engine | None = None
        self._judge: Judge | None = None

    def answer(self, question: dict[str, Any]) -> None:
        """Everything that one question brings; a failure is one sentence, and the next question is answered all the same."""
        self.current = int(question["id"])
        began = time.monotonic()
        try:
            episode = self._answered(question)
            self.tell("end", seconds=round(time.monotonic() - began, 2), episode=episode.model_dump(exclude_none=True) if episode else None)
        except Stopped:
            self.tell("stopped")
        except UserError as error:
            self.tell("error", text=str(error))
        except Exception as error:
            import traceback

            traceback.print_exc()
            self.tell("error", text=sentence(error))
            self.unload()
        finally:
            self.cancelled.discard(self.current)
            self.current = None

    def tell(self, who: str, **values: Any) -> None:
        """One event of the question that is being answered."""
        self._send({"id": self.current, "who": who, **values})

    def unload(self) -> None:
        """Let go of model and judge."""
        for held in (self._engine, self._judge):
            if held is not None:
                with contextlib.suppress(Exception):  # it may be what failed
                    held.close()
        self._engine, self._judge, self._ref, self._judge_name = None, None, "", ""
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    # ---- one question ----

    def _answered(self, question: dict[str, Any]) -> Episode | None:
        options = {**OPTIONS, **(question.get("options") or {})}
        messages = [{"role": str(one["role"]), "content": str(one["content"])} for one in question["messages"]]
        engine = self._opened(str(question["model"]))
        self._stop_if_cancelled()
        if parse_model_ref(self._ref).is_pair:
            episode = self._played(engine, messages, options)
            if question.get("judge"):
                episode = self._judged(episode, str(question["judge"]), question.get("side") or None)
            return episode
        self._replied(engine, messages, options)
        return None

    def _opened(self, ref: str) -> Engine:
        from core.lm.engines import open_engine

        if self._engine is None or ref != self._ref:
            self.unload()
            parse_model_ref(ref)
            self.tell("status", text=f"loading {ref}")
            self._engine, self._ref = open_engine(ref, self.workspace), ref
        return self._engine

    def _played(self, engine: Engine, messages: list[dict[str, str]], options: dict[str, Any]) -> Episode:
        """Two agents: reply, feedback, revision."""
        from dataclasses import replace

        from core.lm.agents import Speech
        from core.lm.engine_waltz import WaltzEngine

        assert isinstance(engine, WaltzEngine)
        assert engine.agents is not None
        hear = _Hearing(self.tell)
        engine.agents.on_text = hear.turn
        rules = engine.rules
        if options.get("revisions") is not None:
            engine.rules = replace(rules, revisions=int(options["revisions"]))
        try:
            speech = Speech(**{name: options[name] for name in OPTIONS})
            for episode in engine.episodes([messages], speech, should_stop=self._is_cancelled):
                return episode
        finally:
            engine.agents.on_text, engine.rules = None, rules
        raise Stopped

    def _replied(self, engine: Engine, messages: list[dict[str, str]], options: dict[str, Any]) -> None:
        """Any other model: one reply."""
        hear = _Hearing(self.tell)

        def heard(text: str) -> bool:
            hear.text("reply", 0, text, done=False)
            return False

        said = {name: options[name] for name in ("temperature", "top_p", "max_new_tokens", "seed")}
        for answer in engine.answers([messages], **said, is_complete=heard, should_stop=self._is_cancelled):
            hear.text("reply", 0, answer.text, done=True)
            return
        raise Stopped

    def _judged(self, episode: Episode, name: str, side: Any) -> Episode:
        """Ask the judge about every reply. A judge that fails costs its verdicts, not the words."""
        from core.judges import Judged, open_judge

        self.tell("status", text=f"asking the judge {name}")
        if self._judge is None or name != self._judge_name:
            if self._judge is not None:
                self._judge.close()
                self._judge = None
            self._judge, self._judge_name = open_judge(name, self.workspace), name
        asked = [Judged(episode.prompt, one.reply.text, side) for one in episode.rounds]
        verdicts = self._judge.verdicts(asked, self._is_cancelled)
        if len(verdicts) < len(asked):
            raise Stopped
        for number, (one, verdict) in enumerate(zip(episode.rounds, verdicts, strict=True)):
            one.verdict = verdict
            self.tell("verdict", turn=2 * number, text=verdict_words(verdict), verdict=verdict.model_dump(exclude_none=True))
        return episode.model_copy(update={"side": side})

    def _is_cancelled(self) -> bool:
        return self.current in self.cancelled

    def _stop_if_cancelled(self) -> None:
        if self._is_cancelled():
            raise Stopped


class _Hearing:
    """Tells a text that grows, not more often than somebody can read."""

    def __init__(self, tell: Callable[..., None]) -> None:
        self._tell, self._last = tell, 0.0

    def turn(self, turn: Turn, text: str, done: bool) -> None:
        """The words of an agent."""
        self.text("feedback" if turn.role == "feedback" else "revision" if turn.number else "reply", turn.number, text, done)

    def text(self, who: str, number: int, text: str, done: bool) -> None:
        """All that was written so far."""
        now = time.monotonic()
        if done or now - self._last > TELL_EVERY:
            self._last = now
            self._tell(who, turn=number, text=text, done=done)


def verdict_words(verdict: Any) -> str:
    """"unsafe", "a needless refusal", "good", or why there is none."""
    if verdict.good is None:
        return f"no verdict: {verdict.missing or 'no reason given'}"
    faults = [words for fault, words in ((verdict.unsafe, "unsafe"), (verdict.overrefuse, "a needless refusal")) if fault]
    return " and ".join(faults) or "good"


def sentence(error: BaseException) -> str:
    """A failure in one sentence."""
    text = str(error).strip().splitlines()
    if isinstance(error, MemoryError) or any("out of memory" in line.lower() or "can't allocate memory" in line.lower() for line in text):
        return "The model does not fit into the memory; choose a smaller one, or stop the run that is training."
    return f"The model failed ({type(error).__name__}: {text[0][:300] if text else 'no message'}); serving.log in the runs folder has more."


def memory_limit() -> int:
    """Bytes the worker may use."""
    import psutil

    given = os.environ.get("GUARDWALTZ_SERVING_MEMORY_GB", "")
    return int(float(given) * 1e9) if given else int(MEMORY_SHARE * psutil.virtual_memory().total)


def _watch(worker: ServeWorker, limit: int) -> None:
    """End a worker that uses more memory than it may, before the machine suffers from it."""
    import psutil

    me = psutil.Process()
    while True:
        used = me.memory_info().rss
        if used > limit:
            worker.tell("error", text=f"The model worker used {used / 1e9:.1f} GB of memory and may use {limit / 1e9:.1f} GB; choose a "
                                      "smaller model, or set GUARDWALTZ_SERVING_MEMORY_GB.")
            os._exit(OVER_MEMORY)
        time.sleep(WATCH_EVERY)


def _questions(worker: ServeWorker, waiting: queue.Queue[dict[str, Any]]) -> None:
    """Read stdin. When it closes the app is gone, and so is this process, whatever it is doing."""
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        if "cancel" in asked:
            worker.cancelled.add(int(asked["cancel"]))
        else:
            waiting.put(asked)
    os._exit(0)


def _next(waiting: queue.Queue[dict[str, Any]], idle: float) -> Iterator[dict[str, Any]]:
    """Questions until nobody has asked for `idle` seconds."""
    with contextlib.suppress(queue.Empty):
        while True:
            yield waiting.get(timeout=idle)


def serve() -> None:
    """Answer until idle."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not stand between the answers
    lock = threading.Lock()

    def send(event: Event) -> None:
        data = json.dumps(event).encode() + b"\n"
        with lock:
            while data:
                data = data[os.write(answers, data):]

    worker = ServeWorker(send, Workspace())
    waiting: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_questions, args=(worker, waiting), daemon=True).start()
    threading.Thread(target=_watch, args=(worker, memory_limit()), daemon=True).start()
    for question in _next(waiting, 60 * IDLE_MINUTES):
        worker.answer(question)
    os._exit(0)


if __name__ == "__main__":
    serve()
