"""guard-eval hard_subset=k: which rows are hard, fresh answers for everybody, the seeds' gates, lengths, kill and resume."""

import json
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import Labels, MinedSample, Output, Prediction, UserError
from core.active import ActiveRun, StopRequested
from core.evals.hard_subset import FILE, HardChoice, HardRows, HardSubset, hard_seed, read_hard_rows
from core.evals.lengths import answer_lengths, mean_and_median
from core.evals.report import About, Model, Options, build_report
from core.files import write_json
from core.gates import gate_gain, gate_not_worse, rows_needed
from core.intervals import Interval
from core.jobs import resume, stop, submit
from core.lm.generate import Generated
from core.methods import validate
from core.mining.samples import as_hard
from core.preflight import look
from core.records import read_records, write_records
from core.runs import Workspace, config_yaml, update_status
from core.ui.evaluation_hard import hard_card
from core.ui.evaluation_page import EvaluationPage
from tests.helpers import finish, wait_for

H, U = "harmful", "unharmful"


# ---- gates ----


def test_rows_that_a_gain_of_five_points_needs():
    assert rows_needed(0.05, 0.2) == 626, "papers.md, part C: about 630"
    assert rows_needed(0.05, 0.3) > rows_needed(0.05, 0.2) > rows_needed(0.10, 0.2)
    assert rows_needed(0.05, 0.0) == rows_needed(0.05, 0.05), "a difference of 5 points needs 5 % of discordant rows"
    for wrong in ((0.0, 0.2), (0.05, 1.2), (2.0, 0.5)):
        with pytest.raises(ValueError, match="must lie in"):
            rows_needed(*wrong)


def test_the_rows_needed_do_give_the_power():
    """2,000 draws of so many rows with a true gain of 5 points: the normal test of McNemar finds it in 80 % of them."""
    n = rows_needed(0.05, 0.2)
    only_a, only_b = np.random.default_rng(0).multinomial(n, [0.075, 0.125, 0.8], 2000).T[:2]
    found = (only_b - only_a) / np.sqrt(only_a + only_b) > 1.959964
    assert found.mean() == pytest.approx(0.8, abs=0.03)


def difference(value, low, high, n):
    return Interval(value=value, low=low, high=high, n=n)


@pytest.mark.parametrize(("interval", "p", "discordant", "verdict", "words"), [
    (difference(0.12, 0.06, 0.18, 100), 0.001, 20, "PASS", "whole interval is at least 5 points more"),
    (difference(0.07, 0.03, 0.11, 700), 0.001, 140, "PASS", "626 needed"),
    (difference(0.07, 0.01, 0.13, 200), 0.03, 40, "INSUFFICIENT DATA", "about 626 rows with 20% of the rows decided differently; here"),
    (difference(0.06, -0.01, 0.13, 700), 0.09, 140, "INSUFFICIENT DATA", "p = 0.090"),
    (difference(0.02, -0.02, 0.07, 700), 0.4, 140, "INSUFFICIENT DATA", "about 626 rows"),
    (difference(0.01, -0.02, 0.04, 900), 0.5, 180, "FAIL", "less than 5 points more"),
    (difference(1.0, 1.0, 1.0, 5), 0.0625, 5, "INSUFFICIENT DATA", "p = 0.062"),
    (difference(0.30, 0.06, 0.60, 10), 0.25, 3, "INSUFFICIENT DATA", "p = 0.250"),
    (difference(0.0, 0.0, 0.0, 5), 1.0, 0, "INSUFFICIENT DATA", "p = 1.000"),
    (difference(0.0, 0.0, 0.0, 200), 1.0, 0, "FAIL", "less than 5 points more"),
    (difference(-1.0, -1.0, -1.0, 20), 0.001, 20, "FAIL", "less than 5 points more"),
    (difference(None, None, None, 0), 1.0, 0, "INSUFFICIENT DATA", "about 626 rows if 20% of them are decided differently; here are 0"),
])
def test_the_gain_gate(interval, p, discordant, verdict, words):
    gate, _ = gate_gain("gain", interval, 0.05, p_value=p, discordant=discordant)
    assert gate.verdict == verdict
    assert words in gate.explanation
    assert gate.rule.startswith("at least 5 points more, paired p < 0.05; on ")
    assert gate.interval == interval, "what is printed is what was measured"


