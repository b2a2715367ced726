"""Mining: how hard the inputs are for a guard, each hard input with its outputs, and the pairs built from them. The components."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.methods import Stage
from core.runs import Workspace
from core.ui import theme
from core.ui.address import query_of, read_view, view_box, write_view
from core.ui.downloads import download_box
from core.ui.mining_input import KEYS
from core.ui.mining_rows import FILTERS
from core.ui.mining_view import CLOSED, DROPS, LIST, PARTS, MiningPage
from core.ui.new_run import draw_new_run
from core.ui.theme import REFRESH, block, clicked, on_load


def build(workspace: Workspace) -> None:
    """The page, inside its route."""
    page = MiningPage(workspace)
    view = view_box()
    parts: dict[str, gr.HTML] = {"header": block()}
    with gr.Row(elem_classes="gw-columns"):
        with gr.Column(visible=False, scale=5, min_width=300) as form_box:
            started = gr.Textbox(visible="hidden", label="started", container=False)
            draw_new_run(workspace, workspace.plugins.of_stage(Stage.MINING), started, "New mining run")
        with gr.Column(scale=7, min_width=300, elem_classes="gw-right"):
            parts["running"] = block(elem_classes="gw-slot gw-stack")
            parts["others"] = block(elem_classes="gw-slot")
    with gr.Row(elem_classes="gw-tools", visible=False) as picker_box:
        picker = gr.Dropdown([], label="Mining run", container=False, interactive=True, elem_classes="gw-grow", allow_custom_value=True)
    with gr.Column(visible=False, elem_classes="gw-plain") as results:
        parts["notices"] = block(elem_classes="gw-slot gw-stack")
        with gr.Row(elem_classes="gw-columns gw-mining-top"):
            with gr.Column(scale=7, min_width=300, elem_classes="gw-card"):
                parts["difficulty"] = block(elem_classes="gw-stack")
                histogram = gr.Plot(show_label=False, container=False, elem_classes="gw-plot")
                parts["histogram_note"] = block()
            with gr.Column(scale=5, min_width=300, elem_classes="gw-card"):
                parts["where"] = block(elem_classes="gw-stack")
                forest = gr.Plot(show_label=False, container=False, visible=False)
                parts["where_note"] = block(elem_classes="gw-slot")
                parts["ensemble"] = block(elem_classes="gw-slot")
        with gr.Column(elem_classes="gw-card"):
            parts["list_head"] = block()
            with gr.Row(elem_classes="gw-form gw-filters"):
                filters = _filters()
                parts["build"] = block(elem_classes="gw-filter-act")
            parts["table"] = block(elem_classes="gw-stack")
        parts["input"] = gr.HTML("", apply_default_css=False, js_on_load=theme._CLICKS + KEYS, elem_classes="gw-slot")
        with gr.Column(elem_classes="gw-card", visible=False) as pairs_box:
            parts["pairs"] = block(elem_classes="gw-stack")
            with gr.Row(elem_classes="gw-columns"):
                with gr.Column(scale=5, min_width=280):
                    weights = gr.Plot(show_label=False, container=False, visible=False)
                with gr.Column(scale=7, min_width=280):
                    parts["pairs_table"] = block(elem_classes="gw-slot gw-stack")
    fetched = download_box()
    shown = [parts[name] for name in PARTS]
    boxes, charts = [form_box, results, pairs_box, picker_box, picker], [histogram, forest, weights]
    drawn = gr.State({})
    everything = [view, *shown, *boxes, *filters, *charts, drawn]
    silent: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}

    def redraw(query: str, request: gr.Request, was: dict[str, Any]) -> list[Any]:
        look = page.look(query)
        strings = page.shown(look, request.username or "")
        now = page.stamps(look)
        refill = page.filters(look) if now["filters"] != was.get("filters") else [gr.skip()] * len(filters)
        plots = page.charts(look) if now["charts"] != was.get("charts") else [gr.skip()] * len(charts)
        return [query, *(strings[name] for name in PARTS), *page.boxes(look), *refill, *plots, now]

    def load(request: gr.Request) -> list[Any]:
        return redraw(query_of(request), request, {})

    def act(event: gr.SelectData, query: str, was: dict[str, Any], request: gr.Request) -> list[Any]:
        word, value = clicked(event)
        if word in ("export-hard", "export-pairs"):
            return [*[gr.skip()] * len(everything), page.export(query, word, value)]
        changed = page.act(query, word, value, request.username or "")
        return [*redraw(changed, request, {**was, "filters": None} if word == "clear" else was), gr.skip()]

    def step(event: gr.KeyUpData, query: str, was: dict[str, Any], request: gr.Request) -> list[Any]:
        return redraw(page.act(query, event.key, str(event.input_value), request.username or ""), request, was)

    def pick(run_id: str, query: str, was: dict[str, Any], request: gr.Request) -> list[Any]:
        return redraw(write_view(read_view(query), **{**dict.fromkeys(DROPS["run"], ""), "run": run_id}), request, was)

    def narrowed(query: str, was: dict[str, Any], request: gr.Request, *chosen: str | None) -> list[Any]:
        filled = {name: value or "" for name, value in zip(FILTERS, chosen, strict=True)}
        return redraw(write_view(read_view(query), **dict.fromkeys(LIST, ""), **filled), request, was)

    def typed(query: str, was: dict[str, Any], request: gr.Request, *chosen: str | None) -> Any:
        if read_view(query).get("q", "") == (chosen[-1] or "").strip():
            return gr.skip()  # the field was only left
        return narrowed(query, was, request, *chosen)

    def tick(query: str, was: dict[str, Any], request: gr.Request) -> list[Any]:
        look = page.look(query)
        if page.stamps(look)["page"] != was.get("page"):  # a run ended, or a file was read to its end
            return [gr.skip(), *redraw(query, request, was)[1:]]  # the view is the click's that came meanwhile
        return [gr.skip(), gr.skip(), page.running(look), *[gr.skip()] * (len(everything) - 3)]

    def begun(message: str, query: str, was: dict[str, Any], request: gr.Request) -> list[Any]:
        if not message:
            return [gr.skip()] * len(everything)
        return redraw(write_view(read_view(query), **CLOSED), request, was)

    on_load(load, None, everything)
    for name in ("header", "running", "others", "where", "list_head", "build", "table", "input", "pairs", "pairs_table"):
        # "once": a double click must not start two runs, nor take an edit back
        parts[name].select(act, [view, drawn], [*everything, fetched], trigger_mode="once", **silent)
    # "multiple": a second J or K must not be lost while the first is being answered
    parts["input"].key_up(step, [view, drawn], everything, trigger_mode="multiple", **silent)
    picker.input(pick, [picker, view, drawn], everything, **silent)
    *dropdowns, text = filters
    gr.on([box.input for box in dropdowns], narrowed, [view, drawn, *filters], everything, **silent)
    gr.on([text.submit, text.blur], typed, [view, drawn, *filters], everything, **silent)
    started.change(begun, [started, view, drawn], everything, **silent)
    gr.Timer(REFRESH).tick(tick, [view, drawn], everything, **silent)


def _filters() -> list[Any]:
    """The five filters, in the order of FILTERS."""
    labels = (("Right outputs", "any"), ("Source", "all"), ("Gold class", "all"), ("Task", "all"))
    boxes: list[Any] = [gr.Dropdown([(words, "")], value="", label=label, interactive=True, filterable=label == "Source")
                        for label, words in labels]
    return [*boxes, gr.Textbox(placeholder="search prompts", label="Text", interactive=True, max_lines=1, elem_classes="gw-filter-text")]
