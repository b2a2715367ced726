"""Bars of the Data page: labels by split, and how long the texts are."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from core.records import NEGATIVE, POSITIVE, TASKS
from core.ui import plots

HEIGHT = 230


def label_bars(report: dict[str, Any]) -> Any:
    """Two lying bars for each split and task; label, rows and their share written at the end of each. None where nothing is labelled."""
    tasks = [task for task in TASKS if report.get("labels", {}).get(task)]
    groups = [(split, task) for split in report.get("splits", {}) for task in tasks]
    if not groups:
        return None
    made = plots.figure(max(HEIGHT, 46 * len(groups) + 50), x_title="rows", barmode="group", bargap=0.25 if len(groups) > 2 else 0.45)
    for names, colour in ((NEGATIVE, plots.MARK_1), (POSITIVE, plots.MARK_2)):
        counts, words = [], []
        for split, task in groups:
            found = report["splits"][split]["labels"].get(task, {})
            count, total = found.get(names[task], 0), sum(found.values())
            counts.append(count)
            words.append(f"{names[task]} {count:,} ({count / total:.0%})" if total else "")
        made.add_bar(y=[f"{split}, {task} " for split, task in groups], x=counts, orientation="h", text=words, textposition="outside",
                     cliponaxis=False, constraintext="none", textfont={"size": 12}, marker={"color": colour}, hoverinfo="skip")
    made.update_layout(margin={"l": 60, "r": 130, "t": 4, "b": 40})
    made.update_xaxes(showgrid=True, nticks=5)
    made.update_yaxes(showgrid=False, autorange="reversed")
    return made


def length_bars(report: dict[str, Any]) -> Any:
    """Texts in bins of words, prompt and response side by side."""
    made = plots.figure(HEIGHT, x_title="words", y_title="rows", barmode="group", bargap=0.15)
    colours = {"prompt": plots.MARK_1, "response": plots.MARK_2, "target": plots.MARK_3}
    found = {field: part for field, part in report.get("lengths", {}).items() if part}
    for field, part in found.items():
        bins = {int(edge): count for edge, count in part["histogram_words"].items()}
        edges = sorted(bins)
        names = [f"{low}–{high - 1}" for low, high in pairwise(edges)] + [f"{edges[-1]}+"]
        last = max(5, *(index + 1 for index, edge in enumerate(edges) if bins[edge]))
        made.add_bar(x=names[:last], y=[bins[edge] for edge in edges[:last]], name=field, marker={"color": colours[field]},
                     hovertemplate=f"{field}, %{{x}} words: %{{y:,}}<extra></extra>")
    made.update_xaxes(type="category", tickfont={"size": 11})
    if len(found) > 1:
        made.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.12, "x": 0})
    return made