@pytest.mark.parametrize(("n", "verdict"), [(5, "INSUFFICIENT DATA"), (188, "INSUFFICIENT DATA"), (189, "PASS")])
def test_rows_that_are_all_alike_prove_little(n, verdict):
    """No row decided differently: a loss of 2 points is ruled out from 189 rows on (Wilson: 3.84 / (n + 3.84) <= 0.02)."""
    gate = gate_not_worse("kept", difference(0.0, 0.0, 0.0, n), 0.02)
    assert gate.verdict == verdict
    assert ("all alike" in gate.explanation) == (verdict != "PASS")


@given(st.floats(-1, 1), st.floats(0.001, 0.5), st.floats(0, 0.5), st.floats(0, 0.2))
def test_not_worse_is_decided_by_the_whole_interval(value, below, above, margin):
    interval = difference(value, value - below, value + above, 50)
    gate = gate_not_worse("kept", interval, margin)
    expected = "PASS" if interval.low >= -margin else "FAIL" if interval.high < -margin else "INSUFFICIENT DATA"
    assert gate.verdict == expected
    assert gate.rule.endswith("worse")
    assert gate.threshold == -margin


def test_a_margin_below_zero_is_refused():
    with pytest.raises(ValueError, match="margin"):
        gate_not_worse("kept", difference(0, 0, 0, 1), -0.1)


# ---- lengths ----


@given(st.lists(st.integers(1, 60), min_size=2, max_size=80), st.integers(0, 3))
def test_mean_and_median(values, seed):
    found = mean_and_median(values, seed, draws=200)
    assert found["mean"]["value"] == pytest.approx(np.mean(values))
    assert found["median"]["value"] == pytest.approx(np.median(values))
    for name in ("mean", "median"):
        assert min(values) - 1e-9 <= found[name]["low"] <= found[name]["value"] <= found[name]["high"] <= max(values) + 1e-9
        assert found[name]["n"] == len(values)


def test_the_interval_of_a_mean_is_that_of_the_normal_approximation():
    values = np.random.default_rng(0).poisson(250, 400).tolist()
    found = mean_and_median(values, 0)["mean"]
    half = 1.96 * np.std(values) / np.sqrt(len(values))
    assert found["high"] - found["value"] == pytest.approx(half, rel=0.1)
    assert found["value"] - found["low"] == pytest.approx(half, rel=0.1)


def test_one_answer_has_no_spread_and_answers_from_files_no_tokens():
    assert mean_and_median([7], 0)["mean"] == {"value": None, "low": None, "high": None, "n": 1}
    rows = [said(n, H, H, tokens=0, steps=n) for n in range(3)]
    assert answer_lengths(rows, 0)["tokens"] is None
    assert answer_lengths(rows, 0)["steps"]["mean"]["value"] == 1.0
    assert answer_lengths([said(0, H, H, coherent=None)], 0)["steps"] is None


# ---- the section of the report ----


def said(number, gold, predicted, model="ref", *, tokens=9, steps=2, coherent=True):
    return Prediction(row=number, model=model, prompt=f"q {number}", gold=Labels(request=gold), predicted=Labels(request=predicted),
                      parsed={"request": predicted is not None}, text="t", reasoning=["a step"] * steps, coherent=coherent, tokens=tokens)


def sample(row, labels, gold=H):
    return MinedSample(row=row, prompt=f"q {row}", gold=Labels(request=gold), model="ref", prompt_format="guardreasoner",
                       outputs=[Output(text="t", predicted=Labels(request=label)) for label in labels])


def test_hard_rows_are_those_of_mining(tmp_path):
    samples = [sample(0, [H, H, H]), sample(1, [H, U, None]), sample(2, [U, U, U]), sample(3, [H, None, None]), sample(4, [U, H, H])]
    write_records(tmp_path / FILE, samples)
    found = read_hard_rows(tmp_path / FILE)["request"]
    assert found == HardRows(frozenset({1, 4}), {"all right": 1, "hard": 2, "all wrong": 1, "unparsed": 1})
    assert found.rows == {item.row for item in samples if as_hard(item)}


def test_hard_is_asked_for_each_task_by_itself(tmp_path):
    one = MinedSample(row=0, prompt="q", response="r", gold=Labels(request=H, response=U), model="m", prompt_format="f", outputs=[
        Output(text="", predicted=Labels(request=H, response=U)), Output(text="", predicted=Labels(request=H, response=H))])
    write_records(tmp_path / FILE, [one])
    found = read_hard_rows(tmp_path / FILE)
    assert (found["request"].rows, found["response"].rows) == (frozenset(), {0})


