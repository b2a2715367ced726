"""The look before a preference training starts: what stands in its way, what would be lost, what it will cost."""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.lm.device import pick_device
from core.lm.dpo import format_of
from core.lm.dpo_data import PreparedPairs
from core.lm.dpo_rows import PairRows, build_pairs
from core.lm.dpo_setup import CPU_PASS
from core.lm.sft_check import (
    MOST_COUNTED,
    Counted,
    memory_problems,
    row_problems,
    rows_per_step,
    shape_at,
    sizes,
    standing,
    tokenizer_of,
)
from core.lm.sft_cost import FIXED_SECONDS, Shape, adapter_parameters, guess_seconds, measured_speed, peak_bytes, train_flops
from core.lm.sft_rows import OnLong
from core.lm.tune_setup import compute_dtype
from core.methods import Estimate, Problem, UserError
from core.records import Preference
from core.words import duration, plural

if TYPE_CHECKING:
    from core.runs import Workspace

REFERENCE_SHARE = 0.5
"""A forward pass in relation to forward and backward of an adapter."""


@dataclass(frozen=True)
class SeenPairs:
    """What one pass over the file showed."""

    counted: Counted | None
    """Token counts of all pairs, or of a sample; None while the embedded model is not there (it is fetched at the start)."""
    usable: int
    """Pairs that the split guard lets pass."""
    unknown: int
    """Of the pairs looked at, those that do not name the judged prompt."""


def look_at(config: Any, prepared: PreparedPairs) -> SeenPairs:
    """Read all pairs once, tokenise at most MOST_COUNTED of them. UserError for a bad file and for test rows that nobody allowed."""
    sample = drawn(prepared.pairs, MOST_COUNTED)
    count = prepared.pairs.seen - (0 if config.allow_test_rows else prepared.pairs.tally.count)
    unknown = sum(pair.user_prompt is None for pair in sample)
    tokenizer = tokenizer_of(prepared.found)
    if tokenizer is None:
        return SeenPairs(None, count, unknown)
    on_long: OnLong = "cut" if config.on_long_rows == "cut" else "drop"
    made = build_pairs(sample, tokenizer, Path(tempfile.gettempdir()), max_length=config.max_length, on_long=on_long)
    made.close()
    return SeenPairs(Counted(made, count), count, unknown)


def drawn(pairs: Iterable[Preference], most: int) -> list[Preference]:
    """All pairs, or `most` of them drawn at random, each as likely as the other (reservoir sampling)."""
    chance, kept = random.Random(0), list[Preference]()
    for number, pair in enumerate(pairs):
        if number < most:
            kept.append(pair)
        elif (place := chance.randrange(number + 1)) < most:
            kept[place] = pair
    return kept


def check(config: Any, prepared: PreparedPairs, seen: SeenPairs) -> list[Problem]:
    """Problems of a training whose pairs can be read."""
    learned = max(1, round(seen.usable * (1 - config.validation_share)))
    problems = [*standing(config), *sizes(config, learned, bool(config.validation_share))]
    if prepared.pairs.overridden:
        problems.append(Problem(f"The data holds {prepared.pairs.tally.hits}, and they will be trained on. Every report after this run "
                                "says so.", field="allow_test_rows", severity="warning"))
    if seen.unknown:
        problems.append(Problem(f"{plural(seen.unknown, 'pair')} of those looked at do not name the prompt that is judged (user_prompt): "
                                "the split guard cannot look at them.", field="data", severity="warning"))
    if seen.counted is None:
        return problems
    made: PairRows = seen.counted.made
    try:
        format_of(made, prepared.found.prompt_format, prepared.found.ref)
    except UserError as error:
        problems.append(Problem(str(error), field="model"))
    problems += row_problems(config, seen.counted)
    others = [model for model in made.models if model not in ("", config.model)]
    if others and config.model not in made.models:
        problems.append(Problem(f"The pairs were written by {', '.join(others[:3])}, not by {config.model}. HS-DPO starts from the guard "
                                "that was mined.", field="model", fix={"model": others[0]}, fix_label=f"Start from {others[0]}",
                                severity="warning"))
    if not any(problem.field == "device" for problem in problems) and (shape := shape_at(prepared.found)) and made.rows:
        device = pick_device(config.device)
        problems += memory_problems(config, _peak(config, shape, made, device), device)
    return problems


def _peak(config: Any, shape: Shape, made: PairRows, device: str) -> int:
    """Of the pairs that are learned from, not of those that are left out."""
    if device == "cpu":
        tokens = max(CPU_PASS, *(made.length(place) for place in made.rows))
    else:
        tokens = 2 * config.batch_size * max(made.prompts[place] + max(made.chosen[place], made.rejected[place]) for place in made.rows)
    trained = shape.parameters if config.tuning == "full" else adapter_parameters(shape, config.lora_rank)
    need = peak_bytes(shape, tuning=config.tuning, dtype=compute_dtype(config, device), tokens=tokens, trained=trained,
                      checkpointing=config.activation_checkpointing == "on")
    frozen = shape.parameters * 4 if config.tuning == "full" else trained * 4
    return need + (0 if config.precompute_reference else frozen)


def estimate(config: Any, prepared: PreparedPairs, seen: SeenPairs, workspace: Workspace) -> Estimate:
    """Time, tokens and memory: from an earlier run like this one where there is one, else a guess from the model's size."""
    shape, learned = shape_at(prepared.found), max(1, round(seen.usable * (1 - config.validation_share)))
    steps = math.ceil(max(1, round(learned * config.epochs)) / rows_per_step(config))
    notes = [f"{config.batch_size} x {config.gradient_accumulation_steps} x {config.processes} = {rows_per_step(config)} pairs a step, "
             f"{plural(steps, 'step')}"]
    if prepared.found.adapter:
        notes.append(f"starts from {config.model}, which is the reference too")
    if seen.counted is None or shape is None or not seen.counted.made.rows:
        return Estimate(note="; ".join([*notes, "time and memory are known once the model is here"]))
    made: PairRows = seen.counted.made
    device = pick_device(config.device)
    whole = seen.counted.factor * config.epochs * learned / max(1, seen.usable)
    tokens = int(whole * sum(made.length(place) for place in made.rows))
    answers = int(whole * (sum(made.chosen) + sum(made.rejected)))
    if seen.counted.sampled:
        notes.append(f"tokens counted on {made.seen:,} of {seen.counted.of:,} pairs")
    passes = 1 + REFERENCE_SHARE * (1 / max(1.0, config.epochs) if config.precompute_reference else 1)
    flops = passes * train_flops(shape, tokens, answers, full=config.tuning == "full")
    seconds = guess_seconds(flops, device, compute_dtype(config, device), config.processes)
    if speed := measured_speed(workspace, "hs-dpo", "pairs_learned", base=prepared.found.base, tuning=config.tuning, device=device,
                               dtype=compute_dtype(config, device)):
        middle = FIXED_SECONDS + learned * config.epochs / speed[0]
        seconds = (middle, 0.8 * middle, 1.7 * middle)
        notes.append(f"time from {speed[1]}, which learned {speed[0]:.2f} pairs a second")
    else:
        notes.append(f"time is a guess from the model's size, between {duration(seconds[1])} and {duration(seconds[2])}")
    return Estimate(seconds=seconds[0], seconds_low=seconds[1], seconds_high=seconds[2], tokens=tokens,
                    peak_memory_bytes=_peak(config, shape, made, device), note="; ".join(notes))
