"""From the `data` setting of a preference training to pairs that may be learned from: where they lie, and the split guard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.data import DataSource
from core.methods import UserError
from core.mining import ensemble
from core.mining.guarding import GuardTally, passing, refuse_test_rows
from core.mining.pairs import FILE, load_preferences
from core.records import Preference
from core.runs import Workspace

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.lm.find import Found

UNKNOWN = "\0"
"""Stands for the judged prompt of a pair that does not name it; no prompt is like it."""


def find_pairs(ref: str, workspace: Workspace) -> DataSource:
    """Resolve a build-pairs run, an rsft-ensemble run (the pairs of its union) or a preference file; UserError says what there is."""
    ref = ref.strip()
    finished = [run for run in workspace.runs() if run.state == "succeeded"]
    runs = [run for run in finished if (run.dir / FILE).exists() or run.method == ensemble.METHOD]
    wanted = ref.removeprefix("run:")
    for run in runs:
        if wanted in (run.id, run.name):
            built = ensemble.pairs_run(run, workspace) if run.method == ensemble.METHOD else run
            return DataSource(built.name, built.dir / FILE, built)
    path = Path(ref).expanduser()
    if path.is_file():
        return DataSource(path.stem, path.resolve())
    there = ", ".join(run.id for run in runs) or "none yet"
    raise UserError(f"There are no pairs {ref!r}: no finished run of build-pairs or rsft-ensemble of that id or name (there: "
                    f"{there}), and no such file. Build them on the Mining page or with `python app.py run build-pairs`.")


@dataclass
class GuardedPairs:
    """Pairs in the order of the file, without those of registered test sets.

    At the end of a pass the run, if there is one, is told what was found; UserError where such pairs were found and neither flag is set.
    """

    source: DataSource
    workspace: Workspace
    need_weights: bool
    exclude: bool
    allow: bool
    run: ActiveRun | None = None
    tally: GuardTally = field(default_factory=GuardTally)
    seen: int = 0
    """Pairs of the file."""

    def __iter__(self) -> Iterator[Preference]:
        self.tally, self.seen = GuardTally(), 0
        yield from passing(self._counted(), judged, self.workspace.store, self.tally, allow=self.allow)
        refuse_test_rows(self.tally, exclude=self.exclude, allow=self.allow)
        if self.tally.count and self.tally.count == self.seen and not self.allow:
            raise UserError(f"The data holds {self.tally.hits}; without them nothing is left.")
        if self.run:
            self._tell(self.run)

    def _counted(self) -> Iterator[Preference]:
        for pair in load_preferences(self.source.path, need_weights=self.need_weights):
            self.seen += 1
            yield pair

    @property
    def overridden(self) -> bool:
        """Were test rows learned from because the settings said so?"""
        return bool(self.tally.count) and self.allow

    def record(self) -> dict[str, Any]:
        """For report.json: also when nothing was found."""
        return self.tally.record(dropped=not self.allow)

    def _tell(self, run: ActiveRun) -> None:
        if self.overridden:
            run.notice(f"Trained on although they are test rows (allow_test_rows): {self.tally.hits}.", "warning")
        elif self.tally.count:
            run.notice(f"Left out: {self.tally.hits}.")


def judged(pair: Preference) -> tuple[str, str | None]:
    """The interaction that the guard was asked about."""
    return (UNKNOWN, None) if pair.user_prompt is None else (pair.user_prompt, pair.user_response)


@dataclass(frozen=True)
class PreparedPairs:
    """What the settings lead to, before any weights or pairs are read."""

    source: DataSource
    found: Found
    pairs: GuardedPairs


def prepare_pairs(config: Any, workspace: Workspace, run: ActiveRun | None = None) -> PreparedPairs:
    """`config` is that of the `hs-dpo` method, or one with the same fields."""
    from core.lm.find import find_model

    source = find_pairs(config.data, workspace)
    found = find_model(config.model, workspace.runs_dir)
    return PreparedPairs(source, found, GuardedPairs(source, workspace, need_weights=config.use_weights, exclude=config.exclude_test_rows,
                                                     allow=config.allow_test_rows, run=run))
