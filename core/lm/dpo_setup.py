"""Getting ready to learn from pairs: plan, passes and trainer. Device, adapter and arguments are those of core/lm/tune_setup.py."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

import numpy as np

from core.lm.dpo import DpoJob
from core.lm.dpo_rows import PairView
from core.lm.tune import ranks

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.lm.dpo_trainer import PairTrainer
    from core.lm.load import Loaded
    from core.lm.sft_plan import Passes, Plan

CPU_PASS = 2048
"""Tokens in one pass on a CPU: two or three pairs, so that the instruction before them is computed once for these."""
LOOK = 2
"""A pass without gradients holds so many times as much."""
LOOK_ROWS = 256
"""Pairs of which such passes are put together at a time."""


def trainer(job: DpoJob, run: ActiveRun, loaded: Loaded, model: Any, train: PairView, held_out: PairView,
            device: str) -> tuple[PairTrainer, Plan, bool]:
    """(trainer, plan, is a pass a tree)."""
    from core.lm.dpo_batch import PairCollator
    from core.lm.dpo_callbacks import PairFollow
    from core.lm.dpo_trainer import PairTrainer
    from core.lm.sft_attention import can_pack, use_rows_attention
    from core.lm.sft_plan import plan_steps
    from core.lm.sft_trainer import base_of
    from core.lm.tune_setup import arguments, compute_dtype

    base = base_of(model)
    tree = job.packing and can_pack(base.config, device)
    if tree:
        use_rows_attention(base)
    shared = train.rows.shared if tree else 0
    lengths = pass_lengths(train, tree)
    plan = plan_steps(lengths, rows_per_step=job.rows_per_step(ranks()), rows_per_pass=job.batch_size, epochs=job.epochs, ranks=ranks(),
                      seed=job.seed, tokens_per_pass=CPU_PASS if device == "cpu" else 0, grouped=job.packing, laid_end_to_end=tree,
                      shared=shared)
    largest = max(_tokens(group, lengths, tree) for group in plan.micro_batches if group)
    settings = arguments(job, run, plan, base.config, bool(len(held_out)), device, largest)
    follow = PairFollow(run, job.epochs, patience=job.early_stopping_patience)
    made = PairTrainer(job=job, model=model, settings=settings, train=train, held_out=held_out, plan=plan,
                       eval_plan=look_passes(job, held_out, device, tree), collate=PairCollator(loaded.tokenizer.pad_token_id or 0, tree),
                       tokenizer=loaded.tokenizer, follow=follow, callbacks=[follow])
    how = [device, compute_dtype(job, device)]
    how += ["what a pass has in common computed once", f"{shared} first tokens shared"] if tree else ["padded"]
    passes = "one pass" if plan.passes_per_step == 1 else f"{plan.passes_per_step} passes"
    run.log(f"{plan.steps:,} steps of {job.rows_per_step(ranks())} pairs in {passes}, {', '.join(how)}")
    return made, plan, tree


def pass_lengths(pairs: PairView, tree: bool) -> array[int]:
    """What each pair costs in a pass, in tokens: its prompt once and both answers, or two padded rows."""
    if tree:
        return pairs.lengths()
    rows = pairs.rows
    padded = 2 * (np.asarray(rows.prompts) + np.maximum(np.asarray(rows.chosen), np.asarray(rows.rejected)))
    return array("i", padded[pairs.places].astype(np.int32).tobytes())


def _tokens(group: list[int], lengths: array[int], tree: bool) -> int:
    return sum(lengths[place] for place in group) if tree else len(group) * max(lengths[place] for place in group)


def look_passes(job: DpoJob, pairs: PairView, device: str, tree: bool) -> Passes:
    """Groups of pairs for passes without gradients: each pair once."""
    from core.lm.sft_plan import Passes, plan_steps

    if not len(pairs):
        return Passes(array("i"), array("i"))
    plan = plan_steps(pass_lengths(pairs, tree), rows_per_step=min(len(pairs), LOOK_ROWS), rows_per_pass=max(8, job.batch_size), epochs=1,
                      tokens_per_pass=LOOK * CPU_PASS if device == "cpu" else 0, laid_end_to_end=tree,
                      shared=pairs.rows.shared if tree else 0)
    return plan.micro_batches.filled()


def looks(job: DpoJob, plan: Plan, train: PairView, held_out: PairView, device: str, tree: bool) -> list[tuple[PairView, Passes]]:
    """Pairs with passes over each that the plan or an evaluation will need, for the reference."""
    needed = np.zeros(len(train), bool)
    needed[np.frombuffer(plan.micro_batches.rows, np.int32)] = True
    used = PairView(train.rows, train.places[needed])
    return [(view, look_passes(job, view, device, tree)) for view in (used, held_out)]
