"""Reading outputs.jsonl, the record of a mining run: one MinedSample a line, all rows, hard or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from core.answer_log import read_log
from core.mining.edits import Edited, apply_edits, edits_file, read_edits
from core.records import MinedSample

FILE = "outputs.jsonl"
HARD_FILE = "hard.jsonl"


def read_outputs(path: Path) -> Iterator[MinedSample]:
    """Mined rows one after the other; a torn last line (a killed run) is left out, a damaged line is a UserError that names it."""
    return read_log(path, MinedSample, "put the line right from a copy, or mine again")


def read_edited(run_dir: Path) -> Iterator[Edited]:
    """Mined rows of a run with its edits applied; outputs.jsonl itself is never changed."""
    edits = read_edits(edits_file(run_dir))
    for sample in read_outputs(run_dir / FILE):
        yield apply_edits(sample, edits.get(sample.row, []))
