"""Rows of one pass as tensors: laid end to end where the attention knows rows, else padded to the longest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from core.lm.sft_plan import Passes
from core.lm.sft_rows import TrainRow

MIN_SHARED = 8
"""A shorter common beginning is not worth the bookkeeping."""


def shared_beginning(rows: Sequence[TrainRow]) -> int:
    """How many first tokens all rows have in common. Short of every prompt's last token, which predicts the answer's first."""
    if len(rows) < 2:
        return 0
    limit = min(row.prompt for row in rows) - 1
    first = rows[0].ids
    for row in islice(rows, 1, None):  # rows may lie on the disk, where a slice would bring them all into memory
        ids = row.ids
        same = next((place for place in range(limit) if ids[place] != first[place]), limit)
        limit = min(limit, same)
    return limit if limit >= MIN_SHARED else 0


@dataclass(frozen=True)
class Collator:
    """Makes the model's inputs for the rows of one pass."""

    pad: int
    packed: bool

    def __call__(self, rows: Sequence[TrainRow], learn: bool = True) -> dict[str, Any]:
        """learn=False: the same inputs with nothing to learn, for a rank that has no row in the last step."""
        batch = self._packed(rows) if self.packed else self._padded(rows)
        if not learn:
            batch["labels"].fill_(-100)
        return batch

    def _packed(self, rows: Sequence[TrainRow]) -> dict[str, Any]:
        shared = shared_beginning(rows)
        ids, labels, positions = list(rows[0].ids[:shared]), [-100] * shared, list(range(shared))
        for row in rows:
            ids += row.ids[shared:]
            labels += [-100] * (row.prompt - shared)
            labels += row.ids[row.prompt:]
            positions += range(shared, len(row))
        return {"input_ids": torch.tensor([ids]), "labels": torch.tensor([labels]), "position_ids": torch.tensor([positions]),
                "attention_mask": torch.zeros(1, 1, 1, 1),  # four dimensions = made already: no mask is built, and none is needed
                "rows": [len(row) - shared for row in rows], "shared": shared}

    def _padded(self, rows: Sequence[TrainRow]) -> dict[str, Any]:
        longest = max(len(row) for row in rows)
        ids = torch.full((len(rows), longest), self.pad)
        labels = torch.full((len(rows), longest), -100)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for place, row in enumerate(rows):
            tokens = torch.tensor(row.ids)
            ids[place, :len(row)] = tokens
            labels[place, row.prompt:len(row)] = tokens[row.prompt:]
            mask[place, :len(row)] = 1
        return {"input_ids": ids, "labels": labels, "attention_mask": mask}


@dataclass(frozen=True)
class PassCollator:
    """Collate function of a loader whose items are numbers of `passes`, one at a time: {"pass": 7}."""

    rows: Sequence[TrainRow]
    collate: Collator
    passes: Passes

    def __call__(self, items: list[dict[str, int]]) -> dict[str, Any]:
        """The model's inputs of one pass. A pass without rows gets one to which no loss is given."""
        wanted = self.passes[items[0]["pass"]]
        return self.collate([self.rows[place] for place in wanted or [0]], learn=bool(wanted))
