"""Promise 5: no row of a registered test set is mined or trained on, and every evaluation looks back at what was trained on.

Forward: imported test sets register their row keys in the store; a method that trains or mines passes its rows through `guard_rows`.
Backward: each training run writes `trained_keys.txt`; an evaluation asks `seen_rows` with the folders of the model's ancestors.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.files import replace_file
from core.methods import UserError
from core.records import GuardExample
from core.words import plural

if TYPE_CHECKING:
    from core.store import Store

TRAINED_KEYS = "trained_keys.txt"


def prompt_key(text: str) -> str:
    """Hash of the normalised prompt: NFKC, case folded, white space collapsed. Two spellings of one prompt share it."""
    return hashlib.sha256(_normal(text)).hexdigest()


def pair_key(prompt: str, response: str | None) -> str:
    """Hash of prompt and response, normalised likewise. Never equal to a prompt's key."""
    return hashlib.sha256(_normal(prompt) + b"\n" + _normal(response or "")).hexdigest()  # normalised text holds no line end


def _normal(text: str) -> bytes:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())  # folding can undo the first
    return " ".join(folded.split()).encode("utf-8", "surrogatepass")


def keys_to_register(examples: Iterable[GuardExample]) -> set[str]:
    """What a test set registers: each row's prompt key, which refuses, and its pair key, which tells how exact a hit is."""
    return {key for example in examples for key in (prompt_key(example.prompt), pair_key(example.prompt, example.response))}


@dataclass(frozen=True)
class SplitHits:
    """Rows whose prompt is in a registered test set. `exact`: those that have its response too."""

    count: int = 0
    exact: int = 0
    by_set: dict[str, int] = field(default_factory=dict)
    indices: tuple[int, ...] = ()

    def __str__(self) -> str:
        sets = ", ".join(f"{name} ({count:,})" for name, count in self.by_set.items())
        return f"{plural(self.count, 'row')} of registered test sets: {sets}; {self.exact:,} with the same response"


def find_hits(examples: Sequence[GuardExample], store: Store) -> SplitHits:
    """Which of the rows have a prompt of a registered test set."""
    prompts = [prompt_key(example.prompt) for example in examples]
    pairs = [pair_key(example.prompt, example.response) for example in examples]
    known = store.test_hits([*prompts, *pairs])
    indices = tuple(index for index, key in enumerate(prompts) if key in known)
    by_set = Counter(known[prompts[index]] for index in indices)
    return SplitHits(len(indices), sum(pairs[index] in known for index in indices), dict(by_set.most_common()), indices)


@dataclass(frozen=True)
class GuardedRows:
    """Rows that may be used, and what happened to the others. `record` belongs into the run's report."""

    examples: list[GuardExample]
    hits: SplitHits
    dropped: int = 0
    overridden: bool = False

    @property
    def record(self) -> dict[str, Any]:
        """For report.json: present in every report, so that "no hits" is said and not merely left out."""
        return {"test_rows_found": self.hits.count, "test_rows_exact": self.hits.exact, "test_rows_by_set": self.hits.by_set,
                "test_rows_dropped": self.dropped, "test_rows_used": self.hits.count - self.dropped}


def guard_rows(examples: Sequence[GuardExample], store: Store, *, exclude_test_rows: bool = False,
               allow_test_rows: bool = False) -> GuardedRows:
    """Refuse rows of registered test sets, or drop them, or (recorded) let them pass."""
    hits = find_hits(examples, store)
    if not hits.count or allow_test_rows:
        return GuardedRows(list(examples), hits, overridden=bool(hits.count))
    if not exclude_test_rows:
        raise UserError(f"The data holds {hits}. Set exclude_test_rows=true to leave them out, or choose other data. "
                        "(allow_test_rows=true uses them; every report after it will say so.)")
    bad = set(hits.indices)
    kept = [example for index, example in enumerate(examples) if index not in bad]
    if not kept:
        raise UserError(f"The data holds {hits}; without them nothing is left.")
    return GuardedRows(kept, hits, dropped=hits.count)


def write_trained_keys(run_dir: Path, examples: Iterable[GuardExample]) -> int:
    """Write which prompts a run trains on; see `keep_trained_keys`."""
    return keep_trained_keys(run_dir, sorted({prompt_key(example.prompt) for example in examples}))


def keep_trained_keys(run_dir: Path, keys: Iterable[str]) -> int:
    """Write the keys (sorted) of the prompts a run trains on, one a line; returns how many lines there are then.

    Call it before training starts: a stopped run trained too. Those that an earlier sitting of the run wrote stay, whatever has
    become of its data since: what was learned then is learned.
    """
    path, count = run_dir / TRAINED_KEYS, 0
    with contextlib.ExitStack() as files:
        before = files.enter_context(path.open(encoding="ascii")) if path.exists() else ()
        file = files.enter_context(replace_file(path))
        for key, _ in itertools.groupby(heapq.merge((line.rstrip("\n") for line in before), keys)):
            file.write(f"{key}\n")
            count += 1
    return count


def training_keys(run_dirs: Iterable[Path]) -> set[str]:
    """Keys of all prompts that these runs trained on; a run without the file trained on none."""
    keys: set[str] = set()
    for run_dir in run_dirs:
        path = run_dir / TRAINED_KEYS
        if path.exists():
            keys.update(path.read_text(encoding="ascii").split())
    return keys


def seen_rows(examples: Sequence[GuardExample], lineage_run_dirs: Iterable[Path]) -> list[bool]:
    """For each row: did a run of the model's lineage train on its prompt?"""
    keys = training_keys(lineage_run_dirs)
    return [bool(keys) and prompt_key(example.prompt) in keys for example in examples]
