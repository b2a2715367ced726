"""A hash of the weights that a model reference leads to, for what is remembered of a model: a run's number may be given twice."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from core.lm.find import Found


def weights_identity(found: Found) -> str:
    """Commit and digest of the weights: another text, other weights. "" for the embedded model."""
    return " ".join(filter(None, [found.revision, weights_digest(found)]))


def weights_digest(found: Found) -> str:
    """Of the adapter, and of the base where it lies in a folder; "" where there is neither. The embedded model is always the same, and a
    model of the Hub is told by its commit (`Found.revision`)."""
    files = [found.adapter / "adapter_model.safetensors"] if found.adapter else []
    if found.location and found.revision is None:
        files += sorted(Path(found.location).glob("*.safetensors"))
    whole = hashlib.sha256()
    for path in files:
        seen = path.stat()
        whole.update(_of_file(str(path), seen.st_mtime_ns, seen.st_size).encode())
    return whole.hexdigest()[:16] if files else ""


@lru_cache(maxsize=256)
def _of_file(path: str, _mtime: int, _size: int) -> str:
    """Read once in a process, as long as the file stays as it is."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
