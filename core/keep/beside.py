"""What lies beside the runs and is copied like them: money spent, votes, and what the owner saved on the Chat page.

Unlike a finished run it changes while somebody works. So a snapshot is copied, and after a copy a look leaves it alone for a while: a
comparison changes with every message, and the Hub takes about 128 commits an hour from one repository. What visitors of a public demo
write lies in memory only, and is never here.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from core.compare.keeping import FOLDER, SAVED
from core.files import read_json


@dataclass(frozen=True)
class Beside:
    """Files that are copied together."""

    name: str
    """Of the copy; no run is called so."""
    patterns: tuple[str, ...]
    rest: float
    """Seconds after a copy in which no look makes another one."""

    def files(self, folder: Path) -> tuple[str, ...]:
        """Those that are there; no links, nothing half written."""
        found = (path for pattern in self.patterns for path in folder.glob(pattern))
        return tuple(sorted(path.relative_to(folder).as_posix() for path in found
                            if path.is_file() and not path.is_symlink() and not path.name.startswith(".")))

    def take_in(self, kept: Path, here: Path, first: bool) -> None:
        """Add what is kept and missing here: lines, and whole comparisons. first: nothing was taken in before; later on only money and
        votes are, because a person may have taken a saved line out meanwhile."""
        for name in self.files(kept):
            if not first and "/" in name:
                continue
            target = here / name
            target.parent.mkdir(exist_ok=True)
            if name.endswith(".jsonl"):
                _append_missing(kept / name, target)
            elif not target.exists():
                _date(kept / name)
                (kept / name).replace(target)


WORKSPACE = Beside("_workspace", ("*.jsonl", f"{SAVED}/*.jsonl"), 60.0)
COMPARISONS = Beside("_comparisons", (f"{FOLDER}/*.json",), 300.0)
BESIDE = {one.name: one for one in (WORKSPACE, COMPARISONS)}


@contextmanager
def snapshot(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """A folder with these files as they are now, for a copy that takes longer than they stay the same. One at a time."""
    made = folder / ".keeping"
    shutil.rmtree(made, ignore_errors=True)
    try:
        made.mkdir()
        for name in names:
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(folder / name, made / name)
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _append_missing(kept: Path, here: Path) -> None:
    """Lines that are kept and not here, added in one write: each stands for itself, so their order says nothing."""
    known = set(here.read_bytes().splitlines()) if here.exists() else set()
    lines = [line for line in kept.read_bytes().splitlines() if line and line not in known]
    if lines:
        with here.open("ab", buffering=0) as file:
            file.write(b"\n".join(lines) + b"\n")


def _date(comparison: Path) -> None:
    """The list of chats is ordered by the times of the files, and a download has the time of now."""
    try:
        created = float(read_json(comparison)["created"])
        os.utime(comparison, (created, created))
    except (KeyError, TypeError, ValueError, OverflowError):  # not ours, or written by hand
        pass
