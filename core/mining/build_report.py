"""report.json of build-pairs: counts, weights and the ranges they were stretched over, agreement between the miners."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.words import plural

if TYPE_CHECKING:
    from core.mining.build import Built, PairBuilder
    from core.runs import Run


def make_report(builder: PairBuilder, run: Run) -> dict[str, Any]:
    """After the stream of pairs is spent. Rows without a pair are in it with the reason why."""
    built, config = builder.built, builder.config
    low, high = min(built.weights), max(built.weights)
    used = built.tests.count if config.allow_test_rows else 0
    return {
        "kind": "build-pairs", "run": run.id,
        "headline": f"{plural(built.pairs, 'pair')} from {plural(built.rows_with_pairs, 'hard row')}, weights {low:.4g} to {high:.4g}",
        "runs": [_mined(one, builder.unparsed[number]) for number, one in enumerate(builder.runs)],
        "counts": {"mined_rows": builder.mined_rows, "hard_rows": built.hard, "rows_with_pairs": built.rows_with_pairs,
                   "pairs": built.pairs, "duplicates": built.duplicates, "excluded_by_hand": built.excluded,
                   "edited_by_hand": built.edited, "void_by_hand": built.void, "skipped": dict(built.skipped)},
        "settings": {name: getattr(config, name) for name in ("pick", "gamma", "norm", "max_pairs_per_row", "seed")},
        "weights": {"low": low, "high": high,
                    "histogram": [{"weight": weight, "pairs": count} for weight, count in sorted(built.weights.items())]},
        "ranges": [{"run": builder.runs[number].id, "source": source, "low": found.low, "high": found.high}
                   for (number, source), found in sorted(builder.ranges.items())],
        "table": [{"source": source, "model": model, "pairs": count} for (source, model), count in built.table.most_common()],
        "by_gold": [{"task": task, "label": label, "pairs": count} for (task, label), count in sorted(built.golds.items())],
        "agreement": builder.index.agreement([one.id for one in builder.runs], config.seed),
        "split_guard": built.tests.record(dropped=not config.allow_test_rows), "test_rows_overridden": bool(used), "test_rows_used": used,
        "overrides": [*_override(run, used), *(line for one in builder.runs for line in (one.report or {}).get("overrides", []))],
        "notes": [*(f"{plural(count, 'hard row')} left out: {reason}." for reason, count in builder.left_out().items()), *_void(built),
                  *_balance(built)],
    }


def _void(built: Built) -> list[str]:
    if not built.void:
        return []
    return [f"{plural(built.void, 'pair')} picked by hand not used: the gold label was changed after that, and the answers are on "
            "the wrong sides of it now. build-pairs chose others."]


def _balance(built: Built) -> list[str]:
    """The right labels of each task. Where they are uneven, a guard that cannot tell the rows apart gains by always saying the commoner
    one: DPO asks it for a log-ratio of log(more / fewer) / beta, which a small beta makes large."""
    tasks: dict[str, list[str]] = {}
    for (task, label), count in sorted(built.golds.items()):
        tasks.setdefault(task, []).append(f"{count:,} {label}")
    return [f"Right answers of the {task}: {', '.join(found)}." for task, found in tasks.items()]


def _mined(run: Run, unparsed: str) -> dict[str, Any]:
    report = run.report or {}
    return {"run": run.id, "model": report.get("model", ""), "data": report.get("data", {}).get("name", ""), "unparsed": unparsed,
            "rows": report.get("rows", 0), "hard": report.get("hard", 0)}


def _override(run: Run, used: int) -> list[dict[str, Any]]:
    if not used:
        return []
    return [{"run": run.id, "setting": "allow_test_rows", "rows": used,
             "text": f"{run.id} ran with allow_test_rows=true: {plural(used, 'row')} of registered test sets are in its pairs."}]
