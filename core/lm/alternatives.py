"""How likely each of a few words is at a place of an answer that stands already: log-probabilities for confidence.

An answer may have several such places (three labels), and every place its own words. All of them go through the model together with
the one text that they branch off from: each branch sees the text before its place, and itself. So a long reasoning is computed once
for all words, and the result is that of separate rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from core.lm.generate import PREFILL_TOKENS, layers_are_plain

if TYPE_CHECKING:
    from core.lm.load import Loaded

LOGITS = 256
"""Rows of logits in one pass: each is as long as the vocabulary."""


@dataclass(frozen=True)
class Place:
    """Where a word stands in an answer, and the words that could stand there. None may be the beginning of another."""

    before: str
    """The answer up to the word, with the blank before it."""
    words: tuple[str, ...]


@dataclass(frozen=True)
class Standing:
    """A rendered prompt, the answer to it, and the places that are asked about."""

    prompt: str
    answer: str
    places: tuple[Place, ...]


@dataclass
class _Row:
    """What goes through the model for one text: tokens, their positions, who sees what, and what is asked."""

    ids: list[int]
    positions: list[int]
    blocks: list[tuple[int, int, int]]
    """(first token, how many, how many tokens of the trunk they see): a block sees that, and itself up to each token."""
    steps: list[list[tuple[int, int]]]
    """For each word: (where the logits stand, the token they are asked about), token by token."""

    def sees(self, size: int) -> Any:
        """Which token sees which, size x size. Padding sees itself, since a row of nothing has no softmax."""
        import torch

        mask = torch.eye(size, dtype=torch.bool)
        for first, own, seen in self.blocks:
            mask[first:first + own, :seen] = True
            mask[first:first + own, first:first + own] = torch.ones(own, own, dtype=torch.bool).tril()
        return mask

    @property
    def columns(self) -> set[int]:
        """Where logits are needed."""
        return {column for steps in self.steps for column, _ in steps}


def word_chances(loaded: Loaded, standing: Sequence[Standing], *, add_special_tokens: bool = False,
                 should_stop: Callable[[], bool] | None = None) -> Iterator[list[tuple[float, ...]]]:
    """For each answer in order, and each of its places: the probability of every word, normalised over the words of the place.

    Ends early when stopped. UserError for models that keep another state than keys and values.
    """
    tree = layers_are_plain(loaded.model.config, str(loaded.ref))
    rows = [_rows(loaded.tokenizer, item, add_special_tokens, tree) for item in standing]
    logs = _logs_of_all(loaded, [row for each in rows for row in each], tree, should_stop)
    for item, mine in zip(standing, rows, strict=True):
        sums = [value for _, found in zip(mine, logs, strict=False) for value in found]
        if len(sums) < sum(len(place.words) for place in item.places):
            return
        yield _normalised(sums, item.places)


def _rows(tokenizer: Any, item: Standing, add_special_tokens: bool, tree: bool) -> list[_Row]:
    """Word and text are cut into tokens together, as the model writes them; words branch off where the tokens begin to differ."""
    head = list(tokenizer(item.prompt, add_special_tokens=add_special_tokens)["input_ids"])
    answer = list(tokenizer(item.answer, add_special_tokens=False)["input_ids"])
    branches: list[tuple[int, list[int]]] = []
    for place in item.places:
        written = [list(tokenizer(place.before + word, add_special_tokens=False)["input_ids"]) for word in place.words]
        same = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(answer, *written, strict=False)))
        branches += [(len(head) + same, ids[same:]) for ids in written]
    if not head or not all(end for _, end in branches):
        raise ValueError("the prompt is empty, or a word is the beginning of another one")
    trunk = [*head, *answer][:max(start for start, _ in branches)]
    return [_tree(trunk, branches)] if tree else [_line(trunk[:start], end) for start, end in branches]


def _tree(trunk: list[int], branches: Sequence[tuple[int, list[int]]]) -> _Row:
    """The trunk, and the words behind it end to end. The last token of a word is left out: it predicts nothing that is asked."""
    row = _Row(list(trunk), list(range(len(trunk))), [(0, len(trunk), 0)], [])
    for start, end in branches:
        first, own = len(row.ids), len(end) - 1
        row.ids += end[:-1]
        row.positions += range(start, start + own)
        row.blocks.append((first, own, start))
        row.steps.append(list(zip([start - 1, *range(first, first + own)], end, strict=True)))
    return row


def _line(trunk: list[int], end: list[int]) -> _Row:
    """A text like any other, for models whose layers do not let a token choose what it sees."""
    ids = [*trunk, *end[:-1]]
    return _Row(ids, list(range(len(ids))), [(0, len(ids), 0)], [[(len(trunk) - 1 + step, token) for step, token in enumerate(end)]])


def _normalised(sums: list[float], places: Sequence[Place]) -> list[tuple[float, ...]]:
    import torch

    cut = torch.tensor(sums).split([len(place.words) for place in places])
    return [tuple(part.softmax(-1).tolist()) for part in cut]


def _logs_of_all(loaded: Loaded, rows: Sequence[_Row], tree: bool, should_stop: Callable[[], bool] | None) -> Iterator[list[float]]:
    """Log-probability of every word of every row, in order; as many rows at once as there is room for."""
    room = PREFILL_TOKENS.get(loaded.model.device.type, 4096)
    batch: list[_Row] = []
    for row in rows:
        more = [*batch, row]
        logits = len(more) * len(set().union(*(one.columns for one in more)))
        if batch and (len(more) * max(len(one.ids) for one in more) > room or logits > LOGITS):
            if should_stop and should_stop():
                return
            yield from _logs(loaded, batch, tree)
            more = [row]
        batch = more
    if batch and not (should_stop and should_stop()):
        yield from _logs(loaded, batch, tree)


def _logs(loaded: Loaded, rows: list[_Row], tree: bool) -> list[list[float]]:
    """One pass; rows are padded on the right."""
    import torch

    size = max(len(row.ids) for row in rows)
    ids, positions = torch.zeros(2, len(rows), size, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, :len(row.ids)] = torch.tensor(row.ids)
        positions[number, :len(row.ids)] = torch.tensor(row.positions)
    mask = (torch.stack([row.sees(size) for row in rows])[:, None] if tree
            else torch.tensor([[1] * len(row.ids) + [0] * (size - len(row.ids)) for row in rows]))
    columns = sorted(set().union(*(row.columns for row in rows)))
    where = {column: place for place, column in enumerate(columns)}
    asked = [(number, where[column], token) for number, row in enumerate(rows) for steps in row.steps for column, token in steps]
    with torch.inference_mode(), loaded.activate() as model:
        device = model.device
        logits: Any = model(input_ids=ids.to(device), attention_mask=mask.to(device), position_ids=positions.to(device), use_cache=False,
                            logits_to_keep=torch.tensor(columns, device=device)).logits.float()
        numbers, places, tokens = torch.tensor(asked, device=device).unbind(1)
        found = (logits[numbers, places, tokens] - logits.logsumexp(-1)[numbers, places]).tolist()
    values = iter(found)
    return [[sum(next(values) for _ in steps) for steps in row.steps] for row in rows]
