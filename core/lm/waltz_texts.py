"""What an agent wrote in the episodes of an iteration, as tokens, and how it is put into passes through the model.

Two things are computed once instead of twice. A revision's prompt begins with everything that came before it, so the first reply
and its revision are one sequence (a strand) with two stretches to learn. And strands share the beginning of their prompts: where
the attention knows a tree of pieces (core/lm/sft_attention.py) a pass is one,

    [system turn | prompt 1, reply, feedback, revision | prompt 2, reply | ... ]

Elsewhere strands are padded to the longest. Both give the numbers that separate rows would give.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from core.lm.batch_prefix import shared_length
from core.lm.dpo_batch import Pieces
from core.lm.sft_batch import MIN_SHARED


@dataclass(frozen=True)
class Text:
    """A reply or a feedback, as it was sampled."""

    prompt: Sequence[int]
    """Token ids of what was asked."""
    tokens: Sequence[int]
    """Token ids of the answer, the stop token included; never empty."""
    reward: float
    """What the agent earned with it."""
    sampled: Sequence[float] = ()
    """log p of each token as it was sampled; empty where the sampler does not say."""


@dataclass
class Strand:
    """Texts of one agent in one episode that lie in one sequence, each one's prompt beginning with all before it."""

    ids: list[int]
    spans: list[tuple[int, int]]
    """ids[start:end] are the tokens of a text."""
    texts: list[int] = field(default_factory=list)
    """Numbers of the texts, in the order of `spans`."""

    @property
    def shareable(self) -> int:
        """How many first tokens may be computed together with others': the prompt, less its last token, which predicts."""
        return self.spans[0][0] - 1

    def __len__(self) -> int:
        return len(self.ids)


class Texts:
    """All texts of one agent in one iteration. Flat tensors over their tokens are in the order of `texts`."""

    def __init__(self, episodes: Sequence[Sequence[Text]]) -> None:
        """episodes: for each episode that counts what the agent wrote, in order."""
        self.texts = [text for texts in episodes for text in texts]
        self.lengths = [len(text.tokens) for text in self.texts]
        self.rewards = [text.reward for text in self.texts]
        self.starts = [0, *itertools.accumulate(self.lengths)][:-1]
        self.strands: list[Strand] = []
        self.groups: list[list[int]] = []
        """Strands of each episode, which are learned from in the same minibatch."""
        number = 0
        for texts in episodes:
            made: list[Strand] = []
            for text in texts:
                lay_behind(made, text, number)
                number += 1
            if made:
                self.groups.append(list(range(len(self.strands), len(self.strands) + len(made))))
                self.strands += made

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def tokens(self) -> int:
        """Of all texts, without their prompts."""
        return sum(self.lengths)

    @cached_property
    def sampled(self) -> list[float] | None:
        """log p of every token as it was sampled; None where that is not known of all."""
        known = all(len(text.sampled) == len(text.tokens) for text in self.texts)
        return [value for text in self.texts for value in text.sampled] if known else None

    def places(self, strands: Sequence[Strand]) -> list[int]:
        """Where the tokens of these strands, one strand after the other, stand in a flat tensor."""
        return [place for strand in strands for text in strand.texts
                for place in range(self.starts[text], self.starts[text] + self.lengths[text])]


def lay_behind(strands: list[Strand], text: Text, number: int) -> None:
    """Put a text at the end of the last strand where its prompt goes on from there, else into a strand of its own."""
    prompt, tokens = list(text.prompt), list(text.tokens)
    last = strands[-1] if strands else None
    if last is not None and len(prompt) >= len(last) and prompt[:len(last)] == last.ids:
        last.ids = prompt + tokens
        last.spans.append((len(prompt), len(last.ids)))
        last.texts.append(number)
    else:
        strands.append(Strand(prompt + tokens, [(len(prompt), len(prompt) + len(tokens))], [number]))


@dataclass(frozen=True)
class PassMaker:
    """Cuts strands into passes and makes the model's inputs for one.

    tree: the attention takes a tree of pieces. most: strands in a pass at most. tokens: what a pass should hold at most, shared
    beginnings counted once; 0 = only `most` counts. A strand that is longer is a pass of its own.
    """

    pad: int
    tree: bool
    most: int
    tokens: int = 0

    def passes(self, strands: Sequence[Strand]) -> Iterator[list[Strand]]:
        """Each strand in one pass, those with a common beginning (or, padded, of like length) together."""
        order = sorted(strands, key=lambda one: one.ids[:one.shareable] if self.tree else [-len(one)])
        group: list[Strand] = []
        load = 0
        for strand in order:
            more = self._load(group, load, strand)
            if group and (len(group) >= self.most or (self.tokens and more > self.tokens)):
                yield group
                group, more = [], len(strand)
            group.append(strand)
            load = more
        if group:
            yield group

    def _load(self, group: list[Strand], load: int, strand: Strand) -> int:
        """Tokens of a pass with this strand as well."""
        if not self.tree:
            return (len(group) + 1) * max(len(strand), *map(len, group)) if group else len(strand)
        shared = _common(group[-1], strand) if group else 0
        return load + len(strand) - (shared if shared >= MIN_SHARED else 0)

    def inputs(self, strands: Sequence[Strand]) -> tuple[dict[str, Any], list[Strand]]:
        """(the model's inputs with `labels`, the strands in the order in which the answer head gives their tokens)."""
        return self._tree(strands) if self.tree else (self._padded(strands), list(strands))

    def _tree(self, strands: Sequence[Strand]) -> tuple[dict[str, Any], list[Strand]]:
        pieces = Pieces()
        order: list[Strand] = []

        def grow(group: list[Strand], start: int, above: list[int]) -> None:
            """Add these strands, which agree up to `start` and are sorted, below the pieces `above`."""
            if len(group) == 1:
                self._leaf(pieces, group[0], start, above)
                order.append(group[0])
                return
            shared = min(_common(group[0], group[-1]), min(one.shareable for one in group))
            if shared - start >= MIN_SHARED:
                above, start = above + pieces.add(group[0].ids[start:shared], start, above, learned=0), shared
            for token, branch in itertools.groupby(group, key=lambda one: one.ids[shared] if one.shareable > shared else None):
                if token is None:  # the same prompt again: nothing more to share
                    for one in branch:
                        grow([one], start, above)
                else:
                    grow(list(branch), start, above)

        grow(sorted(strands, key=lambda one: one.ids[:one.shareable]), 0, [])
        return pieces.batch(), order

    @staticmethod
    def _leaf(pieces: Pieces, strand: Strand, start: int, above: list[int]) -> None:
        """The rest of a strand, a piece for each text: only the end of a piece is learned."""
        for first, end in strand.spans:
            above = above + pieces.add(strand.ids[start:end], start, above, learned=end - first)
            start = end

    def _padded(self, strands: Sequence[Strand]) -> dict[str, Any]:
        longest = max(map(len, strands))
        ids = torch.full((len(strands), longest), self.pad)
        labels = torch.full((len(strands), longest), -100)
        mask = torch.zeros(len(strands), longest, dtype=torch.long)
        for row, strand in enumerate(strands):
            tokens = torch.tensor(strand.ids)
            ids[row, :len(strand)], mask[row, :len(strand)] = tokens, 1
            for first, end in strand.spans:
                labels[row, first:end] = tokens[first:end]
        return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def _common(one: Strand, other: Strand) -> int:
    """How many tokens two strands may share."""
    return min(shared_length(one.ids, other.ids), one.shareable, other.shareable)
