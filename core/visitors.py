"""Visitors of a public demo: who they are without a login, what they may see, what they used today.

Who a visitor is, core/visitor_id.py says. What was used is counted in `visitors.sqlite` in the runs folder, without texts; the minutes
of rehearsals are read from their run folders. A new cookie from a new address is a new visitor: that can be had, so `Limits.queue` and
`Limits.questions` bound what all visitors together can take.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.access import VISITORS_MAY, Access, Act, Limits, Meter, Settings, is_rehearsal
from core.methods import UserError
from core.runs import Run, Workspace
from core.visitor_id import Visitor

TAG = "public"
"""A run (or study) with this tag is for everybody."""
JUDGES = ("", "none", "rules")
"""Judges that cost nothing."""
ACTIVE = ("queued", "running")
CHARS_PER_TOKEN = 4
"""Where a service does not say how many tokens it read or wrote."""
NO_MORE = "It starts anew at midnight UTC; a copy of the Space of your own has no such limit."


class Ledger:
    """Seconds and tokens of answers by UTC day and key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as db:
            db.execute("CREATE TABLE IF NOT EXISTS used (day TEXT, who TEXT, seconds REAL, tokens INTEGER, PRIMARY KEY (day, who))")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=30)) as db, db:
            yield db

    def add(self, who: str, seconds: float, tokens: int) -> None:
        """Charge; days that are over are forgotten."""
        with self._open() as db:
            db.execute("DELETE FROM used WHERE day < ?", (today(),))
            db.execute("INSERT INTO used VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET seconds = seconds + excluded.seconds, "
                       "tokens = tokens + excluded.tokens", (today(), who, seconds, tokens))

    def used(self, who: str) -> tuple[float, int]:
        """(seconds, tokens) of today."""
        with self._open() as db:
            row = db.execute("SELECT seconds, tokens FROM used WHERE day = ? AND who = ?", (today(), who)).fetchone()
        return (float(row[0]), int(row[1])) if row else (0.0, 0)


def today(moment: float | None = None) -> str:
    """The UTC day of a moment, as 2026-01-31."""
    return time.strftime("%Y-%m-%d", time.gmtime(moment))


class Question(Meter):
    """Counts one answer, and what was read for it: from the moment it is no longer waiting in a line."""

    tokens: int
    seconds: float

    def __init__(self, reads: int = 0) -> None:
        """reads: tokens of its messages, about."""
        self.begun = time.monotonic()
        self.reads = reads
        self._waits = False
        self._texts: dict[Any, int] = {}
        self._tokens = self._prompt_tokens = 0

    def hear(self, event: Mapping[str, Any]) -> None:
        """Waiting is free; of each turn the longest text counts; a service's own numbers of tokens count more than ours."""
        if event.get("who") == "queue":
            self.begun, self._waits = time.monotonic(), True
        elif event.get("who") != "stopped":
            self._waits = False
        if isinstance(text := event.get("text"), str) and event.get("turn") is not None:
            self._texts[event["turn"]] = max(len(text), self._texts.get(event["turn"], 0))
        if isinstance(event.get("tokens"), int):
            self._tokens = max(self._tokens, event["tokens"])
        if isinstance(event.get("prompt_tokens"), int):
            self._prompt_tokens = max(self._prompt_tokens, event["prompt_tokens"])

    def used(self) -> tuple[float, int]:
        """(seconds, tokens)."""
        written = self._tokens or about(sum(self._texts.values()))
        return time.monotonic() - self.begun, written + (0 if self._waits else self._prompt_tokens or self.reads)


