"""What stands before the service, looked at before a body is read: who asks, by which name, and how much."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
OPEN = ("/health", "/docs", "/openapi.json")
"""Need no key: they tell nothing of the model, and of nobody's texts."""
LOCAL = ("127.0.0.1", "localhost", "[::1]", "::1")
DRAINED = 8
"""Times the limit that is read and thrown away: a client that is cut off while it writes does not see why."""
BODY_SECONDS = 30.0
"""A body has to be here by then."""


class Door:
    """ASGI middleware: the key, the host name where there is no key, and the size of a body."""

    def __init__(self, app: Any, *, key: str, max_body: int) -> None:
        self.app, self.key, self.max_body = app, key.encode(), max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        if refusal := self._refusal(scope["path"], headers):
            await _refuse(send, *refusal)
            return
        if scope["method"] in ("POST", "PUT", "PATCH"):
            body = await self._body(headers, receive)
            if isinstance(body, tuple):
                await _refuse(send, *body)
                return
            receive = _again(body, receive)
        await self.app(scope, receive, send)

    def _refusal(self, path: str, headers: dict[bytes, bytes]) -> tuple[int, str, dict[str, str]] | None:
        if not self.key:
            name = _host_name(headers.get(b"host", b"").decode("latin-1"))
            if name not in LOCAL:  # a page in a browser may give any name to 127.0.0.1, and so read answers that are not for it
                return 421, f"Without a key this service answers to 127.0.0.1 and localhost only, not to {name!r}; start it with --key.", {}
            return None
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if path in OPEN or (scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self.key)):
            return None
        return 401, "This service needs its key: send the header Authorization: Bearer <key>.", {"www-authenticate": "Bearer"}

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | tuple[int, str, dict[str, str]]:
        too_large = (413, f"The body is larger than {self.max_body:,} bytes; send fewer or shorter texts.", {"connection": "close"})
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > DRAINED * self.max_body:
            return too_large
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while size <= DRAINED * self.max_body:
                    message = await receive()
                    size += len(message.get("body", b""))
                    if size <= self.max_body:
                        parts.append(message.get("body", b""))
                    if message["type"] == "http.disconnect" or not message.get("more_body"):
                        return too_large if size > self.max_body else b"".join(parts)
                return too_large
        except TimeoutError:
            return 408, f"The body was not here within {BODY_SECONDS:g} seconds.", {"connection": "close"}


def _host_name(host: str) -> str:
    """Without the port."""
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]


def _again(body: bytes, receive: Receive) -> Receive:
    """A body that was read already, then whatever comes (that the client has gone)."""
    read = False

    async def once() -> MutableMapping[str, Any]:
        nonlocal read
        if read:
            return await receive()
        read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return once


async def _refuse(send: Send, status: int, why: str, headers: dict[str, str]) -> None:
    body = json.dumps({"detail": why}).encode()
    told = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    await send({"type": "http.response.start", "status": status,
                "headers": [(name.encode(), value.encode()) for name, value in told.items()]})
    await send({"type": "http.response.body", "body": body})
