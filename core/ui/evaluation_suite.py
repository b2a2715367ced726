"""The benchmark suite on the Evaluation page: the paper's table, published numbers beside what was measured here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from markupsafe import Markup

from core.evals.published import document
from core.evals.suite import METHOD, Measured, build_suite, measured_cells
from core.runs import Run, Workspace
from core.scores import Policy
from core.ui import html
from core.ui.address import View
from core.ui.evaluation_board import POLICIES, common_scale
from core.ui.pieces import segments
from core.words import ago

Suite = dict[str, Any]
Cell = dict[str, Any]
SAVED = "eval-suite"
"""Method whose report is such a table."""
DEFAULT_POLICY = "paper-code"
MANY = 4
"""From so many models on they stand in a list of links, not in a segmented control."""


def suite_cards(workspace: Workspace, runs: Sequence[Run], view: View) -> Markup:
    """The whole view. `runs`: evaluations, newest first. Clicks: `column`, `use`, `over`, `policy`."""
    saved = next((run for run in runs if run.method == SAVED and run.id == view.get("run") and run.state == "succeeded"), None)
    if saved and saved.report and "suite" in saved.report:
        return _saved(saved, saved.report["suite"])
    cells = [cell for run in runs if run.method == METHOD and run.state == "succeeded" for cell in cells_of(run, workspace)]
    titles = {cell.key: cell.title for cell in reversed(cells)}
    keys = list(dict.fromkeys(cell.key for cell in cells))  # the model of the newest run first
    chosen = view.get("column", "") if view.get("column") in titles else next(iter(keys), "")
    policy = cast(Policy, view["policy"] if view.get("policy") in dict(POLICIES) else DEFAULT_POLICY)
    skip, partial = left_out(view), bool(view.get("over"))
    mine = [cell for cell in cells if cell.key == chosen]
    suite = build_suite(mine, policy=policy, partial=partial, skip=skip)
    saved_runs = [run for run in runs if run.method == SAVED and run.state == "succeeded"]
    parts = [html.card(_head(policy), _tools(keys, titles, chosen, partial), suite_table(suite), _note(suite)),
             _runs_card(mine, chosen, titles.get(chosen, ""), skip, workspace)]
    return html.join([*parts, _keep(mine, skip, policy, partial, saved_runs)])


def left_out(view: View) -> set[str]:
    """Runs that the reader has left out."""
    return set(filter(None, view.get("skip", "").split(",")))


def cells_of(run: Run, workspace: Workspace) -> Sequence[Measured]:
    """The paper's sets in one evaluation; its report is read again only when it has changed."""
    path = run.dir / "report.json"
    return _cells(path, path.stat().st_mtime_ns, workspace.runs_dir) if path.exists() else ()


@lru_cache(maxsize=512)
def _cells(path: Path, changed: int, runs_dir: Path) -> tuple[Measured, ...]:  # noqa: ARG001 - the time makes the answer current
    return tuple(measured_cells([Run(path.parent)], Workspace(runs_dir)))


def _head(policy: str) -> Markup:
    switch = segments(POLICIES, policy, "policy", "how unparsed answers are scored here")
    return html.card_header("Benchmark suite", "F1 in %, the paper's three tasks", switch)


def _tools(keys: Sequence[str], titles: dict[str, str], chosen: str, partial: bool) -> Markup:
    """Which model is measured here, and whether averages may lack sets."""
    if not keys:
        text = ("None of the finished evaluations here is about one of these sets (ToxicChat, WildGuardTest, ...). Import one under its "
                "name and evaluate a guard on it: its F1 then stands beside the published ones.")
        return html.problem_strip(text, "info")
    options = [(key, titles[key]) for key in keys]
    models = segments(options, chosen, "column", "model measured here") if len(keys) <= MANY else html.div(html.join(
        [html.element("b", title) if key == chosen else html.small_link(title, "column", key) for key, title in options], " "), "gw-line")
    over = segments((("", "all sets needed"), ("1", "over the sets there are")), "1" if partial else "", "over", "averages")
    return html.div(html.div(html.span("Measured here", "gw-sub") + models, "gw-line") +
                    html.div(html.span("Averages", "gw-sub") + over, "gw-line"), "gw-suite-tools")


