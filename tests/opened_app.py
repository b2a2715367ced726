"""The real app in this process, on a loopback port, and browsers without a screen that press its buttons over HTTP."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from gradio_client.utils import apply_diff

from core.access import read_settings
from core.runs import Workspace
from core.ui.door import Door, open_door
from core.ui.serve import built, close, launch


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Browser:
    """A visitor: cookies of its own, and one page's session."""

    def __init__(self, app: Opened, **headers: str) -> None:
        self.app = app
        self.http = httpx.Client(base_url=app.url, headers=headers, timeout=120)
        self.session = secrets.token_hex(6)
        self.values: dict[int, Any] = {}
        """What the page's components hold, by their ids."""

    def act_on_page(self, name: str, module: str, query: str = "", click: tuple[str, str] | None = None, **changes: Any) -> dict[str, Any]:
        """Run an event with what the page holds now; changes: components by their labels."""
        number = self.app.number_of(name, module)
        data = [changes.get(item.label, self.values.get(item._id, getattr(item, "value", None))) if hasattr(item, "label") else None
                for item in self.app.demo.fns[number].inputs]
        answer = self.send(number, *data, click=click, query=query)
        for shown in [*(answer.get("steps") or []), (answer.get("output") or {}).get("data") or []]:
            for item, value in zip(self.app.demo.fns[number].outputs, shown, strict=False):
                if not (isinstance(value, dict) and value.get("__type__") == "update"):
                    self.values[item._id] = value
                elif "value" in value:
                    self.values[item._id] = value["value"]
        return answer

    def press(self, name: str, *data: Any, module: str = "", click: tuple[str, str] | None = None, **also: Any) -> dict[str, Any]:
        """Run the event whose function is `name` (`_act`, `load`, ...), in `core.ui.<module>`; its last message. click: (act, value)."""
        return self.send(self.app.number_of(name, module), *data, click=click, **also)

    def send(self, number: int, *data: Any, click: tuple[str, str] | None = None, query: str = "") -> dict[str, Any]:
        """Run an event by its number, as the page's script does."""
        event = {"index": click[0], "value": click[1]} if click else None
        body = {"data": list(data), "fn_index": number, "session_hash": self.session, "event_data": event, "trigger_id": None}
        joined = self.http.post("/gradio_api/queue/join" + query, json=body)
        if joined.status_code != 200:
            return {"refused": joined.status_code, "text": joined.text}
        wanted = joined.json()["event_id"]
        said: list[str] = []
        steps: list[list[Any]] = []  # of an event that answers bit by bit: the first is told whole, what follows as differences
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                if not line.startswith("data:"):
                    continue
                message = json.loads(line[5:])
                if message.get("msg") == "log":
                    said.append(message["log"])
                if message.get("msg") == "process_generating" and message["event_id"] == wanted:
                    told = message["output"]["data"]
                    steps.append([apply_diff(*pair) for pair in zip(steps[-1], told, strict=True)] if steps else told)
                if message.get("msg") == "process_completed" and message["event_id"] == wanted:
                    return {**message, "said": said, "steps": steps}
        raise AssertionError("the answer ended in the middle")

    def read(self, name: str, module: str, **also: Any) -> str:
        """All that a page's opening event fills it with, as one text."""
        filled = self.app.inputs_of(name, module)
        return json.dumps(self.press(name, *[None] * filled, module=module, **also).get("output"), ensure_ascii=False)

    def api(self, name: str, *data: Any) -> dict[str, Any]:
        """Call an endpoint for programs by its name; {"refused": status} where there is none."""
        named = [number for number, fn in self.app.demo.fns.items() if fn.api_name == name and fn.api_visibility == "public"]
        if not named:
            answer = self.http.post(f"/gradio_api/call/{name}", json={"data": list(data), "session_hash": self.session})
            return {"refused": answer.status_code}
        return self.send(named[0], *data)


@dataclass
class Opened:
    """The app: where it answers, its pages, its workspace as the owner sees it and as those who come in do."""

    url: str
    demo: Any
    workspace: Workspace
    shown: Workspace

    def browser(self, **headers: str) -> Browser:
        """A new visitor, who has opened the first page."""
        browser = Browser(self, **headers)
        browser.http.get("/")
        return browser

    def number_of(self, name: str, module: str = "") -> int:
        """Number of the event with this function."""
        found = [number for number, item in self.demo.fns.items() if item.fn is not None and item.fn.__name__ == name
                 and item.fn.__module__.startswith(f"core.ui.{module}")]
        assert found, f"no event {name} in core.ui.{module}"
        return found[0]

    def inputs_of(self, name: str, module: str = "") -> int:
        """How many inputs it takes."""
        return len(self.demo.fns[self.number_of(name, module)].inputs)

    def functions(self) -> set[str]:
        """`module.name` of everything of ours that can be asked for."""
        return {f"{item.fn.__module__.removeprefix('core.ui.')}.{item.fn.__name__}" for item in self.demo.fns.values()
                if item.fn is not None and item.fn.__module__.startswith("core.ui")}


@contextmanager
def opened(runs: Path, auth: str | None = None, door: Door | None = None) -> Iterator[Opened]:
    """The app over a runs folder, with the environment as it is now."""
    workspace = Workspace(runs)
    door = door or open_door(read_settings(), auth=auth)
    shown, demo = built(workspace, door)
    port = free_port()
    launch(demo, door, workspace, port)
    try:
        yield Opened(f"http://127.0.0.1:{port}", demo, workspace, shown)
    finally:
        close(demo, shown)
