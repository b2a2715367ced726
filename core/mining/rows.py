"""The rows that mining asks about: training rows with a gold label that the format can give, past the split guard. Streamed, twice.

The first pass counts (what is there, what is a test row, how many are left), so that a run can refuse before it costs anything;
the second yields the questions. Neither holds more than a batch of rows.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from core.data import DataSource, stream_examples
from core.evals.questions import Question, questions
from core.methods import UserError
from core.mining.guarding import GuardTally, marked, refuse_test_rows
from core.mining.samples import TASK_ORDER
from core.records import GuardExample

if TYPE_CHECKING:
    from core.runs import Workspace


class Asked(NamedTuple):
    """A row to mine: its place in the set, from 0, and what is asked about it."""

    row: int
    question: Question


@dataclass
class Survey:
    """What the first pass counted. Rows = rows of the set."""

    rows: int = 0
    not_training: int = 0
    """Validation and test rows: never mined, else what is trained on the pairs would be measured on its own training rows."""
    without_gold: int = 0
    """Training rows without a gold label for any task that the format gives."""
    second_verdict: int = 0
    """Rows labelled for a task that a single-verdict format would need a second question for; only the first is asked."""
    tests: GuardTally = field(default_factory=GuardTally)
    usable: int = 0
    """Rows that may be mined."""
    mined: int = 0
    """Rows that will be: all usable ones, or `limit` of them."""

    def record(self) -> dict[str, int]:
        """For report.json; the split guard's numbers have a place of their own there."""
        return {"rows": self.rows, "not_training": self.not_training, "without_gold": self.without_gold,
                "second_verdict_not_asked": self.second_verdict, "usable": self.usable, "to_mine": self.mined}


def survey(source: DataSource, workspace: Workspace, prompt_format: Any, *, limit: int, allow_test_rows: bool) -> Survey:
    """Count the rows of a set. Refuses nothing: see `refuse`."""
    found = Survey()
    for _ in _usable(source, workspace, prompt_format, found, allow=allow_test_rows):
        found.usable += 1
    found.mined = min(limit, found.usable) if limit else found.usable
    return found


def refuse(found: Survey, source: DataSource, prompt_format: Any, *, exclude_test_rows: bool, allow_test_rows: bool) -> None:
    """UserError where the rows may not be mined, or where none is left."""
    refuse_test_rows(found.tests, exclude=exclude_test_rows, allow=allow_test_rows)
    if found.usable:
        return
    if not found.rows:
        raise UserError(f"{source.name} holds no rows.")
    if found.not_training == found.rows:
        raise UserError(f"{source.name} has no training rows, only validation or test rows; import it again with another role, or choose "
                        "another set.")
    if found.tests.count:
        raise UserError(f"{source.name} holds {found.tests.hits}; without them no training row is left.")
    tasks = ", ".join(prompt_format.tasks)
    raise UserError(f"None of the {found.rows - found.not_training:,} training rows of {source.name} has a gold label that "
                    f"{prompt_format.name} answers ({tasks}); choose another set, or a guard trained in another format.")


def rows_to_ask(source: DataSource, workspace: Workspace, prompt_format: Any, found: Survey, *, seed: int,
                allow_test_rows: bool) -> Iterator[Asked]:
    """The rows that the survey chose, in the order of the set. A limit draws at random, because sets are often sorted by label."""
    stream = _usable(source, workspace, prompt_format, Survey(), allow=allow_test_rows)
    if found.mined == found.usable:
        yield from stream
        return
    wanted = sorted(random.Random(seed).sample(range(found.usable), found.mined), reverse=True)
    for number, asked in enumerate(stream):
        if not wanted:
            return
        if number == wanted[-1]:
            wanted.pop()
            yield asked


def _usable(source: DataSource, workspace: Workspace, prompt_format: Any, found: Survey, *, allow: bool) -> Iterator[Asked]:
    training = _training(stream_examples(source, workspace), found)
    for (row, example), is_test in marked(training, _texts, workspace.store, found.tests):
        if is_test and not allow:
            continue
        asked = questions(prompt_format, [example], TASK_ORDER)
        if not asked:
            found.without_gold += 1
            continue
        found.second_verdict += len(asked) > 1
        yield Asked(row, asked[0])


def _training(examples: Iterator[GuardExample], found: Survey) -> Iterator[tuple[int, GuardExample]]:
    for row, example in enumerate(examples):
        found.rows += 1
        if example.split in (None, "train"):
            yield row, example
        else:
            found.not_training += 1


def _texts(item: tuple[int, GuardExample]) -> tuple[str, str | None]:
    return item[1].prompt, item[1].response


