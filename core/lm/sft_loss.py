"""The answer's loss, computed only where there is an answer.

A causal language model is asked for the logits of every position and TRL's fused head does so on a CPU. Under a guard's prompt
more than half of them are never looked at, and a vocabulary of 49,152 is a quarter of the work in a model of 135 M. Here only
the positions before an answer token go through the head, a tile at a time, and since the loss is a plain sum over tokens its
gradient is made in the same pass: nothing is kept for the backward pass and nothing is computed twice.

A loss that is no plain sum (DPO weighs whole answers by how likely they are) takes `TokenLoss`, which gives each token its own
gradient; only the head's own weights then need a second look.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers.utils import ModelOutput

TILE = 512
"""Rows of logits held at once on an accelerator: 512 x 49,152 in float32 are 100 MB."""
CPU_TILE = 24 * 2**20
"""Bytes of logits held at once on a CPU. The C library gives blocks over 32 MiB back to the system, and fetching their pages anew for every
tile costs as much as the sums on them."""
PLAIN_HEAD = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
"""Settings of models whose logits are not just hidden @ weight; for those TRL's own head, which knows them, is used."""


@dataclass
class AnswerOutput(ModelOutput):
    """What a model with an answer head returns: sums over the answer tokens of a micro-batch."""

    nll: torch.Tensor | None = None
    """Sum of the negative log-likelihood."""
    right: torch.Tensor | None = None
    """How many tokens were the most likely one."""
    count: torch.Tensor | None = None
    """How many answer tokens there were."""
    each: torch.Tensor | None = None
    """Negative log-likelihood of each answer token, in order; with gradients only for answer_head="each"."""


