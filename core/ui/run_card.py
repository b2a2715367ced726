"""The live card of a run as HTML: words, progress, numbers, log, buttons; its curve; the list of the other runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup

from core.access import Act
from core.resuming import resume_words
from core.runs import FINISHED, Run, Workspace
from core.ui import html, plots
from core.ui.follow import Story, story_of
from core.ui.pieces import stat_parts
from core.words import ago, duration, plural, size

LOG_LINES = 7
WORDS_OF_STATE = {
    "queued": "Waits for its turn. You may close this tab: it starts by itself.",
    "running": "Stop writes a checkpoint first. You may close this tab: the run goes on.",
    "stopping": "Stop was asked for; the run writes a checkpoint and ends.",
    "lost": "Its worker is gone without a word.",
    "failed": "Mend the cause first.",
}


def top(run: Run) -> Markup:
    """Header, progress and the headline numbers. The same string while nothing changed."""
    status, state, story = run.status, run.state, story_of(run)
    name = run.name if run.name != run.id else ""
    title = html.join([html.span(run.id, "gw-mono-title"), html.span(name) if name else None], " ")
    header = html.card_header(title, status.get("what") or status.get("method", ""), html.state_pill(state))
    failure = html.problem_strip(status["message"], "error") if state == "failed" and status.get("message") else None
    return html.join([header, _progress(status, state, story), failure, _stats(status)])


def _progress(status: dict[str, Any], state: str, story: Story) -> Markup:
    progress = status.get("progress") or {}
    if state == "queued" and not progress:
        return Markup()
    done, total = progress.get("done"), progress.get("total")
    detail, left = _split_detail(str(progress.get("detail") or ""))
    if done is None:
        return html.progress_bar(None if state == "running" else 0.0, "starting" if state == "running" else "no step done",
                                 _time_words(status, state, None))
    words = html.join([html.span(_counted(progress)) if done or total else None, html.span(detail) if detail else None])
    share = 1.0 if state == "succeeded" else done / total if total else None if state == "running" else 0.0
    return html.progress_bar(share, words, _time_words(status, state, story, left))


def _counted(progress: dict[str, Any]) -> str:
    """"step 732 of 1,200", "12.0 MB of 93.0 MB"."""
    done, total, unit = progress["done"], progress.get("total"), str(progress.get("unit", "steps"))
    if unit == "bytes":
        return size(done) + (f" of {size(total)}" if total else "")
    return f"{unit.removesuffix('s')} {done:,.0f} of {total:,.0f}" if total else f"{done:,.0f} {unit}"


def _split_detail(detail: str) -> tuple[str, str]:
    """A method that guesses its own time left ("epoch 1.8 of 3, 3 min 40 s left") knows it better than we do."""
    words, _, last = detail.rpartition(", ")
    return (words, last.removesuffix(" left")) if last.endswith(" left") else (detail, "")


def _time_words(status: dict[str, Any], state: str, story: Story | None, left: str = "") -> str:
    started, ended = status.get("started"), status.get("ended")
    if state == "running":
        seconds = story.seconds_left() if story else None
        left = left or (duration(_rounded(seconds)) if seconds is not None else "")
        return f"about {left} left" if left else ""
    return f"took {duration(ended - started)}" if started and ended and state in FINISHED else ""


def _rounded(seconds: float) -> float:
    """Guesses in steps: 5 s below a minute, 10 s below ten, so that the words do not twitch."""
    step = 5 if seconds < 60 else 10 if seconds < 600 else 60
    return max(step, round(seconds / step) * step)


def _stats(status: dict[str, Any]) -> Markup:
    tiles = [(str(name), *stat_parts(value)) for name, value in (status.get("stats") or {}).items()]
    usd = status.get("usd") or 0.0
    if tiles or usd:
        tiles = [*tiles[:5], ("Spent", f"{usd:.2f} USD", "paid calls" if usd else "no paid calls")]
    return html.stat_tiles(tiles) if tiles else Markup()


def log(run: Run) -> Markup:
    """The end of the log."""
    lines = run.log_tail(LOG_LINES)
    if not lines and run.state == "queued":
        return Markup()
    return html.log_block(lines, "The worker is starting.")


def can_resume(run: Run, state: str, workspace: Workspace | None) -> bool:
    """A step of a study is resumed by its study, some methods not at all."""
    if state not in ("stopped", "failed", "lost") or run.status.get("parent") or not _may(workspace, Act.RESUME):
        return False
    method = workspace.plugins.methods.get(run.method) if workspace else None
    return workspace is None or (method is not None and method.resumable)


def _may(workspace: Workspace | None, act: Act) -> bool:
    return workspace is None or workspace.access.may(act)


def actions(run: Run, workspace: Workspace | None = None) -> Markup:
    """Stop, Stop now, Resume, and what each does."""
    state = run.state
    stopping = state == "running" and (run.dir / "stop").exists()
    buttons: list[Markup] = []
    if not _may(workspace, Act.STOP):
        pass
    elif state == "queued":
        buttons.append(html.small_button("Take out of the queue", "stop", run.id, "stop"))
    elif stopping:
        buttons.append(html.small_button("Stop now", "force", run.id, "stop"))
    elif state == "running":
        buttons.append(html.small_button("Stop", "stop", run.id, "stop"))
    if can_resume(run, state, workspace):
        buttons.append(html.small_button("Resume", "resume", run.id))
    buttons.append(html.link("Open in Runs", f"/runs?run={run.id}"))
    words = WORDS_OF_STATE.get("stopping" if stopping else state, "") if _may(workspace, Act.STOP) else ""
    if stopping:
        words += " Stop now ends it without one."
    if can_resume(run, state, workspace):
        words = f"{words} {resume_words(run)}".strip()
    return html.div(html.join([*buttons, html.span(words, "gw-help") if words else None]), "gw-buttons")


def points(run: Run) -> int:
    """How many points the curve has; a new number means that it is worth drawing again."""
    return len(story_of(run).metrics)


def curve(run: Run) -> Any:
    """The figure; None where there is nothing to draw. Any method's first metric will do."""
    story = story_of(run)
    name = _main_metric(story)
    if name is None:
        return None
    progress = run.status.get("progress") or {}
    total = progress.get("total") if progress.get("unit") == "steps" else None
    return plots.loss_curve(story.series(name), list(_checked(story, f"eval_{name}")), total, name=name.replace("_", " "))


