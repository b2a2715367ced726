"""report.json of a WaltzRL training: what rose and what fell, stage by stage, and by how much more than chance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from core.intervals import CONFIDENCE, Interval, wilson, z_squared
from core.lm.grpo_report import difference
from core.waltz.ledger import Iteration, Spread, read_iterations
from core.waltz.protocol import AGENTS
from core.waltz.rewards import DirRule

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.lm.waltz import Waltzed

SHARES = ("conversation_reward", "first_reply_reward", "unsafe", "unsafe_first", "overrefuse", "overrefuse_first", "trigger",
          "trigger_benign", "trigger_harmful", "label_accuracy", "format_rate", "cut")
"""Values that are 0 or 1 for each episode, reply or feedback."""
MEANS = ("feedback_reward", "dir", "reward", "safety", "helpfulness", "alignment", "reply_tokens", "revision_tokens", "feedback_tokens")


def make_report(trained: Waltzed, run: ActiveRun) -> dict[str, Any]:
    """The report. Episodes that taught nothing are in it with the reason why."""
    job, tally = trained.job, trained.prompts.tally
    lines = list(_last_of_each(read_iterations(run.dir)))
    stages = {f"stage {stage.number}": _stage_report([line for line in lines if line.stage == stage.number]) for stage in job.stages}
    dropped = bool(tally.count) and not job.allow_test_rows
    rule = job.rewards
    kind = "dir" if isinstance(rule, DirRule) else "weighted_sum"
    pool_names = {"": "side not known"}
    return {
        "kind": "waltzrl", "run": run.id, "tuning": job.tuning, **trained.agents.describe(),
        "start": job.models if isinstance(job.models, str) else " and ".join(job.models),
        "dtype": trained.dtype, "judge": job.judge, "verdicts": {"asked": trained.judged, "from_store": trained.found},
        "reward": kind, "reward_rule": {name.rstrip("_"): value for name, value in vars(rule).items()},
        "revisions": job.rules.revisions, "samples": job.rules.samples, "feedback_format": job.rules.feedback_format,
        "iterations": len(lines), "planned_iterations": job.iterations, "prompts_per_iteration": trained.plan.prompts,
        "prompts": {pool_names.get(pool, pool): len(places) for pool, places in trained.prompts.pools.items()},
        "prompts_sha256": trained.prompts.sha256, "split_guard": tally.record(dropped=dropped), "stages": stages,
        "left_out": {"episodes": sum(line.left_out for line in lines), "of": sum(line.episodes for line in lines),
                     "why": _added(line.why_left_out for line in lines)},
        "trained_parameters": trained.trained_parameters, "tokens": {role: _tokens(lines, role) for role in AGENTS},
        "seconds": sum(sum(line.seconds.values()) for line in lines),
        "seconds_by_part": _added(line.seconds for line in lines),
        "peak_memory_bytes": max((line.memory_bytes for line in lines), default=0),
        "settings": {name: getattr(job, name) for name in ("learning_rate", "kl_coef", "clip", "ppo_epochs", "minibatches", "benign_share",
                                                           "max_new_tokens", "max_feedback_tokens", "max_missing", "seed")},
        "headline": headline(stages, len(lines)),
        "note": "These are numbers of training: on prompts that were trained on, from sampled words. agent-eval measures the agents.",
    }


def _last_of_each(lines: Iterable[Iteration]) -> Iterable[Iteration]:
    """One line for each iteration, in order; of one that was done twice the later one."""
    found = {line.iteration: line for line in lines}
    return (found[number] for number in sorted(found))


def _stage_report(lines: Sequence[Iteration]) -> dict[str, Any]:
    """Of one stage: every value in its first and last quarter, with intervals; what each agent's update was like in the last tenth."""
    quarter = max(1, len(lines) // 4)
    first, last, tail = lines[:quarter], lines[-quarter:], lines[-max(1, len(lines) // 10):]
    values = {}
    for name in (*SHARES, *MEANS):
        before, after = (pooled([line.values[name] for line in part if name in line.values], name in SHARES) for part in (first, last))
        if before.n or after.n:
            values[name] = {"first_quarter": before.model_dump(), "last_quarter": after.model_dump(),
                            "difference": difference(before, after).model_dump()}
    agents = {}
    for role in AGENTS:
        steps = [line.agents[role] for line in tail if role in line.agents]
        if steps:
            agents[role] = {name: _mean(getattr(step, name) for step in steps)
                            for name in ("loss", "kl", "entropy", "clip_share", "mismatch", "grad_norm")}
            agents[role]["iterations_without_learning"] = sum(not line.agents[role].learned for line in lines if role in line.agents)
    return {"iterations": len(lines), "outcomes": _added(line.outcomes for line in lines), "values": values, "agents": agents}


def pooled(spreads: Sequence[Spread], share: bool) -> Interval:
    """One number over several iterations: a Wilson interval for shares, a normal one for means. Undefined for fewer than two values."""
    count = sum(one.n for one in spreads)
    if share:
        return wilson(round(sum((one.mean or 0.0) * one.n for one in spreads)), count)
    if count < 2:
        return Interval(value=None, low=None, high=None, n=count)
    middle = sum((one.mean or 0.0) * one.n for one in spreads) / count
    squares = sum(((one.std or 0.0) ** 2 + (one.mean or 0.0) ** 2) * one.n for one in spreads)
    variance = max(0.0, squares - count * middle * middle) / (count - 1)
    margin = math.sqrt(z_squared(CONFIDENCE) * variance / count)
    return Interval(value=middle, low=middle - margin, high=middle + margin, n=count)


def headline(stages: dict[str, Any], iterations: int) -> str:
    """"good replies 41 % to 63 % in stage 2; 40 iterations"."""
    said = []
    for name, stage in stages.items():
        key, words = ("conversation_reward", "good replies") if name == "stage 2" else ("label_accuracy", "right labels")
        found = stage["values"].get(key)
        if found and found["first_quarter"]["value"] is not None and found["last_quarter"]["value"] is not None:
            said.append(f"{words} {found['first_quarter']['value']:.0%} to {found['last_quarter']['value']:.0%} in {name}")
    return "; ".join([*said, f"{iterations} iterations"])


def _tokens(lines: Iterable[Iteration], role: str) -> int:
    return sum(line.agents[role].tokens for line in lines if role in line.agents)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _added(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            found[name] = found.get(name, 0) + value
    return found
