"""Copies in a folder, such as the /data of a Space or a disk of the house."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from core.export.archive import plain_disk_errors
from core.keep.sync import MANIFEST, ChangedMeanwhile, Kept, read_manifest, write_manifest
from core.methods import UserError

_NEW, _OLD = ".new-", ".old-"


@dataclass(frozen=True)
class FolderPlace:
    """`folder/<key>/`, each beside its manifest; names that begin with a dot are copies on the way in or out."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.folder)

    def kept(self) -> list[Kept]:
        """Whole copies only. A place that is not there yet holds none; one that cannot be read is an error, not an empty place."""
        self._make()
        self._mend()
        return [kept for path in sorted(self.folder.iterdir()) if not path.name.startswith(".") and (kept := read_manifest(path))]

    def put(self, kept: Kept, folder: Path) -> None:
        """Copy beside, then swap: the old copy counts until the new one is whole. Unchanged files are linked where the disk can."""
        self._make()
        new, old, target = self.folder / f"{_NEW}{kept.key}", self.folder / f"{_OLD}{kept.key}", self.folder / kept.key
        with plain_disk_errors(target):
            if target.exists() and not (target / MANIFEST).exists():
                raise UserError(f"{target} is there already and is no copy of a run; move it away, or name another place.")
            shutil.rmtree(new, ignore_errors=True)
            try:
                for name in kept.files:
                    _copy(folder / name, target / name, new / name)
                if not kept.fits(new):
                    raise ChangedMeanwhile(kept.key)
                write_manifest(new, kept)
                shutil.rmtree(old, ignore_errors=True)
                if target.exists():
                    target.rename(old)
                new.rename(target)
                shutil.rmtree(old, ignore_errors=True)
            except BaseException:
                shutil.rmtree(new, ignore_errors=True)
                raise

    def fetch(self, kept: Iterable[Kept], into: Path) -> None:
        """Copies, times included."""
        for one in kept:
            for name in one.files:
                target = into / one.key / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with plain_disk_errors(target):
                    shutil.copy2(self.folder / one.key / name, target)

    def drop(self, keys: Iterable[str]) -> None:
        """Renamed first, so that it is gone at once."""
        for key in keys:
            away = self.folder / f"{_NEW}{key}"
            shutil.rmtree(away, ignore_errors=True)
            (self.folder / key).rename(away)
            shutil.rmtree(away, ignore_errors=True)

    def _make(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder} cannot be made ({error.strerror}); set GUARDWALTZ_KEEP to a folder that can be written.") \
                from error

    def _mend(self) -> None:
        """A process that was killed between the two renames left the old copy under its other name."""
        for path in self.folder.glob(f"{_OLD}*"):
            target = self.folder / path.name.removeprefix(_OLD)
            if not target.exists() and read_manifest(path) is not None:
                path.rename(target)


def _copy(source: Path, earlier: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    stat = source.stat()
    try:
        before = earlier.stat()
        if (before.st_size, before.st_mtime_ns) == (stat.st_size, stat.st_mtime_ns):
            os.link(earlier, target)
            return
    except OSError:  # no earlier copy, or a disk without links
        pass
    shutil.copy2(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
