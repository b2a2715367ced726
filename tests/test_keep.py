"""Finished runs outlive the disk: copied to a folder or a dataset repository, whole or not at all, and brought back at the next start."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.hub_server import OWNER, TOKEN, HubServer, Repo, hub_server
from helpers import FAKE_PLUGINS, finish, wait_for

from core import jobs, keep
from core.compare.keeping import Comparisons, save_pair, save_turn
from core.compare.records import Answer, Column, Comparison, Exchange
from core.files import write_json, write_text
from core.keep import where
from core.keep.folder_place import FolderPlace
from core.keep.ledger import Ledger
from core.keep.sync import MANIFEST, Kept, kept_files, sync
from core.methods import UserError
from core.resuming import resume_words
from core.runs import REPOSITORY, Run, Workspace, config_yaml
from core.shipped import STUDY
from core.ui import run_card, runs_detail
from core.ui.serve import fill


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
    assert sync(workspace, place).trouble == ""
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
    sync(workspace, place, wait=True)
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
    sync(workspace, place, wait=True)
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
    assert sync(fresh, place).trouble == ""  # takes over what is kept before it copies
    assert sorted((fresh.runs_dir / "spend.jsonl").read_text().split("\n")) == ["", '{"t": 1}', '{"t": 2}', '{"t": 3}']
    assert len((place.folder / "_workspace" / "spend.jsonl").read_text().splitlines()) == 3


def test_trouble_is_said_and_tried_again(workspace: Workspace, place: FolderPlace) -> None:
    run = make_run(workspace)
    place.folder.parent.mkdir(parents=True)
    place.folder.write_text("a file where the folder should be")
    assert "cannot be made" in sync(workspace, place).trouble
    assert "cannot be made" in keep.trouble_of(workspace)
    said: list[str] = []
    keep.bring_back(workspace, said.append)
    assert len(said) == 1
    assert contents(run.dir)
    place.folder.unlink()
    assert sync(workspace, place).trouble == keep.trouble_of(workspace) == ""
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


# ---- the storage of a Space ----


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is mounted at /data of a Space on which nobody named a place."""
    data = tmp_path / "mounted"
    monkeypatch.delenv(keep.VARIABLE, raising=False)
    monkeypatch.setenv("SPACE_ID", "ada/guardwaltz")
    monkeypatch.setattr(where, "DATA", data)
    return data


def test_the_storage_of_a_space_keeps_runs_and_no_banner_says_otherwise(workspace: Workspace, storage: Path) -> None:
    make_run(workspace)
    assert keep.place_of(workspace) is None
    assert "ephemeral" in keep.storage_words(workspace)
    storage.mkdir()
    assert keep.storage_words(workspace) == ""
    stop = threading.Event()
    stop.set()
    keep.watch(workspace, stop, print)  # the app's thread, which must find the place by itself
    said: list[str] = []
    assert restart(workspace, said).run("rsft-0001").state == "succeeded"
    assert any(str(storage) in line for line in said)


def test_the_banner_is_there_only_when_nothing_is_kept(workspace: Workspace, storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keep.VARIABLE, "hf://datasets/ada/runs")
    assert keep.storage_words(workspace) == ""
    storage.mkdir()
    assert where.wanted(workspace) == "hf://datasets/ada/runs"  # what somebody chose comes first
    monkeypatch.delenv(keep.VARIABLE)
    there = Workspace(storage / "live")
    assert keep.place_of(there) is None  # what lies there already needs no copy beside it
    assert keep.storage_words(there) == ""
    monkeypatch.delenv("SPACE_ID")
    assert keep.place_of(workspace) is None  # a /data elsewhere is somebody's own
    assert keep.storage_words(workspace) == ""


def test_a_folder_that_is_no_copy_is_not_written_over(workspace: Workspace, place: FolderPlace) -> None:
    make_run(workspace)
    (place.folder / "rsft-0001").mkdir(parents=True)
    (place.folder / "rsft-0001" / "status.json").write_text("{}")
    assert "is no copy" in sync(workspace, place).trouble
    assert [path.name for path in (place.folder / "rsft-0001").iterdir()] == ["status.json"]


# ---- a place that could not be reached at the start ----


