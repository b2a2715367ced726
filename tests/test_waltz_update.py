"""One update of WaltzRL: who learns from what, exactly, however texts are put into passes, and what is done when memory runs out."""

import pytest

from core.methods import UserError
from core.waltz.protocol import AGENTS
from tests.helpers import execute, prompts, write
from tests.waltz_training import FEW, agents_on, learner_of, moved, rolled_out, weights

pytestmark = pytest.mark.usefixtures("fake_judges")


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "prompts.jsonl", prompts())


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
