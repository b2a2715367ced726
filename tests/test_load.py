"""Model references become models: what is shared, what is refused, and that a saved model comes back as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from core.files import read_json, write_json
from core.lm import device
from core.lm.find import find_model
from core.lm.generate import generate
from core.lm.load import Loaded, load_model
from core.lm.save import save_trained
from core.methods import UserError


def make_adapter(base: str, workspace: Path, run_id: str, seed: int, *, model: str | None = None) -> Path:
    """A run with a random LoRA adapter on `base`, saved the way training saves it."""
    import torch
    from peft import LoraConfig, get_peft_model

    loaded = load_model(model or base, workspace, device="cpu", dtype="float32", trainable=True)
    peft = loaded.model
    if loaded.adapter is None:
        peft = get_peft_model(peft, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, value in peft.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.5)
    folder = workspace / run_id / "adapter"
    save_trained(peft, loaded.tokenizer, folder, base=loaded.base, prompt_format="guardreasoner")
    return folder


def logits(loaded: Loaded) -> Any:
    """What the model says after one fixed prompt."""
    import torch

    with torch.inference_mode():
        return loaded.model(torch.arange(20, 40)[None]).logits[0, -1]


def differs(first: Any, second: Any) -> bool:
    """Two outputs are not the same function's."""
    return bool((first - second).abs().max() > 1e-3)


def test_adapters_share_the_tensors_of_their_base(tiny_model: Path, workspace_dir: Path) -> None:
    for number in (1, 2):
        make_adapter(str(tiny_model), workspace_dir, f"sft-{number}", seed=number)
    options: dict[str, Any] = {"device": "cpu", "dtype": "float32"}
    base = load_model(str(tiny_model), workspace_dir, **options)
    alone = logits(base)
    first, second = (load_model(f"run:sft-{number}", workspace_dir, **options) for number in (1, 2))
    assert first.base == second.base == str(tiny_model)
    assert first.prompt_format == "guardreasoner"

    def weights(loaded: Loaded) -> int:
        layer = loaded.model.get_submodule(("base_model.model." if loaded.adapter else "") + "model.layers.0.self_attn.q_proj")
        return int(layer.base_layer.weight.data_ptr())

    assert weights(first) == weights(second) == weights(base)
    one, two = logits(first), logits(second)
    assert differs(one, two)
    assert differs(one, alone)
    assert not differs(logits(base), alone), "the base answers with an adapter switched on"
    assert not differs(logits(first), one)
    with first.activate() as outer:
        with second.activate() as inner:
            assert inner.active_adapter != "default"
        assert outer.active_adapter == "default", "leaving the inner use must bring the outer adapter back"
    assert load_model("run:sft-1", workspace_dir, **options).model is first.model


def test_interleaved_answers_over_one_base(tiny_model: Path, workspace_dir: Path) -> None:
    make_adapter(str(tiny_model), workspace_dir, "sft-1", seed=1)
    base, guard = (load_model(ref, workspace_dir, device="cpu", dtype="float32") for ref in (str(tiny_model), "run:sft-1"))
    prompts = ["what is safe to say?", "how do I write a letter to my bank"]
    alone = [[answer.token_ids for answer in generate(loaded, prompts, max_new_tokens=12)] for loaded in (base, guard)]
    both = zip(*(generate(loaded, prompts, max_new_tokens=12, batch_tokens=1) for loaded in (base, guard)), strict=True)
    assert [[answer.token_ids for answer in pair] for pair in zip(*both, strict=True)] == alone
    assert alone[0] != alone[1]


def test_what_is_saved_names_its_base_and_format(tiny_model: Path, workspace_dir: Path) -> None:
    folder = make_adapter(str(tiny_model), workspace_dir, "sft-1", seed=1)
    assert read_json(folder / "adapter_config.json")["base_model_name_or_path"] == str(tiny_model)
    card = read_json(folder / "guardwaltz.json")
    loaded = load_model("run:sft-1", workspace_dir)
    assert card == {"base": str(tiny_model), "prompt_format": "guardreasoner", "chat_template_sha256": loaded.template_hash}
    assert {"adapter_model.safetensors", "tokenizer.json", "chat_template.jinja"} <= {path.name for path in folder.iterdir()}
    told = loaded.describe()
    assert (told["model"], told["base"], told["adapter"]) == ("run:sft-1", str(tiny_model), str(folder))


