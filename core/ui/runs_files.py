"""The files of a run folder: which ones are shown and may be taken home, and what each is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from markupsafe import Markup

from core.files import size_of
from core.methods import UserError
from core.runs import Run
from core.ui import html
from core.words import plural, size

FOLDERS = ("adapter", "model")
_NAME = re.compile(r"(?:(?:adapter|model)/)?\w[\w.-]*\.(?:yaml|sh|jsonl?|txt|md|html|safetensors|jinja)")
"""The only names that leave a run folder: no dots at the front, no other folders, no way up."""
COUNT_BELOW = 5_000_000
"""Bytes up to which the rows of a JSONL file are counted for the list."""

MEANING = {
    "config.yaml": "what was asked, no secrets", "command.sh": "repeats it", "env.json": "versions, commit, hardware, seed",
    "status.json": "the worker's words", "labels.json": "name, tags and note", "events.jsonl": "progress, metrics, notices",
    "log.txt": "everything the worker printed", "report.json": "the numbers", "report.html": "the report, one page",
    "README.md": "card for the Hub", "predictions.jsonl": "every answer", "outputs.jsonl": "every sampled answer",
    "hard.jsonl": "the hard rows", "edits.jsonl": "corrections by hand", "preferences.jsonl": "the pairs, with weights",
    "ahead.jsonl": "answers to rows that are not whole yet",
    "hard_outputs.jsonl": "answers that chose the hard rows", "data.jsonl": "the rows",
    "conversation.jsonl": "rows of the conversation agent", "feedback.jsonl": "rows of the feedback agent",
    "offending_rows.jsonl": "rows that break a rule, with reasons",
    "bad_rows.jsonl": "rows left out, with reasons", "recipe.yaml": "the recipe as it was", "test_keys.txt": "hashes of its test rows",
    "trained_keys.txt": "hashes of the rows it trained on", "votes.jsonl": "votes", "ticks.jsonl": "ticked traces",
    "adapter/adapter_model.safetensors": "the trained weights", "adapter/adapter_config.json": "base model and LoRA settings",
}
_ORDER = list(MEANING)


@dataclass(frozen=True)
class FileRow:
    """One file (or checkpoint folder) of a run."""

    name: str
    meaning: str
    bytes: int
    offered: bool


def file_rows(run: Run) -> list[FileRow]:
    """Files in reading order, folders of weights opened, checkpoints as one line each."""
    found = []
    for path in sorted(run.dir.iterdir()):
        if path.name.startswith(".") or path.name in ("stop", "heartbeat"):
            continue
        if path.is_file():
            found.append(_row(path, path.name))
        elif path.name in FOLDERS:
            found += [_row(file, f"{path.name}/{file.name}") for file in sorted(path.iterdir()) if file.is_file()]
        elif path.is_dir():
            found.append(FileRow(path.name + "/", "to resume from" if path.name.startswith("checkpoint-") else "", size_of(path), False))
    return sorted(found, key=lambda row: (_ORDER.index(row.name) if row.name in _ORDER else len(_ORDER), row.name))


def _row(path: Path, name: str) -> FileRow:
    stat = path.stat()
    meaning = MEANING.get(name, "")
    if name.endswith(".jsonl") and stat.st_size < COUNT_BELOW:
        meaning = ", ".join(filter(None, [plural(_count(path, stat.st_size, stat.st_mtime_ns), "row"), meaning]))
    return FileRow(name, meaning, stat.st_size, bool(_NAME.fullmatch(name)))


@lru_cache(maxsize=256)
def _count(path: Path, bytes_now: int, changed: int) -> int:  # noqa: ARG001 - size and time make the cached answer current
    with path.open("rb") as file:
        return sum(1 for _ in file)


def offered_file(run: Run, name: str) -> Path:
    """The file behind an offered name; UserError for anything else, links included."""
    path = run.dir / name
    if not _NAME.fullmatch(name) or path.is_symlink() or not path.is_file() or run.dir.resolve() not in path.resolve().parents:
        raise UserError(f"{run.id} has no file {name!r} to download.")
    return path


def files_card(run: Run) -> Markup:
    """The list with sizes; a click on Download does `download` with the name."""
    found = file_rows(run)
    rows = [(html.span(row.name, "gw-mono gw-file") + html.div(row.meaning, "gw-sub"), html.span(size(row.bytes), "gw-nowrap"),
             html.small_link("Download", "download", row.name) if row.offered else "") for row in found]
    whole = sum(row.bytes for row in found)
    return html.card_header("Files", f"{run.dir.parent.name}/{run.id}", html.span(size(whole))) + html.table(
        ["File", "Size", ""], rows, right=(1, 2), label="files of the run")
