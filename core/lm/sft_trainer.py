"""TRL's SFTTrainer with three things replaced: which positions get a loss, who puts rows into a pass, and how evaluation averages.

`PlannedTrainer` is what core/lm/dpo_trainer.py shares: steps that follow a plan, and the small repairs that any trainer needs here.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, Trainer
from trl import SFTTrainer

from core.lm.sft_batch import Collator, PassCollator
from core.lm.sft_loss import add_answer_head
from core.lm.sft_plan import Passes, Plan, plan_steps
from core.lm.sft_rows import TrainRow


@dataclass(frozen=True)
class EvalLoss:
    """Loss over the answer tokens of a set of rows, with the error that comes from having only these rows."""

    loss: float
    error: float
    """Standard error over rows."""
    accuracy: float
    """Share of answer tokens that were the most likely one."""
    rows: int
    tokens: int

    @property
    def margin(self) -> float:
        """Half of the 95 % interval."""
        return 1.96 * self.error

    def __str__(self) -> str:
        return f"{self.loss:.3f} ± {self.margin:.3f}" if math.isfinite(self.error) else f"{self.loss:.3f}"


def numbers_of(passes: Passes) -> Dataset:
    """What TRL is given as its data: the numbers of the passes. The rows of each are looked up when its turn comes."""
    return Dataset.from_dict({"pass": np.arange(len(passes), dtype=np.int32)})


class PlannedTrainer(Trainer):  # type: ignore[misc, unused-ignore]
    """A trainer whose data set is a list of passes in the order of a plan. Mix it in before a trainer of TRL's."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """The plan is in order already."""
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def _follow_with(self, follow: Any, wide: dict[str, Any]) -> None:
        """After TRL's own __init__: one callback tells the run everything, and weights keep the width they had (`wide`)."""
        self.remove_callback(PrinterCallback)
        follow.trainer = self
        for name, weight in self.model.named_parameters():
            if name in wide:
                weight.data = wide[name]  # TRL narrows adapters on 4-bit bases to bfloat16, where a small step rounds to none
        add_answer_head(base_of(self.model))

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Forward and backward, with adapters fed as they are (see `_uncast`)."""
        with self._uncast():
            return super().training_step(*args, **kwargs)

    def _uncast(self) -> Any:
        """PEFT widens every adapter's input to float32 and autocast narrows it again: the same numbers, a tenth of the time."""
        from peft.helpers import disable_input_dtype_casting

        return disable_input_dtype_casting(self.model, active=bool(self.args.bf16))

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """No gradients, no dropout, the number format of training; afterwards the model is as it was."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), self.accelerator.autocast(), self._uncast():
                yield
        finally:
            self.model.train(was_training)

    def _report_evaluation(self, metrics: dict[str, float]) -> dict[str, float]:
        self.log(dict(metrics))
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _best_line(self) -> dict[str, Any] | None:
        """The log line of the evaluation whose weights were kept."""
        lines = [line for line in self.state.log_history if "eval_loss" in line]
        return min(lines, key=lambda line: float(line["eval_loss"])) if lines else None

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: the run writes its own README.md, with the numbers in it."""

    def _send_telemetry(self) -> None:
        """Nothing is sent: what a user trains is the user's own business."""


