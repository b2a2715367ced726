"""A public demo in this process, as its visitors find it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core import jobs
from core.runs import Workspace
from tests.opened_app import Opened, opened
from tests.test_ui_pages import make


@contextmanager
def public_demo(runs: Path) -> Iterator[Opened]:
    """A public demo with a published study, a run of the owner's own, and a compute lane that never starts anything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "LANE_SLOTS", {"compute": 0, "api": 0, "instant": 0})
        patch.setenv("GUARDWALTZ_MODE", "public")
        patch.delenv("SPACE_ID", raising=False)
        workspace = Workspace(runs)
        make(workspace, "rsft-0001", labels={"tags": ["public"]}, what="the published guard")
        make(workspace, "rsft-0002", what="the owner's own guard")
        make(workspace, "rsft-0003", labels={"tags": ["public"]}, state="lost", what="a published one that stopped")
        make(workspace, "study-0001", "recipe", labels={"tags": ["public"]}, report={"title": "A study", "summary": "It is done."})
        make(workspace, "agent-eval-0001", "agent-eval", parent="study-0001", stage="evaluation", stats={"Unsafe": "4.6 (2.1–9.8)"})
        with opened(runs) as started:
            yield started
