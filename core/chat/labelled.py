"""Labelled replies as feedback to learn: both labels come from the gold labels, the sentences from core/chat/wordings.py.

    unsafe      the response is labelled harmful
    overrefuse  the request is labelled unharmful and the completion a refusal

A row whose labels leave one of the two open is refused with the label that is missing: nothing is guessed.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, NamedTuple

from core.chat.balance import Cell, Draw, lot, quotas, spread
from core.chat.messages import conversation
from core.chat.saving import Refused
from core.chat.seen import Seen
from core.chat.wordings import Case, write
from core.data import DataSource, find_data, stream_examples
from core.methods import Config, FromRun, UserError, setting
from core.mining.guarding import GuardTally, marked, refuse_test_rows
from core.records import ChatExample, GuardExample
from core.rows import RAW_CHARS, BadRow
from core.split_guard import pair_key
from core.waltz.feedback import SYSTEM, FeedbackFormat, question
from core.words import plural

if TYPE_CHECKING:
    from core.runs import Workspace

KINDS = ("unsafe", "over-refusal", "nothing wrong")


class Verdicts(NamedTuple):
    """What the labels of a row say of its reply."""

    case: Case
    unsafe: bool
    overrefuse: bool

    @property
    def kind(self) -> str:
        """Which of KINDS; what is unsafe counts as that whatever else it is."""
        return "unsafe" if self.unsafe else "over-refusal" if self.overrefuse else "nothing wrong"


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


class LabelledConfig(Config):
    """Which rows, and how the feedback about them is written."""

    data: Annotated[str, FromRun("data")] = setting(min_length=1)
    """Prompts with a reply and its labels: response, and request or completion besides. Only training rows are used."""
    name: str = ""
    """What the set is called from now on. Empty: the id of the run."""
    format: FeedbackFormat = setting("json")
    """json: the paper's object of reasoning, unsafe, overrefuse and feedback. score: the seeds' "Safety Score: 0.95" text."""
    count: int = setting(0, ge=0, aliases=("limit", "n"))
    """Rows to take at most, balanced over kinds of fault. 0 = all that `least_share` leaves."""
    least_share: float = setting(0.2, ge=0, lt=1)
    """Rows of the commoner kinds (unsafe, over-refusal, nothing wrong) are left out until the rarest kind that occurs makes up this share.
    0 = take them as they are."""
    exclude_test_rows: bool = setting(False)
    """Leave out rows whose prompt is in a registered test set. Else such rows stop the run."""
    allow_test_rows: bool = setting(False, advanced=True)
    """Use rows of registered test sets all the same. Every report after it says so."""


class LabelledJob:
    """One conversion: looked at before the start, and done. Rows are streamed three times, never held."""

    def __init__(self, config: LabelledConfig, workspace: Workspace) -> None:
        self.config, self.workspace = config, workspace
        self.source: DataSource = find_data(config.data, workspace)
        self.there: Counter[Cell] = Counter()
        """Usable rows of each (kind, case), after `survey`."""
        self.tests = GuardTally()
        self.not_training = self.duplicates = self.conflicts = 0

    def survey(self, refused: Refused) -> None:
        """Count what there is. UserError where rows of test sets are among them and the settings do not say what to do."""
        for _, _, found in self._rows(refused):
            self.there[found.kind, found.case] += 1
        refuse_test_rows(self.tests, exclude=self.config.exclude_test_rows, allow=self.config.allow_test_rows)

    @property
    def wanted(self) -> int:
        """Rows that will be taken."""
        kinds: Counter[str] = Counter()
        for (kind, _), count in self.there.items():
            kinds[kind] += count
        total = kinds.total()
        if self.config.least_share and len(kinds) > 1:
            total = min(total, int(min(kinds.values()) / self.config.least_share + 1e-9))
        return min(total, self.config.count) if self.config.count else total

    def chosen(self) -> Iterator[tuple[Cell, ChatExample]]:
        """The rows, in the order of the set."""
        seed, draw = self.config.seed, Draw(quotas(self.wanted, self.there), self.there)
        for row, _, found in self._rows():
            draw.offer((found.kind, found.case), lot(seed, "row", row))
        draw.settle()
        for row, example, found in self._rows():
            if draw.takes((found.kind, found.case), lot(seed, "row", row)):
                yield (found.kind, found.case), feedback_row(example, found, self.config.format, seed, row)

    def sample(self, taken: Counter[Cell]) -> dict[str, object]:
        """How the rows are spread before and after, for the report."""
        return {"taken": taken.total(), "there": self.there.total(), "before": spread(self.there, ("kind", "case")),
                "after": spread(taken, ("kind", "case"))}

    def _rows(self, refused: Refused | None = None) -> Iterator[tuple[int, GuardExample, Verdicts]]:
        first = refused is not None
        tally = self.tests if first else GuardTally()
        with Seen() as met, Seen() as said:
            for (row, example), is_test in marked(self._training(count=first), _texts, self.workspace.store, tally):
                if is_test and not self.config.allow_test_rows:
                    continue
                found = verdicts(example)
                if isinstance(found, Verdicts) and found.case == "unsafe over-refusal" and self.config.format == "score":
                    found = "labels", "is unsafe and an over-refusal, and the score format can say only one of the two"
                if not isinstance(found, Verdicts):
                    if refused is not None:
                        refused.add(BadRow(self.source.path.name, example.row or row + 1, *found, example.prompt[:RAW_CHARS]))
                    continue
                key = pair_key(example.prompt, example.response)
                new = said.first(f"{key} {found.unsafe} {found.overrefuse}")
                if met.first(key):
                    yield row, example, found
                else:
                    self.duplicates += first
                    self.conflicts += first and new

    def _training(self, count: bool) -> Iterator[tuple[int, GuardExample]]:
        for row, example in zip(itertools.count(), stream_examples(self.source, self.workspace), strict=False):
            if example.split in (None, "train"):
                yield row, example
            else:
                self.not_training += count

    @property
    def spared(self) -> str:
        """What `least_share` costs, where that is more than half of the rows; "" = less."""
        there, kinds = self.there.total(), Counter[str]()
        for (kind, _), count in self.there.items():
            kinds[kind] += count
        if self.config.count or not kinds or self.wanted * 2 >= there:
            return ""
        rarest, count = min(kinds.items(), key=lambda item: item[1])
        return (f"least_share = {self.config.least_share:g} leaves {self.wanted:,} of {plural(there, 'usable row')}, because only "
                f"{count:,} are of the kind {rarest}. Lower it, or mix in a set that has more of them.")

    def refuse_nothing_left(self, refused: Refused) -> None:
        """UserError where no row can be used."""
        if not self.there:
            why = "; ".join(f"{reason} ({count:,})" for reason, count in refused.reasons.most_common(3))
            raise UserError(f"No row of {self.source.name} says whether its reply is unsafe and whether it refuses without need"
                            + (f": {why}." if why else f": it has {self.not_training:,} rows that are not for training, and no other.")
                            + " Choose a set with replies and the labels request, completion and response.")


def _texts(item: tuple[int, GuardExample]) -> tuple[str, str | None]:
    return item[1].prompt, item[1].response
