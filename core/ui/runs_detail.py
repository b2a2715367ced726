"""The chosen run on the Runs page: how it stands, what it was asked, what can be done with it. Pure HTML from its folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from core.access import OWNER, Access, Act
from core.methods import Method, UserError, validate
from core.resuming import resume_words
from core.runs import FINISHED, Run, Workspace
from core.ui import html
from core.ui.follow import story_of
from core.ui.pieces import fold, stat_parts
from core.ui.runs_table import time_left
from core.words import duration, size

STAGE_PAGES = {"data": "/", "training": "/training", "mining": "/mining", "rl": "/rl", "evaluation": "/evaluation", "study": "/runs"}


def live_part(run: Run) -> Markup:
    """Header, progress, statistics and the end of the log: everything that changes while the run goes on."""
    status, state = run.status, run.state
    parts = [html.card_header(run.id, _subtitle(run, status), html.state_pill(state))]
    if state == "running":
        progress = status.get("progress") or {}
        done, total = progress.get("done"), progress.get("total")
        words = _done_words(progress) + (f", {progress['detail']}" if progress.get("detail") else "")
        parts.append(html.progress_bar(done / total if done is not None and total else None, words, time_left(status)))
    if status.get("message") and state in FINISHED:
        parts.append(html.problem_strip(status["message"], "error" if state == "failed" else "info"))
    if state == "lost":
        parts.append(html.problem_strip("Its process is gone without a last word (killed, or the machine went down).", "warning"))
    parts += [html.problem_strip(str(event.get("text", "")), "warning") for event in _warnings(run)]
    parts.append(html.stat_tiles(_tiles(run, status, state)))
    report = run.report
    if report and report.get("headline"):
        parts.append(html.key_value([("Result", str(report["headline"]))]))
    parts.append(html.log_block(run.log_tail(8)))
    return html.join(parts)


def _subtitle(run: Run, status: dict[str, Any]) -> str:
    started = status.get("started") or status.get("created")
    when = time.strftime("%d %b %H:%M", time.localtime(started)).lstrip("0") if started else ""
    words = "started" if status.get("started") else "created"
    name = run.name if run.name != run.id else ""
    return ", ".join(filter(None, [name, run.method, f"{words} {when}" if when else "", f"seed {run.config.get('seed', '')}"]))


def _done_words(progress: dict[str, Any]) -> str:
    if progress.get("done") is None:
        return "starting"
    total = f" of {progress['total']:,g}" if progress.get("total") else ""
    return f"{progress['done']:,g}{total} {progress.get('unit', '')}".strip()


def _warnings(run: Run) -> list[dict[str, Any]]:
    found = [event for event in story_of(run).notices if event.get("level") == "warning"]
    return found[-3:]


def _tiles(run: Run, status: dict[str, Any], state: str) -> list[tuple[str, str, str]]:
    started, ended = status.get("started"), status.get("ended")
    progress = status.get("progress") or {}
    # a running clock would change the string each tick: progress carries the time of the last word
    until = ended if state in FINISHED and ended else progress.get("t") or started
    tiles = [(str(name), *stat_parts(value)) for name, value in list((status.get("stats") or {}).items())[:4]]
    if started and until:
        tiles.append(("Time", duration(until - started), ""))
    tiles.append(("Disk", size(run.disk_bytes()), ""))
    usd = status.get("usd", 0.0)
    tiles.append(("Spent", f"{usd:.2f} USD", "" if usd else "no paid calls"))
    return tiles


def asked_part(run: Run) -> Markup:
    """The command that repeats it and the YAML: written once, never changed, so a page may keep it open."""
    command = (run.dir / "command.sh").read_text(encoding="utf-8").removeprefix("#!/bin/sh\n").strip()
    text = (run.dir / "config.yaml").read_text(encoding="utf-8")
    return html.code_block(command) + fold("config.yaml", html.code_block(text))


def actions_part(run: Run, method: type[Method] | None, ask: str, dependents: Sequence[str], access: Access = OWNER) -> Markup:
    """Buttons for what can be done now, and the question that a button has opened."""
    if not access.may(Act.STOP):
        return html.div(html.small_button("Download YAML", "download", "config.yaml"), "gw-buttons")
    state, child = run.state, bool(run.status.get("parent"))
    page = STAGE_PAGES.get(run.status.get("stage", ""), "")
    buttons: list[Markup] = []
    if state in ("running", "queued") and not child:
        asked = (run.dir / "stop").exists()
        buttons.append(html.small_button("Stop now" if asked else "Stop", "force" if asked else "stop", run.id, "stop"))
    resumable = state in ("stopped", "failed", "lost") and not child and method is not None and method.resumable
    if resumable:
        buttons.append(html.small_button("Resume", "resume", run.id))
    if state == "succeeded" and can_continue(method):
        buttons.append(html.small_button("Continue", "continue", run.id))
    if page and page != "/runs":
        buttons.append(html.button_link("Run again with changes", f"{page}?from={run.id}"))
    archived = run.labels["archived"]
    buttons.append(html.small_button("Take out of the archive" if archived else "Archive", "archive", run.id))
    buttons.append(html.small_button("Download YAML", "download", "config.yaml"))
    if state not in ("running", "queued"):
        buttons.append(html.small_button("Delete", "delete", run.id))
    hint = html.div(_hint(state, child, run, resumable), "gw-help")
    return html.div(html.join(buttons), "gw-buttons") + hint + _question(run, ask, dependents)


def _hint(state: str, child: bool, run: Run, resumable: bool) -> str:
    if child and state not in ("succeeded",):
        return f"A step of {run.status['parent']}: stop or resume that one, it takes this step along."
    if state == "running" and (run.dir / "stop").exists():
        return "Stop was asked for; the run writes a checkpoint and ends. Stop now ends it without one."
    if state == "running":
        return "Stop writes a checkpoint first. You may close this tab: the run goes on."
    return resume_words(run) if resumable else ""


def _question(run: Run, ask: str, dependents: Sequence[str]) -> Markup:
    if ask != "delete" or run.state in ("running", "queued"):
        return Markup()
    stand = ", ".join(dependents[:5]) + (f" and {len(dependents) - 5} more" if len(dependents) > 5 else "")
    warning = f" {stand} came from it and will not find it any more." if dependents else ""
    text = f"Delete {run.id} for good? That frees {size(run.disk_bytes())} and cannot be undone.{warning}"
    buttons = html.small_button("Delete for good", "delete-now", run.id, "stop") + html.small_button("Keep it", "keep", run.id)
    return html.div(html.problem_strip(text, "warning") + html.div(buttons, "gw-buttons"), "gw-question")


def can_continue(method: type[Method] | None) -> bool:
    """Does this method know how to start a new schedule from a finished run?"""
    return method is not None and method.continued is not Method.continued


def continued_rate(workspace: Workspace, run: Run) -> str:
    """The learning rate that Continue will use; "" for a method without one, or where it cannot be continued."""
    try:
        method = workspace.plugins.method(run.method)
        values = method(workspace).continued(validate(method, run.config), run.id)
        rate = getattr(validate(method, values), "learning_rate", None)
    except UserError:
        return ""
    return f"{rate:g}" if isinstance(rate, float) else ""


def method_of(workspace: Workspace, run: Run) -> type[Method] | None:
    """The method of a run, None when its plugin is not here any more."""
    try:
        return workspace.plugins.method(run.method)
    except UserError:
        return None


def steps_card(run: Run) -> Markup:
    """Children of a study with their states; "" for a run without any."""
    children = run.children()
    if not children:
        return Markup()
    rows = [(html.state_pill(child.state), str(child.status.get("key", "")), html.link(child.id, f"/runs?run={child.id}"), child.method,
             html.span(str((child.report or {}).get("headline", "") or child.status.get("message", ""))[:120])) for child in children]
    done = sum(child.state == "succeeded" for child in children)
    shown = html.link("report.html", "#gw-report") if (run.dir / "report.html").exists() else Markup()
    return html.card_header("Steps", f"{done} of {_steps_in_all(run, len(children))} done", shown) + html.table(
        ["State", "Step", "Run", "Method", "Result"], rows, label="steps")


def _steps_in_all(run: Run, known: int) -> int:
    total = (run.status.get("progress") or {}).get("total")
    return int(total) if total else known


def report_frame(run: Run) -> Markup:
    """report.html in a frame of its own without scripts or access to this page; "" where there is none."""
    path = run.dir / "report.html"
    if not path.exists():
        return Markup()
    frame = html.element("iframe", "", "gw-report", srcdoc=path.read_text(encoding="utf-8"), sandbox="allow-popups",
                         title=f"Report of {run.id}", id="gw-report")
    return html.card_header("Report", "one page, can be kept", html.small_link("Download", "download", "report.html")) + frame
