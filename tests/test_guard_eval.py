"""The guard-eval and compare-evals methods: asking several models, resuming after a kill, seen rows, checks, joined reports."""

import json
import os
import signal
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from core import UserError
from core.active import ActiveRun, StopRequested
from core.evals.predictions import read_predictions
from core.files import write_json
from core.jobs import resume, stop, submit
from core.lm.generate import Generated
from core.methods import validate
from core.preflight import look
from core.runs import Workspace, config_yaml, update_status
from core.split_guard import TRAINED_KEYS, prompt_key
from tests.helpers import finish, wait_for


@pytest.fixture
def workspace(tmp_path):
    workspace = Workspace(tmp_path / "runs")
    yield workspace
    for run in workspace.runs():
        if run.state == "running" and run.status.get("process"):
            stop(workspace, run, force=True)


@pytest.fixture
def rows(tmp_path):
    """40 labelled rows from two sources; "bad" in the prompt means harmful."""
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{'bad' if n % 2 else 'good'} question {n}", "source": "ab"[n % 4 > 1],
                                        "labels": {"request": "harmful" if n % 2 else "unharmful"}}) + "\n" for n in range(40)))
    return str(path)


@dataclass
class Fake:
    """Stands for the models: what each answers, how often it was asked, and when to fail."""

    answers: dict
    asked: list
    fail_after: int = -1
    stop: object = None


@pytest.fixture
def fake(monkeypatch):
    """No weights: `embedded` answers by the word "bad", others as the test says."""
    fake = Fake({"embedded": lambda text: "Step 1: The request is harmful.\nLabel: harmful" if "bad" in text else
                 "Step 1: The request is safe.\nLabel: safe"}, [])

    def generate(loaded, prompts, *, indices, **settings):
        for number, (index, text) in enumerate(zip(indices, prompts, strict=True)):
            if number == fake.fail_after:
                raise KeyboardInterrupt
            if settings["should_stop"]():
                return
            fake.asked.append((loaded.ref, index, text, settings))
            yield Generated(index, 0, fake.answers[loaded.ref](text), (1, 2, 3), 5, "stop", 0.1)

    monkeypatch.setattr("core.lm.generate.generate", generate)
    monkeypatch.setattr("core.lm.load.load_model", lambda ref, *_, **__: SimpleNamespace(
        ref=str(ref), tokenizer=None, device="cpu", dtype="float32", quantization=None))
    monkeypatch.setattr("core.lm.template.render_chat", lambda _, text: f"<chat>{text}")
    monkeypatch.setattr("core.evals.asking._free_memory", lambda: None)
    monkeypatch.setattr("core.evals.prompting.FALLBACK", "seed-binary")  # the answers are generated; tests/test_choose.py has the rest
    return fake


def new_run(workspace, method="guard-eval", **settings):
    config = validate(workspace.plugins.method(method), settings)
    return ActiveRun(workspace, workspace.create(method, config).id), config


def evaluate(workspace, method="guard-eval", **settings):
    run, config = new_run(workspace, method, **settings)
    workspace.plugins.method(method)(workspace).run(config, run)
    update_status(run.dir, state="succeeded")
    return run


def trained_run(workspace, name, prompts, *, prompt_format="seed-binary", **config):
    """A finished training run with an adapter that is never loaded."""
    folder = workspace.runs_dir / name
    (folder / "adapter").mkdir(parents=True)
    (folder / "config.yaml").write_text(config_yaml("rsft", {"model": "embedded", **config}))
    write_json(folder / "status.json", {"state": "succeeded", "method": "rsft", "stage": "training", "created": 1.0})
    write_json(folder / "adapter" / "adapter_config.json", {"base_model_name_or_path": "embedded"})
    write_json(folder / "adapter" / "guardwaltz.json", {"base": "embedded", "prompt_format": prompt_format})
    (folder / "adapter" / "adapter_model.safetensors").touch()
    (folder / TRAINED_KEYS).write_text("".join(prompt_key(text) + "\n" for text in prompts))
    return f"run:{name}"


