"""A small Hugging Face Hub on the loopback, over real HTTP: what the real client uploads is stored byte by byte, and can be downloaded.

Repositories, commits (ndjson), files as blobs of git or through LFS, trees, downloads; tokens that may write for some owners only.
Nothing is known of Xet: clients need HF_HUB_DISABLE_XET=1, or get every file as a regular one (`lfs_above`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_" + "a" * 34
OWNER = "tester"


@dataclass
class Repo:
    """One repository and its newest state."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    lfs: set[str] = field(default_factory=set)
    commits: list[str] = field(default_factory=lambda: ["0" * 40])
    messages: list[str] = field(default_factory=list)


@dataclass
class HubServer:
    """What it holds, what it was asked, and how it is to behave."""

    url: str = ""
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    """{(model or dataset, owner/name): repository}."""
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    lfs_above: int = 5_000
    """Files of more bytes go through LFS."""
    refuse_commits: int = 0
    """Status of every commit from now on; 0 = they are taken."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def model(self, name: str) -> Repo:
        return self.repos["model", name]

    def dataset(self, name: str) -> Repo:
        return self.repos["dataset", name]

    def put_model(self, name: str, folder: Path) -> None:
        """A public model that was there before."""
        self.repos["model", name] = Repo(False, {path.name: path.read_bytes() for path in folder.iterdir()}, commits=["f" * 40])


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """Serve on a free port until the block ends."""
    state = HubServer()
    handler = type("Handler", (_Handler,), {"state": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield state
        finally:
            server.shutdown()


_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_API = r"/api/(?P<kind>model|dataset)s/" + _REPO
ROUTES = [("POST", r"/api/repos/create", "create"), ("POST", r"/api/validate-yaml", "validate"), ("GET", r"/api/whoami-v2", "whoami"),
          ("GET", _API + r"(?:/revision/(?P<revision>[^/]+))?", "info"),
          ("GET", _API + r"/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?", "tree"),
          ("POST", _API + r"/preupload/[^/]+", "preupload"), ("POST", _API + r"/commit/[^/]+", "commit"),
          ("POST", r"/(?P<set>datasets/)?" + _REPO + r"\.git/info/lfs/objects/batch", "batch"), ("PUT", r"/lfs/(?P<oid>\w+)", "store"),
          ("GET", r"/(?P<set>datasets/)?" + _REPO + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve")]


class _Handler(BaseHTTPRequestHandler):
    state: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.dispatch("GET")

    def do_HEAD(self) -> None:
        self.dispatch("GET")

    def do_POST(self) -> None:
        self.dispatch("POST")

    def do_PUT(self) -> None:
        self.dispatch("PUT")

    def log_message(self, *_: Any) -> None:
        pass

    def dispatch(self, method: str) -> None:
        length = int(self.headers.get("content-length") or 0)
        self.body = self.rfile.read(length) if length else self.chunked()
        address = urlsplit(self.path)
        self.query = parse_qs(address.query)
        self.token = (self.headers.get("authorization") or "").removeprefix("Bearer ") or None
        with self.state.lock:
            self.state.asked.append(f"{self.command} {unquote(address.path)}")
            self.state.tokens.add(self.token)
        if address.path in ("", "/"):
            return self.reply(200, b"a hub")
        for verb, pattern, name in ROUTES:
            found = re.fullmatch(pattern, unquote(address.path))
            if verb == method and found:
                if self.token not in (None, TOKEN):
                    return self.refuse(401, "", "Invalid credentials")
                with self.state.lock:
                    return getattr(self, name)(**found.groupdict())
        self.refuse(404, "", "no such page")

    def chunked(self) -> bytes:
        data = b""
        while self.headers.get("transfer-encoding") == "chunked" and (size := int(self.rfile.readline(), 16)):
            data += self.rfile.read(size)
            self.rfile.readline()
        return data

    # ---- answers ----

    def reply(self, status: int, value: Any, **headers: str) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"content-type": "application/json", "content-length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, code: str, message: str) -> None:
        self.reply(status, {"error": message}, X_Error_Code=code, X_Error_Message=message)

    def found(self, kind: str, repo: str) -> Repo | None:
        """The repository, as far as this token may see it."""
        one = self.state.repos.get((kind, repo))
        if one is None or (one.private and self.token != TOKEN):
            self.refuse(404 if self.token else 401, "RepoNotFound", "Repository not found")
            return None
        return one

    def writable(self, kind: str, repo: str) -> Repo | None:
        if self.token != TOKEN or not repo.startswith(f"{OWNER}/"):
            self.refuse(403, "", "Forbidden: you do not have the rights")
            return None
        return self.found(kind, repo)

    # ---- routes ----

    def whoami(self) -> None:
        if self.token is None:
            return self.refuse(401, "", "Invalid credentials")
        self.reply(200, {"type": "user", "name": OWNER, "auth": {"accessToken": {"role": "write"}}})

    def validate(self) -> None:
        text = json.loads(self.body)["content"]
        good = text.startswith("---\n") and "\n---\n" in text
        self.reply(200 if good else 400, {"errors": [] if good else [{"message": "no front matter"}], "warnings": []})

    def create(self) -> None:
        asked = json.loads(self.body)
        kind, repo = asked.get("type", "model"), f"{asked.get('organization') or OWNER}/{asked['name']}"
        if not repo.startswith(f"{OWNER}/") or self.token != TOKEN:
            return self.refuse(403, "", "Forbidden: you do not have the rights")
        url = f"{self.state.url}/{'datasets/' if kind == 'dataset' else ''}{repo}"
        if (kind, repo) in self.state.repos:
            return self.reply(409, {"error": "You already created this repo", "url": url})
        self.state.repos[kind, repo] = Repo(asked.get("visibility") == "private" or bool(asked.get("private")))
        self.reply(200, {"url": url})

    def info(self, kind: str, repo: str, revision: str | None) -> None:
        one = self.found(kind, repo)
        if one:
            self.reply(200, {"id": repo, "sha": one.commits[-1], "private": one.private, "tags": [], "downloads": 0, "likes": 0,
                             "siblings": [{"rfilename": path} for path in one.files]})

    def tree(self, kind: str, repo: str, revision: str, path: str | None) -> None:
        one = self.found(kind, repo)
        if one is None:
            return None
        inside = [name for name in sorted(one.files) if not path or name.startswith(f"{path}/")]
        if path and not inside:
            return self.refuse(404, "EntryNotFound", "no such folder")
        self.reply(200, [{"type": "file", "path": name, "size": len(one.files[name]), "oid": _blob(one.files[name]),
                          **({"lfs": {"oid": _sha(one.files[name]), "size": len(one.files[name]), "pointerSize": 130}}
                             if name in one.lfs else {})} for name in inside])

    def preupload(self, kind: str, repo: str) -> None:
        if self.writable(kind, repo):
            self.reply(200, {"files": [{"path": file["path"], "shouldIgnore": False,
                                        "uploadMode": "lfs" if file["size"] > self.state.lfs_above else "regular"}
                                       for file in json.loads(self.body)["files"]]})

    def batch(self, set: str | None, repo: str) -> None:
        if not self.writable("dataset" if set else "model", repo):
            return
        made = []
        for one in json.loads(self.body)["objects"]:
            there = one["oid"] in self.state.objects
            made.append({**one, **({} if there else {"actions": {"upload": {"href": f"{self.state.url}/lfs/{one['oid']}"}}})})
        self.reply(200, {"transfer": "basic", "objects": made})

    def store(self, oid: str) -> None:
        if _sha(self.body) != oid:
            return self.refuse(400, "", "other bytes than announced")
        self.state.objects[oid] = self.body
        self.reply(200, {})

    def commit(self, kind: str, repo: str) -> None:
        one = self.writable(kind, repo)
        if one is None:
            return None
        if self.state.refuse_commits:
            return self.refuse(self.state.refuse_commits, "", "not now")
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        files, lfs = dict(one.files), {*one.lfs}
        for line in lines:
            value = line["value"]
            path = value.get("path", "")
            if line["key"] == "file":
                files[path] = base64.b64decode(value["content"])
                lfs.discard(path)
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.state.objects:
                    return self.refuse(400, "", "an object that was never uploaded")
                files[path] = self.state.objects[value["oid"]]
                lfs.add(path)
            elif line["key"] == "deletedFile":
                del files[path]
            elif line["key"] == "deletedFolder":
                files = {name: data for name, data in files.items() if not name.startswith(path.rstrip("/") + "/")}
        one.files, one.lfs = files, {name for name in lfs if name in files}
        one.messages.append(lines[0]["value"]["summary"])
        one.commits.append(hashlib.sha1(repr((one.commits, sorted(files))).encode()).hexdigest())
        self.reply(200, {"success": True, "commitOid": one.commits[-1], "commitUrl": f"{self.state.url}/{repo}/commit/{one.commits[-1]}"})

    def resolve(self, set: str | None, repo: str, revision: str, path: str) -> None:
        one = self.found("dataset" if set else "model", repo)
        if one is None:
            return None
        if path not in one.files:
            return self.refuse(404, "EntryNotFound", "no such file")
        data = one.files[path]
        tag = _sha(data) if path in one.lfs else _blob(data)
        self.reply(200, data, ETag=f'"{tag}"', X_Repo_Commit=one.commits[-1], X_Linked_Size=str(len(data)), X_Linked_Etag=f'"{tag}"',
                   content_type="application/octet-stream")


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _blob(data: bytes) -> str:
    """As git names it."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
