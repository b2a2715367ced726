"""What is to be copied, removed or fetched, whatever the place is."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from core.files import read_json, write_json
from core.keep.ledger import Ledger
from core.methods import UserError
from core.runs import FINISHED, Run, Workspace

MANIFEST = "kept.json"
"""Lies in each copy: which run it is, and its files with their sizes. A copy without it, or that does not match it, does not count."""
WORKSPACE = "_workspace"
"""Name of the copy of what lies beside the runs: spend.jsonl, votes.jsonl."""
_LEFT_OUT = ("heartbeat", "stop", MANIFEST)


@dataclass(frozen=True)
class Kept:
    """A whole copy."""

    key: str
    run: str
    created: float
    files: Mapping[str, int] = field(default_factory=dict)
    """{name in the run folder: bytes}."""

    @staticmethod
    def read(key: str, value: Any) -> Kept | None:
        """From a manifest; None for what is none."""
        try:
            return Kept(key, str(value["run"]), float(value["created"]), {str(name): int(size) for name, size in value["files"].items()})
        except (KeyError, TypeError, ValueError, AttributeError):
            return None

    def document(self) -> dict[str, Any]:
        """The manifest."""
        return {"run": self.run, "created": self.created, "files": dict(self.files)}

    def fits(self, folder: Path) -> bool:
        """Does a folder hold every file with its size?"""
        try:
            return all((folder / name).stat().st_size == size for name, size in self.files.items())
        except OSError:
            return False


class Place(Protocol):
    """Where copies lie. Everything raises UserError (or OSError) when the place cannot be reached."""

    @property
    def name(self) -> str:
        """As the user wrote it."""

    def kept(self) -> list[Kept]:
        """Every whole copy."""

    def put(self, kept: Kept, folder: Path) -> None:
        """Copy files of `folder`; what lay there before under the same key counts until the new copy is whole."""

    def fetch(self, kept: Iterable[Kept], into: Path) -> None:
        """Make `into/<key>/` with the files of each."""

    def drop(self, keys: Iterable[str]) -> None:
        """Remove copies."""


@dataclass
class Restored:
    """What a restore did."""

    runs: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def sync(workspace: Workspace, place: Place, wait: bool = False) -> str:
    """Restore if that was not possible yet, then copy every finished run that has changed; returns what went wrong, "" = nothing."""
    ledger = Ledger(workspace.runs_dir)
    try:
        if not ledger.is_restored(place.name) and restore(workspace, place).runs:
            from core.store import reindex

            reindex(workspace)
        with ledger.held(wait) as mine:
            trouble = _copy_all(workspace, place, ledger) if mine else ledger.trouble()
    except (UserError, OSError) as error:
        trouble = str(error)
    ledger.set_trouble(trouble)
    return trouble


def restore(workspace: Workspace, place: Place) -> Restored:
    """Fetch the runs that are kept and missing here. A run that is here stays as it is, also when another one of its name is kept."""
    ledger, done = Ledger(workspace.runs_dir), Restored()
    with ledger.held(True):
        wanted: list[Kept] = []
        gone = set(ledger.gone())
        for one in sorted(place.kept(), key=lambda kept: kept.created, reverse=True):
            if (one.run, one.created) in gone:
                continue
            here = workspace.runs_dir / one.run
            if one.run == WORKSPACE or not (here.exists() or any(one.run == other.run for other in wanted)):
                wanted.append(one)
            elif not here.exists() or Run(here).created != one.created:
                done.notes.append(f"{one.key} in {place.name} is another run than the {one.run} here, and stays there; to see it, copy it "
                                  "into the runs folder under another name.")
        if wanted:
            half = workspace.runs_dir / f".restoring-{os.getpid()}"
            shutil.rmtree(half, ignore_errors=True)
            try:
                place.fetch(wanted, half)
                for one in wanted:
                    _take_in(one, half / one.key, workspace, place, ledger, done)
            finally:
                shutil.rmtree(half, ignore_errors=True)
        ledger.set_restored(place.name)
    return done


def _take_in(one: Kept, folder: Path, workspace: Workspace, place: Place, ledger: Ledger, done: Restored) -> None:
    if not one.fits(folder):
        done.notes.append(f"{one.key} in {place.name} is damaged (files are missing or of another size) and was left there.")
        return
    if one.run == WORKSPACE:
        for name in one.files:
            _append_missing(folder / name, workspace.runs_dir / name)
        return
    (folder / MANIFEST).unlink(missing_ok=True)
    here = workspace.runs_dir / one.run
    folder.rename(here)
    done.runs.append(one.run)
    ledger.mark(place.name, one.run, one.created, one.key, fingerprint(here, kept_files(here)))


def _append_missing(kept: Path, here: Path) -> None:
    """Lines that are kept and not here, added in one write: each carries its time, so their order says nothing."""
    known = set(here.read_bytes().splitlines()) if here.exists() else set()
    lines = [line for line in kept.read_bytes().splitlines() if line and line not in known]
    if lines:
        with here.open("ab", buffering=0) as file:
            file.write(b"\n".join(lines) + b"\n")


def _copy_all(workspace: Workspace, place: Place, ledger: Ledger) -> str:
    trouble = ""
    _drop_gone(place, ledger)
    known: list[Kept] | None = None
    for item in _items(workspace):
        before = fingerprint(item.folder, item.files)
        if before == ledger.fingerprint(place.name, item.run, item.created):
            continue
        known = place.kept() if known is None else known
        key = _key(item, known)
        try:
            sizes = {name: (item.folder / name).stat().st_size for name in item.files}
            place.put(Kept(key, item.run, item.created, sizes), item.folder)
        except FileNotFoundError:  # deleted, or resumed, while it was copied: the next look sees what is there then
            continue
        except (UserError, OSError) as error:
            trouble = f"{item.run} could not be copied to {place.name}: {error}"
            continue
        if fingerprint(item.folder, item.files) == before:
            ledger.mark(place.name, item.run, item.created, key, before)
    return trouble


def _drop_gone(place: Place, ledger: Ledger) -> None:
    gone = ledger.gone()
    if not gone:
        return
    place.drop([one.key for one in place.kept() if (one.run, one.created) in gone])
    for run, created in gone:
        ledger.dropped(run, created)


@dataclass(frozen=True)
class _Item:
    run: str
    created: float
    folder: Path
    files: tuple[str, ...]


def _items(workspace: Workspace) -> Iterator[_Item]:
    """Finished runs, oldest first: what a run was made from is there before it."""
    beside = tuple(sorted(path.name for path in workspace.runs_dir.glob("*.jsonl") if path.is_file() and not path.is_symlink()))
    if beside:
        yield _Item(WORKSPACE, 0.0, workspace.runs_dir, beside)
    runs = {run.id: run for run in reversed(workspace.every_run())}
    for run in runs.values():
        if run.state in FINISHED and not _is_a_visitors(run, runs):
            yield _Item(run.id, run.created, run.dir, kept_files(run.dir))


def _is_a_visitors(run: Run, runs: Mapping[str, Run]) -> bool:
    """Started by a visitor of a public demo, or a step of what one started: it is deleted after hours, and nobody's to keep."""
    one: Run | None = run
    while one is not None:
        status = one.status
        if status.get("visitor") is not None:
            return True
        one = runs.get(str(status.get("parent") or ""))
    return False


