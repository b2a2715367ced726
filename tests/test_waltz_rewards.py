"""What words earn: the Dynamic Improvement Reward in every case, the weighted sum, what is left out, and what the ledger counts."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.records import Episode, Feedback, Round, Said, Verdict
from core.waltz.ledger import tally
from core.waltz.rewards import (
    DIR,
    FORMAT,
    LABEL,
    TOTAL,
    DirRule,
    WeightedSumRule,
    feedback_reward,
    outcome,
    reward,
)

STAGE_1 = DirRule(alpha=0.65, lambda_=0.25, gamma=0.1)
STAGE_2 = DirRule(alpha=0.65, lambda_=0.0, gamma=0.1)
FAULTS = [(False, False), (True, False), (False, True), (True, True)]


def verdict(unsafe=False, overrefuse=False):
    return Verdict(judge="j", unsafe=unsafe, overrefuse=overrefuse)


def feedback(unsafe=False, overrefuse=False, **more):
    return Feedback(text="{}", unsafe=unsafe, overrefuse=overrefuse, **more)


def episode(*rounds):
    return Episode(row=0, prompt="p", rounds=[Round(reply=Said(text="r"), verdict=judged, feedback=said) for judged, said in rounds])


@pytest.mark.parametrize(("good_before", "good_after", "label_right"), list(itertools.product([False, True], repeat=3)))
def test_dir_in_all_eight_cases(good_before, good_after, label_right):
    before = verdict(unsafe=not good_before)
    said = feedback(unsafe=before.unsafe, overrefuse=before.overrefuse) if label_right else feedback(unsafe=before.unsafe, overrefuse=True)
    gain = good_after - good_before
    terms = STAGE_1.terms(said, before, verdict(unsafe=not good_after))
    assert terms[DIR] == gain
    assert terms[LABEL] == label_right
    assert terms[TOTAL] == pytest.approx(0.65 * gain * label_right + 0.25 * label_right + 0.1)
    assert STAGE_2.terms(said, before, verdict(unsafe=not good_after))[TOTAL] == pytest.approx(0.65 * gain * label_right + 0.1)


def test_no_revision_earns_no_improvement():
    terms = STAGE_1.terms(feedback(), verdict(), None)
    assert terms == {DIR: 0.0, LABEL: 1.0, FORMAT: 1.0, TOTAL: pytest.approx(0.35)}


def test_what_cannot_be_read_earns_nothing():
    terms = STAGE_1.terms(Feedback(text="?", malformed="not JSON"), verdict(unsafe=True), None)
    assert set(terms.values()) == {0.0}


def test_a_trigger_on_a_good_reply_that_it_breaks_earns_no_more_than_the_format():
    terms = STAGE_1.terms(feedback(unsafe=True), verdict(), verdict(overrefuse=True))
    assert terms[DIR] == -1
    assert terms[LABEL] == 0
    assert terms[TOTAL] == pytest.approx(0.1)  # conditioned on the label: the loss of the wrong label is all it loses


@pytest.mark.parametrize("missing", ["before", "after", "nobody asked"])
def test_a_missing_verdict_leaves_the_episode_out_and_says_why(missing):
    none = Verdict(judge="j", missing="cut at the limit")
    made = {"before": episode((none, feedback(unsafe=True)), (verdict(), None)),
            "after": episode((verdict(unsafe=True), feedback(unsafe=True)), (none, None)),
            "nobody asked": episode((verdict(unsafe=True), feedback(unsafe=True)), (None, None))}[missing]
    got = reward(made, STAGE_1)
    assert got.left_out.startswith("a verdict is missing")
    assert ("cut at the limit" in got.left_out) == (missing != "nobody asked")
    assert got.conversation_reward is None
    assert outcome(got) == "unjudged"


def test_every_reply_is_credited_with_the_last_verdict():
    fixed = reward(episode((verdict(unsafe=True), feedback(unsafe=True)), (verdict(), None)), STAGE_1)
    assert (fixed.conversation_reward, feedback_reward(fixed), outcome(fixed)) == (1.0, pytest.approx(1.0), "fixed")
    broke = reward(episode((verdict(), feedback(overrefuse=True)), (verdict(unsafe=True), None)), STAGE_1)
    assert (broke.conversation_reward, outcome(broke)) == (0.0, "broke")


def test_feedback_of_several_rounds_sums():
    bad, both = verdict(unsafe=True), feedback(unsafe=True)
    long = reward(episode((bad, both), (bad, both), (verdict(), None)), STAGE_2)
    assert feedback_reward(long) == pytest.approx((0 + 0.1) + (0.65 + 0.1))


@pytest.mark.parametrize(("first", "said", "last", "name"), [
    (verdict(True), feedback(True), verdict(True), "no change"), (verdict(), feedback(True), verdict(), "false trigger"),
    (verdict(True), feedback(), None, "missed"), (verdict(), feedback(), None, "kept")])
def test_outcomes(first, said, last, name):
    assert outcome(episode((first, said), *([(last, None)] if last else []))) == name


def test_the_weighted_sum_pays_no_inflated_score():
    rule = WeightedSumRule()
    honest = rule.terms(Feedback(text="", score=0.1, unsafe=True, overrefuse=False), verdict(unsafe=True), verdict())[TOTAL]
    inflated = rule.terms(Feedback(text="", score=1.0, unsafe=False, overrefuse=False), verdict(unsafe=True), None)[TOTAL]
    assert rule.terms(Feedback(text="", score=1.0, unsafe=False, overrefuse=False), verdict(unsafe=True), None)["safety"] == 0
    assert inflated < rule.terms(Feedback(text="", score=1.0, unsafe=False, overrefuse=False), verdict(), None)[TOTAL]
    assert honest >= inflated


def scored(score, unsafe):
    return Feedback(text="", score=score, unsafe=unsafe, overrefuse=False)


@pytest.mark.parametrize("after", [None, verdict(), verdict(unsafe=True)])
def test_no_step_away_from_the_judge_pays_whatever_the_label_says(after):
    """In closed form: alpha times the score, seen from the judge's side, where the label is right, and nothing where it is wrong."""
    rule, scores = WeightedSumRule(alpha=0.5, beta=0.3, gamma=0.2), [0.0, 0.05, 0.25, 0.5, 0.75, 1.0]
    for bad in (True, False):
        for said in (True, False):
            paid = [rule.terms(scored(score, said), verdict(unsafe=bad), after) for score in scores]
            wanted = [(1 - score if bad else score) * (said == bad) for score in scores]
            assert [one["safety"] for one in paid] == pytest.approx(wanted)
            rest = paid[0][TOTAL] - 0.5 * wanted[0]
            assert [one[TOTAL] for one in paid] == pytest.approx([rest + 0.5 * one for one in wanted])
    assert rule.terms(scored(0.05, True), verdict(unsafe=True), verdict())[TOTAL] == pytest.approx(0.5 * 0.95 + 0.3 + 0.2)
    assert rule.terms(scored(1.0, True), verdict(unsafe=True), verdict())[TOTAL] == pytest.approx(0.3 + 0.2)


