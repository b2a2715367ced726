"""Who may do what in the app: everything for its owner, reading, chatting and the rehearsal for visitors of a public demo.

    GUARDWALTZ_MODE      private (default: the owner trains, behind a login where others can come) or public (no login, limits)
    GUARDWALTZ_OWNERS    Hugging Face names that may log in to a private Space: name1,name2

A workspace carries the access of whoever looks through it (`Workspace.access`), so pages, endpoints and core/jobs.py ask one object:
`access.may(act)` where a page decides what to draw, `access.demand(act)` where something is about to be done. core/visitors.py is
the public half.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from core.methods import UserError

if TYPE_CHECKING:
    from core.runs import Run, Workspace

MODES = ("private", "public")
READ_ONLY = ("This is a public demo: its runs can be read, and nothing but the rehearsal can be started. To train, duplicate the Space, "
             "set GUARDWALTZ_OWNERS to your name, and open your copy (docs/deploy.md).")
ANSWER = 256
"""Tokens of an answer where nobody says how many (core.chat_models.Sampling)."""


class Act(StrEnum):
    """What somebody may want to do."""

    START = "start"
    """Any method, with any settings."""
    REHEARSE = "rehearse"
    """The recipe `rehearsal` as it ships."""
    STOP = "stop"
    RESUME = "resume"
    CONTINUE = "continue"
    DELETE = "delete"
    WORDS = "words"
    """Name, tags and note of a run; the archive."""
    EDIT = "edit"
    """Corrections of mined rows, ticks on reasonings."""
    UPLOAD = "upload"
    ASK = "ask"
    """A question to a model."""


VISITORS_MAY = frozenset({Act.REHEARSE, Act.ASK})


@dataclass(frozen=True)
class Limits:
    """What visitors of a public demo share. Each is set by the environment variable GUARDWALTZ_PUBLIC_<NAME>, as a whole number."""

    queue: int = 8
    """Rehearsals that may wait or run at once, over all visitors."""
    questions: int = 24
    """Questions to models that may wait or be answered at once, over all visitors."""
    columns: int = 4
    """Questions of one visitor at once: one for each column of the Chat page. Rehearsals: one, always."""
    minutes: int = 20
    """Minutes of answers and rehearsals for a visitor and day (UTC)."""
    tokens: int = 20_000
    """Tokens for a visitor and day (UTC): of answers, and of all that a model reads for each."""
    answer: int = 1024
    """Tokens of one answer at most."""
    per_address: int = 3
    """How many visitors' worth of minutes, tokens and rehearsals one network address may use: people share offices."""
    keep_hours: int = 24
    """Hours until the finished rehearsal of a visitor is deleted."""
    body_kb: int = 512
    """Kilobytes of one request."""


@dataclass(frozen=True)
class Settings:
    """What the environment says about access."""

    mode: str = "private"
    owners: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    models: tuple[str, ...] = ()
    """Model references for visitors, besides embedded and what published runs made."""
    runs: tuple[str, ...] = ()
    """Run ids that visitors may read, besides those tagged `public`; `*` = all that were not made by a visitor."""
    upload_mb: int = 200
    """Megabytes of one uploaded file, where uploads are allowed."""

    @property
    def public(self) -> bool:
        """Is this the demo that anybody may open?"""
        return self.mode == "public"


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings as the environment has them; UserError names a variable that cannot be read."""
    mode = environment.get("GUARDWALTZ_MODE", "").strip().lower() or "private"
    if mode not in MODES:
        raise UserError(f"GUARDWALTZ_MODE is {mode!r}; set it to private (you train) or public (anybody reads and chats).")
    limits = {item.name: _number(environment, f"GUARDWALTZ_PUBLIC_{item.name.upper()}", int(str(item.default))) for item in fields(Limits)}
    settings = Settings(mode, _names(environment, "GUARDWALTZ_OWNERS"), Limits(**limits), _names(environment, "GUARDWALTZ_PUBLIC_MODELS"),
                        _names(environment, "GUARDWALTZ_PUBLIC_RUNS"), _number(environment, "GUARDWALTZ_UPLOAD_MB", 200))
    _check_models(settings)
    return settings


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "").strip()
    if text and not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise UserError(f"{name} is {text!r}; set it to a whole number from 1 up, or leave it out for {default}.")
    return int(text or default)


def _names(environment: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(filter(None, (word.strip() for word in environment.get(name, "").split(","))))


def _check_models(settings: Settings) -> None:
    from core.refs import parse_model_ref

    for text in settings.models:
        try:
            parse_model_ref(text)
        except UserError as error:
            raise UserError(f"GUARDWALTZ_PUBLIC_MODELS: {error}") from None


class Meter:
    """What one question may use, and has used so far; `hear` takes the events of core/serving.py as they come."""

    tokens: int | None = None
    """Tokens that it may write at most; None = as many as it wants."""
    seconds: float | None = None
    """Seconds that its answer may take, waiting in a line aside; None = as long as it wants."""

    def within(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Sampling options with an answer that is not longer than it may be."""
        wanted = int(options.get("max_new_tokens") or ANSWER)
        return {**options, "max_new_tokens": min(wanted, self.tokens)} if self.tokens is not None else dict(options)

    def note(self, options: Mapping[str, Any]) -> str:
        """Why an answer that was cut at the limit has fewer tokens than `options` say; "" where it has not."""
        if self.tokens is None or int(options.get("max_new_tokens") or ANSWER) <= self.tokens:
            return ""
        return f"this public demo let it write {self.tokens:,} tokens at most: each answer has a limit, and so has each day"

    def hear(self, event: Mapping[str, Any]) -> None:
        """Count an event."""