def report_of(right, hard, **options):
    """right: {model: which rows it has right}; rows alternate harmful and unharmful."""
    rows = len(next(iter(right.values())))
    predictions = []
    for model, answers in right.items():
        for number, correct in enumerate(answers):
            gold, other = (H, U) if number % 2 == 0 else (U, H)
            predictions.append(said(number, gold, gold if correct else other, model))
    subset = HardSubset(HardChoice(4), "ref", "R-SFT", 7, {"request": HardRows(frozenset(hard), {"hard": len(hard),
                                                                                                 "all right": rows - len(hard)})})
    models = [Model(name, name.upper(), "guardreasoner") for name in right]
    return build_report("guard-eval", predictions, models, Options(**options), About({}), subset)


def test_numbers_on_the_hard_rows_and_overall():
    report = report_of({"ref": [n >= 30 for n in range(100)], "dpo": [n >= 10 for n in range(100)]}, range(40))
    section = report["hard_subset"]["tasks"]["request"]
    assert (section["hard"]["value"], section["hard"]["n"], section["rows"], section["kinds"]["hard"]) == (0.4, 100, 100, 40)
    ref, dpo = section["models"]
    assert [entry["scores"]["strict"]["accuracy"]["value"] for entry in (ref, dpo)] == [0.25, 0.75]
    assert set(ref["scores"]["strict"]["per_class"]) == {H, U}
    assert [entry["scores"]["strict"]["accuracy"]["value"] for entry in report["tasks"]["request"]["models"]] == [0.7, 0.9]
    assert ref["length"]["tokens"]["mean"]["value"] == 9.0
    on_hard = next(line for line in section["comparisons"] if line["policy"] == "strict")
    assert (on_hard["rows"], on_hard["mcnemar"]["only_b"], on_hard["accuracy_difference"]["value"]) == (40, 20, 0.5)
    overall = next(line for line in report["tasks"]["request"]["comparisons"] if line["policy"] == "strict")
    assert (overall["rows"], overall["accuracy_difference"]["value"]) == (100, pytest.approx(0.2))
    assert "regression to the mean" in report["hard_subset"]["why"]
    assert "4 samples of R-SFT" in report["hard_subset"]["why"]
    json.dumps(report, allow_nan=False)


def gates_of(report, model):
    return {gate["name"]: gate for gate in report["gates"] if gate["model"] == model}


def test_the_seeds_gates():
    right = {"ref": [n >= 30 for n in range(100)], "three": [n >= 28 for n in range(100)], "dpo": [n >= 10 for n in range(100)]}
    report = report_of(right, range(40), rival="three")
    gates = gates_of(report, "dpo")
    gain = gates["hard-sample accuracy over REF"]
    assert (gain["verdict"], gain["threshold"], gain["interval"]["value"], gain["interval"]["n"]) == ("PASS", 0.05, 0.5, 40)
    assert gates["overall accuracy beside REF"]["verdict"] == "PASS"
    assert gates["more accurate than THREE"]["verdict"] == "PASS"
    for other in ("ref", "three"):
        assert not any("hard-sample" in name or "overall" in name for name in gates_of(report, other)), "these two are no candidates"
    worse = report_of({"ref": [True] * 100, "dpo": [n >= 20 for n in range(100)]}, range(30))
    assert gates_of(worse, "dpo")["overall accuracy beside REF"]["verdict"] == "FAIL"
    assert gates_of(worse, "dpo")["hard-sample accuracy over REF"]["verdict"] == "FAIL"
    few = gates_of(report_of({"ref": [n % 3 > 0 for n in range(30)], "dpo": [n % 4 > 0 for n in range(30)]}, range(12)), "dpo")
    undecided = few["hard-sample accuracy over REF"]
    assert undecided["verdict"] == "INSUFFICIENT DATA"
    assert f"about {undecided['rows_needed']:,} rows" in undecided["explanation"]
    assert undecided["rows_needed"] == rows_needed(0.05, 5 / 12)


def test_without_a_hard_row_nothing_is_decided():
    report = report_of({"ref": [True] * 20, "dpo": [True] * 20}, [])
    section = report["hard_subset"]["tasks"]["request"]
    assert (section["models"], section["comparisons"], section["hard"]["value"]) == ([], [], 0.0)
    gate = gates_of(report, "dpo")["hard-sample accuracy over REF"]
    assert (gate["verdict"], gate["rows_needed"]) == ("INSUFFICIENT DATA", 626)


