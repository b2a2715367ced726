"""Import rows: a file or a Hub set becomes data.jsonl in one layout, with a split for each row and a report of what is in it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import field_validator

from core import Config, Estimate, GuardExample, Method, OneOf, Problem, Stage, UserError, hookimpl, setting
from core.files import replace_file
from core.methods import full_path
from core.reading import AmbiguousLayout, ReadResult, read_examples, to_examples
from core.records import TASKS
from core.rows import BadRow, Row, read_hub, read_rows
from core.split_guard import find_hits, keys_to_register
from core.splits import assign_splits
from core.words import plural

if TYPE_CHECKING:
    from core.active import ActiveRun

FIELDS = ("prompt", "response", "label", "request_label", "completion_label", "response_label", "category", "source")
"""What a column of a file can be named for; each has its setting, `prompt_column` and so on."""
LENGTH_EDGES = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
"""Histogram bins of text lengths, in words; the last one is open."""
_FILE_END = re.compile(r"\.(jsonl?|ndjson|csv|tsv|parquet)(\.gz)?$", re.IGNORECASE)


class ImportData(Method):
    """Read, check, de-duplicate, split, register."""

    name = "import-data"
    title = "Import data"
    summary = "Turn a file or a Hub set into labelled rows with a train, validation or test split."
    stage = Stage.DATA
    leads = True
    lane = "instant"
    makes = ("data",)
    resumable = False
    presets = {"train": {"role": "train"}, "test": {"role": "test"}, "split": {"role": "split", "test_share": 0.2}}
    preset_help = {"train": "All rows may be trained on and mined.",
                   "test": "All rows are kept for evaluation; training and mining refuse them from now on.",
                   "split": "A fifth of the rows is kept for evaluation, the rest is for training."}

    class Config(Config):
        """What to read and what the rows are for."""

        source: str = setting(aliases=("path", "file", "data"), min_length=1)
        """A file (JSON Lines, JSON, CSV, Parquet; the text ones also as .gz), or a Hugging Face set as owner/name."""
        name: str = ""
        """What the set is called from now on. Empty: the name of the file."""
        role: Literal["train", "test", "split", "as-marked"] = "train"
        """train: all rows are for training. test: all rows are for evaluation and registered, so that no training or mining uses
        them. split: a share becomes such a test set. as-marked: the rows' own split column decides."""
        test_share: float = setting(0.2, ge=0, le=0.9)
        """Share of the rows that becomes the test set, with role split. Rows with the same prompt stay together."""
        validation_share: float = setting(0.0, ge=0, le=0.9)
        """Share of the rows that is kept aside for the validation loss, with role train or split."""
        on_bad_rows: Literal["stop", "skip"] = "stop"
        """stop: one row that cannot be read fails the import and nothing is kept. skip: the good rows are imported, the bad ones
        are counted and written to bad_rows.jsonl."""
        deduplicate: Literal["none", "exact"] = "none"
        """exact: of rows equal in prompt, response, labels and target only the first is kept. none: they are kept and counted."""
        format: Annotated[str, OneOf("data format")] = "auto"
        """Layout of the file. auto: the one that fits best; the report names it and the runners-up."""
        prompt_column: str = setting("", advanced=True)
        """Column of the prompt, where it has an unusual name."""
        response_column: str = setting("", advanced=True)
        """Column of the AI's response."""
        label_column: str = setting("", advanced=True)
        """Column of the label (harmful, unsafe, 1 / unharmful, harmless, safe, benign, 0 / refusal, compliance)."""
        request_label_column: str = setting("", advanced=True)
        """Column of the label of the request, where there is one for each task."""
        completion_label_column: str = setting("", advanced=True)
        """Column of the refusal label."""
        response_label_column: str = setting("", advanced=True)
        """Column of the label of the response."""
        category_column: str = setting("", advanced=True)
        """Column of the harm category."""
        source_column: str = setting("", advanced=True)
        """Column that names where a row is from. Without one, all rows are from this set."""
        label_task: Literal["auto", "request", "completion", "response"] = setting("auto", advanced=True)
        """What a single label is about when rows have a response too. auto: only where it is certain, else an error."""
        all_rows_are: Literal["", "harmful", "unharmful"] = setting("", advanced=True)
        """Label of every row, for sets without a label column: harmful for HarmBench, unharmful for OR-Bench."""
        hub_split: str = setting("train", advanced=True, aliases=("split",))
        """Split of a Hub set to read."""
        hub_subset: str = setting("", advanced=True, aliases=("subset",))
        """Subset (configuration) of a Hub set."""
        hub_revision: str = setting("", advanced=True, aliases=("revision",))
        """Commit or tag of a Hub set, so that the import can be repeated."""
        licence: str = setting("", advanced=True, aliases=("license",))
        """Licence of the rows, as its source states it. Shown in the report and on cards."""

        @field_validator("source")
        @classmethod
        def absolute(cls, value: str) -> str:
            """A file that is there gets its full path: the run may start in another folder."""
            return full_path(value, os.path.exists)

    def check(self, config: Config) -> list[Problem]:
        """Read the first rows."""
        problems = _share_problems(config)
        if self._name_taken(config):
            problems.append(Problem(f"There is a set called {_set_name(config)} already; the newer one will go by that name.", "name",
                                    severity="warning"))
        if _hub_id(config.source):
            return problems
        formats = self.workspace.plugins.data_formats
        if config.format != "auto" and config.format not in formats:
            return [*problems, Problem(f"There is no format {config.format!r}; known: auto, {', '.join(sorted(formats))}.", "format")]
        try:
            result = read_examples(Path(config.source), formats, limit=100, **_reading(config))
        except UserError as error:
            return [*problems, Problem(str(error), "format" if isinstance(error, AmbiguousLayout) else "source")]
        return [*problems, *_row_problems(result, config)]

    def estimate(self, config: Config) -> Estimate | None:
        """About 10 MB a second."""
        path = Path(config.source)
        if not path.is_file():
            return None
        return Estimate(seconds=1 + path.stat().st_size / 10e6, note=self._read_as(config))

    def _read_as(self, config: Config) -> str:
        """"Reads as guardwaltz; it also fits ...": what was detected, told before anything is imported."""
        result = read_examples(Path(config.source), self.workspace.plugins.data_formats, limit=100, **_reading(config))
        others = ", ".join(f"{found.name} ({found.share:.0%})" for found in result.detections if found.name != result.format)
        return f"Reads as {result.format}; " + (f"of the first rows it also fits {others}." if others else "no other layout fits.")

    def describe(self, config: Config) -> str:
        """The file's name and what it is for."""
        return f"{Path(config.source).name} as {config.role}"

    def run(self, config: Config, run: ActiveRun) -> None:
        """Read all rows, then write all or nothing."""
        if problems := _share_problems(config):
            raise UserError(" ".join(problem.message for problem in problems))
        name = config.name or (run.name if run.labels["name"] else _set_name(config))
        run.set_labels(name=name)
        result = self._read(config, run)
        run.log(f"format {result.format}; {plural(len(result.examples), 'row')} read, {len(result.bad):,} bad")
        self._handle_bad(result, config, run)
        read = [example if example.source else example.model_copy(update={"source": name}) for example in result.examples]
        distinct, conflicts = _distinct(read)
        if conflicts:
            run.notice(f"{plural(conflicts, 'row')} contradict the label of another row with the same texts; they are kept.", "warning")
        examples = _with_splits(distinct if config.deduplicate == "exact" else read, config)
        hits = find_hits([example for example in examples if example.split != "test"], run.store)
        if hits.count:
            run.notice(f"This set holds {hits}. Training and mining will refuse them unless exclude_test_rows=true.", "warning")
        run.save_records("data", examples)
        test_rows = [example for example in examples if example.split == "test"]
        if test_rows:
            run.register_test_set(keys_to_register(test_rows))
            run.log(f"{plural(len(test_rows), 'row')} registered as a test set")
        run.save_report({
            "kind": "data", "headline": _counts(examples), "name": name, "source": config.source,
            "sha256": _sha256(config.source), "licence": config.licence,
            "format": result.format, "detections": [vars(found) for found in result.detections],
            "bad_rows": len(result.bad), "first_bad_rows": [vars(row) for row in result.bad[:5]],
            "duplicates": len(read) - len(distinct), "duplicates_dropped": len(read) - len(examples), "conflicting_labels": conflicts,
            "test_rows_found": hits.count, "test_rows_by_set": hits.by_set, **described(examples)})
        run.stats(**_headline(examples, result))

    def _read(self, config: Config, run: ActiveRun) -> ReadResult:
        formats = self.workspace.plugins.data_formats
        hub = _hub_id(config.source)
        path = None if hub else Path(config.source)
        rows = (read_rows(path) if path is not None else
                read_hub(hub, config.hub_split, subset=config.hub_subset or None, revision=config.hub_revision or None))
        return to_examples(_watched(rows, run), formats, name=hub or Path(config.source).name, path=path, **_reading(config))

    def _handle_bad(self, result: ReadResult, config: Config, run: ActiveRun) -> None:
        total = len(result.bad) + len(result.examples)
        if result.bad:
            with replace_file(run.dir / "bad_rows.jsonl") as file:
                file.writelines(json.dumps(vars(row), ensure_ascii=False) + "\n" for row in result.bad)
        if result.bad and (config.on_bad_rows == "stop" or not result.examples):
            first = "; ".join(map(str, result.bad[:3]))
            way_out = "Mend the file, or set on_bad_rows=skip to import the others." if result.examples else "No row can be imported."
            raise UserError(f"{len(result.bad):,} of {plural(total, 'row')} cannot be read: {first}. {way_out}")
        if result.bad:
            run.notice(f"{len(result.bad):,} of {plural(total, 'row')} could not be read and are left out; see bad_rows.jsonl.", "warning")
        if not result.examples:
            raise UserError(f"{config.source} holds no rows.")

    def _name_taken(self, config: Config) -> bool:
        return any(run.name == _set_name(config) for run in self.workspace.runs() if (run.dir / "data.jsonl").exists())


