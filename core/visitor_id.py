"""Who a visitor of a public demo is, without a login: a signed cookie (core/ui/gate.py sets it), else the browser's session; and the
network address, which is the second limit. Both are kept as keyed hashes only: they say nothing to whoever has not the secret.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Visitor:
    """Keyed hashes: of the cookie or session, and of the network address."""

    key: str
    address: str


NOBODY = Visitor("", "")


class Signer:
    """Makes and checks visitor cookies, and the hashes; its secret lies in the runs folder, for this machine only."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def of(cls, folder: Path) -> Signer:
        """The signer of a runs folder; the secret is made once, readable by the app's user alone."""
        path = folder / "visitors.secret"
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return cls(path.read_bytes())
        with os.fdopen(handle, "wb") as file:
            file.write(secret := secrets.token_bytes(32))
        return cls(secret)

    def hash(self, kind: str, text: str) -> str:
        """Says nothing about the text to whoever has not the secret."""
        return hmac.new(self._secret, f"{kind}:{text}".encode(), "sha256").hexdigest()[:32]

    def new_cookie(self) -> str:
        """For a browser that has none."""
        name = secrets.token_urlsafe(18)
        return f"{name}.{self.hash('cookie', name)}"

    def read_cookie(self, cookie: str) -> str:
        """The name in a cookie of ours; "" for any other."""
        name, _, mark = cookie.partition(".")
        return name if name and hmac.compare_digest(mark.encode(), self.hash("cookie", name).encode()) else ""

    def visitor(self, cookie: str, session: str, address: str) -> Visitor:
        """Whoever sent these."""
        name = self.read_cookie(cookie)
        key = self.hash("visitor", name) if name else self.hash("session", session) if session else ""
        return Visitor(key, self.hash("address", network(address)))


def network(address: str) -> str:
    """An IPv6 address stands for its /64: that is what one household or server has."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network(f"{address}/64", strict=False)) if found.version == 6 else str(found)
