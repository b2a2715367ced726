"""What a method's `run(config, run)` gets: the writing side of a run folder."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core.files import append_json_line, write_json, write_text
from core.methods import UserError
from core.records import Record, write_records
from core.runs import STATUS_LOCK, Run, Workspace, add_event, update_status

if TYPE_CHECKING:
    from core.plugins import Plugins
    from core.store import Store


class StopRequested(Exception):
    """Raised by `run.stop_if_asked()`; the worker ends the run as stopped."""


class ActiveRun(Run):
    """The folder of the run that this process executes. With several processes only rank 0 writes."""

    def __init__(self, workspace: Workspace, run_id: str, rank: int = 0) -> None:
        super().__init__(workspace.runs_dir / run_id)
        self.workspace = workspace
        self.rank = rank
        self._last_progress = 0.0

    @property
    def plugins(self) -> Plugins:
        """All loaded plugins (formats, other methods)."""
        return self.workspace.plugins

    @property
    def store(self) -> Store:
        """The index of this workspace."""
        return self.workspace.store

    @property
    def checkpoint_dir(self) -> Path:
        """Folder in which `checkpoint-N/` folders belong (the run folder itself)."""
        return self.dir

    def last_checkpoint(self) -> Path | None:
        """The newest whole checkpoint: present when this run is being resumed."""
        found = self.checkpoints()
        return found[-1] if found else None

    def log(self, text: str) -> None:
        """One line into log.txt, with the time. A line for which the disk has no room is left out."""
        if self.rank == 0:
            with contextlib.suppress(OSError):
                print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    def notice(self, text: str, level: Literal["info", "warning"] = "info") -> None:
        """A line that the run card shows, not only the log."""
        if self.rank == 0:
            self.log(("warning: " if level == "warning" else "") + text)
            add_event(self.dir, "notice", level=level, text=text)

    def progress(self, done: float, total: float | None = None, unit: str = "steps", detail: str = "") -> None:
        """How far the run is. May be called often; at most two a second are written, the last one always."""
        now = time.monotonic()
        if self.rank or (now - self._last_progress < 0.5 and done != total):
            return
        self._last_progress = now
        add_event(self.dir, "progress", done=done, total=total, unit=unit, detail=detail)
        update_status(self.dir, progress={"done": done, "total": total, "unit": unit, "detail": detail, "t": time.time()})

    def metrics(self, step: int, **values: float | int | None) -> None:
        """Numbers at a step, for the curves."""
        if self.rank == 0:
            add_event(self.dir, "metrics", step=step, **values)

    def stats(self, **values: Any) -> None:
        """The few headline numbers of the run card ({"Train loss": "0.94"})."""
        if self.rank == 0:
            with STATUS_LOCK:
                update_status(self.dir, stats={**self.status.get("stats", {}), **values})

    def spend(self, usd: float, what: str) -> None:
        """Write money down: in the run and in the ledger of the workspace."""
        line = {"t": time.time(), "run": self.id, "usd": usd, "what": what}
        append_json_line(self.workspace.runs_dir / "spend.jsonl", line)
        add_event(self.dir, "spend", usd=usd, what=what)
        with STATUS_LOCK:  # services are asked in several threads: no sum may be lost
            update_status(self.dir, usd=self.status.get("usd", 0.0) + usd)

    def should_stop(self) -> bool:
        """Has somebody asked this run to stop? Write a checkpoint and return soon."""
        return (self.dir / "stop").exists()

    def stop_if_asked(self) -> None:
        """End the run here, as stopped, when somebody asked for it."""
        if self.should_stop():
            raise StopRequested

    def save_records(self, name: str, records: Iterable[Record]) -> int:
        """Write `<name>.jsonl`; returns the number of rows."""
        return write_records(self.dir / f"{name}.jsonl", records)

    def save_text(self, name: str, text: str) -> None:
        """Write a text file into the run folder."""
        write_text(self.dir / name, text)

    def save_model(self, save: Callable[[Path], None], name: Literal["adapter", "model"] = "adapter") -> Path:
        """Let `save` fill a folder, which becomes `adapter/` or `model/` only when it is whole."""
        folder, half = self.dir / name, self.dir / f".{name}.half"
        shutil.rmtree(half, ignore_errors=True)
        save(half)
        shutil.rmtree(folder, ignore_errors=True)
        half.rename(folder)
        return folder

    def save_report(self, report: dict[str, Any]) -> None:
        """Write report.json: the numbers, each with its n and interval."""
        write_json(self.dir / "report.json", report)

    def register_test_set(self, keys: Iterable[str]) -> int:
        """Make rows (split-guard keys) forbidden for training and mining in this workspace."""
        unique = sorted(set(keys))
        self.save_text("test_keys.txt", "\n".join(unique) + "\n")
        return self.store.register_test_keys(self.name, self.id, unique)

    def child(self, method: str, settings: dict[str, Any], *, key: str, name: str = "") -> Run:
        """Run another method inside this run's slot, in a folder of its own, and wait for it.

        `key` names the step: when this run is resumed, a child with the same key and settings that succeeded is taken as it
        is, and one that was interrupted is resumed. Raises UserError when the child fails, StopRequested when stopped.
        """
        from core.jobs import run_child

        child = run_child(self, method, settings, key=key, name=name)
        if child.state == "stopped":
            raise StopRequested
        if child.state != "succeeded":
            raise UserError(f"Step {key} ({child.id}) {child.state}: {child.status.get('message') or 'see its log'}")
        return child
