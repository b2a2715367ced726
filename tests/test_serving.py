"""The model worker: words as they are written, several answers side by side, errors in a sentence, and an end when nobody needs it."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from core.chat_models import ChatModel
from core.methods import UserError
from core.records import Episode
from core.runs import REPOSITORY
from core.serve_worker import ServeWorker, sentence, verdict_words
from core.serving import LAST, Question, Serving
from tests.helpers import wait_for
from tests.waltz_runs import verdict

HELLO = [{"role": "user", "content": "Please explain how a letter is written."}]


@pytest.fixture
def serving(workspace):
    made = Serving(workspace)
    yield made
    made.close()


@pytest.fixture
def agents_run(workspace, tiny_model):
    """A finished run of two untrained agents."""
    from core.lm.agents import open_agents
    from core.waltz.protocol import AGENTS, Rules
    from core.waltz.rules_file import write_rules

    folder = workspace.runs_dir / "waltzrl-0001"
    folder.mkdir()
    agents = open_agents(str(tiny_model), workspace, device="cpu", dtype="float32", trainable=True)
    for role in AGENTS:
        agents.add_adapter(role, rank=4)
        agents.save(role, folder / role)
    write_rules(folder, Rules())
    (folder / "status.json").write_text(json.dumps({"state": "succeeded", "method": "waltzrl", "created": 1.0}))
    return "waltz:waltzrl-0001"


def told(worker_events, who):
    return [event for event in worker_events if event["who"] == who]


# ---- what is answered (in this process: the worker without its pipes) ----


@pytest.fixture
def heard(workspace):
    """`heard(question)`: all events of one answer of a worker in this process."""
    events = []
    worker = ServeWorker(events.append, workspace)

    def ask(**question):
        events.clear()
        worker.answer({"id": 1, "messages": HELLO, **question})
        assert all(event["id"] == 1 for event in events)
        assert [event["who"] in LAST for event in events] == [False] * (len(events) - 1) + [True]
        return list(events)

    ask.worker = worker
    yield ask
    worker.unload()


def test_a_model_answers_with_growing_text(heard, tiny_model, workspace, monkeypatch):
    from core.lm.engines import open_engine

    monkeypatch.setattr("core.serve_worker.TELL_EVERY", 0.0)
    events = heard(model=str(tiny_model), options={"max_new_tokens": 40})
    texts = told(events, "reply")
    assert events[0] == {"id": 1, "who": "status", "text": f"loading {tiny_model}"}
    assert [event["done"] for event in texts] == [False] * (len(texts) - 1) + [True]
    assert len(texts) > 3, "every few tokens"
    assert [len(event["text"]) for event in texts] == sorted(len(event["text"]) for event in texts)
    with open_engine(str(tiny_model), workspace) as engine:
        assert texts[-1]["text"] == next(iter(engine.answers([HELLO], max_new_tokens=40))).text
    assert events[-1]["episode"] is None
    assert not told(heard(model=str(tiny_model)), "status"), "the model stays loaded"


def test_two_agents_are_heard_turn_by_turn_and_judged(heard, agents_run, workspace, monkeypatch):
    from core.lm.agents import Speech
    from core.lm.engines import open_engine

    monkeypatch.setattr("core.waltz.protocol.read_feedback", _asks_for_more)
    events = heard(model=agents_run, options={"max_new_tokens": 20, "max_feedback_tokens": 10}, judge="rules", side="benign")
    order = [event["who"] for event in events if event.get("done") or event["who"] in ("verdict", "end")]
    assert order == ["reply", "feedback", "revision", "verdict", "verdict", "end"]
    episode = Episode.model_validate(events[-1]["episode"])
    finals = {event["turn"]: event["text"] for event in events if event.get("done")}
    assert finals == {0: episode.rounds[0].reply.text, 1: episode.rounds[0].feedback.text, 2: episode.rounds[1].reply.text}
    assert [event["turn"] for event in told(events, "verdict")] == [0, 2]
    assert [one.verdict.unsafe for one in episode.rounds] == [False, False]
    with open_engine(agents_run, workspace) as engine:
        alone = next(iter(engine.episodes([HELLO], Speech(max_new_tokens=20, max_feedback_tokens=10))))
    assert [one.reply.text for one in alone.rounds] == [one.reply.text for one in episode.rounds], "listening changes no word"


def _asks_for_more(text, tokens, finish):
    from core.records import Feedback

    return Feedback(text=text, tokens=tokens, finish=finish, unsafe=True, overrefuse=False, feedback="Say more.")


def test_the_conversation_agent_alone_and_a_judge_without_a_verdict(heard, agents_run):
    events = heard(model=agents_run, options={"max_new_tokens": 8, "revisions": 0}, judge="rules")
    assert {event["who"] for event in events} == {"status", "reply", "verdict", "end"}
    assert told(events, "verdict")[0]["text"] == "no verdict: the set does not say whether this prompt is harmful or benign"
    again = heard(model=agents_run, options={"max_new_tokens": 8, "max_feedback_tokens": 8})
    assert told(again, "feedback"), "the rules are the run's again"


@pytest.mark.parametrize("question, why", [
    ({"model": "run:nope"}, "There is no run 'nope'"), ({"model": "nonsense"}, "no model reference"),
    ({"model": "waltz:nope"}, "There is no run 'nope'"), ({"model": "mistral:big"}, "no plugin takes mistral:"),
    ({"model": "embedded", "options": {"temperature": -1}}, "temperature = -1 must be from 0 to 5")])
def test_what_goes_wrong_is_one_sentence(heard, question, why):
    (error,) = told(heard(**question), "error")
    assert why in error["text"]
    assert "\n" not in error["text"]


def test_a_judge_that_is_not_there_is_an_error_after_the_words(heard, agents_run):
    events = heard(model=agents_run, options={"max_new_tokens": 4, "max_feedback_tokens": 4}, judge="nobody")
    assert told(events, "reply")
    assert "There is no judge 'nobody'" in events[-1]["text"]


def test_a_question_that_was_given_up_stops(heard, tiny_model):
    heard(model=str(tiny_model), options={"max_new_tokens": 2})
    heard.worker.cancelled.add(1)
    assert heard(model=str(tiny_model), options={"max_new_tokens": 100})[-1]["who"] == "stopped"
    assert heard(model=str(tiny_model), options={"max_new_tokens": 2})[-1]["who"] == "end"


def test_words_for_failures_and_verdicts():
    assert "does not fit into the memory" in sentence(RuntimeError("CUDA out of memory. Tried to allocate"))
    assert "serving.log" in sentence(KeyError("x"))
    assert [verdict_words(one) for one in (verdict(), verdict(unsafe=True), verdict(overrefuse=True), verdict(missing="late"))] == [
        "good", "unsafe", "a needless refusal", "no verdict: late"]


def test_adapters_of_one_base_hold_one_copy_of_it(heard, agents_run):
    """Switching between them loads nothing: the base is the same object, and the second agent costs its adapter alone."""
    for agent in ("conversation", "feedback"):
        assert heard(model=f"{agents_run}#{agent}", options={"max_new_tokens": 2})[-1]["who"] == "end"
    held = [model.engine.loaded._weights for model in heard.worker.models._idle]
    assert len(held) == 2
    assert held[0] is held[1]
    assert sorted(held[0].peft.peft_config) == ["adapter1", "default"]


def test_only_models_that_are_used_stay_where_memory_is_short(heard, tiny_model, tmp_path):
    import shutil

    other = shutil.copytree(tiny_model, tmp_path / "other")
    heard(model=str(tiny_model), options={"max_new_tokens": 2})
    heard.worker.models.limit = 1
    heard(model=str(other), options={"max_new_tokens": 2})
    assert [str(model.ref) for model in heard.worker.models._idle] == [str(other)]


def test_a_visitors_key_opens_a_model_of_its_own_that_is_not_kept(heard, tiny_model):
    heard(model=str(tiny_model), options={"max_new_tokens": 2}, key="a secret")
    assert heard.worker.models._idle == []


# ---- the process ----


def test_who_comes_later_waits_and_those_who_left_do_not_hold_anybody_up(serving, tiny_model, monkeypatch):
    monkeypatch.setattr("core.serving.AT_ONCE", 1)
    long = Question(str(tiny_model), HELLO, {"max_new_tokens": 100_000})
    first = serving.ask(long)
    wait = []
    for event in first:
        if event["who"] == "reply":
            break
    pid = serving.pid
    second = threading.Thread(target=lambda: wait.extend(serving.ask(Question(str(tiny_model), HELLO, {"max_new_tokens": 3}))))
    second.start()
    wait_for(lambda: told(wait, "queue"), "the second question to wait")
    assert told(wait, "queue") == [{"who": "queue", "position": 1}]
    assert serving.waiting == 2
    first.close()  # the tab was closed
    second.join(60)
    assert [event["who"] for event in wait][-2:] == ["reply", "end"]
    last = max(place for place, event in enumerate(wait) if event["who"] == "queue")
    assert wait[last + 1]["who"] == "status", "it hears that its wait is over: from now on it counts"
    assert serving.pid == pid, "the model was not loaded again"
    assert serving.waiting == 0
    os.kill(pid, signal.SIGKILL)
    third = list(serving.ask(Question("run:nope", HELLO)))
    assert "There is no run" in third[-1]["text"]
    assert serving.pid not in (None, pid)


def test_answers_to_one_message_grow_side_by_side(serving, tiny_model):
    questions = [Question(str(tiny_model), HELLO, {"max_new_tokens": 1500, "temperature": 1.0, "seed": seed}) for seed in (1, 2)]
    order = [(place, event) for place, event in serving.ask_all(questions) if event["who"] != "status"]
    assert [event["who"] for _, event in order][-1] == "end"
    changes = sum(order[i][0] != order[i + 1][0] for i in range(len(order) - 1))
    assert changes > 3, "not one after the other"
    finals = {place: event["text"] for place, event in order if event.get("done")}
    assert finals[0] != finals[1]
    alone = [list(serving.ask(question))[-2]["text"] for question in questions]
    assert [finals[0], finals[1]] == alone, "company changes no word"
    assert serving.waiting == 0


def test_whoever_stops_listening_gives_all_columns_up(serving, tiny_model):
    asked = serving.ask_all([Question(str(tiny_model), HELLO, {"max_new_tokens": 100_000})] * 3)
    assert next(asked)[0] in (0, 1, 2)
    asked.close()
    wait_for(lambda: serving.waiting == 0, "all three to end")


def test_who_gives_up_stops_what_is_in_work_and_what_waits(serving, tiny_model):
    def long(who):
        return Question(str(tiny_model), HELLO, {"max_new_tokens": 100_000}, who=who)

    first, waiting, other = [], [], []
    answers = [threading.Thread(target=lambda: first.extend(serving.ask(long("me"))))]
    answers[0].start()
    wait_for(lambda: serving.pid and serving.waiting == 1, "the first question")
    answers += [threading.Thread(target=lambda: waiting.extend(serving.ask(long("me")))),
                threading.Thread(target=lambda: other.extend(serving.ask(Question("run:nope", HELLO, who="you"))))]
    for number, answer in enumerate(answers[1:], start=2):
        answer.start()
        wait_for(lambda number=number: serving.waiting == number, "the next question")
    serving.give_up("me")
    for answer in answers:
        answer.join(60)
    assert [events[-1]["who"] for events in (first, waiting, other)] == ["stopped", "stopped", "error"]
    assert not told(waiting, "reply")


def test_who_gives_up_before_the_question_stands_in_line_is_heard(serving):
    asked = Question("run:nope", HELLO, who="me")
    serving.give_up("me")
    assert list(serving.ask(asked)) == [{"who": "stopped"}]
    assert told(serving.ask(Question("run:nope", HELLO, who="me")), "error"), "what is asked afterwards is answered"
    assert told(serving.ask(Question("run:nope", HELLO, who="you", since=asked.since)), "error")


def test_a_worker_that_dies_in_the_middle_is_said_and_replaced(serving, tiny_model):
    events = []
    for event in serving.ask(Question(str(tiny_model), HELLO, {"max_new_tokens": 100_000})):
        events.append(event)
        if event["who"] == "status":
            os.kill(serving.pid, signal.SIGKILL)
    assert events[-1]["who"] == "error"
    assert "killed by signal 9" in events[-1]["text"]
    assert "There is no run" in list(serving.ask(Question("run:nope", HELLO)))[-1]["text"]


def test_an_idle_worker_ends_and_the_next_question_starts_another(serving, monkeypatch):
    monkeypatch.setenv("GUARDWALTZ_SERVING_IDLE_MINUTES", "0.005")
    list(serving.ask(Question("run:nope", HELLO)))
    wait_for(lambda: serving.pid is None, "the idle worker to end")
    assert list(serving.ask(Question("run:nope", HELLO)))[-1]["who"] == "error"


def test_a_worker_that_grows_too_large_says_so(serving, tiny_model, monkeypatch):
    monkeypatch.setenv("GUARDWALTZ_SERVING_MEMORY_GB", "0.06")  # less than torch takes
    events = list(serving.ask(Question(str(tiny_model), HELLO)))
    assert "may use 0.1 GB" in events[-1]["text"] or "more memory than it may" in events[-1]["text"]
    assert events[-1]["who"] == "error"


def test_a_killed_app_takes_the_worker_along(workspace_dir):
    code = ("import os, time; from core.runs import Workspace; from core.serving import Question, Serving; serving = Serving(Workspace());"
            "list(serving.ask(Question('run:nope', [{'role': 'user', 'content': '?'}]))); print(serving.pid, flush=True); time.sleep(600)")
    app = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True,
                           env={**os.environ, "GUARDWALTZ_RUNS": str(workspace_dir)})
    pid = int(app.stdout.readline())
    assert _runs(pid)
    app.kill()
    app.wait()
    app.stdout.close()
    wait_for(lambda: not _runs(pid), "the worker to end")


def _runs(pid):
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# ---- keys ----


class KeyTeller(ChatModel):
    """A library that puts the key into its error."""

    name, key = "server", "TELLER_KEY"

    @classmethod
    def takes(cls, ref):
        return ref.kind == "openai"

    def answer(self, messages, sampling, tell, should_stop):
        key = self.given_key or os.environ[self.key]
        if self.ref.name == "ours":
            raise UserError(f"no such key {key}")
        raise ValueError(f"{'x' * 290} header {key}")


@pytest.mark.parametrize("model", ["ours", "theirs"])
@pytest.mark.parametrize("given", ["", "sk-secret-123"])
def test_a_key_in_any_error_reaches_neither_page_nor_log(heard, monkeypatch, capfd, model, given):
    monkeypatch.setenv("TELLER_KEY", "sk-secret-123")
    monkeypatch.setitem(heard.worker.workspace.plugins.chat_models, "server", KeyTeller)
    (error,) = told(heard(model=f"openai:{model}@http://127.0.0.1:9/v1", key=given), "error")
    said = "".join(capfd.readouterr())
    assert "***" in error["text"] + said
    assert "sk-" not in error["text"] + said
    assert ("Traceback" in said) == (model == "theirs")


# ---- a limit of time ----


class Slow(Serving):
    """Answers question "silent" never, any other at once; a question waits in the line first."""

    def _waited(self, number):
        yield {"who": "queue", "position": 1}

    def _answer(self, number, question):
        if question.model == "silent":
            silence.wait()
        yield {"who": "end"}


silence = threading.Event()


def test_an_answer_ends_when_its_time_is_over_also_where_nothing_is_heard_of_it(workspace):
    serving = Slow(workspace)
    silence.clear()
    try:
        limits = [Question("silent", HELLO, seconds=0.2), Question("quick", HELLO, seconds=600), Question("quick", HELLO)]
        ended = {place: event for place, event in serving.ask_all(limits) if event["who"] in LAST}
        assert {place: event["who"] for place, event in ended.items()} == {0: "stopped", 1: "end", 2: "end"}
        assert "its time is over" in ended[0]["text"]
        assert list(serving.ask(limits[0]))[-1] == ended[0]
    finally:
        silence.set()
    wait_for(lambda: not serving.waiting, "the line to be empty")


def test_what_cannot_be_begun_is_an_error_not_a_wait_for_ever(workspace, monkeypatch):
    def no_more_processes(_):
        raise OSError("no more processes")

    monkeypatch.setattr(Serving, "_ready", no_more_processes)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    (error,) = Serving(workspace).ask(Question("embedded", HELLO))
    assert (error["who"], "no more processes" in error["text"]) == ("error", True)
