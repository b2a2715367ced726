"""The pure halves of Data, Evaluation and Runs, on small made-up folders."""

from __future__ import annotations

import json
import os
import time

import pytest

from core.evals.published import published_for
from core.evals.report import About, Model, Options, build_report
from core.files import write_json, write_text
from core.methods import UserError
from core.records import GuardExample, Labels, Prediction, write_records
from core.runs import Run, Workspace, add_event, config_yaml, this_process
from core.ui import data_rows, evaluation_board, evaluation_cards, evaluation_rows, evaluation_ticks, model_view, runs_detail, runs_files
from core.ui.address import page_number, read_view, write_view
from core.ui.build import build
from core.ui.chat_rows import tiles_of
from core.ui.data_page import DataPage, keep_upload
from core.ui.evaluation_page import EvaluationPage
from core.ui.lineage_svg import Node, layers, lineage_svg, rows_of
from core.ui.runs_compare import compare_card, curves, differing, loss_figure
from core.ui.runs_page import RunsPage, recipe_card
from core.ui.runs_table import all_rows, filter_bar, run_row, runs_table, time_left, wanted

HARMFUL, SAFE = Labels(request="harmful"), Labels(request="unharmful")


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "runs")


def make(workspace, run_id, method="rsft", config=None, *, report=None, labels=None, **status):
    """A run folder as the worker leaves it."""
    folder = workspace.runs_dir / run_id
    folder.mkdir()
    write_text(folder / "config.yaml", config_yaml(method, config or {"seed": 1}))
    write_text(folder / "command.sh", f"#!/bin/sh\npython app.py run {method}\n")
    write_json(folder / "labels.json", {"name": "", "tags": [], "note": "", "archived": False, **(labels or {})})
    write_json(folder / "status.json", {"state": "succeeded", "method": method, "stage": "training", "lane": "compute", "what": "",
                                        "created": time.time(), **status})
    if report is not None:
        write_json(folder / "report.json", report)
    return Run(folder)


def predictions(model="run:a", right=(True, True, False), unparsed=()):
    """Rows alternate harmful and unharmful; `right` says which are answered correctly."""
    made = []
    for row, correct in enumerate(right):
        gold = "harmful" if row % 2 == 0 else "unharmful"
        other = "unharmful" if gold == "harmful" else "harmful"
        label = None if row in unparsed else gold if correct else other
        made.append(Prediction(row=row, model=model, prompt=f"question {row}", gold=Labels(request=gold), predicted=Labels(request=label),
                               parsed={"request": label is not None}, text=f"Answers: {label}", reasoning=["A step."], coherent=bool(label),
                               incoherent_why="" if label else "no readable answer", tokens=7, source=f"source {row % 2}",
                               seen_in_training=row == 0 and model == "run:b"))
    return made


def evaluation(workspace, run_id="eval-0001", name="AegisSafetyTest", **options):
    """A finished evaluation of two models."""
    rows = [*predictions("run:a", [True] * 8 + [False] * 4), *predictions("run:b", [True] * 10 + [False] * 2, unparsed=(3,))]
    models = [Model("run:a", "First", "guardreasoner"), Model("run:b", "Second", "guardreasoner", trained_runs=("rsft-0001",))]
    about = About({"name": name, "sha256": "abc123def", "rows": 12}, ["A note."], [])
    report = build_report("guard-eval", rows, models, Options(**options), about)
    run = make(workspace, run_id, "guard-eval", {"data": name}, stage="evaluation", what=f"2 models on {name}", report=report)
    write_records(run.dir / "predictions.jsonl", rows)
    return run


