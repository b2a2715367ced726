"""Inputs of several mining runs, by their keys: which were mined by which run, which are hard for it, which have a pair already.

In a private SQLite file that lives as long as the object, so that memory does not grow with the rows.
"""

from __future__ import annotations

import itertools
import sqlite3
from typing import Any

from core.intervals import wilson
from core.scores import cohen_kappa


class InputIndex:
    """Inputs are named by core.split_guard.pair_key: two spellings of one prompt and response are one input."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("")  # "" = a temporary file that SQLite removes by itself
        self._db.execute("CREATE TABLE mined (key TEXT, run INTEGER, hard INTEGER, PRIMARY KEY (key, run)) WITHOUT ROWID")
        self._db.execute("CREATE TABLE used (key TEXT PRIMARY KEY) WITHOUT ROWID")

    def close(self) -> None:
        """Remove the file."""
        self._db.close()

    def mined(self, key: str, run: int, hard: bool) -> None:
        """Run number `run` mined this input. One that occurs twice in a run is hard if either of its rows is."""
        self._db.execute("INSERT INTO mined VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET hard = MAX(hard, excluded.hard)", (key, run, hard))

    def is_used(self, key: str) -> bool:
        """Has this input a pair already?"""
        return self._db.execute("SELECT 1 FROM used WHERE key = ?", (key,)).fetchone() is not None

    def use(self, key: str) -> None:
        """This input has a pair from now on."""
        self._db.execute("INSERT OR IGNORE INTO used VALUES (?)", (key,))

    def agreement(self, names: list[str], seed: int) -> list[dict[str, Any]]:
        """For every two runs: the inputs both mined, on how many they agree that they are hard or not, and Cohen's kappa of that."""
        return [self._of_two(names, a, b, seed) for a, b in itertools.combinations(range(len(names)), 2)]

    def _of_two(self, names: list[str], a: int, b: int, seed: int) -> dict[str, Any]:
        query = ("SELECT one.hard, other.hard, COUNT(*) FROM mined AS one JOIN mined AS other ON one.key = other.key "
                 "WHERE one.run = ? AND other.run = ? GROUP BY 1, 2")
        counts = {(bool(one), bool(other)): count for one, other, count in self._db.execute(query, (a, b))}
        both, neither = counts.get((True, True), 0), counts.get((False, False), 0)
        shared = sum(counts.values())
        sides = [[_WORD[pair[side]] for pair, count in counts.items() for _ in range(count)] for side in (0, 1)]
        kappa = cohen_kappa(*sides, seed=seed).model_dump() if shared else None
        return {"a": names[a], "b": names[b], "inputs": shared, "both_hard": both, "neither_hard": neither,
                "only_a_hard": counts.get((True, False), 0), "only_b_hard": counts.get((False, True), 0),
                "agree": wilson(both + neither, shared).model_dump(), "kappa": kappa}


_WORD = {True: "hard", False: "not hard"}
