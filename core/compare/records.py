"""A comparison: columns, each a model; exchanges, each a message and every column's answer to it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from core.guard.schema import Classified
from core.methods import UserError
from core.records import Episode

LETTERS = "ABCD"
MOST_COLUMNS = len(LETTERS)
TIE, ALL_BAD = "tie", "bad"
Over = Literal["", "end", "stopped", "error"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Answer(_Part):
    """What one column said to one message."""

    text: str = ""
    """The last reply, where there were several."""
    over: Over = ""
    """How it ended; "" = it is being written."""
    problem: str = ""
    """Why it failed, in one sentence; or why it is short."""
    seed: int = 42
    tokens: int = 0
    seconds: float = 0.0
    """From asking to the last word, the wait included."""
    writing: float = 0.0
    """Seconds from the first words to the last."""
    finish: str = "stop"
    usd: float | None = None
    episode: Episode | None = None
    """Where two agents spoke."""
    guard: Classified | None = None
    """What the guard says of message and answer."""
    guard_problem: str = ""

    @property
    def whole(self) -> bool:
        """Can it be voted on, saved, and built on?"""
        return self.over == "end" and bool(self.text.strip())

    @property
    def speed(self) -> float | None:
        """Tokens per second while it wrote; None where that says nothing."""
        return self.tokens / self.writing if self.over == "end" and self.writing > 0.2 and self.tokens > 1 else None


class Exchange(_Part):
    """A message and the answers to it, one for each column."""

    prompt: str
    answers: list[Answer]
    vote: str = ""
    """A letter of a column, `tie` or `bad`; "" = no vote."""
    blind: bool = False
    """Were the names hidden when the vote was given?"""


class Column(_Part):
    """A model and what it does otherwise than the others."""

    model: str
    own: dict[str, float | int | str] = {}
    """temperature, top_p, max_new_tokens, system; what is not here is shared."""


class Comparison(_Part):
    """Everything on the page."""

    id: str = Field(default_factory=lambda: secrets.token_urlsafe(12))
    """Nobody can guess it: who has the link may read."""
    created: float = Field(default_factory=time.time)
    owner: str = ""
    """Whose it is, in a public demo."""
    shared: bool = False
    """May others who have the link read it?"""
    columns: list[Column] = Field(min_length=1, max_length=MOST_COLUMNS)
    system: str = ""
    options: dict[str, float | int] = {}
    """temperature, top_p, max_new_tokens, seed of all columns."""
    guard: str = ""
    """Reference of the guard that labels every answer; "" = none does."""
    blind: bool = False
    """Names are hidden until the first vote."""
    revealed: bool = False
    """Have the names been seen? They stay in sight when the vote is taken back with its answer."""
    exchanges: list[Exchange] = []
    _left: set[str] = PrivateAttr(default_factory=set)

    def leave(self, who: str) -> None:
        """A browser goes on to another chat while answers of this one are being written: nothing of it is drawn there any more."""
        self._left.add(who)

    def is_left(self, who: str) -> bool:
        """Has it?"""
        return who in self._left

    @property
    def names_hidden(self) -> bool:
        """Are they still?"""
        return self.blind and not self.revealed and not any(one.vote for one in self.exchanges)

    def letter(self, place: int) -> str:
        """A, B, C or D."""
        return LETTERS[place]

    def options_of(self, place: int, again: int = 0) -> dict[str, Any]:
        """Sampling settings of a column. again: how often it was asked anew; each time draws with the next seed."""
        made = {**self.options, **{name: value for name, value in self.columns[place].own.items() if name != "system"}}
        return {**made, "seed": int(made.get("seed", 42)) + again}

    def messages(self, place: int, number: int) -> list[dict[str, str]]:
        """What the model of a column reads for exchange `number`: its own conversation. Answers that failed are left out with their
        message."""
        system = str(self.columns[place].own.get("system", self.system)).strip()
        made = [{"role": "system", "content": system}] if system else []
        for exchange in self.exchanges[:number]:
            if exchange.answers[place].whole:
                made += [{"role": "user", "content": exchange.prompt}, {"role": "assistant", "content": exchange.answers[place].text}]
        return [*made, {"role": "user", "content": self.exchanges[number].prompt}]

    def open(self, prompt: str, at: int | None = None) -> int:
        """Begin an exchange and return its number. at: in place of that one; what came after it goes."""
        if at is not None:
            del self.exchanges[at:]
        self.exchanges.append(Exchange(prompt=prompt, answers=[Answer() for _ in self.columns]))
        return len(self.exchanges) - 1

    def vote(self, number: int, choice: str) -> None:
        """Keep who was better. UserError where that cannot be said."""
        exchange = self.exchanges[number]
        if any(not answer.over for answer in exchange.answers):
            raise UserError("Wait until every answer is whole, then vote.")
        letters = LETTERS[:len(self.columns)]
        if choice not in (*letters, TIE, ALL_BAD):
            raise UserError(f"{choice!r} is no vote; take one of {', '.join(letters)}, {TIE}, {ALL_BAD}.")
        if len(self.columns) < 2:
            raise UserError("A vote compares two or more models; add one under Models.")
        if choice in letters and not exchange.answers[letters.index(choice)].whole:
            raise UserError(f"{choice} gave no answer, so it cannot be the best one.")
        exchange.blind = exchange.blind if exchange.vote else self.names_hidden
        exchange.vote, self.revealed = choice, True


def checked_columns(models: list[str], own: Mapping[int, Mapping[str, Any]] | None = None) -> list[Column]:
    """Columns of these references, in order. UserError for none, too many, or what is no model reference."""
    from core.refs import parse_model_ref

    wanted = [text.strip() for text in models if text and text.strip()]
    if not wanted:
        raise UserError("Choose at least one model under Models.")
    if len(wanted) > MOST_COLUMNS:
        raise UserError(f"{len(wanted)} models are chosen, and {MOST_COLUMNS} stand side by side at most; take some away.")
    return [Column(model=str(parse_model_ref(text)), own=dict((own or {}).get(place, {}))) for place, text in enumerate(wanted)]
