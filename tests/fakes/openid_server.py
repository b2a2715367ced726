"""A sign-in service as Hugging Face's, on loopback: OpenID discovery, an authorisation that says yes, signed tokens."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

CLIENT, SECRET, KEY_ID = "the-space", "a-secret-of-the-space", "key-1"


class OpenId:
    """Whoever comes is `name`."""

    def __init__(self) -> None:
        from joserfc.jwk import RSAKey

        self.name = "ada"
        self.url = ""
        self.key = RSAKey.generate_key(2048, {"kid": KEY_ID, "use": "sig", "alg": "RS256"})
        self.nonces: dict[str, str] = {}

    def discovery(self) -> dict[str, Any]:
        return {"issuer": self.url, "authorization_endpoint": f"{self.url}/authorize", "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/keys", "userinfo_endpoint": f"{self.url}/user", "response_types_supported": ["code"],
                "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["RS256"]}

    def token(self, code: str) -> dict[str, Any]:
        from joserfc import jwt

        now = int(time.time())
        claims = {"iss": self.url, "sub": "1", "aud": CLIENT, "iat": now, "exp": now + 3600, "nonce": self.nonces.pop(code),
                  "name": self.name.title(), "preferred_username": self.name, "profile": "", "picture": ""}
        signed = jwt.encode({"alg": "RS256", "kid": KEY_ID}, claims, self.key)
        return {"access_token": "t", "token_type": "bearer", "expires_in": 3600, "expires_at": now + 3600, "scope": "openid profile",
                "id_token": signed}


@contextmanager
def openid_server() -> Iterator[OpenId]:
    """Serve until the block ends."""
    service = OpenId()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            if parts.path == "/authorize":
                code = f"code-{len(service.nonces)}-{time.monotonic_ns()}"
                service.nonces[code] = query["nonce"]
                self.send_response(302)
                joint = "&" if "?" in query["redirect_uri"] else "?"
                self.send_header("location", query["redirect_uri"] + joint + urlencode({"code": code, "state": query["state"]}))
                self.end_headers()
            elif parts.path == "/keys":
                self._json({"keys": [service.key.as_dict(private=False)]})
            else:
                self._json(service.discovery())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            self._json(service.token(parse_qs(body)["code"][0]))

        def _json(self, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
