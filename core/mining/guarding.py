"""The split guard (promise 5) for rows that stream by: a batch at a time, counting what it finds."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from core.methods import UserError
from core.split_guard import GuardedRows, SplitHits, pair_key, prompt_key

if TYPE_CHECKING:
    from core.store import Store

BATCH = 256
Item = TypeVar("Item")


@dataclass
class GuardTally:
    """What the guard found so far."""

    count: int = 0
    exact: int = 0
    by_set: Counter[str] = field(default_factory=Counter)

    @property
    def hits(self) -> SplitHits:
        """As core/split_guard.py words it."""
        return SplitHits(self.count, self.exact, dict(self.by_set.most_common()))

    def record(self, *, dropped: bool) -> dict[str, Any]:
        """For report.json: present in every report, so that "no hits" is said and not merely left out."""
        return GuardedRows([], self.hits, self.count if dropped else 0, bool(self.count) and not dropped).record


def refusal(hits: SplitHits) -> str:
    """What to say when rows of test sets were found and neither flag is set."""
    return (f"The data holds {hits}. Set exclude_test_rows=true to leave them out, or choose other data. "
            "(allow_test_rows=true uses them; every report after it will say so.)")


def marked(items: Iterable[Item], text_of: Callable[[Item], tuple[str, str | None]], store: Store,
           tally: GuardTally) -> Iterator[tuple[Item, bool]]:
    """(item, is its prompt in a registered test set?) in order; `tally` counts. text_of gives (prompt, response)."""
    stream = iter(items)
    while batch := list(itertools.islice(stream, BATCH)):
        keys = [(prompt_key(prompt), pair_key(prompt, response)) for prompt, response in map(text_of, batch)]
        known = store.test_hits(key for pair in keys for key in pair)
        for item, (prompt, pair) in zip(batch, keys, strict=True):
            if prompt in known:
                tally.count += 1
                tally.exact += pair in known
                tally.by_set[known[prompt]] += 1
            yield item, prompt in known


def passing(items: Iterable[Item], text_of: Callable[[Item], tuple[str, str | None]], store: Store, tally: GuardTally, *,
            allow: bool) -> Iterator[Item]:
    """Items that may be used: those of no test set, or (allow) all. Whether any were found is in `tally`; refusing is the caller's."""
    return (item for item, is_test in marked(items, text_of, store, tally) if allow or not is_test)


def refuse_test_rows(tally: GuardTally, *, exclude: bool, allow: bool) -> None:
    """UserError where rows of test sets were found and the settings do not say what to do with them."""
    if tally.count and not (exclude or allow):
        raise UserError(refusal(tally.hits))
