"""`mine-hard-samples`: what is hard, what a run leaves and refuses, streaming, Stop, kill -9 and resume, real outputs of real guards."""

import json
import os
import signal
from contextlib import contextmanager
from itertools import islice
from types import SimpleNamespace

import pytest

from core.active import StopRequested
from core.answer_log import count_rows
from core.data import find_data, stream_examples
from core.jobs import create, resume, submit
from core.lineage import ancestors
from core.lm.engines import open_engine
from core.methods import UserError, validate
from core.mining.ahead import Ahead, Answer
from core.mining.answering import Sampling, answered_rows
from core.mining.outputs import read_outputs
from core.mining.rows import Asked
from core.mining.samples import as_hard, hard_task, kind_of, tally
from core.mining.summary import Summary
from core.preflight import look
from core.records import GuardExample, HardSample, Labels, MinedSample, Output, read_jsonl, read_records
from core.runs import Workspace
from core.split_guard import keys_to_register
from tests.fakes.openai_server import openai_server
from tests.helpers import execute, finish, wait_for, write
from tests.test_sft_exact import examples

ON_CPU = {"dtype": "float32", "device": "cpu"}
TRAIN = {**ON_CPU, "tuning": "full", "epochs": 8, "batch_size": 8, "accumulation": 1, "lr": 3e-3, "sample_rows": 0, "validation_share": 0,
         "prompt_format": "seed-label"}


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "rows.jsonl", examples(24))


@pytest.fixture(scope="module")
def guard(tiny_model, tmp_path_factory):
    """A guard that is unsure: the tiny model after a few steps. It answers "Label: ..." right, wrong, and sometimes not readably."""
    folder = tmp_path_factory.mktemp("guard")
    settings = {**TRAIN, "model": str(tiny_model), "data": write(folder / "rows.jsonl", examples(24))}
    return str(execute(Workspace(folder / "runs"), "rsft", settings).dir / "model")


def mine(workspace, settings, run=None):
    return execute(workspace, "mine-hard-samples", {**ON_CPU, **settings}, run)


def sample(row=0, gold="harmful", answers=("harmful",), prompt="", **more):
    """A mined row; an answer None could not be read."""
    outputs = [Output(text=f"Label {number}: {answer}", predicted=Labels(request=answer), tokens=5)
               for number, answer in enumerate(answers)]
    return MinedSample(row=row, prompt=prompt or f"Question {row}?", gold=Labels(request=gold), model="run:rsft-0001",
                       prompt_format="seed-binary", outputs=outputs, **more)


def says(label):
    return {"harmful": "Label: harmful", "unharmful": "Label: safe"}.get(label, "I cannot tell.")


@pytest.fixture
def scripted(monkeypatch):
    """Stands for the engine: answers with what `script.answers(gold of the prompt's number, sample)` says."""
    script = SimpleNamespace(answers=lambda *_: "harmful", asked=[], stop_after=None)

    class Engine:
        name, promise = "scripted", "The same every time."

        def answers(self, prompts, *, samples, indices, should_stop, have, **settings):
            for index, text in zip(indices, prompts, strict=False):
                script.asked.append((index, text, settings))
                for number in range(samples):
                    if script.stop_after == (index, number):
                        return
                    if (index, number) in have:
                        continue
                    text = says(script.answers(index, number))
                    yield SimpleNamespace(index=index, sample=number, text=text, tokens=4, finish="stop")

    @contextmanager
    def opened(*_, **__):
        yield Engine()

    monkeypatch.setattr("core.mining.mine.open_answers", opened)
    return script


# ---- what is hard ----


