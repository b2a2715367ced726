"""Any server that speaks OpenAI's HTTP interface as an engine: vLLM, llama.cpp, Ollama, `transformers serve`, a hosted one.

Chat formats go to /chat/completions, formats that write the whole prompt to /completions. k samples are k requests with seeds of
their own, since few servers honour `n`.
"""

from __future__ import annotations

import math
import queue
import random
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any

from core.api_key import ApiKey
from core.lm.engine_window import Asked, requests, through
from core.lm.engines import Engine, Prompt
from core.lm.generate import Generated
from core.methods import UserError
from core.refs import ModelRef

AT_ONCE = 16
TRIES = 6
FIRST_WAIT = 0.5
"""Seconds before the second try; each further wait is twice as long, or what the server asks for."""
LONGEST_WAIT = 60.0
TIMEOUT = 600.0
"""Seconds for one answer: a small machine may take minutes for a long one."""
ALONE = (400, 413, 422, 451)
"""Statuses that say something of one request: a content filter, a text that is too long."""
DOWN = AT_ONCE
"""So many requests one after the other that the server gave up on are the server's trouble, not theirs."""
PATIENCE = 30.0
"""Seconds that answers under way are waited for when another request has ended the call."""
KEY = "OPENAI_API_KEY"
"""Sent as bearer token where this environment variable is set; never logged."""


class RequestFailed(UserError):
    """One request failed, which need not say anything of the others. gave_up: perhaps it does, when many fail so."""

    def __init__(self, url: str, why: str, advice: str, *, gave_up: bool) -> None:
        super().__init__(f"{url} {why}{advice}")
        self.why, self.gave_up = why, gave_up