@hookimpl
def register_methods() -> list[type[Method]]:
    """The one method of this file."""
    return [ImportData]


def _counts(examples: list[GuardExample]) -> str:
    """"500 rows: 400 train, 100 test"."""
    splits = Counter(example.split or "unmarked" for example in examples)
    return f"{plural(len(examples), 'row')}: " + ", ".join(f"{count:,} {split}" for split, count in splits.most_common())


def described(examples: list[GuardExample]) -> dict[str, Any]:
    """What is in these rows: labels by split and source, categories, lengths."""
    def counts(rows: Iterable[GuardExample]) -> dict[str, Any]:
        rows = list(rows)
        labels = {task: dict(Counter(label for row in rows if (label := getattr(row.labels, task)))) for task in TASKS}
        return {"rows": len(rows), "labels": {task: found for task, found in labels.items() if found}}

    splits = sorted({row.split or "unmarked" for row in examples})
    sources = Counter(row.source for row in examples)
    return {
        **counts(examples),
        "splits": {split: counts(row for row in examples if (row.split or "unmarked") == split) for split in splits},
        "sources": {source: counts(row for row in examples if row.source == source) for source, _ in sources.most_common(30)},
        "more_sources": max(0, len(sources) - 30),
        "categories": dict(Counter(row.category for row in examples if row.category).most_common(50)),
        "with_response": sum(row.response is not None for row in examples),
        "with_reasoning": sum(bool(row.reasoning) for row in examples),
        "with_target": sum(row.target is not None for row in examples),
        "distinct_prompts": len({row.prompt for row in examples}),
        "lengths": {field: _lengths([text for row in examples if (text := getattr(row, field)) is not None])
                    for field in ("prompt", "response", "target")},
    }


