"""Endpoints for programs (gradio_client): the same acts as the pages, and a guard's word; with names that stay."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core import jobs
from core.access import Act
from core.guard.asking import ask_guard, guard_question
from core.methods import UserError
from core.runs import Run, Workspace

KEPT = ("method", "stage", "what", "message", "progress", "stats", "created", "started", "ended", "usd")
"""What an answer repeats of status.json."""


def build(workspace: Workspace) -> None:
    """Add the endpoints to the app that is being built."""

    def start_run(method: str, settings: dict) -> dict:  # type: ignore[type-arg]  # gradio reads these types
        """Start `method` with `settings`; answers like run_status."""
        return _told(lambda: jobs.submit(workspace, method, settings))

    def run_status(run_id: str) -> dict:  # type: ignore[type-arg]
        """State, progress, stats and result of a run."""
        return _told(lambda: workspace.run(run_id))

    def stop_run(run_id: str) -> dict:  # type: ignore[type-arg]
        """Ask a run to write a checkpoint and stop."""
        def act() -> Run:
            run = workspace.run(run_id)
            jobs.stop(workspace, run)
            return run

        return _told(act)

    def list_runs() -> list:  # type: ignore[type-arg]
        """Every run, newest first."""
        return [_summary(run) for run in workspace.runs()]

    def classify(guard: str, prompt: str, response: str = "", confidence: str = "auto", samples: int = 5, temperature: float = 1.0,
                 prompt_format: str = "auto") -> dict:  # type: ignore[type-arg]
        """What a guard says of a prompt and, where there is one, the response; answers like POST /classify of `serve-guard`.

        confidence: log-prob, vote (of `samples` answers at `temperature`), none, or auto: log-prob where the weights are here."""
        question = _or_told(lambda: guard_question(guard, prompt, response, confidence=None if confidence == "auto" else confidence,
                                                   samples=samples, temperature=temperature, prompt_format=prompt_format))
        return _or_told(lambda: ask_guard(workspace, question).model_dump())

    endpoints = ((start_run, Act.START), (run_status, None), (stop_run, Act.STOP), (list_runs, None), (classify, Act.ASK))
    for endpoint, act in endpoints:
        if act is None or workspace.access.may(act):
            gr.api(endpoint, api_name=endpoint.__name__)


def _told(act: Any) -> dict[str, Any]:
    return _summary(_or_told(act))


def _or_told(act: Any) -> Any:
    """What `act` returns; what is wrong becomes the answer's error."""
    try:
        return act()
    except UserError as error:
        raise gr.Error(str(error), print_exception=False) from None


def _summary(run: Run) -> dict[str, Any]:
    status = run.status
    kept = {key: status.get(key) for key in KEPT}
    return {"id": run.id, "state": run.state, "name": run.name, **kept, "config": run.config, "report": run.report}
