"""Prompt sets pooled into one: no prompt twice, no near-duplicates, and one split made before anything is trained.

    a prompt of a registered test set            goes to the test half: it may not be trained on anyhow
    a prompt that a model or a set named in `seen` has  goes to the training half: a number measured on it would not be honest
    all others                                   by the seed, in the same shares for each side of each source

What is a function of the seed is so by the prompt's text alone: files in another order give the same split.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import field_validator

from core.chat.balance import Cell, Draw, lot
from core.chat.messages import asked
from core.chat.near import NearDuplicates
from core.chat.saving import Refused
from core.chat.seen import Seen
from core.data import chat_sets, find_data, holds_chat, stream_chat, stream_examples
from core.lineage import ancestors, run_of_model
from core.methods import Config, FromRun, UserError, full_path, listed, setting
from core.mining.guarding import GuardTally, marked
from core.records import GuardExample, Labels, Side, Split, read_records
from core.rows import RAW_CHARS, BadRow
from core.split_guard import TRAINED_KEYS, prompt_key
from core.waltz.prompts import LABEL_OF, side_of

if TYPE_CHECKING:
    from core.runs import Workspace

WANTED = ("both", "harmful", "benign")
NEITHER = "is in a registered test set, and one of `seen` has it: it can be neither trained on nor tested with"


class PoolConfig(Config):
    """Which prompts, and how they are split."""

    sources: Annotated[list[str], FromRun("data", many=True)] = setting(aliases=("source", "data"), min_length=1)
    """Sets of prompts with a request label or a side (harmful, benign): names, run ids or files. Of two equal prompts the first is kept."""
    sides: list[str] = setting([])
    """Which prompts of each source to take, in the order of the sources: both, harmful or benign. One word counts for all; empty: both."""
    name: str = ""
    """What the set is called from now on. Empty: the id of the run."""
    test_share: float = setting(0.5, gt=0, lt=1)
    """Share of the prompts that becomes the registered test set: nothing may be trained on them from then on."""
    similarity: float = setting(0.8, ge=0.5, le=1, advanced=True)
    """From this Jaccard similarity of their character 5-grams on, the later one of two prompts is left out."""
    seen: list[str] = setting([])
    """Models (run:<id>) and sets that have prompts of these already, such as the judge and what the agents learned first: their prompts are
    kept out of the test half."""

    as_list = field_validator("sources", "sides", "seen", mode="before")(listed)

    @field_validator("sides")
    @classmethod
    def known_sides(cls, value: list[str]) -> list[str]:
        """Only words that are there."""
        if wrong := next((word for word in value if word not in WANTED), None):
            raise ValueError(f"holds {wrong!r}; known: {', '.join(WANTED)}")
        return value

    @field_validator("seen")
    @classmethod
    def seen_from_anywhere(cls, value: list[str]) -> list[str]:
        """A set's file gets its full path."""
        return [full_path(item) for item in value]

    def side_for(self, place: int) -> str:
        """What to take of a source."""
        return "both" if not self.sides else self.sides[0] if len(self.sides) == 1 else self.sides[place]


@dataclass
class Given:
    """What one source had."""

    source: str
    rows: int = 0
    other_side: int = 0
    without_label: int = 0
    duplicates: int = 0
    near_duplicates: int = 0
    other_label: int = 0
    """Duplicates whose label says the opposite of the one that was kept."""
    kept: int = 0


@dataclass
class Pool:
    """The kept prompts, on the disk until they are split."""

    given: list[Given] = field(default_factory=list)
    free: Counter[Cell] = field(default_factory=Counter)
    """Prompts of each (side, source) whose half the seed decides."""
    forced: Counter[tuple[Cell, str]] = field(default_factory=Counter)
    """Prompts whose half is certain, by (side, source) and half."""
    unusable: int = 0

    @property
    def kept(self) -> int:
        """Prompts that are split."""
        return self.free.total() + self.forced.total()