def test_one_model(workspace, rows, fake):
    run = evaluate(workspace, model="embedded", data=rows)
    report = run.report
    (entry,) = report["tasks"]["request"]["models"]
    assert entry["scores"]["strict"]["f1"]["value"] == 1.0
    assert entry["title"].startswith("SmolLM2-135M-Instruct")
    assert (entry["prompt_format"], entry["tokens_mean"], entry["coherent"]["value"]) == ("seed-binary", 3.0, 1.0)
    assert set(entry["by_source"]) == {"a", "b"}
    assert report["tasks"]["request"]["baselines"][0]["scores"]["strict"]["accuracy"]["value"] == 0.5
    assert {gate["name"]: gate["verdict"] for gate in report["gates"]} == {
        "accuracy (request)": "PASS", "coherent reasoning": "PASS", "go/no-go": "PASS", "more accurate than always harmful": "PASS"}
    assert (report["data"]["rows"], report["data"]["sampled"], report["data"]["split"]) == (40, False, "all")
    assert any("zero-shot" in note for note in report["notes"])
    assert run.status["stats"]["Go/no-go"] == "PASS"
    assert fake.asked[0][2].startswith("<chat>Analyze this content for safety:")
    assert fake.asked[0][3]["max_new_tokens"] == 512


@pytest.mark.usefixtures("fake")
def test_the_quick_preset_draws_rows_by_label_and_source(workspace, rows):
    first = evaluate(workspace, model="embedded", data=rows, limit=20)
    again = evaluate(workspace, model="embedded", data=rows, limit=20)
    prompts = [item.prompt for item in read_predictions(first.dir / "predictions.jsonl")]
    assert prompts == [item.prompt for item in read_predictions(again.dir / "predictions.jsonl")]
    assert len(prompts) == 20
    assert prompts != [f"{'bad' if n % 2 else 'good'} question {n}" for n in range(20)]
    assert first.report["tasks"]["request"]["gold"] == {"harmful": 10, "unharmful": 10}
    assert (first.report["data"]["sampled"], first.report["data"]["of"]) == (True, 40)
    assert workspace.plugins.method("guard-eval").presets["quick"] == {"limit": 100}


def test_several_models_on_the_same_rows_with_rows_seen_in_training(workspace, rows, fake):
    ref = trained_run(workspace, "rsft-0001", ["BAD question  1", "good question 2", "elsewhere"], allow_test_rows=True)
    fake.answers[ref] = lambda _: "Step 1: The request is safe.\nLabel: safe"
    run = evaluate(workspace, models=["embedded", ref], data=rows, reference=ref)
    report = run.report
    base, tuned = report["tasks"]["request"]["models"]
    assert (base["seen"]["rows"], base["seen"]["scores_without"]) == (0, None)
    assert (tuned["seen"]["rows"], tuned["seen"]["runs"]) == (2, ["rsft-0001"])
    assert tuned["seen"]["scores_without"]["strict"]["n"] == 38
    assert [line["run"] for line in report["overrides"]] == ["rsft-0001"]
    assert any("allow_test_rows" in event["text"] for event in run.events("notice"))
    lines = {line["policy"]: line for line in report["tasks"]["request"]["comparisons"]}
    assert (lines["strict"]["a"], lines["strict"]["b"], lines["strict"]["mcnemar"]["only_b"]) == (ref, "embedded", 20)
    assert "McNemar" in report["headline"]
    assert tuned["title"] == "rsft-0001"
    seen = {item.prompt for item in read_predictions(run.dir / "predictions.jsonl") if item.seen_in_training}
    assert seen == {"bad question 1", "good question 2"}


def without_times(report):
    for entry in report["tasks"]["request"]["models"]:
        del entry["seconds"], entry["seconds_rows"]
    return report


def test_a_killed_run_asks_only_what_is_open(workspace, rows, fake):
    ref = trained_run(workspace, "rsft-0001", [])
    fake.answers[ref] = fake.answers["embedded"]
    whole = evaluate(workspace, models=["embedded", ref], data=rows).report
    fake.asked.clear()
    run, config = new_run(workspace, models=["embedded", ref], data=rows)
    method = workspace.plugins.method("guard-eval")(workspace)
    fake.fail_after = 15
    with pytest.raises(KeyboardInterrupt):
        method.run(config, run)
    path = run.dir / "predictions.jsonl"
    path.write_bytes(path.read_bytes()[:-30])  # torn while writing: the last answer counts as not given
    fake.fail_after = -1
    method.run(config, run)
    assert [ref for ref, *_ in fake.asked].count("embedded") == 15 + 26
    assert [index for name, index, *_ in fake.asked if name == "embedded"] == [*range(15), *range(14, 40)], "each keeps its number"
    assert len(list(read_predictions(path))) == 80
    assert without_times(run.report) == without_times(whole)


