"""Guard evaluation: any models on the same rows, or answers that exist already. The work is done in core/evals."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import field_validator

from core import AskingConfig, Estimate, FromRun, GuardExample, Method, OneOf, Problem, Stage, UserError, hookimpl, setting
from core.answer_cost import ANSWER_TOKENS, CPU_TOKENS, speed_is_known
from core.data import DataSource, find_data, load_examples
from core.evals.asking import Asking, Plan, ask, make_plan
from core.evals.given import Given, given_name, read_given
from core.evals.hard_choosing import cannot_choose, choose_hard
from core.evals.hard_subset import HardChoice, HardSubset
from core.evals.predictions import FILE, PredictionLog, read_predictions
from core.evals.problems import NO_CHOOSER, chooser_of, contradictions, field_of, plan_problems
from core.evals.prompting import choose_format, format_called
from core.evals.questions import Question, answer, has_official_rule
from core.evals.report import About, Model, Options, answer_notes, build_report, headline_stats
from core.evals.rows import Chosen, SplitChoice, choose_rows, gold_of, row_warnings
from core.methods import full_path, listed, short_path
from core.records import Task
from core.scores import Policy
from core.words import plural

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.lm.find import Found


class GuardEval(Method):
    """Ask, read, score, compare."""

    name = "guard-eval"
    title = "Guard evaluation"
    summary = "How often guards are right, with intervals: any models on the same rows, or a file of predictions."
    stage = Stage.EVALUATION
    leads = True
    paper = "https://arxiv.org/abs/2501.18492"
    makes = ("report",)
    presets = {"quick": {"limit": 100}, "full": {"limit": 0}, "hard": {"limit": 0, "hard_subset": 4}}
    preset_help = {"quick": "100 rows drawn by label and source: the seeds' go/no-go, before anything costs more.", "full": "All rows.",
                   "hard": "All rows, and hard-sample accuracy: the rows on which 4 samples of the first trained model disagree."}

    class Config(AskingConfig):
        """What is evaluated, on what, and how answers are read."""

        models: Annotated[list[str], FromRun("model", many=True)] = setting([], aliases=("model",))
        """Models to ask, one after the other, all about the same rows. Empty when predictions are given."""
        data: Annotated[str, FromRun("data")] = setting("")
        """Rows with gold labels: an imported set, a run or a file. With predictions: the benchmark file that gives the gold."""
        predictions: str = setting("")
        """File of answers that exist already (prompt, label, predict: the official generated_predictions.jsonl), in place of models."""
        split: SplitChoice = setting("auto")
        """Which rows of the set. auto: the test rows where it has any, else all."""
        limit: int = setting(0, ge=0, aliases=("rows", "max_rows"))
        """At most this many rows, drawn by label and source with the seed; 0 = all."""
        task: Literal["auto", "request", "completion", "response"] = setting("auto")
        """Which label is scored. auto: every one that rows have and the prompt format can give."""
        prompt_format: Annotated[str, OneOf("prompt format")] = setting("auto")
        """How models without a stored prompt format are asked. auto: by the model's name, else zero-shot."""
        policy: Policy = setting("strict")
        """How unreadable answers count in the headline and the gates: as wrong, left out, or as in the paper's script. The report
        has all three."""
        parse_rule: Literal["auto", "ours", "official"] = setting("auto", advanced=True)
        """How labels are read. ours: the last answer lines. official: the first match in the last 300 characters, as the paper's
        script does. auto: official for a predictions file, ours for answers made here."""
        reference: str = setting("", advanced=True)
        """The model that the others are compared with. Empty: the first."""
        hard_subset: int = setting(0, ge=0, le=64, aliases=("hard_k",))
        """k: also score every model on the rows that are hard for one of them, because k samples of it are partly right and partly
        wrong. 0 = off; 4 as in mining. The samples are kept for this evaluation only, and no model is scored on them."""
        hard_model: Annotated[str, FromRun("model")] = setting("", advanced=True)
        """Whose samples choose the hard rows, usually the R-SFT model. Empty: the first run: model of models."""
        hard_temperature: float = setting(1.0, gt=0, le=5, advanced=True)
        """Of the samples that choose the hard rows."""
        hard_top_p: float = setting(0.95, gt=0, le=1, advanced=True)
        """Of the samples that choose the hard rows."""
        rival: str = setting("", advanced=True)
        """One of the models that every other has to beat: R-SFT trained for as long as R-SFT and HS-DPO together (3 epochs)."""
        confidence: Literal["none", "log-prob", "vote"] = setting("none", advanced=True)
        """Also score every label, for a sweep over thresholds. log-prob: how likely it is at its place in the answer. vote: the share of
        confidence_samples sampled answers, whose majority is then the label."""
        confidence_samples: int = setting(5, ge=2, le=64, advanced=True)
        """k of the vote; drawn at `temperature`, or at 1 where that is 0."""
        baselines: bool = setting(True, advanced=True)
        """Also score answering "harmful" (or "refusal") to everything."""
        gate_accuracy: float = setting(0.5, ge=0, le=1, advanced=True)
        """Go/no-go: the whole interval of the accuracy must be above this."""
        gate_coherent: float = setting(0.5, ge=0, le=1, advanced=True)
        """Go/no-go: the whole interval of the share of coherent reasonings must be above this."""
        max_new_tokens: int = setting(0, ge=0, le=32768, advanced=True)
        """Longest answer; 0 = what the prompt format says."""
        temperature: float = setting(0.0, ge=0, le=5, advanced=True)
        """0 = the likeliest answer, the same every time."""
        top_p: float = setting(1.0, gt=0, le=1, advanced=True)
        """Draw from the likeliest tokens that hold this share."""

        as_list = field_validator("models", mode="before")(listed)

        @field_validator("models")
        @classmethod
        def once_each(cls, value: list[str]) -> list[str]:
            """No model twice, however its folder is written."""
            if twice := next((item for item in value if value.count(item) > 1), None):
                raise ValueError(f"names {twice} twice")
            return value

        @field_validator("hard_subset")
        @classmethod
        def one_cannot_disagree(cls, value: int) -> int:
            """Hard = right and wrong samples of the same row."""
            if value == 1:
                raise ValueError("one sample is right or wrong and cannot be both; give 2 or more, or 0 for no hard subset")
            return value

        @field_validator("reference", "rival")
        @classmethod
        def as_in_models(cls, value: str) -> str:
            """Written as `models` are, so that they can be compared."""
            return full_path(value, os.path.isdir)

        as_full_path = field_validator("predictions")(full_path)

    def check(self, config: Config) -> list[Problem]:
        """Are the models, the rows and the labels there?"""
        problems = contradictions(config)
        if problems and not config.data:
            return problems
        try:
            chosen = self._chosen(config, self._given(config).examples if config.predictions else self._examples(config))
        except UserError as error:
            return [*problems, Problem(str(error), field_of(str(error), "predictions" if config.predictions else "data"))]
        if problems:
            return problems
        warnings = [Problem(text, "data", severity="warning") for text in row_warnings(chosen)]
        return [*self._model_problems(config, chosen), *warnings]

    def estimate(self, config: Config) -> Estimate | None:
        """Rows times the usual length of an answer. The time is known for the embedded model on a CPU only."""
        if config.predictions:
            return Estimate(seconds=5)
        rows = len(self._chosen(config, self._examples(config)).rows)
        tokens, seconds, known = 0, 0.0, True
        votes = config.confidence_samples if config.confidence == "vote" else 1
        asking = [(found, asked, votes) for found, asked, _ in self._formats(config, [self._found(model) for model in config.models])]
        if config.hard_subset and (chooser := chooser_of(config)):
            asking.append((*self._format_of(config, chooser)[:2], config.hard_subset))
        for found, asked, samples in asking:
            length = min(config.max_new_tokens or asked.max_new_tokens, ANSWER_TOKENS[asked.reasons])
            tokens += rows * samples * length
            seconds += 10 + rows * (samples * length / CPU_TOKENS + 0.3)
            known = known and speed_is_known(found.base, config.device)
        note = f"{plural(rows, 'row')}, {plural(len(config.models), 'model')}"
        return Estimate(seconds, seconds / 2, 3 * seconds, tokens, note=note) if known else Estimate(tokens=tokens, note=note)

    def describe(self, config: Config) -> str:
        """"embedded on guard-demo"."""
        if config.predictions:
            return "predictions " + given_name(Path(config.predictions))
        who = short_path(config.models[0]) if len(config.models) == 1 else f"{len(config.models)} models"
        return f"{who} on {short_path(config.data)}"

    def run(self, config: Config, run: ActiveRun) -> None:
        """Collect the answers, then write the report."""
        if problems := contradictions(config):
            raise UserError(problems[0].message)
        models, about, hard = self._score_file(config, run) if config.predictions else self._ask_all(config, run)
        order = {model.ref: place for place, model in enumerate(models)}
        predictions = sorted(read_predictions(run.dir / FILE), key=lambda item: (order[item.model], item.row))
        about.notes.extend(answer_notes(predictions))
        options = Options(config.policy, config.seed, config.baselines, config.reference, config.gate_accuracy, config.gate_coherent,
                          config.rival)
        report = build_report(self.name, predictions, models, options, about, hard)
        if config.confidence != "none":
            report["confidence"] = {"method": config.confidence, "samples": config.confidence_samples if config.confidence == "vote" else 1}
        run.save_report(report)
        for line in about.overrides:
            run.notice(line["text"], "warning")
        run.stats(**headline_stats(report))
        run.log(report["headline"])

    # ---- answers that exist ----

    def _score_file(self, config: Config, run: ActiveRun) -> tuple[list[Model], About, None]:
        given, asked = self._given(config), self._format_of_file(config)
        chosen = self._chosen(config, given.examples)
        auto: Literal["ours", "official"] = "official" if has_official_rule(asked) else "ours"
        rule = auto if config.parse_rule == "auto" else config.parse_rule
        (run.dir / FILE).unlink(missing_ok=True)  # seconds of work: a resumed run starts again
        with PredictionLog(run.dir / FILE) as log:
            for row, (place, example) in enumerate(zip(chosen.places, chosen.rows, strict=True)):
                tasks = tuple(task for task in chosen.tasks if gold_of(example, task) and task in asked.tasks)
                if tasks:
                    log.add(answer(Question(row, example, tasks, ""), given.name, given.texts[place], asked, rule=rule, finish="given"))
        run.progress(len(chosen.rows), len(chosen.rows), "answers")
        how = "the official rule (first match in the last 300 characters)" if rule == "official" else f"the parser of {asked.name}"
        file = {"file": str(given.path), "sha256": given.sha256, "rows": len(given.texts)}
        notes = [*given.notes, f"Labels were read by {how}."]
        model = Model(given.name, given.name, asked.name, asked.reasons)
        return [model], About({**self._data(config, chosen), "predictions": file}, notes), None

    def _given(self, config: Config) -> Given:
        benchmark = self._examples(config) if config.data else None
        name = find_data(config.data, self.workspace).name if config.data else ""
        return read_given(Path(config.predictions), self.workspace.plugins.data_formats, task=_task(config), benchmark=benchmark,
                          benchmark_name=name)

    def _format_of_file(self, config: Config) -> Any:
        name = "guardreasoner" if config.prompt_format == "auto" else config.prompt_format
        return format_called(name, self.workspace.plugins.prompt_formats)

    # ---- answers made here ----

    def _ask_all(self, config: Config, run: ActiveRun) -> tuple[list[Model], About, HardSubset | None]:
        chosen = self._chosen(config, self._examples(config))
        about = About(self._data(config, chosen))
        found = [self._found(model) for model in config.models]
        plans = [self._plan(*one, config, chosen, run, about) for one in self._formats(config, found)]
        total = sum(len(plan.questions) for plan in plans)
        chooser = self._chooser_plan(config, chosen, run, about, plans) if config.hard_subset else None
        if not total:
            raise UserError(f"None of the models can give the labels of {config.data} ({', '.join(chosen.tasks)}); choose another "
                            "prompt_format or task.")
        how = Asking("official" if config.parse_rule == "official" else "ours", config.max_new_tokens, config.temperature, config.top_p,
                     config.seed, config.device, config.dtype, config.quantization, config.engine, config.confidence,
                     config.confidence_samples)
        models, before, hard = [], 0, None
        if chooser:
            choice = HardChoice(config.hard_subset, config.hard_temperature, config.hard_top_p)
            before = choice.samples * len(chooser.questions)
            total += before
            hard = choose_hard(chooser, how, choice, run, _progress(run, 0, total, f"{chooser.ref}, hard rows", choice.samples))
            for task, rows in hard.tasks.items():
                run.log(f"{task}: {len(rows.rows)} of {plural(sum(rows.kinds.values()), 'row')} are hard for {chooser.ref}")
        for plan in plans:
            models.append(ask(plan, how, chosen, run, _progress(run, before, total, plan.ref)))
            before += len(plan.questions)
        about.notes.append("Marked as seen are rows that runs of this workspace trained on; what base models saw before is not known.")
        return models, about, hard

    def _chooser_plan(self, config: Config, chosen: Chosen, run: ActiveRun, about: About, plans: list[Plan]) -> Plan:
        """The model whose samples choose the hard rows; it need not be one of those that are scored."""
        ref = chooser_of(config)
        if not ref:
            raise UserError(NO_CHOOSER)
        plan = next((plan for plan in plans if plan.ref == ref), None)
        if plan is None:
            plan = self._plan(*self._format_of(config, ref), config, chosen, run, about)
        if why := cannot_choose(plan):
            raise UserError(f"hard_model = {ref}: {why}")
        return plan

    def _plan(self, found: Found, asked: Any, note: str, config: Config, chosen: Chosen, run: ActiveRun, about: About) -> Plan:
        if config.parse_rule == "official" and not has_official_rule(asked):
            raise UserError(f"parse_rule = official: {asked.name}, in which {found.ref} answers, has no official rule; use ours.")
        plan = make_plan(found, asked, chosen, self.workspace)
        if note:
            run.notice(note)
        about.notes.extend([*([note] if note else []), *plan.notes(chosen.tasks)])
        about.overrides.extend(plan.trained.overrides)
        return plan

    def _found(self, model: str) -> Found:
        from core.lm.find import Found, find_model
        from core.refs import parse_model_ref

        ref = parse_model_ref(model)
        return Found(str(ref), str(ref), "") if ref.kind == "openai" or ref.is_pair else find_model(ref, self.workspace.runs_dir)

    def _formats(self, config: Config, found: list[Found]) -> Iterator[tuple[Found, Any, str]]:
        """(model, its prompt format, what a reader must know about that choice)."""
        alone = all(one.prompt_format for one in found)
        for one in found:
            yield one, *choose_format(one, config.prompt_format, self.workspace.plugins.prompt_formats, alone=alone)

    def _format_of(self, config: Config, ref: str) -> tuple[Found, Any, str]:
        """As `_formats`, of a model that need not be among those evaluated."""
        found = self._found(ref)
        return found, *choose_format(found, config.prompt_format, self.workspace.plugins.prompt_formats, alone=False)

    def _model_problems(self, config: Config, chosen: Chosen) -> list[Problem]:
        problems: list[Problem] = []
        try:
            for found, asked, note in self._formats(config, [self._found(model) for model in config.models]):
                problems += [Problem(note, "prompt_format", severity="warning")] if note else []
                problems += plan_problems(make_plan(found, asked, chosen, self.workspace), chosen, config)
            if config.hard_subset:
                problems += self._chooser_problems(config, chosen)
        except UserError as error:
            problems.append(Problem(str(error), field_of(str(error), "models")))
        return problems

    def _chooser_problems(self, config: Config, chosen: Chosen) -> list[Problem]:
        ref = chooser_of(config)
        if not ref:
            return [Problem(NO_CHOOSER, "hard_model")]
        found, asked, _ = self._format_of(config, ref)
        why = cannot_choose(make_plan(found, asked, chosen, self.workspace))
        return [Problem(f"hard_model = {ref}: {why}", "hard_model")] if why else []

    # ---- rows ----

    def _examples(self, config: Config) -> list[GuardExample]:
        return load_examples(config.data, self.workspace)

    def _chosen(self, config: Config, examples: list[GuardExample]) -> Chosen:
        return choose_rows(examples, split=config.split, task=_task(config), limit=config.limit, seed=config.seed)

    def _data(self, config: Config, chosen: Chosen) -> dict[str, Any]:
        """What the report says of the rows."""
        file = Path(config.predictions)
        source = find_data(config.data, self.workspace) if config.data else DataSource(given_name(file), file)
        return {"name": source.name, "sha256": source.sha256(), "run": source.run.id if source.run else None, "file": str(source.path),
                "rows": len(chosen.rows), "split": chosen.split, "sampled": chosen.sampled, "of": chosen.of,
                "without_gold": chosen.without_gold, "distinct_prompts": len({row.prompt for row in chosen.rows})}


def _progress(run: ActiveRun, before: int, total: int, model: str, answers: int = 1) -> Callable[[int], None]:
    """Counts answers; each step of what is being done makes so many of them."""
    return lambda done: run.progress(before + answers * done, total, "answers", detail=model)


def _task(config: Any) -> Task | None:
    return None if config.task == "auto" else config.task


@hookimpl
def register_methods() -> list[type[Method]]:
    """The one method of this file."""
    return [GuardEval]
