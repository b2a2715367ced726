"""Difficulty and where the hard rows are: what report.json of a mining run says, with its intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from core.mining.samples import TASK_ORDER
from core.runs import Run
from core.ui import html
from core.ui.mining_index import Index
from core.ui.mining_plots import MOST_GROUPS
from core.ui.pieces import segments
from core.words import plural

Report = Mapping[str, Any]
GROUPS = (("source", "by source"), ("gold", "by gold label"), ("category", "by category"))


def settings_words(run: Run) -> str:
    """"k = 4, T 1.0, top-p 0.95"."""
    config = run.config
    words = (("k", "k = {}"), ("temperature", "T {}"), ("top_p", "top-p {}"))
    return ", ".join(shape.format(config[name]) for name, shape in words if config.get(name) is not None)


def tiles(report: Report) -> Markup:
    """Hard, all right, all wrong, unparsed outputs: share, interval, whisker, count."""
    kinds, rows = report["kinds"], report["rows"]
    shown = [_tile(name, kinds[kind]["share"], f"{kinds[kind]['count']:,} of {rows:,}", main=kind == "hard")
             for name, kind in (("Hard", "hard"), ("All right", "all right"), ("All wrong", "all wrong"))]
    outputs = {task: report["outputs"][task] for task in TASK_ORDER if task in report["outputs"]}
    for task, found in outputs.items():
        name = "Unparsed outputs" + (f", {task}" if len(outputs) > 1 else "")
        shown.append(_tile(name, found["unparsed"]["share"], f"{found['unparsed']['count']:,} of {found['n']:,}"))
    return html.div(html.join(shown), "gw-stats gw-shares")


def _tile(name: str, share: Mapping[str, Any], count: str, *, main: bool = False) -> Markup:
    value, low, high = (None if share[end] is None else 100 * share[end] for end in ("value", "low", "high"))
    number = html.number(value, low, high, "%")
    inner = html.span(name, "name") + number + html.whisker(value, low, high, width=112) + html.span(count, "small")
    return html.div(inner, "gw-stat gw-share" + (" main" if main else ""))


def difficulty(report: Report, edits: int) -> Markup:
    """Header, tiles and what must be known about them; the histogram stands under it."""
    readable = report["rows"] - report["kinds"]["unparsed"]["count"]
    head = html.card_header("Difficulty", f"{readable:,} of {report['rows']:,} inputs have at least two outputs that count")
    strips = [html.problem_strip(str(line.get("text", line)), "warning") for line in report.get("overrides", [])]
    if edits:
        words = f"{edits:,} inputs were" if edits > 1 else "1 input was"
        strips.append(html.problem_strip(f"As it was mined: {words} edited by hand since, which counts below and in the pairs.", "info"))
    return html.join([head, *strips, tiles(report)])


def histogram_note(report: Report) -> Markup:
    """What the two colours of the histogram are."""
    hard = report["hard"]
    words = f"Coloured: hard, {plural(hard, 'input')} with right and wrong outputs mixed. " if hard else ""
    words += "Whiskers are 95 % Wilson intervals."
    cut_off = report.get("cut_at_limit") or {}
    if cut_off.get("count"):
        words += f" {cut_off['count']:,} outputs were cut off at the token limit."
    return html.div(words, "gw-help")


def groups_of(report: Report) -> dict[str, Sequence[Mapping[str, Any]]]:
    """{"source": [group, ...]} for everything the report breaks down by."""
    return {name: found for name, _ in GROUPS if (found := report.get(f"by_{name}"))}


def chosen_group(report: Report, asked: str) -> str:
    """The breakdown asked for, else by source where there are several, else by gold label."""
    groups = groups_of(report)
    if asked in groups:
        return asked
    return next((name for name, found in groups.items() if len(found) > 1), next(iter(groups), ""))


def where_head(report: Report, by: str) -> Markup:
    """Title and the control of the forest plot."""
    groups = groups_of(report)
    options = [(name, words) for name, words in GROUPS if name in groups]
    switch = segments(options, by, "by", "break down by") if len(groups) > 1 else Markup()
    head = html.card_header("Where the hard ones are", "whiskers are 95 % Wilson intervals")
    if not groups:
        text = "Hard inputs by source, gold label and category stand here. The report of this run has none."
        return head + html.empty_state("No groups", text)
    return html.join([head, switch])


def where_note(report: Report, by: str) -> Markup:
    """The dotted line, and the groups that have no line of their own."""
    found = groups_of(report).get(by, ())
    words = "Dotted line: all inputs."
    if by == "gold":
        words += " An input counts under the gold label of each task."
    if len(found) > MOST_GROUPS:
        words += f" {len(found) - MOST_GROUPS:,} smaller groups are in report.json."
    return html.div(words, "gw-help") if found else Markup()


def notes(report: Report, index: Index | None) -> Markup:
    """What the run noted and what is wrong with its file; nothing is left out in silence."""
    strips = [html.problem_strip(str(note), "warning" if "No hard sample" in str(note) else "info") for note in report.get("notes", [])]
    if index and index.damaged_lines:
        named, count = "; ".join(index.damaged), index.damaged_lines
        more = f" and {count - len(index.damaged):,} more" if count > len(index.damaged) else ""
        text = (f"{plural(count, 'damaged line')} of outputs.jsonl left out here: {named}{more}. Pairs cannot be built until that is put "
                "right from a copy.")
        strips.append(html.problem_strip(text))
    if index and index.torn:
        text = "The last line of outputs.jsonl has no end and is left out: the run was killed while it wrote."
        strips.append(html.problem_strip(text, "warning"))
    return html.join(strips)