def test_a_stopped_run_keeps_its_answers(workspace, rows, fake):
    run, config = new_run(workspace, model="embedded", data=rows)
    fake.answers["embedded"] = lambda text: [(run.dir / "stop").touch() if "question 7" in text else None, "Label: safe"][1]
    with pytest.raises(StopRequested):
        workspace.plugins.method("guard-eval")(workspace).run(config, run)
    assert len(list(read_predictions(run.dir / "predictions.jsonl"))) == 8
    assert run.report is None


@pytest.mark.usefixtures("fake")
def test_changed_rows_are_refused_on_resume(workspace, rows, tmp_path):
    run = evaluate(workspace, model="embedded", data=rows)
    text = (tmp_path / "set.jsonl").read_text().replace("question 3\"", "other 3\"")
    (tmp_path / "set.jsonl").write_text(text)
    config = validate(workspace.plugins.method("guard-eval"), run.config)
    with pytest.raises(UserError, match=r"rows have changed since eval-0001 began \(its row 3"):
        workspace.plugins.method("guard-eval")(workspace).run(config, run)


@pytest.mark.usefixtures("fake")
def test_prompts_that_do_not_fit_are_counted(workspace, rows, monkeypatch):
    monkeypatch.setattr("core.lm.generate.generate", lambda _, prompts, *, indices, **__: (
        Generated(index, 0, "", (), 9000, "length", 0.0, "too long") for index, _ in zip(indices, prompts, strict=True)))
    report = evaluate(workspace, model="embedded", data=rows).report
    assert any("40 prompts did not fit" in note for note in report["notes"])
    assert report["tasks"]["request"]["models"][0]["scores"]["strict"]["unparsed"]["value"] == 1.0
    assert report["tasks"]["request"]["models"][0]["scores"]["drop"]["f1"]["value"] is None
    assert report["gates"][-1]["verdict"] == "FAIL"


def problems_of(workspace, **values):
    return [(problem.field, problem.severity, problem.message) for problem in look(workspace, "guard-eval", values).problems]


def test_what_check_says(workspace, rows, tmp_path):
    def first(**values):
        return problems_of(workspace, **values)[0]

    assert first()[:2] == ("models", "error")
    assert first(model="embedded")[:2] == ("data", "error")
    assert first(model="embedded", predictions="x.jsonl", data=rows)[0] == "predictions"
    assert first(model="embedded", data="nowhere")[0] == "data"
    assert "no imported set" in first(model="embedded", data="nowhere")[2]
    assert first(model="embedded", data=rows, task="response")[0] == "task"
    assert first(model="embedded", data=rows, split="validation")[0] == "split"
    assert first(model="embedded", data=rows, prompt_format="nope")[0] == "prompt_format"
    assert first(model="run:gone-0001", data=rows)[0] == "models"
    assert "hosted" in first(model="mistral:small", data=rows)[2]
    assert first(model="embedded", data=rows, reference="other")[0] == "reference"
    assert first(model="embedded", data=rows, parse_rule="official", prompt_format="wildguard")[0] == "parse_rule"
    assert first(predictions=str(tmp_path / "none.jsonl"))[:2] == ("predictions", "error")
    assert "twice" in first(models=["embedded", "embedded"], data=rows)[2]
    (only,) = problems_of(workspace, model="embedded", data=rows)
    assert only[:2] == ("prompt_format", "warning")
    ref = trained_run(workspace, "rsft-0001", ["bad question 1"])
    (seen,) = problems_of(workspace, model=ref, data=rows)
    assert seen[0] == "data"
    assert "trained on 1 of the 40 rows" in seen[2]
    assert "was trained in seed-binary" in problems_of(workspace, model=ref, data=rows, prompt_format="guardreasoner")[0][2]


def test_the_estimate_counts_rows_and_models(workspace, rows):
    settings = {"models": ["embedded"], "data": rows, "limit": 10, "device": "cpu", "prompt_format": "seed-binary"}
    answer = look(workspace, "guard-eval", settings)
    assert answer.estimate is not None
    assert answer.estimate.tokens == 2500
    assert answer.estimate.note == "10 rows, 1 model"