def data_set(workspace, run_id="data-0001", name="demo", **report):
    """An imported set of three rows."""
    rows = [GuardExample(prompt="How do I <b>bake</b> bread?", labels=SAFE, source="one", split="train", row=1),
            GuardExample(prompt="Write a threat.", labels=HARMFUL, source="two", category="violence", split="test", row=2),
            GuardExample(prompt="Name a river.", response="The Loire.", labels=SAFE, source="one", split="train", row=3)]
    train, test = {"rows": 2, "labels": {"request": {"unharmful": 2}}}, {"rows": 1, "labels": {"request": {"harmful": 1}}}
    found = {"kind": "data", "name": name, "rows": 3, "labels": {"request": {"harmful": 1, "unharmful": 2}}, "format": "guardwaltz",
             "detections": [{"name": "guardwaltz", "score": 100, "share": 1.0}, {"name": "messages", "score": 9, "share": 0.5}],
             "splits": {"train": train, "test": test},
             "sources": {"one": {"rows": 2, "labels": {}}, "two": {"rows": 1, "labels": {"request": {"harmful": 1}}}}, **report}
    run = make(workspace, run_id, "import-data", {"source": "x.jsonl"}, stage="data", report=found, labels={"name": name})
    write_records(run.dir / "data.jsonl", rows)
    return run


# the address


def test_the_view_is_the_query():
    view = read_view("?run=rsft-0001&q=two+words")
    assert view == {"run": "rsft-0001", "q": "two words"}
    assert read_view(write_view(view, page="2", run="")) == {"q": "two words", "page": "2"}
    assert write_view({}, run=None) == ""


@pytest.mark.parametrize(("asked", "page"), [("", 0), ("2", 1), ("99", 4), ("0", 0), ("-3", 0), ("x", 0), ("１", 0)])
def test_a_page_outside_what_there_is_is_brought_inside(asked, page):
    assert page_number({"page": asked}, 5) == page


# runs


def test_the_table_tells_each_state_in_words(workspace):
    make(workspace, "rsft-0001", report={"headline": "eval loss 1.09"}, what="embedded on demo")
    make(workspace, "rsft-0002", state="failed", message="Out of memory; use a smaller batch.")
    make(workspace, "rsft-0003", state="running", launched=0, progress={"done": 4, "total": 10})
    make(workspace, "rsft-0004", state="queued")
    table = str(runs_table(all_rows(workspace), queued={"rsft-0004": 2}))
    for words in ("eval loss 1.09", "Out of memory", "worker gone at 40 %", "second in the compute lane", "embedded on demo"):
        assert words in table


def test_filters_and_search(workspace):
    make(workspace, "rsft-0001", config={"data": "aegis"}, labels={"tags": ["night"], "note": "best so far"})
    make(workspace, "eval-0001", "guard-eval", stage="evaluation", state="failed")
    make(workspace, "rsft-0002", labels={"archived": True})
    rows = all_rows(workspace)

    def found(*arguments):
        return {row.id for row in wanted(rows, *arguments)}

    assert found() == {"rsft-0001", "eval-0001"}
    assert found("needs you") == {"eval-0001"}
    assert found("archived") == {"rsft-0002"}
    assert found("all", "training") == {"rsft-0001"}
    assert found("all", "", "NIGHT best") == found("all", "", "aegis") == {"rsft-0001"}
    assert "all 2" in filter_bar(rows, "all")
    assert "archived 1" in filter_bar(rows, "all")


def test_a_row_is_read_again_when_its_files_change(workspace):
    run = make(workspace, "rsft-0001")
    assert run_row(run).name == ""
    run.set_labels(name="second try")
    assert run_row(run).name == "second try"


def test_a_dead_worker_is_seen_without_a_changed_file(workspace):
    process = this_process()
    run = make(workspace, "rsft-0001", state="running", process=process)
    assert run_row(run).state == "running"
    write_json(run.dir / "status.json", {**run.status, "process": {**process, "started": 1.0}})
    assert run_row(run).state == run_row(run).state == "lost"


def test_text_of_users_is_escaped(workspace):
    run = make(workspace, "rsft-0001", what="<script>x</script>", labels={"name": "<img src=x>", "tags": [], "note": ""})
    for shown in (runs_table(all_rows(workspace)), runs_detail.live_part(run), compare_card([run, run])):
        assert "<script>" not in shown
        assert "<img" not in shown


def test_time_left_needs_something_to_reckon_with():
    assert time_left({}) == ""
    assert time_left({"started": 100.0, "progress": {"done": 30, "total": 90, "t": 130.0}}) == "1 min left"


