"""The benchmark suite: published cells, measured cells, what is missing, averages, the eval-suite method."""

import json
import time

import pytest

from core import Labels, Prediction, UserError
from core.active import ActiveRun
from core.evals.published import benchmark_for, document, published_for
from core.evals.report import About, Model, Options, build_report
from core.evals.suite import build_suite, measured_cells, weighted_average
from core.files import write_json
from core.intervals import Interval, wilson
from core.methods import validate
from core.preflight import look
from core.runs import Workspace, config_yaml
from core.ui.evaluation_page import EvaluationPage

H, U = "harmful", "unharmful"
PAPER = document()


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "runs")


def evaluation(workspace, run_id, name, *, models=("run:a",), rows=40, right=30, task="request", seen=0, created=None, **data):
    """A finished guard-eval run: the first `right` rows of `rows` are answered correctly."""
    labels = {"request": (H, U), "response": (H, U), "completion": ("refusal", "compliance")}[task]
    predictions = [Prediction(row=n, model=model, prompt=f"q {n}", gold=Labels(**{task: labels[n % 2]}),
                              predicted=Labels(**{task: labels[(n + (n >= right)) % 2]}), parsed={task: True}, text="t",
                              seen_in_training=n < seen) for model in models for n in range(rows)]
    about = About({"name": name, "sha256": None, "run": None, "split": "all", "sampled": False, **data})
    report = build_report("guard-eval", predictions, [Model(model, model.upper(), "f") for model in models], Options(), about)
    folder = workspace.runs_dir / run_id
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config_yaml("guard-eval", {"data": name}))
    write_json(folder / "status.json", {"state": "succeeded", "method": "guard-eval", "stage": "evaluation",
                                        "created": created or time.time()})
    write_json(folder / "report.json", report)
    return workspace.run(run_id)


def cell(suite, task, benchmark, column):
    place = next(i for i, item in enumerate(suite["columns"]) if item["key"] == column)
    return next(item for item in suite["tasks"][task]["sets"] if item["benchmark"] == benchmark)["cells"][place]


def average(suite, task, column):
    place = next(i for i, item in enumerate(suite["columns"]) if item["key"] == column)
    return (suite["tasks"][task]["average"] if task else suite["average"])[place]


# ---- what is published ----


@pytest.mark.parametrize("task", list(PAPER.titles))
def test_printed_averages_are_those_of_the_printed_cells_by_the_papers_counts(task):
    sets = PAPER.of_task(task)
    for model, printed in PAPER.task_average[task].items():
        if all(model in item.f1 for item in sets):
            found = sum(item.rows * item.f1[model] for item in sets) / sum(item.rows for item in sets)
            assert found == pytest.approx(printed, abs=0.0101), model


def test_the_printed_mean_is_that_of_the_three_tasks():
    for size in ("1B", "3B", "8B"):
        model = f"GuardReasoner {size}"
        assert sum(values[model] for values in PAPER.task_average.values()) / 3 == pytest.approx(PAPER.average[model], abs=0.0101)


def test_the_published_cells_are_those_of_the_reference_file(shared_data):
    reference = json.loads((shared_data / "reference_f1.json").read_text())["paper_tables_f1_1B_3B_8B"]
    called = {"request": "prompt", "response": "response", "completion": "refusal"}
    count = 0
    for item in PAPER.benchmarks:
        table = reference[called[item.task]]
        row = table.get(item.name) or table[{"XSTestResponseHarmful": "XSTestReponseHarmful"}[item.name]]
        assert [item.f1[f"GuardReasoner {size}"] for size in ("1B", "3B", "8B")] == row
        count += 1
    assert count == 13


def test_an_empty_suite_has_every_published_cell_and_says_what_is_not():
    suite = build_suite([])
    assert {column["kind"] for column in suite["columns"]} == {"published"}
    assert cell(suite, "request", "ToxicChat", "GPT-4o+CoT") == {"kind": "published", "f1": 0.7343, "n": 2853}
    assert cell(suite, "request", "ToxicChat", "MD-Judge 7B") == {"kind": "empty", "why": "not published"}
    assert cell(suite, "completion", "XSTestResponseRefusal", "GuardReasoner 8B")["n"] == 499, "the paper's count; its file has 449"
    assert average(suite, "response", "MD-Judge 7B")["f1"] == 0.7867
    assert average(suite, None, "LLaMA Guard 3 8B")["f1"] == 0.6325
    assert [len(task["sets"]) for task in suite["tasks"].values()] == [6, 5, 2]


