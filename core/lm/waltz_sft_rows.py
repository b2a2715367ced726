"""Conversations as token ids, on the disk: what a training keeps in memory of each row is two numbers. No torch here.

The loss is taken on the last message, the assistant's. What stands before it is rendered by the chat template and tokenised apart, as
core/lm/sft_rows.py does it, so that an agent is trained on the very tokens that it is asked with.
"""

from __future__ import annotations

import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, overload

from core.lm.sft_rows import OnLong, TrainRow, TrainRows, end_of_turn, place_rows
from core.lm.template import render_chat
from core.methods import UserError
from core.records import ChatExample

CHUNK = 64
"""Conversations given to the tokenizer at once."""


class DiskRows(Sequence[TrainRow]):
    """Rows in an unnamed file of `folder`, which is gone with the process; read one at a time."""

    def __init__(self, folder: Path) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - `close` closes it
        self._ends = array("q")
        """Where each row ends, in tokens."""
        self._prompts = array("i")
        self._places = array("i")

    def append(self, row: TrainRow) -> None:
        """Write one more."""
        self._file.seek(0, 2)
        self._file.write(row.ids.tobytes())
        self._ends.append((self._ends[-1] if self._ends else 0) + len(row.ids))
        self._prompts.append(row.prompt)
        self._places.append(row.index)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, place: int) -> TrainRow: ...

    @overload
    def __getitem__(self, place: slice) -> list[TrainRow]: ...

    def __getitem__(self, place: int | slice) -> TrainRow | list[TrainRow]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        place %= len(self)
        start, ids = self._ends[place - 1] if place else 0, array("i")
        self._file.seek(start * ids.itemsize)
        ids.frombytes(self._file.read((self._ends[place] - start) * ids.itemsize))
        return TrainRow(self._places[place], ids, self._prompts[place])

    def __iter__(self) -> Iterator[TrainRow]:
        return (self[place] for place in range(len(self)))

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()


def build_chat_rows(examples: Iterable[ChatExample], tokenizer: Any, folder: Path, *, max_length: int = 0,
                    on_long: OnLong = "drop") -> TrainRows:
    """Tokenise conversations one chunk after the other. max_length 0 = no limit; "cut" keeps the first tokens of an answer.

    `rows` of what is returned is a DiskRows; `index` of a row counts the examples from 0. UserError where the tokenizer has no chat
    template, and for longer rows with on_long = "error".
    """
    rows = DiskRows(folder)
    made = TrainRows(rows)
    place_rows(_tokenised(examples, tokenizer, made.refused), made, rows.append, end_of_turn(tokenizer, chat=True), max_length, on_long)
    return made


def _tokenised(examples: Iterable[ChatExample], tokenizer: Any, refused: Counter[str]) -> Iterator[tuple[int, list[int], list[int]]]:
    waiting = enumerate(examples)
    while chunk := list(islice(waiting, CHUNK)):
        kept, prompts, answers = [], [], []
        for index, example in chunk:
            try:
                prompt = render_chat(tokenizer, example.messages[:-1])
            except UserError as error:
                if not tokenizer.chat_template:
                    raise
                refused[str(error)] += 1
                continue
            kept.append(index)
            prompts.append(prompt)
            answers.append(example.messages[-1]["content"])
        if kept:
            yield from zip(kept, tokenizer(prompts, add_special_tokens=False)["input_ids"],
                           tokenizer(answers, add_special_tokens=False)["input_ids"], strict=True)