def test_kept_runs_come_back_late_when_the_place_was_away_at_the_start(workspace: Workspace, place: FolderPlace,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GUARDWALTZ_STUDY", raising=False)
    for source in sorted(path.parent for path in STUDY.glob("*/status.json")):
        make_run(workspace, source.name).set_labels(name="my own")
    sync(workspace, place)
    shutil.rmtree(workspace.runs_dir)
    away = place.folder.with_name("away")
    place.folder.rename(away)
    place.folder.write_text("a file where the folder should be")
    fresh = Workspace(workspace.runs_dir)
    fill(fresh)
    assert fresh.runs() == []  # the study that ships would take their names
    place.folder.unlink()
    away.rename(place.folder)
    said: list[str] = []
    stop = threading.Event()
    stop.set()
    keep.watch(fresh, stop, said.append)
    assert {run.name for run in fresh.runs()} == {"my own"}
    assert any("restored from" in line for line in said)


@pytest.mark.usefixtures("place")
def test_an_empty_workspace_gets_the_study_once_it_is_known_that_nothing_is_kept(workspace: Workspace,
                                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GUARDWALTZ_STUDY", raising=False)
    fill(workspace)
    assert workspace.runs()


def test_what_a_late_restore_leaves_at_the_place_is_said_whichever_process_did_it(workspace: Workspace, place: FolderPlace) -> None:
    make_run(workspace, created=1000.0)
    sync(workspace, place)
    shutil.rmtree(workspace.runs_dir)
    fresh = Workspace(workspace.runs_dir)
    make_run(fresh, created=2000.0)  # made while the place was away
    words = "another run than the rsft-0001 here"
    said: list[str] = []
    stop = threading.Event()
    stop.set()
    keep.watch(fresh, stop, said.append)
    assert len([line for line in said if words in line]) == 1
    assert words in " ".join(sync(fresh, place).notes)  # the next process knows it, too
    assert words in keep.trouble_of(fresh)


# ---- what lies beside the runs ----


def chat(workspace: Workspace, owner: str = "") -> Comparison:
    """A comparison with one exchange, kept as the Chat page does it."""
    answers = [Answer(text=text, over="end") for text in ("Gladly.", "No.")]
    made = Comparison(columns=[Column(model="run:one"), Column(model="run:two")], owner=owner,
                      exchanges=[Exchange(prompt="How is a letter written?", answers=answers)])
    Comparisons(workspace).keep(made)
    return made


def test_saved_turns_pairs_and_comparisons_come_back(workspace: Workspace, place: FolderPlace) -> None:
    sync(workspace, place)
    made, visitors = chat(workspace), chat(workspace, owner="a visitor")
    save_turn(workspace, made, 0, 0)
    pairs = save_pair(workspace, made, 0, 0, 1)
    (pairs.parent / "half.jsonl.tmp").write_text("{")
    pair = pairs.read_bytes()
    sync(workspace, place)  # a look of the app: no run has finished
    fresh = restart(workspace)
    assert Comparisons(fresh).find(made.id) == made
    assert Comparisons(fresh).find(visitors.id) is None
    assert pairs.read_bytes() == pair
    assert sorted(path.name for path in pairs.parent.iterdir()) == ["conversations.jsonl", "preferences.jsonl"]
    assert [path.name for path in fresh.runs_dir.iterdir() if path.name.startswith(".keeping")] == []


def test_what_was_just_fetched_is_not_sent_back(workspace: Workspace, place: FolderPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    save_turn(workspace, chat(workspace), 0, 0)
    sync(workspace, place)
    fresh = restart(workspace)
    put: list[str] = []
    monkeypatch.setattr(FolderPlace, "put", _seeing(put, FolderPlace.put))
    sync(fresh, place, wait=True)
    assert put == []


def test_a_busy_time_makes_few_copies_and_the_end_makes_the_last_one(workspace: Workspace, place: FolderPlace,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    put: list[str] = []
    monkeypatch.setattr(FolderPlace, "put", _seeing(put, FolderPlace.put))
    now = time.time()
    for look in range(24):  # six minutes
        monkeypatch.setattr("core.keep.sync.time.time", lambda look=look: now + 15 * look)
        save_turn(workspace, chat(workspace), 0, 0)
        sync(workspace, place)
    assert put.count("_workspace") == 6
    assert put.count("_comparisons") == 2
    put.clear()
    stop = threading.Event()
    stop.set()
    keep.watch(workspace, stop, print)
    assert sorted(put) == ["_comparisons", "_workspace"]
    kept = {one.run: one for one in place.kept()}
    assert len(kept["_comparisons"].files) == 24


def test_what_changes_while_it_is_copied_leaves_a_whole_copy(workspace: Workspace, place: FolderPlace,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    made = chat(workspace)
    save_turn(workspace, made, 0, 0)

    def busy_put(self: FolderPlace, kept: Kept, folder: Path) -> None:
        save_turn(workspace, made, 0, 0)
        really(self, kept, folder)

    really = FolderPlace.put
    monkeypatch.setattr(FolderPlace, "put", busy_put)
    sync(workspace, place)
    assert {one.run for one in place.kept()} == {"_workspace", "_comparisons"}
    assert len((restart(workspace).runs_dir / "saved" / "conversations.jsonl").read_text().splitlines()) >= 1


def test_a_run_that_changes_while_it_is_copied_keeps_its_earlier_copy(workspace: Workspace, place: FolderPlace,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(workspace)
    sync(workspace, place)
    run.set_labels(name="newer")

    def edited_put(self: FolderPlace, kept: Kept, folder: Path) -> None:
        with (run.dir / "test_keys.txt").open("a") as file:
            file.write("c3\n")
        really(self, kept, folder)

    really = FolderPlace.put
    with monkeypatch.context() as patch:
        patch.setattr(FolderPlace, "put", edited_put)
        assert sync(workspace, place, wait=True).trouble == ""
    assert [one.run for one in place.kept()] == [run.id]
    assert json.loads((place.folder / run.id / "labels.json").read_text())["name"] == "mine"
    assert [path.name for path in place.folder.iterdir()] == [run.id]
    sync(workspace, place, wait=True)
    assert restart(workspace).run(run.id).name == "newer"
    assert (workspace.runs_dir / run.id / "test_keys.txt").read_text().endswith("c3\n")


def test_a_run_corrected_by_hand_is_copied_now_and_then(workspace: Workspace, place: FolderPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(workspace)
    put: list[str] = []
    monkeypatch.setattr(FolderPlace, "put", _seeing(put, FolderPlace.put))
    now = time.time()
    for look in range(24):  # six minutes
        monkeypatch.setattr("core.keep.sync.time.time", lambda look=look: now + 15 * look)
        run.set_labels(note="x" * look)
        sync(workspace, place)
    assert put == [run.id] * 3
    sync(workspace, place, wait=True)  # the app closes, or a worker ends
    assert put == [run.id] * 4
    assert restart(workspace).run(run.id).labels["note"] == "x" * 23


def test_a_line_taken_out_by_hand_stays_out(workspace: Workspace, place: FolderPlace) -> None:
    pairs = save_pair(workspace, chat(workspace), 0, 0, 1)
    (workspace.runs_dir / "spend.jsonl").write_text('{"t": 1}\n')
    sync(workspace, place)
    pairs.write_text("")  # while no app is open; then it opens over the same disk
    keep.bring_back(workspace, print)
    assert pairs.read_text() == ""


# ---- what cannot be resumed ----


def test_a_stopped_run_that_came_back_says_that_it_begins_again(workspace: Workspace, place: FolderPlace) -> None:
    run = make_run(workspace, state="stopped")
    write_json(run.dir / "checkpoint-10" / "trainer_state.json", {})
    assert "goes on from checkpoint-10" in resume_words(run)
    sync(workspace, place)
    back = restart(workspace).run(run.id)
    assert "Resume begins again: this run was restored from a copy" in run_card.actions(back, workspace)
    method = workspace.plugins.method("rsft")
    assert "Resume begins again: this run was restored from a copy" in runs_detail.actions_part(back, method, "", [])
    jobs._reset(back)
    assert any("begins again" in event["text"] for event in back.events("notice"))
    (back.dir / "checkpoint-5").mkdir()
    write_json(back.dir / "checkpoint-5" / "trainer_state.json", {})
    assert "goes on from checkpoint-5" in resume_words(back)


def test_checkpoints_of_two_agents_trained_in_one_run_are_not_copied(workspace: Workspace, place: FolderPlace) -> None:
    run = make_run(workspace, "waltz-sft-0001", state="stopped")
    shutil.rmtree(run.dir / "checkpoint-10")
    for name in ("sft-conversation/part.json", "sft-conversation/checkpoint-8/trainer_state.json", "adapter/checkpoint-1/own.json"):
        (run.dir / name).parent.mkdir(parents=True)
        write_json(run.dir / name, {})
    assert "goes on from checkpoint-8" in resume_words(run)
    sync(workspace, place)
    back = restart(workspace).run(run.id)
    assert not (back.dir / "sft-conversation" / "checkpoint-8").exists()
    assert (back.dir / "sft-conversation" / "part.json").exists()
    assert (back.dir / "adapter" / "checkpoint-1" / "own.json").exists()  # no checkpoint of the run
    assert "Resume begins again: this run was restored from a copy" in resume_words(back)
    write_json(run.dir / "sft-conversation" / "checkpoint-9" / "trainer_state.json", {})
    assert "goes on from checkpoint-9" in resume_words(back)


@pytest.mark.parametrize("stage, words", [("training", "there is no checkpoint yet"), ("evaluation", "goes on with what is written")])
def test_a_run_that_had_no_checkpoint_says_what_is_true_of_it(workspace: Workspace, place: FolderPlace, stage: str, words: str) -> None:
    run = make_run(workspace, state="stopped", stage=stage)
    assert words in resume_words(run)
    sync(workspace, place)
    assert words in resume_words(restart(workspace).run(run.id))


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
    made = chat(workspace)
    save_turn(workspace, made, 0, 0)
    assert on_the_hub(hub, workspace, tmp_path).returncode == 0
    assert "runs/rsft-0001/test_keys.txt" not in repo.files
    before = contents(run.dir)
    shutil.rmtree(workspace.runs_dir)
    done = on_the_hub(hub, workspace, tmp_path, START)
    assert "1 run restored" in done.stdout, done.stderr
    assert contents(workspace.runs_dir / run.id) == before
    assert Comparisons(Workspace(workspace.runs_dir)).find(made.id) == made
    assert (workspace.runs_dir / "saved" / "conversations.jsonl").stat().st_size
    assert len(repo.messages) == 4
    assert not any(TOKEN.encode() in data for data in repo.files.values())
    Ledger(workspace.runs_dir).forget(run.id, run.created)
    shutil.rmtree(run.dir)
    assert on_the_hub(hub, workspace, tmp_path).returncode == 0
    assert {name.split("/")[1] for name in repo.files} == {"_workspace", "_comparisons"}
    assert len(repo.messages) == 5  # and nothing that was fetched is sent back


CHANGED = """
from huggingface_hub import HfApi
upload = HfApi.preupload_lfs_files
def changed(self, *given, **options):
    with next(Workspace().runs_dir.glob("rsft-*/test_keys.txt")).open("a") as file: file.write("c3\\n")
    return upload(self, *given, **options)
HfApi.preupload_lfs_files = changed
"""


def test_a_run_that_changes_while_it_is_sent_keeps_its_earlier_copy(workspace: Workspace, hub: HubServer, tmp_path: Path) -> None:
    run = make_run(workspace)
    assert on_the_hub(hub, workspace, tmp_path).returncode == 0
    run.set_labels(name="newer")
    done = on_the_hub(hub, workspace, tmp_path, f"from core.runs import Workspace\n{CHANGED}\n{SYNC}")
    assert done.returncode == 0, done.stderr
    assert (run.dir / "test_keys.txt").read_text().endswith("c3\n")
    shutil.rmtree(workspace.runs_dir)
    done = on_the_hub(hub, workspace, tmp_path, START)
    assert "1 run restored" in done.stdout, done.stdout + done.stderr
    assert Workspace(workspace.runs_dir).run(run.id).name == "mine"


def test_run_folders_are_never_put_where_everybody_sees_them(workspace: Workspace, hub: HubServer, tmp_path: Path) -> None:
    make_run(workspace)
    hub.repos["dataset", f"{OWNER}/kept"] = Repo(private=False)
    done = on_the_hub(hub, workspace, tmp_path)
    assert done.returncode == 1
    assert "is public" in done.stderr
    assert not hub.dataset(f"{OWNER}/kept").files
