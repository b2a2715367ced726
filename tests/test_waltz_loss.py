"""The objective of WaltzRL on tensors: token rewards, returns, advantages, clipping, and the gradient of a whole small case."""

import math

import pytest
import torch

from core.lm.waltz_loss import clipped_surrogate, normalised, returns_to_go, token_rewards


def test_rewards_returns_and_advantages_by_hand():
    old, reference = torch.tensor([-1.0, -2.0, -3.0, -0.5]), torch.tensor([-1.5, -1.0, -3.0, -0.25])
    rewards = token_rewards(old, reference, [1.0, -0.5], [3, 1], kl_coef=0.1)
    assert rewards.tolist() == pytest.approx([-0.05, 0.1, 1.0, -0.475])
    returns = returns_to_go(rewards, [3, 1])
    assert returns.tolist() == pytest.approx([1.05, 1.1, 1.0, -0.475])
    found = normalised(returns)
    mean = (1.05 + 1.1 + 1.0 - 0.475) / 4
    std = math.sqrt(sum((value - mean) ** 2 for value in (1.05, 1.1, 1.0, -0.475)) / 4)
    assert (found.mean, found.std) == (pytest.approx(mean), pytest.approx(std))
    assert found.values.tolist() == pytest.approx([(value - mean) / std for value in (1.05, 1.1, 1.0, -0.475)])
    assert found.teach


@pytest.mark.parametrize("values", [[0.7] * 5, [0.0], [1.0, 1.0 + 1e-7]])
def test_equal_returns_teach_nothing(values):
    found = normalised(torch.tensor(values))
    assert found.values.tolist() == [0.0] * len(values)
    assert not found.teach


def test_returns_that_are_no_numbers_are_not_taken_for_equal_ones():
    assert normalised(torch.tensor([1.0, math.nan])).teach


@pytest.mark.parametrize(("ratio", "advantage", "loss", "clipped"), [
    (1.0, 2.0, -2.0, False),
    (1.1, 2.0, -2.2, False),
    (1.5, 2.0, -2.4, True),  # held at 1.2
    (0.5, 2.0, -1.0, False),  # became less likely although it was good: the gradient brings it back
    (0.5, -2.0, 1.6, True),  # held at 0.8
    (1.5, -2.0, 3.0, False),
    (0.9, -2.0, 1.8, False),
    (1.5, 0.0, 0.0, False),
])
def test_the_clipped_loss_of_one_token(ratio, advantage, loss, clipped):
    old = torch.tensor([-1.3])
    now = (old + math.log(ratio)).requires_grad_()
    found = clipped_surrogate(now, old, torch.tensor([advantage]), 0.2)
    assert found.losses.item() == pytest.approx(loss, rel=1e-5)
    assert found.clipped.item() == clipped
    found.losses.sum().backward()
    wanted = 0.0 if clipped else -ratio * advantage  # d(ratio) / d(log p) = ratio
    assert now.grad.item() == pytest.approx(wanted, rel=1e-5)


def test_the_gradient_of_an_episode_of_two_tokens_in_closed_form():
    """One text of two tokens over an alphabet of three, free logits, reward 1, KL to a reference: every number by hand.

    Two returns always normalise to +1 and -1; the sign is that of -kl_coef * (log pi - log ref) at the first token. The gradient of
    the mean loss for the logits of token t is -A_t / 2 * (one-hot(y_t) - softmax_t), since the ratio is 1.
    """
    logits = torch.tensor([[0.2, -0.4, 1.0], [0.0, 0.5, -0.3]], requires_grad=True)
    said = torch.tensor([2, 0])
    now = logits.log_softmax(-1).gather(-1, said[:, None])[:, 0]
    reference = torch.tensor([-0.2, -2.0])
    rewards = token_rewards(now.detach(), reference, [1.0], [2], kl_coef=0.01)
    first, second = (-0.01 * (now[token].item() - reference[token].item()) for token in (0, 1))
    assert rewards.tolist() == pytest.approx([first, 1 + second])
    advantages = normalised(returns_to_go(rewards, [2])).values
    sign = 1.0 if first > 0 else -1.0
    assert advantages.tolist() == pytest.approx([sign, -sign], abs=1e-4)
    (clipped_surrogate(now, now.detach(), advantages, 0.2).losses.sum() / 2).backward()
    softmax = logits.detach().softmax(-1)
    one_hot = torch.nn.functional.one_hot(said, 3)
    wanted = -torch.tensor([[sign], [-sign]]) / 2 * (one_hot - softmax)
    assert torch.allclose(logits.grad, wanted, atol=1e-5)
