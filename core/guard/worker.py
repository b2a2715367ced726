"""The guard of the model worker (core/serve_worker.py): held beside the chat models, and over the same base the same weights.

Questions that come together, such as one for each column of a comparison, go through it together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import TimeoutError as NotYet
from typing import TYPE_CHECKING, Any

from core.active import StopRequested
from core.guard.batching import Batcher, Failed, Limits
from core.guard.schema import Asked, Classified, How, asked_of, how_of
from core.methods import UserError
from core.serve_turns import Turns

if TYPE_CHECKING:
    from core.guard.classify import Guard
    from core.runs import Workspace

LOOK_EVERY = 0.25
"""Seconds between two looks at whether somebody still waits."""
LIMITS = Limits(max_batch=16, max_wait_ms=20, max_queue=1000, patience=3600)
"""The queue in front of the worker (core/serving.py) has limits of its own."""


class GuardDesk:
    """One guard at a time, opened by the first question about it."""

    def __init__(self, workspace: Workspace, turns: Turns, make_room: Callable[[], None]) -> None:
        """turns: models that compute here take turns. make_room: called before weights are loaded."""
        self.workspace, self._turns, self._make_room = workspace, turns, make_room
        self._lock = threading.Lock()
        self._guard: Guard | None = None
        self._opened: tuple[str, str] = ("", "")
        self._batcher: Batcher | None = None
        self._how: How | None = None

    def answer(self, question: dict[str, Any], tell: Callable[..., None], is_cancelled: Callable[[], bool]) -> dict[str, Any]:
        """Tells `classified`; returns what the last event says. Raises StopRequested where nobody waits any more."""
        asked = interaction(question["messages"])
        options = dict(question.get("options") or {})
        prompt_format = str(options.pop("prompt_format", None) or "auto")
        at_most = int(options.pop("at_most", None) or 0)
        with self._lock:
            if is_cancelled():
                raise StopRequested
            batcher = self._ready(str(question["model"]), prompt_format, options, at_most, tell)
            (ticket,) = batcher.submit([asked])
        while True:
            try:
                said = ticket.answer.result(timeout=LOOK_EVERY)
                break
            except NotYet:
                if is_cancelled():
                    ticket.dropped = True
                    raise StopRequested from None
            except Failed as error:
                raise UserError(str(error)) from None
            except UserError:  # the interaction is at fault
                raise
            except Exception:  # the guard may be: the next question opens it again
                self.close()
                raise
        tell("classified", classified=said.model_dump())
        return {"tokens": said.tokens, "finish": "stop", "note": "", "usd": None, "episode": None, "writing": 0.0}

    def close(self) -> None:
        """Let go of the guard, after what it is asked."""
        with self._lock:
            self._close()

    def _ready(self, ref: str, prompt_format: str, options: dict[str, Any], at_most: int,
               tell: Callable[..., None]) -> Batcher:
        """at_most: tokens that whoever asks may have of an answer; 0 = as many as they want."""
        from core.guard.classify import Guard

        if self._guard is None or self._opened != (ref, prompt_format):
            self._close()
            self._make_room()
            tell("status", text=f"loading the guard {ref}")
            self._guard, self._opened = Guard(ref, self.workspace, prompt_format=prompt_format), (ref, prompt_format)
        guard = self._guard
        how = how_of({"confidence": "none" if guard.problem(How(confidence="log-prob")) else "log-prob", **options})
        if at_most and at_most < (how.max_new_tokens or guard.prompt_format.max_new_tokens):
            how = how.model_copy(update={"max_new_tokens": at_most})
        if problem := guard.problem(how):
            raise UserError(problem)
        if self._batcher is None or self._how != how:
            if self._batcher is not None:
                self._batcher.close()
            self._batcher, self._how = Batcher(lambda some, stop: self._classified(guard, some, how, stop), LIMITS), how
        return self._batcher

    def _classified(self, guard: Guard, asked: Sequence[Asked], how: How,
                    stop: Callable[[], bool]) -> Iterator[tuple[int, Classified | UserError]]:
        """In the thread of the batcher, which takes its turn among the models that compute here."""
        if not guard.is_local:  # a server computes
            yield from guard.classify(asked, how, stop)
            return

        def stop_or_pass_on() -> bool:
            self._turns.pass_on()
            return stop()

        with self._turns.held():
            yield from guard.classify(asked, how, stop_or_pass_on)

    def _close(self) -> None:
        if self._batcher is not None:
            self._batcher.close()
        if self._guard is not None:
            self._guard.close()
        self._guard, self._batcher, self._how, self._opened = None, None, None, ("", "")


def interaction(messages: Sequence[dict[str, str]]) -> Asked:
    """[user] or [user, assistant]: what is classified."""
    roles = [str(one.get("role")) for one in messages]
    if roles not in (["user"], ["user", "assistant"]):
        raise UserError("A guard classifies one prompt and, where there is one, the response to it; got the turns "
                        f"{', '.join(roles) or 'none'}.")
    return asked_of(messages[0]["content"], messages[1]["content"] if len(messages) > 1 else None)