# ---- which set a run is about ----


@pytest.mark.parametrize(("name", "task", "expected"), [
    ("ToxicChat", "request", "ToxicChat"), ("toxic-chat", "request", "ToxicChat"),
    ("AegisSafetyTest_devhalf", "request", "AegisSafetyTest"),
    ("8B/HarmBenchResponse_devhalf", "response", "HarmBenchResponse"), ("wildguardtest_1554", "completion", "WildGuardTest"),
    ("XSTestReponseHarmful", "response", "XSTestResponseHarmful"), ("xstest_450", "request", None), ("ToxicChat", "response", None),
    ("guard-demo", "request", None),
])
def test_a_set_is_known_by_its_name(name, task, expected):
    match = benchmark_for(name, task)
    assert (match.benchmark.name if match else None) == expected


def test_a_file_is_known_by_its_content_whatever_it_is_called(shared_data):
    import hashlib

    digest = hashlib.sha256((shared_data / "wildguardtest_1554.jsonl").read_bytes()).hexdigest()
    match = benchmark_for("my rows", "request", [None, digest])
    assert match.benchmark.name == "WildGuardTest"
    assert "145 harmful rows" in match.differs
    assert published_for("my rows", "request") is None


def test_an_imported_file_is_known_by_the_content_it_was_imported_from(workspace):
    (digest,) = PAPER.files
    folder = workspace.runs_dir / "data-0001"
    folder.mkdir(parents=True)
    write_json(folder / "report.json", {"sha256": digest})
    (found,) = measured_cells([evaluation(workspace, "eval-0001", "mine", sha256="of data.jsonl", run="data-0001")], workspace)
    assert (found.benchmark.name, "39.2 %" in found.match.differs) == ("WildGuardTest", True)


# ---- what is measured ----


def test_a_part_of_a_set_and_rows_seen_in_training_are_said(workspace):
    runs = [evaluation(workspace, "eval-0001", "wildguardtest_1554", rows=1554, right=1200, seen=7),
            evaluation(workspace, "eval-0002", "SimpleSafetyTests", rows=100),
            evaluation(workspace, "eval-0003", "ToxicChat", rows=40, sampled=True),
            evaluation(workspace, "eval-0004", "AegisSafetyTest", rows=400)]
    suite = build_suite(measured_cells(runs, workspace))
    assert cell(suite, "request", "WildGuardTest", "run:a")["notes"] == ["a part: 1,554 of 1,725 rows", "7 of the rows were trained on"]
    assert cell(suite, "request", "SimpleSafetyTests", "run:a")["notes"] == []
    assert cell(suite, "request", "ToxicChat", "run:a")["notes"] == ["a sample: 40 of 2,853 rows"]
    assert cell(suite, "request", "AegisSafetyTest", "run:a")["notes"] == ["400 rows, the paper's set has 359"]
    assert cell(suite, "request", "OpenAIModeration", "run:a") == {"kind": "empty", "why": "not evaluated here"}
    assert cell(suite, "response", "WildGuardTest", "run:a")["kind"] == "empty"


def test_the_newest_run_fills_a_cell_unless_it_is_left_out(workspace):
    runs = [evaluation(workspace, "eval-0002", "ToxicChat", right=20), evaluation(workspace, "eval-0001", "ToxicChat", right=40)]
    cells = measured_cells(runs, workspace)
    newest = cell(build_suite(cells), "request", "ToxicChat", "run:a")
    assert (newest["run"], newest["other_runs"]) == ("eval-0002", ["eval-0001"])
    older = cell(build_suite(cells, skip={"eval-0002"}), "request", "ToxicChat", "run:a")
    assert (older["run"], older["interval"]["value"]) == ("eval-0001", 1.0)


