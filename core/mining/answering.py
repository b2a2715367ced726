"""k sampled answers to each row: the one place where mining meets the engines of core/lm."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.mining.ahead import Ahead, Answer
from core.mining.rows import Asked

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.lm.engines import Engine


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn."""

    samples: int
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int


def open_answers(config: Any, model: str, run: ActiveRun) -> Engine:
    """The engine that will answer; the log says which one, and why."""
    from core.lm.engines import open_engine

    return open_engine(model, run.workspace, config.engine, device=config.device, dtype=config.dtype,
                       quantization=None if config.quantization == "none" else config.quantization, log=run.log)


def answered_rows(engine: Engine, rows: Iterable[Asked], prompt_format: Any, sampling: Sampling,
                  should_stop: Callable[[], bool], on_batch: Callable[[int, int, int], None] | None = None,
                  ahead: Ahead | None = None) -> Iterator[tuple[Asked, list[Answer]]]:
    """Each row with all its answers, in order. Ends early, at a row boundary, when stopped: a row is whole or not there.

    Rows are read as the engine asks for them; the few that are in work are all that is held. A row's number goes to the engine, so
    its noise is the same whatever came before it and wherever a resumed run goes on. on_batch(finished, running, tokens): of answers.
    ahead: keeps each answer from when it is made until its row is yielded, and has those of a killed run, which are not asked for again.
    """
    waiting: deque[Asked] = deque()
    held: dict[tuple[int, int], Answer] = ahead.held if ahead else {}
    numbers = range(sampling.samples)

    def noted() -> Iterator[Asked]:
        for asked in rows:
            waiting.append(asked)
            yield asked

    def whole() -> Iterator[tuple[Asked, list[Answer]]]:
        while waiting and all((waiting[0].row, number) in held for number in numbers):
            asked = waiting.popleft()
            yield asked, [held.pop((asked.row, number)) for number in numbers]

    first, second = itertools.tee(noted())  # an engine reads texts and numbers in step, in whichever order
    answers = engine.answers((asked.question.text for asked in first), indices=(asked.row for asked in second), chat=prompt_format.chat,
                             samples=sampling.samples, max_new_tokens=sampling.max_new_tokens, temperature=sampling.temperature,
                             top_p=sampling.top_p, seed=sampling.seed, is_complete=prompt_format.is_complete, should_stop=should_stop,
                             on_batch=on_batch, ordered=ahead is None, have=held)
    for made in answers:
        if not waiting or made.index < waiting[0].row:
            continue  # its row is whole: an engine has made again what was there
        answer = Answer(row=made.index, sample=made.sample, text=made.text, tokens=made.tokens, finish=made.finish)
        if ahead:
            ahead.add(answer)
        else:
            held[answer.row, answer.sample] = answer
        yield from whole()
    yield from whole()  # rows that had all their answers from before
