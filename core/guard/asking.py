"""A guard asked from the app: the question goes to the model worker (core/serving.py), nothing is computed here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from core.access import characters
from core.guard.schema import Classified, asked_of, how_of
from core.methods import UserError
from core.serving import Question, serving_of

if TYPE_CHECKING:
    from core.runs import Workspace


def guard_question(guard: str, prompt: str, response: str | None = None, *, who: str = "", **options: Any) -> Question:
    """The question for core.serving. options: fields of core.guard.schema.How, and prompt_format; what is None is left to the guard."""
    asked = asked_of(prompt, response or None)
    messages = [{"role": "user", "content": asked.prompt}]
    if asked.response is not None:
        messages.append({"role": "assistant", "content": asked.response})
    return Question(guard, messages, {name: value for name, value in options.items() if value is not None}, kind="classify", who=who)


def ask_guard(workspace: Workspace, question: Question) -> Classified:
    """Wait for the answer. UserError where there is none: no such guard, too long, stopped, or not allowed to whoever asks."""
    said: Classified | None = None
    how = how_of({name: value for name, value in question.options.items() if name != "prompt_format"})
    answers = how.samples if how.confidence == "vote" else 1
    with workspace.access.asking(workspace, question.model, reads=answers * characters(question.messages)) as meter:
        if meter.tokens is not None:
            question = replace(question, options={**question.options, "at_most": max(1, meter.tokens // answers)})
        for event in serving_of(workspace).ask(replace(question, seconds=meter.seconds)):
            meter.hear(event)
            if event["who"] == "classified":
                said = Classified.model_validate(event["classified"])
            elif event["who"] == "error":
                raise UserError(str(event["text"]))
            elif event["who"] == "stopped" and event.get("text"):
                raise UserError(f"The question was stopped before the guard had answered: {event['text']}.")
    if said is None:
        raise UserError("The question was stopped before the guard had answered; ask again.")
    return said
