"""Taking a file of a run home: a copy where Gradio may serve it, because the runs folder itself stays closed."""

from __future__ import annotations

import shutil
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

OLD_ZIP = 3600.0
"""Seconds after which a zip was surely saved by the browser that asked for it."""


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
    target = _place(viewer, str(time.time_ns()), name)
    target.write_text(text, encoding="utf-8")
    return str(target)


def _place(viewer: str, moment: str, name: str) -> Path:
    target = Path(get_upload_folder()) / "guardwaltz" / viewer / moment / name
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _zipped(workspace: Workspace, run_id: str) -> str:
    """The export of a run, made anew: an evaluation of today stands on its card. Zips of an hour ago are removed."""
    contents = export_of(workspace.run(run_id), workspace)
    if contents is None:
        raise UserError(f"{run_id} has nothing to export.")
    folder = Path(get_upload_folder()) / "guardwaltz" / workspace.access.viewer() / "export"
    for old in folder.glob("*/*.zip"):
        if time.time() - old.stat().st_mtime > OLD_ZIP:
            old.unlink(missing_ok=True)
    target = folder / str(time.time_ns()) / f"{contents.title}.zip"
    return str(write_zip(export_files(contents, workspace), target, contents.title))
