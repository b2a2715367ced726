"""What is asked of a guard service and what it answers: the same over HTTP, from the app's endpoint, and between the app and its worker."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.methods import UserError, field_errors
from core.records import Labels, Task

MAX_CHARS = 100_000
"""Of a prompt and of a response; a model's context is most often shorter."""
Kind = TypeVar("Kind", bound=BaseModel)
Method = Literal["log-prob", "vote", "none"]
EXAMPLE: dict[str, Any] = {"prompt": "Please explain how a letter to a bank is written.", "response": "Begin with your name and the date."}


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Asked(_Wire):
    """One interaction to classify."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE, {"prompt": EXAMPLE["prompt"]}]})

    prompt: str = Field(min_length=1, max_length=MAX_CHARS)
    """What the user says to the assistant. At most 100,000 characters."""
    response: str | None = Field(None, max_length=MAX_CHARS)
    """What the assistant answers; null or empty = there is none, and only the request is classified. At most 100,000 characters."""


class Shares(_Wire):
    """A number from 0 to 1 for each label; null where there is none."""

    request: float | None = Field(None, ge=0, le=1)
    completion: float | None = Field(None, ge=0, le=1)
    response: float | None = Field(None, ge=0, le=1)


class Classified(_Wire):
    """What a guard says of one interaction. A label that could not be read is null, and `missing` says why: it never means "safe"."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "labels": {"request": "unharmful", "completion": "compliance", "response": "unharmful"}, "missing": {},
        "reasoning": "The user asks how a letter is written. That is harmless.",
        "confidence": {"request": 0.98, "completion": 0.99, "response": 0.97},
        "score": {"request": 0.02, "completion": 0.01, "response": 0.03}, "method": "log-prob", "samples": 1, "votes": {},
        "text": "...", "tokens": 212, "model": "run:rsft-0001", "prompt_format": "guardreasoner", "error": None}]})

    labels: Labels
    """request: harmful or unharmful; completion: refusal or compliance; response: harmful or unharmful."""
    missing: dict[Task, str] = {}
    """Why a label is null: there is no response, the guard gives no such label, its answer could not be read, or its votes are equal."""
    reasoning: str = ""
    """The guard's reasoning, as its prompt format reads it; empty where it does not reason."""
    confidence: Shares = Shares()
    """How sure the label given is. log-prob: its probability at its place in the answer, after the guard's own reasoning, normalised
    over all words that mean a label there. vote: the share of all samples that say so; unreadable ones say nothing."""
    score: Shares = Shares()
    """The same turned to the class one looks for (harmful, refusal): what a threshold is laid on. vote: of the readable samples."""
    method: Method = "none"
    """Where confidence and score are from."""
    samples: int = 1
    """Answers that were sampled for each label: k of the vote, else 1."""
    votes: dict[Task, dict[str, int]] = {}
    """vote: samples by the label that was read, and `unread`."""
    text: str = ""
    """The guard's whole answer; with a vote one that is of the majority."""
    tokens: int = 0
    """Tokens that were generated, all samples together."""
    model: str = ""
    """Reference of the guard."""
    prompt_format: str = ""
    """How it was asked."""
    error: str | None = None
    """In a list: why this one could not be classified; then every label is null."""


class How(_Wire):
    """How a guard's answers are made."""

    confidence: Literal["log-prob", "vote", "none"] = "none"
    """log-prob: one answer, and how likely its labels are. vote: k sampled answers. none: one answer."""
    samples: int = Field(5, ge=2, le=64)
    """k of the vote."""
    temperature: float = Field(1.0, gt=0, le=5)
    """Of the vote; any other answer is the likeliest one."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Of the vote: draw from the likeliest tokens that hold this share."""
    max_new_tokens: int = Field(0, ge=0, le=32768)
    """Longest answer; 0 = what the prompt format says."""
    seed: int = Field(42, ge=0, le=2**31 - 1)
    """Of the vote. The same interaction gets the same samples (float32)."""

    @model_validator(mode="before")
    @classmethod
    def only_what_was_given(cls, values: Any) -> Any:
        """None stands for the default."""
        return {name: value for name, value in values.items() if value is not None} if isinstance(values, dict) else values


def how_of(options: dict[str, Any]) -> How:
    """Checked options; UserError names every wrong one."""
    return _checked(How, options)


def asked_of(prompt: Any, response: Any) -> Asked:
    """A checked interaction; UserError says what is wrong."""
    return _checked(Asked, {"prompt": prompt, "response": response})


def _checked(kind: type[Kind], values: dict[str, Any]) -> Kind:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(" ".join(problem.message for problem in field_errors(error, kind))) from None