def kept_files(folder: Path) -> tuple[str, ...]:
    """Files of a run folder that are copied: no checkpoints (a finished run needs none), nothing half written, no links."""
    found: list[str] = []
    for at, folders, names in os.walk(folder):
        top = Path(at) == folder
        folders[:] = [name for name in folders if not name.startswith(".") and not (top and name.startswith("checkpoint-"))]
        for name in names:
            path = Path(at) / name
            if not (name.startswith(".") or (top and name in _LEFT_OUT) or path.is_symlink()):
                found.append(path.relative_to(folder).as_posix())
    return tuple(sorted(found))


def fingerprint(folder: Path, files: Iterable[str]) -> str:
    """Changes when a file is added, removed or written. Reads no contents."""
    digest = hashlib.sha256()
    for name in files:
        try:
            stat = (folder / name).stat()
        except OSError:
            continue
        digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _key(item: _Item, known: Iterable[Kept]) -> str:
    """The run's id; with its time of creation where another run of that name is kept, which must not be written over."""
    for one in known:
        if (one.run, one.created) == (item.run, item.created):
            return one.key
    taken = {one.key for one in known}
    return item.run if item.run not in taken else f"{item.run}.{item.created:.0f}"


def write_manifest(folder: Path, kept: Kept) -> None:
    """Last of all: from then on the copy counts."""
    write_json(folder / MANIFEST, kept.document())


def read_manifest(folder: Path) -> Kept | None:
    """Of a copy in a folder; None where it is not whole."""
    try:
        kept = Kept.read(folder.name, read_json(folder / MANIFEST))
    except (OSError, ValueError):
        return None
    return kept if kept is not None and kept.fits(folder) else None
