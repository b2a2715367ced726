"""Predictions that exist already, in the layout of GuardReasoner's evaluation: rows of prompt, label, predict.

Gold comes from the benchmark file, row by row, if one is given (and the prompts must agree), else from the label column.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.evals.rows import gold_of
from core.formats import RowError
from core.methods import UserError
from core.records import TASKS, GuardExample, Task
from core.rows import BadRow, read_rows

LAYOUT = "generated-predictions"


@dataclass(frozen=True)
class Given:
    """A predictions file: for each row the example with its gold labels, and the answer."""

    name: str
    path: Path
    sha256: str
    examples: list[GuardExample]
    texts: list[str]
    notes: list[str]


def read_given(path: Path, data_formats: Mapping[str, Any], *, task: Task | None = None, benchmark: Sequence[GuardExample] | None = None,
               benchmark_name: str = "") -> Given:
    """Read a predictions file. `benchmark`: rows that give the gold labels; without them the label column does."""
    rows = [_checked(row, path) for row in read_rows(path)]
    if not rows:
        raise UserError(f"{path} holds no predictions; give a file with rows of prompt, label, predict.")
    if benchmark is None:
        notes: list[str] = []
        examples, texts = _own_gold(rows, path, data_formats, task), [_text(row) for row in rows]
    else:
        examples, texts, notes = _gold_from(benchmark, benchmark_name, rows, path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Given(given_name(path), path, digest, examples, texts, notes)


def given_name(path: Path) -> str:
    """What to call the model behind a file: "1B/HarmBenchResponse" of .../1B/HarmBenchResponse/generated_predictions.jsonl."""
    parts = path.resolve().parts
    return "/".join(parts[-3:-1]) if path.stem == "generated_predictions" and len(parts) > 3 else path.stem


@dataclass(frozen=True)
class _Line:
    number: int
    values: Mapping[str, Any]


def _checked(row: Any, path: Path) -> _Line:
    if isinstance(row, BadRow):
        raise UserError(f"{path}, line {row.line}: {row.reason}. Scores of a part of the rows would mislead, so nothing was scored.")
    for column in ("prompt", "predict"):
        value = row.values.get(column)
        if not (isinstance(value, str) or (column == "predict" and value is None and column in row.values)):
            raise UserError(f"{path}, line {row.line} has no text in column {column!r} (its columns: {', '.join(row.values)}); "
                            "expected rows of prompt, label, predict.")
    return _Line(row.line, row.values)


def _text(row: _Line) -> str:
    return row.values["predict"] or ""  # null: no answer was given, which is an unreadable one


def _own_gold(rows: Sequence[_Line], path: Path, data_formats: Mapping[str, Any], task: Task | None) -> list[GuardExample]:
    layout = data_formats.get(LAYOUT)
    if layout is None:
        raise UserError(f"The data format {LAYOUT} is not loaded, so labels cannot be read from {path}; see the Plugins page.")
    known = {**layout.from_path(path), **({"task": task} if task else {})}
    examples = []
    for row in rows:
        try:
            examples.append(layout.to_example({**known, **row.values, "predict": _text(row)}, {}))
        except RowError as error:
            raise UserError(f"{path}, line {row.number}, column {error.column or '-'}: {error.reason}. "
                            "Give the benchmark file as data=FILE, or say what the labels are about with task=.") from None
    return examples


def _gold_from(benchmark: Sequence[GuardExample], name: str, rows: Sequence[_Line],
               path: Path) -> tuple[list[GuardExample], list[str], list[str]]:
    pairs = _pairs(benchmark, name, rows, path)
    bad = [(example, row) for example, row in pairs if not _same(example, row)]
    if bad:
        example, row = bad[0]
        raise UserError(f"{path} does not fit {name}: {len(bad)} of {len(pairs)} rows are about other prompts; the first is line "
                        f"{row.number}, where {name} has {_short(example.prompt)}. Give the benchmark file of these predictions.")
    notes = []
    if len(rows) > len(pairs):
        notes.append(f"{len(rows) - len(pairs)} predictions belong to rows that are not in {name}; they are left out.")
    differ = sum(not _label_agrees(example, row) for example, row in pairs)
    if differ:
        notes.append(f"{differ} labels in {path.name} differ from those of {name}; the gold labels are those of {name}.")
    return [example for example, _ in pairs], [_text(row) for _, row in pairs], notes


def _pairs(benchmark: Sequence[GuardExample], name: str, rows: Sequence[_Line], path: Path) -> list[tuple[GuardExample, _Line]]:
    """By position; where import left out rows of the benchmark, by the line that each kept row came from."""
    if len(benchmark) == len(rows):
        return list(zip(benchmark, rows, strict=True))
    lines = [example.row for example in benchmark]
    if None not in lines and len(set(lines)) == len(lines) and len(lines) < len(rows) and max(line or 0 for line in lines) <= len(rows):
        return [(example, rows[(example.row or 1) - 1]) for example in benchmark]
    raise UserError(f"{path} has {len(rows):,} rows and {name} has {len(benchmark):,}; gold labels are matched row by row, so give the "
                    "benchmark file that these predictions were made for.")


def _same(example: GuardExample, row: _Line) -> bool:
    asked = row.values["prompt"]
    return example.prompt.strip() in asked and (example.response or "").strip() in asked


def _label_agrees(example: GuardExample, row: _Line) -> bool:
    """Does the label column hold one of the gold words? A label that is no bare word is not compared."""
    label = str(row.values.get("label") or "").strip().lower()
    return label not in ("harmful", "unharmful", "refusal", "compliance") or label in {gold_of(example, task) for task in TASKS}


def _short(text: str, limit: int = 60) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= limit else line[:limit - 1] + "…")
