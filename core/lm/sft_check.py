"""The look before a training starts: what stands in its way, what would be lost, what it will cost."""

from __future__ import annotations

import importlib.util
import math
import random
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from core.lm.device import pick_device, pick_dtype
from core.lm.embedded import embedded_folder, embedded_ready
from core.lm.find import TOKENIZER_FILES, Found
from core.lm.sft_cost import (
    FIXED_SECONDS,
    Shape,
    adapter_parameters,
    available_bytes,
    guess_seconds,
    measured_speed,
    peak_bytes,
    shape_of,
    train_flops,
)
from core.lm.sft_data import Prepared
from core.lm.sft_rows import OnLong, build_rows, next_length
from core.lm.sft_setup import CPU_PASS
from core.lm.tune_setup import compute_dtype, missing_teller
from core.methods import Estimate, Problem, UserError
from core.words import duration, plural, size

if TYPE_CHECKING:
    from core.runs import Workspace

MOST_COUNTED = 5_000
"""Rows whose tokens are counted before a start; of larger sets a sample of this many."""


@dataclass(frozen=True)
class Counted:
    """Token counts of the training rows (TrainRows, or PairRows), or of a sample of them."""

    made: Any
    of: int
    """Rows there are."""

    @property
    def sampled(self) -> bool:
        """Were not all rows looked at?"""
        return self.made.seen < self.of

    @property
    def factor(self) -> float:
        """From what was counted to the whole."""
        return float(self.of / max(1, self.made.seen))


def check(config: Any, prepared: Prepared, counted: Counted | None) -> list[Problem]:
    """Problems of a training whose data and format are in order."""
    problems = [*standing(config), *sizes(config, len(prepared.train), bool(prepared.held_out))]
    if counted is None:
        return problems
    problems += row_problems(config, counted)
    if not any(problem.field == "device" for problem in problems) and (shape := shape_at(prepared.found)) and counted.made.rows:
        device = pick_device(config.device)
        problems += memory_problems(config, _peak(config, shape, counted, device), device)
    return problems


def standing(config: Any) -> list[Problem]:
    """Problems of this machine: device, packages, processes."""
    return [*_device(config), *packages(config), *_processes(config)]


def count(config: Any, prepared: Prepared) -> Counted | None:
    """Tokens of the training rows; None while the embedded model is not there (it is fetched at the start)."""
    tokenizer = tokenizer_of(prepared.found)
    if tokenizer is None:
        return None
    rows = prepared.train
    if len(rows) > MOST_COUNTED:
        rows = random.Random(0).sample(rows, MOST_COUNTED)
    on_long: OnLong = "cut" if config.on_long_rows == "cut" else "drop"
    return Counted(build_rows(rows, prepared.prompt_format, tokenizer, max_length=config.max_length, on_long=on_long), len(prepared.train))


def tokenizer_of(found: Found) -> Any:
    """The tokenizer that training will use, without weights; None for an embedded model that is not fetched yet."""
    from transformers import AutoTokenizer

    if not found.location and not embedded_ready():
        return None
    own = found.adapter and any((found.adapter / name).is_file() for name in TOKENIZER_FILES)
    place = str(found.adapter) if own else found.location or str(embedded_folder())
    try:
        return AutoTokenizer.from_pretrained(place, trust_remote_code=False, revision=None if own else found.revision)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"The tokenizer of {found.ref} cannot be loaded ({str(error).splitlines()[0][:160]}); check the model.") from error


def row_problems(config: Any, counted: Counted) -> list[Problem]:
    """Rows that would be lost, or are too long."""
    made, problems = counted.made, []
    for reason, lost in made.refused.most_common(3):
        problems.append(Problem(f"{_share(lost, counted)} cannot be trained in this format and would be left out: {reason}.",
                                field="prompt_format", severity="warning"))
    if made.too_long:
        fate = {"drop": "would be left out", "cut": "would lose the end of their answer", "error": "are too long"}[config.on_long_rows]
        wanted = next_length(made.longest)
        problems.append(Problem(f"{_share(made.too_long, counted)} {fate}. The longest needs {made.longest:,}.", field="max_length",
                                fix={"max_length": wanted}, fix_label=f"Set max_length to {wanted:,}",
                                severity="error" if config.on_long_rows == "error" else "warning"))
    if not made.rows:
        problems.append(Problem("No row is left to train on; see the lines above.", field="data"))
    return problems


def _share(lost: int, counted: Counted) -> str:
    """"37 of 400 rows (9.3 %)", and that it is a sample where it is one."""
    of = f"{counted.made.seen:,} rows looked at (of {counted.of:,})" if counted.sampled else f"{counted.made.seen:,} rows"
    return f"{lost:,} of {of} ({100 * lost / max(1, counted.made.seen):.1f} %)"


def _device(config: Any) -> list[Problem]:
    try:
        device = pick_device(config.device)
    except UserError as error:
        return [Problem(str(error), field="device", fix={"device": "auto"}, fix_label="Use what is there")]
    if config.dtype == "bfloat16" and device == "cpu" and pick_dtype("auto", "cpu") != "bfloat16":
        return [Problem("This CPU has no bfloat16 instructions, so dtype = bfloat16 would be slower than float32.", field="dtype",
                        fix={"dtype": "auto"}, fix_label="Use float32", severity="warning")]
    return []


