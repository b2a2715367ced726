"""What several tests need: a workspace with the counting methods, and waiting for a run without a fixed sleep."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from core.active import ActiveRun
from core.methods import validate
from core.records import GuardExample, Labels, Record
from core.runs import FINISHED, Run, Workspace

FAKE_PLUGINS = Path(__file__).parent / "fake_plugins"
FAKE_JUDGES = Path(__file__).parent / "fake_judges"


def wait_for(condition: Callable[[], object], what: str, seconds: float = 240.0) -> None:
    """Poll until `condition` holds; a slow machine gets the time it needs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.05)


def finish(workspace: Workspace, run: Run, seconds: float = 240.0) -> str:
    """Wait until the run is over; returns its state."""
    from core.jobs import pump

    def over() -> bool:
        pump(workspace)
        return run.state in FINISHED

    wait_for(over, f"{run.id} to end", seconds)
    return run.state


def write(path: Path, records: Iterable[Record]) -> str:
    """Records as a JSONL file; returns its path as a setting takes it."""
    path.write_text("".join(record.model_dump_json(exclude_none=True) + "\n" for record in records), encoding="utf-8")
    return str(path)


def prompts(count: int = 12) -> list[GuardExample]:
    """Harmless prompts, every other one labelled harmful."""
    return [GuardExample(prompt=f"Prompt {row}: please explain how a letter is written.",
                         labels=Labels(request="harmful" if row % 2 else "unharmful")) for row in range(count)]


def execute(workspace: Workspace, name: str, settings: dict[str, Any], run: Run | None = None) -> ActiveRun:
    """Run a method in this process, as the worker would."""
    from core.jobs import create

    method = workspace.plugins.method(name)
    run = run or create(workspace, method, settings)
    active = ActiveRun(workspace, run.id)
    method(workspace).run(validate(method, run.config), active)
    (active.dir / "status.json").write_text(json.dumps({**active.status, "state": "succeeded"}))
    return active
