"""Which rows each optimizer step learns from, and how they are cut into passes through the model.

A step is always `rows_per_step` rows, drawn epoch by epoch without repeats. The loss is the mean over the answer tokens of the
whole step, so how its rows are grouped changes the speed and nothing else; rows of like length share a pass.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise


@dataclass(frozen=True)
class Passes:
    """Groups of rows, end to end in two arrays: 4 bytes a row and 4 a group, where lists of lists take some 90 bytes a row."""

    rows: array[int]
    ends: array[int]
    """Where each group ends."""

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> list[int]:
        return self.rows[self.ends[number - 1] if number else 0:self.ends[number]].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return (self[number] for number in range(len(self)))

    def filled(self) -> Passes:
        """Those that are not empty."""
        return Passes(self.rows, array("i", (end for before, end in pairwise(chain((0,), self.ends)) if end > before)))


@dataclass(frozen=True)
class Plan:
    """A whole training. `micro_batches` has that of every rank of a pass, of every pass of a step, of every step; an empty one has
    nothing to learn."""

    micro_batches: Passes
    passes_per_step: int
    """Micro-batches of one rank in a step."""
    ranks: int
    epochs: float
    rows: int

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return len(self.micro_batches) // (self.passes_per_step * self.ranks)

    @property
    def passes(self) -> Iterator[list[list[list[int]]]]:
        """Each step as [pass][rank] = rows."""
        return (self.step(number) for number in range(self.steps))

    def step(self, number: int) -> list[list[list[int]]]:
        """[pass][rank] = rows of one step."""
        first = number * self.passes_per_step * self.ranks
        lines = range(first, first + self.passes_per_step * self.ranks, self.ranks)
        return [[self.micro_batches[line + rank] for rank in range(self.ranks)] for line in lines]


def plan_steps(lengths: Sequence[int], *, rows_per_step: int, rows_per_pass: int, epochs: float, ranks: int = 1, seed: int = 0,
               tokens_per_pass: int = 0, grouped: bool = True, laid_end_to_end: bool = False, shared: int = 0) -> Plan:
    """Plan a whole training. rows_per_step: over all ranks. tokens_per_pass: what a usual pass should hold; 0 = only rows_per_pass counts.

    grouped: put rows of like length together. laid_end_to_end: a pass costs the sum of its rows' lengths (less the `shared`
    beginning, once), not the longest times their number.
    """
    own = array("i", (length - shared for length in lengths) if laid_end_to_end else lengths)
    per_rank = math.ceil(rows_per_step / ranks / rows_per_pass)
    if tokens_per_pass:
        room = max(1, tokens_per_pass - (shared if laid_end_to_end else 0))
        usual = rows_per_step * sum(own) / len(own)
        per_rank = max(per_rank, math.ceil(usual / ranks / room))
    per_rank = max(1, min(per_rank, math.ceil(rows_per_step / ranks)))
    made = Passes(array("i"), array("i"))
    for step in _steps(len(lengths), rows_per_step, epochs, seed):
        if not grouped:
            groups = [step[place::per_rank * ranks] for place in range(per_rank * ranks)]
        elif laid_end_to_end:
            groups = _balanced(step, own, per_rank * ranks)
        else:
            groups = _alike(step, own, per_rank * ranks)
        for group in _deal(groups, own, per_rank, ranks):
            made.rows.extend(group)
            made.ends.append(len(made.rows))
    return Plan(made, per_rank, ranks, epochs, len(lengths))


def _steps(count: int, size: int, epochs: float, seed: int) -> Iterator[list[int]]:
    """Rows of each step. A step may span two epochs; only the last one may be smaller."""
    left = max(1, round(count * epochs))
    waiting = array("i")  # an eighth of a list's memory
    for epoch in range(math.ceil(left / count)):
        order = array("i", range(count))
        random.Random(f"{seed}-{epoch}").shuffle(order)
        waiting += order[:left]
        left -= min(left, count)
        whole = len(waiting) // size * size
        for start in range(0, whole, size):
            yield waiting[start:start + size].tolist()
        waiting = waiting[whole:]
    if waiting:
        yield waiting.tolist()


def _balanced(step: list[int], own: Sequence[int], groups: int) -> list[list[int]]:
    """Groups with about the same number of tokens: the longest rows first, each to the group that has the least."""
    made: list[list[int]] = [[] for _ in range(groups)]
    loads = [0] * groups
    for row in sorted(step, key=lambda row: (-own[row], row)):
        place = loads.index(min(loads))
        made[place].append(row)
        loads[place] += own[row]
    return made


def _alike(step: list[int], own: Sequence[int], groups: int) -> list[list[int]]:
    """Groups of the same number of rows, alike in length: padding them to each other wastes little."""
    ordered = sorted(step, key=lambda row: (-own[row], row))
    bounds = [round(len(ordered) * place / groups) for place in range(groups + 1)]
    return [ordered[start:end] for start, end in pairwise(bounds)]


def _deal(groups: list[list[int]], own: Sequence[int], per_rank: int, ranks: int) -> list[list[int]]:
    """Groups pass by pass, rank by rank: heavy ones back and forth over the ranks, so that none waits long for another."""
    groups = sorted(groups, key=lambda rows: -sum(own[row] for row in rows))
    table = [groups[number * ranks:(number + 1) * ranks] for number in range(per_rank)]
    return [group for number, line in enumerate(table) for group in (line if number % 2 == 0 else line[::-1])]