def _lengths(texts: list[str]) -> dict[str, Any] | None:
    if not texts:
        return None
    words = sorted(len(text.split()) for text in texts)
    characters = sorted(map(len, texts))
    bins = Counter(max(edge for edge in LENGTH_EDGES if edge <= count) for count in words)
    return {"words": _spread(words), "characters": _spread(characters), "histogram_words": {str(edge): bins[edge] for edge in LENGTH_EDGES}}


def _spread(values: list[int]) -> dict[str, float]:
    def at(share: float) -> int:
        return values[min(len(values) - 1, round(share * (len(values) - 1)))]

    mean = round(sum(values) / len(values), 1)
    return {"min": values[0], "median": at(0.5), "mean": mean, "p90": at(0.9), "p99": at(0.99), "max": values[-1]}


def _headline(examples: list[GuardExample], result: ReadResult) -> dict[str, str]:
    harmful = sum(row.labels.request == "harmful" for row in examples)
    labelled = sum(row.labels.request is not None for row in examples)
    shown = {"Rows": f"{len(examples):,}"}
    if labelled:
        shown["Harmful requests"] = f"{harmful / labelled:.0%}"
    if result.bad:
        shown["Bad rows"] = f"{len(result.bad):,}"
    return shown


def _with_splits(examples: list[GuardExample], config: Any) -> list[GuardExample]:
    if config.role == "as-marked":
        unmarked = sum(example.split is None for example in examples)
        if unmarked:
            raise UserError(f"{plural(unmarked, 'row')} have no split of their own; choose the role train, test or split.")
        return examples
    if config.role == "train" and any(example.split == "test" for example in examples):
        marked = sum(example.split == "test" for example in examples)
        raise UserError(f"{plural(marked, 'row')} are marked as test rows in the file; choose the role as-marked or test.")
    if config.role == "test":
        return [example.model_copy(update={"split": "test"}) for example in examples]
    test = config.test_share if config.role == "split" else 0.0
    splits = assign_splits(examples, test=test, validation=config.validation_share, seed=config.seed)
    for split, share, field in (("test", test, "test_share"), ("validation", config.validation_share, "validation_share")):
        if share and split not in splits:
            raise UserError(f"{field} = {share} of {plural(len(examples), 'row')} is no row; raise it or import more rows.")
    if "train" not in splits:
        raise UserError(f"No row is left for training out of {len(examples):,}; lower test_share or validation_share.")
    return [example.model_copy(update={"split": split}) for example, split in zip(examples, splits, strict=True)]