def collect(config: PoolConfig, workspace: Workspace, refused: Refused, spool: Path) -> Pool:
    """Read every source once; kept prompts go to the file `spool`, marked where their half is certain."""
    if len(config.sides) > 1 and len(config.sides) != len(config.sources):
        raise UserError(f"sides has {len(config.sides)} words for {len(config.sources)} sources; give one for each, one for all, or none.")
    pool = Pool()
    with Seen() as met, Seen() as harmful, Seen() as trained, NearDuplicates(config.similarity) as near, spool.open("w") as file:
        for ref in config.seen:
            _remember(ref, workspace, trained)
        number = itertools.count()
        rows = (pair for place, ref in enumerate(config.sources) for pair in _labelled(ref, place, config, workspace, pool, refused))
        for (given, example), is_test in marked(rows, _texts, workspace.store, GuardTally()):
            key = prompt_key(example.prompt)
            if not met.first(key):
                given.duplicates += 1
                given.other_label += (key in harmful) != (example.labels.request == "harmful")
                continue
            if example.labels.request == "harmful":
                harmful.first(key)
            if near.find(example.prompt, next(number)):
                given.near_duplicates += 1
                continue
            if is_test and key in trained:
                pool.unusable += 1
                refused.add(BadRow(given.source, example.row or 0, "prompt", NEITHER, example.prompt[:RAW_CHARS]))
                continue
            half: Split | None = "test" if is_test else "train" if key in trained else None
            cell = _cell(example)
            given.kept += 1
            if half:
                pool.forced[cell, half] += 1
            else:
                pool.free[cell] += 1
            file.write(example.model_copy(update={"split": half, "row": None}).model_dump_json(exclude_none=True) + "\n")
    return pool


def halves(pool: Pool, config: PoolConfig, spool: Path) -> Iterator[GuardExample]:
    """The prompts in order, each marked train or test."""
    draw = Draw(_quota(pool, config.test_share), pool.free)
    for example in read_records(spool, GuardExample):
        if example.split is None:
            draw.offer(_cell(example), lot(config.seed, prompt_key(example.prompt)))
    draw.settle()
    for example in read_records(spool, GuardExample):
        if example.split is None:
            tests = draw.takes(_cell(example), lot(config.seed, prompt_key(example.prompt)))
            yield example.model_copy(update={"split": "test" if tests else "train"})
        else:
            yield example


def _quota(pool: Pool, share: float) -> dict[Cell, int]:
    """Free prompts of each cell that become test prompts, so that with the certain ones they make up the share."""
    quota = {}
    for cell, free in pool.free.items():
        tests, trains = pool.forced[cell, "test"], pool.forced[cell, "train"]
        quota[cell] = min(free, max(0, round(share * (free + tests + trains)) - tests))
    return quota


def _labelled(ref: str, place: int, config: PoolConfig, workspace: Workspace, pool: Pool,
              refused: Refused) -> Iterator[tuple[Given, GuardExample]]:
    source = find_data(ref, workspace)
    given, wanted = Given(source.name), config.side_for(place)
    pool.given.append(given)
    for row, example in enumerate(stream_examples(source, workspace), start=1):
        given.rows += 1
        side = side_of(example)
        if side is None:
            given.without_label += 1
            refused.add(BadRow(source.path.name, example.row or row, "labels.request", "is missing: is the prompt harmful or benign?",
                               example.prompt[:RAW_CHARS]))
        elif wanted not in ("both", side):
            given.other_side += 1
        else:
            yield given, _prompt_only(example, side, source.name)


def _prompt_only(example: GuardExample, side: Side, source: str) -> GuardExample:
    """The prompt, its side as a label, and where it is from; a reply is not a part of it."""
    return GuardExample(prompt=example.prompt, labels=Labels.model_validate({"request": LABEL_OF[side]}), source=example.source or source,
                        category=example.category, row=example.row)


def _remember(ref: str, workspace: Workspace, trained: Seen) -> None:
    """Prompts that a model was trained on, itself or through its ancestors, or that a set holds."""
    run = next((one for one in workspace.runs() if ref.removeprefix("run:") == one.id), None)
    if run is None and ref.partition(":")[0] in ("run", "waltz"):
        run = run_of_model(ref, workspace)
    if run is not None and (run.dir / TRAINED_KEYS).exists():
        for one in [run, *ancestors(run, workspace)]:
            path = one.dir / TRAINED_KEYS
            if path.exists():
                with path.open(encoding="ascii") as keys:
                    for key in keys:
                        trained.first(key.strip())
        return
    for prompt in _prompts_of(ref, workspace):
        trained.first(prompt_key(prompt))


def _prompts_of(ref: str, workspace: Workspace) -> Iterator[str]:
    try:
        sets = chat_sets(ref, workspace)
    except UserError:
        source = find_data(ref, workspace)
        if source.run is None and holds_chat(source.path):
            raise
        yield from (example.prompt for example in stream_examples(source, workspace) if example.split != "test")
        return
    for one in sets:
        yield from (asked(example).prompt for example in stream_chat(one) if example.split != "test")


def _cell(example: GuardExample) -> Cell:
    return str(side_of(example)), example.source


def _texts(item: tuple[Given, GuardExample]) -> tuple[str, str | None]:
    return item[1].prompt, None
