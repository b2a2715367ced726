"""Uploading a folder to the Hugging Face Hub. The token is the Hub library's own (HF_TOKEN, or its login) and is never shown or stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.export.contents import Kind
from core.methods import UserError

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def push_folder(folder: Path, repo: str, kind: Kind, *, public: bool, message: str) -> str:
    """Upload what lies in `folder` as the newest state of `repo` ("OWNER/NAME"); returns its address. Private unless `public`.

    Raises: UserError where there is no token or no network, where the Hub refuses, and where the repository that exists is public (or,
    with `public`, private): nobody publishes by accident.
    """
    api = signed_in(repo)
    with plain_hub_errors(repo):
        refuse_other_visibility(api, repo, kind, public=public)
        url = api.create_repo(repo, repo_type=kind, private=not public, exist_ok=True)
        api.upload_folder(repo_id=repo, repo_type=kind, folder_path=folder, commit_message=message)
    return str(url)


def signed_in(repo: str) -> HfApi:
    """The Hub's client, after a look at the name and at whether there is a token at all."""
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo)
        named = repo.count("/") == 1
    except HFValidationError:
        named = False
    if not named:
        raise UserError(f"{repo!r} is no name of a repository on the Hub; write OWNER/NAME, in letters, digits, - _ and dots.")
    if constants.is_offline_mode():
        raise UserError("HF_HUB_OFFLINE is set, so the Hub is not asked; unset it to push.")
    if get_token() is None:
        raise UserError("There is no Hub token here; set HF_TOKEN to one that may write, or log in with `hf auth login`.")
    return HfApi()


def refuse_other_visibility(api: HfApi, repo: str, kind: Kind, *, public: bool) -> None:
    """The Hub ignores the wish for a private repository where it exists already; we do not."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        private = api.repo_info(repo, repo_type=kind, timeout=20).private
    except RepositoryNotFoundError:
        return
    if private is False and not public:
        raise UserError(f"{repo} exists on the Hub and is public; add --public if everybody may see this, or take another name.")
    if private and public:
        raise UserError(f"{repo} exists on the Hub and is private; leave out --public, or make it public in its settings there first.")


@contextmanager
def plain_hub_errors(repo: str) -> Iterator[None]:
    """What the Hub and the way to it may refuse, as one sentence."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except HfHubHTTPError as error:
        raise UserError(_refusal(repo, error)) from error
    except (OfflineModeIsEnabled, httpx2.HTTPError, ConnectionError, TimeoutError) as error:
        raise UserError(f"The Hub cannot be reached ({_first_line(error)}); check the network and try again.") from error
    except (RuntimeError, ValueError) as error:  # the transfer of large files reports what went wrong in these
        raise UserError(f"The upload to {repo} failed ({_first_line(error)}); try again, what has arrived is not sent twice.") from error


def _refusal(repo: str, error: Any) -> str:
    status = getattr(error.response, "status_code", 0)
    owner = repo.partition("/")[0]
    if status == 401:
        return "The Hub refuses the token; set HF_TOKEN to a valid one, or log in again with `hf auth login`."
    if status == 403:
        return f"The token may not write to {repo}; use one with write access to {owner}, or take a name under your own account."
    if status == 404:
        return f"The Hub has no {repo} that this token may write to; check OWNER/NAME."
    if status == 429:
        return "The Hub asks to wait (too many requests); try again in some minutes."
    if status in (402, 413, 507):
        return f"The Hub takes no more data for {owner} ({_first_line(error)}); free some storage there."
    return f"The Hub could not do it (status {status}: {_first_line(error)}); try again later."


def _first_line(error: Exception) -> str:
    from huggingface_hub import get_token

    text = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
    token = get_token()
    return text.replace(token, "***") if token else text
