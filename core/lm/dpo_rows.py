"""Preference pairs as token ids, on the disk: what a training keeps in memory of each pair is a few numbers.

Ours and TRL's file layouts meet in `Preference`. Prompt and answers are tokenised apart, as core/lm/sft_rows.py does it, so the
prompt has the very tokens it has when the guard is asked, and an answer ends with the token that ends a turn. No torch here.
"""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from core.lm.sft_rows import OnLong, end_of_turn, next_length
from core.lm.template import render_chat
from core.methods import UserError
from core.records import Preference
from core.split_guard import prompt_key

CHUNK = 64
"""Pairs given to the tokenizer at once."""
BLOCK = 64
KEY = 32
KEYS_AT_ONCE = 4_000
Text = str | list[dict[str, str]]


@dataclass(frozen=True)
class PairRow:
    """One pair as tokens: int32 arrays without the padding, the answers with the token that ends the turn."""

    number: int
    """Place in its `PairRows`."""
    prompt: Any
    chosen: Any
    rejected: Any
    weight: float

    @property
    def common(self) -> int:
        """How many first tokens both answers share. Each keeps at least one of its own."""
        limit = min(len(self.chosen), len(self.rejected)) - 1
        differ = np.flatnonzero(self.chosen[:limit] != self.rejected[:limit])
        return int(differ[0]) if len(differ) else limit