@given(st.floats(0, 0.5), st.floats(0, 1), st.booleans())
def test_a_lie_about_an_unsafe_reply_earns_less_than_the_truth_even_where_the_revision_does_not_help(honest, inflated, helped):
    rule = WeightedSumRule()
    truth = rule.terms(scored(honest, True), verdict(unsafe=True), verdict(unsafe=not helped))
    lie = rule.terms(scored(inflated, False), verdict(unsafe=True), None)
    assert truth["safety"] >= 0.5 > lie["safety"] == 0
    assert truth[TOTAL] > lie[TOTAL]


@given(st.sampled_from(FAULTS), st.sampled_from(FAULTS), st.none() | st.sampled_from(FAULTS), st.booleans())
def test_rewards_stay_in_their_bounds(before, said, after, readable):
    one = feedback(*said) if readable else Feedback(text="?", malformed="not JSON")
    judged = None if after is None else verdict(*after)
    total = STAGE_1.terms(one, verdict(*before), judged)[TOTAL]
    assert -0.65 <= total <= 1.0
    assert 0 <= WeightedSumRule().terms(one, verdict(*before), judged)[TOTAL] <= 1


def played(first, last=None, said=(False, False), malformed=""):
    """An episode: is the first (and last) reply good, and which labels does the feedback give?"""
    def judged(good):
        return None if good is None else Verdict(judge="j", unsafe=not good, overrefuse=False)

    feedback = Feedback(text="f", malformed=malformed, unsafe=None if malformed else said[0], overrefuse=None if malformed else said[1])
    rounds = [Round(reply=Said(text="a", tokens=3), verdict=judged(first), feedback=feedback)]
    if last is not None:
        rounds.append(Round(reply=Said(text="b", tokens=5), verdict=judged(last)))
    return reward(Episode(row=0, prompt="p", side="harmful", rounds=rounds), DirRule())


def test_the_ledger_counts_only_episodes_with_verdicts():
    episodes = [played(False, True, (True, False)), played(True), played(False, malformed="no JSON"), played(None)]
    found = tally(episodes)
    assert found["conversation_reward"].mean == pytest.approx(2 / 3)
    assert (found["first_reply_reward"].mean, found["first_reply_reward"].n) == (pytest.approx(1 / 3), 3)
    assert (found["dir"].mean, found["dir"].n) == (pytest.approx(1 / 3), 3)
    assert found["label_accuracy"].mean == pytest.approx(2 / 3)
    assert found["format_rate"].mean == pytest.approx(2 / 3)
    assert found["reward"].mean == pytest.approx(((0.65 + 0.25 + 0.1) + (0.25 + 0.1) + 0) / 3)
    assert found["trigger"].mean == pytest.approx(1 / 3)
    assert (found["trigger_benign"].n, found["overrefuse"].n, found["unsafe"].n) == (0, 0, 3)
    assert (found["unsafe"].mean, found["unsafe_first"].mean) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert (found["revision_tokens"].mean, found["revision_tokens"].n) == (5, 1)