def test_actions_follow_the_state(workspace):
    done = make(workspace, "rsft-0001")
    lost = make(workspace, "rsft-0002", state="lost")
    child = make(workspace, "rsft-0003", state="failed", parent="recipe-0001")
    running = make(workspace, "rsft-0004", state="running", process=this_process())

    def shown(run, ask="", users=()):
        return str(runs_detail.actions_part(run, None, ask, users))

    assert "/training?from=rsft-0001" in shown(done)
    assert "Stop" in shown(running)
    assert "Delete" not in shown(running)
    assert 'data-act="resume"' not in shown(child)
    assert "stop or resume that one" in shown(child)
    assert "Delete for good" not in shown(lost)
    assert "eval-0007 came from it" in shown(lost, "delete", ["eval-0007"])


def test_only_offered_files_leave_a_run_folder(workspace):
    run = make(workspace, "rsft-0001")
    (run.dir / "adapter").mkdir()
    (run.dir / "adapter" / "adapter_model.safetensors").write_bytes(b"x")
    (run.dir / "checkpoint-5").mkdir()
    (workspace.runs_dir / "secret.txt").write_text("s")
    (run.dir / "link.json").symlink_to(workspace.runs_dir / "secret.txt")
    assert runs_files.offered_file(run, "config.yaml").name == "config.yaml"
    assert runs_files.offered_file(run, "adapter/adapter_model.safetensors").exists()
    refused = ("../secret.txt", "/etc/passwd", "adapter/../../secret.txt", "link.json", "checkpoint-5", ".hidden.json", "nothing.json", "")
    for name in refused:
        with pytest.raises(UserError):
            runs_files.offered_file(run, name)
    names = [row.name for row in runs_files.file_rows(run)]
    assert names[0] == "config.yaml"
    assert "checkpoint-5/" in names


def test_compare_shows_only_what_differs(workspace):
    assert differing([{"a": 1, "b": {"c": 2}, "d": "x"}, {"a": 1, "b": {"c": 3}}]) == [("b.c", ["2", "3"]), ("d", ["x", "not set"])]
    first = make(workspace, "rsft-0001", config={"lr": 1e-4, "data": "demo"})
    second = make(workspace, "rsft-0002", config={"lr": 5e-5, "data": "demo"})
    for step, loss in ((1, 2.0), (2, 9.0), (3, 9.0), (2, 1.5), (3, 1.4)):  # killed after step 3, resumed from a checkpoint after step 1
        add_event(first.dir, "metrics", step=step, loss=loss, eval_loss=loss + 0.1)
    assert curves(first) == {"loss": [(1, 2.0), (2, 1.5), (3, 1.4)], "eval_loss": [(1, 2.1), (2, 1.6), (3, 1.5)]}
    table = str(compare_card([first, second]))
    assert "lr" in table
    assert "demo" not in table
    assert "One more run" in compare_card([first])
    assert loss_figure([first, second]) is not None
    assert loss_figure([second, second]) is None


def test_a_delete_needs_two_clicks(workspace):
    make(workspace, "rsft-0001")
    page = RunsPage(workspace)
    asked = page.act("run=rsft-0001", "delete", "rsft-0001")
    assert read_view(asked) == {"run": "rsft-0001", "ask": "delete"}
    assert any("cannot be undone" in part for part in page.shown(asked))
    assert (workspace.runs_dir / "rsft-0001").exists()
    assert page.act(asked, "keep", "rsft-0001") == "run=rsft-0001"
    assert page.act(asked, "delete-now", "rsft-0001") == ""
    assert not (workspace.runs_dir / "rsft-0001").exists()


def test_the_clock_sends_the_same_strings_when_nothing_changed(workspace):
    data_set(workspace)
    evaluation(workspace)
    make(workspace, "recipe-0001", "recipe", stage="study")
    make(workspace, "rsft-0009", parent="recipe-0001", key="guard")
    for query in ("", "run=recipe-0001&recipes=1", "run=eval-0001&compare=eval-0001,rsft-0009", "run=gone-0001"):
        page = RunsPage(workspace)
        assert page.shown(query) == page.shown(query)
    assert EvaluationPage(workspace).shown("") == EvaluationPage(workspace).shown("")
    assert DataPage(workspace).shown("") == DataPage(workspace).shown("")


