"""report.json of an evaluation, from its predictions. The page, the study and the card read nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from core.evals.coherence import count_reasons
from core.evals.gates import better_than, go_no_go, hard_gain, overall_kept
from core.evals.hard_report import hard_section
from core.evals.hard_subset import HardSubset
from core.evals.lengths import answer_lengths
from core.evals.scoring import against_always, baseline, breakdown, compare, of_task, score, score_all
from core.evals.sweep import sweep
from core.intervals import Interval, wilson
from core.records import NEGATIVE, POSITIVE, TASKS, Prediction, Task
from core.scores import Policy
from core.words import plural


@dataclass(frozen=True)
class Model:
    """What the report says of a model beside its numbers."""

    ref: str
    title: str
    prompt_format: str
    reasons: bool = True
    seconds: float | None = None
    seconds_rows: int = 0
    """Answers that `seconds` is the time of: fewer than all where the run was resumed."""
    trained_runs: tuple[str, ...] = ()
    """Runs in its lineage that wrote down which rows they trained on."""


@dataclass(frozen=True)
class Options:
    """Choices that shape a report."""

    policy: Policy = "strict"
    seed: int = 0
    baselines: bool = True
    reference: str = ""
    """Model the others are compared with; "" = the first."""
    least_accuracy: float = 0.5
    least_coherent: float = 0.5
    rival: str = ""
    """Model that every candidate has to beat: R-SFT trained as long as R-SFT and HS-DPO together. "" = no such gate."""


@dataclass(frozen=True)
class About:
    """Where the rows are from, and what a reader must know."""

    data: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    overrides: list[dict[str, Any]] = field(default_factory=list)


def build_report(kind: str, predictions: Sequence[Prediction], models: Sequence[Model], options: Options, about: About,
                 hard: HardSubset | None = None) -> dict[str, Any]:
    """The whole report; every number is an Interval or comes with its n. `hard`: the rows chosen as hard, where they were."""
    by_model = {model.ref: [item for item in predictions if item.model == model.ref] for model in models}
    tasks = {task: _task(task, by_model, models, options) for task in TASKS if of_task(predictions, task)}
    section = None
    if hard:
        references: dict[Task, str] = {task: found["reference"] for task, found in tasks.items()}
        section = hard_section(hard, by_model, {model.ref: model.title for model in models}, references, options.seed)
    gates = [gate for model in models
             for gate in [*_gates(model, by_model[model.ref], options), *_paired(model, by_model, models, options),
                          *_seeds(model, by_model, models, options, tasks, section)]]
    return {"kind": kind, "headline": headline(tasks, options.policy), "policy": options.policy, "seed": options.seed, "data": about.data,
            "reference": options.reference or models[0].ref, "tasks": tasks, **({"hard_subset": section} if section else {}),
            "gates": gates, "overrides": about.overrides, "notes": about.notes}


def _task(task: Task, by_model: dict[str, list[Prediction]], models: Sequence[Model], options: Options) -> dict[str, Any]:
    answers = {ref: rows for ref, items in by_model.items() if (rows := of_task(items, task))}
    widest = max(answers.values(), key=len)
    gold = [getattr(item.gold, task) for item in widest]
    reference = options.reference if options.reference in answers else next(iter(answers))
    return {
        "rows": len(widest), "positive": POSITIVE[task], "negative": NEGATIVE[task],
        "gold": {label: gold.count(label) for label in (POSITIVE[task], NEGATIVE[task])},
        "reference": reference,
        "models": [_entry(model, answers[model.ref], task, options.seed) for model in models if model.ref in answers],
        "baselines": [baseline(widest, task, options.seed)] if options.baselines else [],
        "comparisons": [line for ref in answers if ref != reference
                        for line in compare(answers[reference], answers[ref], task, options.seed)],
    }


def _entry(model: Model, rows: list[Prediction], task: Task, seed: int) -> dict[str, Any]:
    counted = [item.tokens for item in rows if item.tokens]
    return {
        "model": model.ref, "title": model.title, "prompt_format": model.prompt_format, "rows": len(rows),
        "scores": score_all(rows, task, seed),
        "by_source": breakdown(rows, task, "source", seed), "by_category": breakdown(rows, task, "category", seed),
        "coherent": coherent_rate(rows).model_dump(mode="json"), "incoherent_why": count_reasons(item.incoherent_why for item in rows),
        "tokens_mean": round(sum(counted) / len(counted), 1) if counted else None, "length": answer_lengths(rows, seed),
        "seconds": model.seconds, "seconds_rows": model.seconds_rows,
        "seen": _seen(model, rows, task, seed), **({"sweep": found} if (found := sweep(rows, task, seed)) else {}),
    }


def coherent_rate(rows: Sequence[Prediction]) -> Interval:
    """Share of coherent reasonings among the answers that should reason."""
    judged = [item.coherent for item in rows if item.coherent is not None]
    return wilson(sum(judged), len(judged))


def _seen(model: Model, rows: list[Prediction], task: Task, seed: int) -> dict[str, Any]:
    fresh = [item for item in rows if not item.seen_in_training]
    return {"rows": len(rows) - len(fresh), "runs": list(model.trained_runs),
            "scores_without": score_all(fresh, task, seed) if 0 < len(fresh) < len(rows) else None}


def _gates(model: Model, rows: list[Prediction], options: Options) -> list[dict[str, Any]]:
    accuracy = {task: score(asked, task, options.policy, options.seed).accuracy for task in TASKS if (asked := of_task(rows, task))}
    return go_no_go(model.ref, accuracy, coherent_rate(rows), least_accuracy=options.least_accuracy, least_coherent=options.least_coherent,
                    reasons=model.reasons)


def _paired(model: Model, by_model: dict[str, list[Prediction]], models: Sequence[Model], options: Options) -> list[dict[str, Any]]:
    """Is it more accurate than the reference, and than always answering the positive class?"""
    reference = next((one for one in models if one.ref == (options.reference or models[0].ref)), models[0])
    gates = []
    for task in TASKS:
        mine, theirs = of_task(by_model[model.ref], task), of_task(by_model[reference.ref], task)
        if mine and theirs and model is not reference:
            line = next((line for line in compare(theirs, mine, task, options.seed) if line["policy"] == "strict"), None)
            if line and line["mcnemar"]:
                difference = Interval.model_validate(line["accuracy_difference"])
                gates.append(better_than(model.ref, task, reference.title, line["mcnemar"]["p_value"], difference))
        if mine and options.baselines:
            test, difference = against_always(mine, task, options.seed)
            gates.append(better_than(model.ref, task, f"always {POSITIVE[task]}", test.p_value, difference))
    return gates


def _seeds(model: Model, by_model: dict[str, list[Prediction]], models: Sequence[Model], options: Options,
           tasks: dict[Task, dict[str, Any]], section: dict[str, Any] | None) -> list[dict[str, Any]]:
    """What the seeds ask of a model that was trained on from the reference; for every model but the reference and the rival.

    Paired differences under the strict policy, where an unreadable answer is a wrong one and every row is paired.
    """
    titles = {one.ref: one.title for one in models}
    gates = []
    for task, found in tasks.items():
        if model.ref in (found["reference"], options.rival) or not (section or options.rival):
            continue
        overall = _strict(found["comparisons"], found["reference"], model.ref)
        if section and task in section["tasks"]:
            on_hard = _strict(section["tasks"][task]["comparisons"], found["reference"], model.ref)
            difference, test = (on_hard["accuracy_difference"], on_hard["mcnemar"]) if on_hard else (_NO_ROWS, None)
            gates.append(hard_gain(model.ref, task, titles[found["reference"]], Interval.model_validate(difference), test))
        if overall:
            difference = Interval.model_validate(overall["accuracy_difference"])
            gates.append(overall_kept(model.ref, task, titles[found["reference"]], difference))
        if options.rival and options.rival != found["reference"]:
            line = _strict(compare(of_task(by_model[options.rival], task), of_task(by_model[model.ref], task), task, options.seed),
                           options.rival, model.ref)
            if line:
                difference = Interval.model_validate(line["accuracy_difference"])
                gates.append(better_than(model.ref, task, titles[options.rival], line["mcnemar"]["p_value"], difference))
    return gates


_NO_ROWS: dict[str, Any] = {"value": None, "low": None, "high": None, "n": 0}


def _strict(comparisons: Sequence[dict[str, Any]], reference: str, model: str) -> dict[str, Any] | None:
    """The comparison of two models under the strict policy, if they have rows in common."""
    wanted = (reference, model, "strict")
    return next((line for line in comparisons if (line["a"], line["b"], line["policy"]) == wanted and line["mcnemar"]), None)


def headline(tasks: dict[Task, dict[str, Any]], policy: Policy) -> str:
    """One line for the runs table: one model's F1 with its interval, two models and their p, or the span of several."""
    if not tasks:
        return ""
    task = next(iter(tasks.values()))
    scores = [entry["scores"][policy]["f1"] for entry in task["models"]]
    if len(scores) == 1:
        return "F1 " + interval_words(scores[0])
    values = [share_words(item["value"]) for item in scores]
    if len(values) == 2:
        p = next((line["mcnemar"]["p_value"] for line in task["comparisons"] if line["policy"] == policy and line["mcnemar"]), None)
        return f"F1 {values[0]} and {values[1]}" + (f" (McNemar p {p_words(p)})" if p is not None else "")
    known = sorted(item["value"] for item in scores if item["value"] is not None)
    return f"{len(values)} models" + (f", F1 {share_words(known[0])} to {share_words(known[-1])}" if known else "")


