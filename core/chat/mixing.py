"""Several sets of conversations as one for each agent: shares, no row twice, held-out rows, and what each source gave.

Every pass streams; what must be remembered (texts met, prompts held out) lies on the disk.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import field_validator

from core.chat.answer_rules import JUDGED_ROWS, LEAST_DISTINCT, Answers, OfSource, may_repeat
from core.chat.balance import Draw, lot
from core.chat.held_out import HeldOut
from core.chat.messages import Agent, agent_of, answer_of
from core.chat.seen import Seen
from core.data import DataSource, chat_sets, stream_chat
from core.methods import Config, FromRun, UserError, listed, setting
from core.records import ChatExample
from core.split_guard import pair_key

if TYPE_CHECKING:
    from core.runs import Workspace

LOOKED_AT = 20
"""First rows of a set that tell whose it is."""


class MixConfig(Config):
    """Which sets, in which shares, and how many rows are kept out of training."""

    sources: Annotated[list[str], FromRun("data", many=True, chat=True)] = setting(aliases=("source", "data"), min_length=1)
    """Sets of conversations: names, run ids or files; NAME:conversation or NAME:feedback takes one agent's set of a run that made both."""
    shares: list[float] = setting([])
    """Share of each source in the mixed set, in the order of the sources; they need not add up to 1. Empty: all rows of all sources."""
    name: str = ""
    """What the set is called from now on. Empty: the id of the run."""
    count: int = setting(0, ge=0, aliases=("limit", "n"))
    """Rows of each agent. 0 = as many as the shares allow."""
    held_out: int = setting(500, ge=0)
    """Rows of each agent that are marked as validation rows: training measures its loss on them and does not learn from them.
    Of fewer than 5,000 rows a tenth (held_out_share), so 300 of 3,000; the preset seed-plan holds out 500 of them."""
    held_out_share: float = setting(0.1, ge=0, lt=1, advanced=True)
    """At most this share of an agent's rows is held out, so that a small set keeps rows to learn from."""

    as_list = field_validator("sources", mode="before")(listed)

    @field_validator("shares")
    @classmethod
    def shares_make_sense(cls, value: list[float]) -> list[float]:
        """Finite, not negative, and not all zero."""
        if any(not math.isfinite(share) or share < 0 for share in value) or (value and not sum(value)):
            raise ValueError("holds a share that is no number from 0 up, or only zeros")
        return value


class MixedRow(NamedTuple):
    """A row of a source, before it is drawn. `place`: number of the source among those of its agent."""

    place: int
    row: int
    example: ChatExample


@dataclass
class Given:
    """What one source had, and gave."""

    source: DataSource
    share: float | None
    rows: int = 0
    duplicates: int = 0
    marked_test: int = 0
    taken: int = 0
    held_out: int = 0
    answers: OfSource | None = None
    """Of the rows that may be drawn; None for feedback, which is made of few sentences on purpose."""

    @property
    def usable(self) -> int:
        """Rows that may be drawn."""
        return self.rows - self.duplicates - self.marked_test

    @property
    def record(self) -> dict[str, Any]:
        """For the report."""
        return {"source": self.source.name, "share": self.share, "rows": self.rows, "duplicates": self.duplicates,
                "marked_test": self.marked_test, "taken": self.taken, "held_out": self.held_out,
                **({"distinct_answers": self.answers.distinct} if self.answers else {})}

    @property
    def trap(self) -> str:
        """A sentence where the source says few things again and again, which the mixed set would hide; else ""."""
        found = self.answers
        if found is None or found.rows < JUDGED_ROWS or (found.share >= LEAST_DISTINCT and found.most <= may_repeat(found.rows)):
            return ""
        return (f"{self.source.name} has {found.words}, one of them in {found.most:,}: a model learns to repeat them, whatever is asked, "
                "and rows of other sources beside them only hide it. Look at it with check-data, give it a smaller share, or leave it out.")


