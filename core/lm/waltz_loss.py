"""The objective of WaltzRL for one agent, on tensors alone: REINFORCE++ with a clipped ratio (arXiv 2510.08240, as summarised in docs).

    r_t = -kl_coef * (log pi_old(y_t) - log pi_ref(y_t))       at every token; k1, the one-sample estimate of the KL divergence
          + R                                                  at the last token of a text: what the agent earned with it
    G_t = sum of r_u over u >= t in the same text              return-to-go, without discount
    A_t = (G_t - mean G) / std G                               over all response tokens of the agent's batch; no critic
    L   = mean over response tokens of -min(rho_t A_t, clip(rho_t, 1 - clip, 1 + clip) A_t),   rho_t = pi(y_t) / pi_old(y_t)

All tensors are flat: the response tokens of all texts of a batch, text after text; `lengths` says where each one ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

EVEN = 1e-6
"""Returns whose standard deviation is less teach nothing: every advantage is 0."""


class Advantages(NamedTuple):
    """Of a batch; `values` [tokens]."""

    values: Tensor
    mean: float
    """Of the returns."""
    std: float
    """Of the returns, with divisor n."""

    @property
    def teach(self) -> bool:
        """Is there anything to learn? False = all advantages are 0."""
        return not self.std < EVEN  # what is no number is not taken for zero


def token_rewards(old: Tensor, reference: Tensor, rewards: Sequence[float], lengths: Sequence[int], kl_coef: float) -> Tensor:
    """r_t [tokens] in float32. old, reference: log-probabilities [tokens]; rewards: R of each text; no text may be empty."""
    found = -kl_coef * (old.float() - reference.float())
    ends = torch.tensor(lengths, device=found.device).cumsum(0) - 1
    found[ends] += torch.tensor(rewards, dtype=found.dtype, device=found.device)
    return found


def returns_to_go(rewards: Tensor, lengths: Sequence[int]) -> Tensor:
    """G_t [tokens] of token rewards [tokens]."""
    return torch.cat([part.flip(0).cumsum(0).flip(0) for part in rewards.split(list(lengths))])


def normalised(returns: Tensor) -> Advantages:
    """A_t. A standard deviation under 1e-6 gives zero advantages, never a large one."""
    mean, std = returns.mean(), returns.std(correction=0)
    even = float(std) < EVEN
    return Advantages(torch.zeros_like(returns) if even else (returns - mean) / std, float(mean), float(std))


class Surrogate(NamedTuple):
    """Of some tokens; both [tokens]."""

    losses: Tensor
    """-min(rho A, clip(rho) A), with the gradient of `now`."""
    clipped: Tensor
    """Where clipping stops the gradient: the ratio has gone further than clip in the direction that the advantage asks for."""


def clipped_surrogate(now: Tensor, old: Tensor, advantages: Tensor, clip: float) -> Surrogate:
    """PPO's loss of each token. now: log pi, with gradients; old: log pi_old; clip: 0.2 in the paper."""
    ratio = torch.exp(now - old)
    plain = ratio * advantages
    held = ratio.clamp(1 - clip, 1 + clip) * advantages
    return Surrogate(-torch.minimum(plain, held), (held < plain).detach())
