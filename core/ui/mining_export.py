"""Taking the hard samples home as they stand now: a person's gold labels in, excluded ones out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from core.mining.samples import KINDS, as_hard
from core.records import HardSample, write_records
from core.ui.mining_run import Miner


def hard_samples(miner: Miner) -> Iterator[HardSample]:
    """The hard samples of a run with its edits, in the order of the file, one in memory at a time."""
    for place in np.flatnonzero(miner.index.kind == KINDS.index("hard")).tolist():
        edited = miner.edited(place)
        hard = None if edited.excluded else as_hard(edited.sample, miner.index.unparsed_as)
        if hard is not None:
            yield hard


def write_hard(miner: Miner, folder: Path) -> Path:
    """`<run>-hard.jsonl` in `folder`, whole or not at all."""
    path = folder / f"{miner.run.id}-hard.jsonl"
    write_records(path, hard_samples(miner))
    return path
