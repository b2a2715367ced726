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
from itertools import pairwise


@dataclass(frozen=True)
class Plan:
    """passes[step][pass][rank] = the rows of one micro-batch; an empty one has nothing to learn."""

    passes: list[list[list[list[int]]]]
    epochs: float
    rows: int

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return len(self.passes)

    @property
    def passes_per_step(self) -> int:
        """Micro-batches of one rank in a step."""
        return len(self.passes[0])

    def flat(self) -> list[list[int]]:
        """Micro-batches in the order in which a loader deals them out to the ranks."""
        return [rows for step in self.passes for ranks in step for rows in ranks]


def plan_steps(lengths: Sequence[int], *, rows_per_step: int, rows_per_pass: int, epochs: float, ranks: int = 1, seed: int = 0,
               tokens_per_pass: int = 0, grouped: bool = True, laid_end_to_end: bool = False, shared: int = 0) -> Plan:
    """Plan a whole training. rows_per_step: over all ranks. tokens_per_pass: what a usual pass should hold; 0 = only rows_per_pass counts.

    grouped: put rows of like length together. laid_end_to_end: a pass costs the sum of its rows' lengths (less the `shared`
    beginning, once), not the longest times their number.
    """
    steps = list(_steps(len(lengths), rows_per_step, epochs, seed))
    own = array("i", (length - shared for length in lengths) if laid_end_to_end else lengths)
    per_rank = math.ceil(rows_per_step / ranks / rows_per_pass)
    if tokens_per_pass:
        room = max(1, tokens_per_pass - (shared if laid_end_to_end else 0))
        usual = rows_per_step * sum(own) / len(own)
        per_rank = max(per_rank, math.ceil(usual / ranks / room))
    per_rank = max(1, min(per_rank, math.ceil(rows_per_step / ranks)))
    passes = []
    for step in steps:
        if not grouped:
            groups = [step[place::per_rank * ranks] for place in range(per_rank * ranks)]
        elif laid_end_to_end:
            groups = _balanced(step, own, per_rank * ranks)
        else:
            groups = _alike(step, own, per_rank * ranks)
        passes.append(_deal(groups, own, per_rank, ranks))
    return Plan(passes, epochs, len(lengths))


def _steps(count: int, size: int, epochs: float, seed: int) -> Iterator[list[int]]:
    """Rows of each step. A step may span two epochs; only the last one may be smaller."""
    left = max(1, round(count * epochs))
    waiting = array("i")  # an eighth of a list's memory
    for epoch in range(math.ceil(left / count)):
        order = array("i", range(count))
        random.Random(f"{seed}-{epoch}").shuffle(order)
        waiting += order[:left]
        left -= min(left, count)
        while len(waiting) >= size:
            yield waiting[:size].tolist()
            waiting = waiting[size:]
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


def _deal(groups: list[list[int]], own: Sequence[int], per_rank: int, ranks: int) -> list[list[list[int]]]:
    """Groups to [pass][rank]: heavy ones back and forth over the ranks, so that none waits long for another."""
    groups = sorted(groups, key=lambda rows: -sum(own[row] for row in rows))
    table = [groups[number * ranks:(number + 1) * ranks] for number in range(per_rank)]
    return [line if number % 2 == 0 else line[::-1] for number, line in enumerate(table)]
