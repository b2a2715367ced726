"""What is to be copied, removed or fetched, whatever the place is."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from core.files import read_json, write_json
from core.keep.beside import BESIDE, COMPARISONS, snapshot
from core.keep.ledger import Ledger
from core.methods import UserError
from core.resuming import WITHOUT_CHECKPOINTS, checkpoints_of
from core.runs import FINISHED, Run, Workspace, update_status

MANIFEST = "kept.json"
"""Lies in each copy: which run it is, and its files with their sizes. A copy without it, or that does not match it, does not count."""
_LEFT_OUT = ("heartbeat", "stop", MANIFEST)
REST = 120.0
"""Seconds after a copy of a run in which no look makes another one: a person who corrects rows by hand changes it every few seconds, and
the Hub takes about 128 commits an hour from one repository."""


class ChangedMeanwhile(Exception):
    """What was to be copied is not what it was when the copy began. The copy is given up, and the next look makes another one."""


@dataclass(frozen=True)
class Kept:
    """A whole copy."""

    key: str
    run: str
    created: float
    files: Mapping[str, int] = field(default_factory=dict)
    """{name in the run folder: bytes}."""
    without_checkpoints: bool = False
    """The run could be resumed from some, which are not copied."""

    @staticmethod
    def read(key: str, value: Any) -> Kept | None:
        """From a manifest; None for what is none."""
        try:
            return Kept(key, str(value["run"]), float(value["created"]), {str(name): int(size) for name, size in value["files"].items()},
                        bool(value.get("without_checkpoints")))
        except (KeyError, TypeError, ValueError, AttributeError):
            return None

    def document(self) -> dict[str, Any]:
        """The manifest."""
        return {"run": self.run, "created": self.created, "files": dict(self.files), "without_checkpoints": self.without_checkpoints}

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
        """Copy files of `folder`; what lay there before under the same key counts until the new copy is whole. ChangedMeanwhile, and the
        earlier copy stays, where the files are not of the sizes that `kept` names."""

    def fetch(self, kept: Iterable[Kept], into: Path) -> None:
        """Make `into/<key>/` with the files of each."""

    def drop(self, keys: Iterable[str]) -> None:
        """Remove copies."""


@dataclass
class Restored:
    """What a restore did."""

    runs: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Synced:
    """What came of bringing the copies up to date."""

    trouble: str = ""
    """What went wrong and is to be tried again; "" = nothing."""
    restored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What the last restore left at the place, and why."""


def sync(workspace: Workspace, place: Place, wait: bool = False) -> Synced:
    """Restore if that was not possible yet, then copy every finished run that has changed, and what lies beside them. wait: for another
    process that is at it; and copy also what was copied a moment ago (without it, that is left alone for a while)."""
    ledger, done = Ledger(workspace.runs_dir), Synced()
    try:
        if not ledger.is_restored(place.name):
            done.restored = restore(workspace, place).runs
            if done.restored:
                from core.store import reindex

                reindex(workspace)
        with ledger.held(wait) as mine:
            done.trouble = _copy_all(workspace, place, ledger, rests=not wait) if mine else ledger.trouble()
    except (UserError, OSError) as error:
        done.trouble = str(error)
    ledger.set_trouble(done.trouble)
    done.notes = ledger.notes(place.name)
    return done


def restore(workspace: Workspace, place: Place) -> Restored:
    """Fetch the runs that are kept and missing here. A run that is here stays as it is, also when another one of its name is kept."""
    ledger, done = Ledger(workspace.runs_dir), Restored()
    with ledger.held(True):
        first = not ledger.is_restored(place.name)
        wanted: list[Kept] = []
        gone = set(ledger.gone())
        for one in sorted(place.kept(), key=lambda kept: kept.created, reverse=True):
            if (one.run, one.created) in gone:
                continue
            here = workspace.runs_dir / one.run
            if one.run == COMPARISONS.name and not first:
                continue
            if one.run in BESIDE or not (here.exists() or any(one.run == other.run for other in wanted)):
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
                    _take_in(one, half / one.key, workspace, place, ledger, done, first)
            finally:
                shutil.rmtree(half, ignore_errors=True)
        ledger.set_restored(place.name, done.notes)
    return done


def _take_in(one: Kept, folder: Path, workspace: Workspace, place: Place, ledger: Ledger, done: Restored, first: bool) -> None:
    if not one.fits(folder):
        done.notes.append(f"{one.key} in {place.name} is damaged (files are missing or of another size) and was left there.")
        return
    if beside := BESIDE.get(one.run):
        beside.take_in(folder, workspace.runs_dir, first)
        files = beside.files(workspace.runs_dir)
        if set(files) == set(one.files) and one.fits(workspace.runs_dir):
            ledger.mark(place.name, one.run, one.created, one.key, fingerprint(workspace.runs_dir, files))
        return
    (folder / MANIFEST).unlink(missing_ok=True)
    if one.without_checkpoints:
        update_status(folder, **{WITHOUT_CHECKPOINTS: True})
    here = workspace.runs_dir / one.run
    folder.rename(here)
    done.runs.append(one.run)
    ledger.mark(place.name, one.run, one.created, one.key, fingerprint(here, kept_files(here)))


def _copy_all(workspace: Workspace, place: Place, ledger: Ledger, rests: bool) -> str:
    trouble = ""
    _drop_gone(place, ledger)
    known: list[Kept] | None = None
    for item in _items(workspace):
        before = fingerprint(item.folder, item.files)
        if before == ledger.fingerprint(place.name, item.run, item.created):
            continue
        if rests and abs(time.time() - ledger.copied(place.name, item.run)) < item.rest:
            continue
        known = place.kept() if known is None else known
        key = _key(item, known)
        try:
            with snapshot(item.folder, item.files) if item.is_beside else nullcontext(item.folder) as folder:
                sizes = {name: (folder / name).stat().st_size for name in item.files}
                place.put(Kept(key, item.run, item.created, sizes, _leaves_checkpoints(item)), folder)
            ledger.set_copied(place.name, item.run, time.time())
        except (ChangedMeanwhile, FileNotFoundError):  # edited, resumed or deleted while it was copied: the next look sees what is there
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
    rest: float = REST
    """Seconds after a copy in which no look makes another one."""

    @property
    def is_beside(self) -> bool:
        """Is it no run, but what lies beside them and is written at any time?"""
        return self.run in BESIDE


def _items(workspace: Workspace) -> Iterator[_Item]:
    """What lies beside the runs, then finished runs, oldest first: what a run was made from is there before it."""
    for beside in BESIDE.values():
        if files := beside.files(workspace.runs_dir):
            yield _Item(beside.name, 0.0, workspace.runs_dir, files, beside.rest)
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


def _leaves_checkpoints(item: _Item) -> bool:
    if item.is_beside:
        return False
    run = Run(item.folder)
    return run.state != "succeeded" and bool(checkpoints_of(run))


def kept_files(folder: Path) -> tuple[str, ...]:
    """Files of a run folder that are copied: no checkpoints (a finished run needs none), nothing half written, no links."""
    found: list[str] = []
    for at, folders, names in os.walk(folder):
        inside = Path(at).relative_to(folder)
        top = not inside.parts
        whole = top or (len(inside.parts) == 1 and inside.name.startswith("sft-"))  # a share has its own, see core/resuming.py
        folders[:] = [name for name in folders if not name.startswith(".") and not (whole and name.startswith("checkpoint-"))]
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
