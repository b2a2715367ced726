"""`build-pairs`: weighted preference pairs from mined hard samples (GuardReasoner, eq. 3). The work is done in core/mining."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import field_validator

from core import Config, FromRun, Method, Problem, Stage, UserError, hookimpl, setting
from core.methods import listed
from core.mining.choosing import Pick
from core.mining.weights import Norm

if TYPE_CHECKING:
    from core.active import ActiveRun


class BuildPairs(Method):
    """A right answer over a wrong one, for each hard row."""

    name = "build-pairs"
    title = "Preference pairs"
    summary = "A right answer preferred to a wrong one for each hard row, weighted by how hard it is; several miners are merged."
    stage = Stage.MINING
    paper = "https://arxiv.org/abs/2501.18492"
    lane = "instant"
    makes = ("report",)
    presets = {
        "paper": {"pick": "random", "gamma": 0.2, "norm": "min-max"},
        "paper-code": {"pick": "longest", "gamma": 0.2, "norm": "min-max"},
        "seed-plan": {"pick": "random", "gamma": 0.5, "norm": "seed-code"},
    }
    preset_help = {
        "paper": "GuardReasoner: a random pair a row, weights 0.8 to 1.2.",
        "paper-code": "What its released code does: the longest right and the longest wrong answer, weights 0.8 to 1.2.",
        "seed-plan": "The seeds' code: gamma 0.5, weights between 1 and 1.5.",
    }

    class Config(Config):
        """Which mining runs, which answers, and how pairs are weighted."""

        runs: Annotated[list[str], FromRun("run", methods=("mine-hard-samples", "rsft-ensemble"), many=True)] = setting(
            aliases=("run", "mined"))
        """Finished mining runs, the most trusted first: of an input that several mined, the first one's pair is kept. An rsft-ensemble
        stands for the mining runs inside it."""
        pick: Pick = setting("random")
        """Which answers make the pair: random (by the seed), the longest right and wrong one, or every right with every wrong one."""
        gamma: float = setting(0.2, ge=0, lt=1)
        """How far weights spread: min-max gives 1 - gamma to 1 + gamma, seed-code 1 to 1 + gamma. 0 = every pair counts the same."""
        norm: Norm = setting("min-max")
        """How the gap between wrong and right answers becomes a weight: stretched over the gaps of each source of each run, as the paper's
        code does, or by the seeds' formula."""
        unparsed: Literal["as mined", "drop", "incorrect"] = setting("as mined", advanced=True)
        """Unreadable answers count as nothing (drop), as wrong (incorrect), or as each mining run counted them."""
        max_pairs_per_row: int = setting(4, ge=1, le=1000, advanced=True)
        """With pick = all: at most so many pairs of one row, drawn by the seed."""
        exclude_test_rows: bool = setting(False)
        """Leave out rows whose prompt is in a test set that was registered after the mining. Else such rows stop the run."""
        allow_test_rows: bool = setting(False, advanced=True)
        """Make pairs of such rows all the same. Every report after it says so."""

        @field_validator("runs", mode="before")
        @classmethod
        def run_ids(cls, value: Any) -> Any:
            """run:<id> is the same as <id>."""
            return [item.strip().removeprefix("run:") if isinstance(item, str) else item for item in listed(value)]

        @field_validator("runs")
        @classmethod
        def once_each(cls, value: list[str]) -> list[str]:
            """At least one, and none twice."""
            if not value:
                raise ValueError("names no run; give one or more finished runs of mine-hard-samples")
            if twice := next((item for item in value if value.count(item) > 1), None):
                raise ValueError(f"names {twice} twice")
            return value

    def describe(self, config: Config) -> str:
        """"mine-0001, mine-0002"."""
        return ", ".join(config.runs)

    def check(self, config: Config) -> list[Problem]:
        """Are the runs finished, and are there hard rows that may be used?"""
        from core.mining.build import PairBuilder
        from core.mining.guarding import refusal

        try:
            with PairBuilder(config, self.workspace) as builder:
                builder.survey()
        except UserError as error:
            tests = "exclude_test_rows=true" in str(error)
            return [Problem(str(error), "runs", fix={"exclude_test_rows": True} if tests else None,
                            fix_label="Leave them out" if tests else None)]
        problems = []
        if config.allow_test_rows and builder.built.tests.count:
            problems.append(Problem(refusal(builder.built.tests.hits).partition(". ")[0] + ", and pairs will be made of them. Every report "
                                    "after this run says so.", "allow_test_rows", severity="warning"))
        formats = {str((run.report or {}).get("prompt_format")) for run in builder.runs}
        if len(formats) > 1:
            problems.append(Problem(f"The runs were mined in different prompt formats ({', '.join(sorted(formats))}); a guard is trained "
                                    "in one.", "runs", severity="warning"))
        return problems

    def run(self, config: Config, run: ActiveRun) -> None:
        """Look, write, report."""
        from core.mining.build import PairBuilder
        from core.mining.build_report import make_report

        with PairBuilder(config, run.workspace) as builder:
            builder.survey()
            count = run.save_records("preferences", builder.build(run))
            report = make_report(builder, run)
        run.save_report(report)
        for line in report["overrides"]:
            run.notice(line["text"], "warning")
        for line in report["notes"]:
            run.log(line)
        run.stats(Pairs=f"{count:,}", Weights=f"{report['weights']['low']:.4g} to {report['weights']['high']:.4g}")
        run.log(report["headline"])


@hookimpl
def register_methods() -> list[type[Method]]:
    """The one method of this file."""
    return [BuildPairs]
