"""Answers for many prompts at once: the engine behind evaluation and mining.

Decoding is bound by reading weights and cache, so many rows share each step, and what prompts have in common is computed and
kept once: the beginning of all of them (batch_prefix.py) and each prompt for all its samples (batch_shared.py). A row leaves the
batch the moment its answer is whole and a waiting one takes its place. What one row answers does not depend on its neighbours:
greedy rows are those of plain `model.generate` (float32, up to rounding), and sampling draws noise from (seed, row, sample, step)
alone.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from core.lm.batch_prefix import SharedPrefix
from core.lm.batch_rows import Row, Table
from core.lm.batch_shared import SharedTable, can_share
from core.lm.load import Loaded
from core.lm.sampling import Draw
from core.methods import UserError

MAX_ROWS = {"cpu": 64, "cuda": 256, "mps": 32}
PREFILL_TOKENS = {"cpu": 4096, "cuda": 32768, "mps": 4096}
GROUP_TOKENS = 512
"""From this size on a group of prompts takes no one in that is much shorter: padding would cost more than a second pass."""
CHECK_EVERY = 8
"""Tokens between two looks at whether an answer is complete; a line break is looked at as well."""
END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>")
"""End a row even where the model's settings forget to list them."""


@dataclass(frozen=True)
class Generated:
    """One answer. `token_ids` is all the model wrote, the stop token included."""

    index: int
    sample: int
    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    finish: Literal["stop", "length"]
    seconds: float
    note: str = ""
    counted: int = 0
    """Tokens as a server counts them, which does not say which they are."""
    log_probs: tuple[float, ...] = ()
    """Of each token as it was chosen, where they were asked for."""
    failed: str = ""
    """Why a server gave no whole answer to this one request: its content filter, or, where the engine is `forgiving`, any other trouble."""

    @property
    def tokens(self) -> int:
        """How many tokens were generated."""
        return len(self.token_ids) or self.counted


def generate(loaded: Loaded, prompts: Iterable[str], *, max_new_tokens: int = 256, temperature: float = 0.0, top_p: float = 1.0,
             seed: int = 42, samples: int = 1, indices: Iterable[int] | None = None, first_samples: Iterable[int] | None = None,
             add_special_tokens: bool = False, is_complete: Callable[[str], bool] | None = None, look_after: str = "\n",
             batch_tokens: int | None = None, ordered: bool = True, should_stop: Callable[[], bool] | None = None,
             on_batch: Callable[[int, int, int], None] | None = None, prefix: SharedPrefix | None = None,
             log_probs: bool = False, have: Container[tuple[int, int]] = ()) -> Iterator[Generated]:
    """Answer `prompts` (whole rendered texts), `samples` times each; yields in input order, samples of a prompt together.

    indices: the rows' own numbers, where they are not 0, 1, 2, ...; noise depends on them, so a resumed run passes the old ones.
    first_samples: number of the first sample of each prompt, where it is not 0; noise depends on it as well.
    is_complete(text): the answer is whole, stop this row; asked every few tokens and after each that holds one of `look_after`.
    batch_tokens: prompt + answer tokens held at once (default: by memory).
    ordered=False: yield each answer when it is ready. should_stop: asked at every step; what is finished is still yielded, in order,
    with gaps. on_batch(finished, running, tokens): called every few steps with totals of this call. Memory does not grow with rows:
    prompts are read a few batches ahead at most. prefix: what an earlier call with this very model and adapter found and computed.
    log_probs: say of each token how likely it was, at this temperature and before any nucleus is cut out.
    have: (index, sample) of answers that are there already and are left out.
    """
    if max_new_tokens < 1 or samples < 1 or temperature < 0 or not 0 < top_p <= 1:
        raise ValueError("max_new_tokens and samples must be at least 1, temperature 0 or more, top_p in (0, 1]")
    engine = _Engine(loaded, Draw(temperature, top_p, seed), is_complete, batch_tokens, prefix or SharedPrefix(), look_after, log_probs)
    numbers = zip(itertools.count() if indices is None else indices, itertools.repeat(0) if first_samples is None else first_samples,
                  strict=False)
    source = _Source(loaded, zip(numbers, prompts, strict=False), engine, max_new_tokens, samples, add_special_tokens, have)
    ready: dict[int, Generated] = {}
    following, finished, tokens = 0, 0, 0
    for step in itertools.count():
        source.refill(following if ordered else source.made)
        with loaded.activate() as model:
            rows = source.refused + engine.step(model, source.waiting)
        source.refused = []
        for row in rows:
            ready[row.number] = engine.result(row)
            finished, tokens = finished + 1, tokens + len(row.out)
        if on_batch and (rows or step % 8 == 0):
            on_batch(finished, len(engine.rows), tokens + sum(len(row.out) for row in engine.rows))
        over = not (engine.rows or source.waiting or source.more)
        if over or (should_stop is not None and should_stop()):
            yield from (ready[number] for number in sorted(ready))
            return
        while ready and (following in ready or not ordered):
            yield ready.pop(following if ordered else next(iter(ready)))
            following += 1


