"""`waltzrl`: who learns from what, exactly; runs whole, stopped, killed and resumed; what is refused; and a game with a known best play."""

import json
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from core.active import ActiveRun, StopRequested
from core.files import read_json
from core.jobs import create, resume, submit
from core.methods import UserError, nested, validate
from core.preflight import look
from core.records import Episode, Feedback, GuardExample, Labels, Round, Said, Verdict
from core.runs import Workspace
from core.split_guard import prompt_key
from core.waltz.ledger import read_episodes, read_iterations, tally
from core.waltz.protocol import AGENTS, Rules
from core.waltz.rewards import DirRule, reward
from tests.helpers import execute, finish, prompts, wait_for, write
from tests.waltz_game import PROMPTS, make_game

FAKE_JUDGES = Path(__file__).parent / "fake_judges"
FEW = {"stage": "both", "stage1_iterations": 2, "stage2_iterations": 2, "rollout_batch": 6, "max_new_tokens": 10, "max_feedback_tokens": 8,
       "lr": 0.01, "judge": "odd", "reward": "weighted_sum", "ppo_epochs": 2, "minibatches": 2, "batch_size": 4, "lora_rank": 4,
       "save_every": 1, "dtype": "float32", "device": "cpu"}


@pytest.fixture
def workspace(workspace_dir, monkeypatch):
    monkeypatch.setenv("GUARDWALTZ_PLUGINS", str(FAKE_JUDGES))
    return Workspace(workspace_dir)


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "prompts.jsonl", prompts())


def losses(run):
    """Every loss of a run's ledger, by iteration and agent."""
    return [(line.iteration, role, step.loss) for line in read_iterations(run.dir) for role, step in sorted(line.agents.items())]


def equal(one, other):
    """Are two lists of losses the same to 1e-6?"""
    assert [line[:2] for line in one] == [line[:2] for line in other]
    assert all(first == second if first is None else abs(first - second) <= 1e-6
               for (*_, first), (*_, second) in zip(one, other, strict=True)), (one, other)


# ---- texts and passes ----


@pytest.fixture(scope="module")
def said():
    """Texts as they come from episodes: shared prompts, a reply and its revision in one sequence, one that begins anew."""
    from core.lm.waltz_texts import Text

    begin = list(range(3, 23))
    first = Text([*begin, 30, 31], [40, 41, 42], 1.0)
    revised = Text([*begin, 30, 31, 40, 41, 42, 50, 51], [43, 44], 1.0)
    other = Text([*begin, 30, 32, 33], [60, 61], 0.0)
    again = Text([*begin, 30, 31], [45], 0.5)  # a second sample of the first prompt
    lonely = Text([70, 71, 72], [73, 74, 75, 76], 0.25)
    return [[first, revised], [other], [again], [lonely]]


def test_a_revision_lies_behind_its_first_reply(said):
    from core.lm.waltz_texts import Texts

    texts = Texts(said)
    assert [len(strand.spans) for strand in texts.strands] == [2, 1, 1, 1]
    assert texts.groups == [[0], [1], [2], [3]]
    assert texts.lengths == [3, 2, 2, 1, 4]
    assert texts.places(texts.strands[1:3]) == [5, 6, 7]
    assert texts.strands[0].ids[-2:] == [43, 44]


@pytest.mark.parametrize("tree", [True, False])
@pytest.mark.parametrize("most", [1, 2, 8])
def test_passes_give_what_separate_rows_give(said, tiny_model, tree, most):
    """Log-probabilities and entropies of every token, however strands are put together."""
    import torch
    from transformers import AutoModelForCausalLM

    from core.lm.waltz_head import measured, prepare_head
    from core.lm.waltz_texts import PassMaker, Texts
    from core.lm.waltz_update import tree_attention

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    prepare_head(model)
    texts = Texts(said)
    maker = PassMaker(pad=2, tree=tree, most=most)
    found, entropies = torch.full((texts.tokens,), torch.nan), torch.full((texts.tokens,), torch.nan)
    with tree_attention(model, tree):
        passes = list(maker.passes(texts.strands))
        assert sorted(strand.texts[0] for strands in passes for strand in strands) == [0, 2, 3, 4]
        assert max(map(len, passes)) <= most
        for strands in passes:
            inputs, order = maker.inputs(strands)
            places = texts.places(order)
            found[places], entropies[places] = measured(model, inputs)
    for number, text in enumerate(texts.texts):
        ids = torch.tensor([[*text.prompt, *text.tokens]])
        with torch.no_grad():
            chances = model(input_ids=ids).logits[0, len(text.prompt) - 1:-1].log_softmax(-1)
        start = texts.starts[number]
        part = slice(start, start + len(text.tokens))
        assert torch.allclose(found[part], chances[range(len(text.tokens)), list(text.tokens)], atol=1e-4)
        assert torch.allclose(entropies[part], -(chances.exp() * chances).sum(-1), atol=1e-4)


