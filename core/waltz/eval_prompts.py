"""Which prompts an evaluation plays on: half harmful, half benign, no prompt twice, the same ones for every model."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from core.chat.balance import Cell, Draw, lot
from core.chat.seen import Seen
from core.data import DataSource, find_data, stream_examples
from core.evals.rows import SplitChoice
from core.files import replace_file
from core.methods import UserError
from core.records import Side, Split
from core.split_guard import prompt_key
from core.waltz.prompts import openings
from core.waltz.protocol import Opening

if TYPE_CHECKING:
    from core.runs import Workspace

FILE = "prompts.jsonl"
SIDES: tuple[Side, Side] = ("harmful", "benign")


@dataclass(frozen=True)
class Prompts:
    """The chosen prompts, on the disk."""

    path: Path
    sha256: str
    """Of prompts and sides in order: two evaluations are about the same prompts exactly where this is equal."""
    sides: dict[str, int]
    """{side: prompts chosen}."""
    there: dict[str, int]
    """{side: different prompts of the split}."""
    split: str
    """The split taken; "all" where the set has none."""
    without_side: int
    """Rows that do not say what they are there for; left out."""
    duplicates: int
    """Rows whose prompt stood there already; left out."""

    @property
    def count(self) -> int:
        """Prompts chosen."""
        return sum(self.sides.values())

    def __iter__(self) -> Iterator[Opening]:
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                yield Opening(**json.loads(line))


def choose_prompts(data: str, workspace: Workspace, path: Path, *, split: SplitChoice = "auto", limit: int = 0,
                   seed: int = 0) -> Prompts:
    """Write the chosen prompts to `path`, in the order of the set. limit: at most so many, half of each side; 0 = all.

    Which ones is a function of the seed and the prompts' texts alone. UserError where no prompt has a side. Memory grows with the
    limit, not with the rows.
    """
    source = find_data(data, workspace)
    taken = _split(source, workspace, split)
    quota: dict[Cell, int] = {("harmful",): limit // 2, ("benign",): limit - limit // 2}
    draw, there, left = Draw(quota, {}), Counter[str](), Counter[str]()
    for opening in _different(source, workspace, taken, left):
        there[str(opening.side)] += 1
        if limit:
            draw.offer(_cell(opening), lot(seed, prompt_key(opening.prompt)))
    draw.settle()
    if not there:
        why = f"{left['without_side']:,} rows have no request label" if left["without_side"] else "there are no rows"
        raise UserError(f"{data}, split {taken}: no prompt says whether it is harmful or benign ({why}); pool labelled prompts with "
                        "waltz-prompts, or import a set with request labels.")
    sides, digest = Counter[str](), hashlib.sha256()
    with replace_file(path) as file:
        for opening in _different(source, workspace, taken, Counter()):
            if not limit or draw.takes(_cell(opening), lot(seed, prompt_key(opening.prompt))):
                sides[str(opening.side)] += 1
                digest.update(json.dumps([opening.side, opening.prompt]).encode() + b"\n")
                file.write(json.dumps(asdict(opening)) + "\n")
    return Prompts(path, digest.hexdigest(), {side: sides[side] for side in SIDES}, {side: there[side] for side in SIDES}, taken,
                   left["without_side"], left["duplicates"])


def _different(source: DataSource, workspace: Workspace, split: str, left: Counter[str]) -> Iterator[Opening]:
    """Prompts with a side, each once; `left` counts the others."""
    with Seen() as met:
        for opening in openings(source, workspace, split=None if split == "all" else cast(Split, split)):
            if opening.side is None:
                left["without_side"] += 1
            elif not met.first(prompt_key(opening.prompt)):
                left["duplicates"] += 1
            else:
                yield opening


def _cell(opening: Opening) -> Cell:
    return (str(opening.side),)


def _split(source: DataSource, workspace: Workspace, split: SplitChoice) -> str:
    """auto: test where the set has test rows, else all."""
    if split != "auto":
        return split
    return "test" if any(example.split == "test" for example in stream_examples(source, workspace)) else "all"
