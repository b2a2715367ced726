"""`genesis-to-messages`: examples of the five Genesis agents as conversations to fine-tune on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core import Estimate, Method, Problem, Stage, hookimpl
from core.chat.genesis_job import GenesisConfig, convert, estimate, problems
from core.chat.messages import conversation

if TYPE_CHECKING:
    from core.active import ActiveRun


class GenesisToMessages(Method):
    """System names the agent's role, the user gives task and context, the assistant the expected output."""

    name = "genesis-to-messages"
    title = "Genesis examples to messages"
    summary = "Examples of the five Genesis agents become conversations whose system prompt names the agent's role."
    stage = Stage.DATA
    lane = "instant"
    makes = ("data",)
    resumable = False

    class Config(GenesisConfig):
        """Which files, and how many of their rows."""

    def check(self, config: Config) -> list[Problem]:
        """Read all rows."""
        return problems(config)

    def estimate(self, config: Config) -> Estimate:
        """Seconds."""
        return estimate(config)

    def describe(self, config: Config) -> str:
        """The files."""
        return ", ".join(path.rpartition("/")[2] for path in config.source)

    def run(self, config: Config, run: ActiveRun) -> None:
        """One set, data.jsonl."""
        convert(config, run, lambda row: [("data", conversation(row.system, row.prompt, row.answer, source=row.agent, category=row.category,
                                                                difficulty=row.difficulty))], {})


@hookimpl
def register_methods() -> list[type[Method]]:
    """The one method of this file."""
    return [GenesisToMessages]
