"""report.json of a GRPO training: did the reward rise, and by how much more than chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import mean, variance
from typing import TYPE_CHECKING, Any

from core.intervals import CONFIDENCE, Interval, z_squared
from core.lm.grpo_ledger import EVEN, read_groups

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.lm.grpo import Reinforced
    from core.runs import Run


def make_report(trained: Reinforced, run: ActiveRun) -> dict[str, Any]:
    """The report. Rows that were not used are in it with the reason why."""
    job, choice, model = trained.job, trained.job.choice, trained.loaded.describe()
    tests = choice.counts.tests
    dropped = bool(tests.count) and not choice.allow_test_rows
    source = choice.source
    rewards = reward_summary(run, trained.steps, most=job.rule.most)
    return {
        "kind": "grpo", "run": run.id, "headline": headline(rewards, trained.steps),
        "base": model["base"], "base_title": model["base_title"], "start": model["model"], "model": model, "tuning": job.tuning,
        "reference": model["model"] if job.beta else None, "prompt_format": job.prompt_format.name, "prompt_format_why": choice.why,
        "data": {"name": source.name, "sha256": source.sha256(), "run": source.run.id if source.run else None, "file": str(source.path),
                 "hard_samples": choice.mined},
        "rows": {**choice.counts.record(), **trained.rows.record()},
        "split_guard": tests.record(dropped=dropped), "test_rows_overridden": bool(tests.count) and not dropped,
        "reward_rule": {"weights": dict(job.rule.weights), "false_positive_penalty": job.rule.false_positive_penalty,
                        "false_negative_penalty": job.rule.false_negative_penalty, "format_reward": job.rule.format_reward,
                        "most": job.rule.most},
        "rewards": rewards, "kl": last_tenth(trained.logged, "kl"), "entropy": last_tenth(trained.logged, "entropy"),
        "learning_rate": job.learning_rate, "beta": job.beta, "temperature": job.temperature, "top_p": job.top_p,
        "num_generations": job.num_generations, "prompts_per_step": job.prompts_per_step, "loss_type": job.loss_type,
        "scale_rewards": job.scale_rewards, "steps": trained.steps, "planned_steps": trained.plan.steps,
        "epochs": round(trained.plan.epochs, 3), "passes_per_step": trained.plan.passes_per_step, "answer_tokens": trained.answer_tokens,
        "seconds": round(trained.seconds, 2),
        "answer_tokens_per_second": round(trained.answer_tokens / trained.seconds, 1) if trained.seconds else None,
        "peak_memory_bytes": trained.peak_memory_bytes, "trained_parameters": trained.trained_parameters, "device": model["device"],
        "dtype": trained.dtype,
    }


def reward_summary(run: Run, steps: int, *, most: float) -> dict[str, Any]:
    """Reward, share right and share readable in the first and in the last quarter of the steps, with 95 % intervals over prompts.

    most: the highest reward there is. The answers to one prompt go together, so a prompt's mean is one observation. The quarters
    hold different prompts.
    """
    quarter = max(1, steps // 4)
    first: dict[str, list[float]] = {name: [] for name in _OF_GROUP}
    last: dict[str, list[float]] = {name: [] for name in _OF_GROUP}
    answers = unreadable = even = groups = 0
    for line in read_groups(run.dir):
        groups += 1
        answers += len(line["rewards"])
        unreadable += line["readable"].count(False)
        even += max(line["rewards"]) - min(line["rewards"]) < EVEN
        for quarters, inside in ((first, line["step"] <= quarter), (last, line["step"] > steps - quarter)):
            if inside:
                for name, of_group in _OF_GROUP.items():
                    quarters[name].append(of_group(line))
    made: dict[str, Any] = {"answers": answers, "unreadable_answers": unreadable, "prompts_asked": groups, "groups_without_signal": even,
                            "quarter_steps": quarter, "level": CONFIDENCE}
    for name in _OF_GROUP:
        ends = None if name == "answer_tokens" else (0.0, most if name == "reward" else 1.0)
        before, after = over_prompts(first[name], ends), over_prompts(last[name], ends)
        made[name] = {"first_quarter": before.model_dump(), "last_quarter": after.model_dump(),
                      "difference": difference(before, after).model_dump()}
    return made


_OF_GROUP: dict[str, Callable[[dict[str, Any]], float]] = {
    "reward": lambda line: mean(line["rewards"]), "right_share": lambda line: mean(map(float, line["right"])),
    "readable_share": lambda line: mean(map(float, line["readable"])), "answer_tokens": lambda line: mean(line["tokens"]),
    "clipped_share": lambda line: mean(map(float, line["clipped"]))}


def over_prompts(values: Sequence[float], ends: tuple[float, float] | None) -> Interval:
    """The mean with its 95 % interval; undefined for fewer than two values, which tell nothing of their spread.

    Normal, and for values that lie within `ends` at least as far as z^2 further prompts at either end would move the mean, as
    core/intervals.py does for scores: a few equal values are no certainty.
    """
    count = len(values)
    if count < 2:
        return Interval(value=None, low=None, high=None, n=count)
    further = z_squared(CONFIDENCE)
    middle, margin = mean(values), math.sqrt(further * variance(values) / count)
    low, high = middle - margin, middle + margin
    if ends:
        reached = [(count * middle + further * end) / (count + further) for end in ends]
        low, high = max(ends[0], min(low, reached[0])), min(ends[1], max(high, reached[1]))
    return Interval(value=middle, low=min(low, middle), high=max(high, middle), n=count)


def difference(before: Interval, after: Interval) -> Interval:
    """after - before of different prompts; the interval is put together from theirs (Zou and Donner 2008, MOVER)."""
    count = before.n + after.n
    if before.value is None or after.value is None:
        return Interval(value=None, low=None, high=None, n=count)
    middle = after.value - before.value
    (below, above), (below_before, above_before) = _reach(after), _reach(before)
    return Interval(value=middle, low=middle - math.hypot(below, above_before), high=middle + math.hypot(above, below_before), n=count)


def _reach(interval: Interval) -> tuple[float, float]:
    """How far it goes below and above its value."""
    assert interval.value is not None
    return interval.value - (interval.low or 0.0), (interval.high or 0.0) - interval.value


def last_tenth(lines: Iterable[dict[str, Any]], name: str) -> float | None:
    """Mean of a curve over the last tenth of its points."""
    values = [line[name] for line in lines if line.get(name) is not None]
    return mean(values[-max(1, len(values) // 10):]) if values else None


def headline(rewards: dict[str, Any], steps: int) -> str:
    """"reward 0.41 to 0.47 in 20 steps (+0.06, -0.02 to +0.14)"."""
    found = rewards["reward"]
    before, after, change = found["first_quarter"], found["last_quarter"], found["difference"]
    if change["value"] is None:
        return f"{steps} steps, too few prompts for an interval"
    return (f"reward {before['value']:.2f} to {after['value']:.2f} in {steps} steps ({change['value']:+.2f}, {change['low']:+.2f} to "
            f"{change['high']:+.2f})")
