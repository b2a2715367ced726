"""Requests in flight of an engine that finishes them in any order: a bounded number at once, answers in input order."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from core.lm.generate import Generated
from core.lm.sampling import key_of_noise

AHEAD = 4
"""How many windows of answers may wait for a slow one before no new request is started, where they are handed over in input order."""


@dataclass(frozen=True)
class Asked:
    """One request: sample number `sample` of row `index`; `number` counts the requests of this call."""

    number: int
    index: int
    sample: int
    prompt: Any
    began: float

    def seed(self, seed: int) -> int:
        """A seed of its own, 31 bits: a function of (seed, row, sample), whatever else is asked."""
        return key_of_noise(seed, self.index, self.sample) & 0x7FFFFFFF


class Backend(Protocol):
    """What an engine does with requests. Any call may raise UserError, which ends the run."""

    def start(self, asked: Asked) -> None:
        """Begin with a request."""

    def finished(self) -> Iterable[tuple[Asked, Generated]]:
        """Wait a moment, at most about a second; what has finished since the last call."""

    def cancel(self) -> None:
        """Drop what is in flight."""


def requests(prompts: Iterable[Any], indices: Iterable[int] | None, samples: int,
             have: Container[tuple[int, int]] = ()) -> Iterator[Asked]:
    """The requests for all prompts, made as they are needed; without the (row, sample) that are there already."""
    numbers = itertools.count()
    for index, prompt in zip(itertools.count() if indices is None else indices, prompts, strict=False):
        for sample in (number for number in range(samples) if (index, number) not in have):
            yield Asked(next(numbers), index, sample, prompt, time.perf_counter())


def through(backend: Backend, asked: Iterator[Asked], at_once: int, *, ordered: bool, should_stop: Callable[[], bool] | None,
            on_batch: Callable[[int, int, int], None] | None) -> Iterator[Generated]:
    """Keep `at_once` requests in flight and yield their answers; memory does not grow with the number of requests."""
    ready: dict[int, Generated] = {}
    flying = made = following = done = tokens = 0
    more = True
    try:
        while True:
            while more and flying < at_once and made - following < AHEAD * at_once:
                request = next(asked, None)
                if request is None:
                    more = False
                else:
                    backend.start(request)
                    flying, made = flying + 1, made + 1
            broken: Exception | None = None
            before = done
            try:
                for request, answer in backend.finished() if flying else ():
                    ready[request.number] = answer
                    flying, done, tokens = flying - 1, done + 1, tokens + answer.tokens
            except Exception as error:  # raised below, after what was answered before it: that may have been paid for
                broken = error
            if on_batch and done > before:
                on_batch(done, flying, tokens)
            if broken is None and (not (flying or more) or (should_stop is not None and should_stop())):
                yield from (ready[number] for number in sorted(ready))
                return
            if broken is not None:
                yield from (ready[number] for number in sorted(ready))
                raise broken
            while ready and (following in ready or not ordered):
                yield ready.pop(following if ordered else next(iter(ready)))
                following += 1
    finally:
        backend.cancel()
