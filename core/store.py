"""The one SQLite file: an index, a queue and a lock. The folders are the truth; `reindex` rebuilds this file whole."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.runs import Workspace

_SCHEMA = """
CREATE TABLE IF NOT EXISTS queue (run_id TEXT PRIMARY KEY, lane TEXT NOT NULL, position REAL NOT NULL, started INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS test_keys (key TEXT NOT NULL, set_name TEXT NOT NULL, run_id TEXT NOT NULL, PRIMARY KEY (key, run_id));
CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT NOT NULL);
"""
_CHUNK = 500


class Store:
    """Opened per thread and per call: SQLite connections are cheap and do not travel between threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._connect() as db:
            db.executescript(_SCHEMA)

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            yield db
        finally:
            db.close()

    @contextmanager
    def locked(self) -> Iterator[sqlite3.Connection]:
        """One writer at a time, over all processes: for decisions such as which run starts next."""
        with self._connect() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                db.execute("ROLLBACK")
                raise

    def enqueue(self, run_id: str, lane: str, position: float | None = None) -> None:
        """Put a run at the end of its lane, or at `position`."""
        with self._connect() as db:
            db.execute("INSERT OR REPLACE INTO queue VALUES (?, ?, ?, 0)", (run_id, lane, position or time.time()))

    def dequeue(self, run_id: str) -> None:
        """Forget a run that ended, was stopped while queued, or was deleted."""
        with self._connect() as db:
            db.execute("DELETE FROM queue WHERE run_id = ?", (run_id,))

    def queued(self, lane: str) -> list[str]:
        """Runs that wait in a lane, next first."""
        with self._connect() as db:
            rows = db.execute("SELECT run_id FROM queue WHERE lane = ? AND started = 0 ORDER BY position", (lane,))
            return [row[0] for row in rows]

    def move_first(self, run_id: str) -> None:
        """Make a waiting run the next of its lane."""
        with self.locked() as db:
            row = db.execute("SELECT MIN(position) FROM queue WHERE started = 0").fetchone()
            db.execute("UPDATE queue SET position = ? WHERE run_id = ?", ((row[0] or time.time()) - 1.0, run_id))

    def register_test_keys(self, set_name: str, run_id: str, keys: Iterable[str]) -> int:
        """Index the row keys of a registered test set; returns how many. The run's test_keys.txt is the truth."""
        rows = [(key, set_name, run_id) for key in set(keys)]
        with self.locked() as db:
            db.execute("DELETE FROM test_keys WHERE run_id = ?", (run_id,))
            db.executemany("INSERT INTO test_keys VALUES (?, ?, ?)", rows)
        return len(rows)

    def forget_test_keys(self, run_id: str) -> None:
        """Take a deleted test set out of the split guard."""
        with self._connect() as db:
            db.execute("DELETE FROM test_keys WHERE run_id = ?", (run_id,))

    def test_hits(self, keys: Iterable[str]) -> dict[str, str]:
        """{key: name of the registered test set that holds it} for those of `keys` that are in one."""
        return self._found("SELECT key, set_name FROM test_keys WHERE key IN", keys)

    def verdicts(self, keys: Iterable[str]) -> dict[str, str]:
        """{key: verdict as JSON} for those of `keys` that a judge was asked about before (core/judge_cache.py)."""
        return self._found("SELECT key, verdict FROM verdicts WHERE key IN", keys)

    def count_verdicts(self) -> int:
        """How many verdicts are kept, of all judges."""
        with self._connect() as db:
            return int(db.execute("SELECT COUNT(*) FROM verdicts").fetchone()[0])

    def keep_verdicts(self, verdicts: dict[str, str]) -> None:
        """Remember verdicts. They can be had again by asking the judge, so `reindex` leaves them alone."""
        with self.locked() as db:
            db.executemany("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", verdicts.items())

    def _found(self, query: str, keys: Iterable[str]) -> dict[str, str]:
        """Rows (key, value) of a query that ends in IN, for many keys."""
        wanted = list(set(keys))
        found: dict[str, str] = {}
        with self._connect() as db:
            for start in range(0, len(wanted), _CHUNK):
                part = wanted[start:start + _CHUNK]
                marks = ",".join("?" * len(part))
                found.update(db.execute(f"{query} ({marks})", part).fetchall())
        return found


def reindex(workspace: Workspace) -> dict[str, int]:
    """Rebuild the store from the run folders: what waits, what runs, which rows are test rows."""
    store = workspace.store
    counts = {"queued": 0, "running": 0, "test sets": 0}
    with store.locked() as db:
        db.execute("DELETE FROM queue")
        db.execute("DELETE FROM test_keys")
        for run in reversed(workspace.runs()):
            status, state = run.status, run.state
            if state in ("queued", "running") and not status.get("parent"):
                row = (run.id, status.get("lane", "compute"), run.created, state == "running")
                db.execute("INSERT INTO queue VALUES (?, ?, ?, ?)", row)
                counts[state] += 1
            keys = run.dir / "test_keys.txt"
            if keys.exists():
                rows = [(key, run.name, run.id) for key in set(keys.read_text().split())]
                db.executemany("INSERT OR IGNORE INTO test_keys VALUES (?, ?, ?)", rows)
                counts["test sets"] += 1
    return counts
