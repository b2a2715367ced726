"""The README.md of two agents trained with WaltzRL: what they are, what they were paid for, what came of it."""

from __future__ import annotations

from typing import Any

from core.lm import card as shared
from core.lm.waltz_report import SHARES
from core.words import duration, plural, size

SHOWN = {"conversation_reward": "last reply good (judge)", "first_reply_reward": "first reply good", "unsafe": "last reply unsafe",
         "overrefuse": "last reply over-refusing", "trigger": "feedback asked for a revision",
         "trigger_benign": "... on benign prompts", "label_accuracy": "both labels of a feedback right", "format_rate": "feedback readable",
         "dir": "Dynamic Improvement Reward", "reply_tokens": "tokens of a first reply", "feedback_tokens": "tokens of a feedback"}


def model_card(report: dict[str, Any], settings: dict[str, Any], title: str) -> str:
    """Markdown with the Hub's front matter. `report` is the run's report.json; nothing but numbers and names goes in, no rows."""
    parts = [_front_matter(report), f"# {title}", _summary(report), _use(report), _results(report), _reward(report), _data(report),
             shared._settings(settings), _limits(report), shared._licence(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(report: dict[str, Any]) -> str:
    return shared._front_matter(report).replace("- guard\n", "- agents\n")


def _summary(report: dict[str, Any]) -> str:
    how = "LoRA adapters trained on a 4-bit (NF4) base" if report["tuning"] == "qlora" else "LoRA adapters"
    return (f"Two agents over one base, {report['base_title']}: a conversation agent that replies, and a feedback agent that reads the "
            f"reply and asks for a revision where it is unsafe or refuses without need. Two {how}, trained together by reinforcement with "
            f"the Dynamic Improvement Reward (WaltzRL, arXiv 2510.08240). They began as `{report['start']}`.\n\n"
            f"Made by GuardWaltz run `{report['run']}`.")


def _use(report: dict[str, Any]) -> str:
    run = report["run"]
    return (f"## Use\n\n`waltz:{run}` names the pair, `waltz:{run}#conversation` and `waltz:{run}#feedback` each agent alone, "
            f"`waltz:{run}@checkpoint-<n>` an earlier state. The folders conversation/ and feedback/ are whole (weights, tokenizer, chat "
            "template, card); rules.json says how the two were taught to talk.")


def _results(report: dict[str, Any]) -> str:
    lines = ["## Results", "", report["note"]]
    for name, stage in report["stages"].items():
        lines += ["", f"### {name.capitalize()}, {plural(stage['iterations'], 'iteration')}", "",
                  "| | first quarter | last quarter | difference |", "|---|---|---|---|"]
        for key, words in SHOWN.items():
            if key in stage["values"]:
                cells = [_words(stage["values"][key][part], key in SHARES) for part in ("first_quarter", "last_quarter", "difference")]
                lines.append(f"| {words} | {' | '.join(cells)} |")
        for role, found in stage["agents"].items():
            said = ", ".join(f"{words} {found[key]:.4g}" for key, words in (
                ("kl", "KL to its reference per token"), ("entropy", "entropy"), ("clip_share", "share of tokens clipped"))
                if found[key] is not None)
            lines += ["", f"The {role} agent in the last tenth: {said or 'nothing measured'}; "
                          f"{plural(found['iterations_without_learning'], 'iteration')} without anything to learn."]
    parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in report["seconds_by_part"].items())
    left, planned = report["left_out"], report["planned_iterations"]
    lines += ["", "Intervals are 95 %; the quarters hold different episodes.", "", "| | |", "|---|---|",
              f"| iterations | {report['iterations']:,} of {planned:,}, {report['prompts_per_iteration']} prompts each |",
              f"| episodes left out | {left['episodes']:,} of {left['of']:,} |",
              f"| trained parameters | {', '.join(f'{role} {count:,}' for role, count in report['trained_parameters'].items())} |",
              f"| time | {duration(report['seconds'])} on {report['device']}, {report['dtype']} ({parts}) |",
              f"| peak memory | {size(report['peak_memory_bytes'])} |"]
    return "\n".join(lines)


def _words(interval: dict[str, Any], share: bool) -> str:
    if interval["value"] is None:
        return f"undefined (n = {interval['n']:,})"
    value, low, high = (f"{100 * interval[key]:.1f} %" if share else f"{interval[key]:.3g}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high}, n = {interval['n']:,})"


def _reward(report: dict[str, Any]) -> str:
    weights = ", ".join(f"{name} {value:g}" for name, value in report["reward_rule"].items())
    if report["reward"] == "dir":
        rule = ("alpha * (R_c after the revision - R_c before it), where both labels are right, + lambda where they are (stage 1 only) + "
                "gamma where it can be read")
    else:
        rule = "alpha * safety + beta * helpfulness + gamma * alignment"
    return (f"## Reward\n\nThe judge `{report['judge']}` says of each reply whether it is unsafe or refuses without need. A reply earns 1 "
            f"where the last reply of its episode is neither, else 0. A feedback earns {rule} ({weights}).")


def _data(report: dict[str, Any]) -> str:
    guard = report["split_guard"]
    prompts = ", ".join(f"{count:,} {side}" for side, count in report["prompts"].items())
    text = [f"Prompts (sha256 `{report['prompts_sha256']}`): {prompts}."]
    if guard["test_rows_used"]:
        text.append(f"**{plural(guard['test_rows_used'], 'row')} of registered test sets were among them** (allow_test_rows was set): "
                    f"{', '.join(guard['test_rows_by_set'])}. Numbers on these sets mean nothing.")
    elif guard["test_rows_dropped"]:
        text.append(f"{plural(guard['test_rows_dropped'], 'row')} of registered test sets were left out.")
    return "## Data\n\n" + "\n".join(text)


def _limits(report: dict[str, Any]) -> str:
    limits = [f"They are as good as the judge that paid them ({report['judge']}): what it does not see, they did not learn.",
              "Replies can be unsafe, and harmless requests can be refused. Measure both with agent-eval before anybody relies on them.",
              "The feedback agent's reasons are generated text: they may not be why its labels came out as they did."]
    if report["base"] == "embedded":
        limits.append("The base has 135 million parameters: this is for rehearsing a study, not for serving anybody.")
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)
