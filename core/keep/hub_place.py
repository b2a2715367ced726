"""Copies in a private dataset repository on the Hugging Face Hub: one commit for each run, so that a copy is whole or not there."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from core.export.hub import plain_hub_errors, signed_in
from core.keep.sync import MANIFEST, ChangedMeanwhile, Kept
from core.methods import UserError

FOLDER = "runs"
SMALL = 10_000_000
"""Bytes up to which the Hub may take a file inside the commit; larger ones are sent before it."""
_FORM = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)/?")


def hub_place(text: str) -> HubPlace:
    """From hf://datasets/OWNER/NAME."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()  # nobody watches; in the log of the app they would be noise
    found = _FORM.fullmatch(text)
    if not found:
        raise UserError(f"GUARDWALTZ_KEEP = {text} is neither a folder nor hf://datasets/OWNER/NAME.")
    return HubPlace(found[1])


@dataclass(frozen=True)
class HubPlace:
    """`runs/<key>/` in a dataset repository."""

    repo: str

    @property
    def name(self) -> str:
        """As it is written in the environment."""
        return f"hf://datasets/{self.repo}"

    def kept(self) -> list[Kept]:
        """Reads the manifests; a repository that is not there yet holds none."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import RepositoryNotFoundError

        api = signed_in(self.repo)
        with plain_hub_errors(self.repo), tempfile.TemporaryDirectory(prefix="guardwaltz-") as folder:
            try:
                self._refuse_public(api.repo_info(self.repo, repo_type="dataset", timeout=20).private)
                snapshot_download(self.repo, repo_type="dataset", allow_patterns=f"{FOLDER}/*/{MANIFEST}", local_dir=folder)
            except RepositoryNotFoundError:
                return []
            found = []
            for path in sorted(Path(folder).glob(f"{FOLDER}/*/{MANIFEST}")):
                try:
                    kept = Kept.read(path.parent.name, json.loads(path.read_text(encoding="utf-8")))
                except ValueError:
                    continue
                found += [kept] if kept else []
            return found

    def put(self, kept: Kept, folder: Path) -> None:
        """One commit: the files, the manifest, and what the earlier copy had and this one has not."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        api = signed_in(self.repo)
        with plain_hub_errors(self.repo):
            api.create_repo(self.repo, repo_type="dataset", private=True, exist_ok=True)
            self._refuse_public(api.repo_info(self.repo, repo_type="dataset", timeout=20).private)
            inside = f"{FOLDER}/{kept.key}"
            wanted = {f"{inside}/{name}" for name in kept.files} | {f"{inside}/{MANIFEST}"}
            stale = sorted(path for path in api.list_repo_files(self.repo, repo_type="dataset")
                           if path.startswith(f"{inside}/") and path not in wanted)
            adds = [CommitOperationAdd(f"{inside}/{name}", _content(folder / name, size)) for name, size in kept.files.items()]
            as_named = all(add.upload_info.size == size for add, size in zip(adds, kept.files.values(), strict=True))
            api.preupload_lfs_files(self.repo, adds, repo_type="dataset")  # what takes long; after it, there is only the commit
            if not (as_named and kept.fits(folder)):
                raise ChangedMeanwhile(kept.key)
            api.create_commit(self.repo, [
                *adds, CommitOperationAdd(f"{inside}/{MANIFEST}", json.dumps(kept.document()).encode()),
                *(CommitOperationDelete(path) for path in stale)], commit_message=f"Keep {kept.key}", repo_type="dataset")

    def fetch(self, kept: Iterable[Kept], into: Path) -> None:
        """One download of all of them."""
        from huggingface_hub import snapshot_download

        keys = [one.key for one in kept]
        signed_in(self.repo)
        with plain_hub_errors(self.repo), tempfile.TemporaryDirectory(prefix=".fetching-", dir=into.parent) as folder:
            snapshot_download(self.repo, repo_type="dataset", allow_patterns=[f"{FOLDER}/{key}/*" for key in keys], local_dir=folder)
            into.mkdir(parents=True)
            for key in keys:
                found = Path(folder) / FOLDER / key
                if found.is_dir():
                    shutil.move(found, into / key)

    def drop(self, keys: Iterable[str]) -> None:
        """One commit for all of them. The history of the repository still has them; its settings can squash it."""
        from huggingface_hub import CommitOperationDelete

        operations = [CommitOperationDelete(f"{FOLDER}/{key}/", is_folder=True) for key in keys]
        if operations:
            with plain_hub_errors(self.repo):
                signed_in(self.repo).create_commit(self.repo, operations, commit_message="Remove deleted runs", repo_type="dataset")

    def _refuse_public(self, private: bool | None) -> None:
        if private is False:
            raise UserError(f"{self.name} is public, and run folders hold prompts, answers and logs; make it private, or name another one.")


def _content(path: Path, size: int) -> bytes | Path:
    """A small file as it is now, because one that goes into the commit is read as that is sent; a large one by its path."""
    return path.read_bytes() if size <= SMALL else path
