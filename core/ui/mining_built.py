"""The pairs that were built from a mining run: how many, with which weights, what was left out; and whether several miners agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from core.runs import Run, Workspace
from core.ui import html, run_card
from core.ui.mining_run import Built, Miner, Pairing
from core.words import plural

MOST_LINES = 12
"""Lines of the table; the rest is in report.json."""


def weights_of(built: Built) -> list[tuple[float, int]]:
    """(weight, pairs) of each distinct weight, smallest first."""
    found = (built.report.get("weights") or {}).get("histogram", [])
    return [(float(bar["weight"]), int(bar["pairs"])) for bar in found]


def built_card(pairs: Sequence[Run], built: Built | None, miner: Miner | None, train: str = "",
               workspace: Workspace | None = None) -> Markup:
    """Header and numbers of the newest pairs; above them the newest run, where that is another one or came to a bad end.

    `train`: the address of the form that trains on pairs, "" where there is none.
    """
    if not pairs:
        return Markup()
    newest = pairs[0]
    parts: list[Markup | None] = []
    if built is None or newest.id != built.run.id:
        parts += [run_card.top(newest), run_card.actions(newest, workspace)]
    if built is None:
        return html.join(parts)
    report = built.report
    counts, weights = report.get("counts", {}), report.get("weights", {})
    links = html.join([html.link("Train on them", train) if train else None, html.small_link("Download", "export-pairs", built.run.id),
                       html.link("the run", f"/runs?run={built.run.id}")])
    sub = ", ".join(f"{item.get('run')}" for item in report.get("runs", []))
    parts.append(html.card_header("Preference pairs", f"{built.run.id}, from {sub}", html.state_pill(built.run.state) + links))
    parts += [html.problem_strip(str(line.get("text", line)), "warning") for line in report.get("overrides", [])]
    if miner is not None and miner.latest_edit > built.began:
        parts.append(html.problem_strip("Inputs were edited since; build the pairs again to use that.", "warning"))
    out = int(counts.get("hard_rows", 0)) - int(counts.get("rows_with_pairs", 0))
    settings = report.get("settings", {})
    parts.append(html.stat_tiles([
        ("Pairs", f"{counts.get('pairs', 0):,}", f"from {plural(int(counts.get('rows_with_pairs', 0)), 'hard input')}"),
        ("Weights", f"{weights.get('low', 1):.3g} to {weights.get('high', 1):.3g}",
         f"gamma {settings.get('gamma')}, {settings.get('norm')}"),
        ("Picked", str(settings.get("pick", "")), "right and wrong output"),
        ("Left out", f"{out:,}", f"of {plural(int(counts.get('hard_rows', 0)), 'hard input')}")]))
    notes = [html.div(str(note)) for note in report.get("notes", [])]
    parts.append(html.div(html.join(notes), "gw-help") if notes else None)
    return html.join(parts)


def built_table(built: Built) -> Markup:
    """Pairs by source and model, and the range of wrong minus right outputs that the weights were stretched over."""
    ranges: dict[str, list[Mapping[str, Any]]] = {}
    for line in built.report.get("ranges", []):
        ranges.setdefault(str(line["source"]), []).append(line)
    lines = built.report.get("table", [])
    rows = [(line["source"] or "(none)", html.span(str(line["model"]), "gw-mono"), f"{line['pairs']:,}",
             html.span(_ranges(ranges.get(str(line["source"]), [])), "gw-sub")) for line in lines[:MOST_LINES]]
    if not rows:
        return Markup()
    more = html.div(f"{len(lines) - MOST_LINES:,} more lines are in report.json.", "gw-help") if len(lines) > MOST_LINES else Markup()
    return html.table(["Source", "Model", "Pairs", "Wrong minus right, range"], rows, right=(2,), label="pairs by source") + more


def _ranges(lines: Sequence[Mapping[str, Any]]) -> str:
    several = len(lines) > 1
    return ", ".join(f"{line['low']:+d} to {line['high']:+d}".replace("-", "\N{MINUS SIGN}") + (f" ({line['run']})" if several else "")
                     for line in lines)


def agreement_card(pairs: Sequence[Run], pairing: Pairing) -> Markup:
    """Do several miners agree on what is hard? From the newest pairs that were built over several runs, this one among them."""
    reports = (run.report or {} for run in pairs if run.state == "succeeded" and len(pairing.sources(run)) > 1)
    lines: list[dict[str, Any]] = next((found for report in reports if (found := report.get("agreement"))), [])
    if not lines:
        text = ("One model has mined this set. Train two more with rsft-ensemble, or build pairs from several mining runs, and how far "
                "they agree on what is hard stands here.")
        method = "rsft-ensemble"
        known = method in pairing.workspace.plugins.methods
        return html.empty_state("Ensemble agreement", text, html.link("Train the ensemble", f"/training?method={method}") if known else "")
    rows = []
    for line in lines:
        names = html.span(f"{line['a']}, {line['b']}", "gw-mono")
        rows.append((names + html.div(f"{line['inputs']:,} inputs, {line['both_hard']:,} hard for both", "gw-sub"),
                     _measured(line.get("agree"), 100, "%"), _measured(line.get("kappa"), 1, "", 2)))
    note = html.div("Agree: hard for both or for neither. Kappa: how far beyond chance (0 = chance, 1 = always).", "gw-help")
    return html.card_header("Ensemble agreement", f"{plural(len(lines), 'pair')} of runs") + html.table(
        ["Runs", "Agree", "Kappa"], rows, label="agreement") + note


def _measured(found: Mapping[str, Any] | None, times: float, unit: str, digits: int = 1) -> Markup:
    if not found or found.get("value") is None:
        return html.span("undefined", "gw-sub")
    value, low, high = (times * found[name] for name in ("value", "low", "high"))
    return html.number(value, low, high, unit, digits=digits)