def _main_metric(story: Story) -> str | None:
    names = [name for name in story.names() if not name.startswith("eval_")]
    plain = [name for name in names if name not in ("lr", "learning_rate", "epoch", "grad_norm", "tokens_per_second")]
    return "loss" if "loss" in names else next(iter(plain), None)


def _checked(story: Story, name: str) -> Iterator[plots.Measured]:
    """Points with their interval: given as `<name>_low` and `_high`, or as a `_margin` to both sides."""
    for event in {event["step"]: event for event in story.metrics if isinstance(event.get(name), (int, float))}.values():
        value, margin = event[name], event.get(f"{name}_margin")
        low, high = event.get(f"{name}_low"), event.get(f"{name}_high")
        yield event["step"], value, low if margin is None else value - margin, high if margin is None else value + margin


def others(runs: Sequence[Run], stage: str, shown: str, workspace: Workspace, limit: int = 6) -> Markup:
    """The other runs of a stage, newest first: state, words, one act."""
    rest = [run for run in runs if run.id != shown]
    words = {"rl": "RL"}.get(stage, stage)
    header = html.card_header(f"Other {words} runs", right=html.link(f"all {len(runs)}", f"/runs?stage={stage}") if runs else "")
    if not rest:
        text = f"Each {words} run that is started stands here, with its result and a way to go on."
        return header + html.empty_state("No other runs", text)
    waiting = workspace.store.queued("compute") if any(run.state == "queued" for run in rest[:limit]) else []
    return header + html.div(html.join([_line(run, waiting, workspace) for run in rest[:limit]]), "gw-run-list")


def _line(run: Run, waiting: list[str], workspace: Workspace) -> Markup:
    status, state = run.status, run.state
    go_on = state != "failed" and can_resume(run, state, workspace)
    act = html.small_link("Resume" if go_on else "Why" if state == "failed" else "Open", "resume" if go_on else "open", run.id)
    parts = [html.state_pill(state), html.span(run.id, "gw-mono"), html.span(status.get("what", ""), "gw-sub what"),
             html.span(_outcome(run, status, state, waiting), "gw-sub"), html.span(act, "act")]
    return html.div(html.join(parts), "gw-run-line")


def _outcome(run: Run, status: dict[str, Any], state: str, waiting: list[str]) -> str:
    if state == "queued":
        place = waiting.index(run.id) if run.id in waiting else 0
        return "next in its lane" if place == 0 else f"{plural(place, 'run')} before it"
    progress = status.get("progress") or {}
    reached = f"{progress.get('unit', 'steps').removesuffix('s')} {progress['done']:,.0f}" if progress.get("done") is not None else ""
    if state == "lost":
        return f"worker gone at {reached}" if reached else "worker gone before its first step"
    if state == "failed":
        return str(status.get("message") or "see its log")
    if state == "stopped":
        return f"stopped at {reached}" if reached else str(status.get("message") or "stopped")
    if state == "running":
        total = progress.get("total")
        return f"{100 * progress['done'] / total:.0f} %, {reached}" if reached and total else reached or "starting"
    headline = (run.report or {}).get("headline")
    took = duration(status["ended"] - status["started"]) if status.get("started") and status.get("ended") else ""
    return ", ".join(filter(None, [str(headline) if headline else _first_stat(status), took, ago(run.created, time.time())]))


def _first_stat(status: dict[str, Any]) -> str:
    for name, value in (status.get("stats") or {}).items():
        return f"{name.lower()} {value[0] if isinstance(value, list) else value}"
    return ""
