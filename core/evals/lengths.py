"""How long answers are: mean and median with their intervals, in tokens or reasoning steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from core.intervals import DRAWS, Floats, Interval, bootstrap_interval, draw
from core.records import Prediction


def answer_lengths(rows: Sequence[Prediction], seed: int) -> dict[str, Any]:
    """{"tokens": {...}, "steps": {...}} of one model's answers; None where nothing was counted.

    tokens: of the whole answer, unknown for answers from a file. steps: reasoning steps, of the answers that should reason.
    """
    tokens = [item.tokens for item in rows if item.tokens]
    steps = [len(item.reasoning) for item in rows if item.coherent is not None]
    return {name: mean_and_median(values, seed) if values else None for name, values in (("tokens", tokens), ("steps", steps))}


def mean_and_median(values: Sequence[int], seed: int, draws: int = DRAWS) -> dict[str, Any]:
    """{"mean": Interval, "median": Interval} as JSON; bootstrap over the rows, drawn as counts of the different values.

    The median of an even number of rows is the mean of the middle two. One row has no spread: both are undefined with n = 1.
    """
    if len(values) < 2:
        nothing = Interval(value=None, low=None, high=None, n=len(values)).model_dump(mode="json")
        return {"mean": nothing, "median": nothing}
    counted = sorted(Counter(values).items())
    sizes = np.array([value for value, _ in counted], dtype=np.float64)
    cells = np.array([count for _, count in counted], dtype=np.int64)
    drawn = draw(cells, seed, draws)

    def mean(counts: Floats) -> Floats:
        found: Floats = counts @ sizes / counts.sum(axis=-1)
        return found

    def median(counts: Floats) -> Floats:
        up_to = counts.cumsum(axis=-1)
        half = counts.sum(axis=-1, keepdims=True) / 2
        lower, upper = (up_to < half).sum(axis=-1), (up_to <= half).sum(axis=-1)
        found: Floats = (sizes[lower] + sizes[np.minimum(upper, len(sizes) - 1)]) / 2
        return found

    return {name: bootstrap_interval(what, cells, drawn, n=len(values)).model_dump(mode="json")
            for name, what in (("mean", mean), ("median", median))}
