"""RL: the form and the live run as on every stage page; below, what two agents earned in a WaltzRL run and every exchange of theirs."""

from __future__ import annotations

import time
from typing import Any

import gradio as gr

from core.methods import Stage
from core.runs import Run, Workspace
from core.ui import html, rl_plots, rl_try, rl_view
from core.ui.address import query_of, read_view, view_box, write_view
from core.ui.method_panel import Updates
from core.ui.new_run import draw_new_run
from core.ui.rl_board import BoardCard
from core.ui.rl_episodes import SIDE_CHOICES
from core.ui.rl_view import has_ledger, look_at
from core.ui.stage_page import TITLES, LiveRuns
from core.ui.theme import REFRESH, block, clicked, on_load

CHARTS_EVERY = 8.0
"""Seconds between two redraws of the charts of a live run: Gradio rebuilds them whole."""
FIRST = sum(chart.first for chart in rl_plots.CHARTS)
"""Charts beside the board."""
NOT_DRAWN = -1
"""In place of a number of points."""


def build(workspace: Workspace) -> None:
    """Put the page on the route that is being built."""
    title, subtitle = TITLES[Stage.RL]
    view = view_box()
    header = gr.HTML(html.page_header(title, subtitle), apply_default_css=False)
    live = RLRuns(workspace, Stage.RL, view, header)
    with gr.Row(elem_classes="gw-columns"):
        with gr.Column(scale=5, min_width=300, elem_classes="gw-left") as form_box:
            draw_new_run(workspace, workspace.plugins.of_stage(Stage.RL), view)
        with gr.Column(scale=7, min_width=300, elem_classes="gw-right"):
            live.draw()
    unfold = block(elem_classes="gw-slot")
    live.draw_below()
    live.listen()
    section = WaltzSection(live, BoardCard(workspace), view, form_box, unfold)
    section.draw()
    rl_try.TryIt(workspace, live.current).draw(section.parts["episode"], view)


class RLRuns(LiveRuns):
    """The live run; one that has a ledger brings its own charts."""

    def current(self, query: str) -> Run | None:
        """The run that the page is about."""
        return self._shown(read_view(query).get("run", ""), self._runs()[1])

    def _plot(self, run: Run, drawn: dict[str, Any] | None) -> Updates:
        if not has_ledger(run):
            return super()._plot(run, drawn)
        if drawn is not None and (drawn["run"], drawn["points"]) == (run.id, NOT_DRAWN):
            return {}
        return {self.plot: gr.Plot(visible=False), self.drawn: {"run": run.id, "points": NOT_DRAWN, "t": 0.0}}


