"""The child process that executes one run: `python -m core.worker RUN_ID`, or one rank of it under torchrun."""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from typing import IO, Any

from core import keep
from core.active import ActiveRun, StopRequested
from core.files import write_json
from core.jobs import STOP_GRACE, kill_tree, pump, remember_environment
from core.methods import UserError, validate
from core.priority import give_way
from core.runs import STATUS_LOCK, Workspace, add_event, this_process, update_status
from core.zero_gpu import computes_lent, run_in_slices

HEARTBEAT_EVERY = 2.0
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
RESERVE = 256 * 1024
"""Bytes that are kept free on the disk for the words at the end of a run."""
PATIENCE = 60.0
"""Seconds for which the last word is tried again on a disk that is full all the same."""
RANK_GRACE = 5.0
"""Seconds that ranks other than 0 wait before they report that they stopped or failed."""


def main(run_id: str) -> int:
    """Execute the run; the exit code is 0 succeeded, 1 failed, 2 bad input, 3 stopped."""
    remember_environment()
    rank = int(os.environ.get("RANK", "0"))
    if os.environ.get("GUARDWALTZ_DIE_WITH_PARENT") or "RANK" in os.environ:
        _die_with_parent()
    workspace = Workspace()
    run = ActiveRun(workspace, run_id, rank)
    if run.status.get("lane") == "compute":  # before any thread is started: they inherit it
        give_way()
    faulthandler.register(signal.SIGUSR1)  # `kill -USR1 PID` prints every thread's stack into log.txt
    _quiet_libraries()
    if rank == 0:
        update_status(run.dir, state="running", process=this_process(), started=time.time(), ended=None, message="")
        add_event(run.dir, "state", state="running")
        threading.Thread(target=_heartbeat, args=(run,), daemon=True).start()
    reserve = _reserve(workspace) if rank == 0 else None
    outcome = _execute(workspace, run)
    if reserve:
        os.ftruncate(reserve.fileno(), 0)  # not only closed: a forked process may hold it open
    if rank == 0:
        _attempt(lambda: add_event(run.dir, "state", **outcome))
        _attempt(lambda: _say_last_word(run, outcome))
        if not run.status.get("parent"):
            _attempt(lambda: pump(workspace))  # which takes this run's row out, unless it was queued anew meanwhile
        _attempt(lambda: keep.start(workspace))
    code = {"succeeded": 0, "stopped": 3}.get(outcome["state"], 2 if outcome.get("bad_input") else 1)
    if rank and code:  # torchrun ends every rank when one reports a failure: let rank 0 say first how the run ended
        time.sleep(RANK_GRACE)
    return code


def _reserve(workspace: Workspace) -> IO[bytes] | None:
    """Some room that is given back for the last word. The file has no name, so it goes with this process however that ends."""
    with contextlib.suppress(OSError):
        file = tempfile.TemporaryFile(dir=workspace.runs_dir)  # noqa: SIM115 - it stays open while the run works
        file.write(os.urandom(RESERVE))  # which no file system can make smaller
        file.flush()
        os.fsync(file.fileno())
        return file
    return None


def _attempt(step: Callable[[], object]) -> None:
    """What goes wrong at the end of a run must not keep the next step from being tried; the log tells of it where it has room."""
    try:
        step()
    except Exception:
        with contextlib.suppress(OSError):
            traceback.print_exc()


def _say_last_word(run: ActiveRun, outcome: dict[str, Any]) -> None:
    """From here on the run may be resumed or deleted. A full disk may have room again in a moment: others fail on it, too."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return update_status(run.dir, ended=time.time(), **outcome)
        except OSError as error:
            if error.errno not in NO_ROOM or time.monotonic() > deadline:
                raise
        time.sleep(1.0)


def _quiet_libraries() -> None:
    """Two lines that libraries write into every log and that no reader can do anything about."""
    import logging
    import warnings

    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # a faster optional kernel is not installed
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft reads transformers' old name


def _execute(workspace: Workspace, run: ActiveRun) -> dict[str, Any]:
    try:
        if run.rank == 0:  # the others end with it: one that ended before it would take its last word away
            run.stop_if_asked()
        method = workspace.plugins.method(run.method)
        config = validate(method, run.config)
        if run.rank == 0:
            write_json(run.dir / "env.json", environment(config.seed))
        run.log(f"{run.method} {run.id} starts")
        if run.rank == 0 and computes_lent(method, config):
            run_in_slices(run)
        else:
            method(workspace).run(config, run)
        run.log("succeeded")
        return {"state": "succeeded", "message": ""}
    except StopRequested:
        run.log("stopped on request")
        return {"state": "stopped", "message": "stopped on request"}
    except UserError as error:
        run.log(f"failed: {error}")
        return {"state": "failed", "message": str(error), "bad_input": True}
    except BaseException as error:
        with contextlib.suppress(OSError):  # the log may be what found no room
            traceback.print_exc()
        return {"state": "failed", "message": plain_failure(error)}


def plain_failure(error: BaseException) -> str:
    """One sentence for the failures that people meet, else the exception as it is."""
    text = str(error)
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return "The disk is full; free some space and press Resume."
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text.lower():
        return "Out of memory; use a smaller batch, shorter rows or a smaller model, and press Resume."
    return f"{type(error).__name__}: {text.strip().splitlines()[0] if text.strip() else 'no message'} (the log has the details)"


def environment(seed: int) -> dict[str, Any]:
    """Versions, commit and hardware, so that a number can be repeated."""
    import platform
    import subprocess
    from importlib.metadata import PackageNotFoundError, version

    import psutil

    versions = {}
    for package in ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes", "gradio", "pydantic"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    from core.runs import REPOSITORY

    def git(*words: str) -> str:
        try:
            return subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
        except OSError:  # a container has no git
            return ""

    commit = git("rev-parse", "HEAD") or os.environ.get("SPACE_COMMIT_SHA", "")
    dirty = bool(git("status", "--porcelain"))
    return {"python": platform.python_version(), "platform": platform.platform(), "host": platform.node(), "versions": versions,
            "commit": commit or None, "uncommitted_changes": dirty, "cpu": _cpu_name(), "cores": os.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total, "processes": int(os.environ.get("WORLD_SIZE", "1")), "seed": seed,
            "started": time.time()}


def _cpu_name() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return ""


def _heartbeat(run: ActiveRun) -> None:
    """Touch a file while alive; when Stop was asked for and the method does not end in time, kill the whole tree."""
    asked_at: float | None = None
    while True:
        with contextlib.suppress(OSError):
            (run.dir / "heartbeat").touch()
        if asked_at is None and run.should_stop():
            asked_at = time.monotonic()
        if asked_at is not None and time.monotonic() - asked_at > STOP_GRACE:
            with STATUS_LOCK:  # the method is still reporting progress: nothing may be written over the last word
                with contextlib.suppress(OSError):  # on a full disk it is killed without a word
                    update_status(run.dir, state="stopped", ended=time.time(),
                                  message=f"did not end within {STOP_GRACE:.0f} s of Stop; killed")
                kill_tree(os.getpid())
        time.sleep(HEARTBEAT_EVERY)


def _die_with_parent() -> None:
    """Linux: have the kernel kill this process when its parent dies, so that no orphan goes on training."""
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL("libc.so.6").prctl(1, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
