"""What a finished `waltz-sft` run says: report.json, the card, and the three files that a hosted fine-tuning job leaves.

job_info.json    the job under the names of Mistral's fine-tuning API, whose local sibling this is
model_id.txt     the reference that evaluation, chat and training take
benchmarks.json  the numbers measured on held-out rows
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from core.files import write_json, write_text
from core.intervals import Interval
from core.lm import card as shared
from core.lm.tune import ranks
from core.lm.waltz_sft import AgentDone, agent_folders
from core.waltz.protocol import AGENTS, Role
from core.words import duration, plural, size

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.lm.waltz_sft_data import PreparedAgents

SHARES = {"label_accuracy": "both labels right", "unsafe_accuracy": "`unsafe` right", "overrefuse_accuracy": "`overrefuse` right",
          "format_rate": "answer readable"}


def make_report(config: Any, prepared: PreparedAgents, done: dict[Role, AgentDone], feedback: dict[str, Any] | None,
                run: ActiveRun) -> dict[str, Any]:
    """The report; `feedback` is what core/lm/waltz_sft_ask.py measured, None where no held-out row was asked."""
    first = done["conversation"].part["describe"]
    agents = {role: {key: value for key, value in one.part.items() if key != "describe"} for role, one in done.items()}
    return {
        "kind": "waltz-sft", "run": run.id, "headline": headline(agents, feedback), "base": first["base"],
        "base_title": first["base_title"], "start": config.model, "model": first, "tuning": config.tuning, "prompt_format": None,
        "agents": agents, "rules": asdict(prepared.rules), "feedback": feedback,
        "split_guard": prepared.guard_record(), "test_rows_overridden": prepared.overridden,
        "learning_rate": config.learning_rate, "epochs": config.epochs,
        "rows_per_step": config.batch_size * config.gradient_accumulation_steps * ranks(), "processes": ranks(),
        "steps": sum(one["steps"] for one in agents.values()), "answer_tokens": sum(one["answer_tokens"] for one in agents.values()),
        "seconds": round(sum(one["seconds"] for one in agents.values()), 2),
        "peak_memory_bytes": max(one["peak_memory_bytes"] for one in agents.values()),
        "trained_parameters": sum(one["trained_parameters"] for one in agents.values()),
        "device": first["device"], "dtype": agents["conversation"]["dtype"],
    }


def headline(agents: dict[Role, dict[str, Any]], feedback: dict[str, Any] | None) -> str:
    """"feedback labels 84 % right, held-out loss 1.21 and 0.43"."""
    losses = " and ".join("-" if agents[role]["losses"]["eval"] is None else f"{agents[role]['losses']['eval']:.2f}" for role in AGENTS)
    accuracy = feedback["label_accuracy"]["value"] if feedback else None
    return (f"feedback labels {accuracy:.0%} right, " if accuracy is not None else "") + f"held-out loss {losses} (conversation, feedback)"


def write_job_files(report: dict[str, Any], settings: dict[str, Any], run: ActiveRun) -> None:
    """The three files for the run, and in each agent's folder for that agent."""
    created, now = int(run.created), int(time.time())
    hyper = {name: settings[name] for name in ("learning_rate", "epochs", "batch_size", "gradient_accumulation_steps", "lora_rank",
                                               "lora_alpha", "max_length", "seed")}
    common = {"object": "job", "job_type": "completion", "status": "SUCCESS", "model": report["base"], "created_at": created,
              "modified_at": now, "hyperparameters": {**hyper, "tuning": report["tuning"]}, "integrations": [], "hosted": False}
    jobs = {}
    for role, folder in agent_folders(run.dir).items():
        part = report["agents"][role]
        jobs[role] = {"id": f"{run.id}-{role}", **common, "fine_tuned_model": part["model"], "suffix": role,
                      "training_files": [part["data"]["file"]], "training_sha256": part["data"]["sha256"],
                      "trained_tokens": part["answer_tokens"], "training_rows": part["rows"]["train"]["used"],
                      "validation_rows": part["rows"]["held_out"]["used"]}
        write_json(folder / "job_info.json", jobs[role])
        write_text(folder / "model_id.txt", part["model"] + "\n")
        write_json(folder / "benchmarks.json", benchmarks(report, role))
    pair = f"waltz:{run.id}"
    write_json(run.dir / "job_info.json", {"id": run.id, **common, "fine_tuned_model": pair, "jobs": list(jobs.values())})
    run.save_text("model_id.txt", pair + "\n")
    write_json(run.dir / "benchmarks.json", {role: benchmarks(report, role) for role in AGENTS})


def benchmarks(report: dict[str, Any], role: Role) -> dict[str, Any]:
    """Held-out numbers of one agent, each with its interval and the rows behind it."""
    losses = report["agents"][role]["losses"]
    found = {"held_out_loss": losses["eval"], "held_out_loss_margin": losses["eval_margin"], "held_out_rows": losses["eval_rows"],
             "train_loss": losses["train"]}
    return {**found, **(report["feedback"] or {})} if role == "feedback" else found


def write_card(report: dict[str, Any], settings: dict[str, Any], run: ActiveRun) -> None:
    """README.md of the run and of both agents' folders."""
    text = model_card(report, settings, run.name)
    run.save_text("README.md", text)
    for folder in agent_folders(run.dir).values():
        write_text(folder / "README.md", text)


