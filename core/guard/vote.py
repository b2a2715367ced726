"""What k sampled answers of a guard say together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from core.records import NEGATIVE, POSITIVE, Labels, Prediction, Task


class Tally:
    """The vote of k answers to one question. An answer that cannot be read votes for nothing, and equal votes are no label."""

    def __init__(self, answers: Sequence[Prediction], tasks: Sequence[Task]) -> None:
        self.labels = Labels()
        self.votes: dict[Task, dict[str, int]] = {}
        self.ties: dict[Task, str] = {}
        self.confidence: dict[Task, float] = {}
        """Share of all k answers that say what most of the readable ones say."""
        self.scores: dict[Task, float] = {}
        """Share of the readable answers that say the class one looks for."""
        self.tokens = sum(one.tokens for one in answers)
        for task in tasks:
            self._count(task, answers)
        self.speaker = max(answers, key=lambda one: sum(getattr(self.labels, task) == getattr(one.predicted, task) for task in tasks))
        """The first answer that agrees with the vote most: whose reasoning is shown."""

    def _count(self, task: Task, answers: Sequence[Prediction]) -> None:
        said = Counter(getattr(one.predicted, task) for one in answers)
        yes, no = said[POSITIVE[task]], said[NEGATIVE[task]]
        self.votes[task] = {POSITIVE[task]: yes, NEGATIVE[task]: no, "unread": said[None]}
        if yes + no:
            self.scores[task] = yes / (yes + no)
        if yes == no:
            if yes:
                self.ties[task] = f"the votes are equal, {yes} to {no}"
            return
        setattr(self.labels, task, (POSITIVE if yes > no else NEGATIVE)[task])
        self.confidence[task] = max(yes, no) / len(answers)