def packages(config: Any) -> list[Problem]:
    """Optional packages that the settings need and that are not installed."""
    problems = []
    if config.tuning == "qlora" and not importlib.util.find_spec("bitsandbytes"):
        problems.append(Problem("tuning = qlora needs bitsandbytes, which is not installed; run `pip install bitsandbytes`.",
                                field="tuning", fix={"tuning": "lora"}, fix_label="Use lora"))
    if missing := missing_teller(config.report_to):
        problems.append(Problem(missing, field="report_to", fix={"report_to": "none"}, fix_label="Send the curves nowhere"))
    return problems


def _processes(config: Any) -> list[Problem]:
    if config.processes == 1:
        return []
    import torch

    one = {"processes": 1}
    if config.device.startswith(("cuda:", "mps")):
        return [Problem(f"processes = {config.processes} on the one device {config.device}; use device=auto or processes=1.",
                        field="processes", fix=one, fix_label="Use one process")]
    there = torch.cuda.device_count() if config.device != "cpu" else 0
    if there and config.processes > there:
        return [Problem(f"processes = {config.processes}, but there are {there} GPUs.", field="processes", fix={"processes": there},
                        fix_label=f"Use {there}")]
    if not there and config.tuning == "qlora":
        return [Problem("4-bit training on a CPU runs in one process.", field="processes", fix=one, fix_label="Use one process")]
    return []


def sizes(config: Any, train: int, holds_out: bool) -> list[Problem]:
    """Steps larger than the set, stopping without a measure. train: rows to train on."""
    problems, rows = [], rows_per_step(config)
    if rows > train:
        problems.append(Problem(f"A step has {rows:,} rows and there are {train:,} to train on, so an epoch is one step.",
                                field="gradient_accumulation_steps", fix={"gradient_accumulation_steps": 1}, fix_label="No accumulation",
                                severity="warning"))
    if config.early_stopping_patience and not holds_out:
        problems.append(Problem("early_stopping_patience needs held-out rows; set validation_share above 0.", field="validation_share",
                                fix={"validation_share": 0.1}, fix_label="Hold out 10 %"))
    return problems


def memory_problems(config: Any, need: int, device: str) -> list[Problem]:
    """need: bytes at the peak."""
    there = available_bytes(device)
    if need <= there:
        return []
    smaller = {"tuning": "qlora"} if config.tuning != "qlora" else {"batch_size": 1}
    return [Problem(f"The training needs about {size(need)} of memory and {size(there)} are free on {device}; use tuning=qlora, a smaller "
                    "batch_size or activation_checkpointing=on.", field="tuning", fix=smaller, severity="warning")]


def shape_at(found: Found) -> Shape | None:
    """Sizes of the base model; None where its config is not here yet."""
    return _shape(found.location or str(embedded_folder()))


@lru_cache(maxsize=8)
def _shape(location: str) -> Shape | None:
    from transformers import AutoConfig

    try:
        return shape_of(AutoConfig.from_pretrained(location, trust_remote_code=False))
    except (OSError, ValueError, ImportError):
        return None


def _peak(config: Any, shape: Shape, counted: Counted, device: str) -> int:
    longest = max(len(row) for row in counted.made.rows)
    tokens = max(longest, CPU_PASS) if device == "cpu" else longest * config.batch_size
    trained = shape.parameters if config.tuning == "full" else adapter_parameters(shape, config.lora_rank)
    return peak_bytes(shape, tuning=config.tuning, dtype=compute_dtype(config, device), tokens=tokens, trained=trained,
                      checkpointing=config.activation_checkpointing == "on")


def rows_per_step(config: Any) -> int:
    """The effective batch."""
    return int(config.batch_size * config.gradient_accumulation_steps * config.processes)


def estimate(config: Any, prepared: Prepared, counted: Counted | None, workspace: Workspace) -> Estimate:
    """Time, tokens and memory: from an earlier run like this one where there is one, else a guess from the model's size."""
    shape = shape_at(prepared.found)
    steps = math.ceil(max(1, round(len(prepared.train) * config.epochs)) / rows_per_step(config))
    notes = [f"{config.batch_size} x {config.gradient_accumulation_steps} x {config.processes} = {rows_per_step(config)} rows a step, "
             f"{plural(steps, 'step')}", f"format {prepared.prompt_format.name} ({prepared.why})"]
    if prepared.found.adapter:
        notes.append(f"goes on from {config.model} with a new schedule that starts at learning rate {config.learning_rate:g}")
    if counted is None or shape is None or not counted.made.rows:
        return Estimate(note="; ".join([*notes, "time and memory are known once the model is here"]))
    device = pick_device(config.device)
    tokens = int(counted.made.tokens * counted.factor * config.epochs)
    answers = int(counted.made.answer_tokens * counted.factor * config.epochs)
    if counted.sampled:
        notes.append(f"tokens counted on {counted.made.seen:,} of {counted.of:,} rows")
    flops = train_flops(shape, tokens, answers, full=config.tuning == "full")
    seconds = guess_seconds(flops, device, compute_dtype(config, device), config.processes)
    if speed := measured_speed(workspace, "rsft", "answer_tokens", base=prepared.found.base, tuning=config.tuning, device=device,
                               dtype=compute_dtype(config, device), prompt_format=prepared.prompt_format.name):
        middle = FIXED_SECONDS + answers / speed[0]
        seconds = (middle, 0.8 * middle, 1.5 * middle)
        notes.append(f"time from {speed[1]}, which learned {speed[0]:,.0f} answer tokens a second")
    else:
        notes.append(f"time is a guess from the model's size, between {duration(seconds[1])} and {duration(seconds[2])}")
    return Estimate(seconds=seconds[0], seconds_low=seconds[1], seconds_high=seconds[2], tokens=tokens,
                    peak_memory_bytes=_peak(config, shape, counted, device), note="; ".join(notes))
