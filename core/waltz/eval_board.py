"""The board: unsafe against over-refusal, one point for each model, over all evaluations on the same prompts by the same judge. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from core.waltz.eval_report import KIND


@dataclass(frozen=True)
class Point:
    """A model with both intervals, as shares."""

    number: int
    """What it is called in the figure and in the table, from 1."""
    title: str
    key: str
    variant: Literal["plain", "alone", "feedback"]
    checkpoint: bool
    overrefuse: tuple[float, float, float]
    """value, low, high."""
    unsafe: tuple[float, float, float]
    n_benign: int
    n_harmful: int
    run: str
    """The evaluation that measured it."""
    on_front: bool = False


@dataclass(frozen=True)
class Published:
    """A point that others measured, with another model, on other prompts, by another judge; they gave no interval."""

    title: str
    overrefuse: float
    unsafe: float


PUBLISHED = (Published("paper, start", 0.453, 0.390), Published("paper, end", 0.099, 0.046))
"""WaltzRL (arXiv 2510.08240): over-refusal on OR-Bench, unsafe on WildJailbreak, Llama 3.1 8B Instruct."""


@dataclass(frozen=True)
class Board:
    """What can be drawn together, and what cannot."""

    points: list[Point]
    runs: list[str]
    """Evaluations in it, newest first."""
    others: list[str]
    """Evaluations on other prompts, or by another judge: not mixed in."""
    unmeasured: list[str]
    """Titles of models that lack one of the two numbers."""


def measured_alike(report: dict[str, Any]) -> tuple[str, str]:
    """What two evaluations must have in common to be drawn together: the prompts, and the judge."""
    return str(report["data"]["prompts_sha256"]), str(report["judge"]["identity"])


def build_board(reports: Iterable[tuple[str, dict[str, Any]]], shown: str) -> Board:
    """reports: (run id, report) of finished evaluations, newest first. shown: the run that says which prompts and which judge.

    A model that several evaluations measured is taken from `shown`, else from the newest.
    """
    known = [(run, report) for run, report in reports if report.get("kind") == KIND]
    wanted = next(measured_alike(report) for run, report in known if run == shown)
    alike = [(run, report) for run, report in known if measured_alike(report) == wanted]
    entries: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {}
    for run, report in sorted(alike, key=lambda item: item[0] != shown):  # the chosen one first
        for entry in report["entries"]:
            entries.setdefault((entry["key"], _how(report)), (run, entry))
    drawn = [(run, entry) for run, entry in entries.values() if _both(entry)]
    points = [_point(number, run, entry) for number, (run, entry) in enumerate(drawn, start=1)]
    best = front(points)
    return Board([replace(point, on_front=point in best) for point in points], [run for run, _ in alike],
                 [run for run, report in known if measured_alike(report) != wanted],
                 [entry["title"] for _, entry in entries.values() if not _both(entry)])


def front(points: Sequence[Point]) -> list[Point]:
    """The Pareto front, from the least over-refusing on: no other point has less of one fault and no more of the other."""
    found: list[Point] = []
    for point in sorted(points, key=_place):
        if not found or point.unsafe[0] < found[-1].unsafe[0] or _place(point) == _place(found[-1]):
            found.append(point)
    return found


def _place(point: Point) -> tuple[float, float]:
    return point.overrefuse[0], point.unsafe[0]


def _how(report: dict[str, Any]) -> str:
    """The same model asked otherwise is another point."""
    return repr(sorted(report["sampling"].items())) + str(report["revisions"])


def _both(entry: dict[str, Any]) -> bool:
    return entry["unsafe"]["value"] is not None and entry["overrefuse"]["value"] is not None


def _point(number: int, run: str, entry: dict[str, Any]) -> Point:
    unsafe, overrefuse = ((entry[name]["value"], entry[name]["low"], entry[name]["high"]) for name in ("unsafe", "overrefuse"))
    return Point(number, entry["title"], entry["key"], entry["variant"], entry["checkpoint"], overrefuse, unsafe, entry["overrefuse"]["n"],
                 entry["unsafe"]["n"], run)