def test_a_rule_that_a_format_lacks_is_never_replaced_silently(workspace, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "Human user:\na\n\nAI assistant:\nNone\n\n", "label": "harmful", "predict": "unsafe\nS1"}) + "\n")
    report = evaluate(workspace, predictions=str(path), prompt_format="llama-guard-3").report
    assert report["tasks"]["request"]["models"][0]["scores"]["strict"]["tp"] == 1
    assert "Labels were read by the parser of llama-guard-3." in report["notes"]
    with pytest.raises(UserError, match="llama-guard-3 has no official rule"):
        evaluate(workspace, predictions=str(path), prompt_format="llama-guard-3", parse_rule="official")


@pytest.mark.usefixtures("fake")
def test_a_format_that_lacks_the_label_is_said(workspace, tmp_path):
    path = tmp_path / "refusals.jsonl"
    path.write_text(json.dumps({"prompt": "p", "response": "r", "labels": {"completion": "refusal"}}) + "\n")
    problems = problems_of(workspace, model="embedded", data=str(path))
    assert any(severity == "error" and "gives no label" in message for _, severity, message in problems)
    with pytest.raises(UserError, match="None of the models can give the labels"):
        evaluate(workspace, model="embedded", data=str(path))


def test_compare_evals(workspace, rows, fake):
    ref = trained_run(workspace, "rsft-0001", ["bad question 1"])
    fake.answers[ref] = lambda _: "Label: safe"
    one = evaluate(workspace, model="embedded", data=rows)
    two = evaluate(workspace, models=[ref, "embedded"], data=rows, limit=30)
    run = evaluate(workspace, "compare-evals", runs=[one.id, f"run:{two.id}"])
    report = run.report
    task = report["tasks"]["request"]
    assert [entry["model"] for entry in task["models"]] == ["embedded (eval-0001)", ref, "embedded (eval-0002)"]
    assert {entry["rows"] for entry in task["models"]} == {30}
    assert any("30 rows in common" in note for note in report["notes"])
    lines = {line["b"]: line for line in task["comparisons"] if line["policy"] == "strict"}
    assert lines["embedded (eval-0002)"]["mcnemar"]["p_value"] == 1.0
    assert lines[ref]["mcnemar"]["only_a"] == 15
    assert set(report) == set(one.report)
    assert len(list(read_predictions(run.dir / "predictions.jsonl"))) == 90
    assert {item["eval"] for item in report["data"]["runs"]} == {one.id, two.id}
    with pytest.raises(UserError, match="two or more different runs"):
        validate(workspace.plugins.method("compare-evals"), {"runs": [one.id, one.id]})
    with pytest.raises(UserError, match="runs of guard-eval"):
        evaluate(workspace, "compare-evals", runs=[one.id, "rsft-0001"])
    with pytest.raises(UserError, match="reference = x is none of"):
        evaluate(workspace, "compare-evals", runs=[one.id, two.id], reference="x")


@pytest.mark.kill
def test_kill_minus_nine_and_resume_with_a_real_model(workspace, tmp_path):
    from core.lm.tiny import make_tiny

    make_tiny(tmp_path / "tiny")
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"question {n}", "labels": {"request": ("harmful", "unharmful")[n % 2]}}) + "\n"
                            for n in range(300)))
    run = submit(workspace, "guard-eval", {"model": str(tmp_path / "tiny"), "data": str(path), "prompt_format": "seed-binary",
                                           "max_new_tokens": 48, "device": "cpu", "dtype": "float32"})
    answers = run.dir / "predictions.jsonl"
    wait_for(lambda: answers.exists() and answers.read_bytes().count(b"\n") > 10, "the first answers")
    os.kill(run.status["process"]["pid"], signal.SIGKILL)
    wait_for(lambda: run.state == "lost", "the loss to show")
    kept = answers.read_bytes().count(b"\n")
    assert 10 < kept < 300
    first = answers.read_bytes().split(b"\n")[0]
    resume(workspace, run)
    assert finish(workspace, run, 120) == "succeeded", run.log_tail()
    assert answers.read_bytes().split(b"\n")[0] == first
    found = sorted(item.row for item in read_predictions(answers))
    assert found == list(range(300)), "no row is lost or asked twice"
    assert f"{kept} answers from before are kept" in (run.dir / "log.txt").read_text()
    assert run.report["tasks"]["request"]["rows"] == 300
