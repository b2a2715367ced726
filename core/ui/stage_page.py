"""The page of one stage: the form left, the live run right, what it writes below. Any plugin's method appears here by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import gradio as gr

from core import jobs
from core.methods import Stage, UserError
from core.runs import Run, State, Workspace
from core.ui import html, run_card, samples, theme
from core.ui.address import query_of, read_view, view_box, write_view
from core.ui.method_panel import PRIVATE, Updates
from core.ui.new_run import draw_new_run

TITLES = {Stage.TRAINING: ("Training", "Teach a model to reason about safety before it labels."),
          Stage.MINING: ("Mining", "Find the inputs the guard is unsure about: right in some samples, wrong in others."),
          Stage.RL: ("RL", "Learning from reward: a guard from right labels, two agents from what a revision gained."),
          Stage.EVALUATION: ("Evaluation", "The same rows for every model, an interval on every number."),
          Stage.DATA: ("Data", "Bring prompts and labels in, and see what they hold.")}
_TO_THE_TOP = """(view) => {
    const run = new URLSearchParams(view).get('run');
    if (run !== window.guardwaltzRun) window.scrollTo(0, 0);
    window.guardwaltzRun = run;
}"""
"""A run was started or opened: its card stands at the top, the button that did it far below."""
LOOK_EVERY = 0.7
PLOT_EVERY = 5.0
"""Seconds between two redraws of the chart: Gradio rebuilds it whole."""


def build(workspace: Workspace, stage: Stage) -> None:
    """Put the page on the route that is being built."""
    title, subtitle = TITLES[stage]
    view = view_box()
    header = gr.HTML(html.page_header(title, subtitle), apply_default_css=False)
    with gr.Row(elem_classes="gw-columns"):
        with gr.Column(scale=5, min_width=300, elem_classes="gw-left"):
            draw_new_run(workspace, workspace.plugins.of_stage(stage), view)
        with gr.Column(scale=7, min_width=300, elem_classes="gw-right"):
            live = LiveRuns(workspace, stage, view, header)
            live.draw()
    live.draw_below()
    live.listen()


class LiveRuns:
    """The right half of a stage page: the run of the address, else the newest active one, else the newest."""

    def __init__(self, workspace: Workspace, stage: Stage, view: gr.Textbox, header: gr.HTML) -> None:
        self.workspace = workspace
        self.stage = stage
        self.view = view
        self.header = header
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[float, list[Run], dict[str, State]]] = {}
        """{who looks: when, and what was there}."""

    def draw(self) -> None:
        """Card of the run, list of the others."""
        with gr.Column(elem_classes="gw-card gw-live"):
            self.top = gr.HTML(apply_default_css=False)
            self.plot = gr.Plot(visible=False, show_label=False, container=False, elem_classes="gw-plot")
            self.log = gr.HTML(apply_default_css=False, elem_classes="gw-slot")
            self.actions = theme.block(elem_classes="gw-slot")
            self.notice = gr.HTML(apply_default_css=False, elem_classes="gw-slot")
        with gr.Column(elem_classes="gw-card"):
            self.others = theme.block()

    def draw_below(self) -> None:
        """What the run writes, at full width."""
        with gr.Column(elem_classes="gw-card gw-samples"):
            self.samples = gr.HTML(apply_default_css=False)

    def listen(self) -> None:
        """Events: the page is opened, time went by, a button was pressed."""
        self.drawn = gr.State(None)
        parts = [self.header, self.top, self.plot, self.log, self.actions, self.others, self.samples, self.drawn]
        seen = [self.view, self.drawn]
        gr.Timer(theme.REFRESH).tick(self._look, seen, parts, **PRIVATE)
        self.view.change(self._look, seen, parts, **PRIVATE)
        self.view.change(None, self.view, None, js=_TO_THE_TOP, api_visibility="private")
        theme.on_load(self._open, None, [self.view, *parts])
        for block in (self.actions, self.others):
            block.select(self._act, self.view, [self.view, self.notice], **PRIVATE).then(self._look, seen, parts, **PRIVATE)

    def _open(self, request: gr.Request) -> Updates:
        query = query_of(request)
        return {self.view: query, **self._look(query, None)}

    def _act(self, view: str, event: gr.SelectData) -> tuple[str, str]:
        """Stop, stop now, resume, or show another run."""
        act, run_id = theme.clicked(event)
        try:
            run = self.workspace.run(run_id)
            if act in ("stop", "force"):
                jobs.stop(self.workspace, run, force=act == "force")
            elif act == "resume":
                jobs.resume(self.workspace, run)
        except UserError as error:
            return view, html.problem_strip(str(error))
        self._seen = {}  # look again at once
        return (write_view({}, run=run_id) if act in ("open", "resume") else view), ""

    def _runs(self) -> tuple[list[Run], dict[str, State]]:
        """Runs of this stage, newest first, and their states. One look at the disk serves all browsers of one viewer for a second."""
        viewer, now = self.workspace.access.viewer(), time.monotonic()
        with self._lock:
            looked, runs, states = self._seen.get(viewer, (-LOOK_EVERY, [], {}))
            if now - looked > LOOK_EVERY:
                runs = [run for run in self.workspace.runs() if run.status.get("stage") == self.stage.value]
                runs = [run for run in runs if not run.labels["archived"]]  # those stay on the Runs page
                states = {run.id: run.state for run in runs}
                self._seen = {name: seen for name, seen in self._seen.items() if now - seen[0] <= LOOK_EVERY}
                self._seen[viewer] = time.monotonic(), runs, states
            return runs, states

    def _shown(self, wanted: str, states: Mapping[str, str]) -> Run | None:
        """The run asked for; else the newest running one, the next queued one, the newest one."""
        if not wanted:
            running = [name for name, state in states.items() if state == "running"]
            queued = [name for name, state in states.items() if state == "queued"]
            wanted = next(iter([*running, *reversed(queued), *states]), "")
        try:
            return self.workspace.run(wanted) if wanted else None
        except UserError:
            return None

    def _look(self, view: str, drawn: dict[str, Any] | None) -> Updates:
        """Read the folders and say what is there: the same strings while nothing changed."""
        (runs, states), wanted = self._runs(), read_view(view).get("run", "")
        run = self._shown(wanted, states)
        top_level = [item for item in runs if not item.status.get("parent")]
        shown: Updates = {
            self.header: html.page_header(*TITLES[self.stage], note=_lane_words(states)),
            self.others: run_card.others(top_level, self.stage.value, run.id if run else "", self.workspace)}
        if run is None:
            return {**shown, self.top: _nothing(self.stage, wanted), self.log: "", self.actions: "", self.samples: "",
                    self.plot: gr.Plot(visible=False), self.drawn: None}
        shown |= {self.top: run_card.top(run), self.log: run_card.log(run), self.actions: run_card.actions(run, self.workspace),
                  self.samples: samples.cards(run)}
        return {**shown, **self._plot(run, drawn)}

    def _plot(self, run: Run, drawn: dict[str, Any] | None) -> Updates:
        """The chart, only when it has new points and at most every few seconds: Gradio rebuilds it whole."""
        same = drawn is not None and drawn["run"] == run.id
        if drawn is not None and same and time.time() - drawn["t"] < PLOT_EVERY:
            return {}
        points = run_card.points(run)
        if drawn is not None and same and drawn["points"] == points:
            return {}
        figure = run_card.curve(run)
        plot = gr.Plot(visible=False) if figure is None else gr.Plot(figure, visible=True)
        return {self.plot: plot, self.drawn: {"run": run.id, "points": points, "t": time.time()}}


def _lane_words(states: Mapping[str, str]) -> str:
    counted = {word: sum(state == word for state in states.values()) for word in ("running", "queued")}
    return ", ".join(f"{count} {word}" for word, count in counted.items() if count)


def _nothing(stage: Stage, wanted: str) -> str:
    words = TITLES[stage][0]
    if wanted:
        return html.empty_state(f"There is no run {wanted}", "It was deleted, or the address is from another machine.",
                                html.link("All runs", "/runs"))
    return html.empty_state("No run yet", f"The live card of {'an RL' if words == 'RL' else 'a ' + words.lower()} run stands here: "
                            "progress, curve, log and Stop. Fill the form and start one; it goes on when you close this tab.")
