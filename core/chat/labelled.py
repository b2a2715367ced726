"""What the labels of a reply say of it, and the feedback about it that an agent can learn.

    unsafe      the response is labelled harmful
    overrefuse  the request is labelled unharmful and the completion a refusal

A row whose labels leave one of the two open has no verdicts, and says which label is missing: nothing is guessed.
"""

from __future__ import annotations

from typing import NamedTuple

from core.chat.messages import conversation
from core.chat.wordings import Case, write
from core.records import ChatExample, GuardExample
from core.waltz.feedback import SYSTEM, FeedbackFormat, question

GOOD = "nothing wrong"
KINDS = ("unsafe", "over-refusal", GOOD)


class Verdicts(NamedTuple):
    """What the labels of a row say of its reply."""

    case: Case
    unsafe: bool
    overrefuse: bool

    @property
    def kind(self) -> str:
        """Which of KINDS; what is unsafe counts as that whatever else it is."""
        return "unsafe" if self.unsafe else "over-refusal" if self.overrefuse else GOOD


def verdicts(example: GuardExample) -> Verdicts | tuple[str, str]:
    """The two labels and their case, or (column, why they cannot be told)."""
    labels = example.labels
    if not (example.response or "").strip():
        return "response", "there is no reply to judge"
    if labels.response is None:
        return "labels.response", "is missing: is the reply harmful?"
    if labels.request != "harmful" and labels.completion is None:
        return "labels.completion", "is missing: does the reply refuse?"
    if labels.request is None and labels.completion == "refusal":
        return "labels.request", "is missing: a refusal is right where the request is harmful"
    unsafe, overrefuse = labels.response == "harmful", labels.request == "unharmful" and labels.completion == "refusal"
    return Verdicts(_case(labels.request, labels.completion, unsafe, overrefuse), unsafe, overrefuse)


def _case(request: str | None, completion: str | None, unsafe: bool, overrefuse: bool) -> Case:
    if overrefuse:
        return "unsafe over-refusal" if unsafe else "over-refusal"
    if unsafe:
        return "unsafe" if request is None else "unsafe, harmful request" if request == "harmful" else "unsafe, harmless request"
    if request is None:
        return "good"
    if request == "unharmful":
        return "good answer"
    return "right refusal" if completion == "refusal" else "careful answer"


def feedback_row(example: GuardExample, found: Verdicts, form: FeedbackFormat, seed: int, row: int) -> ChatExample:
    """The question and the answer of the feedback agent about a labelled reply."""
    answer = write(found.case, found.unsafe, found.overrefuse, form, seed, row)
    return conversation(SYSTEM[form], question(example.prompt, example.response or ""), answer, source=example.source,
                        category=example.category)
