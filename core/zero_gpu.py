"""A GPU that is lent for a minute: Hugging Face's ZeroGPU, in a function that `spaces.GPU` decorates.

The package `spaces` exists on such a Space only. A decorated function runs in a process forked from the caller's, and CUDA is real in
there alone; outside it is imitated, so nothing may compute. Here an evaluation computes in slices: each goes on where the one before
stopped, as a resumed run does. Chat is core/serve_lent.py.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from core.active import ActiveRun, StopRequested
from core.methods import Method, Stage, UserError, validate
from core.runs import Workspace

if TYPE_CHECKING:
    from core.methods import Config

Lent = TypeVar("Lent", bound=Callable[..., Any])
SLICE = 120.0
"""Seconds that one slice of an evaluation asks for."""
SPARE = 30.0
"""Of these, what is kept for the batch in work: who computes longer than asked for is killed."""


def asked_for() -> bool:
    """Does the platform say that this is a ZeroGPU Space?"""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def lends() -> bool:
    """Can a GPU be lent here?"""
    return asked_for() and importlib.util.find_spec("spaces") is not None


def decorated(function: Lent, seconds: float | Callable[..., float]) -> Lent:
    """`function`, computing on a lent GPU. seconds: how long it takes at most; or a function of its arguments that says so."""
    spaces = importlib.import_module("spaces")
    spaces.disable_gradio_auto_wrap()  # no event of a page may take a GPU by itself
    made: Lent = spaces.GPU(duration=seconds)(function)
    return made


def why_not(error: Exception) -> str:
    """What `spaces` says when it lends nothing: a queue that was too long, a quota that is used up, a function that was killed."""
    return str(getattr(error, "message", "") or error).strip().rstrip(".")


def computes_lent(kind: type[Method], config: Config) -> bool:
    """Does this run compute in slices? Evaluations of local models do; the others are not made to stop every other minute."""
    if not lends() or kind.stage != Stage.EVALUATION or kind.lane != "compute" or getattr(config, "device", "cpu") == "cpu":
        return False
    return any(not str(model).startswith("openai:") for model in getattr(config, "models", ()))


def run_in_slices(run: ActiveRun) -> None:
    """Execute an evaluation to its end, slice by slice. Raises what `Method.run` raises."""
    slice_ = decorated(one_slice, SLICE)
    before: tuple[int, int] | None = None
    while True:
        run.stop_if_asked()
        try:
            told, text = slice_(run.id, str(run.workspace.runs_dir))
        except Exception as error:
            raise UserError(f"ZeroGPU lent no GPU: {why_not(error)}. What was answered is kept; press Resume later, or take "
                            "device = cpu.") from None
        if told == "done":
            return
        if told == "failed":
            raise UserError(text)
        run.stop_if_asked()  # a slice that was stopped may have had no time to write anything
        if (kept := _kept(run)) == before:
            raise UserError(f"Nothing was answered in {SLICE:.0f} seconds of a lent GPU; take a smaller model, shorter answers, or a GPU "
                            "of the Space's own.")
        before = kept


def _kept(run: ActiveRun) -> tuple[int, int]:
    """What the next slice need not do again: bytes of answers, and verdicts of judges, of which those on labelled replies stand nowhere
    else."""
    size = sum(path.stat().st_size for path in run.dir.rglob("*.jsonl") if path.name != "events.jsonl")
    return size, run.store.count_verdicts()


def one_slice(run_id: str, runs_dir: str) -> tuple[str, str]:
    """In the forked process: ("done", ""), ("more", ""), or ("failed", a sentence)."""
    workspace = Workspace(runs_dir)
    run = SlicedRun(workspace, run_id, time.monotonic() + SLICE - SPARE)
    try:
        kind = workspace.plugins.method(run.method)
        kind(workspace).run(validate(kind, run.config), run)
        return "done", ""
    except StopRequested:
        return "more", ""  # also where a person stopped it: run_in_slices looks for that itself
    except UserError as error:
        return "failed", str(error)
    except Exception as error:
        traceback.print_exc()
        return "failed", f"{type(error).__name__}: {error} (the log has the details)"


class SlicedRun(ActiveRun):
    """A run that is asked to stop, also when its time is over."""

    def __init__(self, workspace: Workspace, run_id: str, until: float) -> None:
        super().__init__(workspace, run_id)
        self.until = until

    def should_stop(self) -> bool:
        """See ActiveRun.should_stop."""
        return time.monotonic() > self.until or super().should_stop()