class ServerEngine(Engine):
    """Asks `openai:<model>@<base url>`; the base url ends before /chat/completions, most often with /v1."""

    name = "server"

    def __init__(self, ref: ModelRef) -> None:
        import httpx

        self.ref, self.model, self.url = str(ref), ref.name, ref.url.rstrip("/")
        self.key = ApiKey("", KEY)
        self.client = httpx.Client(timeout=httpx.Timeout(TIMEOUT, connect=10), headers=self.key.headers,
                                   limits=httpx.Limits(max_connections=AT_ONCE))
        self.given_up, self.lock = 0, threading.Lock()

    def answers(self, prompts: Iterable[Prompt], *, samples: int = 1, max_new_tokens: int = 256, temperature: float = 0.0,
                top_p: float = 1.0, seed: int = 42, indices: Iterable[int] | None = None, is_complete: Callable[[str], bool] | None = None,
                should_stop: Callable[[], bool] | None = None, on_batch: Callable[[int, int, int], None] | None = None,
                chat: bool = True, ordered: bool = True, have: Container[tuple[int, int]] = ()) -> Iterator[Generated]:
        """See Engine.answers. is_complete is not used: a server sends whole answers, which end at the model's own end or the limit."""
        backend = _Flight(self, {"max_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}, seed, chat)
        yield from through(backend, requests(prompts, indices, samples, have), AT_ONCE, ordered=ordered, should_stop=should_stop,
                           on_batch=on_batch)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def bears(self, error: RequestFailed) -> bool:
        """May the call go on without an answer to this request?"""
        if not self.forgiving:
            return False
        with self.lock:
            self.given_up = self.given_up + 1 if error.gave_up else 0
            return self.given_up < DOWN

    def works(self) -> None:
        """The server has answered."""
        with self.lock:
            self.given_up = 0


class _Flight:
    """The requests of one call, in threads of their own. They are daemons: a process that ends does not wait for a slow server."""

    def __init__(self, engine: ServerEngine, options: dict[str, Any], seed: int, chat: bool) -> None:
        self.engine, self.options, self.seed, self.chat = engine, options, seed, chat
        self.over = threading.Event()
        self.waiting: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()
        self.results: queue.SimpleQueue[tuple[Asked, Generated | BaseException]] = queue.SimpleQueue()
        self.threads = [threading.Thread(target=self._work, name="server-request", daemon=True) for _ in range(AT_ONCE)]
        for thread in self.threads:
            thread.start()

    def start(self, asked: Asked) -> None:
        self.waiting.put(asked)

    def finished(self) -> Iterator[tuple[Asked, Generated]]:
        try:
            found = [self.results.get(timeout=0.5)]
        except queue.Empty:
            return
        while not self.results.empty():
            found.append(self.results.get())
        broken: BaseException | None = None
        for asked, result in found:
            if isinstance(result, BaseException):
                broken = broken or result
            else:
                yield asked, result
        if broken is not None:
            yield from self._last()
            raise broken

    def _last(self) -> Iterator[tuple[Asked, Generated]]:
        """What is under way when the call breaks: it may have to be paid, so it is waited for."""
        self.cancel()
        until = time.monotonic() + PATIENCE
        for thread in self.threads:
            thread.join(max(0.0, until - time.monotonic()))
        while not self.results.empty():
            asked, result = self.results.get()
            if not isinstance(result, BaseException):
                yield asked, result

    def cancel(self) -> None:
        self.over.set()
        for _ in range(AT_ONCE):
            self.waiting.put(None)

    def _work(self) -> None:
        while (asked := self.waiting.get()) is not None and not self.over.is_set():
            try:
                self.results.put((asked, self._answer(asked)))
                self.engine.works()
            except RequestFailed as error:
                self.results.put((asked, _without(asked, error) if self.engine.bears(error) else error))
            except BaseException as error:  # raised again where the answers are read
                self.results.put((asked, error))

    def _answer(self, asked: Asked) -> Generated:
        body = {"model": self.engine.model, **self.options, "seed": asked.seed(self.seed), **_what(asked.prompt, self.chat)}
        reply = self._post(f"{self.engine.url}/{'chat/completions' if self.chat else 'completions'}", body)
        return as_generated(reply, asked, self.chat, self.engine.url)

    def _post(self, url: str, body: dict[str, Any]) -> Any:
        """The server's JSON; tried again after a pause where another try may help, else a UserError."""
        import httpx

        problem, alone = "", False
        for turn in range(TRIES):
            wait = FIRST_WAIT * 2**turn * random.uniform(0.8, 1.2)
            try:
                reply = self.engine.client.post(url, json=body)
            except httpx.TransportError as error:
                problem = f"did not answer ({type(error).__name__}: {self.engine.key.hide(str(error)) or 'no reason given'})"
                alone = not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
            else:
                if reply.status_code == 200:
                    return _json(reply, url)
                problem = f"answered with status {reply.status_code} ({reason_of(reply, self.engine.key)})"
                if reply.status_code != 429 and reply.status_code < 500:
                    advice = f"; check the model's name, the address and {KEY}."
                    raise RequestFailed(url, problem, advice, gave_up=False) if reply.status_code in ALONE else UserError(
                        f"{url} {problem}{advice}")
                alone = reply.status_code != 429
                wait = max(wait, _asked_wait(reply.headers.get("retry-after", "")))
            if turn < TRIES - 1 and self.over.wait(min(wait, LONGEST_WAIT)):
                break
        problem, advice = f"{problem}, {TRIES} times", "; check that the server runs, then resume: what was answered is kept."
        raise RequestFailed(url, problem, advice, gave_up=True) if alone else UserError(f"{url} {problem}{advice}")


def _what(prompt: Prompt, chat: bool) -> dict[str, Any]:
    if chat:
        return {"messages": [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(turn) for turn in prompt]}
    if not isinstance(prompt, str):
        raise UserError("This prompt format writes the whole prompt itself, but a prompt here is a list of messages; give a text.")
    return {"prompt": prompt}


def as_generated(reply: Any, asked: Asked, chat: bool, url: str) -> Generated:
    """The answer in a server's JSON. Its tokens are counted by the server, and not known one by one: `token_ids` stays empty."""
    try:
        choice = reply["choices"][0]
        text = choice["message"].get("content") or choice["message"].get("refusal") if chat else choice["text"]
    except (KeyError, IndexError, TypeError, AttributeError):
        raise RequestFailed(url, "answered without choices[0]", "; it does not seem to be an OpenAI-compatible server.",
                            gave_up=True) from None
    usage = reply.get("usage") or {}
    finish = "length" if choice.get("finish_reason") == "length" else "stop"
    return Generated(asked.index, asked.sample, text or "", (), int(usage.get("prompt_tokens") or 0), finish,  # type: ignore[arg-type]
                     time.perf_counter() - asked.began, counted=int(usage.get("completion_tokens") or 0),
                     failed="its content filter ended the answer" if choice.get("finish_reason") == "content_filter" else "")


def _without(asked: Asked, error: RequestFailed) -> Generated:
    return Generated(asked.index, asked.sample, "", (), 0, "stop", time.perf_counter() - asked.began, failed=f"the server {error.why}")


def _json(reply: Any, url: str) -> Any:
    try:
        return reply.json()
    except ValueError:
        raise RequestFailed(url, "answered with something other than JSON", "; check the address (it most often ends with /v1).",
                            gave_up=True) from None


def reason_of(reply: Any, key: ApiKey) -> str:
    """The server's own words, in one short line, without the key that it was asked with."""
    try:
        found = reply.json()
        error = found.get("error", found) if isinstance(found, dict) else found
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    except ValueError:
        text = reply.text
    return " ".join(key.hide(text).split())[:200] or "no reason given"


def _asked_wait(header: str) -> float:
    """Seconds of a Retry-After header; 0 where there is none or it is a date."""
    try:
        seconds = float(header)
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0