def test_columns_of_several_models(workspace):
    cells = measured_cells([evaluation(workspace, "eval-0001", "ToxicChat", models=("run:a", "run:b"))], workspace)
    assert [item["key"] for item in build_suite(cells)["columns"]][:3] == ["run:a", "run:b", "GuardReasoner 1B"]
    assert [item["key"] for item in build_suite(cells, models=["run:b"])["columns"]][:2] == ["run:b", "GuardReasoner 1B"]


def test_train_rows_other_methods_and_unfinished_runs_do_not_count(workspace):
    train = evaluation(workspace, "eval-0001", "ToxicChat", split="train")
    other = evaluation(workspace, "compare-evals-0001", "ToxicChat")
    (other.dir / "config.yaml").write_text(config_yaml("compare-evals", {}))
    write_json(other.dir / "status.json", {"state": "succeeded", "method": "compare-evals", "stage": "evaluation", "created": 1.0})
    failed = evaluation(workspace, "eval-0002", "ToxicChat")
    write_json(failed.dir / "status.json", {"state": "failed", "method": "guard-eval", "stage": "evaluation", "created": 1.0})
    assert measured_cells([train, other, failed], workspace) == []


# ---- averages ----


def test_the_weighted_average_and_its_interval():
    one, two = Interval(value=0.8, low=0.7, high=0.86, n=100), Interval(value=0.5, low=0.44, high=0.6, n=300)
    found = weighted_average([one, two], [100, 300])
    assert found.value == pytest.approx(0.575)
    assert found.low == pytest.approx(0.575 - ((0.25 * 0.1) ** 2 + (0.75 * 0.06) ** 2) ** 0.5)
    assert found.high == pytest.approx(0.575 + ((0.25 * 0.06) ** 2 + (0.75 * 0.1) ** 2) ** 0.5)
    assert found.n == 400
    alone = weighted_average([one], [7])
    assert (alone.value, alone.low, alone.high) == pytest.approx((0.8, 0.7, 0.86))
    for values, weights in (([], []), ([one], [1, 2]), ([one], [0])):
        with pytest.raises(ValueError, match="as many weights"):
            weighted_average(values, weights)


def test_two_halves_of_a_share_are_as_wide_as_the_whole():
    """Equal shares of equal sizes: the combined interval must be that of all the rows together, about."""
    half, whole = wilson(400, 500), wilson(800, 1000)
    found = weighted_average([half, half], [500, 500])
    assert (found.low, found.high) == pytest.approx((whole.low, whole.high), abs=0.002)


def test_averages_need_all_sets_unless_asked_for(workspace):
    runs = [evaluation(workspace, "eval-0001", "XSTestResponseRefusal", task="completion", rows=100, right=50),
            evaluation(workspace, "eval-0002", "ToxicChat", rows=300, right=300)]
    cells = measured_cells(runs, workspace)
    strict, partial = build_suite(cells), build_suite(cells, partial=True)
    assert average(strict, "completion", "run:a") == {"kind": "empty", "why": "needs all sets", "missing": ["WildGuardTest"]}
    assert average(strict, "response", "run:a")["why"] == "no set evaluated here"
    assert average(strict, None, "run:a")["why"] == "needs all three tasks"
    given = average(partial, "completion", "run:a")
    assert (given["interval"]["value"], given["over"], given["n"]) == (0.5, ["XSTestResponseRefusal"], 100)
    mean = average(partial, None, "run:a")
    assert (mean["interval"]["value"], mean["over"]) == (0.75, ["ToxicChat (prompt)", "XSTestResponseRefusal (refusal)"])
    assert "WildGuardTest (refusal)" in mean["missing"]
    assert "all sets (response)" in mean["missing"]


def test_a_mean_over_one_set_of_each_task_says_so(workspace):
    runs = [evaluation(workspace, f"eval-{number}", name, task=task) for number, (name, task) in enumerate(
        (("ToxicChat", "request"), ("SafeRLHF", "response"), ("WildGuardTest", "completion")))]
    mean = average(build_suite(measured_cells(runs, workspace), partial=True), None, "run:a")
    assert mean["over"] == ["ToxicChat (prompt)", "SafeRLHF (response)", "WildGuardTest (refusal)"]
    assert len(mean["missing"]) == 10
    assert run_suite(workspace, evaluations=[run.id for run in runs], partial=True).report["headline"].endswith(
        "over ToxicChat (prompt), SafeRLHF (response), WildGuardTest (refusal)")


