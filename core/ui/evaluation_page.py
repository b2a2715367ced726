"""Evaluation: the same rows for every model, an interval on every number. All of it is read from report.json and predictions.jsonl."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from core.access import Act
from core.evals.published import published_for
from core.files import read_json
from core.methods import Stage, UserError
from core.runs import Run, Workspace
from core.ui import evaluation_ticks, html, run_card
from core.ui.address import View, query_of, read_view, view_box, write_view
from core.ui.evaluation_agents import AGENTS, Agents, is_agent_evaluation
from core.ui.evaluation_board import POLICIES, board, board_note, notes_strip
from core.ui.evaluation_cards import breakdown_card, confusion_card, gates_card, seen_note
from core.ui.evaluation_hard import hard_card, hard_rows, lengths_card
from core.ui.evaluation_rows import as_task, rows_card
from core.ui.evaluation_suite import left_out, suite_cards
from core.ui.evaluation_sweep import Sweep
from core.ui.new_run import draw_new_run
from core.ui.pieces import segments
from core.ui.theme import REFRESH, block, clicked, on_load

DROPS = {"which": ("page", "row"), "page": ("row",), "model": ("page", "row", "cut"), "side": ("page", "row"),
         "task": ("model", "which", "page", "row", "by", "cut"),
         "run": ("task", "model", "which", "page", "row", "by", "tick", "at", "side", "cut")}
"""What is forgotten when another filter, page, model, task or evaluation is chosen."""
SUITE = "suite"
"""What `show` is in the address of the benchmark suite."""
CLOSED = {"new": "", "from": "", "method": ""}
"""Without these in the address the form is folded away (core/ui/new_run.py reads the last two)."""
Report = dict[str, Any]


def build(workspace: Workspace) -> None:
    """The page, inside its route."""
    page = EvaluationPage(workspace)
    view = view_box()
    header = block()
    with gr.Row(elem_classes="gw-columns"):
        with gr.Column(visible=False, scale=5, min_width=300) as form_box:
            started = gr.Textbox(visible="hidden", label="started", container=False)
            draw_new_run(workspace, workspace.plugins.of_stage(Stage.EVALUATION), started, "New evaluation")
        with gr.Column(scale=7, min_width=300, elem_classes="gw-right"):
            running = block(elem_classes="gw-slot gw-stack")
    with gr.Column(elem_classes="gw-card", visible=False) as board_box:
        with gr.Row(elem_classes="gw-tools"):
            picker = gr.Dropdown([], label="Evaluation", container=False, interactive=True, elem_classes="gw-grow", allow_custom_value=True)
            switches = block(elem_classes="gw-ends")
        table = block(elem_classes="gw-stack")
    with gr.Row(elem_classes="gw-columns"):
        gates, confusion = (block(elem_classes="gw-slot gw-half-card") for _ in range(2))
    page.sweep.draw()
    hard, lengths, sources, rows = (block(elem_classes="gw-slot") for _ in range(4))
    suite = block(elem_classes="gw-slot gw-stack")
    page.agents.draw()
    traces = evaluation_ticks.ticks_block()
    shown = [header, running, switches, table, gates, confusion, hard, lengths, sources, rows, traces, suite, *page.agents.blocks]
    fixed = [form_box, board_box, picker, page.agents.box, page.agents.plot, *page.sweep.parts]
    silent: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}

    def load(request: gr.Request) -> list[Any]:
        query = query_of(request)
        return _all(query, request)

    def _all(query: str, request: gr.Request, before: str | None = None) -> list[Any]:
        return [query, *page.shown(query, request.username), *page.fixed(query, before), page.stamp()]

    def act(event: gr.SelectData, query: str, request: gr.Request) -> list[Any]:
        word, value = clicked(event)
        return _all(page.act(query, word, value, request.username or ""), request, query)

    def pick(run_id: str, query: str, request: gr.Request) -> list[Any]:
        return _all(write_view(read_view(query), run=run_id, **dict.fromkeys(DROPS["run"], "")), request)

    def cut(threshold: str, query: str, request: gr.Request) -> list[Any]:
        return _all(write_view(read_view(query), cut=threshold), request, query)

    def tick(query: str, was: str | None, request: gr.Request) -> list[Any]:
        if was is not None and page.stamp() != was:  # an evaluation has finished, or one was deleted; None: the page is still opening
            return [gr.skip(), *_all(query, request)[1:]]  # the view is the click's that came meanwhile
        return [gr.skip(), gr.skip(), page.running(), *[gr.skip()] * (len(everything) - 3)]

    def begun(query: str, request: gr.Request) -> list[Any]:
        return _all(write_view(read_view(query), **CLOSED), request)

    drawn: gr.State = gr.State(None)
    everything = [view, *shown, *fixed, drawn]
    on_load(load, None, everything)
    for part in (header, running, switches, table, gates, sources, rows, traces, suite, *page.agents.clickable):
        part.select(act, view, everything, **silent)
    picker.input(pick, [picker, view], everything, **silent)
    page.sweep.chosen.input(cut, [page.sweep.chosen, view], everything, **silent)
    started.change(begun, view, everything, **silent)
    gr.Timer(REFRESH).tick(tick, [view, drawn], everything, **silent)


class EvaluationPage:
    """What the page shows for a view. Nothing is kept here: folders and view say all."""

    FORGET = dict.fromkeys(("task", "model", "which", "page", "row", "by", "tick", "at", "cut"), "")
    """What belongs to one evaluation and is dropped when another is chosen."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.agents = Agents()
        self.sweep = Sweep()

    def of_agents(self) -> list[Run]:
        """Finished evaluations of agents, newest first."""
        return [run for run in self._runs() if run.state == "succeeded" and is_agent_evaluation(run)]

    def finished(self) -> list[Run]:
        """Evaluations with a board, newest first."""
        return [run for run in self._runs() if run.state == "succeeded" and _has_board(run.dir / "report.json")]

    def _runs(self) -> list[Run]:
        return [run for run in self.workspace.runs() if run.status.get("stage") == Stage.EVALUATION]

    def chosen(self, view: View, finished: list[Run]) -> Run | None:
        """The evaluation asked for, else the newest."""
        return next((run for run in finished if run.id == view.get("run")), finished[0] if finished else None)

    def fixed(self, query: str, before: str | None = None) -> list[Any]:
        """Form, picker and the board of agents: what the clock leaves alone. before: the view that is on the screen now."""
        view, finished, of_agents = read_view(query), self.finished(), self.of_agents()
        run, kind = self.chosen(view, finished), _kind(view, finished, of_agents)
        choices = [(_run_words(one), one.id) for one in finished]
        was = read_view(before) if before is not None else None
        same = was is not None and _kind(was, finished, of_agents) == kind and was.get("run") == view.get("run")
        figure = gr.skip() if same or kind != AGENTS else self.agents.figure(view, of_agents)  # a plot that is sent anew is built anew
        return [gr.update(visible=_form_is_open(view) or not (finished or of_agents)), gr.update(visible=run is not None and kind == ""),
                gr.update(choices=choices, value=run.id if run else None), gr.update(visible=kind == AGENTS), figure,
                *self.sweep.shown(*_swept(run if kind == "" else None, view), view.get("cut", ""))]

    def shown(self, query: str, who: str | None = None) -> list[str]:
        """Everything drawn by us."""
        view, finished, of_agents = read_view(query), self.finished(), self.of_agents()
        run, kind = self.chosen(view, finished), _kind(view, finished, of_agents)
        top = [_header(view, kind, finished, of_agents), self.running()]
        no_agents = self.agents.NOTHING
        if kind == AGENTS:
            return [*top, *[""] * 10, *self.agents.shown(view, of_agents)]
        if kind == SUITE:
            return [*top, *[""] * 9, suite_cards(self.workspace, self._runs(), view), *no_agents]
        report = run.report if run else None
        if run is None or not report:
            return [*top, *[""] * 10, *no_agents]
        return [*top, *_Look(run, report, view, self.workspace.access.may(Act.EDIT)).parts(who or ""), "", *no_agents]

    def stamp(self) -> str:
        """Changes when the page has to be drawn anew by itself."""
        return " ".join(run.id for run in [*self.finished(), *self.of_agents()])

    def running(self) -> str:
        """Cards of the evaluations under way; the empty state where there was never one."""
        wanted = [run for run in self._runs()[:30] if run.state in ("running", "queued")][:4]
        empty = _no_results(self.workspace) if not wanted and not self.stamp() else None
        return html.join([empty, *(html.card(run_card.top(run), run_card.actions(run, self.workspace)) for run in wanted)])

    def act(self, query: str, word: str, value: str, who: str = "") -> str:
        """The view after a click; ticks are written, runs stopped or resumed."""
        view = read_view(query)
        if word == "new":
            return write_view(view, **(CLOSED if _form_is_open(view) else {"new": "1"}))
        if word in ("task", "policy", "model", "which", "by", "row", "page", "side", "run"):
            return write_view(view, **{**dict.fromkeys(DROPS.get(word, ()), ""), word: value})
        if word == "show" and AGENTS in (value, _kind(view, self.finished(), self.of_agents())):  # what was chosen there means nothing here
            return write_view(view, **dict.fromkeys(("run", *DROPS["run"]), ""), show=value)
        if word in ("show", "column", "over"):
            return write_view(view, **{word: value})
        if word == "use":  # leave a run out of the suite, or take it in again
            return write_view(view, skip=",".join(sorted(left_out(view) ^ {value})))
        if word == "tick-open":
            return write_view(view, tick="1", at="")
        if word == "tick-close":
            return write_view(view, tick="", at="")
        if word == "tick-at":
            return write_view(view, at=value)
        try:
            return self._change(view, word, value, who)
        except UserError as error:
            gr.Warning(str(error))
            return query

    def _change(self, view: View, word: str, value: str, who: str) -> str:
        from core import jobs

        if word == "tick":
            run = self.chosen(view, self.finished())
            if run is None:
                return write_view(view)
            return write_view(view, at=evaluation_ticks.tick(self.workspace, run.id, view.get("at", ""), value, who))
        if word in ("stop", "force"):
            jobs.stop(self.workspace, self.workspace.run(value), force=word == "force")
        elif word == "resume":
            jobs.resume(self.workspace, self.workspace.run(value))
        return write_view(view)


