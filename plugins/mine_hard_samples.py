"""`mine-hard-samples`: k sampled answers to each training row (GuardReasoner, section 2.2). The work is done in core/mining."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import field_validator

from core import AskingConfig, Config, Estimate, FromRun, Method, OneOf, Problem, Stage, UserError, hookimpl, setting
from core.answer_cost import ANSWER_TOKENS, CPU_TOKENS, speed_is_known
from core.methods import short_path
from core.mining.samples import Unparsed
from core.words import plural

if TYPE_CHECKING:
    from core.active import ActiveRun

FEW_ROWS = 50


class MineHardSamples(Method):
    """Asks a guard the same question several times: where its answers disagree, the row is hard."""

    name = "mine-hard-samples"
    title = "Hard-sample mining"
    summary = "Asks a trained guard k times about each training row and finds the rows it is unsure about: some answers right, some wrong."
    stage = Stage.MINING
    leads = True
    paper = "https://arxiv.org/abs/2501.18492"
    makes = ("report",)
    presets = {
        "paper": {"k": 4, "temperature": 1.0, "top_p": 0.95},
        "paper-code": {"k": 4, "temperature": 0.7, "top_p": 0.95},
        "seed-plan": {"k": 4, "temperature": 0.8, "top_p": 0.95, "unparsed": "incorrect"},
        "rehearsal": {"k": 4, "temperature": 1.0, "top_p": 0.95, "limit": 60, "max_new_tokens": 256},
    }
    preset_help = {
        "paper": "GuardReasoner: temperature 1.0, top-p 0.95; k is that of its code.",
        "paper-code": "What its released code does: temperature 0.7.",
        "seed-plan": "The seeds' plan: temperature 0.8, an unreadable answer counts as wrong.",
        "rehearsal": "60 rows, short answers: minutes on a CPU with the embedded model.",
    }

    class Config(AskingConfig):
        """Which guard is asked about which rows, and how its answers are drawn."""

        model: Annotated[str, FromRun("model")] = setting()
        """The guard to mine: run:<id> of an rsft run, or any model whose prompt format is known."""
        data: Annotated[str, FromRun("data")] = setting()
        """Rows with gold labels: an imported set, a run, or a file. Only its training rows are mined."""
        k: int = setting(4, aliases=("samples", "best_of_n"), le=64)
        """Answers to each row; at least 2, because a single answer is right or wrong and never both."""
        temperature: float = setting(1.0, gt=0, le=5)
        """Spread of the answers. Higher finds more hard rows, and more unreadable answers."""
        top_p: float = setting(0.95, gt=0, le=1)
        """Draw from the likeliest tokens that hold this share."""
        max_new_tokens: int = setting(0, ge=0, le=32768)
        """Longest answer; 0 = what the prompt format says."""
        unparsed: Unparsed = setting("drop")
        """An answer without a readable label counts as nothing (drop) or as wrong (incorrect). It is counted and shown either way."""
        limit: int = setting(0, ge=0, aliases=("max_samples", "rows"), unit="rows")
        """Mine only so many rows, drawn at random. 0 = all."""
        engine: Literal["auto", "own", "vllm", "transformers", "server"] = setting("auto", advanced=True)
        """What generates the answers. auto: a server for openai:<model>@<url>, vLLM on a GPU that has it, else what suits the model."""
        prompt_format: Annotated[str, OneOf("prompt format")] = setting("auto", advanced=True)
        """How the guard is asked. auto: the format stored with it."""
        exclude_test_rows: bool = setting(False)
        """Leave out rows whose prompt is in a registered test set. Else such rows stop the run."""
        allow_test_rows: bool = setting(False, advanced=True)
        """Mine rows of registered test sets all the same. Every report after it says so."""

        @field_validator("k")
        @classmethod
        def several(cls, value: int) -> int:
            """A row is hard when its answers disagree."""
            if value < 2:
                raise ValueError("a row is hard when some answers are right and some wrong, which takes at least 2 of them; 4 is usual")
            return value

    _seen: tuple[Any, Any] | None = None
    """(config, plan) of the last look."""

    def describe(self, config: Config) -> str:
        """"run:rsft-0001 on guard-demo, k 4"."""
        return f"{short_path(config.model)} on {short_path(config.data)}, k {config.k}"

    def check(self, config: Config) -> list[Problem]:
        """Is the guard one that can be asked, and are there rows to ask about?"""
        from core.mining.guarding import refusal
        from core.mining.plan import asked_model, notes
        from core.mining.rows import refuse

        try:
            asked_model(config, self.workspace)
        except UserError as error:
            return [Problem(str(error), "prompt_format" if "prompt_format =" in str(error) else "model")]
        try:
            plan = self._plan(config)
            tests = plan.survey.tests
            if tests.count and not (config.exclude_test_rows or config.allow_test_rows):
                return [Problem(refusal(tests.hits), "data", fix={"exclude_test_rows": True}, fix_label="Leave them out")]
            refuse(plan.survey, plan.source, plan.prompt_format, exclude_test_rows=config.exclude_test_rows,
                   allow_test_rows=config.allow_test_rows)
        except UserError as error:
            return [Problem(str(error), "data")]
        problems = [Problem(line, "data", severity="warning") for line in notes(plan)]
        if plan.note:
            problems.append(Problem(plan.note, "prompt_format", severity="warning"))
        if tests.count and config.allow_test_rows:
            problems.append(Problem(f"The data holds {tests.hits}, and they will be mined. Every report after this run says so.",
                                    "allow_test_rows", severity="warning"))
        if plan.survey.mined < FEW_ROWS:
            problems.append(Problem(f"Only {plural(plan.survey.mined, 'row')} will be mined: few will be hard, the intervals wide.",
                                    "data", severity="warning"))
        return problems

    def estimate(self, config: Config) -> Estimate | None:
        """Rows x k x the usual length of an answer. The time is known for the embedded model on a CPU only."""
        plan = self._plan(config)
        rows, form = plan.survey.mined, plan.prompt_format
        length = min(plan.sampling(config).max_new_tokens, ANSWER_TOKENS[form.reasons])
        tokens = rows * config.k * length
        note = f"{plural(rows, 'row')} x {config.k} answers of about {length} tokens"
        if not speed_is_known(plan.found.base, config.device):
            return Estimate(tokens=tokens, note=note)
        seconds = 10 + tokens / CPU_TOKENS
        return Estimate(seconds, seconds / 2, 3 * seconds, tokens, note=note)

    def run(self, config: Config, run: ActiveRun) -> None:
        """Ask, write down, count."""
        from core.mining.mine import mine

        mine(config, run)

    def _plan(self, config: Config) -> Any:
        """The rows are read once for check and estimate."""
        from core.mining.plan import make_plan

        if self._seen is None or self._seen[0] != config:
            self._seen = (config, make_plan(config, self.workspace))
        return self._seen[1]


@hookimpl
def register_methods() -> list[type[Method]]:
    """The one method of this file."""
    return [MineHardSamples]