def test_a_shared_beginning_is_computed_once(said):
    from core.lm.waltz_texts import PassMaker, Texts

    texts = Texts(said)
    inputs, _ = PassMaker(pad=2, tree=True, most=8).inputs(texts.strands)
    apart = sum(map(len, texts.strands))
    assert inputs["input_ids"].numel() <= apart - 2 * 20
    assert int((inputs["labels"] != -100).sum()) == texts.tokens


# ---- one agent learns ----


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


@pytest.mark.parametrize("role", AGENTS)
def test_only_the_agent_that_spoke_learns_from_its_words(role, tiny_model, workspace, data):
    agents = agents_on(tiny_model, workspace)
    rollout = rolled_out(agents, workspace, data)
    other = next(one for one in AGENTS if one != role)
    before = {one: weights(agents, one) for one in AGENTS}
    base = {name: weight.detach().clone() for name, weight in agents.base_model.named_parameters() if ".lora_" not in name}
    step = learner_of(agents, role).learn(rollout.texts(role), 1)
    assert step.learned
    assert moved(before[role], weights(agents, role)) > 1e-4
    assert moved(before[other], weights(agents, other)) == 0
    now = dict(agents.base_model.named_parameters())
    assert all((weight == now[name]).all() for name, weight in base.items())
    assert all(weight.grad is None for weight in now.values())
    assert step.mismatch < 1e-4, "in float32 the sampler and the training forward agree"
    assert step.kl == pytest.approx(0, abs=1e-6), "nothing has moved away from the reference yet"


def test_the_update_is_that_of_a_plain_implementation(tiny_model, workspace, data):
    """The first step's gradient against logits of whole rows, one row at a time, with the formulas written out again."""
    import torch

    agents = agents_on(tiny_model, workspace)
    with torch.no_grad():  # away from the reference, so that the KL term counts
        for weight in agents.parameters("conversation").values():
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    texts = rolled_out(agents, workspace, data).texts("conversation")
    learner = learner_of(agents, "conversation", ppo_epochs=1, minibatches=1, kl_coef=0.1, max_grad_norm=0.0)
    caught = []

    def catch(*_, **__):
        caught.extend(weight.grad.clone() for weight in learner.weights)

    learner.optimizer.register_step_pre_hook(catch)
    step = learner.learn(texts, 1)

    agents = agents_on(tiny_model, workspace)
    with torch.no_grad():
        for weight in agents.parameters("conversation").values():
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))

    def chances(model, text):
        ids = torch.tensor([[*text.prompt, *text.tokens]])
        logits = model(input_ids=ids).logits[0, len(text.prompt) - 1:-1]
        return logits.log_softmax(-1)[range(len(text.tokens)), list(text.tokens)]

    with agents.reference("conversation") as model:
        reference = [chances(model, text) for text in texts.texts]
    with agents.training("conversation") as model:
        now = [chances(model, text) for text in texts.texts]
        returns = []
        for text, mine, held in zip(texts.texts, now, reference, strict=True):
            paid = [-0.1 * float(one - two) for one, two in zip(mine, held, strict=True)]
            paid[-1] += text.reward
            returns.append(torch.tensor([sum(paid[place:]) for place in range(len(paid))]))
        flat = torch.cat(returns)
        advantage = (flat - flat.mean()) / ((flat - flat.mean()) ** 2).mean().sqrt()
        ratio = torch.exp(torch.cat(now) - torch.cat(now).detach())
        loss = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
        loss.backward()
        wanted = [weight.grad for weight in agents.parameters("conversation").values()]
    assert step.loss == pytest.approx(float(loss), abs=1e-5)
    assert step.kl == pytest.approx(float((torch.cat(now) - torch.cat(reference)).mean()), abs=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in wanted)
    assert largest > 1e-4
    assert moved(caught, wanted) < 1e-4 * largest


