"""Keys met before, in a private SQLite file that lives as long as the object, so that memory does not grow with the rows."""

from __future__ import annotations

import sqlite3
from typing import Self


class Seen:
    """A set of texts on the disk. Use it in a with block."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("")  # "" = a temporary file that SQLite removes by itself
        self._db.execute("CREATE TABLE seen (key TEXT PRIMARY KEY) WITHOUT ROWID")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the file."""
        self._db.close()

    def first(self, key: str) -> bool:
        """Is this the first time that the key is met?"""
        return self._db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,)).rowcount == 1

    def __contains__(self, key: str) -> bool:
        return self._db.execute("SELECT 1 FROM seen WHERE key = ?", (key,)).fetchone() is not None

    def __len__(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM seen").fetchone()[0])
