"""What the filters of the Mining page need of outputs.jsonl, as columns of numbers; the texts stay in the file.

127,544 rows of 10 KB each take some 11 MB here. A file is read once for each state it is in (size and time of change); a large
one is read by a thread, and meanwhile `index_of` answers how far that is.
"""

from __future__ import annotations

import json
import os
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.methods import UserError
from core.mining.samples import KINDS, TASK_ORDER, Kind, Unparsed, hard_task, tally, tasks_of
from core.records import MinedSample, Task, lines_of

Ints = NDArray[np.int64]
LABELS = ("harmful", "unharmful", "refusal", "compliance")
NONE = 255
"""In place of a task or a label that a row does not have."""
AT_ONCE = 40_000_000
"""Bytes up to which a file is read inside the event: about 0.15 s."""
KEPT = 4
"""Files whose columns are remembered."""
TOLD = 5
"""Damaged lines that are named; the others are counted."""
_TEXTS_END = b',"outputs":'
"""Stands once in a line: inside of a JSON text every quotation mark has a backslash."""


class Facts(NamedTuple):
    """What one row is filtered by."""

    kind: int
    task: int
    correct: int
    incorrect: int
    unparsed: int
    label: int
    harmful: bool


@dataclass(frozen=True, eq=False)
class Index:
    """Columns of equal length, in the order of the file. Two are equal only if they are one."""

    path: Path
    unparsed_as: Unparsed
    row: Ints
    offset: Ints
    length: Ints
    head: Ints
    """Bytes of a line up to its outputs, where prompt and response stand; the whole line where they stand elsewhere."""
    kind: Ints
    """Place in KINDS."""
    task: Ints
    """Place in TASK_ORDER of the task that the row is counted on: the first mixed one, else the first with a gold label."""
    correct: Ints
    incorrect: Ints
    unparsed: Ints
    label: Ints
    """Place in LABELS of the gold label of that task."""
    harmful: NDArray[np.bool_]
    """Gold says harmful of request or response: the texts are blurred."""
    source: Ints
    """Place in `sources`."""
    sources: tuple[str, ...]
    damaged: tuple[str, ...] = ()
    """What is wrong with the first few damaged lines."""
    damaged_lines: int = 0
    torn: bool = False
    """The last line has no end: the run was killed while it wrote, or still writes."""
    stamp: tuple[int, int] = (0, 0)
    """Size and time of the file that was read."""
    edited: frozenset[int] = field(default_factory=frozenset)
    """Rows whose facts were counted again after an edit."""

    def __len__(self) -> int:
        return len(self.row)

    def place_of(self, row: int) -> int | None:
        """Where a row number stands in the columns."""
        found = np.flatnonzero(self.row == row)
        return int(found[0]) if len(found) else None

    def counts(self) -> dict[Kind, int]:
        """Rows of each kind."""
        found = np.bincount(self.kind, minlength=len(KINDS))
        return {kind: int(found[place]) for place, kind in enumerate(KINDS)}

    def read(self, place: int) -> MinedSample:
        """The row whole, from the file."""
        with self.path.open("rb") as file:
            file.seek(int(self.offset[place]))
            line = file.read(int(self.length[place]))
        try:
            return MinedSample.model_validate_json(line)
        except ValueError:
            raise UserError(f"{self.path.name} was changed while it was read; open the page again.") from None


class Reading(NamedTuple):
    """A large file is being read."""

    done: int
    """Bytes."""
    total: int


def facts_of(sample: MinedSample, unparsed: Unparsed = "drop") -> Facts:
    """Kind, deciding task and counts of a row, as core/mining/samples.py has them."""
    tasks = tasks_of(sample)
    task: Task | None = hard_task(sample, unparsed) or (tasks[0] if tasks else None)
    harmful = "harmful" in (sample.gold.request, sample.gold.response)
    if task is None:
        return Facts(KINDS.index("unparsed"), NONE, 0, 0, len(sample.outputs), NONE, harmful)
    counted = tally(sample, task, unparsed)
    return Facts(KINDS.index(counted.kind), TASK_ORDER.index(task), counted.correct, counted.incorrect, counted.unparsed,
                 LABELS.index(getattr(sample.gold, task)), harmful)


