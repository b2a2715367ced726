"""Runs: every run there is, and one of them opened: where it comes from, how it stands, what can be done with it."""

from __future__ import annotations

from typing import Any

import gradio as gr
from markupsafe import Markup

from core import jobs
from core.access import OWNER, Access, Act, is_rehearsal
from core.methods import UserError
from core.recipes import Recipe, parse_recipe, recipe_files
from core.records import read_jsonl
from core.runs import Run, Workspace
from core.ui import html, runs_detail
from core.ui.address import View, page_number, query_of, read_view, view_box, write_view
from core.ui.downloads import download_box, prepared
from core.ui.runs_compare import compare_card, loss_figure
from core.ui.runs_export import export_card
from core.ui.runs_files import files_card
from core.ui.runs_lineage import lineage_card, made_from
from core.ui.runs_table import PAGE, all_rows, filter_bar, queue_places, runs_table, wanted
from core.ui.theme import REFRESH, block, clicked, on_load

STAGES = [("every stage", ""), "data", "training", "mining", "rl", "evaluation", "study"]


def build(workspace: Workspace) -> None:
    """The page, inside its route."""
    page = RunsPage(workspace)
    view = view_box()
    header = block(_header())
    recipes = block(elem_classes="gw-slot gw-stack")
    with gr.Column(elem_classes="gw-card"):
        with gr.Row(elem_classes="gw-tools"):
            filters = block(elem_classes="gw-grow")
            stage = gr.Dropdown(STAGES, value="", container=False, interactive=True, label="stage", elem_classes="gw-narrow")
            search = gr.Textbox(placeholder="search id, data, note", container=False, interactive=True, label="search", max_lines=1,
                                elem_classes="gw-narrow")
        table = block(elem_classes="gw-stack")
    with gr.Column(elem_classes="gw-card", visible=False) as compare_box:
        compare = block(elem_classes="gw-stack")
        plot = gr.Plot(show_label=False, container=False, visible=False)
    lineage, steps, report = (block(elem_classes="gw-slot gw-stack") for _ in range(3))
    with gr.Row(elem_classes="gw-columns", visible=False) as opened:
        with gr.Column(scale=7, min_width=300, elem_classes="gw-plain"):
            with gr.Column(elem_classes="gw-card"):
                live, asked, actions = (block(elem_classes="gw-slot gw-stack") for _ in range(3))
                with gr.Row(visible=False, elem_classes="gw-tools gw-bottom") as continuing:
                    rate = gr.Textbox(label="Learning rate of the new schedule", info="A new run, from this one's result.",
                                      interactive=True)
                    go = gr.Button("Start the continuation", interactive=True)
            with gr.Column(elem_classes="gw-card gw-form", visible=workspace.access.may(Act.WORDS)):
                block(html.card_header("Your words", "kept in labels.json"))
                name = gr.Textbox(label="Name", interactive=True)
                tags = gr.Textbox(label="Tags", info="Separated by commas.", interactive=True)
                note = gr.Textbox(label="Note", lines=2, interactive=True)
                save = gr.Button("Save", interactive=True)
        with gr.Column(scale=5, min_width=300, elem_classes="gw-plain"):
            files = block(elem_classes="gw-stack")
    fetched = download_box()
    gone = gr.Textbox("", visible="hidden", label="gone", container=False)
    shown = [header, recipes, filters, table, lineage, live, asked, actions, files, steps, compare]
    fields = [opened, continuing, rate, name, tags, note, report, compare_box, plot]
    silent: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}

    def load(request: gr.Request) -> list[Any]:
        query = query_of(request)
        look = read_view(query)
        return [query, look.get("stage", ""), look.get("q", ""), *page.shown(query), *page.fields(query)]

    def act(event: gr.SelectData, query: str) -> list[Any]:
        word, value = clicked(event)
        if word == "download":
            return [gr.skip()] * (1 + len(shown) + len(fields)) + [prepared(workspace, read_view(query).get("run", ""), value)]
        changed = page.act(query, word, value)
        other = _which(changed) != _which(query) or word in ("continue", "keep")
        return [changed, *page.shown(changed), *(page.fields(changed) if other else [gr.skip()] * len(fields)), gr.skip()]

    def tick(query: str) -> list[Any]:
        # only what changes with time: Gradio builds each output anew that an event leaves as it is
        return [query if page.is_gone(query) else "", *page.shown(query)]

    def close(query: str, of_query: str) -> list[Any]:
        if not of_query or not page.is_gone(query):
            return [gr.skip()] * (1 + len(shown) + len(fields))
        changed = write_view(read_view(query), run="", ask="")
        return [changed, *page.shown(changed), *page.fields(changed)]

    on_load(load, None, [view, stage, search, *shown, *fields])
    for part in (header, recipes, filters, table, live, actions, files, steps, compare, report):
        part.select(act, view, [view, *shown, *fields, fetched], **silent)
    narrowed = gr.on([stage.input, search.input], _narrowed, [view, stage, search], view, trigger_mode="always_last", **silent)
    narrowed.then(page.shown, view, shown, **silent)
    if workspace.access.may(Act.WORDS):
        save.click(page.save, [view, name, tags, note], None, api_name="runs_save_words").then(page.shown, view, shown, **silent)
    if workspace.access.may(Act.CONTINUE):
        go.click(page.continue_run, [view, rate], view, **silent).then(
            lambda query: [*page.shown(query), *page.fields(query)], view, [*shown, *fields], **silent)
    gr.Timer(REFRESH).tick(tick, view, [gone, *shown], **silent)
    gone.change(close, [view, gone], [view, *shown, *fields], **silent)  # the open run was deleted in another tab


