"""A game for two agents with a known best play: what improvement earns finds it, and right labels alone do not."""

import pytest

from core.records import GuardExample, Labels
from tests.helpers import execute, write
from tests.waltz_game import PROMPTS, make_game

pytestmark = pytest.mark.usefixtures("fake_judges")


def game(workspace, model, folder, seed, alpha, iterations=8):
    """Share of good last replies in the last quarter of a training of the feedback agent."""
    rows = write(folder / f"prompts-{seed}.jsonl", [GuardExample(prompt=one, labels=Labels(request="harmful")) for one in PROMPTS])
    run = execute(workspace, "waltzrl", {
        "data": rows, "model": str(model), "stage": 1, "stage1_iterations": iterations, "rollout_batch": 4, "samples": 32,
        "max_new_tokens": 3, "max_feedback_tokens": 3, "judge": "named", "lr": 0.007, "ppo_epochs": 2, "minibatches": 2, "batch_size": 64,
        "dir.alpha": alpha, "save_every": 1000, "seed": seed, "dtype": "float32", "device": "cpu", "lora_rank": 8})
    return run.report["stages"]["stage 1"]["values"]["conversation_reward"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_game_is_solved_by_what_improvement_earns_and_not_without(seed, workspace, tmp_path):
    """Words are drawn at temperature 1 to the end, so that even the best play has slips."""
    model = make_game(tmp_path / "game", seed)
    paid, unpaid = (game(workspace, model, tmp_path, seed, alpha) for alpha in (0.65, 0.0))
    assert paid["last_quarter"]["value"] > 0.9, paid
    assert paid["last_quarter"]["low"] > 0.85, paid
    assert unpaid["last_quarter"]["high"] < 0.75, unpaid
    assert paid["difference"]["low"] > 0, paid
