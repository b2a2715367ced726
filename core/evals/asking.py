"""Asking a model all its questions, each answer written down as it comes. A resumed run asks only what is still open."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core.evals.confident import confident_answers
from core.evals.predictions import FILE, Key, PredictionLog, key_of, read_predictions
from core.evals.questions import Question, Rule, answer, questions
from core.evals.report import Model
from core.evals.rows import Chosen
from core.evals.seen import TrainedOn, trained_on
from core.methods import UserError
from core.records import Prediction
from core.refs import parse_model_ref
from core.runs import Run, Workspace
from core.words import plural

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.lm.engines import EngineName
    from core.lm.find import Found


@dataclass(frozen=True)
class Asking:
    """How answers are made and read."""

    rule: Rule = "ours"
    max_new_tokens: int = 0
    """0 = what the prompt format says."""
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 42
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    quantization: Literal["none", "nf4"] = "none"
    engine: EngineName = "auto"
    confidence: Literal["none", "log-prob", "vote"] = "none"
    """Where scores of the labels are from; none: there are none."""
    confidence_samples: int = 5
    """k of the vote."""


@dataclass(frozen=True)
class Plan:
    """One model, the format it is asked in, and its questions."""

    found: Found
    prompt_format: Any
    questions: list[Question]
    trained: TrainedOn
    title: str

    @property
    def ref(self) -> str:
        """The model's reference."""
        return self.found.ref

    def notes(self, tasks: Sequence[str]) -> list[str]:
        """What a reader of the report must know."""
        notes = []
        if missing := [task for task in tasks if task not in self.prompt_format.tasks]:
            notes.append(f"{self.ref} answers in {self.prompt_format.name}, which gives no label for: {', '.join(missing)}.")
        if self.trained.silent:
            notes.append(f"{', '.join(self.trained.silent)}, in the lineage of {self.ref}, wrote down no training rows: what was seen "
                         "there is not marked.")
        return notes


def make_plan(found: Found, prompt_format: Any, chosen: Chosen, workspace: Workspace) -> Plan:
    """Everything about a model that can be known before its weights are loaded."""
    asked = questions(prompt_format, chosen.rows, chosen.tasks)
    return Plan(found, prompt_format, asked, trained_on(found.ref, workspace), model_title(found, workspace))


def model_title(found: Found, workspace: Workspace) -> str:
    """The short name of a model: its run's, what the embedded one really is, or the last part of its path."""
    from core.lm.embedded import EMBEDDED_TITLE

    ref = parse_model_ref(found.ref)
    if ref.kind == "run":
        return workspace.run(ref.name).name
    return EMBEDDED_TITLE if ref.kind == "embedded" else Path(ref.name).name


def ask(plan: Plan, how: Asking, chosen: Chosen, run: ActiveRun, progress: Callable[[int], None]) -> Model:
    """Answer what is still open of a plan; `progress` gets the number of this model's answers so far. May raise StopRequested."""
    done = _answered(plan.ref, chosen, run)
    todo = [number for number, item in enumerate(plan.questions) if Key(plan.ref, item.row, tuple(sorted(item.tasks))) not in done]
    if done:
        run.log(f"{plan.ref}: {plural(len(done), 'answer')} from before are kept")
    progress(len(done))
    started = time.monotonic()
    if todo:
        with PredictionLog(run.dir / FILE) as log:
            for count, one in enumerate(_predictions(plan, how, todo, run), start=1):
                log.add(one.model_copy(update={"seen_in_training": plan.trained.holds(one.prompt)}))
                progress(len(done) + count)
        _free_memory()
    run.stop_if_asked()
    seconds = round(time.monotonic() - started, 1) if todo else None
    return Model(plan.ref, plan.title, plan.prompt_format.name, plan.prompt_format.reasons, seconds, len(todo), plan.trained.runs)


def _answered(model: str, chosen: Chosen, run: Run) -> set[Key]:
    """Questions that predictions.jsonl has answers to, which must be about the rows of today."""
    found = set()
    for item in read_predictions(run.dir / FILE):
        if item.model == model:
            row = chosen.rows[item.row] if item.row < len(chosen.rows) else None
            if row is None or (row.prompt, row.response) != (item.prompt, item.response):
                raise UserError(f"The rows have changed since {run.id} began (its row {item.row} is another one now); "
                                "start a new evaluation.")
            found.add(key_of(item))
    return found


def _predictions(plan: Plan, how: Asking, todo: list[int], run: ActiveRun) -> Iterator[Prediction]:
    """What is written down of each answer, as it becomes ready."""
    if how.confidence != "none":
        yield from confident_answers(plan, how, todo, run)
        return
    for question, made in _answers(plan, how, todo, run):
        yield answer(question, plan.ref, made.text, plan.prompt_format, rule=how.rule, finish=made.finish, tokens=made.tokens)


def _answers(plan: Plan, how: Asking, todo: list[int], run: ActiveRun) -> Iterator[tuple[Question, Any]]:
    """(question, what the model wrote) as each becomes ready; a question keeps its number, so that sampling repeats on resume."""
    from core.lm.engines import open_engine

    asked = plan.prompt_format
    picks = any(asked.choices(plan.questions[number].example) for number in todo)
    run.log(f"loading {plan.ref}")
    with open_engine(plan.ref, run.workspace, "own" if picks else how.engine, device=how.device, dtype=how.dtype,  # picking needs weights
                     quantization=None if how.quantization == "none" else how.quantization, log=run.log) as engine:
        run.log(f"asking {plan.ref} {plural(len(todo), 'question')} in {asked.name}")
        texts = (plan.questions[number].text for number in todo)
        if picks and engine.loaded is None:
            raise UserError(f"{asked.name} lets a model pick among given answers, which {plan.ref} cannot; choose another prompt_format.")
        if picks:
            yield from _picked(plan, engine.loaded, texts, todo, run)
            return
        for made in engine.answers(texts, indices=todo, ordered=False, max_new_tokens=how.max_new_tokens or asked.max_new_tokens,
                                   temperature=how.temperature, top_p=how.top_p, seed=how.seed, chat=asked.chat,
                                   is_complete=asked.is_complete, should_stop=run.should_stop):
            yield plan.questions[made.index], made


def _picked(plan: Plan, loaded: Any, texts: Iterable[str], todo: list[int], run: ActiveRun) -> Iterator[tuple[Question, Any]]:
    """The likeliest of the answers that a format allows, for the questions that allow the same ones together."""
    from core.lm.choose import choose
    from core.lm.engines import rendered

    asked = plan.prompt_format
    prompts = rendered(loaded.tokenizer, texts, asked.chat)
    groups: dict[tuple[str, ...], list[tuple[int, str]]] = {}
    for number, prompt in zip(todo, prompts, strict=True):
        groups.setdefault(asked.choices(plan.questions[number].example), []).append((number, prompt + asked.answer_start))
    for choices, members in groups.items():
        for picked in choose(loaded, [text for _, text in members], choices, indices=[number for number, _ in members],
                             add_special_tokens=not asked.chat, should_stop=run.should_stop):
            yield plan.questions[picked.index], replace(picked, text=asked.answer_start + picked.text)


def _free_memory() -> None:
    """Before the next model is loaded."""
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
