"""Turning rows into examples: which layout is it, and what does each row say? Nothing is dropped silently: a row is an example or a
BadRow. Files are read in core/rows.py.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Never

from core.formats import DataFormat, RowError
from core.methods import UserError
from core.records import GuardExample
from core.rows import RAW_CHARS, BadRow, Row, first_line, read_rows

DETECT_ROWS = 100


@dataclass(frozen=True)
class Detection:
    """A layout that fits: its name, its best score and the share of the first 100 rows that it fits."""

    name: str
    score: int
    share: float


@dataclass
class ReadResult:
    """What reading a file gave. `detections`: the layouts that fit, best first; the one taken is `format`."""

    format: str
    detections: list[Detection] = field(default_factory=list)
    examples: list[GuardExample] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)


class AmbiguousLayout(UserError):
    """Two layouts fit equally well; the user must choose."""


def read_examples(path: Path, data_formats: Mapping[str, Any], *, format: str = "auto", columns: Mapping[str, str] | None = None,
                  fixed: Mapping[str, Any] | None = None, limit: int | None = None) -> ReadResult:
    """Examples and bad rows of a file. `columns`: our field name -> the file's column; `fixed`: columns that every row gets."""
    rows = itertools.islice(read_rows(path), limit)
    return to_examples(rows, data_formats, name=path.name, path=path, format=format, columns=columns, fixed=fixed)


def to_examples(rows: Iterable[Row | BadRow], data_formats: Mapping[str, Any], *, name: str, path: Path | None = None, format: str = "auto",
                columns: Mapping[str, str] | None = None, fixed: Mapping[str, Any] | None = None) -> ReadResult:
    """Convert rows; `name` and `path` are for messages and for what a file's name tells."""
    columns, fixed = columns or {}, fixed or {}
    stream = iter(rows)
    head = list(itertools.islice(stream, DETECT_ROWS))
    found = detect(head, data_formats, fixed)
    chosen = choose(head, found, data_formats, format=format, columns=columns, name=name)
    layout: type[DataFormat] = data_formats[chosen]
    hints = layout.from_path(path) if path else {}
    result = ReadResult(chosen, found)
    for row in itertools.chain(head, stream):
        made = row if isinstance(row, BadRow) else _convert(row, layout, columns, hints, fixed, name)
        if isinstance(made, BadRow):
            result.bad.append(made)
        else:
            result.examples.append(made)
    return result


def iter_examples(path: Path, data_formats: Mapping[str, Any]) -> Iterator[GuardExample | BadRow]:
    """What `read_examples` reads, one row after the other: for files that should not be in memory as a whole."""
    stream = read_rows(path)
    head = list(itertools.islice(stream, DETECT_ROWS))
    layout: type[DataFormat] = data_formats[choose(head, detect(head, data_formats), data_formats, format="auto", columns={},
                                                   name=path.name)]
    hints = layout.from_path(path)
    for row in itertools.chain(head, stream):
        yield row if isinstance(row, BadRow) else _convert(row, layout, {}, hints, {}, path.name)


def _convert(row: Row, layout: type[DataFormat], columns: Mapping[str, str], hints: Mapping[str, Any], fixed: Mapping[str, Any],
             file: str) -> GuardExample | BadRow:
    own = next((key for key in fixed if row.values.get(key) is not None), None)
    if own is not None:
        reason = "the row has this column itself; leave the setting that gives it to all rows empty"
        return BadRow(file, row.line, own, reason, _shown(row.values))
    try:
        example = layout.to_example({**hints, **row.values, **fixed}, columns)
        return example.model_copy(update={"row": row.line})
    except RowError as error:
        return BadRow(file, row.line, error.column, error.reason, _shown(row.values))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:  # a layout that met a value it did not expect
        reason = f"{layout.name} cannot read this row ({type(error).__name__}: {first_line(error)})"
        return BadRow(file, row.line, "", reason, _shown(row.values))


# Which layout is it?


def detect(rows: Iterable[Row | BadRow], data_formats: Mapping[str, Any], fixed: Mapping[str, Any] | None = None) -> list[Detection]:
    """Layouts that fit the first 100 readable rows, best first: by score times share."""
    sample = [row for row in itertools.islice(rows, DETECT_ROWS) if isinstance(row, Row)]
    found = []
    for name, layout in data_formats.items():
        scores = [score for row in sample if (score := _score(layout, {**row.values, **(fixed or {})})) > 0]
        if scores:
            found.append(Detection(name, max(scores), len(scores) / len(sample)))
    return sorted(found, key=lambda item: (-item.score * item.share, item.name))


def _score(layout: type[DataFormat], values: dict[str, Any]) -> int:
    try:
        return int(layout.matches(values))
    except Exception:  # a stranger's layout must not stop the others from being tried
        return 0


def choose(head: list[Row | BadRow], found: list[Detection], data_formats: Mapping[str, Any], *, format: str, columns: Mapping[str, str],
           name: str) -> str:
    """The layout to read with: the one asked for, else the best that fits; UserError where that is not clear."""
    mappable = [known for known, layout in data_formats.items() if layout.fields]  # the most general one is registered first
    wanted = mappable[0] if format == "auto" and columns and mappable else format
    if wanted != "auto":
        if wanted not in data_formats:
            raise UserError(f"There is no format {wanted!r}; known: auto, {', '.join(sorted(data_formats))}.")
        if unknown := set(columns) - set(data_formats[wanted].fields):
            raise UserError(f"The layout {wanted} has no column to name for {min(unknown)}; it can be done in: {', '.join(mappable)}.")
        return wanted
    if not found:
        _refuse_unknown(head, name)
    if len(found) > 1 and found[0].score * found[0].share == found[1].score * found[1].share:
        raise AmbiguousLayout(f"{name} fits {found[0].name} and {found[1].name} equally well; choose one with format=.")
    return found[0].name


_OTHER_KINDS = (
    ({"chosen", "rejected"}, "These look like preference pairs, which train a model directly and hold no labels."),
    ({"outputs", "k_correct"}, "These look like mined hard samples, which belong to the mining page."),
    ({"gold", "predicted"}, "These look like results of an evaluation without whole prompts."),
    ({"pred_request"}, "These look like results of an evaluation without prompts."),
    ({"expected_output"}, "These look like tasks with model answers, without safety labels; genesis-to-waltzrl takes them."),
)


def _refuse_unknown(head: list[Row | BadRow], name: str) -> Never:
    rows = [row for row in head if isinstance(row, Row)]
    if not rows:
        first = next((row for row in head if isinstance(row, BadRow)), None)
        raise UserError(f"{name} holds no rows." if first is None else f"None of the first rows of {name} can be read; {first}.")
    names = rows[0].values.keys()
    hint = next((f" {text}" for keys, text in _OTHER_KINDS if keys <= names), "")
    raise UserError(f"{name} is in no known layout: its columns are {', '.join(map(str, names))}.{hint} Guard data needs a prompt and a "
                    "label; name their columns with prompt_column and label_column if they are there under other names.")


def _shown(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, default=str)[:RAW_CHARS]