def test_how_episodes_are_cut_into_passes_changes_nothing(tiny_model, workspace, data):
    from core.lm.waltz_update import Room

    ends = []
    for most, tokens in ((1, 0), (64, 0), (4, 300)):
        agents = agents_on(tiny_model, workspace)
        learner = learner_of(agents, "feedback")
        learner.room = Room(most, tokens)
        learner.learn(rolled_out(agents, workspace, data).texts("feedback"), 1)
        ends.append(weights(agents, "feedback"))
    assert moved(ends[0], ends[1]) < 2e-4
    assert moved(ends[0], ends[2]) < 2e-4


def test_recomputing_activations_changes_nothing(tiny_model, workspace, data):
    ends = []
    for recompute in (False, True):
        agents = agents_on(tiny_model, workspace)
        learner_of(agents, "conversation", recompute=recompute).learn(rolled_out(agents, workspace, data).texts("conversation"), 1)
        ends.append(weights(agents, "conversation"))
    assert moved(*ends) < 2e-4


def test_out_of_memory_halves_the_micro_batch_once_and_says_so(tiny_model, workspace, data, monkeypatch):
    from core.lm import waltz_update

    real, said, failing = waltz_update.log_probabilities, [], [True]

    def short_of_memory(model, inputs):
        if failing and failing.pop():
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return real(model, inputs)

    monkeypatch.setattr(waltz_update, "log_probabilities", short_of_memory)
    ends = []
    for _ in range(2):  # the first time it runs short once, the second time never
        agents = agents_on(tiny_model, workspace)
        learner = learner_of(agents, "feedback")
        learner.notice, learner.need = said.append, lambda: 3_000_000
        learner.learn(rolled_out(agents, workspace, data).texts("feedback"), 1)
        ends.append((weights(agents, "feedback"), learner.room.most))
    assert [most for _, most in ends] == [2, 4]
    assert moved(ends[0][0], ends[1][0]) < 2e-4
    assert len(said) == 1
    assert "batch_size is 2" in said[0]
    failing.extend([True] * 50)
    with pytest.raises(UserError, match=r"Out of memory again with 2 episodes.*3\.0 MB"):
        learner.learn(rolled_out(agents, workspace, data).texts("feedback"), 2)


@pytest.mark.parametrize("where", ["roll-out", "optimizer"])
def test_out_of_memory_elsewhere_ends_with_the_estimate(where, tiny_model, workspace, data, monkeypatch):
    import torch

    from core.lm import waltz_loop

    def short_of_memory(*_, **__):
        raise RuntimeError("CUDA out of memory. Tried to allocate 9 bytes.")

    if where == "roll-out":
        monkeypatch.setattr(waltz_loop, "roll_out", short_of_memory)
    else:
        monkeypatch.setattr(torch.optim.AdamW, "step", short_of_memory)
    doing = {"roll-out": "playing and judging", "optimizer": "learning"}[where]
    words = rf"Out of memory while {doing} \(CUDA out of memory.*\)\. The estimate is [\d.]+ .B of memory\. Use"
    with pytest.raises(UserError, match=words):
        execute(workspace, "waltzrl", {**FEW, "data": data, "model": str(tiny_model), "stage": 1, "rollout_batch": 2})


# ---- what is paid, and what counts ----


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


# ---- runs ----