def build_index(path: Path, unparsed: Unparsed = "drop", told: Callable[[int], None] | None = None) -> Index:
    """Read the file from its first to its last line. `told` hears the bytes read so far, now and then.

    A damaged line, a line without an end and a second line about one row are left out and counted.
    """
    stat = path.stat()
    columns: dict[str, array[int]] = {name: array("q") for name in ("row", "offset", "length", "head", "source", *Facts._fields)}
    sources: dict[str, int] = {}
    seen: set[int] = set()
    damaged: list[str] = []
    damaged_lines, offset, torn = 0, 0, False
    for number, line in lines_of(path):
        start, offset = offset, offset + len(line)
        if told and number % 200 == 0:
            told(offset)
        if not line.endswith(b"\n"):
            torn = True
            break
        if not line.strip():
            continue
        try:
            sample = MinedSample.model_validate_json(line)
            if sample.row in seen:
                raise ValueError(f"a second line about row {sample.row}")
            facts = facts_of(sample, unparsed)
        except ValueError as error:
            damaged_lines += 1
            if len(damaged) < TOLD:
                damaged.append(f"line {number}: {_reason(error)}")
            continue
        seen.add(sample.row)
        where = (sample.row, start, len(line), _head(line), sources.setdefault(sample.source, len(sources)))
        for name, value in zip(columns, (*where, *facts), strict=True):
            columns[name].append(int(value))
    made: dict[str, Any] = {name: np.array(column, dtype=np.int64) for name, column in columns.items()}
    return Index(path, unparsed, sources=tuple(sources), damaged=tuple(damaged), damaged_lines=damaged_lines, torn=torn,
                 stamp=(stat.st_size, stat.st_mtime_ns), **{**made, "harmful": made["harmful"].astype(bool)})


def _reason(error: ValueError) -> str:
    """The first thing that is wrong, in one line, without the text of the row."""
    errors = getattr(error, "errors", None)
    if errors is None:
        return str(error)
    first = errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else str(first["msg"])


def _head(line: bytes) -> int:
    found = line.find(_TEXTS_END)
    whole = found < 0 or b'"prompt":' not in line[:found]
    return len(line) if whole else found


class _Shelf:
    """Columns of the files that were looked at last, and the threads that read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Any, ...], Index | Exception] = OrderedDict()
        self._read: dict[tuple[Any, ...], int] = {}

    def get(self, path: Path, unparsed: Unparsed, at_once: int) -> Index | Reading:
        stat = path.stat()
        key = (path, stat.st_size, stat.st_mtime_ns, unparsed)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return _or_raise(self._kept[key])
            if key in self._read:
                return Reading(self._read[key], stat.st_size)
            if stat.st_size > at_once:
                self._read[key] = 0
                threading.Thread(target=self._fill, args=(key, path, unparsed), daemon=True, name=f"index of {path}").start()
                return Reading(0, stat.st_size)
        return _or_raise(self._fill(key, path, unparsed))

    def _fill(self, key: tuple[Any, ...], path: Path, unparsed: Unparsed) -> Index | Exception:
        def told(done: int) -> None:
            if key in self._read:
                self._read[key] = done

        try:
            made: Index | Exception = build_index(path, unparsed, told)
        except OSError as error:  # the run was deleted meanwhile
            made = error
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            self._read.pop(key, None)
        return made


def _or_raise(found: Index | Exception) -> Index:
    if isinstance(found, Exception):
        raise UserError(f"outputs.jsonl cannot be read: {found}. Was the run deleted?")
    return found


_shelf = _Shelf()


def index_of(path: Path, unparsed: Unparsed = "drop", at_once: int = AT_ONCE) -> Index | Reading:
    """The columns of a file as it is now, or how far its reading is. UserError where there is no file."""
    try:
        return _shelf.get(path, unparsed, at_once)
    except FileNotFoundError:
        raise UserError(f"{path.parent.name} has no {path.name}; mine again.") from None


def with_facts(index: Index, facts: dict[int, Facts]) -> Index:
    """The same file with other facts for a few rows {place: facts}: those with an edited gold label."""
    if not facts:
        return index
    columns = {name: getattr(index, name).copy() for name in Facts._fields}
    for place, changed in facts.items():
        for name, value in zip(Facts._fields, changed, strict=True):
            # a text stays blurred when a person calls it unharmful: blurring too much does no harm
            columns[name][place] = value if name != "harmful" else value or columns[name][place]
    return replace(index, **columns, edited=frozenset(int(index.row[place]) for place in facts))


# Filters

@dataclass(frozen=True)
class Wanted:
    """Which rows of the list; the empty value of a field lets every row through."""

    kind: str = "hard"
    right: int | None = None
    """Right answers on the row's task."""
    source: str | None = None
    label: str = ""
    task: str = ""
    text: str = ""
    """Words that prompt or response hold, all of them, in any case."""
    rows: frozenset[int] | None = None
    """Only these row numbers: the edited ones."""


