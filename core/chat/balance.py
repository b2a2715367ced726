"""A sample as even as the data allow: over the first property first, then within each value over the next, and so on.

Which rows of a cell are taken is a function of the seed and the row alone, so a set gives the same sample on every machine.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Mapping, Sequence

Cell = tuple[str, ...]


def even_shares(total: int, there: Mapping[str, int]) -> dict[str, int]:
    """How many to take of each kind so that the smallest is as large as can be: `total` of them, or all where there are not as many.

    What does not divide goes to the kinds that come first in sorted order.
    """
    left, waiting = min(total, sum(there.values())), sorted(there, key=lambda kind: (there[kind], kind))
    shares = dict.fromkeys(there, 0)
    for place, kind in enumerate(waiting):  # the rarest first: what it lacks is spread over the others
        if there[kind] * (len(waiting) - place) > left:
            each, more = divmod(left, len(waiting) - place)
            for number, other in enumerate(sorted(waiting[place:])):
                shares[other] = each + (number < more)
            break
        shares[kind] = there[kind]
        left -= there[kind]
    return shares


def quotas(total: int, cells: Mapping[Cell, int]) -> dict[Cell, int]:
    """How many rows to take of each cell (agent, category, difficulty): even over the first part, then within it over the second, ..."""
    if not cells or not next(iter(cells)):
        return {cell: min(total, count) for cell, count in cells.items()}
    there: Counter[str] = Counter()
    for cell, count in cells.items():
        there[cell[0]] += count
    taken: dict[Cell, int] = {}
    for head, share in even_shares(total, there).items():
        inner = {cell[1:]: count for cell, count in cells.items() if cell[0] == head}
        taken.update({(head, *rest): count for rest, count in quotas(share, inner).items()})
    return taken


def lot(seed: int, *row: object) -> int:
    """A row's place in the draw: 64 bits of a hash of the seed and whatever names the row."""
    return int.from_bytes(hashlib.sha256("|".join(map(str, (seed, *row))).encode("utf-8", "surrogatepass")).digest()[:8])


class Draw:
    """Which rows of a stream to take. First pass: `offer` every row. Then `settle`. Second pass: `takes` says of the same rows.

    there: rows of each cell. Of a cell that is taken whole nothing is remembered; of the others, one number for each row that is taken.
    """

    def __init__(self, quota: Mapping[Cell, int], there: Mapping[Cell, int]) -> None:
        self._whole = {cell for cell, count in there.items() if quota.get(cell, 0) >= count}
        self._quota = {cell: count for cell, count in quota.items() if cell not in self._whole}
        self._best: dict[Cell, list[int]] = {}  # the lowest lots of each cell, negated: a heap of at most the quota
        self._taken: dict[Cell, set[int]] = {}

    def offer(self, cell: Cell, number: int) -> None:
        """A row of this cell has this lot."""
        heap, quota = self._best.setdefault(cell, []), self._quota.get(cell, 0)
        if len(heap) < quota:
            heapq.heappush(heap, -number)
        elif heap and -number > heap[0]:
            heapq.heapreplace(heap, -number)

    def settle(self) -> None:
        """All rows have been offered."""
        self._taken = {cell: {-number for number in heap} for cell, heap in self._best.items()}

    def takes(self, cell: Cell, number: int) -> bool:
        """Is this row in the sample?"""
        return cell in self._whole or number in self._taken.get(cell, ())


def spread(cells: Mapping[Cell, int], names: Sequence[str]) -> dict[str, dict[str, int]]:
    """{property: {value: rows}} of counted cells, for reports."""
    found: dict[str, Counter[str]] = {name: Counter() for name in names}
    for cell, count in cells.items():
        for name, value in zip(names, cell, strict=True):
            found[name][value] += count
    return {name: dict(counts.most_common()) for name, counts in found.items()}
