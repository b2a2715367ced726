"""Guesses of time and memory before a training starts. Guesses: they come from a few measured rates, and say so."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.runs import Workspace

CPU_FLOPS = {"bfloat16": 85e9, "float32": 28e9}
"""Useful floating point operations per second and core while training, measured on an AMD EPYC with avx512_bf16 (two cores)."""
GPU_FLOPS = {"bfloat16": 80e12, "float32": 15e12}
"""A guess at what a current data-centre GPU does in this loop; not measured here."""
FIXED_SECONDS = 25.0
"""Starting the process, importing, loading a small model, saving."""
SPREAD = {"cpu": (0.7, 2.5), "cuda": (0.4, 4.0), "mps": (0.3, 3.0)}
"""How far off the guess may be: shared cores, other chips, other models."""
LONG_ENOUGH = 20.0
"""Seconds that a run must have trained for its speed to say something."""


@dataclass(frozen=True)
class Shape:
    """What of a model's config the guesses need."""

    parameters: int
    layers: int
    hidden: int
    inner: int
    vocabulary: int


def shape_of(config: Any) -> Shape:
    """From a transformers config, without weights."""
    import torch
    from transformers import AutoModelForCausalLM

    text = config.get_text_config()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return Shape(sum(weight.numel() for weight in model.parameters()), text.num_hidden_layers, text.hidden_size,
                 getattr(text, "intermediate_size", 4 * text.hidden_size), text.vocab_size)


def train_flops(shape: Shape, tokens: int, answer_tokens: int, *, full: bool) -> float:
    """Operations of one pass over these tokens: forward, backward, and for full training the weights' gradients."""
    head = shape.vocabulary * shape.hidden
    body = max(0, shape.parameters - head)
    times = 6 if full else 4
    return float(times * (body * tokens + head * answer_tokens))


def guess_seconds(flops: float, device: str, dtype: str, processes: int) -> tuple[float, float, float]:
    """(middle, low, high)."""
    kind = device.partition(":")[0]
    if kind == "cpu":
        rate = CPU_FLOPS["bfloat16" if dtype == "bfloat16" else "float32"] * (os.cpu_count() or 1)  # processes share the cores
    else:
        rate = GPU_FLOPS["bfloat16" if dtype == "bfloat16" else "float32"] * (processes if kind == "cuda" else 0.1)
    low, high = SPREAD[kind]
    work = flops / rate
    return FIXED_SECONDS + work, FIXED_SECONDS + low * work, 2 * FIXED_SECONDS + high * work


def activation_bytes(shape: Shape, tokens: int, dtype: str) -> int:
    """What the backward pass needs to remember of `tokens` tokens: residuals, projections with their adapters, the gated MLP."""
    wide = 2 if dtype == "bfloat16" else 4
    return tokens * shape.layers * (26 * shape.hidden + 8 * shape.inner) * wide


def peak_bytes(shape: Shape, *, tuning: str, dtype: str, tokens: int, trained: int, checkpointing: bool = False) -> int:
    """Weights, what is trained four times over (itself, gradient, two moments), activations of one pass, a tile of logits."""
    wide = 2 if dtype == "bfloat16" else 4
    if tuning == "full":
        weights = shape.parameters * 16
    else:
        weights = int(shape.parameters * (0.6 if tuning == "qlora" else wide)) + trained * 16
        if tuning == "qlora":
            weights += shape.vocabulary * shape.hidden * wide  # embeddings stay as they are
    kept = activation_bytes(shape, tokens, dtype) // (shape.layers if checkpointing else 1)
    libraries = 700 * 2**20
    return weights + kept + 512 * shape.vocabulary * 10 + libraries


def adapter_parameters(shape: Shape, rank: int) -> int:
    """Roughly: seven projections in each layer."""
    return shape.layers * rank * (8 * shape.hidden + 3 * (shape.hidden + shape.inner))


def available_bytes(device: str) -> int:
    """Free memory where the model will be."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    import psutil

    return int(psutil.virtual_memory().available)


def measured_speed(workspace: Workspace, method: str, counted: str, **like: Any) -> tuple[float, str] | None:
    """(what `counted` counts per second, run) of the newest run of the method whose report says the same as `like`."""
    for run in workspace.runs():
        report = (run.report if run.method == method else None) or {}
        if report.get("seconds", 0) > LONG_ENOUGH and all(report.get(name) == value for name, value in like.items()):
            return report[counted] / report["seconds"], run.id
    return None
