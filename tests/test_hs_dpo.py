"""`hs-dpo` as a run: what it leaves, what it refuses, the R-SFT adapter as reference, kill -9 and resume, 4 bits, two processes."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from core.active import ActiveRun, StopRequested
from core.files import read_json
from core.jobs import continue_run, create, resume, submit
from core.lm.find import find_model
from core.lm.load import load_model
from core.lm.tune import logged_steps
from core.methods import UserError, validate
from core.preflight import look
from core.records import GuardExample, Labels
from core.runs import Workspace
from core.split_guard import keys_to_register, prompt_key
from tests.helpers import finish, wait_for, write
from tests.test_dpo_exact import pairs
from tests.test_sft_exact import examples

FEW = {"tuning": "lora", "epochs": 1, "batch_size": 4, "accumulation": 1, "lr": 0.01, "beta": 0.1, "dtype": "float32", "device": "cpu",
       "validation_share": 0}


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "pairs.jsonl", pairs(16))


def train(workspace, settings, run=None, method="hs-dpo"):
    """Execute in this process, as the worker would."""
    method = workspace.plugins.method(method)
    run = run or create(workspace, method, settings)
    active = ActiveRun(workspace, run.id)
    method(workspace).run(validate(method, run.config), active)
    (active.dir / "status.json").write_text(json.dumps({**active.status, "state": "succeeded"}))
    return active


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory, tiny_model):
    """Folder of a short R-SFT run: its adapter has moved away from the base."""
    folder = tmp_path_factory.mktemp("rsft")
    rows = write(folder / "rows.jsonl", examples(12))
    return train(Workspace(folder / "runs"), {"data": rows, "model": str(tiny_model), "tuning": "lora", "lora_rank": 4, "epochs": 1,
                                              "batch_size": 4, "accumulation": 1, "lr": 0.01, "dtype": "float32", "device": "cpu",
                                              "sample_rows": 0, "validation_share": 0}, method="rsft").dir


@pytest.fixture
def rsft(workspace, trained_once):
    """That run, in this test's workspace."""
    return workspace.run(shutil.copytree(trained_once, workspace.runs_dir / trained_once.name).name)


def losses(run):
    return [line["loss"] for line in logged_steps(run)]


def notices(run):
    return " ".join(event["text"] for event in run.events("notice"))


