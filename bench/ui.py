"""The pages under load: visitors who hold the Chat page or follow one run, while that run trains; `python -m bench.ui [--visitors 50]`.

Floors: no error, and a 95th percentile of a page event under 1 s, with 50 visitors on two cores while a training goes on. The baseline,
measured first in the same app, is one visitor and no training. Each visitor does over HTTP what a page's script does: it opens the
page, keeps its heartbeat open, runs the page's opening events and then its clocks, each event waited for to its end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from core.runs import FINISHED, REPOSITORY, Run, Workspace

FLOOR = 1.0
"""Seconds."""
CORES = 2
STARTED = 300.0
"""Seconds within which the app must answer, and the training must have begun."""
KINDS = {"page": "the page itself", "load": "its opening events", "tick": "its clocks"}
"""What a visitor waits for. The page is no event, so the floor does not count it."""
TRAINING = ["rsft", "data=assets/demo/guard-demo.jsonl", "epochs=50"]

Seconds = dict[str, list[float]]


class Visitor:
    """A page without a screen: the values of its components, its opening events and its clocks."""

    def __init__(self, url: str, path: str, query: str) -> None:
        self.http = httpx.AsyncClient(base_url=url, timeout=60)
        self.path, self.query = path, query
        self.session = secrets.token_hex(6)
        self.values: dict[int, Any] = {}
        self.seconds: Seconds = {kind: [] for kind in KINDS}
        self.errors: list[str] = []

    async def visit(self, until: float) -> None:
        """Open the page and stay until then."""
        try:
            began = time.perf_counter()
            config = page_config((await self.http.get(self.path + self.query)).raise_for_status().text)
            self.seconds["page"].append(time.perf_counter() - began)
            clocks = {item["id"]: float(item["props"].get("value") or 1.0) for item in config["components"] if item["type"] == "timer"
                      and item["props"].get("active", True)}
            self.values = {item["id"]: item["props"].get("value") for item in config["components"]}
            events = config["dependencies"]
            beat = asyncio.create_task(self._heartbeat())
            for event in events:
                if any(name == "load" for _, name in event["targets"]) and event["backend_fn"]:
                    await self._run(event, "load")
            ticking = [(event, clocks[target]) for event in events for target, name in event["targets"]
                       if name == "tick" and target in clocks]
            await asyncio.gather(*(self._tick(event, every, until) for event, every in ticking), asyncio.sleep(until - time.monotonic()))
            beat.cancel()
        except (httpx.HTTPError, ValueError, KeyError) as error:
            self.errors.append(f"{self.path}: {type(error).__name__}: {error}")
        finally:
            await self.http.aclose()

    async def _heartbeat(self) -> None:
        with contextlib.suppress(httpx.HTTPError, asyncio.CancelledError):
            async with self.http.stream("GET", f"/gradio_api/heartbeat/{self.session}", timeout=None) as stream:
                async for _ in stream.aiter_lines():
                    pass

    async def _tick(self, event: dict[str, Any], every: float, until: float) -> None:
        while (pause := min(every, until - time.monotonic())) > 0:
            await asyncio.sleep(pause)
            if time.monotonic() < until:
                await self._run(event, "tick")

    async def _run(self, event: dict[str, Any], kind: str) -> None:
        """One event from the request to its last word; what it answers becomes the values of the components."""
        began = time.perf_counter()
        body = {"data": [self.values.get(item) for item in event["inputs"]], "fn_index": event["id"], "session_hash": self.session,
                "event_data": None, "trigger_id": event["targets"][0][0]}
        joined = await self.http.post(f"/gradio_api/queue/join{self.query}", json=body)
        if joined.status_code != 200:
            self.errors.append(f"{self.path} event {event['id']}: {joined.status_code} {joined.text[:200]}")
            return
        wanted = joined.json()["event_id"]
        async with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as stream:
            async for line in stream.aiter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {}
                if message.get("msg") == "process_completed" and message.get("event_id") == wanted:
                    break
            else:
                raise ValueError("the answer ended in the middle")
        self.seconds[kind].append(time.perf_counter() - began)
        if not message["success"]:
            self.errors.append(f"{self.path} event {event['id']}: {message['output']}")
            return
        for item, value in zip(event["outputs"], message["output"].get("data", []), strict=False):
            if not (isinstance(value, dict) and value.get("__type__") == "update"):
                self.values[item] = value
            elif "value" in value:
                self.values[item] = value["value"]


def page_config(page: str) -> dict[str, Any]:
    """What Gradio writes into a page for its script."""
    found = re.search(r"window\.gradio_config\s*=\s*(\{.*?\});\s*</script>", page, re.S)
    if found is None:
        raise ValueError("the page holds no configuration; was there a login?")
    config: dict[str, Any] = json.loads(found[1])
    return config


async def load(url: str, run: str, visitors: int, seconds: float) -> tuple[Seconds, list[str]]:
    """({kind: seconds of each}, errors): half of the visitors on Chat, half of them following the run. They come over ten seconds."""
    until = time.monotonic() + seconds
    pages = [("/chat", ""), ("/runs", f"?run={run}")]
    crowd = [Visitor(url, *pages[number % 2 if visitors > 1 else 1]) for number in range(visitors)]

    async def come(number: int) -> None:
        await asyncio.sleep(min(10.0, seconds / 4) * number / visitors)
        await crowd[number].visit(until)

    await asyncio.gather(*(come(number) for number in range(visitors)))
    together = {kind: [second for one in crowd for second in one.seconds[kind]] for kind in KINDS}
    return together, [error for one in crowd for error in one.errors]


def open_app(runs: Path, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """The app on two cores, with a run that has ended to follow until a training is there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with log.open("wb") as file:
        app = subprocess.Popen([*pinned(), sys.executable, "app.py", "--port", str(port)], cwd=REPOSITORY, stdout=file, stderr=file,
                               env={**os.environ, "GUARDWALTZ_RUNS": str(runs)})
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + STARTED
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=10).status_code == 200:
                return app, url
        if app.poll() is not None or time.monotonic() > deadline:
            app.kill()
            raise SystemExit(f"the app did not start: {log.read_text()}")
        time.sleep(0.2)


