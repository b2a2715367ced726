"""Parts of a training set, for the variants of an ensemble (GuardReasoner: "R-SFT on different subsets of the training data")."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterator

from core.data import DataSource, stream_examples
from core.methods import UserError
from core.records import GuardExample
from core.runs import Workspace


def source_sizes(source: DataSource, workspace: Workspace) -> Counter[str]:
    """{source: training rows} of a set."""
    return Counter(example.source for example in stream_examples(source, workspace) if _is_training(example))


def part_of(source: DataSource, workspace: Workspace, *, share: float, leave_out: Collection[str], seed: int) -> Iterator[GuardExample]:
    """Training rows without the sources `leave_out`, of these a random `share` (0 to 1], in their old order.

    Validation rows all stay, so that variants are measured on the same rows; test rows do not.
    """
    sizes = source_sizes(source, workspace)
    if unknown := sorted(set(leave_out) - set(sizes)):
        known = ", ".join(repr(name) for name, _ in sizes.most_common(20))
        raise UserError(f"leave_out = {unknown[0]!r}: {source.name} has no training rows of that source; its sources: {known}.")
    there = sizes.total() - sum(sizes[name] for name in leave_out)
    count = round(share * there)
    if not count:
        raise UserError(f"Nothing is left of the {sizes.total():,} training rows of {source.name} (share = {share:g}, without "
                        f"{', '.join(leave_out) or 'no source'}); take a larger share or leave out fewer sources.")
    wanted = set(random.Random(seed).sample(range(there), count)) if count < there else None
    number = 0
    for example in stream_examples(source, workspace):
        if example.split == "validation":
            yield example
        elif _is_training(example) and example.source not in leave_out:
            if wanted is None or number in wanted:
                yield example
            number += 1


def _is_training(example: GuardExample) -> bool:
    return example.split in (None, "train")