def test_what_a_run_leaves(workspace, data, rsft):
    run = train(workspace, {**FEW, "data": data, "model": f"run:{rsft.id}", "validation_share": 0.25, "epochs": 3})
    report = run.report
    assert (report["rows"]["train"]["used"], report["rows"]["held_out"]["used"]) == (12, 4)
    assert (report["rows"]["train"]["weight_min"], report["rows"]["train"]["weight_max"]) == (0.8, 1.2)
    assert sum(line["pairs"] for line in report["weights"]) == 12
    assert (report["start"], report["base"], report["prompt_format"]) == (f"run:{rsft.id}", rsft.report["base"], "seed-binary")
    assert report["pairs_learned"] == 36
    assert report["data"]["sha256"]
    assert report["split_guard"]["test_rows_found"] == 0
    assert "prefers the right answer in" in report["headline"]
    assert "of 4 pairs" in report["headline"]
    best = min((event for event in run.events("metrics") if "eval_loss" in event), key=lambda event: event["eval_loss"])
    assert report["losses"]["eval"] == pytest.approx(best["eval_loss"])
    assert report["losses"]["eval_means"]["reward_margin"] == pytest.approx(best["eval_reward_margin"])
    assert report["best_step"] == best["step"]
    keys = (run.dir / "trained_keys.txt").read_text().split()
    assert keys == sorted(keys)
    assert len(keys) == 12
    assert {prompt_key(pair.user_prompt) for pair in pairs(16)} > set(keys)
    assert {"Train loss", "Eval loss", "Margin", "Speed", "Memory"} <= set(run.status["stats"])
    assert {path.name for path in (run.dir / "adapter").iterdir()} >= {
        "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "chat_template.jinja", "guardwaltz.json", "README.md"}
    assert read_json(run.dir / "adapter" / "adapter_config.json")["r"] == 4, "the R-SFT adapter went on"
    card = (run.dir / "README.md").read_text()
    for said in (report["data"]["sha256"], "beta = 0.1", "Weights 0.8 to 1.2", f"run:{rsft.id}", "HS-DPO", "learning_rate | 0.01"):
        assert said in card
    assert pairs(1)[0].user_prompt not in card
    assert find_model(f"run:{run.id}", workspace.runs_dir).prompt_format == "seed-binary"
    assert not [path for path in run.dir.iterdir() if path.name.startswith("tmp")], "token ids are not left behind"


def test_the_rsft_adapter_is_the_reference(workspace, data, rsft):
    """Live and written down; the loss begins at log 2, and the written numbers are the adapter's, not the base's."""
    settings = {**FEW, "data": data, "model": f"run:{rsft.id}", "sft_mix": 0, "epochs": 2, "use_weights": False}
    written = train(workspace, settings)
    live = train(workspace, {**settings, "precompute_reference": False, "save_steps": 3})
    assert losses(written)[0] == pytest.approx(np.log(2), abs=1e-6)
    assert losses(live) == pytest.approx(losses(written), abs=5e-6)
    assert losses(written)[-1] < losses(written)[0]
    about = read_json(written.dir / "reference.json")
    assert about["model"] == f"run:{rsft.id}"
    start, base = (load_model(ref, workspace.runs_dir, device="cpu", dtype="float32") for ref in (f"run:{rsft.id}", rsft.report["base"]))
    from core.lm.dpo_rows import build_pairs

    row = build_pairs(pairs(16), start.tokenizer, written.dir)[5]
    ids = torch.tensor([[*row.prompt.tolist(), *row.chosen.tolist()]])
    found = np.fromfile(written.dir / "reference.f32", np.float32).reshape(-1, 2)[5, 0]
    sums = []
    for one in (start, base):
        with torch.no_grad():
            chances = torch.log_softmax(one.model(ids).logits[0, :-1].float(), -1)
        sums.append(chances[torch.arange(ids.shape[1] - 1), ids[0, 1:]][len(row.prompt) - 1:].sum().item())
    assert found == pytest.approx(sums[0], abs=1e-3)
    assert abs(found - sums[1]) > 1, "the base is far away"
    assert not (live.dir / "checkpoint-3" / "ref").exists(), "the frozen copy is no part of a checkpoint"


@pytest.mark.kill
def test_kill_9_and_resume_repeats_the_uninterrupted_run(workspace, data, rsft):
    """The reference is not asked again after the weights have moved: with another one the losses would differ."""
    settings = {**FEW, "data": data, "model": f"run:{rsft.id}", "epochs": 12, "save_steps": 3}
    wanted = losses(train(workspace, settings))
    run = submit(workspace, "hs-dpo", settings)
    wait_for(lambda: len(run.checkpoints()) > 1, "two checkpoints")
    os.kill(run.status["process"]["pid"], signal.SIGKILL)
    wait_for(lambda: run.state == "lost", "the loss to show")
    left = len(losses(run))
    assert left < len(wanted), "killed before it was done"
    numbers = (run.dir / "reference.f32").stat().st_mtime_ns
    resume(workspace, run)
    assert finish(workspace, run, 120) == "succeeded", run.log_tail()
    found = losses(run)
    assert len(found) == len(wanted) == 48
    assert max(abs(one - other) for one, other in zip(found, wanted, strict=True)) <= 1e-6
    assert (run.dir / "reference.f32").stat().st_mtime_ns == numbers, "it is read, not written again"


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_frozen_copy_is_the_start_again_after_resuming(workspace, data, rsft, tuning):
    settings = {**FEW, "data": data, "model": f"run:{rsft.id}", "epochs": 2, "save_steps": 3, "precompute_reference": False,
                "tuning": tuning, "lr": 0.01 if tuning == "lora" else 0.001}
    run = train(workspace, settings)
    wanted = losses(run)
    for late in run.checkpoints()[1:]:
        shutil.rmtree(late)
    (run.dir / "events.jsonl").write_text("")
    again = losses(train(workspace, settings, run))
    assert "Goes on from checkpoint" in notices(run)
    assert 0 < len(again) < len(wanted)
    assert again == pytest.approx(wanted[-len(again):], abs=1e-5)


def test_stop_resume_and_changed_pairs(workspace, data, rsft, tmp_path):
    settings = {**FEW, "data": data, "model": f"run:{rsft.id}", "epochs": 2, "validation_share": 0.25, "batch_size": 2, "accumulation": 2}
    whole = train(workspace, settings)
    run = create(workspace, workspace.plugins.method("hs-dpo"), settings)
    (run.dir / "stop").touch()
    with pytest.raises(StopRequested):
        train(workspace, settings, run)
    assert not run.checkpoints(), "stopped while the reference was asked"
    (run.dir / "stop").unlink()
    again = train(workspace, settings, run)
    assert losses(again) == pytest.approx(losses(whole), abs=1e-6)
    assert again.report["losses"]["eval"] == pytest.approx(whole.report["losses"]["eval"], abs=1e-6)
    write(tmp_path / "pairs.jsonl", [pair.model_copy(update={"weight": 2.0}) for pair in pairs(16)])
    with pytest.raises(UserError, match="data has changed since"):
        train(workspace, settings, run)


@pytest.mark.parametrize("between", [3, 100])
def test_a_sparse_curve_counts_every_step(workspace, data, rsft, between):
    settings = {**FEW, "data": data, "model": f"run:{rsft.id}", "epochs": 2, "save_steps": 100}
    every, run = train(workspace, settings), train(workspace, {**settings, "logging_steps": between})
    assert [line["step"] for line in logged_steps(run)] == ([3, 6, 8] if between == 3 else [8])
    assert run.report["pairs_learned"] == every.report["pairs_learned"] == 32
    assert run.report["seconds"] > 0
    assert run.report["headline"].startswith("training pairs: prefers the right answer in")
    assert losses(run)[-1] == pytest.approx(np.mean(losses(every)[-(2 if between == 3 else 8):]), abs=1e-5)


@pytest.mark.parametrize("at", ["on_step_end", "on_substep_end"])
def test_a_stopped_run_with_a_sparse_curve_counts_every_step_once(workspace, data, rsft, monkeypatch, at):
    """Stopped after two whole steps, in one case in the middle of the third, whose passes are done again."""
    from core.lm.dpo_callbacks import PairFollow

    settings = {**FEW, "data": data, "model": f"run:{rsft.id}", "batch_size": 2, "accumulation": 2, "packing": False, "save_steps": 100}
    every = train(workspace, settings)
    assert len(losses(every)) == 4
    run = create(workspace, workspace.plugins.method("hs-dpo"), {**settings, "logging_steps": 100})
    really = getattr(PairFollow, at)

    def stopped(self, args, state, control, **more):
        if state.global_step == 2:
            (run.dir / "stop").touch()
        return really(self, args, state, control, **more)

    with monkeypatch.context() as patch:
        patch.setattr(PairFollow, at, stopped)
        with pytest.raises(StopRequested):
            train(workspace, settings, run)
    (run.dir / "stop").unlink()
    again = train(workspace, settings, run)
    assert [line["step"] for line in logged_steps(again)] == [2, 4]
    assert [line["pairs"] for line in logged_steps(again)] == [8, 8]
    assert losses(again) == pytest.approx([np.mean(losses(every)[:2]), np.mean(losses(every)[2:])], abs=1e-5)
    assert again.report["pairs_learned"] == 16


def test_another_reference_is_refused_on_resume(workspace, data, rsft):
    settings = {**FEW, "data": data, "model": f"run:{rsft.id}", "save_steps": 2}
    run = train(workspace, settings)
    other = train(workspace, settings)
    for name in ("adapter_model.safetensors",):  # somebody replaced the adapter that the run began with
        (rsft.dir / "adapter" / name).write_bytes((other.dir / "adapter" / name).read_bytes())
    with pytest.raises(UserError, match="model that it starts from has changed"):
        train(workspace, settings, run)


def test_continue_starts_from_the_result(workspace, data, rsft, monkeypatch):
    monkeypatch.setattr("core.jobs.pump", lambda _: None)
    first = train(workspace, {**FEW, "data": data, "model": f"run:{rsft.id}", "sft_mix": 0, "use_weights": False})
    queued = continue_run(workspace, workspace.run(first.id), {"learning_rate": 0.002})
    assert (queued.config["model"], queued.config["data"]) == (f"run:{first.id}", data)
    second = train(workspace, {}, queued)
    assert losses(second)[0] == pytest.approx(np.log(2), abs=1e-6), "where it starts is its reference"
    assert second.report["base"] == first.report["base"], "adapters are not stacked"


def test_full_fine_tuning_from_an_adapter(workspace, data, rsft):
    run = train(workspace, {**FEW, "data": data, "model": f"run:{rsft.id}", "tuning": "full", "lr": 1e-3, "sft_mix": 0,
                            "use_weights": False, "epochs": 2})
    assert (run.dir / "model" / "model.safetensors").exists()
    assert run.report["trained_parameters"] == run.report["model"]["parameters"]
    assert losses(run)[0] == pytest.approx(np.log(2), abs=1e-6), "the merged model is its own reference"
    assert losses(run)[-1] < losses(run)[0]
    assert load_model(f"run:{run.id}", workspace.runs_dir, device="cpu").prompt_format == "seed-binary"


def test_qlora_on_a_cpu(workspace, data, rsft):
    pytest.importorskip("bitsandbytes")
    run = train(workspace, {**FEW, "data": data, "model": f"run:{rsft.id}", "tuning": "qlora", "epochs": 2, "validation_share": 0.25})
    assert run.report["model"]["quantization"] == "nf4"
    assert losses(run)[-1] < losses(run)[0]
    from safetensors.torch import load_file

    weights = load_file(run.dir / "adapter" / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}, "small steps would round to none in bfloat16"


def test_four_bit_weights_still_learn_after_the_model_was_only_asked(workspace, rsft):
    """bitsandbytes packs them in a pass without gradients (where the CPU has avx512_bf16); a packed layer passes no gradient on."""
    pytest.importorskip("bitsandbytes")
    from core.lm.dpo import DpoJob
    from core.lm.tune import ready_to_train

    _, model, _ = ready_to_train(DpoJob(model=f"run:{rsft.id}", pairs=[], tuning="qlora", device="cpu"), ActiveRun(workspace, rsft.id))
    ids = torch.arange(5, 25)[None]

    def slopes():
        model.zero_grad()
        model.train()(input_ids=ids, labels=ids).loss.backward()
        return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.requires_grad])

    before = slopes()
    with torch.no_grad():
        model.eval()(input_ids=ids)
    assert before.abs().max() > 0
    assert torch.allclose(slopes(), before, rtol=1e-3, atol=1e-5)


