"""Numbers from papers (assets/published_scores.yaml), to stand beside ours where the data set is the same."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import yaml

from core.records import Task
from core.runs import REPOSITORY

FILE = REPOSITORY / "assets" / "published_scores.yaml"


@dataclass(frozen=True)
class Benchmark:
    """One set of the paper's benchmark for one task."""

    name: str
    task: Task
    rows: int
    """In the paper's table of data sets: the weight of the printed averages."""
    names: tuple[str, ...]
    """What a data set of it may be called, normalised."""
    f1: dict[str, float]
    """{published model: F1 in percent}."""
    file_rows: int | None = None
    """Rows of the authors' own file, where that is another number."""
    labelled: int | None = None
    """Rows of that file with a label for this task, where they are fewer."""

    @property
    def whole(self) -> int:
        """Rows that the whole set has for this task."""
        return self.labelled or self.file_rows or self.rows

    @property
    def size(self) -> int:
        """Rows of the whole set, with or without a label for this task."""
        return self.file_rows or self.rows


@dataclass(frozen=True)
class Match:
    """A data set of ours that is one of the paper's, or a part of it."""

    benchmark: Benchmark
    differs: str = ""
    """How the file is known to differ; "" = nothing known."""


@dataclass(frozen=True)
class Document:
    """The whole file."""

    source: str
    url: str
    policy: str
    models: tuple[str, ...]
    """Published models in the order of the columns."""
    titles: dict[Task, str]
    """What the paper calls each task, in its order."""
    task_average: dict[Task, dict[str, float]]
    """{task: {model: average over its sets in percent}}, as printed."""
    average: dict[str, float]
    """{model: mean of the three averages in percent}, as printed."""
    benchmarks: tuple[Benchmark, ...]
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    """{sha256: {benchmark, differs}} of files that are known by their content."""

    def of_task(self, task: Task) -> list[Benchmark]:
        """The sets of a task, in the paper's order."""
        return [benchmark for benchmark in self.benchmarks if benchmark.task == task]


@lru_cache(maxsize=1)
def document() -> Document:
    """What assets/published_scores.yaml says."""
    text: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    benchmarks = tuple(Benchmark(**{**item, "names": tuple(item["names"])}) for item in text["benchmarks"])
    tasks = text["tasks"]
    return Document(text["source"], text["url"], text["policy"], tuple(text["models"]), {one["task"]: one["title"] for one in tasks},
                    {one["task"]: one["average"] for one in tasks}, text["average"], benchmarks,
                    {item["sha256"]: item for item in text["files"]})


def benchmark_for(data_name: str, task: str, hashes: Iterable[str | None] = ()) -> Match | None:
    """The paper's set that a data set is, by the hash of its file or by its name; None where it is none of them.

    Names count without case and punctuation, and a longer name that begins with a known one matches ("AegisSafetyTest_devhalf"),
    the longest known one first. Of "1B/ToxicChat" the last part counts: predictions are called by model and set.
    """
    known = next((document().files[one] for one in hashes if one in document().files), None)
    if known:
        found = [benchmark for benchmark in document().benchmarks if (benchmark.name, benchmark.task) == (known["benchmark"], task)]
        return Match(found[0], known["differs"]) if found else None
    name = re.sub(r"[^a-z0-9]", "", data_name.rsplit("/", 1)[-1].lower())
    fits = [(len(alias), benchmark) for benchmark in document().benchmarks if benchmark.task == task
            for alias in benchmark.names if name.startswith(alias)]
    return Match(max(fits, key=lambda fit: fit[0])[1]) if fits else None


@dataclass(frozen=True)
class Published:
    """F1 (in percent) of published models on one benchmark and task, for the board of one evaluation."""

    benchmark: str
    rows: int
    f1: dict[str, float]
    source: str
    url: str
    policy: str

    def note(self, rows: int) -> str:
        """What to keep in mind beside a set of `rows` rows."""
        other = f" They are over all {self.rows:,} rows of {self.benchmark}; here are {rows:,}." if self.rows != rows else ""
        return f"Published numbers: {self.source}. They follow the paper's script; compare them under that policy.{other}"


def published_for(data_name: str, task: str) -> Published | None:
    """The published numbers for a data set of this name, if it is one of the paper's benchmarks."""
    match = benchmark_for(data_name, task)
    if match is None:
        return None
    whole = document()
    return Published(match.benchmark.name, match.benchmark.whole, dict(match.benchmark.f1), whole.source, whole.url, whole.policy)
