"""`genesis-to-waltzrl`: Genesis examples as conversations for both agents, in the seeds' system prompts and formats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core import ChatExample, Estimate, Method, Problem, Stage, hookimpl, setting
from core.chat.genesis import GenesisRow
from core.chat.genesis_job import GenesisConfig, convert, estimate, problems
from core.chat.messages import conversation
from core.chat.wordings import write
from core.waltz.feedback import SYSTEM, FeedbackFormat, question
from core.waltz.protocol import CONVERSATION_SYSTEM

if TYPE_CHECKING:
    from core.active import ActiveRun

ACCURACY = "the answer that the set gives for this task"


class GenesisToWaltzRL(Method):
    """conversation.jsonl: prompt and expected output. feedback.jsonl: feedback that finds nothing wrong with it."""

    name = "genesis-to-waltzrl"
    title = "Genesis examples for both WaltzRL agents"
    summary = "Genesis examples become a set for the conversation agent and one for the feedback agent, in the seeds' words."
    stage = Stage.DATA
    paper = "https://arxiv.org/abs/2510.08240"
    lane = "instant"
    makes = ("data",)
    resumable = False
    presets = {"all": {"count": 0}, "seed-plan": {"count": 3000}}
    preset_help = {"all": "Every row that can be converted.", "seed-plan": "The seeds' 3,000 of 6,665, balanced."}

    class Config(GenesisConfig):
        """Which files, how many of their rows, and the feedback agent's format."""

        format: FeedbackFormat = setting("json")
        """json: the paper's object of reasoning, unsafe, overrefuse and feedback. score: the seeds' "Safety Score: 0.95" text."""

    def check(self, config: Config) -> list[Problem]:
        """Read all rows; say what the set cannot teach."""
        found = problems(config)
        if not any(problem.severity == "error" for problem in found):
            found.append(Problem("The set has no safety labels: every answer is taken as safe and helpful, so the feedback set alone fails "
                                 "check-data. Mix in labelled rows (guard-to-feedback).", "source", severity="warning"))
        return found

    def estimate(self, config: Config) -> Estimate:
        """Seconds."""
        return estimate(config)

    def describe(self, config: Config) -> str:
        """The files."""
        return ", ".join(path.rpartition("/")[2] for path in config.source)

    def run(self, config: Config, run: ActiveRun) -> None:
        """Two sets, named RUN:conversation and RUN:feedback from now on."""

        def both(row: GenesisRow) -> list[tuple[str, ChatExample]]:
            about = {"source": row.agent, "category": row.category, "difficulty": row.difficulty}
            said = write("good answer", False, False, config.format, config.seed, row.file, row.line, accuracy=ACCURACY)
            return [("conversation", conversation(CONVERSATION_SYSTEM, row.prompt, row.answer, **about)),
                    ("feedback", conversation(SYSTEM[config.format], question(row.prompt, row.answer), said, **about))]

        convert(config, run, both, {"feedback_format": config.format})
        run.notice("Every answer of this set is taken as safe and helpful, because the set does not say otherwise: mix in labelled rows "
                   "(guard-to-feedback) before a feedback agent is trained on it.", "warning")


@hookimpl
def register_methods() -> list[type[Method]]:
    """The one method of this file."""
    return [GenesisToWaltzRL]
