"""The look before two agents are trained: what stands in the way, what would be lost, what it will cost."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.chat.checked import check_problem
from core.lm.device import pick_device
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
from core.lm.sft_setup import CPU_PASS
from core.lm.tune_setup import compute_dtype
from core.lm.waltz_sft_data import RARE, PreparedAgents
from core.methods import Estimate, Problem
from core.waltz.protocol import AGENTS, Role
from core.words import duration, plural

if TYPE_CHECKING:
    from core.lm.sft_rows import OnLong
    from core.runs import Workspace


@dataclass(frozen=True)
class LookedTokens:
    """Token counts of an agent's training rows, or of the first of them; None while the embedded model is not there."""

    counted: Counted | None
    train: int
    """Rows to train on."""


def count(config: Any, prepared: PreparedAgents) -> dict[Role, LookedTokens]:
    """Tokenise at most MOST_COUNTED rows of each agent."""
    found: dict[Role, LookedTokens] = {}
    on_long: OnLong = "cut" if config.on_long_rows == "cut" else "drop"
    for role in AGENTS:
        train = sum(1 for _ in prepared.train(role))
        tokenizer = tokenizer_of(prepared.found[role])
        if tokenizer is None:
            found[role] = LookedTokens(None, train)
            continue
        from core.lm.waltz_sft_rows import build_chat_rows

        step = max(1, train // MOST_COUNTED)  # spread over the file: sets are often sorted
        some = islice(islice(prepared.train(role), 0, None, step), MOST_COUNTED)
        made = build_chat_rows(some, tokenizer, Path(tempfile.gettempdir()), max_length=config.max_length, on_long=on_long)
        found[role] = LookedTokens(Counted(made, train), train)
    return found


def check(config: Any, prepared: PreparedAgents, tokens: dict[Role, LookedTokens]) -> list[Problem]:
    """Problems of a training whose data and models are in order."""
    problems = standing(config)
    if prepared.overridden:
        problems.append(Problem(f"The data holds {prepared.hits}, and they will be trained on. Every report after this run says so.",
                                field="allow_test_rows", severity="warning"))
    for role in AGENTS:
        looked = prepared.looked[role]
        if failed := check_problem(prepared.sets[role].source, prepared.sets[role].workspace, role):
            problems.append(failed)
        about = _about(role)
        problems += [about(problem) for problem in sizes(config, tokens[role].train, bool(looked.marked or looked.threshold >= 0))]
        if (seen := tokens[role].counted) is not None:
            problems += [about(problem) for problem in row_problems(config, seen)]
    problems += _label_problems(prepared)
    need = max((_peak(config, shape, seen, pick_device(config.device)) for role in AGENTS
                if (seen := tokens[role].counted) and seen.made.rows and (shape := shape_at(prepared.found[role]))
                and not any(problem.field == "device" for problem in problems)), default=0)
    if need:
        problems += memory_problems(config, need, pick_device(config.device))
    return _once_each(problems)


def _about(role: Role) -> Any:
    """Says whose problem it is, and at whose setting."""
    def named(problem: Problem) -> Problem:
        field = role if problem.field == "data" else problem.field
        return Problem(f"{role} agent: {problem.message}", field, problem.fix, problem.fix_label, problem.severity)
    return named


def _label_problems(prepared: PreparedAgents) -> list[Problem]:
    looked, problems = prepared.looked["feedback"], []
    if looked.unreadable:
        problems.append(Problem(f"{looked.unreadable:,} of {looked.rows + looked.unreadable:,} feedback rows have no labels that can be "
                                "read and would be left out.", field="feedback", severity="warning"))
    for name, share in looked.label_shares.items():
        rarer = min(share, 1 - share)
        if rarer < RARE:
            which = "yes" if share < 0.5 else "no"
            problems.append(Problem(f"Only {rarer:.0%} of the feedback rows say {which} to {name}; under {RARE:.0%} a label is learned "
                                    "badly. Add such rows with guard-to-feedback and mix.", field="feedback", severity="warning"))
    return problems


def _once_each(problems: list[Problem]) -> list[Problem]:
    seen: dict[str, Problem] = {}
    for problem in problems:
        seen.setdefault(problem.message, problem)
    return list(seen.values())


def _peak(config: Any, shape: Shape, seen: Counted, device: str) -> int:
    longest = max(len(row) for row in seen.made.rows)
    tokens = max(longest, CPU_PASS) if device == "cpu" else longest * config.batch_size
    return peak_bytes(shape, tuning=config.tuning, dtype=compute_dtype(config, device), tokens=tokens,
                      trained=adapter_parameters(shape, config.lora_rank), checkpointing=config.activation_checkpointing == "on")


def estimate(config: Any, prepared: PreparedAgents, tokens: dict[Role, LookedTokens], workspace: Workspace) -> Estimate:
    """Time, tokens and memory of both: from an earlier run like this one where there is one, else a guess from the model's size."""
    per_step = rows_per_step(config)
    steps = {role: math.ceil(max(1, round(tokens[role].train * config.epochs)) / per_step) for role in AGENTS}
    notes = [f"{plural(steps[role], 'step')} for the {role} agent" for role in AGENTS] + [f"{per_step} rows a step"]
    found = {role: (seen, shape) for role in AGENTS
             if (seen := tokens[role].counted) and seen.made.rows and (shape := shape_at(prepared.found[role]))}
    if len(found) < len(AGENTS):
        return Estimate(note="; ".join([*notes, "time and memory are known once the model is here"]))
    device = pick_device(config.device)
    all_tokens = sum(int(seen.made.tokens * seen.factor * config.epochs) for seen, _ in found.values())
    answers = sum(int(seen.made.answer_tokens * seen.factor * config.epochs) for seen, _ in found.values())
    shape = next(iter(found.values()))[1]
    guess = guess_seconds(train_flops(shape, all_tokens, answers, full=False), device, compute_dtype(config, device), config.processes)
    seconds = (guess[0] + FIXED_SECONDS, guess[1] + FIXED_SECONDS, guess[2] + 2 * FIXED_SECONDS)  # the base is loaded for each agent
    if speed := measured_speed(workspace, "waltz-sft", "answer_tokens", base=prepared.found["conversation"].base, tuning=config.tuning,
                               device=device, dtype=compute_dtype(config, device)):
        middle = 2 * FIXED_SECONDS + answers / speed[0]
        seconds = (middle, 0.8 * middle, 1.7 * middle)
        notes.append(f"time from {speed[1]}, which learned {speed[0]:,.0f} answer tokens a second")
    else:
        notes.append(f"time is a guess from the model's size, between {duration(seconds[1])} and {duration(seconds[2])}")
    if config.asked_rows and any(looked.threshold >= 0 or looked.marked for looked in prepared.looked.values()):
        notes.append("the feedback agent's answers to held-out rows come on top")
    return Estimate(seconds=seconds[0], seconds_low=seconds[1], seconds_high=seconds[2], tokens=all_tokens,
                    peak_memory_bytes=max(_peak(config, one, seen, device) for seen, one in found.values()), note="; ".join(notes))
