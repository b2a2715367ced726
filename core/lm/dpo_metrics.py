"""What a preference training shows of its pairs: sums over pairs that add up over passes and processes, and means of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from core.lm.dpo import PairLosses

MOST_WEIGHTS = 5
"""Up to so many distinct weights have a curve each; more are put into three groups of about the same size."""


@dataclass(frozen=True)
class WeightBuckets:
    """Pairs grouped by weight: hard ones and easy ones should not be mistaken for one another in one mean."""

    names: list[str]
    edges: list[float]
    """Upper ends of all groups but the last."""

    @classmethod
    def of(cls, weights: Any) -> WeightBuckets:
        """Groups for these weights, [pairs]."""
        distinct = np.unique(np.asarray(weights))
        if len(distinct) <= MOST_WEIGHTS:
            return cls([f"{value:g}" for value in distinct], [float(sum(two) / 2) for two in pairwise(distinct.tolist())])
        low, high = (float(np.quantile(np.asarray(weights), part)) for part in (1 / 3, 2 / 3))
        return cls([f"<={low:g}", f"<={high:g}", f">{high:g}"], [low, high])

    def places(self, weights: Any) -> Any:
        """The group of each weight, a tensor [pairs]."""
        return torch.bucketize(weights, torch.tensor(self.edges, dtype=weights.dtype, device=weights.device))


SUMS = ("pairs", "loss", "dpo", "sft", "chosen_reward", "rejected_reward", "right", "chosen_log_ratio", "chosen_tokens")


class PairTotals:
    """Sums over pairs since the last look."""

    def __init__(self, buckets: WeightBuckets, device: Any) -> None:
        self.buckets = buckets
        self.device = device
        self.sums = self._zeros()

    def _zeros(self) -> Any:
        return torch.zeros(len(SUMS) + 2 * len(self.buckets.names), device=self.device)

    def add(self, losses: PairLosses, weights: Any, tokens: Any, beta: float) -> None:
        """Pairs of one pass. weights: as in the file, [pairs]; tokens: of the chosen answers, [pairs]."""
        each = losses.dpo.detach()
        a, b = losses.chosen_reward.detach(), losses.rejected_reward.detach()
        values = [torch.ones_like(each), losses.total.detach(), each, losses.sft.detach(), a, b, (a > b).to(each.dtype), a / beta,
                  tokens.to(each.dtype)]
        self.sums[:len(SUMS)] += torch.stack(values).sum(1)
        own = torch.nn.functional.one_hot(self.buckets.places(weights), len(self.buckets.names)).to(each.dtype)
        self.sums[len(SUMS):] += torch.cat([own.sum(0), (own * each.unsqueeze(1)).sum(0)])

    def take(self, accelerator: Any) -> dict[str, float]:
        """Means over the pairs of all processes, which all must ask; the sums begin again."""
        sums = accelerator.reduce(self.sums) if accelerator.num_processes > 1 else self.sums
        self.sums = self._zeros()
        return means(sums.tolist(), self.buckets)


def means(sums: list[float], buckets: WeightBuckets) -> dict[str, float]:
    """Named means of the sums; a group without a pair has none.

    kl_estimate is the mean over chosen tokens of log P_theta - log P_ref. The answers were drawn once, from the guard that was
    mined, so it is an estimate of KL(policy || reference) only while the policy is near that guard.
    """
    of = dict(zip(SUMS, sums, strict=False))
    pairs, names = max(1.0, of["pairs"]), buckets.names
    counts, losses = sums[len(SUMS):len(SUMS) + len(names)], sums[len(SUMS) + len(names):]
    found = {"dpo_loss": of["dpo"] / pairs, "sft_loss": of["sft"] / pairs, "reward_chosen": of["chosen_reward"] / pairs,
             "reward_rejected": of["rejected_reward"] / pairs, "reward_margin": (of["chosen_reward"] - of["rejected_reward"]) / pairs,
             "reward_accuracy": of["right"] / pairs, "kl_estimate": of["chosen_log_ratio"] / max(1.0, of["chosen_tokens"])}
    found |= {f"dpo_loss_weight_{name}": loss / count for name, count, loss in zip(names, counts, losses, strict=True) if count}
    return {**found, "pairs": of["pairs"]}


@dataclass(frozen=True)
class PairEvaluation:
    """Held-out pairs, with the error that comes from having only these."""

    loss: float
    error: float
    """Standard error over pairs."""
    means: dict[str, float]

    @property
    def margin(self) -> float:
        """Half of the 95 % interval."""
        return 1.96 * self.error

    @property
    def pairs(self) -> int:
        """How many there were."""
        return int(self.means["pairs"])


def mean_and_error(values: Iterable[float]) -> tuple[float, float]:
    """(mean, standard error of it); the error of one value is not known."""
    found = list(values)
    mean = sum(found) / max(1, len(found))
    if len(found) < 2:
        return mean, math.nan
    return mean, math.sqrt(sum((value - mean) ** 2 for value in found) / (len(found) - 1) / len(found))
