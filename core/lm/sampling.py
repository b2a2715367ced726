"""The next token of each row: greedy, or a sample whose noise is a function of (seed, row, sample, step) alone."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Any

from core.lm.batch_rows import Row

CANDIDATES = (128, 2048, 12288)
"""How many of the likeliest tokens are looked at for a nucleus before the whole vocabulary is sorted."""
NOISE_ROWS = 4
"""Rows whose noise is made at once where every token needs some: more would not fit into a processor's cache."""
GOLDEN = -7046029254386353131
"""SplitMix64's step, 0x9E3779B97F4A7C15, as a signed number."""


@dataclass(frozen=True)
class Draw:
    """Chooses the next token of every row."""

    temperature: float
    top_p: float
    seed: int

    def tokens(self, logits: Any, rows: list[Row]) -> list[int]:
        """Greedy, or the Gumbel maximum: noise plus log-probability, the largest wins, which is a sample of the softmax.

        logits: rows x vocabulary, in the model's number format; chances are computed in float32.
        """
        if self.temperature == 0:
            return list(logits.argmax(-1).tolist())
        scores = logits.float()
        if self.temperature != 1:  # in place where that is our own copy: fresh memory costs more than the division
            scores = scores / self.temperature if scores is logits else scores.div_(self.temperature)
        keys = [key_of_noise(self.seed, row.index, row.sample, len(row.out)) for row in rows]
        return _draw_from_nucleus(scores, self.top_p, keys) if self.top_p < 1 else _draw_from_all(scores, keys)

    def log_probabilities(self, logits: Any, tokens: list[int]) -> list[float]:
        """log p of the chosen token of each row at this temperature (1 where it is 0), before any nucleus is cut out."""
        import torch

        scores = logits.float() / (self.temperature or 1)
        chosen = torch.tensor(tokens, device=scores.device)[:, None]
        return list((scores.gather(-1, chosen)[:, 0] - scores.logsumexp(-1)).tolist())


def _draw_from_all(scores: Any, keys: list[int]) -> list[int]:
    import torch

    every = torch.arange(scores.shape[-1], device=scores.device)
    room = torch.empty(2, min(NOISE_ROWS, len(keys)), scores.shape[-1], dtype=torch.long, device=scores.device)
    chosen: list[int] = []
    for first in range(0, len(keys), NOISE_ROWS):
        some = slice(first, first + NOISE_ROWS)
        chosen += _gumbel(keys[some], every, room).add_(scores[some]).argmax(-1).tolist()
    return chosen


def _draw_from_nucleus(scores: Any, top_p: float, keys: list[int]) -> list[int]:
    """Noise is a function of (key, token), so only the tokens of the nucleus need any: the result is that of noise for all."""
    import torch

    total = scores.logsumexp(-1, keepdim=True)
    chosen = [-1] * len(keys)
    open_rows = list(range(len(keys)))
    for count in (*CANDIDATES, scores.shape[-1]):
        some, sums = (scores, total) if len(open_rows) == len(keys) else (scores[open_rows], total[open_rows])
        best, tokens = some.topk(min(count, scores.shape[-1]), -1)
        kept, whole = _nucleus(best, sums, top_p, all_tokens=best.shape[-1] == scores.shape[-1])
        noisy = (best + _gumbel([keys[row] for row in open_rows], tokens)).masked_fill(~kept, float("-inf"))
        winners = torch.gather(tokens, 1, noisy.argmax(-1, keepdim=True))[:, 0].tolist()
        for row, winner, sure in zip(open_rows, winners, whole.tolist(), strict=True):
            if sure:
                chosen[row] = winner
        open_rows = [row for row in open_rows if chosen[row] < 0]
        if not open_rows:
            break
    return chosen


def _nucleus(best: Any, total: Any, top_p: float, all_tokens: bool) -> tuple[Any, Any]:
    """(which of the sorted scores are among the likeliest that together reach `top_p`; per row, whether no other token is).

    best: rows x candidates, falling. total: log of the sum over the vocabulary. Tokens as likely as the last one are kept too, so
    that the choice does not depend on how a sort breaks ties; a row whose last candidate is kept may therefore go on beyond it.
    """
    chances = (best - total).exp()
    before = chances.cumsum(-1) - chances
    lowest = best.masked_fill(before >= top_p, float("inf")).amin(-1, keepdim=True)
    kept = best >= lowest
    return kept, (~kept[:, -1]) | all_tokens


def key_of_noise(*numbers: int) -> int:
    """64 bits of noise that are a function of these whole numbers."""
    return int(struct.unpack("<q", hashlib.blake2b(struct.pack(f"<{len(numbers)}q", *numbers), digest_size=8).digest())[0])


def _gumbel(keys: list[int], tokens: Any, room: Any = None) -> Any:
    """Gumbel noise that is a function of (key, token) only: the SplitMix64 counter generator.

    tokens: ids that every key gets noise for, or keys x ids; the noise is float32, keys x ids. room: 2 x keys x ids (or more keys) of
    int64 to work in, for callers who come again: fresh memory costs more than the sums.
    """
    import torch

    if room is None:
        room = torch.empty(2, len(keys), tokens.shape[-1], dtype=torch.long, device=tokens.device)
    bits, upper = room[:, :len(keys)]
    torch.add(torch.tensor(keys, device=tokens.device)[:, None], tokens + 1, alpha=GOLDEN, out=bits)
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685), (31, 1)):
        torch.bitwise_right_shift(bits, shift, out=upper)
        upper.bitwise_and_((1 << 64 - shift) - 1)  # >> keeps the sign, so the upper bits are cut off
        bits.bitwise_xor_(upper)
        if factor != 1:
            bits.mul_(factor)
    bits.bitwise_right_shift_(1).bitwise_and_((1 << 63) - 1)
    uniform = bits.float().mul_(2.0**-63).clamp_(2.0**-63, 1 - 2.0**-24)
    return uniform.neg_().log1p_().neg_().log_().neg_()
