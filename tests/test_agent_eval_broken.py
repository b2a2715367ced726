"""`agent-eval` when something breaks: a filter that refuses a prompt, a server that fails, Stop, a judge without a word, a resumed run."""

import json
import shutil
from pathlib import Path

import pytest

from core.active import ActiveRun, StopRequested
from core.jobs import create
from core.judges import open_judge
from core.lm import engine_server
from core.lm.agents import Speech
from core.lm.engines import Engine
from core.lm.generate import Generated
from core.methods import UserError
from core.runs import Workspace
from core.waltz.eval_log import EPISODES, read_evaluated
from core.waltz.evaluate import gathered
from core.waltz.protocol import AGENTS, Opening, Rules
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


# ---- what was answered is kept ----


@pytest.fixture
def hosted(server):
    """An evaluation of a model behind the server."""
    server.answer = lambda prompt, _: f"Gladly: {prompt}"
    return {"models": [f"openai:vanilla@{server.url}"], "judge": "odd", **FAST}


def begun(workspace, settings):
    return create(workspace, workspace.plugins.method("agent-eval"), settings)


def asked_for(server, number):
    """How often a prompt was sent."""
    return sum(f"Prompt {number}:" in str(body["messages"]) for body in server.asked)


def test_a_server_that_fails_loses_no_answer(workspace, data, server, hosted):
    server.trouble_with = lambda prompt: (401, "who are you?") if about(9)(prompt) else None
    server.delay = lambda prompt: 0.5 * about(9)(prompt)
    run = begun(workspace, {**hosted, "data": data})
    with pytest.raises(UserError, match="status 401"):
        execute(workspace, "agent-eval", {}, run)
    assert [line.episode.row for line in lines(run)] == list(range(12)), "later answers had come before"
    assert [line.episode.row for line in lines(run) if line.episode.failed] == [9]
    assert all((line.episode.last.verdict.good is None) == (line.episode.row == 9) for line in lines(run)), "they are judged, too"
    server.trouble_with = lambda _: None
    assert execute(workspace, "agent-eval", {}, run).report["entries"][0]["good"]["n"] == 12
    assert [asked_for(server, number) for number in range(12)] == [*[1] * 9, 2, 1, 1]


def test_a_stop_keeps_answers_that_overtook_a_slow_one(workspace, data, server, hosted, monkeypatch):
    from core.waltz import evaluate as loop

    monkeypatch.setattr(loop, "AT_ONCE", 5)
    run = begun(workspace, {**hosted, "data": data})

    def stops_while_one_is_slow(prompt):
        if about(8)(prompt):
            (run.dir / "stop").touch()
        return 4 * about(2)(prompt)

    server.delay = stops_while_one_is_slow
    monkeypatch.setattr(engine_server, "AT_ONCE", 2)
    with pytest.raises(StopRequested):
        execute(workspace, "agent-eval", {}, run)
    rows = [line.episode.row for line in lines(run)]
    assert rows == list(range(len(rows)))
    assert len(rows) > 5
    assert [line.episode.failed for line in lines(run) if line.episode.failed] == ["the run ended before it came"]
    (run.dir / "stop").unlink()
    server.delay = lambda _: 0
    assert execute(workspace, "agent-eval", {}, run).report["entries"][0]["good"]["n"] == 12
    assert [asked_for(server, number) for number in (*range(2), *range(3, len(rows)))] == [1] * (len(rows) - 1)


def test_a_stopped_run_keeps_what_was_answered_and_judges_it_on_resume(workspace, data, server, hosted, monkeypatch):
    run = begun(workspace, {**hosted, "data": data})
    monkeypatch.setattr(engine_server, "AT_ONCE", 1)

    def stops_at_the_eighth(prompt):
        if about(7)(prompt):
            (run.dir / "stop").touch()
        return 0

    server.delay = stops_at_the_eighth
    with pytest.raises(StopRequested):
        execute(workspace, "agent-eval", {}, run)
    kept = lines(run)
    assert 7 <= len(kept) <= 8
    assert all(line.episode.last.verdict is None for line in kept), "a stop waits for no judge"
    (run.dir / "stop").unlink()
    server.delay = lambda _: 0
    assert execute(workspace, "agent-eval", {}, run).report["entries"][0]["good"]["n"] == 12
    assert [asked_for(server, number) for number in range(7)] == [1] * 7
    assert [(line.episode.last.reply, line.seconds) for line in lines(run)][:len(kept)] == [
        (line.episode.last.reply, line.seconds) for line in kept]


