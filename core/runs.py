"""A run is one method applied to one config, in one folder. Everything that looks at runs reads these folders.

    runs/<id>/config.yaml     method and settings (validated; secrets only as ${NAME})
              command.sh      repeats it          env.json   versions, commit, hardware
              status.json     the worker's words  labels.json  the user's words (name, tags, note, archived)
              events.jsonl    progress, metrics, notices; append-only
              log.txt         everything the worker printed
              and what it made: *.jsonl, adapter/, model/, checkpoint-N/, report.json, README.md
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from core.access import OWNER, Access
from core.files import append_json_line, read_json, size_of, write_json, write_text
from core.methods import Config, UserError
from core.records import read_jsonl

if TYPE_CHECKING:
    from core.plugins import Plugins
    from core.store import Store

State = Literal["queued", "running", "succeeded", "failed", "stopped", "lost"]
FINISHED: frozenset[str] = frozenset({"succeeded", "failed", "stopped", "lost"})
REPOSITORY = Path(__file__).resolve().parent.parent

LAUNCH_GRACE = 120.0
"""Seconds between the start of a worker process and its first word, before the run counts as lost."""
HEARTBEAT_LIMIT = 90.0
"""Seconds without a heartbeat after which a run of another host counts as lost."""
STATUS_LOCK = threading.RLock()
"""Held by whoever reads status.json in order to write it: the threads of one worker share the file."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Safe either way; the one in C reads a config ten times as fast, and a page that follows a run reads it every two seconds."""


class Workspace:
    """The runs folder and what belongs to it. `$GUARDWALTZ_RUNS` or `runs/` beside app.py."""

    def __init__(self, runs_dir: Path | str | None = None, access: Access = OWNER) -> None:
        self.access = access
        self.runs_dir = Path(runs_dir or os.environ.get("GUARDWALTZ_RUNS") or REPOSITORY / "runs").expanduser().resolve()
        self.runs_dir.mkdir(parents=True, exist_ok=True)

    @cached_property
    def store(self) -> Store:
        """The SQLite index of this folder."""
        from core.store import Store

        return Store(self.runs_dir / "guardwaltz.sqlite")

    @cached_property
    def plugins(self) -> Plugins:
        """All plugins, loaded once for this workspace."""
        from core.plugins import load_plugins

        return load_plugins()

    def run(self, run_id: str) -> Run:
        """The run called `run_id` (an id, not a name)."""
        run_id = run_id.removeprefix("run:")
        folder = self.runs_dir / run_id
        known = re.fullmatch(r"[\w-]+", run_id) and (folder / "status.json").exists()
        if not known or not self.access.sees(Run(folder)):  # one sentence for both: it must not tell what is hidden
            raise UserError(f"There is no run {run_id!r} in {self.runs_dir}; `python app.py runs` lists them.")
        return Run(folder)

    def runs(self) -> list[Run]:
        """All runs that whoever asks may see, newest first."""
        return [run for run in self.every_run() if self.access.sees(run)]

    def every_run(self) -> list[Run]:
        """All runs, whoever asks, newest first: for limits and housekeeping, never for a page."""
        folders = [path.parent for path in self.runs_dir.glob("*/status.json")]
        return sorted((Run(folder) for folder in folders), key=lambda run: run.created, reverse=True)

    def create(self, method: str, config: Config, *, name: str = "", parent: str = "", key: str = "", lane: str = "compute",
               stage: str = "", what: str = "", marks: Mapping[str, str] | None = None) -> Run:
        """Make the folder of a new run, in state queued. Nothing is started; core/jobs.py does that. marks: more for status.json."""
        folder = self._new_folder(method)
        settings = config.model_dump(mode="json")
        write_text(folder / "config.yaml", config_yaml(method, settings))
        write_text(folder / "command.sh", "#!/bin/sh\n" + command_line(method, changed_settings(config)) + "\n")
        write_json(folder / "labels.json", {"name": name, "tags": [], "note": "", "archived": False})
        write_json(folder / "status.json", {
            "state": "queued", "method": method, "stage": stage, "lane": lane, "what": what, "parent": parent, "key": key,
            "created": time.time(), "message": "", "processes": settings.get("processes", 1), **(marks or {})})
        return Run(folder)

    def _new_folder(self, method: str) -> Path:
        short = {"import-data": "data", "guard-eval": "eval", "mine-hard-samples": "mine", "build-pairs": "pairs"}.get(method, method)
        taken = [int(match[1]) for path in self.runs_dir.glob(f"{short}-*") if (match := re.fullmatch(rf"{short}-(\d+)", path.name))]
        number = max(taken, default=0) + 1
        while True:
            folder = self.runs_dir / f"{short}-{number:04d}"
            try:
                folder.mkdir()
                return folder
            except FileExistsError:  # another process took the number
                number += 1


