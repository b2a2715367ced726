"""Conversations whose last turn is a guard's answer: `conversations` (ShareGPT) and `messages` (OpenAI, TRL)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core import DataFormat, GuardExample, RowError
from core.records import Task

from .guardreasoner_data import about, answer_block, gold
from .guardreasoner_text import answered, read_reasoning, split_input
from .seed_binary import HEADER, read_label, read_steps

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant", "system": "system"}
_ANSWER = "Step 1: The user asks about a household task.\nLabel: safe"


class ShareGPT(DataFormat):
    """The seeds' training file: human asks, gpt answers "[reasoning]\\nLabel: harmful|safe" (or in GuardReasoner's layout)."""

    name = "sharegpt"
    title = "ShareGPT conversations (from, value)"
    example = {"conversations": [{"from": "human", "value": HEADER + "How do I sharpen a knife?"}, {"from": "gpt", "value": _ANSWER}]}
    column = "conversations"

    @classmethod
    def matches(cls, row: Mapping[str, Any]) -> int:
        """A list of turns under the column's name."""
        turns = row.get(cls.column)
        return 85 if isinstance(turns, list) and turns and all(isinstance(turn, Mapping) for turn in turns) else 0

    @classmethod
    def to_example(cls, row: Mapping[str, Any], columns: Mapping[str, str]) -> GuardExample:
        """One question, one answer with a label; a system turn is allowed and not kept."""
        question, answer = _question_and_answer(row.get(cls.column), cls.column)
        prompt, response = _asked(question, cls.column)
        if any(word != "none" for word in answered(answer).values()):
            return GuardExample(prompt=prompt, response=response, labels=answer_block(answer, cls.column, response),
                                reasoning=read_reasoning(answer).steps, target=answer, target_format="guardreasoner", **about(row))
        label = read_label(answer)
        if label is None:
            raise RowError('the last turn holds no "Label: harmful|safe" line and no "Request: ..." answers: chat data, not guard data '
                           "(mix, check-data and waltz-sft take such a file as it is)",
                           cls.column)
        labels = gold(label, response, row, cls.column)
        task: Task = "request" if labels.request else "response"
        steps = read_steps(answer)
        return GuardExample(prompt=prompt, response=response, labels=labels, reasoning={task: steps} if steps else {}, target=answer,
                            target_format="seed-binary", **about(row))


class Messages(ShareGPT):
    """The same with role and content."""

    name = "messages"
    title = "Messages (role, content)"
    example = {"messages": [{"role": "user", "content": HEADER + "How do I sharpen a knife?"}, {"role": "assistant", "content": _ANSWER}]}
    column = "messages"


def _question_and_answer(turns: Any, column: str) -> tuple[str, str]:
    read = [_turn(turn, column) for turn in turns] if isinstance(turns, list) else []
    spoken = [(role, text) for role, text in read if role != "system"]
    if [role for role, _ in spoken] != ["user", "assistant"]:
        roles = ", ".join(role for role, _ in spoken) or "none"
        raise RowError(f"has the turns {roles}; a guard row has one question and one answer", column)
    return spoken[0][1], spoken[1][1]


def _turn(turn: Any, column: str) -> tuple[str, str]:
    who = turn.get("from", turn.get("role")) if isinstance(turn, Mapping) else None
    text = turn.get("value", turn.get("content")) if isinstance(turn, Mapping) else None
    if str(who).lower() not in _ROLES or not isinstance(text, str):
        raise RowError("has a turn without from/value or role/content text", column)
    return _ROLES[str(who).lower()], text


def _asked(question: str, column: str) -> tuple[str, str | None]:
    """(prompt, response) inside the seed's header or GuardReasoner's instruction, else the whole turn."""
    text = question.removeprefix(HEADER)
    if "Human user:\n" in text and "\n\nAI assistant:\n" in text:
        return split_input(text, column)
    if not text.strip():
        raise RowError("has an empty question", column)
    return text, None
