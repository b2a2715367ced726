"""How the newest check of a set of conversations ended, for the Data page and for methods that train on the set."""

from __future__ import annotations

from typing import Any

from core.data import DataSource
from core.methods import Problem
from core.runs import Run, Workspace

METHOD = "check-data"


def newest_check(source: DataSource, workspace: Workspace) -> tuple[Run, dict[str, Any]] | None:
    """(run, report) of the newest finished check of these very rows; None where they were never checked."""
    digest = ""
    for run in workspace.runs():
        if run.method == METHOD and run.state == "succeeded" and (report := run.report):
            digest = digest or source.sha256()
            if report.get("sha256") == digest:
                return run, report
    return None


def check_problem(source: DataSource, workspace: Workspace, field: str = "data") -> Problem | None:
    """A warning where the newest check of the set failed: for `check` of methods that train on it."""
    found = newest_check(source, workspace)
    if found is None or found[1].get("verdict") != "FAIL":
        return None
    run, report = found
    return Problem(f"{source.name} failed check-data ({run.id}): {', '.join(report.get('failed', []))}. Training on it is possible; mend "
                   "the set, or know why it does not matter.", field, severity="warning")
