"""One method's form with its buttons: problems at their fields, the estimate, Start, and the settings as command or YAML."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from markupsafe import Markup
from pydantic import ValidationError

from core.jobs import submit
from core.methods import Config, Method, Problem, UserError, apply_aliases, field_errors
from core.preflight import Answer
from core.runs import Workspace, changed_settings, command_line, config_yaml
from core.ui import html, theme
from core.ui.address import write_view
from core.ui.checks import checks_of
from core.ui.estimate import tiles
from core.ui.forms import MethodForm, problem_html

START_WORDS = {"training": "Start training", "rl": "Start training", "mining": "Start mining", "evaluation": "Start evaluation",
               "data": "Import", "study": "Run the study"}
_STAMPED = "(...args) => [...args.slice(0, -1), (window.gwStamp = (window.gwStamp || 0) + 1)]"
"""Numbers the changes of a page: two that are sent at once may arrive in the other order."""
MEND = "known when the problems above are mended"
FILL = "known when the form is filled in"
PAUSE = 0.8
"""Seconds after the last change before the check is asked for."""
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
Updates = dict[Any, Any]


class MethodPanel:
    """One method's form with its buttons. Components only; what a user typed travels in the events."""

    def __init__(self, method: type[Method], workspace: Workspace, view: gr.Textbox, draft: gr.BrowserState) -> None:
        self.method = method
        self.workspace = workspace
        self.form = MethodForm(method, workspace)
        self.view = view
        self.draft = draft

    def draw(self, visible: bool) -> None:
        """Components and events."""
        with gr.Column(visible=visible, elem_classes="gw-method") as self.column:
            gr.HTML(_summary(self.method), apply_default_css=False)
            self.form.draw()
            self.general = theme.block(elem_classes="gw-slot")
            self.tiles = gr.HTML(tiles(None), apply_default_css=False)
            with gr.Row(elem_classes="gw-act-row"):
                self.start = gr.Button(START_WORDS[self.method.stage.value], variant="primary", elem_classes="gw-start")
                self.as_command = gr.Button("As command")
                self.as_yaml = gr.Button("As YAML")
            self.export = gr.HTML(apply_default_css=False, elem_classes="gw-slot")
        self.exported = gr.State("")
        self.question = gr.State(None)
        self.stamp = gr.Number(0, visible="hidden", precision=0, container=False)
        self.timer = gr.Timer(0.4, active=False)
        self._listen()

    def _listen(self) -> None:
        form, inputs = self.form, [*self.form.widgets, self.exported, self.draft, self.question, self.stamp]
        shown = [*([form.preset] if form.preset else []), *([form.accordion] if form.accordion else []), *form.slots.values(),
                 self.general, self.tiles, self.export, self.question, self.timer, self.start]
        # one at a time and in order: an answer to an older question must not arrive after a newer question
        self.ordered: dict[str, Any] = {"concurrency_id": f"form-{self.method.name}", "concurrency_limit": 1, **PRIVATE}
        changes = [widget.change for widget in form.widgets]
        gr.on(changes, self._changed, inputs, [*shown, self.draft], trigger_mode="always_last", js=_STAMPED, **self.ordered)
        self.timer.tick(self._tick, [self.question], [*shown, self.view], **self.ordered)
        self.start.click(self._start, [*form.widgets, self.stamp], [*shown, self.view], js=_STAMPED, **self.ordered)
        if form.preset:
            form.preset.input(form_preset(form), [form.preset, *form.widgets], form.widgets, **PRIVATE)
        for button, kind in ((self.as_command, "command"), (self.as_yaml, "yaml")):
            button.click(self._export(kind), [self.exported, *form.widgets], [self.exported, self.export], **PRIVATE)
        gr.on([slot.select for slot in [*form.slots.values(), self.general]], self._fix, form.widgets, form.widgets, **PRIVATE)

    def ask_after(self, opened: Any, picker: gr.Dropdown) -> None:
        """Ask about the form as the opened page shows it, unless a change has asked already."""
        def ask(chosen: str, question: Any, *raws: Any) -> Any:
            values, problems = self.validated(raws)
            if question or problems or chosen != self.method.name:
                return gr.skip()
            return self.asked(values, touched=not self.form.is_untouched(raws))

        opened.then(ask, [picker, self.question, *self.form.widgets], [self.question, self.tiles, self.timer], **self.ordered)

    # Events

    def _changed(self, *args: Any) -> Updates:
        """Something was typed: what is wrong at once, and a question for the background."""
        *raws, exported, draft, question, stamp = args
        if question and stamp < question.get("stamp", 0):  # overtaken on the way by a newer one
            return gr.skip()
        values, problems = self.validated(raws)
        touched = bool(question and question.get("touched")) or not self.form.is_untouched(raws)
        updates: Updates = {self.draft: _with_draft(draft, self, raws)}
        if exported:  # else nothing is shown, or a click that came later has just shown it
            updates[self.export] = self._exported(exported, raws)
        if self.form.preset:
            name = self.form.preset_of(raws)
            updates[self.form.preset] = gr.update(value=name, info=self.form.preset_help(name))
        if self.form.accordion:
            updates[self.form.accordion] = gr.Accordion(label=self.form.advanced_label(values))
        if question and question.get("start"):
            if values == question["values"] and not problems:  # the last key before Start, told late
                return updates
            updates[self.start] = self._start_button()  # changed while it waited to be started: then it is not started
        if problems:
            return {**updates, **self._problems(problems if touched else self._told_at_once(problems, values)),
                    self.tiles: tiles(None, MEND if touched else FILL), self.timer: gr.Timer(active=False),
                    self.question: {"wrong": True, "stamp": stamp, "touched": touched}}
        if question and question.get("wrong"):  # warnings of the last check stay until the next answer, wrong input goes at once
            updates |= self._problems([])
        return {**updates, **self.asked(values, stamp, touched=touched)}

    def asked(self, values: dict[str, Any], stamp: int = 0, start: bool = False, touched: bool = True) -> Updates:
        """Put a question on the list; the timer looks for the answer. `touched`: somebody has changed the form or pressed Start."""
        question = {"values": values, "since": time.time(), "start": start, "stamp": stamp, "touched": touched}
        return {self.question: question, self.tiles: tiles(None, "checking…"), self.timer: gr.Timer(active=True)}

    def _tick(self, question: dict[str, Any] | None, request: gr.Request) -> Any:
        """Runs only while a question is open."""
        if not question or "values" not in question:
            return {self.timer: gr.Timer(active=False)}
        if time.time() - question["since"] < PAUSE and not question["start"]:
            return gr.skip()
        answer = checks_of(self.workspace).poll(f"{request.session_hash}:{self.method.name}", self.method.name, question["values"])
        if answer is None:
            return gr.skip()
        problems = answer.problems if question["touched"] else self._told_at_once(answer.problems, question["values"])
        done = {**self._problems(problems), self.tiles: tiles(answer.estimate, _why_no_estimate(answer, len(problems))),
                self.question: {"stamp": question["stamp"], "touched": question["touched"]}, self.timer: gr.Timer(active=False)}
        if question["start"]:
            done |= {**self._started(question["values"], answer), self.start: self._start_button()}
        return done

    def _told_at_once(self, problems: Sequence[Problem], values: dict[str, Any]) -> list[Problem]:
        """Problems of a form that nobody has touched: it says nothing yet about fields that are still empty."""
        return [problem for problem in problems if problem.field is None or values.get(problem.field) not in (None, "", [])]

    def _start(self, *args: Any) -> Updates:
        """Start now if the check is done, else as soon as it is."""
        *raws, stamp = args
        values, problems = self.validated(raws)
        if problems:
            return {**self._problems(problems, stop=True), self.tiles: tiles(None, MEND),
                    self.question: {"wrong": True, "stamp": stamp, "touched": True}}
        return {**self.asked(values, stamp, start=True), self.start: gr.Button("Checking, then starting…", interactive=False)}

    def _started(self, values: dict[str, Any], answer: Answer) -> Updates:
        if answer.errors:
            return self._problems(answer.problems, stop=True)
        try:
            run = submit(self.workspace, self.method.name, values)
        except UserError as error:
            return {self.general: problem_html([Problem(str(error))])}
        return {self.view: write_view({}, run=run.id)}

    def _start_button(self) -> gr.Button:
        return gr.Button(START_WORDS[self.method.stage.value], interactive=True)

    def _fix(self, event: gr.SelectData, *raws: Any) -> list[Any]:
        """A fix was clicked: its settings go into the form."""
        act, value = theme.clicked(event)
        if act != "fix":
            return list(raws)
        values, _ = self.form.read(raws)
        fixed = self.form.show({**values, **apply_aliases(self.method.Config, json.loads(value))})
        touched = json.loads(value)
        return [new if spec.path[0] in touched else raw for spec, raw, new in zip(self.form.specs, raws, fixed, strict=True)]

    def _export(self, kind: str) -> Callable[..., Any]:
        def toggle(now: str, *raws: Any) -> tuple[str, str]:
            chosen = "" if now == kind else kind
            return chosen, self._exported(chosen, raws)

        return toggle

    def _exported(self, kind: str, raws: Sequence[Any]) -> str:
        """The command or the YAML of what the form holds."""
        if not kind:
            return ""
        config, problems = self._config(raws)
        if config is None:
            return html.problem_strip(f"Not while there is a problem: {problems[0].message}")
        name = self.method.name
        return html.code_block(command_line(name, changed_settings(config)) if kind == "command"
                               else config_yaml(name, config.model_dump(mode="json")))

    # Values

    def _config(self, raws: Sequence[Any]) -> tuple[Config | None, list[Problem]]:
        values, problems = self.form.read(raws)
        try:
            config = self.method.Config.model_validate(values)
            return (None, problems) if problems else (config, [])
        except ValidationError as error:
            unread = {problem.field for problem in problems}  # one problem a field: what cannot be read need not be validated
            found = [problem for problem in field_errors(error, self.method.Config) if problem.field not in unread]
            return None, [*problems, *found]

    def validated(self, raws: Sequence[Any]) -> tuple[dict[str, Any], list[Problem]]:
        return self.form.read(raws)[0], self._config(raws)[1]

    def _problems(self, problems: Sequence[Problem], stop: bool = False) -> Updates:
        """Each problem after its field. Those of folded fields, and those of no field, above the estimate too."""
        by_field = {name: [problem for problem in problems if problem.field == name] for name in self.form.slots}
        folded = {spec.path[0] for spec in self.form.folded}
        general = [problem for problem in problems if problem.field not in by_field or problem.field in folded]
        errors = [problem for problem in problems if problem.severity == "error"]
        if stop and errors:
            general.append(Problem(_stop_words(errors, self.form)))
        return {**{self.form.slots[name]: problem_html(found) for name, found in by_field.items()}, self.general: problem_html(general)}


def _why_no_estimate(answer: Answer, told: int) -> str:
    if not answer.errors:
        return "no estimate for this method"
    return MEND if told else FILL


def _stop_words(errors: Sequence[Problem], form: MethodForm) -> str:
    labels = {spec.path[0]: spec.label for spec in form.specs}
    places = ", ".join(dict.fromkeys(labels[problem.field] for problem in errors if problem.field in labels))
    return f"Not started: mend {places} first." if places else "Not started."


def form_preset(form: MethodForm) -> Callable[..., list[Any]]:
    """The event of choosing a preset."""
    def choose(name: str, *raws: Any) -> list[Any]:
        return form.with_preset(name, raws)

    return choose


def _summary(method: type[Method]) -> Markup:
    paper = html.link("Paper", method.paper) if method.paper else None
    return html.div(html.join([html.span(method.summary) if method.summary else None, paper], " "), "gw-help gw-summary")


def _with_draft(draft: Any, panel: MethodPanel, raws: Sequence[Any]) -> dict[str, Any]:
    kept = draft if isinstance(draft, dict) else {}
    mine = {spec.key: raw for spec, raw in zip(panel.form.specs, raws, strict=True)}
    return {**kept, panel.method.name: mine}