class WaltzSection:
    """Warnings, charts and episodes of the run that the page is about; nothing where it has no ledger."""

    def __init__(self, live: RLRuns, board: BoardCard, view: gr.Textbox, form_box: gr.Column, unfold: gr.HTML) -> None:
        self.live, self.board, self.view, self.form_box, self.unfold = live, board, view, form_box, unfold

    def draw(self) -> None:
        """Components and events."""
        parts: dict[str, gr.HTML] = {}
        self.heads: list[gr.HTML] = []
        self.plots: list[gr.Plot] = []
        self.slots: list[gr.Column] = []
        with gr.Column(visible=False, elem_classes="gw-plain gw-waltz") as self.box:
            parts["warnings"] = block(elem_classes="gw-slot")
            with gr.Row(elem_classes="gw-columns"):
                with gr.Column(elem_classes="gw-card", scale=7, min_width=300):
                    parts["charts_head"] = block()
                    self._draw_charts(first=True)
                self.board.draw()
            with gr.Column(visible=False, elem_classes="gw-card") as self.rest:
                gr.HTML(html.card_header("More by iteration", "what the feedback is paid, faults of the replies, variety, length"),
                        apply_default_css=False)
                self._draw_charts(first=False)
            with gr.Column(elem_classes="gw-card"):
                parts["list_head"] = block(elem_classes="gw-stack")
                with gr.Row(elem_classes="gw-form gw-rl-filters"):
                    self.side = gr.Dropdown(SIDE_CHOICES, value="", label="Prompts", interactive=True, filterable=False)
                    self.iteration = gr.Textbox(placeholder="340, or 300-340", label="Iterations", interactive=True, max_lines=1)
                parts["fresh"] = block(elem_classes="gw-slot")
                parts["table"] = block(elem_classes="gw-stack")
            parts["episode"] = block(elem_classes="gw-slot")
        self.parts = parts
        self.drawn = gr.State({})
        self._listen()

    def _draw_charts(self, first: bool) -> None:
        """A grid of slots, in the order of CHARTS, which has those of the first grid first."""
        with gr.Column(elem_classes="gw-minis" if first else "gw-minis gw-minis-wide"):
            for _ in [chart for chart in rl_plots.CHARTS if chart.first == first]:
                with gr.Column(visible=False, elem_classes="gw-mini", min_width=0) as slot:
                    self.heads.append(block())
                    self.plots.append(gr.Plot(show_label=False, container=False))
                self.slots.append(slot)

    def _listen(self) -> None:
        silent: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
        everything = [self.box, self.form_box, self.unfold, *self.parts.values(), *self.slots, self.rest, *self.heads, *self.plots,
                      *self.board.parts, self.side, self.iteration, self.drawn]
        on_load(self._open, None, everything)
        self.view.change(self._redraw, [self.view, self.drawn], everything, **silent)
        gr.Timer(REFRESH).tick(self._tick, [self.view, self.drawn], everything, **silent)
        for part in (self.unfold, *self.parts.values()):
            part.select(self._act, [self.view, self.drawn], [self.view, self.drawn], trigger_mode="multiple", **silent).then(
                self._redraw, [self.view, self.drawn], everything, **silent)
        self.side.input(lambda value, query: _narrowed(query, side=value), [self.side, self.view], self.view, **silent)
        gr.on([self.iteration.submit, self.iteration.blur], lambda value, query: _narrowed(query, iteration=(value or "").strip()),
              [self.iteration, self.view], self.view, **silent)

    def _open(self, request: gr.Request) -> Updates:
        return self._redraw(query_of(request), {})

    def _act(self, query: str, drawn: dict[str, Any], event: gr.SelectData) -> tuple[str, dict[str, Any]]:
        word, value = clicked(event)
        changed = rl_view.act(self.live.current(query), query, word, value)
        return changed, {**drawn, "query": None} if word == "refresh" else drawn

    def _redraw(self, query: str, drawn: dict[str, Any]) -> Updates:
        """The whole section for a view. Charts only where they would be others."""
        run = self.live.current(query)
        key = f"{run.id if run else ''}?{query}"
        if drawn.get("query") == key:
            return {self.drawn: drawn}  # the change of the view has drawn it already
        view = read_view(query)
        if run is None or not has_ledger(run):
            return {self.box: gr.Column(visible=False), self.form_box: gr.Column(visible=True), self.unfold: "",
                    self.drawn: {"query": key, "run": run.id if run else ""}}
        look = look_at(run, query)
        is_open = rl_view.form_is_open(view)
        buttons = [html.small_button("Close the form" if is_open else "New run", "new"),
                   html.button_link("Try it", "#try-it", filled=not is_open)]
        strings = rl_view.shown(look)
        updates: Updates = {self.box: gr.Column(visible=True), self.form_box: gr.Column(visible=is_open),
                            self.unfold: html.div(html.join(buttons), "gw-buttons"),
                            self.side: view.get("side", ""), self.iteration: view.get("iteration", ""),
                            **{part: strings[name] for name, part in self.parts.items()}}
        iterations = len(look.records.history)
        if (drawn.get("run"), drawn.get("iterations")) != (run.id, iterations):
            updates |= self._charts(look)
        else:
            iterations = drawn["iterations"]
        board, drawn = self.board.shown(run, drawn)
        return {**updates, **board, self.drawn: {**drawn, "query": key, "run": run.id, "iterations": iterations, "t": time.time(),
                                                 "stamp": list(look.records.stamp), "episodes": len(look.records.episodes)}}

    def _charts(self, look: rl_view.Look) -> Updates:
        updates: Updates = {}
        figures = rl_view.figures(look)
        for slot, head, plot, (words, figure) in zip(self.slots, self.heads, self.plots, figures, strict=True):
            updates[slot] = gr.Column(visible=figure is not None)
            if figure is not None:
                updates |= {head: words, plot: figure}
        updates[self.rest] = gr.Column(visible=any(figure is not None for _, figure in figures[FIRST:]))
        return updates

    def _tick(self, query: str, drawn: dict[str, Any]) -> Updates:
        """New iterations redraw charts and warnings; the list waits for a click while it is read."""
        if not drawn:  # the page is still being opened, and its address is not known here yet
            return {self.drawn: gr.skip()}
        run = self.live.current(query)
        if (run.id if run else "") != drawn.get("run", "") or has_ledger(run) != ("stamp" in drawn):
            return self._redraw(query, {})
        if run is None or "stamp" not in drawn:
            return {self.drawn: gr.skip()}
        look = look_at(run, query)
        if list(look.records.stamp) == drawn["stamp"]:
            board, now = self.board.shown(run, drawn)
            return {**board, self.drawn: gr.skip() if now is drawn else now}
        was_empty = not drawn["episodes"] or look.records.episodes.renewed != drawn["stamp"][2] or look.records.episodes.file.behind
        if was_empty:
            return self._redraw(query, {**drawn, "query": None})
        board, drawn = self.board.shown(run, drawn)
        updates: Updates = {**board, self.parts["fresh"]: rl_view.fresh_words(look, drawn["episodes"])}
        iterations = len(look.records.history)
        if iterations != drawn["iterations"] and time.time() - drawn["t"] > CHARTS_EVERY:
            updates |= {self.parts["warnings"]: rl_view.warnings_card(look.records.history, look.records.problem),
                        self.parts["charts_head"]: rl_plots.card_head(look.records.history), **self._charts(look)}
            drawn = {**drawn, "iterations": iterations, "t": time.time(), "stamp": list(look.records.stamp)}
        return {**updates, self.drawn: drawn}


def _narrowed(query: str, **filters: str | None) -> str:
    """The view under another filter; the same one where the field was only left."""
    view = read_view(query)
    if all(view.get(name, "") == (value or "") for name, value in filters.items()):
        return query
    return write_view(view, **{**dict.fromkeys(("page", "episode"), ""), **filters})
