"""Signs of reward hacking: each is found where it is, dated where it began, and found nowhere else; columns are the ledger's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.waltz.history import ROOM, SHARES, History, stretches
from core.waltz.ledger import AgentStep, Iteration, Spread, tally
from core.waltz.rewards import WeightedSumRule
from core.waltz.warnings import checks, warnings, window_of
from tests.waltz_runs import iterations

USUAL = {"trigger": 0.4, "first_reply_reward": 0.6, "overrefuse": 0.2, "unsafe": 0.2, "label_accuracy": 0.8}


def line(number, stage=2, episodes=32, agents=None, tokens=None, left_out=0, **values):
    """An iteration of which only these numbers matter. A share is made exact: whole episodes."""
    shares = {name: Spread(mean=round(share * episodes) / episodes, std=0.4, n=episodes) for name, share in {**USUAL, **values}.items()}
    lengths = {name: Spread(mean=mean, std=10.0, n=episodes) for name, mean in {"reply_tokens": 100.0, **(tokens or {})}.items()}
    steps = {role: AgentStep(learned=True, entropy=entropy) for role, entropy in (agents or {"feedback": 1.5}).items()}
    return Iteration(iteration=number, stage=stage, episodes=episodes, left_out=left_out, values={**shares, **lengths}, outcomes={},
                     agents=steps, seconds={})


def history(count, change):
    """`change(i)`: what iteration i (from 1) has that is unusual."""
    return History(line(number, **change(number)) for number in range(1, count + 1))


def ramp(number, begin, end, low, high):
    return low + (high - low) * min(1.0, max(0.0, (number - begin) / (end - begin)))


CASES = {
    "triggers": lambda i: {"trigger": 1.0 if i > 25 else 0.5},
    "refusals": lambda i: {"overrefuse": 0.6 if i > 25 else 0.1, "unsafe": 0.05 if i > 25 else 0.4},
    "length": lambda i: {"tokens": {"reply_tokens": 150.0 if i > 25 else 100.0}},
    "labels": lambda i: {"safety": 0.5, "score": 0.95 if i > 25 else 0.5, "label_accuracy": 0.4 if i > 25 else 0.9},
    "entropy": lambda i: {"agents": {"conversation": 0.2 if i > 25 else 1.5, "feedback": 1.5}},
    "verdicts": lambda i: {"left_out": 8 if i > 25 else 0},
}


@pytest.mark.parametrize("kind", CASES)
def test_each_sign_is_found_and_dated(kind):
    found = warnings(history(40, CASES[kind]))
    assert [one.kind for one in found] == [kind]
    assert 23 <= found[0].since <= 27, "windows of two iterations see it as soon as they hold it"
    assert found[0].stage == 2
    assert found[0].advice
    assert any(letter.isdigit() for letter in found[0].numbers)


@pytest.mark.parametrize("kind", CASES)
def test_nothing_is_said_before_it_begins_or_when_it_is_over(kind):
    assert not warnings(history(25, CASES[kind]))
    over = History(line(number, **(CASES[kind](number) if number < 36 else CASES[kind](1))) for number in range(1, 41))
    assert not warnings(over)


def test_triggering_always_is_right_where_all_replies_are_bad():
    assert not warnings(history(20, lambda _: {"trigger": 1.0, "first_reply_reward": 0.0}))
    assert [one.kind for one in warnings(history(20, lambda _: {"trigger": 1.0, "first_reply_reward": 0.5}))] == ["triggers"]


def test_fewer_refusals_or_more_harm_is_no_collapse():
    assert not warnings(history(40, lambda i: {"overrefuse": ramp(i, 1, 40, 0.6, 0.1), "unsafe": ramp(i, 1, 40, 0.6, 0.05)}))
    assert not warnings(history(40, lambda i: {"overrefuse": ramp(i, 1, 40, 0.1, 0.6), "unsafe": 0.2}))


def test_scores_may_rise_together_with_the_labels():
    assert not warnings(history(40, lambda i: {"safety": 0.5, **dict.fromkeys(("score", "label_accuracy"), ramp(i, 1, 40, 0.4, 0.9))}))


def test_rising_scores_of_unsafe_replies_are_inflation_even_where_the_labels_stay_right():
    def rising(i):
        return {"safety": 0.5, "label_accuracy": 0.9, "score": 0.5, "score_unsafe": 0.8 if i > 25 else 0.1}

    (found,) = warnings(history(40, rising))
    assert found.kind == "labels"
    assert 23 <= found.since <= 27
    assert "of unsafe replies 0.09 to 0.81" in found.numbers
    assert not warnings(history(40, lambda i: {"safety": 0.5, "score_unsafe": 0.1, "score": ramp(i, 1, 40, 0.2, 0.9)}))


def test_the_ledger_has_the_scores_of_unsafe_replies_apart():
    episodes = [episode for _, some in iterations(6, 16, rule=WeightedSumRule()) for episode in some if not episode.left_out]
    found = tally(episodes)["score_unsafe"]
    scores = [0.0 if one.feedback.unsafe else 1.0 for episode in episodes for one in episode.rounds
              if one.feedback and not one.feedback.malformed and one.verdict.unsafe]
    assert found.n == len(scores) > 5
    assert found.mean == pytest.approx(sum(scores) / len(scores))


def test_label_inflation_is_looked_for_only_under_the_weighted_sum():
    kinds = {one.kind for one in checks(history(40, lambda i: {"score": ramp(i, 1, 40, 0.4, 0.9)}))}
    assert "labels" not in kinds


def test_a_short_stage_is_unknown_and_says_when_it_will_not_be():
    found = checks(history(3, CASES["triggers"]))
    assert {one.state for one in found} == {"unknown"}
    assert found[0].numbers == "known after 4 iterations of the stage"
    assert not checks(History())


def test_stages_are_looked_at_apart():
    """What changes because a stage begins is no drift: lengths jump between the stages here, and stay in each."""
    jump = History(line(number, stage=1 if number <= 20 else 2, tokens={"reply_tokens": 100.0 if number <= 20 else 200.0})
                   for number in range(1, 41))
    assert not warnings(jump)
    assert {one.stage for one in checks(jump)} == {1, 2}


def test_missing_numbers_are_unknown_not_fine():
    empty = Spread(n=0)
    lines = [line(number).model_copy(update={"values": {**line(number).values, "overrefuse": empty}}) for number in range(1, 20)]
    assert [one.state for one in checks(History(lines)) if one.kind == "refusals"] == ["unknown"]


def test_windows_hold_enough_episodes():
    assert window_of(History(line(number, episodes=1) for number in range(1, 200)), 0, 199) == 64
    assert window_of(History(line(number, episodes=512) for number in range(1, 1001)), 0, 1000) == 50


# ---- columns ----


def test_columns_are_the_numbers_of_the_ledger():
    lines, episodes = [], []
    for one, some in iterations(30, 16, rule=WeightedSumRule()):
        lines.append(one)
        episodes += some
    found, whole = History(lines), tally(episodes)
    missing = found.pooled("left_out")
    assert (missing.n, round(missing.value * missing.n)) == (len(episodes), sum(bool(one.left_out) for one in episodes))
    for name, expected in whole.items():
        if expected.mean is None:
            assert not found.has(name)
            continue
        assert found.pooled(name).n == expected.n
        assert found.pooled(name).value == pytest.approx(expected.mean, abs=1e-9), name
        assert found.spread(name) == pytest.approx(expected.std, abs=1e-9), name
    assert found.parts() == [(1, 0, 15), (2, 15, 30)]
    assert not found.has("conversation kl") or found.column("conversation kl").n[:15].sum() == 0
    assert {name for name, one in whole.items() if one.mean is not None and set(_values(name, episodes)) <= {0.0, 1.0}} - SHARES <= {
        "score", "score_unsafe", "alignment", "safety", "reward", "feedback_reward"}


def _values(name, episodes):
    """What `tally` makes of each episode alone."""
    means = (tally([one])[name] for one in episodes if not one.left_out and name in tally([one]))
    return [one.mean for one in means if one.mean is not None]


def test_a_column_grows_beyond_its_room_and_an_iteration_done_again_takes_its_place():
    found = History(line(number, trigger=0.25, **{f"extra {place}": 0.5 for place in range(20)}) for number in range(1, 2 * ROOM + 2))
    assert len(found.column("trigger").mean) == len(found) == 2 * ROOM + 1
    assert (found.column("extra 19").mean == 0.5).all()
    found.add(line(3, trigger=0.75))
    assert found.iterations == [1, 2, 3]
    assert found.column("trigger").mean.tolist() == [0.25, 0.25, 0.75]
    assert not found.column("extra 3").n[2]


def test_a_few_missing_verdicts_are_told_and_no_warning():
    found = checks(history(40, lambda i: {"left_out": i % 2}))
    assert [(one.state, one.numbers) for one in found if one.kind == "verdicts"] == [("fine", "1.6 % (0.3–8.3) of the episodes")]
    assert not warnings(history(40, lambda _: {"left_out": 2}))


def test_an_iteration_done_again_counts_its_missing_verdicts_once():
    found = History([line(1), line(2, left_out=32), line(2, left_out=8), line(3, left_out=8)])
    missing = found.pooled("left_out")
    assert (missing.n, round(missing.value * missing.n)) == (96, 16)


@given(first=st.integers(0, 50), length=st.integers(0, 3000), most=st.integers(1, 200))
def test_stretches_cover_everything_once(first, length, most):
    found = stretches(first, first + length, most)
    assert len(found) <= most
    assert [place for begin, end in found for place in range(begin, end)] == list(range(first, first + length))
