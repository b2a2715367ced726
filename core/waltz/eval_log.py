"""What an evaluation of agents writes down, episode by episode, so that a killed run goes on where it was.

episodes.jsonl     every model's episode of every prompt, with the judge's verdicts: model after model, prompts in order
capability.jsonl   the same of the instructions with checkable answers (core/waltz/eval_capability.py); nobody judges these
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from core.answer_log import read_log
from core.records import Episode, Record

EPISODES = "episodes.jsonl"
CAPABILITY = "capability.jsonl"


class EvaluatedEpisode(Record):
    """One prompt, played by one model. A model without a feedback agent has one round, and nobody's feedback in it."""

    model: str
    """Reference of the model, or of the pair."""
    episode: Episode
    seconds: dict[str, float] = {}
    """{"reply" | "feedback" | "revision": this episode's share of the time in which it and others were written together}."""
    seen_in_training: bool = False
    """The model, or a run behind it, was trained on this prompt (promise 5)."""


def read_evaluated(path: Path) -> Iterator[EvaluatedEpisode]:
    """Lines one after the other, never all in memory."""
    return read_log(path, EvaluatedEpisode, "run the evaluation again")


def count_done(path: Path) -> Counter[str]:
    """{model: episodes that are there}."""
    return Counter(line.model for line in read_evaluated(path))
