"""From the answers to a guard's questions to one answer about an interaction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from core.evals.questions import Question
from core.guard.schema import Classified
from core.methods import UserError
from core.records import POSITIVE, TASKS, Labels, Prediction, Task

UNREAD = "no such label can be read in the guard's answer"
CUT = "the guard's answer was cut at the limit"


@dataclass(frozen=True)
class Part:
    """What came of one question."""

    spoken: Prediction
    labels: Labels
    scores: dict[Task, float] = field(default_factory=dict)
    sure: dict[Task, float] = field(default_factory=dict)
    votes: dict[Task, dict[str, int]] = field(default_factory=dict)
    why: dict[Task, str] = field(default_factory=dict)
    """Why a label is missing, where it is not that the answer could not be read."""
    tokens: int | None = None
    """Where they are more than those of `spoken`."""


@dataclass
class Work:
    """One interaction while its questions are answered. A format with a single verdict asks one question for each label."""

    number: int
    open: int
    """Questions that are not answered yet."""
    said: Classified
    parts: list[tuple[tuple[Task, ...], Prediction]] = field(default_factory=list)
    problem: UserError | None = None

    def add(self, question: Question, part: Part | UserError) -> None:
        """Enter what came of a question."""
        self.open -= 1
        if isinstance(part, UserError):
            self.problem = part
            return
        said = self.said
        self.parts.append((question.tasks, part.spoken))
        said.tokens += part.spoken.tokens if part.tokens is None else part.tokens
        for task in question.tasks:
            label = getattr(part.labels, task)
            setattr(said.labels, task, label)
            if label is None:
                said.missing[task] = part.why.get(task) or (CUT if part.spoken.finish == "length" else UNREAD)
            for shares, values in ((said.confidence, part.sure), (said.score, part.scores)):
                if task in values:
                    setattr(shares, task, round(values[task], 6))
            if task in part.votes:
                said.votes[task] = part.votes[task]

    def whole(self, prompt_format: Any) -> Classified:
        """The answer, with the texts of all questions in the order of the tasks."""
        parts = sorted(self.parts, key=lambda part: TASKS.index(part[0][0]))
        heads = [f"{' and '.join(tasks).capitalize()}:\n" if len(parts) > 1 else "" for tasks, _ in parts]
        spoken = [one for _, one in parts]
        if prompt_format.reasons:
            self.said.reasoning = "\n\n".join(head + "\n".join(one.reasoning) for head, one in zip(heads, spoken, strict=True)
                                              if one.reasoning)
        self.said.text = "\n\n".join(head + one.text for head, one in zip(heads, spoken, strict=True))
        return self.said


def of_label(labels: Labels, task: Task, score: float) -> float:
    """How sure the label is that was given, from the probability of the class one looks for."""
    return score if getattr(labels, task) == POSITIVE[task] else 1 - score
