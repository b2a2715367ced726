"""`samples.jsonl` of a run as cards: what the model in training writes now, beside the gold labels.

A row: {"step", "prompt", "response"?, "text", "gold", "predicted"}. `gold` and `predicted` map tasks to labels, as core.records.Labels
does; a label alone is that of the request. "trained": true = an answer that training itself sampled and learned from.
"""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from core.records import read_jsonl
from core.runs import Run
from core.ui import html
from core.ui.pieces import cut

SHOWN = 6
LONGEST = 900
"""Characters of an answer that a card shows."""


def newest(run: Run) -> list[dict[str, Any]]:
    """The rows of the last step that wrote any."""
    rows = list(read_jsonl(run.dir / "samples.jsonl"))
    steps = [row.get("step") for row in rows if row.get("step") is not None]
    return [row for row in rows if not steps or row.get("step") == steps[-1]][:SHOWN]


def cards(run: Run) -> Markup:
    """The card whole; empty where the run wrote no samples. A file that is damaged does not take the page along."""
    try:
        rows = newest(run)
        shown = [_card(row) for row in rows]
    except (ValueError, TypeError, AttributeError) as error:
        return html.problem_strip(f"samples.jsonl of {run.id} cannot be shown: {error}", "warning")
    if not rows:
        return Markup()
    step = rows[0].get("step")
    which = "answers from its training" if rows[0].get("trained") else "rows it never trained on"
    words = f"{len(rows)} {which}" + (f", at step {step:,}" if isinstance(step, int) else "")
    return html.card_header("What it writes now", words) + html.div(html.join(shown), "gw-cards")


def _card(row: dict[str, Any]) -> Markup:
    gold, said = _labels(row.get("gold")), _labels(row.get("predicted"))
    harmful = "harmful" in gold.values()
    parts = [html.element("b", html.veil(str(row.get("prompt", "")), harmful))]
    if row.get("response"):
        parts.append(html.div(html.span("reply ", "gw-sub") + html.veil(str(row["response"]), harmful)))
    parts.append(html.div(cut(str(row.get("text", "")), LONGEST), "gw-written"))
    agrees = _agrees(gold, said)
    verdict = html.span({True: "agrees", False: "differs", None: ""}[agrees], "end")
    return html.judged(html.join(parts) + html.div(html.join([*_chips(gold, said), verdict], " "), "verdicts"), agrees)


def _labels(value: Any) -> dict[str, str]:
    if isinstance(value, dict):
        return {str(task): str(label) for task, label in value.items() if label}
    return {"request": str(value)} if value else {}


def _agrees(gold: dict[str, str], said: dict[str, str]) -> bool | None:
    """On every task that it gave a label for; None where there is no gold label."""
    shared = said.keys() & gold.keys()
    return all(said[task] == gold[task] for task in shared) and bool(shared) if gold else None


def _chips(gold: dict[str, str], said: dict[str, str]) -> list[Markup]:
    """"says harmful, gold unharmful" for each task that it gave a label for; unparsed where it gave none."""
    chips = []
    for task in list(said) or list(gold)[:1]:
        name = "" if task == "request" else f" {task}"
        chips.append(html.chip(said.get(task), f"says{name}"))
        if task in gold:
            chips.append(html.chip(gold[task], f"gold{name}"))
    return chips
