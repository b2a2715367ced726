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
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
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
"""Where a service does not say how many tokens it wrote."""
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
    """Counts one answer: from the moment it is no longer waiting in a line."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self._texts: dict[Any, int] = {}
        self._tokens = 0

    def hear(self, event: Mapping[str, Any]) -> None:
        """Waiting is free; of each turn the longest text counts; a service's own number of tokens counts more than ours."""
        if event.get("who") == "queue":
            self.begun = time.monotonic()
        if isinstance(text := event.get("text"), str) and event.get("turn") is not None:
            self._texts[event["turn"]] = max(len(text), self._texts.get(event["turn"], 0))
        if isinstance(event.get("tokens"), int):
            self._tokens = max(self._tokens, event["tokens"])

    def used(self) -> tuple[float, int]:
        """(seconds, tokens)."""
        return time.monotonic() - self.begun, self._tokens or -(-sum(self._texts.values()) // CHARS_PER_TOKEN)


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
            self._refuse_spent(workspace, who)
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

    @contextmanager
    def asking(self, workspace: Workspace, model: str, judge: str = "") -> Iterator[Meter]:
        """A model of the list, a judge that costs nothing, a place in the line, and something left of today's share."""
        self.demand(Act.ASK)
        if model not in (allowed := self.models(workspace)):
            raise UserError(f"{model!r} is not offered in this public demo; choose one of: {', '.join(allowed)}.")
        if judge not in JUDGES:
            raise UserError(f"{judge!r} is not offered as a judge in this public demo; write rules or none.")
        who = self.who()
        with self._lock:
            self._refuse_spent(workspace, who)
            if self._asking[who.key] >= self.limits.columns:
                raise UserError(f"{self.limits.columns} questions of yours are being answered; wait for one of them, or stop it.")
            if self._asking[who.address] >= self.limits.columns * self.limits.per_address or self._asking[""] >= self.limits.questions:
                raise UserError("Too many questions wait already; try again in a minute.")
            self._asking.update((who.key, who.address, ""))
        question = Question()
        try:
            yield question
        finally:
            with self._lock:
                self._asking -= Counter((who.key, who.address, ""))  # which forgets those at 0
            for key in (who.key, who.address):
                self.ledger.add(key, *question.used())

    # Today's share

    def _refuse_spent(self, workspace: Workspace, who: Visitor) -> None:
        if not who.key:
            raise UserError("The app cannot tell who asks: allow cookies for this page, or open it in a tab of its own.")
        for key, times, whose in ((who.key, 1, "Your"), (who.address, self.limits.per_address, "Your network's")):
            seconds, tokens = self.ledger.used(key)
            seconds += rehearsed_seconds(workspace, key)
            if seconds >= 60 * self.limits.minutes * times:
                raise UserError(f"{whose} {self.limits.minutes * times} minutes of today are used up. {NO_MORE}")
            if tokens >= self.limits.tokens * times:
                raise UserError(f"{whose} {self.limits.tokens * times:,} tokens of today are used up. {NO_MORE}")


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