@dataclass
class AgentMix:
    """The sources of one agent, and how many rows each gives."""

    agent: Agent
    sources: list[Given]
    quota: list[int] = field(default_factory=list)

    def survey(self) -> None:
        """Count the rows of each source. A row that stands in two of them counts for the first."""
        answers = Answers()
        try:
            for one in self._rows(count=True):
                if self.agent == "conversation":
                    answers.add(str(one.place), one.row, answer_of(one.example))
            by_place = {int(found.source): found for found in answers.sources()}
        finally:
            answers.close()
        for place, given in enumerate(self.sources):
            given.answers = by_place.get(place)

    def plan(self, count: int) -> None:
        """How many rows each source gives: all, or the largest set that keeps the shares (largest remainder first)."""
        there = [given.usable for given in self.sources]
        shares = [given.share for given in self.sources]
        weights = [float(usable) for usable in there] if None in shares else [share or 0.0 for share in shares]
        total = min([int(usable * sum(weights) / weight + 1e-9) for usable, weight in zip(there, weights, strict=True) if weight] or [0])
        total = min(total, count) if count else total
        exact = [total * weight / sum(weights) if sum(weights) else 0.0 for weight in weights]
        self.quota = [math.floor(value + 1e-9) for value in exact]
        for place in sorted(range(len(exact)), key=lambda place: (self.quota[place] - exact[place], place))[:total - sum(self.quota)]:
            self.quota[place] += 1

    def drawn(self, seed: int) -> Iterator[MixedRow]:
        """The rows of the plan, source by source, in order."""
        draw = Draw({(str(place),): quota for place, quota in enumerate(self.quota)},
                    {(str(place),): given.usable for place, given in enumerate(self.sources)})
        for one in self._rows():
            draw.offer((str(one.place),), lot(seed, self.agent, one.place, one.row))
        draw.settle()
        return (one for one in self._rows() if draw.takes((str(one.place),), lot(seed, self.agent, one.place, one.row)))

    def _rows(self, count: bool = False) -> Iterator[MixedRow]:
        with Seen() as seen:
            for place, given in enumerate(self.sources):
                for row, example in zip(itertools.count(), stream_chat(given.source), strict=False):
                    is_test = example.split == "test"
                    again = not is_test and not seen.first(_text_key(example))
                    given.rows += count
                    given.marked_test += count and is_test
                    given.duplicates += count and again
                    if not is_test and not again:
                        yield MixedRow(place, row, example)


def _text_key(example: ChatExample) -> str:
    """Everything that is said, normalised; the system prompt is not looked at."""
    spoken = [message["content"] for message in example.messages if message["role"] != "system"]
    return pair_key("\n".join(spoken[:-1]), answer_of(example))


def open_mix(config: MixConfig, workspace: Workspace) -> list[AgentMix]:
    """The sources sorted by agent, surveyed and planned; UserError where they cannot be mixed as the settings say."""
    if config.shares and len(config.shares) != len(config.sources):
        raise UserError(f"shares has {len(config.shares)} numbers for {len(config.sources)} sources; give one for each, or none.")
    by_agent: dict[Agent, list[Given]] = {}
    for place, ref in enumerate(config.sources):
        for source in chat_sets(ref, workspace):
            given = Given(source, config.shares[place] if config.shares else None)
            by_agent.setdefault(_whose(source), []).append(given)
    mixes = [AgentMix(agent, sources) for agent, sources in sorted(by_agent.items())]
    for mix in mixes:
        paths = [given.source.path for given in mix.sources]
        if twice := next((given.source.name for given in mix.sources if paths.count(given.source.path) > 1), None):
            raise UserError(f"{twice} is given twice among the sources; keep it once.")
        mix.survey()
        mix.plan(config.count)
        if not sum(mix.quota):
            empty = next((given for given in mix.sources if not given.usable and given.share != 0), mix.sources[0])
            raise UserError(f"No row is left for the {mix.agent} agent: {empty.source.name} has {empty.usable:,} usable rows of "
                            f"{empty.rows:,}. Leave it out, or set its share to 0.")
    return mixes


def _whose(source: DataSource) -> Agent:
    """Whose rows they are, by most of the first ones."""
    counts = Counter(agent_of(example) for example in itertools.islice(stream_chat(source), LOOKED_AT))
    if not counts:
        raise UserError(f"{source.name} ({source.path}) holds no rows.")
    return counts.most_common(1)[0][0]


def mixed_rows(mixes: Sequence[AgentMix], config: MixConfig) -> Iterator[tuple[str, ChatExample]]:
    """(agent, row) of the mixed sets, each row marked train or validation. Counts in `mixes` what each source gave."""
    held = HeldOut(config.seed)
    try:
        for mix in mixes:
            for one in mix.drawn(config.seed):
                held.see(mix.agent, one.example)
        held.choose(config.held_out, config.held_out_share)
        for mix in mixes:
            for one in mix.drawn(config.seed):
                given = mix.sources[one.place]
                kept = held.holds(one.example)
                given.taken += 1
                given.held_out += kept
                source = one.example.source or given.source.name
                yield mix.agent, one.example.model_copy(update={"source": source, "split": "validation" if kept else "train"})
    finally:
        held.close()