@pytest.mark.parametrize("answers, drop, incorrect", [
    (["harmful"] * 4, "all right", "all right"),
    (["unharmful"] * 4, "all wrong", "all wrong"),
    (["harmful", "unharmful", None, None], "hard", "hard"),
    (["harmful", "harmful", None, None], "all right", "hard"),
    (["harmful", None, None, None], "unparsed", "hard"),
    ([None] * 4, "unparsed", "all wrong"),
])
def test_kinds_of_rows_under_both_readings_of_unreadable_answers(answers, drop, incorrect):
    row = sample(answers=answers)
    assert (kind_of(row, "drop"), kind_of(row, "incorrect")) == (drop, incorrect)
    for unparsed in ("drop", "incorrect"):
        counted, hard = tally(row, "request", unparsed), as_hard(row, unparsed)
        assert counted.unparsed == answers.count(None)
        assert counted.correct + counted.incorrect == (4 if unparsed == "incorrect" else 4 - answers.count(None))
        assert (hard is not None) == (kind_of(row, unparsed) == "hard")
        if hard:
            assert hard.difficulty == hard.k_incorrect / (hard.k_correct + hard.k_incorrect)


def test_the_first_mixed_task_in_the_papers_order_makes_a_row_hard():
    outputs = [Output(text="a", predicted=Labels(request="harmful", response="harmful", completion="refusal")),
               Output(text="b", predicted=Labels(request="harmful", response="unharmful", completion="compliance"))]
    row = sample().model_copy(update={"gold": Labels(request="harmful", response="harmful", completion="refusal"), "outputs": outputs})
    assert hard_task(row) == "response", "request is not mixed, response comes before completion"
    assert hard_task(row.model_copy(update={"gold": Labels(completion="refusal")})) == "completion", "only tasks with a gold label"
    assert hard_task(row.model_copy(update={"gold": Labels(request="unharmful")})) is None


def test_30_of_the_481_real_rows_are_hard(shared_data):
    """Outputs of two official guards, two runs each. The file counts an unreadable answer as wrong: 30. Left out, two rows are not mixed.

    Our own parser differs from the stored labels in one text, which loops ("request: harmful and None and request: ...") and is unreadable
    to it; that makes row 251 mixed.
    """
    from core.plugins import load_plugins

    path = shared_data / "hs_mining_multi_outputs.jsonl"
    if not path.is_file():
        pytest.skip(f"{path.name} is not among the shared data sets")
    parse = load_plugins().prompt_formats["guardreasoner"].parse
    stored, own, left_out, differ = Summary(4, "incorrect"), Summary(4, "incorrect"), Summary(4, "drop"), 0
    for row in read_jsonl(path):
        task = {"prompt": "request", "response": "response"}[row["task"]]
        texts = {}  # null = the same text as the same model's first run
        for output in row["outputs"]:
            texts[output["model"], output["run"]] = output["predict"] or texts.get((output["model"], "head"), "")
        read = [Output(text=text, predicted=parse(text).labels) for text in texts.values()]
        told = [Output(text=text, predicted=Labels.model_validate({task: output["pred"]}))
                for text, output in zip(texts.values(), row["outputs"], strict=True)]
        differ += sum(getattr(a.predicted, task) != getattr(b.predicted, task) for a, b in zip(read, told, strict=True))
        base = {"row": row["idx"], "prompt": "?", "gold": Labels.model_validate({task: row["gold"]}), "model": "official",
                "prompt_format": "guardreasoner-raw", "source": row["source"]}
        mined = MinedSample(**base, outputs=told)
        stored.add(mined)
        left_out.add(mined)
        own.add(MinedSample(**base, outputs=read))
        assert (as_hard(mined, "incorrect") is not None) == row["hard"]
        assert tally(mined, task, "incorrect")[:2] == (row["k_correct"], row["k_incorrect"])
    assert (stored.rows, stored.hard, left_out.hard) == (481, 30, 28)
    print(f"own parser: {own.hard} hard of {own.rows}; {differ} of {4 * own.rows} labels differ from the stored ones")
    assert (own.hard, differ) == (31, 1)


