"""Settings that every method which changes weights has: the same names, defaults and words wherever they stand."""

from __future__ import annotations

from typing import Literal

from core.methods import Config, setting


class WeightsConfig(Config):
    """How weights are changed, on what, and which rows must stay out."""

    lora_rank: int = setting(16, advanced=True, aliases=("lora_r",), ge=1, le=1024)
    """Rank of a new adapter: how much it can learn. One that the model brings along keeps its own."""
    lora_alpha: int = setting(16, advanced=True, ge=1, le=4096)
    """Scale of a new adapter; its weight is alpha / rank."""
    lora_target: str = setting("all-linear", advanced=True)
    """Modules that get a new adapter: all-linear, or names with commas (q_proj,v_proj)."""
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = setting("cosine", advanced=True)
    """How the learning rate falls over the run."""
    warmup_ratio: float = setting(0.0, advanced=True, ge=0, le=0.5)
    """Part of the steps over which the learning rate rises from 0."""
    weight_decay: float = setting(0.0, advanced=True, ge=0, le=1)
    """Pull of AdamW towards zero."""
    max_grad_norm: float = setting(1.0, advanced=True, ge=0)
    """Longer gradients are cut to this length. 0 = never."""
    activation_checkpointing: Literal["auto", "on", "off"] = setting("auto", advanced=True, aliases=("gradient_checkpointing",))
    """Recompute instead of remember: less memory, a third slower. auto: only where memory would not do."""
    save_total_limit: int = setting(2, advanced=True, ge=1)
    """Checkpoints to keep, the best one besides where there is one."""
    logging_steps: int = setting(1, advanced=True, ge=1)
    """Steps between two points of the curves."""
    dtype: Literal["auto", "float32", "bfloat16"] = setting("auto", advanced=True)
    """Number format of matrix products. auto: bfloat16 where the hardware has it. float16 is never used on a CPU."""
    device: str = setting("auto", advanced=True)
    """auto, cpu, cuda, cuda:<number> or mps."""
    report_to: Literal["none", "trackio", "wandb", "tensorboard"] = setting("none", advanced=True)
    """Also send the curves to one of these; each is an optional package."""
    exclude_test_rows: bool = setting(False)
    """Leave out rows whose prompt is in a registered test set. Else such rows stop the run."""
    allow_test_rows: bool = setting(False, advanced=True)
    """Use rows of registered test sets all the same. Every report after it says so."""


class EpochsConfig(WeightsConfig):
    """What trainings that go over their rows several times have besides."""

    lora_dropout: float = setting(0.0, advanced=True, ge=0, lt=1)
    """Part of a new adapter's input that is dropped at random."""
    packing: bool = setting(True, advanced=True)
    """Put rows of like length together and compute what they have in common once, where the device can. Faster; each row still sees
    only itself."""
    eval_steps: int = setting(0, advanced=True, ge=0)
    """Steps between two evaluations. 0 = four in a run, and at least one every 250 steps."""
    early_stopping_patience: int = setting(0, advanced=True, ge=0)
    """Stop after so many evaluations without improvement. 0 = never. The best checkpoint is kept either way."""
    save_steps: int = setting(0, advanced=True, ge=0)
    """Steps between two checkpoints. 0 = with each evaluation; the best one and one every 10 minutes are written besides."""
    processes: int = setting(1, advanced=True, ge=1, le=64)
    """Processes that share each step, one per GPU (torchrun). Rows of a step = batch_size x accumulation x processes."""
