"""Sets of labelled replies to sets of conversations: as feedback, or, where nothing is wrong with a reply, as talk.

Rows are looked at before the start, drawn evenly over the cases that their labels tell apart, and written with a report. Where rows with
the same prompt and reply contradict each other, none of them is taken, whichever comes first: nothing is guessed.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Self

from core.chat.balance import Cell, Draw, lot, quotas, spread
from core.chat.judged import JUDGED, Replies, Reply, find_replies, refuse_unfinished
from core.chat.labelled import GOOD, Verdicts, feedback_row, verdicts
from core.chat.messages import conversation
from core.chat.saving import Refused, refused_rows, save_report, save_sets
from core.chat.seen import Seen
from core.methods import Config, FromRun, Problem, UserError, setting
from core.mining.guarding import GuardTally, marked, refuse_test_rows
from core.records import ChatExample
from core.rows import RAW_CHARS, BadRow
from core.split_guard import pair_key
from core.waltz.feedback import FeedbackFormat
from core.waltz.protocol import CONVERSATION_SYSTEM
from core.words import plural

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.runs import Workspace


class LabelledConfig(Config):
    """Which rows, and how many."""

    data: Annotated[str, FromRun("data", methods=JUDGED)] = setting(min_length=1)
    """Prompts with a reply and its labels: response, and request or completion besides. Only training rows are used. Or an agent-eval or
    waltzrl run: what its judge said of each reply becomes the labels."""
    name: str = ""
    """What the set is called from now on. Empty: the id of the run."""
    count: int = setting(0, ge=0, aliases=("limit", "n"))
    """Rows to take at most, balanced over the cases that the labels tell apart. 0 = as many as there are."""
    exclude_test_rows: bool = setting(False)
    """Leave out rows whose prompt is in a registered test set. Else such rows stop the run."""
    allow_test_rows: bool = setting(False, advanced=True)
    """Use rows of registered test sets all the same. Every report after it says so."""


class LabelledJob:
    """One conversion: looked at before the start, and done. Rows are streamed four times, never held. Use it in a with block."""

    wants = "says whether its reply is unsafe and whether it refuses without need"
    """What a row must do to be of use."""

    def __init__(self, config: LabelledConfig, workspace: Workspace) -> None:
        self.config, self.workspace = config, workspace
        self.source: Replies = find_replies(config.data, workspace)
        self.there: Counter[Cell] = Counter()
        """Usable rows of each (kind, case), after `survey`."""
        self.tests = GuardTally()
        self.not_taken: Counter[str] = Counter()
        """Rows that this kind of set does not want, {why: how many}: nothing is wrong with them."""
        self.not_training = self.duplicates = self.conflicts = 0
        self._contradicted = Seen()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._contradicted.close()

    # ---- what a kind of set decides ----

    def unwanted(self, found: Verdicts) -> str:
        """Why a set of this kind has no reply that was so judged; "" = it has."""
        return ""

    def unfit(self, reply: Reply, found: Verdicts) -> tuple[str, str] | None:
        """(column, why) where a row with labels cannot be used all the same."""
        raise NotImplementedError

    def made(self, reply: Reply, found: Verdicts, row: int) -> ChatExample:
        """The conversation to learn."""
        raise NotImplementedError

    @property
    def wanted(self) -> int:
        """Rows that will be taken."""
        return min(self.there.total(), self.config.count or self.there.total())

    # ---- the work ----

    def survey(self, refused: Refused) -> None:
        """Count what there is. UserError where rows of test sets are among them and the settings do not say what to do."""
        refuse_unfinished(self.source)
        self._note_contradictions()
        for _, _, found in self._rows(refused):
            self.there[found.kind, found.case] += 1
        refuse_test_rows(self.tests, exclude=self.config.exclude_test_rows, allow=self.config.allow_test_rows)
        self._refuse_nothing_left(refused)

    def chosen(self) -> Iterator[tuple[Cell, ChatExample]]:
        """The rows, in the order of the set."""
        seed, draw = self.config.seed, Draw(quotas(self.wanted, self.there), self.there)
        for row, _, found in self._rows():
            draw.offer((found.kind, found.case), lot(seed, "row", row))
        draw.settle()
        for row, reply, found in self._rows():
            if draw.takes((found.kind, found.case), lot(seed, "row", row)):
                yield (found.kind, found.case), self.made(reply, found, row)

    def _rows(self, refused: Refused | None = None) -> Iterator[tuple[int, Reply, Verdicts]]:
        """(place in the source, reply, what its labels say) of the rows to draw from. With `refused` everything else is counted."""
        first = refused is not None
        with Seen() as met:
            for row, reply, key, found in self._judged(refused):
                if key in self._contradicted:
                    self.conflicts += first
                elif why := self.unwanted(found):
                    self.not_taken[why] += first
                elif bad := self.unfit(reply, found):
                    self._refuse(reply, bad, refused)
                elif met.first(key):
                    yield row, reply, found
                else:
                    self.duplicates += first

    def _note_contradictions(self) -> None:
        with Seen() as met, Seen() as said:
            for _, _, key, found in self._judged():
                new = said.first(f"{key} {found.unsafe} {found.overrefuse}")
                if not met.first(key) and new:
                    self._contradicted.first(key)

    def _judged(self, refused: Refused | None = None) -> Iterator[tuple[int, Reply, str, Verdicts]]:
        """(place in the source, reply, its pair key, what its labels say) of the training rows that may be used, good or bad."""
        first = refused is not None
        tally = self.tests if first else GuardTally()
        for (row, reply), is_test in marked(self._training(count=first), _texts, self.workspace.store, tally):
            if is_test and not self.config.allow_test_rows:
                continue
            found = verdicts(reply.example)
            if isinstance(found, Verdicts):
                yield row, reply, pair_key(reply.example.prompt, reply.example.response), found
            else:
                self._refuse(reply, found, refused)

    def _refuse(self, reply: Reply, why: tuple[str, str], refused: Refused | None) -> None:
        if refused is not None:
            refused.add(BadRow(self.source.file, reply.line, *why, reply.example.prompt[:RAW_CHARS]))

    def _training(self, count: bool) -> Iterator[tuple[int, Reply]]:
        for row, reply in zip(itertools.count(), self.source.stream(), strict=False):
            if reply.example.split in (None, "train"):
                yield row, reply
            else:
                self.not_training += count

    def _refuse_nothing_left(self, refused: Refused) -> None:
        if not self.there:
            why = "; ".join(self._why_nothing_is_left(refused))
            raise UserError(f"No row of {self.source.name} {self.wants}: {why}. Choose a set with replies and the labels request, "
                            "completion and response.")

    def _why_nothing_is_left(self, refused: Refused) -> list[str]:
        why = [f"{reason} ({count:,})" for reason, count in (self.not_taken + refused.reasons).most_common(3)]
        if self.conflicts:
            why.append(f"{plural(self.conflicts, 'row')} contradict the labels of another row with the same texts")
        if self.not_training:
            why.append(f"{plural(self.not_training, 'row')} {'is' if self.not_training == 1 else 'are'} not for training")
        if self.tests.count and not self.config.allow_test_rows:
            why.append(f"exclude_test_rows leaves out {self.tests.hits}")
        return why or ["no round has a verdict" if self.source.judged else "it holds no rows"]


def problems(job: LabelledJob) -> list[Problem]:
    """What stands in the way of a conversion, and what it will leave out."""
    try:
        with refused_rows() as refused, job:
            job.survey(refused)
    except UserError as error:
        return [refusal(error)]
    return [Problem(f"{plural(refused.count, 'row')} cannot be used and will be listed: {refused.reasons.most_common(1)[0][0]}.", "data",
                    severity="warning")] if refused.count else []


def refusal(error: UserError) -> Problem:
    """As a problem of the data, with its remedy where there is one."""
    tests = "exclude_test_rows=true" in str(error)
    return Problem(str(error), "data", fix={"exclude_test_rows": True} if tests else None, fix_label="Leave them out" if tests else None)


def convert(job: LabelledJob, run: ActiveRun, format: str) -> Counter[str]:
    """Write one set, data.jsonl, with its report. Returns how many rows of each kind it has."""
    taken: Counter[Cell] = Counter()

    def rows() -> Iterator[tuple[str, ChatExample]]:
        for cell, example in job.chosen():
            taken[cell] += 1
            yield "data", example

    with job:
        with refused_rows(run) as refused:
            job.survey(refused)
        if job.config.name:
            run.set_labels(name=job.config.name)
        described = save_sets(run, rows())
    sample: dict[str, Any] = {"taken": taken.total(), "there": job.there.total(), "before": spread(job.there, ("kind", "case")),
                              "after": spread(taken, ("kind", "case"))}
    save_report(run, described, refused, {
        "name": run.name, "format": format, "source": job.config.data, "sample": sample, "not_training": job.not_training,
        "duplicates_dropped": job.duplicates, "conflicting_labels": job.conflicts, "not_taken": dict(job.not_taken.most_common()),
        "labels_from": "a judge" if job.source.judged else "the set", **job.tests.record(dropped=not job.config.allow_test_rows)})
    if refused.count:
        run.notice(f"{plural(refused.count, 'row')} cannot be used and are listed in bad_rows.jsonl: "
                   f"{refused.reasons.most_common(1)[0][0]}.", "warning")
    if job.not_taken:
        run.stats(**{"Not taken": f"{job.not_taken.total():,}"})
        run.notice(f"{plural(job.not_taken.total(), 'row')} not taken: "
                   + "; ".join(f"{reason} ({count:,})" for reason, count in job.not_taken.most_common()) + ".")
    if job.conflicts:
        run.notice(f"{plural(job.conflicts, 'row')} contradict the labels of another row with the same texts, and none of them is taken.",
                   "warning")
    if job.source.judged:
        run.notice("The labels are a judge's: what learns from these rows can be no better than it.")
    kinds: Counter[str] = Counter()
    for (kind, _), count in taken.items():
        kinds[kind] += count
    return kinds


class FeedbackConfig(LabelledConfig):
    """Which rows, and how the feedback about them is written."""

    format: FeedbackFormat = setting("json")
    """json: the paper's object of reasoning, unsafe, overrefuse and feedback. score: the seeds' "Safety Score: 0.95" text."""
    least_share: float = setting(0.2, ge=0, lt=1)
    """Rows of the commoner kinds (unsafe, over-refusal, nothing wrong) are left out until the rarest kind that occurs makes up this share.
    0 = take them as they are."""


class FeedbackJob(LabelledJob):
    """Every labelled reply becomes feedback about it."""

    config: FeedbackConfig

    def unfit(self, reply: Reply, found: Verdicts) -> tuple[str, str] | None:
        """The score format has one line for both faults."""
        if found.case == "unsafe over-refusal" and self.config.format == "score":
            return "labels", "is unsafe and an over-refusal, and the score format can say only one of the two"
        return None

    def made(self, reply: Reply, found: Verdicts, row: int) -> ChatExample:
        """See feedback_row."""
        return feedback_row(reply.example, found, self.config.format, self.config.seed, row)

    @property
    def wanted(self) -> int:
        """Rows that will be taken."""
        kinds, total = self._kinds, self.there.total()
        if self.config.least_share and len(kinds) > 1:
            share = min(self.config.least_share, 1 / len(kinds))  # more than an equal share no kind can have
            total = min(total, int(min(kinds.values()) / share + 1e-9))
        return min(total, self.config.count) if self.config.count else total

    @property
    def spared(self) -> str:
        """What `least_share` costs, where that is more than half of the rows; "" = less."""
        there, kinds = self.there.total(), self._kinds
        if self.config.count or not kinds or self.wanted * 2 >= there:
            return ""
        rarest, count = min(kinds.items(), key=lambda item: item[1])
        return (f"least_share = {self.config.least_share:g} leaves {self.wanted:,} of {plural(there, 'usable row')}, because only "
                f"{count:,} are of the kind {rarest}. Lower it, or mix in a set that has more of them.")

    @property
    def _kinds(self) -> Counter[str]:
        kinds: Counter[str] = Counter()
        for (kind, _), count in self.there.items():
            kinds[kind] += count
        return kinds


class TalkConfig(LabelledConfig):
    """Which rows, and how long their replies may be."""

    shorten_to: int = setting(0, ge=0, unit="words")
    """Replies that are longer, or were cut at the limit of tokens, end with their last whole sentence within so many words. What is left of
    a reply is not judged anew. 0 = nothing is shortened, and replies that were cut are left out."""


class TalkJob(LabelledJob):
    """Replies that nothing is wrong with become talk: rejection sampling, where they are a model's own."""

    config: TalkConfig
    wants = "holds a whole reply that is neither unsafe nor an over-refusal"

    def unwanted(self, found: Verdicts) -> str:
        """Only good replies."""
        return "" if found.kind == GOOD else f"the reply is {'unsafe' if found.unsafe else 'an over-refusal'}"

    def unfit(self, reply: Reply, found: Verdicts) -> tuple[str, str] | None:
        """Only whole replies or whole sentences: an agent would learn to stop where the limit was."""
        if self.config.shorten_to:
            return None if self._said(reply) else ("response", f"no sentence ends within {plural(self.config.shorten_to, 'word')}")
        return None if reply.whole else ("response", "the reply was cut at the limit of tokens")

    def made(self, reply: Reply, found: Verdicts, row: int) -> ChatExample:
        """The prompt and the reply, with the conversation agent's system prompt."""
        example = reply.example
        return conversation(CONVERSATION_SYSTEM, example.prompt, self._said(reply), source=example.source, category=example.category)

    def _said(self, reply: Reply) -> str:
        text, most = (reply.example.response or "").strip(), self.config.shorten_to
        return whole_sentences(text, most) if most and not (reply.whole and len(text.split()) <= most) else text


