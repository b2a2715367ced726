"""TRL's DPOTrainer with what HS-DPO needs put in: a weight for each pair, passes from a plan, and a reference that stays where it was.

Its optimizer, schedule, checkpoints and distributed training are as they are. Replaced: `_compute_loss` (core/lm/dpo.py, over the
answer positions only), and the data preparation, since the pairs come tokenised.
"""

from __future__ import annotations

import copy
import time
from itertools import islice
from typing import Any

import torch
from trl import DPOConfig, DPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter

from core.lm.dpo import DpoJob, PairLosses, preference_losses, sft_terms
from core.lm.dpo_batch import NOT_FOR_THE_MODEL, PairCollator, PairPassCollator
from core.lm.dpo_metrics import PairEvaluation, PairTotals, WeightBuckets, mean_and_error
from core.lm.dpo_rows import PairView
from core.lm.sft_loss import add_answer_head
from core.lm.sft_plan import Passes, Plan
from core.lm.sft_trainer import PlannedTrainer, numbers_of, trained_weights

REF = "ref"
"""Name under which TRL copies an adapter that training starts from."""


class PairTrainer(PlannedTrainer, DPOTrainer):  # type: ignore[misc, unused-ignore]
    """The loss of a step is the mean over its pairs, however they are grouped into passes, processes and accumulation steps."""

    loss_is_scaled_for_ga = True  # a pass is divided by the pairs of the whole step, so nothing more is divided

    def __init__(self, *, job: DpoJob, model: Any, settings: dict[str, Any], train: PairView, held_out: PairView, plan: Plan,
                 eval_plan: Passes, collate: PairCollator, tokenizer: Any, follow: Any, callbacks: list[Any]) -> None:
        rows = train.rows
        self.job, self.follow = job, follow
        self.step_tokens = 0
        """Answer tokens of the current step, over all ranks."""
        self._train, self._held_out, self._plan, self._eval_plan, self._collate = train, held_out, plan, eval_plan, collate
        full = job.tuning == "full"
        # TRL would read a full model's reference from the disk again, which may not be where this one came from
        frozen = copy.deepcopy(model).requires_grad_(False) if full and not job.precompute_reference else None
        args = DPOConfig(**settings, beta=job.beta, max_length=None, disable_dropout=not job.lora_dropout,
                         precompute_ref_log_probs=full and job.precompute_reference)
        wide = trained_weights(model)
        super().__init__(model=model, ref_model=frozen, args=args, train_dataset=numbers_of(plan.micro_batches),
                         eval_dataset=numbers_of(eval_plan) if len(held_out) else None,
                         data_collator=PairPassCollator(train, collate, plan.micro_batches), processing_class=tokenizer,
                         callbacks=callbacks)
        self._follow_with(follow, wide)
        if frozen is not None:
            add_answer_head(self.accelerator.unwrap_model(self.ref_model))
        if job.precompute_reference and not full and REF in self.model.peft_config:
            self.model.delete_adapter(REF)  # what it would say is written down before the first step
        self.reference: Any = None
        """log P_ref of (chosen, rejected) by places of pairs (dpo_reference.Numbers); None = ask the frozen copy each time."""
        self._buckets = WeightBuckets.of(rows.weights)
        self._totals = PairTotals(self._buckets, self.args.device)
        self._before_step: tuple[Any, Any] | None = None
        """(summed loss, sums of the totals) when the current step began."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        """The pairs are tokens already."""
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
        """core/lm/dpo_reference.py does it, so that a resumed run finds what was written before the weights moved."""
        return dataset

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """A checkpoint without the frozen copy: the model that training started from is loaded again on resume."""
        if self.job.tuning == "full" or REF not in self.model.peft_config:
            super()._save(output_dir, state_dict)
            return
        kept = self.model.save_pretrained
        self.model.save_pretrained = lambda *args, **options: kept(*args, selected_adapters=["default"], **options)
        try:
            super()._save(output_dir, state_dict)
        finally:
            del self.model.save_pretrained

    # The loss

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        """This pass's share of the step's mean loss."""
        losses = self.pair_losses(model, inputs)
        self._totals.add(losses, inputs["weights"], inputs["tokens"], self.job.beta)
        pairs, self.step_tokens = self._step_size()
        # every rank's pairs are counted, and DDP averages gradients over ranks
        loss = losses.total.sum() / pairs * self.accelerator.num_processes
        return (loss, losses) if return_outputs else loss

    def pair_losses(self, model: Any, inputs: dict[str, Any]) -> PairLosses:
        """L and its parts of each pair of a pass."""
        job = self.job
        chosen, rejected = self.log_probabilities(model, inputs)
        if self.reference is None:
            ref_chosen, ref_rejected = self.frozen_log_probabilities(inputs)
        else:
            ref_chosen, ref_rejected = torch.tensor(self.reference[inputs["pairs"].cpu().numpy()], device=chosen.device).unbind(1)
        weights = inputs["weights"] if job.use_weights else torch.ones_like(chosen)
        sft = sft_terms(chosen, inputs["tokens"], job.sft_reduction)
        return preference_losses(chosen, rejected, ref_chosen, ref_rejected, weights=weights, beta=job.beta, sft=sft, sft_mix=job.sft_mix)

    def log_probabilities(self, model: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
        """log P of the chosen and of the rejected answers of a pass, two tensors [pairs] in float32."""
        asked = {name: value for name, value in inputs.items() if name not in NOT_FOR_THE_MODEL}
        each = model(**asked, answer_head="each").each
        if not inputs["answers"]:
            nothing = -each.sum().expand(0)  # keeps its place in the graph: every rank must take part in the backward pass
            return nothing, nothing
        sums = -torch.stack([part.sum() for part in each.split(inputs["answers"])])
        return sums[inputs["chosen"]].sum(1), sums[inputs["rejected"]].sum(1)

    def frozen_log_probabilities(self, inputs: dict[str, Any]) -> tuple[Any, Any]:
        """The same of the frozen copy, without gradients."""
        with self._looking(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            if self.ref_model is not None:
                return self.log_probabilities(self.ref_model, inputs)
            with use_adapter(self.accelerator.unwrap_model(self.model), adapter_name=REF):
                return self.log_probabilities(self.model, inputs)

    def _step_size(self) -> tuple[int, int]:
        """(pairs, answer tokens) of the current step, over all ranks."""
        step = min(self.state.global_step, self._plan.steps - 1)
        places = self._train.places[[place for line in self._plan.step(step) for group in line for place in group]]
        rows = self._train.rows
        return len(places), sum(rows.chosen[place] + rows.rejected[place] for place in places)

    # What is shown

    def begin_step(self) -> None:
        """Remember what was summed up before the passes of a step."""
        self._before_step = (self._tr_loss.clone(), self._totals.sums.clone())

    def give_up_step(self) -> None:
        """Forget the passes of the current step: a resumed run does them again."""
        if self._before_step is not None:
            self._tr_loss, self._totals.sums = self._before_step

    def take_totals(self) -> dict[str, float]:
        """Means over the pairs since this was last asked. All ranks must ask."""
        return self._totals.take(self.accelerator)

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """The loss and its parts on the held-out pairs."""
        started = time.monotonic()
        found = self.held_out_loss()
        metrics = {f"{metric_key_prefix}_loss": found.loss, f"{metric_key_prefix}_loss_error": found.error,
                   f"{metric_key_prefix}_seconds": time.monotonic() - started}
        return self._report_evaluation(metrics | {f"{metric_key_prefix}_{name}": value for name, value in found.means.items()})

    def held_out_loss(self) -> PairEvaluation:
        """Evaluate now. With several processes each takes a part."""
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        totals = PairTotals(self._buckets, self.args.device)
        each = torch.zeros(len(self._held_out), device=self.args.device)
        with self._looking():
            for group in islice(self._eval_plan, rank, None, ranks):
                inputs = self._prepare_inputs(self._collate([self._held_out[place] for place in group]))
                losses = self.pair_losses(self.model, inputs)
                totals.add(losses, inputs["weights"], inputs["tokens"], self.job.beta)
                each[group] = losses.total.float()
                self.follow.on_prediction_step(self.args, self.state, self.control)
        if ranks > 1:
            each = self.accelerator.reduce(each)
        loss, error = mean_and_error(each.tolist())
        return PairEvaluation(loss, error, totals.take(self.accelerator))

    def best_evaluation(self) -> tuple[int, PairEvaluation] | None:
        """(step, numbers) of the evaluation whose weights were kept."""
        best = self._best_line()
        if best is None:
            return None
        means = {name.removeprefix("eval_"): value for name, value in best.items() if name.startswith("eval_")}
        return int(best["step"]), PairEvaluation(best["eval_loss"], best["eval_loss_error"], means)
