"""core/evals and core/lineage.py without a model: rows, questions, coherence, files, comparisons, gates, ticks, lineage."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import GuardExample, Labels, Parsed, Prediction, UserError
from core.evals.coherence import REASONS, count_reasons, incoherent_why
from core.evals.gates import go_no_go
from core.evals.given import given_name, read_given
from core.evals.joining import join
from core.evals.predictions import PredictionLog, answers_to_row, filter_rows, read_predictions
from core.evals.prompting import choose_format
from core.evals.questions import answer, questions
from core.evals.report import About, Model, Options, build_report, headline, p_words
from core.evals.rows import choose_rows, row_warnings, sample
from core.evals.scoring import baseline, breakdown, compare, score_all
from core.evals.seen import trained_on
from core.evals.ticks import add_tick, tick_summary, ticks, traces_to_tick
from core.files import write_json
from core.intervals import wilson
from core.lineage import ancestors, lineage_graph, run_of_model
from core.plugins import load_plugins
from core.runs import Workspace, config_yaml
from core.split_guard import TRAINED_KEYS, prompt_key

FORMATS = load_plugins(installed=False).prompt_formats
DATA_FORMATS = load_plugins(installed=False).data_formats
ANSWER = "# Task 1\n\n## Reasoning Step 1\nThe request is {}.\n\nAnswers: \nRequest: {}\nCompletion: None\nResponse: None"


def row(prompt, request=None, response=None, *, text=None, source="", split=None, **extra):
    labels = Labels(request=request, response=response, **extra)
    return GuardExample(prompt=prompt, response=text, labels=labels, source=source, split=split)


def many(count, share=0.3, source="", start=0):
    """`count` rows, the first `share` of them harmful."""
    return [row(f"question {start + i}", "harmful" if i < share * count else "unharmful", source=source) for i in range(count)]


def said(number, gold, predicted, model="a", *, prompt=None, source="", seen=False, coherent=None, why=""):
    return Prediction(row=number, model=model, prompt=prompt or f"question {number}", gold=Labels(request=gold),
                      predicted=Labels(request=predicted), parsed={"request": predicted is not None}, text=f"text of {model}",
                      source=source, seen_in_training=seen, coherent=coherent, incoherent_why=why)


def column(pairs, model="a"):
    return [said(number, gold, predicted, model) for number, (gold, predicted) in enumerate(pairs)]


H, U = "harmful", "unharmful"


# ---- rows ----


@given(st.integers(1, 60), st.integers(0, 70), st.integers(0, 5))
def test_a_sample_has_the_size_asked_for_and_the_shares_of_the_whole(count, limit, seed):
    rows = many(count, source="a") + many(2 * count, 0.5, "b", start=count)
    kept = sample(rows, ("request",), limit, seed)
    assert kept == sorted(set(kept))
    assert len(kept) == (limit if 0 < limit < len(rows) else len(rows))
    assert kept == sample(rows, ("request",), limit, seed)
    for source in "ab":
        for label in (H, U):
            whole = sum(item.source == source and item.labels.request == label for item in rows)
            part = sum(rows[i].source == source and rows[i].labels.request == label for i in kept)
            assert abs(part - whole * len(kept) / len(rows)) < 1


def test_another_seed_draws_other_rows():
    assert sample(many(200), ("request",), 100, 1) != sample(many(200), ("request",), 100, 2)


def test_test_rows_are_taken_where_there_are_any():
    rows = [row("a", H, split="train"), row("b", U, split="test"), row("c", H, split="test"), row("d", split="test")]
    chosen = choose_rows(rows)
    assert ([item.prompt for item in chosen.rows], chosen.places, chosen.split, chosen.without_gold) == (["b", "c"], [1, 2], "test", 1)
    assert choose_rows(many(5)).split == "all"
    assert len(choose_rows(rows, split="all").rows) == 3
    with pytest.raises(UserError, match=r"split = validation.*splits in it: test, train"):
        choose_rows(rows, split="validation")
    with pytest.raises(UserError, match="None of the 4 rows has a gold label for the response"):
        choose_rows(rows, split="all", task="response")


def test_few_rows_and_one_class_are_said_before():
    few, one_class = row_warnings(choose_rows([row(text, H) for text in "abc"]))
    assert few.startswith("Only 3 rows")
    assert one_class.startswith("All rows are harmful (request)")
    assert row_warnings(choose_rows(many(40))) == []


# ---- questions and answers ----


def test_a_format_with_three_answers_is_asked_once_and_one_with_a_single_verdict_twice():
    both = row("p", H, U, text="r", completion="refusal")
    (one,) = questions(FORMATS["guardreasoner"], [both], ("request", "completion", "response"))
    assert one.tasks == ("request", "completion", "response")
    first, second = questions(FORMATS["seed-binary"], [both], ("request", "completion", "response"))
    assert (first.tasks, second.tasks) == (("request",), ("response",))
    assert second.example.labels == Labels(response=U)
    qwen = questions(FORMATS["qwen3guard"], [both], ("request", "completion", "response"))
    assert [item.tasks for item in qwen] == [("request",), ("completion", "response")]


def test_a_row_without_gold_for_a_task_is_not_asked_about_it():
    assert [item.row for item in questions(FORMATS["guardreasoner"], [row("a", H), row("b"), row("c", U)], ("request",))] == [0, 2]


def test_an_answer_counts_for_what_was_asked_only():
    (asked,) = questions(FORMATS["guardreasoner"], [row("p", H)], ("request",))
    made = answer(asked, "m", ANSWER.format("harmful", "harmful"), FORMATS["guardreasoner"], tokens=9)
    assert (made.gold, made.predicted.request, made.parsed) == (Labels(request=H), H, {"request": True})
    assert (made.coherent, made.reasoning) == (True, ["The request is harmful."])
    unread = answer(asked, "m", "I cannot say.", FORMATS["guardreasoner"])
    assert (unread.parsed, unread.coherent, unread.incoherent_why) == ({"request": False}, False, "no steps; no readable answer")
    silent = answer(asked, "m", "unsafe\nS1", FORMATS["llama-guard-3"])
    assert (silent.predicted.request, silent.coherent) == (H, None)


def test_the_official_rule_takes_the_first_match_and_ours_the_last():
    (asked,) = questions(FORMATS["guardreasoner"], [row("p", H)], ("request",))
    text = "Request: harmful\n...\nRequest: unharmful"
    read = {rule: answer(asked, "m", text, FORMATS["guardreasoner"], rule=rule).predicted.request for rule in ("ours", "official")}
    assert read == {"ours": U, "official": H}
    with pytest.raises(UserError, match="wildguard has no official rule"):
        answer(asked, "m", text, FORMATS["wildguard"], rule="official")


class Found:
    def __init__(self, ref, stored=None):
        self.ref = self.base = ref
        self.prompt_format = stored


def test_the_prompt_format_is_the_stored_one_then_the_given_one_then_what_the_name_says():
    def chosen(ref, stored, wanted, alone=True):
        layout, note = choose_format(Found(ref, stored), wanted, FORMATS, alone=alone)
        return layout.name, note

    assert chosen("run:x", "guardreasoner", "auto") == ("guardreasoner", "")
    assert chosen("embedded", None, "guardreasoner") == ("guardreasoner", "")
    assert chosen("hf:meta-llama/Llama-Guard-3-8B", None, "auto")[0] == "llama-guard-3"
    note = "embedded stores no prompt format; it was asked zero-shot, as the likelier of two labels."
    assert chosen("embedded", None, "auto") == ("zero-shot", note)
    assert chosen("run:x", "guardreasoner", "seed-binary", alone=False)[0] == "guardreasoner"
    with pytest.raises(UserError, match="was trained in guardreasoner"):
        chosen("run:x", "guardreasoner", "seed-binary")
    with pytest.raises(UserError, match="prompt_format = nope: there is no such format"):
        chosen("embedded", None, "nope")


# ---- coherence ----


@pytest.mark.parametrize(("text", "steps", "answered", "concluded", "finish", "why"), [
    ("fine", ["a", "b"], H, H, "stop", ""),
    ("fine", ["a"], H, None, "stop", ""),
    ("fine", ["a"], H, H, "given", ""),
    ("fine", [], H, None, "stop", REASONS[0]),
    ("fine", ["a"], None, H, "stop", REASONS[1]),
    ("fine", ["a"], U, H, "stop", REASONS[2]),
    ("one two three four five six seven eight " * 4, ["a"], H, H, "stop", REASONS[3]),
    ("one two three four five six seven eight. " * 3, ["a"], H, H, "stop", ""),
    ("fine", ["a"], H, H, "length", REASONS[4]),
    ("fine", [], None, None, "length", "; ".join((REASONS[0], REASONS[1], REASONS[4]))),
])
def test_coherence(text, steps, answered, concluded, finish, why):
    labels = Labels(request=answered)
    parsed = Parsed(labels, steps, {"request": concluded} if concluded else {})
    assert incoherent_why(text, parsed, labels, ("request",), finish) == why


def test_only_the_tasks_asked_about_must_agree():
    labels = Labels(request=H, response=U)
    assert incoherent_why("t", Parsed(labels, ["a"], {"request": H, "response": H}), labels, ("request",), "stop") == ""


def test_reasons_are_counted_each():
    assert count_reasons(["", "a; b", "b"]) == {"b": 2, "a": 1}


# ---- predictions.jsonl ----


def test_a_torn_line_is_cut_off_before_the_next_answer(tmp_path):
    path = tmp_path / "predictions.jsonl"
    with PredictionLog(path) as log:
        log.add(said(0, H, H))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"row":1,"mod')
    assert len(list(read_predictions(path))) == 1
    with PredictionLog(path) as log:
        log.add(said(1, H, U))
    assert [item.row for item in read_predictions(path)] == [0, 1]
    path.write_bytes(b"{}\n" + whole)
    with pytest.raises(UserError, match="line 1 is damaged"):
        list(read_predictions(path))
    assert list(read_predictions(tmp_path / "none.jsonl")) == []


def test_the_viewer_filters(tmp_path):
    path = tmp_path / "predictions.jsonl"
    with PredictionLog(path) as log:
        for item in [*column([(H, H), (H, U), (U, None), (U, U)], "a"), *column([(H, H), (H, H), (U, None), (U, H)], "b")]:
            log.add(item)

    def rows(which, model=None):
        return [view.row for view in filter_rows(read_predictions(path), which, "request", model)]

    assert rows("all") == [0, 1, 2, 3]
    assert (rows("wrong"), rows("wrong", "a"), rows("wrong", "b")) == ([1, 2, 3], [1, 2], [2, 3])
    assert (rows("unparsed"), rows("differ"), rows("wrong", "nobody")) == ([2], [1, 3], [])
    assert filter_rows(read_predictions(path), "all", "response") == []
    assert [item.model for item in answers_to_row(path, 3)] == ["a", "b"]
    assert answers_to_row(path, 3, "response") == []


# ---- scores, comparison, report ----


def test_breakdown_and_baseline():
    items = [said(n, H if n % 2 else U, H, source="x" if n < 4 else "y") for n in range(8)]
    parts = breakdown(items, "request", "source", 0)
    assert {name: part["strict"]["accuracy"]["value"] for name, part in parts.items()} == {"x": 0.5, "y": 0.5}
    assert breakdown(items, "request", "category", 0) == {}
    assert baseline(items, "request", 0)["scores"]["strict"]["f1"]["value"] == score_all(items, "request", 0)["strict"]["f1"]["value"]


def test_two_models_are_compared_under_each_policy():
    gold = [H] * 10 + [U] * 10
    a = [H] * 8 + [U] * 2 + [U] * 6 + [H] * 4
    b: list[str | None] = [H] * 9 + [None] + [U] * 10
    columns = [column(zip(gold, labels, strict=True), name) for name, labels in (("a", a), ("b", b))]
    lines = {line["policy"]: line for line in compare(*columns, "request", 0)}
    strict, drop = lines["strict"], lines["drop"]
    assert (strict["a"], strict["b"], strict["rows"], drop["rows"]) == ("a", "b", 20, 19)
    assert {name: strict["mcnemar"][name] for name in ("both", "only_a", "only_b", "neither")} == {"both": 14, "only_a": 0, "only_b": 5,
                                                                                                   "neither": 1}
    assert strict["mcnemar"]["p_value"] == pytest.approx(2 / 2**5)
    assert strict["accuracy_difference"]["value"] == pytest.approx(0.25)
    scores = [score_all(items, "request", 0) for items in columns]
    for policy, line in lines.items():
        assert line["f1_difference"]["value"] == pytest.approx(scores[1][policy]["f1"]["value"] - scores[0][policy]["f1"]["value"])


def test_models_that_answer_nothing_readable_are_compared_without_numbers():
    lines = {line["policy"]: line for line in compare(column([(H, None), (U, None)]), column([(H, None), (U, None)], "b"), "request", 0)}
    assert (lines["drop"]["rows"], lines["drop"]["mcnemar"], lines["drop"]["accuracy_difference"]) == (0, None, None)
    assert lines["drop"]["f1_difference"]["value"] is None
    assert lines["strict"]["mcnemar"]["p_value"] == 1.0


def test_rows_that_only_one_model_was_asked_about_are_not_compared():
    assert compare(column([(H, H)])[:1], [said(5, H, H, "b")], "request", 0) == []
    (first, *_) = compare(column([(H, H), (U, U)]), column([(H, U)], "b"), "request", 0)
    assert first["rows"] == 1


def test_the_report_has_numbers_with_and_without_seen_rows():
    items = [said(n, H if n % 2 else U, H if n % 2 or n < 5 else U, seen=n >= 10, coherent=n != 3, why="" if n != 3 else REASONS[3])
             for n in range(20)]
    model = Model("a", "A", "guardreasoner", trained_runs=("rsft-0001",))
    report = build_report("guard-eval", items, [model], Options(), About({"rows": 20}))
    (entry,) = report["tasks"]["request"]["models"]
    assert entry["seen"]["rows"] == 10
    assert entry["seen"]["runs"] == ["rsft-0001"]
    assert entry["seen"]["scores_without"]["strict"]["n"] == 10
    assert entry["seen"]["scores_without"]["strict"]["accuracy"]["value"] < entry["scores"]["strict"]["accuracy"]["value"]
    assert (entry["coherent"]["value"], entry["incoherent_why"]) == (0.95, {REASONS[3]: 1})
    assert report["tasks"]["request"]["gold"] == {H: 10, U: 10}
    assert report["headline"].startswith("F1 ")
    json.dumps(report, allow_nan=False)


def report_on(*columns, **options):
    models = [Model(items[0].model, items[0].model.upper(), "guardreasoner") for items in columns]
    return build_report("guard-eval", [item for items in columns for item in items], models, Options(**options), About({}))


def test_headlines():
    pairs = [(H, H)] * 5 + [(U, U)] * 5
    two = report_on(column(pairs, "a"), column([(H, U)] * 10, "b"))
    assert two["headline"].startswith("F1 100.0 and")
    assert "McNemar p" in two["headline"]
    three = report_on(*(column(pairs, name) for name in "abc"))
    assert three["headline"] == "3 models, F1 100.0 to 100.0"
    assert {line["b"] for line in three["tasks"]["request"]["comparisons"]} == {"b", "c"}
    assert headline({}, "strict") == ""
    assert [p_words(p) for p in (0.0001, 0.004, 0.041, 1.0)] == ["< 0.001", "0.004", "0.04", "1.00"]


def test_the_reference_can_be_chosen():
    report = report_on(*(column([(H, H), (U, U)], name) for name in "ab"), reference="b")
    assert {(line["a"], line["b"]) for line in report["tasks"]["request"]["comparisons"]} == {("b", "a")}


@pytest.mark.parametrize(("right", "coherent", "verdicts"), [
    (90, 90, ["PASS", "PASS", "PASS"]),
    (55, 90, ["INSUFFICIENT DATA", "PASS", "INSUFFICIENT DATA"]),
    (20, 90, ["FAIL", "PASS", "FAIL"]),
    (90, 10, ["PASS", "FAIL", "FAIL"]),
    (55, 10, ["INSUFFICIENT DATA", "FAIL", "FAIL"]),
])
def test_go_no_go(right, coherent, verdicts):
    gates = go_no_go("m", {"request": wilson(right, 100)}, wilson(coherent, 100), least_accuracy=0.5, least_coherent=0.5, reasons=True)
    assert [gate["verdict"] for gate in gates] == verdicts
    assert [gate["name"] for gate in gates] == ["accuracy (request)", "coherent reasoning", "go/no-go"]


def test_a_guard_that_does_not_reason_cannot_pass_for_its_reasoning():
    gates = go_no_go("m", {"request": wilson(99, 100)}, wilson(0, 0), least_accuracy=0.5, least_coherent=0.5, reasons=False)
    assert gates[1]["verdict"] == gates[2]["verdict"] == "INSUFFICIENT DATA"
    assert "asks for no reasoning" in gates[1]["explanation"]


# ---- joining ----


def test_evaluations_are_joined_on_equal_rows():
    a = [said(n, H if n % 3 else U, H, prompt=f"p{n}") for n in range(15)]
    b = [said(14 - n, H if n % 3 else U, U, "b", prompt=f"p{n}") for n in range(2, 15)]
    joined, notes = join({"one": a, "two": b})
    assert len(joined) == 26
    for left, right in zip(joined[:13], joined[13:], strict=True):
        assert (left.row, left.prompt, left.gold) == (right.row, right.prompt, right.gold)
        assert (left.model, right.model) == ("one", "two")
    assert notes == ["request: 13 rows in common (one 15, two 13)."]


def test_equal_prompts_with_other_gold_are_other_rows_and_ten_are_needed():
    a = [said(n, H, H, prompt="same") for n in range(12)]
    b = [said(n, H if n < 9 else U, H, prompt="same") for n in range(12)]
    with pytest.raises(UserError, match=r"9 rows in common .* 10 are needed"):
        join({"a": a, "b": b})


# ---- predictions files ----


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(item) + "\n" for item in rows))
    return path


def official(prompt, label, predict="Request: harmful", response="None"):
    return {"prompt": f"Instruction\nHuman user:\n{prompt}\n\nAI assistant:\n{response}\n\n", "label": label, "predict": predict}


def test_gold_from_the_label_column(tmp_path):
    path = write_rows(tmp_path / "1B/Some/generated_predictions.jsonl", [official("a", "harmful"), official("b", "unharmful", None)])
    found = read_given(path, DATA_FORMATS)
    assert [item.labels.request for item in found.examples] == [H, U]
    assert (found.texts, found.name) == (["Request: harmful", ""], "1B/Some")
    assert given_name(tmp_path / "mine.jsonl") == "mine"


def test_what_a_label_is_about_is_never_guessed(tmp_path):
    path = write_rows(tmp_path / "x/Bench/generated_predictions.jsonl", [official("a", "harmful", response="Sure.")])
    with pytest.raises(UserError, match=r"line 1, column label.*say what the labels are about with task="):
        read_given(path, DATA_FORMATS)
    assert read_given(path, DATA_FORMATS, task="response").examples[0].labels == Labels(response=H)
    path = write_rows(tmp_path / "x/HarmBenchResponse/generated_predictions.jsonl", [official("a", "harmful", response="Sure.")])
    assert read_given(path, DATA_FORMATS).examples[0].labels == Labels(response=H)


@pytest.mark.parametrize(("rows", "message"), [
    ([], "empty"),
    ([{"prompt": "a", "label": "harmful"}], r"line 1 has no text in column 'predict' \(its columns: prompt, label\)"),
    ([{"label": "harmful", "predict": "x"}], "no text in column 'prompt'"),
    ([{"prompt": "a", "label": "perhaps", "predict": "x"}], "line 1, column prompt"),
])
def test_bad_predictions_files(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        read_given(write_rows(tmp_path / "p.jsonl", rows), DATA_FORMATS)


def test_misaligned_predictions_are_refused(tmp_path):
    path = write_rows(tmp_path / "p.jsonl", [official(f"prompt {n}", "harmful") for n in range(5)])
    bench = [row(f"prompt {n}", H) for n in range(5)]
    assert len(read_given(path, DATA_FORMATS, benchmark=bench).examples) == 5
    with pytest.raises(UserError, match=r"does not fit bench: 4 of 5 rows are about other prompts; the first is line 1"):
        read_given(path, DATA_FORMATS, benchmark=[*bench[1:], row("prompt 4 ", H)], benchmark_name="bench")
    with pytest.raises(UserError, match=r"has 5 rows and bench has 4"):
        read_given(path, DATA_FORMATS, benchmark=bench[1:], benchmark_name="bench")


def test_a_benchmark_from_which_import_dropped_rows_fits_by_line(tmp_path):
    path = write_rows(tmp_path / "p.jsonl", [official(f"prompt {n}", "harmful", f"text {n}") for n in range(5)])
    bench = [row(f"prompt {n}", U).model_copy(update={"row": n + 1}) for n in (0, 2, 4)]
    found = read_given(path, DATA_FORMATS, benchmark=bench, benchmark_name="bench")
    assert found.texts == ["text 0", "text 2", "text 4"]
    assert found.notes == ["2 predictions belong to rows that are not in bench; they are left out.",
                           "3 labels in p.jsonl differ from those of bench; the gold labels are those of bench."]


# ---- ticks ----


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "runs")


def make_run(workspace, run_id, method="guard-eval", *, config=None, parent="", stage="evaluation", created=None, name="", trained=None,
             model=False):
    folder = workspace.runs_dir / run_id
    folder.mkdir()
    (folder / "config.yaml").write_text(config_yaml(method, config or {}))
    write_json(folder / "status.json", {"state": "succeeded", "method": method, "stage": stage, "parent": parent,
                                        "created": created or time.time()})
    write_json(folder / "labels.json", {"name": name})
    if trained is not None:
        (folder / TRAINED_KEYS).write_text("".join(prompt_key(text) + "\n" for text in trained))
    if model:
        (folder / "adapter").mkdir()
    return workspace.run(run_id)


def test_traces_are_drawn_once_for_all_and_verdicts_summed(workspace):
    run = make_run(workspace, "eval-0001")
    with PredictionLog(run.dir / "predictions.jsonl") as log:
        for number in range(50):
            log.add(said(number, H, H, coherent=number % 2 == 0))
        log.add(said(50, H, H, "silent"))
    drawn = traces_to_tick(run)
    assert len(drawn) == 20
    assert drawn == traces_to_tick(run)
    assert drawn != traces_to_tick(run, seed=1)
    assert all(item.model == "a" for item in traces_to_tick(run, n=500))
    add_tick(run, 0, "a", "not", "me")
    add_tick(run, 0, "a", "coherent", "me")  # a change of mind
    add_tick(run, 1, "a", "coherent", "me")
    add_tick(run, 2, "a", "not", "me")
    add_tick(run, 3, "a", "unsure", "me")
    assert len(ticks(run)) == 4
    summary = tick_summary(run)
    assert (summary["ticked"], summary["unsure"], summary["stricter"], summary["laxer"]) == (4, 1, 1, 1)
    assert (summary["agreement"]["n"], summary["agreement"]["value"]) == (3, pytest.approx(1 / 3))
    assert summary["coherent"]["value"] == pytest.approx(2 / 3)
    assert tick_summary(make_run(workspace, "eval-0002"))["agreement"]["value"] is None
    with pytest.raises(UserError, match="none of coherent, not, unsure"):
        add_tick(run, 0, "a", "good")


# ---- lineage ----


@pytest.fixture
def family(workspace):
    """data -> rsft (trained in a study) -> mine (with a model trained inside it) -> hsdpo, evaluated; and a later set of the same name."""
    make_run(workspace, "data-0001", "import-data", stage="data", created=1, name="train-set")
    (workspace.runs_dir / "data-0001" / "data.jsonl").touch()
    make_run(workspace, "recipe-0001", "recipe", stage="study", created=2, config={"settings": {"model": "embedded"}})
    make_run(workspace, "rsft-0001", "rsft", parent="recipe-0001", stage="training", created=3, trained=["a", "b"], model=True,
             config={"model": "embedded", "data": "train-set"})
    make_run(workspace, "mine-0001", "mine", stage="mining", created=4, config={"model": "run:rsft-0001", "data": "train-set"})
    make_run(workspace, "rsft-0002", "rsft", parent="mine-0001", stage="training", created=5, trained=["c"], model=True,
             config={"model": "embedded", "data": "train-set"})
    make_run(workspace, "hsdpo-0001", "hsdpo", stage="training", created=6, trained=["b"], model=True,
             config={"model": "run:rsft-0001", "data": "mine-0001", "allow_test_rows": True})
    make_run(workspace, "rsft-0003", "rsft", parent="recipe-0001", stage="training", created=7, trained=["d"], model=True,
             config={"model": "embedded"})
    make_run(workspace, "data-0002", "import-data", stage="data", created=8, name="train-set")
    (workspace.runs_dir / "data-0002" / "data.jsonl").touch()
    make_run(workspace, "eval-0001", config={"models": ["run:hsdpo-0001", "embedded"]}, created=9)
    return workspace


def ids(runs):
    return {run.id for run in runs}


def test_ancestors(family):
    assert ids(ancestors(family.run("hsdpo-0001"), family)) == {"rsft-0001", "mine-0001", "rsft-0002", "data-0001"}
    assert ids(ancestors(family.run("rsft-0001"), family)) == {"data-0001"}, "not the study it was a step of, nor its siblings"
    assert ids(ancestors(family.run("data-0001"), family)) == set()


@pytest.mark.parametrize("judge", ["run:rsft-0001", "run:rsft-0001+rules", "rules+guard:run:rsft-0001"])
def test_a_guard_that_judged_is_an_ancestor(family, judge):
    make_run(family, "waltzrl-0001", "waltzrl", stage="rl", model=True, config={"model": "embedded", "judge": judge})
    assert ids(ancestors(family.run("waltzrl-0001"), family)) == {"rsft-0001", "data-0001"}


def test_a_run_is_an_ancestor_by_its_name_where_the_field_takes_runs_of_its_method(family):
    make_run(family, "pairs-0001", "build-pairs", stage="mining", created=10, config={"runs": ["mine-0001"]}, name="pairs")
    make_run(family, "pairs-0002", "build-pairs", stage="mining", created=12, name="pairs")
    make_run(family, "hs-dpo-0001", "hs-dpo", stage="training", created=11, config={"model": "embedded", "data": "pairs"}, name="pairs")
    assert {"pairs-0001", "mine-0001"} <= ids(ancestors(family.run("hs-dpo-0001"), family))
    make_run(family, "hs-dpo-0002", "hs-dpo", stage="training", created=11, config={"model": "embedded", "data": "run:pairs"})
    assert "pairs-0001" in ids(ancestors(family.run("hs-dpo-0002"), family))
    assert "pairs-0002" not in ids(ancestors(family.run("hs-dpo-0001"), family)), "it came later"


def test_rows_that_ancestors_trained_on_are_known(family):
    trained = trained_on("run:hsdpo-0001", family)
    assert [trained.holds(text) for text in ("a", " A ", "b", "c", "d", "e")] == [True, True, True, True, False, False]
    assert set(trained.runs) == {"hsdpo-0001", "rsft-0001", "rsft-0002"}
    assert [line["run"] for line in trained.overrides] == ["hsdpo-0001"]
    assert not trained_on("embedded", family).holds("a")
    assert trained_on(str(family.runs_dir / "rsft-0001" / "adapter"), family).holds("a"), "a folder inside a run is that run"


def test_a_training_run_that_wrote_no_keys_is_named(family):
    make_run(family, "old-0001", "rsft", stage="training", model=True, config={"model": "run:rsft-0001"})
    trained = trained_on("run:old-0001", family)
    assert (trained.silent, trained.holds("a")) == (("old-0001",), True)


def test_a_run_that_names_itself_in_a_circle_ends(workspace):
    make_run(workspace, "a-0001", config={"x": "run:b-0001"})
    make_run(workspace, "b-0001", config={"x": ["run:a-0001", {"deep": "b-0001"}]})
    assert ids(ancestors(workspace.run("a-0001"), workspace)) == {"b-0001"}


def test_model_references_and_runs(family):
    assert run_of_model("run:rsft-0001", family).id == "rsft-0001"
    assert run_of_model("hf:org/model", family) is None
    assert run_of_model("/nowhere/else", family) is None
    with pytest.raises(UserError, match="no run 'gone'"):
        run_of_model("run:gone", family)


def test_the_graph_holds_what_came_before_and_after(family):
    nodes, edges = lineage_graph(family.run("rsft-0001"), family)
    assert {node.id for node in nodes} == {"data-0001", "rsft-0001", "mine-0001", "hsdpo-0001", "eval-0001", "recipe-0001", "embedded"}
    links = {(edge.source, edge.target, edge.what) for edge in edges}
    assert links == {("data-0001", "rsft-0001", "data"), ("data-0001", "mine-0001", "data"), ("embedded", "rsft-0001", "model"),
                     ("rsft-0001", "mine-0001", "model"), ("rsft-0001", "hsdpo-0001", "model"), ("mine-0001", "hsdpo-0001", "data"),
                     ("hsdpo-0001", "eval-0001", "model"), ("embedded", "eval-0001", "model"), ("rsft-0001", "recipe-0001", "step")}
    kinds = {node.id: node.kind for node in nodes}
    assert (kinds["embedded"], kinds["data-0001"], kinds["eval-0001"]) == ("outside", "data", "report")
