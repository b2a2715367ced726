"""What the card of a model trained on pairs says that no other card does; the rest is core/lm/card.py."""

from __future__ import annotations

from typing import Any

from core.lm.card import Parts, tuned_how
from core.words import duration, plural, size


def _summary(report: dict[str, Any]) -> str:
    asked = f" It is asked and answers in the prompt format `{report['prompt_format']}`." if report["prompt_format"] else ""
    return (f"A safety guard that reasons before it answers, trained with hard-sample preference optimisation (HS-DPO, arXiv 2501.18492): "
            f"{tuned_how(report)} on {report['base_title']}. It starts from `{report['start']}`, which is the frozen reference as well."
            f"{asked}\n\nMade by GuardWaltz run `{report['run']}`.")


def _results(report: dict[str, Any]) -> str:
    losses, lines = report["losses"], ["| | training, last tenth of the steps | held out |", "|---|---|---|"]
    shown, held_out = losses["train"], losses["eval_means"] or {}
    margin = f" ± {losses['eval_margin']:.3f} (95 %, over {plural(losses['eval_pairs'], 'pair')})" if losses["eval_margin"] else ""
    if shown:
        held = "-" if losses["eval"] is None else f"{losses['eval']:.3f}{margin}"
        lines.append(f"| loss | {shown['loss']:.3f} | {held} |")
    names = {"dpo_loss": "DPO term", "sft_loss": "R-SFT term, per chosen token", "reward_margin": "reward margin",
             "reward_accuracy": "right answer preferred", "kl_estimate": "log-ratio to the reference, per chosen token"}
    for name, title in names.items():
        if name in shown:
            lines.append(f"| {title} | {shown[name]:.3f} | {_number(held_out.get(name))} |")
    early = ", stopped early" if report["stopped_early"] else ""
    lines += ["", f"- {report['steps']:,} of {report['planned_steps']:,} steps{early}, {plural(report['rows_per_step'], 'pair')} each; "
                  f"{report['trained_parameters']:,} trained parameters",
              f"- {duration(report['seconds'])} in steps on {report['device']}, {report['dtype']}; peak memory "
              f"{size(report['peak_memory_bytes'])}",
              f"- L = alpha * L_DPO(beta = {report['beta']:g}) + {report['sft_mix']:g} * L_SFT"]
    if report["best_step"] is not None:
        lines.append(f"- the weights are those of step {report['best_step']:,}, which had the lowest held-out loss")
    lines.append("\nRewards say which of two given answers the model prefers. Accuracy is measured by an evaluation run.")
    return "## Results\n\n" + "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _data(report: dict[str, Any]) -> str:
    data, rows, guard = report["data"], report["rows"], report["split_guard"]
    train = rows["train"]
    used = "" if report["use_weights"] else ", which were not used"
    text = [f"`{data['name']}` (sha256 `{data['sha256']}`): {plural(train['used'], 'pair')} trained on, {rows['held_out']['used']:,} held "
            f"out. Weights {train['weight_min']:g} to {train['weight_max']:g} (mean {train['weight_mean']:.3f}){used}."]
    lost = {**train["refused"], "longer than max_length, left out": train["dropped_too_long"], "longer than max_length, cut": train["cut"]}
    text += [f"- {count:,}: {reason}" for reason, count in lost.items() if count]
    if guard["test_rows_used"]:
        text.append(f"**{plural(guard['test_rows_used'], 'pair')} of registered test sets were trained on** (allow_test_rows was set): "
                    f"{', '.join(guard['test_rows_by_set'])}. Numbers on these sets mean nothing.")
    elif guard["test_rows_dropped"]:
        text.append(f"{plural(guard['test_rows_dropped'], 'pair')} of registered test sets were left out.")
    return "## Data\n\n" + "\n".join(text)


PARTS = Parts(_summary, _results, _data)
