"""Small files from the Hugging Face Hub, from its cache where the Hub is out of reach, and its errors as one sentence each."""

from __future__ import annotations

import time
from pathlib import Path

from core.methods import UserError

_SEEN: tuple[float, bool] = (-60.0, False)


def hub_file(repo: str, name: str) -> Path | None:
    """A small file of a hub repository, from the cache when the Hub is out of reach; None where there is none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    try:
        return Path(hf_hub_download(repo, name, local_files_only=not hub_answers()))
    except EntryNotFoundError:
        return None
    except (OSError, HFValidationError) as error:
        raise hub_error(repo, error) from error


def hub_answers() -> bool:
    """Asked once a minute: without network the Hub library tries every single file for half a minute before it takes the cache."""
    global _SEEN
    moment, answer = _SEEN
    if time.monotonic() - moment < 60:
        return answer
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=5)
        answer = True
    except Exception:  # no network, offline mode, a proxy that refuses: whatever it is, the cache is what is left
        answer = False
    _SEEN = (time.monotonic(), answer)
    return answer


def hub_error(repo: str, error: Exception) -> UserError:
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return UserError(f"hf:{repo} is gated; accept its terms on the Hub and set HF_TOKEN.")
    if isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        return UserError(f"The Hub has no model {repo!r} (or it is private); check the id, or set HF_TOKEN.")
    return UserError(f"hf:{repo} is neither in the local Hub cache nor can it be fetched ({str(error).splitlines()[0][:120]}); "
                     "check the network, or copy the model into a folder and name that.")
