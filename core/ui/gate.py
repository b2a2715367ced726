"""The door of the app: an ASGI layer around every route of Gradio's, its own and ours, so that no route can be forgotten.

    LoginGate    the password of --auth: Gradio asks for it, this closes the routes that Gradio leaves open beside its login page
    OwnerGate    a private Space: signed in with Hugging Face, and on the owners' list
    PublicGate   a public demo: only the routes that reading, chatting and the rehearsal need; bounds requests, hands out visitor cookies
"""

from __future__ import annotations

import html
import time
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import quote

from core.access import Settings
from core.visitor_id import Signer

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "gw_visitor"
COOKIE_SECONDS = 30 * 24 * 3600
PUBLISHED = ("/static/", "/assets/", "/svelte/")
"""Files of Gradio's own package, the same in every Gradio app."""
LOGIN_NEEDS = frozenset({"/login", "/logout", "/theme.css", "/gradio_api/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json",
                         "/gradio_api/user", "/gradio_api/login_check", "/gradio_api/app_id", "/gradio_api/startup-events"})
"""What the login page loads; none of it tells anything of runs, models or users, and `user` names only whoever asks."""
OAUTH_NEEDS = frozenset({"/login/huggingface", "/login/callback", "/logout", "/favicon.ico", "/robots.txt", "/gradio_api/startup-events"})
"""The last one is asked by Gradio itself when it starts."""
PUBLIC_FILES = frozenset({"/theme.css", "/gradio_api/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json", "/config",
                          "/gradio_api/app_id", "/gradio_api/startup-events", "/gradio_api/info", "/gradio_api/queue/status",
                          "/gradio_api/user", "/gradio_api/login_check"})
PUBLIC_CALLS = ("/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/call/", "/gradio_api/run/", "/gradio_api/api/",
                "/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/heartbeat/", "/gradio_api/file=", "/gradio_api/file/", "/pwa_icon")
SIGN_IN = """<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark"><title>GuardWaltz</title>
<body style="font:16px system-ui;max-width:34em;margin:15vh auto;padding:0 1em"><h1 style="font-size:1.4em">GuardWaltz</h1>
<p>{said}</p><p><a href="{href}" target="_blank" rel="noopener">{words}</a></p>"""
"""In a tab of its own: the sign-in page of Hugging Face refuses to be framed."""


class Gate:
    """Lets through what `lets` says; answers the rest itself."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":  # the app has no websockets
            await send({"type": "websocket.close", "code": 1008})
        elif self.lets(scope):
            await self.passed(scope, receive, send)
        else:
            await self.refused(scope, send)

    def lets(self, scope: Scope) -> bool:
        """May this request reach the app?"""
        raise NotImplementedError

    async def passed(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on."""
        await self.app(scope, receive, send)

    async def refused(self, scope: Scope, send: Send) -> None:
        """Answer a request that may not reach the app."""
        await answer(send, 401, "Log in first.")


class LoginGate(Gate):
    """Everything but the login page's own needs wants the token that Gradio gives for the password."""

    def __init__(self, app: App, pages: frozenset[str]) -> None:
        super().__init__(app)
        self.pages = pages

    def lets(self, scope: Scope) -> bool:
        """Logged in; or part of the login page, which Gradio shows at the address of every page."""
        path = path_of(scope)
        if path in LOGIN_NEEDS or path.startswith(PUBLISHED) or (path in self.pages and scope["method"] in ("GET", "HEAD")):
            return True
        gradio, cookies = scope["app"], cookies_of(scope)
        tokens = (cookies.get(f"access-token-{gradio.cookie_id}"), cookies.get(f"access-token-unsecure-{gradio.cookie_id}"))
        return any(token in gradio.tokens for token in tokens if token)


