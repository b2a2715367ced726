"""Finished runs outlive the disk: copied to a folder or a dataset repository, whole or not at all, and brought back at the next start."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.hub_server import OWNER, TOKEN, HubServer, Repo, hub_server
from helpers import FAKE_PLUGINS, finish, wait_for

from core import jobs, keep
from core.files import write_json, write_text
from core.keep.folder_place import FolderPlace
from core.keep.ledger import Ledger
from core.keep.sync import MANIFEST, Kept, kept_files, sync
from core.methods import UserError
from core.runs import REPOSITORY, Run, Workspace, config_yaml


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderPlace:
    monkeypatch.setenv(keep.VARIABLE, str(tmp_path / "data" / "runs"))
    return FolderPlace(tmp_path / "data" / "runs")


@pytest.fixture
def workspace(workspace_dir: Path) -> Workspace:
    return Workspace(workspace_dir)


def make_run(workspace: Workspace, run_id: str = "rsft-0001", **status: Any) -> Run:
    """A finished run with an adapter, a checkpoint and what a crash may leave."""
    folder = workspace.runs_dir / run_id
    for name in ("adapter", "checkpoint-10"):
        (folder / name).mkdir(parents=True)
    write_text(folder / "config.yaml", config_yaml("rsft", {"seed": 1}))
    write_json(folder / "labels.json", {"name": "mine", "tags": [], "note": "", "archived": False})
    write_json(folder / "status.json", {"state": "succeeded", "method": "rsft", "stage": "training", "lane": "compute",
                                        "created": time.time(), **status})
    write_text(folder / "test_keys.txt", "a1\nb2\n")
    for name, size in (("adapter/adapter_model.safetensors", 5000), ("checkpoint-10/optimizer.pt", 9000), (".half", 10), ("heartbeat", 0)):
        (folder / name).write_bytes(os.urandom(size))
    (folder / "link").symlink_to("/etc")
    return Run(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in kept_files(folder)}


def restart(workspace: Workspace, said: list[str] | None = None) -> Workspace:
    """The container is gone with its disk; the app starts on an empty one."""
    shutil.rmtree(workspace.runs_dir)
    fresh = Workspace(workspace.runs_dir)
    keep.bring_back(fresh, (said if said is not None else []).append)
    return fresh


def test_what_was_finished_is_there_after_the_disk_is_gone(workspace: Workspace, place: FolderPlace) -> None:
    run, running = make_run(workspace), make_run(workspace, "rsft-0002", state="queued")
    (workspace.runs_dir / "spend.jsonl").write_text('{"t": 1, "usd": 0.5}\n')
    before = contents(run.dir)
    assert sync(workspace, place) == ""
    said: list[str] = []
    fresh = restart(workspace, said)
    assert contents(fresh.run("rsft-0001").dir) == before
    assert not (fresh.runs_dir / "rsft-0001" / "checkpoint-10").exists()
    assert not (fresh.runs_dir / "rsft-0001" / MANIFEST).exists()
    assert not (fresh.runs_dir / running.id).exists()  # it was not finished
    assert fresh.run("rsft-0001").state == "succeeded"
    assert fresh.store.test_hits(["a1"]) == {"a1": "mine"}  # the index was rebuilt
    assert (fresh.runs_dir / "spend.jsonl").read_text() == '{"t": 1, "usd": 0.5}\n'
    assert any("1 run restored" in line for line in said)
    assert [path.name for path in fresh.runs_dir.iterdir() if path.name.startswith(".restoring")] == []


def test_only_what_changed_is_copied_again(workspace: Workspace, place: FolderPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    run, other = make_run(workspace), make_run(workspace, "data-0001")
    sync(workspace, place)
    put: list[str] = []
    monkeypatch.setattr(FolderPlace, "put", _seeing(put, FolderPlace.put))
    sync(workspace, place)
    assert put == []
    run.set_labels(name="a better name")
    (run.dir / "test_keys.txt").unlink()
    sync(workspace, place)
    assert put == [run.id]
    fresh = restart(workspace)
    assert fresh.run(run.id).name == "a better name"
    assert not (fresh.runs_dir / run.id / "test_keys.txt").exists()
    put.clear()
    sync(fresh, place)
    assert put == []  # what was just fetched is not sent back
    assert fresh.run(other.id)


def _seeing(seen: list[str], put: Any) -> Any:
    def seen_put(self: FolderPlace, kept: Kept, folder: Path) -> None:
        seen.append(kept.key)
        put(self, kept, folder)

    return seen_put


def test_a_copy_that_is_not_whole_does_not_count(workspace: Workspace, place: FolderPlace) -> None:
    make_run(workspace)
    make_run(workspace, "rsft-0002")
    sync(workspace, place)
    weights = place.folder / "rsft-0001" / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    (place.folder / "rsft-0003").mkdir()
    (place.folder / "rsft-0003" / "status.json").write_text("{}")
    assert [one.run for one in place.kept()] == ["rsft-0002"]
    fresh = restart(workspace)
    assert [run.id for run in fresh.runs()] == ["rsft-0002"]


@pytest.mark.kill
def test_a_process_killed_while_it_copies_leaves_the_earlier_copy(workspace: Workspace, place: FolderPlace) -> None:
    run = make_run(workspace)
    sync(workspace, place)
    run.set_labels(name="newer")
    # strike where the old copy has been moved away and the new one is not in its place yet
    code = ("import os, signal; from pathlib import Path; rename = Path.rename\n"
            "def strike(self, target):\n"
            "    if self.name.startswith('.new-'): os.kill(os.getpid(), signal.SIGKILL)\n"
            "    return rename(self, target)\n"
            "Path.rename = strike\n"
            "from core.keep.__main__ import main; main()")
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert [one.run for one in place.kept()] == [run.id]
    assert json.loads((place.folder / run.id / "labels.json").read_text())["name"] == "mine"
    sync(workspace, place)
    assert restart(workspace).run(run.id).name == "newer"


def test_a_run_deleted_by_a_person_does_not_come_back(workspace: Workspace, place: FolderPlace) -> None:
    run = make_run(workspace)
    sync(workspace, place)
    jobs.delete(workspace, run)
    wait_for(lambda: all(process.poll() is not None for process in keep._started), "the process that the deletion starts")
    assert not place.kept()
    assert not restart(workspace).runs()


def test_two_runs_of_one_name_are_both_kept(workspace: Workspace, place: FolderPlace) -> None:
    make_run(workspace, created=1000.0)
    sync(workspace, place)
    shutil.rmtree(workspace.runs_dir)
    fresh = Workspace(workspace.runs_dir)  # somebody worked on the empty disk before anything was restored
    newer = make_run(fresh, created=2000.0)
    newer.set_labels(name="the newer one")
    said: list[str] = []
    keep.bring_back(fresh, said.append)
    assert any("another run than the rsft-0001 here" in line for line in said)
    assert fresh.run("rsft-0001").name == "the newer one"
    sync(fresh, place)
    assert {(one.key, one.created) for one in place.kept()} == {("rsft-0001", 1000.0), ("rsft-0001.2000", 2000.0)}


def test_money_spent_before_and_after_is_all_remembered(workspace: Workspace, place: FolderPlace) -> None:
    (workspace.runs_dir / "spend.jsonl").write_text('{"t": 1}\n{"t": 2}\n')
    sync(workspace, place)
    shutil.rmtree(workspace.runs_dir)
    fresh = Workspace(workspace.runs_dir)
    (fresh.runs_dir / "spend.jsonl").write_text('{"t": 3}\n')
    assert sync(fresh, place) == ""  # takes over what is kept before it copies
    assert sorted((fresh.runs_dir / "spend.jsonl").read_text().split("\n")) == ["", '{"t": 1}', '{"t": 2}', '{"t": 3}']
    assert len((place.folder / "_workspace" / "spend.jsonl").read_text().splitlines()) == 3


def test_trouble_is_said_and_tried_again(workspace: Workspace, place: FolderPlace) -> None:
    run = make_run(workspace)
    place.folder.parent.mkdir(parents=True)
    place.folder.write_text("a file where the folder should be")
    assert "cannot be made" in sync(workspace, place)
    assert "cannot be made" in keep.trouble_of(workspace)
    said: list[str] = []
    keep.bring_back(workspace, said.append)
    assert len(said) == 1
    assert contents(run.dir)
    place.folder.unlink()
    assert sync(workspace, place) == keep.trouble_of(workspace) == ""
    assert [one.run for one in place.kept()] == [run.id]


def test_what_visitors_did_is_not_kept(workspace: Workspace, place: FolderPlace) -> None:
    make_run(workspace, "recipe-0001", visitor="somebody")
    make_run(workspace, "rsft-0001", parent="recipe-0001")
    make_run(workspace, "rsft-0002")
    sync(workspace, place)
    assert [one.run for one in place.kept()] == ["rsft-0002"]


def test_a_worker_keeps_its_run_when_no_app_is_there(workspace: Workspace, place: FolderPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARDWALTZ_PLUGINS", str(FAKE_PLUGINS))
    run = jobs.submit(workspace, "count", {"to": 2, "pause": 0.0})
    assert finish(workspace, run) == "succeeded"
    wait_for(lambda: [one.run for one in place.kept()] == [run.id], "the copy")


def test_names_that_cannot_be_meant(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert keep.place_of(workspace) is None
    for value, sentence in (("s3://bucket", "neither a folder nor hf://"), (str(workspace.runs_dir / "kept"), "inside each other"),
                            ("hf://models/a/b", "neither a folder nor hf://")):
        monkeypatch.setenv(keep.VARIABLE, value)
        with pytest.raises(UserError, match=sentence):
            keep.place_of(workspace)


# ---- a dataset repository ----


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with hub_server() as server:
        yield server


SYNC = "from core.keep.__main__ import main; raise SystemExit(main())"
START = "from core import keep; from core.runs import Workspace; keep.bring_back(Workspace(), print)"


def on_the_hub(hub: HubServer, workspace: Workspace, tmp_path: Path, code: str = SYNC) -> subprocess.CompletedProcess[str]:
    """A process whose Hub is the server, as the client reads its address when it is imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1",
                    "GUARDWALTZ_RUNS": str(workspace.runs_dir), keep.VARIABLE: f"hf://datasets/{OWNER}/kept"}
    return subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=240)


