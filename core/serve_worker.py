"""The process that answers people: `python -m core.serve_worker`. It holds chat models (core/serve_models.py) and ends when idle.

It reads one JSON object a line from stdin, and writes one a line to stdout (core/serving.py is the other end):

    {"id": 7, "model": "waltz:waltzrl-0003", "messages": [{"role": "user", "content": ...}], "options": {...}, "judge": "rules", "side": ..,
     "key": a visitor's own key for a hosted model, held in memory only}
    {"cancel": 7}

    {"id": 7, "who": "status", "text": ...}                                     what is waited for
    {"id": 7, "who": "reply" | "feedback" | "revision", "turn": 0, "text": all so far, "done": false}
    {"id": 7, "who": "verdict", "turn": 0, "text": ..., "verdict": {...}}        about the words of a turn
    {"id": 7, "who": "classified", "classified": {...}}                         what a guard says, where "kind" is "classify"
    {"id": 7, "who": "end", "seconds": 3.2, "tokens": 40, "writing": 2.9, "finish": "stop", "episode": {...} or null, ...}
                                                                                or "stopped", or "error" with one sentence

It ends when stdin closes, so a killed app takes it along; when nobody asked for a while; and when it uses more memory than it may.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from core.active import StopRequested
from core.api_key import hide
from core.chat_models import Sampling, Words
from core.guard.worker import GuardDesk
from core.methods import UserError
from core.runs import Workspace
from core.serve_models import Models
from core.serve_turns import Turns

if TYPE_CHECKING:
    from core.chat_models import ChatModel
    from core.judges import Judge
    from core.records import Episode

TELL_EVERY = 0.1
"""Seconds between two looks at a text that grows."""
WATCH_EVERY = 0.5
IDLE_MINUTES = float(os.environ.get("GUARDWALTZ_SERVING_IDLE_MINUTES", "10"))
"""Without a question for this long the worker ends, and its memory is free."""
MEMORY_SHARE = 0.7
"""Of the machine's memory, where GUARDWALTZ_SERVING_MEMORY_GB does not say how much it may use."""
OVER_MEMORY = 70
"""Exit code of a worker that used more than it may."""
Event = dict[str, Any]


class Stopped(Exception):
    """Nobody waits for this answer any more."""


class ServeWorker:
    """Answers questions, several at a time: each has a thread, and those that compute here take turns (core/serve_turns.py)."""

    def __init__(self, send: Callable[[Event], None], workspace: Workspace) -> None:
        self._send, self.workspace = send, workspace
        self.cancelled: set[int] = set()
        self.turns = Turns()
        self.models = Models(workspace, memory_limit())
        self.guard = GuardDesk(workspace, self.turns, self.models._make_room)
        self._judge_name = ""
        self._judge: Judge | None = None
        self._judging = threading.Lock()

    def answer(self, question: dict[str, Any]) -> None:
        """Everything that one question brings; a failure is one sentence, and the next question is answered all the same."""
        asking = _Asking(self, int(question["id"]))
        began = time.monotonic()
        try:
            told = self._answered(asking, question)
            asking.tell("end", seconds=round(time.monotonic() - began, 2), **told)
        except (Stopped, StopRequested):
            asking.tell("stopped")
        except UserError as error:
            asking.tell("error", text=hide(str(error), *self._keys(question)))
        except Exception as error:
            import traceback

            keys = self._keys(question)  # whatever a library's error holds, it is for the log and for other people's eyes
            print(hide(traceback.format_exc(), *keys), file=sys.stderr, end="", flush=True)
            asking.tell("error", text=sentence(error, keys))
        finally:
            self.cancelled.discard(asking.number)

    def send_to(self, send: Callable[[Event], None]) -> None:
        """Tell somebody else from now on."""
        self._send = send

    def unload(self) -> None:
        """Let go of models, guard and judge."""
        self.models.close()
        self.guard.close()
        if self._judge is not None:
            with contextlib.suppress(Exception):  # it may be what failed
                self._judge.close()
        self._judge, self._judge_name = None, ""

    # ---- one question ----

    def _answered(self, asking: _Asking, question: dict[str, Any]) -> Event:
        """What the last event says."""
        if question.get("kind") == "classify":
            return self.guard.answer(question, asking.tell, asking.is_cancelled)
        options = {name: value for name, value in (question.get("options") or {}).items() if value is not None}
        messages = [{"role": str(one["role"]), "content": str(one["content"])} for one in question["messages"]]
        sampling = Sampling.of(options)
        asking.go_on()
        hear = _Hearing(asking.tell)
        with self.models.taken(str(question["model"]), str(question.get("key") or ""), asking.tell) as model, self._turn(model):
            outcome = model.answer(messages, sampling, hear, asking.is_over if model.local else asking.is_cancelled)
        episode = outcome.episode
        if episode is not None and question.get("judge"):
            with self._judging, self.turns.held():
                episode = self._judged(asking, episode, str(question["judge"]), question.get("side") or None)
        return {"episode": episode.model_dump(exclude_none=True) if episode else None, "tokens": outcome.tokens,
                "prompt_tokens": outcome.prompt_tokens, "finish": outcome.finish, "note": outcome.note, "usd": outcome.usd,
                "writing": round(hear.seconds, 2)}

    def _keys(self, question: dict[str, Any]) -> list[str]:
        """Those that may have gone into this question's requests."""
        variables = {kind.key for kind in self.workspace.plugins.chat_models.values() if kind.key}
        return [str(question.get("key") or ""), *(os.environ.get(name, "") for name in variables)]

    def _turn(self, model: ChatModel) -> contextlib.AbstractContextManager[None]:
        return self.turns.held() if model.local else contextlib.nullcontext()

    def _judged(self, asking: _Asking, episode: Episode, name: str, side: Any) -> Episode:
        """Ask the judge about every reply. A judge that fails costs its verdicts, not the words."""
        from core.judges import Judged, open_judge

        asking.tell("status", text=f"asking the judge {name}")
        if self._judge is None or name != self._judge_name:
            if self._judge is not None:
                self._judge.close()
                self._judge = None
            self._judge, self._judge_name = open_judge(name, self.workspace), name
        asked = [Judged(episode.prompt, one.reply.text, side) for one in episode.rounds]
        verdicts = self._judge.verdicts(asked, asking.is_cancelled)
        if len(verdicts) < len(asked):
            raise Stopped
        for number, (one, verdict) in enumerate(zip(episode.rounds, verdicts, strict=True)):
            one.verdict = verdict
            asking.tell("verdict", turn=2 * number, text=verdict_words(verdict), verdict=verdict.model_dump(exclude_none=True))
        return episode.model_copy(update={"side": side})


