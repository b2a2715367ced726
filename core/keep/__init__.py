"""Durable copies of finished runs, for machines whose disk forgets: `$GUARDWALTZ_KEEP` is a folder, or hf://datasets/OWNER/NAME.

A run is copied when it ends, and again, not more often than every two minutes, when its folder changes (a new name, a correction by
hand): without checkpoints, with what it made. So are the owner's saved turns, pairs and comparisons, the votes and the money spent. What
visitors of a public demo did is not kept. At the start of the app what is missing here is fetched. Whatever goes wrong is said once and
tried again; the run in the runs folder is never touched. `python -m core.keep` brings everything up to date once: each worker starts that
as it ends, so that it works without the app, and the app does the same every few seconds for what people change, and once more as it
closes.

where.py says which place is meant, folder_place.py and hub_place.py how copies lie there, ledger.py what was copied, beside.py what
else than runs is copied, sync.py what is to be done.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from core.keep.where import VARIABLE, place_of, storage_words, wanted
from core.methods import UserError
from core.words import plural

if TYPE_CHECKING:
    from core.runs import Workspace

__all__ = ["VARIABLE", "bring_back", "forget", "place_of", "start", "storage_words", "trouble_of", "watch"]

EVERY, AFTER_TROUBLE = 15.0, 60.0
"""Seconds between two looks of the app, and after a look that failed."""

_started: list[subprocess.Popen[bytes]] = []


def start(workspace: Workspace) -> None:
    """Bring the copies up to date in a process of its own, which outlives whoever calls. Does nothing where nothing is kept."""
    if not wanted(workspace):
        return
    from core.runs import REPOSITORY

    _started[:] = [process for process in _started if process.poll() is None]  # reap, so that ended ones are no zombies
    environment = {**os.environ, "GUARDWALTZ_RUNS": str(workspace.runs_dir)}
    _started.append(subprocess.Popen([sys.executable, "-m", "core.keep"], cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True))


def bring_back(workspace: Workspace, say: Callable[[str], None]) -> bool:
    """At the start of the app: fetch the runs that are missing here, and index them. Trouble is said; the app starts all the same.

    False while this folder has never taken over what is kept: then nothing but a person may make runs here, because a kept run whose
    name is taken stays where it is."""
    from core.keep.ledger import Ledger
    from core.keep.sync import restore
    from core.store import reindex

    place = None
    try:
        place = place_of(workspace)
        if place is None:
            return True
        found = restore(workspace, place)
    except (UserError, OSError) as error:
        say(f"keep: {error} The app starts without the kept runs and tries again.")
        return place is not None and Ledger(workspace.runs_dir).is_restored(place.name)
    for line in found.notes:
        say(f"keep: {line}")
    if found.runs:
        reindex(workspace)
        say(_restored_words(found.runs, place.name))
    return True


def watch(workspace: Workspace, stop: threading.Event, say: Callable[[str], None]) -> None:
    """The app's thread: until `stop` is set, and once more then, copy what ends and what changes. A trouble is said once, not every
    minute; what a restore of whichever process left at the place is said, too."""
    from core.keep.sync import sync

    last, closing = "", False
    told: set[str] | None = None
    while True:
        try:
            place = place_of(workspace)
            if place is None:
                return
            told = set(_notes(workspace)) if told is None else told  # those of the start were said there
            done = sync(workspace, place, wait=closing)
            trouble = done.trouble
            if done.restored:
                say(_restored_words(done.restored, place.name))
            for line in dict.fromkeys(done.notes):
                if line not in told:
                    say(f"keep: {line}")
            told.update(done.notes)
        except Exception as error:  # the thread must live as long as the app
            trouble = f"{type(error).__name__}: {error}"
        if trouble and trouble != last:
            say(f"keep: {trouble} It is tried again; nothing is lost here.")
        last = trouble
        if closing or (stop.wait(AFTER_TROUBLE if trouble else EVERY) and trouble):
            return  # a place that could not be reached a moment ago must not hold up the end
        closing = stop.is_set()


def forget(workspace: Workspace, run_id: str, created: float) -> None:
    """A run was deleted for good: its copy is to go, too, or the next start would bring it back."""
    if wanted(workspace):
        from core.keep.ledger import Ledger

        Ledger(workspace.runs_dir).forget(run_id, created)
        start(workspace)


def trouble_of(workspace: Workspace) -> str:
    """What went wrong at the last try, and what could not be restored, for a page or the doctor; "" while all is well."""
    from core.keep.ledger import Ledger

    if not wanted(workspace):
        return ""
    return " ".join(filter(None, [Ledger(workspace.runs_dir).trouble(), *_notes(workspace)]))


def _notes(workspace: Workspace) -> list[str]:
    from core.keep.ledger import Ledger

    try:
        place = place_of(workspace)
    except UserError:
        return []
    return Ledger(workspace.runs_dir).notes(place.name) if place else []


def _restored_words(runs: list[str], name: str) -> str:
    return f"keep: {plural(len(runs), 'run')} restored from {name}"