def test_a_whole_suite_is_averaged_by_the_rows_evaluated(workspace):
    runs = [evaluation(workspace, f"eval-{number:04d}", item.name,
                       task=item.task, rows=40 + 20 * number, right=20 + 20 * number)
            for number, item in enumerate(PAPER.benchmarks)]
    suite = build_suite(measured_cells(runs, workspace))
    for task, found in suite["tasks"].items():
        cells = [item["cells"][0] for item in found["sets"]]
        expected = sum(one["n"] * one["interval"]["value"] for one in cells) / sum(one["n"] for one in cells)
        assert average(suite, task, "run:a")["interval"]["value"] == pytest.approx(expected)
    means = [found["average"][0]["interval"] for found in suite["tasks"].values()]
    mean = average(suite, None, "run:a")["interval"]
    for end in ("low", "value", "high"):
        assert mean[end] == pytest.approx(sum(one[end] for one in means) / 3)
    json.dumps(suite, allow_nan=False)


# ---- the method ----


def run_suite(workspace, **settings):
    method = workspace.plugins.method("eval-suite")
    config = validate(method, settings)
    run = ActiveRun(workspace, workspace.create("eval-suite", config).id)
    method(workspace).run(config, run)
    return run


def test_eval_suite(workspace):
    evaluation(workspace, "eval-0001", "ToxicChat", created=1.0, right=40)
    evaluation(workspace, "eval-0002", "ToxicChat", created=2.0, right=20, models=("run:a", "run:b"))
    run = run_suite(workspace, evaluations=["eval-0001", "run:eval-0002", "eval-0001"], models=["run:a"])
    suite = run.report["suite"]
    assert cell(suite, "request", "ToxicChat", "run:a")["run"] == "eval-0002", "the newest, whatever the order they are named in"
    assert run.report["headline"] == "RUN:A: 1 of 13 sets"
    assert "tasks" not in run.report, "the Evaluation page takes a report with tasks for an evaluation"
    part = run_suite(workspace, evaluations=["eval-0001"], partial_averages=True, policy="strict").report
    assert "average 100.0" in part["headline"]
    assert "over ToxicChat (prompt)" in part["headline"]
    assert part["suite"]["policy"] == "strict"


def test_what_check_says(workspace):
    evaluation(workspace, "eval-0001", "ToxicChat")
    evaluation(workspace, "eval-0002", "guard-demo")

    def problems(**values):
        return [(problem.field, problem.severity, problem.message) for problem in look(workspace, "eval-suite", values).problems]

    assert problems(evaluations=["eval-0001"]) == []
    ((_, severity, message),) = problems(evaluations=["eval-0001", "eval-0002"])
    assert (severity, message) == ("warning", "eval-0002 is about none of the paper's sets and is left out.")
    assert "known by its name" in problems(evaluations=["eval-0002"])[0][2]
    assert problems(evaluations=["eval-0001"], models=["run:x"])[0][:2] == ("models", "error")
    assert problems(evaluations=["eval-0009"])[0][:2] == ("evaluations", "error")
    assert problems(evaluations=[])[0][1] == "error"
    with pytest.raises(UserError, match=r"models = run:x: not among the models of these evaluations \(run:a\)"):
        run_suite(workspace, evaluations=["eval-0001"], models=["run:x"])


# ---- the page ----


def test_the_page_fills_the_table_from_the_newest_runs(workspace):
    evaluation(workspace, "eval-0001", "ToxicChat", right=40, created=1.0)
    evaluation(workspace, "eval-0002", "ToxicChat", right=20, created=2.0)
    page = EvaluationPage(workspace)
    query = page.act("", "show", "suite")
    shown = "".join(page.shown(query))
    for words in ("measured here, n 40", "a part: 40 of 2,853 rows", "published, n 2,853", "no interval given", "needs all sets",
                  "not evaluated here", "not published", "a newer run fills its cells", "evaluations=[eval-0002,eval-0001]"):
        assert words in shown, words
    assert shown.count("no interval given") > 60
    without = page.act(query, "use", "eval-0002")
    assert "100.00" in "".join(page.shown(without)), "the older run fills the cell"
    assert page.act(without, "use", "eval-0002") == query
    partial = "".join(page.shown(page.act(query, "over", "1")))
    assert "over ToxicChat only" in partial
    assert "over ToxicChat (prompt) only" in partial
    assert "One evaluation" in shown
    assert "ToxicChat, request task" in "".join(page.shown(page.act(query, "show", "")))