def test_two_processes_learn_what_one_does(workspace, data, rsft):
    """torchrun with two CPU processes of batch 1, 14 pairs in steps of 4: the last step leaves a rank with less than the other."""
    settings = {**FEW, "data": data, "model": f"run:{rsft.id}", "validation_share": 0.13}
    one = train(workspace, settings)
    two = create(workspace, workspace.plugins.method("hs-dpo"), {**settings, "batch_size": 1, "accumulation": 2, "processes": 2})
    workspace.store.enqueue(two.id, "compute")
    assert finish(workspace, two) == "succeeded", two.log_tail(30)
    assert (two.report["processes"], two.report["rows_per_step"]) == (2, 4)
    assert len(losses(one)) == 4
    assert losses(two) == pytest.approx(losses(one), rel=5e-6)
    for name in ("reward_margin", "dpo_loss", "sft_loss", "kl_estimate", "pairs"):
        assert [line[name] for line in logged_steps(two)] == pytest.approx([line[name] for line in logged_steps(one)], abs=1e-4), name
    assert two.report["losses"]["eval"] == pytest.approx(one.report["losses"]["eval"], rel=5e-6)
    from safetensors.torch import load_file

    weights = [load_file(run.dir / "adapter" / "adapter_model.safetensors") for run in (one, two)]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-4) for name in weights[0])


