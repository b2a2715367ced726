"""Log-probabilities of response tokens under the training forward: with gradients for the update, and with entropies for the record."""

from __future__ import annotations

from typing import Any

import torch

from core.lm.sft_loss import PLAIN_HEAD, add_answer_head, compute_dtype, tile_logits, tiles
from core.lm.sft_trainer import base_of

MARK = "_guardwaltz_waltz_head"


def prepare_head(model: Any) -> None:
    """Teach the base under `model` what the two functions below need. Doing it twice does no harm."""
    base = base_of(model)
    if getattr(base, MARK, False):
        return
    if not _is_plain(base):
        from trl.trainer.utils import add_fused_lm_head

        add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1"))
    add_answer_head(base)
    setattr(base, MARK, True)


def log_probabilities(model: Any, inputs: dict[str, Any]) -> Any:
    """log p of each token that has a label, [tokens] in float32, row by row. With gradients."""
    return -model(**inputs, answer_head="each").each


def measured(model: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
    """(log p of each token that has a label, entropy of what might have stood there, in nats); both [tokens], without gradients."""
    base = base_of(model)
    with torch.no_grad():
        if not _is_plain(base):
            learned = inputs["labels"][:, 1:] != -100
            out = base(**inputs, fused_lm_head=True)
            return out.log_probs[learned].float(), out.entropy[learned].float()
        inputs = dict(inputs)
        labels = inputs.pop("labels")[:, 1:]
        learned = labels != -100
        states = base.base_model(**inputs, use_cache=False).last_hidden_state[:, :-1][learned]
        return _from_states(states, base.get_output_embeddings(), labels[learned])


def _from_states(states: Any, head: Any, wanted: Any) -> tuple[Any, Any]:
    """A tile of logits at a time. states [tokens, hidden], wanted [tokens]."""
    dtype = compute_dtype(states)
    weight = head.weight.to(dtype)
    chances, entropies = states.new_empty(len(states), dtype=torch.float32), states.new_empty(len(states), dtype=torch.float32)
    for part in tiles(len(states), weight):
        logits = tile_logits(states[part].to(dtype), weight, head.bias)
        logits.sub_(logits.amax(-1, keepdim=True))
        target = logits.gather(-1, wanted[part].unsqueeze(-1)).squeeze(-1)
        shares = logits.exp()
        total = shares.sum(-1)
        chances[part] = target - total.log()
        entropies[part] = total.log() - shares.mul_(logits).sum(-1) / total
    return chances, entropies


def _is_plain(base: Any) -> bool:
    """Are its logits just hidden @ weight?"""
    config = base.config.get_text_config()
    return not any(getattr(config, name, None) for name in PLAIN_HEAD)
