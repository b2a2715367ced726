"""Data: bring a file in, see what it holds, and see a row the way a model sees it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from core import jobs
from core.access import Act
from core.methods import Stage, UserError
from core.runs import REPOSITORY, Run, Workspace
from core.ui import chat_rows, data_plots, data_rows, html, model_view, run_card
from core.ui.address import View, page_number, query_of, read_view, view_box, write_view
from core.ui.downloads import download_box, prepared
from core.ui.finished_study import study_card
from core.ui.new_run import draw_new_run
from core.ui.theme import REFRESH, block, clicked, on_load

DEMO = REPOSITORY / "assets" / "demo" / "guard-demo.jsonl"
METHOD = "import-data"
FORGET = {"q": "", "split": "", "label": "", "page": "", "row": ""}
"""What belongs to one set and is dropped when another is opened."""
FILE_TYPES = [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".gz"]


def build(workspace: Workspace) -> None:
    """The page, inside its route."""
    page = DataPage(workspace)
    view = view_box()
    may_upload = workspace.access.may(Act.UPLOAD)
    public = workspace.access.public
    block(html.page_header("Data", "A finished study, and what its data hold." if public else
                           "Bring prompts and labels in, and see what they hold."))
    study = block(elem_classes="gw-slot")  # of a public demo: this is the page that visitors come to first
    with gr.Row(elem_classes="gw-columns"):
        with gr.Column(scale=5, min_width=300, elem_classes="gw-left"):
            with gr.Column(elem_classes="gw-card gw-form", visible=may_upload):
                block(html.card_header("A file", "its path goes into the form below"))
                with gr.Row(elem_classes="gw-act-row"):
                    upload = gr.UploadButton("Upload a file", file_types=FILE_TYPES)
                    demo = gr.Button("Import the demo set", interactive=DEMO.exists())
                said = block(elem_classes="gw-slot")
            started = gr.Textbox(visible="hidden", label="started", container=False)
            methods = workspace.plugins.of_stage(Stage.DATA)
            form = draw_new_run(workspace, methods, started, "Import")
        with gr.Column(scale=7, min_width=300, elem_classes="gw-right"):
            with gr.Column(elem_classes="gw-card"):
                sets = block(elem_classes="gw-stack")
            about = block(elem_classes="gw-slot gw-stack")
            with gr.Column(elem_classes="gw-right", visible=False) as charts:
                with gr.Column(elem_classes="gw-card") as labels_box:
                    block(html.card_header("Labels", "rows of each split"))
                    labels = gr.Plot(show_label=False, container=False)
                with gr.Column(elem_classes="gw-card"):
                    block(html.card_header("Lengths", "texts by number of words"))
                    lengths = gr.Plot(show_label=False, container=False)
            by_source = block(elem_classes="gw-slot")
    with gr.Column(elem_classes="gw-card", visible=False) as rows_box:
        block(html.card_header("Rows", "prompts of harmful rows are blurred until you ask"))
        with gr.Row(elem_classes="gw-tools"):
            search = gr.Textbox(placeholder="search prompt, reply, source", container=False, interactive=True, label="search", max_lines=1,
                                elem_classes="gw-grow")
            split = gr.Dropdown([("every split", "")], value="", container=False, interactive=True, label="split", elem_classes="gw-narrow")
            label = gr.Dropdown([("every label", "")], value="", container=False, interactive=True, label="label", elem_classes="gw-narrow")
        rows = block(elem_classes="gw-stack")
    with gr.Column(elem_classes="gw-card", visible=False) as model_box:
        seen_head = block()
        with gr.Row(elem_classes="gw-tools"):
            tokenizer = gr.Dropdown([], label="Model", interactive=True, info="Whose tokenizer and chat template.")
            prompt_format = gr.Dropdown([], label="Prompt format", interactive=True, info="How the guard is asked.")
        seen = block(elem_classes="gw-stack")
    fetched = download_box()
    drawn = gr.State("")
    choosing = [search, split, label]
    shown = [sets, about, by_source, rows, seen_head, seen]
    opened = [charts, labels_box, labels, lengths, rows_box, model_box, split, label, search, tokenizer, prompt_format, drawn]
    everything = [view, *shown, *opened]
    silent: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}

    def load(request: gr.Request) -> list[Any]:
        query = query_of(request)
        return [query, *page.anew(query)]

    def finished() -> str:
        return study_card(workspace)

    def act(event: gr.SelectData, query: str) -> list[Any]:
        word, value = clicked(event)
        if word == "download":
            run_id, _, name = value.partition("/")
            return [gr.skip()] * len(everything) + [prepared(workspace, run_id, name)]
        changed = page.act(query, word, value)
        other = read_view(changed).get("run") != read_view(query).get("run") or word == "clear"
        return [changed, *(page.anew(changed) if other else [*page.shown(changed), *[gr.skip()] * len(opened)]), gr.skip()]

    def begun(message: str, query: str) -> list[Any]:
        changed = write_view(read_view(query), run=read_view(message).get("run", ""), **FORGET)
        return [changed, *page.anew(changed)]

    def tick(query: str, was: str) -> list[Any]:
        run = page.chosen(read_view(query))
        if page.stamp(run) != was:  # an import has finished: charts and filters are drawn once
            return page.anew(query)
        return [page.sets(query), page.about(run), *[gr.skip()] * (len(shown) - 2 + len(opened))]

    def narrowed(query: str, q: str, of_split: str, with_label: str) -> list[Any]:
        changed = write_view(read_view(query), q=q, split=of_split or "", label=with_label or "", page="", row="")
        return [changed, *page.shown(changed)]

    def looked(query: str, ref: str, name: str) -> list[Any]:
        changed = write_view(read_view(query), tok=ref or "", fmt=name or "")
        return [changed, *page.shown(changed)]

    def uploaded(path: str) -> tuple[str, str]:
        kept = keep_upload(workspace, Path(path))
        return str(kept), html.problem_strip(f"{kept.name} is in the form below. Look at how it is read, then start the import.", "info")

    on_load(load, None, everything)
    if public:
        on_load(finished, None, study)
    for part in (sets, about, rows, seen):
        part.select(act, view, [*everything, fetched], **silent)
    gr.on([search.submit, search.blur, split.input, label.input], narrowed, [view, *choosing], [view, *shown], **silent)
    gr.on([tokenizer.input, prompt_format.input], looked, [view, tokenizer, prompt_format], [view, *shown], **silent)
    started.change(begun, [started, view], everything, **silent)
    if workspace.access.may(Act.START):
        demo.click(page.import_demo, None, [started, said], api_name="data_import_demo")
    panels = form.panels if form else []
    source = next((widget for panel in panels for spec, widget in zip(panel.form.specs, panel.form.widgets, strict=True)
                   if panel.method.name == METHOD and spec.key == "source"), None)
    if source is not None and may_upload:
        upload.upload(uploaded, upload, [source, said], **silent)
    gr.Timer(REFRESH).tick(tick, [view, drawn], [*shown, *opened], **silent)


def keep_upload(workspace: Workspace, path: Path) -> Path:
    """Copy an uploaded file into the workspace; the same file twice is kept once. Its name stays: it names the set."""
    workspace.access.demand(Act.UPLOAD)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    target = workspace.runs_dir / "uploads" / digest / path.name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        half = target.with_name(f".{target.name}.half")
        shutil.copyfile(path, half)
        half.rename(target)
    return target


class DataPage:
    """What the page shows for a view. Nothing is kept here: folders and view say all."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def chosen(self, view: View) -> Run | None:
        """The set asked for, else the newest one that can be shown."""
        runs = data_rows.sets(self.workspace)
        wanted = chat_rows.set_behind(view.get("run", ""), self.workspace)
        asked = next((run for run in runs if run.id == wanted), None)
        return asked or next((run for run in runs if data_rows.is_ready(run)), None)

    def stamp(self, run: Run | None) -> str:
        """Changes when charts and filters have to be drawn anew."""
        return f"{run.id} {run.name} {data_rows.is_ready(run)}" if run else ""

    def sets(self, query: str) -> Markup:
        """The list of imported sets."""
        runs = data_rows.sets(self.workspace)
        head = html.card_header("Imported sets", f"{len(runs)} in this workspace" if runs else "")
        if not runs:
            text = ("A set is a file turned into labelled rows with a train and a test split; training, mining and evaluation pick it by "
                    "name. Nothing has been imported yet.")
            demo = html.small_link("Import the demo set", "demo") if self.workspace.access.may(Act.START) else ""
            return head + html.empty_state("No data yet", text, demo)
        run = self.chosen(read_view(query))
        return head + data_rows.sets_table(runs[:50], run.id if run else "")

    def about(self, run: Run | None) -> str:
        """The chosen set: its report, or how its import stands."""
        if run is None:
            return ""
        if not data_rows.is_ready(run):
            return html.card(run_card.top(run), run_card.log(run))
        return html.card(data_rows.about_set(run, run.report or {})) + chat_rows.checks(run, self.workspace)

    def shown(self, query: str) -> list[str]:
        """Everything drawn by us, in the order of the page."""
        view = read_view(query)
        run = self.chosen(view)
        if run is None or not data_rows.is_ready(run):
            return [self.sets(query), self.about(run), "", "", "", ""]
        try:
            rows = data_rows.rows_of(run)
        except (ValueError, OSError) as error:
            return [self.sets(query), self.about(run), "", data_rows.unreadable(run, error), "", ""]
        if not rows:
            return [self.sets(query), self.about(run), "", html.empty_state("No rows", f"{run.id} holds no rows."), "", ""]
        places = data_rows.matching(rows, view.get("q", ""), view.get("split", ""), view.get("label", ""))
        page = page_number(view, max(1, -(-len(places) // data_rows.PAGE)))
        place = self._place(view, places[page * data_rows.PAGE:], len(rows))
        sources = data_rows.sources_table(run.report or {})
        source = self._tokenizer(view)
        name = self._format_name(view, source)
        number = rows[place].row or place + 1
        head = html.card_header("As the model sees it", f"row {number} of {run.name}; click a row above to see another")
        seen = model_view.view(source, self.workspace.plugins.prompt_formats[name], rows[place]) if source and name else _no_tokenizer()
        table = data_rows.rows_table(rows, places, page, place)
        if data_rows.is_chat(run):
            return [self.sets(query), self.about(run), html.card(sources) if sources else "", table + chat_rows.whole(run, place), "", ""]
        return [self.sets(query), self.about(run), html.card(sources) if sources else "", table, head, seen]

    def _place(self, view: View, on_page: list[int], count: int) -> int:
        asked = view.get("row", "")
        return int(asked) if asked.isdecimal() and int(asked) < count else on_page[0] if on_page else 0

    def _tokenizer(self, view: View) -> model_view.Source | None:
        found = model_view.sources(self.workspace)
        return next((source for source in found if source.ref == view.get("tok")), found[0] if found else None)

    def _format_name(self, view: View, source: model_view.Source | None) -> str:
        """The format asked for, else the one the model was trained in, else the first."""
        known = self.workspace.plugins.prompt_formats
        wanted = [view.get("fmt", ""), source.prompt_format if source else "", *known]
        return next((name for name in wanted if name in known), "")

    def anew(self, query: str) -> list[Any]:
        """`shown`, `opened` and the stamp. An import may finish while they are made: the stamp of before makes the next tick look again."""
        stamp = self.stamp(self.chosen(read_view(query)))
        return [*self.shown(query), *self.opened(query), stamp]

    def opened(self, query: str) -> list[Any]:
        """Charts, filters and pickers: drawn when another set is opened."""
        view = read_view(query)
        run = self.chosen(view)
        ready = run is not None and data_rows.is_ready(run)
        report = (run.report or {}) if run and ready else {}
        labelled = ready and run is not None and data_rows.can_be_read(run) and not data_rows.is_chat(run)
        boxes, model_box = gr.update(visible=ready), gr.update(visible=labelled)
        source = self._tokenizer(view)
        formats = [(item.title, name) for name, item in self.workspace.plugins.prompt_formats.items()]
        models = [(one.title, one.ref) for one in model_view.sources(self.workspace)]
        bars = [data_plots.label_bars(report), data_plots.length_bars(report)] if ready else [None, None]
        return [boxes, gr.update(visible=bars[0] is not None), *bars, boxes, model_box,
                gr.update(choices=data_rows.split_choices(report), value=view.get("split", "")),
                gr.update(choices=data_rows.label_choices(report), value=view.get("label", "")), view.get("q", ""),
                gr.update(choices=models, value=source.ref if source else None),
                gr.update(choices=formats, value=self._format_name(view, source) or None)]

    def act(self, query: str, word: str, value: str) -> str:
        """The view after a click."""
        view = read_view(query)
        if word == "open":
            return write_view(view, run=value, **FORGET)
        if word == "page":
            return write_view(view, page=value, row="")
        if word == "row":
            return write_view(view, row=value)
        if word == "demo":
            started, _ = self.import_demo()
            return write_view(view, run=read_view(started).get("run", ""), **FORGET)
        return write_view(view, **FORGET) if word == "clear" else query

    def import_demo(self) -> tuple[str, str]:
        """Import the set that comes with the app; its rows carry their splits."""
        try:
            run = jobs.submit(self.workspace, METHOD, {"source": str(DEMO), "name": "guard-demo", "role": "as-marked"})
        except UserError as error:
            return "", html.problem_strip(str(error))
        return write_view({}, run=run.id), ""


def _no_tokenizer() -> Markup:
    text = ("The tokens of a row stand here, with those that the loss looks at tinted. No tokenizer is on this machine yet: the embedded "
            "model is fetched by the first run that uses it, and finished training runs bring theirs.")
    return html.empty_state("No tokenizer yet", text, html.link("Start a training", "/training"))
