"""How the app is opened: to whom it listens, who must log in, and what stands before its routes. Decided once, before it starts."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from core.access import OWNER, Access, Settings, on_space
from core.methods import UserError
from core.runs import Workspace

OAUTH = ("OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OAUTH_SCOPES", "OPENID_PROVIDER_URL")
"""What a Space sets where its README says `hf_oauth: true`."""


@dataclass(frozen=True)
class Door:
    """Who may come in, and how."""

    settings: Settings
    host: str = "127.0.0.1"
    login: tuple[str, str] | None = None
    """User and password, of --auth."""
    oauth: bool = False
    """Sign in with Hugging Face; only owners come in."""

    @property
    def public(self) -> bool:
        """Nobody logs in, because visitors can only do what visitors may."""
        return self.settings.public

    def layers(self, demo: Any, workspace: Workspace) -> list[Any]:
        """What Gradio puts around its routes: `launch(app_kwargs={"middleware": ...})`."""
        from starlette.middleware import Middleware

        from core.ui.gate import LoginGate, OwnerGate, PublicGate
        from core.visitor_id import Signer

        pages = frozenset(f"/{path}".rstrip("/") or "/" for path, *_ in demo.pages)
        if self.public:
            return [Middleware(PublicGate, settings=self.settings, signer=Signer.of(workspace.runs_dir), pages=pages, secure=on_space())]
        if self.oauth:
            return [Middleware(OwnerGate, owners=self.settings.owners, pages=pages)]
        return [Middleware(LoginGate, pages=pages)] if self.login else []

    def access(self, workspace: Workspace) -> Access:
        """What those who come in may do."""
        if not self.public:
            return OWNER
        from core.ui.visiting import asker
        from core.visitor_id import Signer
        from core.visitors import VisitorAccess

        return VisitorAccess(self.settings, workspace.runs_dir, asker(Signer.of(workspace.runs_dir)))


def open_door(settings: Settings, *, listen: bool = False, share: bool = False, auth: str | None = None) -> Door:
    """The door for these options and this environment; UserError where strangers could come in and start runs."""
    login = read_auth(auth)
    space = on_space()
    host = "0.0.0.0" if listen or space else "127.0.0.1"
    if settings.public:
        if login:
            raise UserError("--auth and GUARDWALTZ_MODE=public do not go together: the public demo asks nobody to log in. Leave one out.")
        return Door(settings, host)
    if login:
        return Door(settings, host, login)
    if space:
        return Door(settings, host, oauth=_wants_owners(settings))
    if listen or share:
        flag = "--listen" if listen else "--share"
        raise UserError(f"{flag} lets other people start runs here, so it needs a login: set an environment variable to a password "
                        f"and add --auth 'USER:${{NAME_OF_VARIABLE}}'.")
    return Door(settings, host)


def _wants_owners(settings: Settings) -> bool:
    """True, or a UserError that names what the settings of the Space lack."""
    if not settings.owners:
        raise UserError("A private Space needs its owners: set the variable GUARDWALTZ_OWNERS to your Hugging Face name in the settings of "
                        "the Space, or GUARDWALTZ_MODE=public for a demo that anybody may open.")
    missing = [name for name in OAUTH if not os.environ.get(name)]
    if missing:
        raise UserError(f"A private Space needs sign-in with Hugging Face, and {missing[0]} is not set: put `hf_oauth: true` into the "
                        "front matter of the Space's README.md, or set GUARDWALTZ_MODE=public for a demo that anybody may open.")
    os.environ.setdefault("SYSTEM", "spaces")  # Gradio SDK Spaces have it; without it Gradio would sign everybody in as a fake user
    return True


def read_auth(auth: str | None) -> tuple[str, str] | None:
    """("user", password) of USER:${NAME}. A password on the command line is refused: others can read it there."""
    if not auth:
        return None
    match = re.fullmatch(r"([^:]+):\$\{(\w+)\}", auth)
    if match is None:
        raise UserError("--auth takes USER:${NAME}, the name of an environment variable that holds the password, in single quotes; "
                        "a password on the command line could be read by others.")
    password = os.environ.get(match[2], "")
    if not password:
        raise UserError(f"--auth names the environment variable {match[2]}, which is not set; export {match[2]}=... first.")
    return match[1], password
