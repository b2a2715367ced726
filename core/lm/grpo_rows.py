"""Which rows are asked about: hard samples of a mining run, or any rows with gold labels. Streamed, never all in memory."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from core.data import DataSource, find_data, stream_examples
from core.evals.prompting import format_called
from core.evals.questions import questions
from core.formats import PromptFormat
from core.lm.sft_data import choose_format
from core.methods import UserError
from core.mining.guarding import GuardTally, marked, refuse_test_rows
from core.mining.outputs import FILE, read_edited
from core.mining.samples import TASK_ORDER, as_hard
from core.records import GuardExample, Task
from core.runs import Run
from core.words import plural

if TYPE_CHECKING:
    from core.lm.find import Found
    from core.runs import Workspace

MINER = "mine-hard-samples"
LOOKED_AT = 200
"""Rows that are enough to choose a prompt format by."""


class Usable(NamedTuple):
    """A row that may be trained on: its place in the set from 0, and what is asked about it. Only asked labels are in `example`."""

    row: int
    example: GuardExample
    text: str
    """The user turn (chat) or the whole prompt, before any chat template."""


@dataclass
class Counts:
    """What became of the rows of a set."""

    rows: int = 0
    not_training: int = 0
    not_hard: int = 0
    excluded: int = 0
    """Left out by hand in the mining explorer."""
    without_gold: int = 0
    """No gold label for a task that the format answers and the reward counts."""
    usable: int = 0
    tests: GuardTally = field(default_factory=GuardTally)
    tasks: Counter[Task] = field(default_factory=Counter)

    def record(self) -> dict[str, Any]:
        """For report.json; the split guard's numbers have a place of their own there."""
        return {"rows": self.rows, "not_training": self.not_training, "not_hard": self.not_hard, "excluded_by_hand": self.excluded,
                "without_gold": self.without_gold, "usable": self.usable, "by_task": dict(self.tasks)}


@dataclass(frozen=True)
class RowChoice:
    """What the settings lead to, before any weights are read."""

    source: DataSource
    workspace: Workspace
    found: Found
    prompt_format: type[PromptFormat]
    why: str
    """Why this prompt format."""
    counts: Counts
    wanted: int
    """Rows to use: all usable ones, or as many as the limit or the steps ask for, drawn at random."""
    seed: int
    allow_test_rows: bool
    tasks: tuple[Task, ...]
    """Tasks that the reward counts."""

    @property
    def mined(self) -> bool:
        """Are the rows hard samples of a mining run?"""
        return is_mined(self.source)

    def rows(self) -> Iterator[Usable]:
        """The chosen rows, in the order of the set."""
        stream = _usable(self.source, self.workspace, self.prompt_format, self.tasks, Counts(), allow=self.allow_test_rows)
        if self.wanted >= self.counts.usable:
            return stream
        places = set(random.Random(self.seed).sample(range(self.counts.usable), self.wanted))
        return (usable for place, usable in enumerate(stream) if place in places)


def find_rows(ref: str, workspace: Workspace) -> DataSource:
    """A mining run by its id, else any data reference (core/data.py)."""
    wanted = ref.strip().removeprefix("run:")
    run = next((run for run in workspace.runs() if run.id == wanted and run.method == MINER), None)
    if run is None:
        return find_data(ref, workspace)
    if run.state != "succeeded":
        raise UserError(f"{run.id} is {run.state}, so its hard samples are not known yet; wait for it or resume it.")
    return DataSource(run.id, run.dir / FILE, run)


def is_mined(source: DataSource) -> bool:
    """Is it a mining run?"""
    return source.run is not None and source.run.method == MINER


def choose_rows(config: Any, workspace: Workspace, tasks: tuple[Task, ...]) -> RowChoice:
    """Everything about data and format. `config` is that of the `grpo` method; `tasks` are those that its reward counts."""
    from core.lm.find import find_model

    source = find_rows(config.data, workspace)
    found = find_model(config.model, workspace.runs_dir)
    form, why = _format(config.prompt_format, found, source, workspace)
    if not set(tasks) & set(form.tasks):
        raise UserError(f"The reward counts {', '.join(tasks) or 'no task'} and {form.name} answers {', '.join(form.tasks)}; "
                        "give a weight above 0 to a task that it answers.")
    counts = Counts()
    for _ in _usable(source, workspace, form, tasks, counts, allow=config.allow_test_rows):
        counts.usable += 1
    refuse_test_rows(counts.tests, exclude=config.exclude_test_rows, allow=config.allow_test_rows)
    if not counts.usable:
        raise UserError(_nothing(source, counts, form, tasks))
    most = [number for number in (config.limit, config.steps * config.prompts_per_step) if number]
    return RowChoice(source, workspace, found, form, why, counts, min([counts.usable, *most]), config.seed, config.allow_test_rows, tasks)