def _narrowed(query: str, stage: str, q: str) -> str:
    return write_view(read_view(query), stage=stage, q=q, page="")


def _which(query: str) -> list[str | None]:
    """What the parts depend on that the clock leaves alone."""
    return [read_view(query).get(name) for name in ("run", "compare")]


class RunsPage:
    """What the page shows for a view, and what its buttons do. Nothing is kept here: folders and view say all."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def shown(self, query: str) -> list[str]:
        """Everything that is refreshed by the clock."""
        view, access = read_view(query), self.workspace.access
        rows = all_rows(self.workspace)
        state = view.get("state", "all")
        found = wanted(rows, state, view.get("stage", ""), view.get("q", ""))
        compared = _ids(view)
        page = page_number(view, max(1, -(-len(found) // PAGE)))
        queued = queue_places(self.workspace) if any(row.state == "queued" for row in rows) else {}
        table = runs_table(found, selected=view.get("run", ""), compared=compared, page=page, queued=queued,
                           note=_spent(self.workspace), may_resume=access.may(Act.RESUME)) if found else _nothing(bool(rows))
        head = [_header(), recipe_card(view, access), filter_bar(rows, state), table]
        return [*head, *self._opened(view), compare_card(self._compared(view))]

    def _opened(self, view: View) -> list[str]:
        run = self._run(view.get("run", ""))
        if run is None:
            return [""] * 6
        method = runs_detail.method_of(self.workspace, run)
        dependents = made_from(run, self.workspace) if view.get("ask") == "delete" else []
        steps = runs_detail.steps_card(run)
        return [lineage_card(run, self.workspace), runs_detail.live_part(run), runs_detail.asked_part(run),
                runs_detail.actions_part(run, method, view.get("ask", ""), dependents, self.workspace.access),
                export_card(run, self.workspace, self.workspace.access) + html.card(files_card(run)),
                html.card(steps) if steps else ""]

    def fields(self, query: str) -> list[Any]:
        """What only changes with the chosen run: the clock must not overwrite what somebody types."""
        view = read_view(query)
        run = self._run(view.get("run", ""))
        compared = self._compared(view)
        figure = loss_figure(compared)
        side_by_side = [gr.update(visible=bool(compared)), gr.update(value=figure, visible=figure is not None)]
        if run is None:
            return [gr.update(visible=False), gr.update(visible=False), "", "", "", "", "", *side_by_side]
        labels = run.labels
        rate = runs_detail.continued_rate(self.workspace, run) if view.get("ask") == "continue" else None
        frame = runs_detail.report_frame(run)
        rate_box = gr.update(value=rate or "", visible=bool(rate))
        return [gr.update(visible=True), gr.update(visible=rate is not None), rate_box, labels["name"], ", ".join(labels["tags"]),
                labels["note"], html.card(frame) if frame else "", *side_by_side]

    def is_gone(self, query: str) -> bool:
        """Does the view name a run that is not there?"""
        run_id = read_view(query).get("run", "")
        return bool(run_id) and self._run(run_id) is None

    def act(self, query: str, word: str, value: str) -> str:
        """Do what a click asks for; returns the view after it. What goes wrong is said, and the view stays."""
        view = read_view(query)
        try:
            return self._act(view, word, value)
        except UserError as error:
            gr.Warning(str(error))
            return query

    def _act(self, view: View, word: str, value: str) -> str:
        if word == "open":
            return write_view(view, run="" if view.get("run") == value else value, ask="")
        if word == "state":
            return write_view(view, state="" if value == "all" else value, page="")
        if word == "page":
            return write_view(view, page=value)
        if word == "compare":
            chosen = _ids(view)
            chosen = [run_id for run_id in chosen if run_id != value] if value in chosen else [*chosen, value]
            return write_view(view, compare=",".join(chosen))
        if word == "compare-none":
            return write_view(view, compare="")
        if word in ("delete", "continue"):
            return write_view(view, ask=word)
        if word == "recipes":
            return write_view(view, recipes="" if view.get("recipes") else "1")
        if word == "start-recipe":
            run = jobs.submit(self.workspace, "recipe", {"recipe": value, "settings": {}})
            return write_view(view, run=run.id, recipes="", ask="", state="", page="")
        return self._change(view, word, value)

    def _change(self, view: View, word: str, value: str) -> str:
        """Clicks that change a run. `keep` and anything unknown only close the question."""
        run = self.workspace.run(value) if value else None
        if run and word in ("stop", "force"):
            jobs.stop(self.workspace, run, force=word == "force")
        elif run and word == "resume":
            jobs.resume(self.workspace, run)
        elif run and word == "archive":
            self.workspace.access.demand(Act.WORDS)
            run.set_labels(archived=not run.labels["archived"])
        elif run and word == "delete-now":
            jobs.delete(self.workspace, run)
            view = {**view, "run": "", "compare": ""}
        return write_view(view, ask="")

    def save(self, query: str, name: str, tags: str, note: str) -> None:
        """Write the user's words about the chosen run."""
        self.workspace.access.demand(Act.WORDS)
        run = self._run(read_view(query).get("run", ""))
        if run is None:
            raise gr.Error("No run is open.", print_exception=False)
        words = [tag.strip() for tag in tags.split(",") if tag.strip()]
        run.set_labels(name=name.strip(), tags=list(dict.fromkeys(words)), note=note.strip())
        gr.Info(f"Saved the words about {run.id}.")

    def continue_run(self, query: str, rate: str) -> str:
        """Start a new schedule from the result of the chosen run."""
        view = read_view(query)
        try:
            run = self.workspace.run(view.get("run", ""))
            new = jobs.continue_run(self.workspace, run, {"learning_rate": rate.strip()} if rate.strip() else {})
        except UserError as error:
            gr.Warning(str(error))
            return query
        return write_view(view, run=new.id, ask="")

    def _compared(self, view: View) -> list[Run]:
        return [run for run_id in _ids(view) if (run := self._run(run_id))]

    def _run(self, run_id: str) -> Run | None:
        try:
            return self.workspace.run(run_id) if run_id else None
        except UserError:
            return None  # deleted meanwhile, perhaps in another tab


