"""Choosing the hard rows: k samples of one model, written down as they come. A resumed run draws only what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.answer_log import AnswerLog, read_log
from core.evals.asking import Asking, Plan
from core.evals.hard_subset import FILE, HardChoice, HardSubset, hard_seed, read_hard_rows
from core.evals.questions import Question, answer
from core.methods import UserError
from core.mining.answering import Sampling, answered_rows
from core.mining.rows import Asked
from core.records import MinedSample, Output
from core.words import plural

if TYPE_CHECKING:
    from core.active import ActiveRun


def cannot_choose(plan: Plan) -> str:
    """Why this model cannot choose hard rows; "" = it can."""
    if not plan.questions:
        return f"{plan.ref} answers in {plan.prompt_format.name}, which gives no label that the rows have."
    if any(plan.prompt_format.choices(question.example) for question in plan.questions):
        return f"{plan.ref} is asked in {plan.prompt_format.name}, where the likeliest label is taken and nothing can be sampled."
    return ""


def choose_hard(plan: Plan, how: Asking, choice: HardChoice, run: ActiveRun, progress: Callable[[int], None]) -> HardSubset:
    """Draw what is still missing of the k samples of every question, then say which rows are hard.

    `progress` gets the number of questions that have all their samples. A killed run goes on after the last whole line; the same
    seed gives the same samples (float32). May raise StopRequested; raises UserError where the file is about other rows.
    """
    path = run.dir / FILE
    seed = hard_seed(how.seed)
    done = _kept(path, plan, choice)
    if done:
        run.log(f"{plural(done, 'row')} of hard_outputs.jsonl from before are kept")
    progress(done)
    if done < len(plan.questions):
        with AnswerLog(path) as log:
            for sample in _samples(plan, how, choice, seed, done, run):
                log.add(sample)
                done += 1
                progress(done)
    run.stop_if_asked()
    return HardSubset(choice, plan.ref, plan.title, seed, read_hard_rows(path))


def _kept(path: Path, plan: Plan, choice: HardChoice) -> int:
    """Questions whose samples are there, which must be those of today's rows."""
    done = 0
    for sample, question in zip_longest(read_log(path, MinedSample, "run the evaluation again"), plan.questions):
        if sample is None:
            return done
        example = question.example if question else None
        same = example is not None and (sample.row, sample.prompt, sample.response, sample.gold) == (question.row, example.prompt,
                                                                                                     example.response, example.labels)
        if not same or sample.model != plan.ref or len(sample.outputs) != choice.samples:
            raise UserError(f"{path}, line {done + 1} is about another row, model or k than today's (its row {sample.row}); start a new "
                            "evaluation.")
        done += 1
    return done


def _samples(plan: Plan, how: Asking, choice: HardChoice, seed: int, first: int, run: ActiveRun) -> Iterator[MinedSample]:
    """The questions from number `first` on with their k answers, in order; ends early when the run is stopped."""
    from core.lm.engines import open_engine

    asked = plan.prompt_format
    sampling = Sampling(choice.samples, how.max_new_tokens or asked.max_new_tokens, choice.temperature, choice.top_p, seed)
    run.log(f"drawing {choice.samples} answers to each of {plural(len(plan.questions) - first, 'question')} from {plan.ref}, "
            "to choose the hard rows")
    questions = (Asked(number, plan.questions[number]) for number in range(first, len(plan.questions)))
    with open_engine(plan.ref, run.workspace, how.engine, device=how.device, dtype=how.dtype,
                     quantization=None if how.quantization == "none" else how.quantization, log=run.log) as engine:
        run.log(engine.promise)
        for one, answers in answered_rows(engine, questions, asked, sampling, run.should_stop):
            yield _sample(plan, how, one.question, answers)


def _sample(plan: Plan, how: Asking, question: Question, answers: list[Any]) -> MinedSample:
    read = [answer(question, plan.ref, made.text, plan.prompt_format, rule=how.rule, finish=made.finish, tokens=made.tokens)
            for made in answers]
    example = question.example
    return MinedSample(row=question.row, prompt=example.prompt, response=example.response, gold=example.labels, model=plan.ref,
                       prompt_format=plan.prompt_format.name, source=example.source, category=example.category,
                       outputs=[Output(text=item.text, predicted=item.predicted, tokens=item.tokens, finish=item.finish) for item in read])
