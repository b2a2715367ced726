"""Two models on the same prompts: McNemar's exact test, the difference in points, and by how much a fault became rarer. No I/O."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from core.intervals import DRAWS, Floats, Interval, bootstrap_interval, draw
from core.scores import mcnemar, paired_difference
from core.waltz.eval_tally import NOTHING, PAIRED, YES, Tally


def pairs_of(tallies: Sequence[Tally], baseline: str) -> list[tuple[Tally, Tally]]:
    """Which are compared, each pair once, the earlier first: with the baseline; each model with the one before it, both as they are
    used in the end; and each pair of agents without and with its feedback agent."""
    first = next(one for one in tallies if one.model == baseline and one is main_of(tallies, baseline))
    models = list(dict.fromkeys(one.model for one in tallies))
    mains = [main_of(tallies, model) for model in models]
    wanted = [(first, one) for one in tallies if one is not first]
    wanted += itertools.pairwise(mains)
    wanted += [(one, main_of(tallies, one.model)) for one in tallies if one is not main_of(tallies, one.model)]
    found: dict[frozenset[str], tuple[Tally, Tally]] = {}
    for one, other in wanted:
        found.setdefault(frozenset((one.key, other.key)), (one, other))
    return list(found.values())


def main_of(tallies: Sequence[Tally], model: str) -> Tally:
    """How a model is used in the end: with its feedback agent where that was asked."""
    return [one for one in tallies if one.model == model][-1]


def compare(a: Tally, b: Tally, seed: int) -> list[dict[str, Any]]:
    """A line for each number that both have on the same prompts. A difference is b minus a, of the share itself: of unsafe replies less
    is better."""
    lines = []
    for name in PAIRED:
        of_a, of_b = both(a.marks[name], b.marks[name])
        if of_a:
            lines.append({"a": a.key, "b": b.key, "number": name, "mcnemar": mcnemar(of_a, of_b).model_dump(mode="json"),
                          "difference": paired_difference(of_a, of_b, seed=seed).model_dump(mode="json")})
    return lines


def both(a: bytearray, b: bytearray) -> tuple[list[bool], list[bool]]:
    """The prompts that are known of both, in order."""
    known = [place for place, (one, other) in enumerate(zip(a, b, strict=False)) if one != NOTHING and other != NOTHING]
    return [a[place] == YES for place in known], [b[place] == YES for place in known]


def reduction(a: Sequence[bool], b: Sequence[bool], *, seed: int = 0, draws: int = DRAWS) -> Interval:
    """1 - sum(b) / sum(a): by which part of itself a fault became rarer from a to b, on the same prompts; at most 1, may be negative.

    Paired bootstrap over the prompts (on four counts). Undefined where a has no fault at all.
    """
    pairs = Counter(zip(map(bool, a), map(bool, b), strict=True))
    cells = np.array([pairs[True, True], pairs[True, False], pairs[False, True], pairs[False, False]])

    def part(counts: Floats) -> Floats:
        before, after = counts[..., 0] + counts[..., 1], counts[..., 0] + counts[..., 2]
        out = np.full(np.shape(before), np.nan)
        np.divide(before - after, before, out=out, where=before != 0)
        return out

    if not len(a):
        return Interval(value=None, low=None, high=None, n=0)
    return bootstrap_interval(part, cells, draw(cells, seed, draws), n=len(a))
