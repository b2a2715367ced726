"""An evaluation's answers with a score for each label: asked as the guard service asks (core/guard), so a threshold found here holds there.

log-prob: the likeliest answer, and how likely its labels are. vote: k samples; the label is what most of the readable ones say.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from core.evals.questions import answer
from core.guard.schema import How
from core.methods import Problem, UserError
from core.records import Prediction

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.evals.asking import Asking, Plan

AT_ONCE = 128
"""Questions whose answers are written before they are scored; what a killed run loses at most."""
VOTE_TEMPERATURE = 1.0
"""Where the evaluation says 0, at which nothing could differ."""


def confident_answers(plan: Plan, how: Asking, todo: list[int], run: ActiveRun) -> Iterator[Prediction]:
    """Answers with `scores`, as they become ready. May end early when the run is stopped."""
    from core.guard.classify import Guard

    vote = how.confidence == "vote"
    asked = How(confidence=how.confidence, samples=how.confidence_samples, temperature=how.temperature or VOTE_TEMPERATURE,
                top_p=how.top_p, max_new_tokens=how.max_new_tokens, seed=how.seed)
    engine = "own" if how.engine == "auto" and not vote else how.engine  # log-probabilities need the weights
    run.log(f"loading {plan.ref}")
    with Guard(plan.ref, run.workspace, prompt_format=plan.prompt_format.name, device=how.device, dtype=how.dtype, engine=engine,
               quantization=None if how.quantization == "none" else how.quantization, log=run.log) as guard:
        for some in (todo[first:first + AT_ONCE] for first in range(0, len(todo), AT_ONCE)):
            for number, part in guard.parts({number: plan.questions[number] for number in some}, asked, run.should_stop):
                question = plan.questions[number]
                if isinstance(part, UserError):  # too long for the context
                    yield answer(question, plan.ref, "", plan.prompt_format, finish="length")
                else:
                    read = {task: getattr(part.labels, task) is not None for task in question.tasks}
                    yield part.spoken.model_copy(update={"predicted": part.labels, "parsed": read, "scores": part.scores or None})
            if run.should_stop():
                return


def confidence_problems(config: Any) -> list[Problem]:
    """Settings that do not go with scores."""
    if config.confidence == "none":
        return []
    if config.predictions:
        return [Problem("confidence needs models that can be asked; a file of predictions holds no scores.", "confidence",
                        fix={"confidence": "none"}, fix_label="No confidence")]
    if config.parse_rule == "official":
        return [Problem("confidence reads labels by the parser of the prompt format; parse_rule = official does not go with it.",
                        "parse_rule", fix={"parse_rule": "auto"}, fix_label="Use ours")]
    if config.confidence == "log-prob" and config.temperature:
        return [Problem(f"confidence = log-prob looks at the likeliest answer, and temperature is {config.temperature:g}; set it to 0, or "
                        "take vote.", "temperature", fix={"temperature": 0.0}, fix_label="Set it to 0")]
    return []


def cannot_be_scored(plan: Plan, config: Any) -> str:
    """Why this model's labels get no scores; "" = they do."""
    if config.confidence == "vote" and any(plan.prompt_format.choices(question.example) for question in plan.questions):
        return f"{plan.ref} is asked in {plan.prompt_format.name}, where nothing is sampled, so there is no vote; take log-prob."
    if config.confidence == "log-prob" and (plan.ref.startswith("openai:") or config.engine in ("vllm", "server")):
        return (f"log-probabilities of labels need the weights of {plan.ref} in this process; take vote, or engine = own where the weights "
                "are here.")
    return ""
