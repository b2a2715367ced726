"""The beginning that the prompts of a run have in common, as tokens and as keys and values: computed once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

MIN_PREFIX = 16
"""Shorter common beginnings are not worth a forward pass of their own."""


class SharedPrefix:
    """Belongs to one model with one adapter: who keeps a model open keeps this beside it, and a later call finds it computed.

    It is found in tokens, not in text: an instruction's own last tokens need not be those it has inside a prompt.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.cache: Any = None
        """Keys and values of `tokens`, one row; None until they are computed."""

    def fit(self, prompts: list[list[int]]) -> None:
        """Take the common beginning of these prompts, unless the one that is here already serves them.

        One prompt in eight may differ, on either side of the alphabet: it then shares what it can. Not to be called while rows
        that read the old beginning are running.
        """
        ordered = sorted({tuple(prompt) for prompt in prompts})
        if len(ordered) < 2:
            return
        odd = len(ordered) // 8
        first, last = ordered[odd], ordered[-1 - odd]
        common = list(first[:shared_length(first, last)])
        served = shared_length(self.tokens, common)
        if len(common) >= MIN_PREFIX and len(common) - served >= MIN_PREFIX:
            self.tokens, self.cache = common, None

    def length_for(self, prompts: list[list[int]]) -> int:
        """How many tokens of the shared beginning all these prompts have; 0 where too few are worth it.

        At least one token of every prompt stays outside: its logits start the answer.
        """
        length = min((min(shared_length(self.tokens, prompt), len(prompt) - 1) for prompt in prompts), default=0)
        return length if length >= MIN_PREFIX else 0


def shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
