"""`check` and `estimate` of a method, in a helper process with a time limit.

They read data and tokenizers, so they never run in the UI process. The helper stays for the next question; core/ui/checks.py
keeps the answers.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from typing import Any

from core.methods import Estimate, Problem, UserError, field_errors
from core.runs import REPOSITORY, Workspace

TIME_LIMIT = 60.0


@dataclass(frozen=True)
class Answer:
    """What stands in the way, and what it will cost. `estimate` is None while there are errors."""

    problems: tuple[Problem, ...]
    estimate: Estimate | None = None

    @property
    def errors(self) -> list[Problem]:
        """Problems that stop a start."""
        return [problem for problem in self.problems if problem.severity == "error"]


class Preflight:
    """Client of the helper process. One question at a time; a helper that does not answer in time is replaced."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, method: str, values: dict[str, Any], time_limit: float = TIME_LIMIT) -> Answer:
        """Validation errors, problems and estimate for these settings."""
        question = json.dumps({"method": method, "values": values}, default=str)
        with self._lock:
            return self._ask(question, time_limit)

    def close(self) -> None:
        """End the helper process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _ask(self, question: str, time_limit: float) -> Answer:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "core.preflight"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                cwd=REPOSITORY, env={**os.environ, "GUARDWALTZ_RUNS": str(self.workspace.runs_dir)}, start_new_session=True)
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(question.encode() + b"\n")
            process.stdin.flush()
            if not select.select([process.stdout], [], [], time_limit)[0]:
                raise TimeoutError
            line = process.stdout.readline()
            if not line:
                raise BrokenPipeError
        except (TimeoutError, BrokenPipeError) as error:
            self.close()
            why = f"took longer than {time_limit:.0f} s" if isinstance(error, TimeoutError) else "ended without an answer"
            return Answer((Problem(f"The check {why}; the run can still be started.", severity="warning"),))
        found = json.loads(line)
        estimate = Estimate(**found["estimate"]) if found["estimate"] else None
        return Answer(tuple(Problem(**problem) for problem in found["problems"]), estimate)


def look(workspace: Workspace, method_name: str, values: dict[str, Any]) -> Answer:
    """Check and estimate in this process (the helper's work; tests call it directly)."""
    from pydantic import ValidationError

    from core.methods import apply_aliases, nested

    try:
        method = workspace.plugins.method(method_name)
        config = method.Config.model_validate(nested(method.Config, apply_aliases(method.Config, values)))
    except ValidationError as error:
        return Answer(tuple(field_errors(error, method.Config)))
    except UserError as error:
        return Answer((Problem(str(error)),))
    instance = method(workspace)
    try:
        problems = list(instance.check(config))
        estimate = None if any(problem.severity == "error" for problem in problems) else instance.estimate(config)
    except UserError as error:
        return Answer((Problem(str(error)),))
    except Exception as error:
        words = f"The check itself failed ({type(error).__name__}: {error}); the run can still be started."
        return Answer((Problem(words, severity="warning"),))
    return Answer(tuple(problems), estimate)


def serve() -> None:
    """Answer questions, one JSON line each, until stdin closes."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not stand between the answers
    for line in sys.stdin:
        question = json.loads(line)
        answer = look(Workspace(), question["method"], question["values"])
        text = json.dumps({"problems": [asdict(problem) for problem in answer.problems],
                           "estimate": asdict(answer.estimate) if answer.estimate else None})
        os.write(answers, text.encode() + b"\n")


if __name__ == "__main__":
    serve()