def test_a_run_leaves_two_agents_every_episode_and_a_report(workspace, data, tiny_model):
    from core.lm.agents import open_agents

    run = execute(workspace, "waltzrl", {**FEW, "data": data, "model": str(tiny_model)})
    lines = list(read_iterations(run.dir))
    assert [(line.iteration, line.stage, line.episodes) for line in lines] == [(1, 1, 6), (2, 1, 6), (3, 2, 6), (4, 2, 6)]
    assert [sorted(line.agents) for line in lines] == [["feedback"]] * 2 + [["conversation", "feedback"]] * 2
    assert all(step.learned for line in lines for step in line.agents.values())
    assert lines[2].agents["feedback"].kl == pytest.approx(0, abs=1e-6), "the reference is the agent as the stage began"
    assert abs(lines[1].agents["feedback"].kl) > 1e-6
    episodes = list(read_episodes(run.dir))
    assert Counter(one.iteration for one in episodes) == {1: 6, 2: 6, 3: 6, 4: 6}
    assert all(one.episode.rounds[0].feedback is not None and one.episode.rounds[0].verdict is not None for one in episodes)
    assert sum(one.episode.conversation_reward for one in episodes if one.iteration == 4) / 6 == lines[3].values["conversation_reward"].mean
    assert [one.name for one in run.checkpoints()] == [f"checkpoint-{number}" for number in (1, 2, 3, 4)]
    assert [(one / "state.pt").exists() for one in run.checkpoints()] == [False, False, True, True]
    assert (run.dir / "trained_keys.txt").read_text().split() == sorted(prompt_key(row.prompt) for row in prompts())
    assert run.report["stages"]["stage 2"]["values"]["conversation_reward"]["first_quarter"]["n"] == 6
    assert run.report["left_out"] == {"episodes": 0, "of": 24, "why": {}}
    assert "Dynamic Improvement Reward" in (run.dir / "README.md").read_text()
    for ref in (f"waltz:{run.id}", f"waltz:{run.id}@checkpoint-1"):
        agents = open_agents(ref, workspace, device="cpu", dtype="float32")
        assert agents.adapter("feedback") is not None
    early, late = (open_agents(f"waltz:{run.id}{at}", workspace, device="cpu", dtype="float32") for at in ("@checkpoint-2", ""))
    assert early.adapter("conversation") is None, "frozen in stage 1: it is the base still"
    assert late.adapter("conversation") is not None


def test_the_frozen_agent_does_not_move_in_stage_1(workspace, data, tiny_model):
    from safetensors.torch import load_file

    settings = {**FEW, "data": data, "stage": 2, "stage2_iterations": 1}
    first = execute(workspace, "waltzrl", {**settings, "model": str(tiny_model)})
    second = execute(workspace, "waltzrl", {**FEW, "data": data, "stage": 1, "model": f"waltz:{first.id}"})
    for role, still in (("conversation", True), ("feedback", False)):
        before, after = (load_file(run.dir / role / "adapter_model.safetensors") for run in (first, second))
        assert all((before[name] == after[name]).all() for name in before) == still


def test_both_stages_are_one_run_after_the_other(workspace, data, tiny_model):
    """Stage 2 begins with fresh optimizers and references, as a run of its own would; only the numbers of its iterations differ."""
    whole = execute(workspace, "waltzrl", {**FEW, "data": data, "model": str(tiny_model)})
    first = execute(workspace, "waltzrl", {**FEW, "data": data, "model": str(tiny_model), "stage": 1})
    equal(losses(first), losses(whole)[:2])