def suite_table(suite: Suite) -> Markup:
    """One row a set, one column a model; under each task its average, at the end the mean of the three."""
    columns = suite["columns"]
    scale = common_scale(cell["interval"] for cell in _all_cells(suite) if cell["kind"] == "measured")
    head = [html.element("th", "Set", scope="col"), *(_column_head(column) for column in columns)]
    body = []
    for found in suite["tasks"].values():
        rows = sum(item["rows"] for item in found["sets"])
        title = html.element("th", f"{found['title'][:1].upper()}{found['title'][1:]}", "gw-suite-task", scope="rowgroup",
                             colspan=len(columns) + 1)
        body.append(html.element("tr", title))
        for item in found["sets"]:
            other = "" if item["whole"] == item["rows"] else f" in the paper, {item['whole']:,} in its file"
            size = html.div(f"{item['rows']:,} rows{other}", "gw-sub")
            name = html.element("th", html.element("b", _breakable(item["benchmark"])) + size, scope="row")
            body.append(html.element("tr", name + html.join(html.element("td", suite_cell(cell, scale)) for cell in item["cells"])))
        name = html.element("th", html.element("b", "Weighted average") + html.div(f"{len(found['sets'])} sets, {rows:,} rows", "gw-sub"),
                            scope="row")
        body.append(html.element("tr", name + html.join(html.element("td", suite_cell(cell, scale)) for cell in found["average"]),
                                 "gw-suite-average"))
    name = html.element("th", html.element("b", "Mean of the three"), scope="row")
    body.append(html.element("tr", name + html.join(html.element("td", suite_cell(cell, scale)) for cell in suite["average"]),
                             "gw-suite-average"))
    inner = html.element("thead", html.element("tr", html.join(head))) + html.element("tbody", html.join(body))
    return html.div(html.element("table", inner, "gw-table gw-suite", aria_label="benchmark suite"), "gw-scroll", tabindex=0)


def _breakable(name: str) -> Markup:
    """"XSTestResponseRefusal" may be broken before a capital that follows a small letter."""
    return html.join(re.split(r"(?<=[a-z])(?=[A-Z])", name), "<wbr>")


def _all_cells(suite: Suite) -> list[Cell]:
    found = [cell for task in suite["tasks"].values() for item in task["sets"] for cell in item["cells"]]
    return [*found, *(cell for task in suite["tasks"].values() for cell in task["average"]), *suite["average"]]


def _column_head(column: dict[str, str]) -> Markup:
    return html.element("th", html.div(column["title"]) + html.div(_kind(column["kind"]), "gw-suite-kind"), scope="col")


def _kind(kind: str) -> str:
    return "measured here" if kind == "measured" else "published"


def suite_cell(cell: Cell, scale: tuple[float, float]) -> Markup:
    """Measured: value, interval, whisker, n, run and what is different. Published: value and "no interval given". Empty: why."""
    if cell["kind"] == "empty":
        missing = cell.get("missing", [])
        title = f"missing: {', '.join(missing)}" if missing else None
        return html.span(cell["why"], "gw-sub", title=title)
    if cell["kind"] == "published":
        diamond = html.span("", "gw-diamond", aria_hidden="true")
        rows = f", n {cell['n']:,}" if "n" in cell else ""
        return html.div(html.element("b", html.figures(100 * cell["f1"], 2)) + diamond) + html.div(f"published{rows}", "gw-interval") + \
            html.div("no interval given", "gw-interval")
    return _measured(cell, scale)