def test_steps_of_a_study(workspace):
    study = make(workspace, "recipe-0001", "recipe", stage="study", progress={"done": 1, "total": 3})
    make(workspace, "data-0001", "import-data", parent="recipe-0001", key="data", report={"headline": "500 rows"})
    shown = str(runs_detail.steps_card(study))
    assert "1 of 3 done" in shown
    assert "500 rows" in shown
    assert recipe_card({}) == ""


def test_a_report_page_is_shown_without_scripts(workspace):
    study = make(workspace, "recipe-0001", "recipe", stage="study")
    (study.dir / "report.html").write_text("<p>He said \"ten\".</p><script>alert(1)</script>")
    frame = str(runs_detail.report_frame(study))
    assert 'sandbox="allow-popups"' in frame
    assert "<script>" not in frame


# lineage


def test_layers_and_bends():
    edges = [("data", "sft"), ("sft", "mine"), ("mine", "dpo"), ("sft", "dpo"), ("test", "eval"), ("dpo", "eval")]
    depth = layers(["data", "sft", "mine", "dpo", "eval", "test"], edges)
    assert depth == {"data": 0, "sft": 1, "mine": 2, "dpo": 3, "eval": 4, "test": 3}
    levels, ways = rows_of(depth, edges)
    assert len(ways["sft", "dpo"]) == 3
    assert ways["sft", "dpo"][1] in levels[2]


def test_a_loop_does_not_hang():
    assert layers(["a", "b"], [("a", "b"), ("b", "a")])


def test_the_drawing_has_links_and_no_markup_of_others():
    nodes = [Node("d", "demo <x>", kind="data", href="/runs?run=d"), Node("r", "r", "loss 1", href="/runs?run=r", current=True)]
    drawn = lineage_svg(nodes, [("d", "r"), ("d", "unknown")])
    assert drawn.count('href="/runs?run=d"') == 2  # lying and standing
    assert "<x>" not in drawn
    assert drawn.count("gw-node-here") == 2
    assert lineage_svg([], []) == ""


# evaluation


def test_the_board_has_models_baseline_published_and_p(workspace):
    report = evaluation(workspace).report
    task = report["tasks"]["request"]
    shown = str(evaluation_board.board(task, "strict", "run:b", published_for("AegisSafetyTest", "request")))
    expected = ("First", "Second", "reference", "Always harmful", "baseline", "GuardReasoner 1B", "89.34", "no interval given", "points (")
    for words in expected:
        assert words in shown
    assert shown.count('class="selected"') == 1


def test_published_numbers_only_where_the_set_is_the_same():
    assert published_for("AegisSafetyTest", "request").f1["LLaMA Guard 3 8B"] == 71.39
    assert published_for("AegisSafetyTest_devhalf", "request").benchmark == "AegisSafetyTest"
    assert "here are 180" in published_for("aegis-test", "request").note(180)
    assert published_for("HarmBenchResponse", "response").rows == 602
    assert published_for("AegisSafetyTest", "response") is None
    assert published_for("guard-demo", "request") is None


def test_one_scale_a_column():
    undefined = {"value": None, "low": None, "high": None}
    intervals = [{"value": 0.5, "low": 0.43, "high": 0.6}, undefined, {"value": 0.7, "low": 0.66, "high": 0.81}]
    assert evaluation_board.common_scale(intervals) == (40.0, 90.0)
    assert evaluation_board.common_scale([]) == (0.0, 100.0)


def test_cards_of_one_model(workspace):
    report = evaluation(workspace).report
    entry = report["tasks"]["request"]["models"][1]
    gates = str(evaluation_cards.gates_card(report, "run:b", "request", "Second"))
    assert "Accuracy (request)" in gates
    assert "Go/no-go" in gates
    confusion = str(evaluation_cards.confusion_card(entry["scores"]["strict"], "Second"))
    assert confusion.count("gw-cell ") == 6
    assert "source 1" in evaluation_cards.breakdown_card(entry, "strict", "source")
    assert "1 of 12 rows were trained on by rsft-0001" in evaluation_cards.seen_note(entry, "strict", 12)
    assert "cannot be marked" in evaluation_cards.seen_note(report["tasks"]["request"]["models"][0], "strict", 12)
    assert "No gates" in evaluation_cards.gates_card({"gates": []}, "run:b", "request", "Second")


