"""Where copies go: as the environment says, else to the storage of a Space."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from core.access import on_space
from core.methods import UserError

if TYPE_CHECKING:
    from core.keep.sync import Place
    from core.runs import Workspace

VARIABLE = "GUARDWALTZ_KEEP"
DATA = Path("/data")
"""Where a Space mounts storage that outlives a restart."""
RUNS = "runs"
"""The folder in it that copies go to where nobody named another place."""


def wanted(workspace: Workspace) -> str:
    """The place as it is written in the environment; the storage of a Space where nothing is; "" = nothing is kept."""
    text = os.environ.get(VARIABLE, "").strip()
    if text or not _has_storage() or _lives_there(workspace):
        return text
    return str(DATA / RUNS)


def place_of(workspace: Workspace) -> Place | None:
    """Where copies go; None where nothing is kept. UserError for a value that cannot be meant."""
    text = wanted(workspace)
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


def storage_words(workspace: Workspace) -> str:
    """What to say on a Space whose disk is emptied by a restart, when nobody copies finished runs away; "" elsewhere."""
    if not on_space() or wanted(workspace) or (_has_storage() and _lives_there(workspace)):
        return ""
    return (f"The storage of this Space is ephemeral: a restart loses every run. Set {VARIABLE} to hf://datasets/OWNER/NAME, or attach "
            f"storage at {DATA}.")


def _has_storage() -> bool:
    return on_space() and DATA.is_dir() and os.access(DATA, os.W_OK)


def _lives_there(workspace: Workspace) -> bool:
    """Is the runs folder itself in that storage? Then there is nothing to copy there."""
    return workspace.runs_dir.is_relative_to(DATA.resolve())
