"""Settings that every method which asks models has: the same names, defaults and words wherever they stand."""

from __future__ import annotations

from typing import Literal

from core.methods import Config, setting


class AskingConfig(Config):
    """What generates, where, and in which precision."""

    engine: Literal["auto", "own", "vllm", "transformers", "server"] = setting("auto", advanced=True)
    """What generates. auto: a server for openai:<model>@<url>; on a GPU vLLM where it is installed, else transformers' continuous batching
    for models with sliding windows or recurrent layers; everywhere else our own engine. Pairs of agents always talk by our own."""
    device: str = setting("auto", advanced=True)
    """auto, cpu, cuda, cuda:<number> or mps."""
    dtype: Literal["auto", "float32", "bfloat16"] = setting("auto", advanced=True)
    """Precision of the weights. In float32 a re-run gives the same texts."""
    quantization: Literal["none", "nf4"] = setting("none", advanced=True)
    """nf4 = 4-bit weights."""