def _format(wanted: str, found: Found, source: DataSource, workspace: Workspace) -> tuple[type[PromptFormat], str]:
    """(prompt format, why this one): the model's own, else the one given, else the miner's, else what the rows call for."""
    formats: Mapping[str, Any] = workspace.plugins.prompt_formats
    mined_in = next((one.sample.prompt_format for one in read_edited(source.run.dir)), None) if is_mined(source) and source.run else None
    if found.prompt_format or wanted != "auto":
        name = found.prompt_format or wanted
        if wanted not in ("auto", name):
            raise UserError(f"prompt_format = {wanted}, but {found.ref} was trained in {name}; leave it at auto.")
        form, why = format_called(name, formats), f"{found.ref} was trained in it" if found.prompt_format else "as set"
    elif mined_in:
        form, why = format_called(mined_in, formats), f"{source.name} was mined in it"
    else:
        form, why = choose_format("auto", found, list(islice(stream_examples(source, workspace), LOOKED_AT)), formats)
    if form.choices(GuardExample(prompt="?", labels={"request": "harmful"})):
        raise UserError(f"prompt_format = {form.name} takes the likelier of fixed answers, so there is nothing to roll out; use a format "
                        "in which the guard writes its answer.")
    return form, why


def _nothing(source: DataSource, counts: Counts, form: type[PromptFormat], tasks: tuple[Task, ...]) -> str:
    """Why no row is left, and what to change."""
    if is_mined(source) and counts.rows == counts.not_hard + counts.excluded:
        by_hand = f" and {counts.excluded:,} were excluded by hand" if counts.excluded else ""
        return (f"{source.name} holds no hard sample: of {plural(counts.rows, 'mined row')} none has right and wrong answers{by_hand}. "
                "Mine again with more rows, a larger k or a higher temperature, or give the mined data set itself as data.")
    if not counts.rows:
        return f"{source.name} ({source.path}) holds no rows."
    if counts.rows == counts.not_training:
        return (f"{source.name} has only validation or test rows, which are never trained on; import it again with another role, or choose "
                "another set.")
    if counts.tests.count:
        return f"{source.name} holds {counts.tests.hits}; without them nothing is left."
    return (f"No training row of {source.name} has a gold label that {form.name} answers and the reward counts ({', '.join(tasks)}); "
            "choose another set or other weights.")


def _usable(source: DataSource, workspace: Workspace, form: type[PromptFormat], tasks: tuple[Task, ...], counts: Counts, *,
            allow: bool) -> Iterator[Usable]:
    stream = _hard(source.run, counts) if is_mined(source) and source.run else _training(source, workspace, counts)
    for (row, example), is_test in marked(stream, lambda item: (item[1].prompt, item[1].response), workspace.store, counts.tests):
        if is_test and not allow:
            continue
        # a format that gives a single verdict puts several questions about a row; the first that counts is asked
        asked = next((one for one in questions(form, [example], TASK_ORDER) if set(one.tasks) & set(tasks)), None)
        if asked is None:
            counts.without_gold += 1
            continue
        counts.tasks.update(task for task in asked.tasks if task in tasks)
        yield Usable(row, asked.example, asked.text)


def _training(source: DataSource, workspace: Workspace, counts: Counts) -> Iterator[tuple[int, GuardExample]]:
    for row, example in enumerate(stream_examples(source, workspace)):
        counts.rows += 1
        if example.split in (None, "train"):
            yield row, example
        else:
            counts.not_training += 1


def _hard(run: Run, counts: Counts) -> Iterator[tuple[int, GuardExample]]:
    """Hard samples with the edits by hand: a corrected gold label may make a row hard, or easy."""
    unparsed = run.config.get("unparsed", "drop")
    for edited in read_edited(run.dir):
        counts.rows += 1
        if edited.excluded:
            counts.excluded += 1
        elif (sample := as_hard(edited.sample, unparsed)) is None:
            counts.not_hard += 1
        else:
            yield sample.row, GuardExample(prompt=sample.prompt, response=sample.response, labels=sample.gold, source=sample.source,
                                           category=sample.category)
