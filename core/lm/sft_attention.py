"""Attention over rows that lie end to end in one sequence, for CPUs.

A packed micro-batch is [shared beginning | rest of row 1 | rest of row 2 | ...]. Every row sees the shared beginning and itself,
nothing else, so the result is that of separate rows; the instruction that all rows begin with is computed once. What is usual
instead (one block-diagonal mask over the whole pack) costs the square of the pack's length.

More generally the pieces are a tree: a piece sees the pieces above it, and itself. Two answers to one prompt are two leaves under
the prompt (core/lm/dpo_batch.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "guardwaltz_rows"
SHORT = 768
"""Up to this length two matrix products beat the CPU's flash kernel in bfloat16 (2 to 8 times); above, they cost too much memory."""
KNOWN = ("llama", "qwen2", "qwen3", "smollm3")
"""Model types whose attention is plain causal attention called through the interface with all keyword arguments passed on."""


def can_pack(config: Any, device: str) -> bool:
    """Can rows of this model be laid end to end here, each seeing only itself?"""
    plain = all(kind == "full_attention" for kind in getattr(config, "layer_types", None) or [])
    dropout = getattr(config, "attention_dropout", 0.0) or 0.0
    return device == "cpu" and config.model_type in KNOWN and plain and not dropout


def rows_attention(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, *, rows: list[int] | None = None, shared: int = 0,
                   above: list[list[int]] | None = None, scaling: float | None = None, **kwargs: Any) -> tuple[Any, None]:
    """Attention of a packed micro-batch: `shared` tokens, then rows of these lengths. Without `rows`: the usual sdpa.

    above: for each row the earlier rows that it sees whole, the first one first; then `shared` is 0. Without it every row sees
    the shared beginning. query, key, value: [1, heads, tokens, size]; no row may be empty.
    """
    if rows is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if torch.is_autocast_enabled(query.device.type):  # rotary embeddings in float32 have widened them
        query, key, value = (states.to(torch.get_autocast_dtype(query.device.type)) for states in (query, key, value))
    scale = scaling or 1 / math.sqrt(query.shape[-1])
    lengths = [shared, *rows] if shared else rows
    if above is None:
        above = [[], *([0] for _ in rows)] if shared else [[] for _ in rows]
    queries, keys, values = (states.split(lengths, dim=2) for states in (query, key, value))
    parts = []
    for place, before in enumerate(above):
        if not before:
            parts.append(_one(queries[place], keys[place], values[place], 0, scale))
            continue
        chain = [*before, place]
        seen_keys, seen_values = (torch.cat([states[one] for one in chain], 2) for states in (keys, values))
        parts.append(_after([queries[one] for one in before], queries[place], seen_keys, seen_values, scale))
    return torch.cat(parts, 2).transpose(1, 2), None


def _after(begin: list[Any], query: Any, key: Any, value: Any, scale: float) -> Any:
    before = key.shape[2] - query.shape[2]
    if _short(query, key):
        return _one(query, key, value, before, scale)
    # The flash kernel knows no offset: ask for the beginning too and drop its part.
    return _flash(torch.cat([*begin, query], 2), key, value, scale)[:, :, before:]


def _one(query: Any, key: Any, value: Any, before: int, scale: float) -> Any:
    return _products(query, key, value, before, scale) if _short(query, key) else _flash(query, key, value, scale)


def _short(query: Any, key: Any) -> bool:
    return key.shape[2] <= SHORT and query.dtype == torch.bfloat16


def _flash(query: Any, key: Any, value: Any, scale: float) -> Any:
    grouped = query.shape[1] != key.shape[1]
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=grouped)


def _products(query: Any, key: Any, value: Any, before: int, scale: float) -> Any:
    """softmax(q k^T) v of one row whose queries stand `before` places after its first key."""
    heads, length, size = query.shape[1:]
    groups, keys = key.shape[1], key.shape[2]
    future = _future(length, keys, before, heads // groups, query.dtype)
    scores = torch.baddbmm(future, query.reshape(groups, -1, size), key[0].transpose(1, 2), alpha=scale)
    return torch.bmm(torch.softmax(scores, -1), value[0]).view(1, heads, length, size)


@lru_cache(maxsize=32)  # every layer asks for the same few
def _future(length: int, keys: int, before: int, heads: int, dtype: Any) -> Any:
    return torch.full((length, keys), -math.inf, dtype=dtype).triu(1 + before).repeat(heads, 1)


def use_rows_attention(model: Any) -> None:
    """Switch a model to `rows_attention`; calls without `rows` behave as before."""
    AttentionInterface.register(NAME, rows_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


@contextmanager
def plain_attention(model: Any) -> Iterator[None]:
    """The usual sdpa for a while: for generating, which has masks and a cache."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    if model.config._attn_implementation != NAME:
        yield
        return
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(NAME)
