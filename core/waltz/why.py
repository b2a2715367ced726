"""What each word of an episode earned, term by term, and a sentence why; from the terms that the training wrote down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from core.records import Episode, Feedback, Round, Verdict
from core.waltz.rewards import ALIGNMENT, DIR, FORMAT, HELPFULNESS, LABEL, SAFETY, DirRule, RewardRule, WeightedSumRule

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class TermLine:
    """One term of one agent's reward. The `adds` of a feedback's lines sum up to its reward."""

    agent: str
    turn: int
    """Number of the feedback in its episode, from 1; 0 for the conversation agent."""
    term: str
    """R_c, R_DIR, R_label, R_format; Safety, Helpfulness, Alignment."""
    value: str
    weight: float
    adds: float
    why: str


def rule_of(config: Mapping[str, Any], stage: int) -> RewardRule:
    """The reward that a run's settings pay in a stage; stage 2 has lambda = 0. What a run did not write down has its default."""
    kind = config.get("reward", "dir")
    weights = {("lambda_" if name == "lambda" else name): float(value) for name, value in (config.get(kind) or {}).items()}
    if kind == "weighted_sum":
        return WeightedSumRule(**weights)
    rule = DirRule(**weights)
    return replace(rule, lambda_=0.0) if stage == 2 else rule


def explain(episode: Episode, rule: RewardRule) -> list[TermLine]:
    """The conversation agent's line, then those of each feedback. Empty for an episode that is left out."""
    if episode.left_out or episode.conversation_reward is None:
        return []
    earned = episode.conversation_reward
    lines = [TermLine("conversation", 0, "R_c", f"{earned:.0f}", 1.0, earned, _why_reply(episode.last.verdict))]
    for number, one in enumerate(episode.rounds):
        if one.feedback is None or one.verdict is None or not one.terms:
            continue
        after = episode.rounds[number + 1] if number + 1 < len(episode.rounds) else None
        if isinstance(rule, DirRule):
            lines += _dir_lines(number + 1, one, one.feedback, after, rule)
        else:
            lines += _sum_lines(number + 1, one, one.feedback, after, rule)
    return lines


def _dir_lines(turn: int, one: Round, feedback: Feedback, after: Round | None, rule: DirRule) -> list[TermLine]:
    gain, label, readable = one.terms[DIR], one.terms[LABEL], one.terms[FORMAT]
    before = float(bool(one.verdict and one.verdict.good))
    value = f"{before + gain:.0f} {MINUS} {before:.0f} = {gain:.0f}".replace("-", MINUS) if after else "0"
    return [TermLine("feedback", turn, "R_DIR", value, rule.alpha, rule.alpha * gain * label + 0.0, _why_gain(gain, label, before, after)),
            TermLine("feedback", turn, "R_label", f"{label:.0f}", rule.lambda_, rule.lambda_ * label,
                     _why_label(feedback, one.verdict) + ("" if rule.lambda_ else "; stage 2 switches this term off")),
            TermLine("feedback", turn, "R_format", f"{readable:.0f}", rule.gamma, rule.gamma * readable, _why_format(feedback))]


def _sum_lines(turn: int, one: Round, feedback: Feedback, after: Round | None, rule: WeightedSumRule) -> list[TermLine]:
    safety, helpful, agreed = one.terms[SAFETY], one.terms[HELPFULNESS], one.terms[ALIGNMENT]
    last = after.verdict if after else one.verdict
    said = "unsafe" if feedback.unsafe else "safe"
    right = not feedback.malformed and one.verdict is not None and feedback.unsafe == one.verdict.unsafe
    why_safety = ("what cannot be read earns nothing" if feedback.malformed
                  else f"it calls the reply {said} and the judge does not, so its score does not count" if not right
                  else "its label on safety is the judge's, so its score counts: 1 - score, for the reply is unsafe" if feedback.unsafe
                  else "its label on safety is the judge's, so its score counts")
    if feedback.malformed:
        why_agreed = "what cannot be read earns nothing"
    elif not feedback.triggers:
        why_agreed = "it asked for nothing"
    else:
        why_agreed = "the fault that it named is still there" if after else "there was no revision"
        why_agreed = "the fault that it named is gone" if agreed else why_agreed
    return [TermLine("feedback", turn, "Safety", f"{safety:.2f}", rule.alpha, rule.alpha * safety, why_safety),
            TermLine("feedback", turn, "Helpfulness", f"{helpful:.0f}", rule.beta, rule.beta * helpful,
                     "the last reply is a needless refusal" if last and last.overrefuse else "the last reply is no needless refusal"),
            TermLine("feedback", turn, "Alignment", f"{agreed:.0f}", rule.gamma, rule.gamma * agreed, why_agreed)]


def _why_reply(verdict: Verdict | None) -> str:
    faults = _faults(verdict)
    return f"the judge calls the last reply {faults}" if faults else "the last reply is neither unsafe nor a refusal of a harmless request"


def _faults(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    return " and ".join(words for fault, words in ((verdict.unsafe, "unsafe"), (verdict.overrefuse, "a needless refusal")) if fault)


def _why_gain(gain: float, label: float, before: float, after: Round | None) -> str:
    if after is None:
        return "there was no revision"
    moved = {1: "the revision was better than the reply", -1: "the revision was worse than the reply"}.get(
        round(gain), "the revision was as good as the reply" if before else "the revision was as bad as the reply")
    if not gain:
        return moved
    return f"{moved}, and both labels were right" if label else f"{moved}, but a label was wrong, so it does not count"


def _why_label(feedback: Feedback, verdict: Verdict | None) -> str:
    if feedback.malformed or verdict is None:
        return "there are no labels that could be read"
    wrong = [f"it says {'' if said else 'not '}{words}, the judge says {'' if truth else 'not '}{words}"
             for words, said, truth in (("unsafe", feedback.unsafe, verdict.unsafe),
                                        ("a needless refusal", feedback.overrefuse, verdict.overrefuse))
             if said != truth]
    return "; ".join(wrong) or "both labels equal the judge's"


def _why_format(feedback: Feedback) -> str:
    if feedback.malformed:
        return f"it could not be read: {feedback.malformed}"
    return "the answer parsed as JSON" if feedback.score is None else "the answer parsed as a safety score"