def _measured(cell: Cell, scale: tuple[float, float]) -> Markup:
    interval = cell["interval"]
    if interval["value"] is None:
        number = html.span(f"F1 undefined (n = {interval['n']:,})", "gw-sub")
    else:
        value, low, high = (100 * interval[end] for end in ("value", "low", "high"))
        number = html.number_over_whisker(value, low, high, scale, width=124, digits=2)
    said = html.div(f"measured here, n {cell['n']:,}", "gw-interval")
    run = html.div(html.link(cell["run"], f"/evaluation?run={cell['run']}"), "gw-interval") if "run" in cell else Markup()
    notes = [html.div(note, "gw-interval gw-suite-note") for note in cell.get("notes", [])]
    if cell.get("missing"):
        notes.append(html.div(f"over {', '.join(cell['over'])} only", "gw-interval gw-suite-note"))
    return number + said + run + html.join(notes)


def _note(suite: Suite) -> Markup:
    paper = document()
    words = [f"Published: {paper.source}, open diamond, no interval given; averages as printed, weighted by the rows in the paper's table.",
             "Measured here: 95 % intervals by bootstrap; averages weighted by the rows evaluated, their interval from those of the sets "
             "(independent rows; the mean of the three tasks takes the widest case, because tasks share rows).",
             "A part of a set, or a set with other rows, is not the paper's number: read the small print in the cell."]
    if suite["policy"] != DEFAULT_POLICY:
        words.append("Published numbers follow the paper's script; measured ones are under another policy here.")
    return html.div(html.join([html.span(" ".join(words) + " "), html.link("The paper", paper.url)]), "gw-help")


def _runs_card(mine: Sequence[Measured], key: str, title: str, skip: set[str], workspace: Workspace) -> Markup:
    """The runs behind the measured column, newest first; each can be left out, so that an older one fills its cells."""
    if not mine:
        return Markup()
    by_run: dict[str, list[Measured]] = {}
    for cell in mine:
        by_run.setdefault(cell.run, []).append(cell)
    rows = []
    taken: set[tuple[str, str]] = set()
    for run_id, cells in by_run.items():
        fills = {(cell.benchmark.name, cell.benchmark.task) for cell in cells if run_id not in skip} - taken
        taken |= fills
        words = ", ".join(f"{cell.benchmark.name} ({document().titles[cell.benchmark.task]})" for cell in cells)
        state = "left out" if run_id in skip else "fills its cells" if len(fills) == len(cells) else \
            f"fills {len(fills)} of {len(cells)}" if fills else "a newer run fills its cells"
        button = html.small_button("Use it", "use", run_id) if run_id in skip else html.small_button("Leave out", "use", run_id)
        scored = max(cell.entry["rows"] for cell in cells)
        rows.append((html.link(run_id, f"/evaluation?run={run_id}") + html.div(ago(workspace.run(run_id).created), "gw-sub"), words,
                     f"{scored:,}", state, button))
    head = html.card_header(f"Evaluations of {title}", f"{key}, newest first: the newest fills a cell")
    return html.card(head, html.table(["Run", "Sets", "Rows", "In the table", ""], rows, right=(2,), label="runs of the suite"))


def _keep(mine: Sequence[Measured], skip: set[str], policy: str, partial: bool, saved: Sequence[Run]) -> Markup:
    """The command that writes this table as a run, and the tables that were written."""
    used = list(dict.fromkeys(cell.run for cell in mine if cell.run not in skip))
    links = [html.link(run.id, f"/evaluation?show=suite&run={run.id}") for run in saved]
    kept = html.div(html.span("Kept tables: ", "gw-sub") + html.join(links, ", "), "gw-line") if links else None
    if not used:
        return html.card(html.card_header("Keep this table"), kept) if kept else Markup()
    settings = [f"evaluations=[{','.join(used)}]", f"'models=[{mine[0].key}]'", f"policy={policy}",
                *(["partial_averages=true"] if partial else [])]
    code = html.code_block("python app.py run eval-suite " + " ".join(settings))
    head = html.card_header("Keep this table", "as a run with its own report, which can be repeated")
    return html.card(head, code, kept or "")


def _saved(run: Run, suite: Suite) -> Markup:
    policy = dict(POLICIES)[suite["policy"]]
    head = html.card_header(f"Benchmark suite, {run.id}", f"F1 in %, {policy}, {ago(run.created)}",
                            html.link("the newest numbers", "/evaluation?show=suite"))
    return html.card(head, suite_table(suite), _note(suite))
