"""The report of a study: one HTML page that can be kept, made of the pieces of the app's pages, so that a number looks the same."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from core.recipes import Recipe
from core.runs import REPOSITORY, Run, Workspace
from core.study_curve import STYLE, loss_svg
from core.ui import html
from core.ui.agents_cards import cost_card, feedback_card, numbers_card, pairs_card
from core.ui.agents_judge import judge_card
from core.ui.evaluation_board import board, board_note
from core.ui.evaluation_cards import confusion_card, gates_card
from core.ui.evaluation_hard import hard_card, lengths_card
from core.ui.runs_lineage import lineage_card
from core.waltz.eval_report import KIND as AGENT_EVAL
from core.words import ago, duration

PAGE_STYLE = """
body { margin: 0; background: var(--gw-page); color: var(--gw-text); font: 14px/20px "IBM Plex Sans", system-ui, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 32px 20px; display: flex; flex-direction: column; gap: 16px; }
"""


def study_page(run: Run, recipe: Recipe, steps: list[dict[str, Any]], workspace: Workspace) -> str:
    """The page. `steps`: [{key, run, method, headline}] in order."""
    children = [workspace.run(step["run"]) for step in steps]
    parts = [html.page_header(recipe.title, recipe.summary, f"{run.id}, {ago(run.created)}")]
    for child in children:
        parts += _evaluation(child)
    parts += [_training(children), lineage_card(children[-1], workspace), _steps(steps, children), _repeat(run)]
    return _document(recipe.title, html.join(parts))


def _evaluation(child: Run) -> list[Markup]:
    """Board, gates and confusion of each task of an evaluation step; nothing for other steps."""
    report = child.report or {}
    if report.get("kind") == AGENT_EVAL:
        return _agents(report)
    found: list[Markup] = []
    for name, task in report.get("tasks", {}).items():
        policy = report["policy"]
        last = task["models"][-1]
        data = report["data"]
        unseen = "" if last["seen"]["rows"] else ", never trained on"
        head = html.card_header(f"{data['name']}, {name}", f"{task['rows']} rows{unseen}")
        found.append(html.card(head, board(task, policy, last["model"], None), board_note(task, policy, None)))
        found.append(gates_card(report, last["model"], name, last["title"]))
        found.append(confusion_card(last["scores"][policy], last["title"]))
        found += [hard_card(report, name, policy), lengths_card(report, task, name)]
    notes = [*(line["text"] for line in report.get("overrides", [])), *report.get("notes", [])]
    if notes:
        found.append(html.card(html.card_header("Notes"), html.element("ul", html.join(html.element("li", note) for note in notes))))
    return found


def _agents(report: dict[str, Any]) -> list[Markup]:
    """The cards of an evaluation of agents, without board and exchanges; the gates are the last model's."""
    last = report["entries"][-1]
    return [numbers_card(report, "", {}), gates_card(report, last["key"], "", last["title"]), feedback_card(report), pairs_card(report),
            cost_card(report), judge_card(report)]


def _training(children: list[Run]) -> Markup:
    """Loss curves of the training steps."""
    cards = [html.card(html.card_header(f"Training {child.id}", (child.report or {}).get("headline", "")), curve)
             for child in children if (curve := loss_svg(child))]
    return html.join(cards)


def _steps(steps: list[dict[str, Any]], children: list[Run]) -> Markup:
    rows = [(step["key"], html.link(child.id, f"/runs?run={child.id}"), step["method"], _seconds(child), step["headline"])
            for step, child in zip(steps, children, strict=True)]
    return html.card(html.card_header("Steps"), html.table(["Step", "Run", "Method", "Time", "Result"], rows))


def _seconds(child: Run) -> str:
    status = child.status
    return duration(status["ended"] - status["started"]) if status.get("ended") and status.get("started") else ""


def _repeat(run: Run) -> Markup:
    """The command that repeats the study, and what it ran on."""
    command = (run.dir / "command.sh").read_text(encoding="utf-8").splitlines()[-1]
    head = html.card_header("Repeat it", "from a checkout of the same commit")
    return html.card(head, html.code_block(command, copy=False), machine(run))


def machine(run: Run) -> Markup:
    """Hardware and versions from env.json."""
    from core.files import read_json

    env = read_json(run.dir / "env.json", {})
    pairs = [("Machine", f"{env.get('cpu') or env.get('platform', '')}, {env.get('cores')} cores"), ("Python", env.get("python", "")),
             ("Versions", ", ".join(f"{name} {version}" for name, version in env.get("versions", {}).items())),
             ("Commit", (env.get("commit") or "none") + (" with uncommitted changes" if env.get("uncommitted_changes") else ""))]
    return html.key_value(pairs)


def _document(title: str, body: str) -> str:
    styles = "".join(path.read_text("utf-8") for path in sorted((REPOSITORY / "assets" / "css").glob("*.css")))
    metas = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head = Markup(metas) + html.element("title", title)
    sheet = Markup(f"<style>{styles}{STYLE}{PAGE_STYLE}</style>")  # our own files
    return f'<!doctype html><html lang="en"><head>{head}{sheet}</head><body class="gradio-container"><main>{body}</main></body></html>'
