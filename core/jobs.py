"""Queue, start, stop and resume runs. Each run is a child process that outlives the app; nothing here waits in an event."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import keep
from core.access import Act
from core.files import read_json
from core.methods import Method, UserError, validate
from core.resuming import has_lost_checkpoints
from core.runs import FINISHED, REPOSITORY, Run, Workspace, add_event, derive_state, process_alive, update_status

if TYPE_CHECKING:
    from core.active import ActiveRun

LANE_SLOTS = {"compute": 1, "api": 4, "instant": 4}
STOP_GRACE = float(os.environ.get("GUARDWALTZ_STOP_GRACE", "120"))
"""Seconds a run may take to write its checkpoint after Stop, before its processes are killed."""

INHERITED = "GUARDWALTZ_INHERITED"
"""Names of the variables that a worker has from the app or the command, and not from whoever started it on the way."""

_spawned: list[tuple[subprocess.Popen[bytes], Path, float]] = []
"""Workers that this process started: each with its run's folder, and when."""
_inherited: dict[str, str] = {}
"""In a worker: the environment of the app or the command. Empty elsewhere."""


def submit(workspace: Workspace, method_name: str, values: dict[str, Any], *, name: str = "") -> Run:
    """Validate, make the folder, queue it, and start it if its lane is free. UserError for bad settings."""
    method = workspace.plugins.method(method_name)
    with workspace.access.starting(workspace, method_name, values) as marks:
        run = create(workspace, method, values, name=name, marks=marks)
    workspace.store.enqueue(run.id, method.lane)
    pump(workspace)
    return run


def create(workspace: Workspace, method: type[Method], values: dict[str, Any], **extra: Any) -> Run:
    """The folder of a new run, not queued."""
    config = validate(method, values)
    what = method(workspace).describe(config)
    extra["name"] = extra.get("name") or getattr(config, "name", "") or ""
    try:
        return workspace.create(method.name, config, lane=method.lane, stage=method.stage.value, what=what, **extra)
    except OSError as error:
        raise UserError(f"Cannot make a run folder in {workspace.runs_dir}: {error.strerror}. Free some space or set "
                        "GUARDWALTZ_RUNS.") from error


def pump(workspace: Workspace) -> None:
    """Start what may start. Called by the app each second, by the command line, and by each worker as it ends."""
    with workspace.store.locked() as db:
        _reap()
        for lane, slots in LANE_SLOTS.items():
            rows = db.execute("SELECT run_id, started FROM queue WHERE lane = ? ORDER BY position", (lane,)).fetchall()
            alive = 0
            for run_id, started in rows:
                if started and _is_over(workspace, run_id):
                    db.execute("DELETE FROM queue WHERE run_id = ?", (run_id,))
                else:
                    alive += started
            for run_id, started in rows:
                if not started and alive < slots:
                    folder = workspace.runs_dir / run_id
                    if read_json(folder / "status.json", {}).get("state") != "queued":
                        db.execute("DELETE FROM queue WHERE run_id = ?", (run_id,))  # deleted or stopped meanwhile
                        continue
                    db.execute("UPDATE queue SET started = 1 WHERE run_id = ?", (run_id,))
                    _launch(workspace, Run(folder))
                    alive += 1


def _reap() -> None:
    """Ended workers shall be no zombies, and none that had no word to say is still waited for."""
    for entry in list(_spawned):
        process, folder, launched = entry
        if (code := process.poll()) is None:
            continue
        with contextlib.suppress(ValueError):  # another thread took it off, for the queue of another folder
            _spawned.remove(entry)
        _fail_if_silent(folder, launched, code)


def _fail_if_silent(folder: Path, launched: float, code: int) -> None:
    """A run whose worker ended before its first word has failed, and nobody else will say so."""
    status = read_json(folder / "status.json", {})
    if status.get("state") == "running" and status.get("process") is None and status.get("launched") == launched:
        update_status(folder, state="failed", ended=time.time(),
                      message=f"The worker ended with code {code} before it began; the log has its last words.")


def _is_over(workspace: Workspace, run_id: str) -> bool:
    folder = workspace.runs_dir / run_id
    return derive_state(read_json(folder / "status.json", {}), folder) in FINISHED


def _launch(workspace: Workspace, run: Run) -> None:
    """Start the worker in a session of its own: closing the app, the terminal or the browser does not touch it."""
    launched = time.time()
    update_status(run.dir, state="running", launched=launched, process=None)
    _spawned.append((_popen(workspace, run, dies_with_us=False), run.dir, launched))


def remember_environment() -> None:
    """For a worker, before it changes anything. The runs that it starts get what the app or the command had: not what torchrun or
    this run's own start added, and not the variables that training sets for the libraries it uses."""
    names = os.environ.get(INHERITED)
    own = os.environ if names is None else names.split("=")
    _inherited.update({name: os.environ[name] for name in own if name in os.environ})


def _environment(workspace: Workspace, *, dies_with_us: bool) -> dict[str, str]:
    inherited = _inherited or dict(os.environ)
    added = {"GUARDWALTZ_RUNS": str(workspace.runs_dir), "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false",
             "OMP_WAIT_POLICY": inherited.get("OMP_WAIT_POLICY", "passive"),
             INHERITED: "=".join(inherited)}  # the one character that no name holds
    return {**inherited, **added} | ({"GUARDWALTZ_DIE_WITH_PARENT": "1"} if dies_with_us else {})


