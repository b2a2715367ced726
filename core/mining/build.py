"""build-pairs as a run: hard rows of one or more mining runs become weighted pairs; the union is de-duplicated on the input.

Two passes over outputs.jsonl. The first finds the range of gaps of each data set (source) of each run, because min-max weights are
computed before anything is merged; the second writes. Edits by hand apply, and hold for the input in whichever run it occurs: an input
that a person excluded does not come back through another model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from core.methods import UserError
from core.mining import ensemble
from core.mining.agreement import InputIndex
from core.mining.choosing import Pick, Places, choose_pairs, hand_pair
from core.mining.edits import Edit, Edited, apply_edits, edits_file, read_edits
from core.mining.guarding import GuardTally, marked, refuse_test_rows
from core.mining.outputs import FILE, read_outputs
from core.mining.pairs import as_preference
from core.mining.samples import Unparsed, as_hard
from core.mining.weights import GapRange, alpha, gap
from core.records import HardSample, Preference
from core.split_guard import pair_key
from core.words import plural

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.runs import Run, Workspace


_HOW: dict[Pick, str] = {"random": "a right and a wrong answer at random", "longest": "the longest right and the longest wrong answer",
                         "all": "every right with every wrong answer"}


class Hard(NamedTuple):
    """A hard row of a run, ready to be made into a pair."""

    run: int
    key: str
    sample: HardSample
    edited: Edited


@dataclass
class Built:
    """What became of the rows."""

    hard: int = 0
    pairs: int = 0
    rows_with_pairs: int = 0
    duplicates: int = 0
    """Hard rows whose input had a pair already, from the same or an earlier run."""
    excluded: int = 0
    """Hard rows taken out by hand."""
    edited: int = 0
    """Hard rows with a corrected gold label or a swapped pair."""
    void: int = 0
    """Of them, rows whose pair was picked by hand before the gold label was changed, and is against it: the pair was chosen anew."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Hard rows without a usable pair, by reason."""
    weights: Counter[float] = field(default_factory=Counter)
    table: Counter[tuple[str, str]] = field(default_factory=Counter)
    """{(source, model): pairs}."""
    golds: Counter[tuple[str, str]] = field(default_factory=Counter)
    """{(task, right label): pairs}."""
    tests: GuardTally = field(default_factory=GuardTally)


def mining_runs(refs: list[str], workspace: Workspace) -> list[Run]:
    """The finished mining runs, those inside an ensemble too; UserError for another method, or an unfinished run."""
    named = [workspace.run(ref) for ref in refs]
    for run in named:
        if run.method == ensemble.METHOD and run.state != "succeeded":
            raise UserError(f"{run.id} is {run.state}; only finished ensembles have all their mining runs. Wait for it, or resume it.")
        if not ensemble.miners(run):
            raise UserError(f"{run.id} mined nothing (mine = false); mine the guards that it trained, and name those runs.")
    runs = [workspace.run(found) for found in dict.fromkeys(found for run in named for found in ensemble.miners(run))]
    for run in runs:
        if run.method != "mine-hard-samples":
            raise UserError(f"{run.id} is a run of {run.method}; choose runs of mine-hard-samples or rsft-ensemble.")
        if run.state != "succeeded" or not (run.dir / FILE).exists():
            raise UserError(f"{run.id} is {run.state}; only finished mining runs have all their rows. Wait for it, or resume it.")
    return runs


