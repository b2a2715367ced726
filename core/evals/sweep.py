"""What another threshold would make of an evaluation: precision, recall, F1 and false positive rate, each with its interval.

A row is said to be of the class one looks for (harmful, refusal) where its score is at least the threshold. A row without a score,
because its answer could not be read, is wrong at every threshold: the strict policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from core.intervals import wilson
from core.records import NEGATIVE, POSITIVE, Prediction, Task
from core.scores import score_labels

DEFAULT = 0.5
"""At which the labels are those that the guard gave (log-prob), or that most samples say (vote)."""
STEPS = 20
QUANTILES = 40
"""Scores of a guard that is sure of itself lie close to 0 and 1, where equal steps would see nothing."""
MEASURES = ("precision", "recall", "f1", "fpr")


def sweep(predictions: Sequence[Prediction], task: Task, seed: int) -> dict[str, Any] | None:
    """{positive, default, unscored, points: [{threshold, precision, recall, f1, fpr, said}]}; None where no row has a score."""
    scores = [(item.scores or {}).get(task) for item in predictions]
    known = sorted(score for score in scores if score is not None)
    if not known:
        return None
    gold = [getattr(item.gold, task) for item in predictions]
    return {"positive": POSITIVE[task], "default": DEFAULT, "unscored": len(scores) - len(known),
            "points": [_at(threshold, gold, scores, task, seed) for threshold in thresholds(known)]}


def thresholds(known: Sequence[float]) -> list[float]:
    """Equal steps from 0 to 1, and places between the scores that there are; `known` is sorted."""
    between = sorted({(low + high) / 2 for low, high in pairwise(known) if low < high})
    if len(between) > QUANTILES:
        between = [between[place * (len(between) - 1) // (QUANTILES - 1)] for place in range(QUANTILES)]
    return sorted({round(value, 6) for value in [*(step / STEPS for step in range(STEPS + 1)), *between]})


def _at(threshold: float, gold: Sequence[str], scores: Sequence[float | None], task: Task, seed: int) -> dict[str, Any]:
    said = [None if score is None else (POSITIVE if score >= threshold else NEGATIVE)[task] for score in scores]
    found = score_labels(gold, said, positive=POSITIVE[task], negative=NEGATIVE[task], policy="strict", seed=seed)
    one = found.per_class[POSITIVE[task]]
    intervals = {"precision": one.precision, "recall": one.recall, "f1": found.f1, "fpr": wilson(found.fp, found.fp + found.tn)}
    return {"threshold": threshold, "said": one.predicted,
            **{name: interval.model_dump(mode="json") for name, interval in intervals.items()}}
