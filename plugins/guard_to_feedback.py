"""`guard-to-feedback`: labelled replies become feedback to learn, with true labels in both of the feedback agent's formats."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from core import Method, Problem, Stage, UserError, hookimpl
from core.chat.labelled import KINDS
from core.chat.labelled_job import FeedbackConfig, FeedbackJob, convert, problems, refusal
from core.methods import short_path

if TYPE_CHECKING:
    from core.active import ActiveRun


class GuardToFeedback(Method):
    """unsafe = the response is harmful; overrefuse = the request is unharmful and the completion a refusal."""

    name = "guard-to-feedback"
    title = "Labelled replies to feedback"
    summary = "Prompts with labelled or judged replies become examples for the feedback agent, with their unsafe and over-refusal labels."
    stage = Stage.DATA
    paper = "https://arxiv.org/abs/2510.08240"
    lane = "instant"
    makes = ("data",)
    resumable = False

    class Config(FeedbackConfig):
        """Which rows, and how the feedback about them is written."""

    def check(self, config: Config) -> list[Problem]:
        """Are there rows of each kind that may be used?"""
        try:
            job = FeedbackJob(config, self.workspace)
        except UserError as error:
            return [refusal(error)]
        found = problems(job)
        if job.spared:
            found.append(Problem(job.spared, "least_share", severity="warning"))
        if job.there and (missing := _missing(Counter({kind: 1 for kind, _ in job.there}))):
            found.append(Problem(missing, "data", severity="warning"))
        return found

    def describe(self, config: Config) -> str:
        """The set and the format."""
        return f"{short_path(config.data)} as {config.format}"

    def run(self, config: Config, run: ActiveRun) -> None:
        """One set, data.jsonl."""
        job = FeedbackJob(config, run.workspace)
        kinds = convert(job, run, f"feedback as {config.format}")
        if job.spared:
            run.notice(job.spared)
        if missing := _missing(kinds):
            run.notice(missing, "warning")


def _missing(kinds: Counter[str]) -> str:
    """What an agent that learns from these rows never sees; "" = it sees everything."""
    gone = [kind for kind in KINDS if not kinds[kind]]
    return f"No row is of the kind {' or '.join(gone)}: an agent cannot learn to tell it. Mix in a set that has such rows." if gone else ""


@hookimpl
def register_methods() -> list[type[Method]]:
    """The one method of this file."""
    return [GuardToFeedback]
