"""`agent-eval` when something breaks: a filter that refuses a prompt, a server that fails, Stop, a judge without a word, a resumed run."""

import pytest

from core.lm import engine_server
from core.methods import UserError
from core.runs import Workspace
from core.waltz.eval_log import EPISODES, read_evaluated
from tests.fakes.openai_server import openai_server
from tests.helpers import FAKE_JUDGES, execute, prompts, write

FAST = {"device": "cpu", "dtype": "float32", "max_new_tokens": 10, "max_feedback_tokens": 8, "capability_tasks": 0}


@pytest.fixture
def workspace(workspace_dir, monkeypatch):
    monkeypatch.setenv("GUARDWALTZ_PLUGINS", str(FAKE_JUDGES))
    return Workspace(workspace_dir)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(engine_server, "FIRST_WAIT", 0.001)
    monkeypatch.delenv(engine_server.KEY, raising=False)
    with openai_server() as running:
        yield running


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "prompts.jsonl", prompts())


def about(*numbers):
    """Is a prompt one of these?"""
    return lambda text: any(f"Prompt {number}:" in text for number in numbers)


def lines(run):
    return list(read_evaluated(run.dir / EPISODES))


# ---- prompts that get no answer ----


def test_a_prompt_that_a_filter_refuses_is_missing_with_its_reason(workspace, data, server):
    server.trouble_with = lambda prompt: (400, "against our policy") if about(3, 4)(prompt) else None
    server.filters = about(6)
    server.answer = lambda prompt, _: "" if about(6)(prompt) else "Gladly."
    report = execute(workspace, "agent-eval", {"models": [f"openai:vanilla@{server.url}"], "data": data, **FAST}).report
    entry = report["entries"][0]
    assert {name: (entry[name]["n"], entry[name]["missing"]) for name in ("unsafe", "overrefuse", "good")} == {
        "unsafe": (5, 1), "overrefuse": (4, 2), "good": (9, 3)}
    assert (entry["empty"], entry["words"]["n"], entry["words"]["value"]) == (0, 4, 1), "no answer has no length"
    assert entry["cost"]["reply"]["n"] == 9
    assert report["notes"][-1] == ("Final replies without a verdict, which are in no share: 3 of vanilla (most often: the model gave no "
                                   "answer: the server answered with status 400 (against our policy)).")


def test_the_reason_stands_beside_the_prompt(workspace, data, server):
    server.filters = about(6)
    run = execute(workspace, "agent-eval", {"models": [f"openai:vanilla@{server.url}"], "data": data, **FAST})
    one = lines(run)[6].episode.rounds[0]
    assert one.reply.failed == "its content filter ended the answer"
    assert one.verdict.missing == "the model gave no answer: its content filter ended the answer"
    assert [line.episode.row for line in lines(run) if line.episode.failed] == [6]


def test_an_instruction_without_an_answer_is_not_answered_wrongly(workspace, data, server):
    server.filters = lambda prompt: "Prompt" not in prompt
    report = execute(workspace, "agent-eval", {"models": [f"openai:vanilla@{server.url}"], "data": data, **FAST,
                                               "capability_tasks": 7}).report
    assert (report["entries"][0]["capability"]["n"], report["entries"][0]["capability"]["missing"]) == (0, 7)


def test_a_model_that_answers_nothing_ends_the_run(workspace, data, server):
    server.always = 400, "unknown field top_p"
    with pytest.raises(UserError, match=r"no verdict in 12 of 12 episodes.*gave no answer: .*unknown field top_p.*what serves the model"):
        execute(workspace, "agent-eval", {"models": [f"openai:vanilla@{server.url}"], "data": data, **FAST})
