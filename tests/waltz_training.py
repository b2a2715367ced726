"""Small trainings of WaltzRL and their agents, over the tiny model, prompts as a file and the judges of tests/fake_judges."""

from core.waltz.ledger import read_iterations
from core.waltz.protocol import AGENTS, Rules

FEW = {"stage": "both", "stage1_iterations": 2, "stage2_iterations": 2, "rollout_batch": 6, "max_new_tokens": 10, "max_feedback_tokens": 8,
       "lr": 0.01, "judge": "odd", "reward": "weighted_sum", "ppo_epochs": 2, "minibatches": 2, "batch_size": 4, "lora_rank": 4,
       "save_every": 1, "dtype": "float32", "device": "cpu"}


def losses(run):
    """Every loss of a run's ledger, by iteration and agent."""
    return [(line.iteration, role, step.loss) for line in read_iterations(run.dir) for role, step in sorted(line.agents.items())]


def equal(one, other):
    """Are two lists of losses the same to 1e-6?"""
    assert [line[:2] for line in one] == [line[:2] for line in other]
    assert all(first == second if first is None else abs(first - second) <= 1e-6
               for (*_, first), (*_, second) in zip(one, other, strict=True)), (one, other)


def agents_on(model, workspace, seed=7):
    from core.lm.agents import Speech, open_agents

    agents = open_agents(str(model), workspace, device="cpu", dtype="float32", trainable=True)
    for role in AGENTS:
        agents.add_adapter(role, rank=4, alpha=8, seed=seed)
        agents.freeze(role)
    agents.speech = Speech(temperature=1.0, max_new_tokens=6, max_feedback_tokens=6, seed=seed, log_probs=True)
    return agents


def learner_of(agents, role, recompute=False, narrow=False, **rule):
    from core.lm.waltz import UpdateRule
    from core.lm.waltz_update import Learner, Room

    return Learner(agents=agents, role=role, rule=UpdateRule(**{"learning_rate": 0.01, **rule}), room=Room(4, 2048), narrow=narrow,
                   recompute=recompute, notice=lambda _: None)


def rolled_out(agents, workspace, data, prompt_count=6):
    from itertools import islice

    from core.judges import open_judge
    from core.lm.waltz_rollouts import roll_out
    from core.waltz.prompts import openings
    from core.waltz.rewards import WeightedSumRule

    some = list(islice(openings(data, workspace), prompt_count))
    return roll_out(some, agents, open_judge("odd", workspace), Rules(), WeightedSumRule())


def weights(agents, role):
    """In order: their names differ between agents that share a base in memory."""
    return [weight.detach().clone() for weight in agents.parameters(role).values()]


def moved(before, after):
    return max(float((one - other).abs().max()) for one, other in zip(before, after, strict=True))
