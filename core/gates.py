"""Success criteria judged on whole intervals: PASS, FAIL, or INSUFFICIENT DATA. No I/O."""

from math import ceil, sqrt
from statistics import NormalDist
from typing import Literal

import numpy as np

from core.intervals import Interval, Result, Unit, number_words, wilson

Verdict = Literal["PASS", "FAIL", "INSUFFICIENT DATA"]


class Gate(Result):
    """A criterion judged on the whole interval, so that few rows neither pass nor fail it."""

    name: str
    """What is judged, e.g. "over-refusal rate"."""
    rule: str
    """The criterion in words, e.g. "at most 20 %"."""
    threshold: float
    """The criterion's number, in the interval's own unit (0.2 for 20 %)."""
    interval: Interval
    """The number that is judged."""
    verdict: Verdict
    """PASS: the whole interval satisfies the rule; FAIL: the whole interval violates it;
    INSUFFICIENT DATA: neither, or there is no number."""
    explanation: str
    """One sentence for the screen: why the verdict is what it is."""


def gate_at_least(name: str, interval: Interval, threshold: float, *, unit: Unit = "%") -> Gate:
    """PASS when low >= threshold, FAIL when high < threshold, else INSUFFICIENT DATA.

    The threshold is in the interval's unit (0.5 for 50 %); `unit` only words the explanation.
    Raises ValueError for a threshold that is not a finite number.
    """
    edge = number_words(threshold, unit)
    return _gate(
        name,
        interval,
        threshold,
        unit,
        allowed=(threshold, np.inf),
        rule=f"at least {edge}",
        missed=f"below {edge}",
    )


def gate_at_most(name: str, interval: Interval, threshold: float, *, unit: Unit = "%") -> Gate:
    """PASS when high <= threshold, FAIL when low > threshold, else INSUFFICIENT DATA.

    Arguments and errors as in `gate_at_least`.
    """
    edge = number_words(threshold, unit)
    return _gate(
        name,
        interval,
        threshold,
        unit,
        allowed=(-np.inf, threshold),
        rule=f"at most {edge}",
        missed=f"above {edge}",
    )


def gate_within(name: str, interval: Interval, threshold: float, *, unit: Unit = "points") -> Gate:
    """For a difference: PASS when it lies within -threshold .. threshold with its whole interval,
    FAIL when the whole interval lies outside, else INSUFFICIENT DATA.

    Arguments as in `gate_at_least`; rows that are all alike are judged as `_not_alone` says. Raises
    ValueError for a threshold that is negative or not a finite number.
    """
    if threshold < 0:
        raise ValueError(f"the threshold of a 'within' gate must be 0 or more; got {threshold}.")
    edge = number_words(threshold, unit)
    return _gate(
        name,
        interval,
        threshold,
        unit,
        allowed=(-threshold, threshold),
        rule=f"within {edge} of zero",
        missed=f"more than {edge} from zero",
        judged=_not_alone(interval),
    )


def gate_not_worse(name: str, difference: Interval, margin: float) -> Gate:
    """Non-inferiority of a paired difference (candidate minus reference): PASS when its whole interval is at or above -margin,
    FAIL when it is wholly below, else INSUFFICIENT DATA.

    Being better by any amount passes; rows that are all alike are judged as `_not_alone` says.
    Raises ValueError for a margin that is negative or not a finite number.
    """
    if not margin >= 0:
        raise ValueError(f"the margin of a 'not worse' gate must be 0 or more; got {margin}.")
    edge = number_words(margin, "points")
    return _gate(
        name,
        difference,
        -margin,
        "points",
        allowed=(-margin, np.inf),
        rule=f"at most {edge} worse",
        missed=f"more than {edge} worse",
        judged=_not_alone(difference),
    )


SIGNIFICANT = 0.05
"""Two-sided p below which a paired difference counts as found."""
POWER = 0.8
USUAL_DISCORDANCE = 0.2
"""Share of rows on which exactly one of two guards is right, where none was observed."""


def rows_needed(effect: float, discordance: float, *, significance: float = SIGNIFICANT, power: float = POWER) -> int:
    """Rows with which McNemar's two-sided test finds a difference of `effect` in accuracy with this power.

    Normal approximation for paired shares (Connor 1987, Biometrics 43:207): with d = effect and psi = the share of rows on which
    exactly one of the two is right, n = (z_(1 - significance/2) sqrt(psi) + z_power sqrt(psi - d^2))^2 / d^2.
    A difference of d needs psi >= d, so a smaller psi is taken as d. Raises ValueError outside 0 < effect <= 1, 0 <= psi <= 1.
    """
    if not 0 < effect <= 1 or not 0 <= discordance <= 1:
        raise ValueError(f"effect must lie in (0, 1] and discordance in [0, 1]; got {effect} and {discordance}.")
    psi = max(discordance, effect)
    sure, strong = NormalDist().inv_cdf(1 - significance / 2), NormalDist().inv_cdf(power)
    return ceil((sure * sqrt(psi) + strong * sqrt(psi - effect**2)) ** 2 / effect**2)