def test_an_adapter_trained_further_stays_on_the_first_base(tiny_model: Path, workspace_dir: Path) -> None:
    make_adapter(str(tiny_model), workspace_dir, "sft-1", seed=1)
    make_adapter(str(tiny_model), workspace_dir, "dpo-1", seed=2, model="run:sft-1")
    found = find_model("run:dpo-1", workspace_dir)
    assert (found.base, found.adapter) == (str(tiny_model), workspace_dir / "dpo-1" / "adapter")
    assert differs(logits(load_model("run:dpo-1", workspace_dir)), logits(load_model("run:sft-1", workspace_dir)))


def test_an_adapter_on_a_fully_trained_run(tiny_model: Path, workspace_dir: Path) -> None:
    full = load_model(str(tiny_model), workspace_dir, dtype="float32", trainable=True)
    full.model.model.embed_tokens.weight.data.mul_(1.5)
    save_trained(full.model, full.tokenizer, workspace_dir / "full-1" / "model", base=full.base, prompt_format=None)
    make_adapter("run:full-1", workspace_dir, "sft-2", seed=3)
    found = find_model("run:sft-2", workspace_dir)
    assert (found.base, found.location) == ("run:full-1", str(workspace_dir / "full-1" / "model"))
    assert differs(logits(load_model("run:full-1", workspace_dir)), logits(load_model(str(tiny_model), workspace_dir)))
    assert load_model("run:sft-2", workspace_dir).base == "run:full-1"


def test_a_relative_path_is_remembered_whole(tiny_model: Path, workspace_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_model.parent)
    found = find_model(f"./{tiny_model.name}", workspace_dir)
    assert (found.ref, found.base) == (f"./{tiny_model.name}", str(tiny_model))


def test_a_trainable_model_is_private(tiny_model: Path, workspace_dir: Path) -> None:
    make_adapter(str(tiny_model), workspace_dir, "sft-1", seed=1)
    shared, own = (load_model("run:sft-1", workspace_dir, dtype="float32", trainable=trainable) for trainable in (False, True))
    assert own.model is not shared.model
    trained = {name for name, value in own.model.named_parameters() if value.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)


def test_another_chat_template_is_an_error(tiny_model: Path, workspace_dir: Path) -> None:
    folder = make_adapter(str(tiny_model), workspace_dir, "sft-1", seed=1)
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    with pytest.raises(UserError, match="run:sft-1 was trained with another chat template"):
        load_model("run:sft-1", workspace_dir)


def test_adapters_are_not_stacked(tiny_model: Path, workspace_dir: Path) -> None:
    make_adapter(str(tiny_model), workspace_dir, "sft-1", seed=1)
    folder = make_adapter(str(tiny_model), workspace_dir, "sft-2", seed=2)
    write_json(folder / "guardwaltz.json", {**read_json(folder / "guardwaltz.json"), "base": "run:sft-1"})
    with pytest.raises(UserError, match="adapters are not stacked"):
        load_model("run:sft-2", workspace_dir)


@pytest.mark.parametrize(("ref", "message"), [
    ("mistral:mistral-small-latest", "is a hosted model and its weights cannot be had"),
    ("openai:gpt@http://127.0.0.1:1/v1", "is a hosted model"),
    ("waltz:rl-1", "is a pair of models"),
    ("run:nothing", "There is no run 'nothing'"),
    ("run:../escape", "There is no run"),
    ("run:going", "Run going is queued and has no model yet"),
    ("run:eval", "Run eval has made no model"),
    ("hf:some/model", "neither in the local Hub cache nor can it be fetched"),
])
def test_references_that_lead_nowhere(ref: str, message: str, workspace_dir: Path) -> None:
    for run_id, state in (("going", "queued"), ("eval", "succeeded")):
        write_json(workspace_dir / run_id / "status.json", {"state": state})
    with pytest.raises(UserError, match=message):
        load_model(ref, workspace_dir)