class _Source:
    """Reads prompts a batch at a time and tokenises them. They start in input order, so that answers are ready in about that order."""

    def __init__(self, loaded: Loaded, pairs: Iterator[tuple[tuple[int, int], str]], engine: _Engine, max_new_tokens: int, samples: int,
                 add_special_tokens: bool, have: Container[tuple[int, int]] = ()) -> None:
        self.have = have
        self.loaded, self.pairs, self.engine = loaded, pairs, engine
        self.max_new_tokens, self.samples, self.add_special_tokens = max_new_tokens, samples, add_special_tokens
        self.window = max(1, engine.max_rows // samples)
        self.waiting: list[Row] = []
        self.refused: list[Row] = []
        self.made = 0
        self.more = True

    def refill(self, following: int) -> None:
        """Read the next window once the last one is in work, unless finished rows pile up behind a slow one."""
        if self.waiting or not self.more or self.made - following > 2 * self.window * self.samples:
            return
        pairs = list(itertools.islice(self.pairs, self.window))
        self.more = len(pairs) == self.window
        if not pairs:
            return
        encoded = self.loaded.tokenizer([text for _, text in pairs], add_special_tokens=self.add_special_tokens)["input_ids"]
        rows = [row for (numbers, _), ids in zip(pairs, encoded, strict=True) for row in self._rows(*numbers, list(ids))]
        self.waiting = [row for row in rows if row.limit > 0]
        self.refused = [row for row in rows if row.limit <= 0]
        self.engine.share_prefix([row.prompt for row in self.waiting])

    def _rows(self, index: int, first: int, ids: list[int]) -> Iterator[Row]:
        context = self.engine.context
        limit, note = min(self.max_new_tokens, context - len(ids)), ""
        if not ids:
            limit, note = 0, "the prompt is empty"
        elif limit <= 0:
            note = f"the prompt has {len(ids)} tokens and the model's context is {context}"
        elif limit < self.max_new_tokens:
            note = f"only {limit} answer tokens fit into the model's context of {context}"
        for sample in range(first, first + self.samples):
            if (index, sample) in self.have:
                continue
            yield Row(self.made, index, sample, ids, limit, note, began=time.perf_counter(), finish=None if limit > 0 else "length")
            self.made += 1


class _Engine:
    """The running batch: one cache table, one decode step at a time."""

    def __init__(self, loaded: Loaded, draw: Draw, is_complete: Callable[[str], bool] | None, batch_tokens: int | None,
                 prefix: SharedPrefix, look_after: str = "\n", log_probs: bool = False) -> None:
        self.loaded, self.draw, self.is_complete, self.log_probs = loaded, draw, is_complete, log_probs
        self.tokenizer = loaded.tokenizer
        model = loaded.model
        self.config = model.config.get_text_config(decoder=True)
        self.device = model.device
        kind = self.device.type
        self.context = int(getattr(self.config, "max_position_embeddings", None) or 2**31)
        self.plain = layers_are_plain(model.config, str(loaded.ref))
        self.max_rows = MAX_ROWS.get(kind, 32)
        self.prefill_tokens = PREFILL_TOKENS.get(kind, 4096)
        self.budget = batch_tokens or token_budget(self.config, model.dtype, self.device)
        self.stop_ids = stop_ids(model, self.tokenizer)
        self.pad = self.tokenizer.pad_token_id or 0
        self.breaks = functools.cache(lambda token: any(mark in self.tokenizer.decode([token]) for mark in look_after))
        self.rows: list[Row] = []
        self.table: Table | SharedTable = SharedTable() if can_share(model, self.config, self.plain) else Table()
        self.prefix = prefix

    def share_prefix(self, prompts: list[list[int]]) -> None:
        """Look for what the prompts of a new window have in common, unless running rows still read what was found before."""
        if self.plain and (not self.rows or not self.prefix.tokens):
            self.prefix.fit(prompts)

    def step(self, model: Any, waiting: list[Row]) -> list[Row]:
        """Let waiting rows in where there is room, decode one token for every row, and return the rows that are finished."""
        import torch

        with torch.inference_mode():
            room = self._room(waiting)
            if room and (not self.rows or room >= min(len(waiting), max(1, len(self.rows) // 8))):  # not one by one: groups fill better
                coming = sorted(waiting[:room], key=lambda row: (-len(row.prompt), row.number))  # similar lengths waste little padding
                del waiting[:room]
                for group in self._groups(coming):
                    self._admit(model, group, coming)
                    coming = coming[len(group):]
            elif self.rows:
                self._decode(model)
            return self._leave()

    def result(self, row: Row) -> Generated:
        """The finished answer of a row."""
        out = row.out[:-1] if row.out and row.out[-1] in self.stop_ids else row.out
        return Generated(row.index, row.sample, self._text(out), tuple(row.out), len(row.prompt), row.finish or "length",
                         time.perf_counter() - row.began, row.note, log_probs=tuple(row.log_probs))

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)) if tokens else ""

    def _room(self, waiting: list[Row]) -> int:
        """How many of the waiting rows fit beside the running ones. The samples of a prompt come together: it is computed once."""
        fits = 0
        head = self.prefix.length_for([waiting[0].prompt]) if waiting else 0
        for count, row in enumerate(waiting, start=1):
            rows = len(self.rows) + count
            if rows > self.max_rows or (rows > 1 and self.table.room(self.rows + waiting[:count], head) > self.budget):
                return fits or (0 if self.rows else count - 1)
            if count == len(waiting) or waiting[count].prompt is not row.prompt:
                fits = count
        return fits

    def _groups(self, rows: list[Row]) -> Iterator[list[Row]]:
        """Rows whose prompts go through the model together; samples of one prompt are computed once."""
        group: list[Row] = []
        prompts: dict[int, list[int]] = {}
        width = 0
        for row in rows:
            if id(row.prompt) not in prompts:
                more = [*prompts.values(), row.prompt]
                own = len(row.prompt) - self.prefix.length_for([row.prompt])
                tokens = len(more) * max(width, own)
                if group and (tokens > self.prefill_tokens or (tokens > GROUP_TOKENS and own < 0.75 * width)):
                    yield group
                    group, prompts, width = [], {}, 0
                prompts[id(row.prompt)] = row.prompt
                width = max(width, own)
            group.append(row)
        yield group

    def _admit(self, model: Any, rows: list[Row], coming: list[Row]) -> None:
        """Compute the prompts of `rows` and put them into the table, which makes room for all of `coming`."""
        import torch

        prompts = list({id(row.prompt): row.prompt for row in rows}.values())
        place = {id(prompt): position for position, prompt in enumerate(prompts)}
        head = self.prefix.length_for(prompts) if self.plain else 0
        for row in rows:
            row.began = time.perf_counter()
        rest = [prompt[head:] for prompt in prompts]
        width = max(map(len, rest))
        ids = torch.tensor([[self.pad] * (width - len(tokens)) + tokens for tokens in rest], device=self.device)
        mask = torch.tensor([[1] * head + [0] * (width - len(tokens)) + [1] * len(tokens) for tokens in rest], device=self.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, head:]
        cache = self._prefix_for(model, len(prompts), head)
        logits = _forward(model, ids, mask, positions, cache)
        sources = [place[id(row.prompt)] for row in rows]
        self.table.reserve(self.rows, coming, cache, head)
        for row, source in zip(rows, sources, strict=True):
            self.table.fill(len(self.rows), row, cache, source, head)
            self.rows.append(row)
        self.table.trim(self.rows)
        self._choose(logits[sources], rows)

    def _prefix_for(self, model: Any, count: int, head: int) -> Any:
        """A cache that holds the first `head` tokens of the shared beginning for `count` rows."""
        import torch
        from transformers import DynamicCache

        cache: Any = DynamicCache()  # without config: plain layers, so that every column stays in reach
        prefix = self.prefix
        if head and prefix.cache is None:
            fresh = DynamicCache()
            ids = torch.tensor([prefix.tokens], device=self.device)
            _forward(model, ids, torch.ones_like(ids), torch.arange(len(prefix.tokens), device=self.device)[None], fresh)
            prefix.cache = fresh
        if head:
            for number, layer in enumerate(prefix.cache.layers):
                cache.update(*(part[:, :, :head].expand(count, -1, -1, -1) for part in (layer.keys, layer.values)), number)
        self.table.prefix = prefix.cache
        return cache

    def _decode(self, model: Any) -> None:
        import torch

        rows = self.rows
        ids = torch.tensor([[row.out[-1]] for row in rows], device=self.device)
        positions = torch.tensor([[len(row.prompt) + len(row.out) - 1] for row in rows], device=self.device)
        with self.table.reading(rows, self.config, self.device) as (mask, cache):
            logits = _forward(model, ids, mask, positions, cache)
        self._choose(logits, rows)

    def _choose(self, logits: Any, rows: list[Row]) -> None:
        """The next token of each row."""
        tokens = self.draw.tokens(logits, rows)
        if self.log_probs:
            for row, value in zip(rows, self.draw.log_probabilities(logits, tokens), strict=True):
                row.log_probs.append(value)
        self._append(rows, tokens)

    def _append(self, rows: list[Row], tokens: list[int]) -> None:
        for row, token in zip(rows, tokens, strict=True):
            row.out.append(token)
            if token in self.stop_ids or self._whole(row, token):
                row.finish = "stop"
            elif len(row.out) >= row.limit:
                row.finish = "length"

    def _whole(self, row: Row, token: int) -> bool:
        look = self.is_complete is not None and (len(row.out) % CHECK_EVERY == 0 or len(row.out) == row.limit or self.breaks(token))
        return look and self.is_complete is not None and self.is_complete(self._text(row.out))

    def _leave(self) -> list[Row]:
        """Take finished rows out; the last row of the table moves into each gap."""
        finished = []
        for position in range(len(self.rows) - 1, -1, -1):
            if self.rows[position].finish:
                finished.append(self.rows[position])
                last = self.rows.pop()
                if position < len(self.rows):
                    self.table.move(len(self.rows), position, last)
                    self.rows[position] = last
        self.table.trim(self.rows)
        return finished[::-1]


def _forward(model: Any, ids: Any, mask: Any, positions: Any, cache: Any) -> Any:
    """Logits after the last token of every row: rows x vocabulary, in the model's number format."""
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions, cache=cache, use_cache=True,
                logits_to_keep=last_places(1, ids))
    return out.logits[:, -1]


def last_places(count: int, ids: Any) -> Any:
    """The last `count` columns, for `logits_to_keep`.

    Not as a number: that cuts a view out of the hidden states, and on a CPU its product with the head copies the head once for every row.
    """
    import torch

    width = ids.shape[1]
    return torch.arange(width - count, width, device=ids.device)


def layers_are_plain(config: Any, name: str) -> bool:
    """True where a prefix may be shared. Sliding windows count columns, so padding inside a row would shorten them.

    UserError for layers with another state than keys and values, which this engine cannot batch at all.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    other = kinds - {DynamicLayer, DynamicSlidingWindowLayer}
    if other:
        names = ", ".join(sorted(kind.__name__ for kind in other))
        raise UserError(f"{name} keeps a state other than keys and values ({names}), which this engine cannot batch; "
                        "pick a plain transformer.")
    return DynamicSlidingWindowLayer not in kinds


def stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer: those the model's settings list, the tokenizer's, and the known ends of a turn."""
    settings = getattr(model, "generation_config", None)
    listed = getattr(settings, "eos_token_id", None)
    ids = set(listed) if isinstance(listed, (list, tuple)) else {listed}
    ids |= {tokenizer.eos_token_id, *(tokenizer.get_vocab().get(token) for token in END_OF_TURN)}
    return frozenset(token for token in ids if token is not None)


def token_budget(config: Any, dtype: Any, device: Any) -> int:
    """Cache tokens that fit: half of a GPU's free memory, or a quarter of the free RAM up to 2 GB."""
    import torch

    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_token = 2 * config.num_hidden_layers * heads * size * dtype.itemsize
    if device.type == "cuda":
        room = torch.cuda.mem_get_info(device)[0] // 2
    else:
        import psutil

        room = min(2 * 10**9, psutil.virtual_memory().available // 4)
    return int(max(2048, room // per_token))