def _ids(view: View) -> list[str]:
    """Runs whose box is ticked."""
    return [run_id for run_id in view.get("compare", "").split(",") if run_id]


def _header() -> Markup:
    return html.page_header("Runs", "Every run is a folder. Open one, repeat it, or see where it came from.",
                            html.small_button("Run a recipe", "recipes", kind="filled"))


def recipe_card(view: View, access: Access = OWNER) -> Markup:
    """The recipes that ship with the app, each with Start where it may be started; "" until asked for."""
    if not view.get("recipes"):
        return Markup()
    rows = []
    for path in recipe_files():
        try:
            recipe = parse_recipe(path.read_text(encoding="utf-8"), path.name)
        except UserError as error:
            rows.append((html.span(path.stem, "gw-mono"), html.problem_strip(str(error)), ""))
            continue
        steps = html.div(", ".join(recipe.steps), "gw-sub gw-mono")
        words = html.element("b", recipe.title) + html.div(recipe.summary, "gw-sub") + steps
        rehearsal = is_rehearsal("recipe", {"recipe": path.stem, "settings": {}})
        may = access.may(Act.START) or (rehearsal and access.may(Act.REHEARSE))
        rows.append((html.span(path.stem, "gw-mono"), words, _start(path.stem, recipe) if may else ""))
    if not rows:
        text = "Recipes are YAML files in assets/recipes; each is a chain of runs ending in one report. There is none."
        return html.card(html.empty_state("No recipes", text))
    head = html.card_header("Recipes", "each a chain of runs, ending in one report")
    return html.card(head, html.table(["Name", "What it does", ""], rows, right=(2,)))


def _start(name: str, recipe: Recipe) -> Markup:
    """The button; where values must be given, the command that gives them."""
    if not recipe.needed:
        return html.small_button("Start", "start-recipe", name)
    return html.span(f"python app.py recipe {name} " + " ".join(f"{needed}=FILE" for needed in recipe.needed), "gw-mono gw-sub")


def _nothing(any_runs: bool) -> Markup:
    if any_runs:
        return html.empty_state("No run matches", "Runs that match the filter, the stage and the search stand here. None does now.",
                                html.small_link("Show all runs", "state", "all"))
    text = ("Every import, training, mining or evaluation leaves a run here, with its settings, numbers and files. Nothing was started in "
            "this workspace.")
    return html.empty_state("No runs yet", text, html.link("Import data", "/"))


def _spent(workspace: Workspace) -> str:
    if workspace.access.public:  # what the owner has spent is nobody else's business
        return ""
    return f"Spent in all: {sum(line.get('usd', 0.0) for line in read_jsonl(workspace.runs_dir / 'spend.jsonl')):.2f} USD"