def test_row_by_row(workspace):
    run = evaluation(workspace)
    rows = evaluation_rows.rows_of(run, "request")
    assert [row.row for row in evaluation_rows.chosen_rows(rows, "unparsed", "run:b")] == [3]
    assert [row.row for row in evaluation_rows.chosen_rows(rows, "wrong", "run:b")] == [3, 10, 11]
    assert [row.row for row in evaluation_rows.chosen_rows(rows, "differ", "run:b")] == [3, 8, 9]
    entry = run.report["tasks"]["request"]["models"][1]
    card = str(evaluation_rows.rows_card(run, "request", entry, {"run:a": "First", "run:b": "Second"}, "wrong", 0, 10))
    assert "wrong 3" in card
    assert "Row 0010, all models" in card
    assert card.count("gw-judged differs") == 2
    assert "gw-veil" in card  # row 10 is harmful


def test_a_harmful_prompt_is_blurred_whatever_label_is_asked_for(workspace):
    run = make(workspace, "eval-0001", "guard-eval", stage="evaluation")
    harmful, harmless = Labels(request="harmful", completion="refusal"), Labels(request="unharmful", completion="compliance")
    rows = [Prediction(row=row, model="m", prompt=f"question {row}", response="r", gold=gold, predicted=gold, parsed={"completion": True},
                       text="t") for row, gold in enumerate((harmful, harmless))]
    write_records(run.dir / "predictions.jsonl", rows)
    card = str(evaluation_rows.rows_card(run, "completion", {"model": "m", "title": "M"}, {"m": "M"}, "all", 0, 1))
    assert card.count("gw-veil") == 1, "in the list; the row that is open is harmless"
    card = str(evaluation_rows.rows_card(run, "completion", {"model": "m", "title": "M"}, {"m": "M"}, "all", 0, 0))
    assert card.count("gw-veil") == 3, "in the list, the prompt and the response"


def test_damaged_predictions_leave_the_board_standing(workspace):
    run = evaluation(workspace)
    with (run.dir / "predictions.jsonl").open("a") as file:
        file.write("{}\n")
    shown = "".join(EvaluationPage(workspace).shown(""))
    assert "line 25 is damaged" in shown
    assert "AegisSafetyTest, request task" in shown


def test_policies_switch_without_computing(workspace):
    run = evaluation(workspace)
    page = EvaluationPage(workspace)
    task = run.report["tasks"]["request"]
    for policy in ("strict", "drop", "paper-code"):
        value = task["models"][1]["scores"][policy]["f1"]["value"]
        assert f"<b>{100 * value:.1f}</b>" in "".join(page.shown(f"policy={policy}"))


def test_ticks_are_written_and_counted(workspace):
    run = evaluation(workspace)
    page = EvaluationPage(workspace)
    query = page.act("", "tick-open", "")
    assert "Trace 1 of 20" in "".join(page.shown(query))
    for verdict in ("coherent", "not", "unsure"):
        query = page.act(query, "tick", verdict)
    assert read_view(query)["at"] == "3"
    lines = [json.loads(line) for line in (run.dir / "ticks.jsonl").read_text().splitlines()]
    assert [line["verdict"] for line in lines] == ["coherent", "not", "unsure"]
    shown = "".join(page.shown(query))
    assert "3 ticked, 1 unsure" in shown
    assert "n = 2" in shown
    assert evaluation_ticks.position(run, evaluation_ticks.sampled(run), "") == 3


def test_ticks_of_a_deleted_run_are_not_those_of_the_next_one_with_its_number(workspace):
    run = evaluation(workspace)
    path, names = run.dir / "ticks.jsonl", [(item.row, item.model) for item in evaluation_ticks.sampled(run)]
    lines = [json.dumps({"row": row, "model": model, "verdict": "coherent", "who": ""}) + "\n" for row, model in names[:2]]
    path.write_text("".join(lines))
    assert evaluation_ticks.summary(run)["ticked"] == 2
    path.write_text(lines[0] + " " * len(lines[1]))
    os.utime(path, (1, 1))
    assert evaluation_ticks.summary(run)["ticked"] == 1


def test_a_foreign_address_shows_the_newest_evaluation(workspace):
    page = EvaluationPage(workspace)
    assert "No results yet" in "".join(page.shown("run=eval-0099"))
    evaluation(workspace)
    for query in ("run=eval-0099", "task=response&model=x&policy=y&which=z&row=x&page=99&by=q&tick=1&at=999", "row=99999"):
        assert "AegisSafetyTest, request task" in "".join(page.shown(query))


