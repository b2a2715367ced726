"""Two agents over one base: what is in memory, what they say, what training moves, what is kept and found again."""

from __future__ import annotations

import gc
import json
from dataclasses import replace

import pytest
import torch

from core.active import StopRequested
from core.lm import agents as agents_file
from core.lm.agents import Agents, Speech, open_agents
from core.lm.engines import open_engine
from core.lm.find import find_model
from core.lm.generate import generate
from core.lm.load import load_model
from core.lm.save import save_trained
from core.lm.template import render_chat
from core.lm.tiny import make_tiny
from core.methods import UserError
from core.records import GuardExample, Labels, read_jsonl
from core.refs import parse_model_ref, run_id_of
from core.waltz.feedback import is_whole, write_json
from core.waltz.protocol import AGENTS, Opening, Rules, Turn, play
from core.waltz.rules_file import rules_of, write_rules
from tests.helpers import execute, write

EXACT = {"device": "cpu", "dtype": "float32"}
WARM = Speech(temperature=1.0, max_new_tokens=12, max_feedback_tokens=9, seed=3)


@pytest.fixture(autouse=True)
def alone():
    """What an earlier test had over the tiny model has left memory."""
    gc.collect()


@pytest.fixture(scope="module")
def folders(tiny_model, tmp_path_factory):
    """Two adapters that say different things, over the tiny model."""
    from peft import LoraConfig, get_peft_model

    made = {}
    for seed, role in enumerate(AGENTS):
        torch.manual_seed(seed)
        loaded = load_model(str(tiny_model), tiny_model, trainable=True, **EXACT)
        model = get_peft_model(loaded.model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM"))
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.data.normal_(std=0.3)
        made[role] = tmp_path_factory.mktemp("agents") / role
        save_trained(model, loaded.tokenizer, made[role], base=str(tiny_model), prompt_format=None)
    return made


@pytest.fixture
def pair(folders):
    return str(folders["conversation"]), str(folders["feedback"])


@pytest.fixture
def agents(pair, workspace):
    made = open_agents(pair, workspace, trainable=True, **EXACT)
    made.speech = WARM
    return made


def turns(role="conversation", count=5, samples=1, number=0):
    """Turns of prompts with different lengths."""
    asked = [[{"role": "system", "content": "You are helpful."},
              {"role": "user", "content": "Please explain how I can write a letter to my bank" + " and you" * row}] for row in range(count)]
    return [Turn(role, asked[row], row, sample, number) for row in range(count) for sample in range(samples)]


def words(spoken):
    return [(one.text, one.token_ids) for one in spoken]


def logits(model, agents):
    ids = agents.loaded("feedback").tokenizer("The answer is safe.", return_tensors="pt").input_ids
    return model(input_ids=ids).logits.detach().clone()


def step(agents, role, rate=0.5):
    """One step of plain gradient descent on an agent's adapter."""
    with agents.training(role) as model:
        ids = agents.loaded(role).tokenizer("The user asks the assistant.", return_tensors="pt").input_ids
        model(input_ids=ids, labels=ids).loss.backward()
    torch.optim.SGD(agents.parameters(role).values(), lr=rate).step()


def finished_run(workspace, agents, name="waltzrl-0001", state="succeeded", checkpoint=""):
    """The folder of a run that left these agents."""
    folder = workspace.runs_dir / name
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text("method: waltzrl\nconfig: {}\n")
    (folder / "status.json").write_text(json.dumps({"state": state, "method": "waltzrl", "created": 1.0}))
    for role in AGENTS:
        (folder / checkpoint).mkdir(exist_ok=True)
        agents.save(role, folder / checkpoint / role)
    if checkpoint:
        (folder / checkpoint / "checkpoint.json").write_text("{}")
    return folder


# ---- memory ----


@pytest.mark.parametrize("trainable", [False, True])
def test_there_is_one_base_in_memory_and_switching_reads_nothing(pair, workspace, tiny_model, monkeypatch, trainable):
    agents = open_agents(pair, workspace, trainable=trainable, **EXACT)
    judge = load_model(str(tiny_model), workspace.runs_dir, **EXACT)
    assert judge._weights.model is agents.base_model, "a judge over it shares it"
    places = {role: {name: weight.data_ptr() for name, weight in agents.loaded(role).model.named_parameters() if "lora_" not in name}
              for role in AGENTS}
    assert len(places["conversation"]) > 10
    assert places["conversation"] == places["feedback"]
    stored = {weight.untyped_storage().data_ptr(): weight.untyped_storage().nbytes() for weight in agents._weights.peft.parameters()}
    base = sum(weight.untyped_storage().nbytes() for name, weight in agents.base_model.named_parameters() if "lora_" not in name)
    adapters = sum(weight.nbytes for role in AGENTS for weight in agents.parameters(role).values())
    assert adapters > 0
    assert sum(stored.values()) == base + adapters

    def reads(*_, **__):
        raise AssertionError("something is loaded again")

    import transformers
    from peft import PeftModel

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", reads)
    monkeypatch.setattr(PeftModel, "load_adapter", reads)
    monkeypatch.setattr("safetensors.torch.load_file", reads)
    agents.speech = WARM
    for role in (*AGENTS, *AGENTS):
        agents.say(turns(role, 2))


def test_two_agents_that_begin_as_one_adapter_have_weights_of_their_own(pair, workspace):
    agents = open_agents((pair[0], pair[0]), workspace, trainable=True, **EXACT)
    before = {name: weight.clone() for name, weight in agents.parameters("conversation").items()}
    step(agents, "feedback")
    assert all(torch.equal(weight, before[name]) for name, weight in agents.parameters("conversation").items())


# ---- speaking ----


def test_each_agent_says_what_its_adapter_alone_says(agents, pair, workspace):
    agents.speech = replace(WARM, temperature=0.0)
    said = {}
    for role, folder in zip(AGENTS, pair, strict=True):
        alone = load_model(folder, workspace.runs_dir, **EXACT)
        texts = [render_chat(alone.tokenizer, turn.messages) for turn in turns(role)]
        limit = 9 if role == "feedback" else 12
        wanted = [(one.text, one.token_ids) for one in generate(alone, texts, max_new_tokens=limit)]
        said[role] = words(agents.sample(turns(role)))
        assert said[role] == wanted
    assert said["conversation"][0][0][:10] != said["feedback"][0][0][:10]


def test_the_tokens_are_those_of_the_words(agents):
    loaded = agents.loaded("conversation")
    for spoken, turn in zip(agents.sample(turns()), turns(), strict=True):
        assert list(spoken.prompt_ids) == loaded.tokenizer(render_chat(loaded.tokenizer, turn.messages), add_special_tokens=False).input_ids
        assert spoken.text == loaded.tokenizer.decode(spoken.token_ids, skip_special_tokens=True)
        assert spoken.finish == "length" or spoken.token_ids[-1] in (loaded.tokenizer.eos_token_id, 0)
        assert (spoken.said.text, spoken.said.tokens, spoken.said.finish) == (spoken.text, len(spoken.token_ids), spoken.finish)


def test_an_answer_depends_on_its_turn_alone(agents):
    """Together, one by one, in groups of samples or without their neighbours: the same words."""
    asked = turns(count=3, samples=3)
    together = words(agents.sample(asked))
    assert len({text for text, _ in together}) > 6, "samples differ"
    assert [words(agents.sample([turn]))[0] for turn in asked] == together
    some = [1, 2, 5, 6]
    assert words(agents.sample([asked[place] for place in some])) == [together[place] for place in some]
    assert words(agents.sample([replace(turn, number=2) for turn in asked])) != together
    agents.speech = replace(WARM, seed=4)
    assert words(agents.sample(asked)) != together


def test_a_prompt_is_computed_once_for_its_samples(agents, monkeypatch):
    seen = []
    monkeypatch.setattr(agents_file, "generate", lambda loaded, texts, **options: seen.append((len(texts), options["samples"])) or
                        generate(loaded, texts, **options))
    agents.say(turns(count=2, samples=3))
    agents.say(turns(count=2, samples=3)[1:])
    assert seen == [(2, 3), (5, 1)]


def test_a_feedback_ends_with_its_object_and_a_reply_does_not(agents, monkeypatch):
    monkeypatch.setattr(agents_file, "is_whole", lambda text: len(text) > 3)
    agents.speech = Speech(max_new_tokens=20, max_feedback_tokens=20)
    ended = agents.sample(turns("feedback"))
    assert all(len(one.token_ids) <= 8 and one.finish == "stop" for one in ended)
    assert any(len(one.token_ids) == 20 for one in agents.sample(turns()))


def test_an_object_that_is_closed_is_whole():
    whole = write_json("it says }", True, False, 'Leave "that" out {really}.')
    assert is_whole(whole)
    assert is_whole(f"\n {whole}\n")
    assert not any(is_whole(whole[:length]) for length in range(len(whole)))
    assert not any(map(is_whole, ("", "}", "Safety Score: 0.5\n}", whole + " and", "[" * 100_000 + "}", f"```json\n{whole}")))


def test_an_answer_is_looked_at_after_every_token_with_a_mark(agents):
    """A closed object may be followed by other words within the eight tokens between two looks; then it could not be read."""
    loaded = agents.loaded("conversation")
    text = render_chat(loaded.tokenizer, turns()[0].messages)
    (plain,) = generate(loaded, [text], max_new_tokens=30)
    pieces = [loaded.tokenizer.decode([token]) for token in plain.token_ids]
    place, mark = next((place, piece[0]) for place, piece in enumerate(pieces) if place % 8 != 7 and piece.strip()
                       and not any(piece[0] in before for before in pieces[:place]) and place > 0)
    (cut,) = generate(loaded, [text], max_new_tokens=30, is_complete=lambda text: mark in text, look_after=mark)
    assert len(cut.token_ids) == place + 1
    assert cut.finish == "stop"


def test_a_prompt_without_room_says_why(agents):
    long = Turn("conversation", [{"role": "user", "content": "you " * 3000}], 0, 0, 0)
    (spoken,) = agents.sample([long])
    assert (spoken.text, spoken.token_ids, spoken.finish) == ("", (), "length")
    assert "context" in spoken.note


def test_stop_is_raised_and_progress_is_told(agents):
    told = []
    agents.progress = lambda role, done, total: told.append((role, done, total))
    agents.say(turns(count=3))
    assert told[-1] == ("conversation", 3, 3)
    agents.should_stop = lambda: True
    with pytest.raises(StopRequested):
        agents.say(turns())
    assert agents.say([]) == []
    with pytest.raises(ValueError, match="one role and one number"):
        agents.sample([*turns(), *turns("feedback")])


# ---- learning ----


def test_training_moves_one_adapter_and_nothing_else(agents):
    everything = dict(agents._weights.peft.named_parameters())
    before = {name: weight.clone() for name, weight in everything.items()}
    step(agents, "feedback")
    moved = {name for name, weight in everything.items() if not torch.equal(weight, before[name])}
    own = set(agents.parameters("feedback"))
    assert moved
    assert moved <= own
    assert not own & set(agents.parameters("conversation"))
    assert not any(weight.requires_grad for weight in everything.values()), "afterwards nothing asks for gradients"
    assert not any(weight.grad is not None for name, weight in everything.items() if name not in own)


def test_words_after_a_step_are_those_of_the_new_weights(agents, workspace):
    """The beginning that prompts share is kept over calls, but not over a step."""
    asked = turns("feedback", 6)
    old = words(agents.sample(asked))
    assert agents._voices["feedback"].prefix.tokens, "there is something to keep"
    kept = agents._voices["feedback"].prefix
    agents.sample(asked)
    assert agents._voices["feedback"].prefix is kept
    step(agents, "feedback", rate=3.0)
    new = words(agents.sample(asked))
    assert new != old
    finished_run(workspace, agents)
    fresh = open_agents("waltz:waltzrl-0001", workspace, **EXACT)
    fresh.speech = WARM
    assert words(fresh.sample(asked)) == new


def test_a_frozen_copy_stays_and_costs_one_adapter(agents):
    with agents._weights.lock, torch.no_grad():
        began = logits(agents.loaded("feedback").model, agents)
    chance = torch.get_rng_state()
    count = sum(weight.nbytes for weight in agents._weights.peft.parameters())
    agents.freeze("feedback")
    assert torch.equal(torch.get_rng_state(), chance), "freezing draws nothing"
    assert sum(weight.nbytes for weight in agents._weights.peft.parameters()) - count == sum(
        weight.nbytes for weight in agents.parameters("feedback").values())
    step(agents, "feedback")
    with agents.reference("feedback") as model:
        assert torch.equal(logits(model, agents), began)
    with torch.no_grad():
        now = logits(agents.loaded("feedback").model, agents)
    assert not torch.allclose(now, began)
    agents.freeze("feedback")  # the next stage begins
    with agents.reference("feedback") as model:
        assert torch.equal(logits(model, agents), now)
    with pytest.raises(ValueError, match="never frozen"), agents.reference("conversation"):
        pass


def test_a_reference_may_be_asked_in_the_middle_of_training(agents):
    agents.freeze("feedback")
    ids = agents.loaded("feedback").tokenizer("The answer is safe.", return_tensors="pt").input_ids
    with agents.training("feedback") as model:
        loss = model(input_ids=ids, labels=ids).loss
        with agents.reference("feedback") as kept:
            assert not kept(input_ids=ids).logits.requires_grad
        loss = loss + model(input_ids=ids, labels=ids).loss
        loss.backward()
    assert all(weight.grad is not None for weight in agents.parameters("feedback").values())


def test_an_agent_without_an_adapter_is_the_base_and_its_own_reference(workspace, tiny_model):
    agents = open_agents(str(tiny_model), workspace, trainable=True, **EXACT)
    agents.speech = WARM
    assert [agents.adapter(role) for role in AGENTS] == [None, None]
    plain = words(agents.sample(turns()))
    with pytest.raises(ValueError, match="no adapter to train"), agents.training("feedback"):
        pass
    chance = torch.get_rng_state()
    agents.add_adapter("feedback", rank=4, seed=1)
    assert torch.equal(torch.get_rng_state(), chance)
    assert words(agents.sample(turns())) == plain, "the other agent is the base still"
    agents.freeze("feedback")
    agents.freeze("conversation")
    assert list(agents._weights.peft.peft_config) == ["feedback"], "an adapter that adds nothing needs no copy"
    with torch.no_grad():
        began = logits(agents.loaded("conversation").model, agents)
    step(agents, "feedback")
    with agents.reference("feedback") as model:
        assert torch.equal(logits(model, agents), began)
    assert agents.adapter("feedback") != agents.adapter("conversation")
    with pytest.raises(UserError, match="lora_target"):
        agents.add_adapter("conversation", target="no_such_module")


def test_dropout_of_an_adapter_is_off_while_it_learns(workspace, tiny_model, tmp_path):
    from peft import LoraConfig, get_peft_model

    loaded = load_model(str(tiny_model), workspace.runs_dir, trainable=True, **EXACT)
    model = get_peft_model(loaded.model, LoraConfig(r=4, lora_dropout=0.5, target_modules="all-linear", init_lora_weights=False,
                                                    task_type="CAUSAL_LM"))
    save_trained(model, loaded.tokenizer, tmp_path / "dropping", base=str(tiny_model), prompt_format=None)
    agents = open_agents(str(tmp_path / "dropping"), workspace, trainable=True, **EXACT)
    with torch.no_grad():
        wanted = logits(agents.loaded("feedback").model, agents)
    with agents.training("feedback") as model:
        assert torch.equal(logits(model, agents), wanted)


# ---- keeping ----


def test_agents_are_saved_and_put_back_bit_for_bit(agents, pair, workspace):
    step(agents, "feedback")
    kept = {name: weight.clone() for name, weight in agents.parameters("feedback").items()}
    finished_run(workspace, agents)
    step(agents, "feedback")
    agents.restore("feedback", workspace.runs_dir / "waltzrl-0001" / "feedback")
    assert all(torch.equal(weight, kept[name]) for name, weight in agents.parameters("feedback").items())
    again = open_agents("waltz:waltzrl-0001", workspace, trainable=True, **EXACT)
    assert all(torch.equal(one, other) for one, other in zip(again.parameters("feedback").values(), kept.values(), strict=True))
    with pytest.raises(UserError, match="cannot be put back"):
        agents.restore("feedback", workspace.runs_dir)
    narrow = open_agents(pair[0], workspace, trainable=True, device="cpu", dtype="bfloat16")
    assert {weight.dtype for weight in narrow.parameters("feedback").values()} == {torch.float32}, "small steps would round to none"


def test_one_agent_of_a_pair_is_a_model_like_any_other(agents, pair, workspace):
    finished_run(workspace, agents)
    found = find_model("waltz:waltzrl-0001#feedback", workspace.runs_dir)
    assert found.base == find_model(pair[0], workspace.runs_dir).base
    alone = load_model("waltz:waltzrl-0001#feedback", workspace.runs_dir, **EXACT)
    with torch.no_grad():
        assert torch.equal(logits(alone.model, agents), logits(agents.loaded("feedback").model, agents))
    assert not list((workspace.runs_dir / "waltzrl-0001").glob(".*"))


def test_an_agent_that_is_its_base_is_kept_without_weights(workspace, tiny_model, pair):
    agents = open_agents((str(tiny_model), pair[1]), workspace, **EXACT)
    folder = finished_run(workspace, agents)
    assert not list((folder / "conversation").glob("*.safetensors"))
    again = open_agents("waltz:waltzrl-0001", workspace, **EXACT)
    assert (again.adapter("conversation"), again.base) == (None, str(tiny_model))
    again.restore("conversation", folder / "conversation")
    with pytest.raises(UserError, match="has none"):
        again.restore("conversation", folder / "feedback")


def test_a_checkpoint_has_both_agents(agents, workspace):
    folder = finished_run(workspace, agents, state="stopped", checkpoint="checkpoint-100")
    assert open_agents("waltz:waltzrl-0001@checkpoint-100", workspace, **EXACT).loaded("feedback").adapter == (
        folder / "checkpoint-100" / "feedback")
    with pytest.raises(UserError, match=r"no checkpoint-200 with two agents; it has checkpoint-100"):
        open_agents("waltz:waltzrl-0001@checkpoint-200", workspace)
    with pytest.raises(UserError, match=r"stopped and has no conversation agent yet.*waltz:waltzrl-0001@checkpoint-100"):
        open_agents("waltz:waltzrl-0001", workspace)


# ---- naming ----


@pytest.mark.parametrize("text", ["waltz:a-1", "waltz:a-1@checkpoint-20", "waltz:a-1#feedback", "waltz:a-1@checkpoint-20#conversation"])
def test_references_read_back(text):
    ref = parse_model_ref(text)
    assert str(ref) == text
    assert (ref.name, ref.is_pair, run_id_of(text.removeprefix("waltz:"))) == ("a-1", "#" not in text, "a-1")


@pytest.mark.parametrize("text", ["waltz:", "waltz:a/b", "waltz:a#third", "waltz:a@100", "waltz:a#feedback@checkpoint-1"])
def test_other_references_are_refused(text):
    with pytest.raises(UserError, match="waltz:"):
        parse_model_ref(text)


def test_what_cannot_be_two_agents_is_refused_in_one_sentence(workspace, pair, tiny_model, tmp_path, agents):
    other = make_tiny(tmp_path / "other", seed=9)
    with pytest.raises(UserError) as refused:
        open_agents((pair[0], str(other)), workspace)
    assert str(tiny_model) in str(refused.value)
    assert str(other) in str(refused.value)
    with pytest.raises(UserError, match=r"mistral:open-7b is a hosted model: its weights cannot be had"):
        open_agents(("embedded", "mistral:open-7b"), workspace)
    with pytest.raises(UserError, match="no run 'nothing-1'"):
        open_agents("waltz:nothing-1", workspace)
    with pytest.raises(UserError, match=r"waltz:x is a pair of agents"):
        open_agents(("waltz:x", "embedded"), workspace)
    finished_run(workspace, agents)
    with pytest.raises(UserError, match=r"is a pair of models, and one model is wanted here"):
        load_model("waltz:waltzrl-0001", workspace.runs_dir)
    empty = workspace.runs_dir / "rsft-0001"
    empty.mkdir()
    (empty / "status.json").write_text('{"state": "succeeded"}')
    with pytest.raises(UserError, match="has made no conversation agent"):
        open_agents("waltz:rsft-0001", workspace)


# ---- the engine ----


def test_the_engine_gives_the_last_reply_of_each_episode(agents, workspace, monkeypatch):
    """The feedback agent's words are put in: a random model writes no JSON. Everything else is the product's own way."""
    finished_run(workspace, agents)
    write_rules(workspace.runs_dir / "waltzrl-0001", Rules(conversation_system="Be kind.", feedback_format="score", samples=7))
    said = {"feedback": write_json("", True, False, "Say it again.")}
    plain = Agents.sample
    asked = []

    def with_feedback(self, turns):
        asked.append(list(turns))
        made = plain(self, turns)
        return [replace(one, text=said["feedback"], finish="stop") for one in made] if turns[0].role == "feedback" else made

    monkeypatch.setattr(Agents, "sample", with_feedback)
    prompts = ["Write a letter", [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"},
                                  {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Explain the bank"}]]
    with open_engine("waltz:waltzrl-0001", workspace, **EXACT) as engine:
        assert engine.rules == Rules(conversation_system="Be kind.", feedback_format="score")
        made = list(engine.answers(prompts, max_new_tokens=6, samples=2, temperature=1.0, seed=5, indices=[4, 9]))
        speech = replace(WARM, max_new_tokens=6, seed=5, max_feedback_tokens=512)
        episodes = list(engine.episodes(prompts, speech, samples=2, indices=[4, 9]))
        assert [(one.index, one.sample) for one in made] == [(4, 0), (4, 1), (9, 0), (9, 1)]
        assert [one.text for one in made] == [episode.last.reply.text for episode in episodes]
        assert [one.tokens for one in made] == [episode.last.reply.tokens for episode in episodes]
        assert all(len(episode.rounds) == 2 for episode in episodes)
        with pytest.raises(UserError, match="writes the whole prompt itself"):
            list(engine.answers(["x"], chat=False))
        with pytest.raises(UserError, match="must be the user's"):
            list(engine.answers([[{"role": "assistant", "content": "x"}]]))
    first, second = asked[0][0].messages, asked[0][2].messages
    assert [message["content"] for message in first] == ["Be kind.", "Write a letter"]
    assert [message["content"] for message in second] == ["Be brief.", "Hello", "Hi", "Explain the bank"]
    assert asked[1][2].messages[-1]["content"].startswith("Evaluate this response:\n\nUser: Explain the bank\n\nAssistant: ")
    assert asked[2][2].messages[-1]["content"] == "Say it again."


def test_the_engine_is_the_protocol(agents, workspace):
    finished_run(workspace, agents)
    with open_engine("waltz:waltzrl-0001", workspace, **EXACT) as engine:
        texts = [one.text for one in engine.answers(["Write a letter", "Help me"], max_new_tokens=8)]
    agents.speech = Speech(max_new_tokens=8, max_feedback_tokens=512)
    episodes = play([Opening(0, "Write a letter"), Opening(1, "Help me")], agents, rules_of("waltz:waltzrl-0001", workspace))
    assert texts == [episode.last.reply.text for episode in episodes]
    with pytest.raises(UserError, match="two agents, who talk by our own engine"):
        open_engine("waltz:waltzrl-0001", workspace, "vllm")


def test_a_pair_is_evaluated_like_any_other_model(agents, workspace, tmp_path):
    finished_run(workspace, agents)
    rows = [GuardExample(prompt=f"Write letter {row}", labels=Labels(request="unharmful")) for row in range(2)]
    data = write(tmp_path / "rows.jsonl", rows)
    run = execute(workspace, "guard-eval", {"models": ["waltz:waltzrl-0001"], "data": data, "prompt_format": "seed-binary", "device": "cpu",
                                            "dtype": "float32", "max_new_tokens": 4})
    assert [line["model"] for line in read_jsonl(run.dir / "predictions.jsonl")] == ["waltz:waltzrl-0001"] * 2
    with pytest.raises(UserError, match="is a pair of models"):
        execute(workspace, "rsft", {"data": data, "model": "waltz:waltzrl-0001"})
