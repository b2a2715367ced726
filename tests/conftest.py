"""Fixtures of all tests. Torch reads its thread settings when it is imported, so they are set here, before anything else."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # idle threads must not spin on the cores that other processes need
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may ask the Hub
os.environ.pop("GUARDWALTZ_PLUGINS", None)  # what a developer's shell names is no part of the tests

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from core.guard.classify import Guard
    from core.runs import Workspace


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start processes come first, those with a browser before all: no core waits for a long one at the end."""
    marks: dict[Path, set[str]] = {}
    for item in items:
        marks.setdefault(item.path, set()).update(mark.name for mark in item.iter_markers())
    items.sort(key=lambda item: ("browser" not in marks[item.path], "kill" not in marks[item.path]))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer model with tokenizer and chat template; read only."""
    from core.lm.tiny import make_tiny

    return make_tiny(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def embedded_model() -> Path:
    """Folder of the embedded model. Skips where it can neither be found nor fetched; in CI that is a failure."""
    from core.lm.embedded import ensure_embedded
    from core.methods import UserError

    try:
        return ensure_embedded()
    except UserError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture
def workspace_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty runs folder, which is also what `$GUARDWALTZ_RUNS` names during the test."""
    folder = tmp_path / "runs"
    folder.mkdir()
    monkeypatch.setenv("GUARDWALTZ_RUNS", str(folder))
    return folder


@pytest.fixture
def workspace(workspace_dir: Path) -> Workspace:
    """The workspace of that folder, with the plugins that `$GUARDWALTZ_PLUGINS` names."""
    from core.runs import Workspace

    return Workspace(workspace_dir)


@pytest.fixture
def fake_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judges of tests/fake_judges, which need no model, are there as plugins."""
    from tests.helpers import FAKE_JUDGES

    monkeypatch.setenv("GUARDWALTZ_PLUGINS", str(FAKE_JUDGES))


@pytest.fixture
def guard(workspace: Workspace, tiny_model: Path) -> Iterator[Callable[..., Guard]]:
    """`guard(prompt_format)`: the tiny model in float32, as a guard."""
    from core.guard.classify import Guard

    opened = []

    def make(prompt_format: str = "guardreasoner") -> Guard:
        opened.append(Guard(str(tiny_model), workspace, prompt_format=prompt_format, device="cpu", dtype="float32"))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data sets beside the checkout; they are not part of the repository."""
    folder = Path(__file__).parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the shared data sets are not here ({folder})")
    return folder
