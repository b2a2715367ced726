"""Files for an export, from where they lie: streamed into a zip, or laid out as a folder to upload. Whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from core.methods import UserError
from core.words import size

Files = Mapping[str, Path | bytes]
"""{name in the export, with / between folders: the file it comes from, or its bytes}."""
STORED = (".safetensors", ".zip", ".parquet")
"""Packing these again gains nothing and takes minutes."""


def total_bytes(files: Files) -> int:
    """Bytes of all files together."""
    return sum(len(source) if isinstance(source, bytes) else source.stat().st_size for source in files.values())


def write_zip(files: Files, target: Path, folder: str) -> Path:
    """Write `files` into a zip, all inside `folder`. Streams: no file is ever whole in memory.

    Raises: UserError where the target exists, cannot be written, or the disk is too small.
    """
    if target.suffix.lower() != ".zip":
        raise UserError(f"{target} does not end in .zip; give the name of the file to write, as --to {folder}.zip.")
    with half_written(target) as half:
        _refuse_little_space(half.parent, total_bytes(files))
        with zipfile.ZipFile(half, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, source in files.items():
                packed = zipfile.ZIP_STORED if name.endswith(STORED) else zipfile.ZIP_DEFLATED
                info = zipfile.ZipInfo(f"{folder}/{name}", (1980, 1, 1, 0, 0, 0))  # equal contents make equal bytes
                info.compress_type, info.external_attr = packed, 0o644 << 16
                if isinstance(source, bytes):
                    archive.writestr(info, source)
                    continue
                with source.open("rb") as reader, archive.open(info, "w", force_zip64=source.stat().st_size >= 2**31) as writer:
                    shutil.copyfileobj(reader, writer, 1 << 20)
    return target


@contextmanager
def laid_out(files: Files) -> Iterator[Path]:
    """A temporary folder that shows `files` in place: links for what lies on the disk, so that nothing is copied."""
    with tempfile.TemporaryDirectory(prefix="guardwaltz-") as name:
        for path, source in files.items():
            place = Path(name) / path
            place.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, bytes):
                place.write_bytes(source)
            else:
                place.symlink_to(source.resolve())
        yield Path(name)


@contextmanager
def half_written(target: Path) -> Iterator[Path]:
    """A name beside `target` to write to, file or folder; it takes its place when the block ends without an error.

    Raises: UserError where the target exists already or cannot be written.
    """
    target = Path(os.path.abspath(target.expanduser()))
    if target.exists() or target.is_symlink():
        raise UserError(f"{target} exists already; take another name, or remove it first.")
    half = target.with_name(f".{target.name}.{os.getpid()}.half")
    with plain_disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield half
            half.rename(target)
        finally:
            if half.is_dir():
                shutil.rmtree(half, ignore_errors=True)
            else:
                half.unlink(missing_ok=True)


@contextmanager
def plain_disk_errors(target: Path) -> Iterator[None]:
    """What a disk may refuse, as one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"The disk of {target.parent} is full; free some space or write to another disk.") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG):
            raise UserError(f"{target} cannot be written ({error.strerror}); choose another place.") from error
        raise


def _refuse_little_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(f"{size(needed)} are needed in {folder} and {size(free)} are free; free some space or write to another disk.")
