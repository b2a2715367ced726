"""Files of a WaltzRL run that grow while it is looked at: the ledger as columns, and where each episode stands in episodes.jsonl.

Only what was appended since the last look is read (core/ui/growing.py); the texts stay in the file. 50,000 episodes take about 3 MB
here. A file that was written anew (a resumed run takes back what its checkpoint does not have) is read again from its beginning.
"""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.methods import UserError
from core.records import Side
from core.ui.episode_view import is_harmful
from core.ui.growing import Growing
from core.waltz.history import History
from core.waltz.ledger import EPISODES, LEDGER, Iteration, PlayedEpisode
from core.waltz.rewards import OUTCOMES, Outcome, outcome

Ints = NDArray[np.int64]
KEPT = 6
"""Runs whose columns are remembered."""
NAMES: tuple[Outcome, ...] = tuple(OUTCOMES)
SIDES: tuple[Side | None, ...] = ("harmful", "benign", None)
SIDE_NAMES = ("harmful", "benign", "unknown")
"""SIDES as the address calls them."""
COLUMNS = ("iteration", "offset", "length", "outcome", "side", "harmful", "row", "sample")


class EpisodeIndex:
    """Where each episode stands, and what the filters need of it."""

    def __init__(self, path: Path) -> None:
        self.file = Growing(path, self._take, self._forget)
        self.damaged = 0
        """Lines that are no episode; they are left out."""
        self.renewed = 0
        """How often the file began anew: places from before mean nothing then."""
        self._columns = {name: array("q") for name in COLUMNS}

    def __len__(self) -> int:
        return len(self._columns[COLUMNS[-1]])

    def _take(self, line: bytes, offset: int) -> None:
        if not line.strip():
            return
        try:
            played = PlayedEpisode.model_validate_json(line)
        except ValueError:
            self.damaged += 1
            return
        episode = played.episode
        what: Outcome = "unjudged" if episode.left_out else outcome(episode)
        values = (played.iteration, offset, len(line), NAMES.index(what), SIDES.index(episode.side), int(is_harmful(episode)), episode.row,
                  episode.sample)
        for name, value in zip(COLUMNS, values, strict=True):
            self._columns[name].append(value)

    def _forget(self) -> None:
        self.damaged, self.renewed = 0, self.renewed + 1
        self._columns = {name: array("q") for name in COLUMNS}

    def columns(self, *names: str) -> list[Ints]:
        """Some of COLUMNS, of equal length. Copies: an array that is looked at could not grow meanwhile."""
        columns = self._columns
        whole = len(columns[COLUMNS[-1]])  # another event may be appending: the last column is filled last
        return [np.array(columns[name][:whole], dtype=np.int64) for name in names]

    def counts(self, wanted: Wanted) -> dict[str, int]:
        """{outcome: episodes} under the other filters, and "" for all of them."""
        keep, (codes,) = self._keep(replace(wanted, outcome=""), "outcome")
        found = np.bincount(codes[keep], minlength=len(NAMES))
        return {"": int(found.sum()), **{name: int(found[code]) for code, name in enumerate(NAMES)}}

    def find(self, wanted: Wanted) -> Ints:
        """Places of the wanted episodes, the newest first."""
        keep, _ = self._keep(wanted)
        return np.flatnonzero(keep)[::-1].astype(np.int64)

    def _keep(self, wanted: Wanted, *more: str) -> tuple[NDArray[np.bool_], list[Ints]]:
        iteration, codes, sides, *rest = self.columns("iteration", "outcome", "side", *more)
        keep = np.ones(len(iteration), dtype=bool)
        if wanted.outcome in NAMES:
            keep &= codes == NAMES.index(wanted.outcome)
        if wanted.side in SIDE_NAMES:
            keep &= sides == SIDE_NAMES.index(wanted.side)
        if wanted.iterations is not None:
            low, high = wanted.iterations
            keep &= (iteration >= low) & (iteration <= high)
        return keep, rest

    def read(self, place: int) -> PlayedEpisode:
        """The episode whole, from the file. UserError where the file was written anew meanwhile."""
        try:
            with self.file.path.open("rb") as file:
                file.seek(self._columns["offset"][place])
                return PlayedEpisode.model_validate_json(file.read(self._columns["length"][place]))
        except (OSError, ValueError, IndexError):  # IndexError: it has fewer episodes now
            raise UserError(f"{EPISODES} was written anew while it was read; open the page again.") from None


@dataclass(frozen=True)
class Wanted:
    """Which episodes; the empty value of a field lets every one through."""

    outcome: str = ""
    side: str = ""
    """One of SIDE_NAMES."""
    iterations: tuple[int, int] | None = None
    """First and last."""


class Records:
    """Ledger and episodes of one run."""

    def __init__(self, folder: Path) -> None:
        self.history = History()
        self.episodes = EpisodeIndex(folder / EPISODES)
        self.ledger = Growing(folder / LEDGER, self._line, self._anew)
        self.problem = ""
        """What is wrong with the ledger; "" = nothing."""
        self._lock = threading.Lock()

    def advance(self) -> Records:
        """Read what is new in both files."""
        with self._lock:
            self.ledger.advance()
            self.episodes.file.advance()
        return self

    def _line(self, line: bytes, _: int) -> None:
        try:
            self.history.add(Iteration.model_validate_json(line))
        except ValueError:
            self.problem = f"{LEDGER} has a line that is no iteration; the charts leave it out."

    def _anew(self) -> None:
        self.history, self.problem = History(), ""

    @property
    def stamp(self) -> tuple[int, int, int]:
        """Another one, another look: the length of the ledger and of the episodes, and how often they began anew."""
        return len(self.history), len(self.episodes), self.episodes.renewed


class _Shelf:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Path, Records] = OrderedDict()

    def get(self, folder: Path) -> Records:
        with self._lock:
            found = self._kept.setdefault(folder, Records(folder))
            self._kept.move_to_end(folder)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found


_shelf = _Shelf()


def records_of(folder: Path) -> Records:
    """Ledger and episodes of a run as they are now, or as far as one look reads."""
    return _shelf.get(folder).advance()
