"""The ledger of a WaltzRL run as columns of numbers: what charts and warnings are made of. A thousand iterations take about a megabyte."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.intervals import CONFIDENCE, Interval, wilson, z_squared
from core.waltz.ledger import AgentStep, Iteration, Spread

Floats = NDArray[np.float64]
SHARES = frozenset({"conversation_reward", "first_reply_reward", "label", "format", "helpfulness", "alignment", "trigger", "trigger_benign",
                    "trigger_harmful", "unsafe", "unsafe_first", "overrefuse", "overrefuse_first", "label_accuracy", "format_rate", "cut",
                    "left_out"})
"""Values that are 0 or 1 for each episode, reply or feedback."""
STEP_NUMBERS = ("loss", "kl", "entropy", "clip_share", "mismatch", "grad_norm")
"""Of core.waltz.ledger.AgentStep; their columns are called "<agent> <number>", and each iteration is one observation."""
LEFT_OUT = "left_out"
"""Column of the share of played episodes that count nowhere."""
ROOM = 64
"""Iterations that a new table has room for; it doubles when it is full."""


class Column(NamedTuple):
    """One number over the iterations; nan and 0 where an iteration does not have it."""

    mean: Floats
    std: Floats
    n: Floats


class History:
    """Grows line by line with the ledger of a run. `first` to `last` below are places in it, counted from 0, `last` excluded."""

    def __init__(self, lines: Iterable[Iteration] = ()) -> None:
        self._names: dict[str, int] = {}
        self._table = np.full((3, 8, ROOM), np.nan)
        self.iterations: list[int] = []
        self.stages: list[int] = []
        for line in lines:
            self.add(line)

    def __len__(self) -> int:
        return len(self.iterations)

    def add(self, line: Iteration) -> None:
        """Append an iteration. One that is done again after a resume takes the place of what was there from it on."""
        while self.iterations and self.iterations[-1] >= line.iteration:
            self.iterations.pop()
            self.stages.pop()
            self._table[:, :, len(self.iterations)] = np.nan
        place = len(self.iterations)
        if place == self._table.shape[2]:
            self._table = np.concatenate([self._table, np.full_like(self._table, np.nan)], axis=2)
        for name, spread in line.values.items():
            self._put(name, place, spread)
        for role, step in line.agents.items():
            self._put_step(role, place, step)
        if line.episodes:
            share = line.left_out / line.episodes
            self._put(LEFT_OUT, place, Spread(mean=share, std=math.sqrt(share * (1 - share)), n=line.episodes))
        self.iterations.append(line.iteration)
        self.stages.append(line.stage)

    def _put(self, name: str, place: int, spread: Spread) -> None:
        row = self._names.setdefault(name, len(self._names))
        if row == self._table.shape[1]:
            self._table = np.concatenate([self._table, np.full_like(self._table, np.nan)], axis=1)
        if spread.mean is not None and math.isfinite(spread.mean):
            self._table[:, row, place] = spread.mean, spread.std or 0.0, spread.n

    def _put_step(self, role: str, place: int, step: AgentStep) -> None:
        for name in STEP_NUMBERS:
            value = getattr(step, name)
            if value is not None:
                self._put(f"{role} {name}", place, Spread(mean=value, n=1))

    def has(self, name: str) -> bool:
        """Does any iteration have this number?"""
        return name in self._names and bool(np.isfinite(self.column(name).mean).any())

    def column(self, name: str) -> Column:
        """A number over all iterations, in order."""
        if name not in self._names:
            empty = np.full(len(self), np.nan)
            return Column(empty, empty, np.zeros(len(self)))
        mean, std, n = self._table[:, self._names[name], :len(self)]
        return Column(mean, std, np.nan_to_num(n))

    def pooled(self, name: str, first: int = 0, last: int | None = None) -> Interval:
        """One number over several iterations with its 95 % interval: Wilson's for shares, a normal one for means."""
        mean, std, n = (part[first:last] for part in self.column(name))
        there = n > 0
        return pool(mean[there], std[there], n[there], name in SHARES)

    def spread(self, name: str, first: int = 0, last: int | None = None) -> float | None:
        """Standard deviation over all observations of these iterations; None without any."""
        mean, std, n = (part[first:last] for part in self.column(name))
        there = n > 0
        count = float(n[there].sum())
        if not count:
            return None
        middle = float((mean[there] * n[there]).sum()) / count
        return math.sqrt(max(0.0, float(((std[there] ** 2 + mean[there] ** 2) * n[there]).sum()) / count - middle * middle))

    def parts(self) -> list[tuple[int, int, int]]:
        """(stage, first, last) of each stage that has begun."""
        found: list[tuple[int, int, int]] = []
        for place, stage in enumerate(self.stages):
            if found and found[-1][0] == stage:
                found[-1] = (stage, found[-1][1], place + 1)
            else:
                found.append((stage, place, place + 1))
        return found


def pool(mean: Floats, std: Floats, n: Floats, share: bool) -> Interval:
    """The interval of several means of n values each, from their standard deviations (divisor n). Undefined for fewer than two values."""
    count = int(n.sum())
    total = float((mean * n).sum())
    if share:
        return wilson(min(count, max(0, round(total))), count)
    if count < 2:
        return Interval(value=None, low=None, high=None, n=count)
    middle = total / count
    variance = max(0.0, float(((std ** 2 + mean ** 2) * n).sum()) - count * middle * middle) / (count - 1)
    margin = math.sqrt(z_squared(CONFIDENCE) * variance / count)
    return Interval(value=middle, low=middle - margin, high=middle + margin, n=count)


def stretches(first: int, last: int, most: int) -> Sequence[tuple[int, int]]:
    """At most `most` equal stretches of these places, the last one always whole: what a chart draws of a long run."""
    width = max(1, -(-(last - first) // most))
    edges = [*range(last, first, -width), first][::-1]
    return list(itertools.pairwise(edges))
