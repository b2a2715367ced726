"""Preference pairs as records: made from a hard row, and read back by whoever trains on them."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.methods import UserError
from core.mining.choosing import Places
from core.records import GuardExample, HardSample, Labels, Preference, lines_of

FILE = "preferences.jsonl"
_TEXTS = ("prompt", "chosen", "rejected")


def as_preference(sample: HardSample, places: Places, weight: float, prompt_format: Any, why: str, asked: Labels) -> Preference:
    """The pair of two outputs of a row, in TRL's layout: messages where the format goes through a chat template, else text.

    asked: the gold labels that mining asked by (formats with a single verdict show a text that depends on them).
    """
    example = GuardExample(prompt=sample.prompt, response=sample.response, labels=asked)
    prompt = prompt_format.prompt(example)
    chosen, rejected = (sample.outputs[place].text for place in places)
    said: dict[str, Any] = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    if prompt_format.chat:
        said = {name: [{"role": "user" if name == "prompt" else "assistant", "content": text}] for name, text in said.items()}
    return Preference(**said, weight=weight, why=why, prompt_format=prompt_format.name, model=sample.model, task=sample.task,
                      k_correct=sample.k_correct, k_incorrect=sample.k_incorrect, user_prompt=sample.prompt,
                      user_response=sample.response, source=sample.source, row=sample.row)


def load_preferences(path: Path, *, need_weights: bool = True) -> Iterator[Preference]:
    """Pairs of a preferences.jsonl, or of a plain TRL preference file (prompt, chosen, rejected, perhaps weight), one after another.

    Columns that TRL's other tools add are passed over. need_weights=False: a pair without weight counts as 1.
    UserError names file and line: a line that is cut off or not whole, a missing text, a weight that is missing, 0, negative, NaN or
    infinite, two equal answers; and a file without pairs.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}; build pairs with build-pairs, or name a JSON Lines file of preferences.")
    count = 0
    for number, line in lines_of(path):
        if line.strip():
            yield _preference(line, f"{path}, line {number}", need_weights)
            count += 1
    if not count:
        raise UserError(f"{path} holds no pairs; build them with build-pairs from a mining run that found hard samples.")


def _preference(line: bytes, where: str, need_weights: bool) -> Preference:
    try:
        values = json.loads(line)
    except ValueError as error:
        torn = "is cut off" if not line.endswith(b"\n") else "is not JSON"
        raise UserError(f"{where} {torn} ({error}); write the file again.") from None
    if not isinstance(values, dict):
        raise UserError(f"{where} is not an object with prompt, chosen and rejected.")
    for name in _TEXTS:
        if not _is_said(values.get(name)):
            raise UserError(f"{where}: {name} is missing, empty, or neither text nor messages (role, content).")
    if len({isinstance(values[name], str) for name in _TEXTS}) > 1:
        raise UserError(f"{where}: prompt, chosen and rejected must be all text or all messages.")
    if values["chosen"] == values["rejected"]:
        raise UserError(f"{where}: chosen and rejected are the same, so there is nothing to prefer; take the pair out.")
    _check_weight(values, where, need_weights)
    try:
        return Preference.model_validate({name: value for name, value in values.items() if name in Preference.model_fields})
    except ValueError as error:
        raise UserError(f"{where} is no preference pair: {str(error).splitlines()[2].strip()}.") from None


def _check_weight(values: dict[str, Any], where: str, needed: bool) -> None:
    if values.get("weight") is None:
        values.pop("weight", None)
        if needed:
            raise UserError(f"{where} has no weight; build the pairs with build-pairs, or train without weights.")
        return
    weight = values["weight"]
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < _as_float32(weight) < math.inf:
        said = repr(weight)
        said = said if len(said) <= 40 else f"{said[:20]}... ({len(said)} characters)"
        raise UserError(f"{where}: weight = {said} is not a number above 0 that float32 can hold; with gamma below 1, build-pairs makes "
                        "none like it.")


def _as_float32(weight: float) -> float:
    """The weight as the training keeps it: infinite or 0 where that is out of reach."""
    try:
        return array("f", [weight])[0]
    except OverflowError:  # a whole number beyond every float
        return math.inf


def _is_said(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value)
    return isinstance(value, list) and bool(value) and all(isinstance(turn, dict) and _is_turn(turn) for turn in value)


def _is_turn(turn: dict[str, Any]) -> bool:
    return isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
