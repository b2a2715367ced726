"""The seeds' success gates, judged on whole intervals: go/no-go first, then what HS-DPO has to gain over R-SFT, and must not lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core.gates import SIGNIFICANT, Gate, Verdict, gate_at_least, gate_gain, gate_not_worse
from core.intervals import Interval
from core.records import Task


def go_no_go(model: str, accuracy: Mapping[Task, Interval], coherent: Interval, *, least_accuracy: float, least_coherent: float,
             reasons: bool) -> list[dict[str, Any]]:
    """Gates of one model for report.json: accuracy on each task, coherent reasoning, and both together as "go/no-go"."""
    gates = [(task, gate_at_least(f"accuracy ({task})", interval, least_accuracy)) for task, interval in accuracy.items()]
    quality = gate_at_least("coherent reasoning", coherent, least_coherent)
    if not reasons:
        quality = quality.model_copy(update={"explanation": "Its prompt format asks for no reasoning: nothing can be decided."})
    parts: list[tuple[Task | None, Gate]] = [*gates, (None, quality)]
    return [*({"model": model, "task": task, **gate.model_dump(mode="json")} for task, gate in parts),
            _together(model, [gate for _, gate in parts])]


HARD_GAIN = 0.05
"""The seeds want hard-sample accuracy to rise by 5 to 10 points: the lower end is the gate."""
OVERALL_MARGIN = 0.02
"""The seeds want overall accuracy to stay within 2 points."""


def hard_gain(model: str, task: Task, other: str, difference: Interval, test: Mapping[str, Any] | None) -> dict[str, Any]:
    """Gate "hard-sample accuracy": `model` minus `other` on the hard rows; `test` = McNemar's of the same rows, None without any."""
    discordant = test["only_a"] + test["only_b"] if test else 0
    gate, needed = gate_gain(f"hard-sample accuracy over {other}", difference, HARD_GAIN, p_value=test["p_value"] if test else 1.0,
                             discordant=discordant)
    return {"model": model, "task": task, **gate.model_dump(mode="json"), "rows_needed": needed}


def overall_kept(model: str, task: Task, other: str, difference: Interval) -> dict[str, Any]:
    """Gate "overall accuracy": no more than 2 points below `other` on all rows (non-inferiority)."""
    gate = gate_not_worse(f"overall accuracy beside {other}", difference, OVERALL_MARGIN)
    return {"model": model, "task": task, **gate.model_dump(mode="json")}


def better_than(model: str, task: Task, other: str, p_value: float, difference: Interval) -> dict[str, Any]:
    """Gate "more accurate than `other`", decided by the paired test on the same rows; `difference`: accuracy, model minus other."""
    gained = difference.value or 0.0
    verdict: Verdict = "INSUFFICIENT DATA" if p_value >= SIGNIFICANT else "PASS" if gained > 0 else "FAIL"
    ends = {"PASS": "it is more accurate.", "FAIL": "it is less accurate.", "INSUFFICIENT DATA": "more rows are needed to decide."}
    said = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
    gate = Gate(name=f"more accurate than {other}", rule=f"above 0 points on the same rows, McNemar p < {SIGNIFICANT}", threshold=0.0,
                interval=difference, verdict=verdict, explanation=f"{difference.text('points')}: {said}, {ends[verdict]}")
    return {"model": model, "task": task, **gate.model_dump(mode="json")}


def _together(model: str, gates: Sequence[Gate]) -> dict[str, Any]:
    said = {gate.verdict for gate in gates}
    verdict: Verdict = "FAIL" if "FAIL" in said else "INSUFFICIENT DATA" if "INSUFFICIENT DATA" in said else "PASS"
    return {"model": model, "task": None, "name": "go/no-go", "rule": " and ".join(f"{gate.name} {gate.rule}" for gate in gates),
            "threshold": None, "interval": None, "verdict": verdict, "parts": [gate.name for gate in gates],
            "explanation": "; ".join(f"{gate.name}: {gate.verdict}" for gate in gates) + "."}
