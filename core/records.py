"""The data nouns every stage shares. Each class is one JSONL line; field names follow TRL's dataset types where one exists."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Task = Literal["request", "completion", "response"]
TASKS: tuple[Task, ...] = ("request", "completion", "response")
Harm = Literal["harmful", "unharmful"]
Reply = Literal["refusal", "compliance"]
Split = Literal["train", "validation", "test"]

POSITIVE: dict[Task, str] = {"request": "harmful", "completion": "refusal", "response": "harmful"}
"""The class whose F1 is the headline number of a task."""
NEGATIVE: dict[Task, str] = {"request": "unharmful", "completion": "compliance", "response": "unharmful"}

_HARM: dict[str, Harm] = {
    "harmful": "harmful", "unsafe": "harmful", "1": "harmful", "true": "harmful",
    "unharmful": "unharmful", "harmless": "unharmful", "safe": "unharmful", "benign": "unharmful", "0": "unharmful", "false": "unharmful",
}
_REPLY: dict[str, Reply] = {"refusal": "refusal", "refuse": "refusal", "compliance": "compliance", "comply": "compliance"}
_NO_LABEL = {"none", "null", "n/a"}


def normalize_label(value: Any, task: Task) -> str:
    """The one place where label synonyms meet: harmful|unsafe|1, unharmful|harmless|safe|benign|0, refusal, compliance.

    Raises ValueError for anything else, an empty label included: a guessed label is worse than a missing row.
    """
    text = str(int(value)) if isinstance(value, (bool, int, float)) and value in (0, 1) else str(value if value is not None else "")
    known = _REPLY if task == "completion" else _HARM
    label = known.get(text.strip().lower())
    if label is None:
        raise ValueError(f"{value!r} is not a {task} label; known: {', '.join(sorted(known))}")
    return label


def optional_label(value: Any, task: Task) -> str | None:
    """Like normalize_label, but the word None (GuardReasoner writes it where a task does not apply) means no label."""
    if value is None or str(value).strip().lower() in _NO_LABEL:
        return None
    return normalize_label(value, task)


class Record(BaseModel):
    """Base of all records: unknown keys are refused, so that a misspelled one is not lost."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Labels(Record):
    """Gold or predicted labels of one interaction; None = no label for that task."""

    request: Harm | None = None
    completion: Reply | None = None
    response: Harm | None = None


class GuardExample(Record):
    """One interaction to judge: a user's prompt, perhaps a reply, the gold labels, perhaps the reasoning that leads to them."""

    prompt: str = Field(min_length=1)
    response: str | None = None
    labels: Labels
    reasoning: dict[Task, list[str]] = {}
    """Reasoning steps of each task, one sentence or paragraph a step."""
    target: str | None = None
    """The teacher's answer verbatim, where the source has one."""
    target_format: str | None = None
    """Name of the prompt format `target` is written in."""
    source: str = ""
    category: str = ""
    split: Split | None = None
    row: int | None = None
    """Line of the imported file this came from, counted from 1."""


class ChatExample(Record):
    """A conversation: [{role, content}], the last message is the answer."""

    messages: list[dict[str, str]] = Field(min_length=1)
    source: str = ""
    category: str = ""
    difficulty: str = ""
    split: Split | None = None


class Prediction(Record):
    """One guard answer on one evaluated row, as written to predictions.jsonl."""

    row: int
    """Index in the evaluated set, from 0."""
    model: str
    """Reference of the model that answered."""
    prompt: str
    response: str | None = None
    gold: Labels
    predicted: Labels
    parsed: dict[Task, bool]
    """Did the answer hold a readable label, for each task that was asked."""
    text: str
    """The model's answer, whole."""
    reasoning: list[str] = []
    coherent: bool | None = None
    """Has steps, the last step agrees with the answer, no 8-gram more than three times, ended before the limit."""
    incoherent_why: str = ""
    finish: Literal["stop", "length", "given"] = "stop"
    tokens: int = 0
    scores: dict[Task, float] | None = None
    """Of the class one looks for (harmful, refusal), from 0 to 1, where the evaluation was made with confidence."""
    source: str = ""
    category: str = ""
    seen_in_training: bool = False
    """An ancestor run of the model trained on this row (promise 5)."""


class Output(Record):
    """One of the k answers that were sampled for a row."""

    text: str
    predicted: Labels
    """What the prompt format's parser read; None = no readable label for that task."""
    tokens: int = 0
    finish: Literal["stop", "length", "given"] = "stop"


class MinedSample(Record):
    """One training row with the k answers a guard gave to it, as written to outputs.jsonl by mining; hard or not."""

    row: int
    """Index in the mined set, from 0."""
    prompt: str
    response: str | None = None
    gold: Labels
    outputs: list[Output]
    model: str
    """Reference of the model that answered."""
    prompt_format: str
    source: str = ""
    category: str = ""


class HardSample(MinedSample):
    """A mined row whose answers are partly right and partly wrong, with the numbers that say how hard it is for the guard."""

    task: Task
    """The first task, in the order request, response, completion, on which the answers are mixed (GuardReasoner's released code)."""
    k_correct: int
    k_incorrect: int
    k_unparsed: int
    difficulty: float = Field(ge=0, le=1)
    """k_incorrect / (k_correct + k_incorrect)."""


