"""Where comparisons live: as files of the owner, so that a refresh, a restart and a link find them; of visitors, in memory only.

Turns and preference pairs that somebody saves go to files in the layouts that training takes: `data=runs/saved/preferences.jsonl`.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from core.compare.records import Comparison
from core.files import append_json_line, write_json
from core.methods import UserError
from core.records import ChatExample, Preference
from core.runs import Workspace

FOLDER = "comparisons"
SAVED = "saved"
CHATS, PAIRS = "conversations.jsonl", "preferences.jsonl"
SOURCE = "chat"


@dataclass(frozen=True)
class Room:
    """For comparisons of visitors in memory; of those that share it, the one that was longest unused goes first."""

    comparisons: int
    characters: int


OF_A_VISITOR, OF_A_NETWORK, OF_ALL = Room(20, 2_000_000), Room(60, 6_000_000), Room(500, 50_000_000)
"""A new visitor is had by a new cookie, so that the network has its own: nobody pushes out what others said."""
MOST_MESSAGES = 40
"""Of a visitor's comparison."""


@dataclass(frozen=True)
class _Kept:
    owner: str
    network: str
    text: str


class Comparisons:
    """Of one workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._lock = threading.Lock()
        self._memory: OrderedDict[str, _Kept] = OrderedDict()
        self._in_work: dict[str, tuple[int, Comparison]] = {}
        """{id: (how many answer it, the one object that all of them change)}."""

    @contextmanager
    def in_work(self, comparison: Comparison) -> Iterator[Comparison]:
        """Change the object that this yields, not `comparison`: whoever looks for it meanwhile gets the very same one, so that nothing
        which one event writes is overwritten by another's older copy. It is kept at the end."""
        with self._lock:
            count, shared = self._in_work.get(comparison.id) or (0, self._stored(comparison.id) or comparison)
            self._in_work[comparison.id] = (count + 1, shared)
        try:
            yield shared
        finally:
            self.keep(shared)
            with self._lock:
                count, _ = self._in_work.pop(comparison.id)
                if count > 1:
                    self._in_work[comparison.id] = (count - 1, shared)

    def keep(self, comparison: Comparison) -> None:
        """Write it down, or remember it, where it belongs to a visitor. What is there already is not written again."""
        stored = self._stored(comparison.id)
        if stored is not None and stored.model_dump() == comparison.model_dump():
            return
        if not comparison.owner:
            path = self._path(comparison.id)
            path.parent.mkdir(exist_ok=True)
            write_json(path, comparison.model_dump(mode="json"))
            return
        with self._lock:
            before = self._memory.get(comparison.id)
            kept = _Kept(comparison.owner, before.network if before else self.workspace.access.network(), comparison.model_dump_json())
            self._memory[comparison.id] = kept
            self._memory.move_to_end(comparison.id)
            self._trim(OF_A_VISITOR, lambda one: one.owner == kept.owner)
            self._trim(OF_A_NETWORK, lambda one: one.network == kept.network)
            self._trim(OF_ALL, lambda _: True)

    def _trim(self, room: Room, shares: Callable[[_Kept], bool]) -> None:
        """The newest always stays."""
        names = [name for name, one in self._memory.items() if shares(one)]
        size = sum(len(self._memory[name].text) for name in names)
        for number, name in enumerate(names[:-1]):
            if len(names) - number <= room.comparisons and size <= room.characters:
                return
            size -= len(self._memory.pop(name).text)

    def find(self, name: str, viewer: str = "") -> Comparison | None:
        """The comparison with this id; None where there is none that `viewer` may read."""
        if not re.fullmatch(r"[\w-]{8,64}", name):
            return None
        found = self._found(name)
        if found is None:
            return None
        return found if found.owner == viewer or found.shared or not viewer else None

    def _found(self, name: str) -> Comparison | None:
        with self._lock:
            return self._in_work[name][1] if name in self._in_work else self._stored(name)

    def _stored(self, name: str) -> Comparison | None:
        """As it was kept. An answer that nobody was there to end counts as stopped."""
        kept = self._memory.get(name)
        text = kept.text if kept is not None else None
        path = self._path(name)
        if text is None and path.is_file():
            text = path.read_text(encoding="utf-8")
        try:
            found = Comparison.model_validate_json(text) if text is not None else None
        except ValueError:
            return None
        for exchange in found.exchanges if found is not None else ():
            for answer in exchange.answers:
                answer.over = answer.over or "stopped"
        return found

    def newest(self, count: int) -> list[Comparison]:
        """The owner's, newest first, those with at least one message."""
        folder = self.workspace.runs_dir / FOLDER
        paths = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True) if folder.is_dir() else []
        found = (self.find(path.stem) for path in paths[:2 * count])
        return [one for one in found if one is not None and one.exchanges][:count]

    def _path(self, name: str) -> Path:
        return self.workspace.runs_dir / FOLDER / f"{name}.json"


