"""One finished mining run as the page sees it: its rows with a person's edits, the weights its pairs would have, the pairs made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from core.methods import Method, UserError, from_run
from core.mining.choosing import hand_pair
from core.mining.edits import Edit, Edited, apply_edits, edits_file, history, read_edits
from core.mining.outputs import FILE
from core.mining.samples import KINDS, TASK_ORDER, Unparsed, as_hard
from core.mining.weights import GapRange, Norm, alpha
from core.records import Task
from core.runs import Run, Workspace
from core.ui.mining_index import NONE, Facts, Index, Reading, facts_of, index_of, with_facts
from core.ui.mining_pairs import PairRow, pairs_in

Pair = Literal["kept", "excluded", "swap void", "gold changed", "swapped", ""]
"""What becomes of a row's pair; "" = the row is not hard as it counts now, so there is none. swap void: picked by hand before the gold
label was changed, and against it now."""
PAIRING = "build-pairs"
"""The method that makes pairs."""
NOBODY = "local user"
"""Who edits, where the app knows no names."""


class Weighting(NamedTuple):
    """The settings that weights are shown with."""

    gamma: float
    norm: Norm


@dataclass(frozen=True)
class Miner:
    """A run whose rows can be shown."""

    run: Run
    index: Index
    """With the edits counted in."""
    mined: Index
    """As it was mined."""
    edits: Mapping[int, list[Edit]]
    """{row: edits in force}."""
    latest_edit: float
    """Unix time of the newest edit ever made, those included that were taken back or that take one back; 0.0 without one."""

    def place_of(self, row: int) -> int | None:
        """Where a row number stands."""
        return self.index.place_of(row)

    def edited(self, place: int) -> Edited:
        """A row with its texts and its edits."""
        return apply_edits(self.mined.read(place), self.edits.get(int(self.mined.row[place]), []))

    def task_of(self, place: int) -> Task | None:
        """The task that the row is counted on."""
        code = int(self.index.task[place])
        return None if code == NONE else TASK_ORDER[code]

    def is_hard(self, place: int) -> bool:
        """Right and wrong outputs mixed, with the edited gold label."""
        return KINDS[int(self.index.kind[place])] == "hard"

    def pair(self, place: int) -> Pair:
        """What becomes of the pair of a row."""
        if not self.is_hard(place):
            return ""
        kinds = {edit.kind for edit in self.edits.get(int(self.index.row[place]), [])}
        if "swap" in kinds and "exclude" not in kinds and self.swap_is_void(self.edited(place)):
            return "swap void"
        words: tuple[tuple[str, Pair], ...] = (("exclude", "excluded"), ("gold", "gold changed"), ("swap", "swapped"))
        return next((said for kind, said in words if kind in kinds), "kept")

    def hand_pair(self, edited: Edited) -> tuple[int, int] | None:
        """(chosen, rejected) output as a person picked them, where build-pairs takes that; a row that is not hard has no pair."""
        hard = as_hard(edited.sample, self.index.unparsed_as)
        return hand_pair(edited, hard, self.index.unparsed_as) if hard else None

    def swap_is_void(self, edited: Edited) -> bool:
        """Was a pair picked by hand that build-pairs passes over, because the gold label was changed after that?"""
        hard = as_hard(edited.sample, self.index.unparsed_as)
        return edited.pair is not None and hard is not None and hand_pair(edited, hard, self.index.unparsed_as) is None

    def usable(self) -> int:
        """Hard rows that are not excluded: what pairs can be built from."""
        hard = int(np.count_nonzero(self.index.kind == KINDS.index("hard")))
        return hard - self.excluded()

    def excluded(self) -> int:
        """Hard rows that a person has excluded."""
        rows = [row for row, edits in self.edits.items() if any(edit.kind == "exclude" for edit in edits)]
        hard = KINDS.index("hard")
        return int(np.count_nonzero(np.isin(self.index.row, rows) & (self.index.kind == hard)))

    def gaps(self) -> dict[int, GapRange]:
        """{source: range of wrong minus right answers over its hard rows}: what build-pairs stretches the weights over."""
        hard = self.index.kind == KINDS.index("hard")
        found, sources = (self.index.incorrect - self.index.correct)[hard], self.index.source[hard]
        return {int(source): GapRange(int(found[sources == source].min()), int(found[sources == source].max()))
                for source in np.unique(sources)}

    def weight(self, place: int, by: Weighting, gaps: Mapping[int, GapRange]) -> float | None:
        """alpha of the row's pair; None where the row is not hard."""
        if not self.is_hard(place):
            return None
        within = gaps[int(self.index.source[place])]
        return alpha(int(self.index.correct[place]), int(self.index.incorrect[place]), by.gamma, by.norm, within)


