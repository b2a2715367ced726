"""The app: one route per page, the bar above each, and the endpoints for programs. Pages build themselves."""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

from core.methods import Stage
from core.runs import Workspace
from core.ui import api, data_page, empty_pages, evaluation_page, mining_page, plugins_page, rl_page, runs_page, stage_page


def build(workspace: Workspace) -> gr.Blocks:
    """The whole app, not yet launched."""
    with gr.Blocks(title="GuardWaltz", analytics_enabled=False) as demo:
        _bar()
        data_page.build(workspace)
        api.build(workspace)
    for title, page in _pages(workspace).items():
        with demo.route(title, title.lower()):
            _bar()
            page()
    return demo


def _pages(workspace: Workspace) -> dict[str, Callable[[], None]]:
    return {"Training": _stage(workspace, Stage.TRAINING), "Mining": _mining(workspace), "RL": _rl(workspace),
            "Evaluation": lambda: evaluation_page.build(workspace), "Chat": lambda: empty_pages.build("chat"),
            "Runs": lambda: runs_page.build(workspace), "Plugins": lambda: plugins_page.build(workspace)}


def _stage(workspace: Workspace, stage: Stage) -> Callable[[], None]:
    """The generic page as soon as any plugin brings a method of this stage."""
    if workspace.plugins.of_stage(stage):
        return lambda: stage_page.build(workspace, stage)
    return lambda: empty_pages.build(stage.value)


def _mining(workspace: Workspace) -> Callable[[], None]:
    """The page of mined rows as soon as any plugin brings a mining method."""
    if workspace.plugins.of_stage(Stage.MINING):
        return lambda: mining_page.build(workspace)
    return lambda: empty_pages.build(Stage.MINING.value)


def _rl(workspace: Workspace) -> Callable[[], None]:
    """The page of reward as soon as any plugin brings a method that learns from it."""
    if workspace.plugins.of_stage(Stage.RL):
        return lambda: rl_page.build(workspace)
    return lambda: empty_pages.build(Stage.RL.value)


def _bar() -> None:
    gr.Navbar(main_page_name="Data")
