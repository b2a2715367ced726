"""What stands against an evaluation before it starts: settings that do not go together, models that cannot be asked."""

from __future__ import annotations

from typing import Any

from core.evals.asking import Plan
from core.evals.confident import cannot_be_scored, confidence_problems
from core.evals.questions import has_official_rule
from core.evals.rows import Chosen
from core.methods import Problem

NO_CHOOSER = ("hard_subset needs a model whose samples choose the hard rows, and none of the models is a run: model; "
              "name one with hard_model (the R-SFT run).")


def chooser_of(config: Any) -> str:
    """The model that chooses the hard rows; "" where none is named and no run is among the models."""
    return config.hard_model or next((model for model in config.models if model.startswith("run:")), "")


def contradictions(config: Any) -> list[Problem]:
    """Settings that do not go together."""
    if config.predictions and config.models:
        return [Problem("Both models and predictions are given; evaluate the one or the other.", "predictions", fix={"predictions": ""},
                        fix_label="Ask the models")]
    if not config.predictions and not config.models:
        return [Problem("Nothing to evaluate: give models, or a file of predictions.", "models")]
    if config.models and not config.data:
        return [Problem("No rows to ask about: give data, an imported set with gold labels.", "data")]
    for field in ("reference", "rival"):
        if (named := getattr(config, field)) and config.models and named not in config.models:
            return [Problem(f"{field} = {named} is none of the models ({', '.join(config.models)}).", field)]
    if config.predictions and (config.hard_subset or config.rival):
        field = "hard_subset" if config.hard_subset else "rival"
        return [Problem(f"{field} needs models that can be asked; a file of predictions holds one answer a row.", field,
                        fix={field: 0 if field == "hard_subset" else ""}, fix_label="Leave it out")]
    if config.rival and config.rival == (config.reference or config.models[0]):
        return [Problem(f"rival = {config.rival} is the reference, too; each model is compared with the reference anyway.", "rival",
                        fix={"rival": ""}, fix_label="No rival")]
    return confidence_problems(config)


def plan_problems(plan: Plan, chosen: Chosen, config: Any) -> list[Problem]:
    """What stands against asking this model about these rows."""
    problems, asked = [], plan.prompt_format
    if config.parse_rule == "official" and not has_official_rule(asked):
        problems.append(Problem(f"parse_rule = official: {asked.name}, in which {plan.ref} answers, has no official rule.", "parse_rule",
                                fix={"parse_rule": "ours"}, fix_label="Use ours"))
    if plan.ref.startswith("openai:") and any(asked.choices(question.example) for question in plan.questions):
        problems.append(Problem(f"{plan.ref} would be asked in {asked.name}, which takes the likelier of two labels, and a server does not "
                                "tell how likely they are; name the format it answers in.", "prompt_format"))
    if why := cannot_be_scored(plan, config):
        problems.append(Problem(f"confidence = {config.confidence}: {why}", "confidence", fix={"confidence": "none"},
                                fix_label="No confidence"))
    if not plan.questions:
        labels = ", ".join(chosen.tasks)
        problems.append(Problem(f"{plan.ref} answers in {asked.name}, which gives no label that the rows have ({labels}).", "prompt_format",
                                severity="warning" if len(config.models) > 1 else "error"))
    if seen := sum(plan.trained.holds(row.prompt) for row in chosen.rows):
        problems.append(Problem(f"{plan.ref} or an ancestor of it was trained on {seen} of the {len(chosen.rows)} rows; the report gives "
                                "the numbers with and without them.", "data", severity="warning"))
    return problems


def field_of(message: str, default: str) -> str:
    """Which field a sentence is about."""
    for field in ("prompt_format", "split", "task"):
        if message.startswith(f"{field} =") or f"choose another {field}" in message:
            return field
    return default