class OwnerGate(Gate):
    """Everything but signing in wants a session of an owner. Stands behind the session layer that Gradio's OAuth brings."""

    def __init__(self, app: App, owners: tuple[str, ...], pages: frozenset[str]) -> None:
        super().__init__(app)
        self.owners = frozenset(name.casefold() for name in owners)
        self.pages = pages

    def lets(self, scope: Scope) -> bool:
        """An owner, or the way of becoming known as one."""
        path = path_of(scope)
        return path in OAUTH_NEEDS or path.startswith("/static/") or signed_in(scope).casefold() in self.owners

    async def refused(self, scope: Scope, send: Send) -> None:
        """A page says where to sign in, or that this account is not an owner's; anything else is a bare refusal."""
        name = signed_in(scope)
        if path_of(scope) not in self.pages:
            await answer(send, 403 if name else 401, "This Space is private; sign in as its owner.")
            return
        said = f"You are signed in as {name}, who is not an owner of this Space." if name else "This Space is private."
        where, words = ("/logout", "Sign out") if name else ("/login/huggingface", "Sign in with Hugging Face")
        body = SIGN_IN.format(said=html.escape(said), href=f"{where}?_target_url={quote(scope['path'], safe='/')}", words=words)
        await answer(send, 403 if name else 401, body, "text/html; charset=utf-8")


class PublicGate(Gate):
    """The routes of reading, chatting and the rehearsal; nothing is uploaded, and a request is short."""

    def __init__(self, app: App, settings: Settings, signer: Signer, pages: frozenset[str], secure: bool) -> None:
        super().__init__(app)
        self.most = 1024 * settings.limits.body_kb
        self.signer = signer
        self.pages = pages
        self.secure = secure

    def lets(self, scope: Scope) -> bool:
        """On the list of what visitors need."""
        path, method = path_of(scope), scope["method"]
        if method in ("GET", "HEAD") and (path in self.pages or path in PUBLIC_FILES or path.startswith(PUBLISHED)):
            return True
        return path.startswith(PUBLIC_CALLS)

    async def refused(self, scope: Scope, send: Send) -> None:
        """As if it were not there: it is not, for visitors."""
        await answer(send, 404, "This public demo has no such address.")

    async def passed(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Bound the body, set the cookie of a new browser."""
        try:
            declared = int(header(scope, b"content-length") or 0)
        except ValueError:
            declared = self.most + 1
        if declared > self.most:
            await answer(send, 413, f"A request to this public demo may have {self.most // 1024} kB.")
            return
        is_new = path_of(scope) in self.pages and not self.signer.read_cookie(cookies_of(scope).get(COOKIE, ""))
        cookie = self._cookie().encode() if is_new else b""
        seen, begun = 0, False

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            # without a declared length the body ends here, which no JSON reader takes for a whole one
            return message if seen <= self.most else {"type": "http.disconnect"}

        async def with_cookie(message: Message) -> None:
            nonlocal begun
            begun = True
            if cookie and message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"set-cookie", cookie)]}
            await send(message)

        try:
            await self.app(scope, bounded, with_cookie)
        except Exception as error:  # Gradio lets the name of an endpoint that is not there become a traceback in the log
            if begun:
                raise
            print(f"{scope['method']} {path_of(scope)}: {type(error).__name__}: {error}"[:300], flush=True)
            await answer(send, 404, "This public demo has no such endpoint, or not for these values.")

    def _cookie(self) -> str:
        """A Space is shown in a frame of huggingface.co: only a cookie of this kind comes back from there."""
        framed = "; SameSite=None; Secure; Partitioned" if self.secure else "; SameSite=Lax"
        return f"{COOKIE}={self.signer.new_cookie()}; Path=/; Max-Age={COOKIE_SECONDS}; HttpOnly{framed}"


def signed_in(scope: Scope) -> str:
    """The Hugging Face name in the session; "" without one, or where it has run out."""
    info = (scope.get("session") or {}).get("oauth_info") or {}
    if (info.get("expires_at") or 0) < time.time():
        return ""
    return str((info.get("userinfo") or {}).get("preferred_username") or "")


def path_of(scope: Scope) -> str:
    """The path as routes see it: decoded, without the prefix of a proxy and without a slash at the end."""
    path = str(scope["path"])
    root = str(scope.get("root_path") or "")
    if root and path.startswith(root):
        path = path[len(root):]
    return path.rstrip("/") or "/"


def header(scope: Scope, name: bytes) -> str:
    """The first header of this name."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def cookies_of(scope: Scope) -> dict[str, str]:
    """Cookies of a request; a header that is none of ours to read gives none."""
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(header(scope, b"cookie")).items()}
    except CookieError:
        return {}


async def answer(send: Send, status: int, text: str, kind: str = "text/plain; charset=utf-8") -> None:
    """A short answer of our own."""
    body = text.encode()
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
