"""Durable copies of finished runs, for machines whose disk forgets: `$GUARDWALTZ_KEEP` is a folder, or hf://datasets/OWNER/NAME.

A run is copied when it ends, and again when its folder changes (a new name, a correction by hand): without checkpoints, with what it
made. What visitors of a public demo did is not kept. At the start of the app the runs that are missing here are fetched. Whatever goes
wrong is said once and tried again; the run in the runs folder is never touched. `python -m core.keep` brings everything up to date
once: each worker starts that as it ends, so that it works without the app, and the app does the same every few seconds for what people
change.

folder_place.py and hub_place.py say where copies lie, ledger.py what was copied, sync.py what is to be done.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from core.methods import UserError
from core.words import plural

if TYPE_CHECKING:
    from core.keep.sync import Place
    from core.runs import Workspace

VARIABLE = "GUARDWALTZ_KEEP"
EVERY, AFTER_TROUBLE = 15.0, 60.0
"""Seconds between two looks of the app, and after a look that failed."""

_started: list[subprocess.Popen[bytes]] = []


def place_of(workspace: Workspace) -> Place | None:
    """Where copies go by the environment; None where nothing is kept. UserError for a value that cannot be meant."""
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return None
    if "://" in text:
        from core.keep.hub_place import hub_place

        return hub_place(text)
    from core.keep.folder_place import FolderPlace

    folder = Path(text).expanduser().absolute()
    if folder.resolve().is_relative_to(workspace.runs_dir) or workspace.runs_dir.is_relative_to(folder.resolve()):
        raise UserError(f"{VARIABLE} = {text} and the runs folder {workspace.runs_dir} lie inside each other; name another folder.")
    return FolderPlace(folder)


def start(workspace: Workspace) -> None:
    """Bring the copies up to date in a process of its own, which outlives whoever calls. Does nothing where nothing is kept."""
    if not os.environ.get(VARIABLE, "").strip():
        return
    from core.runs import REPOSITORY

    _started[:] = [process for process in _started if process.poll() is None]  # reap, so that ended ones are no zombies
    environment = {**os.environ, "GUARDWALTZ_RUNS": str(workspace.runs_dir)}
    _started.append(subprocess.Popen([sys.executable, "-m", "core.keep"], cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True))


def bring_back(workspace: Workspace, say: Callable[[str], None]) -> None:
    """At the start of the app: fetch the runs that are missing here, and index them. Trouble is said; the app starts all the same."""
    from core.keep.sync import restore
    from core.store import reindex

    try:
        place = place_of(workspace)
        if place is None:
            return
        found = restore(workspace, place)
    except (UserError, OSError) as error:
        say(f"keep: {error} The app starts without the kept runs and tries again.")
        return
    for line in found.notes:
        say(f"keep: {line}")
    if found.runs:
        reindex(workspace)
        say(f"keep: {plural(len(found.runs), 'run')} restored from {place.name}")


def watch(workspace: Workspace, stop: threading.Event, say: Callable[[str], None]) -> None:
    """The app's thread: until `stop` is set, copy what ends and what changes. A trouble is said once, not every minute."""
    from core.keep.sync import sync

    last = ""
    while not stop.is_set():
        try:
            place = place_of(workspace)
            if place is None:
                return
            trouble = sync(workspace, place)
        except Exception as error:  # the thread must live as long as the app
            trouble = f"{type(error).__name__}: {error}"
        if trouble and trouble != last:
            say(f"keep: {trouble} It is tried again; nothing is lost here.")
        last = trouble
        stop.wait(AFTER_TROUBLE if trouble else EVERY)


def forget(workspace: Workspace, run_id: str, created: float) -> None:
    """A run was deleted for good: its copy is to go, too, or the next start would bring it back."""
    if os.environ.get(VARIABLE, "").strip():
        from core.keep.ledger import Ledger

        Ledger(workspace.runs_dir).forget(run_id, created)
        start(workspace)


def trouble_of(workspace: Workspace) -> str:
    """What went wrong at the last try, for a page or the doctor; "" while all is well."""
    from core.keep.ledger import Ledger

    return Ledger(workspace.runs_dir).trouble() if os.environ.get(VARIABLE, "").strip() else ""
