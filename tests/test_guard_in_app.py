"""A guard in the app: beside a chat model over the same weights, within what its asker may have left, and as an endpoint."""

import json
from contextlib import contextmanager

import pytest

from core import UserError
from core.access import Access, Meter
from core.guard.schema import Classified
from core.records import TASKS
from core.runs import Workspace
from tests.guard_answers import LETTER


def test_the_worker_classifies_beside_a_chat_model_over_the_same_weights(workspace, tiny_model):
    from core.lm import load
    from core.serve_worker import ServeWorker

    events = []
    before = set(load._BASES)  # tests of other files may have left some
    worker = ServeWorker(events.append, workspace)
    user, assistant = {"role": "user", "content": LETTER.prompt}, {"role": "assistant", "content": "Begin with the date."}
    try:
        worker.answer({"id": 1, "model": str(tiny_model), "messages": [user], "options": {"max_new_tokens": 3}})
        worker.answer({"id": 2, "kind": "classify", "model": str(tiny_model), "messages": [user, assistant]})
        worker.answer({"id": 3, "kind": "classify", "model": str(tiny_model), "messages": [user], "options": {"confidence": "none"}})
        worker.answer({"id": 4, "model": str(tiny_model), "messages": [user], "options": {"max_new_tokens": 3}})
        assert len(set(load._BASES) - before) <= 1, "one copy of the weights"
    finally:
        worker.unload()
    assert [event["text"] for event in events if event["who"] == "status"] == [f"loading {tiny_model}", f"loading the guard {tiny_model}"]
    second, third = (Classified.model_validate(event["classified"]) for event in events if event["who"] == "classified")
    assert second.prompt_format == "zero-shot"
    assert all(getattr(second.labels, task) and getattr(second.confidence, task) >= 0.5 for task in TASKS)
    assert third.labels.response is None
    assert third.method == "none"
    assert [event["who"] for event in events if event["id"] == 2][-2:] == ["classified", "end"]
    for question, why in (({"messages": [assistant]}, "one prompt"), ({"messages": [{"role": "user", "content": "w " * 9000}]}, "too long"),
                          ({"messages": [user], "options": {"confidence": "vote"}}, "no vote"),
                          ({"messages": [user], "model": "run:no"}, "no run"),
                          ({"messages": [user], "options": {"samples": 1}}, "samples = 1")):
        events.clear()
        worker.answer({"id": 5, "kind": "classify", "model": str(tiny_model), **question})
        assert events[-1]["who"] == "error"
        assert why in events[-1]["text"]
    events.clear()
    worker.cancelled.add(6)
    worker.answer({"id": 6, "kind": "classify", "model": str(tiny_model), "messages": [user]})
    assert [event["who"] for event in events] == ["stopped"]
    worker.unload()


def test_the_worker_lets_a_guard_write_no_more_than_its_asker_may_have(workspace, tiny_model):
    from core.serve_worker import ServeWorker

    events = []
    worker = ServeWorker(events.append, workspace)
    try:
        for number, more in enumerate(({"at_most": 5}, {"at_most": 5, "max_new_tokens": 3}, {"at_most": None, "max_new_tokens": 7})):
            worker.answer({"id": number, "kind": "classify", "model": str(tiny_model), "messages": [{"role": "user", "content": "Hello?"}],
                           "options": {"confidence": "none", "prompt_format": "guardreasoner", **more}})
    finally:
        worker.unload()
    assert [event["tokens"] for event in events if event["who"] == "end"] == [5, 3, 7]


def test_a_question_to_a_guard_is_bounded_by_what_its_asker_has_left(workspace, monkeypatch):
    from core.guard import asking

    class Told:
        def ask(self, question):
            asked.append(question)
            yield {"who": "stopped", "text": "its time is over"}

    class Bounded(Access):
        @contextmanager
        def asking(self, workspace, model, judge="", reads=0, writes=0):
            meter = Meter()
            meter.tokens, meter.seconds = 100, 9.0
            asked.append(reads)
            yield meter

    asked = []
    monkeypatch.setattr(asking, "serving_of", lambda _: Told())
    shown = Workspace(workspace.runs_dir, Bounded())
    for options, times in (({"confidence": "vote", "samples": 8, "prompt_format": "auto"}, 8), ({"samples": 8}, 1)):
        with pytest.raises(UserError, match="its time is over"):
            asking.ask_guard(shown, asking.guard_question("run:g", "Hello?", "Yes.", **options))
        reads, question = asked[-2:]
        assert (reads, question.options["at_most"], question.seconds) == (10 * times, 100 // times, 9.0)


def test_the_endpoint_of_the_app_answers_like_the_service(workspace, tiny_model):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    from core.serving import serving_of
    from core.ui.build import build

    demo = build(workspace)
    demo.launch(server_port=None, prevent_thread_lock=True, quiet=True)
    try:
        client = Client(demo.local_url, verbose=False)
        said = client.predict(str(tiny_model), LETTER.prompt, "Begin with the date.", api_name="/classify")
        assert json.loads(json.dumps(said)) == Classified.model_validate(said).model_dump()
        assert said["labels"]["response"]
        assert said["method"] == "log-prob"
        with pytest.raises(AppError, match="no run"):
            client.predict("run:nope", LETTER.prompt, api_name="/classify")
        with pytest.raises(AppError, match="prompt"):
            client.predict(str(tiny_model), "", api_name="/classify")
    finally:
        serving_of(workspace).close()
        demo.close(verbose=False)