def test_the_summary_counts_what_the_rows_say():
    summary = Summary(4, "drop")
    for row, answers in enumerate([["harmful"] * 4, ["harmful", "unharmful", "unharmful", None], ["unharmful"] * 4, [None] * 4,
                                   ["harmful"] * 3 + ["unharmful"]]):
        summary.add(sample(row, answers=answers, source="ab"[row % 2], category="x" if row else ""))
    record = summary.record()
    assert {kind: item["count"] for kind, item in record["kinds"].items()} == {"hard": 2, "all right": 1, "all wrong": 1, "unparsed": 1}
    assert [bar["count"] for bar in record["histogram"]] == [2, 1, 0, 1, 1]
    assert {name: record["outputs"]["request"][name]["count"] for name in ("correct", "incorrect", "unparsed")} == {
        "correct": 8, "incorrect": 7, "unparsed": 5}
    assert [(group["name"], group["rows"], group["hard"]["value"]) for group in record["by_source"]] == [("a", 3, 1 / 3), ("b", 2, 0.5)]
    assert [(group["name"], group["rows"]) for group in record["by_gold"]] == [("request: harmful", 5)]
    assert [(group["name"], group["rows"]) for group in record["by_category"]] == [("x", 4)]
    share = record["kinds"]["hard"]["share"]
    assert (round(share["low"], 4), share["value"], round(share["high"], 4), share["n"]) == (0.1176, 0.4, 0.7693, 5), "Wilson"
    assert summary.headline() == "2 of 5 rows hard: 40 % (11.8 % to 76.9 %, n = 5)"


# ---- a run ----


def test_what_a_run_leaves(workspace, data, guard):
    run = mine(workspace, {"data": data, "model": guard})
    rows, report = list(read_outputs(run.dir / "outputs.jsonl")), run.report
    assert [row.row for row in rows] == list(range(24)), "every row, in input order, hard or not"
    assert [row.prompt for row in rows] == [example.prompt for example in examples(24)]
    assert {len(row.outputs) for row in rows} == {4}
    hard = list(read_records(run.dir / "hard.jsonl", HardSample))
    assert hard == [made for row in rows if (made := as_hard(row))]
    assert 0 < len(hard) == report["hard"] == report["kinds"]["hard"]["count"] < 24
    assert sum(kind["count"] for kind in report["kinds"].values()) == report["rows"] == 24
    assert sum(report["outputs"]["request"][name]["count"] for name in ("correct", "incorrect", "unparsed")) == 96
    assert sum(bar["count"] for bar in report["histogram"]) == 24
    assert report["headline"].startswith(f"{len(hard)} of 24 rows hard: ")
    assert (report["settings"]["k"], report["settings"]["temperature"], report["prompt_format"]) == (4, 1.0, "seed-label")
    assert report["engines"][0]["promise"].startswith("In float32, a re-run gives the same texts")
    assert report["data"]["sha256"] == find_data(data, workspace).sha256()
    assert report["split_guard"]["test_rows_found"] == 0
    assert run.status["stats"]["Hard"] == str(len(hard))
    curve = [event for event in run.events("metrics") if "hard_share" in event]
    assert curve[-1]["hard_share"] == len(hard) / 24
    assert not (run.dir / "trained_keys.txt").exists(), "mining is not training"
    again = mine(workspace, {"data": data, "model": guard})
    assert (again.dir / "outputs.jsonl").read_bytes() == (run.dir / "outputs.jsonl").read_bytes()
    other = mine(workspace, {"data": data, "model": guard, "seed": 1})
    assert (other.dir / "outputs.jsonl").read_bytes() != (run.dir / "outputs.jsonl").read_bytes()


@pytest.mark.kill
def test_kill_9_and_resume_gives_the_file_of_an_uninterrupted_run(workspace, guard, tmp_path):
    many = write(tmp_path / "many.jsonl", examples(240))
    settings = {**ON_CPU, "data": many, "model": guard, "k": 4}
    wanted = mine(workspace, settings)
    run = submit(workspace, "mine-hard-samples", settings)
    log = run.dir / "outputs.jsonl"
    wait_for(lambda: count_rows(log) > 3, "the first rows")
    os.kill(run.status["process"]["pid"], signal.SIGKILL)
    wait_for(lambda: run.state == "lost", "the loss to show")
    left = log.read_bytes()
    whole = left[:left.rfind(b"\n") + 1]
    assert 3 < whole.count(b"\n") < 240, "killed before it was done"
    resume(workspace, run)
    assert finish(workspace, run, 120) == "succeeded", run.log_tail()
    made = log.read_bytes()
    assert made.startswith(whole), "rows already written stay"
    assert made == (wanted.dir / "outputs.jsonl").read_bytes()
    assert (run.dir / "hard.jsonl").read_bytes() == (wanted.dir / "hard.jsonl").read_bytes()
    timed = ("speed", "run")
    same = [{key: value for key, value in one.report.items() if key not in timed} for one in (run, wanted)]
    assert same[0] == same[1]


