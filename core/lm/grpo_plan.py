"""Which rows each step of a GRPO training asks about. No torch here."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.lm.grpo import GrpoJob


@dataclass(frozen=True)
class GroupPlan:
    """Every step asks about `prompts` rows, `group` answers each, learned from in passes of `per_pass` answers."""

    rows: int
    prompts: int
    group: int
    per_pass: int
    steps: int
    seed: int

    @property
    def passes_per_step(self) -> int:
        """Passes through the model in a step."""
        return self.prompts * self.group // self.per_pass

    @property
    def epochs(self) -> float:
        """How often a row is asked about, on average."""
        return self.steps * self.prompts / self.rows

    def __iter__(self) -> Iterator[list[int]]:
        """Rows of each step: epoch by epoch in new order, every row once before any row again."""
        waiting: list[int] = []
        epoch = 0
        for _ in range(self.steps):
            while len(waiting) < self.prompts:
                order = list(range(self.rows))
                random.Random(f"{self.seed}-{epoch}").shuffle(order)
                waiting += order
                epoch += 1
            yield waiting[:self.prompts]
            waiting = waiting[self.prompts:]


def plan_groups(rows: int, job: GrpoJob) -> GroupPlan:
    """The plan of a whole training: `steps`, or as many as the epochs make."""
    steps = job.steps or max(1, round(rows * job.epochs / job.prompts_per_step))
    answers = job.prompts_per_step * job.num_generations
    per_pass = max(size for size in range(1, min(job.batch_size, answers) + 1) if answers % size == 0)
    return GroupPlan(rows, job.prompts_per_step, job.num_generations, per_pass, steps, job.seed)
