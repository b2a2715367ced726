"""The hard subset of an evaluation: rows on which k sampled answers of one model are partly right and partly wrong.

The samples are drawn for this evaluation only and stay in its folder as hard_outputs.jsonl (one MinedSample a question, in order,
all questions). build-pairs takes mining runs and nothing else, so they never reach a training set. Hard is what
core/mining/samples.py calls hard, looked at for each task by itself. An unreadable answer counts as neither right nor wrong.
"""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from core.answer_log import read_log
from core.mining.samples import Kind, tally, tasks_of
from core.records import MinedSample, Task

FILE = "hard_outputs.jsonl"


@dataclass(frozen=True)
class HardChoice:
    """How the samples are drawn that choose the hard rows."""

    samples: int
    """k, at least 2: one sample can not disagree with itself."""
    temperature: float = 1.0
    top_p: float = 0.95


@dataclass(frozen=True)
class HardRows:
    """What k samples said of the rows of one task."""

    rows: frozenset[int]
    """Numbers of the hard rows in the evaluated set."""
    kinds: dict[Kind, int]
    """{kind: rows}; the sum is all rows that were asked about."""


@dataclass(frozen=True)
class HardSubset:
    """The hard rows of an evaluation, and how they were chosen."""

    choice: HardChoice
    model: str
    title: str
    seed: int
    """Of the samples; another one than that of the answers that are scored."""
    tasks: dict[Task, HardRows]


def hard_seed(seed: int) -> int:
    """Seed of the choosing samples: a function of the run's seed that is never that seed, because answers with equal seed, row and
    sample number are equal, and rows must not be scored on the answers that chose them."""
    found = zlib.crc32(f"hard subset {seed}".encode())
    return found if found != seed else found + 1


def read_hard_rows(path: Path) -> dict[Task, HardRows]:
    """{task: its hard rows} of a hard_outputs.jsonl, which is read line by line."""
    rows: dict[Task, set[int]] = {}
    kinds: dict[Task, Counter[Kind]] = {}
    for sample in read_log(path, MinedSample, "run the evaluation again"):
        for task in tasks_of(sample):
            kind = tally(sample, task).kind
            kinds.setdefault(task, Counter())[kind] += 1
            rows.setdefault(task, set())
            if kind == "hard":
                rows[task].add(sample.row)
    return {task: HardRows(frozenset(rows[task]), dict(kinds[task])) for task in rows}
