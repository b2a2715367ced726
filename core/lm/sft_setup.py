"""Getting ready to learn from rows: plan, passes and trainer. Device, adapter and arguments are those of core/lm/tune_setup.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from core.lm.load import Loaded
from core.lm.sft_rows import TrainRow
from core.lm.tune import TuneJob, ranks

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.lm.sft_plan import Plan
    from core.lm.sft_trainer import AnswerTrainer

CPU_PASS = 1024
"""Tokens in one pass on a CPU: enough to keep its cores busy, little enough for a laptop's memory."""


def trainer(job: TuneJob, run: ActiveRun, loaded: Loaded, model: Any, rows: Sequence[TrainRow], held_out: Sequence[TrainRow],
            device: str, callbacks: Sequence[Any] = ()) -> tuple[AnswerTrainer, Plan, bool]:
    """(trainer, plan, are rows laid end to end). callbacks: further ones, as for written samples."""
    from core.lm.sft_attention import can_pack, use_rows_attention
    from core.lm.sft_batch import Collator, shared_beginning
    from core.lm.sft_callbacks import Follow
    from core.lm.sft_plan import plan_steps
    from core.lm.sft_trainer import AnswerTrainer, eval_passes
    from core.lm.tune_setup import arguments, compute_dtype

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    packed = job.packing and can_pack(base.config, device)
    if packed:
        use_rows_attention(base)
    shared = shared_beginning(rows) if packed else 0
    room = CPU_PASS if device == "cpu" else 0
    plan = plan_steps([len(row) for row in rows], rows_per_step=job.rows_per_step(ranks()), rows_per_pass=job.batch_size, epochs=job.epochs,
                      ranks=ranks(), seed=job.seed, tokens_per_pass=room, grouped=job.packing, laid_end_to_end=packed, shared=shared)
    groups = eval_passes(held_out, rows_per_pass=max(8, job.batch_size), tokens_per_pass=room, packed=packed, shared=shared)
    follow = Follow(run, job.epochs, patience=job.early_stopping_patience)
    collate = Collator(loaded.tokenizer.pad_token_id or 0, packed)
    from trl import SFTConfig

    settings = arguments(job, run, plan, base.config, bool(held_out), device, _largest(plan, rows))
    settings |= {"max_length": None, "packing": False, "dataset_kwargs": {"skip_prepare_dataset": True}}
    made = AnswerTrainer(model=model, args=SFTConfig(**settings), rows=rows, plan=plan, held_out=held_out, collate=collate,
                         eval_plan=groups, tokenizer=loaded.tokenizer, follow=follow, callbacks=[follow, *callbacks])
    how = [device, compute_dtype(job, device)] + ["rows laid end to end"] * packed + [f"{shared} first tokens shared"] * bool(shared)
    passes = "one pass" if plan.passes_per_step == 1 else f"{plan.passes_per_step} passes"
    run.log(f"{plan.steps:,} steps of {job.rows_per_step(ranks())} rows in {passes}, {', '.join(how)}")
    return made, plan, packed


def _largest(plan: Plan, rows: Sequence[TrainRow]) -> int:
    """Tokens of the largest pass."""
    return max(max(len(rows[row]) for row in group) * len(group) for group in plan.micro_batches if group)
