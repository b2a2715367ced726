"""The README.md of a guard trained with GRPO: what it is, what it was paid for, what came of it."""

from __future__ import annotations

from typing import Any

from core.lm import card as shared
from core.words import duration, plural, size

PUBLISHED = ("Published experience (arXiv 2505.20087, appendix F): guards trained with GRPO on label correctness stayed below guards "
             "fine-tuned on distilled reasoning. Compare this one with the model it started from before you use it.")


def model_card(report: dict[str, Any], settings: dict[str, Any], title: str) -> str:
    """Markdown with the Hub's front matter. `report` is the run's report.json; nothing but numbers and names goes in, no rows."""
    parts = [shared._front_matter(report), f"# {title}", _summary(report), shared._how_to_load(report), _results(report), _reward(report),
             _data(report), shared._settings(settings), shared._limits(report), shared._licence(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(report: dict[str, Any]) -> str:
    what = {"lora": "a LoRA adapter", "qlora": "a LoRA adapter trained on a 4-bit (NF4) base", "full": "a full model"}[report["tuning"]]
    start = "" if report["start"] == report["base"] else f" It goes on from `{report['start']}`."
    held = (f" A KL term of weight {report['beta']:g} holds it to the model that training started with." if report["reference"] else
            " No KL term held it to the model that training started with.")
    return (f"A safety guard that reasons before it answers, trained by reinforcement with GRPO (arXiv 2402.03300) on label correctness: "
            f"{what} on {report['base_title']}.{start}{held} It is asked and answers in the prompt format `{report['prompt_format']}`.\n\n"
            f"Made by GuardWaltz run `{report['run']}`. {PUBLISHED}")


def _results(report: dict[str, Any]) -> str:
    rewards = report["rewards"]
    lines = ["| per answer, over prompts | first quarter | last quarter | difference |", "|---|---|---|---|"]
    for name, words in (("reward", "reward"), ("right_share", "all labels right"), ("readable_share", "all labels readable"),
                        ("answer_tokens", "tokens"), ("clipped_share", "cut at the limit")):
        lines.append(f"| {words} | " + " | ".join(_words(rewards[name][part]) for part in ("first_quarter", "last_quarter", "difference"))
                     + " |")
    lines += ["", "Intervals are 95 %, over prompts; the quarters hold different prompts, all of them trained on.", "",
              "| | |", "|---|---|",
              f"| steps | {report['steps']:,} of {report['planned_steps']:,}, {plural(report['prompts_per_step'], 'prompt')} x "
              f"{report['num_generations']} answers each |",
              f"| answers | {rewards['answers']:,}, {rewards['unreadable_answers']:,} of them unreadable |",
              f"| groups that taught nothing (equal rewards) | {rewards['groups_without_signal']:,} of {rewards['prompts_asked']:,} |"]
    if report["kl"] is not None:
        lines.append(f"| KL to the reference, last tenth of the steps | {report['kl']:.4f} per token |")
    lines += [f"| trained parameters | {report['trained_parameters']:,} |",
              f"| time in steps | {duration(report['seconds'])} on {report['device']}, {report['dtype']} |",
              f"| peak memory | {size(report['peak_memory_bytes'])} |",
              "\nThe weights are those of the last step. Accuracy is measured by an evaluation run."]
    return "## Results\n\n" + "\n".join(lines)


def _words(interval: dict[str, Any]) -> str:
    if interval["value"] is None:
        return f"undefined (n = {interval['n']:,})"
    return f"{interval['value']:.3g} ({interval['low']:.3g} to {interval['high']:.3g}, n = {interval['n']:,})"


def _reward(report: dict[str, Any]) -> str:
    rule = report["reward_rule"]
    weights = ", ".join(f"{task} {weight:g}" for task, weight in rule["weights"].items())
    return (f"## Reward\n\nFor each task that a row has a gold label for, weighted ({weights}): 1 for the right label, "
            f"{1 - rule['false_positive_penalty']:g} for a false alarm, {1 - rule['false_negative_penalty']:g} for a miss, 0 for no "
            f"readable label; and {rule['format_reward']:g} when every label is readable.")


def _data(report: dict[str, Any]) -> str:
    data, rows, guard = report["data"], report["rows"], report["split_guard"]
    kind = "hard samples of the mining run " if data["hard_samples"] else ""
    text = [f"{kind}`{data['name']}` (sha256 `{data['sha256']}`): {plural(rows['used'], 'row')} trained on, of {rows['usable']:,} usable."]
    if rows["dropped_too_long"]:
        text.append(f"- {rows['dropped_too_long']:,}: prompt and answer do not fit into the model's context, left out")
    if guard["test_rows_used"]:
        text.append(f"**{plural(guard['test_rows_used'], 'row')} of registered test sets were among the usable rows** (allow_test_rows was "
                    f"set): {', '.join(guard['test_rows_by_set'])}. Numbers on these sets mean nothing.")
    elif guard["test_rows_dropped"]:
        text.append(f"{plural(guard['test_rows_dropped'], 'row')} of registered test sets were left out.")
    return "## Data\n\n" + "\n".join(text)
