"""Which right and which wrong answer of a hard row make a preference pair."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Literal

from core.mining.edits import Edited
from core.mining.samples import Unparsed, outcome
from core.records import HardSample
from core.split_guard import pair_key

Pick = Literal["random", "longest", "all"]
"""random: one right and one wrong answer by the seed (the paper). longest: the longest of each (its released code). all: every
right with every wrong one."""
Places = tuple[int, int]
"""(chosen, rejected): indices of outputs."""


def sides(sample: HardSample, unparsed: Unparsed) -> tuple[list[int], list[int]]:
    """(right, wrong) outputs on the row's task, by index. An empty answer teaches nothing and is on neither side."""
    found = [outcome(sample, output, sample.task) for output in sample.outputs]
    wrong = {"incorrect", "unparsed"} if unparsed == "incorrect" else {"incorrect"}
    written = [index for index, output in enumerate(sample.outputs) if output.text.strip()]
    return [index for index in written if found[index] == "correct"], [index for index in written if found[index] in wrong]


def hand_pair(edited: Edited, hard: HardSample, unparsed: Unparsed) -> Places | None:
    """The pair that a person picked, while it holds; `hard` is the edited row.

    A pair against the gold label is void where the label was changed after it was picked, for it was picked under another label. Newer
    than the label, or without a change of it, it is what the person wants.
    """
    if edited.pair is None or not edited.overtaken:
        return edited.pair
    right, wrong = sides(hard, unparsed)
    return edited.pair if edited.pair[0] in right and edited.pair[1] in wrong else None


def choose_pairs(sample: HardSample, pick: Pick, unparsed: Unparsed, *, seed: int, most: int) -> list[Places]:
    """The pairs of a row; [] where one side has no answer. `most` caps "all", by drawing.

    Chance depends on the seed and the row's own texts, so a pair does not change when other rows come or go.
    """
    right, wrong = sides(sample, unparsed)
    if not right or not wrong:
        return []
    chance = random.Random(f"{seed}/{pair_key(sample.prompt, sample.response)}")
    if pick == "random":
        return [(chance.choice(right), chance.choice(wrong))]
    if pick == "longest":
        return [(_longest(sample, right), _longest(sample, wrong))]
    everything = list(itertools.product(right, wrong))
    return everything if len(everything) <= most else sorted(chance.sample(everything, most))


def _longest(sample: HardSample, places: Sequence[int]) -> int:
    """The longest text in characters; of equally long ones the first."""
    return max(places, key=lambda index: len(sample.outputs[index].text))
