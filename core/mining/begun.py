"""What the texts of a mining run depend on, written down before the first one; a resumed run must find the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.files import read_json, write_json
from core.methods import UserError
from core.mining.outputs import FILE
from core.mining.plan import Plan
from core.words import plural

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.lm.find import Found

BEGUN = "begun.json"
_WORDS = {"data_sha256": "data", "model": "model", "usable_rows": "data or the registered test sets"}


def begin(plan: Plan, config: Any, run: ActiveRun) -> dict[str, Any]:
    """Write down what the texts depend on; UserError where a resumed run finds something else."""
    now = {"data_sha256": plan.source.sha256(), "model": model_identity(plan.found), "prompt_format": plan.prompt_format.name,
           **{name: getattr(config, name) for name in ("k", "temperature", "top_p", "seed", "limit")},
           "max_new_tokens": plan.sampling(config).max_new_tokens, "usable_rows": plan.survey.usable, "engines": []}
    before: dict[str, Any] | None = read_json(run.dir / BEGUN)
    if before is None:
        if (run.dir / FILE).exists() and (run.dir / FILE).stat().st_size:
            raise UserError(f"{run.id} has {FILE} but not {BEGUN}, so it is not known how its answers were drawn; start a new mining run.")
        write_json(run.dir / BEGUN, now)
        return now
    changed = [name for name in now if name != "engines" and now[name] != before.get(name)]
    if changed:
        what = _WORDS.get(changed[0], changed[0])
        raise UserError(f"The {what} changed since {run.id} began, so new answers would not belong to the old ones; start a new mining "
                        "run.")
    return before


def model_identity(found: Found) -> dict[str, Any]:
    """What tells one model from another: the adapter's hash, else names and sizes of the weight files; the base and its commit."""
    import hashlib

    if found.adapter:
        with (found.adapter / "adapter_model.safetensors").open("rb") as file:
            weights: Any = hashlib.file_digest(file, "sha256").hexdigest()
    else:
        files = sorted(Path(found.location).glob("*.safetensors")) if found.location else []
        weights = [[path.name, path.stat().st_size] for path in files]
    return {"ref": found.ref, "base": found.base, "revision": found.revision, "weights": weights}


def is_noted(engine: Any, begun: dict[str, Any]) -> bool:
    """Is it the engine that answered last?"""
    engines = begun["engines"]
    return bool(engines) and (engines[-1]["name"], engines[-1]["promise"]) == (engine.name, engine.promise)


def note_engine(engine: Any, first: int, begun: dict[str, Any], run: ActiveRun) -> None:
    """Which engine answers from which row on, and what it promises. Another engine on resume is allowed, and said."""
    if is_noted(engine, begun):
        return
    now = {"name": engine.name, "promise": engine.promise, "from": first}
    engines = begun["engines"]
    last = engines[-1] if engines else None
    if last and first:
        run.notice(f"The first {plural(first, 'row')} were answered by the engine {last['name']}, the others by {engine.name}: the texts "
                   "are not those of an uninterrupted run. Their distribution is.", "warning")
    engines[:] = [*(engines if first else []), now]
    write_json(run.dir / BEGUN, begun)
    run.log(f"engine {engine.name}: {engine.promise}")
