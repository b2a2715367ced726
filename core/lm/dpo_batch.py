"""Pairs of one pass as tensors. Where the attention knows a tree of pieces, everything that is the same is computed once:

    [beginning of all prompts | prompt 1, common beginning of its answers | rest of chosen 1 | rest of rejected 1 | prompt 2, ... ]

A rest sees what is above it in the tree and itself. It begins with a copy of the last token before the answers part, for that token
predicts something else in each. Elsewhere: chosen rows, then rejected rows, padded to the longest, as TRL does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from core.lm.dpo_rows import PairRow, PairView, common_length
from core.lm.sft_batch import MIN_SHARED
from core.lm.sft_plan import Passes

NOT_FOR_THE_MODEL = ("pairs", "weights", "tokens", "answers", "chosen", "rejected")
"""Keys of a batch that say how to add up what the model gives back."""


@dataclass(frozen=True)
class PairCollator:
    """The model's inputs for the pairs of one pass, and beside them:

    pairs [n]             places of the pairs, to look up the reference
    weights, tokens [n]   their weights, and the tokens of their chosen answers
    answers               lengths of the stretches of answer tokens, in the order in which the answer head gives their losses
    chosen, rejected [n, 1 or 2]    which stretches make up each answer
    """

    pad: int
    tree: bool

    def __call__(self, pairs: Sequence[PairRow], learn: bool = True) -> dict[str, Any]:
        """learn=False: the same inputs with nothing to learn, for a rank that has no pair in the last step."""
        batch = self._tree(pairs) if self.tree else self._padded(pairs)
        batch |= {"pairs": torch.tensor([pair.number for pair in pairs]), "weights": torch.tensor([pair.weight for pair in pairs]),
                  "tokens": torch.tensor([len(pair.chosen) for pair in pairs])}
        if not learn:
            batch["labels"].fill_(-100)
            batch |= {name: batch[name][:0] for name in NOT_FOR_THE_MODEL}
        return batch

    def _tree(self, pairs: Sequence[PairRow]) -> dict[str, Any]:
        pieces = Pieces()
        shared = shared_prompt(pairs)
        root = pieces.add(pairs[0].prompt[:shared], 0, [], 0)
        for pair in pairs:
            common = pair.common
            trunk = [*pair.prompt, *pair.chosen[:common]]
            part = len(trunk) - 1  # where the answers part, less the token that each of them repeats
            above = root + pieces.add(trunk[shared:part], shared, root, learned=max(0, common - 1))
            # The last common token is predicted by the trunk's last one, so it is learned in the branch that comes next
            pieces.add([trunk[part], *pair.chosen[common:]], part, above, len(pair.chosen) - common + bool(common))
            pieces.add([trunk[part], *pair.rejected[common:]], part, above, len(pair.rejected) - common)
            pieces.answers += [common, len(pair.chosen) - common, len(pair.rejected) - common]
        stretch = 3 * torch.arange(len(pairs)).unsqueeze(1)
        return {**pieces.batch(), "answers": pieces.answers,
                "chosen": stretch + torch.tensor([0, 1]), "rejected": stretch + torch.tensor([0, 2])}

    def _padded(self, pairs: Sequence[PairRow]) -> dict[str, Any]:
        answers = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        longest = max(len(pair.prompt) + max(len(pair.chosen), len(pair.rejected)) for pair in pairs)
        ids = torch.full((len(answers), longest), self.pad)
        labels = torch.full((len(answers), longest), -100)
        mask = torch.zeros(len(answers), longest, dtype=torch.long)
        for row, answer in enumerate(answers):
            prompt = torch.tensor(pairs[row % len(pairs)].prompt, dtype=torch.long)
            end = len(prompt) + len(answer)
            ids[row, :len(prompt)] = prompt
            ids[row, len(prompt):end] = labels[row, len(prompt):end] = torch.tensor(answer, dtype=torch.long)
            mask[row, :end] = 1
        first = torch.arange(len(pairs)).unsqueeze(1)
        return {"input_ids": ids, "labels": labels, "attention_mask": mask, "answers": [len(answer) for answer in answers],
                "chosen": first, "rejected": first + len(pairs)}


class Pieces:
    """A sequence that grows piece by piece, with what each piece sees."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.labels: list[int] = []
        self.positions: list[int] = []
        self.lengths: list[int] = []
        self.above: list[list[int]] = []
        self.answers: list[int] = []

    def add(self, tokens: Sequence[int], position: int, above: list[int], learned: int) -> list[int]:
        """Append tokens that stand at `position` of their row and learn the last ones; returns [its place], [] when it is empty."""
        count = len(tokens)
        if not count:
            return []
        self.ids += (int(token) for token in tokens)
        self.labels += [-100] * (count - learned) + [int(token) for token in tokens[count - learned:]]
        self.positions += range(position, position + count)
        self.lengths.append(count)
        self.above.append(above)
        return [len(self.lengths) - 1]

    def batch(self) -> dict[str, Any]:
        """Inputs of a model with `rows_attention`."""
        return {"input_ids": torch.tensor([self.ids]), "labels": torch.tensor([self.labels]),
                "position_ids": torch.tensor([self.positions]),
                "attention_mask": torch.zeros(1, 1, 1, 1),  # four dimensions = made already: no mask is built, and none is needed
                "rows": self.lengths, "above": self.above}


def shared_prompt(pairs: Sequence[PairRow]) -> int:
    """How many first tokens the prompts of a pass have in common, short of every prompt's last one."""
    limit = min(len(pair.prompt) for pair in pairs) - 1
    for pair in pairs[1:]:
        limit = common_length(pairs[0].prompt, pair.prompt, limit)
    return limit if limit >= MIN_SHARED and len(pairs) > 1 else 0


@dataclass(frozen=True)
class PairPassCollator:
    """Collate function of a loader whose items are numbers of `passes`, one at a time: {"pass": 7}."""

    pairs: PairView
    collate: PairCollator
    passes: Passes

    def __call__(self, items: list[dict[str, int]]) -> dict[str, Any]:
        """The inputs of one pass. A pass without pairs gets one to which no loss is given."""
        wanted = self.passes[items[0]["pass"]]
        return self.collate([self.pairs[place] for place in wanted or [0]], learn=bool(wanted))