def test_stop_keeps_whole_rows_only_and_resume_goes_on(workspace, data, guard, scripted):
    scripted.stop_after = (7, 2)
    settings = {"data": data, "model": guard}
    run = create(workspace, workspace.plugins.method("mine-hard-samples"), {**ON_CPU, **settings})
    (run.dir / "stop").touch()
    with pytest.raises(StopRequested):
        mine(workspace, settings, run)
    assert [row.row for row in read_outputs(run.dir / "outputs.jsonl")] == list(range(7)), "row 7 had two of its four answers"
    assert not (run.dir / "hard.jsonl").exists()
    (run.dir / "stop").unlink()
    scripted.stop_after, scripted.asked = None, []
    again = mine(workspace, settings, run)
    assert [index for index, _, _ in scripted.asked] == list(range(7, 24)), "rows keep their numbers, and with them their noise"
    assert again.report["rows"] == 24


@pytest.mark.usefixtures("scripted")
def test_a_torn_last_line_is_cut_and_a_damaged_one_is_named(workspace, data, guard):
    settings = {"data": data, "model": guard}
    run = mine(workspace, settings)
    log = run.dir / "outputs.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole[:len(whole) // 2])
    mine(workspace, settings, run)
    assert log.read_bytes() == whole
    lines = whole.split(b"\n")
    log.write_bytes(b"\n".join([*lines[:4], lines[4][:40], *lines[5:]]))
    with pytest.raises(UserError, match=r"outputs.jsonl, line 5 is damaged"):
        mine(workspace, settings, run)


@pytest.mark.usefixtures("scripted")
def test_a_resumed_run_refuses_other_rows_and_another_model(workspace, data, guard, tmp_path):
    run = mine(workspace, {"data": data, "model": guard})
    write(tmp_path / "rows.jsonl", examples(24, seed=5))
    with pytest.raises(UserError, match=f"The data changed since {run.id} began"):
        mine(workspace, {}, run)
    write(tmp_path / "rows.jsonl", examples(24))
    begun = json.loads((run.dir / "begun.json").read_text())
    (run.dir / "begun.json").write_text(json.dumps({**begun, "model": {**begun["model"], "weights": [["model.safetensors", 1]]}}))
    with pytest.raises(UserError, match=f"The model changed since {run.id} began"):
        mine(workspace, {}, run)
    (run.dir / "begun.json").unlink()
    with pytest.raises(UserError, match="not known how its answers were drawn"):
        mine(workspace, {}, run)


def test_answers_of_two_engines_in_one_run_are_said(workspace, data, guard, scripted):
    run = mine(workspace, {"data": data, "model": guard})
    log = run.dir / "outputs.jsonl"
    log.write_bytes(b"".join(line + b"\n" for line in log.read_bytes().split(b"\n")[:5]))
    begun = json.loads((run.dir / "begun.json").read_text())
    begun["engines"][0]["name"] = "another"
    (run.dir / "begun.json").write_text(json.dumps(begun))
    scripted.asked = []
    again = mine(workspace, {}, run)
    assert [(engine["name"], engine["from"]) for engine in again.report["engines"]] == [("another", 0), ("scripted", 5)]
    assert any("first 5 rows were answered by the engine another" in event["text"] for event in again.events("notice"))


@pytest.mark.parametrize("answer, words", [(lambda number, _: ("unharmful", "harmful")[number % 2], "right about nearly all"),
                                           (lambda number, _: ("harmful", "unharmful")[number % 2], "wrong about nearly all"),
                                           (lambda *_: "", "hardly an answer could be read")])
