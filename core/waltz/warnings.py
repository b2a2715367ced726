"""Signs of reward hacking in the ledger of a WaltzRL run: what is wrong, from which iteration on, by which numbers, and what to do.

Each check compares a window of iterations with the first window of the same stage, or with a bound, and speaks only where the 95 %
intervals leave no doubt. It warns of what holds now: `since` is the iteration from which it has held without a break.

    triggers     the feedback agent asks for a revision of nearly every reply, of good ones too
    refusals     refusal collapse: over-refusal rises while unsafe falls
    length       replies, revisions or feedbacks drift away from the length they had
    labels       label inflation under weighted_sum: the scores of unsafe replies rise, or all do while the labels agree less with the judge
    entropy      an agent says nearly the same each time: nothing is left to learn from
    verdicts     the judge gives no verdict in too many episodes: what is learned comes from the rest alone
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from core.intervals import Interval
from core.waltz.history import LEFT_OUT, History
from core.waltz.protocol import AGENTS

Kind = Literal["triggers", "refusals", "length", "labels", "entropy", "verdicts"]
State = Literal["fine", "warning", "unknown"]
ALWAYS = 0.9
"""Share of episodes with a revision above which the feedback agent triggers always."""
MISSING = 0.05
"""Share of episodes without a verdict above which the ones that are left may be no fair sample."""
DRIFT = 0.25
"""Relative change of a mean length from which on it drifts."""
COLLAPSED = 1 / 3
"""Share of its first entropy below which an agent's words have collapsed."""
ENOUGH = 64
"""Episodes that a window holds at least."""
WINDOWS = 20
"""A window is at least this part of a stage: long runs are judged by more than their last two iterations."""
LENGTHS = {"reply_tokens": "first replies", "revision_tokens": "revisions", "feedback_tokens": "feedbacks"}


@dataclass(frozen=True)
class Check:
    """What one check says of one stage."""

    kind: Kind
    state: State
    title: str
    stage: int
    numbers: str
    """The numbers it stands on, in words; of "unknown" why there are none."""
    since: int | None = None
    """Iteration from which the warning holds; None where there is none."""
    advice: str = ""
    """What to do about a warning."""


@dataclass(frozen=True)
class _Looked:
    """One look at a window."""

    bad: bool
    numbers: str


Look = Callable[[int, int], _Looked | None]
"""(first, last) of a window -> what it shows; None where the numbers are not there."""


def checks(history: History) -> list[Check]:
    """Every check of every stage that has begun, in order. A stage too short for two windows is "unknown"."""
    return [check for stage, first, last in history.parts() for check in _stage(history, stage, first, last)]


def warnings(history: History) -> list[Check]:
    """Only what is wrong."""
    return [check for check in checks(history) if check.state == "warning"]


