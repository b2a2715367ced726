"""What Resume goes on from, in a sentence."""

from __future__ import annotations

from pathlib import Path

from core.methods import Stage
from core.runs import Run

WITHOUT_CHECKPOINTS = "without_checkpoints"
"""In status.json: the run came back from a copy (core/keep), and had checkpoints, which are not copied."""


def checkpoints_of(run: Run) -> list[Path]:
    """Its whole checkpoints, and those of its shares, where two agents are trained one after the other."""
    shares = (Run(folder) for folder in sorted(run.dir.glob("sft-*")))
    return [*run.checkpoints(), *(found for share in shares for found in share.checkpoints())]


def has_lost_checkpoints(run: Run) -> bool:
    """Does it begin again because its checkpoints were left behind?"""
    return bool(run.status.get(WITHOUT_CHECKPOINTS)) and not checkpoints_of(run)


def resume_words(run: Run) -> str:
    """For the place where Resume is offered."""
    checkpoints = checkpoints_of(run)
    if checkpoints:
        return f"Resume goes on from {checkpoints[-1].name}: same schedule, optimizer and random state."
    if has_lost_checkpoints(run):
        return "Resume begins again: this run was restored from a copy, and copies have no checkpoints."
    if run.status.get("stage") in (Stage.TRAINING, Stage.RL):
        return "Resume begins again: there is no checkpoint yet."
    return "Resume goes on with what is written already."