@lru_cache(maxsize=8)
def comparisons_of(workspace: Workspace) -> Comparisons:
    """The one Comparisons of a workspace in this process."""
    return Comparisons(workspace)


def refuse_full(comparison: Comparison, at: int | None = None) -> None:
    """UserError where one more message of a visitor would be too many. at: it takes the place of that one."""
    if comparison.owner and (len(comparison.exchanges) if at is None else at) >= MOST_MESSAGES:
        raise UserError(f"This chat has {MOST_MESSAGES} messages, as many as a chat of a visitor may have; begin a new one.")


def save_turn(workspace: Workspace, comparison: Comparison, number: int, place: int) -> Path:
    """Append a column's conversation up to an exchange, as a set that `waltz-sft` and `mix` take."""
    answer = comparison.exchanges[number].answers[place]
    if not answer.whole:
        raise UserError("There is no whole answer to save here.")
    messages = [*comparison.messages(place, number), {"role": "assistant", "content": answer.text}]
    row = ChatExample(messages=messages, source=SOURCE, category=comparison.columns[place].model)
    return _append(workspace, CHATS, row.model_dump(exclude_none=True))


def save_pair(workspace: Workspace, comparison: Comparison, number: int, better: int, worse: int) -> Path:
    """Append a preference pair (TRL's layout), as `hs-dpo` takes it. Both must have answered the same messages."""
    exchange = comparison.exchanges[number]
    one, other = exchange.answers[better], exchange.answers[worse]
    if not (one.whole and other.whole):
        raise UserError("A pair needs two whole answers.")
    if one.text == other.text:
        raise UserError("Both answers are the same text, which teaches nothing.")
    asked = comparison.messages(better, number)
    if asked != comparison.messages(worse, number):
        raise UserError("The two models have read different conversations by now, so their answers are no pair; start a new chat and ask "
                        "this first.")
    row = Preference(prompt=asked, chosen=[{"role": "assistant", "content": one.text}],
                     rejected=[{"role": "assistant", "content": other.text}], why="a person's vote", user_prompt=exchange.prompt,
                     model=f"{comparison.columns[better].model} over {comparison.columns[worse].model}", source=SOURCE)
    return _append(workspace, PAIRS, row.model_dump(exclude_none=True))


def exported(comparison: Comparison) -> Iterator[str]:
    """JSONL: one line for each answer. The guard's words come with it; where names are hidden, so are they here."""
    for number, exchange in enumerate(comparison.exchanges):
        for place, answer in enumerate(exchange.answers):
            letter = comparison.letter(place)
            yield json.dumps({
                "comparison": comparison.id, "exchange": number, "column": letter,
                "model": letter if comparison.names_hidden else comparison.columns[place].model,
                "messages": [*comparison.messages(place, number), {"role": "assistant", "content": answer.text}],
                "options": {**comparison.options_of(place), "seed": answer.seed}, "vote": exchange.vote, "blind": exchange.blind,
                "answer": answer.model_dump(exclude={"text"}, exclude_none=True)}, ensure_ascii=False) + "\n"


def _append(workspace: Workspace, name: str, row: dict[str, object]) -> Path:
    path = workspace.runs_dir / SAVED / name
    path.parent.mkdir(exist_ok=True)
    append_json_line(path, row)
    return path
