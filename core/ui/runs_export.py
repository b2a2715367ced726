"""The Export card of a run: the zip that is downloaded here, and the commands for what takes minutes or a token."""

from __future__ import annotations

from markupsafe import Markup

from core.access import OWNER, Access
from core.export.contents import Contents, contents_of
from core.methods import UserError
from core.runs import Run, Workspace
from core.ui import html
from core.words import plural, size

ZIP = "export.zip"
"""What a click on Download asks for; see downloads.py."""
LARGEST_ZIP = 2_000_000_000
"""Bytes above which the page shows the command instead of copying the files while somebody waits."""


def export_of(run: Run, workspace: Workspace) -> Contents | None:
    """What the run made that can be taken home: its model, its two agents or its rows; None = nothing, or it has not succeeded."""
    for ref in (f"waltz:{run.id}", f"run:{run.id}", f"data:{run.id}"):
        try:
            return contents_of(ref, workspace)
        except UserError:
            continue
    return None


def export_card(run: Run, workspace: Workspace, access: Access = OWNER) -> Markup:
    """"" for a run with nothing to take home. Visitors get the zip; commands are for who has the machine."""
    contents = export_of(run, workspace)
    if contents is None:
        return Markup()
    needed = bytes_of(contents)
    command = f"python app.py export {contents.ref}"
    if needed <= LARGEST_ZIP:
        button = html.small_button("Download zip", "download", ZIP, "filled")
    else:
        button = Markup() if access.public else html.code_block(f"{command} --to {contents.title}.zip")
    parts = [html.card_header("Export", _what(contents), html.span(size(needed))), html.div(button, "gw-buttons")]
    if not access.public:
        if any(part.is_adapter for part in contents.parts):
            parts += [html.div("Merge into the unquantised base: one model that needs neither PEFT nor the base.", "gw-help"),
                      html.code_block(f"{command} --merged FOLDER")]
        merged = " --merged" if contents.local_base else ""
        why = f" Its base, {contents.local_base}, is only here, so the merged model is pushed." if merged else ""
        parts += [html.div(f"Push to the Hugging Face Hub, private unless --public is added. It needs HF_TOKEN or `hf auth login`.{why}",
                           "gw-help"), html.code_block(f"{command} --hub OWNER/NAME{merged}")]
    return html.card(html.join(parts))


def bytes_of(contents: Contents) -> int:
    """Bytes of the files that would be zipped."""
    files = [*contents.rows.values(), *(path for part in contents.parts for path in part.files())]
    return sum(path.stat().st_size for path in files)


def _what(contents: Contents) -> str:
    if contents.kind == "dataset":
        return f"{plural(len(contents.rows), 'file')} of rows, and a card"
    if len(contents.parts) > 1:
        return "both agents, and their card"
    return f"{'adapter' if contents.parts[0].is_adapter else 'model'}, tokenizer, template and card"
