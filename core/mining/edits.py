"""Corrections by hand to mined rows: edits.jsonl beside outputs.jsonl, which stays as it was mined.

Append-only, written by the pages of everybody who corrects, a line at a time (core/answer_log.py), and never by the worker. For each
row and kind the latest line is in force, for gold labels also for each task; undoing is a later line: `include` after `exclude`, a gold
edit without label, a swap without outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from core.answer_log import AnswerLog, read_log
from core.methods import UserError
from core.records import Labels, MinedSample, Record, Task, normalize_label

FILE = "edits.jsonl"


class Edit(Record):
    """One correction, with who made it and when."""

    t: float
    """Unix time."""
    who: str = Field(min_length=1)
    row: int = Field(ge=0)
    """`row` of the mined sample."""
    kind: Literal["exclude", "include", "gold", "swap"]
    """exclude: no pair from this row. include: takes an exclude back. gold: the gold label is another one. swap: these outputs are
    the chosen and the rejected one."""
    task: Task | None = None
    """gold: of which task."""
    label: str | None = None
    """gold: the right label; None takes an earlier gold edit back."""
    chosen: int | None = Field(None, ge=0)
    """swap: index of the chosen output; None takes an earlier swap back."""
    rejected: int | None = Field(None, ge=0)
    """swap: index of the rejected output."""
    note: str = ""
    overtaken: bool = Field(False, exclude=True)
    """swap, as it was read: a gold label of the row was changed, or changed back, after it."""

    @model_validator(mode="after")
    def _whole(self) -> Edit:
        if (self.kind == "gold") != (self.task is not None) or (self.label is not None and self.kind != "gold"):
            raise ValueError("task and label belong to a gold edit, which needs a task")
        if self.label is not None and self.task is not None:
            self.label = normalize_label(self.label, self.task)
        if (self.chosen is None) != (self.rejected is None) or (self.chosen is not None and self.kind != "swap"):
            raise ValueError("chosen and rejected belong to a swap, and go together")
        if self.chosen is not None and self.chosen == self.rejected:
            raise ValueError("chosen and rejected are the same output")
        return self

    @property
    def place(self) -> tuple[str, Task | None]:
        """What a later edit of the same place replaces."""
        return ("exclude" if self.kind == "include" else self.kind, self.task)

    @property
    def undoes(self) -> bool:
        """Does it only take an earlier edit back?"""
        return self.kind == "include" or (self.kind == "gold" and self.label is None) or (self.kind == "swap" and self.chosen is None)


class Edited(NamedTuple):
    """A mined row as it counts after the edits."""

    sample: MinedSample
    """With the corrected gold labels."""
    original: MinedSample
    """As it was mined."""
    excluded: bool
    pair: tuple[int, int] | None
    """(chosen, rejected) output, where a person picked them."""
    overtaken: bool
    """A gold label was changed after the pair was picked: it was picked under another one (core/mining/choosing.py says what follows)."""
    edits: list[Edit]
    """The edits in force."""


def edits_file(run_dir: Path) -> Path:
    """Where the edits of a mining run lie."""
    return run_dir / FILE


def history(path: Path) -> Iterator[Edit]:
    """Every edit ever made, oldest first; a torn last line is left out, a damaged one is a UserError that names it."""
    return read_log(path, Edit, "put the line right or take it out")


def read_edits(path: Path) -> dict[int, list[Edit]]:
    """{row: the edits in force}. Only rows that a person touched are held in memory."""
    latest: dict[int, dict[tuple[str, Task | None], Edit]] = {}
    for edit in history(path):
        places = latest.setdefault(edit.row, {})
        places[edit.place] = edit
        if edit.kind == "gold" and (swap := places.get(("swap", None))):
            places[swap.place] = swap.model_copy(update={"overtaken": True})
    kept = {row: [edit for edit in edits.values() if not edit.undoes] for row, edits in latest.items()}
    return {row: edits for row, edits in kept.items() if edits}


def add_edit(path: Path, edit: Edit, sample: MinedSample) -> None:
    """Append an edit of `sample`. UserError where it does not fit the row. A torn last line (a crash) is cut off first."""
    if edit.row != sample.row:
        raise UserError(f"The edit is about row {edit.row}, the sample is row {sample.row}.")
    if edit.chosen is not None and edit.rejected is not None and max(edit.chosen, edit.rejected) >= len(sample.outputs):
        raise UserError(f"Row {sample.row} has {len(sample.outputs)} outputs; {max(edit.chosen, edit.rejected) + 1} is none of them.")
    if edit.task is not None and getattr(sample.gold, edit.task) is None:
        raise UserError(f"Row {sample.row} was not asked about the {edit.task}, so it has no gold label to correct there.")
    with AnswerLog(path) as log:
        log.add(edit)


def apply_edits(sample: MinedSample, edits: Iterable[Edit]) -> Edited:
    """The row as it counts with these edits (those in force, as read_edits gives them; gold edits of another run may be among them)."""
    edits = list(edits)
    changed = {edit.task: edit.label for edit in edits if edit.kind == "gold" and edit.task}
    edited = sample
    if changed:
        gold = Labels.model_validate({**sample.gold.model_dump(), **changed})
        edited = sample.model_copy(update={"gold": gold})
    swap = next((edit for edit in edits if edit.kind == "swap"), None)
    pair = (swap.chosen, swap.rejected) if swap and swap.chosen is not None and swap.rejected is not None else None
    overtaken = swap is not None and (swap.overtaken or any(edit.kind == "gold" and edit.t > swap.t for edit in edits))
    return Edited(edited, sample, any(edit.kind == "exclude" for edit in edits), pair, overtaken, edits)