def find(index: Index, wanted: Wanted) -> Ints:
    """Places of the wanted rows, hardest first: by the share of wrong answers, then by row number."""
    keep = np.ones(len(index), dtype=bool)
    if wanted.kind in KINDS:
        keep &= index.kind == KINDS.index(wanted.kind)
    if wanted.right is not None:
        keep &= index.correct == wanted.right
    if wanted.source is not None:
        keep &= index.source == (index.sources.index(wanted.source) if wanted.source in index.sources else -1)
    if wanted.label:
        keep &= index.label == (LABELS.index(wanted.label) if wanted.label in LABELS else -1)
    if wanted.task:
        keep &= index.task == (TASK_ORDER.index(wanted.task) if wanted.task in TASK_ORDER else -1)
    if wanted.rows is not None:
        keep &= np.isin(index.row, np.fromiter(wanted.rows, np.int64, len(wanted.rows)))
    places: Ints = np.flatnonzero(keep).astype(np.int64)
    if words := wanted.text.lower().split():
        places = places[_holding(index, places, words)]
    readable = np.maximum(index.correct[places] + index.incorrect[places], 1)
    return places[np.lexsort((index.row[places], -(index.incorrect[places] / readable)))]


def _holding(index: Index, places: Ints, words: list[str]) -> NDArray[np.bool_]:
    """Which rows hold every word. Remembered: the next page of the same search must not read the file again."""
    key = (index.path, index.stamp, places.tobytes(), tuple(words))
    return _remembered(key, lambda: np.fromiter((all(word in text for word in words) for text in _texts(index, places, words)), bool,
                                                len(places)))


_searches: OrderedDict[Any, NDArray[np.bool_]] = OrderedDict()


def _remembered(key: Any, make: Callable[[], NDArray[np.bool_]]) -> NDArray[np.bool_]:
    if key not in _searches:
        _searches[key] = make()
        while len(_searches) > 2 * KEPT:
            _searches.popitem(last=False)
    return _searches[key]


def _texts(index: Index, places: Ints, words: list[str]) -> Iterator[str]:
    """Prompt and response of each row in small letters; "" where the bytes already show that a word is missing."""
    plain = [word.encode() for word in words if word.isascii() and word.isalnum()]  # JSON writes these as they are
    foreign = not all(word.isascii() for word in words)
    spans = np.stack([index.head[places], index.offset[places], index.head[places] == index.length[places]], axis=1)
    with index.path.open("rb", buffering=0) as file:
        for bytes_of_it, start, whole in spans.tolist():
            piece = os.pread(file.fileno(), bytes_of_it, start)
            if piece.isascii() and b"\\u" not in piece:
                small = piece.lower()
                if foreign or not all(word in small for word in plain):
                    yield ""
                    continue
            row = json.loads(piece if whole else piece + b"}")
            yield f"{row['prompt']} {row.get('response') or ''}".lower()