class PairBuilder:
    """One build, in a `with`: `survey()`, then the stream of pairs `build()`; `built` has the counts once that is spent."""

    def __init__(self, config: Any, workspace: Workspace) -> None:
        self.config, self.workspace = config, workspace
        self.runs = mining_runs(config.runs, workspace)
        self.edits = [read_edits(edits_file(run.dir)) for run in self.runs]
        self.unparsed = [_unparsed(config, run) for run in self.runs]
        self.built = Built()
        self.ranges: dict[tuple[int, str], GapRange] = {}
        self.index = InputIndex()
        self.mined_rows = 0
        self._by_input: tuple[set[str], dict[str, list[Edit]]] | None = None

    def __enter__(self) -> PairBuilder:
        return self

    def __exit__(self, *_: object) -> None:
        self.index.close()

    def survey(self) -> None:
        """The first pass: ranges, agreement, test rows. Refuses test rows, and runs without hard samples."""
        self._by_input = self._edits_by_input()
        tests = self.built.tests
        for hard, is_test in marked(self._hard(index=True), _texts, self.workspace.store, tests):
            self.built.hard += 1
            if is_test and not self.config.allow_test_rows:
                continue
            place, found = (hard.run, hard.sample.source), gap(hard.sample.k_correct, hard.sample.k_incorrect)
            self.ranges[place] = self.ranges.get(place, GapRange(found, found)).with_gap(found)
        refuse_test_rows(tests, exclude=self.config.exclude_test_rows, allow=self.config.allow_test_rows)
        if not self.built.hard:
            names = ", ".join(run.id for run in self.runs)
            raise UserError(f"There is no hard sample in {names} ({plural(self.mined_rows, 'row')}), so there is nothing to build pairs "
                            "from. Mine again with a higher temperature, more rows, a larger k, or a less trained guard.")

    def build(self, run: ActiveRun) -> Iterator[Preference]:
        """The second pass. UserError at its end where no pair came out, so that no empty file is left."""
        built = self.built
        for number, (hard, is_test) in enumerate(marked(self._hard(), _texts, self.workspace.store, GuardTally()), start=1):
            run.stop_if_asked()
            run.progress(number, built.hard, "hard rows")
            if is_test and not self.config.allow_test_rows:
                continue
            yield from self._pairs(hard)
        if not built.pairs:
            reasons = "; ".join(f"{count:,} {reason}" for reason, count in self.left_out().items())
            raise UserError(f"None of the {plural(built.hard, 'hard row')} gave a pair ({reasons}). Include rows again, mine more rows, or "
                            "set unparsed=incorrect.")

    def _pairs(self, hard: Hard) -> Iterator[Preference]:
        built, sample = self.built, hard.sample
        if hard.key in self._blocked:
            built.excluded += 1
            return
        if self.index.is_used(hard.key):
            built.duplicates += 1
            return
        by_hand = hand_pair(hard.edited, sample, self.unparsed[hard.run])
        places = self._places(hard, by_hand)
        if not places:
            return
        self.index.use(hard.key)
        built.rows_with_pairs += 1
        built.edited += bool(hard.edited.edits)
        built.void += hard.edited.pair is not None and by_hand is None
        weight = alpha(sample.k_correct, sample.k_incorrect, self.config.gamma, self.config.norm,
                       self.ranges[hard.run, sample.source])
        prompt_format = self._format(sample.prompt_format)
        for place in places:
            built.pairs += 1
            built.weights[weight] += 1
            built.table[sample.source, sample.model] += 1
            built.golds[sample.task, getattr(sample.gold, sample.task)] += 1
            yield as_preference(sample, place, weight, prompt_format, self._why(hard, by_hand), hard.edited.original.gold)

    def _places(self, hard: Hard, by_hand: Places | None) -> list[Places]:
        if by_hand:
            found = [by_hand]
        else:
            found = choose_pairs(hard.sample, self.config.pick, self.unparsed[hard.run], seed=self.config.seed,
                                 most=self.config.max_pairs_per_row)
        if not found:
            self.built.skipped["a right or a wrong answer is empty, so there is no pair"] += 1
        texts = [output.text for output in hard.sample.outputs]
        kept = [(chosen, rejected) for chosen, rejected in found if texts[chosen].strip() != texts[rejected].strip()]
        if found and not kept:
            self.built.skipped["chosen and rejected are the same text"] += 1
        return kept

    def _why(self, hard: Hard, by_hand: Places | None) -> str:
        how = "picked by hand" if by_hand else _HOW[self.config.pick]
        return f"{how}; {hard.sample.task}: {hard.sample.k_correct} right, {hard.sample.k_incorrect} wrong ({self.runs[hard.run].id})"

    def _hard(self, index: bool = False) -> Iterator[Hard]:
        """Hard rows of all runs, in the order of the runs."""
        _, changed = self._by_input or (set(), {})
        for number, run in enumerate(self.runs):
            for sample in read_outputs(run.dir / FILE):
                key = pair_key(sample.prompt, sample.response)
                elsewhere = [edit for edit in changed.get(key, []) if edit.task and getattr(sample.gold, edit.task)]
                edited = apply_edits(sample, [*elsewhere, *self.edits[number].get(sample.row, [])])
                hard = as_hard(edited.sample, self.unparsed[number])
                if index:
                    self.mined_rows += 1
                    self.index.mined(key, number, hard is not None)
                if hard:
                    yield Hard(number, key, hard, edited)

    @property
    def _blocked(self) -> set[str]:
        return self._by_input[0] if self._by_input else set()

    def _edits_by_input(self) -> tuple[set[str], dict[str, list[Edit]]]:
        """(inputs excluded by hand, {input: gold corrections}), whichever run they were made in. As many as were made by hand."""
        blocked: set[str] = set()
        gold: dict[str, list[Edit]] = {}
        for run, edits in zip(self.runs, self.edits, strict=True):
            if not edits:
                continue
            for sample in read_outputs(run.dir / FILE):
                key = pair_key(sample.prompt, sample.response)
                for edit in edits.get(sample.row, []):
                    if edit.kind == "exclude":
                        blocked.add(key)
                    elif edit.kind == "gold" and edit.task and getattr(sample.gold, edit.task):
                        gold.setdefault(key, []).append(edit)
        return blocked, gold

    def _format(self, name: str) -> Any:
        found = self.workspace.plugins.prompt_formats.get(name)
        if found is None:
            raise UserError(f"The prompt format {name}, in which these rows were mined, is not here any more; install its plugin.")
        return found

    def left_out(self) -> dict[str, int]:
        """Hard rows that gave no pair, by reason."""
        built = self.built
        dropped = 0 if self.config.allow_test_rows else built.tests.count
        found = {"excluded by hand": built.excluded, "with an input that has a pair already": built.duplicates,
                 "of registered test sets": dropped, **built.skipped}
        return {reason: count for reason, count in found.items() if count}


def _unparsed(config: Any, run: Run) -> Unparsed:
    mined: Unparsed = run.config.get("unparsed", "drop")
    return mined if config.unparsed == "as mined" else config.unparsed


def _texts(hard: Hard) -> tuple[str, str | None]:
    return hard.sample.prompt, hard.sample.response
