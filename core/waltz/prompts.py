"""Prompts to play episodes on: rows with a request label, whose side is what the label says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core.data import DataSource, find_data, stream_examples
from core.records import GuardExample, Side, Split
from core.waltz.protocol import Opening

if TYPE_CHECKING:
    from core.runs import Workspace

LABEL_OF: dict[Side, str] = {"harmful": "harmful", "benign": "unharmful"}
"""The request label that a side stands for."""


def side_of(example: GuardExample) -> Side | None:
    """harmful or benign by the label of the request; None where there is none."""
    return next((side for side, label in LABEL_OF.items() if example.labels.request == label), None)


def openings(source: DataSource | str, workspace: Workspace, side: Side | None = None, split: Split | None = None) -> Iterator[Opening]:
    """The prompts of a set, in order, one at a time. `row`: place in the set, from 0, whatever is left out.

    side: only prompts of this side; without it, rows without a request label come with side None. split: "train" gives rows marked train
    or unmarked, "validation" and "test" those marked so.
    """
    found = find_data(source, workspace) if isinstance(source, str) else source
    for row, example in enumerate(stream_examples(found, workspace)):
        if split and (example.split or "train") != split:
            continue
        if side is None or side_of(example) == side:
            yield Opening(row, example.prompt, side_of(example), example.source, example.category)
