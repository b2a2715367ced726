"""Requests of many clients in front of one model: what comes within a few milliseconds goes through it together.

One thread owns the model. A request that is dropped before its turn costs nothing; one that waited too long, or finds too many before
it, is told when to come again.
"""

from __future__ import annotations

import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

from core.guard.schema import Asked, Classified
from core.methods import UserError

Answering = Callable[[Sequence[Asked], Callable[[], bool]], Iterator[tuple[int, Classified | UserError]]]
"""Answers a batch: `core.guard.classify.Guard.classify` without its second argument."""
LONGEST_RETRY = 60
"""Seconds; no client is sent away for longer."""


class Busy(Exception):
    """Too many wait already, or this one has waited too long."""

    def __init__(self, why: str, retry_after: int) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class Failed(Exception):
    """The model failed; one sentence."""


class Closed(Exception):
    """The service is ending."""


@dataclass
class Ticket:
    """One interaction that waits for its answer."""

    asked: Asked
    came: float
    answer: Future[Classified] = field(default_factory=Future)
    dropped: bool = False
    """Nobody waits for it any more."""

    def settle(self, result: Classified | BaseException) -> None:
        """Hand over what came of it, if that has not happened."""
        with suppress(InvalidStateError):
            if isinstance(result, BaseException):
                self.answer.set_exception(result)
            else:
                self.answer.set_result(result)


@dataclass(frozen=True)
class Limits:
    """How many at once, and how long anybody waits."""

    max_batch: int = 16
    max_wait_ms: float = 10.0
    """The first of a batch waits this long for others."""
    max_queue: int = 256
    patience: float = 60.0
    """Seconds after which a request that is not in work yet is told to come again."""


class Batcher:
    """The queue and its thread."""

    def __init__(self, answering: Answering, limits: Limits) -> None:
        self._answering, self.limits = answering, limits
        self._line: deque[Ticket] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.batches = self.answered = 0
        self._seconds = 1.0
        """Of a batch, as a moving mean: what a client is told to wait."""
        self._thread = threading.Thread(target=self._work, name="guard", daemon=True)
        self._thread.start()

    def submit(self, asked: Sequence[Asked]) -> list[Ticket]:
        """A ticket for each. Raises Busy where they do not fit into the queue, and then takes none of them; Closed at the end."""
        with self._changed:
            if self._closed:
                raise Closed
            if len(self._line) + len(asked) > self.limits.max_queue:
                raise Busy(f"{len(self._line)} requests wait already, and no more than {self.limits.max_queue} may.", self._retry_after())
            tickets = [Ticket(one, time.monotonic()) for one in asked]
            self._line.extend(tickets)
            self._changed.notify_all()
        return tickets

    @property
    def waiting(self) -> int:
        """Requests that are not in work yet."""
        return len(self._line)

    @property
    def alive(self) -> bool:
        """Is the thread there that answers?"""
        return self._thread.is_alive()

    def close(self) -> None:
        """Answer what waits, take nothing more, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _retry_after(self) -> int:
        batches = 1 + len(self._line) // self.limits.max_batch
        return max(1, min(LONGEST_RETRY, math.ceil(batches * self._seconds)))

    def _work(self) -> None:
        while batch := self._next():
            began = time.monotonic()
            self._answer(batch)
            self._seconds += 0.3 * (time.monotonic() - began - self._seconds)

    def _next(self) -> list[Ticket]:
        """The next batch; empty at the end. Whoever has gone or waited too long is not in it."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._line or self._closed)
                if not self._line:
                    return []
                full = self._line[0].came + self.limits.max_wait_ms / 1000
                while len(self._line) < self.limits.max_batch and not self._closed and (left := full - time.monotonic()) > 0:
                    self._changed.wait(left)
                batch: list[Ticket] = []
                late = time.monotonic() - self.limits.patience
                while self._line and len(batch) < self.limits.max_batch:
                    ticket = self._line.popleft()
                    if ticket.came < late and not ticket.dropped:
                        ticket.settle(Busy(f"The request has waited for more than {self.limits.patience:g} seconds.", self._retry_after()))
                    elif not ticket.dropped:
                        batch.append(ticket)
            if batch:
                return batch

    def _answer(self, batch: list[Ticket]) -> None:
        """Ask the model; what fails in company is asked again alone, so that one bad request harms no other."""
        self.batches += 1
        try:
            for number, said in self._answering([ticket.asked for ticket in batch], lambda: all(ticket.dropped for ticket in batch)):
                self.answered += 1
                batch[number].settle(said)
        except Exception as error:
            if len(batch) > 1:
                self._one_by_one([ticket for ticket in batch if not ticket.answer.done()])
                return
            if not isinstance(error, UserError):
                traceback.print_exc()
            batch[0].settle(Failed(str(error)) if isinstance(error, UserError) else error)
        else:
            for ticket in batch:
                ticket.settle(Failed("The guard gave no answer."))  # it was stopped, because everybody had gone

    def _one_by_one(self, batch: list[Ticket]) -> None:
        """After a failure that may be one request's: each alone, unless it fails for all of them."""
        before = ""
        for number, ticket in enumerate(batch):
            self._answer([ticket])
            error = ticket.answer.exception()
            now = str(error) if error is not None and not isinstance(error, UserError) else ""
            if now and now == before:
                for other in batch[number + 1:]:
                    other.settle(Failed(now))
                return
            before = now