def _swept(run: Run | None, view: View) -> tuple[Report, dict[str, Any]]:
    """(report, what it says of the chosen model on the chosen task); two empty ones where there is nothing to sweep."""
    report = run.report if run else None
    if run is None or not report:
        return {}, {}
    return report, _Look(run, report, view, False).entry


class _Look:
    """One evaluation seen through one view: task, policy and model."""

    def __init__(self, run: Run, report: Report, view: View, may_tick: bool) -> None:
        self.run, self.report, self.view, self.may_tick = run, report, view, may_tick
        self.name = as_task(view.get("task", ""), list(report["tasks"]))
        self.task: dict[str, Any] = report["tasks"][self.name]
        asked = view.get("policy") or report.get("policy", "strict")
        self.policy = asked if asked in dict(POLICIES) else "strict"
        models = {entry["model"]: entry for entry in self.task["models"]}
        self.entry: dict[str, Any] = models.get(view.get("model", ""), list(models.values())[-1])
        self.titles = {ref: entry["title"] for ref, entry in models.items()}
        self.data = report.get("data", {})

    def parts(self, who: str) -> list[str]:
        """In the order of the page, from the switches of the board on."""
        entry, policy = self.entry, self.policy
        row = self.view.get("row", "")
        return [
            self.switches(), self.board(),
            gates_card(self.report, entry["model"], self.name, entry["title"]), confusion_card(entry["scores"][policy], entry["title"]),
            hard_card(self.report, self.name, policy), lengths_card(self.report, self.task, self.name),
            breakdown_card(entry, policy, self.view.get("by", "")),
            _or_said(lambda: rows_card(self.run, self.name, entry, self.titles, self.view.get("which", "wrong"),
                                       _number(self.view.get("page", "")) - 1, int(row) if row.isdecimal() else None,
                                       hard_rows(self.report, self.name))),
            _or_said(lambda: evaluation_ticks.ticks_card(self.run, self.titles, bool(self.view.get("tick")), self.view.get("at", ""), who,
                                                         self.may_tick)),
        ]

    def switches(self) -> Markup:
        """Task, where there are several, and policy."""
        tasks = list(self.report["tasks"])
        switch = segments([(task, task) for task in tasks], self.name, "task", "task") if len(tasks) > 1 else None
        return html.div(html.join([switch, segments(POLICIES, self.policy, "policy", "how unparsed answers are scored")]), "gw-line")

    def board(self) -> Markup:
        """Header, table and the small print."""
        published = published_for(str(self.data.get("name", "")), self.name)
        sha = str(self.data.get("sha256") or "")[:6]
        gold = ", ".join(f"{count:,} {label}" for label, count in self.task.get("gold", {}).items())
        sub = ", ".join(filter(None, [f"{self.task['rows']:,} rows ({gold})" if gold else f"{self.task['rows']:,} rows", sha]))
        head = html.card_header(f"{self.data.get('name', 'data')}, {self.name} task", sub, html.link("the run", f"/runs?run={self.run.id}"))
        notes = notes_strip([str(note) for note in self.report.get("notes", [])])
        overrides = [html.problem_strip(str(line.get("text", line)), "warning") for line in self.report.get("overrides", [])]
        seen = [seen_note(entry, self.policy, entry["rows"]) for entry in self._seen_first()]
        return html.join([head, *overrides, board(self.task, self.policy, self.entry["model"], published),
                          board_note(self.task, self.policy, published), *seen, notes])

    def _seen_first(self) -> list[dict[str, Any]]:
        """The chosen model's note, and those of all models that have seen a row."""
        others = [entry for entry in self.task["models"] if entry is not self.entry and (entry.get("seen") or {}).get("rows")]
        return [self.entry, *others]


