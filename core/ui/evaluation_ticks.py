"""Twenty sampled reasonings, one by one: does it hold together? A person's ticks beside the automatic check."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from core.access import Act
from core.evals.predictions import FILE
from core.evals.ticks import TICKS, tick_summary, ticks, traces_to_tick
from core.records import Prediction
from core.runs import Run, Workspace
from core.ui import html
from core.ui.pieces import numbered_steps

SAMPLE = 20
WORDS = {"coherent": "coherent", "not": "not coherent", "unsure": "unsure"}
KEYS = """
element.addEventListener('keydown', (event) => {
  const act = {'1': 'coherent', '2': 'not', '3': 'unsure'}[event.key];
  if (!act || event.target.closest('input, textarea')) return;
  const box = element.querySelector('[data-trace]');
  if (box) trigger('select', {index: 'tick', value: act});
});
"""
"""1, 2, 3 tick the trace while the card has the focus."""


def sampled(run: Run) -> list[Prediction]:
    """The same traces for everybody; read again only when predictions.jsonl has changed."""
    path = run.dir / FILE
    if not path.exists():
        return []
    stat = path.stat()
    return list(_sampled(run.dir, stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=4)
def _sampled(folder: Path, bytes_now: int, changed: int) -> tuple[Prediction, ...]:  # noqa: ARG001 - they make the answer current
    return tuple(traces_to_tick(Run(folder), SAMPLE))


def summary(run: Run) -> dict[str, Any]:
    """tick_summary, counted again only after a new tick."""
    path = run.dir / TICKS
    stat = path.stat() if path.exists() else None
    return _summary(run.dir, (stat.st_size, stat.st_mtime_ns) if stat else (0, 0))


@lru_cache(maxsize=4)
def _summary(folder: Path, stamp: tuple[int, int]) -> dict[str, Any]:  # noqa: ARG001 - it makes the answer current
    return tick_summary(Run(folder))


def position(run: Run, traces: list[Prediction], asked: str, who: str = "") -> int:
    """The trace asked for, else the first without a tick of this person."""
    if asked.isdecimal():
        return min(int(asked), len(traces) - 1)
    said = ticks(run)
    return next((index for index, item in enumerate(traces) if (item.row, item.model, who) not in said), len(traces) - 1)


def ticks_card(run: Run, titles: dict[str, str], opened: bool, asked: str, who: str = "", may_tick: bool = True) -> Markup:
    """Closed: what was ticked so far. Opened: one trace with its three buttons."""
    opened = opened and may_tick
    traces = sampled(run)
    head_words = f"{len(traces)} sampled reasonings, read by a person"
    if not traces:
        return Markup()
    found = summary(run)
    button = html.small_button("Close", "tick-close") if opened else html.small_button(f"Tick {len(traces)} traces", "tick-open")
    head = html.card_header("Does the reasoning hold together?", head_words, button if may_tick else "")
    if not opened:
        return html.card(head, agreement(found))
    return html.card(head, _trace(run, traces, titles, position(run, traces, asked, who), who), agreement(found))


def _trace(run: Run, traces: list[Prediction], titles: dict[str, str], at: int, who: str) -> Markup:
    item = traces[at]
    said = ticks(run).get((item.row, item.model, who))
    done = sum((trace.row, trace.model, who) in ticks(run) for trace in traces)
    harmful = "harmful" in (item.gold.request, item.gold.response)
    answers = [html.chip(getattr(item.predicted, task), task) for task in item.parsed]
    quote = html.div(html.veil(item.prompt, harmful), "gw-quote")
    steps = numbered_steps(item.reasoning) or html.span("It wrote no steps.", "gw-sub")
    body = quote + html.div(steps, "gw-steps") + html.div(html.join(answers, " "), "gw-line")
    buttons = [html.element("button", f"{number} {WORDS[verdict]}", "gw-button" + (" gw-chosen" if said == verdict else ""), type="button",
                            data_act="tick", data_value=verdict, aria_pressed="true" if said == verdict else "false")
               for number, verdict in enumerate(WORDS, start=1)]
    # what the check says is shown after the tick only, so that it cannot lean on the reader
    check = f"The automatic check says {'coherent' if item.coherent else f'not coherent ({item.incoherent_why})'}." if said else ""
    back = html.small_link("Back", "tick-at", str(at - 1)) if at else Markup()
    forth = html.small_link("Next", "tick-at", str(at + 1)) if at + 1 < len(traces) else Markup()
    place = f"Trace {at + 1} of {len(traces)}, {done} ticked: {titles.get(item.model, item.model)}, row {item.row:04d}"
    line = html.div(html.span(place, "gw-sub") + back + forth, "gw-line")
    keys = html.span("Keys 1, 2, 3 work after a click into this card.", "gw-help")
    return html.div(line + body + html.div(html.join(buttons) + html.span(check, "gw-sub"), "gw-buttons") + keys, "gw-sunken gw-trace",
                    tabindex=0, data_trace=f"{item.row}|{item.model}")


def agreement(found: dict[str, Any]) -> Markup:
    """How often a person and the automatic check say the same, with its interval."""
    if not found["ticked"]:
        return html.div("Nobody has ticked a trace yet. The agreement of people with the automatic check appears here, with its interval.",
                        "gw-help")
    pairs = []
    for name, words in (("agreement", "People and the automatic check agree"), ("coherent", "People call coherent")):
        share = found[name]
        if share["value"] is None:
            pairs.append((words, html.span("no decided tick yet", "gw-sub")))
            continue
        value, low, high = (100 * share[end] for end in ("value", "low", "high"))
        number = html.number(value, low, high, "%") + html.span(f" n = {share['n']}", "gw-interval")
        pairs.append((words, html.div(number + html.whisker(value, low, high, width=150), "gw-line")))
    counts = (f"{found['ticked']} ticked, {found['unsure']} unsure; only people reject {found['stricter']}, "
              f"only the check rejects {found['laxer']}.")
    return html.key_value(pairs) + html.div(counts, "gw-help")


def tick(workspace: Workspace, run_id: str, asked: str, verdict: str, who: str = "") -> int:
    """Write a verdict on the trace shown; returns the place of the next one."""
    from typing import cast

    from core.evals.ticks import Tick, add_tick

    workspace.access.demand(Act.EDIT)
    run = workspace.run(run_id)
    traces = sampled(run)
    at = position(run, traces, asked, who)
    add_tick(run, traces[at].row, traces[at].model, cast(Tick, verdict), who)
    return min(at + 1, len(traces) - 1)


def ticks_block() -> Any:
    """The component of the card: clicks as everywhere, and the keys."""
    import gradio as gr

    from core.ui.theme import _CLICKS

    return gr.HTML("", apply_default_css=False, js_on_load=_CLICKS + KEYS, elem_classes="gw-slot")