def pinned() -> list[str]:
    """Keeps what is started, and all that it starts, on two cores, where the machine has more."""
    cores = sorted(os.sched_getaffinity(0))[:CORES] if hasattr(os, "sched_getaffinity") else []
    return ["taskset", "-c", ",".join(map(str, cores))] if cores else []


def start(runs: Path, words: list[str]) -> Run:
    """Start a run from the command line; it goes on by itself."""
    told = subprocess.run([*pinned(), sys.executable, "app.py", "run", *words, "--detach"], cwd=REPOSITORY, check=True, capture_output=True,
                          text=True, env={**os.environ, "GUARDWALTZ_RUNS": str(runs)}).stdout
    return Workspace(runs).run(told.split()[0])


def wait(run: Run, what: str, ready: Any) -> None:
    """Until a run is that far."""
    deadline = time.monotonic() + STARTED
    while not ready():
        if time.monotonic() > deadline or (run.state in FINISHED and run.state != "succeeded"):
            raise SystemExit(f"{run.id} did not come to {what}: {run.state} {run.status.get('message')}")
        time.sleep(0.5)


def main() -> int:
    """Measure and print; 1 where a floor is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visitors", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--no-training", action="store_true", help="only the pages, to try this bench out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        runs.mkdir()
        app, url = open_app(runs, Path(folder) / "app.log")
        training = None
        try:
            data = start(runs, ["import-data", "source=assets/demo/guard-demo.jsonl", "name=demo", "role=as-marked"])
            wait(data, "its end", lambda: data.state == "succeeded")
            asyncio.run(load(url, data.id, 2, 5.0))  # first use imports and compiles; the app does that once in its life
            alone, wrong = asyncio.run(load(url, data.id, 1, min(20.0, options.seconds)))
            if not options.no_training:
                training = start(runs, TRAINING)
                wait(training, "its first steps", lambda: (training.status.get("progress") or {}).get("unit") == "steps")
            followed = training or data
            many, errors = asyncio.run(load(url, followed.id, options.visitors, options.seconds))
            state = training.state if training else "none"
        finally:
            if training is not None and training.state not in FINISHED:
                subprocess.run([sys.executable, "app.py", "stop", training.id, "--force"], cwd=REPOSITORY, stdout=subprocess.DEVNULL,
                               env={**os.environ, "GUARDWALTZ_RUNS": str(runs)})
            app.terminate()
            app.wait()
        return report(alone, many, [*wrong, *errors], options.visitors, state)


def report(alone_by_kind: Seconds, by_kind: Seconds, errors: list[str], visitors: int, training: str) -> int:
    """A few lines, and whether the floors hold."""
    alone, many = events_of(alone_by_kind), events_of(by_kind)
    if len(alone) < 2 or len(many) < 2:
        print(f"too few events were answered; errors: {errors[:5]}")
        return 1
    base, p95 = percentile(alone), percentile(many)
    shared = "shared with this load" if len(os.sched_getaffinity(0)) <= CORES else "of its own"
    holds = {True: "holds", False: "BROKEN"}
    print(f"page events, {visitors} visitors, training {training}, {CORES} cores {shared}: p50 {statistics.median(many):.3f} s, "
          f"p95 {p95:.3f} s, n = {len(many)}; one visitor without training: p95 {base:.3f} s, n = {len(alone)}; ratio {p95 / base:.1f}")
    print(f"p95 at most {FLOOR:.0f} s: {holds[p95 <= FLOOR]}; errors: {len(errors)} ({holds[not errors]})")
    for kind, words in KINDS.items():
        if len(found := by_kind[kind]) > 1:
            print(f"  {words}: p50 {statistics.median(found):.3f} s, p95 {percentile(found):.3f} s, n = {len(found)}")
    for error in errors[:5]:
        print(f"  {error}")
    if training not in ("running", "none"):
        print(f"  the training was {training} at the end, so not all was measured beside it")
    return int(p95 > FLOOR or bool(errors) or training not in ("running", "none"))


def events_of(seconds: Seconds) -> list[float]:
    """All but the pages themselves."""
    return [*seconds["load"], *seconds["tick"]]


def percentile(values: list[float]) -> float:
    """The 95th."""
    return statistics.quantiles(values, n=20)[18]


if __name__ == "__main__":
    sys.exit(main())
