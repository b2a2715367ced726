"""The board as a figure: unsafe against over-refusal with both intervals, the Pareto front, the goal, and what the paper published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.ui import html, plots
from core.waltz.eval_board import PUBLISHED, Board, Point, front

GOAL = (20.0, 10.0)
"""Over-refusal and unsafe, in percent: the seeds' gates."""
HEIGHT = 400
PAIR, PLAIN = (plots.MARK_1, "circle"), (plots.MARK_2, "square")
"""Colour and shape: a pair of agents with its feedback agent; a model without one. A pair's agent alone: the open shape."""
BAR = {"thickness": 2, "width": 0}


def board_figure(board: Board, trail: Sequence[int] = ()) -> Any:
    """Lower left is better. A point carries its number in the table. trail: numbers of points that a dotted line joins, in this order."""
    reach = [100 * point.overrefuse[2] for point in board.points], [100 * point.unsafe[2] for point in board.points]
    right = _edge([*reach[0], GOAL[0], *(100 * one.overrefuse for one in PUBLISHED)])
    top = _edge([*reach[1], GOAL[1], *(100 * one.unsafe for one in PUBLISHED)])
    made = plots.figure(HEIGHT, x_title="over-refusal on benign prompts, %", y_title="unsafe replies to harmful prompts, %")
    made.add_shape(type="rect", x0=0, y0=0, x1=GOAL[0], y1=GOAL[1], fillcolor="#3B8F5A", opacity=0.13, line_width=0, layer="below")
    made.add_annotation(x=0, y=GOAL[1], text="goal", showarrow=False, xanchor="left", yanchor="top", xshift=4, yshift=-1)
    _front(made, front(board.points), right, top)
    _trail(made, [point for number in trail for point in board.points if point.number == number])
    for point in sorted(board.points, key=lambda one: not one.checkpoint):  # the small ones first, below the others
        _add(made, point)
    _published(made)
    made.update_xaxes(range=[-0.02 * right, right], showgrid=True, nticks=7)
    made.update_yaxes(range=[-0.02 * top, top], nticks=7)
    made.update_layout(margin={"l": 52, "r": 10, "t": 8, "b": 48})
    return made


def percents(triple: tuple[float, float, float]) -> tuple[float, float, float]:
    """value, low, high as shares, in percent."""
    return 100 * triple[0], 100 * triple[1], 100 * triple[2]


def _edge(values: Sequence[float]) -> float:
    return min(103.0, 1.06 * max(values))


def _add(made: Any, point: Point) -> None:
    colour, symbol = PLAIN if point.variant == "plain" else PAIR
    across, up = percents(point.overrefuse), percents(point.unsafe)
    faint = 0.45 if point.checkpoint else 1.0
    words = (f"{point.number} {_plain(point.title)}<br>"
             f"unsafe {html.figures(up[0])} % ({html.interval(up[1], up[2])}), n = {point.n_harmful:,}<br>"
             f"over-refusal {html.figures(across[0])} % ({html.interval(across[1], across[2])}), n = {point.n_benign:,}")
    made.add_scatter(x=[across[0]], y=[up[0]], mode="markers", opacity=faint, cliponaxis=False, hovertemplate=words + "<extra></extra>",
                     marker={"color": colour, "size": 7 if point.checkpoint else 11, "line": {"color": colour, "width": 2},
                             "symbol": symbol + ("-open" if point.variant == "alone" else "")},
                     error_x=_bar(across, colour), error_y=_bar(up, colour))
    made.add_annotation(x=across[0], y=up[0], text=f"<b>{point.number}</b>", showarrow=False, xanchor="left", yanchor="bottom", xshift=6,
                        yshift=3)


def _bar(triple: tuple[float, float, float], colour: str) -> dict[str, Any]:
    value, low, high = triple
    return {**BAR, "color": _see_through(colour), "array": [high - value], "arrayminus": [value - low]}


def _front(made: Any, points: Sequence[Point], right: float, top: float) -> None:
    """A step line: everything above and right of it is beaten by a point on it."""
    if not points:
        return
    xs, ys = [100 * points[0].overrefuse[0]], [top]
    for point in points:
        xs += [100 * point.overrefuse[0]] * 2
        ys += [ys[-1], 100 * point.unsafe[0]]
    made.add_scatter(x=[*xs, right], y=[*ys, ys[-1]], mode="lines", line={"color": plots.MARK_1, "width": 1.6}, opacity=0.55,
                     hoverinfo="skip")


def _trail(made: Any, points: Sequence[Point]) -> None:
    """The way of one training."""
    if len(points) < 2:
        return
    made.add_scatter(x=[100 * point.overrefuse[0] for point in points], y=[100 * point.unsafe[0] for point in points], mode="lines",
                     line={"color": plots.GREY, "width": 1.4, "dash": "dot"}, hoverinfo="skip")


def _published(made: Any) -> None:
    start, end = PUBLISHED
    made.add_scatter(x=[100 * one.overrefuse for one in PUBLISHED], y=[100 * one.unsafe for one in PUBLISHED], mode="markers",
                     marker={"symbol": "diamond-open", "size": 12, "color": plots.GREY, "line": {"width": 2}},
                     customdata=[f"{one.title}, published: unsafe {100 * one.unsafe:.1f} %, over-refusal {100 * one.overrefuse:.1f} %, "
                                 "no interval given" for one in PUBLISHED], hovertemplate="%{customdata}<extra></extra>")
    made.add_annotation(x=100 * start.overrefuse, y=100 * start.unsafe, text=start.title, showarrow=False, yanchor="top", yshift=-9,
                        xanchor="right", xshift=16)
    made.add_annotation(x=100 * end.overrefuse, y=100 * end.unsafe, text=end.title, showarrow=False, xanchor="left", xshift=10)


def _see_through(colour: str) -> str:
    red, green, blue = (int(colour[place:place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.75)"


def _plain(text: str) -> str:
    """Plotly reads tags in words, so there must be none."""
    return text.replace("<", "‹").replace(">", "›")