def _distinct(examples: list[GuardExample]) -> tuple[list[GuardExample], int]:
    """The first of each group of equal rows, and how many rows contradict the label of an earlier one with the same texts."""
    seen: dict[tuple[str, str | None], set[tuple[str, str | None]]] = {}
    kept, conflicts = [], 0
    for example in examples:
        earlier = seen.setdefault((example.prompt, example.response), set())
        mine = (example.labels.model_dump_json(), example.target)
        conflicts += bool(earlier) and mine[0] not in {labels for labels, _ in earlier}
        if mine not in earlier:
            kept.append(example)
        earlier.add(mine)
    return kept, conflicts


def _share_problems(config: Any) -> list[Problem]:
    test = config.test_share if config.role == "split" else 0.0
    if config.role == "split" and not test:
        return [Problem("test_share = 0 leaves no test set; raise it, or choose the role train.", "test_share")]
    if config.role in ("train", "split") and test + config.validation_share >= 1:
        return [Problem(f"test_share and validation_share add up to {test + config.validation_share:.2f}; nothing is left for training.",
                        "validation_share")]
    return []


def _row_problems(result: ReadResult, config: Any) -> list[Problem]:
    if not result.bad:
        return []
    looked = len(result.bad) + len(result.examples)
    message = f"{len(result.bad)} of the first {plural(looked, 'row')} cannot be read as {result.format}: {result.bad[0]}."
    if not result.examples:
        named = (f"{field}_column" for field in FIELDS if getattr(config, f"{field}_column") == result.bad[0].column != "")
        return [Problem(message, next(named, "source"))]
    if config.on_bad_rows == "skip":
        return [Problem(message + " They will be left out and counted.", "on_bad_rows", severity="warning")]
    return [Problem(message, "on_bad_rows", fix={"on_bad_rows": "skip"}, fix_label="Import the others")]


def _reading(config: Any) -> dict[str, Any]:
    """Settings as arguments of core.reading."""
    columns = {field: column for field in FIELDS if (column := getattr(config, f"{field}_column"))}
    fixed = {"task": config.label_task} if config.label_task != "auto" else {}
    if config.all_rows_are:
        fixed["label"] = config.all_rows_are
    return {"format": config.format, "columns": columns, "fixed": fixed}


def _hub_id(source: str) -> str:
    """owner/name of a Hub set, "" for a file."""
    if source.startswith("hf:"):
        return source.removeprefix("hf:")
    is_id = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) is not None
    return source if is_id and not _FILE_END.search(source) and not os.path.exists(source) else ""


def _set_name(config: Any) -> str:
    return config.name or _FILE_END.sub("", Path(config.source).name)


def _sha256(source: str) -> str | None:
    path = Path(source)
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _watched(rows: Iterable[Row | BadRow], run: ActiveRun) -> Iterator[Row | BadRow]:
    """The same rows, with progress and a place to stop."""
    for count, row in enumerate(rows, start=1):
        if count % 500 == 0:
            run.progress(count, None, "rows")
            run.stop_if_asked()
        yield row
