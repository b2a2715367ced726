"""report.json of a preference training: every number that the card, the pages and a later look back need."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from core.lm.tune import ranks

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.lm.dpo import Preferred
    from core.lm.dpo_data import PreparedPairs


def make_report(prepared: PreparedPairs, trained: Preferred, run: ActiveRun) -> dict[str, Any]:
    """The report. Pairs that were not used are in it with the reason why."""
    job, model, found = trained.job, trained.loaded.describe(), trained.evaluation
    margin = found.margin if found and math.isfinite(found.margin) else None
    source, pairs = prepared.source, prepared.pairs
    return {
        "kind": "hs-dpo", "run": run.id, "headline": headline(trained),
        "base": model["base"], "base_title": model["base_title"], "start": model["model"], "model": model, "tuning": job.tuning,
        "prompt_format": trained.prompt_format,
        "data": {"name": source.name, "sha256": source.sha256(), "run": source.run.id if source.run else None, "file": str(source.path)},
        "rows": {"train": trained.train.record(), "held_out": trained.held_out.record(), "in_file": pairs.seen},
        "split_guard": pairs.record(), "test_rows_overridden": pairs.overridden,
        "weights": trained.train.rows.weight_counts(trained.train.places),
        "losses": {"train": trained.last, "eval": found.loss if found else None, "eval_margin": margin, "level": 0.95,
                   "eval_pairs": found.pairs if found else 0, "eval_means": found.means if found else None},
        "reference": "written down before the first step" if job.precompute_reference else "a frozen copy, asked at each step",
        **{name: getattr(job, name) for name in ("beta", "sft_mix", "sft_reduction", "use_weights", "learning_rate", "epochs")},
        "steps": trained.steps, "planned_steps": trained.plan.steps, "best_step": trained.best_step,
        "stopped_early": trained.stopped_early, "rows_per_step": job.rows_per_step(ranks()),
        "passes_per_step": trained.plan.passes_per_step, "common_parts_once": trained.tree, "processes": ranks(),
        "pairs_learned": trained.pairs_learned, "seconds": round(trained.seconds, 2),
        "pairs_per_second": round(trained.pairs_learned / trained.seconds, 3) if trained.seconds else None,
        "peak_memory_bytes": trained.peak_memory_bytes, "trained_parameters": trained.trained_parameters,
        "device": model["device"], "dtype": trained.dtype,
    }


def headline(trained: Preferred) -> str:
    """The one line of the runs table."""
    if found := trained.evaluation:
        right, pairs = found.means["reward_accuracy"], found.pairs
        return f"held out: prefers the right answer in {right:.0%} of {pairs:,} pairs, margin {found.means['reward_margin']:+.3f}"
    if trained.last:
        return f"training pairs: prefers the right answer in {trained.last['reward_accuracy']:.0%}, " \
               f"margin {trained.last['reward_margin']:+.3f}"
    return "nothing trained"
