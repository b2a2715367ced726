"""`waltz-prompts`: prompt sets pooled into one, split once before anything is trained; and the layout of prompts that name their side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from core import DataFormat, GuardExample, Labels, Method, Problem, RowError, Stage, UserError, hookimpl
from core.chat.report import LENGTH_EDGES, word_spread
from core.chat.saving import refused_rows
from core.methods import short_path
from core.split_guard import keys_to_register
from core.waltz.pool import Pool, PoolConfig, collect, halves
from core.waltz.prompts import LABEL_OF
from core.words import plural

if TYPE_CHECKING:
    from core.active import ActiveRun

SPOOL = ".pool.jsonl"


class PromptSide(DataFormat):
    """prompt, side (harmful or benign), perhaps category and source: what to play episodes on."""

    name = "prompt-side"
    title = "Prompts with a side (harmful, benign)"
    example = {"prompt": "How do I kill a Python process?", "side": "benign", "category": "computing", "difficulty": "easy"}

    @classmethod
    def matches(cls, row: Mapping[str, Any]) -> int:
        """A prompt and one of the two sides."""
        return 80 if "prompt" in row and row.get("side") in LABEL_OF and "labels" not in row else 0

    @classmethod
    def to_example(cls, row: Mapping[str, Any], columns: Mapping[str, str]) -> GuardExample:
        """The side becomes the label of the request."""
        if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
            raise RowError("is empty" if isinstance(row.get("prompt"), str) else "is missing or no text", "prompt")
        if row.get("side") not in LABEL_OF:
            raise RowError(f"{row.get('side')!r} is neither harmful nor benign", "side")
        about = {key: str(row[key]) for key in ("source", "category") if row.get(key) is not None}
        split = {"split": row["split"]} if row.get("split") else {}
        return GuardExample(prompt=row["prompt"], labels=Labels.model_validate({"request": LABEL_OF[row["side"]]}), **about, **split)


class WaltzPrompts(Method):
    """No prompt twice, no near-duplicates, one split."""

    name = "waltz-prompts"
    title = "Pool prompts"
    summary = "Prompt sets become one: no prompt twice or nearly twice, split once, and the test half registered."
    stage = Stage.DATA
    lane = "instant"
    makes = ("data",)
    resumable = False

    class Config(PoolConfig):
        """Which prompts, and how they are split."""

    def check(self, config: Config) -> list[Problem]:
        """Pool everything, keep nothing."""
        import tempfile
        from pathlib import Path

        try:
            with refused_rows() as refused, tempfile.TemporaryDirectory() as folder:
                pool = collect(config, self.workspace, refused, Path(folder) / SPOOL)
        except UserError as error:
            return [Problem(str(error), "sides" if str(error).startswith("sides") else "sources")]
        if not pool.kept:
            return [Problem(_nothing(pool), "sources")]
        found = [Problem(f"{one.source} gives no prompt: {_why(one)}.", "sources", severity="warning")
                 for one in pool.given if not one.kept]
        sides = {cell[0] for cell in [*pool.free, *(cell for cell, _ in pool.forced)]}
        if len(sides) < 2:
            found.append(Problem(f"All prompts are {min(sides)}: over-refusal and harm cannot both be measured on them.", "sources",
                                 severity="warning"))
        return found

    def describe(self, config: Config) -> str:
        """The sources."""
        return ", ".join(short_path(item) for item in config.sources)

    def run(self, config: Config, run: ActiveRun) -> None:
        """data.jsonl with both halves, the test half registered."""
        spool = run.dir / SPOOL
        try:
            with refused_rows(run) as refused:
                pool = collect(config, run.workspace, refused, spool)
            if not pool.kept:
                raise UserError(_nothing(pool))
            if config.name:
                run.set_labels(name=config.name)
            counts = Counts()
            run.save_records("data", counts.counting(halves(pool, config, spool)))
        finally:
            spool.unlink(missing_ok=True)
        if not counts.splits["test"] or not counts.splits["train"]:
            (run.dir / "data.jsonl").unlink()
            raise UserError(f"All {plural(pool.kept, 'prompt')} would go to one half: {dict(counts.splits)}. Change test_share, or give "
                            "other sources.")
        run.register_test_set(keys_to_register(example for example in _read(run) if example.split == "test"))
        given = [vars(one) for one in pool.given]
        dropped = sum(one.duplicates + one.near_duplicates for one in pool.given)
        run.save_report({"kind": "data", "name": run.name, "format": "pooled prompts", "source": ", ".join(config.sources), "given": given,
                         "duplicates_dropped": dropped, "forced": {half: sum(count for (_, to), count in pool.forced.items() if to == half)
                                                                   for half in ("train", "test")},
                         **refused.record, **counts.report()})
        run.stats(Rows=f"{counts.rows:,}", **{"Test": f"{counts.splits['test']:,}", "Left out": f"{dropped:,}"})
        for one in pool.given:
            run.log(f"{one.source}: {one.kept:,} of {plural(one.rows, 'prompt')} kept ({_why(one)})")


class Counts:
    """What is in the pooled set, under the names that an import uses in its report."""

    def __init__(self) -> None:
        self.rows = 0
        self.splits: Counter[str] = Counter()
        self._labels: Counter[tuple[str, str, str]] = Counter()
        self._categories: Counter[str] = Counter()
        self._words: Counter[int] = Counter()

    def counting(self, examples: Iterable[GuardExample]) -> Iterator[GuardExample]:
        """The same rows, counted as they pass."""
        for example in examples:
            self.rows += 1
            self.splits[str(example.split)] += 1
            self._labels[str(example.split), example.source, str(example.labels.request)] += 1
            self._categories[example.category] += 1
            self._words[len(example.prompt.split())] += 1
            yield example

    def report(self) -> dict[str, Any]:
        """For report.json."""
        def part(split: str | None = None, source: str | None = None) -> dict[str, Any]:
            found: Counter[str] = Counter()
            for (of_split, of_source, label), count in self._labels.items():
                if split in (None, of_split) and source in (None, of_source):
                    found[label] += count
            return {"rows": found.total(), "labels": {"request": dict(found)}}

        bins: Counter[int] = Counter()
        for length, count in self._words.items():
            bins[max(edge for edge in LENGTH_EDGES if edge <= length)] += count
        words = {"words": word_spread(self._words), "histogram_words": {str(edge): bins[edge] for edge in LENGTH_EDGES}}
        headline = f"{plural(self.rows, 'row')}: " + ", ".join(f"{count:,} {split}" for split, count in self.splits.most_common())
        return {"headline": headline, **part(), "splits": {split: part(split) for split in sorted(self.splits)},
                "sources": {source: part(source=source) for source in sorted({key[1] for key in self._labels})}, "more_sources": 0,
                "categories": dict(Counter({key: count for key, count in self._categories.items() if key}).most_common(50)),
                "with_response": 0, "with_reasoning": 0, "with_target": 0, "distinct_prompts": self.rows,
                "lengths": {"prompt": words, "response": None, "target": None}}


def _read(run: ActiveRun) -> Iterator[GuardExample]:
    from core.records import read_records

    return read_records(run.dir / "data.jsonl", GuardExample)


def _why(one: Any) -> str:
    parts = [("on the other side", one.other_side), ("without a label", one.without_label), ("duplicates", one.duplicates),
             ("near-duplicates", one.near_duplicates)]
    return ", ".join(f"{count:,} {words}" for words, count in parts if count) or "none left out"


def _nothing(pool: Pool) -> str:
    return "No prompt is left: " + "; ".join(f"{one.source}: {plural(one.rows, 'row')}, {_why(one)}" for one in pool.given) + "."


@hookimpl
def register_methods() -> list[type[Method]]:
    """The one method of this file."""
    return [WaltzPrompts]


@hookimpl
def register_formats() -> list[type[DataFormat]]:
    """Prompts that name their side."""
    return [PromptSide]
