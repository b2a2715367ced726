"""Engines: one interface, whatever answers. Ours and transformers' with the tiny model, a server over real HTTP, vLLM's requests."""

from __future__ import annotations

import itertools
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core.asking import AskingConfig
from core.lm import engine_server, engine_vllm
from core.lm import generate as own
from core.lm.engine_window import AHEAD, Asked, requests, through
from core.lm.engines import ALIKE, EXACT, Engine, OwnEngine, open_engine
from core.lm.generate import Generated
from core.lm.template import render_chat
from core.methods import UserError
from core.runs import Workspace
from tests.fakes.openai_server import OpenAIServer, answer_of, openai_server

USER_TEXTS = [f"{'please ' * (number % 5)}explain letter number {number}" for number in range(10)]


@pytest.fixture
def workspace(workspace_dir: Path) -> Workspace:
    return Workspace(workspace_dir)


@pytest.fixture(scope="module")
def own_engine(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return open_engine(str(tiny_model), Workspace(tmp_path_factory.mktemp("runs")), device="cpu", dtype="float32")


def ids_of(answers: list[Generated]) -> list[tuple[int, ...]]:
    return [answer.token_ids for answer in answers]


# ---- which engine ----


def test_the_choice_is_said_in_a_sentence(tiny_model: Path, workspace: Workspace) -> None:
    said: list[str] = []
    with open_engine(str(tiny_model), workspace, device="cpu", dtype="float32", log=said.append) as engine:
        assert (engine.name, engine.promise) == ("own", EXACT)
    with open_engine(str(tiny_model), workspace, device="cpu", dtype="bfloat16", log=said.append) as engine:
        assert (engine.name, engine.promise) == ("own", ALIKE)
    with open_engine("openai:guard@http://127.0.0.1:9/v1", workspace, log=said.append) as engine:
        assert (engine.name, engine.promise, engine.loaded) == ("server", ALIKE, None)
    assert said == [f"Our own engine answers for {tiny_model} (float32): the device is cpu.",
                    f"Our own engine answers for {tiny_model} (bfloat16): the device is cpu.",
                    "The server at http://127.0.0.1:9/v1 answers for guard."]


def test_on_a_gpu(tiny_model: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """auto: vLLM where it is installed, else ours for plain models, else continuous batching."""
    monkeypatch.setattr("core.lm.engines.pick_device", lambda _: "cuda:0")
    loaded = SimpleNamespace(ref="m", device="cuda:0", dtype="bfloat16", quantization=None, model=SimpleNamespace(config=None))
    monkeypatch.setattr("core.lm.load.load_model", lambda *_, **__: loaded)
    monkeypatch.setattr("core.lm.engines._has_vllm", lambda: False)
    for plain, name in ((True, "own"), (False, "transformers")):
        monkeypatch.setattr("core.lm.generate.layers_are_plain", lambda *_, plain=plain: plain)
        assert open_engine(str(tiny_model), workspace).name == name
    monkeypatch.setattr("core.lm.engines._has_vllm", lambda: True)
    monkeypatch.setattr(engine_vllm, "VllmEngine", lambda *_, **__: SimpleNamespace(name="vllm", choice=""))
    assert open_engine(str(tiny_model), workspace).name == "vllm"
    assert open_engine(str(tiny_model), workspace, "own").name == "own"
    said = " ".join((AskingConfig.model_fields["engine"].description or "").split())
    assert "vLLM where it is installed, else transformers' continuous batching for models with sliding windows" in said, "the help says so"


@pytest.mark.parametrize(("ref", "engine", "words"), [
    ("embedded", "fast", "'fast' is none of auto, own"), ("embedded", "server", "named openai:<model>@<base url>"),
    ("openai:m@http://127.0.0.1:9/v1", "vllm", "goes with engine = auto or server"), ("embedded", "vllm", "vLLM is not installed")])
def test_engines_that_cannot_be(ref: str, engine: Any, words: str, workspace: Workspace) -> None:
    with pytest.raises(UserError, match=words):
        open_engine(ref, workspace, engine)


# ---- ours ----


def test_own_answers_users_and_whole_prompts(own_engine: Engine) -> None:
    assert own_engine.loaded is not None
    chat = list(own_engine.answers(USER_TEXTS, max_new_tokens=8))
    whole = [render_chat(own_engine.loaded.tokenizer, text) for text in USER_TEXTS]
    assert ids_of(chat) == ids_of(list(own.generate(own_engine.loaded, whole, max_new_tokens=8)))
    assert ids_of(chat) == ids_of(list(own_engine.answers([[{"role": "user", "content": text}] for text in USER_TEXTS], max_new_tokens=8)))
    raw = list(own_engine.answers(USER_TEXTS[:2], max_new_tokens=8, chat=False))
    assert ids_of(raw) == ids_of(list(own.generate(own_engine.loaded, USER_TEXTS[:2], max_new_tokens=8, add_special_tokens=True)))


def test_the_shared_beginning_is_computed_once_for_an_engine(own_engine: Engine, tiny_model: Path, workspace: Workspace,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    with open_engine(str(tiny_model), workspace, device="cpu", dtype="float32") as engine:
        assert isinstance(engine, OwnEngine)
        first = list(engine.answers(USER_TEXTS, max_new_tokens=4))
        computed = engine.prefix.cache
        assert len(engine.prefix.tokens) >= 16
        lengths = []
        forward = own._forward
        monkeypatch.setattr(own, "_forward", lambda model, ids, *rest: (lengths.append(ids.shape), forward(model, ids, *rest))[1])
        assert ids_of(list(engine.answers(USER_TEXTS[::-1], max_new_tokens=4))) == ids_of(first)[::-1]
        assert engine.prefix.cache is computed
        assert (1, len(engine.prefix.tokens)) not in lengths, "the shared beginning was computed again"
        assert engine.prefix is not own_engine.prefix, "another engine, perhaps with another adapter, must not share it"  # type: ignore[attr-defined]
        texts = ["A prompt that begins in another way, with words that all of them have, and then goes on: " + text for text in USER_TEXTS]
        other = list(engine.answers(texts, max_new_tokens=4, chat=False))
        assert engine.prefix.cache is not computed
        assert ids_of(other) == ids_of(list(own_engine.answers(texts, max_new_tokens=4, chat=False)))


def add_adapter(base: Path, workspace: Workspace, seed: int) -> str:
    """A run with a random LoRA adapter on `base`; its reference."""
    import torch
    from peft import LoraConfig, get_peft_model

    from core.lm.load import load_model
    from core.lm.save import save_trained

    loaded = load_model(str(base), workspace.runs_dir, device="cpu", dtype="float32", trainable=True)
    model = get_peft_model(loaded.model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    torch.manual_seed(seed)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, 0, 0.5)
    save_trained(model, loaded.tokenizer, workspace.runs_dir / f"rsft-{seed}" / "adapter", base=loaded.base, prompt_format=None)
    return f"run:rsft-{seed}"


@pytest.mark.parametrize("name", ["own", "transformers"])
def test_two_adapters_over_one_base_take_turns(name: Any, tiny_model: Path, workspace: Workspace) -> None:
    """Their answers come in turns and are those of each alone: neither the weights nor the shared beginning are mixed up."""
    import torch

    refs = [add_adapter(tiny_model, workspace, seed) for seed in (1, 2)]
    engines = [open_engine(ref, workspace, name, device="cpu", dtype="float32") for ref in refs]
    expected = []
    for engine in engines:
        assert engine.loaded is not None
        with engine.loaded.activate() as model, torch.inference_mode():
            tokenizer = engine.loaded.tokenizer
            ids = [tokenizer(render_chat(tokenizer, text), add_special_tokens=False, return_tensors="pt").input_ids for text in USER_TEXTS]
            expected.append([tuple(model.generate(row, max_new_tokens=6, do_sample=False)[0, row.shape[1]:].tolist()) for row in ids])
    assert expected[0] != expected[1]
    if name == "own":
        first, second = (engine.answers(USER_TEXTS, max_new_tokens=6) for engine in engines)
        pairs = [(one.token_ids, other.token_ids) for one, other in zip(first, second, strict=True)]
        assert pairs == list(zip(*expected, strict=True))
    else:  # holds the base for itself: one after the other
        assert [ids_of(list(engine.answers(USER_TEXTS, max_new_tokens=6))) for engine in engines] == expected


# ---- transformers' continuous batching ----


def test_continuous_batching_answers_as_our_engine_does(own_engine: Engine, tiny_model: Path, workspace: Workspace) -> None:
    texts = [*USER_TEXTS, "word " * 2500]
    options: dict[str, Any] = {"max_new_tokens": 20, "is_complete": lambda text: len(text) % 7 == 6}
    with open_engine(str(tiny_model), workspace, "transformers", device="cpu", dtype="float32") as engine:
        plain = list(engine.answers(texts, max_new_tokens=20))
        early = list(engine.answers(texts, **options))
        sampled = list(engine.answers(USER_TEXTS[:3], samples=3, temperature=1.0, max_new_tokens=8, indices=[7, 8, 9]))
    ours = list(own_engine.answers(texts, max_new_tokens=20))
    for made, expected in zip([*plain, *early], [*ours, *own_engine.answers(texts, **options)], strict=True):
        assert (made.index, made.token_ids, made.text, made.finish, made.note) == (
            expected.index, expected.token_ids, expected.text, expected.finish, expected.note)
    assert any(len(short.token_ids) < len(long.token_ids) for short, long in zip(early, plain, strict=True))
    assert [(made.index, made.sample) for made in sampled] == [(row, k) for row in (7, 8, 9) for k in range(3)]
    assert len({made.token_ids for made in sampled}) > 3


def test_continuous_batching_looks_from_every_request_at_all(tiny_model: Path, workspace: Workspace,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """Why `auto` prefers our engine on a GPU (docs/architecture.md). Should this fail, the library has learned better: choose anew."""
    import torch

    attend, shapes = torch.nn.functional.scaled_dot_product_attention, []

    def seen(query: Any, key: Any, *rest: Any, **more: Any) -> Any:
        shapes.append((query.shape[2], key.shape[2]))
        return attend(query, key, *rest, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", seen)
    with open_engine(str(tiny_model), workspace, "transformers", device="cpu", dtype="float32") as engine:
        made = list(engine.answers(USER_TEXTS, max_new_tokens=24, temperature=1.0))
    longest = max(answer.prompt_tokens + answer.tokens for answer in made)
    assert any(1 < queries <= len(made) and keys > longest for queries, keys in shapes), "one token of each request, the keys of several"


# ---- a server ----


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setattr(engine_server, "FIRST_WAIT", 0.01)
    monkeypatch.delenv(engine_server.KEY, raising=False)
    with openai_server() as running:
        yield running


def test_a_server_answers_in_input_order(server: OpenAIServer, workspace: Workspace) -> None:
    server.delay = lambda text: 0.05 if text.endswith(("0", "3")) else 0.0
    prompts = [f"prompt {number}" for number in range(20)]
    with open_engine(f"openai:guard@{server.url}", workspace) as engine:
        answers = list(engine.answers(prompts, samples=2, temperature=0.7, top_p=0.9, max_new_tokens=50, indices=range(100, 120)))
        again = list(engine.answers(prompts[5:], samples=2, temperature=0.7, top_p=0.9, max_new_tokens=50, indices=range(105, 120)))
        loose = list(engine.answers(prompts, max_new_tokens=3, ordered=False))
    assert [(answer.index, answer.sample) for answer in answers] == [(row, k) for row in range(100, 120) for k in range(2)]
    asked = {(body["messages"][0]["content"], body["seed"]) for body in server.asked[:40]}
    assert len(asked) == 40, "two samples of a prompt had the same seed"
    assert {answer.text for answer in answers} == {answer_of(*pair) for pair in asked}
    assert [answer.text for answer in again] == [answer.text for answer in answers][10:], "a resumed run asks with other seeds"
    assert answers[0].text.startswith("prompt 0 /")
    assert (answers[0].tokens, answers[0].prompt_tokens, answers[0].finish, answers[0].token_ids) == (4, 2, "stop", ())
    assert {"model": "guard", "temperature": 0.7, "top_p": 0.9, "max_tokens": 50}.items() <= server.asked[0].items()
    assert 1 < server.most_running <= engine_server.AT_ONCE
    assert sorted(answer.index for answer in loose) == list(range(20)) != [answer.index for answer in loose]
    assert {answer.finish for answer in loose} == {"length"}
    assert set(server.paths) == {"/v1/chat/completions"}


def test_whole_prompts_and_the_key(server: OpenAIServer, workspace: Workspace, monkeypatch: pytest.MonkeyPatch,
                                   capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(engine_server.KEY, "do-not-print-me\r\n")
    with open_engine(f"openai:guard@{server.url}", workspace, log=print) as engine:
        (answer,) = engine.answers(["a whole prompt"], chat=False)
        server.always = (401, "this is no key of ours: do-not-print-me")
        with pytest.raises(UserError, match=r"no key of ours: \*\*\*") as refused:
            list(engine.answers(["a whole prompt"]))
    monkeypatch.setenv(engine_server.KEY, "do-not-print-m\u00e9")
    with pytest.raises(UserError, match=f"The API key in {engine_server.KEY}") as unusable:
        open_engine(f"openai:guard@{server.url}", workspace)
    assert "do-not" not in str(unusable.value)
    assert answer.text.startswith("a whole prompt /")
    assert (server.paths[0], server.keys[0], server.asked[0]["prompt"]) == ("/v1/completions", "Bearer do-not-print-me", "a whole prompt")
    assert "do-not-print-me" not in str(refused.value) + "".join(capfd.readouterr())


def test_a_server_in_trouble_is_asked_again(server: OpenAIServer, workspace: Workspace) -> None:
    server.troubles = [(429, "slow down"), (503, "loading"), (0, "")]
    server.headers = {"retry-after": "0.05"}
    with open_engine(f"openai:guard@{server.url}", workspace) as engine:
        assert len(list(engine.answers(["one", "two"]))) == 2
    assert len(server.asked) == 5


def test_a_server_that_stays_in_trouble(server: OpenAIServer, workspace: Workspace) -> None:
    with open_engine(f"openai:guard@{server.url}", workspace) as engine:
        server.always = (500, "out of memory")
        with pytest.raises(UserError, match=rf"{server.url}/chat/completions answered with status 500 \(out of memory\), 6 times"):
            list(engine.answers(["one"]))
        assert len(server.asked) == engine_server.TRIES
        server.always = (404, "no model guard")
        with pytest.raises(UserError, match=r"status 404 \(no model guard\); check the model's name"):
            list(engine.answers(["one"]))
        assert len(server.asked) == engine_server.TRIES + 1, "a 404 was asked again"
    with open_engine("openai:guard@http://127.0.0.1:9/v1", workspace) as engine, pytest.raises(UserError, match="did not answer"):
        list(engine.answers(["one"]))


def test_stopping_a_server_engine_keeps_what_came(server: OpenAIServer, workspace: Workspace) -> None:
    prompts = (f"prompt {number}" for number in itertools.count())
    taken: list[int] = []
    with open_engine(f"openai:guard@{server.url}", workspace) as engine:
        for answer in engine.answers(prompts, should_stop=lambda: len(taken) >= 30):
            taken.append(answer.index)
    assert taken == sorted(taken)
    assert 30 <= len(taken) <= 30 + (AHEAD + 1) * engine_server.AT_ONCE


# ---- requests in flight ----


class Slow:
    """Finishes the newest request first, and the very first one last of all."""

    def __init__(self) -> None:
        self.flying: list[Asked] = []
        self.most = 0

    def start(self, asked: Asked) -> None:
        self.flying.append(asked)
        self.most = max(self.most, len(self.flying))

    def finished(self) -> list[tuple[Asked, Generated]]:
        asked = self.flying.pop()
        return [(asked, Generated(asked.index, asked.sample, str(asked.prompt), (1,), 1, "stop", 0.0))]

    def cancel(self) -> None:
        self.flying.clear()


def test_a_slow_request_does_not_pile_up_answers() -> None:
    backend, read = Slow(), 0

    def prompts() -> Iterator[str]:
        nonlocal read
        for read in range(1, 2001):
            yield f"prompt {read}"

    following = 0
    for made in through(backend, requests(prompts(), None, 2), 5, ordered=True, should_stop=None, on_batch=None):
        assert (made.index, made.sample) == divmod(following, 2)
        following += 1
        assert 2 * read - following <= AHEAD * 5 + 2
    assert (following, backend.most) == (4000, 5)


def test_what_is_there_already_is_not_asked_for() -> None:
    asked = requests(["a", "b", "c"], [4, 5, 6], 2, {(4, 1), (5, 0), (5, 1)})
    assert [(one.number, one.index, one.sample, one.prompt) for one in asked] == [(0, 4, 0, "a"), (1, 6, 0, "c"), (2, 6, 1, "c")]


# ---- vLLM, as far as it goes without it ----


class FakeVllm:
    """The few calls of vLLM's engine that ours makes; two tokens a step for each request."""

    def __init__(self) -> None:
        self.waiting: dict[str, Any] = {}
        self.aborted: list[str] = []
        self.model_config = SimpleNamespace(max_model_len=64)

    def add_request(self, name: str, prompt: dict[str, list[int]], params: Any, lora_request: Any = None) -> None:
        self.waiting[name] = SimpleNamespace(prompt=prompt["prompt_token_ids"], params=params, lora=lora_request, tokens=[])

    def abort_request(self, names: list[str]) -> None:
        self.aborted += names
        for name in names:
            self.waiting.pop(name, None)

    def step(self) -> list[Any]:
        outputs = []
        for name, request in list(self.waiting.items()):
            request.tokens += [5, 6]
            over = len(request.tokens) >= request.params.max_tokens
            answer = SimpleNamespace(token_ids=request.tokens, text="ab" * len(request.tokens), finish_reason="length" if over else None)
            if over:
                del self.waiting[name]
            outputs.append(SimpleNamespace(request_id=name, outputs=[answer], finished=over, prompt_token_ids=request.prompt))
        return outputs


def test_vllm_requests(own_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in for vLLM, which this machine cannot run: what is sent, what is read, what is aborted."""
    fake = types.ModuleType("vllm")
    fake.SamplingParams = SimpleNamespace  # type: ignore[attr-defined]
    kinds = types.ModuleType("vllm.sampling_params")
    kinds.RequestOutputKind = {"CUMULATIVE": 0, "FINAL_ONLY": 2}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", kinds)
    engine = engine_vllm.VllmEngine.__new__(engine_vllm.VllmEngine)
    assert own_engine.loaded is not None
    llm = FakeVllm()
    engine.ref, engine.tokenizer, engine.lora, engine.llm, engine.context = "m", own_engine.loaded.tokenizer, "lora", SimpleNamespace(
        llm_engine=llm), 64
    sent: list[Any] = []
    monkeypatch.setattr(llm, "add_request", lambda *a, **k: (sent.append((a, k)), FakeVllm.add_request(llm, *a, **k))[1])
    made = list(engine.answers(["short", "word " * 100], chat=False, samples=2, temperature=1.0, top_p=0.9, max_new_tokens=6))
    assert [(one.index, one.sample, one.tokens, one.finish) for one in made] == [(0, 0, 6, "length"), (0, 1, 6, "length"),
                                                                              (1, 0, 0, "length"), (1, 1, 0, "length")]
    assert "the model's context is 64" in made[2].note
    params = [call[0][2] for call in sent]
    assert [(one.temperature, one.top_p, one.max_tokens, one.output_kind) for one in params] == [(1.0, 0.9, 6, 2)] * 2
    assert params[0].seed != params[1].seed
    assert all(call[1] == {"lora_request": "lora"} for call in sent)
    (early,) = engine.answers(["short"], chat=False, max_new_tokens=40, is_complete=lambda text: len(text) >= 16)
    assert (early.tokens, early.finish, llm.aborted) == (8, "stop", ["guardwaltz-0"])


def test_vllm_is_told_of_an_adapter(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 24}')
    options = engine_vllm.engine_options("base", "abc", "bfloat16", "nf4", tmp_path)
    assert options["max_lora_rank"] == 32
    assert options["enable_lora"] is options["enable_prefix_caching"] is True
    assert (options["revision"], options["quantization"], options["trust_remote_code"]) == ("abc", "bitsandbytes", False)
    assert "enable_lora" not in engine_vllm.engine_options("base", None, "bfloat16", None, None)
    with pytest.raises(UserError, match="rank 1000"):
        engine_vllm.next_rank(1000)