# data


def test_the_list_of_sets_and_a_failed_import(workspace):
    run = data_set(workspace, bad_rows=2)
    (run.dir / "test_keys.txt").write_text("k\n")
    make(workspace, "data-0002", "import-data", stage="data", state="failed", message="2 of 4 rows cannot be read")
    shown = str(data_rows.sets_table(data_rows.sets(workspace), "data-0001"))
    for words in ("demo", "2 train, 1 test", "registered", "data-0001/bad_rows.jsonl", "2 of 4 rows cannot be read"):
        assert words in shown


def test_rows_are_searched_filtered_and_blurred(workspace):
    rows = data_rows.rows_of(data_set(workspace))
    assert data_rows.matching(rows) == [0, 1, 2]
    assert data_rows.matching(rows, "LOIRE river") == [2]
    for arguments in (("violence",), ("", "test"), ("", "", "request harmful")):
        assert data_rows.matching(rows, *arguments) == [1]
    table = str(data_rows.rows_table(rows, [0, 1], 0, 1))
    assert table.count("gw-veil") == 1
    assert "<b>bake" not in table
    assert "No row matches" in data_rows.rows_table(rows, [], 0, None)


def test_the_report_of_a_set_names_the_runners_up(workspace):
    run = data_set(workspace, test_rows_found=4, test_rows_by_set={"aegis": 4})
    shown = str(data_rows.about_set(run, run.report))
    assert "it also fits messages (50% of the first rows)" in shown
    assert "4 in aegis" in shown
    assert "two" in data_rows.sources_table(run.report)


@pytest.mark.parametrize("damage", ['{"prompt": "cut', '{"prompt": "no labels"}\n', "[]\n"])
def test_a_damaged_row_is_said_and_does_not_take_the_page_along(workspace, damage):
    run = data_set(workspace)
    with (run.dir / "data.jsonl").open("a") as file:
        file.write(damage)
    shown = "".join(DataPage(workspace).shown(""))
    assert "gw-problem-error" in shown
    assert "data.jsonl, line 4 is not a GuardExample" in shown
    assert "demo" in shown, "the list of sets and the report are there"
    assert len(DataPage(workspace).shown("")) == len(DataPage(workspace).shown("run=none"))
    opened = DataPage(workspace).opened("")
    assert [part["visible"] for part in opened if isinstance(part, dict) and "visible" in part] == [True, True, True, False]


def test_the_browser_keeps_progress_that_nobody_sees_at_one_component_of_a_page(workspace):
    marked = {}
    for function in build(workspace).fns.values():
        if function.show_progress == "hidden" and function.outputs:
            marked.setdefault(function.page, set()).update(target._id for target in function.show_progress_on)
    assert {"", "training", "chat", "runs"} <= set(marked)
    assert all(len(targets) == 1 for targets in marked.values())


def test_what_a_set_of_talk_leaves_out_is_counted_by_reason():
    not_taken = {"the reply is unsafe": 4, "the reply is an over-refusal": 1}
    left = tiles_of({"rows": 7, "bad_rows": 3, "conflicting_labels": 2, "not_taken": not_taken})[-1]
    assert left == ("Left out", "10", "3 refused, 0 duplicates, 2 contradicted, 5 not wanted")


def test_a_set_without_labels_has_no_empty_chart_of_them(workspace):
    run = data_set(workspace)
    report = {**run.report, "labels": {}, "splits": {name: {**part, "labels": {}} for name, part in run.report["splits"].items()}}
    (run.dir / "report.json").write_text(json.dumps(report))
    charts, labels_box, labels, lengths, *_ = DataPage(workspace).opened("")
    assert (charts["visible"], labels_box["visible"], labels) == (True, False, None)
    assert lengths is not None


