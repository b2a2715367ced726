"""ZeroGPU, as far as it can be tried without one: who calls `spaces.GPU`, from which process, and that nothing computes outside.

tests/fakes/zero_gpu stands in for Hugging Face's `spaces`: it forks and imitates CUDA outside, as that does. No GPU is lent by anybody.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest

from core.access import gpu_words
from core.active import ActiveRun, StopRequested
from core.evals.predictions import read_predictions
from core.jobs import create
from core.judge_cache import CachedJudge
from core.judges import Judged, open_judge
from core.methods import UserError, validate
from core.runs import REPOSITORY, Workspace
from core.serve_lent import LentWorker
from core.visitors import Question
from core.zero_gpu import computes_lent, run_in_slices
from tests.helpers import execute, prompts, write

FAKES = REPOSITORY / "tests" / "fakes" / "zero_gpu"


@pytest.fixture
def space(tmp_path):
    """Runs a part of tests/zero_gpu_app.py on a pretended Space: (what it printed, what was asked of `spaces`)."""
    log = tmp_path / "spaces.jsonl"
    log.touch()

    def run(*words):
        environment = {**os.environ, "SPACES_ZERO_GPU": "true", "FAKE_SPACES_LOG": str(log), "PYTHONPATH": str(FAKES),
                       "GUARDWALTZ_RUNS": str(tmp_path / "runs"), "GUARDWALTZ_STUDY": "off"}
        done = subprocess.run([sys.executable, "-m", "tests.zero_gpu_app", *words], cwd=REPOSITORY, env=environment, capture_output=True,
                              text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1]), [json.loads(line) for line in log.read_text().splitlines()]

    return run


def asked_for(told, event):
    return [one for one in told if one["event"] == event]


def test_the_chat_computes_on_a_lent_gpu_and_nowhere_else(space, tmp_path, tiny_model):
    made, told = space("chat", str(tmp_path / "runs"), str(tiny_model))
    assert asked_for(told, "startup")[0]["functions"] == ["answered"], "a ZeroGPU Space without a function is ended by the platform"
    for answer in made["first"]["exchanges"][0]["answers"]:
        assert (answer["over"], answer["problem"], answer["guard_problem"]) == ("end", "", "")
        assert answer["tokens"] > 0
        assert answer["guard"] is not None
    asked = asked_for(told, "schedule")
    assert len(asked) == len(asked_for(told, "release")) + len(asked_for(told, "refused"))
    assert {one["function"] for one in asked} == {"answered"}
    assert {one["token"] for one in asked} == {"the visitor's"}, "the quota of whoever asks"
    assert {one["pid"] for one in asked} == {made["pid"]}, "the process that Gradio's events run in"
    assert made["pid"] not in {one["pid"] for one in asked_for(told, "computing")}
    assert [one["over"] for one in made["second"]["exchanges"][1]["answers"]] == ["stopped"] * 2
    assert not (tmp_path / "runs" / "serving.log").exists(), "no model worker"
    assert {one["problem"] for one in made["refused"]["exchanges"][2]["answers"]} == {
        "ZeroGPU lent no GPU: You have exceeded your ZeroGPU quota (60s requested vs. 0s left)."}


def test_an_evaluation_in_slices_is_the_evaluation(space, tmp_path, tiny_model):
    workspace = Workspace(tmp_path / "runs")
    data = write(tmp_path / "rows.jsonl", prompts(40))
    other = shutil.copytree(tiny_model, tmp_path / "other")
    settings = {"models": [str(tiny_model), str(other)], "data": data, "max_new_tokens": 4, "dtype": "float32",
                "prompt_format": "guardreasoner"}
    whole = execute(workspace, "guard-eval", {**settings, "device": "cpu"})
    run = create(workspace, workspace.plugins.method("guard-eval"), settings)
    made, told = space("evaluate", run.id)
    assert made["code"] == 0, (run.dir / "log.txt").read_text()
    slices = asked_for(told, "schedule")
    assert len(slices) > 1, "one slice shows nothing"
    assert {(one["function"], one["seconds"]) for one in slices} == {("one_slice", 120)}
    assert made["pid"] not in {one["pid"] for one in asked_for(told, "computing")}
    texts = [sorted((row.model, row.row, row.text) for row in read_predictions(one.dir / "predictions.jsonl")) for one in (whole, run)]
    assert len(texts[0]) == 80
    assert texts[0] == texts[1]


def test_only_evaluations_that_compute_here_are_sliced(monkeypatch, tmp_path):
    workspace = Workspace(tmp_path / "runs")

    def lent(name, **settings):
        kind = workspace.plugins.method(name)
        return computes_lent(kind, validate(kind, settings))

    data = write(tmp_path / "rows.jsonl", prompts())
    assert not lent("guard-eval", models=["embedded"], data=data), "no ZeroGPU here"
    monkeypatch.setattr("core.zero_gpu.lends", lambda: True)
    assert lent("guard-eval", models=["embedded"], data=data)
    assert not lent("guard-eval", models=["embedded"], data=data, device="cpu")
    assert not lent("guard-eval", models=["openai:x@http://127.0.0.1:1/v1"], data=data)
    assert not lent("rsft", data=data)
    assert "Training runs on the CPU" in gpu_words()


@pytest.fixture
def sliced(monkeypatch, tmp_path):
    """Makes an evaluation whose slices are pretended: each calls `slice_` with the run, and wants another one."""
    workspace = Workspace(tmp_path / "runs")

    def make(slice_):
        run = create(workspace, workspace.plugins.method("guard-eval"), {"models": ["embedded"], "data": write(tmp_path / "r", prompts())})
        active = ActiveRun(workspace, run.id)

        def lent(*_):
            return slice_(active) or ("more", "")

        monkeypatch.setattr("core.zero_gpu.decorated", lambda *_: lent)
        return active

    return make


def test_slices_that_answer_nothing_end(sliced):
    with pytest.raises(UserError, match="Nothing was answered"):
        run_in_slices(sliced(lambda _: None))


def test_a_slice_that_was_stopped_before_it_answered_anything_is_a_stop(sliced):
    slices = []

    def slice_(run):
        slices.append(run.id)
        if len(slices) == 2:
            (run.dir / "stop").touch()

    with pytest.raises(StopRequested):
        run_in_slices(sliced(slice_))
    assert len(slices) == 2


def test_slices_in_which_only_a_judge_answers_go_on(sliced):
    """A judge that is measured on labelled replies writes no file: its verdicts lie in the store."""
    slices = []

    def slice_(run):
        slices.append(run.id)
        CachedJudge(open_judge("rules", run.workspace), run.workspace).verdicts([Judged("A prompt", f"Reply {len(slices)}", "benign")])
        return ("done", "") if len(slices) == 4 else None

    run_in_slices(sliced(slice_))
    assert len(slices) == 4


def test_a_question_that_waits_for_anothers_gpu_says_so_and_can_be_stopped(monkeypatch, tmp_path):
    def answered(line, _):
        yield {"who": "reply", "turn": 0, "text": f"Answer {line['id']}", "done": False}
        yield {"who": "end"}

    monkeypatch.setattr("core.serve_lent.on_the_gpu", lambda: answered)
    worker, clock, others = LentWorker(Workspace(tmp_path / "runs")), Question(), [2, 3]
    first = worker.ask({"id": 1})
    while next(first)["who"] != "reply":
        pass
    waiting = [worker.ask({"id": number}) for number in others]
    assert [next(one) for one in waiting] == [{"who": "queue", "position": 1}, {"who": "queue", "position": 2}]
    clock.begun -= 1000
    clock.hear(next(waiting[0]))
    assert clock.used()[0] < 100, "a visitor does not pay for another's answer"
    worker.give_up(2)
    assert list(waiting[0]) == [{"who": "stopped"}], "while the first one still has the GPU"
    assert next(waiting[1]) == {"who": "queue", "position": 1}
    assert [event["who"] for event in first] == ["end"]
    assert [event["who"] for event in waiting[1]] == ["status", "reply", "end"]


def test_a_question_that_failed_or_was_left_gives_the_gpu_to_the_next(monkeypatch, tmp_path):
    def refused(*_):
        raise RuntimeError("no quota left.")

    def answered(*_):
        yield {"who": "reply", "turn": 0, "text": "An answer", "done": False}
        yield {"who": "end"}

    monkeypatch.setattr("core.serve_lent.on_the_gpu", lambda: refused)
    worker = LentWorker(Workspace(tmp_path / "runs"))
    assert [event["who"] for event in worker.ask({"id": 1})] == ["status", "error"]
    monkeypatch.setattr("core.serve_lent.on_the_gpu", lambda: answered)
    left = worker.ask({"id": 2})
    assert [next(left)["who"], next(left)["who"]] == ["status", "reply"]
    left.close()
    assert [event["who"] for event in worker.ask({"id": 3})] == ["status", "reply", "end"]