def _or_said(draw: Callable[[], Markup]) -> Markup:
    """A card read from predictions.jsonl; what is wrong with that file in its place."""
    try:
        return draw()
    except UserError as error:
        return html.card(html.problem_strip(str(error)))


def _has_board(path: Path) -> bool:
    try:
        return _read_has_board(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        return False


@lru_cache(maxsize=1024)
def _read_has_board(path: Path, changed: int) -> bool:  # noqa: ARG001 - the time makes the answer current
    return bool((read_json(path, {}) or {}).get("tasks"))


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 1


def _run_words(run: Run) -> str:
    name = run.name if run.name != run.id else ""
    return " · ".join(filter(None, [run.id, name, run.status.get("what", ""), (run.report or {}).get("headline", "")]))


def _form_is_open(view: View) -> bool:
    """Asked for, or the address brings settings for it."""
    return any(view.get(name) for name in CLOSED)


def _kind(view: View, finished: list[Run], of_agents: list[Run]) -> str:
    """Which of the three is shown: "" (one evaluation of guards), the suite, or agents."""
    show = view.get("show", "")
    if show == SUITE and finished:
        return SUITE
    asked = show == AGENTS or (not show and any(run.id == view.get("run") for run in of_agents))
    return AGENTS if of_agents and (asked or not finished) else ""


def _header(view: View, kind: str, finished: list[Run], of_agents: list[Run]) -> Markup:
    opened = _form_is_open(view)
    words, style = ("Close the form", "") if opened else ("New evaluation", "filled")
    button = html.small_button(words, "new", kind=style) if finished or of_agents else None
    views = [*([("", "One evaluation"), (SUITE, "Benchmark suite")] if finished else []), *([(AGENTS, "Agents")] if of_agents else [])]
    switch = segments(views, kind, "show", "what is shown") if len(views) > 1 else None
    return html.page_header("Evaluation", "The same rows for every model, an interval on every number.", html.join([switch, button]))


def _no_results(workspace: Workspace) -> Markup:
    has_data = any((run.dir / "data.jsonl").exists() for run in workspace.runs())
    text = ("The board of an evaluation stands here: every model on the same rows, F1 and accuracy with their intervals, gates, confusion "
            "and every single answer. No evaluation has finished yet.")
    act = html.link("Import a test set first", "/") if not has_data else "Fill in the form and start one."
    return html.card(html.empty_state("No results yet", text, act))
