"""`python app.py export`: from a reference to a zip, a folder or a repository, with one sentence for whatever stands in the way."""

from __future__ import annotations

import tempfile
from pathlib import Path

from core.export.archive import Files, laid_out, write_zip
from core.export.card import model_readme, portable_config, refuse_local_base
from core.export.contents import CARD, Contents, contents_of
from core.export.data_card import data_readme
from core.methods import UserError
from core.runs import Workspace


def export(ref: str, workspace: Workspace, *, to: Path | None = None, merged: Path | None = None, merge: bool = False, hub: str = "",
           public: bool = False) -> str:
    """Write or push what `ref` names; returns where it is now.

    to: a zip file. merged: a folder for the whole model. hub: OWNER/NAME, with `merge` for the whole model.

    Raises: UserError, one sentence.
    """
    if (to is not None) + bool(merged or (merge and not hub)) + bool(hub and not merged) != 1:
        raise UserError("Say where to: --to FILE.zip, --merged FOLDER, or --hub OWNER/NAME (with --merged for the whole model).")
    if public and not hub:
        raise UserError("--public is about the Hub; add --hub OWNER/NAME.")
    contents = contents_of(ref, workspace)
    if merge or merged:
        if contents.kind == "dataset":
            raise UserError(f"{ref} holds rows; only an adapter is merged. Leave out --merged.")
        if merged is None and not hub:
            raise UserError("--merged needs a folder to write to, or --hub OWNER/NAME.")
        return _merged(contents, workspace, merged, hub, public)
    if to is not None:
        return str(write_zip(export_files(contents, workspace), to.expanduser(), contents.title))
    refuse_local_base(contents)
    with laid_out(export_files(contents, workspace)) as folder:
        return _push(folder, contents, hub, public)


def export_files(contents: Contents, workspace: Workspace) -> Files:
    """Everything that belongs into an export, the card included: {name: where it comes from}."""
    if contents.kind == "dataset":
        return {"README.md": data_readme(contents).encode(), **{f"{name}.jsonl": path for name, path in contents.rows.items()}}
    files: dict[str, Path | bytes] = {"README.md": model_readme(contents, workspace).encode()}
    rules = contents.run.dir / "rules.json"
    if len(contents.parts) > 1 and rules.is_file():
        files["rules.json"] = rules  # how the two were taught to talk
    for part in contents.parts:
        before = f"{part.name}/" if part.name else ""
        for path in part.files():
            files[before + path.name] = (portable_config(part, path.read_text(encoding="utf-8")) if path.name == "adapter_config.json"
                                         else path)
        if part.card and f"{before}{CARD}" not in files:  # a checkpoint has none of its own
            import json

            files[before + CARD] = (json.dumps(part.card, indent=2) + "\n").encode()
    return files


def _merged(contents: Contents, workspace: Workspace, folder: Path | None, hub: str, public: bool) -> str:
    from core.lm.merge import merge_into

    if hub:
        from core.export.hub import signed_in

        signed_in(hub)  # before minutes of work, not after
    if folder is not None:
        merge_into(folder.expanduser(), contents, workspace)
        return _push(folder.expanduser(), contents, hub, public) if hub else str(folder)
    with tempfile.TemporaryDirectory(prefix="guardwaltz-") as temporary:
        whole = Path(temporary) / contents.title
        merge_into(whole, contents, workspace)
        return _push(whole, contents, hub, public)


def _push(folder: Path, contents: Contents, hub: str, public: bool) -> str:
    from core.export.hub import push_folder

    return push_folder(folder, hub, contents.kind, public=public, message=f"{contents.title}, exported by GuardWaltz")
