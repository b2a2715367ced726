"""Two or more runs side by side: the settings in which they differ, and their loss curves in one plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from core.runs import Run
from core.ui import html, plots

LOSSES = ("loss", "train_loss", "eval_loss")
COLOURS = (plots.MARK_1, plots.MARK_2, plots.MARK_3)
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond-open", "triangle-up")


def differing(configs: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """(setting, its value in each run) where not all runs agree, in the order of the first run that has it."""
    flat = [flatten(config) for config in configs]
    names = list(dict.fromkeys(name for config in flat for name in config))
    rows = [(name, [config.get(name, "not set") for config in flat]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def flatten(config: dict[str, Any], before: str = "") -> dict[str, str]:
    """{"a.b": "text"} of nested settings; values as they would be typed."""
    found: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            found.update(flatten(value, f"{before}{name}."))
        else:
            found[before + name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return found


def compare_table(runs: Sequence[Run]) -> Markup:
    """Method, result and differing settings of the runs, one column a run."""
    def column(run: Run) -> list[str]:
        report = run.report or {}
        return [run.method, run.state, str(report.get("headline", "") or "none yet")]

    heads = [column(run) for run in runs]
    rows: list[list[str]] = [[name, *(head[index] for head in heads)] for index, name in enumerate(("method", "state", "result"))]
    for name, values in differing([run.config for run in runs]):
        rows.append([html.span(name, "gw-mono"), *(html.span(value, "gw-mono") for value in values)])
    names = [run.id if run.name == run.id else f"{run.name} ({run.id})" for run in runs]
    return html.table(["", *names], rows, label="settings that differ")


def curves(run: Run) -> dict[str, list[tuple[float, float]]]:
    """{metric: [(step, value)]} of the losses a run wrote, in order. Of a step that a resumed run did twice the later value counts."""
    found: dict[str, dict[float, float]] = {}
    for event in run.events("metrics"):
        for name in LOSSES:
            value = event.get(name)
            if isinstance(value, (int, float)):
                found.setdefault(name, {})[event.get("step", 0)] = value
    return {name: sorted(points.items()) for name, points in found.items()}


def compare_card(runs: Sequence[Run]) -> Markup:
    """Nothing for no run, a hint for one, the table from two on."""
    if not runs:
        return Markup()
    head = html.card_header("Compare", f"{len(runs)} runs" if len(runs) > 1 else "", html.small_link("Clear", "compare-none"))
    if len(runs) == 1:
        text = f"{runs[0].id} is ticked. Tick the box of one more run: their settings and loss curves stand here side by side."
        return head + html.empty_state("One more run", text)
    return head + compare_table(runs)


def loss_figure(runs: Sequence[Run]) -> Any:
    """Loss over steps, smoothed, a line a run: told apart by dash and by the name at its end; eval losses as marks. None without a loss."""
    series = [(run, curves(run)) for run in runs]
    if len(runs) < 2 or not any(found for _, found in series):
        return None
    made = plots.figure(300, x_title="step", y_title="loss")
    for index, (run, found) in enumerate(series):
        colour, dash = COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)]
        points = plots.thin(found.get("loss") or found.get("train_loss") or [], 300)
        if points:
            values = plots.smooth([y for _, y in points])
            made.add_scatter(x=[x for x, _ in points], y=values, mode="lines", name=run.id,
                             line={"color": colour, "width": 2.2, "dash": dash},
                             hovertemplate=f"{run.id}, step %{{x:,.0f}}<br>loss %{{y:.3g}}<extra></extra>")
            words = f"{run.id} {values[-1]:.3g}"
            made.add_annotation(x=points[-1][0], y=values[-1], text=words, showarrow=False, xanchor="right", yshift=11)
        checked = found.get("eval_loss", [])
        made.add_scatter(x=[x for x, _ in checked], y=[y for _, y in checked], mode="markers", name=f"{run.id} eval",
                         marker={"color": colour, "size": 8, "symbol": SYMBOLS[index % len(SYMBOLS)]},
                         hovertemplate=f"{run.id}, step %{{x:,.0f}}<br>eval loss %{{y:.3g}}<extra></extra>")
    return made