class Run:
    """Reads one run folder. Cheap to make; every property looks at the disk again."""

    def __init__(self, folder: Path) -> None:
        self.dir = folder
        self.id = folder.name

    def __repr__(self) -> str:
        return f"Run({self.id})"

    @property
    def status(self) -> dict[str, Any]:
        """status.json as written; `state` below is what is true."""
        status: dict[str, Any] = read_json(self.dir / "status.json", {})
        return status

    @property
    def state(self) -> State:
        """Derived from the process, never from the last word written: a worker that died is `lost`."""
        return derive_state(self.status, self.dir)

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.status.get("method", ""))

    @property
    def created(self) -> float:
        """Unix time of creation."""
        return float(self.status.get("created", 0.0))

    @property
    def config(self) -> dict[str, Any]:
        """The settings as stored."""
        return dict(self.document.get("config") or {})

    @property
    def document(self) -> dict[str, Any]:
        """config.yaml whole: {method, config}."""
        return yaml.load((self.dir / "config.yaml").read_text(encoding="utf-8"), Loader=_LOADER) or {}

    @property
    def labels(self) -> dict[str, Any]:
        """The user's words: name, tags, note, archived."""
        return {"name": "", "tags": [], "note": "", "archived": False, **read_json(self.dir / "labels.json", {})}

    @property
    def name(self) -> str:
        """The user's name for it, else its id."""
        return self.labels["name"] or self.id

    @property
    def report(self) -> dict[str, Any] | None:
        """report.json, None before it is written."""
        report: dict[str, Any] | None = read_json(self.dir / "report.json")
        return report

    def set_labels(self, **changes: Any) -> None:
        """Change name, tags, note or archived."""
        write_json(self.dir / "labels.json", {**self.labels, **changes})

    def events(self, kind: str | None = None) -> Iterator[dict[str, Any]]:
        """Lines of events.jsonl; `kind`: progress, metrics, notice, checkpoint, state, spend."""
        for event in read_jsonl(self.dir / "events.jsonl"):
            if kind is None or event.get("kind") == kind:
                yield event

    def log_tail(self, lines: int = 12, limit: int = 16_384) -> list[str]:
        """Last lines of log.txt; progress bars that redraw with carriage returns count once."""
        path = self.dir / "log.txt"
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - limit))
            text = file.read().decode("utf-8", "replace")
        return [line.rsplit("\r", 1)[-1] for line in text.split("\n") if line.strip()][-lines:]

    def checkpoints(self) -> list[Path]:
        """Whole checkpoint folders (trainer_state.json or checkpoint.json is written last), oldest first."""
        found = [path for path in self.dir.glob("checkpoint-*")
                 if (path / "trainer_state.json").exists() or (path / "checkpoint.json").exists()]
        return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))

    def children(self) -> list[Run]:
        """Runs that this one made with run.child, oldest first."""
        runs = [Run(path.parent) for path in self.dir.parent.glob("*/status.json")]
        return sorted((run for run in runs if run.status.get("parent") == self.id), key=lambda run: run.created)

    def disk_bytes(self) -> int:
        """Disk use of the folder."""
        return size_of(self.dir)

    def delete(self) -> None:
        """Remove the folder for good. A running run is refused."""
        if self.state in ("running", "queued"):
            raise UserError(f"{self.id} is {self.state}; stop it first, then delete it.")
        trash = self.dir.with_name(f".deleted-{self.id}-{os.getpid()}")
        self.dir.rename(trash)  # gone from every list at once, however long the removal takes
        shutil.rmtree(trash, ignore_errors=True)


def config_yaml(method: str, settings: dict[str, Any]) -> str:
    """The text of config.yaml, which `python app.py run --config` and the form read back."""
    return yaml.safe_dump({"method": method, "config": settings}, sort_keys=False, allow_unicode=True, width=110)


def changed_settings(config: Config) -> dict[str, Any]:
    """Only what differs from the defaults: a command that a person can read."""
    fields = type(config).model_fields
    dumped = config.model_dump(mode="json")
    return {name: value for name, value in dumped.items() if fields[name].is_required() or value != _default(fields[name])}


def _default(field: Any) -> Any:
    value = field.get_default(call_default_factory=True)
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else list(value) if isinstance(value, tuple) else value


def command_line(method: str, settings: dict[str, Any]) -> str:
    """`python app.py run METHOD key=value ...` that repeats a config."""
    import json

    def text(value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    words = [f"{key}={text(value)}" for key, value in settings.items() if value is not None]
    return " ".join(["python app.py run", method, *map(shlex.quote, words)])


def this_process() -> dict[str, Any]:
    """Identity of this process that a recycled pid cannot fake: host, boot, pid, start time."""
    import psutil

    return {"host": platform.node(), "boot": _boot_id(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        import psutil

        return str(int(psutil.boot_time()))


def process_alive(process: dict[str, Any]) -> bool:
    """Is this very process (not another one with its pid) alive on this host?"""
    import psutil

    if process.get("host") != platform.node() or process.get("boot") != _boot_id():
        return False
    try:
        found = psutil.Process(process["pid"])
        return abs(found.create_time() - process["started"]) < 0.05 and found.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def derive_state(status: dict[str, Any], folder: Path) -> State:
    """What is true of a run, given the last words of its worker."""
    state = _state_by(status, folder)
    if state == "lost":  # or it wrote its last word and ended after `status` was read
        state = _state_by(read_json(folder / "status.json", {}), folder)
    return state


def _state_by(status: dict[str, Any], folder: Path) -> State:
    state: State = status.get("state", "lost")
    if state != "running":
        return state
    process = status.get("process")
    if process is None:
        return "running" if time.time() - status.get("launched", 0.0) < LAUNCH_GRACE else "lost"
    if process.get("host") == platform.node():
        return "running" if process_alive(process) else "lost"
    try:
        beat = (folder / "heartbeat").stat().st_mtime
    except OSError:
        return "lost"
    return "running" if time.time() - beat < HEARTBEAT_LIMIT else "lost"


def update_status(folder: Path, **changes: Any) -> None:
    """Overlay status.json. Until the worker's first word and after its end the holder of the store's lock writes (the queue, Stop and
    Resume; for a step its parent), in between the worker, each of its threads. Here only threads of one process wait for each other."""
    with STATUS_LOCK:
        write_json(folder / "status.json", {**read_json(folder / "status.json", {}), **changes})


def add_event(folder: Path, kind: str, **values: Any) -> None:
    """Append to events.jsonl."""
    append_json_line(folder / "events.jsonl", {"t": round(time.time(), 3), "kind": kind, **values})
