"""One row of a running batch, and the table of keys and values that all rows share."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class Row:
    """One answer in the making."""

    number: int
    index: int
    sample: int
    prompt: list[int]
    limit: int
    note: str = ""
    out: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    """Of each token of `out`, where they are asked for."""
    start: int = 0
    """Column of the cache table that holds the prompt's first token."""
    began: float = 0.0
    finish: Literal["stop", "length"] | None = None


class Table:
    """Keys and values of all running rows, with room to grow: rows by columns, every row right-aligned at `used`.

    The library's cache copies itself for every token; here a token writes one column, and a row that leaves or enters copies
    one row. Columns [first, used) are in use.
    """

    def __init__(self) -> None:
        self.first = self.used = self.rows = self.height = self.columns = 0
        self.cache: Any = None
        self.prefix: Any = None
        """Not read again: every row has its own copy of the shared beginning."""

    def room(self, rows: list[Row], _: int) -> int:
        """Tokens that these rows need at most; what their prompts share is stored with each."""
        return len(rows) * max((len(row.prompt) + row.limit for row in rows), default=0)

    def reserve(self, running: list[Row], coming: list[Row], like: Any, _: int) -> None:
        """Room for `coming` beside `running`, until every one of them has reached its limit."""
        height = len(running) + len(coming)
        longest = max(len(row.prompt) for row in coming)
        ahead = max(row.limit - len(row.out) for row in running + coming)
        if not running and longest + ahead <= self.columns:
            self.first = self.used = longest  # nothing to keep: start again at the left
        if height > self.height or longest > self.used or self.used + ahead > self.columns:
            self._rebuild(running, height, longest, ahead, like)

    def fill(self, position: int, row: Row, cache: Any, source: int, head: int) -> None:
        """Copy a freshly computed row in: in `cache` the shared prefix stands at the left, the rest at the right, padding between."""
        row.start = self.used - len(row.prompt)
        for fresh, layer in zip(cache.layers, self.cache.layers, strict=True):
            layer.fill(position, row.start, self.used, fresh, source, head)

    def move(self, source: int, target: int, row: Row) -> None:
        """Put `row`, which is number `source`, in the place of number `target`."""
        for layer in self.cache.layers:
            layer.copy_row(source, target, row.start, self.used)

    def trim(self, running: list[Row]) -> None:
        """Columns that no running row uses any more are not read again."""
        self.rows = len(running)
        self.first = min((row.start for row in running), default=self.used)

    @contextmanager
    def reading(self, rows: list[Row], _config: Any, device: Any) -> Iterator[tuple[Any, Any]]:
        """(attention mask, cache) for one decoding step of all rows."""
        import torch

        starts = torch.tensor([row.start for row in rows], device=device)
        columns = torch.arange(self.first, self.used + 1, device=device)
        yield (columns >= starts[:, None]).long(), self.cache
        self.used += 1

    def _rebuild(self, running: list[Row], height: int, longest: int, ahead: int, like: Any) -> None:
        """New buffers, without the columns that are no longer used and with room for the longest row."""
        width = self.used - self.first
        used = max(width, longest)
        columns = used + ahead + max(64, (used + ahead) // 4)
        if self.cache is None:
            self.cache = _table_cache(self, len(like.layers))
        for layer, model_layer in zip(self.cache.layers, like.layers, strict=True):
            layer.rebuild(len(running), height, columns, self.first, self.used, used, model_layer)
        shift = used - self.used
        for row in running:
            row.start += shift
        self.first, self.used, self.height, self.columns = used - width, used, height, columns


def _table_cache(table: Table, layers: int) -> Any:
    from transformers import Cache

    return Cache(layers=[_layer_class()(table) for _ in range(layers)])


@functools.cache
def _layer_class() -> Any:
    """One layer of the table, as the library's models expect it. Made on first use: importing this file must not load torch."""
    import torch
    from transformers.cache_utils import DynamicLayer

    class TableLayer(DynamicLayer):  # type: ignore[misc, unused-ignore]
        def __init__(self, table: Table) -> None:
            super().__init__()
            self.table = table
            self.buffers: list[Any] = []  # keys, values: rows x heads x columns x size
            self.is_initialized = True

        def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
            rows, used, first = self.table.rows, self.table.used, self.table.first
            end = used + key_states.shape[-2]
            for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
                buffer[:rows, :, used:end] = states
            self.keys, self.values = (buffer[:rows, :, first:end] for buffer in self.buffers)
            return self.keys, self.values

        def get_seq_length(self) -> int:
            return self.table.used - self.table.first

        def fill(self, row: int, start: int, end: int, fresh: Any, source: int, head: int) -> None:
            rest = end - start - head
            for buffer, states in zip(self.buffers, (fresh.keys, fresh.values), strict=True):
                buffer[row, :, start:start + head] = states[source, :, :head]
                buffer[row, :, end - rest:end] = states[source, :, states.shape[-2] - rest:]

        def copy_row(self, source: int, target: int, start: int, end: int) -> None:
            for buffer in self.buffers:
                buffer[target, :, start:end] = buffer[source, :, start:end]

        def rebuild(self, rows: int, height: int, columns: int, first: int, used: int, end: int, like: Any) -> None:
            likes = self.buffers or [like.keys, like.values]
            fresh = [torch.zeros((height, old.shape[1], columns, old.shape[3]), dtype=old.dtype, device=old.device) for old in likes]
            for new, old in zip(fresh, self.buffers, strict=False):
                new[:rows, :, end - (used - first):end] = old[:rows, :, first:used]
            self.buffers = fresh
            self.keys, self.values = fresh

    return TableLayer