def test_a_dataset_repository_keeps_runs(workspace: Workspace, hub: HubServer, tmp_path: Path) -> None:
    run = make_run(workspace)
    before = contents(run.dir)
    done = on_the_hub(hub, workspace, tmp_path)
    assert done.returncode == 0, done.stderr
    repo = hub.dataset(f"{OWNER}/kept")
    assert repo.private
    assert len(repo.messages) == 1  # one commit: whole or not there
    assert {name.removeprefix("runs/rsft-0001/") for name in repo.files} == {*before, MANIFEST}
    run.set_labels(name="renamed")
    (run.dir / "test_keys.txt").unlink()
    hub.refuse_commits = 503
    assert on_the_hub(hub, workspace, tmp_path).returncode == 1
    assert "rsft-0001 could not be copied" in Ledger(workspace.runs_dir).trouble()
    hub.refuse_commits = 0
    assert on_the_hub(hub, workspace, tmp_path).returncode == 0
    assert "runs/rsft-0001/test_keys.txt" not in repo.files
    before = contents(run.dir)
    shutil.rmtree(workspace.runs_dir)
    done = on_the_hub(hub, workspace, tmp_path, START)
    assert "1 run restored" in done.stdout, done.stderr
    assert contents(workspace.runs_dir / run.id) == before
    assert len(repo.messages) == 2
    assert not any(TOKEN.encode() in data for data in repo.files.values())
    Ledger(workspace.runs_dir).forget(run.id, run.created)
    shutil.rmtree(run.dir)
    assert on_the_hub(hub, workspace, tmp_path).returncode == 0
    assert not repo.files


def test_run_folders_are_never_put_where_everybody_sees_them(workspace: Workspace, hub: HubServer, tmp_path: Path) -> None:
    make_run(workspace)
    hub.repos["dataset", f"{OWNER}/kept"] = Repo(private=False)
    done = on_the_hub(hub, workspace, tmp_path)
    assert done.returncode == 1
    assert "is public" in done.stderr
    assert not hub.dataset(f"{OWNER}/kept").files
