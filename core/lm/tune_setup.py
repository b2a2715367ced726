"""Getting ready to train: device, number format, adapter, and the arguments of TRL's trainers."""

from __future__ import annotations

import importlib.util
import math
import os
import warnings
from typing import TYPE_CHECKING, Any

from core.lm.device import pick_device, pick_dtype
from core.lm.four_bit import keep_differentiable
from core.lm.load import Loaded
from core.lm.tune import TuneJob, ranks
from core.methods import UserError

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.lm.sft_plan import Plan

EVALUATIONS = 4
"""Evaluations in a run when eval_steps is 0."""
MOST_STEPS_BETWEEN = 250
"""Longest way between two evaluations, or between two checkpoints, when their settings are 0."""

_set_here: dict[str, str] = {}
"""Environment variables as the last training in this process set them."""


def hush() -> None:
    """Nothing is sent to library makers, and run logs stay readable. Set before the libraries are imported."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from transformers.utils import logging

    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    warnings.filterwarnings("ignore", category=FutureWarning, module="trl")


def claim_device(device: str) -> str:
    """The device of this process. The Trainer would spread over every GPU it sees, so it is shown one."""
    import torch

    if ranks() > 1:
        return f"cuda:{os.environ['LOCAL_RANK']}" if device != "cpu" and torch.cuda.is_available() else "cpu"
    if device == "auto" or device.startswith("cuda"):
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        known = seen.split(",") if seen is not None else [str(index) for index in range(64)]
        index = int(device.partition(":")[2] or 0)
        if index < len(known):
            os.environ["CUDA_VISIBLE_DEVICES"] = known[index]
        device = "cuda:0" if device.startswith("cuda") else device
    return pick_device(device)


def compute_dtype(job: TuneJob, device: str) -> str:
    """The number format of matrix products. float16 would need loss scaling, so GPUs without bfloat16 train in float32."""
    kind = pick_dtype(job.dtype, device)
    return "float32" if kind == "float16" else kind


def load_dtype(job: TuneJob, device: str) -> Any:
    """The number format weights are loaded in. Weights that are trained themselves are kept in float32."""
    return "float32" if job.tuning == "full" else compute_dtype(job, device)


def trainable(job: TuneJob, loaded: Loaded, run: ActiveRun) -> Any:
    """The model with what will be trained switched on: a new adapter, the one it came with, or all weights."""
    model = loaded.model
    if job.tuning == "qlora":
        keep_differentiable(model)
    if job.tuning == "full":
        if loaded.adapter:
            run.notice(f"{loaded.ref} is an adapter: it is merged into its base {loaded.base}, and the whole model is trained.")
            model = model.merge_and_unload()
            loaded._weights.model, loaded._weights.peft = model, None
        return model.requires_grad_(True)
    if loaded.adapter:
        config = model.peft_config[model.active_adapters[0]]
        run.notice(f"Goes on with the adapter of {loaded.ref} (rank {config.r}, alpha {config.lora_alpha}); lora_* settings are its own.")
        return model
    from peft import get_peft_model

    try:
        loaded._weights.peft = get_peft_model(model, _lora(job))
    except ValueError as error:
        raise UserError(f"lora_target = {job.lora_target!r} does not fit {loaded.ref} ({str(error).splitlines()[0][:160]}); "
                        "use all-linear, or module names with commas.") from error
    return loaded._weights.peft


def _lora(job: TuneJob) -> Any:
    from peft import LoraConfig

    target: str | list[str] = job.lora_target.strip()
    if target != "all-linear":
        target = [name.strip() for name in job.lora_target.split(",") if name.strip()]
        if any(name.rpartition(".")[2] == "lm_head" for name in target):
            raise UserError("lora_target names lm_head, which cannot carry an adapter here; leave it out.")
    return LoraConfig(r=job.lora_rank, lora_alpha=job.lora_alpha, lora_dropout=job.lora_dropout, target_modules=target, bias="none",
                      task_type="CAUSAL_LM")


def arguments(job: TuneJob, run: ActiveRun, plan: Plan, config: Any, evaluates: bool, device: str, largest: int) -> dict[str, Any]:
    """Settings that every trainer of TRL's takes. largest: tokens of the largest pass."""
    between = max(1, min(math.ceil(plan.steps / EVALUATIONS), MOST_STEPS_BETWEEN))
    eval_steps = min(job.eval_steps or between, plan.steps)
    save_steps = min(job.save_steps or between, plan.steps)
    if evaluates:  # the best checkpoint can only be one that exists
        save_steps = eval_steps * max(1, round(save_steps / eval_steps))
    checkpointing = _needs_checkpointing(job, config, device, largest)
    _unless_set("TENSORBOARD_LOGGING_DIR", str(run.dir / "tensorboard"))
    _unless_set("WANDB_DIR", str(run.dir))
    return {
        "output_dir": str(run.dir), "max_steps": plan.steps, "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": plan.passes_per_step, "learning_rate": job.learning_rate,
        "lr_scheduler_type": job.lr_scheduler_type, "warmup_steps": math.ceil(job.warmup_ratio * plan.steps),
        "weight_decay": job.weight_decay, "max_grad_norm": job.max_grad_norm,
        "bf16": compute_dtype(job, device) == "bfloat16", "use_cpu": device == "cpu",
        "ddp_backend": "gloo" if device == "cpu" and ranks() > 1 else None, "ddp_find_unused_parameters": False,
        "activation_checkpointing": checkpointing, "gradient_checkpointing": checkpointing,
        "logging_steps": job.logging_steps, "logging_nan_inf_filter": False,  # a loss that is no number must not be averaged away
        "eval_strategy": "steps" if evaluates else "no", "eval_steps": eval_steps, "save_strategy": "steps", "save_steps": save_steps,
        "save_total_limit": job.save_total_limit, "load_best_model_at_end": evaluates,
        "metric_for_best_model": "eval_loss" if evaluates else None, "greater_is_better": False if evaluates else None,
        "report_to": [] if job.report_to == "none" else [job.report_to], "run_name": run.id, "project": "guardwaltz",
        "disable_tqdm": True, "seed": job.seed, "remove_unused_columns": False, "dataloader_pin_memory": device.startswith("cuda")}


def _unless_set(name: str, value: str) -> None:
    """Set an environment variable that the person left alone; what the training before set in this process is replaced."""
    if os.environ.get(name) in (None, _set_here.get(name)):
        os.environ[name] = _set_here[name] = value


def _needs_checkpointing(job: TuneJob, config: Any, device: str, largest: int) -> bool:
    """Recomputing activations saves memory and costs a third of the speed: only where memory would not do."""
    from core.lm.sft_cost import activation_bytes, available_bytes, shape_of

    if job.activation_checkpointing != "auto":
        return job.activation_checkpointing == "on"
    kept = activation_bytes(shape_of(config), largest, compute_dtype(job, device))
    return kept > 0.8 * available_bytes(device)


def missing_teller(report_to: str) -> str | None:
    """A sentence when the package behind `report_to` is not installed."""
    if report_to == "none" or importlib.util.find_spec(report_to):
        return None
    return f"report_to = {report_to} needs a package that is not installed; run `pip install {report_to}`, or set report_to=none."
