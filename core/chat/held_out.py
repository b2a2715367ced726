"""Prompts that are kept out of training, chosen for all agents together."""

from __future__ import annotations

import sqlite3
from collections import Counter

from core.chat.balance import lot
from core.chat.messages import Agent, asked
from core.records import ChatExample
from core.split_guard import prompt_key


class HeldOut:
    """Which prompts are kept out of training, for all agents alike: a prompt that one agent is measured on, the other does not learn."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._db = sqlite3.connect("")
        self._db.execute("CREATE TABLE prompts (place INTEGER, key TEXT PRIMARY KEY, conversation INTEGER, feedback INTEGER) WITHOUT ROWID")
        self._db.execute("CREATE TABLE held (key TEXT PRIMARY KEY) WITHOUT ROWID")
        self.rows: Counter[str] = Counter()

    def close(self) -> None:
        """Remove the file."""
        self._db.close()

    def see(self, agent: Agent, example: ChatExample) -> None:
        """Count a row of a prompt."""
        self.rows[agent] += 1
        key = prompt_key(asked(example).prompt)
        self._db.execute(f"INSERT INTO prompts VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET {agent} = {agent} + 1",
                         (lot(self._seed, "held", key) >> 1, key, int(agent == "conversation"), int(agent == "feedback")))

    def choose(self, most: int, share: float) -> None:
        """Take prompts in the order of their lots, as long as all their rows fit into what each agent may still hold out."""
        left = {agent: min(most, int(self.rows[agent] * share)) for agent in ("conversation", "feedback")}
        for key, *rows in self._db.execute("SELECT key, conversation, feedback FROM prompts ORDER BY place, key"):
            if not any(left.values()):
                return
            if all(count <= rest for count, rest in zip(rows, left.values(), strict=True)):
                self._db.execute("INSERT INTO held VALUES (?)", (key,))
                left = {agent: rest - count for (agent, rest), count in zip(left.items(), rows, strict=True)}

    def holds(self, example: ChatExample) -> bool:
        """Is this row kept out of training?"""
        key = prompt_key(asked(example).prompt)
        return self._db.execute("SELECT 1 FROM held WHERE key = ?", (key,)).fetchone() is not None
