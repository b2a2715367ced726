"""The "New run" card: pick a method, fill its form, see problems and estimate, start it or take it away as text.

Any page can hold one: `draw_new_run(workspace, methods, view)`, where `view` is the page's `address.view_box()`. A started
run is written into the view as `run=ID`. The page's address may bring `?method=NAME` or `?from=RUN` (that run's settings).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from core.access import Act
from core.methods import Method, UserError, apply_aliases
from core.runs import Workspace
from core.ui import html, theme
from core.ui.address import query_of, read_view
from core.ui.fields import FieldSpec
from core.ui.forms import MethodForm
from core.ui.method_panel import PRIVATE, MethodPanel, Updates

CHOSEN = ""
"""Where a draft keeps the method that was picked last; no method has an empty name."""


def draw_new_run(workspace: Workspace, methods: Sequence[type[Method]], view: gr.Textbox, title: str = "New run") -> NewRun | None:
    """The card; where nobody may start anything, why not, in its place: then no event of it is registered either."""
    if workspace.access.may(Act.START):
        card = NewRun(workspace, methods, view, title)
        card.draw()
        return card
    with gr.Column(elem_classes="gw-card"):
        names = ", ".join(method.title for method in methods)
        gr.HTML(html.empty_state("Read only", f"In a copy of your own this card is the form of: {names}.",
                                 html.link("Start the rehearsal", "/runs?recipes=1")), apply_default_css=False)
    return None


class NewRun:
    """The card: method picker and one panel per method, of which one is seen."""

    def __init__(self, workspace: Workspace, methods: Sequence[type[Method]], view: gr.Textbox, title: str = "New run") -> None:
        self.workspace = workspace
        self.methods = list(methods)
        self.view = view
        self.title = title

    def draw(self) -> None:
        """Components and events; the caller opens the column it stands in."""
        first = self.methods[0]
        # what was typed survives a refresh; key and secret are fixed, else a restart of the app would lose it
        draft = gr.BrowserState({}, storage_key=f"guardwaltz-form-{first.stage.value}", secret="guardwaltz")
        with gr.Column(elem_classes="gw-card gw-form"):
            with gr.Row(elem_classes="gw-card-top"):
                gr.HTML(html.card_header(self.title, first.title if len(self.methods) == 1 else ""), apply_default_css=False)
                self.upload = gr.UploadButton("Load YAML", file_types=[".yaml", ".yml"], size="sm", elem_classes="gw-quiet")
            self.notice = gr.HTML(apply_default_css=False, elem_classes="gw-slot")
            self.picker = gr.Dropdown([(method.title, method.name) for method in self.methods], value=first.name, label="Method",
                                      visible=len(self.methods) > 1, interactive=True, filterable=False)
            self.panels = [MethodPanel(method, self.workspace, self.view, draft) for method in self.methods]
            for panel in self.panels:
                panel.draw(visible=panel.method is first)
        self.draft = draft
        self._listen()

    def _listen(self) -> None:
        widgets = [widget for panel in self.panels for widget in panel.form.widgets]
        columns = [panel.column for panel in self.panels]
        self.picker.input(self._picked, [self.picker, self.draft], [self.draft, *columns], **PRIVATE)
        self.upload.upload(self._loaded_yaml, [self.upload, *widgets], [self.picker, *columns, *widgets, self.notice], **PRIVATE)
        opened = theme.on_load(self._opened, [self.draft], [self.draft, self.picker, *columns, *widgets, self.notice])
        for panel in self.panels:
            panel.ask_after(opened, self.picker)

    def _picked(self, name: str, draft: Any) -> list[Any]:
        return [{**(draft if isinstance(draft, dict) else {}), CHOSEN: name}, *self._columns(name)]

    def _columns(self, name: str) -> list[Any]:
        return [gr.Column(visible=panel.method.name == name) for panel in self.panels]

    def _opened(self, draft: Any, request: gr.Request) -> Updates:
        """The page was opened: newest choices, what was typed before, or the settings of `?from=RUN`."""
        kept = draft if isinstance(draft, dict) else {}
        chosen, given, notice = self._asked_for(read_view(query_of(request)), kept.get(CHOSEN))
        updates: Updates = {self.picker: chosen, self.notice: notice, self.draft: {**kept, CHOSEN: chosen}}
        for panel in self.panels:
            raws = _restored(panel.form, kept.get(panel.method.name))
            if panel.method.name == chosen and given is not None:
                raws = panel.form.show(given)
            _, drawn = panel.form.refreshed(raws)
            updates |= dict(zip(panel.form.widgets, drawn, strict=True))
            updates[panel.column] = gr.Column(visible=panel.method.name == chosen)
        return updates

    def _asked_for(self, view: dict[str, str], last: Any) -> tuple[str, dict[str, Any] | None, str]:
        """(method, settings, notice) that the address asks for, else the method that was picked last."""
        names = [panel.method.name for panel in self.panels]
        if "from" in view:
            try:
                run = self.workspace.run(view["from"])
                if run.method in names:
                    return run.method, run.config, html.problem_strip(f"Filled with the settings of {run.id}.", "info")
            except UserError as error:
                return names[0], None, html.problem_strip(str(error))
        return next((name for name in (view.get("method"), last) if name in names), names[0]), None, ""

    def _loaded_yaml(self, path: str, *raws: Any) -> Updates:
        """A config.yaml was uploaded: its method is picked and its form filled."""
        from core.cli import load_config

        try:
            name, values = load_config(Path(path))
            panel = self._panel_for(name, raws)
            values = apply_aliases(panel.method.Config, values)
        except UserError as error:
            return {self.notice: html.problem_strip(str(error).replace(str(path), Path(path).name))}
        unknown = sorted(set(values) - set(panel.method.Config.model_fields))
        notice = html.problem_strip(f"Left out, not settings of {panel.method.name}: {', '.join(unknown)}.", "warning") if unknown \
            else html.problem_strip(f"Filled from {Path(path).name}.", "info")
        filled = dict(zip(panel.form.widgets, panel.form.show(values), strict=True))
        columns = dict(zip((panel.column for panel in self.panels), self._columns(panel.method.name), strict=True))
        return {**filled, **columns, self.picker: panel.method.name, self.notice: notice}

    def _panel_for(self, name: str | None, raws: Sequence[Any]) -> MethodPanel:
        found = [panel for panel in self.panels if panel.method.name == name]
        if not found and name is None and len(self.panels) == 1:
            return self.panels[0]
        if not found:
            known = ", ".join(panel.method.name for panel in self.panels)
            what = f"is of method {name}" if name else "names no method (`method: ...`)"
            raise UserError(f"This file {what}; this page has {known}.")
        return found[0]


def _restored(form: MethodForm, kept: Any) -> list[Any]:
    """Widgets as they were left; a field the draft does not know shows its start value."""
    start = form.show(form.start)
    if not isinstance(kept, dict):
        return start
    pairs = [(spec, kept.get(spec.key, value), value) for spec, value in zip(form.specs, start, strict=True)]
    return [left if _fits(spec, left, value) else value for spec, left, value in pairs]


def _fits(spec: FieldSpec, left: Any, value: Any) -> bool:
    """A draft of an older version of the form must not break the widget."""
    if spec.kind in ("choice", "choices"):
        return set([left] if isinstance(left, str) else left or []) <= {word for _, word in spec.options()}
    if left is None or value is None or isinstance(left, type(value)):
        return True
    return isinstance(left, (int, float)) and isinstance(value, (int, float))
