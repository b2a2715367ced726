"""Conversations on the Data page: a row of the table, one of them whole, and what the checks of the set say."""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup

from core.chat.checked import METHOD
from core.chat.messages import agent_of, answer_of
from core.data import row_files
from core.records import ChatExample, GuardExample, Labels, read_records
from core.runs import Run, Workspace
from core.ui import html
from core.ui.pieces import cut
from core.waltz.feedback import read_feedback

LONGEST = 6000
"""Letters of a message that are drawn."""
Tile = tuple[str, str, str]


def as_row(example: ChatExample) -> GuardExample:
    """A conversation as the table shows it: what is asked, the answer, and what feedback says of a reply."""
    asked = "\n\n".join(message["content"] for message in example.messages[:-1] if message["role"] != "system")
    labels = Labels()
    if agent_of(example) == "feedback":
        labels = Labels(response="harmful" if read_feedback(answer_of(example)).unsafe else "unharmful")
    return GuardExample(prompt=asked or "(nothing is asked)", response=answer_of(example), labels=labels, source=example.source,
                        category=example.category, split=example.split)


def tiles_of(report: dict[str, Any]) -> list[Tile]:
    """Key numbers of a set of conversations."""
    counts = (report.get("lengths", {}).get("response") or {}).get("words")
    agents = ", ".join(f"{count:,} {agent}" for agent, count in report.get("agents", {}).items())
    tiles = [("Rows", f"{report.get('rows', 0):,}", agents), ("Prompts", f"{report.get('distinct_prompts', 0):,}", "distinct ones")]
    for label, words in (("unsafe", "Called unsafe"), ("overrefuse", "Called over-refusal")):
        said = report.get("feedback_labels", {}).get(label)
        if said:
            tiles.append((words, f"{said['yes'] / max(1, sum(said.values())):.0%}", f"{said['yes']:,} replies"))
    tiles.append(("Answer length", f"{counts['median']:,} words" if counts else "\u2013",
                  f"median, longest {counts['max']:,}" if counts else ""))
    left = {"refused": report.get("bad_rows", 0), "duplicates": report.get("duplicates_dropped", 0),
            "contradicted": report.get("conflicting_labels", 0), "not wanted": sum(report.get("not_taken", {}).values())}
    said = ", ".join(f"{count:,} {why}" for why, count in left.items() if count or why in ("refused", "duplicates"))
    return [*tiles, ("Left out", f"{sum(left.values()):,}", said)]


def whole(run: Run, place: int) -> Markup:
    """The conversation at this place, message by message; answers that are called unsafe, and what they answer, are blurred."""
    example = _at(run, place)
    if example is None:
        return Markup()
    veiled = as_row(example).labels.response == "harmful"
    parts = [html.div(html.element("b", message["role"]) + html.div(html.veil(cut(message["content"], LONGEST), veiled), "gw-written"))
             for message in example.messages]
    return html.card_header("The conversation", f"row {place + 1} of {run.name}; the last message is what is learned") + html.join(parts)


def _at(run: Run, place: int) -> ChatExample | None:
    for path in row_files(run).values():
        for example in read_records(path, ChatExample):
            if place == 0:
                return example
            place -= 1
    return None


def set_behind(run_id: str, workspace: Workspace) -> str:
    """The run whose rows a finished check looked at; any other run is itself."""
    run = Run(workspace.runs_dir / run_id) if re.fullmatch(r"[\w-]+", run_id) else None
    if run is None or run.method != METHOD or run.state != "succeeded":
        return run_id
    return str((run.report or {}).get("set_run") or run_id)


def checks(run: Run, workspace: Workspace) -> Markup:
    """The newest finished check of each set that the run made, rule by rule; empty where there is none."""
    newest: dict[str, tuple[Run, dict[str, Any]]] = {}
    for one in workspace.runs():
        if one.method == METHOD and one.state == "succeeded" and (report := one.report) and report.get("set_run") == run.id:
            newest.setdefault(str(report.get("set")), (one, report))
    return html.join([html.card(_check(*found)) for found in newest.values()])


def _check(run: Run, report: dict[str, Any]) -> Markup:
    rules = {rule["rule"]: rule for rule in report.get("rules", [])}
    lines = []
    for gate, rule in zip(report.get("gates", []), rules.values(), strict=True):
        found = [html.div(f"line {row['line']}: {cut(row['reason'], 200)}", "gw-sub") for row in rule.get("first", [])[:3]]
        more = rule.get("offending", 0) - len(found)
        tail = html.div(f"and {more:,} more", "gw-sub") if more > 0 else Markup()
        said = html.div(gate["explanation"]) + html.join(found) + tail
        lines.append([html.gate_badge(gate["verdict"]), html.element("b", gate["name"]) + html.div(gate["rule"], "gw-sub"), said])
    head = html.card_header(f"Check of {report.get('set')}", run.id, html.link("the run", f"/runs?run={run.id}"))
    return head + html.table(["Verdict", "Rule", "Found"], lines, label="rules")
