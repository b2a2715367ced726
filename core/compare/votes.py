"""Who was better, by the people who voted: one line a vote in votes.jsonl, and how often each model wins against each other one."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from core.compare.records import ALL_BAD, LETTERS, TIE, Comparison
from core.files import append_json_line
from core.intervals import Interval, wilson
from core.records import read_jsonl
from core.runs import Workspace

FILE = "votes.jsonl"


class Duel(BaseModel):
    """Two models and what people said of them."""

    one: str
    other: str
    one_wins: int = 0
    other_wins: int = 0
    ties: int = 0
    both_bad: int = 0
    seen: int = 0
    """Votes given with the names in sight, which are counted nowhere else."""

    @property
    def rate(self) -> Interval:
        """Share of the decided votes that went to `one`, with Wilson's interval."""
        return wilson(self.one_wins, self.one_wins + self.other_wins)

    @property
    def votes(self) -> int:
        """Blind votes."""
        return self.one_wins + self.other_wins + self.ties + self.both_bad


def keep_vote(workspace: Workspace, comparison: Comparison, number: int) -> None:
    """Write the vote of an exchange down. A later one on the same answers takes its place."""
    exchange = comparison.exchanges[number]
    append_json_line(_path(workspace), {
        "t": round(time.time(), 3), "comparison": comparison.id, "exchange": number, "vote": exchange.vote, "blind": exchange.blind,
        "models": [column.model for column in comparison.columns],
        "prompt_sha256": hashlib.sha256(exchange.prompt.encode()).hexdigest(),
        "seeds": [answer.seed for answer in exchange.answers], "options": comparison.options, "owner": comparison.owner})


def votes(workspace: Workspace) -> list[dict[str, Any]]:
    """The last vote on each exchange's answers, oldest first. Asked anew or edited, the answers are others."""
    path = _path(workspace)
    newest: dict[tuple[str, ...], dict[str, Any]] = {}
    for vote in (read_jsonl(path) if path.is_file() else ()):
        key = tuple(str(vote.get(name)) for name in ("comparison", "exchange", "prompt_sha256", "seeds"))
        newest.pop(key, None)
        newest[key] = vote
    return list(newest.values())


def duels(given: Iterable[dict[str, Any]]) -> list[Duel]:
    """Every pair of different models that stood side by side in a vote, most votes first."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for vote in given:
        for one, other, word in _pairs(vote):
            turned = {"one_wins": "other_wins", "other_wins": "one_wins"}
            first, second, kind = (one, other, word) if one < other else (other, one, turned.get(word, word))
            counts.setdefault((first, second), Counter())[kind if vote.get("blind") else "seen"] += 1
    made = [Duel(one=one, other=other, **found) for (one, other), found in counts.items()]
    return sorted(made, key=lambda duel: (-duel.votes, duel.one, duel.other))


def _pairs(vote: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    models, choice = list(vote.get("models") or ()), str(vote.get("vote"))
    best = LETTERS.find(choice) if choice else -1
    for one, other in combinations(range(len(models)), 2):
        if models[one] == models[other]:
            continue
        if choice in (TIE, ALL_BAD):
            yield models[one], models[other], "ties" if choice == TIE else "both_bad"
        elif best in (one, other):  # of those that did not win nothing is known among themselves
            yield models[one], models[other], "one_wins" if best == one else "other_wins"


def _path(workspace: Workspace) -> Path:
    return workspace.runs_dir / FILE