def unparsed_of(run: Run) -> Unparsed:
    """What an unreadable answer counts as in this run."""
    said = run.config.get("unparsed", "drop")
    return cast(Unparsed, said if said in ("drop", "incorrect") else "drop")


def open_miner(run: Run) -> Miner | Reading:
    """The rows of a run, or how far their reading is. UserError where a file is missing or the edits are damaged."""
    mined = index_of(run.dir / FILE, unparsed_of(run))
    if isinstance(mined, Reading):
        return mined
    path = edits_file(run.dir)
    stat = path.stat() if path.exists() else None
    edits, facts, latest = _corrected(path, (stat.st_size, stat.st_mtime_ns) if stat else (0, 0), mined)
    return Miner(run, with_facts(mined, facts), mined, edits, latest)


@lru_cache(maxsize=4)
def _corrected(path: Path, stamp: tuple[int, int],  # noqa: ARG001 - current by it
               mined: Index) -> tuple[dict[int, list[Edit]], dict[int, Facts], float]:
    """The edits in force; by place the facts of rows with another gold label, counted again; when the newest edit of all was made. Read
    once for each state of the file."""
    edits = read_edits(path)
    facts = {}
    for row, found in edits.items():
        place = mined.place_of(row) if any(edit.kind == "gold" for edit in found) else None
        if place is not None:
            facts[place] = facts_of(apply_edits(mined.read(place), found).sample, mined.unparsed_as)
    return edits, facts, max((edit.t for edit in history(path)), default=0.0)


# The pairs that were made from a run

class Built(NamedTuple):
    """A build-pairs run over this mining run."""

    run: Run
    report: dict[str, Any]
    path: Path

    def pairs_of(self, row: int, model: str) -> list[PairRow]:
        """The pairs of a mined row, without their texts."""
        if not self.path.exists():
            return []
        return [pair for pair in pairs_in(self.path).get(row, ()) if pair.model == model]

    def weight_of(self, row: int, model: str) -> float | None:
        """The weight in the file of a mined row's pairs; None where it has none there."""
        return next((pair.weight for pair in self.pairs_of(row, model)), None)

    def reads_otherwise(self, miner: Miner) -> bool:
        """Did the build count unreadable outputs in another way than the mining run, so that other rows are hard for it, and by other
        weights?"""
        found = next((line.get("unparsed") for line in self.report.get("runs", []) if line.get("run") == miner.run.id), None)
        return found is not None and found != miner.index.unparsed_as

    @property
    def began(self) -> float:
        """When the build began to read, edits first."""
        return float(self.run.status.get("started") or self.run.created)


class Pairing:
    """The method that builds pairs, as far as the page needs to know it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    @cached_property
    def method(self) -> type[Method] | None:
        """`build-pairs`, where it is loaded."""
        return self.workspace.plugins.methods.get(PAIRING)

    @cached_property
    def field(self) -> str | None:
        """Its setting that takes mining runs."""
        if self.method is None:
            return None
        marks = {name: from_run(item) for name, item in self.method.Config.model_fields.items()}
        return next((name for name, mark in marks.items() if mark and mark.kind == "run"), None)

    def sources(self, run: Run) -> list[str]:
        """The mining runs that a build-pairs run took, by its report; before it has one, by its settings, where an ensemble is named for
        several."""
        if found := (run.report or {}).get("runs"):
            return [str(item["run"]) for item in found]
        taken = run.config.get(self.field or "runs") or []
        return [str(item).removeprefix("run:") for item in ([taken] if isinstance(taken, str) else taken)]

    def made_from(self, runs: list[Run], mining: Run) -> list[Run]:
        """The build-pairs runs over a mining run, in the order given (newest first)."""
        return [run for run in runs if run.method == PAIRING and mining.id in self.sources(run)]

    def weighting(self, built: Built | None) -> Weighting:
        """The settings of the pairs that were built, else those that the form starts with."""
        method = self.method
        start = next(iter(method.presets.values()), {}) if method else {}
        fields = {name: item.default for name, item in method.Config.model_fields.items()} if method else {}
        chosen = {"gamma": 0.2, "norm": "min-max", **fields, **start, **(built.run.config if built else {})}
        return Weighting(float(chosen["gamma"]), cast(Norm, chosen["norm"]))

    def values(self, mining: Run, built: Built | None = None) -> dict[str, Any]:
        """Settings of a new build-pairs run: those of the pairs that were built, all their miners among them, so that building again
        after an edit changes what was edited and nothing else. Without such pairs, this mining run and the settings that the form starts
        with. UserError where no plugin brings the method.
        """
        if self.method is None or self.field is None:
            raise UserError("No plugin here brings build-pairs; the Plugins page says why.")
        if built is not None and mining.id in self.sources(built.run):
            return {name: value for name, value in built.run.config.items() if name in self.method.Config.model_fields}
        return {**next(iter(self.method.presets.values()), {}), self.field: [mining.id]}
