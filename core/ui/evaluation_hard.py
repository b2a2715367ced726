"""The hard rows of an evaluation, and how long the answers are: cards about all models of one task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from core.ui import html
from core.ui.evaluation_board import common_scale, comparison, p_words

Interval = dict[str, Any]
WIDTH = 118


def hard_rows(report: dict[str, Any], task: str) -> frozenset[int] | None:
    """Numbers of the hard rows; None where the evaluation chose none."""
    found = _section(report, task)
    return frozenset(found["hard_rows"]) if found else None


def _section(report: dict[str, Any], task: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = (report.get("hard_subset") or {}).get("tasks", {}).get(task)
    return found


def hard_card(report: dict[str, Any], task: str, policy: str) -> Markup:
    """Every model on the hard rows beside all rows (whose tests the board has); "" for an evaluation without a hard subset."""
    section = _section(report, task)
    if not section:
        return Markup()
    about = report["hard_subset"]
    share = section["hard"]
    counts = ", ".join(f"{count:,} {kind}" for kind, count in section["kinds"].items() if kind != "hard" and count)
    sub = f"{len(section['hard_rows']):,} of {section['rows']:,} rows" + (f"; the others: {counts}" if counts else "")
    number = Markup() if share["value"] is None else html.number(*_percents(share), "%")
    chosen = f"k = {about['k']}, T = {about['temperature']:g}, top-p {about['top_p']:g}, by {about['title']}"
    head = html.card_header("Hard rows", sub, number + html.span(chosen, "gw-sub"))
    if not section["models"]:
        text = (f"Hard are rows that {about['title']} answers partly right and partly wrong in {about['k']} samples. There was none: "
                "take more rows, more samples (hard_subset) or a higher hard_temperature.")
        return html.card(head, html.empty_state("No hard rows", text), html.div(about["why"], "gw-help"))
    return html.card(head, _table(section, report["tasks"][task], policy), html.div(
        f"Accuracy: Wilson; F1: bootstrap (2,000); under each p the difference in points to {_title(section)}, paired over the same rows, "
        f"dotted line: {_title(section)}. {about['why']}", "gw-help"))


def _title(section: dict[str, Any]) -> str:
    return next((entry["title"] for entry in section["models"] if entry["model"] == section["reference"]), section["reference"])


def _percents(interval: Interval) -> tuple[float, float, float]:
    return 100 * interval["value"], 100 * interval["low"], 100 * interval["high"]


def _table(section: dict[str, Any], whole: dict[str, Any], policy: str) -> Markup:
    overall = {entry["model"]: entry["scores"][policy] for entry in whole["models"]}
    classes = list(section["models"][0]["scores"][policy]["per_class"])
    parts = {entry["model"]: _measures(entry["scores"][policy], overall[entry["model"]], classes) for entry in section["models"]}
    scales = [common_scale(row[place] for row in parts.values()) for place in range(2 + len(classes))]
    scales[0] = scales[1] = common_scale([row[place] for row in parts.values() for place in (0, 1)])  # to be read against each other
    marks = parts.get(section["reference"])
    rows = []
    for entry in section["models"]:
        cells = [_measure(interval, scales[place], marks[place] if marks else None)
                 for place, interval in enumerate(parts[entry["model"]])]
        rows.append((html.div(html.element("b", entry["title"]) + html.div(entry["model"], "gw-mono"), "gw-model"), *cells,
                     _p(entry["model"], section, policy)))
    columns = ["Model", "Accuracy, hard rows", "Accuracy, all rows", *(f"F1 {label}, hard rows" for label in classes),
               "McNemar p, hard rows"]
    return html.table(columns, rows, label="hard rows")


def _measures(on_hard: dict[str, Any], overall: dict[str, Any], classes: Sequence[str]) -> list[Interval]:
    return [on_hard["accuracy"], overall["accuracy"], *(on_hard["per_class"][label]["f1"] for label in classes)]


def _measure(interval: Interval, scale: tuple[float, float], reference: Interval | None) -> Markup:
    if interval["value"] is None:
        return html.span("undefined", "gw-sub")
    mark = 100 * reference["value"] if reference and reference["value"] is not None else None
    return html.number_over_whisker(*_percents(interval), scale, reference=mark, width=WIDTH)


def _p(model: str, task: dict[str, Any], policy: str) -> Markup:
    """p of McNemar's test, and under it the difference in accuracy with its interval."""
    if model == task["reference"]:
        return html.span("reference" if len(task["models"]) > 1 else "")
    line = comparison(model, task, policy)
    if not line or not line["mcnemar"]:
        return html.span("no rows in common", "gw-sub")
    value, low, high = _percents(line["accuracy_difference"])
    difference = f"{html.figures(value, signed=True)} ({html.interval(low, high, signed=True)})"
    return html.span(p_words(line["mcnemar"]["p_value"])) + html.div(difference, "gw-interval gw-nowrap")


def lengths_card(report: dict[str, Any], task: dict[str, Any], name: str) -> Markup:
    """Tokens and reasoning steps of an answer: mean and median with their intervals; also on the hard rows where there are such."""
    section = _section(report, name)
    entries = [(entry, "all rows") for entry in task["models"]] + [(entry, "hard rows") for entry in (section or {}).get("models", [])]
    entries = [(entry, over) for entry, over in entries if any((entry.get("length") or {}).values())]
    if not entries:
        return Markup()
    scales = {what: _length_scale([entry["length"][what] for entry, _ in entries if entry["length"][what]]) for what in ("tokens", "steps")}
    rows = [[html.element("b", entry["title"]), html.span(over, "gw-sub"),
             *(_length((entry["length"][what] or {}).get(kind), what, scales[what]) for what in scales for kind in ("mean", "median"))]
            for entry, over in entries]
    columns = ["Model", "Over", "Tokens, mean", "Tokens, median", "Steps, mean", "Steps, median"]
    note = "Tokens of the whole answer; steps of the answers that should reason. 95 % intervals: bootstrap over the rows (2,000)."
    return html.card(html.card_header("Length of the reasoning", "tokens and steps an answer"), html.table(columns, rows, label="lengths"),
                     html.div(note, "gw-help"))


def _length_scale(lengths: Sequence[dict[str, Interval]]) -> tuple[float, float]:
    """One scale for means and medians: from the lowest low to the highest high, in whole numbers."""
    known = [interval for length in lengths for interval in length.values() if interval["value"] is not None]
    if not known:
        return 0.0, 1.0
    return float(math.floor(min(item["low"] for item in known))), float(math.ceil(max(item["high"] for item in known)))


def _length(interval: Interval | None, what: str, scale: tuple[float, float]) -> Markup:
    if interval is None:
        return html.span("not counted" if what == "tokens" else "does not reason", "gw-sub")
    if interval["value"] is None:
        return html.span(f"undefined (n = {interval['n']})", "gw-sub")
    drawn = html.number_over_whisker(interval["value"], interval["low"], interval["high"], scale, width=WIDTH)
    return drawn + html.div(f"n = {interval['n']:,}", "gw-interval")