def test_a_judge_that_breaks_loses_no_answer(workspace, data, server, hosted, monkeypatch):
    odd = type(open_judge("odd", workspace))
    plain = odd.verdicts

    def breaks(*_):
        raise UserError("the judge's server is down")

    monkeypatch.setattr(odd, "verdicts", breaks)
    run = begun(workspace, {**hosted, "data": data})
    with pytest.raises(UserError, match="server is down"):
        execute(workspace, "agent-eval", {}, run)
    assert len(lines(run)) == 12
    monkeypatch.setattr(odd, "verdicts", plain)
    assert execute(workspace, "agent-eval", {}, run).report["entries"][0]["good"]["n"] == 12
    assert len(server.asked) == 12


# ---- a resumed run asks for what is missing ----


def test_verdicts_missing_in_earlier_batches_are_asked_for_again(workspace, data, server, hosted, monkeypatch):
    from core.waltz import evaluate as loop

    monkeypatch.setattr(loop, "AT_ONCE", 6)
    shy = type(open_judge("shy", workspace))
    server.trouble_with = lambda prompt: (401, "who are you?") if about(8)(prompt) else None
    run = begun(workspace, {**hosted, "data": data, "judge": "shy"})
    monkeypatch.setattr(engine_server, "AT_ONCE", 1)
    with pytest.raises(UserError, match="status 401"):
        execute(workspace, "agent-eval", {}, run)
    assert [line.episode.row for line in lines(run) if line.episode.last.verdict.missing] == [1]
    sent = len(server.asked)
    server.trouble_with = lambda _: None
    monkeypatch.setattr(shy, "verdicts", type(open_judge("odd", workspace)).verdicts)
    entry = execute(workspace, "agent-eval", {}, run).report["entries"][0]
    assert (entry["good"]["n"], entry["good"]["missing"]) == (12, 0)
    assert len(server.asked) == sent + 4, "the model is asked for what it did not answer, and for nothing else"


def test_a_prompt_without_an_answer_is_asked_again_on_resume(workspace, data, server, hosted, monkeypatch):
    monkeypatch.setattr(engine_server, "AT_ONCE", 1)
    server.trouble_with = lambda prompt: (400, "a filter") if about(2)(prompt) else (401, "who are you?") if about(8)(prompt) else None
    run = begun(workspace, {**hosted, "data": data})
    with pytest.raises(UserError, match="status 401"):
        execute(workspace, "agent-eval", {}, run)
    assert [line.episode.row for line in lines(run) if line.episode.failed] == [2]
    server.trouble_with = lambda _: None
    entry = execute(workspace, "agent-eval", {}, run).report["entries"][0]
    assert (entry["good"]["n"], entry["good"]["missing"]) == (12, 0)
    assert [line.episode.row for line in lines(run)] == list(range(12))


# ---- a resumed run is by the same judge, of the same models ----


@pytest.fixture
def own(tiny_model, tmp_path):
    """A model folder of the test's own, which it may change."""
    return Path(shutil.copytree(tiny_model, tmp_path / "own"))


@pytest.fixture
def stopped(workspace, data, own, monkeypatch):
    """An evaluation that stopped after some episodes."""
    from core.waltz import evaluate as loop

    monkeypatch.setattr(loop, "AT_ONCE", 5)
    run = begun(workspace, {"models": [str(own)], "data": data, "judge": "odd", **FAST})
    plain = ActiveRun.progress

    def stop_after_five(self, done, *rest, **more):
        plain(self, done, *rest, **more)
        if done == 5:
            (self.dir / "stop").touch()

    monkeypatch.setattr(ActiveRun, "progress", stop_after_five)
    with pytest.raises(StopRequested):
        execute(workspace, "agent-eval", {}, run)
    monkeypatch.setattr(ActiveRun, "progress", plain)
    (run.dir / "stop").unlink()
    assert len(lines(run)) >= 5
    return run


