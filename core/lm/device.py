"""Which device and which number format a model gets."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from core.methods import UserError

Dtype = Literal["auto", "float32", "bfloat16"]


def pick_device(device: str) -> str:
    """auto = the first GPU, else Apple's, else the CPU. A device that is not there is an error."""
    import torch

    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    name, _, index = device.partition(":")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if name not in there or (index and not index.isdigit()):
        raise UserError(f"device = {device!r} is none of auto, cpu, cuda, cuda:<number>, mps.")
    if int(index or 0) >= there[name]:
        raise UserError(f"device = {device!r} is not on this machine ({there[name]} {name} devices); use auto or cpu.")
    return f"cuda:{index or 0}" if name == "cuda" else name


def pick_dtype(dtype: str, device: str) -> str:
    """auto = bfloat16 where the hardware has it. float16 only on older GPUs, never on a CPU (a hundred times slower there)."""
    import torch

    if dtype in ("float32", "bfloat16"):
        return dtype
    if dtype != "auto":
        raise UserError(f"dtype = {dtype!r} is none of auto, float32, bfloat16.")
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.get_device_capability(device)[0] >= 8 else "float16"
    return "bfloat16" if device == "cpu" and _cpu_has_bf16() else "float32"


def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:  # not Linux
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
