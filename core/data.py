"""Finding the rows that a `data=` setting names: an imported set by name, a run id, or a file.

A set holds labelled guard rows (GuardExample) or conversations (ChatExample). A run that made one set of conversations for each agent
is named with the agent: `genesis:conversation`, `genesis:feedback`, `mix-0003:feedback`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.methods import UserError
from core.records import ChatExample, GuardExample, Split, read_records
from core.runs import Run, Workspace

AGENT_SETS = ("conversation", "feedback")
"""What a run calls the set of each agent: conversation.jsonl, feedback.jsonl."""


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


def row_files(run: Run) -> dict[str, Path]:
    """Where a run's rows lie: {"": data.jsonl}, or a file for each agent ({"conversation": ..., "feedback": ...}); {} = it made none."""
    if (run.dir / "data.jsonl").is_file():
        return {"": run.dir / "data.jsonl"}
    return {agent: path for agent in AGENT_SETS if (path := run.dir / f"{agent}.jsonl").is_file()}


def data_runs(workspace: Workspace) -> list[Run]:
    """Finished runs that made rows, newest first."""
    return [run for run in workspace.runs() if row_files(run) and run.state == "succeeded"]


def find_data(ref: str, workspace: Workspace) -> DataSource:
    """Resolve a reference to labelled guard rows; UserError names what was looked for and what there is."""
    named = ref.strip().rpartition(":")[2] in AGENT_SETS
    source, run, files = _look(set_name(ref) if named else ref, workspace)
    if run is None and not named:
        return source
    if run is None or "" not in files or holds_chat(files[""]):
        raise UserError(f"{ref} holds conversations, and this needs prompts with labels; choose an imported set with labels, or a method "
                        "that trains chat agents.")
    return source


def find_chat(ref: str, workspace: Workspace, agent: str = "") -> DataSource:
    """Resolve a reference to a set of conversations. `agent`: whose set is meant where the reference does not say it.

    NAME, a run id or a file; NAME:conversation and NAME:feedback where a run made a set for each agent.
    """
    name, colon, tail = ref.strip().rpartition(":")
    named = tail if colon and tail in AGENT_SETS else ""
    source, run, files = _look(name if named else ref, workspace)
    if run is None:
        if named:
            raise UserError(f"{ref}: {name} is a file, which holds one set; leave out :{named}.")
        if not holds_chat(source.path):
            raise UserError(_NO_CHAT.format(ref=ref))
        return source
    if "" in files:
        if named:
            raise UserError(f"{ref}: {name} holds one set of conversations; leave out :{named}.")
        if not holds_chat(files[""]):
            raise UserError(_NO_CHAT.format(ref=ref))
        return source
    wanted = named or agent or (next(iter(files)) if len(files) == 1 else "")
    if wanted in files:
        return DataSource(f"{source.name}:{wanted}", files[wanted], run)
    choices = " or ".join(f"{name if named else ref.strip()}:{part}" for part in files)
    raise UserError(f"{ref} has no set for the {wanted} agent; there is {choices}." if wanted else
                    f"{ref} holds a set for each agent; name one: {choices}.")


def chat_sets(ref: str, workspace: Workspace) -> list[DataSource]:
    """Every set of conversations that a reference stands for: a run that made one for each agent stands for both."""
    _, run, files = _look(set_name(ref) if ref.strip().rpartition(":")[2] in AGENT_SETS else ref, workspace)
    if run is not None and "" not in files and ref.strip().rpartition(":")[2] not in AGENT_SETS:
        return [find_chat(f"{ref.strip()}:{agent}", workspace) for agent in files]
    return [find_chat(ref, workspace)]


_NO_CHAT = ("{ref} holds no conversations (messages of role and content), and this needs some; make them from labelled rows with "
            "guard-to-feedback, or from Genesis files with genesis-to-waltzrl.")


def set_name(ref: str) -> str:
    """The name or run id in a reference, without the agent behind its colon."""
    name, colon, tail = ref.strip().removeprefix("run:").rpartition(":")
    return name if colon and tail in AGENT_SETS else ref.strip().removeprefix("run:")


def holds_chat(path: Path) -> bool:
    """Does the first row have messages, and no labels? Only a JSON Lines file of conversations begins so."""
    try:
        with path.open("rb") as file:
            first = json.loads(next((line for line in file if line.strip()), b"{}"))
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and isinstance(first.get("messages"), list) and "labels" not in first


def _look(ref: str, workspace: Workspace) -> tuple[DataSource, Run | None, dict[str, Path]]:
    """(source, its run, the files of the run) of a reference without an agent."""
    ref = ref.strip()
    if not ref:
        raise UserError("No data given; name an imported set, a run or a file.")
    runs = data_runs(workspace)
    wanted = ref.removeprefix("run:")
    for run in runs:
        if wanted in (run.id, run.name):
            files = row_files(run)
            return DataSource(run.name, next(iter(files.values())), run), run, files
    path = Path(ref).expanduser()
    if path.is_file():
        return DataSource(path.stem, path.resolve()), None, {}
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


def stream_chat(source: DataSource) -> Iterator[ChatExample]:
    """Conversations of a source one after the other. A row that cannot be learned from raises UserError naming its line and why."""
    from core.chat.messages import read_chat, shape_problem
    from core.rows import BadRow

    for line, made in read_chat(source.path):
        reason = made.reason if isinstance(made, BadRow) else shape_problem(made.messages)
        if isinstance(made, BadRow) or reason:
            raise UserError(f"{source.path}, line {line} is no conversation to learn from: {reason}. `check-data` lists every such row; "
                            "mend or leave them out.")
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
