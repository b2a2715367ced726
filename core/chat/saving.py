"""Writing sets of conversations as their rows come, and the rows that were refused beside them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from core.chat.report import Described, headline
from core.files import replace_file
from core.methods import UserError
from core.records import ChatExample
from core.rows import BadRow

if TYPE_CHECKING:
    from core.active import ActiveRun

WHOLE = "data"
"""Name of the file of a run that makes one set."""
FIRST = 5


@dataclass
class Refused:
    """Rows left out: all of them go to bad_rows.jsonl, the first ones and the reasons into the report."""

    count: int = 0
    first: list[dict[str, Any]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    _file: IO[str] | None = None

    def add(self, row: BadRow) -> None:
        """Keep a refused row."""
        self.count += 1
        self.reasons[f"{row.column}: {row.reason}" if row.column else row.reason] += 1
        if len(self.first) < FIRST:
            self.first.append(vars(row))
        if self._file:
            self._file.write(json.dumps(vars(row), ensure_ascii=False) + "\n")

    @property
    def record(self) -> dict[str, Any]:
        """For report.json, under the names of an import."""
        return {"bad_rows": self.count, "first_bad_rows": self.first, "bad_row_reasons": dict(self.reasons.most_common(20))}


@contextmanager
def refused_rows(run: ActiveRun | None = None) -> Iterator[Refused]:
    """Where refused rows go. Without a run they are counted only; a run that refuses none has no bad_rows.jsonl."""
    if run is None:
        yield Refused()
        return
    path = run.dir / "bad_rows.jsonl"
    with replace_file(path) as file:
        kept = Refused(_file=file)
        yield kept
    if not kept.count:
        path.unlink()


def save_sets(run: ActiveRun, rows: Iterable[tuple[str, ChatExample]]) -> Described:
    """Write each set as <name>.jsonl (`data`, or the agents' names), all whole or none; returns what is in them.

    UserError where there is no row at all.
    """
    files: dict[str, IO[str]] = {}
    with Described() as described, ExitStack() as open_files:
        for count, (name, example) in enumerate(rows, start=1):
            if name not in files:
                files[name] = open_files.enter_context(replace_file(run.dir / f"{name}.jsonl"))
            files[name].write(example.model_dump_json(exclude_none=True, exclude_defaults=True) + "\n")
            described.add(example)
            if count % 500 == 0:
                run.progress(count, None, "rows")
                run.stop_if_asked()
        if not files:
            raise UserError("No row is left to write; see bad_rows.jsonl for why the others were left out, and choose other data.")
        described.finish()
    return described


def save_report(run: ActiveRun, described: Described, refused: Refused, more: Mapping[str, Any]) -> None:
    """report.json, the name of the set and the numbers on the run card."""
    run.save_report({"kind": "chat", "headline": headline(described), **more, **refused.record, **described.report()})
    shown = {"Rows": f"{described.rows:,}"}
    for label, counts in described.report()["feedback_labels"].items():
        shown[{"unsafe": "Unsafe", "overrefuse": "Over-refusing"}[label]] = f"{counts['yes'] / max(1, sum(counts.values())):.0%}"
    if refused.count:
        shown["Refused"] = f"{refused.count:,}"
    run.stats(**shown)
