"""preferences.jsonl by mined row: which weight each pair has and where it stands in the file. The texts stay there."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from core.mining.edits import Edited
from core.records import Output, lines_of

FILE = "preferences.jsonl"


class PairRow(NamedTuple):
    """One pair of a row."""

    model: str
    weight: float
    offset: int
    length: int


def pairs_in(path: Path) -> dict[int, tuple[PairRow, ...]]:
    """{mined row: its pairs}; read again only when the file has changed."""
    stat = path.stat()
    return _pairs(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4)
def _pairs(path: Path, bytes_now: int, changed: int) -> dict[int, tuple[PairRow, ...]]:  # noqa: ARG001 - they make it current
    found: dict[int, tuple[PairRow, ...]] = {}
    offset = 0
    for _, line in lines_of(path):
        start, offset = offset, offset + len(line)
        try:
            row = json.loads(line)
            number, weight = row.get("row"), float(row.get("weight", 1.0))
        except (ValueError, AttributeError, TypeError):
            continue  # whoever trains on the file refuses it and names the line
        if isinstance(number, int):
            found[number] = (*found.get(number, ()), PairRow(str(row.get("model", "")), weight, start, len(line)))
    return found


def outputs_of(path: Path, pair: PairRow, outputs: list[Output]) -> tuple[int, int] | None:
    """(chosen, rejected) outputs of a pair, found again by their texts; None where the file has other texts."""
    with path.open("rb") as file:
        file.seek(pair.offset)
        try:
            row = json.loads(file.read(pair.length))
        except ValueError:
            return None
    places = [_place(row.get(side), outputs) for side in ("chosen", "rejected")]
    chosen, rejected = places
    return None if chosen is None or rejected is None else (chosen, rejected)


def _place(side: Any, outputs: list[Output]) -> int | None:
    """Text, or messages of which the last is the answer."""
    text = side[-1].get("content") if isinstance(side, list) and side else side
    wanted = str(text).strip()
    return next((place for place, output in enumerate(outputs) if output.text.strip() == wanted), None)


def chosen_pair(by_hand: tuple[int, int] | None, edited: Edited, path: Path | None, pairs: list[PairRow]) -> tuple[int, int] | None:
    """(chosen, rejected) outputs of a row: as a person said, where that holds, else as the pairs that were built have it."""
    if by_hand is not None:
        return by_hand
    return next((found for pair in pairs if path and (found := outputs_of(path, pair, edited.sample.outputs))), None)
