"""k sampled answers to each row: the one place where mining meets the engines of core/lm."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.mining.rows import Asked

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.lm.engines import Engine
    from core.lm.generate import Generated


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
                  should_stop: Callable[[], bool],
                  on_batch: Callable[[int, int, int], None] | None = None) -> Iterator[tuple[Asked, list[Generated]]]:
    """Each row with all its answers, in order. Ends early, at a row boundary, when stopped: a row is whole or not there.

    Rows are read as the engine asks for them; the few that are in work are all that is held. A row's number goes to the engine, so
    its noise is the same whatever came before it and wherever a resumed run goes on. on_batch(finished, running, tokens): of answers.
    """
    waiting: deque[Asked] = deque()

    def noted() -> Iterator[Asked]:
        for asked in rows:
            waiting.append(asked)
            yield asked

    first, second = itertools.tee(noted())  # an engine reads texts and numbers in step, in whichever order
    made: list[Generated] = []
    answers = engine.answers((asked.question.text for asked in first), indices=(asked.row for asked in second), chat=prompt_format.chat,
                             samples=sampling.samples, max_new_tokens=sampling.max_new_tokens, temperature=sampling.temperature,
                             top_p=sampling.top_p, seed=sampling.seed, is_complete=prompt_format.is_complete, should_stop=should_stop,
                             on_batch=on_batch, ordered=True)
    for answer in answers:
        if (answer.index, answer.sample) != (waiting[0].row, len(made)):
            return  # stopped: after a gap nothing is in order any more
        made.append(answer)
        if len(made) == sampling.samples:
            yield waiting.popleft(), made
            made = []