class Access:
    """Of the owner: everything. The access of every workspace that was given no other one."""

    public = False

    def may(self, act: Act) -> bool:
        """Is this offered here at all? Pages draw, and register, only what is."""
        return True

    def demand(self, act: Act) -> None:
        """UserError where it is not."""
        if not self.may(act):
            raise UserError(READ_ONLY)

    def sees(self, run: Run) -> bool:
        """May whoever asks now know of this run?"""
        return True

    def viewer(self) -> str:
        """Who asks now, as a part of cache keys; "" where all see the same."""
        return ""

    @contextmanager
    def starting(self, workspace: Workspace, method: str, values: Mapping[str, Any]) -> Iterator[dict[str, str]]:
        """Around the making of a run: UserError where it may not be made; yields what its status.json shall hold besides."""
        self.demand(Act.START)
        yield {}

    def models(self, workspace: Workspace) -> list[str] | None:
        """The model references that may be used; None = any."""
        return None

    def demand_models(self, workspace: Workspace, models: Sequence[str]) -> None:
        """UserError where one of these may not be used. Tells nothing of what is on this machine's disk."""

    def demand_share(self, workspace: Workspace) -> None:
        """UserError where nothing is left of what whoever asks may use today."""

    @contextmanager
    def asking(self, workspace: Workspace, model: str, judge: str = "", reads: int = 0, writes: int = 0) -> Iterator[Meter]:
        """Around one question to a model: UserError where it may not be asked; the meter is charged at the end.

        reads: characters of its messages. writes: tokens of its answer at most; 0 = as many as it may have."""
        yield Meter()

    def network(self) -> str:
        """Where whoever asks now comes from; "" where that does not matter."""
        return ""


def characters(messages: Sequence[Mapping[str, str]]) -> int:
    """What a model reads."""
    return sum(len(one["content"]) for one in messages)


OWNER = Access()


def is_rehearsal(method: str, values: Mapping[str, Any]) -> bool:
    """The recipe `rehearsal` exactly as it ships: nothing of a visitor is in it."""
    return method == "recipe" and dict(values) == {"recipe": "rehearsal", "settings": {}}


# Where the app runs

def on_space() -> bool:
    """Is this a Hugging Face Space?"""
    return bool(os.environ.get("SPACE_ID"))


def gpu_words() -> str:
    """What to say on a Space whose GPU is lent for a minute at a time; "" elsewhere."""
    from core.zero_gpu import asked_for, lends

    if lends():
        return ("This Space has ZeroGPU: chat and evaluations get a GPU for up to two minutes at a time, out of a quota. Training runs on "
                "the CPU; choose a GPU of its own in the settings of the Space to train.")
    if asked_for():
        return "This Space has ZeroGPU, but the package `spaces` is not installed: models run on the CPU."
    return ""
