"""`rsft` as a run: what it leaves, what it refuses, Stop, kill -9 and resume, adapters, 4 bits, all weights, two processes."""

import json
import os
import signal
from types import SimpleNamespace

import pytest

from core.active import ActiveRun, StopRequested
from core.evals.seen import trained_on
from core.files import read_json
from core.jobs import continue_run, create, pump, resume, submit
from core.lm.find import find_model
from core.lm.load import load_model
from core.lm.tune import TuneJob, logged_steps
from core.lm.tune_setup import arguments
from core.methods import UserError, validate
from core.preflight import look
from core.records import GuardExample, read_jsonl
from core.split_guard import keys_to_register, prompt_key
from tests.helpers import finish, wait_for, write
from tests.test_sft_exact import examples

FEW = {"tuning": "lora", "epochs": 1, "batch_size": 4, "accumulation": 1, "lr": 0.01, "dtype": "float32", "device": "cpu", "sample_rows": 0}


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "rows.jsonl", examples(24))


def train(workspace, settings, run=None):
    """Execute in this process, as the worker would."""
    method = workspace.plugins.method("rsft")
    run = run or create(workspace, method, settings)
    active = ActiveRun(workspace, run.id)
    method(workspace).run(validate(method, run.config), active)
    (active.dir / "status.json").write_text(json.dumps({**active.status, "state": "succeeded"}))
    return active


def losses(run):
    return [line["loss"] for line in logged_steps(run)]


