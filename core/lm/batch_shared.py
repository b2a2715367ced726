"""Keys and values of a running batch in three parts, so that what rows share is stored once and read once a step.

    the beginning that all prompts of a run share  |  the rest of each prompt, shared by its samples  |  each row's own answer

Decoding on a CPU is bound by memory. With k samples of a long prompt most columns are shared: here the queries of all rows that
share some go through them together, as one matrix product, and the three results are put together by their softmax sums.
The same numbers come out as from one attention over all columns, up to rounding (tests/test_generate.py).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from core.lm.batch_rows import Row

ATTENTION = "guardwaltz_shared"
"""The name under which the library's models find `_attention` below, for the time of a decoding step."""
COLUMNS = 32
"""Answers get room for so many more tokens at a time: all of it is read, since products of whole buffers are much the fastest."""


class SharedTable:
    """The cache of a batch whose layers are plain attention on a CPU. The same methods as batch_rows.Table."""

    def __init__(self) -> None:
        self.answers = _Part()
        """One unit for each row."""
        self.prompts = _Part()
        """One unit for each prompt that a running row has."""
        self.prefix: Any = None
        """A cache with one row: the shared beginning."""
        self.slots: list[int] = []
        """Of each row: its prompt's unit."""
        self.heads: list[int] = []
        """Of each row: how many tokens of the shared beginning are its prompt's."""
        self.units: dict[int, int] = {}
        """id of a prompt's token list -> its unit. The list lives as long as a row has it."""
        self.cache: Any = None
        self.step: _Step | None = None

    def room(self, rows: list[Row], head: int) -> int:
        """Tokens that these rows need at most, where `head` tokens of each prompt are shared."""
        prompts = {id(row.prompt): len(row.prompt) for row in rows}
        rest = max(prompts.values(), default=0) - head
        return len(prompts) * max(rest, 1) + len(rows) * max((row.limit for row in rows), default=0)

    def reserve(self, running: list[Row], coming: list[Row], like: Any, head: int) -> None:
        """Room for `coming` beside `running`; `head` tokens of each prompt are in the shared beginning."""
        if self.cache is None:
            self.cache = _cache(self, len(like.layers))
        new = {id(row.prompt): len(row.prompt) - head for row in coming if id(row.prompt) not in self.units}
        self.prompts.reserve(like, len(self.units) + len(new), max(new.values(), default=1))
        self.answers.reserve(like, len(running) + len(coming), COLUMNS)

    def fill(self, position: int, row: Row, cache: Any, source: int, head: int) -> None:
        """Take over a freshly computed row: in `cache` the shared beginning stands at the left, the rest at the right."""
        unit = self.units.get(id(row.prompt))
        if unit is None:
            unit = self.units[id(row.prompt)] = len(self.units)
            self.prompts.take(unit, cache, source, len(row.prompt) - head)
        self.slots[position:] = [unit]
        self.heads[position:] = [head]
        self.answers.lengths[position:] = [0]

    def move(self, source: int, target: int, _: Row) -> None:
        """Put row `source` in the place of row `target`."""
        self.answers.move(source, target)
        self.slots[target], self.heads[target] = self.slots[source], self.heads[source]

    def trim(self, running: list[Row]) -> None:
        """Forget rows beyond the running ones, and prompts that no row has any more."""
        count = len(running)
        del self.slots[count:], self.heads[count:], self.answers.lengths[count:]
        used = set(self.slots)
        for name in [name for name, unit in self.units.items() if unit not in used]:
            gap, last = self.units.pop(name), len(self.units)
            if gap != last:
                self.prompts.move(last, gap)
                self.slots = [gap if slot == last else slot for slot in self.slots]
                self.units[next(key for key, unit in self.units.items() if unit == last)] = gap
            self.prompts.lengths.pop()

    @contextmanager
    def reading(self, rows: list[Row], config: Any, device: Any) -> Iterator[tuple[Any, Any]]:
        """(attention mask, cache) for one decoding step of all rows; the model's attention is ours meanwhile."""
        _register()
        self.answers.fit(max(self.answers.lengths) + 1)
        self.step = _Step(self, device)
        before = config._attn_implementation
        config._attn_implementation = ATTENTION
        try:
            yield None, self.cache
        finally:
            config._attn_implementation = before
            self.step = None
        self.answers.lengths = [length + 1 for length in self.answers.lengths]

    def attend(self, number: int, query: Any, key: Any, value: Any, scale: float) -> Any:
        """Attention of one new token per row in layer `number`. query: rows x heads x 1 x size -> rows x 1 x heads x size."""
        step = self.step
        assert step is not None
        count, heads, _, size = query.shape
        kinds = key.shape[1]  # heads of keys and values, each for a group of query heads
        query = query.view(count, kinds, heads // kinds, size)
        found = [step.answers(self.answers.layers[number], query, key, value, scale),
                 step.prompts(self.prompts.layers[number], query, scale)]
        if step.prefix_columns:
            layer = self.prefix.layers[number]
            found.append(step.prefix(layer.keys, layer.values, query, scale))
        return _put_together(found).to(query.dtype).reshape(count, 1, heads, size)


class _Part:
    """Buffers of units x heads x columns x size for the keys and the values of every layer; each unit is filled from the left."""

    def __init__(self) -> None:
        self.layers: list[list[Any]] = []
        self.lengths: list[int] = []
        self.height = self.columns = 0

    def reserve(self, like: Any, units: int, columns: int) -> None:
        """Room for so many units of so many columns; `like`: a cache whose layers show heads, size and number format."""
        if units <= self.height and columns <= self.columns:
            return
        old, longest = self.layers, max(self.lengths, default=0)
        if units > self.height:  # a quarter more than before, so that it is not copied again for the next one; unused room stays untouched
            self.height = max(units, self.height + self.height // 4)
        self.columns = max(columns, self.columns)
        self._rebuild(like, old, longest)

    def fit(self, columns: int) -> None:
        """Room for so many columns, and not for many more."""
        wanted = -(-columns // COLUMNS) * COLUMNS
        if wanted > self.columns or wanted <= self.columns // 2:
            old, self.columns = self.layers, wanted
            self._rebuild(_Like(old), old, max(self.lengths))

    def _rebuild(self, like: Any, old: list[list[Any]], longest: int) -> None:
        self.layers = []
        for number, layer in enumerate(like.layers):
            shapes = [(states, (self.height, states.shape[1], self.columns, states.shape[3])) for states in (layer.keys, layer.values)]
            pair = [states.new_zeros(shape) for states, shape in shapes]
            if old and longest:
                for new, before in zip(pair, old[number], strict=True):
                    new[:len(self.lengths), :, :longest] = before[:len(self.lengths), :, :longest]
            self.layers.append(pair)

    def take(self, unit: int, cache: Any, source: int, length: int) -> None:
        """Copy the last `length` columns of row `source` of `cache` into `unit`, the next free one."""
        for pair, layer in zip(self.layers, cache.layers, strict=True):
            for buffer, states in zip(pair, (layer.keys, layer.values), strict=True):
                buffer[unit, :, :length] = states[source, :, states.shape[-2] - length:]
        self.lengths[unit:] = [length]

    def move(self, source: int, target: int) -> None:
        """Copy a unit over another."""
        length = self.lengths[target] = self.lengths[source]
        for pair in self.layers:
            for buffer in pair:
                buffer[target, :, :length] = buffer[source, :, :length]


class _Like:
    """Buffers in the shape of a cache."""

    def __init__(self, layers: list[list[Any]]) -> None:
        self.layers = [_LikeLayer(*pair) for pair in layers]


class _LikeLayer:
    def __init__(self, keys: Any, values: Any) -> None:
        self.keys, self.values = keys, values


class _Step:
    """What is the same in all layers of one decoding step: who shares what, and which columns are whose."""

    def __init__(self, table: SharedTable, device: Any) -> None:
        import torch

        lengths = table.answers.lengths
        self.count = len(lengths)
        self.rows = torch.arange(self.count, device=device)
        self.columns = torch.tensor(lengths, device=device)
        self.answer_mask = _mask([length + 1 for length in lengths], device, table.answers.columns)
        self.prompt_columns = max(table.prompts.lengths)
        self.prompt_mask = _mask(table.prompts.lengths, device)
        lanes: list[list[int]] = [[] for _ in table.prompts.lengths]
        places = []
        for row, slot in enumerate(table.slots):
            places.append((slot, len(lanes[slot])))
            lanes[slot].append(row)
        self.width = max(map(len, lanes))
        # rows by prompt; a prompt with fewer running rows than another one gets its first row again, whose result is not read
        self.by_prompt = torch.tensor([lane + lane[:1] * (self.width - len(lane)) for lane in lanes], device=device)
        self.back = torch.tensor([slot * self.width + lane for slot, lane in places], device=device)
        self.prefix_columns = max(table.heads)
        self.prefix_mask = _mask(table.heads, device)
        self.outside = torch.tensor([head == 0 for head in table.heads], device=device) if 0 in table.heads else None
        self.masks: dict[tuple[str, Any], Any] = {}

    def answers(self, layer: list[Any], query: Any, key: Any, value: Any, scale: float) -> tuple[Any, Any]:
        """Write the new token's key and value, then read each row's own columns: two products and a softmax in float32.

        With the few queries of one row the kernel of `_flash` spends most of its time on preparations.
        """
        import torch

        keys, values = layer
        keys[self.rows, :, self.columns] = key[:, :, 0]
        values[self.rows, :, self.columns] = value[:, :, 0]
        count, kinds, group, size = query.shape
        flat = query.reshape(count * kinds, group, size)
        scores = torch.bmm(flat, keys[:count].flatten(0, 1).transpose(1, 2)).float().mul_(scale).view(count, kinds, group, -1)
        if self.answer_mask is not None:
            scores += self.answer_mask[:, None, None]
        best = scores.amax(-1, keepdim=True)
        shares = (scores - best).exp_()
        total = shares.sum(-1, keepdim=True)
        out = torch.bmm(shares.view(count * kinds, group, -1).to(query.dtype), values[:count].flatten(0, 1)).view(count, kinds, group, size)
        return out / total, (best + total.log())[..., 0]

    def prompts(self, layer: list[Any], query: Any, scale: float) -> tuple[Any, Any]:
        """The samples of one prompt read it together: units x heads x (samples * group) queries."""
        keys, values = (buffer[:len(self.by_prompt), :, :self.prompt_columns] for buffer in layer)
        kinds, group, size = query.shape[1:]
        units = len(self.by_prompt)
        together = query[self.by_prompt].transpose(1, 2).reshape(units, kinds, self.width * group, size)
        out, sums = _flash(together, keys, values, self._mask_for("prompts", query), scale)
        out = out.view(units, kinds, self.width, group, size).transpose(1, 2).reshape(-1, kinds, group, size)[self.back]
        sums = sums.reshape(units, kinds, self.width, group).transpose(1, 2).reshape(-1, kinds, group)[self.back]
        return out, sums

    def prefix(self, keys: Any, values: Any, query: Any, scale: float) -> tuple[Any, Any]:
        """All rows read the shared beginning together: 1 x heads x (rows * group) queries."""
        keys, values = keys[:, :, :self.prefix_columns], values[:, :, :self.prefix_columns]
        count, kinds, group, size = query.shape
        together = query.transpose(0, 1).reshape(1, kinds, count * group, size)
        out, sums = _flash(together, keys, values, self._mask_for("prefix", query), scale)
        out = out.view(kinds, count, group, size).transpose(0, 1)
        sums = sums.reshape(kinds, count, group).transpose(0, 1)
        return out, sums if self.outside is None else sums.masked_fill(self.outside[:, None, None], -math.inf)

    def _mask_for(self, part: str, query: Any) -> Any:
        """The additive mask of a part, made once a step; None where every column is read."""
        mask = {"prompts": self.prompt_mask, "prefix": self.prefix_mask}[part]
        if mask is None:
            return None
        if (part, query.dtype) not in self.masks:
            mask, group = mask.to(query.dtype), query.shape[2]
            if part == "prefix":
                mask = mask[:, None].expand(-1, group, -1).reshape(1, 1, self.count * group, -1)
            else:
                mask = mask[:, None, None]
            self.masks[part, query.dtype] = mask
        return self.masks[part, query.dtype]


def _mask(lengths: list[int], device: Any, columns: int = 0) -> Any:
    """rows x columns: 0 where a row of that length has a column, minus infinity elsewhere; None where all have all.

    columns: how many are read; 0 = as many as the longest row has.
    """
    import torch

    columns = columns or max(lengths)
    if min(lengths) == columns:
        return None
    beyond = torch.arange(columns, device=device) >= torch.tensor(lengths, device=device)[:, None]
    return torch.zeros(beyond.shape, device=device).masked_fill_(beyond, -math.inf)


def _flash(query: Any, keys: Any, values: Any, mask: Any, scale: float) -> tuple[Any, Any]:
    """(softmax(query keys) values, log of the softmax sums in float32), by the kernel behind torch's CPU attention.

    That kernel is the only one that says the sums as well; its result for a row without any column is 0 with sum 0.
    """
    import torch

    if mask is not None:
        mask = mask.expand(query.shape[0], 1, query.shape[2], keys.shape[2])
    out, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, keys, values, attn_mask=mask, scale=scale)
    return out, sums


def _put_together(found: list[tuple[Any, Any]]) -> Any:
    """One attention from those over parts of its columns, in float32: a part weighs as much as its share of the softmax sum."""
    import torch

    weights = torch.stack([sums for _, sums in found]).softmax(0).unsqueeze(-1)
    return sum(weight * out for weight, (out, _) in zip(weights, found, strict=True))


def can_share(model: Any, config: Any, plain: bool) -> bool:
    """May the model's attention be replaced by ours for decoding? plain: no layer has a sliding window or another state."""
    core = model.get_base_model() if hasattr(model, "get_base_model") else model
    odd = ("attn_logit_softcapping", "kv_lora_rank", "attention_chunk_size")  # a bound on the scores; keys unlike values; windows
    return (plain and model.device.type == "cpu" and bool(getattr(core, "_supports_attention_backend", False))
            and config._attn_implementation == "sdpa" and not any(getattr(config, name, None) for name in odd))


def _attention(_module: Any, query: Any, key: Any, value: Any, _no_mask: Any, scaling: float | None = None,
               **options: Any) -> tuple[Any, None]:
    """What the library's models call instead of their own attention while `SharedTable.reading` is open."""
    for name in ("softcap", "s_aux", "sliding_window", "position_bias"):
        if options.get(name) is not None:
            raise ValueError(f"attention with {name} is not what core/lm/batch_shared.py computes; leave its model out of can_share")
    table, number = key.shared_table
    return table.attend(number, query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling), None


@functools.cache
def _register() -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attention)


def _cache(table: SharedTable, layers: int) -> Any:
    from transformers import Cache

    return Cache(layers=[_layer_class()(table, number) for number in range(layers)])


@functools.cache
def _layer_class() -> Any:
    """One layer, as the library's models expect it: it hands the new keys on, with the table they belong to."""
    from transformers.cache_utils import DynamicLayer

    class SharedLayer(DynamicLayer):  # type: ignore[misc, unused-ignore]
        def __init__(self, table: SharedTable, number: int) -> None:
            super().__init__()
            self.table, self.number = table, number
            self.is_initialized = True

        def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
            key_states.shared_table = (self.table, self.number)
            return key_states, value_states

        def get_seq_length(self) -> int:
            return max(self.table.answers.lengths, default=0)

    return SharedLayer
