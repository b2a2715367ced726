"""Which rows a model was trained on, by the lineage of the run it comes from (promise 5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from core.lineage import ancestors, run_of_model
from core.runs import Run, Workspace
from core.split_guard import TRAINED_KEYS, prompt_key, training_keys
from core.words import plural


@dataclass(frozen=True)
class TrainedOn:
    """What the runs behind a model trained on. Empty for a model that does not come from a run of this workspace."""

    keys: frozenset[str] = frozenset()
    runs: tuple[str, ...] = ()
    """Runs that wrote down which prompts they trained on."""
    silent: tuple[str, ...] = ()
    """Runs that made a model and wrote down nothing: what they saw cannot be marked."""
    overrides: list[dict[str, Any]] = field(default_factory=list)
    """Lines for the report: runs that trained with allow_test_rows=true."""

    def holds(self, prompt: str) -> bool:
        """Did a run in the lineage train on this prompt?"""
        return bool(self.keys) and prompt_key(prompt) in self.keys


def trained_on(ref: str, workspace: Workspace) -> TrainedOn:
    """Read what the run behind a model reference and all its ancestors trained on."""
    start = run_of_model(ref, workspace)
    if start is None:
        return TrainedOn()
    family = [start, *ancestors(start, workspace)]
    wrote = [run for run in family if (run.dir / TRAINED_KEYS).exists()]
    silent = [run.id for run in family if run not in wrote and _made_model(run)]
    return TrainedOn(frozenset(training_keys(run.dir for run in wrote)), tuple(run.id for run in wrote), tuple(silent),
                     [_override(ref, run) for run in family if _holds_true(run.config, "allow_test_rows")])


def _made_model(run: Run) -> bool:
    return any((run.dir / name).is_dir() for name in ("adapter", "model"))


def _override(ref: str, run: Run) -> dict[str, Any]:
    report = run.report or {}
    used = report.get("test_rows_used", (report.get("split_guard") or {}).get("test_rows_used"))
    rows = f"{plural(used, 'row')} of registered test sets were" if isinstance(used, int) else "rows of registered test sets may have been"
    return {"model": ref, "run": run.id, "setting": "allow_test_rows", "rows": used,
            "text": f"{run.id}, in the lineage of {ref}, ran with allow_test_rows=true: {rows} used."}


def _holds_true(config: Any, name: str) -> bool:
    if isinstance(config, dict):
        return config.get(name) is True or any(_holds_true(value, name) for value in config.values())
    return isinstance(config, list) and any(_holds_true(value, name) for value in config)