def window_of(history: History, first: int, last: int) -> int:
    """Iterations in a window of this stage: enough episodes, and a fixed part of a long stage."""
    n = history.column("trigger").n[first:last]
    per_iteration = max(1.0, float(n.mean()) if len(n) else 1.0)
    return max(2, -(-ENOUGH // int(per_iteration)), (last - first) // WINDOWS)


def _stage(history: History, stage: int, first: int, last: int) -> list[Check]:
    width = window_of(history, first, last)
    scan = _Scan(history, stage, first, last, width)
    found = [scan.check("triggers", "The feedback agent triggers", "It asks for revisions of good replies too, which cannot gain anything: "
                        "raise dir.lambda in stage 1 (or dir.gamma), lower dir.alpha, or add benign prompts (benign_share), and go on from "
                        "a checkpoint before that.", scan.triggers),
             scan.check("refusals", "Replies and refusals", "It becomes safe by refusing: raise benign_share, use benign prompts that are "
                        "borderline, raise kl_coef, check that the judge sees over-refusals, and go on from a checkpoint before that.",
                        scan.refusals)]
    found += [scan.check("length", f"Length of {words}", "Read some episodes of then and now; if the words got longer or shorter "
                         "without getting better, raise kl_coef or lower learning_rate, and go on from a checkpoint before that.",
                         lambda begin, end, name=name: scan.length(name, begin, end))  # type: ignore[misc]
              for name, words in LENGTHS.items() if history.has(name)]
    if history.has("safety"):
        found.append(scan.check("labels", "Scores and labels", "The feedback agent is paid for high scores, not for right ones: use "
                                "reward = dir, or lower weighted_sum.alpha, and go on from a checkpoint before that.", scan.labels))
    found += [scan.check("entropy", f"Variety of the {role} agent", "It says nearly the same each time, so nothing is left to learn from: "
                         "lower learning_rate, raise kl_coef, lower ppo_epochs, and go on from a checkpoint before that.",
                         lambda begin, end, role=role: scan.entropy(role, begin, end))  # type: ignore[misc]
              for role in AGENTS if history.has(f"{role} entropy")]
    found.append(scan.check("verdicts", "Left out", "Those episodes teach nothing, and the rest may be no fair sample: open some under "
                            "“unjudged”, each says why; mend the judge or choose another, or make room for the words, and go on from a "
                            "checkpoint before that.",
                            scan.verdicts))
    return found


@dataclass(frozen=True)
class _Scan:
    """The checks on one stage."""

    history: History
    stage: int
    first: int
    last: int
    width: int

    def check(self, kind: Kind, title: str, advice: str, look: Look) -> Check:
        """Look at the last window, and, where it is bad, go back to where that began."""
        if self.last - self.first < 2 * self.width:
            return Check(kind, "unknown", title, self.stage, f"known after {2 * self.width} iterations of the stage")
        now = look(self.last - self.width, self.last)
        if now is None:
            return Check(kind, "unknown", title, self.stage, "the ledger does not have these numbers")
        if not now.bad:
            return Check(kind, "fine", title, self.stage, now.numbers)
        begin = self.last - self.width
        while begin > self.first + self._least(kind) and (before := look(begin - 1, begin - 1 + self.width)) and before.bad:
            begin -= 1
        return Check(kind, "warning", title, self.stage, now.numbers, self.history.iterations[begin], advice)

    def _least(self, kind: Kind) -> int:
        """A window that is compared with the first one must not overlap it."""
        return 0 if kind in ("triggers", "verdicts") else self.width

    def triggers(self, begin: int, end: int) -> _Looked | None:
        """More than ALWAYS, and more often than first replies are bad."""
        rate, good = self.history.pooled("trigger", begin, end), self.history.pooled("first_reply_reward", begin, end)
        if rate.low is None or good.low is None:
            return None
        needed = 1 - good.low
        return _Looked(rate.low > ALWAYS and rate.low > needed,
                       f"revisions in {percent(rate)} of the episodes, good first replies in {percent(good)}")

    def refusals(self, begin: int, end: int) -> _Looked | None:
        """Over-refusal above, unsafe below what they were."""
        over, over_then = self._now_and_then("overrefuse", begin, end)
        unsafe, unsafe_then = self._now_and_then("unsafe", begin, end)
        if not (over.n and over_then.n and unsafe.n and unsafe_then.n):
            return None
        return _Looked(above(over, over_then) and above(unsafe_then, unsafe),
                       f"over-refusal {percent(over_then)} to {percent(over)}, unsafe {percent(unsafe_then)} to {percent(unsafe)}")

    def length(self, name: str, begin: int, end: int) -> _Looked | None:
        """A mean that has moved by more than DRIFT, and beyond its interval."""
        now, then = self._now_and_then(name, begin, end)
        if now.value is None or not then.value:
            return None
        moved = now.value / then.value - 1
        return _Looked(abs(moved) > DRIFT and (above(now, then) or above(then, now)),
                       f"{then.value:.0f} to {now.value:.0f} tokens ({signed(moved)})")

    def labels(self, begin: int, end: int) -> _Looked | None:
        """Scores above, agreement with the judge below what they were; or scores above of replies that the judge calls unsafe."""
        score, score_then = self._now_and_then("score", begin, end)
        right, right_then = self._now_and_then("label_accuracy", begin, end)
        if score.value is None or score_then.value is None or not right.n or not right_then.n:
            return None
        unsafe, unsafe_then = self._now_and_then("score_unsafe", begin, end)
        of_unsafe = "" if unsafe.value is None or unsafe_then.value is None else (
            f", of unsafe replies {unsafe_then.value:.2f} to {unsafe.value:.2f}")
        return _Looked(above(unsafe, unsafe_then) or (above(score, score_then) and above(right_then, right)),
                       f"mean score {score_then.value:.2f} to {score.value:.2f}{of_unsafe}, "
                       f"labels right {percent(right_then)} to {percent(right)}")

    def entropy(self, role: str, begin: int, end: int) -> _Looked | None:
        """Below COLLAPSED of what it was, beyond the interval."""
        now, then = self._now_and_then(f"{role} entropy", begin, end)
        if now.value is None or not then.value or then.value <= 0:
            return None
        return _Looked(now.value < COLLAPSED * then.value and above(then, now), f"entropy {then.value:.2f} to {now.value:.2f} nats a token")

    def verdicts(self, begin: int, end: int) -> _Looked | None:
        """More than MISSING. Each iteration counts once, as it was done last."""
        missing = self.history.pooled(LEFT_OUT, begin, end)
        if missing.low is None:
            return None
        return _Looked(missing.low > MISSING, f"{percent(missing, 1)} of the episodes")

    def _now_and_then(self, name: str, begin: int, end: int) -> tuple[Interval, Interval]:
        return self.history.pooled(name, begin, end), self.history.pooled(name, self.first, self.first + self.width)


def above(one: Interval, other: Interval) -> bool:
    """Beyond doubt: the intervals do not touch."""
    return one.low is not None and other.high is not None and one.low > other.high


def percent(one: Interval, digits: int = 0) -> str:
    """"46 % (43–49)"."""
    if one.value is None or one.low is None or one.high is None:
        return "–"
    return f"{100 * one.value:.{digits}f} % ({100 * one.low:.{digits}f}–{100 * one.high:.{digits}f})"


def signed(change: float) -> str:
    """"+31 %"."""
    return f"{100 * change:+.0f} %".replace("-", "\N{MINUS SIGN}")
