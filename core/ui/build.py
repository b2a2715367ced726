"""The app: one route per page, the bar above each, and the endpoints for programs. Pages build themselves."""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

from core.access import READ_ONLY, gpu_words
from core.keep import storage_words
from core.methods import Stage
from core.runs import Workspace
from core.ui import api, chat_page, data_page, empty_pages, evaluation_page, html, mining_page, plugins_page, rl_page, runs_page, stage_page


def build(workspace: Workspace, sign_out: bool = False) -> gr.Blocks:
    """The whole app, not yet launched. sign_out: people sign in with Hugging Face, so each page has the button to sign out."""
    with gr.Blocks(title="GuardWaltz", analytics_enabled=False) as demo:
        _bar(workspace, sign_out)
        data_page.build(workspace)
        api.build(workspace)
    for title, page in _pages(workspace).items():
        with demo.route(title, title.lower()):
            _bar(workspace, sign_out)
            page()
    _mark_one(demo)
    return demo


def _mark_one(demo: gr.Blocks) -> None:
    """Events that show no progress have it kept at one component of their page, not at all of their outputs.

    With every word of every event the browser goes through all components that any event before has marked, and looks for each in the
    whole tree: a page of forms, once filled, kept it busy for as long as it was open.
    """
    marked: dict[str, gr.blocks.Block] = {}
    for function in demo.fns.values():
        if function.show_progress == "hidden" and function.outputs:
            function.show_progress_on = [marked.setdefault(function.page, function.outputs[0])]


def _pages(workspace: Workspace) -> dict[str, Callable[[], None]]:
    return {"Training": _stage(workspace, Stage.TRAINING), "Mining": _mining(workspace), "RL": _rl(workspace),
            "Evaluation": lambda: evaluation_page.build(workspace), "Chat": lambda: chat_page.build(workspace),
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


def _bar(workspace: Workspace, sign_out: bool) -> None:
    gr.Navbar(main_page_name="Data")
    notes = [(READ_ONLY if workspace.access.public else "", "info"), (storage_words(workspace), "warning"), (gpu_words(), "warning")]
    if shown := html.join([html.problem_strip(words, kind) for words, kind in notes if words]):
        gr.HTML(shown, apply_default_css=False, elem_classes="gw-slot gw-notes")
    if sign_out:
        gr.LoginButton(size="sm", elem_classes="gw-quiet")  # with one of these on a page, Gradio brings the routes of signing in
