"""From a `data=` setting to the examples a training learns from: split guard, limit, held-out rows, prompt format."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.data import DataSource, find_data, load_examples
from core.formats import PromptFormat
from core.methods import UserError
from core.records import TASKS, GuardExample
from core.split_guard import GuardedRows, guard_rows
from core.splits import assign_splits

if TYPE_CHECKING:
    from core.lm.find import Found
    from core.runs import Workspace

SPLIT_SEED = 42
"""Which rows are held out depends on their prompts alone, so that runs with other seeds can be compared."""


@dataclass(frozen=True)
class Prepared:
    """What the settings lead to, before any weights are read."""

    source: DataSource
    found: Found
    guarded: GuardedRows
    train: list[GuardExample]
    held_out: list[GuardExample]
    held_out_from: str
    """Where the held-out rows come from: the set's own validation rows, or a share of the training rows."""
    prompt_format: type[PromptFormat]
    why: str
    """Why this prompt format."""


def learnable_rows(ref: str, workspace: Workspace) -> list[GuardExample]:
    """Rows of a set but its test rows."""
    rows = load_examples(ref, workspace)
    kept = [row for row in rows if row.split != "test"]
    if not kept:
        raise UserError(f"{ref} has only test rows, which are never trained on; import it again with another role, or choose another set.")
    return kept


def prepare(config: Any, workspace: Workspace) -> Prepared:
    """Everything about data and format. `config` is that of the `rsft` method, or one with the same fields."""
    from core.lm.find import find_model

    source = find_data(config.data, workspace)
    found = find_model(config.model, workspace.runs_dir)
    guarded = guard_rows(learnable_rows(config.data, workspace), workspace.store, exclude_test_rows=config.exclude_test_rows,
                         allow_test_rows=config.allow_test_rows)
    rows = limited(guarded.examples, config.limit, config.seed)
    form, why = choose_format(config.prompt_format, found, rows, workspace.plugins.prompt_formats)
    train, held_out, origin = divided(rows, config.validation_share)
    return Prepared(source, found, guarded, train, held_out, origin, form, why)


def limited(rows: list[GuardExample], limit: int, seed: int) -> list[GuardExample]:
    """At most `limit` rows, drawn at random, in their old order (sets are often sorted by label)."""
    if not limit or limit >= len(rows):
        return rows
    return [rows[place] for place in sorted(random.Random(seed).sample(range(len(rows)), limit))]


def divided(rows: list[GuardExample], share: float) -> tuple[list[GuardExample], list[GuardExample], str]:
    """(training rows, held-out rows, where these are from). Rows with one prompt stay on one side."""
    own = [row for row in rows if row.split == "validation"]
    rest = [row for row in rows if row.split != "validation"]
    if not rest:
        raise UserError("All rows are validation rows, so there is nothing to train on; import the set again with another role.")
    if own:
        return rest, own, "the set's validation rows"
    if not share:
        return rest, [], "none"
    sides = assign_splits(rest, validation=share, seed=SPLIT_SEED)
    train = [row for row, side in zip(rest, sides, strict=True) if side == "train"]
    held_out = [row for row, side in zip(rest, sides, strict=True) if side == "validation"]
    if not train:
        raise UserError(f"validation_share = {share:g} leaves no row of {len(rest)} to train on; use a smaller one, or 0.")
    return train, held_out, f"{share:.0%} of the training rows, chosen by their prompts" if held_out else "none"


def choose_format(wanted: str, found: Found, rows: Sequence[GuardExample],
                  formats: Mapping[str, type[PromptFormat]]) -> tuple[type[PromptFormat], str]:
    """(prompt format, why this one)."""
    stored = found.prompt_format
    if stored and wanted not in ("auto", stored):
        raise UserError(f"prompt_format = {wanted}, but {found.ref} was trained in {stored}; leave it at auto, or start from {found.base}.")
    if stored:
        return _trainable(stored, formats), f"{found.ref} was trained in it"
    if wanted != "auto":
        return _trainable(wanted, formats), "as set"
    written = Counter(row.target_format for row in rows if row.target and row.target_format)
    if written and (name := written.most_common(1)[0][0]) in formats and formats[name].trainable:
        return formats[name], f"{written[name]:,} of {len(rows):,} rows hold answers written in it"
    full = sum(all(getattr(row.labels, task) for task in TASKS) for row in rows)
    if 2 * full > len(rows):
        return _trainable("guardreasoner", formats), f"{full:,} of {len(rows):,} rows have all three labels"
    return _trainable("seed-binary", formats), "most rows have one label to learn"


def _trainable(name: str, formats: Mapping[str, type[PromptFormat]]) -> type[PromptFormat]:
    known = [key for key, form in formats.items() if form.trainable]
    if name not in formats:
        raise UserError(f"There is no prompt format {name!r}; those that can be trained: auto, {', '.join(known)}.")
    if not formats[name].trainable:
        raise UserError(f"The prompt format {name} can be read but not trained; use auto, or one of {', '.join(known)}.")
    return formats[name]
