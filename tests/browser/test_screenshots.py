"""The README's pictures can be taken at any time, of the study that the app ships with, made runs and a comparison."""

import re

import pytest
from PIL import Image

from core.compare.keeping import comparisons_of
from core.compare.records import Answer, Column, Comparison, Exchange
from core.runs import REPOSITORY, Workspace
from core.shipped import place
from tests.browser.conftest import end_app, start_app
from tests.browser.screenshots import LARGEST, shots, take_all
from tests.mining_runs import mining_run, sample
from tests.waltz_runs import waltz_run

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """An app over the shipped study, with a mining run, a WaltzRL run and a comparison beside it."""
    folder = tmp_path_factory.mktemp("pictures")
    workspace = Workspace(folder / "runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GUARDWALTZ_STUDY", raising=False)
        assert place(workspace)
    mining_run(workspace, [sample(row, 2) for row in range(6)])
    waltz_run(workspace, count=6, batch=8)
    answers = [Answer(text=text, over="end", tokens=9, writing=1.0) for text in ("Begin with the date.", "Write to a person.")]
    comparisons_of(workspace).keep(Comparison(columns=[Column(model="embedded"), Column(model="run:rsft-0001")], exchanges=[
        Exchange(prompt="How is a letter written?", answers=answers)]))
    (folder / "plugins").mkdir()
    started = start_app(workspace.runs_dir, folder / "app.log", plugins=folder / "plugins")
    yield started
    end_app(started)


def test_the_pictures_of_the_readme_can_be_taken(browser, app, tmp_path):
    shown = set(re.findall(r"assets/screenshots/([\w-]+)\.png", (REPOSITORY / "README.md").read_text()))
    kept = {path.stem for path in (REPOSITORY / "assets" / "screenshots").glob("*.png")}
    assert shown <= kept <= {shot.name for shot in shots(app.workspace)}
    wanted = shown | {"chat-phone"}
    taken = take_all(browser, app, tmp_path, wanted)
    assert {path.stem for path in taken} == wanted
    for path in taken:
        picture = Image.open(path)
        assert path.stat().st_size <= LARGEST, f"{path.name} is too large"
        assert len(picture.convert("RGB").getcolors(2**24)) > 20, f"{path.name} is blank"
        assert (picture.width < 720) == path.stem.endswith("-phone")