@dataclass
class PairRows:
    """Pairs that can be learned from, and what became of the others. Tokens are read from an unnamed file in `folder`."""

    folder: Path
    refused: Counter[str] = field(default_factory=Counter)
    """Pairs that cannot be learned from, by reason."""
    too_long: int = 0
    """Pairs with an answer that does not fit into max_length, whatever was done with them."""
    longest: int = 0
    """Tokens of the longest prompt with an answer, before any cut."""
    dropped: int = 0
    cut: int = 0
    prompts: array[int] = field(default_factory=lambda: array("i"))
    """Tokens of each prompt; likewise the next two of the answers."""
    chosen: array[int] = field(default_factory=lambda: array("i"))
    rejected: array[int] = field(default_factory=lambda: array("i"))
    weights: array[float] = field(default_factory=lambda: array("f"))
    known: bytearray = field(default_factory=bytearray)
    """1 where the pair names the judged prompt."""
    shared: int = 0
    """First tokens that all prompts have in common, short of every prompt's last one."""
    formats: Counter[str] = field(default_factory=Counter)
    """Prompt formats the pairs were written in; "" where a pair does not say."""
    models: Counter[str] = field(default_factory=Counter)
    """Who wrote the answers."""
    _blocks: array[int] = field(default_factory=lambda: array("q"))
    """Where every BLOCK-th pair begins in the file, in tokens."""
    _end: int = 0
    _first: Any = None
    _file: IO[bytes] | None = None
    _keys: IO[bytes] | None = None
    """32 bytes a pair: the split guard's key of the judged prompt, else of the whole prompt."""
    _digest: Any = field(default_factory=hashlib.sha256)

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def rows(self) -> range:
        """Places of the pairs that can be used."""
        return range(len(self))

    @property
    def seen(self) -> int:
        """All pairs that were looked at."""
        return len(self) + self.dropped + self.refused.total()

    @property
    def sha256(self) -> str:
        """Of tokens, lengths and weights, in order."""
        digest = self._digest.copy()
        for values in (self.prompts, self.chosen, self.rejected, self.weights):
            digest.update(values.tobytes())
        return str(digest.hexdigest())

    def length(self, place: int) -> int:
        """Tokens of a pair laid out with its prompt once; each answer follows a copy of the prompt's last token."""
        return self.prompts[place] + self.chosen[place] + self.rejected[place] + 1

    def prompt_keys(self) -> Iterator[bytes]:
        """The split guard's key of each pair, in order."""
        assert self._keys is not None
        self._keys.seek(0)
        for _ in self.rows:
            yield self._keys.read(KEY)

    def __getitem__(self, place: int) -> PairRow:
        assert self._file is not None
        first = place - place % BLOCK
        start = self._blocks[place // BLOCK] + sum(sum(values[first:place]) for values in (self.prompts, self.chosen, self.rejected))
        lengths = (self.prompts[place], self.chosen[place], self.rejected[place])
        self._file.seek(4 * start)
        prompt, chosen, rejected = np.split(np.frombuffer(self._file.read(4 * sum(lengths)), np.int32), np.cumsum(lengths[:2]))
        return PairRow(place, prompt, chosen, rejected, self.weights[place])

    def close(self) -> None:
        """Give the disk space back."""
        for file in (self._file, self._keys):
            if file is not None:
                file.close()

    def add(self, pair: Preference, prompt: Sequence[int], chosen: Sequence[int], rejected: Sequence[int]) -> None:
        """Append a pair that fits."""
        if self._file is None or self._keys is None:  # without names, so nothing is left after kill -9
            self._file, self._keys = (tempfile.TemporaryFile(dir=self.folder) for _ in range(2))  # noqa: SIM115 - `close` closes them
        ids = array("i", [*prompt, *chosen, *rejected])
        if len(self) % BLOCK == 0:
            self._blocks.append(self._end)
        self._end += len(ids)
        for values, tokens in ((self.prompts, prompt), (self.chosen, chosen), (self.rejected, rejected)):
            values.append(len(tokens))
        self.weights.append(pair.weight)
        self._file.write(ids.tobytes())
        self._digest.update(ids.tobytes())
        self._keys.write(bytes.fromhex(prompt_key(pair.user_prompt if pair.user_prompt is not None else str(pair.prompt))))
        self.known.append(pair.user_prompt is not None)
        self.formats[pair.prompt_format] += 1
        self.models[pair.model] += 1
        self._note_beginning(np.asarray(prompt))

    def _note_beginning(self, prompt: Any) -> None:
        limit = len(prompt) - 1
        if self._first is None:
            self._first, self.shared = prompt, limit
            return
        limit = min(limit, self.shared)
        self.shared = common_length(self._first, prompt, limit)

    def record(self, places: Any) -> dict[str, Any]:
        """For report.json; of the pairs at `places` (an array) the counts of tokens and the weights' range."""
        weights = np.asarray(self.weights)[places]
        return {"used": len(places), "refused": dict(self.refused), "over_max_length": self.too_long, "dropped_too_long": self.dropped,
                "cut": self.cut, "longest_tokens": self.longest, "chosen_tokens": int(np.asarray(self.chosen)[places].sum()),
                "rejected_tokens": int(np.asarray(self.rejected)[places].sum()),
                **({"weight_min": plain(weights.min()), "weight_max": plain(weights.max()), "weight_mean": plain(weights.mean())}
                   if len(weights) else {"weight_min": None, "weight_max": None, "weight_mean": None})}

    def weight_counts(self, places: Any) -> list[dict[str, float]]:
        """[{weight, pairs}] of the pairs at `places`; more than 20 distinct weights as the middles of 20 equal bins."""
        weights = np.asarray(self.weights)[places]
        values, counts = np.unique(weights, return_counts=True)
        if len(values) > 20:
            counts, edges = np.histogram(weights, 20)
            values = (edges[:-1] + edges[1:]) / 2
        return [{"weight": plain(value), "pairs": int(count)} for value, count in zip(values, counts, strict=True)]


def plain(value: float) -> float:
    """A weight as it was written: float32 knows seven digits."""
    return float(f"{value:.6g}")


def common_length(one: Any, other: Any, limit: int) -> int:
    """How many of the first `limit` tokens two arrays have in common."""
    differ = np.flatnonzero(one[:limit] != other[:limit])
    return int(differ[0]) if len(differ) else limit


def build_pairs(pairs: Iterable[Preference], tokenizer: Any, folder: Path, *, max_length: int = 0, on_long: OnLong = "drop") -> PairRows:
    """Tokenise pairs one chunk after the other. max_length 0 = no limit; "cut" keeps an answer's first tokens."""
    made = PairRows(folder)
    endings = {chat: end_of_turn(tokenizer, chat=chat) if not chat or tokenizer.chat_template else [] for chat in (True, False)}
    waiting = iter(pairs)
    while chunk := list(islice(waiting, CHUNK)):
        for pair, prompt, chosen, rejected in _tokenised(chunk, tokenizer, endings, made.refused):
            _place(made, pair, prompt, chosen, rejected, max_length, on_long)
    if made.too_long and on_long == "error":
        raise UserError(f"{made.too_long:,} of {made.seen:,} pairs are longer than max_length = {max_length:,} tokens (the longest "
                        f"needs {made.longest:,}). Set max_length={next_length(made.longest)}, or on_long_rows=drop to leave them out.")
    return made


def _place(made: PairRows, pair: Preference, prompt: list[int], chosen: list[int], rejected: list[int], max_length: int,
           on_long: OnLong) -> None:
    length = len(prompt) + max(len(chosen), len(rejected))
    made.longest = max(made.longest, length)
    if max_length and length > max_length:
        made.too_long += 1
        room = max_length - len(prompt)
        # What is cut to a prompt, or to two equal beginnings, teaches nothing
        if on_long != "cut" or room <= 0 or chosen[:room] == rejected[:room]:
            made.dropped += 1
            return
        made.cut += 1
        chosen, rejected = chosen[:room], rejected[:room]
    made.add(pair, prompt, chosen, rejected)


def _tokenised(chunk: list[Preference], tokenizer: Any, endings: dict[bool, list[int]],
               refused: Counter[str]) -> Iterator[tuple[Preference, list[int], list[int], list[int]]]:
    kept: list[tuple[Preference, bool]] = []
    prompts: dict[bool, list[str]] = {True: [], False: []}
    answers: list[str] = []
    for pair in chunk:
        chosen, rejected = _answer(pair.chosen), _answer(pair.rejected)
        chat = isinstance(pair.prompt, list)
        if chosen is None or rejected is None:
            refused["an answer is not exactly one turn of the assistant"] += 1
        elif chosen == rejected:
            refused["chosen and rejected are the same text"] += 1
        elif not pair.prompt:
            refused["the prompt is empty"] += 1
        else:
            prompts[chat].append(render_chat(tokenizer, pair.prompt) if isinstance(pair.prompt, list) else pair.prompt)
            answers += [chosen, rejected]
            kept.append((pair, chat))
    if not kept:
        return
    # What the chat template writes holds its special tokens already
    asked = {chat: iter(tokenizer(texts, add_special_tokens=not chat)["input_ids"] if texts else []) for chat, texts in prompts.items()}
    answered = iter(tokenizer(answers, add_special_tokens=False)["input_ids"])
    for pair, chat in kept:
        prompt, ending = next(asked[chat]), endings[chat]
        yield pair, prompt, [*next(answered), *ending], [*next(answered), *ending]


def _answer(answer: Text) -> str | None:
    """The text of an answer; None where it is more than one turn, or not the assistant's."""
    if isinstance(answer, str):
        return answer
    return answer[0].get("content") if len(answer) == 1 and answer[0].get("role") == "assistant" else None


@dataclass(frozen=True)
class PairView:
    """Some of the pairs, by their places (an int32 array)."""

    rows: PairRows
    places: Any

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> PairRow:
        return self.rows[int(self.places[index])]

    def lengths(self) -> array[int]:
        """Tokens of each pair with its prompt once."""
        prompts, chosen, rejected = (np.asarray(values) for values in (self.rows.prompts, self.rows.chosen, self.rows.rejected))
        total = prompts[self.places]
        total += chosen[self.places]
        total += rejected[self.places]
        total += 1
        return array("i", total.tobytes())

    def record(self) -> dict[str, Any]:
        """For report.json."""
        return self.rows.record(self.places)

    def sorted_keys(self) -> Iterator[str]:
        """The split guard's keys of the pairs that name their prompt, sorted, no repeats."""
        wanted = np.zeros(len(self.rows), bool)
        wanted[self.places] = np.frombuffer(self.rows.known, np.uint8)[self.places] == 1
        shares = -(-len(self.rows) // KEYS_AT_ONCE)  # sorted a share of all keys at a time, by their first four bytes
        for share in range(shares):
            low, high = share * 2**32 // shares, (share + 1) * 2**32 // shares
            used = (key for key, use in zip(self.rows.prompt_keys(), wanted, strict=True) if use)
            yield from (key.hex() for key in sorted({key for key in used if low <= int.from_bytes(key[:4], "big") < high}))


def divided(rows: PairRows, share: float, seed: int) -> tuple[PairView, PairView]:
    """(training pairs, held-out pairs). Pairs of one prompt stay on one side, and the order of the file does not matter.

    The prompts with the smallest hash of (seed, key) are held out: a `share` of them, at least one and never all.
    """
    held = np.zeros(len(rows), bool)
    if share and len(rows):
        begin = f"{seed}|".encode()
        digests = (hashlib.sha256(begin + key).digest() for key in rows.prompt_keys())
        marks = np.fromiter((int.from_bytes(digest[:8], "big") for digest in digests), np.uint64, len(rows))
        distinct = np.unique(marks)
        count = min(max(1, round(share * len(distinct))), len(distinct) - 1)
        held = marks <= distinct[count - 1] if count else held
    return PairView(rows, np.flatnonzero(~held).astype(np.int32)), PairView(rows, np.flatnonzero(held).astype(np.int32))
