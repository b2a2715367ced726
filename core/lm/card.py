"""The README.md of a trained model: what it is, what it was made from, how it does, what it is not for. A Hub model card."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import yaml

from core.words import duration, plural, size

HIDDEN_SETTINGS = ("data", "model", "prompt_format")
"""Said in the text already."""


class Parts(NamedTuple):
    """Sections that differ from method to method: each makes Markdown of a report."""

    summary: Callable[[dict[str, Any]], str]
    results: Callable[[dict[str, Any]], str]
    data: Callable[[dict[str, Any]], str]


def model_card(report: dict[str, Any], settings: dict[str, Any], title: str, parts_of: Parts | None = None) -> str:
    """Markdown with the Hub's front matter. `report` is the run's report.json; nothing but numbers and names goes in, no rows.

    parts_of: the method's own sections; None = those of R-SFT.
    """
    own = parts_of or Parts(_summary, _results, _data)
    parts = [_front_matter(report), f"# {title}", own.summary(report), _how_to_load(report), own.results(report), own.data(report),
             _settings(settings), _limits(report), _licence(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(report: dict[str, Any]) -> str:
    base = str(report["base"])
    values: dict[str, Any] = {"pipeline_tag": "text-generation", "tags": ["guardwaltz", "safety", "guard", report["kind"]]}
    if base == "embedded":
        values |= {"base_model": "HuggingFaceTB/SmolLM2-135M-Instruct", "license": "apache-2.0"}
    elif base.startswith("hf:"):
        values["base_model"] = base.removeprefix("hf:")
    values["library_name"] = "transformers" if report["tuning"] == "full" else "peft"
    return "---\n" + yaml.safe_dump(values, sort_keys=True).strip() + "\n---"


def tuned_how(report: dict[str, Any]) -> str:
    """What was trained, in words."""
    return {"lora": "a LoRA adapter", "qlora": "a LoRA adapter trained on a 4-bit (NF4) base", "full": "a full model"}[report["tuning"]]


def _summary(report: dict[str, Any]) -> str:
    start = "" if report["start"] == report["base"] else f" It goes on from `{report['start']}`."
    return (f"A safety guard that reasons before it answers, trained with supervised fine-tuning (R-SFT, arXiv 2501.18492): "
            f"{tuned_how(report)} on {report['base_title']}.{start} It is asked and answers in the prompt format "
            f"`{report['prompt_format']}`.\n\n"
            f"Made by GuardWaltz run `{report['run']}`.")


def _how_to_load(report: dict[str, Any]) -> str:
    return (f"## Use\n\n`python app.py run guard-eval model=run:{report['run']} data=...` evaluates it. This folder is whole: weights, "
            "tokenizer, chat template and `guardwaltz.json` (base, prompt format); it can be copied and named by its path.")


def _results(report: dict[str, Any]) -> str:
    losses, rows = report["losses"], report["rows"]
    lines = ["| | |", "|---|---|"]
    if losses["eval"] is not None:
        margin = f" ± {losses['eval_margin']:.3f} (95 %, over rows)" if losses["eval_margin"] is not None else ""
        lines.append(f"| held-out loss per answer token | {losses['eval']:.3f}{margin}, {plural(rows['held_out']['used'], 'row')} |")
    if losses["train"] is not None:
        lines.append(f"| training loss, last tenth of the steps | {losses['train']:.3f} |")
    early = ", stopped early" if report["stopped_early"] else ""
    lines += [f"| steps | {report['steps']:,} of {report['planned_steps']:,}{early}, {report['rows_per_step']} rows each |",
              f"| answer tokens learned from | {report['answer_tokens']:,} |",
              f"| trained parameters | {report['trained_parameters']:,} |",
              f"| time in steps | {duration(report['seconds'])} on {report['device']}, {report['dtype']} |",
              f"| peak memory | {size(report['peak_memory_bytes'])} |"]
    if losses["eval"] is not None:
        lines.append(f"\nThe weights are those of step {report['best_step']:,}, which had the lowest held-out loss.")
    lines.append("\nLoss says how well the answers' wording is learned. Accuracy is measured by an evaluation run.")
    return "## Results\n\n" + "\n".join(lines)


def _data(report: dict[str, Any]) -> str:
    data, rows = report["data"], report["rows"]
    guard = report["split_guard"]
    text = [f"`{data['name']}` (sha256 `{data['sha256']}`): {plural(rows['train']['used'], 'row')} trained on, "
            f"{rows['held_out']['used']:,} held out."]
    lost = {**rows["train"]["refused"]}
    if rows["train"]["dropped_too_long"]:
        lost["longer than max_length, left out"] = rows["train"]["dropped_too_long"]
    if rows["train"]["cut"]:
        lost["longer than max_length, cut"] = rows["train"]["cut"]
    text += [f"- {count:,}: {reason}" for reason, count in lost.items()]
    if guard["test_rows_used"]:
        text.append(f"**{plural(guard['test_rows_used'], 'row')} of registered test sets were trained on** (allow_test_rows was set): "
                    f"{', '.join(guard['test_rows_by_set'])}. Numbers on these sets mean nothing.")
    elif guard["test_rows_dropped"]:
        text.append(f"{plural(guard['test_rows_dropped'], 'row')} of registered test sets were left out.")
    return "## Data\n\n" + "\n".join(text)


def _settings(settings: dict[str, Any]) -> str:
    lines = [f"| {name} | {value} |" for name, value in settings.items() if name not in HIDDEN_SETTINGS and value not in (None, "")]
    return "## Settings\n\n| setting | value |\n|---|---|\n" + "\n".join(lines)


def _limits(report: dict[str, Any]) -> str:
    limits = ["It judges text in the language and of the kind it was trained on; elsewhere its errors are unknown.",
              "It can be talked around. Do not let it be the only safeguard, and do not let it decide about people.",
              "Its reasoning is generated text: it may not be why the label came out as it did."]
    if report["base"] == "embedded":
        limits.append("The base has 135 million parameters: this is for rehearsing a study, not for protecting anybody.")
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)


def _licence(report: dict[str, Any]) -> str:
    if report["base"] == "embedded":
        own = "The base, SmolLM2-135M-Instruct, is licensed under Apache-2.0."
    else:
        own = f"The licence of the base ({report['base_title']}) applies to what is derived from it."
    return "## Licence\n\n" + own + " The training data may add conditions of its own: look at its source before you pass this model on."
