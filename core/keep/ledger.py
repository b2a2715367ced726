"""What was copied from this runs folder, and what is still to be removed there. Lost with the disk, it is made anew by a restore."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS kept (place TEXT, run TEXT, created REAL, key TEXT, fingerprint TEXT, PRIMARY KEY (place, run, created));
CREATE TABLE IF NOT EXISTS gone (run TEXT, created REAL, PRIMARY KEY (run, created));
CREATE TABLE IF NOT EXISTS restored (place TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS notes (place TEXT, text TEXT);
CREATE TABLE IF NOT EXISTS copied (place TEXT, run TEXT, at REAL, PRIMARY KEY (place, run));
CREATE TABLE IF NOT EXISTS trouble (one INTEGER PRIMARY KEY CHECK (one = 1), text TEXT);
"""


class Ledger:
    """Opened per call, as core/store.py does. A file of its own: a long copy must not hold up the queue."""

    def __init__(self, runs_dir: Path) -> None:
        self._path = runs_dir / "keep.sqlite"
        self._lock = runs_dir / ".keep.lock"
        with self._db() as db:
            db.executescript(_SCHEMA)

    @contextmanager
    def _db(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self._path, timeout=30, isolation_level=None)
        try:
            yield db
        finally:
            db.close()

    @contextmanager
    def held(self, wait: bool) -> Iterator[bool]:
        """One process at a time copies. False where another one is at it and `wait` is not set; a dead process holds nothing."""
        import fcntl

        with self._lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True

    def fingerprint(self, place: str, run: str, created: float) -> str:
        """Of the folder as it was copied last; "" = never."""
        return self._one("SELECT fingerprint FROM kept WHERE place = ? AND run = ? AND created = ?", place, run, created)

    def key(self, place: str, run: str, created: float) -> str:
        """Name of the copy; "" = there is none."""
        return self._one("SELECT key FROM kept WHERE place = ? AND run = ? AND created = ?", place, run, created)

    def _one(self, query: str, *values: object) -> str:
        with self._db() as db:
            row = db.execute(query, values).fetchone()
        return str(row[0]) if row else ""

    def mark(self, place: str, run: str, created: float, key: str, fingerprint: str) -> None:
        """This state of the run lies there now."""
        with self._db() as db:
            db.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?, ?)", (place, run, created, key, fingerprint))

    def forget(self, run: str, created: float) -> None:
        """Deleted by a person: its copies are to go."""
        with self._db() as db:
            db.execute("INSERT OR REPLACE INTO gone VALUES (?, ?)", (run, created))

    def gone(self) -> list[tuple[str, float]]:
        """Runs whose copies are to go."""
        with self._db() as db:
            return [(str(run), float(created)) for run, created in db.execute("SELECT run, created FROM gone")]

    def dropped(self, run: str, created: float) -> None:
        """Its copies are gone now."""
        with self._db() as db:
            db.execute("DELETE FROM gone WHERE run = ? AND created = ?", (run, created))
            db.execute("DELETE FROM kept WHERE run = ? AND created = ?", (run, created))

    def is_restored(self, place: str) -> bool:
        """Has this runs folder taken over what was kept there? Before that nothing is written there."""
        return bool(self._one("SELECT place FROM restored WHERE place = ?", place))

    def set_restored(self, place: str, notes: Iterable[str] = ()) -> None:
        """From now on this folder is what is copied there. notes: what was left there, and why."""
        with self._db() as db:
            db.execute("DELETE FROM notes WHERE place = ?", (place,))
            db.executemany("INSERT INTO notes VALUES (?, ?)", [(place, note) for note in notes])
            db.execute("INSERT OR REPLACE INTO restored VALUES (?)", (place,))

    def notes(self, place: str) -> list[str]:
        """What the last restore left there, and why."""
        with self._db() as db:
            return [str(text) for (text,) in db.execute("SELECT text FROM notes WHERE place = ?", (place,))]

    def set_copied(self, place: str, run: str, at: float) -> None:
        """When it was copied last."""
        with self._db() as db:
            db.execute("INSERT OR REPLACE INTO copied VALUES (?, ?, ?)", (place, run, at))

    def copied(self, place: str, run: str) -> float:
        """When it was copied last; 0 = never from this folder."""
        return float(self._one("SELECT at FROM copied WHERE place = ? AND run = ?", place, run) or 0)

    def set_trouble(self, text: str) -> None:
        """What went wrong at the last try; "" = nothing."""
        with self._db() as db:
            db.execute("INSERT OR REPLACE INTO trouble VALUES (1, ?)", (text,))

    def trouble(self) -> str:
        """What went wrong at the last try; "" = nothing."""
        return self._one("SELECT text FROM trouble")