def test_no_hard_sample_is_said_with_what_to_change_and_gives_no_pairs(workspace, data, guard, scripted, answer, words):
    scripted.answers = answer
    run = mine(workspace, {"data": data, "model": guard})
    assert (run.dir / "hard.jsonl").read_bytes() == b""
    assert run.report["headline"].startswith("0 of 24 rows hard")
    notice = next(event for event in run.events("notice") if event["level"] == "warning")["text"]
    assert words in notice
    for change in ("higher temperature", "more rows", "larger k", "less trained guard"):
        assert change in notice
    with pytest.raises(UserError, match=r"no hard sample in mine-0001 \(24 rows\)"):
        execute(workspace, "build-pairs", {"runs": [run.id]})
    assert look(workspace, "build-pairs", {"runs": run.id}).errors[0].field == "runs"
    assert not list(workspace.runs_dir.glob("build-pairs-*/preferences.jsonl"))


# ---- which rows ----


@pytest.mark.usefixtures("scripted")
def test_only_training_rows_with_a_gold_label_the_format_gives_are_mined(workspace, guard, tmp_path):
    rows = examples(8)
    rows[1].split, rows[2].split, rows[3].split = "test", "validation", "train"
    rows[4].labels = Labels()
    rows[5] = GuardExample(prompt="A question.", response="An answer.", labels=Labels(completion="refusal"))
    rows[6] = GuardExample(prompt="A question.", response="An answer.", labels=Labels(request="unharmful", response="unharmful"))
    data = write(tmp_path / "mixed.jsonl", rows)
    found = look(workspace, "mine-hard-samples", {**ON_CPU, "model": guard, "data": data})
    said = " ".join(problem.message for problem in found.problems)
    assert not found.errors
    assert "2 validation or test rows are not mined" in said
    assert "2 training rows have no gold label that seed-label answers (request, response)" in said
    assert "only the first task is asked" in said
    assert "4 rows x 4 answers" in found.estimate.note
    assert found.estimate.tokens == 4 * 4 * 15
    run = mine(workspace, {"data": data, "model": guard})
    assert [row.row for row in read_outputs(run.dir / "outputs.jsonl")] == [0, 3, 6, 7], "numbers are places in the set"
    assert [(row.gold.request, row.gold.response) for row in read_outputs(run.dir / "outputs.jsonl")][2] == ("unharmful", None)
    counts = run.report["data"]
    assert (counts["rows"], counts["not_training"], counts["without_gold"], counts["to_mine"]) == (8, 2, 2, 4)


def test_rows_of_test_sets_are_refused_or_dropped_or_on_record(workspace, data, guard, scripted):
    workspace.store.register_test_keys("my-test", "data-0001", keys_to_register(examples(3)))
    settings = {**ON_CPU, "data": data, "model": guard}
    found = look(workspace, "mine-hard-samples", settings)
    assert "3 rows of registered test sets: my-test (3)" in found.errors[0].message
    assert found.errors[0].fix == {"exclude_test_rows": True}
    with pytest.raises(UserError, match="my-test"):
        mine(workspace, settings)
    assert not scripted.asked, "nothing was asked"
    dropped = mine(workspace, {**settings, "exclude_test_rows": True})
    assert [row.row for row in read_outputs(dropped.dir / "outputs.jsonl")] == list(range(3, 24))
    assert dropped.report["split_guard"]["test_rows_dropped"] == 3
    assert dropped.report["overrides"] == []
    used = mine(workspace, {**settings, "allow_test_rows": True})
    assert (used.report["rows"], used.report["test_rows_overridden"], used.report["test_rows_used"]) == (24, True, 3)
    assert "3 rows of registered test sets were mined" in used.report["overrides"][0]["text"]


@pytest.mark.usefixtures("scripted")
def test_a_limit_draws_by_the_seed_and_keeps_the_order(workspace, data, guard):
    def mined(**settings):
        run = mine(workspace, {"data": data, "model": guard, "limit": 8, **settings})
        return [row.row for row in read_outputs(run.dir / "outputs.jsonl")]

    rows = mined()
    assert rows == sorted(rows) == mined()
    assert len(rows) == 8
    assert rows != list(range(8))
    assert mined(seed=7) != rows


class Killed(BaseException):
    """What a kill does to the process, without one."""


