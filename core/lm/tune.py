"""What every training that changes weights has in common: the job, the way into it and out of it, and what it leaves.

tune_setup.py prepares device, adapter and the arguments of TRL's trainers. sft.py, dpo.py and grpo.py are the trainings.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core.files import read_json, write_json, write_text
from core.lm.device import Dtype
from core.lm.load import Loaded, load_model
from core.lm.save import save_trained
from core.lm.sft_rows import OnLong, TrainRows
from core.methods import UserError
from core.words import plural

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.runs import Run

Tuning = Literal["lora", "qlora", "full"]
PLAN_FILE = "plan.json"


@dataclass(frozen=True, kw_only=True)
class TuneJob:
    """What any training that changes weights needs to know: the model, how it is changed, how often it is looked at."""

    model: str
    tuning: Tuning = "lora"
    epochs: float = 3.0
    learning_rate: float = 5e-5
    batch_size: int = 4
    gradient_accumulation_steps: int = 8
    max_length: int = 2048
    on_long_rows: OnLong = "drop"
    lora_rank: int = 16
    lora_alpha: int = 16
    lora_dropout: float = 0.0
    lora_target: str = "all-linear"
    lr_scheduler_type: str = "cosine"
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    packing: bool = True
    activation_checkpointing: Literal["auto", "on", "off"] = "auto"
    eval_steps: int = 0
    early_stopping_patience: int = 0
    save_steps: int = 0
    save_total_limit: int = 2
    logging_steps: int = 1
    dtype: Dtype = "auto"
    device: str = "auto"
    report_to: str = "none"
    seed: int = 42

    def rows_per_step(self, ranks: int = 1) -> int:
        """The effective batch."""
        return self.batch_size * self.gradient_accumulation_steps * ranks


@dataclass(kw_only=True)
class Tuned:
    """What a training made, for reports and cards; `save` writes it down."""

    job: TuneJob
    loaded: Loaded
    model: Any
    prompt_format: str | None
    """Name of the one that the model answers in; it is stored with the weights."""
    steps: int
    """Optimizer steps done; fewer than planned after an early stop."""
    seconds: float
    """Time in optimizer steps, roll-outs included, over all sittings."""
    peak_memory_bytes: int
    dtype: str
    """Number format of the matrix products."""

    @property
    def trained_parameters(self) -> int:
        """How many numbers were trained."""
        return sum(weight.numel() for weight in self.model.parameters() if weight.requires_grad)

    def save(self, run: ActiveRun, card: str) -> None:
        """adapter/ (or model/) with tokenizer, template, prompt format and card. Only rank 0 writes."""
        if run.rank:
            return

        def write(folder: Path) -> None:
            save_trained(self.model, self.loaded.tokenizer, folder, base=self.loaded.base, prompt_format=self.prompt_format)
            write_text(folder / "README.md", card)

        run.save_model(write, "model" if self.job.tuning == "full" else "adapter")
        run.save_text("README.md", card)


def ready_to_train(job: TuneJob, run: ActiveRun) -> tuple[Loaded, Any, str]:
    """(what was loaded, the model with what will be trained switched on, device). Seeds every random choice."""
    from transformers import set_seed

    from core.lm import tune_setup as setup

    setup.hush()
    device = setup.claim_device(job.device)
    set_seed(job.seed)
    run.progress(0, None, "steps", detail="loading the model")
    loaded = load_model(job.model, run.workspace.runs_dir, device=device, dtype=setup.load_dtype(job, device), trainable=True,
                        quantization="nf4" if job.tuning == "qlora" else None, progress=run.progress)
    return loaded, setup.trainable(job, loaded, run), device


def carry_out(trainer: Any, checkpoint: Path | None) -> None:
    """Train, from the checkpoint where there is one. Raises StopRequested once a checkpoint is written."""
    from core.active import StopRequested
    from core.lm.sft_callbacks import StoppedInEvaluation

    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except StoppedInEvaluation:
        trainer._save_checkpoint(trainer.model, None)
        raise StopRequested from None
    if trainer.follow.stopping:
        raise StopRequested


def longest_allowed(job: TuneJob, loaded: Loaded, run: ActiveRun) -> int:
    """max_length, or the model's context where that is shorter."""
    context = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None) or job.max_length
    limit = min(job.max_length, context)
    if limit < job.max_length:
        run.notice(f"max_length is {limit:,} tokens, the model's context, not {job.max_length:,}.")
    return limit


def tell_rows(run: ActiveRun, rows: TrainRows, held_out: TrainRows, limit: int, refusal: str) -> None:
    """Log what is trained on and warn of what was lost.

    Raises: UserError with `refusal` and the reason when no row is left.
    """
    for made, what in ((rows, "training"), (held_out, "held-out")):
        for text in lost_rows(made, limit):
            run.notice(f"{what} rows: {text}", "warning")
    if not rows.rows:
        raise UserError(f"{refusal}: {next(iter(rows.refused), f'all are longer than max_length = {limit} tokens')}.")
    run.log(f"{plural(len(rows.rows), 'row')}, {rows.tokens:,} tokens, {rows.answer_tokens:,} of them answer; "
            f"{plural(len(held_out.rows), 'row')} held out")


def lost_rows(made: Any, limit: int) -> list[str]:
    """Sentences about rows (TrainRows, or pairs) that are not used whole; none is left out without one."""
    found = [f"{count:,} of {made.seen:,} are left out: {reason}." for reason, count in made.refused.most_common()]
    share = f"{made.too_long:,} of {made.seen:,} rows ({made.too_long / max(1, made.seen):.1%})"
    if made.too_long:
        what = [f"{made.dropped:,} left out"] * bool(made.dropped) + [f"{made.cut:,} cut"] * bool(made.cut)
        found.append(f"{share} are longer than {limit:,} tokens ({', '.join(what)}). The longest needs {made.longest:,}.")
    return found


def checkpoint_of(run: ActiveRun, digest: dict[str, Any]) -> Path | None:
    """The newest checkpoint that can be gone on from, after a look at whether it belongs to these rows."""
    found = next((folder for folder in reversed(run.checkpoints()) if _whole(folder)), None)
    if found is None:
        if run.rank == 0:
            write_json(run.dir / PLAN_FILE, digest)
        return None
    before = read_json(run.dir / PLAN_FILE, digest)
    if before != digest:
        raise UserError(f"The training data has changed since {run.id} began ({before['rows']:,} rows in {before['steps']:,} steps then, "
                        f"{digest['rows']:,} in {digest['steps']:,} now); start a new run, or put the data back and resume.")
    run.notice(f"Goes on from {found.name} of {digest['steps']:,} steps.")
    return found


def _whole(folder: Path) -> bool:
    """A process killed while it wrote may leave a folder that looks finished."""
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    weights = [*folder.glob("adapter_model.safetensors"), *folder.glob("model*.safetensors")]
    return bool(weights) and all((folder / name).is_file() for name in ("optimizer.pt", "scheduler.pt"))


def logged_steps(run: Run) -> list[dict[str, Any]]:
    """The training metrics of a run, in order; of a step done twice (killed after its checkpoint) the later one."""
    found = {event["step"]: event for event in run.events("metrics") if "loss" in event}
    return [found[step] for step in sorted(found)]


def ranks() -> int:
    """How many processes work on this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))
