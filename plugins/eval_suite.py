"""The paper's benchmark suite, filled from finished evaluations: no model is asked again. The table is made in core/evals/suite.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import field_validator

from core import Config, FromRun, Method, Problem, Stage, UserError, hookimpl, setting
from core.evals.report import interval_words
from core.evals.suite import METHOD, Measured, build_suite, measured_cells
from core.scores import Policy
from core.words import plural

if TYPE_CHECKING:
    from core.active import ActiveRun


class EvalSuite(Method):
    """Sort evaluations into the sets of the paper."""

    name = "eval-suite"
    title = "Benchmark suite"
    summary = "Finished evaluations in the table of the paper: F1 set by set for prompt, response and refusal, beside published numbers."
    stage = Stage.EVALUATION
    paper = "https://arxiv.org/abs/2501.18492"
    lane = "instant"
    makes = ("report",)
    resumable = False

    class Config(Config):
        """Which evaluations, and how they are averaged."""

        evaluations: Annotated[list[str], FromRun("run", methods=(METHOD,), many=True)] = setting(aliases=("runs", "evals"), min_length=1)
        """Finished guard-eval runs. Which set a run is about goes by the name or the content of its data; of two runs of a model on
        the same set the newer one counts."""
        models: list[str] = setting([])
        """Models that get a column, as the evaluations name them (run:rsft-0001; of predictions the folder, such as 8B). Empty: all."""
        policy: Policy = setting("paper-code")
        """How unreadable answers count. The published numbers follow the paper's script."""
        partial_averages: bool = setting(False, aliases=("partial",))
        """Give averages over the sets that are there, and name them. Otherwise an average needs all sets of its task."""

        @field_validator("evaluations")
        @classmethod
        def once_each(cls, value: list[str]) -> list[str]:
            """Each once, without the "run:" of model references."""
            return list(dict.fromkeys(item.strip().removeprefix("run:") for item in value))

    def check(self, config: Config) -> list[Problem]:
        """Are they finished, and is any of them about one of the paper's sets?"""
        try:
            cells = self._cells(config)
        except UserError as error:
            return [Problem(str(error), "models" if str(error).startswith("models") else "evaluations")]
        used = {cell.run for cell in cells}
        return [Problem(f"{run_id} is about none of the paper's sets and is left out.", "evaluations", severity="warning")
                for run_id in config.evaluations if run_id not in used]

    def describe(self, config: Config) -> str:
        """"3 evaluations"."""
        return plural(len(config.evaluations), "evaluation")

    def run(self, config: Config, run: ActiveRun) -> None:
        """Write the table."""
        suite = build_suite(self._cells(config), policy=config.policy, partial=config.partial_averages, models=config.models)
        headlines = [_headline(suite, place) for place, column in enumerate(suite["columns"]) if column["kind"] == "measured"]
        run.save_report({"kind": self.name, "headline": "; ".join(headlines), "suite": suite})
        run.log("; ".join(headlines))

    def _cells(self, config: Config) -> list[Measured]:
        """Newest run first; UserError where nothing would be in the table."""
        runs = sorted((self._finished(run_id) for run_id in config.evaluations), key=lambda one: (one.created, one.id), reverse=True)
        cells = measured_cells(runs, self.workspace)
        if not cells:
            raise UserError(f"None of {', '.join(config.evaluations)} is about one of the paper's sets; a set is known by its name (such "
                            "as ToxicChat) or its content, and train rows do not count.")
        known = dict.fromkeys(cell.key for cell in cells)
        if strange := [name for name in config.models if name not in known]:
            raise UserError(f"models = {', '.join(strange)}: not among the models of these evaluations ({', '.join(known)}).")
        return cells

    def _finished(self, run_id: str) -> Any:
        run = self.workspace.run(run_id)
        if run.method != METHOD:
            raise UserError(f"{run_id} is a run of {run.method}; choose runs of {METHOD}.")
        if run.state != "succeeded" or run.report is None:
            raise UserError(f"{run_id} is {run.state}; only finished evaluations have numbers.")
        return run


def _headline(suite: dict[str, Any], place: int) -> str:
    """"8B, predictions: 3 of 13 sets, average 84.1 (82.0–86.0)"."""
    cells = [item["cells"][place] for task in suite["tasks"].values() for item in task["sets"]]
    count = sum(cell["kind"] == "measured" for cell in cells)
    average = suite["average"][place]
    words = f", average {interval_words(average['interval'])}" if average["kind"] == "measured" else ""
    part = f" over {', '.join(average['over'])}" if words and average["missing"] else ""
    return f"{suite['columns'][place]['title']}: {count} of {len(cells)} sets{words}{part}"


@hookimpl
def register_methods() -> list[type[Method]]:
    """The one method of this file."""
    return [EvalSuite]
