"""What an update changes, as it was before: an iteration whose update is stopped on the way has changed nothing.

Adapters and the two moments of their optimizers, copied to the CPU's memory: small beside the base.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from core.lm.waltz_update import Learner


class BeforeUpdate:
    """A copy of each learner's weights and optimizer, made as the update begins."""

    def __init__(self, learners: Iterable[Learner]) -> None:
        self._kept = [(learner, _copied(learner.weights), _copied(learner.optimizer.state_dict())) for learner in learners]

    def put_back(self) -> None:
        """Weights and optimizers as they were, bit for bit; what the agents remember of the others is dropped."""
        for learner, weights, state in self._kept:
            with torch.no_grad():
                for weight, before in zip(learner.weights, weights, strict=True):
                    weight.copy_(before)
            learner.optimizer.load_state_dict(state)
            learner.optimizer.zero_grad(set_to_none=True)
            learner.agents.forget()


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    return [_copied(one) for one in value] if isinstance(value, list) else value
