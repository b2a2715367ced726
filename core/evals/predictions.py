"""predictions.jsonl: appended answer by answer, so that a killed run goes on where it was; looked through row by row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from core.answer_log import AnswerLog, read_log
from core.records import Prediction, Task, lines_of

FILE = "predictions.jsonl"
PredictionLog = AnswerLog
"""predictions.jsonl is written as any log of answers is."""
Which = Literal["all", "wrong", "unparsed", "differ"]


class Key(NamedTuple):
    """What makes an answer the answer to one question."""

    model: str
    row: int
    tasks: tuple[str, ...]


def key_of(prediction: Prediction) -> Key:
    """The question that a prediction answers."""
    return Key(prediction.model, prediction.row, tuple(sorted(prediction.parsed)))


def read_predictions(path: Path) -> Iterator[Prediction]:
    """Answers one after the other, never all in memory; a torn last line (a crash while writing) is left out."""
    return read_log(path, Prediction, "run the evaluation again")


class RowView(NamedTuple):
    """One row for a list: its question, its gold label and what each model answered (None = not readable)."""

    row: int
    prompt: str
    response: str | None
    gold: str
    answers: dict[str, str | None]
    source: str = ""
    seen_in_training: bool = False

    def fits(self, which: Which, model: str | None = None) -> bool:
        """Does the row belong in this list, looking at `model` (None = any)?"""
        return (which == "all" or (which == "wrong" and self.is_wrong(model)) or (which == "unparsed" and self.is_unparsed(model))
                or (which == "differ" and self.differs()))

    def is_wrong(self, model: str | None = None) -> bool:
        """Does `model` (None = any) give another label than gold, or none?"""
        return any(answer != self.gold for answer in self._of(model))

    def is_unparsed(self, model: str | None = None) -> bool:
        """Is the answer of `model` (None = any) unreadable?"""
        return any(answer is None for answer in self._of(model))

    def differs(self) -> bool:
        """Do the models disagree?"""
        return len(set(self.answers.values())) > 1

    def _of(self, model: str | None) -> list[str | None]:
        return list(self.answers.values()) if model is None else [self.answers[model]] if model in self.answers else []


def filter_rows(predictions: Iterable[Prediction], which: Which, task: Task, model: str | None = None) -> list[RowView]:
    """Rows of a task in order: all; with a wrong label (an unreadable answer is wrong too); unreadable; or where models differ.

    `predictions` is read once, so it may be the iterator of `read_predictions`; long texts are not kept.
    """
    rows: dict[int, RowView] = {}
    for item in predictions:
        gold = getattr(item.gold, task)
        if task in item.parsed and gold:
            view = rows.setdefault(item.row, RowView(item.row, item.prompt, item.response, gold, {}, item.source))
            view.answers[item.model] = getattr(item.predicted, task)
            if item.seen_in_training and not view.seen_in_training:
                rows[item.row] = view._replace(seen_in_training=True)
    return [rows[row] for row in sorted(rows) if rows[row].fits(which, model)]


def answers_to_row(path: Path, row: int, task: Task | None = None) -> list[Prediction]:
    """Everything that was answered to one row, reasoning included; other lines are skipped unread."""
    start = b'{"row":%d,' % row
    found = [Prediction.model_validate_json(line) for _, line in lines_of(path) if line.startswith(start) and line.endswith(b"\n")]
    return [item for item in found if task is None or task in item.parsed]
