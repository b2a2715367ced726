"""One conversation: read from a file, judged by its shape, and what is asked and answered in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from core.records import ChatExample
from core.rows import BadRow, Row, read_rows
from core.waltz.feedback import question, read_feedback

Agent = Literal["conversation", "feedback"]
ROLES = ("system", "user", "assistant")
_OPENING, _MIDDLE, _ = question("\0", "\0").split("\0")
"""The words of core/waltz/feedback.py around the prompt and the reply that the feedback agent is asked about."""


class Asked(NamedTuple):
    """What a conversation is about: the user's prompt, and the reply to judge where the row is the feedback agent's."""

    prompt: str
    reply: str | None


def read_chat(path: Path) -> Iterator[tuple[int, ChatExample | BadRow]]:
    """(line, conversation or bad row) of a file, in order. Columns that are none of ours are passed over."""
    for row in read_rows(path):
        yield row.line, row if isinstance(row, BadRow) else _example(row, path.name)


def _example(row: Row, file: str) -> ChatExample | BadRow:
    turns = row.values.get("messages")
    if not isinstance(turns, list) or not turns:
        return BadRow(file, row.line, "messages", "is missing or empty" if not turns else "is not a list")
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, Mapping) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
            return BadRow(file, row.line, "messages", f"message {number} has no role and content as texts")
    about = {key: row.values[key] for key in ("source", "category", "difficulty", "split") if row.values.get(key) is not None}
    try:
        return ChatExample(messages=[{"role": turn["role"], "content": turn["content"]} for turn in turns], **about)
    except ValueError:
        return BadRow(file, row.line, "", f"source, category, difficulty or split is not as it should be: {about}"[:300])


def shape_problem(messages: Sequence[Mapping[str, str]]) -> str:
    """Why nothing can be learned from these messages; "" = it can. Perhaps a system message, then user and assistant by turns."""
    roles = [message["role"] for message in messages]
    if unknown := next((role for role in roles if role not in ROLES), None):
        return f"the role {unknown!r} is none of {', '.join(ROLES)}"
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if "system" in spoken:
        return "a system message stands behind others"
    if roles[-1:] != ["assistant"]:
        return "the last message is not the assistant's"
    if any(role != ("user", "assistant")[place % 2] for place, role in enumerate(spoken)):
        return f"user and assistant do not take turns: {', '.join(spoken)}"
    empty = next((number for number, message in enumerate(messages, start=1) if not message["content"].strip()), None)
    return f"message {empty} ({roles[empty - 1]}) is empty" if empty else ""


def answer_of(example: ChatExample) -> str:
    """What is learned: the last message."""
    return example.messages[-1]["content"]


def agent_of(example: ChatExample) -> Agent:
    """Whose row this is: the feedback agent's where the answer reads as feedback in one of its formats."""
    return "conversation" if read_feedback(answer_of(example)).malformed else "feedback"


def asked(example: ChatExample) -> Asked:
    """The user's prompt, taken out of the question where the row is the feedback agent's."""
    first = next((message["content"] for message in example.messages if message["role"] == "user"), "")
    if first.startswith(_OPENING) and _MIDDLE in first:
        prompt, _, reply = first.removeprefix(_OPENING).partition(_MIDDLE)
        return Asked(prompt, reply)
    return Asked(first, None)


def conversation(system: str, prompt: str, answer: str, **about: Any) -> ChatExample:
    """System, user, assistant; without a system message where it is empty."""
    turns = [("system", system), ("user", prompt), ("assistant", answer)]
    return ChatExample(messages=[{"role": role, "content": content} for role, content in turns if content or role != "system"], **about)