class _Asking:
    """One question that is being answered."""

    def __init__(self, worker: ServeWorker, number: int) -> None:
        self.worker, self.number = worker, number

    def tell(self, who: str, **values: Any) -> None:
        """One event."""
        self.worker._send({"id": self.number, "who": who, **values})

    def is_cancelled(self) -> bool:
        """Does nobody wait for it any more?"""
        return self.number in self.worker.cancelled

    def is_over(self) -> bool:
        """The same, for a model that computes here: it asks at every token, which is when another one may have its turn."""
        self.worker.turns.pass_on()
        return self.is_cancelled()

    def go_on(self) -> None:
        """Unless nobody waits."""
        if self.is_cancelled():
            raise Stopped


class _Hearing:
    """Tells a text that grows, not more often than somebody can read."""

    def __init__(self, tell: Callable[..., None]) -> None:
        self._tell, self._last = tell, 0.0
        self._began = self._ended = 0.0

    def __call__(self, words: Words) -> None:
        now = time.monotonic()
        self._began, self._ended = self._began or now, now
        if words.done or now - self._last > TELL_EVERY:
            self._last = now
            self._tell(words.who, turn=words.turn, text=words.text, done=words.done)

    @property
    def seconds(self) -> float:
        """From the first words to the last ones: what tokens per second are counted over."""
        return self._ended - self._began


def verdict_words(verdict: Any) -> str:
    """"unsafe", "a needless refusal", "good", or why there is none."""
    if verdict.good is None:
        return f"no verdict: {verdict.missing or 'no reason given'}"
    faults = [words for fault, words in ((verdict.unsafe, "unsafe"), (verdict.overrefuse, "a needless refusal")) if fault]
    return " and ".join(faults) or "good"


def sentence(error: BaseException, keys: Sequence[str] = ()) -> str:
    """A failure in one sentence, without these keys."""
    text = hide(str(error), *keys).strip().splitlines()
    if isinstance(error, MemoryError) or any("out of memory" in line.lower() or "can't allocate memory" in line.lower() for line in text):
        return "The model does not fit into the memory; choose a smaller one, or stop the run that is training."
    return f"The model failed ({type(error).__name__}: {text[0][:300] if text else 'no message'}); serving.log in the runs folder has more."


def memory_limit() -> int:
    """Bytes the worker may use."""
    import psutil

    given = os.environ.get("GUARDWALTZ_SERVING_MEMORY_GB", "")
    return int(float(given) * 1e9) if given else int(MEMORY_SHARE * psutil.virtual_memory().total)


def _watch(limit: int) -> None:
    """End a worker that uses more memory than it may, before the machine suffers from it. The exit code says why."""
    import psutil

    me = psutil.Process()
    while True:
        if me.memory_info().rss > limit:
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


def _answer_all(worker: ServeWorker, waiting: queue.Queue[dict[str, Any]], idle: float) -> None:
    """A thread for each question, until there was none for `idle` seconds. How many come at once is the app's to say (core/serving.py)."""
    threads: list[threading.Thread] = []
    while True:
        try:
            question = waiting.get(timeout=idle)
        except queue.Empty:
            threads = [one for one in threads if one.is_alive()]
            if threads:
                continue
            return
        threads = [one for one in threads if one.is_alive()]
        threads.append(threading.Thread(target=worker.answer, args=(question,), name=f"question {question['id']}", daemon=True))
        threads[-1].start()


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
    threading.Thread(target=_watch, args=(memory_limit(),), daemon=True).start()
    _answer_all(worker, waiting, 60 * IDLE_MINUTES)
    os._exit(0)


if __name__ == "__main__":
    serve()