def test_what_a_run_leaves(workspace, data, tiny_model):
    run = train(workspace, {**FEW, "data": data, "model": str(tiny_model), "validation_share": 0.25, "sample_rows": 2, "epochs": 2})
    report = run.report
    assert report["headline"] == f"eval loss {report['losses']['eval']:.2f} ± {report['losses']['eval_margin']:.2f}"
    assert report["rows"]["train"]["used"] == 18
    assert report["rows"]["held_out"]["used"] == 6
    assert (report["prompt_format"], report["tuning"], report["device"], report["dtype"]) == ("seed-binary", "lora", "cpu", "float32")
    assert report["answer_tokens"] == 2 * report["rows"]["train"]["answer_tokens"]
    assert report["data"]["sha256"]
    assert report["data"]["name"] == "rows"
    assert report["split_guard"]["test_rows_found"] == 0
    keys = (run.dir / "trained_keys.txt").read_text().split()
    assert keys == sorted(keys)
    assert len(keys) == 18
    assert {prompt_key(row.prompt) for row in examples(24)} > set(keys)
    samples = list(read_jsonl(run.dir / "samples.jsonl"))
    assert {sample["gold"]["request"] for sample in samples} <= {"harmful", "unharmful"}
    assert len(samples) == 2 * len([event for event in run.events("metrics") if "eval_loss" in event])
    assert {"Train loss", "Eval loss", "Speed", "Memory"} <= set(run.status["stats"])
    assert {path.name for path in (run.dir / "adapter").iterdir()} >= {
        "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "chat_template.jinja", "guardwaltz.json", "README.md"}
    card = (run.dir / "README.md").read_text()
    assert card.startswith("---\n")
    for said in (report["data"]["sha256"], "learning_rate | 0.01", "## Limits", "## Licence", "seed-binary"):
        assert said in card
    assert examples(24)[0].prompt not in card
    assert find_model(f"run:{run.id}", workspace.runs_dir).prompt_format == "seed-binary"
    best = min((event for event in run.events("metrics") if "eval_loss" in event), key=lambda event: event["eval_loss"])
    assert report["best_step"] == best["step"]
    assert report["losses"]["eval"] == pytest.approx(best["eval_loss"])


def test_the_best_checkpoint_is_what_is_kept_and_a_worsening_run_stops_early(workspace, data, tiny_model, monkeypatch):
    """The third evaluation is made to look best; its weights are those of the adapter, bit for bit."""
    import torch
    from safetensors.torch import load_file

    from core.lm.sft_trainer import AnswerTrainer, EvalLoss

    told = iter([3.0, 2.0, 1.0, 5.0, 6.0, 7.0])
    monkeypatch.setattr(AnswerTrainer, "held_out_loss", lambda _: EvalLoss(next(told), 0.1, 0.5, 6, 60))
    run = train(workspace, {**FEW, "data": data, "model": str(tiny_model), "validation_share": 0.25, "epochs": 4, "eval_steps": 2,
                            "early_stopping_patience": 2, "save_total_limit": 1})
    report = run.report
    assert (report["best_step"], report["steps"], report["planned_steps"], report["stopped_early"]) == (6, 10, 18, True)
    kept, best = (load_file(run.dir / folder / "adapter_model.safetensors") for folder in ("adapter", "checkpoint-6"))
    assert all(torch.equal(kept[name], best[name]) for name in best)
    assert "Stopped early" in " ".join(event["text"] for event in run.events("notice"))


@pytest.mark.kill
def test_kill_9_and_resume_repeats_the_uninterrupted_run(workspace, data, tiny_model):
    settings = {**FEW, "data": data, "model": str(tiny_model), "epochs": 16, "save_steps": 4, "validation_share": 0, "lora_dropout": 0.1}
    wanted = losses(train(workspace, settings))
    run = submit(workspace, "rsft", settings)
    wait_for(lambda: len(run.checkpoints()) > 1, "two checkpoints")
    os.kill(run.status["process"]["pid"], signal.SIGKILL)
    wait_for(lambda: run.state == "lost", "the loss to show")
    left = len(losses(run))
    assert left < len(wanted), "killed before it was done"
    resume(workspace, run)
    assert finish(workspace, run, 120) == "succeeded", run.log_tail()
    found = losses(run)
    assert len(found) == len(wanted) == 96
    assert max(abs(one - other) for one, other in zip(found, wanted, strict=True)) <= 1e-6


def test_stop_writes_a_checkpoint_and_resume_ends_as_if_never_stopped(workspace, data, tiny_model):
    settings = {**FEW, "data": data, "model": str(tiny_model), "epochs": 2, "validation_share": 0.25, "batch_size": 2, "accumulation": 2}
    whole = train(workspace, settings)
    run = create(workspace, workspace.plugins.method("rsft"), settings)
    (run.dir / "stop").touch()
    with pytest.raises(StopRequested):
        train(workspace, settings, run)
    assert [path.name for path in run.checkpoints()] == ["checkpoint-0"], "the half step is given up"
    (run.dir / "stop").unlink()
    again = train(workspace, settings, run)
    assert losses(again) == pytest.approx(losses(whole), abs=1e-6)
    assert again.report["losses"]["eval"] == pytest.approx(whole.report["losses"]["eval"], abs=1e-6)


def test_a_damaged_checkpoint_is_passed_over_and_other_data_is_refused(workspace, data, tiny_model):
    settings = {**FEW, "data": data, "model": str(tiny_model), "epochs": 2, "validation_share": 0, "save_steps": 3}
    run = train(workspace, settings)
    (run.dir / "checkpoint-12" / "trainer_state.json").write_text('{"global_step": 1')
    again = train(workspace, settings, run)
    assert any("Goes on from checkpoint-9 of 12" in event["text"] for event in again.events("notice"))
    write(run.dir.parent.parent / "rows.jsonl", examples(23))
    with pytest.raises(UserError, match=f"data has changed since {run.id} began"):
        train(workspace, settings, run)


def test_continue_goes_on_with_the_adapter(workspace, data, tiny_model, monkeypatch):
    """One epoch done, two to go: a new run, a new schedule, the same adapter and format."""
    monkeypatch.setattr("core.jobs.pump", lambda _: None)
    first = train(workspace, {**FEW, "data": data, "model": str(tiny_model), "validation_share": 0, "lora_rank": 4})
    queued = continue_run(workspace, workspace.run(first.id), {"epochs": 2, "learning_rate": 0.002})
    assert (queued.config["model"], queued.config["data"], queued.config["epochs"]) == (f"run:{first.id}", data, 2)
    second = train(workspace, {}, queued)
    assert losses(second)[0] < losses(first)[0] - 0.5, "it starts where the first one ended"
    assert second.report["start"] == f"run:{first.id}"
    assert second.report["base"] == str(tiny_model), "adapters are not stacked"
    assert read_json(second.dir / "adapter" / "adapter_config.json")["r"] == 4
    assert "learning rate 0.002" in " ".join(event["text"] for event in second.events("notice"))
    with pytest.raises(UserError, match="was trained in seed-binary"):
        train(workspace, {**FEW, "data": data, "model": f"run:{first.id}", "prompt_format": "guardreasoner"})


def test_full_fine_tuning_and_from_an_adapter(workspace, data, tiny_model):
    settings = {**FEW, "data": data, "validation_share": 0.25, "lr": 1e-3}
    run = train(workspace, {**settings, "model": str(tiny_model), "tuning": "full"})
    assert (run.dir / "model" / "model.safetensors").exists()
    assert run.report["trained_parameters"] == run.report["model"]["parameters"]
    assert losses(run)[-1] < losses(run)[0]
    assert load_model(f"run:{run.id}", workspace.runs_dir, device="cpu").prompt_format == "seed-binary"
    adapter = train(workspace, {**settings, "model": f"run:{run.id}"})
    merged = train(workspace, {**settings, "model": f"run:{adapter.id}", "tuning": "full"})
    assert "merged into its base" in " ".join(event["text"] for event in merged.events("notice"))
    assert losses(merged)[0] < losses(run)[0]


def test_qlora_on_a_cpu(workspace, data, tiny_model):
    pytest.importorskip("bitsandbytes")
    run = train(workspace, {**FEW, "data": data, "model": str(tiny_model), "tuning": "qlora", "epochs": 0.5, "validation_share": 0.25})
    assert run.report["steps"] == 3
    assert run.report["model"]["quantization"] == "nf4"
    assert losses(run)[-1] < losses(run)[0]
    import torch
    from safetensors.torch import load_file

    weights = load_file(run.dir / "adapter" / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}, "small steps would round to none in bfloat16"


def test_two_trainings_in_one_process_draw_their_curves_in_folders_of_their_own(tmp_path, monkeypatch):
    """As the two agents of waltz-sft do; a folder that the person named is left alone."""
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "")  # so that both are as they were afterwards
    monkeypatch.setenv("WANDB_DIR", "chosen")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR")
    job = TuneJob(model="m", activation_checkpointing="off", device="cpu")
    for folder in (tmp_path / "first", tmp_path / "second"):
        arguments(job, SimpleNamespace(dir=folder, id="run"), SimpleNamespace(steps=4, passes_per_step=1), None, False, "cpu", 8)
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(folder / "tensorboard")
        assert os.environ["WANDB_DIR"] == "chosen"


