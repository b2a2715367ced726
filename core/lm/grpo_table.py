"""The rows that are trained on as a table on the disk, memory-mapped: a large set costs no memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.lm.grpo import ASKED
from core.methods import UserError
from core.records import TASKS
from core.words import plural

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.lm.grpo import GrpoJob
    from core.lm.load import Loaded

ROWS_FILE = ".rows.arrow"
COLUMNS = ("prompt", *ASKED, "source", "row")
"""`prompt` is the whole rendered text, which TRL hands to the roll-outs; ASKED is what the reward reads."""


@dataclass
class PromptRows:
    """The rows that are trained on, memory-mapped from the run folder."""

    dataset: Any
    """A datasets.Dataset with COLUMNS."""
    sha256: str
    too_long: int = 0
    """Rows whose prompt leaves no room for an answer of max_new_tokens; left out."""
    longest: int = 0
    """Tokens of the longest prompt that is used."""

    def record(self) -> dict[str, int]:
        """For report.json."""
        return {"used": len(self.dataset), "dropped_too_long": self.too_long, "longest_prompt_tokens": self.longest}


@contextmanager
def write_rows(job: GrpoJob, loaded: Loaded, run: ActiveRun) -> Iterator[PromptRows]:
    """The chosen rows as a memory-mapped table; the file goes when the block ends, a resumed run writes it again."""
    from datasets import Dataset, Features, Value
    from datasets.arrow_writer import ArrowWriter

    file = run.dir / ROWS_FILE
    made, seen = PromptRows(None, ""), hashlib.sha256()
    features = Features({name: Value("int64" if name == "row" else "string") for name in COLUMNS})
    count = 0
    with ArrowWriter(path=str(file), features=features) as writer:
        for line in _lines(job, loaded, made):
            writer.write(line)
            seen.update(json.dumps(line, sort_keys=True).encode())
            count += 1
        if count:
            writer.finalize()
    try:
        if made.too_long:
            run.notice(f"Left out: {plural(made.too_long, 'row')} whose prompt and an answer of {job.max_new_tokens:,} tokens do not fit "
                       f"into the model's context of {_context(loaded):,}.", "warning")
        if not count:
            raise UserError(f"None of the {job.choice.wanted:,} rows fits: prompt and max_new_tokens = {job.max_new_tokens:,} exceed the "
                            f"model's context of {_context(loaded):,} tokens; use a smaller max_new_tokens.")
        made.dataset, made.sha256 = Dataset.from_file(str(file)), seen.hexdigest()
        yield made
    finally:
        file.unlink(missing_ok=True)


def _lines(job: GrpoJob, loaded: Loaded, made: PromptRows) -> Iterator[dict[str, Any]]:
    from core.lm.sft_rows import render_prompt

    room = _context(loaded) - job.max_new_tokens
    for usable in job.choice.rows():
        text = render_prompt(usable.example, job.prompt_format, loaded.tokenizer)
        length = len(loaded.tokenizer(text, add_special_tokens=not job.prompt_format.chat)["input_ids"])
        if length > room:
            made.too_long += 1
            continue
        made.longest = max(made.longest, length)
        example = usable.example
        gold = {f"gold_{task}": getattr(example.labels, task) for task in TASKS}
        yield {"prompt": text, "user_prompt": example.prompt, "user_response": example.response, **gold, "source": example.source,
               "row": usable.row}


def _context(loaded: Loaded) -> int:
    return int(getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None) or 2**31)