def judge_named(monkeypatch, workspace, identity):
    monkeypatch.setattr(type(open_judge("odd", workspace)), "identity", identity)


def train_on(folder):
    """Other weights in the same folder."""
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")


def test_another_version_of_the_judge_is_refused(workspace, stopped, monkeypatch):
    judge_named(monkeypatch, workspace, "odd 2")
    with pytest.raises(UserError, match=rf"Changed since {stopped.id} began: judge\. Start a new run"):
        execute(workspace, "agent-eval", {}, stopped)


def test_a_model_trained_anew_is_refused(workspace, stopped, own):
    train_on(own)
    with pytest.raises(UserError, match=rf"Changed since {stopped.id} began: the model {own}\. Start a new run"):
        execute(workspace, "agent-eval", {}, stopped)
    (stopped.dir / "plan.json").unlink()
    assert execute(workspace, "agent-eval", {}, stopped).report["entries"][0]["episodes"] == 12, "an older run wrote nothing down"


def test_a_run_that_has_no_episodes_yet_takes_what_it_finds(workspace, stopped, own, monkeypatch):
    (stopped.dir / EPISODES).write_bytes(b"")
    judge_named(monkeypatch, workspace, "odd 2")
    train_on(own)
    assert execute(workspace, "agent-eval", {}, stopped).report["judge"]["identity"] == "odd 2"


def test_of_two_agents_each_is_told_by_its_weights(workspace, tiny_model):
    made = workspace.runs_dir / "waltzrl-0001"
    for role in AGENTS:
        (made / role).mkdir(parents=True)
        (made / role / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tiny_model)}))
        (made / role / "adapter_model.safetensors").write_bytes(b"weights")
    method = workspace.plugins.method("agent-eval")(workspace)
    before = method._weights("waltz:waltzrl-0001")
    (made / "feedback" / "adapter_model.safetensors").write_bytes(b"others")
    after = method._weights("waltz:waltzrl-0001")
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False]
    assert method._weights("openai:gpt@http://127.0.0.1:1/v1") == []


# ---- a judge over the same base ----


def test_an_engine_that_holds_the_base_rests_while_the_judge_asks(workspace, data, tiny_model, monkeypatch):
    from core.lm import load, waltz_speakers
    from core.waltz import evaluate as loop

    monkeypatch.setattr(loop, "AT_ONCE", 5)
    monkeypatch.setattr(waltz_speakers, "AT_ONCE", 5)
    judge = f"reader:{tiny_model}"
    reader, held = type(open_judge(judge, workspace)), []
    plain = reader.verdicts

    def verdicts(self, items, should_stop=None):
        held.append([base.depth for base in load._BASES.values()])
        return plain(self, items, should_stop)

    monkeypatch.setattr(reader, "verdicts", verdicts)
    report = execute(workspace, "agent-eval", {"models": [str(tiny_model)], "data": data, "judge": judge, **FAST,
                                               "engine": "transformers"}).report
    assert report["entries"][0]["good"]["n"] == 12
    assert held == [[0]] * 3, "nobody holds the one base"


def test_a_stop_in_such_an_engine_asks_for_no_further_batch(monkeypatch):
    from core.lm import waltz_speakers

    monkeypatch.setattr(waltz_speakers, "AT_ONCE", 4)
    engine = Holding(stops_at=6)
    episodes = waltz_speakers.Alone(engine, Rules(revisions=0), Speech(), lambda: engine.stopped).episodes(
        [Opening(row, f"Prompt {row}") for row in range(20)], 8)
    found, broken = gathered(episodes)
    assert [one.row for one in found] == list(range(6))
    assert isinstance(broken, StopRequested)
    assert engine.calls == 2


class Holding(Engine):
    """Answers in one go, up to a row."""

    name = "holding"
    holds_base = True

    def __init__(self, stops_at):
        self.stops_at, self.stopped, self.calls = stops_at, False, 0

    def answers(self, prompts, *, indices=None, **_):
        self.calls += 1
        for index, _prompt in zip(indices, prompts, strict=True):
            self.stopped = self.stopped or index == self.stops_at
            if not self.stopped:
                yield Generated(index, 0, "Gladly.", (1,), 1, "stop", 0.0)
