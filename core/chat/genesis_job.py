"""Genesis files to sets of conversations: which rows, an even sample of them, and what became of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator

from core.chat.balance import Cell, Draw, lot, quotas, spread
from core.chat.genesis import EmptyTask, GenesisRow, genesis_files, genesis_rows
from core.chat.saving import Refused, refused_rows, save_report, save_sets
from core.chat.seen import Seen
from core.methods import Config, Estimate, Problem, UserError, listed, setting
from core.records import ChatExample
from core.rows import BadRow
from core.split_guard import pair_key
from core.words import plural

if TYPE_CHECKING:
    from core.active import ActiveRun

AgentName = Literal["qa_agent", "content_agent", "legal_agent", "support_agent", "analyst_agent"]
Maker = Callable[[GenesisRow], Iterable[tuple[str, ChatExample]]]
PROPERTIES = ("agent", "category", "difficulty")


class GenesisConfig(Config):
    """Which files, and how many of their rows."""

    source: list[str] = setting(aliases=("files", "file", "path", "data"), min_length=1)
    """Files in the Genesis layout (task, context, expected_output, difficulty, agent_name, category), or a folder that holds them."""
    name: str = ""
    """What the set is called from now on. Empty: the id of the run."""
    count: int = setting(0, ge=0, aliases=("limit", "n"))
    """Rows to take, balanced over agents, then over the categories of each, then over difficulty, as evenly as the data allow. 0 = all."""
    agents: list[AgentName] = setting(["qa_agent", "content_agent", "legal_agent", "support_agent", "analyst_agent"], min_length=1,
                                      advanced=True)
    """Whose rows to take."""
    empty_task: EmptyTask = setting("context", advanced=True)
    """A row whose task is empty (all of the QA agent's are). context: its context alone is what is asked. refuse: it is left out."""

    @field_validator("source", mode="before")
    @classmethod
    def full_paths(cls, value: Any) -> Any:
        """Paths are made whole, because the run may start in another folder."""
        return [str(Path(item).expanduser().resolve()) if isinstance(item, str) else item for item in listed(value)]


class GenesisJob:
    """One conversion: looked at before the start, and done."""

    def __init__(self, config: GenesisConfig) -> None:
        self.config = config
        self.files, self.passed_over = genesis_files(config.source)
        self.there: Counter[Cell] = Counter()
        """Rows of each (agent, category, difficulty) that can be converted, after `survey`."""
        self.duplicates = self.other_agents = 0

    def survey(self, refused: Refused) -> None:
        """Count the rows, and refuse those that cannot be converted."""
        for row in self._rows(refused):
            self.there[row.cell] += 1

    def chosen(self) -> Iterator[GenesisRow]:
        """The sample, in the order of the files."""
        draw = Draw(quotas(self.config.count or self.there.total(), self.there), self.there)
        for row in self._rows():
            draw.offer(row.cell, lot(self.config.seed, row.file, row.line))
        draw.settle()
        yield from (row for row in self._rows() if draw.takes(row.cell, lot(self.config.seed, row.file, row.line)))

    def _rows(self, refused: Refused | None = None) -> Iterator[GenesisRow]:
        with Seen() as seen:
            for row in genesis_rows(self.files, self.config.empty_task):
                if isinstance(row, BadRow):
                    if refused:
                        refused.add(row)
                elif row.agent not in self.config.agents:
                    self.other_agents += refused is not None
                elif not seen.first(pair_key(row.prompt, row.answer)):
                    self.duplicates += refused is not None
                else:
                    yield row


def problems(config: GenesisConfig) -> list[Problem]:
    """What would be refused, and whether there are as many rows as are wanted."""
    try:
        job = GenesisJob(config)
        with refused_rows() as refused:
            job.survey(refused)
    except UserError as error:
        return [Problem(str(error), "source")]
    there, found = job.there.total(), []
    if not there:
        return [Problem(f"No row of {', '.join(path.name for path in job.files)} can be converted: {_why(refused)}.", "source")]
    if refused.count:
        found.append(Problem(f"{plural(refused.count, 'row')} of {there + refused.count:,} cannot be converted and will be listed: "
                             f"{_why(refused)}.", "source", severity="warning"))
    if config.count > there:
        found.append(Problem(f"count = {config.count:,}, but only {plural(there, 'row')} can be converted; all will be taken.", "count",
                             severity="warning"))
    return found


def estimate(config: GenesisConfig) -> Estimate:
    """Three passes at about 20 MB a second each."""
    files, _ = genesis_files(config.source)
    return Estimate(seconds=1 + 3 * sum(path.stat().st_size for path in files) / 20e6, note=f"{plural(len(files), 'file')}")


def convert(config: GenesisConfig, run: ActiveRun, make: Maker, more: dict[str, Any]) -> dict[str, Any]:
    """Write the sets that `make` gives for each chosen row, with a report; returns how the sample is spread."""
    job = GenesisJob(config)
    if config.name:
        run.set_labels(name=config.name)
    with refused_rows(run) as refused:
        job.survey(refused)
    taken: Counter[Cell] = Counter()

    def rows() -> Iterator[tuple[str, ChatExample]]:
        for row in job.chosen():
            taken[row.cell] += 1
            yield from make(row)

    described = save_sets(run, rows())
    sample = {"asked": config.count, "taken": taken.total(), "there": job.there.total(),
              "before": spread(job.there, PROPERTIES), "after": spread(taken, PROPERTIES)}
    save_report(run, described, refused, {
        "name": run.name, "format": "genesis", "source": ", ".join(config.source), "passed_over": job.passed_over, "sample": sample,
        "duplicates_dropped": job.duplicates, "other_agents": job.other_agents, **more})
    if refused.count:
        run.notice(f"{plural(refused.count, 'row')} could not be converted and are listed in bad_rows.jsonl: {_why(refused)}.", "warning")
    if config.count > taken.total():
        run.notice(f"{config.count:,} rows were wanted and only {taken.total():,} can be converted; all were taken.", "warning")
    return sample


def _why(refused: Refused) -> str:
    return "; ".join(f"{reason} ({count:,})" for reason, count in refused.reasons.most_common(3)) or "the files hold no rows"
