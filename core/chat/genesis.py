"""The Genesis layout: task, context, expected_output, difficulty, agent_name, category. Files into rows, each kept or refused by name."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.chat.balance import Cell
from core.methods import UserError
from core.rows import RAW_CHARS, BadRow, Row, read_rows

EmptyTask = Literal["context", "refuse"]
ROLES = {
    "qa_agent": "quality assurance agent. You find bugs, review code and write tests",
    "content_agent": "content agent. You write clear and engaging texts for the readers you are told about",
    "legal_agent": "legal agent. You draft and review legal documents and explain what they mean",
    "support_agent": "support agent. You answer customers with patience and solve their problems",
    "analyst_agent": "analyst agent. You analyse data and business questions and say what follows from them",
}
"""The five agents, and what each is there for."""
SYSTEM = "You are the Genesis {role}."
_FILES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".jsonl.gz")


@dataclass(frozen=True)
class GenesisRow:
    """A row that can be learned from."""

    file: str
    line: int
    agent: str
    category: str
    difficulty: str
    prompt: str
    answer: str

    @property
    def cell(self) -> Cell:
        """What a sample is balanced over."""
        return self.agent, self.category, self.difficulty

    @property
    def system(self) -> str:
        """The system prompt that names the agent's role."""
        return SYSTEM.format(role=ROLES[self.agent])


def genesis_files(sources: Iterable[str]) -> tuple[list[Path], list[str]]:
    """(files in the Genesis layout, names of others passed over). A folder stands for its files in that layout; a file must be in it."""
    found: list[Path] = []
    others: list[str] = []
    for source in sources:
        path = Path(source).expanduser()
        if path.is_dir():
            inside = sorted(item for item in path.iterdir() if item.is_file() and item.name.lower().endswith(_FILES))
            fit = [item for item in inside if _fits(item)]
            if not fit:
                raise UserError(f"No file in {path} is in the Genesis layout (task, context, expected_output, agent_name); give the files, "
                                "or another folder.")
            found += fit
            others += [item.name for item in inside if item not in fit]
        elif _fits(path):
            found.append(path)
        else:
            raise UserError(f"{path} is not in the Genesis layout: its rows have no expected_output with a task or a context. Choose "
                            "another file.")
    if twice := next((path for path in found if found.count(path) > 1), None):
        raise UserError(f"{twice} is given twice; keep it once.")
    return found, others


def _fits(path: Path) -> bool:
    try:
        first = next((row for row in itertools.islice(read_rows(path), 20) if isinstance(row, Row)), None)
    except UserError:
        if not path.exists() or path.stat().st_size == 0:
            raise
        return False
    return first is not None and "expected_output" in first.values and bool({"task", "context"} & first.values.keys())


def genesis_rows(files: Sequence[Path], empty_task: EmptyTask) -> Iterator[GenesisRow | BadRow]:
    """All rows, in order. What cannot become a conversation is a BadRow with the reason."""
    for path in files:
        for row in read_rows(path):
            yield row if isinstance(row, BadRow) else _read(row, path.name, empty_task)


def _read(row: Row, file: str, empty_task: EmptyTask) -> GenesisRow | BadRow:
    def bad(column: str, reason: str) -> BadRow:
        return BadRow(file, row.line, column, reason, json.dumps(row.values, ensure_ascii=False, default=str)[:RAW_CHARS])

    texts: list[str] = []
    for key in ("task", "context", "expected_output", "agent_name"):
        value = row.values.get(key)
        if value is not None and not isinstance(value, str):
            return bad(key, f"is {type(value).__name__}, not text")
        texts.append((value or "").strip())
    task, context, answer, agent = texts
    if agent not in ROLES:
        return bad("agent_name", f"{agent!r} is none of {', '.join(ROLES)}" if agent else "is empty")
    if not answer:
        return bad("expected_output", "is empty: there is nothing to learn")
    if not task and not context:
        return bad("task", "task and context are both empty: nothing is asked")
    if not task and empty_task == "refuse":
        return bad("task", "is empty")
    category = str(row.values.get("category") or row.values.get("task_category") or "")
    difficulty = str(row.values.get("difficulty") or "").strip().lower()
    return GenesisRow(file, row.line, agent, category, difficulty, "\n\n".join(filter(None, (task, context))), answer)
