"""Which prompts an iteration of WaltzRL plays: each has its turn, and both sides their share."""

from collections import Counter


def test_every_prompt_has_its_turn_and_none_twice_in_an_iteration():
    from core.lm.waltz_prompts import plan_prompts

    plan, note = plan_prompts({"harmful": 10, "benign": 7}, 6, 0.5, seed=3)
    assert not note
    for iteration in range(1, 30):
        places = list(plan.places(iteration))
        assert len(set(places)) == 6
        assert Counter(pool for pool, _ in places) == {"harmful": 3, "benign": 3}
    assert {number for iteration in range(1, 30) for pool, number in plan.places(iteration) if pool == "harmful"} == set(range(10))
    assert list(plan.places(5)) == list(plan_prompts({"harmful": 10, "benign": 7}, 6, 0.5, seed=3)[0].places(5))
    _, note = plan_prompts({"benign": 4}, 6, 0.5, seed=3)
    assert "plays 4 prompts, not 6" in note


def test_benign_share_holds_for_the_prompts_that_say_their_side_and_no_batch_grows():
    from core.lm.waltz_prompts import plan_prompts

    plan, note = plan_prompts({"harmful": 900, "benign": 90, "": 10}, 32, 0.5, seed=3)
    assert plan.shares == {"harmful": 15, "benign": 16, "": 1}
    assert note == ("Of 1,000 prompts 10 say no side: 1 of the 32 in an iteration. benign_share splits the others: 15 harmful, 16 benign.")
    assert len(set(plan.places(1))) == 32
    assert plan_prompts({"harmful": 900, "benign": 90, "": 10}, 32, 0.0, seed=3)[0].shares == {"harmful": 31, "": 1}
    assert plan_prompts({"harmful": 400, "benign": 100, "": 500}, 32, 0.25, seed=3)[0].shares == {"harmful": 12, "benign": 4, "": 16}
    assert plan_prompts({"harmful": 9, "benign": 90, "": 1}, 1, 0.5, seed=3)[0].prompts == 1
    for sizes, wanted in (({"": 50}, {"": 32}), ({"benign": 50}, {"benign": 32}), ({"benign": 80, "": 80}, {"benign": 16, "": 16})):
        assert plan_prompts(sizes, 32, 0.5, seed=3)[0].shares == wanted
        assert not plan_prompts(sizes, 32, 0.5, seed=3)[1]
    _, note = plan_prompts({"harmful": 4, "benign": 90, "": 10}, 32, 0.5, seed=3)
    assert "say no side" in note
    assert "not 32: there are 4 prompts that are harmful and" in note
