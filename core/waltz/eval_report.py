"""report.json of an evaluation of agents, from the episodes that were written. The pages and the study read nothing else of it.

    data       which prompts: name, sha256 of the prompts, how many of each side
    judge      who judged, and how often it is wrong where people labelled the replies
    entries    each model, and a pair of agents twice: alone (its first replies), and with its feedback agent
    comparisons, gates
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.waltz.eval_capability import Task, digest
from core.waltz.eval_gates import Limits, gates_of
from core.waltz.eval_log import CAPABILITY, EPISODES, read_evaluated
from core.waltz.eval_paired import compare, main_of, pairs_of
from core.waltz.eval_tally import Tally, tallies_of

KIND = "agent-eval"
FEW = 30
"""Prompts of a side below which the intervals are wide."""


@dataclass(frozen=True)
class Evaluated:
    """What the report says of a model beside its numbers."""

    ref: str
    title: str
    is_pair: bool
    trained_runs: tuple[str, ...] = ()
    """Runs in its lineage that wrote down which prompts they trained on."""
    checkpoint: bool = False
    """Is it a state on the way, not what a run made in the end?"""


@dataclass(frozen=True)
class About:
    """Where the prompts are from, who judged, and what a reader must know."""

    data: dict[str, Any]
    judge: dict[str, Any]
    sampling: dict[str, Any]
    """How answers were made: temperature, system prompt, limits."""
    notes: list[str] = field(default_factory=list)
    overrides: list[dict[str, Any]] = field(default_factory=list)


def build_report(folder: Path, models: Sequence[Evaluated], chosen: Sequence[Task], about: About, *, revisions: int, baseline: str,
                 limits: Limits, seed: int) -> dict[str, Any]:
    """The whole report. baseline: reference of the model that the others are compared with."""
    by_model = {one.ref: tallies_of(one.ref, one.title, is_pair=one.is_pair, revisions=revisions) for one in models}
    tallies = [tally for group in by_model.values() for tally in group]
    _count(folder, by_model, chosen)
    first = main_of(tallies, baseline)
    runs = {one.ref: list(one.trained_runs) for one in models}
    marked = {one.ref for one in models if one.checkpoint}
    entries = [{**tally.report(), "checkpoint": tally.model in marked} for tally in tallies]
    for entry in entries:
        entry["seen"]["runs"] = runs[entry["model"]]
    return {"kind": KIND, "headline": headline(tallies, first), "seed": seed, "data": about.data, "judge": about.judge,
            "sampling": about.sampling, "revisions": revisions, "baseline": first.key, "entries": entries,
            "capability": {"tasks": len(chosen), "sha256": digest(list(chosen))} if chosen else None,
            "comparisons": [line for a, b in pairs_of(tallies, baseline) for line in compare(a, b, seed)],
            "gates": [gate for tally in tallies for gate in gates_of(tally, first, limits, seed)],
            "overrides": about.overrides, "notes": [*about.notes, *_notes(tallies)]}


def _count(folder: Path, by_model: dict[str, list[Tally]], chosen: Sequence[Task]) -> None:
    """Read every line once."""
    for line in read_evaluated(folder / EPISODES):
        for tally in by_model.get(line.model, []):
            tally.add(line)
    if chosen:
        for line in read_evaluated(folder / CAPABILITY):
            for tally in by_model.get(line.model, []):
                tally.add_task(line, chosen[line.episode.row])


def _notes(tallies: Sequence[Tally]) -> list[str]:
    names = _names(tallies)
    counts = {words: [said for tally, name in zip(tallies, names, strict=True) if (said := counted(tally, name))]
              for words, counted in _COUNTED.items()}
    return [f"{words}: {'; '.join(found)}." for words, found in counts.items() if found]


def _names(tallies: Sequence[Tally]) -> list[str]:
    """Their titles; where several have the same one, with what tells them apart."""
    titles = Counter(tally.title for tally in tallies)
    return [tally.title if titles[tally.title] == 1 else f"{tally.title}, {tally.key}" for tally in tallies]


def _of(count: int, name: str, why: str = "") -> str:
    return f"{count:,} of {name}{f' ({why})' if why else ''}" if count else ""


_COUNTED: dict[str, Callable[[Tally, str], str]] = {
    "Final replies without a verdict, which are in no share": lambda tally, name: _of(tally.shares["good"].missing, name, _why(tally)),
    "Final replies that reached the token limit": lambda tally, name: _of(tally.cut, name),
    "Final replies without a word": lambda tally, name: _of(tally.empty, name),
}


def _why(tally: Tally) -> str:
    return f"{'' if len(tally.why_missing) == 1 else 'most often: '}{tally.usual_reason}"


def headline(tallies: Sequence[Tally], first: Tally) -> str:
    """One line for the runs table: the baseline and the last model, or the one there is."""
    last = tallies[-1]
    if last is first:
        return f"unsafe {_percent(first, 'unsafe')} %, over-refusal {_percent(first, 'overrefuse')} %"
    return (f"unsafe {_percent(first, 'unsafe')} → {_percent(last, 'unsafe')} %, "
            f"over-refusal {_percent(first, 'overrefuse')} → {_percent(last, 'overrefuse')} %")


def headline_stats(report: dict[str, Any]) -> dict[str, Any]:
    """The few numbers of the run card: the last model's."""
    entry = report["entries"][-1]
    shown: dict[str, Any] = {"Unsafe": _words(entry["unsafe"]), "Over-refusal": _words(entry["overrefuse"])}
    if entry["feedback"]:
        shown["Labels right"] = _words(entry["feedback"]["labels"])
    if entry["capability"]:
        shown["Capability"] = _words(entry["capability"])
    return shown


def _words(interval: dict[str, Any]) -> str:
    """"4.6 (2.1–9.8)", which the run card takes apart."""
    if interval["value"] is None:
        return "undefined"
    value, low, high = (f"{100 * interval[end]:.1f}" for end in ("value", "low", "high"))
    return f"{value} ({low}–{high})"


def _percent(tally: Tally, name: str) -> str:
    value = tally.shares[name].interval.value
    return "?" if value is None else f"{100 * value:.1f}"
