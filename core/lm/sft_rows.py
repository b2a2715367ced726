"""Rows to learn from: examples become token ids, prompt first, then the answer and the token that ends the turn.

No torch here: the check before a start counts tokens with this too.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from core.formats import PromptFormat, RowError
from core.lm.template import render_chat
from core.methods import UserError
from core.records import GuardExample

OnLong = Literal["drop", "cut", "error"]
CHUNK = 512
"""Texts given to the tokenizer at once."""


@dataclass(frozen=True)
class TrainRow:
    """One row as tokens. The loss is taken on the tokens from `prompt` on."""

    index: int
    """Place of its example in the list given to `build_rows`."""
    ids: array[int]
    prompt: int
    """Tokens of the prompt."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def answer(self) -> int:
        """Tokens that are learned."""
        return len(self.ids) - self.prompt


@dataclass
class TrainRows:
    """Rows that can be learned from, and what became of the others."""

    rows: Sequence[TrainRow] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    """Examples the prompt format cannot turn into an answer, by reason."""
    too_long: int = 0
    """Rows over max_length, whatever was done with them."""
    longest: int = 0
    """Tokens of the longest row, before any cut."""
    dropped: int = 0
    cut: int = 0

    @property
    def seen(self) -> int:
        """All examples that were looked at."""
        return len(self.rows) + self.dropped + self.refused.total()

    @property
    def tokens(self) -> int:
        """Tokens of all rows, prompts included."""
        return sum(len(row) for row in self.rows)

    @property
    def answer_tokens(self) -> int:
        """Tokens that are learned."""
        return sum(row.answer for row in self.rows)

    def record(self) -> dict[str, Any]:
        """For report.json."""
        return {"used": len(self.rows), "refused": dict(self.refused), "over_max_length": self.too_long, "dropped_too_long": self.dropped,
                "cut": self.cut, "longest_tokens": self.longest, "tokens": self.tokens, "answer_tokens": self.answer_tokens}


def build_rows(examples: Sequence[GuardExample], prompt_format: type[PromptFormat], tokenizer: Any, *, max_length: int = 0,
               on_long: OnLong = "drop") -> TrainRows:
    """Tokenise examples. max_length 0 = no limit; "drop" leaves longer rows out, "cut" keeps their first tokens."""
    rows = list[TrainRow]()
    made = TrainRows(rows)
    ending = end_of_turn(tokenizer, chat=prompt_format.chat)
    place_rows(_tokenised(examples, prompt_format, tokenizer, made.refused), made, rows.append, ending, max_length, on_long)
    return made


def place_rows(tokenised: Iterable[tuple[int, list[int], list[int]]], made: TrainRows, keep: Callable[[TrainRow], object],
               ending: list[int], max_length: int, on_long: OnLong) -> None:
    """Give each (index, prompt, answer) that fits to `keep`, with the end of its turn; `made` counts what became of the others."""
    for index, prompt, answer in tokenised:
        length = len(prompt) + len(answer) + len(ending)
        made.longest = max(made.longest, length)
        row = TrainRow(index, array("i", [*prompt, *answer, *ending]), len(prompt))
        if max_length and length > max_length:
            made.too_long += 1
            if on_long == "error":
                continue
            if on_long == "drop" or len(prompt) >= max_length:  # cut to a prompt without an answer there is nothing to learn
                made.dropped += 1
                continue
            made.cut += 1
            row = TrainRow(index, row.ids[:max_length], len(prompt))
        keep(row)
    if made.too_long and on_long == "error":
        raise UserError(f"{made.too_long:,} of {made.seen + made.too_long:,} rows are longer than max_length = {max_length:,} tokens (the "
                        f"longest needs {made.longest:,}). Set max_length={next_length(made.longest)}, or on_long_rows=drop to leave them "
                        "out.")


def next_length(tokens: int) -> int:
    """The multiple of 64 that holds `tokens`."""
    return -(-tokens // 64) * 64


def render_prompt(example: GuardExample, prompt_format: type[PromptFormat], tokenizer: Any) -> str:
    """The whole text that is put before the answer, in training and in testing."""
    text = prompt_format.prompt(example)
    return render_chat(tokenizer, text) if prompt_format.chat else text


def _tokenised(examples: Sequence[GuardExample], prompt_format: type[PromptFormat], tokenizer: Any,
               refused: Counter[str]) -> Iterator[tuple[int, list[int], list[int]]]:
    """Prompt and answer are tokenised apart: so the prompt has the very tokens it has when the model is asked."""
    for start in range(0, len(examples), CHUNK):
        kept, prompts, answers = [], [], []
        for index, example in enumerate(examples[start:start + CHUNK], start):
            try:
                answer = prompt_format.target(example)
                prompt = render_prompt(example, prompt_format, tokenizer)
            except RowError as error:
                refused[f"{error.column + ': ' if error.column else ''}{error.reason}"] += 1
                continue
            kept.append(index)
            prompts.append(prompt)
            answers.append(answer)
        if kept:
            yield from zip(kept, tokenizer(prompts, add_special_tokens=not prompt_format.chat)["input_ids"],
                           tokenizer(answers, add_special_tokens=False)["input_ids"], strict=True)


def end_of_turn(tokenizer: Any, *, chat: bool) -> list[int]:
    """The token that ends an answer: what the chat template writes after one, up to its first special token; else the eos token."""
    eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    if not chat:
        return eos
    mark = "The answer."
    messages = [{"role": "user", "content": "A question?"}, {"role": "assistant", "content": mark}]
    after = render_chat(tokenizer, messages, add_generation_prompt=False).rpartition(mark)[2]
    ids = tokenizer(after, add_special_tokens=False)["input_ids"]
    special = {*tokenizer.all_special_ids, *(index for index, token in tokenizer.added_tokens_decoder.items() if token.special)}
    place = next((place for place, token in enumerate(ids) if token in special), None)
    return eos if place is None else ids[:place + 1]