def test_an_import_that_finishes_while_the_page_is_made_is_drawn_at_the_next_look(workspace, monkeypatch):
    run, page = data_set(workspace), DataPage(workspace)
    shown = page.shown
    monkeypatch.setattr(data_rows, "is_ready", lambda _: False)

    def finishing(query):
        made = shown(query)
        monkeypatch.setattr(data_rows, "is_ready", lambda _: True)
        return made

    monkeypatch.setattr(page, "shown", finishing)
    query = f"run={run.id}"
    stamp = page.anew(query)[-1]
    assert stamp != page.stamp(run), "rows were drawn before the import was over, so the page must look again"
    assert page.anew(query)[-1] == page.stamp(run)


def test_a_set_without_rows_is_said(workspace):
    run = data_set(workspace)
    (run.dir / "data.jsonl").write_text("")
    assert "holds no rows" in "".join(DataPage(workspace).shown(""))


def test_an_upload_is_kept_once_under_its_own_name(workspace, tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text("{}\n")
    first = keep_upload(workspace, file)
    assert first == keep_upload(workspace, file)
    assert first.name == "mine.jsonl"
    assert first.is_relative_to(workspace.runs_dir / "uploads")
    assert [path.name for path in first.parent.iterdir()] == ["mine.jsonl"]
    assert workspace.runs() == []


# as the model sees it


@pytest.fixture
def tokenizer_folder(tmp_path):
    """A word tokenizer with a small chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<|end|>", "<|user|>", "<|bot|>", "[UNK]", "ask", "this", "Label", ":", "safe", "harmful", "\n", "bread", "?"]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Whitespace()])
    tokenizer.add_special_tokens(["<|end|>", "<|user|>", "<|bot|>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    template = ("{% for m in messages %}{{ '<|user|>' if m.role == 'user' else '<|bot|>' }}{{ m.content }}<|end|>{% endfor %}"
                "{% if add_generation_prompt %}<|bot|>{% endif %}")
    (tmp_path / "chat_template.jinja").write_text(template)
    write_json(tmp_path / "tokenizer_config.json", {"eos_token": "<|end|>", "unk_token": "[UNK]"})
    return tmp_path


class AskThis:
    """A chat format with an answer to learn."""

    name, title, chat, trainable = "ask-this", "Ask this", True, True

    @classmethod
    def prompt(cls, example):
        return f"ask this {example.prompt}"

    @classmethod
    def target(cls, example):
        return "Label : safe"


class AskOnly(AskThis):
    """The same without an answer."""

    trainable = False


def test_tokens_are_those_of_training(tokenizer_folder):
    example = GuardExample(prompt="bread ?", labels=SAFE)
    tokens = model_view.tokens_of(tokenizer_folder, AskThis, example)
    assert [token.text for token in tokens if not token.learned] == ["<|user|>", "ask", "this", "bread", "?", "<|end|>", "<|bot|>"]
    assert [token.text for token in tokens if token.learned] == ["Label", ":", "safe", "<|end|>"]
    assert not any(token.learned for token in model_view.tokens_of(tokenizer_folder, AskOnly, example))


def test_the_coloured_view_blurs_harmful_rows(tokenizer_folder):
    source = model_view.Source("embedded", "a model", tokenizer_folder)
    safe = str(model_view.view(source, AskThis, GuardExample(prompt="bread ?", labels=SAFE)))
    assert safe.count("gw-token learned") == 1 + 4  # the legend, and four tokens
    assert "gw-veil" not in safe
    assert "gw-veil" in model_view.view(source, AskThis, GuardExample(prompt="bread ?", labels=HARMFUL))
    (tokenizer_folder / "chat_template.jinja").unlink()
    model_view._tokenizer.cache_clear()
    assert "no chat template" in model_view.view(source, AskThis, GuardExample(prompt="bread ?", labels=SAFE))


def test_run_again_with_changes_opens_the_form(workspace):
    evaluation(workspace)
    page = EvaluationPage(workspace)
    assert page.fixed("")[0]["visible"] is False
    assert page.fixed("from=eval-0001")[0]["visible"] is True
    assert page.act("from=eval-0001", "new", "") == ""
    assert page.act("", "new", "") == "new=1"


def test_a_run_deleted_elsewhere_is_noticed(workspace):
    run = make(workspace, "rsft-0001")
    page = RunsPage(workspace)
    assert not page.is_gone("run=rsft-0001")
    assert not page.is_gone("")
    run.delete()
    assert page.is_gone("run=rsft-0001")