def test_a_kill_loses_only_what_was_being_written_however_slow_one_row_is(workspace, tmp_path, tiny_model):
    """Row 0 takes many times as long as the others, which all finish behind it; the batch is 64."""
    prompts = [f"question {number}" for number in range(120)]
    with open_engine(str(tiny_model), workspace, device="cpu", dtype="float32") as engine:
        alone = next(iter(engine.answers(prompts[:1], chat=False, max_new_tokens=64, temperature=1.0, seed=3)))
        start = engine.loaded.tokenizer.decode(alone.token_ids[:8], skip_special_tokens=True)

        def mined(is_complete, ahead, since, on_batch=None):
            rows = (Asked(number, SimpleNamespace(text=prompts[number])) for number in range(since, len(prompts)))
            chat = SimpleNamespace(chat=False, is_complete=is_complete)
            return answered_rows(engine, rows, chat, Sampling(4, 64, 1.0, 1.0, 3), lambda: False, on_batch, ahead)

        def short(text):
            return not text.startswith(start)

        with Ahead(tmp_path / "none.jsonl", 0) as ahead:
            wanted = [(asked.row, [answer.text for answer in answers]) for asked, answers in mined(short, ahead, 0)]
        assert [row for row, _ in wanted] == list(range(120))
        path, made, kept = tmp_path / "ahead.jsonl", [], []

        def working(finished, *_):
            if finished > 250:
                made.append(finished)
                raise Killed

        with Ahead(path, 0) as ahead, pytest.raises(Killed):
            kept += [(asked.row, [answer.text for answer in answers]) for asked, answers in mined(short, ahead, 0, working)]
        assert len(kept) < 20, "row 0 holds the others up"
        saved = count_rows(path) + 4 * len(kept)
        assert made[0] - saved <= 64, "finished answers that are nowhere"
        finished = []
        with Ahead(path, len(kept)) as ahead:
            rest = mined(short, ahead, len(kept), lambda done, *_: finished.append(done))
            kept += [(asked.row, [answer.text for answer in answers]) for asked, answers in rest]
        assert kept == wanted, "in float32 the texts are those of an uninterrupted run"
        assert finished[-1] <= 4 * 120 - saved, "what was kept is not made again"


@pytest.mark.usefixtures("scripted")
def test_answers_ahead_are_kept_over_a_kill_and_the_file_goes_with_the_last_row(workspace, data, guard, monkeypatch):
    settings = {"data": data, "model": guard}
    wanted = mine(workspace, settings)
    made, kills = [], [True]

    class Engine:
        """Makes the last answer to row 3 when all others are there; is killed before it the first time."""

        name, promise = "scripted", "The same every time."

        def answers(self, prompts, *, indices, samples, have, ordered, **_):
            assert not ordered
            wanted = [(row, number) for row, _ in zip(indices, prompts, strict=True) for number in range(samples)]
            for row, number in sorted((one for one in wanted if one not in have), key=lambda one: one == (3, 3)):
                if (row, number) == (3, 3) and kills.pop():
                    raise Killed
                made.append((row, number))
                yield SimpleNamespace(index=row, sample=number, text=says("harmful"), tokens=4, finish="stop")

    @contextmanager
    def opened(*_, **__):
        yield Engine()

    monkeypatch.setattr("core.mining.mine.open_answers", opened)
    run = create(workspace, workspace.plugins.method("mine-hard-samples"), {**ON_CPU, **settings})
    with pytest.raises(Killed):
        mine(workspace, settings, run)
    assert [row.row for row in read_outputs(run.dir / "outputs.jsonl")] == [0, 1, 2]
    assert len(made) == 4 * 24 - 1
    with (run.dir / "ahead.jsonl").open("ab") as file:
        file.write(b'{"row":5,')  # torn by the kill
    made.clear()
    kills.append(False)
    mine(workspace, {}, run)
    assert made == [(3, 3)], "everything else was there"
    assert (run.dir / "outputs.jsonl").read_bytes() == (wanted.dir / "outputs.jsonl").read_bytes()
    assert not (run.dir / "ahead.jsonl").exists()