def test_an_evaluation_without_hard_rows_and_rival_has_none_of_these_gates():
    predictions = [said(n, H, H, model) for model in ("a", "b") for n in range(20)]
    report = build_report("guard-eval", predictions, [Model(name, name, "f") for name in "ab"], Options(), About({}))
    assert "hard_subset" not in report
    assert not any("hard-sample" in gate["name"] or "overall accuracy" in gate["name"] for gate in report["gates"])


# ---- the method ----


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "by_length.py").write_text(FORMAT)
    monkeypatch.setenv("GUARDWALTZ_PLUGINS", str(folder))
    workspace = Workspace(tmp_path / "runs")
    yield workspace
    for run in workspace.runs():
        if run.state == "running" and run.status.get("process"):
            stop(workspace, run, force=True)


FORMAT = '''
"""A format that reads a label into anything, so that a random model gives right and wrong answers."""
from core import GuardExample, Labels, Parsed, PromptFormat, hookimpl


class ByLength(PromptFormat):
    """An answer with an even number of letters says harmful."""

    name = "by-length"
    title = "By length"

    @classmethod
    def prompt(cls, example):
        return example.prompt

    @classmethod
    def parse(cls, text, example=None):
        return Parsed(Labels(request="unharmful" if sum(map(str.isalpha, text)) % 2 else "harmful"), [])


@hookimpl
def register_formats():
    return [ByLength]
'''


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"question {n}", "labels": {"request": (H, U)[n % 2]}}) + "\n" for n in range(40)))
    return str(path)


def trained_run(workspace, name):
    folder = workspace.runs_dir / name
    (folder / "adapter").mkdir(parents=True)
    (folder / "config.yaml").write_text(config_yaml("rsft", {"model": "embedded"}))
    write_json(folder / "status.json", {"state": "succeeded", "method": "rsft", "stage": "training", "created": 1.0})
    write_json(folder / "adapter" / "adapter_config.json", {"base_model_name_or_path": "embedded"})
    write_json(folder / "adapter" / "guardwaltz.json", {"base": "embedded", "prompt_format": "seed-binary"})
    (folder / "adapter" / "adapter_model.safetensors").touch()
    return f"run:{name}"


@pytest.fixture
def engines(monkeypatch):
    """No weights. Samples that choose: every fourth row is mixed. Fresh answers: always the same label."""
    asked = SimpleNamespace(samples=[], fresh=[], stop_at=None)

    class Engine:
        promise = "Made up."

        def __init__(self, ref):
            self.ref = ref

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def answers(self, prompts, *, indices, should_stop, samples=1, **settings):
            if samples == 1:  # a fresh answer
                for index, _ in zip(indices, prompts, strict=True):
                    asked.fresh.append((self.ref, index, settings))
                    yield Generated(index, 0, "Step 1: A step.\nLabel: harmful", (1, 2, 3), 5, "stop", 0.1)
                return
            for number, (index, text) in enumerate(zip(indices, prompts, strict=True)):
                for place in range(samples):
                    if number == asked.stop_at:
                        raise KeyboardInterrupt
                    if should_stop():
                        return
                    asked.samples.append((index, place, text, settings))
                    label = (H, U)[(index + (place == 1 and index % 4 == 0)) % 2]
                    yield Generated(index, place, f"Step 1: A step.\nLabel: {label}", (1, 2), 5, "stop", 0.1)

    monkeypatch.setattr("core.lm.engines.open_engine", lambda ref, *_, **__: Engine(ref))
    monkeypatch.setattr("core.evals.asking._free_memory", lambda: None)
    return asked


def new_run(workspace, **settings):
    config = validate(workspace.plugins.method("guard-eval"), settings)
    return ActiveRun(workspace, workspace.create("guard-eval", config).id), config


def evaluate(workspace, **settings):
    run, config = new_run(workspace, **settings)
    workspace.plugins.method("guard-eval")(workspace).run(config, run)
    update_status(run.dir, state="succeeded")
    return run


