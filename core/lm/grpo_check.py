"""The look before a GRPO training starts: what stands in its way, and what it will cost."""

from __future__ import annotations

from itertools import islice
from typing import Any, NamedTuple

from core.answer_cost import ANSWER_TOKENS, CPU_PARAMETERS, CPU_TOKENS
from core.lm.device import pick_device
from core.lm.grpo_rows import RowChoice
from core.lm.sft_check import packages, shape_at, tokenizer_of
from core.lm.sft_cost import FIXED_SECONDS, adapter_parameters, available_bytes, guess_seconds, peak_bytes, train_flops
from core.lm.sft_rows import render_prompt
from core.lm.tune_setup import compute_dtype
from core.methods import Estimate, Problem, UserError
from core.words import duration, plural, size

COUNTED = 100
"""Prompts whose tokens are counted before a start."""


class Lengths(NamedTuple):
    """Tokens of the prompts that were looked at."""

    mean: float
    longest: int


def count_prompts(choice: RowChoice) -> Lengths | None:
    """Of the first rows; None while the embedded model is not there (it is fetched at the start)."""
    tokenizer = tokenizer_of(choice.found)
    if tokenizer is None:
        return None
    form = choice.prompt_format
    texts = [render_prompt(usable.example, form, tokenizer) for usable in islice(choice.rows(), COUNTED)]
    lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=not form.chat)["input_ids"]]
    return Lengths(sum(lengths) / len(lengths), max(lengths))


def check(config: Any, choice: RowChoice, lengths: Lengths | None) -> list[Problem]:
    """Problems of a training whose data and format are in order."""
    problems = [*packages(config), *_rows(config, choice)]
    try:
        device = pick_device(config.device)
    except UserError as error:
        return [*problems, Problem(str(error), field="device", fix={"device": "auto"}, fix_label="Use what is there")]
    shape = shape_at(choice.found)
    if lengths is None or shape is None:
        return problems
    need, there = _peak(config, shape, lengths, device), available_bytes(device)
    if need > there:
        problems.append(Problem(f"The training needs about {size(need)} of memory and {size(there)} are free on {device}; use a smaller "
                                "batch_size or max_new_tokens, or tuning=qlora.", field="batch_size", fix={"batch_size": 1},
                                severity="warning"))
    return problems


def _rows(config: Any, choice: RowChoice) -> list[Problem]:
    problems = []
    if choice.wanted < config.prompts_per_step:
        problems.append(Problem(f"A step asks about {config.prompts_per_step} prompts and there are {choice.wanted}, so some are asked "
                                "twice in a step.", field="prompts_per_step", fix={"prompts_per_step": choice.wanted}, severity="warning"))
    if not choice.mined:
        problems.append(Problem(f"{choice.source.name} holds rows of every difficulty. Rows that all answers get right, or all wrong, "
                                "teach nothing here; the hard samples of a mining run are the rows that do.", field="data",
                                severity="warning"))
    if not choice.found.prompt_format:
        problems.append(Problem(f"{choice.found.ref} was never taught the format {choice.prompt_format.name}: as long as its answers "
                                "cannot be read they all earn 0, and nothing is learned. Start from an rsft run.", field="model",
                                severity="warning"))
    if config.temperature < 0.3:
        problems.append(Problem(f"At temperature = {config.temperature:g} the answers to a prompt are nearly the same, and equal rewards "
                                "teach nothing; appendix F uses 0.6 to 1.4.", field="temperature", fix={"temperature": 1.0},
                                severity="warning"))
    return problems


def _peak(config: Any, shape: Any, lengths: Lengths, device: str) -> int:
    """Of one pass over `batch_size` answers with their prompts, and for all weights the frozen copy beside them."""
    tokens = min(config.batch_size, config.prompts_per_step * config.num_generations) * (lengths.longest + config.max_new_tokens)
    trained = shape.parameters if config.tuning == "full" else adapter_parameters(shape, config.lora_rank)
    copied = 4 * shape.parameters if config.tuning == "full" and config.beta else 0
    return copied + peak_bytes(shape, tuning=config.tuning, dtype=compute_dtype(config, device), tokens=tokens, trained=trained,
                               checkpointing=config.activation_checkpointing == "on")


def estimate(config: Any, choice: RowChoice, lengths: Lengths | None) -> Estimate:
    """Answers times their usual length; the time of writing is known for CPUs only, roughly."""
    steps = config.steps or max(1, round(choice.wanted * config.epochs / config.prompts_per_step))
    answers = steps * config.prompts_per_step * config.num_generations
    length = min(config.max_new_tokens, ANSWER_TOKENS[choice.prompt_format.reasons])
    written = answers * length
    notes = [f"{plural(steps, 'step')} x {config.prompts_per_step} prompts x {config.num_generations} answers of about {length} tokens",
             f"format {choice.prompt_format.name} ({choice.why})"]
    shape, device = shape_at(choice.found), pick_device(config.device)
    if lengths is None or shape is None:
        return Estimate(tokens=written, note="; ".join([*notes, "time and memory are known once the model is here"]))
    peak = _peak(config, shape, lengths, device)
    if device != "cpu":
        return Estimate(tokens=written, peak_memory_bytes=peak, note="; ".join([*notes, "the time of roll-outs on this device was never "
                                                                                  "measured"]))
    read = int(answers * (lengths.mean + length))
    flops = train_flops(shape, read, written, full=config.tuning == "full") * (1.5 if config.beta else 1)  # the reference reads it, too
    learning = guess_seconds(flops, device, compute_dtype(config, device), 1)
    writing = written / (CPU_TOKENS * CPU_PARAMETERS / shape.parameters)
    middle, low, high = (seconds + factor * writing for seconds, factor in zip(learning, (1, 0.5, 3), strict=True))
    notes.append(f"time is a guess from the model's size, between {duration(low)} and {duration(high)}")
    return Estimate(seconds=max(middle, FIXED_SECONDS), seconds_low=low, seconds_high=high, tokens=written, peak_memory_bytes=peak,
                    note="; ".join(notes))