def about(characters: int) -> int:
    """How many tokens a text has, where nobody says it."""
    return -(-characters // CHARS_PER_TOKEN)


@dataclass(frozen=True)
class _Left:
    """What a visitor, or a network, has left of today."""

    key: str
    whose: str
    questions: int
    """How many of its questions may be under way at once."""
    seconds: float
    tokens: int


class VisitorAccess(Access):
    """Of everybody, in a public demo. `who` says who asks now: it reads the request that the current event belongs to."""

    public = True

    def __init__(self, settings: Settings, folder: Path, who: Callable[[], Visitor]) -> None:
        self.settings = settings
        self.limits: Limits = settings.limits
        self.ledger = Ledger(folder / "visitors.sqlite")
        self.who = who
        self._lock = threading.Lock()
        self._asking: Counter[str] = Counter()
        """{key of a visitor or an address: its questions under way}; "" = those of all."""
        self._under_way: list[tuple[Visitor, Question]] = []

    def may(self, act: Act) -> bool:
        """Reading needs no leave."""
        return act in VISITORS_MAY

    def viewer(self) -> str:
        """The visitor's key; never "", which is the owner's."""
        return self.who().key or "nobody"

    def sees(self, run: Run) -> bool:
        """A visitor's own runs, and those that are published, each with its steps."""
        root = root_of(run)
        owner = root.status.get("visitor")
        if owner is not None:
            return bool(owner) and owner == self.who().key
        return is_published(root, self.settings) or is_published(run, self.settings)

    # Rehearsals

    @contextmanager
    def starting(self, workspace: Workspace, method: str, values: Mapping[str, Any]) -> Iterator[dict[str, str]]:
        """One at a time, so that two clicks at once cannot both be the visitor's one job."""
        self.demand(Act.REHEARSE if is_rehearsal(method, values) else Act.START)
        who = self.who()
        with self._lock:
            self._left(workspace, who)
            jobs = [run for run in visitors_runs(workspace) if run.state in ACTIVE]
            if mine := [run for run in jobs if run.status["visitor"] == who.key]:
                raise UserError(f"One rehearsal at a time: {mine[0].id} of yours is {mine[0].state}; wait until it ends.")
            if sum(run.status.get("visitor_address") == who.address for run in jobs) >= self.limits.per_address:
                raise UserError("Your network has as many rehearsals under way as it may have; try again when one has ended.")
            if len(jobs) >= self.limits.queue:
                raise UserError(f"The queue is full: {len(jobs)} rehearsals of visitors wait or run; try again in some minutes.")
            yield {"visitor": who.key, "visitor_address": who.address}

    # Questions

    def models(self, workspace: Workspace) -> list[str]:
        """The fixed list: embedded, those that the owner named, and what runs have made that whoever asks may see: published ones, and
        the visitor's own rehearsal. Nobody else has that one on the list."""
        found = ["embedded", *self.settings.models]
        for run in workspace.every_run():
            if run.state == "succeeded" and self.sees(run):
                found += _made(run)
        return list(dict.fromkeys(found))

    def demand_models(self, workspace: Workspace, models: Sequence[str]) -> None:
        """All of the list. What is empty names none."""
        allowed = self.models(workspace)
        for model in filter(None, (text.strip() for text in models)):
            _refuse_unlisted(model, allowed)

    def demand_share(self, workspace: Workspace) -> None:
        """Something left of today."""
        with self._lock:
            self._left(workspace, self.who())

    def network(self) -> str:
        """The address, as a keyed hash."""
        return self.who().address

    @contextmanager
    def asking(self, workspace: Workspace, model: str, judge: str = "", reads: int = 0, writes: int = 0) -> Iterator[Meter]:
        """A model of the list, a judge that costs nothing, a place in the line, and something left of today's share."""
        self.demand(Act.ASK)
        _refuse_unlisted(model, self.models(workspace))
        if judge not in JUDGES:
            raise UserError(f"{judge!r} is not offered as a judge in this public demo; write rules or none.")
        who = self.who()
        with self._lock:
            left = self._left(workspace, who)
            if self._asking[who.key] >= self.limits.columns:
                raise UserError(f"{self.limits.columns} questions of yours are being answered; wait for one of them, or stop it.")
            if self._asking[who.address] >= self.limits.columns * self.limits.per_address or self._asking[""] >= self.limits.questions:
                raise UserError("Too many questions wait already; try again in a minute.")
            question = Question(about(reads))
            question.seconds, question.tokens = self._promised(left, question.reads, writes)
            self._asking.update((who.key, who.address, ""))
            self._under_way.append((who, question))
        try:
            yield question
        finally:
            with self._lock:
                self._asking -= Counter((who.key, who.address, ""))  # which forgets those at 0
                self._under_way.remove((who, question))
                for key in (who.key, who.address):
                    self.ledger.add(key, *question.used())

    # Today's share

    def _left(self, workspace: Workspace, who: Visitor) -> list[_Left]:
        """Of the visitor and of the network. UserError where one of them has used it up."""
        if not who.key:
            raise UserError("The app cannot tell who asks: allow cookies for this page, or open it in a tab of its own.")
        found = []
        for key, times, whose in ((who.key, 1, "Your"), (who.address, self.limits.per_address, "Your network's")):
            seconds, tokens = self.ledger.used(key)
            seconds += rehearsed_seconds(workspace, key)
            if seconds >= 60 * self.limits.minutes * times:
                raise UserError(f"{whose} {self.limits.minutes * times} minutes of today are used up. {NO_MORE}")
            if tokens >= self.limits.tokens * times:
                raise UserError(f"{whose} {self.limits.tokens * times:,} tokens of today are used up. {NO_MORE}")
            found.append(_Left(key, whose, self.limits.columns * times, 60 * self.limits.minutes * times - seconds,
                               self.limits.tokens * times - tokens))
        return found

    def _promised(self, left: Sequence[_Left], reads: int, writes: int) -> tuple[float, int]:
        """(seconds, tokens to write) for one more question: an equal part of what is free for each that may still come beside it, so that
        all together keep within the day, and the columns of a comparison have the same."""
        seconds, tokens = float("inf"), min(writes or self.limits.answer, self.limits.answer)
        for one in left:
            others = [question for who, question in self._under_way if one.key in (who.key, who.address)]
            free = one.tokens - sum(other.reads + other.tokens for other in others) - reads
            if free < 1:
                raise UserError(f"{one.whose} tokens of today do not reach for this: about {reads:,} would be read, and {one.tokens:,} are "
                                f"left, with what questions under way may need. {NO_MORE}")
            share = one.questions - len(others)
            seconds = min(seconds, (one.seconds - sum(other.seconds for other in others)) / share)
            tokens = min(tokens, max(1, free // share))
        return max(1.0, seconds), tokens


def _refuse_unlisted(model: str, allowed: Sequence[str]) -> None:
    if model not in allowed:
        raise UserError(f"{model!r} is not offered in this public demo; choose one of: {', '.join(allowed)}.")


def root_of(run: Run) -> Run:
    """The study that a step belongs to, else the run itself."""
    for _ in range(10):  # studies of studies; a circle in damaged folders must not hang the app
        parent = run.status.get("parent")
        if not parent or not (run.dir.parent / str(parent) / "status.json").exists():
            return run
        run = Run(run.dir.parent / str(parent))
    return run


def is_published(run: Run, settings: Settings) -> bool:
    """Tagged, or named in the environment."""
    return TAG in run.labels["tags"] or run.id in settings.runs or "*" in settings.runs


def visitors_runs(workspace: Workspace) -> list[Run]:
    """Runs that visitors started, whoever asks."""
    return [run for run in workspace.every_run() if run.status.get("visitor") is not None]


def rehearsed_seconds(workspace: Workspace, key: str) -> float:
    """What the rehearsals of a visitor, or of an address, took today."""
    total = 0.0
    for run in visitors_runs(workspace):
        status = run.status
        started = status.get("started")
        if started and key in (status["visitor"], status.get("visitor_address")) and today(status["created"]) == today():
            total += max(0.0, (status.get("ended") or time.time()) - started)
    return total


def _made(run: Run) -> list[str]:
    """References to the models in a run's folder."""
    if (run.dir / "adapter").is_dir() or (run.dir / "model").is_dir():
        return [f"run:{run.id}"]
    if (run.dir / "conversation").is_dir() and (run.dir / "feedback").is_dir():
        return [f"waltz:{run.id}", f"waltz:{run.id}#conversation", f"waltz:{run.id}#feedback"]
    return []


def forget_old(workspace: Workspace, limits: Limits) -> list[str]:
    """Delete visitors' rehearsals that ended long enough ago, with their steps; their ids. Called now and then by the app."""
    from core.jobs import delete

    deleted = []
    for run in visitors_runs(workspace):
        ended = run.status.get("ended") or run.created
        if run.state not in ACTIVE and time.time() - ended > 3600 * limits.keep_hours:
            for one in [*run.children(), run]:
                if one.state not in ACTIVE:
                    delete(workspace, one)
                    deleted.append(one.id)
    return deleted