def test_two_processes_learn_what_one_does(workspace, data, tiny_model):
    """torchrun with two CPU processes of batch 2 against one of batch 4; stopped as the training begins, and resumed."""
    settings = {**FEW, "data": data, "model": str(tiny_model), "validation_share": 0.25, "epochs": 12}
    one = train(workspace, settings)
    two = create(workspace, workspace.plugins.method("rsft"), {**settings, "batch_size": 1, "accumulation": 2, "processes": 2})
    workspace.store.enqueue(two.id, "compute")
    pump(workspace)
    wait_for(lambda: "rows held out" in "".join(two.log_tail(30)), "the rows, after which the training begins")
    (two.dir / "stop").touch()
    assert finish(workspace, two) == "stopped", two.log_tail(30)
    assert two.checkpoints()
    resume(workspace, two)
    assert finish(workspace, two) == "succeeded", two.log_tail(30)
    assert (two.report["processes"], two.report["rows_per_step"]) == (2, 4)
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    assert two.report["losses"]["eval"] == pytest.approx(one.report["losses"]["eval"], abs=1e-5)
    assert two.report["losses"]["eval_margin"] == pytest.approx(one.report["losses"]["eval_margin"], abs=1e-4)


def test_rows_of_test_sets_are_refused_or_dropped_or_on_record(workspace, data, tiny_model):
    test_rows = [*examples(2), GuardExample(prompt="Something else.", labels=examples(1)[0].labels)]
    workspace.store.register_test_keys("my-test", "data-0001", keys_to_register(test_rows))
    settings = {**FEW, "data": data, "model": str(tiny_model), "validation_share": 0}
    found = look(workspace, "rsft", settings)
    assert "2 rows of registered test sets: my-test (2)" in found.errors[0].message
    assert found.errors[0].fix == {"exclude_test_rows": True}
    with pytest.raises(UserError, match="my-test"):
        train(workspace, settings)
    dropped = train(workspace, {**settings, "exclude_test_rows": True})
    assert dropped.report["rows"]["train"]["used"] == 22
    assert dropped.report["split_guard"]["test_rows_dropped"] == 2
    used = train(workspace, {**settings, "allow_test_rows": True})
    assert used.report["test_rows_overridden"] is True
    assert used.report["split_guard"]["test_rows_used"] == 2
    (said,) = trained_on(f"run:{used.id}", workspace).overrides
    assert "2 rows of registered test sets were used" in said["text"]
    assert "2 rows of registered test sets were trained on" in (used.dir / "README.md").read_text()


