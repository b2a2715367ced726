"""The board on the RL page: where the agents of a run stand, unsafe against over-refusal, as the newest evaluation that has them says."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from core.files import read_json
from core.methods import Stage, UserError
from core.refs import parse_model_ref
from core.runs import Run, Workspace, command_line
from core.ui import html
from core.ui.agents_cards import board_legend
from core.ui.agents_plot import board_figure
from core.ui.evaluation_agents import board_of, is_agent_evaluation
from core.ui.method_panel import Updates
from core.ui.theme import block
from core.waltz.eval_board import Board
from core.waltz.protocol import AGENTS

LOOK_EVERY = 8.0
"""Seconds between two looks for a new evaluation: each one reads the state of every run."""
METHOD = "agent-eval"


class BoardCard:
    """Figure and legend, or how to get them."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def draw(self) -> None:
        """Components; the caller opens the column they stand in."""
        with gr.Column(elem_classes="gw-card gw-board", scale=5, min_width=300):
            gr.HTML(html.card_header("Safe and still helpful?", "unsafe against over-refusal"), apply_default_css=False)
            self.plot = gr.Plot(visible=False, show_label=False, container=False, elem_classes="gw-plot")
            self.words = block(elem_classes="gw-stack")

    @property
    def parts(self) -> list[Any]:
        """What `shown` fills."""
        return [self.plot, self.words]

    def shown(self, run: Run, drawn: dict[str, Any]) -> tuple[Updates, dict[str, Any]]:
        """(updates, what is drawn then). Nothing where the last look at this run was a moment ago, or found the same."""
        same_run = drawn.get("board_run") == run.id
        if same_run and time.time() - drawn["board_t"] < LOOK_EVERY:
            return {}, drawn
        evaluations = self._evaluations()
        chosen = next((one for one in evaluations if run.id in _runs_in(one.dir / "report.json")), None)
        key = [one.id for one in evaluations] if chosen else references(run)
        now = {**drawn, "board_run": run.id, "board_t": time.time(), "board": key}
        if same_run and drawn["board"] == key:
            return {}, now
        if chosen is None:
            return {self.plot: gr.Plot(None, visible=False), self.words: empty(run)}, now
        board = board_of(chosen, evaluations)
        return {self.plot: gr.Plot(board_figure(board, trail_of(board, run.id)), visible=True), self.words: legend(board, chosen)}, now

    def _evaluations(self) -> list[Run]:
        """Finished evaluations of agents, newest first."""
        runs = [run for run in self.workspace.runs() if run.status.get("stage") == Stage.EVALUATION]
        return [run for run in runs if run.state == "succeeded" and is_agent_evaluation(run)]


def _runs_in(report: Path) -> frozenset[str]:
    """Runs whose agents an evaluation asked."""
    try:
        return _runs_of(report, report.stat().st_mtime_ns)
    except FileNotFoundError:  # deleted meanwhile
        return frozenset()


@lru_cache(maxsize=1024)
def _runs_of(report: Path, changed: int) -> frozenset[str]:  # noqa: ARG001 - the time makes the answer current
    entries = (read_json(report, {}) or {}).get("entries", [])
    return frozenset(filter(None, (_run_of(entry["model"]) for entry in entries)))


def _run_of(model: str) -> str:
    """The run whose agents a reference names, with checkpoint or without; "" for other models."""
    try:
        ref = parse_model_ref(model)
    except UserError:  # a folder that is gone
        return ""
    return ref.name if ref.kind == "waltz" else ""


def trail_of(board: Board, run_id: str) -> list[int]:
    """Numbers of the points that a run left on its way: its checkpoints in order, and what it made in the end."""
    own = [point for point in board.points if point.variant == "feedback" and _run_of(point.key) == run_id]
    return [point.number for point in sorted(own, key=lambda point: _iteration(point.key))]


def _iteration(key: str) -> float:
    checkpoint = parse_model_ref(key).checkpoint
    return float(checkpoint.rpartition("-")[2]) if checkpoint else float("inf")


def references(run: Run) -> list[str]:
    """What an evaluation of this run would ask: what it began with, its checkpoints, and what it made in the end."""
    ends = [f"@{folder.name}" for folder in run.checkpoints() if _whole(folder)]
    if run.state == "succeeded" and _whole(run.dir):
        ends.append("")
    start = str(run.config.get("model") or "")
    return [*filter(None, [start]), *(f"waltz:{run.id}{end}" for end in ends)]


def _whole(folder: Path) -> bool:
    return all((folder / role).is_dir() for role in AGENTS)


def legend(board: Board, chosen: Run) -> Markup:
    """Who the numbers in the figure are, shapes, and where the rest is."""
    names = [html.span(html.element("b", str(point.number)) + html.span(f" {point.title}"), "gw-key") for point in board.points]
    link = html.link(f"{chosen.name}: numbers, gates, exchanges", f"/evaluation?show=agents&run={chosen.id}")
    return html.div(html.join(names), "gw-keys gw-board-names") + board_legend(board, chosen.report or {}) + html.div(link)


def empty(run: Run) -> Markup:
    """Why there is no board yet, and how to get one."""
    models = references(run)
    own = [model for model in models if _run_of(model) == run.id]
    link = html.link("Evaluate agents", f"/evaluation?method={METHOD}")
    text = "Here stands how often these agents reply unsafely and how often they refuse without need, with intervals and the Pareto " \
           "front, beside what they began with. An agent evaluation measures it."
    if not own:
        return html.empty_state("Not measured yet", f"{text} This run has written no checkpoint yet; the first one can be evaluated "
                                "while the training goes on.", link)
    settings = {"models": models, **{name: run.config[name] for name in ("data", "judge") if run.config.get(name)}}
    return html.empty_state("Not measured yet", f"{text} Choose these models in its form, or use the command.", link) + \
        html.code_block(command_line(METHOD, settings))