def test_a_build_pairs_run_is_found(workspace, data, rsft):
    made = create(workspace, workspace.plugins.method("recipe"), {"recipe": "rehearsal"})
    (made.dir / "preferences.jsonl").write_text(Path(data).read_text(encoding="utf-8"))
    (made.dir / "status.json").write_text(json.dumps({**made.status, "state": "succeeded"}))
    run = train(workspace, {**FEW, "data": f"run:{made.id}", "model": f"run:{rsft.id}"})
    assert run.report["data"]["run"] == made.id
    from core.lineage import ancestors

    assert {one.id for one in ancestors(run, workspace)} >= {made.id, rsft.id}


def test_pairs_of_test_sets_are_refused_or_dropped_or_on_record(workspace, data, rsft):
    some = [GuardExample(prompt=pair.user_prompt, labels=Labels(request="harmful")) for pair in pairs(2)]
    workspace.store.register_test_keys("my-test", "data-0001", keys_to_register(some))
    settings = {**FEW, "data": data, "model": f"run:{rsft.id}"}
    found = look(workspace, "hs-dpo", settings)
    assert "2 rows of registered test sets: my-test (2)" in found.errors[0].message
    assert found.errors[0].fix == {"exclude_test_rows": True}
    run = create(workspace, workspace.plugins.method("hs-dpo"), settings)
    with pytest.raises(UserError, match="my-test"):
        train(workspace, settings, run)
    assert not (run.dir / "trained_keys.txt").exists(), "nothing was trained on"
    dropped = train(workspace, {**settings, "exclude_test_rows": True})
    assert dropped.report["rows"]["train"]["used"] == 14
    assert dropped.report["rows"]["in_file"] == 16
    assert dropped.report["split_guard"]["test_rows_dropped"] == 2
    used = train(workspace, {**settings, "allow_test_rows": True})
    assert used.report["test_rows_overridden"] is True
    assert "2 pairs of registered test sets were trained on" in (used.dir / "README.md").read_text()