def base_of(model: Any) -> Any:
    """The model under its adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def trained_weights(model: Any) -> dict[str, Any]:
    """{name: data} of what gets gradients."""
    return {name: weight.data for name, weight in model.named_parameters() if weight.requires_grad}


class AnswerTrainer(PlannedTrainer, SFTTrainer):  # type: ignore[misc, unused-ignore]
    """Trains on the answers of `TrainRow`s. The loss of a step is the mean over all its answer tokens, however they are grouped."""

    def __init__(self, *, model: Any, args: Any, rows: Sequence[TrainRow], plan: Plan, held_out: Sequence[TrainRow], collate: Collator,
                 eval_plan: Passes, tokenizer: Any, follow: Any, callbacks: list[Any]) -> None:
        self.step_tokens = 0
        """Answer tokens of the current step, over all ranks."""
        self.follow = follow
        self._right: Any = 0
        self._seen: Any = 0
        self._held_out, self._eval_plan, self._collate = held_out, eval_plan, collate
        wide = trained_weights(model)
        super().__init__(model=model, args=args, train_dataset=numbers_of(plan.micro_batches),
                         data_collator=PassCollator(rows, collate, plan.micro_batches),
                         eval_dataset=numbers_of(eval_plan) if held_out else None, processing_class=tokenizer, callbacks=callbacks)
        self._follow_with(follow, wide)
        self.model_accepts_loss_kwargs = True  # so that the Trainer counts the answer tokens of the whole step for us

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """This pass's share of the step's mean loss."""
        out = model(**inputs, answer_head=True)
        total = out.count if num_items_in_batch is None else num_items_in_batch
        self.step_tokens = int(total)
        self._right, self._seen = self._right + out.right, self._seen + out.count
        # `total` counts the tokens of every rank, and DDP averages gradients over ranks
        loss = out.nll / torch.as_tensor(total).clamp(min=1) * self.accelerator.num_processes
        return (loss, out) if return_outputs else loss

    def token_accuracy(self) -> float:
        """Share of answer tokens, since this was last asked, that were the model's most likely one (of this rank)."""
        share = float(self._right) / max(1.0, float(self._seen))
        self._right = self._seen = 0
        return share

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Loss on the held-out rows: the mean over all their answer tokens, not over batches."""
        started = time.monotonic()
        found = self.held_out_loss()
        metrics = {f"{metric_key_prefix}_loss": found.loss, f"{metric_key_prefix}_loss_error": found.error,
                   f"{metric_key_prefix}_token_accuracy": found.accuracy, f"{metric_key_prefix}_seconds": time.monotonic() - started}
        return self._report_evaluation(metrics)

    def held_out_loss(self) -> EvalLoss:
        """Evaluate now. With several processes each takes a part."""
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        sums = torch.zeros(len(self._held_out), device=self.args.device)
        right = torch.zeros((), device=self.args.device)
        with self._looking():
            for group in islice(self._eval_plan, rank, None, ranks):
                rows = [self._held_out[place] for place in group]
                out = self.model(**self._prepare_inputs(self._collate(rows)), answer_head=True)
                right += out.right
                parts = out.each.split([row.answer for row in rows])
                sums[group] = torch.stack([part.sum() for part in parts])
                self.follow.on_prediction_step(self.args, self.state, self.control)
        if ranks > 1:
            sums, right = self.accelerator.reduce(sums), self.accelerator.reduce(right)
        return _eval_loss(sums.tolist(), [row.answer for row in self._held_out], float(right))

    def best_evaluation(self) -> tuple[int, EvalLoss] | None:
        """(step, loss) of the evaluation whose weights were kept."""
        best = self._best_line()
        if best is None:
            return None
        rows, tokens = len(self._held_out), sum(row.answer for row in self._held_out)
        return int(best["step"]), EvalLoss(best["eval_loss"], best["eval_loss_error"], best["eval_token_accuracy"], rows, tokens)


def _eval_loss(sums: list[float], counts: list[int], right: float) -> EvalLoss:
    """Ratio estimate: rows are drawn, tokens come with them, so the error is over rows."""
    tokens = sum(counts)
    loss = sum(sums) / max(1, tokens)
    rest = [total - loss * count for total, count in zip(sums, counts, strict=True)]
    error = math.nan
    if len(rest) > 1:
        error = math.sqrt(sum(value * value for value in rest) * len(rest) / (len(rest) - 1)) / max(1, tokens)
    return EvalLoss(loss, error, right / max(1, tokens), len(counts), tokens)


def eval_passes(rows: Sequence[TrainRow], *, rows_per_pass: int, tokens_per_pass: int, packed: bool, shared: int = 0) -> Passes:
    """Groups of held-out rows for evaluation."""
    if not rows:
        return Passes(array("i"), array("i"))
    plan = plan_steps([len(row) for row in rows], rows_per_step=len(rows), rows_per_pass=rows_per_pass, epochs=1,
                      tokens_per_pass=tokens_per_pass, laid_end_to_end=packed, shared=shared)
    return plan.micro_batches.filled()