def test_folders_that_are_no_safe_model(tiny_model: Path, workspace_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(UserError, match=r"is no model: it has neither config\.json nor adapter_config\.json"):
        load_model(str(folder), workspace_dir)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UserError, match=r"only safetensors are loaded"):
        load_model(str(folder), workspace_dir)
    adapter = make_adapter(str(tiny_model), workspace_dir, "sft-1", seed=1)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(UserError, match=r"without adapter_model.safetensors"):
        load_model("run:sft-1", workspace_dir)


def test_code_in_a_model_folder_does_not_run(tiny_model: Path, workspace_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    config = read_json(folder / "config.json")
    code = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    write_json(folder / "config.json", {**config, "model_type": "evil", "auto_map": code})
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    with pytest.raises(UserError, match="cannot be loaded as a language model"):
        load_model(str(folder), workspace_dir)
    assert not (tmp_path / "ran").exists()


def test_an_adapter_that_does_not_fit_its_base(tiny_model: Path, workspace_dir: Path, tmp_path: Path) -> None:
    from core.lm.tiny import make_tiny

    folder = make_adapter(str(tiny_model), workspace_dir, "sft-1", seed=1)
    config = read_json(folder / "adapter_config.json")
    write_json(folder / "adapter_config.json", {**config, "r": 8})
    with pytest.raises(UserError, match="does not fit its base"):
        load_model("run:sft-1", workspace_dir)
    other = make_tiny(tmp_path / "other", seed=1)
    assert differs(logits(load_model(str(other), workspace_dir)), logits(load_model(str(tiny_model), workspace_dir)))


def to_hub_cache(folder: Path, cache: Path, repo: str) -> None:
    """What the Hub library leaves on disk after a download."""
    root = cache / ("models--" + repo.replace("/", "--"))
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, root / "snapshots" / ("0" * 40))


def test_the_hub_cache_serves_without_network(tiny_model: Path, workspace_dir: Path, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    adapter = make_adapter(str(tiny_model), workspace_dir, "sft-1", seed=1)
    expected = logits(load_model("run:sft-1", workspace_dir))
    (adapter / "guardwaltz.json").unlink()  # as a stranger's adapter
    config = read_json(adapter / "adapter_config.json")
    write_json(adapter / "adapter_config.json", {**config, "base_model_name_or_path": "lab/base"})
    to_hub_cache(tiny_model, tmp_path / "hub", "lab/base")
    to_hub_cache(adapter, tmp_path / "hub", "lab/guard")
    loaded = load_model("hf:lab/guard", workspace_dir)
    assert (loaded.ref, loaded.base, loaded.prompt_format) == ("hf:lab/guard", "hf:lab/base", None)
    assert loaded.describe()["revision"] == "0" * 40
    assert not differs(logits(loaded), expected)


def test_devices_and_types(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device.pick_device("cpu") == "cpu"
    for wrong in ("cuda:99", "tpu", "cuda:x"):
        with pytest.raises(UserError, match=wrong):
            device.pick_device(wrong)
    for flag, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(device, "_cpu_has_bf16", lambda flag=flag: flag)
        assert device.pick_dtype("auto", "cpu") == expected
    with pytest.raises(UserError, match="float16"):
        device.pick_dtype("float16", "cpu")


def test_four_bit_on_the_cpu(tiny_model: Path, workspace_dir: Path) -> None:
    loaded = load_model(str(tiny_model), workspace_dir, device="cpu", dtype="float32", quantization="nf4")
    assert type(loaded.model.get_submodule("model.layers.0.mlp.up_proj")).__name__ == "Linear4bit"
    assert next(iter(generate(loaded, ["what is safe?"], max_new_tokens=4))).tokens == 4
