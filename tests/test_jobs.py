"""Runs as child processes: the queue, Stop, resume, kill -9 of the worker and of the app, children."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import psutil
import pytest

from core import jobs, worker
from core.active import ActiveRun
from core.files import read_json
from core.jobs import continue_run, create, delete, pump, resume, stop, submit
from core.methods import UserError
from core.runs import FINISHED, REPOSITORY, Run, Workspace, derive_state, process_alive, update_status
from core.store import reindex
from tests.helpers import FAKE_PLUGINS, finish, wait_for


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("GUARDWALTZ_PLUGINS", str(FAKE_PLUGINS))
    workspace = Workspace(tmp_path / "runs")
    yield workspace
    for run in workspace.runs():
        if run.state == "running":
            stop(workspace, run, force=True)


def pid_of(run) -> int:
    wait_for(lambda: run.status.get("process"), "the worker's first word")
    return run.status["process"]["pid"]


def test_a_run_leaves_its_whole_folder(workspace):
    run = submit(workspace, "count", {"to": 3})
    assert finish(workspace, run) == "succeeded"
    names = {path.name for path in run.dir.iterdir()}
    assert {"config.yaml", "command.sh", "env.json", "status.json", "events.jsonl", "log.txt", "report.json"} <= names
    assert run.document == {"method": "count", "config": {"to": 3, "pause": 0.02, "fail_at": None, "mode": "plain", "seed": 42}}
    assert "python app.py run count to=3" in (run.dir / "command.sh").read_text()
    assert [event["step"] for event in run.events("metrics")] == [1, 2, 3]
    assert run.status["progress"]["done"] == 3
    assert read_json(run.dir / "env.json")["seed"] == 42


def test_one_compute_lane_in_order(workspace):
    runs = [submit(workspace, "count", {"to": 3}) for _ in range(3)]
    assert [run.state for run in runs[1:]] == ["queued", "queued"]
    for run in runs:
        assert finish(workspace, run) == "succeeded"
    started = [run.status["started"] for run in runs]
    ended = [run.status["ended"] for run in runs]
    assert started[1] >= ended[0]
    assert started[2] >= ended[1]


def test_stop_writes_a_checkpoint_and_resume_goes_on_from_it(workspace):
    run = submit(workspace, "count", {"to": 60, "pause": 0.05})
    wait_for(lambda: len(run.checkpoints()) > 2, "a few checkpoints")
    stop(workspace, run)
    assert finish(workspace, run) == "stopped"
    reached = len(run.checkpoints())
    assert reached < 60
    resume(workspace, run)
    assert finish(workspace, run) == "succeeded"
    steps = [event["step"] for event in run.events("metrics")]
    assert steps == list(range(1, 61)), "no step is lost or done twice"


def test_a_queued_run_is_stopped_before_it_starts(workspace):
    first, second = submit(workspace, "count", {"to": 40}), submit(workspace, "count", {"to": 1})
    stop(workspace, second)
    assert second.state == "stopped"
    stop(workspace, first, force=True)
    assert finish(workspace, first) == "stopped"
    pump(workspace)
    assert not (second.dir / "env.json").exists()


@pytest.fixture
def launched(monkeypatch):
    """Ids of the runs that were started, in order. Their workers never come to their first word."""
    ids = []

    def launch(_, run):
        ids.append(run.id)
        update_status(run.dir, state="running", launched=time.time(), process=None)

    monkeypatch.setattr("core.jobs._launch", launch)
    return ids


def meanwhile(act) -> None:
    """Another thread does `act`, which ends here and now unless it has to wait for this one."""
    thread = Thread(target=act, daemon=True)
    thread.start()
    thread.join(1)


def test_stop_now_before_the_first_word_is_left_to_the_worker(workspace, launched):
    first, second = submit(workspace, "count", {"to": 1000}), submit(workspace, "count", {"to": 1})
    stop(workspace, first, force=True)
    pump(workspace)
    assert (first.state, launched) == ("running", [first.id]), "the lane was given away to a second run"
    environment = {**os.environ, "GUARDWALTZ_RUNS": str(workspace.runs_dir)}
    worker = subprocess.run([sys.executable, "-m", "core.worker", first.id], cwd=REPOSITORY, env=environment, timeout=240)
    assert (worker.returncode, first.state, first.checkpoints()) == (3, "stopped", [])
    wait_for(lambda: second.state in FINISHED, "the next run, which the worker started")


def test_a_run_that_ended_while_it_was_killed_keeps_its_last_word(workspace, monkeypatch):
    run = submit(workspace, "count", {"to": 1000})
    pid_of(run)
    kill = jobs.kill_tree

    def late(pid):
        kill(pid)
        update_status(run.dir, state="succeeded")

    monkeypatch.setattr("core.jobs.kill_tree", late)
    stop(workspace, run, force=True)
    assert run.state == "succeeded"


def test_a_run_is_either_stopped_in_the_queue_or_started(workspace, launched):
    class SeenQueued(Run):
        @property
        def state(self):
            state = super().state
            meanwhile(lambda: pump(workspace))
            return state

    run = create(workspace, workspace.plugins.method("count"), {"to": 1})
    workspace.store.enqueue(run.id, "compute")
    stop(workspace, SeenQueued(run.dir))
    wait_for(lambda: not workspace.store.queued("compute"), "the queue to be empty")
    assert (run.state, launched) == ("stopped", [])


def test_two_who_press_resume_start_one_worker(workspace, launched, monkeypatch):
    run = create(workspace, workspace.plugins.method("count"), {"to": 1})
    update_status(run.dir, state="stopped")
    refused = []

    def second():
        try:
            resume(workspace, run)
        except UserError as error:
            refused.append(str(error))

    def reset(run):
        monkeypatch.setattr("core.jobs._reset", reset_alone)
        meanwhile(second)
        reset_alone(run)

    reset_alone = jobs._reset
    monkeypatch.setattr("core.jobs._reset", reset)
    resume(workspace, run)
    wait_for(lambda: refused or len(launched) > 1, "the second one's answer")
    assert launched == [run.id]
    assert "only a stopped, failed or lost run can be resumed" in refused[0]


@pytest.mark.parametrize("settings", [{"processes": 2}, {"child": True}])
def test_the_next_run_has_the_environment_of_the_app_not_of_the_worker_that_ended(workspace, monkeypatch, settings):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("A_KEY_ADDED_LATER", "typed in a page")
    first = submit(workspace, "look-around", settings)
    second = submit(workspace, "look-around", {})
    assert second.state == "queued", "it is the ending worker that starts it, since nothing pumps here"
    wait_for(lambda: second.state in FINISHED, "the second run, with nobody pumping")
    assert (first.state, second.state) == ("succeeded", "succeeded")
    seen = read_json(second.dir / "seen.json")
    wanted = {**os.environ, "GUARDWALTZ_RUNS": str(workspace.runs_dir), "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false",
              "OMP_WAIT_POLICY": "passive"}
    unlike = {name for name in seen | wanted if seen.get(name) != wanted.get(name)}
    assert unlike <= {"GUARDWALTZ_INHERITED", "LC_CTYPE"}, "Python itself may set the latter as it starts"
    if run_of_child := first.children():
        child = read_json(run_of_child[0].dir / "seen.json")
        assert (child["CUDA_VISIBLE_DEVICES"], child["GUARDWALTZ_DIE_WITH_PARENT"]) == ("0,1", "1")


@pytest.mark.kill
def test_kill_9_of_the_worker_shows_lost_and_resumes(workspace):
    run = submit(workspace, "count", {"to": 60, "pause": 0.05})
    wait_for(lambda: len(run.checkpoints()) > 2, "a few checkpoints")
    os.kill(pid_of(run), signal.SIGKILL)
    wait_for(lambda: run.state == "lost", "the loss to show")
    resume(workspace, run)
    assert finish(workspace, run) == "succeeded"
    assert {event["step"] for event in run.events("metrics")} == set(range(1, 61))


@pytest.mark.kill
def test_kill_9_of_the_app_leaves_the_run_alone_and_the_queue_moves_on(workspace):
    """The app is any process that submits: here a bare Python that is killed right after."""
    code = ("from core.runs import Workspace; from core.jobs import submit; import time; w = Workspace();"
            "a = submit(w, 'count', {'to': 30, 'pause': 0.05}); b = submit(w, 'count', {'to': 2});"
            "print(a.id, b.id, flush=True); time.sleep(60)")
    environment = {**os.environ, "GUARDWALTZ_RUNS": str(workspace.runs_dir)}
    app = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True)
    first, second = (workspace.run(word) for word in app.stdout.readline().split())
    pid_of(first)
    app.kill()
    app.wait()
    wait_for(lambda: first.state == "succeeded" and second.state == "succeeded", "both runs, with nobody pumping")


def test_a_deaf_run_is_killed_after_the_grace(workspace, monkeypatch):
    monkeypatch.setenv("GUARDWALTZ_STOP_GRACE", "0.5")
    run = submit(workspace, "count", {"to": 1000, "pause": 0.1, "mode": "deaf"})
    pid = pid_of(run)
    stop(workspace, run)
    assert finish(workspace, run) == "stopped"
    wait_for(lambda: pump(workspace) or not psutil.pid_exists(pid), "the process to be gone")


def test_threads_of_a_worker_share_the_status_without_losing_a_word(workspace):
    run = ActiveRun(workspace, create(workspace, workspace.plugins.method("count"), {"to": 1}).id)
    with ThreadPoolExecutor(8) as threads:
        for number in range(40):
            threads.submit(run.spend, 0.25, "a call")
            threads.submit(run.stats, **{f"number {number}": "told"})
    assert run.status["usd"] == 10
    assert len(run.status["stats"]) == 40


def test_a_run_that_ends_while_it_is_looked_at_is_not_lost(workspace):
    run = submit(workspace, "count", {"to": 1})
    assert finish(workspace, run) == "succeeded"
    update_status(run.dir, state="running")
    wait_for(lambda: pump(workspace) or run.state == "lost", "the process to be gone")
    before = run.status
    update_status(run.dir, state="succeeded")
    assert derive_state(before, run.dir) == "succeeded"


def test_failures_say_what_happened_in_one_sentence(workspace):
    cases = [({"fail_at": 1}, "RuntimeError: asked to fail"), ({"mode": "bad-input"}, "mode = bad-input is not"),
             ({"mode": "no-space"}, "disk is full")]
    for settings, words in cases:
        run = submit(workspace, "count", settings)
        assert finish(workspace, run) == "failed"
        assert words in run.status["message"]


ON_A_SMALL_DISK = ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs -o size=2m none "$0" && exec "$@"']
FULL_DISK = """
from core.jobs import create
from core.runs import Workspace
import subprocess, sys
workspace = Workspace()
run = create(workspace, workspace.plugins.method("count"), {"mode": "fill-disk"})
code = subprocess.run([sys.executable, "-m", "core.worker", run.id]).returncode
print(code, run.state, run.status["message"], [event["state"] for event in run.events("state")], sep="|")
"""


def test_a_full_disk_has_room_for_the_last_word(workspace):
    """A real one, in a name space of its own; the file that filled it stays."""
    if shutil.which("unshare") is None or subprocess.run([*ON_A_SMALL_DISK, str(workspace.runs_dir), "true"]).returncode:
        pytest.skip("no file system can be mounted here")
    environment = {**os.environ, "GUARDWALTZ_RUNS": str(workspace.runs_dir)}
    done = subprocess.run([*ON_A_SMALL_DISK, str(workspace.runs_dir), sys.executable, "-c", FULL_DISK], cwd=REPOSITORY, env=environment,
                          capture_output=True, text=True, timeout=240)
    words = done.stdout.strip().splitlines()[-1]
    assert words == "1|failed|The disk is full; free some space and press Resume.|['running', 'failed']", done.stderr


def test_the_last_word_waits_for_room_and_what_fails_does_not_end_the_rest(tmp_path, monkeypatch):
    monkeypatch.setenv("GUARDWALTZ_PLUGINS", str(FAKE_PLUGINS))
    workspace = Workspace(tmp_path)  # not the fixture's: that kills the process of a run that still runs, here this one
    run = ActiveRun(workspace, create(workspace, workspace.plugins.method("count"), {"to": 1}).id)
    tried = []

    def full(name, times):
        real = getattr(worker, name, None)

        def call(*given, **named):
            tried.append(name)
            if tried.count(name) <= times:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*given, **named)

        return call

    def fill_disk(*_):
        for name in ("add_event", "pump"):
            monkeypatch.setattr(worker, name, full(name, times=9))
        monkeypatch.setattr(worker, "update_status", full("update_status", times=1))
        monkeypatch.setattr(worker.keep, "start", full("keep", times=9))
        return {"state": "succeeded", "message": ""}

    monkeypatch.setattr(worker, "Workspace", lambda: workspace)
    monkeypatch.setattr(worker, "_execute", fill_disk)
    for name in ("remember_environment", "give_way", "_quiet_libraries", "_heartbeat"):
        monkeypatch.setattr(worker, name, lambda *_: None)
    assert worker.main(run.id) == 0
    assert tried == ["add_event", "update_status", "update_status", "pump", "keep"]
    assert run.status["state"] == "succeeded"


def test_a_worker_that_ends_before_its_first_word_has_failed(workspace, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    run = submit(workspace, "count", {"to": 1})
    assert finish(workspace, run) == "failed"
    assert "ended with code 1 before it began" in run.status["message"]


def test_children_run_in_the_parents_slot_and_are_taken_up_again(workspace):
    run = submit(workspace, "family", {"children": 2, "to": 40, "pause": 0.05})
    other = submit(workspace, "count", {"to": 1})
    assert other.state == "queued", "the parent holds the lane"
    wait_for(lambda: run.children() and len(run.children()[0].checkpoints()) > 2, "the first child")
    child_pid = pid_of(run.children()[0])
    os.kill(pid_of(run), signal.SIGKILL)
    wait_for(lambda: run.state == "lost", "the loss to show")
    wait_for(lambda: run.children()[0].state == "lost", f"child {child_pid} to die with its parent")
    assert finish(workspace, other) == "succeeded"
    resume(workspace, run)
    assert finish(workspace, run) == "succeeded"
    assert [child.state for child in run.children()] == ["succeeded", "succeeded"]
    assert [child.status["key"] for child in run.children()] == ["child-0", "child-1"], "no child is made twice"


def test_a_child_that_ends_before_its_first_word_has_failed(workspace, monkeypatch):
    parent = ActiveRun(workspace, create(workspace, workspace.plugins.method("family"), {}).id)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UserError, match=r"Step one \(count-0001\) failed: The worker ended with code 1 before it began"):
        parent.child("count", {"to": 1}, key="one")


def test_stopping_a_parent_stops_its_child(workspace):
    run = submit(workspace, "family", {"children": 1, "to": 1000, "pause": 0.05})
    wait_for(lambda: run.children() and run.children()[0].checkpoints(), "the child")
    stop(workspace, run)
    assert finish(workspace, run) == "stopped"
    assert run.children()[0].state == "stopped"


def test_wrong_words_are_refused(workspace):
    with pytest.raises(UserError, match="did you mean count"):
        submit(workspace, "cuont", {})
    with pytest.raises(UserError, match="did you mean pause"):
        submit(workspace, "count", {"pauze": 1})
    run = submit(workspace, "count", {"to": 0})
    assert finish(workspace, run) == "succeeded"
    with pytest.raises(UserError, match="succeeded"):
        resume(workspace, run)
    with pytest.raises(UserError, match="cannot be continued"):
        continue_run(workspace, run, {})


def test_delete_and_reindex(workspace):
    run = submit(workspace, "count", {"to": 0})
    finish(workspace, run)
    wait_for(lambda: pump(workspace) or not process_alive(run.status["process"]), "its process to be gone")
    waiting = create(workspace, workspace.plugins.method("count"), {"to": 1})
    (workspace.runs_dir / "guardwaltz.sqlite").unlink()
    fresh = Workspace(workspace.runs_dir)
    assert reindex(fresh)["queued"] == 1
    pump(fresh)
    assert finish(fresh, fresh.run(waiting.id)) == "succeeded"
    delete(fresh, fresh.run(run.id))
    assert [left.id for left in fresh.runs()] == [waiting.id]


def test_two_pumps_start_a_run_once(workspace):
    """Many processes may pump at the same time; the store's lock lets one of them start a run."""
    run = create(workspace, workspace.plugins.method("count"), {"to": 3})
    workspace.store.enqueue(run.id, "compute")
    code = "from core.runs import Workspace; from core.jobs import pump; pump(Workspace())"
    environment = {**os.environ, "GUARDWALTZ_RUNS": str(workspace.runs_dir)}
    pumps = [subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, env=environment) for _ in range(4)]
    for process in pumps:
        assert process.wait() == 0
    assert finish(workspace, run) == "succeeded"
    assert [event["state"] for event in run.events("state")] == ["running", "succeeded"]
