"""HS-DPO: from weighted preference pairs to an adapter (or a full model) in the run folder. The loss, then the training around it.

GuardReasoner (arXiv 2501.18492), equation 2, for a prompt x with a better and a worse answer:

    A = beta * log [ P_theta(chosen | x)   / P_ref(chosen | x) ]          reward of the chosen answer
    B = beta * log [ P_theta(rejected | x) / P_ref(rejected | x) ]        reward of the rejected answer
    L_DPO = alpha * -log sigmoid(A - B)

and section 4.2, which mixes in the loss of R-SFT on the chosen answer (the released code: `pref_ftx`):

    L = alpha * -log sigmoid(A - B) + sft_mix * ( -(1 / |chosen|) * log P_theta(chosen | x) )

The loss of a step is the mean of L over its pairs. ref is the model as training starts.

dpo_rows.py       pairs -> token ids on the disk     dpo_batch.py      a pass -> tensors
dpo_reference.py  log P_ref, once, before training   dpo_trainer.py    TRL's trainer with these put in
dpo_setup.py      plan, passes, trainer              dpo_callbacks.py, dpo_metrics.py    curves
dpo_data.py       the `data` setting, split guard    dpo_check.py, dpo_report.py, dpo_card.py
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from core.lm.dpo_rows import PairRows, PairView, build_pairs, divided
from core.lm.load import Loaded
from core.lm.sft_rows import OnLong
from core.lm.tune import Tuned, TuneJob, carry_out, checkpoint_of, logged_steps, longest_allowed, lost_rows, ready_to_train
from core.methods import UserError
from core.records import Preference
from core.split_guard import keep_trained_keys
from core.words import plural

if TYPE_CHECKING:
    from torch import Tensor

    from core.active import ActiveRun
    from core.lm.dpo_metrics import PairEvaluation
    from core.lm.dpo_trainer import PairTrainer
    from core.lm.sft_plan import Plan

Reduction = Literal["sequence", "token"]
SPLIT_SEED = 42
"""Which pairs are held out depends on their prompts alone, so that runs with other seeds can be compared."""


class PairLosses(NamedTuple):
    """Of each pair; tensors [pairs]."""

    total: Tensor
    """L."""
    dpo: Tensor
    """-log sigmoid(A - B), not weighted."""
    sft: Tensor
    """The term of R-SFT, not mixed."""
    chosen_reward: Tensor
    """A."""
    rejected_reward: Tensor
    """B."""


def preference_losses(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, weights: Tensor, beta: float,
                      sft: Tensor, sft_mix: float) -> PairLosses:
    """L of each pair. chosen ... ref_rejected: log P of whole answers (sums over tokens), [pairs]; weights: alpha; sft: `sft_terms`."""
    from torch.nn.functional import logsigmoid

    a = beta * (chosen - ref_chosen)
    b = beta * (rejected - ref_rejected)
    dpo = -logsigmoid(a - b)
    return PairLosses(weights * dpo + sft_mix * sft, dpo, sft, a, b)


def sft_terms(chosen: Tensor, tokens: Tensor, reduction: Reduction) -> Tensor:
    """-(1 / |chosen|) log P(chosen) of each pair, [pairs]. tokens: |chosen|.

    "token" divides by the mean length of the pairs given instead, so that their mean is the mean over all their tokens: what
    TRL's loss "sft" is for a micro-batch. It depends on which pairs are together; "sequence" does not.
    """
    return -chosen / (tokens if reduction == "sequence" else tokens.float().mean())


@dataclass(frozen=True, kw_only=True)
class DpoJob(TuneJob):
    """A preference training. Names and defaults are those of the `hs-dpo` method's settings."""

    pairs: Iterable[Preference]
    """Read once; may raise UserError at its end, before anything is trained."""
    epochs: float = 2.0
    learning_rate: float = 5e-6
    beta: float = 0.01
    sft_mix: float = 2.0
    sft_reduction: Reduction = "sequence"
    use_weights: bool = True
    validation_share: float = 0.05
    precompute_reference: bool = True
    on_long_rows: OnLong = "drop"


@dataclass(kw_only=True)
class Preferred(Tuned):
    """What a preference training made."""

    job: DpoJob
    train: PairView
    held_out: PairView
    plan: Plan
    best_step: int | None
    """The step whose weights were kept; None = the last."""
    stopped_early: bool
    last: dict[str, float]
    """Means of the curves over the last tenth of the steps."""
    evaluation: PairEvaluation | None
    pairs_learned: int
    """Pairs learned from, repeats counted."""
    tree: bool
    """Was what a pass has in common computed once?"""


