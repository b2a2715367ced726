"""Pages stay quick while a training runs: its worker gives way, and nothing else does."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from core.jobs import stop, submit
from core.priority import NICE
from core.runs import REPOSITORY, Workspace
from core.serving import Question, Serving
from tests.helpers import FAKE_PLUGINS, wait_for

OURS = os.getpriority(os.PRIO_PROCESS, 0) if hasattr(os, "getpriority") else 0
pytestmark = pytest.mark.skipif(not hasattr(os, "setpriority"), reason="this system has no niceness")


def group_of(pid):
    """Niceness of the session of a process: 0 unless somebody changed it; None without autogroups, or in the session of the kernel."""
    try:
        return int(Path(f"/proc/{pid}/autogroup").read_text().split()[-1])
    except (OSError, IndexError):
        return None


@pytest.fixture
def workspace(workspace_dir, monkeypatch):
    monkeypatch.setenv("GUARDWALTZ_PLUGINS", str(FAKE_PLUGINS))
    return Workspace(workspace_dir)


@pytest.mark.parametrize("method", ["count", "family"])
def test_a_training_gives_way_and_so_do_its_children(workspace, method):
    run = submit(workspace, method, {"to": 600, "pause": 0.05})
    try:
        worked = run if method == "count" else wait_for(run.children, "the first child") or run.children()[0]
        wait_for(lambda: worked.status.get("process"), "the worker's first word")
        pid = worked.status["process"]["pid"]
        assert psutil.Process(pid).nice() == max(NICE, OURS)
        assert group_of(pid) in (None, NICE)
    finally:
        stop(workspace, run, force=True)


def test_a_short_run_and_the_model_worker_of_the_chat_do_not(workspace):
    run = submit(workspace, "short-count", {"to": 6000, "pause": 0.05})
    serving = Serving(workspace)
    try:
        wait_for(lambda: run.status.get("process"), "the worker's first word")
        list(serving.ask(Question("run:nope", [{"role": "user", "content": "Hello"}])))
        for pid in (run.status["process"]["pid"], serving.pid):
            assert psutil.Process(pid).nice() == OURS
            assert group_of(pid) in (None, 0)
    finally:
        serving.close()
        stop(workspace, run, force=True)


@pytest.mark.parametrize("leads", [True, False])
def test_only_a_session_of_its_own_is_regrouped(leads):
    """A worker that somebody starts by hand must not slow down the terminal it was started from."""
    code = ("import os; from core.priority import give_way; from tests.test_priority import group_of; give_way(); give_way();"
            "print(os.getpriority(os.PRIO_PROCESS, 0), group_of(os.getpid()))")
    said = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True, start_new_session=leads)
    nice, group = said.stdout.split()
    assert int(nice) == max(NICE, OURS), "set, not added: twice is once"
    assert group in ("None", str(NICE)) if leads else group == str(group_of(os.getpid()))
