"""`good-replies`: replies that were found safe and helpful become talk to learn (rejection sampling)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core import Method, Problem, Stage, UserError, hookimpl
from core.chat.labelled_job import TalkConfig, TalkJob, convert, problems, refusal
from core.methods import short_path

if TYPE_CHECKING:
    from core.active import ActiveRun


class GoodReplies(Method):
    """Keeps what a judge, or people, called neither unsafe nor an over-refusal, and what ended by itself."""

    name = "good-replies"
    title = "Good replies to talk"
    summary = ("Replies that a judge (or a labelled set) calls neither unsafe nor an over-refusal become examples for the conversation "
               "agent: rejection sampling from a model's own words.")
    stage = Stage.DATA
    lane = "instant"
    makes = ("data",)
    resumable = False

    class Config(TalkConfig):
        """Which rows, and how long their replies may be."""

    def check(self, config: Config) -> list[Problem]:
        """Are there good replies that may be used?"""
        try:
            return problems(TalkJob(config, self.workspace))
        except UserError as error:
            return [refusal(error)]

    def describe(self, config: Config) -> str:
        """The set."""
        return short_path(config.data)

    def run(self, config: Config, run: ActiveRun) -> None:
        """One set, data.jsonl."""
        convert(TalkJob(config, run.workspace), run, "talk")


@hookimpl
def register_methods() -> list[type[Method]]:
    """The one method of this file."""
    return [GoodReplies]
