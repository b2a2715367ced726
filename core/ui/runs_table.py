"""The table of the Runs page: one row a run, read from its folder; filters, search and paging on those rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from core.runs import Run, Workspace, derive_state
from core.ui import html
from core.ui.pieces import cut, pager, segments
from core.words import ago, duration

PAGE = 12
NEEDS_YOU = ("failed", "lost")
FILTERS = ("all", "active", "succeeded", "needs you", "archived")


@dataclass(frozen=True)
class RunRow:
    """What the table, the filters and the search need of one run."""

    id: str
    name: str
    method: str
    stage: str
    state: str
    what: str = ""
    result: str = ""
    message: str = ""
    share: float | None = None
    left: str = ""
    usd: float = 0.0
    when: float = 0.0
    parent: str = ""
    key: str = ""
    lane: str = ""
    archived: bool = False
    text: str = ""
    """Everything the search looks through, in lower case."""


_known: dict[Path, tuple[tuple[int, ...], RunRow]] = {}
"""Rows as last read, with the times of the files behind them: a page asks every two seconds and few folders have changed."""


def run_row(run: Run) -> RunRow:
    """Row of one run; its files are read again only when one of them has changed."""
    stamp = tuple(_changed(run.dir / name) for name in ("status.json", "labels.json", "report.json"))
    known = _known.get(run.dir)
    if known and known[0] == stamp:
        row = known[1]
        return replace(row, state=run.state) if row.state == "running" else row  # a dead worker writes nothing
    row = _read(run)
    _known[run.dir] = (stamp, row)
    return row


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _read(run: Run) -> RunRow:
    status, labels = run.status, run.labels
    config = run.config
    progress = status.get("progress") or {}
    done, total = progress.get("done") or 0, progress.get("total") or 0
    report = run.report or {}
    words = [run.id, labels["name"], labels["note"], *labels["tags"], status.get("what", ""), run.method, str(config.get("data", ""))]
    return RunRow(
        id=run.id, name=labels["name"], method=run.method, stage=status.get("stage", ""), state=derive_state(status, run.dir),
        what=status.get("what", ""), result=str(report.get("headline", "")) or _stat_words(status), message=status.get("message") or "",
        share=done / total if total else None, left=time_left(status), usd=float(status.get("usd", 0.0)),
        when=float(status.get("started") or status.get("created") or 0.0), parent=status.get("parent", ""), key=status.get("key", ""),
        lane=status.get("lane", ""), archived=bool(labels["archived"]), text=" ".join(map(str, words)).lower())


def _stat_words(status: dict[str, Any]) -> str:
    """"Rows 500, Harmful requests 50%": for a run whose report has no headline."""
    stats = list((status.get("stats") or {}).items())[:2]
    return ", ".join(f"{name} {value[0] if isinstance(value, list) else value}" for name, value in stats)


def time_left(status: dict[str, Any]) -> str:
    """"40 s left" from the pace so far; "" while there is nothing to reckon with."""
    progress = status.get("progress") or {}
    done, total = progress.get("done") or 0, progress.get("total") or 0
    elapsed = (progress.get("t") or 0) - (status.get("started") or 0)
    if not (total and 0 < done < total and elapsed > 5):
        return ""
    return f"{duration(elapsed / done * (total - done))} left"


def all_rows(workspace: Workspace) -> list[RunRow]:
    """Newest first."""
    return [run_row(run) for run in workspace.runs()]


def belongs(row: RunRow, state: str) -> bool:
    """Does a row stand under this filter? Archived runs stand only under their own."""
    if state == "archived" or row.archived:
        return row.archived and state == "archived"
    return {"active": row.state in ("running", "queued"), "succeeded": row.state == "succeeded",
            "needs you": row.state in NEEDS_YOU}.get(state, True)


def wanted(rows: Iterable[RunRow], state: str = "all", stage: str = "", query: str = "") -> list[RunRow]:
    """Rows under a filter, of a stage, that hold every word of the query."""
    words = query.lower().split()
    return [row for row in rows if belongs(row, state) and (not stage or row.stage == stage) and all(word in row.text for word in words)]


def filter_bar(rows: Sequence[RunRow], chosen: str) -> Markup:
    """The segmented control with counts; "archived" appears with the first archived run."""
    counts = {name: sum(belongs(row, name) for row in rows) for name in FILTERS}
    names = [name for name in FILTERS if name != "archived" or counts[name] or chosen == name]
    return segments([(name, f"{name} {counts[name]}") for name in names], chosen, "state", "which runs")


def runs_table(rows: Sequence[RunRow], *, selected: str = "", compared: Sequence[str] = (), page: int = 0,
               queued: dict[str, int] | None = None, note: str = "", may_resume: bool = True) -> Markup:
    """One page of rows with the line under it."""
    part = rows[page * PAGE:(page + 1) * PAGE]
    cells = [_line(row, compared, queued or {}, may_resume) for row in part]
    columns = ["State", "Run", "Method", "What", "Result or progress", "USD", "Started", "Compare"]
    table = html.table(columns, cells, keys=[row.id for row in part], selected=selected, right=(5,), label="runs", act="open")
    return table + pager(len(rows), page, PAGE, note, ("newer", "older"))


def _line(row: RunRow, compared: Sequence[str], queued: dict[str, int], may_resume: bool) -> Sequence[str]:
    when = html.span(ago(row.when) if row.when else "", "gw-sub gw-nowrap")
    return [html.state_pill(row.state), _name(row), row.method, html.span(_what(row), "gw-sub"), _outcome(row, queued, may_resume),
            f"{row.usd:.2f}", when, _compare_box(row, compared)]


def _name(row: RunRow) -> Markup:
    named = row.name and row.name != row.id
    return html.span(row.id, "gw-mono") + (html.div(row.name, "gw-sub") if named else Markup())


def _what(row: RunRow) -> str:
    step = f"step {row.key} of {row.parent}" if row.parent and row.key else ""
    return ", ".join(filter(None, [row.what, step]))


def _outcome(row: RunRow, queued: dict[str, int], may_resume: bool) -> Markup:
    if row.state == "running":
        words = ", ".join(filter(None, [f"{100 * row.share:.0f} %" if row.share is not None else "", row.left]))
        return html.small_bar(row.share, words) if row.share is not None else html.span("starting")
    if row.state == "queued":
        place = queued.get(row.id)
        return html.span(f"{place_word(place)} in the {row.lane} lane" if place else "waiting")
    if row.state == "succeeded":
        return html.span(row.result or "done")
    resume = html.small_link("Resume", "resume", row.id) if may_resume and row.state == "lost" and not row.parent else Markup()
    said = row.message or ("worker gone" + (f" at {100 * row.share:.0f} %" if row.share else "") if row.state == "lost" else row.state)
    return html.span(cut(said, 110)) + (Markup(", ") + resume if resume else Markup())


def place_word(place: int) -> str:
    """"next", "second", "third", "4th"."""
    return {1: "next", 2: "second", 3: "third"}.get(place, f"{place}th")


def _compare_box(row: RunRow, compared: Sequence[str]) -> Markup:
    on = row.id in compared
    return html.element("button", html.icon("tick") if on else "", "gw-check" + (" on" if on else ""), type="button", data_act="compare",
                        data_value=row.id, role="checkbox", aria_checked="true" if on else "false", aria_label=f"compare {row.id}")


def queue_places(workspace: Workspace) -> dict[str, int]:
    """{run id: its place in its lane, from 1}."""
    from core.jobs import LANE_SLOTS

    return {run_id: place for lane in LANE_SLOTS for place, run_id in enumerate(workspace.store.queued(lane), start=1)}
