"""Who sent the event that is being answered: the bridge between Gradio's requests and core/visitors.py, which knows no Gradio."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Mapping
from typing import Any

from gradio.context import LocalContext

from core.access import on_space
from core.ui.gate import COOKIE
from core.visitor_id import NOBODY, Signer, Visitor


def asker(signer: Signer) -> Callable[[], Visitor]:
    """A function that says whose event runs in this thread; nobody's, outside of events."""
    def who() -> Visitor:
        request: Any = LocalContext.request.get(None)
        if request is None:
            return NOBODY
        session = str(getattr(request, "session_hash", None) or "")
        peer = request.client.host if request.client else ""
        return signer.visitor(dict(request.cookies).get(COOKIE, ""), session, address_of(dict(request.headers), peer))

    return who


def address_of(headers: Mapping[str, str], peer: str) -> str:
    """The address that the nearest proxy saw, where the app stands behind proxies; else the peer's.

    A browser may write anything into X-Forwarded-For, and each proxy adds the address it saw at the end. So it is read from the end:
    addresses of private networks are the proxies' own, and GUARDWALTZ_PROXIES more (default 0) are skipped. On a Space there always is
    a proxy; elsewhere the header counts only where GUARDWALTZ_PROXIES is set.
    """
    known = os.environ.get("GUARDWALTZ_PROXIES", "")
    if not (known or on_space()):
        return peer
    seen = [word.strip() for word in headers.get("x-forwarded-for", "").split(",")]
    public = [word for word in seen if _is_public(word)]
    skipped = int(known) if known.isdecimal() else 0
    return public[-1 - skipped] if len(public) > skipped else peer


def _is_public(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False