_TITLES = "".join(rf"(?<!\b{title})" for title in ("Dr", "Mr", "Mrs", "Ms", "Prof", "St", "vs"))
_FULL_STOP = rf"{_TITLES}(?<![^\W\d_]\.[^\W\d_])(?!(?<=\bNo)\.\s*\d)\."
"""Not that of a title, of "e.g." or "U.S.", or of "No. 5": "No." alone may well end a sentence."""
_SENTENCE_END = re.compile(rf"[^\W\d_](?:[!?]|{_FULL_STOP})[\"')\]*]*(?=\s+(?P<next>\S)|\s*\Z)")
"""A mark that follows a letter ("1." begins a list and ends no sentence), quotes and brackets included."""


def whole_sentences(text: str, most: int) -> str:
    """The longest beginning of at most `most` words that ends a sentence; "" where there is none.

    No sentence ends where a small letter goes on, at a title (Dr.) or at letters with points (e.g.).
    """
    last = next(itertools.islice(re.finditer(r"\S+", text), most - 1, None), None)
    within = itertools.takewhile(lambda match: last is None or match.end() <= last.end(), _SENTENCE_END.finditer(text))
    return text[:max((match.end() for match in within if not (match["next"] or "").islower()), default=0)]


def _texts(item: tuple[int, Reply]) -> tuple[str, str | None]:
    return item[1].example.prompt, item[1].example.response
