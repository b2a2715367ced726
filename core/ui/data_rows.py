"""An imported set on the page: the list of sets, the report of one, its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from core.chat.checked import METHOD as CHECK
from core.data import holds_chat, row_files
from core.records import TASKS, ChatExample, GuardExample, read_records
from core.runs import Run, Workspace
from core.ui import html
from core.ui.chat_rows import as_row, tiles_of
from core.ui.pieces import cut, label_counts, pager
from core.words import ago, plural

PAGE = 25
SHORT = 240
MOST_ROWS = 200_000
"""Rows of a set that the page looks through; beyond that it says so."""
Rows = tuple[GuardExample, ...]


def sets(workspace: Workspace) -> list[Run]:
    """Runs of the data stage that have not been archived, newest first: imported sets, and imports under way or failed.

    A finished check of a set is none; it stands beside the set it looked at.
    """
    return [run for run in workspace.runs() if run.status.get("stage") == "data" and not run.labels["archived"]
            and not (run.method == CHECK and run.state == "succeeded")]


def is_ready(run: Run) -> bool:
    """Can its rows be shown?"""
    return bool(row_files(run)) and run.state == "succeeded"


def is_chat(run: Run) -> bool:
    """Does it hold conversations?"""
    return any(holds_chat(path) for path in row_files(run).values())


def rows_of(run: Run) -> Rows:
    """The rows; read once while the files are the same. Conversations are shown as prompt and answer."""
    paths = tuple(row_files(run).values())
    return _rows(paths, max(path.stat().st_mtime_ns for path in paths))


def can_be_read(run: Run) -> bool:
    """False for a file that holds no row, or one that is damaged."""
    try:
        return bool(rows_of(run))
    except (ValueError, OSError):
        return False


def unreadable(run: Run, error: Exception) -> Markup:
    """What stands in the place of the rows of a damaged file."""
    why = cut(" ".join(str(error).replace(f"{run.dir}/", "").split()), 300)
    return html.problem_strip(f"The rows of {run.name} cannot be shown: {why} The file was changed after the import; import the set again.")


@lru_cache(maxsize=3)
def _rows(paths: tuple[Path, ...], changed: int) -> Rows:  # noqa: ARG001 - the time makes the cached rows current
    from itertools import chain, islice

    def read(path: Path) -> Iterator[GuardExample]:
        return map(as_row, read_records(path, ChatExample)) if holds_chat(path) else read_records(path, GuardExample)

    return tuple(islice(chain.from_iterable(map(read, paths)), MOST_ROWS))


def sets_table(runs: Sequence[Run], chosen: str) -> Markup:
    """One line a set; a click opens it. An import that failed says why."""
    ready = [run for run in runs if run.state == "succeeded"]
    columns = ["Set", "Rows", "Splits", "Request labels", "Test set", "Bad rows", "Imported"]
    table = html.table(columns, [_set_line(run) for run in ready], keys=[run.id for run in ready], selected=chosen, right=(1,),
                       label="imported sets", act="open")
    return html.join(_unready(run) for run in runs if run.state != "succeeded") + (table if ready else Markup())


def _unready(run: Run) -> Markup:
    """An import that goes on, failed or was stopped, in one strip."""
    words = cut(str(run.status.get("message") or run.status.get("what", "")), 260)
    show = html.small_link("Open", "open", run.id) + Markup(" ") + html.link("the run", f"/runs?run={run.id}")
    head = html.div(html.state_pill(run.state) + html.element("b", run.name) + show, "gw-line")
    return html.div(head + html.span(words, "gw-sub"), "gw-sunken")


def _set_line(run: Run) -> Sequence[str | int]:
    name = html.element("b", run.name) + html.div(run.id, "gw-sub gw-mono")
    when = html.span(ago(run.created), "gw-sub gw-nowrap")
    report = run.report or {}
    splits = ", ".join(f"{part['rows']:,} {split}" for split, part in report.get("splits", {}).items())
    labels = report.get("labels", {}).get("request", {})
    test = html.tag("registered") if (run.dir / "test_keys.txt").exists() else html.span("no", "gw-sub")
    bad = report.get("bad_rows", 0)
    none = html.span("none", "gw-sub")
    bad_cell = html.span(f"{bad:,} ") + html.small_link("Download", "download", f"{run.id}/bad_rows.jsonl") if bad else none
    return [name, f"{report.get('rows', 0):,}", html.span(splits, "gw-sub"), label_counts(labels) or none, test, bad_cell, when]


def matching(rows: Sequence[GuardExample], query: str = "", split: str = "", label: str = "") -> list[int]:
    """Places of the rows that hold every word of the query, in a split, with a label ("request harmful")."""
    words = query.lower().split()
    task, _, wanted = label.partition(" ")
    found = []
    for place, row in enumerate(rows):
        if split and (row.split or "unmarked") != split:
            continue
        if wanted and getattr(row.labels, task, None) != wanted:
            continue
        text = f"{row.prompt} {row.response or ''} {row.source} {row.category}".lower() if words else ""
        if all(word in text for word in words):
            found.append(place)
    return found


def label_choices(report: dict[str, Any]) -> list[tuple[str, str]]:
    """("request: harmful", "request harmful") for each label that occurs."""
    found = report.get("labels", {})
    return [("every label", ""), *((f"{task}: {label}", f"{task} {label}") for task in TASKS for label in found.get(task, {}))]


def split_choices(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Splits that occur."""
    return [("every split", "")] + [(split, split) for split in report.get("splits", {})]