def test_every_model_is_scored_on_fresh_answers(workspace, rows, engines):
    first, second = trained_run(workspace, "rsft-0001"), trained_run(workspace, "dpo-0001")
    run = evaluate(workspace, models=[first, second], data=rows, hard_subset=3, temperature=0.7)
    kept = list(read_records(run.dir / FILE, MinedSample))
    assert [item.row for item in kept] == list(range(40))
    assert {(item.model, len(item.outputs)) for item in kept} == {(first, 3)}
    (_, _, _, settings) = engines.samples[0]
    assert (settings["temperature"], settings["top_p"]) == (1.0, 0.95)
    assert settings["seed"] == hard_seed(42) != 42
    assert {item[2]["seed"] for item in engines.fresh} == {42}, "equal seed, row and sample number would be the choosing answer again"
    assert len(engines.fresh) == 80, "one fresh answer of every model to every row, the chooser included"
    section = run.report["hard_subset"]
    assert (section["k"], section["model"], section["temperature"]) == (3, first, 1.0)
    task = section["tasks"]["request"]
    assert task["hard_rows"] == list(range(0, 40, 4))
    assert {entry["model"]: entry["scores"]["strict"]["accuracy"]["value"] for entry in task["models"]} == {first: 1.0, second: 1.0}
    assert run.status["progress"]["total"] == 3 * 40 + 80


def test_a_killed_choice_goes_on_at_the_next_row(workspace, rows, engines):
    ref = trained_run(workspace, "rsft-0001")
    whole = evaluate(workspace, models=[ref], data=rows, hard_subset=4).dir / FILE
    engines.samples.clear()
    run, config = new_run(workspace, models=[ref], data=rows, hard_subset=4)
    engines.stop_at = 11
    with pytest.raises(KeyboardInterrupt):
        workspace.plugins.method("guard-eval")(workspace).run(config, run)
    with (run.dir / FILE).open("ab") as file:
        file.write(b'{"row":11,"pro')  # torn while writing
    engines.stop_at = None
    workspace.plugins.method("guard-eval")(workspace).run(config, run)
    assert (run.dir / FILE).read_bytes() == whole.read_bytes()
    assert [index for index, place, *_ in engines.samples if place == 0] == list(range(40)), "no row is sampled twice"


def test_stop_keeps_whole_rows_only(workspace, rows, engines):
    ref = trained_run(workspace, "rsft-0001")
    run, config = new_run(workspace, models=[ref], data=rows, hard_subset=4)
    (run.dir / "stop").touch()
    with pytest.raises(StopRequested):
        workspace.plugins.method("guard-eval")(workspace).run(config, run)
    assert run.report is None
    assert not engines.fresh


@pytest.mark.usefixtures("engines")
def test_samples_of_other_rows_are_refused_on_resume(workspace, rows, tmp_path):
    ref = trained_run(workspace, "rsft-0001")
    run = evaluate(workspace, models=[ref], data=rows, hard_subset=2)
    (tmp_path / "set.jsonl").write_text((tmp_path / "set.jsonl").read_text().replace("question 3\"", "other 3\""))
    with pytest.raises(UserError, match=r"hard_outputs.jsonl, line 4 is about another row"):
        workspace.plugins.method("guard-eval")(workspace).run(validate(workspace.plugins.method("guard-eval"), run.config), run)


@pytest.mark.usefixtures("engines")
def test_the_samples_are_of_no_use_to_build_pairs(workspace, rows):
    run = evaluate(workspace, models=[trained_run(workspace, "rsft-0001")], data=rows, hard_subset=2)
    if "build-pairs" not in workspace.plugins.methods:
        pytest.skip("there is no build-pairs here")
    method = workspace.plugins.method("build-pairs")
    config = validate(method, {"runs": [run.id]})
    into = ActiveRun(workspace, workspace.create("build-pairs", config).id)
    with pytest.raises(UserError, match="guard-eval"):
        method(workspace).run(config, into)


def problems_of(workspace, **values):
    return [(problem.field, problem.severity, problem.message) for problem in look(workspace, "guard-eval", values).problems]


def test_what_check_says(workspace, rows):
    def first(**values):
        return problems_of(workspace, data=rows, **values)[0]

    ref = trained_run(workspace, "rsft-0001")
    field, severity, message = first(models=[ref], hard_subset=1)
    assert (field, severity) == ("hard_subset", "error")
    assert "one sample is right or wrong" in message
    assert first(models=["embedded"], hard_subset=4, prompt_format="seed-binary")[:2] == ("hard_model", "error")
    zero_shot = [problem for problem in problems_of(workspace, data=rows, models=["embedded"], hard_subset=4, hard_model="embedded")
                 if problem[1] == "error"]
    assert "nothing can be sampled" in zero_shot[0][2]
    assert first(models=[ref], rival="embedded")[0] == "rival"
    assert "is the reference, too" in first(models=[ref, "embedded"], rival=ref)[2]
    assert problems_of(workspace, predictions="p.jsonl", hard_subset=4)[0][0] == "hard_subset"
    assert not [problem for problem in problems_of(workspace, models=[ref], data=rows, hard_subset=4) if problem[1] == "error"]


