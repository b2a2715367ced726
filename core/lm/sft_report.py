"""report.json of a fine-tuning: every number that the card, the pages and a later look back need."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.lm.sft import Trained
    from core.lm.sft_data import Prepared


def make_report(prepared: Prepared, trained: Trained, run: ActiveRun) -> dict[str, Any]:
    """The report. Rows that were not used are in it with the reason why."""
    job, model = trained.job, trained.loaded.describe()
    source = prepared.source
    return {
        "kind": "rsft", "run": run.id, "headline": headline(trained),
        "base": model["base"], "base_title": model["base_title"], "start": model["model"], "model": model, "tuning": job.tuning,
        "prompt_format": trained.prompt_format, "prompt_format_why": prepared.why,
        "data": {"name": source.name, "sha256": source.sha256(), "run": source.run.id if source.run else None, "file": str(source.path)},
        "rows": {"train": trained.rows.record(), "held_out": {**trained.held_out.record(), "from": prepared.held_out_from}},
        "split_guard": prepared.guarded.record, "test_rows_overridden": prepared.guarded.overridden,
        "losses": loss_record(trained),
        "learning_rate": job.learning_rate, "steps": trained.steps, "planned_steps": trained.plan.steps, "best_step": trained.best_step,
        "stopped_early": trained.stopped_early, "epochs": job.epochs, "rows_per_step": job.rows_per_step(_ranks()),
        "passes_per_step": trained.plan.passes_per_step, "rows_end_to_end": trained.packed, "processes": _ranks(),
        "answer_tokens": trained.answer_tokens, "seconds": round(trained.seconds, 2),
        "answer_tokens_per_second": round(trained.answer_tokens / trained.seconds, 1) if trained.seconds else None,
        "peak_memory_bytes": trained.peak_memory_bytes, "trained_parameters": trained.trained_parameters,
        "device": model["device"], "dtype": trained.dtype,
    }


def loss_record(trained: Trained) -> dict[str, Any]:
    """Training loss (last tenth of the steps) and held-out loss per answer token with half of its 95 % interval, over rows."""
    loss = trained.eval_loss
    return {"train": trained.train_loss, "eval": loss.loss if loss else None,
            "eval_margin": loss.margin if loss and math.isfinite(loss.margin) else None, "level": 0.95,
            "eval_rows": loss.rows if loss else 0, "eval_tokens": loss.tokens if loss else 0,
            "eval_token_accuracy": loss.accuracy if loss else None}


def headline(trained: Trained) -> str:
    """The one number of the runs table."""
    if trained.eval_loss:
        loss, margin = trained.eval_loss.loss, trained.eval_loss.margin
        return f"eval loss {loss:.2f}" + (f" ± {margin:.2f}" if math.isfinite(margin) else "")
    return f"train loss {trained.train_loss:.2f}" if trained.train_loss is not None else "nothing trained"


def _ranks() -> int:
    from core.lm.tune import ranks

    return ranks()