def test_the_file_of_answers_ahead_does_not_grow_with_the_rows(tmp_path):
    most = 0
    with Ahead(tmp_path / "ahead.jsonl", 0) as ahead:
        for row in range(3000):
            ahead.add(Answer(row=row, sample=0, text="x"))
            if row >= 5:
                del ahead.held[row - 5, 0]
            most = max(most, count_rows(ahead.path)) if row % 100 == 0 else most
    assert most < 600
    assert sorted(Ahead(ahead.path, 2995).held) == [(row, 0) for row in range(2995, 3000)]


def test_answers_of_another_engine_are_not_mixed_into_a_row(workspace, data, guard, scripted):
    scripted.stop_after = (7, 2)
    settings = {"data": data, "model": guard}
    run = create(workspace, workspace.plugins.method("mine-hard-samples"), {**ON_CPU, **settings})
    (run.dir / "stop").touch()
    with pytest.raises(StopRequested):
        mine(workspace, settings, run)
    kept = Ahead(run.dir / "ahead.jsonl", 7).held
    assert sorted(kept) == [(7, 0), (7, 1)]
    write(run.dir / "ahead.jsonl", [answer.model_copy(update={"text": "of the other engine"}) for answer in kept.values()])
    begun = json.loads((run.dir / "begun.json").read_text())
    begun["engines"][0]["name"] = "another"
    (run.dir / "begun.json").write_text(json.dumps(begun))
    scripted.stop_after = (7, 1)
    with pytest.raises(StopRequested):
        mine(workspace, {}, run)
    scripted.answers = lambda *_: "unharmful"
    (run.dir / "stop").unlink()
    scripted.stop_after = None
    mine(workspace, {}, run)
    texts = [[output.text for output in row.outputs] for row in read_outputs(run.dir / "outputs.jsonl")]
    assert texts[:7] == [[says("harmful")] * 4] * 7
    assert texts[7] == [says("harmful"), *[says("unharmful")] * 3], "the first is from before the second stop"
    assert texts[8:] == [[says("unharmful")] * 4] * 16


def test_answers_of_another_engine_go_from_the_disk_before_the_new_engine_is_noted(workspace, data, guard, scripted, monkeypatch):
    """Killed between the two, and resumed with the same engine, the run must not find them."""
    settings = {"data": data, "model": guard}
    run = create(workspace, workspace.plugins.method("mine-hard-samples"), {**ON_CPU, **settings})
    scripted.stop_after = (7, 2)
    (run.dir / "stop").touch()
    with pytest.raises(StopRequested):
        mine(workspace, settings, run)
    begun = json.loads((run.dir / "begun.json").read_text())
    begun["engines"][0]["name"] = "another"
    (run.dir / "begun.json").write_text(json.dumps(begun))

    def killed(*_):
        raise Killed

    monkeypatch.setattr("core.mining.mine.note_engine", killed)
    with pytest.raises(Killed):
        mine(workspace, {}, run)
    assert Ahead(run.dir / "ahead.jsonl", 7).held == {}


def test_rows_stream(workspace, data):
    """However many rows there are, the engine decides how many are in work; nothing is read ahead of it."""
    read = []

    def many():
        for number in range(20_000):
            read.append(number)
            yield Asked(number, SimpleNamespace(text=f"question {number}"))

    class Window:
        """Reads ten rows at a time, as a batch does."""

        def answers(self, prompts, *, indices, samples, **_):
            while batch := list(zip(islice(indices, 10), islice(prompts, 10), strict=True)):
                for index, text in batch:
                    assert text == f"question {index}"
                    yield from (SimpleNamespace(index=index, sample=number, text="x", tokens=1, finish="stop") for number in range(samples))

    chat = SimpleNamespace(chat=True, is_complete=lambda _: False)
    ahead = 0
    for done, (asked, made) in enumerate(answered_rows(Window(), many(), chat, Sampling(2, 8, 1.0, 1.0, 0), lambda: False)):
        assert (asked.row, len(made)) == (done, 2)
        ahead = max(ahead, len(read) - done)
    assert done == 19_999
    assert ahead <= 12
    stream = stream_examples(find_data(data, workspace), workspace)
    assert next(stream) == examples(1)[0].model_copy(update={"row": 1})


