"""A finished study on the first page of a public demo: its numbers as its own reports have them, and where to go from there."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from core.runs import Run, Workspace
from core.ui import html
from core.ui.evaluation_board import common_scale, p_cell
from core.ui.pieces import stat_parts
from core.words import duration

STUDY = "recipe"
WITHOUT_WEIGHTS = "Its weights are not here: run the rehearsal, and chat with the guard that it makes for you."


def study_card(workspace: Workspace) -> Markup:
    """The newest study that is published; where there is none, how one is made."""
    study = next((run for run in workspace.runs() if run.method == STUDY and run.state == "succeeded" and run.report
                  and run.status.get("visitor") is None and not run.labels["archived"]), None)
    if study is None:
        text = ("Here will stand the numbers of a study that is published; none is yet. The rehearsal is one: it fine-tunes a small guard "
                "on demo data and evaluates it, in some minutes on two cores.")
        links = html.button_link("Run the rehearsal", "/runs?recipes=1", filled=True) + html.button_link("Chat", "/chat")
        return html.card(html.card_header("A finished study"), html.empty_state("No study yet", text), html.div(links, "gw-buttons"))
    report = study.report or {}
    status = study.status
    took = f"made in {duration(status['ended'] - status['started'])}" if status.get("ended") and status.get("started") else ""
    head = html.card_header("A finished study", ", ".join(filter(None, [str(report.get("title", "")), study.id, took])))
    links = html.join([html.button_link("Read the report", f"/runs?run={study.id}", filled=True),
                       html.button_link("Chat", "/chat"),
                       html.button_link("Run the rehearsal yourself", "/runs?recipes=1")])
    words = [str(report.get("summary", "")), "" if _has_weights(study) else WITHOUT_WEIGHTS]
    return html.card(head, html.div(" ".join(filter(None, words)), "gw-study-words"), _numbers(study), html.div(links, "gw-buttons"))


def _has_weights(study: Run) -> bool:
    return any((child.dir / name).is_dir() for child in study.children() for name in ("adapter", "model", "conversation"))


def _numbers(study: Run) -> Markup:
    """Of its last evaluation that has some."""
    for child in reversed(study.children()):
        if child.status.get("stage") != "evaluation" or child.state != "succeeded":
            continue
        report = child.report or {}
        for name, task in report.get("tasks", {}).items():
            return _models(task, report, name)
        if stats := child.status.get("stats"):
            return html.stat_tiles([(str(name), *stat_parts(value)) for name, value in stats.items()])
    return Markup()


def _models(task: dict[str, Any], report: dict[str, Any], name: str) -> Markup:
    """A guard's evaluation: F1 and accuracy of every model on one scale each, and what sets it apart from the one it is compared with."""
    policy = report["policy"]
    scales = {measure: common_scale(entry["scores"][policy][measure] for entry in task["models"]) for measure in ("f1", "accuracy")}
    cells = []
    for entry in task["models"]:
        scores = entry["scores"][policy]
        measures = [_measure(f"F1, {task['positive']}", scores["f1"], scales["f1"]),
                    _measure("Accuracy", scores["accuracy"], scales["accuracy"], "%")]
        if entry["model"] != task["reference"]:
            measures.append(html.div(html.div(f"McNemar p against {task['reference']}", "gw-sub")
                                     + html.div(p_cell(entry["model"], task, policy), "gw-study-p")))
        title = html.div(html.element("b", entry["title"]) + html.div(entry["model"], "gw-mono gw-sub"))
        cells.append(html.div(title + html.div(html.join(measures), "gw-study-measures"), "gw-study-model"))
    data = report["data"]
    rows = f"{task['rows']:,} {data['split']} rows" if data.get("split") else f"{task['rows']:,} rows"
    told = f"{rows} of {data['name']}, {name} labels. 95 % intervals: Wilson for accuracy, bootstrap for F1."
    return html.div(html.join(cells), "gw-study-models") + html.div(told, "gw-help")


def _measure(words: str, interval: dict[str, Any], scale: tuple[float, float], unit: str = "") -> Markup:
    value, low, high = (None if interval[end] is None else 100 * interval[end] for end in ("value", "low", "high"))
    return html.div(html.div(words, "gw-sub") + html.number_over_whisker(value, low, high, scale, unit=unit))