def gate_gain(name: str, difference: Interval, threshold: float, *, p_value: float, discordant: int) -> tuple[Gate, int]:
    """Has a paired difference (candidate minus reference) reached `threshold`? With the rows that deciding it takes.

    PASS takes a difference at or above the threshold, McNemar's p below 0.05, and either as many rows as `rows_needed` says for a gain of
    this size (with fewer, one that is just significant is mostly a lucky one), or a whole interval at or above the threshold: then so
    much more was gained that fewer rows show it. FAIL: the whole interval is below the threshold. Else INSUFFICIENT DATA. `discordant`:
    rows on which exactly one of the two is right; without rows a share of 20 % is assumed. Rows that are all alike are judged as
    `_not_alone` says. Raises ValueError unless 0 < threshold <= 1.
    """
    share = discordant / difference.n if difference.n else USUAL_DISCORDANCE
    needed = rows_needed(threshold, share)
    edge = number_words(threshold, "points")
    gate = _gate(name, difference, threshold, "points", allowed=(threshold, np.inf), rule=f"at least {edge} more",
                 missed=f"less than {edge} more", judged=_not_alone(difference))
    gate = gate.model_copy(update={"rule": f"{gate.rule}, paired p < {SIGNIFICANT}; on {needed:,} rows, or with the whole interval"})
    if gate.verdict == "FAIL" or (gate.verdict == "PASS" and p_value < SIGNIFICANT):
        return gate, needed
    reached = difference.value is not None and difference.value >= threshold
    said = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
    if reached and p_value < SIGNIFICANT and difference.n >= needed:
        return gate.model_copy(update={"verdict": "PASS", "explanation": f"{difference.text('points')}: {said}, and {difference.n:,} rows "
                                       f"are enough ({needed:,} needed) to tell a gain of {edge} from none."}), needed
    known = f"with {share:.0%} of the rows decided differently" if difference.n else f"if {share:.0%} of them are decided differently"
    head = f"{difference.text('points')}: {said}. " if difference.value is not None else "There are no rows: nothing can be decided. "
    head += f"A gain of {edge} is found with {POWER:.0%} power by about {needed:,} rows {known}; here are {difference.n:,}."
    return gate.model_copy(update={"verdict": "INSUFFICIENT DATA", "explanation": head}), needed


def _not_alone(difference: Interval) -> Interval:
    """A paired difference as it is judged where all its rows are alike: the bootstrap, which knows these rows only, gives it no width.

    With n rows alike, another kind may still be as common as Wilson's upper end for 0 of n; the difference is then so much away on
    either side, from all gained or all lost twice as much. Any other difference is judged as it is.
    """
    if difference.value is None or not difference.n or difference.low != difference.high or difference.value not in (-1, 0, 1):
        return difference
    most = (wilson(0, difference.n).high or 0.0) * (2 if difference.value else 1)
    return difference.model_copy(update={"low": max(-1.0, difference.value - most), "high": min(1.0, difference.value + most)})


def _gate(
    name: str,
    interval: Interval,
    threshold: float,
    unit: Unit,
    *,
    allowed: tuple[float, float],
    rule: str,
    missed: str,
    judged: Interval | None = None,
) -> Gate:
    """Judge the interval against the allowed range (ends included); `judged` stands for it where it is another one."""
    if not np.isfinite(threshold):
        raise ValueError(f"the threshold of a gate must be a finite number; got {threshold}.")
    lowest, highest = allowed
    seen = judged or interval
    verdict: Verdict = "INSUFFICIENT DATA"
    if interval.n == 0:
        why = "there are no rows: nothing can be decided."
    elif seen.value is None or seen.low is None or seen.high is None:
        why = f"the number is undefined on these {interval.n:,} rows: nothing can be decided."
    elif lowest <= seen.low and seen.high <= highest:
        verdict = "PASS"
        why = f"the whole interval is {rule}."
    elif seen.high < lowest or seen.low > highest:
        verdict = "FAIL"
        why = f"the whole interval is {missed}."
    elif judged is not None and judged != interval:
        why = f"rows that are all alike leave {number_words(seen.low, unit)} to {number_words(seen.high, unit)} open: more are needed."
    else:
        held = [x for x in allowed if np.isfinite(x) and seen.low <= x <= seen.high]
        edges = " and ".join(number_words(x, unit) for x in held)
        why = f"the interval holds {edges}: more rows are needed to decide."
    if interval.value is None:
        explanation = why[0].upper() + why[1:]
    else:
        explanation = f"{interval.text(unit)}: {why}"
    return Gate(
        name=name,
        rule=rule,
        threshold=threshold,
        interval=interval,
        verdict=verdict,
        explanation=explanation,
    )
