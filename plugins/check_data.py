"""`check-data`: PASS or FAIL for each rule that a set of conversations should keep, before anything is trained on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core import ChatExample, Method, Problem, Stage, UserError, hookimpl
from core.chat.checking import CheckConfig, check_set
from core.data import find_chat
from core.methods import short_path
from core.words import plural

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.active import ActiveRun
    from core.runs import Workspace


class CheckData(Method):
    """Format, personal data, duplicates, diversity, balance, length, overlap with test sets."""

    name = "check-data"
    title = "Check conversations"
    summary = "Says PASS or FAIL for each rule a set of conversations should keep, and lists the rows that break one."
    stage = Stage.DATA
    lane = "instant"
    makes = ("report",)
    resumable = False

    class Config(CheckConfig):
        """Which set, and how strict each rule is."""

    def check(self, config: Config) -> list[Problem]:
        """Is the set there, and the tokenizer?"""
        try:
            find_chat(config.data, self.workspace)
        except UserError as error:
            return [Problem(str(error), "data")]
        try:
            _counter(config.model, self.workspace)
        except UserError as error:
            return [Problem(str(error), "model")]
        return []

    def describe(self, config: Config) -> str:
        """The set."""
        return short_path(config.data)

    def run(self, config: Config, run: ActiveRun) -> None:
        """Every rule on every row; the run succeeds whatever they say."""
        report = check_set(find_chat(config.data, run.workspace), config, run, _counter(config.model, run.workspace))
        run.save_report(report)
        run.stats(Rows=f"{report['rows']:,}", Verdict=report["verdict"])
        for gate in report["gates"]:
            run.log(f"{gate['verdict']}: {gate['name']}, {gate['rule']}. {gate['explanation']}")
        if report["verdict"] == "FAIL":
            run.notice(f"{plural(len(report['failed']), 'rule')} failed: {', '.join(report['failed'])}.", "warning")


def _counter(model: str, workspace: Workspace) -> Callable[[ChatExample], int] | None:
    """How many tokens a model sees of a conversation; None where no model is named."""
    if not model:
        return None
    from core.lm.find import find_model
    from core.lm.sft_check import tokenizer_of
    from core.lm.template import render_chat

    tokenizer = tokenizer_of(find_model(model, workspace.runs_dir))
    if tokenizer is None:
        raise UserError(f"The tokenizer of {model} is not on this machine yet; start any run with it once, or leave model empty.")
    return lambda example: len(tokenizer(render_chat(tokenizer, example.messages, add_generation_prompt=False),
                                         add_special_tokens=False)["input_ids"])


@hookimpl
def register_methods() -> list[type[Method]]:
    """The one method of this file."""
    return [CheckData]