def test_long_rows_are_shown_before_and_after(workspace, data, tiny_model):
    settings = {**FEW, "data": data, "model": str(tiny_model), "validation_share": 0, "max_length": 90}
    warned = next(problem for problem in look(workspace, "rsft", settings).problems if problem.field == "max_length")
    assert "of 24 rows (" in warned.message
    assert "would be left out. The longest needs" in warned.message
    assert warned.fix["max_length"] % 64 == 0
    assert not look(workspace, "rsft", {**settings, **warned.fix}).problems
    run = train(workspace, settings)
    count = run.report["rows"]["train"]["dropped_too_long"]
    assert 0 < count < 24
    assert f"{count} of 24 rows" in " ".join(event["text"] for event in run.events("notice"))
    refused = look(workspace, "rsft", {**settings, "on_long_rows": "error"})
    assert refused.errors[0].field == "max_length"


def test_check_says_what_to_do(workspace, data, tiny_model, tmp_path, monkeypatch):
    good = {**FEW, "data": data, "model": str(tiny_model)}
    answer = look(workspace, "rsft", {**good, "batch_size": 4, "accumulation": 2})
    assert not answer.errors
    assert "4 x 2 x 1 = 8 rows a step" in answer.estimate.note
    assert answer.estimate.tokens > 0
    assert answer.estimate.seconds_low < answer.estimate.seconds < answer.estimate.seconds_high
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    wrong = {
        "nowhere": {"data": "nowhere"}, "no model reference": {"model": "nothing-here"},
        "weights cannot be had": {"model": "mistral:large"}, "no prompt format": {"prompt_format": "guard-reasoner"},
        "not trained": {"prompt_format": "llama-guard-3"},
        "pip install wandb": {"report_to": "wandb"}, "pip install bitsandbytes": {"tuning": "qlora"},
        "is not on this machine": {"device": "cuda:9"}, "runs in one process": {"tuning": "qlora", "processes": 2},
        "validation_share": {"early_stopping_patience": 2, "validation_share": 0}}
    for words, change in wrong.items():
        errors = look(workspace, "rsft", {**good, **change}).errors
        assert any(words in problem.message for problem in errors), (words, errors)
    bare = [GuardExample(prompt="Is this safe?", labels=examples(1)[0].labels)]
    mixed = look(workspace, "rsft", {**good, "data": write(tmp_path / "mixed.jsonl", [*examples(9), *bare])})
    assert "1 of 10 rows (10.0 %) cannot be trained" in mixed.problems[0].message
    tested = [row.model_copy(update={"split": "test"}) for row in examples(3)]
    assert "only test rows" in look(workspace, "rsft", {**good, "data": write(tmp_path / "test.jsonl", tested)}).errors[0].message


def test_presets_are_valid_and_say_what_they_are(workspace, data):
    method = workspace.plugins.method("rsft")
    for name, settings in method.presets.items():
        config = validate(method, {**settings, "data": data})
        assert method.preset_help[name]
        rows = config.batch_size * config.gradient_accumulation_steps
        assert rows == {"paper": 384, "seed-plan": 32}.get(name, rows)
    assert next(iter(method.presets)) == "rehearsal", "the first one fills the form"


def test_rows_of_one_prompt_stay_on_one_side_and_the_sets_own_split_is_kept():
    from core.lm.sft_data import divided, limited

    rows = [row for row in examples(40) for _ in range(2)]
    train_rows, held_out, _ = divided(rows, 0.2)
    assert len(held_out) == 16
    assert not {row.prompt for row in train_rows} & {row.prompt for row in held_out}
    assert divided(list(reversed(rows)), 0.2)[1] == list(reversed(held_out)), "the order of the file does not matter"
    marked = [row.model_copy(update={"split": "validation" if place < 4 else "train"}) for place, row in enumerate(examples(9))]
    assert len(divided(marked, 0.5)[1]) == 4
    assert limited(rows, 10, 1) == limited(rows, 10, 1) != limited(rows, 10, 2)
