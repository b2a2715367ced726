"""Which of a few given answers a model finds likeliest: the zero-shot readout of a model that was never taught an answer form.

The log-probability of each choice after the prompt, summed over its tokens, as evaluation harnesses do for multiple choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from core.lm.generate import last_places

if TYPE_CHECKING:
    from core.lm.load import Loaded

ROWS = 16
"""Prompts that go through the model at once, each with all its choices."""


@dataclass(frozen=True)
class Picked:
    """The likeliest choice for one prompt. `probabilities`: one per choice, normalised over the choices."""

    index: int
    text: str
    probabilities: tuple[float, ...]
    tokens: int = 0
    finish: str = "stop"


def choose(loaded: Loaded, prompts: Iterable[str], choices: Sequence[str], *, indices: Iterable[int] | None = None,
           add_special_tokens: bool = False, should_stop: Callable[[], bool] | None = None) -> Iterator[Picked]:
    """The likeliest of `choices` (texts that follow the prompt directly) for each prompt, in order."""
    tokenizer = loaded.tokenizer
    ends = [tokenizer(choice, add_special_tokens=False)["input_ids"] for choice in choices]
    if not all(ends):
        raise ValueError(f"a choice has no tokens: {list(choices)!r}")
    numbered = zip(indices, prompts, strict=False) if indices is not None else enumerate(prompts)
    while batch := list(islice(numbered, ROWS)):
        if should_stop and should_stop():
            return
        heads = [tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"] for _, text in batch]
        scores = _scores(loaded, heads, ends)
        for (index, _), row in zip(batch, scores, strict=True):
            best = max(range(len(choices)), key=row.__getitem__)
            yield Picked(index, choices[best], tuple(row), len(ends[best]))


def _scores(loaded: Loaded, heads: list[list[int]], ends: list[list[int]]) -> list[list[float]]:
    """Probability of each choice after each prompt, normalised over the choices. Rows are padded on the left, so that ends align."""
    import torch

    rows = [head + end for head in heads for end in ends]
    longest, most = max(map(len, rows)), max(map(len, ends))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, longest - len(row):] = torch.tensor(row)
        mask[number, longest - len(row):] = 1
    places = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode(), loaded.activate() as model:
        device = model.device
        ids = ids.to(device)
        logits: Any = model(input_ids=ids, attention_mask=mask.to(device), position_ids=places.to(device), use_cache=False,
                            logits_to_keep=last_places(most + 1, ids)).logits
    logs = logits.float().log_softmax(-1).cpu()
    sums = torch.empty(len(heads), len(ends))
    for number in range(len(rows)):
        end = ends[number % len(ends)]
        # the logits one place before a token are the ones that predict it; the last place predicts nothing asked here
        steps = logs[number, most - len(end):most]
        sums[number // len(ends), number % len(ends)] = steps.gather(1, torch.tensor(end)[:, None]).sum()
    return [list(map(float, row)) for row in sums.softmax(-1)]
