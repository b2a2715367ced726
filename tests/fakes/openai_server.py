"""A small OpenAI-compatible server on the loopback, over real HTTP: answers are a function of the prompt and the seed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class OpenAIServer:
    """What it was asked, and how it is to behave."""

    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    troubles: list[tuple[int, str]] = field(default_factory=list)
    """(status, message) of the next replies; status 0 = hang up without a reply."""
    always: tuple[int, str] | None = None
    trouble_with: Callable[[str], tuple[int, str] | None] = lambda _: None
    """The same for a prompt, however often it is asked."""
    answer: Callable[[str, int], str] = lambda prompt, seed: answer_of(prompt, seed)
    """To a prompt, with a seed."""
    filters: Callable[[str], bool] = lambda _: False
    """Does the content filter end the answer to a prompt?"""
    delay: Callable[[str], float] = lambda _: 0.0
    """Seconds before the reply to a prompt."""
    headers: dict[str, str] = field(default_factory=dict)
    running: int = 0
    most_running: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def answer_of(prompt: str, seed: int) -> str:
    """What the server answers."""
    return f"{prompt} / {seed % 1000}"


@contextmanager
def openai_server() -> Iterator[OpenAIServer]:
    """Serve on a free port until the block ends."""
    state = OpenAIServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            chat = self.path.endswith("/chat/completions")
            prompt = body["messages"][-1]["content"] if chat else body["prompt"]
            with state.lock:
                state.asked.append(body)
                state.paths.append(self.path)
                state.keys.append(self.headers.get("authorization"))
                state.running += 1
                state.most_running = max(state.most_running, state.running)
                trouble = state.always or state.trouble_with(prompt) or (state.troubles.pop(0) if state.troubles else None)
            time.sleep(state.delay(prompt))
            with state.lock:
                state.running -= 1
            if trouble and trouble[0] == 0:
                self.close_connection = True
                self.connection.close()
            elif trouble:
                self.reply(trouble[0], {"error": {"message": trouble[1]}})
            else:
                text = state.answer(prompt, body["seed"])
                cut = len(text.split()) > body["max_tokens"]
                text = " ".join(text.split()[:body["max_tokens"]]) if cut else text
                finish = "content_filter" if state.filters(prompt) else "length" if cut else "stop"
                choice = {"finish_reason": finish, **({"message": {"content": text}} if chat else {"text": text})}
                usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(text.split())}
                self.reply(200, {"choices": [choice], "usage": usage})

        def reply(self, status: int, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            for name, text in {**state.headers, "content-type": "application/json", "content-length": str(len(data))}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: object) -> None:
            pass  # a client that was told to go away

    server = Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