def prefer(job: DpoJob, run: ActiveRun) -> Preferred:
    """Train, or go on from the run's last checkpoint. Raises StopRequested once a checkpoint is written."""
    from core.lm import dpo_setup as setup
    from core.lm.dpo_reference import reference_of
    from core.lm.load import quiet_transformers

    loaded, model, device = ready_to_train(job, run)
    train, held_out = _pairs(job, loaded, run)
    prompt_format = format_of(train.rows, loaded.prompt_format, loaded.ref)
    if prompt_format is None:
        run.notice(f"Neither {loaded.ref} nor the pairs name a prompt format, so none is stored with the model.", "warning")
    with quiet_transformers():
        trainer, plan, tree = setup.trainer(job, run, loaded, model, train, held_out, device)
        sha256 = train.rows.sha256
        checkpoint = checkpoint_of(run, {"rows": len(train), "tokens_sha256": sha256, "steps": plan.steps,
                                         "passes_per_step": plan.passes_per_step})
        if job.precompute_reference:
            trainer.reference = reference_of(trainer, run, loaded, sha256, setup.looks(job, plan, train, held_out, device, tree))
        carry_out(trainer, checkpoint)
    train.rows.close()
    return _preferred(job, run, loaded, trainer, train, held_out, plan, tree, prompt_format)


def _pairs(job: DpoJob, loaded: Loaded, run: ActiveRun) -> tuple[PairView, PairView]:
    limit = longest_allowed(job, loaded, run)
    run.progress(0, None, "pairs", detail="reading the pairs")
    rows = build_pairs(job.pairs, loaded.tokenizer, run.dir, max_length=limit, on_long=job.on_long_rows)
    for text in lost_rows(rows, limit):
        run.notice(f"pairs: {text}", "warning")
    if not rows.rows:
        reason = next(iter(rows.refused), f"all are longer than max_length = {limit} tokens")
        raise UserError(f"None of the {rows.seen:,} pairs can be trained: {reason}.")
    train, held_out = divided(rows, job.validation_share, SPLIT_SEED)
    if run.rank == 0:
        keep_trained_keys(run.dir, train.sorted_keys())
    unknown = len(rows) - sum(rows.known)
    if unknown:
        run.notice(f"{plural(unknown, 'pair')} of {len(rows):,} do not name the prompt that is judged (user_prompt), so the split guard "
                   "could not look at them, and evaluations will not mark what they taught.", "warning")
    others = ", ".join(f"{model} ({count:,})" for model, count in rows.models.most_common() if model not in ("", job.model))
    if others:
        run.notice(f"The pairs were written by {others}, not by {job.model}, which is trained.")
    run.log(f"{plural(len(train), 'pair')} to learn from, {len(held_out):,} held out; weights {min(rows.weights):g} to "
            f"{max(rows.weights):g}")
    return train, held_out


def format_of(rows: PairRows, stored: str | None, model: str) -> str | None:
    """The prompt format of the trained guard: that of the pairs, which must be the model's where both are known."""
    written = [name for name, _ in rows.formats.most_common() if name]
    if len(written) > 1:
        raise UserError(f"The pairs are written in several prompt formats ({', '.join(written)}); build them from guards of one format.")
    if written and stored and written[0] != stored:
        raise UserError(f"The pairs are written in the prompt format {written[0]}, but {model} was trained in {stored}; take the model "
                        "that was mined, or mine with this one.")
    return stored or (written[0] if written else None)


def _preferred(job: DpoJob, run: ActiveRun, loaded: Loaded, trainer: PairTrainer, train: PairView, held_out: PairView, plan: Plan,
               tree: bool, prompt_format: str | None) -> Preferred:
    from core.lm.dpo_callbacks import SHOWN
    from core.lm.sft_callbacks import peak_memory
    from core.lm.tune_setup import compute_dtype

    steps = logged_steps(run)
    tail = steps[-max(1, len(steps) // 10):]
    last = {name: sum(line[name] for line in tail) / len(tail) for name in ("loss", *SHOWN) if tail}
    best = trainer.best_evaluation()
    return Preferred(job=job, loaded=loaded, model=trainer.model, train=train, held_out=held_out, prompt_format=prompt_format, plan=plan,
                     steps=trainer.state.global_step, best_step=best[0] if best else None, stopped_early=trainer.follow.stopped_early,
                     last=last, evaluation=best[1] if best else None, pairs_learned=round(sum(line["pairs"] for line in steps)),
                     seconds=sum(line["seconds"] for line in steps),
                     peak_memory_bytes=max([peak_memory(), *(line["memory_bytes"] for line in steps)]), tree=tree,
                     dtype=compute_dtype(job, loaded.device))
