"""The threshold sweep of an evaluation that was made with confidence: a plot, the numbers at a threshold, and the default beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from markupsafe import Markup

from core.ui import html, plots
from core.ui.theme import block

LINES = (("precision", "precision", plots.MARK_1, "solid"), ("recall", "recall", plots.MARK_2, "solid"), ("f1", "F1", "#7A5BA6", "solid"),
         ("fpr", "false positive rate", plots.MARK_3, "dash"))
"""(name in the report, words, colour, dash)."""
WARNING = ("Do not choose a threshold on rows whose numbers you report: choose it on other labelled rows, such as a validation split, then "
           "report this set at that threshold. Chosen here, its numbers are better than they will be.")
SOURCES = {"log-prob": "scores: probability of the label at its place in the answer", "vote": "scores: share of {samples} samples"}
Point = dict[str, Any]


class Sweep:
    """The components, and what they show. Nothing is kept here."""

    def draw(self) -> None:
        """A card that is there only where rows have scores."""
        with gr.Column(visible=False, elem_classes="gw-card") as self.box:
            self.head = block()
            self.plot = gr.Plot(show_label=False, container=False, elem_classes="gw-plot")
            self.chosen = gr.Dropdown([], label="Threshold", interactive=True)
            self.numbers = block(elem_classes="gw-stack")

    @property
    def parts(self) -> list[Any]:
        """What `shown` fills, in its order."""
        return [self.box, self.head, self.plot, self.chosen, self.numbers]

    def shown(self, report: dict[str, Any], entry: dict[str, Any], cut: str) -> list[Any]:
        """Of one model on one task, at the threshold `cut` (a text of the address; "" = the default)."""
        found = entry.get("sweep")
        if not found:
            return [gr.update(visible=False), "", gr.update(value=None), gr.update(choices=[], value=None), ""]
        points: Sequence[Point] = found["points"]
        default = nearest(points, found["default"])
        chosen = nearest(points, _number(cut, found["default"]))
        about = report.get("confidence") or {}
        sub = SOURCES.get(about.get("method", ""), "").format(samples=about.get("samples"))
        return [gr.update(visible=True), html.card_header(f"Threshold sweep, {entry['title']}", sub),
                gr.update(value=figure(found, chosen)),
                gr.update(choices=[(_words(point, default), f"{point['threshold']:g}") for point in points],
                          value=f"{chosen['threshold']:g}"),
                numbers(found, default, chosen)]


def nearest(points: Sequence[Point], threshold: float) -> Point:
    """The point whose threshold is closest."""
    return min(points, key=lambda point: abs(point["threshold"] - threshold))


def figure(found: dict[str, Any], chosen: Point) -> Any:
    """Every measure with its interval over the threshold; the default dotted, the chosen threshold solid."""
    points: Sequence[Point] = found["points"]
    made = plots.figure(300, "threshold: said to be " + found["positive"] + " from this score on", "%", showlegend=True,
                        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}, margin_t=40)
    for name, words, colour, dash in LINES:
        known = [(point["threshold"], point[name]) for point in points if point[name]["value"] is not None]
        xs = [threshold for threshold, _ in known]
        ends = [100 * one["high"] for _, one in known] + [100 * one["low"] for _, one in reversed(known)]
        made.add_scatter(x=xs + xs[::-1], y=ends, fill="toself", fillcolor=colour, opacity=0.12, line_width=0, mode="lines",
                         hoverinfo="skip", showlegend=False)
        made.add_scatter(x=xs, y=[100 * one["value"] for _, one in known], mode="lines", name=words,
                         line={"color": colour, "width": 2.2, "dash": dash},
                         customdata=[(100 * one["low"], 100 * one["high"], one["n"]) for _, one in known],
                         hovertemplate=f"{words} %{{y:.1f}} % (%{{customdata[0]:.1f}}–%{{customdata[1]:.1f}}, n = %{{customdata[2]:,}})"
                                       "<br>threshold %{x:.4g}<extra></extra>")
    made.add_vline(x=found["default"], line={"color": plots.GREY, "width": 1.5, "dash": "dot"})
    made.add_vline(x=chosen["threshold"], line={"color": plots.GREY, "width": 1.5})
    made.update_xaxes(range=[-0.01, 1.01])
    made.update_yaxes(range=[0, 102])
    return made


def numbers(found: dict[str, Any], default: Point, chosen: Point) -> Markup:
    """The default and the chosen threshold, and what one must not do with them."""
    rows = [_row(default, "default")]
    if chosen is not default:
        rows.append(_row(chosen, "chosen"))
    columns = ["Threshold", *(words[0].upper() + words[1:] for _, words, _, _ in LINES), f"Said {found['positive']}"]
    unscored = f"{found['unscored']:,} answers without a score count as wrong at every threshold. " if found["unscored"] else ""
    note = f"{unscored}95 % intervals: Wilson for the false positive rate, bootstrap (2,000) for the others."
    return html.join([html.table(columns, rows, label="threshold"), html.problem_strip(WARNING, "warning"), html.div(note, "gw-help")])


def _row(point: Point, what: str) -> list[Any]:
    return [html.element("b", f"{point['threshold']:g}") + html.div(what, "gw-sub"), *(_measure(point[name]) for name, *_ in LINES),
            f"{point['said']:,}"]


def _measure(interval: dict[str, Any]) -> Markup:
    if interval["value"] is None:
        return html.span(f"undefined (n = {interval['n']})", "gw-sub")
    return html.number_over_whisker(*(100 * interval[end] for end in ("value", "low", "high")))


def _words(point: Point, default: Point) -> str:
    """"0.75 · precision 91.2, recall 80.1, false positive rate 4.0 %"."""
    shown = ", ".join(f"{words} {html.figures(100 * point[name]['value']) if point[name]['value'] is not None else 'undefined'}"
                      for name, words, *_ in LINES if name != "f1")
    return f"{point['threshold']:g}{' (default)' if point is default else ''} · {shown} %"


def _number(text: str, default: float) -> float:
    try:
        return float(text)
    except ValueError:
        return default
