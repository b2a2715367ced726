"""The paper's benchmark suite: F1 set by set for three tasks, what was measured here beside what is published.

Columns are models, rows are sets. A cell is published (no interval given), measured (with interval and n), or empty and says so.
Numbers are shares (0.5 is 50 %).

Averages of measured cells
    Over the sets of a task, weighted by the rows that were evaluated; sets are different rows, so the interval combines theirs as
    those of independent estimates: low = average - sqrt(sum (w_i (value_i - low_i))^2), high likewise (MOVER: Zou and Donner
    2008, Statistics in Medicine 27:1693). The three tasks share rows (WildGuardTest has labels for all of them), so the interval of
    the mean of the three averages is the mean of theirs, which is wide enough however they depend on each other.
    An average over a part of the sets is given only when asked for, and names the sets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from core.evals.published import Benchmark, Document, Match, benchmark_for, document
from core.intervals import Interval
from core.records import Task
from core.runs import Run, Workspace
from core.scores import Policy

METHOD = "guard-eval"
Cell = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """One model's score in one evaluation on one of the paper's sets."""

    key: str
    """The model: its reference, or the folder of a predictions file ("1B")."""
    title: str
    run: str
    match: Match
    data: dict[str, Any]
    entry: dict[str, Any]
    """The model's entry in the report of the evaluation."""

    @property
    def benchmark(self) -> Benchmark:
        """The set."""
        return self.match.benchmark


def measured_cells(runs: Iterable[Run], workspace: Workspace) -> list[Measured]:
    """What finished evaluations say of the paper's sets, in the order of `runs`; others are passed over."""
    found = []
    for run in runs:
        if run.method == METHOD and run.state == "succeeded" and (report := run.report):
            found += _of_report(run.id, report, _hashes(report, workspace))
    return found


def _of_report(run_id: str, report: dict[str, Any], hashes: Sequence[str | None]) -> list[Measured]:
    data = report.get("data", {})
    if data.get("split") in ("train", "validation"):
        return []
    found = []
    for task, scored in report.get("tasks", {}).items():
        if match := benchmark_for(str(data.get("name", "")), task, hashes):
            found += [Measured(*_who(data, entry), run_id, match, data, entry) for entry in scored["models"]]
    return found


def _who(data: dict[str, Any], entry: dict[str, Any]) -> tuple[str, str]:
    """(key, title). Predictions of one model for several sets lie in folders "1B/SetA", "1B/SetB": the model is the first part."""
    if data.get("predictions"):
        name = str(entry["model"]).split("/", maxsplit=1)[0]
        return name, f"{name}, predictions"
    return str(entry["model"]), str(entry["title"])


def _hashes(report: dict[str, Any], workspace: Workspace) -> list[str | None]:
    """Of the evaluated file, and of the file it was imported from."""
    data = report.get("data", {})
    imported = Run(workspace.runs_dir / str(data["run"])) if data.get("run") else None
    return [data.get("sha256"), (imported.report or {}).get("sha256") if imported else None]


def build_suite(cells: Sequence[Measured], *, policy: Policy = "paper-code", partial: bool = False, models: Collection[str] = (),
                skip: Collection[str] = ()) -> dict[str, Any]:
    """The table as JSON. `cells`: newest first, the first of a set and model fills its cell; runs in `skip` are left out.

    models: keys of the measured models that get a column; () = all. partial: averages over the sets that are there.
    """
    paper = document()
    used = [cell for cell in cells if cell.run not in skip and (not models or cell.key in models)]
    mine = dict.fromkeys(cell.key for cell in used)
    titles = {cell.key: cell.title for cell in reversed(used)}
    columns = [*({"key": key, "title": titles[key], "kind": "measured"} for key in mine),
               *({"key": name, "title": name, "kind": "published"} for name in paper.models)]
    tasks = {task: _task(task, paper, used, columns, policy, partial) for task in paper.titles}
    return {"policy": policy, "partial": partial, "source": paper.source, "url": paper.url, "columns": columns, "tasks": tasks,
            "average": [_mean_of_tasks(place, column, tasks, paper, partial) for place, column in enumerate(columns)]}


def _task(task: Task, paper: Document, used: Sequence[Measured], columns: Sequence[dict[str, Any]], policy: Policy,
          partial: bool) -> dict[str, Any]:
    sets = []
    for benchmark in paper.of_task(task):
        cells = [_published(benchmark, column["key"]) if column["kind"] == "published" else
                 _measured(benchmark, column["key"], used, policy) for column in columns]
        sets.append({"benchmark": benchmark.name, "rows": benchmark.rows, "whole": benchmark.whole, "cells": cells})
    return {"title": paper.titles[task], "sets": sets,
            "average": [_weighted(place, column, task, sets, paper, partial) for place, column in enumerate(columns)]}


