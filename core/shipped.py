"""The finished study that comes with the app (assets/study): what somebody sees who opens it for the first time.

    python -m core.shipped RUNS_DIR/recipe-0001 [CHECKOUT]     take a study that the recipe `rehearsal` made in a checkout (default: this
                                                               one), without weights and without what names a machine

It was trained and sampled on the project's own demo data only. Its runs read like any other; their weights are not there, so they can be
neither chatted with nor continued: running the recipe makes them anew.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from core.files import read_json, write_json
from core.runs import REPOSITORY, Run, Workspace

STUDY = REPOSITORY / "assets" / "study"
OFF = "GUARDWALTZ_STUDY"
"""Set to `off`, an empty workspace stays empty."""
TAGS = ["public", "shipped"]
"""`public`: visitors of a public demo may read it."""
NOTE = ("This study came with the app: the recipe `rehearsal`, run on the project's own demo data. Its weights are not included; run the "
        "recipe to make them.")
WEIGHTS = ("adapter", "model", "checkpoint-*", "heartbeat", "*.safetensors", "*.pt")
OF_A_MACHINE = ("host", "platform", "process", "launched")


def place(workspace: Workspace) -> list[str]:
    """Put the study into a workspace that has no run yet; returns the ids. Nothing where it is switched off, or was deleted before."""
    mark = workspace.runs_dir / ".study"
    if os.environ.get(OFF, "").lower() == "off" or mark.exists() or workspace.every_run() or not STUDY.is_dir():
        return []
    from core.store import reindex

    placed = []
    for source in sorted(path.parent for path in STUDY.glob("*/status.json")):
        half = workspace.runs_dir / f".{source.name}.half"
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(source, half)
        half.rename(workspace.runs_dir / source.name)
        placed.append(source.name)
    mark.touch()  # who deletes the study does not want it back
    reindex(workspace)
    return placed


def pack(study: Run, workspace: Workspace, target: Path, checkout: Path = REPOSITORY) -> list[str]:
    """Copy a finished study and its steps to `target`; returns the ids. checkout: where it was made; its path is taken out."""
    steps = [run for run in workspace.every_run() if run.status.get("parent") == study.id]
    shutil.rmtree(target, ignore_errors=True)
    for run in (study, *steps):
        if run.state != "succeeded":
            raise SystemExit(f"{run.id} is {run.state}; pack a study that succeeded.")
        copy = target / run.id
        shutil.copytree(run.dir, copy, ignore=shutil.ignore_patterns(*WEIGHTS))
        _take_out(copy, {str(workspace.runs_dir): "runs", f"{checkout}/": ""})
        for name in ("status.json", "env.json"):
            kept = {key: value for key, value in read_json(copy / name, {}).items() if key not in OF_A_MACHINE}
            write_json(copy / name, kept)
        write_json(copy / "labels.json", {"name": run.labels.get("name", ""), "tags": TAGS, "note": NOTE, "archived": False})
    return [study.id, *(run.id for run in steps)]


def _take_out(folder: Path, words: dict[str, str]) -> None:
    for path in (path for path in folder.rglob("*") if path.is_file()):
        text = path.read_text("utf-8")
        for word, instead in words.items():
            text = text.replace(word, instead)
        path.write_text(text, "utf-8")


def named_paths(folder: Path, words: tuple[str, ...]) -> list[str]:
    """Files under `folder` that name one of these words, such as a home folder: nothing of a machine may be shipped."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [str(path) for path in files if any(word in path.read_text("utf-8", "replace") for word in words)]


if __name__ == "__main__":
    given = Path(sys.argv[1]).resolve()
    of, made_in = Workspace(given.parent), Path(sys.argv[2]).resolve() if len(sys.argv) > 2 else REPOSITORY
    found = pack(of.run(given.name), of, STUDY, made_in)
    leaks = named_paths(STUDY, (str(given.parent), str(made_in), str(REPOSITORY), f"{Path.home()}/"))
    print(json.dumps({"packed": found, "files that name this machine's folders": leaks}, indent=1))
    sys.exit(1 if leaks else 0)
