"""What k sampled answers to a row say: how many are right, and whether the row is hard for the guard.

Hard = right and wrong answers together (GuardReasoner, section 2.2). The released code looks at one task of a row after the
other and takes the first that is mixed; so do we.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from core.records import HardSample, MinedSample, Output, Task

TASK_ORDER: tuple[Task, ...] = ("request", "response", "completion")
"""The order in which the released code looks for a mixed task."""
Unparsed = Literal["drop", "incorrect"]
"""What an unreadable answer counts as: nothing, or wrong."""
Outcome = Literal["correct", "incorrect", "unparsed"]
Kind = Literal["hard", "all right", "all wrong", "unparsed"]
KINDS: tuple[Kind, ...] = ("hard", "all right", "all wrong", "unparsed")


class Tally(NamedTuple):
    """Answers to one row on one task."""

    correct: int
    incorrect: int
    unparsed: int

    @property
    def readable(self) -> int:
        """Answers that count as right or wrong."""
        return self.correct + self.incorrect

    @property
    def kind(self) -> Kind:
        """"unparsed" = fewer than two answers count, so the row can be neither mixed nor surely easy."""
        if self.readable < 2:
            return "unparsed"
        return "hard" if self.correct and self.incorrect else "all right" if self.correct else "all wrong"

    @property
    def difficulty(self) -> float:
        """Share of wrong answers among those that count."""
        return self.incorrect / self.readable if self.readable else 0.0


def outcome(sample: MinedSample, output: Output, task: Task) -> Outcome:
    """Is this answer right on `task`? Only for tasks that the row has a gold label for."""
    label = getattr(output.predicted, task)
    if label is None:
        return "unparsed"
    return "correct" if label == getattr(sample.gold, task) else "incorrect"


def tasks_of(sample: MinedSample) -> tuple[Task, ...]:
    """Tasks with a gold label, in the order in which they are looked at."""
    return tuple(task for task in TASK_ORDER if getattr(sample.gold, task) is not None)


def tally(sample: MinedSample, task: Task, unparsed: Unparsed = "drop") -> Tally:
    """Count the answers of a row on one task; with unparsed="incorrect" the unreadable ones are among the wrong ones too."""
    found = [outcome(sample, output, task) for output in sample.outputs]
    unread = found.count("unparsed")
    return Tally(found.count("correct"), found.count("incorrect") + (unread if unparsed == "incorrect" else 0), unread)


def hard_task(sample: MinedSample, unparsed: Unparsed = "drop", tasks: Iterable[Task] = TASK_ORDER) -> Task | None:
    """The first task on which the answers are mixed; None = the row is not hard."""
    wanted = tuple(tasks)
    return next((task for task in tasks_of(sample) if task in wanted and tally(sample, task, unparsed).kind == "hard"), None)


def kind_of(sample: MinedSample, unparsed: Unparsed = "drop") -> Kind:
    """Of a whole row: hard where a task is; else all wrong, all right or unparsed by its first task."""
    if hard_task(sample, unparsed):
        return "hard"
    tasks = tasks_of(sample)
    return tally(sample, tasks[0], unparsed).kind if tasks else "unparsed"


def as_hard(sample: MinedSample, unparsed: Unparsed = "drop") -> HardSample | None:
    """The row with its numbers, where it is hard."""
    task = hard_task(sample, unparsed)
    if task is None:
        return None
    counted = tally(sample, task, unparsed)
    return HardSample(**dict(sample), task=task, k_correct=counted.correct, k_incorrect=counted.incorrect, k_unparsed=counted.unparsed,
                      difficulty=counted.difficulty)