# ---- the card ----


def model_card(report: dict[str, Any], settings: dict[str, Any], title: str) -> str:
    """Markdown with the Hub's front matter. Nothing but numbers and names goes in, no rows."""
    parts = [shared._front_matter(report).replace("- guard\n", "- agents\n"), f"# {title}", _summary(report), _how_to_load(report),
             _results(report), _data(report), shared._settings({name: settings[name] for name in settings if name not in AGENTS}),
             _limits(report), shared._licence(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(report: dict[str, Any]) -> str:
    start = "" if report["start"] == report["base"] else f" They go on from `{report['start']}`."
    return (f"Two agents that talk before one of them answers (WaltzRL, arXiv 2510.08240), after supervised fine-tuning: a conversation "
            f"agent and a feedback agent, each {shared.tuned_how(report)} on {report['base_title']}.{start} The feedback agent answers in "
            f"the format `{report['rules']['feedback_format']}`.\n\nMade by GuardWaltz run `{report['run']}`.")


def _how_to_load(report: dict[str, Any]) -> str:
    return (f"## Use\n\n`waltz:{report['run']}` names both agents, wherever a model is named: they talk, and the last reply is the answer. "
            f"`waltz:{report['run']}#conversation` and `waltz:{report['run']}#feedback` are one of them alone. Each agent's folder is "
            "whole: adapter, tokenizer, chat template and `guardwaltz.json` (base); it can be copied and named by its path.")


def _results(report: dict[str, Any]) -> str:
    lines = ["| | conversation | feedback |", "|---|---|---|"]
    parts = [report["agents"][role] for role in AGENTS]
    lines.append("| held-out loss per answer token | " + " | ".join(map(_loss, parts)) + " |")
    lines.append("| training loss, last tenth of the steps | " + " | ".join(_number(one["losses"]["train"]) for one in parts) + " |")
    lines.append("| steps | " + " | ".join(f"{one['steps']:,} of {one['planned_steps']:,}" for one in parts) + " |")
    lines.append("| trained parameters | " + " | ".join(f"{one['trained_parameters']:,}" for one in parts) + " |")
    lines.append("| time in steps | " + " | ".join(duration(one["seconds"]) for one in parts) + " |")
    lines.append("| peak memory | " + " | ".join(size(one["peak_memory_bytes"]) for one in parts) + " |")
    if found := report["feedback"]:
        lines += ["", f"The feedback agent on {plural(found['rows'], 'held-out row')}, greedy; an answer that cannot be read is wrong:", "",
                  "| | share (95 %, Wilson) |", "|---|---|"]
        lines += [f"| {words} | {Interval(**found[name]).text()} |" for name, words in SHARES.items()]
        if found["most_frequent"] is not None:
            lines.append(f"\nAlways giving the commonest pair of labels would be right on {found['most_frequent']:.1%} of these rows.")
    lines.append("\nSafety and over-refusal are measured by an `agent-eval` run, not by these numbers.")
    return "## Results\n\n" + "\n".join(lines)


def _loss(part: dict[str, Any]) -> str:
    losses = part["losses"]
    if losses["eval"] is None:
        return "-"
    margin = f" ± {losses['eval_margin']:.3f}" if losses["eval_margin"] is not None else ""
    return f"{losses['eval']:.3f}{margin} ({plural(losses['eval_rows'], 'row')})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _data(report: dict[str, Any]) -> str:
    text = []
    for role in AGENTS:
        part = report["agents"][role]
        rows, data = part["rows"], part["data"]
        text.append(f"- {role}: `{data['name']}` (sha256 `{data['sha256']}`), {plural(rows['train']['used'], 'row')} trained on, "
                    f"{rows['held_out']['used']:,} held out ({rows['held_out_from']})")
        lost = dict(rows["train"]["refused"])
        lost |= {"without labels that can be read, left out": rows["without_labels"],
                 "longer than max_length, left out": rows["train"]["dropped_too_long"], "longer than max_length, cut": rows["train"]["cut"]}
        text += [f"  - {count:,}: {reason}" for reason, count in lost.items() if count]
        text += [f"  - {count:,} rows say {labels}" for labels, count in rows["labels"].items()]
    guard = report["split_guard"]
    if guard["test_rows_used"]:
        text.append(f"\n**{plural(guard['test_rows_used'], 'row')} of registered test sets were trained on** (allow_test_rows was set): "
                    f"{', '.join(guard['test_rows_by_set'])}. Numbers on these sets mean nothing.")
    elif guard["test_rows_dropped"]:
        text.append(f"\n{plural(guard['test_rows_dropped'], 'row')} of registered test sets were left out.")
    return "## Data\n\n" + "\n".join(text)


def _limits(report: dict[str, Any]) -> str:
    limits = ["The agents imitate the rows they saw; on other subjects, in other languages, what they do is unknown.",
              "They can be talked around. Do not let them be the only safeguard, and do not let them decide about people.",
              "The feedback agent's reasons are generated text: they may not be why its labels came out as they did."]
    if report["base"] == "embedded":
        limits.append("The base has 135 million parameters: this is for rehearsing a study, not for talking to anybody.")
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)
