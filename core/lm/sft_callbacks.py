"""What a training run shows while it works, and when it stops or saves by itself."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from core.files import append_json_line
from core.methods import UserError
from core.words import duration, size

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.lm.load import Loaded
    from core.lm.sft import SftJob
    from core.lm.sft_rows import TrainRow


class StoppedInEvaluation(Exception):
    """Stop was asked for while the held-out rows were scored."""


SAVE_EVERY = 600.0
"""Seconds of work after which a checkpoint is written even if no step number asks for one."""
SAMPLES_FILE = "samples.jsonl"


class Follow(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Progress, curves, the numbers on the run card, Stop, and checkpoints in between."""

    def __init__(self, run: ActiveRun, epochs: float, *, patience: int = 0) -> None:
        self.run, self.epochs, self.patience = run, epochs, patience
        self.trainer: Any = None
        self.stopping = False
        self.stopped_early = False
        self._step_began = self._saved = self._begun = time.monotonic()
        self._first_step = 0
        self.busy = 0.0
        """Seconds in optimizer steps since the last log."""
        self._tokens = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._saved = self._begun = time.monotonic()
        self._first_step = state.global_step
        self._progress(state)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step_began = time.monotonic()

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Between two passes of a long step. What the step has gathered so far is given up; resuming does it again."""
        return self._stop_if_asked(control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        assert self.trainer is not None
        if state.global_step >= state.max_steps and args.eval_strategy != "no":
            control.should_evaluate = True  # the last weights may be the best ones
        self.busy += time.monotonic() - self._step_began
        self._tokens += self.trainer.step_tokens
        if self.agreed(time.monotonic() - self._saved > SAVE_EVERY):
            control.should_save = True
        self._progress(state)
        control = self._stop_if_asked(control)
        if control.should_training_stop or control.should_save or control.should_evaluate:
            control.should_log = True  # with logging_steps above 1: a process that goes on from here counts from zero
        return control

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._saved = time.monotonic()
        if self.run.rank == 0:
            self.run.log(f"checkpoint-{state.global_step} written")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        assert self.trainer is not None
        if not logs or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise UserError(f"The loss is not a number at step {state.global_step}; use a smaller learning_rate than "
                            f"{args.learning_rate:g}, or dtype=float32.")
        speed = self._tokens / self.busy if self.busy else None
        values, stats = self.step_values(speed)
        self.run.metrics(state.global_step, loss=logs["loss"], learning_rate=logs.get("learning_rate"), grad_norm=logs.get("grad_norm"),
                         tokens_per_second=speed, tokens=self._tokens, seconds=self.busy, memory_bytes=peak_memory(), **values)
        self.run.stats(**{"Train loss": f"{logs['loss']:.3f}", "Memory": size(peak_memory())}, **stats)
        self.busy, self._tokens = 0.0, 0

    def step_values(self, speed: float | None) -> tuple[dict[str, float], dict[str, str]]:
        """(more numbers for the curves, more for the run card) since the last log. speed: answer tokens per second."""
        stats = {"Speed": f"{speed:,.0f} answer tokens/s"} if speed else {}
        return {"token_accuracy": self.trainer.token_accuracy()}, stats

    def eval_values(self, metrics: dict[str, float]) -> dict[str, float]:
        """More numbers of an evaluation for the curves."""
        return {"eval_token_accuracy": metrics["eval_token_accuracy"]}

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any) -> Any:
        assert metrics is not None
        loss, error = metrics["eval_loss"], metrics["eval_loss_error"]
        margin = 1.96 * error if math.isfinite(error) else None
        self.run.metrics(state.global_step, eval_loss=loss, eval_loss_margin=margin, **self.eval_values(metrics))
        self.run.stats(**{"Eval loss": f"{loss:.3f}" + (f" ± {margin:.3f}" if margin is not None else "")})
        self.run.log(f"step {state.global_step}: eval loss {loss:.4f}" + (f" ± {margin:.4f}" if margin is not None else ""))
        if state.best_metric is None or loss < state.best_metric:
            control.should_save = True  # the best one is always on the disk
        if self.patience and _since_best(state) >= self.patience:
            self.stopped_early = control.should_training_stop = control.should_save = True
            self.run.notice(f"Stopped early at step {state.global_step}: the eval loss has not improved in {self.patience} evaluations.")
        return control

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluations may be long. Several processes do not take the same number of steps here, so only a lone one looks."""
        if self.trainer is not None and self.trainer.accelerator.num_processes == 1 and self.run.should_stop():
            raise StoppedInEvaluation

    def _progress(self, state: Any) -> None:
        done, total = state.global_step, state.max_steps
        fresh = done - self._first_step
        left = f", {duration((time.monotonic() - self._begun) / fresh * (total - done))} left" if fresh > 0 and done < total else ""
        self.run.progress(done, total, "steps", detail=f"epoch {self.epochs * done / max(1, total):.1f} of {self.epochs:g}{left}")

    def _stop_if_asked(self, control: Any) -> Any:
        if self.agreed(self.run.should_stop()):
            self.stopping = control.should_save = control.should_training_stop = True
        return control

    def agreed(self, mine: bool) -> bool:
        """Rank 0 decides for all: files and clocks look different to each process, and one alone would wait for ever."""
        trainer = self.trainer
        if trainer is None or trainer.accelerator.num_processes == 1:
            return mine
        from accelerate.utils import broadcast_object_list

        return bool(broadcast_object_list([mine], from_process=0)[0])


def _since_best(state: Any) -> int:
    """Evaluations since the best one. From the log, which is in every checkpoint, so a resumed run counts on."""
    losses = [line["eval_loss"] for line in state.log_history if "eval_loss" in line]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def peak_memory() -> int:
    """Most memory used so far: of the GPU where there is one, else of this process."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Samples(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """What the model writes now: greedy answers for a few held-out rows at each evaluation, into samples.jsonl."""

    def __init__(self, run: ActiveRun, loaded: Loaded, job: SftJob, held_out: Sequence[TrainRow]) -> None:
        self.run, self.loaded, self.job = run, loaded, job
        count = min(job.sample_rows, len(held_out))
        places = [round(place * (len(held_out) - 1) / max(1, count - 1)) for place in range(count)]  # sets are often sorted by label
        self.examples = [job.held_out[held_out[place].index] for place in places]
        longest = max(held_out[place].answer for place in places)
        self.max_new_tokens = min(job.prompt_format.max_new_tokens, longest + longest // 4 + 8)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.run.rank:
            return
        for example, text in zip(self.examples, self._answers(), strict=False):
            said = self.job.prompt_format.parse(text, example).labels
            append_json_line(self.run.dir / SAMPLES_FILE, {
                "step": state.global_step, "prompt": example.prompt, "response": example.response, "text": text,
                "gold": example.labels.model_dump(exclude_none=True), "predicted": said.model_dump(exclude_none=True)})

    def _answers(self) -> list[str]:
        from core.lm.generate import generate
        from core.lm.sft_attention import plain_attention
        from core.lm.sft_rows import render_prompt

        form = self.job.prompt_format
        prompts = [render_prompt(example, form, self.loaded.tokenizer) for example in self.examples]
        model = self.loaded.model
        was_training = model.training
        model.eval()
        try:
            with plain_attention(model):
                made = list(generate(self.loaded, prompts, max_new_tokens=self.max_new_tokens, add_special_tokens=not form.chat,
                                     is_complete=form.is_complete, should_stop=self.run.should_stop))
        finally:
            model.train(was_training)
        return [one.text for one in made]
