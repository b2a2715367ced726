"""The board: every model on the same rows, each number with its interval on one scale a column."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

from core.evals.published import Published
from core.ui import html

Interval = dict[str, Any]
POLICIES = (("paper-code", "paper's script"), ("strict", "unparsed is wrong"), ("drop", "unparsed left out"))
POLICY_NOTE = {
    "paper-code": "Paper's script: an unparsed answer is wrong twice, or not counted where the gold label is harmful (its typo).",
    "strict": "Unparsed is wrong: an answer without a readable label counts as the other label.",
    "drop": "Unparsed left out: only readable answers are scored, so models are compared on different rows.",
}
WIDTH = 118


def board(task: dict[str, Any], policy: str, chosen: str, published: Published | None) -> Markup:
    """The table of one task. A click on a model does `model`."""
    models = task["models"]
    scales = _scales(task, policy, published)
    reference = next((entry for entry in models if entry["model"] == task["reference"]), models[0])
    marks = {name: _percent(_read(reference, policy, name)["value"]) for name in scales}
    rows = [_model_row(entry, task, policy, scales, marks) for entry in models]
    keys = [entry["model"] for entry in models]
    for entry in task.get("baselines", []):
        rows.append((_name(entry["title"], "baseline", plain=True), *_measures(entry, policy, scales, marks), "", ""))
        keys.append("")
    if published:
        for title, f1 in published.f1.items():
            cell = html.number_over_whisker(f1, scale=scales["f1"], published=True, width=WIDTH, digits=2)
            rows.append((_name(title, "published", plain=True), cell, _faint("not published"), "", "", ""))
            keys.append("")
    columns = ["Model", f"F1, {task['positive']}", "Accuracy", "Unparsed", "Coherent reasoning", "McNemar p"]
    return html.table(columns, rows, keys=keys, selected=chosen, label="models", act="model")


def _model_row(entry: dict[str, Any], task: dict[str, Any], policy: str, scales: dict[str, Any], marks: dict[str, Any]) -> Sequence[str]:
    coherent = entry.get("coherent") or {}
    reasons = _measure(coherent, scales["coherent"], marks["coherent"]) if coherent.get("value") is not None else _faint("does not reason")
    return (_name(entry["title"], entry["model"]), *_measures(entry, policy, scales, marks), reasons, p_cell(entry["model"], task, policy))


def _measures(entry: dict[str, Any], policy: str, scales: dict[str, Any], marks: dict[str, Any]) -> list[Markup]:
    return [_measure(_read(entry, policy, name), scales[name], marks[name]) for name in ("f1", "accuracy", "unparsed")]


def _read(entry: dict[str, Any], policy: str, name: str) -> Interval:
    interval: Interval = (entry.get("coherent") or {"value": None}) if name == "coherent" else entry["scores"][policy][name]
    return interval


def _measure(interval: Interval, scale: tuple[float, float], reference: float | None = None) -> Markup:
    if interval.get("value") is None:
        return _faint("undefined")
    value, low, high = (_percent(interval[name]) for name in ("value", "low", "high"))
    return html.number_over_whisker(value, low, high, scale, reference=reference, width=WIDTH)


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _faint(text: str) -> Markup:
    return html.span(text, "gw-sub")


def _name(title: str, ref: str, plain: bool = False) -> Markup:
    if plain:
        return html.div(html.span(title, "gw-sub") + html.div(ref, "gw-sub"), "gw-model")
    return html.div(html.element("b", title) + html.div(ref, "gw-mono"), "gw-model")


def p_cell(model: str, task: dict[str, Any], policy: str) -> Markup:
    """p of McNemar's test against the reference, and the difference in accuracy it is about."""
    if model == task["reference"]:
        return html.span("reference" if len(task["models"]) > 1 else "")
    line = comparison(model, task, policy)
    if not line or not line.get("mcnemar"):
        return _faint("no rows in common")
    gap = line["accuracy_difference"]
    words = html.interval(_percent(gap["low"]), _percent(gap["high"]), signed=True)
    difference = f"{html.figures(_percent(gap['value']), signed=True)} points ({words})"
    return html.span(p_words(line["mcnemar"]["p_value"])) + html.div(difference, "gw-interval")


def comparison(model: str, task: dict[str, Any], policy: str) -> dict[str, Any] | None:
    """The line of report.json that compares `model` with the reference."""
    wanted = (task["reference"], model, policy)
    return next((line for line in task.get("comparisons", []) if (line["a"], line["b"], line["policy"]) == wanted), None)


def p_words(p: float) -> str:
    """"< 0.001", "0.004", "0.21"."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.01 else f"{p:.2f}"


def _scales(task: dict[str, Any], policy: str, published: Published | None) -> dict[str, tuple[float, float]]:
    """One scale a column, wide enough for every interval in it."""
    entries = [*task["models"], *task.get("baselines", [])]
    scales = {name: common_scale(_read(entry, policy, name) for entry in entries) for name in ("f1", "accuracy", "unparsed")}
    scales["coherent"] = common_scale(_read(entry, policy, "coherent") for entry in task["models"])
    if published:
        low, high = scales["f1"]
        scales["f1"] = (_floor(min(low, *published.f1.values())), _ceil(max(high, *published.f1.values())))
    return scales


def common_scale(intervals: Iterable[Interval]) -> tuple[float, float]:
    """From the lowest low to the highest high in percent, widened to whole tens; 0 to 100 where there is no number."""
    known = [interval for interval in intervals if interval.get("value") is not None]
    if not known:
        return 0.0, 100.0
    return _floor(min(100 * interval["low"] for interval in known)), _ceil(max(100 * interval["high"] for interval in known))


def _floor(value: float) -> float:
    return max(0.0, math.floor(value / 10) * 10.0)


def _ceil(value: float) -> float:
    return min(100.0, math.ceil(value / 10) * 10.0)


def board_note(task: dict[str, Any], policy: str, published: Published | None) -> Markup:
    """What the numbers are, in one paragraph under the board."""
    reference = next((entry["title"] for entry in task["models"] if entry["model"] == task["reference"]), "")
    words = ["95 % intervals: Wilson for rates, bootstrap (2,000) for F1.", POLICY_NOTE[policy]]
    if len(task["models"]) > 1:
        words.append(f"Dotted line: {reference}. p: McNemar's exact test on the same rows against it; under it the difference in accuracy.")
    if published:
        words.append(published.note(task["rows"]))
    return html.div(" ".join(words), "gw-help")


def notes_strip(notes: Sequence[str]) -> Markup:
    """What the evaluation itself noted, one line each."""
    return html.problem_strip(html.join([html.div(note) for note in notes]), "info") if notes else Markup()
