"""What the Mining page shows for a view, and what its clicks do. Read from run folders; nothing is kept here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder
from markupsafe import Markup

from core import jobs
from core.access import Act
from core.files import read_json
from core.methods import Stage, UserError
from core.mining.outputs import FILE
from core.mining.samples import KINDS
from core.runs import Run, Workspace
from core.ui import html, mining_cards, mining_plots, run_card
from core.ui.address import View, read_view, write_view
from core.ui.downloads import prepared
from core.ui.mining_built import agreement_card, built_card, built_table, weights_of
from core.ui.mining_edits import change
from core.ui.mining_export import write_hard
from core.ui.mining_index import Index, Reading
from core.ui.mining_input import input_card
from core.ui.mining_pairs import FILE as PAIRS
from core.ui.mining_rows import FILTERS, PAGE, choices, found_rows, list_head, neighbour, opened_place, table
from core.ui.mining_run import PAIRING, Built, Miner, Pairing, open_miner
from core.words import size

CLOSED = {"new": "", "from": "", "method": ""}
"""Without these in the address the form is folded away (core/ui/new_run.py reads the last two)."""
LIST = ("page", "row", "mode")
DROPS: dict[str, tuple[str, ...]] = {"run": (*FILTERS, "kind", "edited", "by", *LIST), "kind": LIST, "edited": LIST,
                                     "page": ("row", "mode"), "row": ("mode",)}
"""What is forgotten when another run, kind, page or row is chosen."""
EDITS = ("exclude", "gold", "pick-chosen", "pick-rejected", "undo")
TRAINER = "hs-dpo"
"""The method that takes pairs."""
SUBTITLE = "Find the inputs the guard is unsure about: right in some samples, wrong in others."
PARTS = ("header", "running", "others", "notices", "difficulty", "histogram_note", "where", "where_note", "ensemble", "list_head", "build",
         "table", "input", "pairs", "pairs_table")
"""What is drawn by us, in the order of the page."""


class Look(NamedTuple):
    """Everything that one view of the page stands on, read once."""

    view: View
    runs: list[Run]
    """Runs of the mining stage, newest first, without the archived ones."""
    finished: list[Run]
    """Those with rows to show."""
    run: Run | None
    """The one that is shown."""
    report: dict[str, Any]
    rows: Miner | Reading | str
    """Its rows, how far their reading is, or what is wrong with them."""
    pairs: list[Run]
    """Pairs runs over it, newest first."""
    built: Built | None
    """The newest of them that succeeded."""

    @property
    def miner(self) -> Miner | None:
        """The rows, where they are there."""
        return self.rows if isinstance(self.rows, Miner) else None


class MiningPage:
    """What the page shows for a view, and what its clicks do. Nothing is kept here: folders and view say all."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.pairing = Pairing(workspace)

    def look(self, query: str) -> Look:
        """Read the folders that a view is about."""
        view = read_view(query)
        runs = [run for run in self.workspace.runs() if run.status.get("stage") == Stage.MINING]
        runs = [run for run in runs if not run.labels["archived"]]
        finished = [run for run in runs if run.state == "succeeded" and _has_rows(run)]
        run = next((item for item in finished if item.id == view.get("run")), finished[0] if finished else None)
        if run is None:
            return Look(view, runs, finished, None, {}, "", [], None)
        pairs = self.pairing.made_from(runs, run)
        done = next((item for item in pairs if item.state == "succeeded"), None)
        built = Built(done, done.report or {}, done.dir / PAIRS) if done else None
        return Look(view, runs, finished, run, run.report or {}, _rows(run), pairs, built)

    # What is drawn

    def shown(self, look: Look, who: str = "") -> dict[str, str]:
        """The HTML of every part, by its name in PARTS."""
        strings: dict[str, str] = dict.fromkeys(PARTS, "")
        strings |= {"header": self.header(look), "running": self.running(look), "others": self.others(look)}
        if look.run is None:
            return strings
        strings |= self._about(look)
        if look.miner is None:
            return {**strings, "list_head": html.card_header("Hard inputs"), "table": _not_yet(look.rows)}
        return strings | self._rows_parts(look, look.miner, who)

    def _about(self, look: Look) -> dict[str, str]:
        """What the reports say."""
        report, miner = look.report, look.miner
        by = mining_cards.chosen_group(report, look.view.get("by", ""))
        index = miner.mined if miner else None
        return {
            "notices": mining_cards.notes(report, index),
            "difficulty": mining_cards.difficulty(report, len(miner.edits) if miner else 0),
            "histogram_note": mining_cards.histogram_note(report),
            "where": mining_cards.where_head(report, by), "where_note": mining_cards.where_note(report, by),
            "ensemble": agreement_card(look.pairs, self.pairing),
            "pairs": built_card(look.pairs, look.built, miner, self._trainer(), self.workspace),
            "pairs_table": built_table(look.built) if look.built else ""}

    def _trainer(self) -> str:
        """Where pairs are trained on."""
        known = TRAINER in self.workspace.plugins.methods and self.workspace.access.may(Act.START)
        return f"/training?method={TRAINER}" if known else ""

    def _rows_parts(self, look: Look, miner: Miner, who: str) -> dict[str, str]:
        view, found = look.view, found_rows(miner, look.view)
        place = opened_place(miner, view, found)
        weighting = self.pairing.weighting(look.built)
        try:
            may_edit = self.workspace.access.may(Act.EDIT)
            opened = input_card(miner, place, look.built, view.get("mode", ""), who, may_edit) if place is not None else Markup()
            listed = table(miner, view, found, weighting, look.built)
        except UserError as error:  # the file was changed while it was read
            opened, listed = Markup(), html.problem_strip(str(error))
        acts = self._acts(miner, look.built, filled=not _form_is_open(view))
        return {"list_head": list_head(miner, view), "build": acts, "table": listed, "input": opened}

    def _acts(self, miner: Miner, built: Built | None, *, filled: bool) -> Markup:
        """The page's one filled button (the form's Start is it while the form stands open), and the file to take home.

        Pairs that are there are built again as they were: from all their miners, with their settings.
        """
        usable = miner.usable()
        export = html.small_link("Export the hard samples", "export-hard", miner.run.id) if usable else None
        if self.pairing.method is None or not self.workspace.access.may(Act.START):
            return html.div(html.join([export]), "gw-build")
        words = f"Build pairs from {usable:,} {'input' if usable == 1 else 'inputs'}"
        if built is not None and built.reads_otherwise(miner):
            words = "Build the pairs again"  # from how many is known when they are built
        if built is not None and (several := len(self.pairing.sources(built.run))) > 1:
            words = f"Build pairs from {several} mining runs again"
        button = html.small_button(words, "build", miner.run.id, "filled" if filled else "") if usable else None
        others = html.link("other settings", f"/mining?from={built.run.id}" if built else f"/mining?method={PAIRING}") if usable else None
        return html.div(html.join([button, html.div(html.join([export, others]), "gw-line") if usable else None]), "gw-build")

    def header(self, look: Look) -> Markup:
        """Title; the run that is shown, its state and how it drew its answers; the button of the form."""
        opened = _form_is_open(look.view)
        if look.run is None:
            return html.page_header("Mining", SUBTITLE)
        about = [html.link(look.run.id, f"/runs?run={look.run.id}"), html.state_pill(look.run.state),
                 html.span(mining_cards.settings_words(look.run)),
                 html.small_button("Close the form" if opened else "New mining run", "new")]
        return html.page_header("Mining", SUBTITLE, html.join(about))

    def running(self, look: Look) -> Markup:
        """Cards of the runs under way, of the one that was asked for and has no rows, and of the newest where it came to a bad end."""
        mine = {run.id for run in look.pairs}
        asked = [run for run in look.runs if run.id == look.view.get("run") and run != look.run and run.id not in mine]
        alive = [run for run in look.runs[:30] if run.state in ("running", "queued") and run.id not in mine][:4]
        newest = look.runs[:1] if look.runs and look.runs[0].state in ("failed", "lost", "stopped") and look.runs[0].id not in mine else []
        cards = {run.id: run for run in [*alive, *newest, *asked] if look.run is None or run.id != look.run.id}
        drawn = [html.card(run_card.top(run), run_card.actions(run, self.workspace)) for run in cards.values()]
        empty = _no_results(self.workspace) if not look.runs else None
        return html.join([empty, *drawn])

    def others(self, look: Look) -> Markup:
        """Every mining run, while the form stands open."""
        if not look.runs or not (_form_is_open(look.view) or look.run is None):
            return Markup()
        top_level = [run for run in look.runs if not run.status.get("parent")]
        return html.card(run_card.others(top_level, "mining", look.run.id if look.run else "", self.workspace))

    def boxes(self, look: Look) -> list[Any]:
        """What stands on the page at all, and the picker."""
        several = len(look.finished) > 1
        options = [(_run_words(run), run.id) for run in look.finished]
        return [gr.update(visible=_form_is_open(look.view) or look.run is None), gr.update(visible=look.run is not None),
                gr.update(visible=bool(look.pairs)), gr.update(visible=several),
                gr.update(choices=options, value=look.run.id if look.run else None)]

    def filters(self, look: Look) -> list[Any]:
        """Choices and values of the filters."""
        if look.miner is None:
            return [gr.skip()] * len(FILTERS)
        k = len(look.report.get("histogram", ())) - 1
        offered = choices(look.miner.mined, k)
        boxes = [gr.update(choices=offered[name], value=look.view.get(name, "")) for name in FILTERS if name in offered]
        return [*boxes, look.view.get("q", "")]

    def charts(self, look: Look) -> list[Any]:
        """Histogram, forest plot, weights."""
        if look.run is None:
            return [gr.skip()] * 3
        report = look.report
        groups = mining_cards.groups_of(report).get(mining_cards.chosen_group(report, look.view.get("by", "")), ())
        weights = weights_of(look.built) if look.built else []
        hard = _hard_by_right(look.miner.mined, len(report["histogram"])) if look.miner else None
        return [mining_plots.histogram(report["histogram"], hard),
                _plot(mining_plots.forest(groups, report["kinds"]["hard"]["share"]) if groups else None),
                _plot(mining_plots.weight_bars(weights) if weights else None)]

    def stamps(self, look: Look) -> dict[str, Any]:
        """What each group of parts depends on: a group is drawn anew when its stamp is another one."""
        run_id = look.run.id if look.run else ""
        built = look.built.run.id if look.built else ""
        reading = look.rows.done if isinstance(look.rows, Reading) else None
        pairs = [f"{run.id} {run.state} {(run.status.get('progress') or {}).get('done')}" for run in look.pairs[:3]]
        return {"page": [[run.id for run in look.finished], run_id, reading, pairs],
                "filters": [run_id, reading is None], "charts": [run_id, look.view.get("by", ""), reading is None, built]}

    # What clicks do

    def act(self, query: str, word: str, value: str, who: str = "") -> str:
        """The view after a click. Edits are written, runs started, stopped or resumed; what goes wrong is said, and the view stays."""
        view = read_view(query)
        try:
            return self._act(view, word, value, who)
        except UserError as error:
            gr.Warning(str(error))
            return query

    def _act(self, view: View, word: str, value: str, who: str) -> str:
        if word == "new":
            return write_view(view, **(CLOSED if _form_is_open(view) else {"new": "1"}))
        if word == "open":
            run = self.workspace.run(value)
            shown = next(iter(self.pairing.sources(run)), value) if run.method == PAIRING else value
            return write_view(view, **{**dict.fromkeys(DROPS["run"], ""), "run": shown})
        if word in ("kind", "edited", "page", "row", "by", "mode"):
            same = word == "mode" and view.get("mode") == value
            return write_view(view, **{**dict.fromkeys(DROPS.get(word, ()), ""), word: "" if same else value})
        if word == "clear":
            return write_view(view, **dict.fromkeys((*FILTERS, "edited", *LIST), ""))
        if word in ("next", "previous"):
            return self._step(view, 1 if word == "next" else -1, value)
        if word in EDITS:
            return self._edit(view, word, value, who)
        if word == "build":
            values = self.pairing.values(self.workspace.run(value), self.look(write_view({**view, "run": value})).built)
            jobs.submit(self.workspace, PAIRING, values)
            return write_view(view)
        if word in ("stop", "force"):
            jobs.stop(self.workspace, self.workspace.run(value), force=word == "force")
        elif word == "resume":
            jobs.resume(self.workspace, self.workspace.run(value))
        return write_view(view)

    def _step(self, view: View, step: int, value: str) -> str:
        miner = self._miner(view)
        here = {**view, "row": value} if value else view
        found = found_rows(miner, here)
        place = neighbour(miner, here, found, step)
        if place is None:
            return write_view(view)
        at = found.tolist().index(place)
        return write_view(view, row=int(miner.index.row[place]), page=at // PAGE + 1 if at >= PAGE else "", mode="")

    def _edit(self, view: View, word: str, value: str, who: str) -> str:
        """`value`: the row, then what the edit needs."""
        self.workspace.access.demand(Act.EDIT)
        miner = self._miner(view)
        row, _, rest = value.partition(" ")
        place = miner.place_of(int(row)) if row.isdecimal() else None
        if place is None:
            raise UserError(f"{miner.run.id} has no input {row!r}; open the page again.")
        change(miner, place, word, rest, who, self.look(write_view(view)).built)
        return write_view(view, row=row, mode="" if word == "gold" else view.get("mode", ""))

    def _miner(self, view: View) -> Miner:
        look = self.look(write_view(view))
        if look.miner is None:
            raise UserError(look.rows if isinstance(look.rows, str) and look.rows else "The rows of this run are not read yet.")
        return look.miner

    def export(self, query: str, word: str, value: str) -> str | None:
        """A copy of the hard samples as they stand now, or of the pairs of a run, where Gradio may serve it."""
        if word == "export-pairs":
            return prepared(self.workspace, value, PAIRS)
        try:
            miner = self._miner(read_view(query))
            return str(write_hard(miner, Path(get_upload_folder()) / "guardwaltz" / str(time.time_ns())))
        except UserError as error:
            gr.Warning(str(error))
            return None


def _rows(run: Run) -> Miner | Reading | str:
    try:
        return open_miner(run)
    except UserError as error:
        return str(error)


def _plot(figure: Any) -> Any:
    return gr.update(visible=False) if figure is None else gr.update(value=figure, visible=True)


def _not_yet(rows: Miner | Reading | str) -> Markup:
    """What stands in the place of the list."""
    if isinstance(rows, Reading):
        words = f"reading the outputs, {size(rows.done)} of {size(rows.total)}; the list stands here as soon as that is done"
        return html.progress_bar(rows.done / rows.total, words)
    return html.problem_strip(str(rows))


def _hard_by_right(index: Index, bars: int) -> list[int]:
    """How many rows of each number of right outputs are hard."""
    hard = index.correct[index.kind == KINDS.index("hard")]
    return [int(count) for count in np.bincount(hard, minlength=bars)[:bars]]


def _has_rows(run: Run) -> bool:
    path = run.dir / "report.json"
    return (run.dir / FILE).exists() and _reports_kinds(path, _changed(path))


@lru_cache(maxsize=1024)
def _reports_kinds(path: Path, changed: int) -> bool:  # noqa: ARG001 - the time makes the answer current
    found = read_json(path, {}) or {}
    return all(name in found for name in ("kinds", "histogram", "outputs", "rows"))


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _form_is_open(view: View) -> bool:
    """Asked for, or the address brings settings for it."""
    return any(view.get(name) for name in CLOSED)


def _run_words(run: Run) -> str:
    name = run.name if run.name != run.id else ""
    headline: Sequence[str] = (run.id, name, run.status.get("what", ""), (run.report or {}).get("headline", ""))
    return " · ".join(filter(None, headline))


def _no_results(workspace: Workspace) -> Markup:
    trained = any((run.dir / "adapter").is_dir() or (run.dir / "model").is_dir() for run in workspace.runs())
    text = ("How many inputs are hard stands here, which sources they come from, and each hard input with its outputs side by side. "
            "A trained guard is asked several times about every input; where some answers are right and some wrong, the input is hard. "
            "No mining run has finished yet.")
    fill = "Fill in the form and start one; it goes on when you close this tab."
    act = fill if trained else html.link("Train a guard first", "/training")
    return html.card(html.empty_state("No mining run yet", text, act))
