"""Small charts of a WaltzRL run: one number (or the same number of several texts) by iteration, with its latest value above."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from core.intervals import Interval
from core.ui import html, plots
from core.waltz.history import SHARES, History, stretches
from core.waltz.warnings import window_of

MOST_POINTS = 120
HEIGHT = 168
Point = tuple[float, float, float, float]
"""(iteration, mean, low, high)."""
COLOURS = (plots.MARK_1, plots.MARK_2, plots.MARK_3)


@dataclass(frozen=True)
class Chart:
    """What one small chart draws."""

    title: str
    lines: tuple[tuple[str, str], ...]
    """(name in the history, words); the first one has the band."""
    digits: int = 2
    signed: bool = False
    zero: bool = False
    """Is zero part of the axis?"""
    first: bool = True
    """Does it stand beside the board, or below with the rest?"""


CHARTS = (
    Chart("Good replies", (("conversation_reward", "last"), ("first_reply_reward", "first"))),
    Chart("Improvement (DIR)", (("dir", ""),), signed=True),
    Chart("Safety", (("safety", ""),)),
    Chart("Helpfulness", (("helpfulness", ""),)),
    Chart("Alignment", (("alignment", ""),)),
    Chart("Feedback labels right", (("label_accuracy", ""),)),
    Chart("Format right", (("format_rate", ""),)),
    Chart("Feedback triggers", (("trigger", "all"), ("trigger_benign", "benign"), ("trigger_harmful", "harmful"))),
    Chart("KL to the start", (("conversation kl", "conversation"), ("feedback kl", "feedback")), digits=3, zero=True),
    Chart("Reward of the feedback", (("feedback_reward", ""),), first=False),
    Chart("Unsafe", (("unsafe", "last reply"), ("unsafe_first", "first")), first=False),
    Chart("Over-refusal", (("overrefuse", "last reply"), ("overrefuse_first", "first")), first=False),
    Chart("Entropy, nats", (("conversation entropy", "conversation"), ("feedback entropy", "feedback")), zero=True, first=False),
    Chart("Length, tokens", (("reply_tokens", "reply"), ("revision_tokens", "revision"), ("feedback_tokens", "feedback")), digits=0,
          zero=True, first=False),
)
"""In the order of the page; those without numbers are not shown."""


def lines_of(history: History, chart: Chart) -> list[tuple[str, str]]:
    """The lines of a chart that this run has numbers for."""
    return [(name, words) for name, words in chart.lines if history.has(name)]


def head(history: History, chart: Chart) -> Markup:
    """Title, and each line's value over the last few iterations with its interval."""
    lines = lines_of(history, chart)
    parts = []
    for place, (name, words) in enumerate(lines):
        mark = html.span("", f"gw-dot gw-dot-{place + 1}", aria_hidden="true") if len(lines) > 1 else None
        parts.append(html.span(html.join([mark, html.span(words, "gw-sub") if words and len(lines) > 1 else None,
                                          value_of(history, chart, name)], " "), "gw-nowrap"))
    return html.element("h3", chart.title, "gw-mini-title") + html.div(html.join(parts, " "), "gw-mini-values")


def value_of(history: History, chart: Chart, name: str) -> Markup:
    """The number over the last window of the stage that is going on."""
    now = latest(history, name)
    if name in SHARES and now.value is not None and now.low is not None and now.high is not None:
        return html.number(100 * now.value, 100 * now.low, 100 * now.high, "%", digits=0)
    if now.value is None:  # a single observation has no interval
        mean = history.column(name).mean
        known = mean[mean == mean]
        return html.element("b", html.figures(float(known[-1]), chart.digits, chart.signed)) if len(known) else html.number(None)
    return html.number(now.value, now.low, now.high, digits=chart.digits, signed=chart.signed)


def latest(history: History, name: str) -> Interval:
    """A number over the last window."""
    _, first, last = history.parts()[-1]
    return history.pooled(name, max(first, last - window_of(history, first, last)), last)


def figure(history: History, chart: Chart) -> Any:
    """Means as lines, the spread of the first one as a band, the stages apart. None where the run has none of these numbers."""
    lines = lines_of(history, chart)
    if not lines:
        return None
    made = plots.figure(HEIGHT)
    share = lines[0][0] in SHARES
    for place, (name, words) in reversed(list(enumerate(lines))):  # the first line lies on top
        points = smoothed(points_of(history, name))
        if place == 0:
            _band(made, points)
        xs, ys = [point[0] for point in points], [point[1] for point in points]
        form = ":.0%" if share else f":.{chart.digits}f"
        line = {"color": COLOURS[place], "width": 1.6 if place else 2.2}
        made.add_scatter(x=xs, y=ys, mode="lines" if len(xs) > 1 else "markers", line=line,
                         hovertemplate=f"iteration %{{x:,.0f}}<br>{words or chart.title} %{{y{form}}}<extra></extra>")
    _stages(made, history)
    made.update_yaxes(nticks=4, tickformat=".0%" if share else None, rangemode="tozero" if chart.zero else "normal")
    made.update_xaxes(nticks=4, tickformat=",d", range=_range(history))
    made.update_layout(margin={"l": 34, "r": 8, "t": 6, "b": 22})
    return made


def points_of(history: History, name: str) -> list[Point]:
    """(iteration, mean, low, high) of equal stretches of each stage; low and high: the 95 % interval of a share, else one deviation."""
    found = []
    for _, first, last in history.parts():
        for begin, end in stretches(first, last, MOST_POINTS):
            pooled, deviation = history.pooled(name, begin, end), history.spread(name, begin, end)
            if deviation is None:
                continue
            mean, _, n = (part[begin:end] for part in history.column(name))
            value = float((mean[n > 0] * n[n > 0]).sum() / n.sum())
            low, high = (pooled.low, pooled.high) if name in SHARES else (value - deviation, value + deviation)
            found.append((float(history.iterations[end - 1]), value, value if low is None else low, value if high is None else high))
    return found


def smoothed(points: list[Point]) -> list[Point]:
    """Means and bounds over a window around each point: what single iterations of a few episodes do is mostly chance."""
    half = len(points) // 20
    if not half:
        return points
    xs, *rest = zip(*points, strict=True)
    return list(zip(xs, *(plots.smooth(values, half) for values in rest), strict=True))


def _band(made: Any, points: list[Point]) -> None:
    if len(points) < 2:
        return
    xs = [point[0] for point in points]
    made.add_scatter(x=[*xs, *reversed(xs)], y=[*(point[3] for point in points), *(point[2] for point in reversed(points))], fill="toself",
                     mode="none", fillcolor="rgba(42,140,145,0.22)", hoverinfo="skip")


def _stages(made: Any, history: History) -> None:
    """A dotted line where the second stage begins."""
    for _, first, _ in history.parts()[1:]:
        made.add_vline(x=history.iterations[first] - 0.5, line={"color": plots.GREY, "width": 1.2, "dash": "dot"})


def _range(history: History) -> list[float]:
    first, last = history.iterations[0], history.iterations[-1]
    air = max(0.5, 0.02 * (last - first))
    return [first - air, last + air]


def card_head(history: History) -> Markup:
    """Title of the charts, and how they are to be read."""
    if not len(history):
        words = "What every reward term, the triggers and the labels do stands here, iteration by iteration, as soon as one is done."
        return html.card_header("Reward terms") + html.empty_state("No iteration yet", words)
    stages = "; a dotted line parts the stages" if len(history.parts()) > 1 else ""
    words = f"by iteration, {len(history):,} so far; smoothed; the band is the 95 % interval of a share, else one deviation{stages}"
    return html.card_header("Reward terms", words)