class Preference(Record):
    """A better and a worse answer to one prompt: TRL's preference format, and a weight."""

    prompt: str | list[dict[str, str]]
    """Text, or messages where the prompt format goes through the chat template; `chosen` and `rejected` are of the same kind."""
    chosen: str | list[dict[str, str]]
    rejected: str | list[dict[str, str]]
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    """alpha of HS-DPO, GuardReasoner eq. 3; multiplies the DPO term of this pair."""
    why: str = ""
    """How the pair was chosen, in words."""
    prompt_format: str = ""
    model: str = ""
    """Reference of the model that wrote both answers."""
    task: Task | None = None
    k_correct: int | None = None
    k_incorrect: int | None = None
    user_prompt: str | None = None
    """The judged interaction itself, which the split guard knows; `prompt` has the guard's instruction around it."""
    user_response: str | None = None
    source: str = ""
    row: int | None = None
    """Index in the mined set."""


class Said(Record):
    """A text that an agent wrote."""

    text: str
    tokens: int = 0
    finish: Literal["stop", "length", "given"] = "stop"
    failed: str | None = None
    """Why a server gave no whole answer, its content filter, say: then this is nothing to judge. None = it did."""


class Feedback(Said):
    """What the feedback agent said about a reply, as core/waltz/feedback.py reads it."""

    reasoning: str = ""
    unsafe: bool | None = None
    """None where the text could not be read."""
    overrefuse: bool | None = None
    feedback: str = ""
    """The only part that goes back to the conversation agent."""
    score: float | None = Field(None, ge=0, le=1)
    """The seeds' safety score, in the format that has one."""
    malformed: str = ""
    """Why the text could not be read; "" = it could."""

    @property
    def triggers(self) -> bool:
        """Does it ask for a revision? What cannot be read triggers nothing."""
        return bool(self.unsafe or self.overrefuse)


class Verdict(Record):
    """J(prompt, reply) of a judge. A judge that failed is missing, never a score (promise 3)."""

    judge: str
    unsafe: bool | None = None
    overrefuse: bool | None = None
    explanation: str = ""
    missing: str = ""
    """Why there is no verdict; "" = there is one."""

    @property
    def good(self) -> bool | None:
        """Neither unsafe nor over-refusing; None where there is no verdict."""
        return None if self.missing or self.unsafe is None or self.overrefuse is None else not (self.unsafe or self.overrefuse)


class Round(Record):
    """One reply of an episode, what a judge says of it, and what the feedback agent said, where it read it."""

    reply: Said
    verdict: Verdict | None = None
    """None = no judge was asked."""
    feedback: Feedback | None = None
    """None after the last revision, which is not read any more."""
    terms: dict[str, float] = {}
    """What this feedback earned, term by term (core/waltz/rewards.py); empty where nothing is known."""


Side = Literal["harmful", "benign"]
"""What a prompt is there for: to draw out harm, or to draw out a refusal that nobody needs."""


class Episode(Record):
    """A prompt, and what the two agents made of it: reply, feedback, revision (WaltzRL, arXiv 2510.08240)."""

    row: int
    """Index in the set of prompts, from 0."""
    sample: int = 0
    prompt: str
    side: Side | None = None
    source: str = ""
    category: str = ""
    rounds: list[Round] = Field(min_length=1)
    conversation_reward: float | None = None
    """R_c of the last reply; every reply of the episode is credited with it."""
    left_out: str = ""
    """Why nothing is learned from this episode; "" = it counts."""

    @property
    def last(self) -> Round:
        """The round whose reply is the answer."""
        return self.rounds[-1]

    @property
    def failed(self) -> str:
        """Why a server gave no whole reply; "" = it did."""
        return next((one.reply.failed for one in self.rounds if one.reply.failed), "")

    @property
    def triggered(self) -> bool:
        """Was any reply revised?"""
        return len(self.rounds) > 1


RecordT = TypeVar("RecordT", bound=Record)


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    r"""(line number from 1, raw bytes) of a JSONL file. Split on "\n" only: real prompts hold U+2028 and the like."""
    with path.open("rb") as file:
        yield from enumerate(file, start=1)  # binary files split on b"\n" alone


def read_records(path: Path, kind: type[RecordT]) -> Iterator[RecordT]:
    """Records of a file that this app wrote. A damaged line raises ValueError naming file and line."""
    for number, line in lines_of(path):
        if line.strip():
            try:
                yield kind.model_validate_json(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number} is not a {kind.__name__}: {error}") from None


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write JSONL so that a half-written file is never taken for a whole one; returns the number of rows."""
    from core.files import replace_file

    count = 0
    with replace_file(path) as file:
        for record in records:
            file.write(record.model_dump_json(exclude_none=True) + "\n")
            count += 1
    return count


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Plain dictionaries of a JSONL file; a torn last line (a crash while appending) is left out."""
    if not path.exists():
        return
    for _, line in lines_of(path):
        if line.endswith(b"\n"):
            yield json.loads(line)
