"""Finding the rows that a `data=` setting names: an imported set by name, a run id, or a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.methods import UserError
from core.records import GuardExample, Split, read_records
from core.runs import Run, Workspace


@dataclass(frozen=True)
class DataSource:
    """Where rows lie. `run` is None for a plain file."""

    name: str
    path: Path
    run: Run | None = None

    def sha256(self) -> str:
        """Hash of the file, for reports and cards."""
        import hashlib

        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def data_runs(workspace: Workspace) -> list[Run]:
    """Finished runs that made rows, newest first."""
    return [run for run in workspace.runs() if (run.dir / "data.jsonl").exists() and run.state == "succeeded"]


def find_data(ref: str, workspace: Workspace) -> DataSource:
    """Resolve a data reference; UserError names what was looked for and what there is."""
    ref = ref.strip()
    if not ref:
        raise UserError("No data given; name an imported set, a run or a file.")
    runs = data_runs(workspace)
    wanted = ref.removeprefix("run:")
    for run in runs:
        if wanted in (run.id, run.name):
            return DataSource(run.name, run.dir / "data.jsonl", run)
    path = Path(ref).expanduser()
    if path.is_file():
        return DataSource(path.stem, path.resolve())
    known = ", ".join(sorted({run.name for run in runs})) or "none yet"
    raise UserError(f"There is no data {ref!r}: no imported set or finished run of that name (imported: {known}), and no such file. "
                    "Import it on the Data page or with `python app.py run import-data source=FILE`.")


def load_examples(ref: str, workspace: Workspace, split: Split | None = None) -> list[GuardExample]:
    """Rows of a data reference. `split` keeps rows of that split, where the set has splits at all; else all rows.

    "train" keeps rows marked train or unmarked; a set with no row for the wanted split raises UserError.
    """
    source = find_data(ref, workspace)
    rows = list(_read(source, workspace))
    if split and any(row.split for row in rows):
        rows = [row for row in rows if row.split == split or (split == "train" and row.split is None)]
        if not rows:
            raise UserError(f"{source.name} has no {split} rows; import it again with another role, or choose another set.")
    if not rows:
        raise UserError(f"{source.name} ({source.path}) holds no rows.")
    return rows


def stream_examples(source: DataSource, workspace: Workspace) -> Iterator[GuardExample]:
    """Rows of a source one after the other, in order, never all in memory. A row that cannot be read raises UserError naming it.

    A .json array is one document, which is read whole; every other kind of file streams.
    """
    if source.run is not None:
        yield from read_records(source.path, GuardExample)
        return
    from core.reading import iter_examples
    from core.rows import BadRow

    for made in iter_examples(source.path, workspace.plugins.data_formats):
        if isinstance(made, BadRow):
            raise UserError(f"{source.path}, line {made.line}, column {made.column or '-'} cannot be read: {made.reason}. Import the file "
                            "to keep the good rows only.")
        yield made


def _read(source: DataSource, workspace: Workspace) -> Iterator[GuardExample]:
    if source.run is not None:
        yield from read_records(source.path, GuardExample)
        return
    from core.reading import read_examples

    result = read_examples(source.path, workspace.plugins.data_formats)
    if result.bad:
        first = result.bad[0]
        raise UserError(f"{source.path}: {len(result.bad)} rows cannot be read; the first is line {first.line}, column "
                        f"{first.column or '-'}: {first.reason}. Import the file to keep the good rows only.")
    yield from result.examples
