"""Which plugins are loaded, what each provides, and what to do about those that failed."""

from __future__ import annotations

import gradio as gr
from markupsafe import Markup

from core.plugins import LoadedPlugin
from core.runs import Workspace
from core.ui import html
from core.words import plural

FOLDER = "GUARDWALTZ_PLUGINS"


def build(workspace: Workspace) -> None:
    """Put the page on the route that is being built. Plugins are loaded once, when the app starts; so is this text."""
    loaded = workspace.plugins.loaded
    failed = [plugin for plugin in loaded if plugin.error]
    note = f"{plural(len(loaded) - len(failed), 'plugin')} loaded" + (f", {len(failed)} failed" if failed else "")
    gr.HTML(html.page_header("Plugins", "Every method, data format and prompt format comes from one.", note), apply_default_css=False)
    if failed:
        with gr.Column(elem_classes="gw-card"):
            gr.HTML(html.card_header("Failed", "the rest of the app works without them") + html.join(map(_failure, failed)),
                    apply_default_css=False)
    with gr.Column(elem_classes="gw-card"):
        gr.HTML(html.card_header("Loaded") + _table(workspace, [plugin for plugin in loaded if not plugin.error]), apply_default_css=False)
    with gr.Column(elem_classes="gw-card"):
        gr.HTML(html.card_header("Write your own") + _how(), apply_default_css=False)


def _failure(plugin: LoadedPlugin) -> Markup:
    where = html.span(f"{plugin.origin}, {plugin.where}", "gw-sub")
    strip = html.problem_strip(plugin.error)
    mend = html.div("Install what it needs, then start the app again:", "gw-help") + html.code_block(f"pip install {plugin.missing}") \
        if plugin.missing else html.div(f"Mend {plugin.where}, then start the app again.", "gw-help")
    return html.div(html.div(html.join([html.element("b", plugin.name), where], " ")) + strip + mend, "gw-failure")


def _table(workspace: Workspace, plugins: list[LoadedPlugin]) -> Markup:
    rows = [(html.element("b", plugin.name) + html.div(plugin.version, "gw-sub"), _provides(workspace, plugin),
             plugin.origin, html.element("code", _short(plugin.where))) for plugin in plugins]
    return html.table(["Plugin", "Provides", "From", "File"], rows, label="loaded plugins")


def _provides(workspace: Workspace, plugin: LoadedPlugin) -> Markup:
    lines = []
    for name in plugin.provides:
        title, kind = _kind(workspace, name)
        lines.append(html.div(html.join([html.element("code", name), html.span(title), html.span(kind, "gw-sub")]), "gw-provides"))
    return html.join(lines) or Markup("nothing")


def _kind(workspace: Workspace, name: str) -> tuple[str, str]:
    """(title, what kind of thing) of something that a plugin brings."""
    plugins = workspace.plugins
    if method := plugins.methods.get(name):
        return method.title, f"{method.stage.value} method"
    if judge := plugins.judges.get(name):
        return judge.title, "judge"
    if prompts := plugins.prompt_formats.get(name):
        return prompts.title, "prompt format"
    if chat := plugins.chat_models.get(name):
        return chat.title, "chat model"
    return plugins.data_formats[name].title, "data format"


def _short(where: str) -> str:
    from core.runs import REPOSITORY

    return where.removeprefix(f"{REPOSITORY}/")


def _how() -> Markup:
    text = ("Put a Python file into a folder, name the folder in the environment variable, and start the app again. The methods in it "
            "appear on the page of their stage with form, command, progress and resume. docs/plugins.md tells how to write one.")
    return html.element("p", text, "gw-text") + html.code_block(f"{FOLDER}=~/my-plugins python app.py")
