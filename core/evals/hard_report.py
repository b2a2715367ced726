"""The hard subset in report.json: every model on the hard rows, by answers that did not choose them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.evals.hard_subset import HardRows, HardSubset
from core.evals.lengths import answer_lengths
from core.evals.scoring import compare, of_task, score_all
from core.intervals import wilson
from core.mining.samples import KINDS
from core.records import TASKS, Prediction, Task

WHY = ("The hard rows were chosen by {k} samples of {title} (temperature {temperature:g}, top-p {top_p:g}), drawn for this evaluation "
       "only and never used for training. Every model, {title} included, is scored on fresh answers: rows that were chosen because some "
       "answers to them were wrong come out better by chance alone when they are asked again (regression to the mean), so a model's "
       "choosing answers say nothing of how good it is on them. The rows are hard for {title}; what is hard for another model may "
       "be other rows.")


def hard_section(hard: HardSubset, by_model: dict[str, list[Prediction]], titles: dict[str, str], references: dict[Task, str],
                 seed: int) -> dict[str, Any]:
    """The section `hard_subset`. by_model: the fresh answers of each model; references: the model the others are compared with.

    Scores and comparisons are as in the report's `tasks`, under all three policies, over the hard rows alone.
    """
    choice = hard.choice
    why = WHY.format(k=choice.samples, title=hard.title, temperature=choice.temperature, top_p=choice.top_p)
    return {"k": choice.samples, "temperature": choice.temperature, "top_p": choice.top_p, "seed": hard.seed, "model": hard.model,
            "title": hard.title, "unparsed": "drop", "why": why,
            "tasks": {task: _task(task, hard.tasks[task], by_model, titles, references[task], seed)
                      for task in TASKS if task in hard.tasks and task in references}}


def _task(task: Task, chosen: HardRows, by_model: dict[str, list[Prediction]], titles: dict[str, str], reference: str,
          seed: int) -> dict[str, Any]:
    answers = {ref: on_hard_rows(items, chosen, task) for ref, items in by_model.items()}
    asked = sum(chosen.kinds.values())
    entries = [{"model": ref, "title": titles[ref], "rows": len(rows), "scores": score_all(rows, task, seed),
                "length": answer_lengths(rows, seed)} for ref, rows in answers.items() if rows]
    return {"rows": asked, "kinds": {kind: chosen.kinds.get(kind, 0) for kind in KINDS},
            "hard": wilson(len(chosen.rows), asked).model_dump(mode="json"), "hard_rows": sorted(chosen.rows), "reference": reference,
            "models": entries,
            "comparisons": [line for ref, rows in answers.items() if ref != reference and rows
                            for line in compare(answers[reference], rows, task, seed)]}


def on_hard_rows(items: Sequence[Prediction], chosen: HardRows, task: Task) -> list[Prediction]:
    """The answers about `task` on its hard rows."""
    return [item for item in of_task(items, task) if item.row in chosen.rows]
