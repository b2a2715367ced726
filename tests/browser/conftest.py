"""An app on a free port with a runs folder of its own, and a Chromium page that keeps to it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from core.runs import REPOSITORY, Workspace
from tests.browser.driving import WAIT
from tests.helpers import FAKE_PLUGINS, wait_for

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
DESKTOP = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}


@dataclass(frozen=True)
class App:
    """A running app: where it answers, and the folder it writes."""

    url: str
    workspace: Workspace
    process: subprocess.Popen


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_app(runs: Path, log: Path, plugins: Path = FAKE_PLUGINS, port: int | None = None) -> App:
    """Start `python app.py` and wait until it answers. The caller ends it with `end_app`."""
    port = port or free_port()
    environment = {**os.environ, "GUARDWALTZ_RUNS": str(runs), "GUARDWALTZ_PLUGINS": str(plugins), "GRADIO_ANALYTICS_ENABLED": "False",
                   "GUARDWALTZ_STUDY": "off"}
    before = log.stat().st_size if log.exists() else 0
    with log.open("ab") as file:
        process = subprocess.Popen([sys.executable, "app.py", "--port", str(port)], cwd=REPOSITORY, env=environment, stdout=file,
                                   stderr=file)
    app = App(f"http://127.0.0.1:{port}", Workspace(runs), process)

    def answers() -> bool:
        assert process.poll() is None, f"the app ended: {log.read_text()}"
        if b"GuardWaltz is on" not in log.read_bytes()[before:]:
            return False  # on a busy machine questions that come too early keep the app from its own start
        try:
            return urllib.request.urlopen(app.url, timeout=30).status == 200
        except (urllib.error.URLError, OSError):
            return False

    wait_for(answers, "the app to answer", 120)
    return app


def end_app(app: App) -> None:
    app.process.terminate()
    try:
        app.process.wait(20)
    except subprocess.TimeoutExpired:
        app.process.kill()
        app.process.wait()


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> Iterator[App]:
    """One app for the tests of a module, with the counting methods of tests/fake_plugins."""
    folder = tmp_path_factory.mktemp("app")
    started = start_app(folder / "runs", folder / "app.log")
    yield started
    end_app(started)


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, driven by playwright. Without one the tests are skipped, but on CI they fail.

    One for each file: playwright keeps an event loop running, and tests of other files want to run their own.
    """
    if not CHROMIUM:
        reason = "no chromium here: install it (apt install chromium) or set CHROMIUM to its path"
        if os.environ.get("CI"):
            pytest.fail(reason)
        print(reason)
        pytest.skip(reason)
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=WAIT)  # what comes in five seconds on a quiet machine may take longer on a busy one
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


def _is_outside(url: str, app: App) -> bool:
    return not url.startswith((app.url, "data:", "blob:"))


@contextmanager
def opening(browser, app) -> Iterator[Callable[..., Any]]:
    """`open_page("/training", phone=True, dark=True)`: an opened page. Errors on it, and requests to other hosts, fail the test.

    script: a function that runs before the page's own scripts.
    """
    contexts, wrong = [], []

    def open_page(path: str, *, phone: bool = False, dark: bool = False, script: str = ""):
        context = browser.new_context(viewport=PHONE if phone else DESKTOP, is_mobile=phone, has_touch=phone)
        context.set_default_timeout(60_000)
        context.set_default_navigation_timeout(120_000)
        contexts.append(context)
        page = context.new_page()
        if script:
            page.add_init_script(f"({script})()")
        page.on("pageerror", lambda error: wrong.append(f"{path}: {error}"))
        page.on("request", lambda request: wrong.append(f"asks {request.url}") if _is_outside(request.url, app) else None)
        page.goto(app.url + path + ("&" if "?" in path else "?") + f"__theme={'dark' if dark else 'light'}")
        page.wait_for_selector(".gw-title", timeout=60_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong, wrong


@pytest.fixture
def new_page(browser, app):
    """`opening` for one test."""
    with opening(browser, app) as open_page:
        yield open_page