def test_bad_pairs_are_named(workspace, tmp_path, rsft):
    good = pairs(3)[0].model_dump(exclude_none=True)
    settings = {**FEW, "model": f"run:{rsft.id}"}
    path = tmp_path / "bad.jsonl"
    cases = {"line 2 has no weight": {"weight": None}, "line 2: weight = -1": {"weight": -1.0},
             "line 2: weight = nan": {"weight": float("nan")}, "line 2: weight = 0": {"weight": 0.0}}
    for words, change in cases.items():
        bad = {name: value for name, value in {**good, **change}.items() if value is not None}
        path.write_text(json.dumps(good) + "\n" + json.dumps(bad) + "\n")
        with pytest.raises(UserError, match=words):
            train(workspace, {**settings, "data": str(path)})
        assert any(words in problem.message for problem in look(workspace, "hs-dpo", {**settings, "data": str(path)}).errors), words
    path.write_text(json.dumps(good) + "\n" + json.dumps(good)[:50])
    with pytest.raises(UserError, match="line 2"):
        train(workspace, {**settings, "data": str(path)})
    path.write_text("")
    with pytest.raises(UserError, match="no pairs"):
        train(workspace, {**settings, "data": str(path)})
    with pytest.raises(UserError, match="no pairs 'nowhere'"):
        train(workspace, {**settings, "data": "nowhere"})
    with pytest.raises(UserError, match=r"None of the 16 pairs can be trained: all are longer than max_length = 32"):
        train(workspace, {**settings, "data": write(path, pairs(16)), "max_length": 32})


def test_an_adapter_of_another_base_or_another_format_is_refused(workspace, data, rsft, tmp_path):
    from core.lm.tiny import make_tiny

    wide = make_tiny(tmp_path / "wide")
    config = json.loads((wide / "config.json").read_text())
    from safetensors.torch import load_file, save_file

    weights = load_file(wide / "model.safetensors")  # a base with another width: take half of every inner projection
    config["intermediate_size"] //= 2
    half = {name: (value[:64] if "gate" in name or "up_proj" in name else value[:, :64] if "down" in name else value).contiguous()
            for name, value in weights.items()}
    (wide / "config.json").write_text(json.dumps(config))
    save_file(half, wide / "model.safetensors", metadata={"format": "pt"})
    card = rsft.dir / "adapter" / "guardwaltz.json"
    kept = card.read_text()
    card.write_text(json.dumps({**json.loads(kept), "base": str(wide)}))
    with pytest.raises(UserError, match="does not fit its base"):
        train(workspace, {**FEW, "data": data, "model": f"run:{rsft.id}"})
    card.write_text(kept)
    other = write(tmp_path / "other.jsonl", [pair.model_copy(update={"prompt_format": "guardreasoner"}) for pair in pairs(4)])
    with pytest.raises(UserError, match=r"format guardreasoner, but run:rsft-0001 was trained in seed-binary"):
        train(workspace, {**FEW, "data": other, "model": f"run:{rsft.id}"})


