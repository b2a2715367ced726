"""Charts of the Mining page: how many answers are right, where the hard rows are, which weights the pairs have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core.ui import html, plots

MOST_LABELS = 9
"""Bars that have room for count and share above them; more show these when the pointer is on them."""
MOST_GROUPS = 10
LINE = 38
"""Pixels of one line of the forest plot."""
LONGEST_NAME = 24
ERROR_BAR = {"thickness": 1.6, "width": 5, "color": plots.GREY}


def histogram(bars: Sequence[Mapping[str, Any]], hard: Sequence[int] | None = None) -> Any:
    """Rows by number of right answers, 0 to k: share, interval, count. `hard`: how many of each bar are hard, where that is known."""
    k = len(bars) - 1
    shares = [100 * (bar["share"]["value"] or 0.0) for bar in bars]
    lows, highs = ([100 * (bar["share"][end] or 0.0) for bar in bars] for end in ("low", "high"))
    counts = [bar["count"] for bar in bars]
    names = [f"{bar['right']} of {k}" if k < MOST_LABELS else str(bar["right"]) for bar in bars]
    parts = [share * mixed / count if count else 0.0 for share, mixed, count in zip(shares, hard or [0] * len(bars), counts, strict=True)]
    top = max([*highs, 1.0]) * (1.2 if k < MOST_LABELS else 1.06)
    made = plots.figure(290, x_title="outputs that agree with the gold label", y_title="share of inputs, %", barmode="stack", bargap=0.35)
    words = [f"{name} right: {count:,} inputs, {html.figures(share)} % ({html.interval(low, high)})"
             for name, count, share, low, high in zip(names, counts, shares, lows, highs, strict=True)]
    for values, colour in ((parts, plots.MARK_1), ([share - part for share, part in zip(shares, parts, strict=True)], plots.MARK_3)):
        made.add_bar(x=names, y=values, marker={"color": colour}, customdata=words, hovertemplate="%{customdata}<extra></extra>")
    made.add_scatter(x=names, y=shares, mode="markers", marker={"size": 1, "color": plots.GREY}, hoverinfo="skip", error_y={
        **ERROR_BAR, "color": "#52606D", "array": [high - share for high, share in zip(highs, shares, strict=True)],
        "arrayminus": [share - low for low, share in zip(lows, shares, strict=True)]})
    if k < MOST_LABELS:
        for name, high, count, share in zip(names, highs, counts, shares, strict=True):
            text = f"<b>{count:,}</b><br>{html.figures(share)} %"
            made.add_annotation(x=name, y=high, text=text, showarrow=False, yanchor="bottom", yshift=3)
        _mark_hard(made, sum(hard or ()), [highs[right] for right in range(1, k)], top)
    made.update_yaxes(range=[0, top], nticks=6)
    made.update_xaxes(type="category", tickfont={"size": 12})
    made.update_layout(margin={"l": 48, "r": 8, "t": 8, "b": 44})
    return made


def _mark_hard(made: Any, hard: int, highs: Sequence[float], top: float) -> None:
    """A line over the bars that can be hard, where their numbers leave room for it."""
    at = max(highs, default=top) + 0.22 * top
    if not hard or len(highs) < 2 or at > 0.9 * top:
        return
    made.add_shape(type="line", x0=0.65, x1=len(highs) + 0.35, y0=at, y1=at, line={"color": plots.MARK_1, "width": 2})
    made.add_annotation(x=(len(highs) + 1) / 2, y=at, yanchor="bottom", yshift=1, showarrow=False, text=f"<b>hard: {hard:,}</b> inputs")


def forest(groups: Sequence[Mapping[str, Any]], whole: Mapping[str, Any]) -> Any:
    """Share of hard rows in the largest groups with its interval, the highest share first; dotted: all rows."""
    shown = [group for group in groups if group["hard"]["value"] is not None][:MOST_GROUPS]
    shown.sort(key=lambda group: -float(group["hard"]["value"]))
    shares, lows, highs = ([100 * group["hard"][end] for group in shown] for end in ("value", "low", "high"))
    places = list(range(len(shown)))  # not the names: two that are cut short may look the same
    made = plots.figure(LINE * len(shown) + 62, x_title="hard inputs, %")
    made.add_scatter(x=shares, y=places, mode="markers", cliponaxis=False, marker={"color": plots.MARK_1, "size": 8}, error_x={
        "array": [high - share for high, share in zip(highs, shares, strict=True)], "thickness": 2, "width": 5, "color": plots.MARK_1,
        "arrayminus": [share - low for low, share in zip(lows, shares, strict=True)]},
        customdata=[f"{_plain(group['name'])}: {html.figures(share)} % hard ({html.interval(low, high)}), n = {group['rows']:,}"
                    for group, share, low, high in zip(shown, shares, lows, highs, strict=True)],
        hovertemplate="%{customdata}<extra></extra>")
    for place, share, low, high in zip(places, shares, lows, highs, strict=True):
        made.add_annotation(x=1, xref="paper", y=place, xanchor="left", xshift=8, showarrow=False,
                            text=f"<b>{html.figures(share)}</b>  {html.interval(low, high, 0)}")
    if whole["value"] is not None:
        made.add_vline(x=100 * whole["value"], line={"color": plots.GREY, "width": 1.5, "dash": "dot"})
    made.update_xaxes(showgrid=True, range=[0, min(100.0, max([*highs, 1.0]) * 1.05)], nticks=5)
    made.update_yaxes(showgrid=False, range=[len(shown) - 0.5, -0.5], ticklabelstandoff=6, tickvals=places,
                      ticktext=[_name(group) for group in shown])
    made.update_layout(margin={"l": 20, "r": 104, "t": 4, "b": 40})
    return made


def _name(group: Mapping[str, Any]) -> str:
    """"Aegis (n = 318)"; a long name keeps its two ends and has its n on a second line."""
    name = _plain(group["name"])
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME // 2 - 1]}…{name[-LONGEST_NAME // 2:]}"
    return f"{name}{'<br>' if len(name) > 14 else ' '}(n = {group['rows']:,})"


def _plain(text: Any) -> str:
    """Plotly reads tags in words, so there must be none."""
    return str(text).replace("<", "‹").replace(">", "›")


def weight_bars(weights: Sequence[tuple[float, int]]) -> Any:
    """Pairs of each weight."""
    made = plots.figure(220, x_title="weight (alpha)", y_title="pairs", bargap=0.4)
    names = [f"{weight:.3g}" for weight, _ in weights]
    counts = [count for _, count in weights]
    text = [f"{count:,}" for count in counts] if len(weights) <= MOST_LABELS else None
    made.add_bar(x=names, y=counts, marker={"color": plots.MARK_1}, text=text, textposition="outside", cliponaxis=False,
                 hovertemplate="weight %{x}: %{y:,} pairs<extra></extra>")
    made.update_xaxes(type="category", tickfont={"size": 12})
    made.update_yaxes(rangemode="tozero", nticks=4, range=[0, 1.18 * max(counts, default=1)])
    return made