def headline_stats(report: dict[str, Any]) -> dict[str, str]:
    """The few numbers of the run card: the first task's one model in some detail, or the F1 of each."""
    task = next(iter(report["tasks"].values()), None)
    if task is None:
        return {}
    entries = task["models"]
    scores = [entry["scores"][report["policy"]] for entry in entries]
    if len(entries) > 1:
        return {entry["title"]: "F1 " + interval_words(score["f1"]) for entry, score in zip(entries, scores, strict=True)}
    gate = next((gate["verdict"] for gate in report["gates"] if gate["name"] == "go/no-go"), "")
    return {"F1": interval_words(scores[0]["f1"]), "Accuracy": interval_words(scores[0]["accuracy"]),
            "Unparsed": share_words(scores[0]["unparsed"]["value"]) + " %", "Go/no-go": gate}


def answer_notes(predictions: Sequence[Prediction]) -> list[str]:
    """What a reader must know about the answers themselves."""
    empty = sum(item.finish == "length" and not item.tokens for item in predictions)
    cut = sum(item.finish == "length" and item.tokens > 0 for item in predictions)
    notes = [f"{plural(empty, 'prompt')} did not fit into the model's context; each counts as an unreadable answer."] if empty else []
    return [*notes, f"{plural(cut, 'answer')} reached the token limit."] if cut else notes


def interval_words(interval: dict[str, Any]) -> str:
    """"77.3 (72.4–81.6)"."""
    if interval["value"] is None:
        return f"undefined (n = {interval['n']})"
    return f"{share_words(interval['value'])} ({share_words(interval['low'])}–{share_words(interval['high'])})"


def share_words(value: float | None) -> str:
    """"77.3" of 0.773."""
    return "undefined" if value is None else f"{100 * value:.1f}"


def p_words(p: float) -> str:
    """"< 0.001", "0.04", "0.21"."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.01 else f"{p:.2f}"
