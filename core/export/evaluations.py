"""What the evaluations of this workspace say of a model, as Markdown for its card: intervals, unreadable answers, rows it has seen."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from core.evals.report import interval_words
from core.export.contents import Contents
from core.files import read_json
from core.runs import Run, Workspace
from core.words import plural

GUARDS, AGENTS = "guard-eval", "agent-eval"
NONE = "No evaluation of this model was made where it was trained: how often it is right is not known."


def evaluation_section(contents: Contents, workspace: Workspace) -> str:
    """Every finished evaluation of the model, newest first; a sentence where there is none."""
    found = [text for run in workspace.runs() if run.state == "succeeded" and (text := _section(run, contents, workspace))]
    return "\n\n".join(found) or NONE


def _section(run: Run, contents: Contents, workspace: Workspace) -> str:
    try:
        report = read_json(run.dir / "report.json", {})
    except ValueError:  # somebody's file, torn or foreign
        return ""
    kind = report.get("kind") if isinstance(report, dict) else None
    lines = _guard(report, contents, workspace) if kind == GUARDS else _agents(report, contents, workspace) if kind == AGENTS else []
    if not lines:
        return ""
    notes = [f"- **{line['text']}**" for line in report.get("overrides", []) if is_of(str(line.get("model", "")), contents, workspace)]
    return "\n".join([f"### {run.id}: {_data_words(report['data'])}", "", *lines, *notes])


def _data_words(data: Mapping[str, Any]) -> str:
    name = Path(str(data.get("name", "data"))).name  # a file has its path for a name, which says nothing elsewhere
    split = f", {data['split']} rows" if data.get("split") else ""
    digest = f" (sha256 `{data['sha256']}`)" if data.get("sha256") else ""
    return f"`{name}`{split}{digest}"


def _guard(report: dict[str, Any], contents: Contents, workspace: Workspace) -> list[str]:
    rows, seen = [], []
    for task, found in report["tasks"].items():
        for entry in found["models"]:
            if not is_of(entry["model"], contents, workspace):
                continue
            score = entry["scores"][report["policy"]]
            positive = score["per_class"][found["positive"]]
            rows.append(f"| {task} | {entry['rows']:,} | {interval_words(score['f1'])} | {interval_words(score['accuracy'])} | "
                        f"{interval_words(positive['precision'])} | {interval_words(positive['recall'])} | "
                        f"{interval_words(score['unparsed'])} |")
            if count := entry["seen"]["rows"]:
                without = (entry["seen"]["scores_without"] or {}).get(report["policy"])
                rest = f"; F1 without them {interval_words(without['f1'])}" if without else ""
                seen.append(f"- {task}: {plural(count, 'row')} of these were trained on{rest}.")
    if not rows:
        return []
    head = ["| task | rows | F1 | accuracy | precision | recall | unreadable |", "|---|---|---|---|---|---|---|"]
    policy = f"Per cent with 95 % intervals; an answer that cannot be read counts by the policy `{report['policy']}`."
    return [*head, *rows, "", policy, *seen]


def _agents(report: dict[str, Any], contents: Contents, workspace: Workspace) -> list[str]:
    names = ("unsafe", "overrefuse", "helpful")
    rows, seen = [], []
    for entry in report["entries"]:
        if not is_of(entry["model"], contents, workspace):
            continue
        how = {"plain": "alone", "alone": "without feedback", "feedback": "with feedback"}[entry["variant"]]
        right = interval_words(entry["feedback"]["labels"]) if entry["feedback"] else "-"
        rows.append(f"| {how} | {entry['episodes']:,} | " + " | ".join(interval_words(entry[name]) for name in names)
                    + f" | {right} | {entry['good']['missing']:,} |")
        if count := entry["seen"]["prompts"]:
            seen.append(f"- {plural(count, 'prompt')} of these were trained on ({how}).")
    if not rows:
        return []
    head = ["| asked | prompts | unsafe | over-refusing | helpful | feedback labels right | no verdict |", "|---|---|---|---|---|---|---|"]
    judge = f"Per cent with 95 % intervals, by the judge `{report['judge']['name']}`; replies without a verdict are in no share."
    return [*head, *rows, "", judge, *seen]


def is_of(ref: str, contents: Contents, workspace: Workspace) -> bool:
    """Does a model reference of an evaluation mean this very model? Other checkpoints and other agents of the run do not."""
    run, checkpoint, agent = _meant(ref, workspace)
    return (run, checkpoint) == (contents.run.id, contents.checkpoint) and agent in contents.agents


def _meant(ref: str, workspace: Workspace) -> tuple[str, str, str]:
    """(run id, checkpoint, agent) of a reference, the last two "" where it names none."""
    head, _, rest = ref.partition(":")
    if head in ("run", "waltz"):
        found = re.fullmatch(r"([\w-]+)(?:@(checkpoint-\d+))?(?:#(\w+))?", rest)
        return (found[1], found[2] or "", found[3] or "") if found else ("", "", "")
    return next(_of_path(ref, workspace), ("", "", ""))


def _of_path(ref: str, workspace: Workspace) -> Iterator[tuple[str, str, str]]:
    path = Path(ref).expanduser()
    try:
        parts = path.resolve().relative_to(workspace.runs_dir).parts if path.is_absolute() else ()
    except (ValueError, OSError):
        return
    if parts:
        inner = list(parts[1:])
        checkpoint = inner.pop(0) if inner and inner[0].startswith("checkpoint-") else ""
        agent = inner[0] if inner and inner[0] in ("conversation", "feedback") else ""
        yield parts[0], checkpoint, agent
