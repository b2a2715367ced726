"""The finished study that comes with the app: whole, small, free of this machine, and in nobody's way."""

import pytest

from core import shipped
from core.runs import Run, Workspace
from core.shipped import STUDY, named_paths, pack, place

LARGEST = 2_000_000
"""Bytes of the study in the repository."""


@pytest.fixture
def workspace(workspace_dir, monkeypatch):
    monkeypatch.delenv(shipped.OFF, raising=False)
    return Workspace(workspace_dir)


def test_an_empty_workspace_gets_a_study_whose_every_run_can_be_read(workspace):
    placed = place(workspace)
    runs = {run.id: run for run in workspace.runs()}
    assert set(placed) == set(runs)
    assert {run.state for run in runs.values()} == {"succeeded"}
    assert {run.method for run in runs.values()} == {"recipe", "import-data", "rsft", "guard-eval"}
    assert all("shipped" in run.labels["tags"] for run in runs.values())
    assert all(run.report for run in runs.values())
    evaluation = next(run for run in runs.values() if run.method == "guard-eval")
    assert (evaluation.dir / "predictions.jsonl").stat().st_size
    assert workspace.store.test_hits([next(iter((run.dir / "test_keys.txt").read_text().split()))
                                      for run in runs.values() if run.method == "import-data"]), "its test set is guarded like any other"


def test_it_comes_once_and_into_no_workspace_that_has_runs(workspace, tmp_path):
    from core.jobs import delete

    place(workspace)
    assert place(workspace) == []
    for run in workspace.runs():
        delete(workspace, run)
    assert place(workspace) == [], "who deleted it does not want it back"
    other = Workspace(tmp_path / "other")
    (other.runs_dir / "mine-0001").mkdir()
    (other.runs_dir / "mine-0001" / "status.json").write_text('{"state": "succeeded"}')
    assert place(other) == []


def test_it_can_be_switched_off(workspace, monkeypatch):
    monkeypatch.setenv(shipped.OFF, "off")
    assert place(workspace) == []


def test_it_is_small_has_no_weights_and_names_no_machine():
    files = [path for path in STUDY.rglob("*") if path.is_file()]
    assert files
    assert sum(path.stat().st_size for path in files) < LARGEST
    assert not [path for path in files if path.suffix in (".safetensors", ".pt", ".bin")]
    assert named_paths(STUDY, ("/home/", "/tmp/", "/root/", '"host"', '"pid"')) == []


def test_packing_leaves_weights_and_the_machine_behind(workspace, tmp_path):
    place(workspace)
    trained = next(run for run in workspace.runs() if run.method == "rsft")
    (trained.dir / "adapter").mkdir()
    (trained.dir / "adapter" / "adapter_model.safetensors").write_bytes(b"0")
    study = next(run for run in workspace.runs() if run.method == "recipe")
    found = pack(study, workspace, tmp_path / "study")
    assert set(found) == {run.id for run in workspace.runs()}
    copy = Run(tmp_path / "study" / trained.id)
    assert not (copy.dir / "adapter").exists()
    assert "process" not in copy.status
    assert copy.state == "succeeded"
