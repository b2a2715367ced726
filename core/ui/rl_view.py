"""What the RL page shows of a WaltzRL run, and what its clicks do; read from the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import gradio as gr
from markupsafe import Markup

from core.methods import UserError
from core.runs import Run
from core.ui import html, rl_plots
from core.ui.address import View, read_view, write_view
from core.ui.rl_episodes import FILTERS, PAGE, checked_place, episode_card, list_head, neighbour, table, wanted_of
from core.ui.rl_index import Ints, Records, records_of
from core.waltz.history import History
from core.waltz.ledger import EPISODES, LEDGER
from core.waltz.warnings import Check, checks

CLOSED = {"new": "", "from": "", "method": ""}
"""Without these in the address the form is folded away (core/ui/new_run.py reads the last two)."""
PARTS = ("warnings", "charts_head", "list_head", "fresh", "table", "episode")
"""What is drawn by us, in the order of the page."""
DROPS: dict[str, tuple[str, ...]] = {"outcome": ("page", "episode"), "side": ("page", "episode"), "iteration": ("page", "episode"),
                                     "page": ("episode",)}
"""What is forgotten when another filter or page is chosen."""


class Look(NamedTuple):
    """One view of a run, read once."""

    view: View
    run: Run
    records: Records
    config: Mapping[str, Any]
    found: Ints
    """Places of the episodes under the filters."""


def has_ledger(run: Run | None) -> bool:
    """Did two agents play in this run? Then its charts and episodes are shown."""
    return run is not None and ((run.dir / LEDGER).exists() or (run.dir / EPISODES).exists())


def form_is_open(view: View) -> bool:
    """Asked for, or the address brings settings for it."""
    return any(view.get(name) for name in CLOSED)


def look_at(run: Run, query: str) -> Look:
    """Read what is new in the run folder."""
    view, records = read_view(query), records_of(run.dir)
    return Look(view, run, records, run.config, records.episodes.find(wanted_of(view)))


def shown(look: Look) -> dict[str, str]:
    """The HTML of every part, by its name in PARTS."""
    history = look.records.history
    try:
        listed, opened = table(look.records, look.view, look.found), episode_card(look.records, look.view, look.found, look.config)
    except UserError as error:
        listed, opened = html.problem_strip(str(error)), Markup()
    return {"warnings": warnings_card(history, look.records.problem), "charts_head": rl_plots.card_head(history),
            "list_head": list_head(look.records, look.view), "fresh": "", "table": listed, "episode": opened}


def figures(look: Look) -> list[tuple[str, Any]]:
    """(head, figure) of each of CHARTS; ("", None) where the run has no such numbers."""
    history = look.records.history
    made = []
    for chart in rl_plots.CHARTS:
        figure = rl_plots.figure(history, chart) if len(history) else None
        made.append((rl_plots.head(history, chart) if figure is not None else "", figure))
    return made


# Warnings

SHAPES = {"fine": "tick", "warning": "alert", "unknown": "question"}


def warnings_card(history: History, problem: str = "") -> Markup:
    """Every check in a line, and each warning with its numbers and what to do."""
    found = checks(history)
    if not found and not problem:
        return Markup()
    now = history.stages[-1] if history.stages else 0
    wrong = [check for check in found if check.state == "warning"]
    about = "what can go wrong while the reward rises; a check speaks where 95 % intervals leave no doubt"
    head = html.card_header("Reward hacking?", about)
    strip = html.div(html.join([_mark(check) for check in found if check.stage == now]), "gw-checks")
    strips = [html.problem_strip(problem, "warning") if problem else None, *(_warning(check) for check in wrong)]
    return html.card(head, strip, *filter(None, strips))


def _mark(check: Check) -> Markup:
    return html.span(html.icon(SHAPES[check.state]) + html.span(html.element("b", check.title) + html.span(f" {check.numbers}")),
                     f"gw-check-{check.state} gw-checked")


def _warning(check: Check) -> Markup:
    words = html.element("b", f"{check.title}, from iteration {check.since:,} on (stage {check.stage}):") + html.span(f" {check.numbers}. ")
    return html.problem_strip(words + html.span(check.advice), "warning")


# What clicks do

def fresh_words(look: Look, drawn: int) -> str:
    """"16 new episodes", with a link that shows them; the list itself stays as it is while somebody reads."""
    new = len(look.records.episodes) - drawn
    if new <= 0:
        return ""
    return html.div(html.span(f"{new:,} new since the list was drawn", "gw-sub") + html.small_link("Show them", "refresh"), "gw-line")


def act(run: Run | None, query: str, word: str, value: str) -> str:
    """The view after a click; what goes wrong is said, and the view stays."""
    view = read_view(query)
    try:
        return _act(run, view, word, value)
    except UserError as error:
        gr.Warning(str(error))
        return query


def _act(run: Run | None, view: View, word: str, value: str) -> str:
    if word == "new":
        return write_view(view, **(CLOSED if form_is_open(view) else {"new": "1"}))
    if word == "clear":
        return write_view(view, **dict.fromkeys((*FILTERS, "page", "episode"), ""))
    if word in DROPS:
        return write_view(view, **{**dict.fromkeys(DROPS[word], ""), word: value})
    if run is None:
        return write_view(view)
    if word == "episode":
        return write_view(view, episode=checked_place(records_of(run.dir).episodes, value))
    if word == "step":
        look = look_at(run, write_view(view))
        place = neighbour(look.records.episodes, view, look.found, -1 if value == "-1" else 1)
        if place is not None:
            at = look.found.tolist().index(place)
            return write_view(view, episode=place, page=at // PAGE + 1 if at >= PAGE else "")
    return write_view(view)