def test_stop_keeps_what_is_done_and_resume_ends_as_if_never_stopped(workspace, data, tiny_model, monkeypatch):
    settings = {**FEW, "data": data, "model": str(tiny_model), "save_every": 100}
    whole = execute(workspace, "waltzrl", settings)
    from core.lm import waltz_loop

    real, run = waltz_loop.roll_out, create(workspace, workspace.plugins.method("waltzrl"), settings)
    calls = []

    def stopping(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            (run.dir / "stop").touch()
        return real(*args, **kwargs)

    monkeypatch.setattr(waltz_loop, "roll_out", stopping)
    with pytest.raises(StopRequested):
        execute(workspace, "waltzrl", settings, run)
    assert [one.name for one in run.checkpoints()] == ["checkpoint-2", "checkpoint-3"], "the end of a stage, and the stop"
    (run.dir / "stop").unlink()
    again = execute(workspace, "waltzrl", settings, run)
    assert len(calls) == 5
    equal(losses(again), losses(whole))
    assert [one.model_dump() for one in read_episodes(again.dir)] == [one.model_dump() for one in read_episodes(whole.dir)]
    assert [one.name for one in again.checkpoints()] == ["checkpoint-2", "checkpoint-4"], "that of the stop is not kept for good"


def test_stop_within_an_update_undoes_it_and_resume_ends_as_if_never_stopped(workspace, data, tiny_model, monkeypatch):
    """Before the first optimizer step, and after one of the second agent: the checkpoint is that of the iteration before, bit for bit."""
    import torch

    from core.lm import waltz_update

    settings = {**FEW, "data": data, "model": str(tiny_model), "stage": 2, "stage2_iterations": 2, "rollout_batch": 4}
    whole = execute(workspace, "waltzrl", settings)
    wanted = torch.load(whole.checkpoints()[0] / "state.pt", weights_only=True)["optimizers"]
    real, steps = waltz_update.Learner._step, []

    for stopped_at in (0, 5):
        run = create(workspace, workspace.plugins.method("waltzrl"), {**settings, "save_every": 100})
        steps.clear()

        def stopping(self, *args, run=run, stopped_at=stopped_at):
            second = any(read_iterations(run.dir))
            if second and len(steps) == stopped_at:
                (run.dir / "stop").touch()
            made = real(self, *args)
            steps.extend([self.role] * second)
            return made

        monkeypatch.setattr(waltz_update.Learner, "_step", stopping)
        with pytest.raises(StopRequested):
            execute(workspace, "waltzrl", settings, run)
        assert steps == ["conversation", "conversation", "conversation", "conversation", "feedback"][:stopped_at], "at the next pass"
        assert len(list(read_iterations(run.dir))) == 1
        assert [one.name for one in run.checkpoints()] == ["checkpoint-1"]
        kept = torch.load(run.checkpoints()[0] / "state.pt", weights_only=True)["optimizers"]
        for role in AGENTS:
            files = [(one.checkpoints()[0] / role / "adapter_model.safetensors").read_bytes() for one in (run, whole)]
            assert files[0] == files[1]
            tensors = [[tensor for place in state[role]["state"].values() for tensor in place.values()] for state in (kept, wanted)]
            assert all(torch.equal(one, other) for one, other in zip(*tensors, strict=True))
        monkeypatch.setattr(waltz_update.Learner, "_step", real)
        (run.dir / "stop").unlink()
        again = execute(workspace, "waltzrl", settings, run)
        equal(losses(again), losses(whole))
        assert [one.model_dump() for one in read_episodes(again.dir)] == [one.model_dump() for one in read_episodes(whole.dir)]


def test_stop_is_seen_before_each_pass_of_an_update(tiny_model, workspace, data):
    """Also in those that only measure: all of them together may take longer than a stop is waited for."""
    from core.lm.waltz_update import Room

    agents = agents_on(tiny_model, workspace)
    texts = rolled_out(agents, workspace, data).texts("conversation")
    learner, asked = learner_of(agents, "conversation", ppo_epochs=1, minibatches=1), []
    learner.room, learner.stop_if_asked = Room(1, 0), lambda: asked.append(1)
    learner.learn(texts, 1)
    passes = len(texts.strands)
    assert len(asked) >= passes + 2 * -(-passes // 2)


@pytest.mark.kill
def test_kill_9_and_resume_repeats_the_uninterrupted_run(workspace, data, tiny_model):
    settings = {**FEW, "data": data, "model": str(tiny_model), "stage1_iterations": 4, "stage2_iterations": 8, "save_every": 2}
    wanted = losses(execute(workspace, "waltzrl", settings))
    run = submit(workspace, "waltzrl", settings)
    wait_for(lambda: len(list(read_iterations(run.dir))) > 6, "seven iterations")
    os.kill(run.status["process"]["pid"], signal.SIGKILL)
    wait_for(lambda: run.state == "lost", "the loss to show")
    assert len(losses(run)) < len(wanted), "killed before it was done"
    resume(workspace, run)
    assert finish(workspace, run) == "succeeded", run.log_tail()
    equal(losses(run), wanted)
    assert [one.iteration for one in read_episodes(run.dir)] == [number for number in range(1, 13) for _ in range(6)]


def test_a_judge_over_the_same_base_shares_its_weights_and_disturbs_nobody(workspace, data, tiny_model, tmp_path, monkeypatch):
    """Verdicts of a model with an adapter on the agents' base: the same as with a base of its own, and one base is in memory."""
    import shutil

    from core.lm import waltz_loop

    real, one_base = waltz_loop.roll_out, []

    def looked_at(openings, agents, judge, *rest):
        made = real(openings, agents, judge, *rest)
        one_base.append(judge.judge.engine.loaded._weights is agents._weights)
        return made

    monkeypatch.setattr(waltz_loop, "roll_out", looked_at)

    agents = agents_on(tiny_model, workspace)
    learner_of(agents, "feedback").learn(rolled_out(agents, workspace, data).texts("feedback"), 1)
    agents.save("feedback", tmp_path / "reader")
    del agents
    settings = {**FEW, "data": data, "stage1_iterations": 1, "stage2_iterations": 2, "judge": f"reader:{tmp_path / 'reader'}"}
    shared = execute(workspace, "waltzrl", {**settings, "model": str(tiny_model)})
    apart = execute(workspace, "waltzrl", {**settings, "model": str(shutil.copytree(tiny_model, tmp_path / "copy"))})
    assert one_base == [True] * 3 + [False] * 3
    equal(losses(shared), losses(apart))
    assert any(step is not None for *_, step in losses(shared))


def test_adapters_on_a_4_bit_base_get_whole_gradients(workspace, data, said, tiny_model, tmp_path):
    """bitsandbytes packs the weights of a model that has spoken into a product without gradients. The gradient of the adapters must be
    that of a model that never spoke, whose weights were never packed."""
    import shutil

    from core.lm.agents import Speech, open_agents
    from core.lm.waltz_texts import Texts

    found = []
    for speaks, folder in ((False, tiny_model), (True, shutil.copytree(tiny_model, tmp_path / "copy"))):
        agents = open_agents(str(folder), workspace, device="cpu", dtype="float32", quantization="nf4", trainable=True)
        agents.add_adapter("conversation", rank=4, alpha=8, seed=7)
        agents.speech = Speech(temperature=1.0, max_new_tokens=6, max_feedback_tokens=6)
        learner = learner_of(agents, "conversation", ppo_epochs=1, minibatches=1, kl_coef=0.0)  # before anything is said, as in the loop
        if speaks:
            rolled_out(agents, workspace, data)
        gradients = []
        learner.optimizer.register_step_pre_hook(lambda *_, kept=gradients, of=learner: kept.extend(one.grad.clone() for one in of.weights))
        learner.learn(Texts(said), 1)
        found.append(gradients)
    assert max(float(one.abs().max()) for one in found[0]) > 1e-3
    assert moved(*found) < 1e-4 * max(float(one.abs().max()) for one in found[0])
    run = execute(workspace, "waltzrl", {**FEW, "data": data, "model": str(tiny_model), "tuning": "qlora", "stage": 1,
                                         "stage1_iterations": 1})
    assert run.report["quantization"] == "nf4"


def test_other_prompts_or_another_judge_are_refused_on_resume(workspace, data, tiny_model):
    settings = {**FEW, "data": data, "model": str(tiny_model), "stage": 1}
    run = execute(workspace, "waltzrl", settings)
    write(Path(data), prompts(14))
    with pytest.raises(UserError, match=r"Changed since .* began: prompts"):
        execute(workspace, "waltzrl", settings, run)


def test_episodes_without_a_verdict_teach_nothing_and_are_counted(workspace, data, tiny_model):
    run = execute(workspace, "waltzrl", {**FEW, "data": data, "model": str(tiny_model), "stage": 1, "judge": "shy", "rollout_batch": 12,
                                         "stage1_iterations": 1})
    (line,) = read_iterations(run.dir)
    assert line.left_out == 3  # prompts 1, 10 and 11
    assert line.why_left_out == {"a verdict is missing: it is shy": 3}
    assert line.outcomes["unjudged"] == 3
    assert line.agents["feedback"].texts == 9
    assert run.report["left_out"]["episodes"] == 3


def test_a_judge_that_says_nothing_ends_the_training(workspace, data, tiny_model):
    settings = {**FEW, "data": data, "model": str(tiny_model), "judge": "silent"}
    with pytest.raises(UserError, match=r"no verdict in 6 of 6 episodes, more than max_missing = 0.5 .*gone home"):
        execute(workspace, "waltzrl", settings)


def test_a_loss_that_is_no_number_stops_and_names_the_last_good_checkpoint(workspace, data, tiny_model):
    settings = {**FEW, "data": data, "model": str(tiny_model), "stage": 1, "ppo_epochs": 1, "minibatches": 1, "stage1_iterations": 5}
    method = workspace.plugins.method("waltzrl")
    run = create(workspace, method, settings)
    config = validate(method, run.config).model_copy(update={"learning_rate": 1e30})
    with pytest.raises(UserError, match=r"feedback agent is not a number in iteration 2; checkpoint-1 is the last good one"):
        method(workspace).run(config, ActiveRun(workspace, run.id))
    assert [one.name for one in run.checkpoints()] == ["checkpoint-1"]
    assert len(losses(run)) == 1


# ---- before the start ----


def problems_of(workspace, **settings):
    return [problem.message for problem in look(workspace, "waltzrl", {**FEW, **settings}).problems]


def test_what_cannot_be_trained_is_said_before_the_start(workspace, data, tiny_model, tmp_path):
    from core.lm.tiny import make_tiny

    fine = {"data": data, "model": str(tiny_model)}
    other = str(make_tiny(tmp_path / "other", seed=1))
    cases = [({"model": "mistral:ft:small"}, "weights cannot be had"), ({"feedback_model": other}, "two agents share one base"),
             ({"judge": "oracle"}, "no judge 'oracle'"), ({"data": "nothing"}, "no data 'nothing'"),
             ({"model": "waltz:none-0001"}, "no run 'none-0001'"), ({"dir": {"alhpa": 1}}, "alhpa")]
    for settings, words in cases:
        found = problems_of(workspace, **fine | settings)
        assert any(words in message for message in found), (words, found)
    sideless = fine | {"data": write(tmp_path / "unsaid.jsonl", [GuardExample(prompt="Hello there", labels=Labels())]), "judge": "rules"}
    assert any("the judge rules has no verdict" in message for message in problems_of(workspace, **sideless))
    answer = look(workspace, "waltzrl", {**FEW, **fine})
    assert {problem.severity for problem in answer.problems} == {"warning"}
    assert any("never taught to give feedback" in problem.message for problem in answer.problems)
    assert answer.estimate.tokens > 0
    assert answer.estimate.peak_memory_bytes > 0


def test_prompts_of_a_test_set_are_refused_or_left_out(workspace, data, tiny_model):
    keys = [prompt_key(row.prompt) for row in prompts()[:4]]
    workspace.store.register_test_keys("exam", "data-0009", keys)
    assert any("exclude_test_rows" in message for message in problems_of(workspace, data=data, model=str(tiny_model)))
    with pytest.raises(UserError, match="exclude_test_rows"):
        execute(workspace, "waltzrl", {**FEW, "data": data, "model": str(tiny_model)})
    run = execute(workspace, "waltzrl", {**FEW, "data": data, "model": str(tiny_model), "exclude_test_rows": True, "stage": 1,
                                         "stage1_iterations": 1})
    assert run.report["split_guard"]["test_rows_dropped"] == 4
    assert not set((run.dir / "trained_keys.txt").read_text().split()) & set(keys)


def test_one_of_a_group_of_settings_can_be_given_alone(workspace, data, tiny_model):
    method = workspace.plugins.method("waltzrl")
    given = {"data": data, "model": str(tiny_model), "dir": {"alpha": 0.5, "gamma": 0.2}, "dir.lambda": 0.75}
    config = validate(method, given)
    assert (config.dir.alpha, config.dir.lambda_, config.dir.gamma) == (0.5, 0.75, 0.2)
    assert nested(method.Config, {"a": 1, "b.c": 2, "b.d": 3}) == {"a": 1, "b": {"c": 2, "d": 3}}
    again = validate(method, json.loads(json.dumps(config.model_dump(mode="json"))))
    assert again == config
    for name, preset in method.presets.items():
        assert validate(method, {**given, **preset}).dir.lambda_ == 0.75, name


# ---- a game with a known best play ----


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


def test_the_benchmark_compares_three_arrangements(tmp_path, monkeypatch, capsys):
    from bench import waltz

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["bench.waltz", "--quick", "--episodes", "4", "--tokens", "6", "--device", "cpu"])
    assert waltz.main() == 0
    table = capsys.readouterr().out.rsplit("ours is", 1)[1]
    assert all(name in table for name in (waltz.SINGLE, waltz.BATCHED, waltz.OURS))


def test_what_resuming_and_asking_need_lies_in_the_folder(workspace, data, tiny_model):
    run = execute(workspace, "waltzrl", {**FEW, "data": data, "model": str(tiny_model), "stage": 1, "stage1_iterations": 1})
    assert set(read_json(run.dir / "plan.json")) == {"prompts_sha256", "models", "judge"}
    assert read_json(run.dir / "rules.json")["revisions"] == 1
