"""Taking a file of a run home: a copy where Gradio may serve it, because the runs folder itself stays closed."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from core.export.archive import write_zip
from core.export.command import export_files
from core.methods import UserError
from core.runs import Workspace
from core.ui.runs_export import ZIP, export_of
from core.ui.runs_files import offered_file

TAKE = """(file) => {
    if (!file || !file.url) return;
    const link = document.createElement('a');
    link.href = file.url;
    link.download = file.orig_name || 'file';
    link.click();
}"""

OLD = 3600.0
"""Seconds after which a copy was surely saved by the browser that asked for it."""
_LOCK = threading.Lock()
TEXTS = 8
"""Files of one viewer's words at most; the newest stay."""


def download_box() -> gr.File:
    """A hidden file; whatever an event puts into it is saved by the browser."""
    box = gr.File(visible="hidden", label="download")
    box.change(None, box, None, js=TAKE, api_visibility="private")
    return box


def prepared(workspace: Workspace, run_id: str, name: str) -> str | None:
    """Path of the copy; None with a message where the run offers no such file."""
    try:
        if name == ZIP:
            return _zipped(workspace, run_id)
        path = offered_file(workspace.run(run_id), name)
    except UserError as error:
        gr.Warning(str(error))
        return None
    # the time keeps an older copy of a file that has grown apart, and makes a second click a change
    viewer = workspace.access.viewer()  # a keyed hash in the path: what one visitor fetches is at no address that another could guess
    target = _place(viewer, str(path.stat().st_mtime_ns), f"{run_id}-{path.name}")
    shutil.copyfile(path, target)
    return str(target)


def text_file(text: str, name: str, viewer: str) -> str:
    """Path of a file that holds this text. viewer: Access.viewer(), see above."""
    target = _place(viewer, f"text-{time.time_ns()}", name)
    target.write_text(text, encoding="utf-8")
    mine = sorted(target.parent.parent.glob("text-*/*"), key=lambda path: path.parent.name)
    with _LOCK:
        _remove(mine[:-TEXTS])
    return str(target)


def _place(viewer: str, moment: str, name: str) -> Path:
    """Where the copy goes. Old ones are removed, whoever asked for them."""
    folder = Path(get_upload_folder()) / "guardwaltz"
    target = folder / viewer / moment / name
    with _LOCK:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target.touch()
        _remove([path for path in folder.rglob("*") if _is_old(path)])
    return target


def _zipped(workspace: Workspace, run_id: str) -> str:
    """The export of a run, made anew: an evaluation of today stands on its card."""
    contents = export_of(workspace.run(run_id), workspace)
    if contents is None:
        raise UserError(f"{run_id} has nothing to export.")
    target = _place(workspace.access.viewer(), f"export-{time.time_ns()}", f"{contents.title}.zip")
    return str(write_zip(export_files(contents, workspace), target, contents.title))


def _is_old(path: Path) -> bool:
    try:
        return path.is_file() and time.time() - path.stat().st_mtime > OLD
    except FileNotFoundError:  # it has just been given its name
        return False


def _remove(paths: list[Path]) -> None:
    """Files, and their folders, which hold nothing else."""
    for path in paths:
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()