class AnswerLoss(torch.autograd.Function):
    """Sum of -log p(target) over rows of `hidden`; the gradient is made in the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any, bias: Any, targets: Any) -> tuple[Any, Any]:
        dtype = compute_dtype(hidden)
        head = weight.to(dtype)
        nll = torch.zeros((), dtype=torch.float32, device=hidden.device)
        right = torch.zeros((), dtype=torch.long, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and ctx.needs_input_grad[2] else None
        for part in tiles(len(hidden), head):
            states, wanted = hidden[part].to(dtype), targets[part]
            each, top, chances = _tile(states, head, bias, wanted)
            nll += each.sum()
            right += top.sum()
            slope = _slope(chances, wanted)
            narrow = slope.to(dtype)
            if grad_hidden is not None:
                grad_hidden[part] = narrow @ head
            if grad_weight is not None:
                grad_weight += (narrow.T @ states).float()
            if grad_bias is not None:
                grad_bias += slope.sum(0)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.mark_non_differentiable(right)
        return nll, right

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> tuple[Any, ...]:
        scale = upstream[0]
        grads = (None if kept is None else kept * scale.to(kept.dtype) for kept in ctx.saved_tensors)
        return (*grads, None)


class TokenLoss(torch.autograd.Function):
    """-log p(target) of each row of `hidden`, [rows] in float32, to be weighed by what comes after.

    The gradient for `hidden` is made in the forward pass, as in `AnswerLoss`, and scaled row by row in the backward pass. That of
    the head's weights is a sum over rows of scaled terms, so it can only be made once the scales are known: the logits are
    computed again. Only full fine-tuning pays for that.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any, bias: Any, targets: Any) -> tuple[Any, Any]:
        dtype = compute_dtype(hidden)
        head = weight.to(dtype)
        each = hidden.new_empty(len(hidden), dtype=torch.float32)
        right = torch.empty(len(hidden), dtype=torch.bool, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for part in tiles(len(hidden), head):
            each[part], right[part], chances = _tile(hidden[part].to(dtype), head, bias, targets[part])
            if grad_hidden is not None:
                grad_hidden[part] = _slope(chances, targets[part]).to(dtype) @ head
        again = ctx.needs_input_grad[1] or (bias is not None and ctx.needs_input_grad[2])
        ctx.dtype = dtype  # autocast is over when the backward pass runs
        ctx.save_for_backward(grad_hidden, *((hidden, weight, bias, targets) if again else (None,) * 4))
        ctx.mark_non_differentiable(right)
        return each, right

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> tuple[Any, ...]:
        scale = upstream[0].unsqueeze(-1)
        grad_hidden, hidden, weight, bias, targets = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden = grad_hidden * scale.to(grad_hidden.dtype)
        if hidden is None:
            return grad_hidden, None, None, None
        head = weight.to(ctx.dtype)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        for part in tiles(len(hidden), head):
            states = hidden[part].to(ctx.dtype)
            slope = _slope(_tile(states, head, bias, targets[part])[2], targets[part]).mul_(scale[part])
            grad_weight += (slope.to(ctx.dtype).T @ states).float()
            if grad_bias is not None:
                grad_bias += slope.sum(0)
        return grad_hidden, grad_weight, grad_bias, None


def answer_nll(hidden: Any, weight: Any, bias: Any, targets: Any) -> tuple[Any, Any]:
    """(-log p(target), is it the most likely token) of each row of `hidden`, without gradients."""
    dtype = compute_dtype(hidden)
    head = weight.to(dtype)
    parts = [_tile(hidden[part].to(dtype), head, bias, targets[part])[:2] for part in tiles(len(hidden), head)]
    if not parts:
        return hidden.new_zeros(0, dtype=torch.float32), hidden.new_zeros(0, dtype=torch.bool)
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def tiles(rows: int, head: Any) -> Iterator[slice]:
    """Rows whose logits are held at once. head: vocabulary x hidden."""
    step = max(16, CPU_TILE // (4 * len(head))) if head.device.type == "cpu" else TILE
    return (slice(start, start + step) for start in range(0, rows, step))


def tile_logits(states: Any, head: Any, bias: Any) -> Any:
    """rows x vocabulary in float32, the caller's own."""
    logits = states @ head.T
    if bias is not None:
        logits = logits + bias.to(logits.dtype)
    return logits.float()


def _tile(states: Any, head: Any, bias: Any, wanted: Any) -> tuple[Any, Any, Any]:
    """(-log p(wanted), is it the most likely one, the softmax) of some rows; one buffer of logits serves for all."""
    logits = tile_logits(states, head, bias)
    best = logits.amax(-1, keepdim=True)
    target = logits.gather(-1, wanted.unsqueeze(-1))
    chances = logits.sub_(best).exp_()
    total = chances.sum(-1, keepdim=True)
    nll = total.log() + best - target
    return nll.squeeze(-1), (target >= best).squeeze(-1), chances.div_(total)


def _slope(chances: Any, wanted: Any) -> Any:
    """d(nll) / d(logits), in place: the softmax, minus one at the target."""
    chances[torch.arange(len(wanted), device=wanted.device), wanted] -= 1
    return chances


def compute_dtype(hidden: Any) -> Any:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def add_answer_head(model: Any) -> None:
    """Teach a causal language model `model(..., labels=labels, answer_head=True) -> AnswerOutput`.

    Call it on the base model, under PEFT and DDP wrappers, after TRL has added its fused head. Without `answer_head` the
    forward is the one it was. `labels` is laid out like the input; -100 is not learned. answer_head="each" gives every token's
    loss with its own gradient, for losses that are no plain sum.
    """
    before = model.forward
    config = model.config.get_text_config()
    plain = not any(getattr(config, name, None) for name in PLAIN_HEAD)

    @functools.wraps(type(model).forward)  # generate() checks its arguments against this signature
    def forward(self: Any, *args: Any, answer_head: bool | Literal["each"] = False, labels: Any = None, **kwargs: Any) -> Any:
        if not answer_head:
            return before(*args, **kwargs) if labels is None else before(*args, labels=labels, **kwargs)
        if not plain:
            out = before(*args, labels=labels, fused_lm_head=True, **kwargs)
            return _with_trl_head(out, labels, each=answer_head == "each" or not torch.is_grad_enabled())
        states = self.base_model(*args, use_cache=False, **kwargs).last_hidden_state[:, :-1]
        wanted = labels[:, 1:]
        learned = wanted != -100
        head = self.get_output_embeddings()
        states, wanted = states[learned], wanted[learned]
        count = learned.sum()
        if not torch.is_grad_enabled():
            each, right = answer_nll(states, head.weight, head.bias, wanted)
            return AnswerOutput(nll=each.sum(), right=right.sum(), count=count, each=each)
        if answer_head == "each":
            each, right = TokenLoss.apply(states, head.weight, head.bias, wanted)
            return AnswerOutput(nll=each.sum(), right=right.sum(), count=count, each=each)
        nll, right = AnswerLoss.apply(states, head.weight, head.bias, wanted)
        return AnswerOutput(nll=nll, right=right, count=count)

    model.forward = types.MethodType(forward, model)


def _with_trl_head(out: Any, labels: Any, *, each: bool) -> AnswerOutput:
    learned = labels[:, 1:] != -100
    return AnswerOutput(nll=-out.log_probs.sum(), right=out.is_top1[learned].sum(), count=learned.sum(),
                        each=-out.log_probs[learned] if each else None)
