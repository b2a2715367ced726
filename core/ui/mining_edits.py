"""What the buttons of an input do: each writes one line into edits.jsonl of the mining run. The outputs stay as they were mined."""

from __future__ import annotations

import time
from typing import Any

from core.methods import UserError
from core.mining.edits import Edit, Edited, add_edit, edits_file
from core.records import NEGATIVE, POSITIVE, TASKS
from core.ui.mining_input import newest, picked, sides_of
from core.ui.mining_pairs import chosen_pair
from core.ui.mining_run import NOBODY, Built, Miner


def change(miner: Miner, place: int, word: str, value: str, who: str, built: Built | None = None) -> None:
    """Write the edit that a click asks for: exclude (or include again), gold, pick-chosen, pick-rejected, undo.

    UserError where it does not fit the row. `who`: the name somebody logged in with, "" without one.
    """
    edited = miner.edited(place)
    fields: dict[str, Any] | None
    if word == "exclude":
        fields = {"kind": "include" if edited.excluded else "exclude"}
        if not edited.excluded and not miner.is_hard(place):
            raise UserError(f"Input {edited.sample.row} is not hard, so it has no pair to exclude.")
    elif word == "gold":
        fields = _gold(value, edited)
    elif word in ("pick-chosen", "pick-rejected"):
        fields = _picked(miner, place, word.removeprefix("pick-"), value, built)
    else:
        last = newest(edited.edits)
        fields = None if last is None else {"kind": "include"} if last.kind == "exclude" else {"kind": last.kind, "task": last.task}
    if fields is not None:
        edit = Edit(t=round(time.time(), 3), who=who or NOBODY, row=edited.sample.row, **fields)
        add_edit(edits_file(miner.run.dir), edit, edited.original)


def _gold(value: str, edited: Edited) -> dict[str, Any] | None:
    """"request harmful"; the label that is there already is no edit, and the original one takes an edit back."""
    task, _, label = value.partition(" ")
    if task not in TASKS or label not in (POSITIVE[task], NEGATIVE[task]):
        raise UserError(f"{value!r} is no task with a label, such as “request harmful”.")
    if getattr(edited.sample.gold, task) == label:
        return None
    return {"kind": "gold", "task": task, "label": None if getattr(edited.original.gold, task) == label else label}


def _picked(miner: Miner, place: int, side: str, value: str, built: Built | None) -> dict[str, Any] | None:
    edited = miner.edited(place)
    pairs = built.pairs_of(edited.sample.row, edited.sample.model) if built else []
    now = chosen_pair(miner.hand_pair(edited), edited, built.path if built else None, pairs)
    pair = picked(sides_of(miner, edited), now, side, int(value)) if value.isdecimal() else None
    if pair is None:
        needed = "right" if side == "chosen" else "wrong"
        raise UserError(f"Output {value} of input {edited.sample.row} cannot be the {side} one: it is not {needed} on the deciding task.")
    return None if pair == edited.pair else {"kind": "swap", "chosen": pair[0], "rejected": pair[1]}