def _published(benchmark: Benchmark, model: str) -> Cell:
    if model not in benchmark.f1:
        return _empty("not published")
    return {"kind": "published", "f1": round(benchmark.f1[model] / 100, 6), "n": benchmark.rows}


def _empty(why: str) -> Cell:
    return {"kind": "empty", "why": why}


def _measured(benchmark: Benchmark, key: str, used: Sequence[Measured], policy: Policy) -> Cell:
    found = [cell for cell in used if cell.key == key and cell.benchmark is benchmark]
    if not found:
        return _empty("not evaluated here")
    first = found[0]
    score = first.entry["scores"][policy]
    return {"kind": "measured", "interval": score["f1"], "n": score["n"], "unparsed": score["unparsed"], "run": first.run,
            "data": first.data.get("name"), "sha256": first.data.get("sha256"), "notes": _notes(first, score["n"]),
            "other_runs": [cell.run for cell in found[1:]]}


def _notes(cell: Measured, rows: int) -> list[str]:
    """What makes this number another one than the paper's."""
    benchmark, notes = cell.benchmark, []
    if rows < benchmark.whole:
        what = "a sample" if cell.data.get("sampled") else "a part"
        notes.append(f"{what}: {rows:,} of {benchmark.size:,} rows")
    elif rows > benchmark.whole:
        notes.append(f"{rows:,} rows, the paper's set has {benchmark.whole:,}")
    if cell.match.differs:
        notes.append(cell.match.differs)
    seen = cell.entry.get("seen", {}).get("rows", 0)
    return [*notes, f"{seen:,} of the rows were trained on"] if seen else notes


def _weighted(place: int, column: dict[str, Any], task: Task, sets: Sequence[dict[str, Any]], paper: Document, partial: bool) -> Cell:
    """The average over the sets of a task for one column."""
    if column["kind"] == "published":
        return _printed(paper.task_average[task].get(column["key"]))
    there = [item for item in sets if item["cells"][place]["kind"] == "measured" and item["cells"][place]["interval"]["value"] is not None]
    missing = [item["benchmark"] for item in sets if item not in there]
    if not there or (missing and not partial):
        return {**_empty("needs all sets" if there else "no set evaluated here"), "missing": missing}
    cells = [item["cells"][place] for item in there]
    interval = weighted_average([Interval.model_validate(cell["interval"]) for cell in cells], [cell["n"] for cell in cells])
    return {"kind": "measured", "interval": interval.model_dump(mode="json"), "n": sum(cell["n"] for cell in cells),
            "over": [item["benchmark"] for item in there], "missing": missing}


def _printed(percent: float | None) -> Cell:
    return _empty("not published") if percent is None else {"kind": "published", "f1": round(percent / 100, 6)}


def weighted_average(values: Sequence[Interval], weights: Sequence[float]) -> Interval:
    """The weighted mean of independent numbers with its interval (MOVER, see the module); n is the sum of theirs.

    Raises ValueError for no values, unequal lengths, or weights that do not add up to more than 0.
    """
    total = sum(weights)
    if not values or len(values) != len(weights) or total <= 0:
        raise ValueError(f"needs as many weights as values, adding up to more than 0; got {len(values)} values, weights {list(weights)}.")
    parts = [(weight / total, item) for weight, item in zip(weights, values, strict=True)]
    known = [(share, item.value, item.low, item.high) for share, item in parts
             if item.value is not None and item.low is not None and item.high is not None]
    if len(known) < len(parts):
        return Interval(value=None, low=None, high=None, n=sum(item.n for item in values))
    value = sum(share * middle for share, middle, _, _ in known)
    below = sqrt(sum((share * (middle - low)) ** 2 for share, middle, low, _ in known))
    above = sqrt(sum((share * (high - middle)) ** 2 for share, middle, _, high in known))
    return Interval(value=value, low=value - below, high=value + above, n=sum(item.n for item in values))


def _mean_of_tasks(place: int, column: dict[str, Any], tasks: dict[Task, dict[str, Any]], paper: Document, partial: bool) -> Cell:
    if column["kind"] == "published":
        return _printed(paper.average.get(column["key"]))
    there = {found["title"]: found["average"][place] for found in tasks.values() if found["average"][place]["kind"] == "measured"}
    missing = [found["title"] for found in tasks.values() if found["title"] not in there]
    if not there or (missing and not partial):
        return {**_empty("needs all three tasks"), "missing": missing}
    intervals = [cell["interval"] for cell in there.values()]
    mean = {end: sum(interval[end] for interval in intervals) / len(intervals) for end in ("value", "low", "high")}
    rows = sum(cell["n"] for cell in there.values())
    sets = {what: [f"{name} ({title})" for title, cell in there.items() for name in cell[what]] for what in ("over", "missing")}
    return {"kind": "measured", "interval": {**mean, "n": rows}, "n": rows, "over": sets["over"],
            "missing": [*sets["missing"], *(f"all sets ({title})" for title in missing)]}
