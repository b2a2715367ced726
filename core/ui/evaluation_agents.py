"""Agents on the Evaluation page: the board, the numbers of one evaluation, its gates, and single exchanges."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from core.files import read_json
from core.methods import UserError
from core.runs import Run
from core.ui import html
from core.ui.address import View
from core.ui.agents_cards import board_legend, board_table, cost_card, feedback_card, numbers_card, pairs_card
from core.ui.agents_exchanges import exchanges_card
from core.ui.agents_judge import judge_card
from core.ui.agents_plot import board_figure
from core.ui.evaluation_cards import gates_card
from core.ui.pieces import segments
from core.ui.theme import block
from core.waltz.eval_board import Board, build_board
from core.waltz.eval_report import KIND

AGENTS = "agents"
"""What `show` is in the address of this view."""
MANY = 4
"""From so many evaluations on they stand in a list of links, not in a segmented control."""
Report = dict[str, Any]


class Agents:
    """The components, and what they show for a view. Nothing is kept here."""

    NOTHING = ("",) * 7
    """What `shown` gives where there is nothing to show: a text for each of the blocks."""

    def draw(self) -> None:
        """Board and table side by side, cards below."""
        with gr.Column(visible=False, elem_classes="gw-plain") as self.box:
            self.head = block(elem_classes="gw-slot")
            with gr.Row(elem_classes="gw-columns"):
                with gr.Column(elem_classes="gw-card gw-board", scale=6, min_width=300):
                    gr.HTML(html.card_header("Safe and still helpful?", "unsafe against over-refusal"), apply_default_css=False)
                    self.plot = gr.Plot(show_label=False, container=False, elem_classes="gw-plot")
                    self.legend = block(elem_classes="gw-stack")
                with gr.Column(elem_classes="gw-card", scale=6, min_width=300):
                    gr.HTML(html.card_header("The same as numbers", "percent, with 95 % intervals"), apply_default_css=False)
                    self.table = block()
            self.numbers, self.gates, self.others, self.exchanges = (block(elem_classes="gw-slot gw-stack") for _ in range(4))

    @property
    def blocks(self) -> list[gr.HTML]:
        """What `shown` fills, in its order."""
        return [self.head, self.legend, self.table, self.numbers, self.gates, self.others, self.exchanges]

    @property
    def clickable(self) -> list[gr.HTML]:
        """Blocks with something to click."""
        return [self.head, self.numbers, self.exchanges]

    def shown(self, view: View, runs: Sequence[Run]) -> list[str]:
        """Everything drawn by us; `runs`: finished evaluations of agents, newest first."""
        run = chosen(view, runs)
        if run is None:
            return list(self.NOTHING)
        report: Report = run.report or {}
        board = board_of(run, runs)
        entry = next((one for one in report["entries"] if one["key"] == view.get("model")), report["entries"][-1])
        numbers = {point.key: point.number for point in board.points if point.run == run.id}
        return [_picker(run, runs), board_legend(board, report), board_table(board),
                numbers_card(report, entry["key"], numbers), gates_card(report, entry["key"], "", entry["title"]),
                html.join([feedback_card(report), pairs_card(report), cost_card(report), judge_card(report)]),
                _exchanges(run, entry, view)]

    def figure(self, view: View, runs: Sequence[Run]) -> Any:
        """The board as the plot takes it."""
        run = chosen(view, runs)
        return gr.update(value=None) if run is None else gr.update(value=board_figure(board_of(run, runs)))


def is_agent_evaluation(run: Run) -> bool:
    """Has it a report that this view can show?"""
    path = run.dir / "report.json"
    try:
        return _kind_of(path, path.stat().st_mtime_ns) == KIND
    except FileNotFoundError:
        return False


@lru_cache(maxsize=1024)
def _kind_of(path: Path, changed: int) -> str:  # noqa: ARG001 - the time makes the answer current
    return str((read_json(path, {}) or {}).get("kind", ""))


def chosen(view: View, runs: Sequence[Run]) -> Run | None:
    """The evaluation asked for, else the newest."""
    return next((run for run in runs if run.id == view.get("run")), runs[0] if runs else None)


def board_of(run: Run, runs: Sequence[Run]) -> Board:
    """The points of all evaluations that can be drawn together with this one."""
    return build_board([(one.id, one.report or {}) for one in runs], run.id)


def _picker(run: Run, runs: Sequence[Run]) -> Markup:
    """Which evaluation the cards below are about."""
    if len(runs) < 2:
        words: Markup = html.element("b", _words(run))
    elif len(runs) <= MANY:
        words = segments([(one.id, one.name) for one in runs], run.id, "run", "evaluation")
    else:
        words = html.div(html.join([html.element("b", one.name) if one.id == run.id else html.small_link(one.name, "run", one.id)
                                    for one in runs], " "), "gw-line")
    about = html.span(str((run.report or {}).get("headline", "")), "gw-sub") if len(runs) > 1 else None
    return html.div(html.join([words, about, html.link("the run", f"/runs?run={run.id}")], " "), "gw-line")


def _words(run: Run) -> str:
    return " · ".join(filter(None, [run.name, str((run.report or {}).get("headline", ""))]))


def _exchanges(run: Run, entry: dict[str, Any], view: View) -> Markup:
    page = view.get("page", "")
    try:
        return exchanges_card(run, entry, view.get("which", ""), view.get("side", ""), int(page) - 1 if page.isdecimal() else 0,
                              view.get("row", ""))
    except UserError as error:
        return html.card(html.problem_strip(str(error)))
