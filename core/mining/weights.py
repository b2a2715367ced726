"""alpha, the weight of a preference pair: GuardReasoner eq. 3, alpha = 1 + Norm(k_incorrect - k_correct, gamma).

The paper does not say how Norm maps into [-gamma, gamma]. Its released code does: min-max over the hard samples of one data set
and one model, before anything is merged. That is `min-max`. `seed-code` is what the seeds' code does instead: 1 + gamma (d + k) / 2k,
which lies between 1 and 1 + gamma.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Norm = Literal["min-max", "seed-code"]
"""How the gap between wrong and right answers becomes a weight."""


def gap(k_correct: int, k_incorrect: int) -> int:
    """w = k_incorrect - k_correct over the readable answers; the more wrong ones, the larger."""
    return k_incorrect - k_correct


@dataclass(frozen=True)
class GapRange:
    """The smallest and the largest gap among the hard samples of one data set and one model; min-max stretches between them."""

    low: int
    high: int

    def with_gap(self, found: int) -> GapRange:
        """The range that holds `found` too."""
        return GapRange(min(self.low, found), max(self.high, found))


def alpha(k_correct: int, k_incorrect: int, gamma: float, norm: Norm = "min-max", within: GapRange | None = None) -> float:
    """The weight of a pair from a row with these counts of readable answers.

    min-max: 1 + gamma (2 (w - low) / (high - low) - 1), in [1 - gamma, 1 + gamma]; 1 where all gaps are equal (the released code
    divides by zero there). It needs `within`, which holds w. seed-code: 1 + gamma (w + k) / 2k, k being the readable answers.
    Raises ValueError for gamma outside [0, 1), for no readable answer and for a gap outside its range.
    """
    if not 0 <= gamma < 1:
        raise ValueError(f"gamma must lie in [0, 1), else a weight could be 0 or below; got {gamma}.")
    readable, found = k_correct + k_incorrect, gap(k_correct, k_incorrect)
    if readable < 1:
        raise ValueError("A row without readable answers has no weight.")
    if norm == "seed-code":
        return 1 + gamma * (found + readable) / (2 * readable)
    if within is None or not within.low <= found <= within.high:
        raise ValueError(f"The gap {found} is not within the range {within} of its data set and model.")
    if within.low == within.high:
        return 1.0
    return 1 + gamma * (2 * (found - within.low) / (within.high - within.low) - 1)