def test_a_row_that_cannot_be_read_is_named(workspace, guard, tmp_path):
    path = tmp_path / "bad.jsonl"
    write(path, examples(3))
    path.write_text(path.read_text() + '{"prompt": "", "labels": {"request": "harmful"}}\n')
    found = look(workspace, "mine-hard-samples", {**ON_CPU, "model": guard, "data": str(path)})
    assert "bad.jsonl, line 4, column prompt cannot be read" in found.errors[0].message


# ---- which guards ----


def test_k_of_1_says_why(workspace, data, guard):
    with pytest.raises(UserError, match=r"k = 1: a row is hard when some answers are right and some wrong"):
        validate(workspace.plugins.method("mine-hard-samples"), {"data": data, "model": guard, "k": 1})
    assert look(workspace, "mine-hard-samples", {"data": data, "model": guard, "k": 1}).errors[0].field == "k"


def test_models_that_cannot_be_mined(workspace, data, tiny_model):
    cases = [({"model": str(tiny_model)}, "stores no prompt format"),
             ({"model": str(tiny_model), "prompt_format": "zero-shot"}, "one and the same"),
             ({"model": str(tiny_model), "prompt_format": "nonsense"}, "no such format"), ({"model": "run:rsft-0099"}, "There is no run"),
             ({"model": "mistral:small"}, "hosted model")]
    for settings, words in cases:
        error = look(workspace, "mine-hard-samples", {**ON_CPU, "data": data, **settings}).errors[0]
        assert words in error.message, error
        assert error.field in ("model", "prompt_format")
    allowed = look(workspace, "mine-hard-samples", {**ON_CPU, "data": data, "model": str(tiny_model), "prompt_format": "seed-label"})
    assert not allowed.errors


def test_a_server_can_be_mined(workspace, data, monkeypatch):
    """Real HTTP on the loopback; the server's answers depend on the seed of each request."""
    monkeypatch.setattr("tests.fakes.openai_server.answer_of", lambda _, seed: says(("harmful", "unharmful")[seed % 2]))
    with openai_server() as server:
        settings = {"data": data, "model": f"openai:guard@{server.url}", "prompt_format": "seed-label", "limit": 6}
        run = mine(workspace, settings)
        again = mine(workspace, settings)
        assert look(workspace, "mine-hard-samples", {**settings, "prompt_format": "auto"}).errors[0].field == "model"
    rows = list(read_outputs(run.dir / "outputs.jsonl"))
    assert (len(rows), len(server.asked)) == (6, 48)
    assert 0 < run.report["hard"] == sum(len({output.text for output in row.outputs}) == 2 for row in rows)
    assert rows == list(read_outputs(again.dir / "outputs.jsonl")), "a request's seed comes from the run's seed, row and sample"
    assert (run.report["engines"][0]["name"], run.report["engines"][0]["promise"]) == (
        "server", "Same distribution; texts may differ between runs.")


@pytest.mark.usefixtures("scripted")
def test_lineage_knows_the_guard_and_the_rows(workspace, data, tiny_model):
    trained = execute(workspace, "rsft", {**TRAIN, "epochs": 1, "data": data, "model": str(tiny_model)})
    imported = execute(workspace, "import-data", {"source": data, "name": "mine-me"})
    run = mine(workspace, {"data": "mine-me", "model": f"run:{trained.id}"})
    assert {one.id for one in ancestors(workspace.run(run.id), workspace)} == {trained.id, imported.id}


def test_presets_are_the_papers_its_codes_and_the_seeds(workspace):
    presets = workspace.plugins.method("mine-hard-samples").presets
    assert next(iter(presets)) == "paper"
    drawn = {name: (values["temperature"], values["top_p"], values["k"]) for name, values in presets.items()}
    assert drawn == {"paper": (1.0, 0.95, 4), "paper-code": (0.7, 0.95, 4), "seed-plan": (0.8, 0.95, 4), "rehearsal": (1.0, 0.95, 4)}