def test_the_estimate_counts_the_samples(workspace, rows):
    ref = trained_run(workspace, "rsft-0001")
    plain, hard = (look(workspace, "guard-eval", {"models": [ref], "data": rows, "hard_subset": k}).estimate.tokens for k in (0, 4))
    assert hard == 5 * plain


def test_the_page_shows_the_hard_rows(workspace, rows, engines):
    refs = [trained_run(workspace, name) for name in ("rsft-0001", "dpo-0001")]
    run = evaluate(workspace, models=refs, data=rows, hard_subset=4)
    update_status(run.dir, stage="evaluation")
    page = EvaluationPage(workspace)
    shown = "".join(page.shown(f"run={run.id}&which=hard"))
    for words in ("10 of 40 rows", "the others: 30 all right", "k = 4, T = 1, top-p 0.95, by rsft-0001", "Accuracy, hard rows",
                  "Accuracy, all rows", "F1 harmful, hard rows", "McNemar p, hard rows", "regression to the mean", "Tokens, median",
                  "Steps, mean", "hard 10", "Hard-sample accuracy over rsft-0001", "at least 5 points more, paired p"):
        assert words in shown, words
    assert shown.count('data-act="row"') == 10, "only the hard rows stand in the list"
    assert engines.samples


def test_a_page_without_a_hard_subset_says_nothing_of_it(workspace):
    predictions = [said(n, H, H) for n in range(12)]
    run = ActiveRun(workspace, workspace.create("guard-eval", validate(workspace.plugins.method("guard-eval"), {"models": ["m"]})).id)
    run.save_report(build_report("guard-eval", predictions, [Model("ref", "Ref", "f")], Options(), About({"name": "x"})))
    run.save_records("predictions", predictions)
    update_status(run.dir, state="succeeded", stage="evaluation")
    shown = "".join(EvaluationPage(workspace).shown("which=hard"))
    assert "Hard rows" not in shown
    assert shown.count('data-act="row"') == 12, "an old address with which=hard shows all rows"
    assert "Tokens, mean" in shown


def test_no_hard_row_is_said_with_what_to_change():
    report = report_of({"ref": [True] * 20, "dpo": [True] * 20}, [])
    card = str(hard_card(report, "request", "strict"))
    assert "There was none" in card
    assert "hard_temperature" in card
    assert hard_card({"tasks": {}}, "request", "strict") == ""


def test_a_server_is_evaluated_like_any_model(workspace, rows):
    from tests.fakes.openai_server import openai_server

    with openai_server() as server:
        ref = f"openai:guard@{server.url}"
        assert "a server does not tell how likely" in str(problems_of(workspace, models=[ref], data=rows))
        run = evaluate(workspace, models=[ref], data=rows, prompt_format="by-length", hard_subset=2, hard_model=ref)
    (entry,) = run.report["tasks"]["request"]["models"]
    assert (entry["title"], entry["rows"]) == ("guard", 40)
    assert run.report["hard_subset"]["tasks"]["request"]["rows"] == 40


@pytest.mark.kill
def test_kill_minus_nine_while_choosing_with_a_real_model(workspace, rows, tiny_model):
    settings = {"model": str(tiny_model), "data": rows, "prompt_format": "by-length", "hard_model": str(tiny_model), "hard_subset": 6,
                "max_new_tokens": 64, "device": "cpu", "dtype": "float32"}
    run = submit(workspace, "guard-eval", settings)
    samples = run.dir / FILE
    wait_for(lambda: samples.exists() and samples.read_bytes().count(b"\n") > 3, "the first rows")
    os.kill(run.status["process"]["pid"], signal.SIGKILL)
    wait_for(lambda: run.state == "lost", "the loss to show")
    kept = samples.read_bytes().count(b"\n")
    assert 3 < kept < 40
    resume(workspace, run)
    assert finish(workspace, run, 120) == "succeeded", run.log_tail()
    assert f"{kept} rows of hard_outputs.jsonl from before are kept" in (run.dir / "log.txt").read_text()
    whole = evaluate(workspace, **settings)
    assert samples.read_bytes() == (whole.dir / FILE).read_bytes()
    section = run.report["hard_subset"]["tasks"]["request"]
    assert section["rows"] == 40
    assert section["models"][0]["rows"] == len(section["hard_rows"]) > 0