def test_one_model_at_a_time_and_every_policy(workspace):
    evaluation(workspace, "eval-0001", "ToxicChat", models=("run:a", "run:b"), right=30)
    page = EvaluationPage(workspace)
    assert "evaluations of run:b" in "".join(page.shown("show=suite&column=run:b")).lower()
    for policy in ("strict", "drop", "paper-code"):
        assert f"policy={policy}" in "".join(page.shown(f"show=suite&policy={policy}"))
    assert "under another policy" in "".join(page.shown("show=suite&policy=strict"))
    for strange in ("show=suite&column=x&policy=y&skip=eval-9,&over=z", "show=suite&run=gone"):
        assert "Benchmark suite" in "".join(page.shown(strange))


def test_a_kept_table_is_shown_as_it_was(workspace):
    evaluation(workspace, "eval-0001", "ToxicChat", right=40)
    kept = run_suite(workspace, evaluations=["eval-0001"])
    write_json(kept.dir / "status.json", {**kept.status, "state": "succeeded", "stage": "evaluation"})
    evaluation(workspace, "eval-0002", "ToxicChat", right=20)
    page = EvaluationPage(workspace)
    assert f"run={kept.id}" in "".join(page.shown("show=suite"))
    old = "".join(page.shown(f"show=suite&run={kept.id}"))
    assert "100.00" in old
    assert "the newest numbers" in old


def test_without_a_set_of_the_paper_the_table_says_how_to_fill_it(workspace):
    evaluation(workspace, "eval-0001", "guard-demo")
    shown = "".join(EvaluationPage(workspace).shown("show=suite"))
    assert "None of the finished evaluations here is about one of these sets" in shown
    assert "89.34" in shown


# ---- the official predictions ----


def test_official_predictions_fill_their_cells_with_the_reference_scores(workspace, shared_data):
    """guard-eval on the paper's own predictions, sorted into the table: the numbers of reference_f1.json under the paper's script."""
    cells = json.loads((shared_data / "reference_f1.json").read_text())["cells"]
    method = workspace.plugins.method("guard-eval")
    made = {}
    for size in ("1B", "8B"):
        for benchmark in ("XSTestResponseRefusal", "AegisSafetyTest_devhalf", "HarmBenchResponse_devhalf"):
            config = validate(method, {"predictions": str(shared_data / f"gr_preds/{size}/{benchmark}/generated_predictions.jsonl")})
            run = ActiveRun(workspace, workspace.create("guard-eval", config).id)
            method(workspace).run(config, run)
            write_json(run.dir / "status.json", {**run.status, "state": "succeeded"})
            made[size, benchmark] = run.id
    suite = run_suite(workspace, evaluations=list(made.values())).report["suite"]
    assert {column["title"] for column in suite["columns"] if column["kind"] == "measured"} == {"1B, predictions", "8B, predictions"}
    for (size, benchmark), run_id in made.items():
        task = {"X": "completion", "A": "request", "H": "response"}[benchmark[0]]
        found = cell(suite, task, benchmark.removesuffix("_devhalf"), size)
        assert round(100 * found["interval"]["value"], 2) == cells[size][benchmark]["f1_official_rule"]
        assert found["run"] == run_id
        published = cell(suite, task, benchmark.removesuffix("_devhalf"), f"GuardReasoner {size}")
        if benchmark.endswith("_devhalf"):
            assert "a part" in found["notes"][0]
        else:  # the whole set; the authors' later run of the same model differs from the printed one by up to 0.6 F1
            assert found["notes"] == []
            assert found["interval"]["value"] == pytest.approx(published["f1"], abs=0.006)
        assert found["interval"]["low"] <= published["f1"] <= found["interval"]["high"]