def rows_table(rows: Sequence[GuardExample], places: Sequence[int], page: int, chosen: int | None) -> Markup:
    """One page of rows; prompts of harmful rows are blurred."""
    if not places:
        return html.empty_state("No row matches", "Rows that match the search, split and label stand here. None does now.",
                                html.small_link("Show all rows", "clear"))
    part = places[page * PAGE:(page + 1) * PAGE]
    cells = [_row_line(place, rows[place]) for place in part]
    table = html.table(["Row", "Prompt and response", "Labels", "Split", "Source"], cells, keys=[str(place) for place in part],
                       selected="" if chosen is None else str(chosen), label="rows", act="row")
    return table + pager(len(places), page, PAGE)


def _row_line(place: int, row: GuardExample) -> Sequence[str]:
    harmful = "harmful" in (row.labels.request, row.labels.response)
    text = html.div(html.veil(cut(row.prompt, SHORT), harmful))
    if row.response:
        text += html.div(html.span("reply ", "gw-sub") + html.veil(cut(row.response, SHORT), harmful), "gw-reply")
    labels = [(task, label) for task in TASKS if (label := getattr(row.labels, task))]
    chips = html.join([html.div(html.chip(label, "" if task == "request" else task)) for task, label in labels])
    about = html.span(row.source, "gw-sub") + (html.div(row.category, "gw-sub") if row.category else Markup())
    return [html.span(f"{row.row or place + 1}", "gw-mono"), text, chips, html.span(row.split or "unmarked", "gw-sub"), about]


def about_set(run: Run, report: dict[str, Any]) -> Markup:
    """Header and key numbers of a set."""
    lengths = report.get("lengths", {}).get("prompt") or {}
    counts = lengths.get("words")
    tiles = [("Rows", f"{report.get('rows', 0):,}", f"{report.get('distinct_prompts', 0):,} distinct prompts"),
             ("With a response", f"{report.get('with_response', 0):,}", ""),
             ("With reasoning", f"{max(report.get('with_reasoning', 0), report.get('with_target', 0)):,}", "to learn from"),
             ("Prompt length", f"{counts['median']:,} words" if counts else "–", f"median, longest {counts['max']:,}" if counts else ""),
             ("Left out", f"{report.get('bad_rows', 0) + report.get('duplicates_dropped', 0):,}",
              f"{report.get('bad_rows', 0):,} bad, {report.get('duplicates_dropped', 0):,} duplicates")]
    detected = report.get("detections") or []
    runners_up = [item for item in detected if item["name"] != report.get("format")]
    others = ", ".join(f"{item['name']} ({item['share']:.0%} of the first rows)" for item in runners_up)
    pairs: list[tuple[str, str]] = [("Read as", f"{report.get('format', '')}" + (f"; it also fits {others}" if others else ""))]
    known = (("From", "source"), ("Licence", "licence"), ("sha256", "sha256"))
    pairs += [(name, str(report[key])) for name, key in known if report.get(key)]
    if report.get("holds") == "chat":
        tiles = tiles_of(report)
    head = html.card_header(run.name, run.id, html.link("the run", f"/runs?run={run.id}"))
    return html.join([head, *_warnings(report), html.stat_tiles(tiles), html.key_value(pairs)])


def _warnings(report: dict[str, Any]) -> list[Markup]:
    found = []
    if report.get("conflicting_labels"):
        count = plural(report["conflicting_labels"], "row")
        found.append(html.problem_strip(f"{count} contradict the label of another row with the same texts.", "warning"))
    if report.get("test_rows_found"):
        names = ", ".join(f"{count:,} in {name}" for name, count in report.get("test_rows_by_set", {}).items())
        count = plural(report["test_rows_found"], "row")
        text = f"{count} stand in registered test sets ({names}): training and mining refuse or (exclude_test_rows=true) drop them."
        found.append(html.problem_strip(text, "warning"))
    return found


def sources_table(report: dict[str, Any]) -> Markup:
    """Rows and request labels of each source; "" where there is only one."""
    found = report.get("sources", {})
    if len(found) < 2:
        return Markup()
    rows = [(name or "(none)", f"{part['rows']:,}", _label_words(part)) for name, part in found.items()]
    more = report.get("more_sources", 0)
    note = html.div(f"{more} more sources are not shown.", "gw-help") if more else Markup()
    return html.card_header("By source", f"{len(found) + more} sources") + html.table(["Source", "Rows", "Labels"], rows, right=(1,)) + note


def _label_words(part: dict[str, Any]) -> Markup:
    return html.join([label_counts(labels, task) for task, labels in part.get("labels", {}).items()], " ")