def _popen(workspace: Workspace, run: Run, *, dies_with_us: bool) -> subprocess.Popen[bytes]:
    """Start the worker of a run: in a session of its own, or as a child that a killed parent takes along."""
    processes = int(run.status.get("processes") or 1)
    environment = _environment(workspace, dies_with_us=dies_with_us)
    command = [sys.executable, "-m", "core.worker", run.id]
    if processes > 1:  # never `accelerate launch --cpu`: it silently runs one process
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", *command[1:]]
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    with (run.dir / "log.txt").open("ab") as log:  # a file, never a pipe: nobody has to be there to read it
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=REPOSITORY, env=environment,
                                start_new_session=not dies_with_us)


def stop(workspace: Workspace, run: Run, *, force: bool = False) -> None:
    """Ask a run to write a checkpoint and end; `force` kills its process tree now."""
    workspace.access.demand(Act.STOP)
    with workspace.store.locked() as db:  # nobody starts it between the look and the word
        state = run.state
        if state == "queued":
            update_status(run.dir, state="stopped", ended=time.time(), message="stopped before it started")
            db.execute("DELETE FROM queue WHERE run_id = ?", (run.id,))
            return
        if state != "running":
            raise UserError(f"{run.id} is {state}; only a queued or running run can be stopped.")
        (run.dir / "stop").touch()
    add_event(run.dir, "notice", level="info", text="Stop asked for; writing a checkpoint first.")
    if force:
        _kill(workspace, run)


def _kill(workspace: Workspace, run: Run) -> None:
    """A worker that has said nothing yet is left to find the stop file: it gives its first word before it looks for that file, so
    either it is known here or it ends by itself. Until then it keeps its place in the lane. So does one on another host."""
    process = run.status.get("process")
    if not process or not process_alive(process):
        return
    kill_tree(int(process["pid"]))
    with workspace.store.locked():
        last = run.status
        if last.get("state") == "running" and last.get("process") == process:  # else it had ended, and may be queued anew
            update_status(run.dir, state="stopped", ended=time.time(), message="killed on request")
    pump(workspace)


def kill_tree(pid: int) -> None:
    """SIGKILL a process and everything below it."""
    import psutil

    if not pid:
        return
    try:
        process = psutil.Process(pid)
        family = [*process.children(recursive=True), process]
    except psutil.Error:
        return
    for member in family:
        with contextlib.suppress(psutil.Error):  # it may end by itself meanwhile
            member.kill()


def resume(workspace: Workspace, run: Run) -> Run:
    """Go on where a stopped, failed or lost run was: same folder, schedule, optimizer and random state."""
    workspace.access.demand(Act.RESUME)
    method = workspace.plugins.method(run.method)
    with workspace.store.locked() as db:  # of two who press Resume, one finds it queued
        state = run.state
        if state not in ("stopped", "failed", "lost"):
            raise UserError(f"{run.id} is {state}; only a stopped, failed or lost run can be resumed.")
        if not method.resumable:
            raise UserError(f"{method.name} cannot resume; run it again instead.")
        if run.status.get("parent"):
            raise UserError(f"{run.id} is a step of {run.status['parent']}; resume that one, it goes on with this step.")
        _reset(run)
        db.execute("INSERT OR REPLACE INTO queue VALUES (?, ?, ?, 0)", (run.id, method.lane, time.time()))
    pump(workspace)
    return run


def _reset(run: Run) -> None:
    (run.dir / "stop").unlink(missing_ok=True)
    checkpoint = next(reversed(run.checkpoints()), None)
    add_event(run.dir, "state", state="resumed", checkpoint=checkpoint.name if checkpoint else None)
    if has_lost_checkpoints(run):
        add_event(run.dir, "notice", level="warning", text="It begins again: it was restored from a copy, and copies have no checkpoints.")
    update_status(run.dir, state="queued", message="", ended=None, process=None)


def continue_run(workspace: Workspace, run: Run, changes: dict[str, Any]) -> Run:
    """A new run with a new schedule that starts from the result of `run`."""
    workspace.access.demand(Act.CONTINUE)
    if run.state != "succeeded":
        raise UserError(f"{run.id} is {run.state}; only a finished run can be continued (an unfinished one is resumed).")
    method = workspace.plugins.method(run.method)
    values = method(workspace).continued(validate(method, run.config), run.id)
    return submit(workspace, run.method, {**values, **changes})


def delete(workspace: Workspace, run: Run) -> None:
    """Remove a run's folder, and its rows from the split guard."""
    workspace.access.demand(Act.DELETE)
    created = run.created
    run.delete()
    workspace.store.dequeue(run.id)
    workspace.store.forget_test_keys(run.id)
    keep.forget(workspace, run.id, created)


def run_child(parent: ActiveRun, method_name: str, settings: dict[str, Any], *, key: str, name: str) -> Run:
    """See ActiveRun.child. The child never waits in the queue for the lane its parent holds."""
    method = parent.plugins.method(method_name)
    wanted = validate(method, settings).model_dump(mode="json")
    child = next((run for run in reversed(parent.children()) if run.status.get("key") == key and run.config == wanted), None)
    if child is not None and child.state == "succeeded":
        return child
    if child is None:
        child = create(parent.workspace, method, settings, parent=parent.id, key=key, name=name)
    else:
        _reset(child)
    launched = time.time()
    update_status(child.dir, state="running", launched=launched, process=None)
    process = _popen(parent.workspace, child, dies_with_us=True)
    while (code := process.poll()) is None:
        if parent.should_stop():
            (child.dir / "stop").touch()
        time.sleep(0.2)
    _fail_if_silent(child.dir, launched, code)
    return child