def test_a_foreign_file_trains_and_says_what_the_split_guard_could_not_see(workspace, tmp_path, tiny_model):
    path = tmp_path / "trl.jsonl"
    path.write_text("".join(json.dumps({"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}) + "\n"
                            for pair in pairs(8, chat=False)))
    run = train(workspace, {**FEW, "data": str(path), "model": str(tiny_model), "use_weights": False})
    assert "8 pairs of 8 do not name the prompt that is judged" in notices(run)
    assert "none is stored with the model" in notices(run)
    assert (run.dir / "trained_keys.txt").read_text() == ""
    assert run.report["weights"] == [{"weight": 1.0, "pairs": 8}]


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_pair_that_is_left_out_takes_no_memory(workspace, tiny_model, tmp_path, device):
    from transformers import AutoTokenizer

    from core.lm.dpo_check import _peak
    from core.lm.dpo_rows import build_pairs
    from core.lm.sft_check import shape_at

    config = validate(workspace.plugins.method("hs-dpo"), {**FEW, "batch_size": 16, "data": "pairs", "model": str(tiny_model)})
    tokenizer, shape = AutoTokenizer.from_pretrained(tiny_model), shape_at(find_model(str(tiny_model), workspace.runs_dir))
    long = pairs(1)[0].model_copy(update={"chosen": [{"role": "assistant", "content": "a long answer " * 400}]})
    kept, more = (build_pairs(rows, tokenizer, tmp_path, max_length=200) for rows in (pairs(16), [*pairs(16), long]))
    assert more.dropped == 1
    assert _peak(config, shape, more, device) == _peak(config, shape, kept, device)


def test_check_and_estimate(workspace, data, rsft, monkeypatch):
    good = {**FEW, "data": data, "model": f"run:{rsft.id}"}
    answer = look(workspace, "hs-dpo", {**good, "accumulation": 2})
    assert not answer.errors
    assert "4 x 2 x 1 = 8 pairs a step" in answer.estimate.note
    assert answer.estimate.seconds_low < answer.estimate.seconds < answer.estimate.seconds_high
    tokens = look(workspace, "hs-dpo", {**good, "epochs": 2}).estimate.tokens
    assert tokens == pytest.approx(2 * answer.estimate.tokens, rel=0.01)
    warned = next(problem for problem in look(workspace, "hs-dpo", {**good, "max_length": 75}).problems if problem.field == "max_length")
    assert "of 16 rows (" in warned.message
    run = train(workspace, {**good, "max_length": 75})
    assert f"{run.report['rows']['train']['dropped_too_long']} of 16 rows" in notices(run)
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    wrong = {"There are no pairs": {"data": "nowhere"}, "no run": {"model": "run:rsft-0099"}, "pip install wandb": {"report_to": "wandb"},
             "pip install bitsandbytes": {"tuning": "qlora"}, "is not on this machine": {"device": "cuda:9"},
             "validation_share": {"early_stopping_patience": 2}}
    for words, change in wrong.items():
        errors = look(workspace, "hs-dpo", {**good, **change}).errors
        assert any(words in problem.message for problem in errors), (words, errors)


def test_presets_are_valid_and_say_what_they_are(workspace, data):
    method = workspace.plugins.method("hs-dpo")
    for name, settings in method.presets.items():
        config = validate(method, {**settings, "data": data, "model": "embedded"})
        assert method.preset_help[name]
        rows = config.batch_size * config.gradient_accumulation_steps
        assert rows == {"paper": 256, "seed-plan": 256}.get(name, rows)
        assert (config.beta, config.sft_mix, config.epochs) == (0.01, 2.0, 2.0)
    assert next(iter(method.presets)) == "rehearsal", "the first one fills the form"
