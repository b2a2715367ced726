"""Supervised fine-tuning of a guard: from examples to an adapter (or a full model) in the run folder.

sft_rows.py    examples -> token ids                  sft_plan.py       rows -> steps and passes
sft_batch.py   a pass -> tensors                      sft_attention.py  attention over rows laid end to end
sft_loss.py    the loss where there is an answer      sft_trainer.py    TRL's trainer with these put in
sft_setup.py   plan, passes, trainer                  sft_callbacks.py  progress, curves, samples, Stop
sft_cost.py    guesses of time and memory             card.py           the README of what was made
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from core.formats import PromptFormat
from core.lm.load import Loaded
from core.lm.sft_rows import TrainRow, TrainRows, build_rows
from core.lm.tune import Tuned, TuneJob, carry_out, checkpoint_of, logged_steps, longest_allowed, ready_to_train, tell_rows
from core.records import GuardExample

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.lm.sft_plan import Plan
    from core.lm.sft_trainer import AnswerTrainer, EvalLoss


@dataclass(frozen=True, kw_only=True)
class SftJob(TuneJob):
    """A supervised fine-tuning. Names and defaults are those of the `rsft` method's settings."""

    prompt_format: type[PromptFormat]
    train: list[GuardExample]
    held_out: list[GuardExample] = field(default_factory=list)
    sample_rows: int = 3


@dataclass(kw_only=True)
class Trained(Tuned):
    """What a supervised fine-tuning made."""

    rows: TrainRows
    held_out: TrainRows
    plan: Plan
    best_step: int | None
    """The step whose weights were kept; None = the last."""
    stopped_early: bool
    train_loss: float | None
    """Mean over the last tenth of the steps."""
    eval_loss: EvalLoss | None
    answer_tokens: int
    """Answer tokens learned from, repeats counted."""
    packed: bool


def fine_tune(job: SftJob, run: ActiveRun) -> Trained:
    """Train, or go on from the run's last checkpoint. Raises StopRequested once a checkpoint is written."""
    loaded, model, device = ready_to_train(job, run)
    rows, held_out = _rows(job, loaded, run)
    callbacks = []
    if job.sample_rows and held_out.rows:
        from core.lm.sft_callbacks import Samples

        callbacks.append(Samples(run, loaded, job, held_out.rows))
    return learn(job, run, loaded, model, device, rows, held_out, job.prompt_format.name, callbacks)


def learn(job: TuneJob, run: ActiveRun, loaded: Loaded, model: Any, device: str, rows: TrainRows, held_out: TrainRows,
          prompt_format: str | None, callbacks: Sequence[Any] = ()) -> Trained:
    """Train on rows that are tokens already. loaded, model, device: of `ready_to_train`. Raises StopRequested as `fine_tune` does."""
    from core.lm import sft_setup as setup
    from core.lm.load import quiet_transformers

    with quiet_transformers():
        trainer, plan, packed = setup.trainer(job, run, loaded, model, rows.rows, held_out.rows, device, callbacks)
        carry_out(trainer, checkpoint_of(run, _digest(rows.rows, plan)))
    return _trained(job, run, loaded, trainer, rows, held_out, plan, packed, prompt_format)


def _rows(job: SftJob, loaded: Loaded, run: ActiveRun) -> tuple[TrainRows, TrainRows]:
    limit = longest_allowed(job, loaded, run)
    rows = build_rows(job.train, job.prompt_format, loaded.tokenizer, max_length=limit, on_long=job.on_long_rows)
    held_out = build_rows(job.held_out, job.prompt_format, loaded.tokenizer, max_length=limit, on_long="drop")
    tell_rows(run, rows, held_out, limit, f"None of the {len(job.train):,} rows can be trained in the format {job.prompt_format.name}")
    return rows, held_out


def _digest(rows: Sequence[TrainRow], plan: Plan) -> dict[str, Any]:
    """What must be the same again when a run is resumed."""
    seen = hashlib.sha256()
    for row in rows:
        seen.update(row.ids.tobytes())
    return {"rows": len(rows), "tokens_sha256": seen.hexdigest(), "steps": plan.steps, "passes_per_step": plan.passes_per_step}


def _trained(job: TuneJob, run: ActiveRun, loaded: Loaded, trainer: AnswerTrainer, rows: TrainRows, held_out: TrainRows, plan: Plan,
             packed: bool, prompt_format: str | None) -> Trained:
    from core.lm.sft_callbacks import peak_memory
    from core.lm.tune_setup import compute_dtype

    steps = logged_steps(run)
    losses = [line["loss"] for line in steps]
    tail = losses[-max(1, len(losses) // 10):]
    best = trainer.best_evaluation()
    return Trained(job=job, loaded=loaded, model=trainer.model, prompt_format=prompt_format, rows=rows, held_out=held_out,
                   plan=plan, steps=trainer.state.global_step, best_step=best[0] if best else None,
                   stopped_early=trainer.follow.stopped_early, train_loss=sum(tail) / len(tail) if tail else None,
                   eval_loss=best[1] if best else None, answer_tokens=sum(line["tokens"] for line in steps),
                   seconds=sum(line["seconds"] for line in steps),
                   peak_memory_bytes=max([peak_memory(), *(line["memory_bytes"] for line in steps)]), packed=packed,
                   dtype=compute_dtype(job, loaded.device))
