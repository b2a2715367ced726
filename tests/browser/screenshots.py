"""The pictures of the README, taken from a copy of a real runs folder:

    python -m tests.browser.screenshots RUNS_DIR [OUTPUT_DIR]

tests/browser/test_screenshots.py takes each of them, too, of the study that the app ships with.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from core.compare.keeping import comparisons_of
from core.runs import REPOSITORY, Workspace
from tests.browser.conftest import CHROMIUM, QUIET, App, end_app, start_app
from tests.browser.driving import LONG

LARGEST = 300_000
"""Bytes a picture may have."""


@dataclass(frozen=True)
class Shot:
    """One picture: a page, what must stand on it before it is taken, and the window."""

    name: str
    path: str
    ready: str
    width: int = 1440
    height: int = 1080
    dark: bool = False
    form: bool = False
    """Also wait for the estimate under the form."""


def shots(workspace: Workspace) -> list[Shot]:
    """The pictures that this workspace has something to show for."""
    runs = [run for run in reversed(workspace.runs()) if run.state == "succeeded"]
    runs.sort(key=lambda run: not run.status.get("parent"))  # a step of a study where there is nothing else
    newest = {run.status.get("stage"): run.id for run in runs}
    found = []
    if "data" in newest:
        found.append(Shot("data", "/", ".js-plotly-plot", height=1150))
    if trained := newest.get("training"):
        ready = f".gw-live:has-text('{trained}') .js-plotly-plot"
        page = f"/training?run={trained}"
        found += [Shot("training", page, ready, form=True), Shot("training-dark", page, ready, dark=True, form=True),
                  Shot("training-phone", page, ready, width=390, height=1200),
                  Shot("runs", f"/runs?run={trained}", ".gw-lineage-lying", height=1150)]
    if mined := next((run.id for run in workspace.runs() if run.method == "mine-hard-samples" and run.state == "succeeded"), None):
        found.append(Shot("mining", f"/mining?run={mined}", "table[aria-label=inputs]", height=1400))
    if waltzed := next((run.id for run in workspace.runs() if run.method == "waltzrl" and run.state == "succeeded"), None):
        found.append(Shot("rl", f"/rl?run={waltzed}", "table[aria-label=episodes]", height=2400))
    if "evaluation" in newest:
        found.append(Shot("evaluation", "/evaluation", "table[aria-label=models]", height=1150))
    if chats := comparisons_of(workspace).newest(1):
        page = f"/chat?chat={chats[0].id}"
        ready = ".gw-answer[data-over=end]"
        found += [Shot("chat", page, ready, height=900), Shot("chat-dark", page, ready, height=900, dark=True),
                  Shot("chat-phone", page, ready, width=390, height=844)]
    return found


def take(browser: Browser, app: App, shot: Shot, folder: Path) -> Path:
    """Open the page, wait until it has settled, and write the picture."""
    phone = shot.width < 720
    context = browser.new_context(viewport={"width": shot.width, "height": shot.height}, is_mobile=phone, has_touch=phone,
                                  reduced_motion="reduce")
    page = context.new_page()
    page.goto(f"{app.url}{shot.path}{'&' if '?' in shot.path else '?'}__theme={'dark' if shot.dark else 'light'}")
    expect(page.locator(shot.ready).first).to_be_visible(timeout=LONG)
    if shot.form:
        expect(page.locator(".gw-method:visible .gw-stats b").first).not_to_have_text("–", timeout=LONG)
    if phone and page.locator(".gw-live").count():
        _run_first(page)
    target = folder / f"{shot.name}.png"
    _save(_settled(page), target)
    context.close()
    return target


def _settled(page: Page) -> bytes:
    """The page when fonts and charts are drawn: nothing changes any more."""
    page.evaluate("document.fonts.ready.then(() => true)")
    last = page.screenshot()
    for _ in range(10):
        page.wait_for_timeout(300)
        now = page.screenshot()
        if now == last:
            break
        last = now
    return last


def take_all(browser: Browser, app: App, folder: Path, names: Collection[str] = ()) -> list[Path]:
    """Every picture of what is in the app's workspace, or those of these names."""
    folder.mkdir(parents=True, exist_ok=True)
    return [take(browser, app, shot, folder) for shot in shots(app.workspace) if not names or shot.name in names]


def _save(png: bytes, target: Path) -> None:
    """As it is where it is small enough, else with 256 colours."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.save(target, optimize=True)
    if target.stat().st_size > LARGEST:
        picture.quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)


def _run_first(page: Page) -> None:
    """On a phone the form stands before a finished run: scroll to the run."""
    page.evaluate("window.scrollTo(0, document.querySelector('.gw-live').getBoundingClientRect().top + scrollY - 60)")


def main(runs: Path, folder: Path) -> None:
    """Copy the runs, so that nothing is written into them, start the app on the copy, take every picture."""
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        shutil.copytree(runs, temporary / "runs")
        (temporary / "plugins").mkdir()
        app = start_app(temporary / "runs", temporary / "app.log", plugins=temporary / "plugins")
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
                for path in take_all(browser, app, folder):
                    size = path.stat().st_size
                    print(f"{path}  {size / 1000:.0f} kB" + ("  TOO LARGE" if size > LARGEST else ""), flush=True)
                browser.close()
        finally:
            end_app(app)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else REPOSITORY / "assets" / "screenshots")
