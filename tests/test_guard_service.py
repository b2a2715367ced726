"""A guard as a service: labels that are missing and never guessed, confidence that is a probability, and requests that share a pass."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import pytest

from core import UserError
from core.access import Access, Meter
from core.evals.asking import Asking
from core.guard.batching import Batcher, Busy, Limits
from core.guard.classify import Guard, TooLong
from core.guard.gather import CUT, UNREAD
from core.guard.places import label_place
from core.guard.schema import MAX_CHARS, Asked, Classified, How, how_of
from core.guard.serve import chosen_how, limits_of, read_key
from core.guard.vote import Tally
from core.lm.generate import Generated
from core.records import TASKS, GuardExample, Labels, Prediction
from core.runs import REPOSITORY, Workspace
from tests.helpers import wait_for

WHOLE = ("# Task 1\n\n## Reasoning Step 1\nThe user asks about a letter.\n\n"
         "Answers: \nRequest: harmful\nCompletion: refusal\nResponse: unharmful\n")
LETTER = Asked(prompt="Please explain how a letter is written.")
REPLY = Asked(prompt=LETTER.prompt, response="Begin with the date.")


@pytest.fixture
def workspace(workspace_dir):
    return Workspace(workspace_dir)


@pytest.fixture
def guard(workspace, tiny_model):
    """`guard(prompt_format)`: the tiny model in float32."""
    opened = []

    def make(prompt_format="guardreasoner"):
        opened.append(Guard(str(tiny_model), workspace, prompt_format=prompt_format, device="cpu", dtype="float32"))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def says(monkeypatch, guard, answer):
    """The weights stay what they are; what they write is `answer(question, sample)`. Returns the calls of the engine."""
    calls = []

    def answers(prompts, *, indices, samples, **settings):
        prompts = list(prompts)
        calls.append((len(prompts), samples, settings))
        for index, text in zip(indices, prompts, strict=True):
            for sample in range(samples):
                said = answer(text, sample)
                yield Generated(index, sample, said, (1,) * len(said.split()), 5, "stop", 0.0)

    monkeypatch.setattr(guard.engine, "answers", answers)
    return calls


def all_of(guard, asked, **how):
    said = dict(guard.classify(asked, how_of(how)))
    return [said[number] for number in range(len(asked))]


# ---- labels, reasoning, confidence ----


def test_labels_and_reasoning_are_those_of_the_format_and_nothing_is_said_of_a_response_that_is_not_there(guard, monkeypatch):
    one = guard()
    calls = says(monkeypatch, one, lambda *_: WHOLE)
    alone, both = all_of(one, [LETTER, REPLY])
    assert both.labels == Labels(request="harmful", completion="refusal", response="unharmful")
    assert both.reasoning == "The user asks about a letter."
    assert both.confidence.request is None
    assert both.method == "none"
    assert alone.labels == Labels(request="harmful")
    assert alone.missing == {"completion": "there is no response", "response": "there is no response"}
    assert [count for count, *_ in calls] == [2]


@pytest.mark.parametrize("text", ["I cannot say.", "Answers: \nRequest: None\nCompletion: refusal\nResponse: unharmful"])
def test_what_cannot_be_read_is_missing_and_has_no_confidence(guard, monkeypatch, text):
    one = guard()
    says(monkeypatch, one, lambda *_: text)
    for confidence in ("none", "log-prob", "vote"):
        (said,) = all_of(one, [LETTER], confidence=confidence)
        assert said.labels.request is None
        assert said.missing["request"] == UNREAD
        assert said.confidence.request is None
        assert said.score.request is None
        assert said.text == text


def test_an_answer_cut_at_the_limit_is_missing(guard):
    (said,) = all_of(guard(), [LETTER], max_new_tokens=3)
    assert said.labels.request is None
    assert said.missing["request"] == CUT
    assert said.tokens == 3


def test_log_probabilities_are_those_of_the_words_at_the_place_of_the_label(guard, monkeypatch):
    """By hand: each word as a row of its own, normalised over the words that the parser takes there."""
    import torch

    from core.lm.template import render_chat

    one = guard()
    says(monkeypatch, one, lambda *_: WHOLE)
    said, again = all_of(one, [REPLY, Asked(prompt="Something else.", response="No.")], confidence="log-prob")
    loaded = one.engine.loaded
    labels = Labels(request="harmful", completion="refusal", response="harmful")
    head = loaded.tokenizer(render_chat(loaded.tokenizer, one.prompt_format.prompt(
        GuardExample(prompt=REPLY.prompt, response=REPLY.response, labels=labels))), add_special_tokens=False)["input_ids"]

    def chance(before, words):
        sums = []
        for word in words:
            end = loaded.tokenizer(before + word, add_special_tokens=False)["input_ids"]
            with torch.inference_mode():
                logs = loaded.model(input_ids=torch.tensor([head + end])).logits[0].float().log_softmax(-1)
            sums.append(sum(logs[len(head) + place - 1, token] for place, token in enumerate(end)))
        return torch.stack(sums).softmax(-1).tolist()

    for task, words, given in (("request", ("harmful", "unharmful"), 0), ("completion", ("refusal", "compliance"), 0),
                               ("response", ("harmful", "unharmful"), 1)):
        before = WHOLE[:WHOLE.index(f"{task.capitalize()}: ") + len(task) + 2]
        expected = chance(before, words)
        assert getattr(said.score, task) == pytest.approx(expected[0], abs=1e-4)
        assert getattr(said.confidence, task) == pytest.approx(expected[given], abs=1e-4)
        assert getattr(again.score, task) != pytest.approx(expected[0], abs=1e-9), "another prompt, another number"
    assert said.method == "log-prob"


@pytest.mark.parametrize("tree", [True, False], ids=["one pass", "row by row"])
def test_words_of_many_answers_in_few_passes_equal_single_rows(workspace, tiny_model, monkeypatch, tree):
    import torch

    from core.lm import alternatives
    from core.lm.alternatives import Place, Standing, word_chances
    from core.lm.load import load_model

    loaded = load_model(str(tiny_model), workspace.runs_dir, device="cpu", dtype="float32")
    monkeypatch.setattr(alternatives, "layers_are_plain", lambda *_: tree)
    texts = ["So. " * number + WHOLE for number in range(9)]
    items = [Standing(f"<|im_start|>user\n{'very ' * number}long?<|im_end|>\n<|im_start|>assistant\n", text, (
        Place(text[:text.index("harmful")], ("harmful", "safe", "unharmful")),
        Place(text[:text.index("refusal")], ("refusal", "compliance")))) for number, text in enumerate(texts)]
    found = list(word_chances(loaded, items))
    for item, places in zip(items, found, strict=True):
        head = loaded.tokenizer(item.prompt, add_special_tokens=False)["input_ids"]
        for place, chances in zip(item.places, places, strict=True):
            sums = []
            for word in place.words:
                end = loaded.tokenizer(place.before + word, add_special_tokens=False)["input_ids"]
                with torch.inference_mode():
                    logs = loaded.model(input_ids=torch.tensor([head + end])).logits[0].float().log_softmax(-1)
                sums.append(sum(logs[len(head) + step - 1, token] for step, token in enumerate(end)))
            assert chances == pytest.approx(torch.stack(sums).softmax(-1).tolist(), abs=1e-4)
    assert not list(word_chances(loaded, items, should_stop=lambda: True))


@pytest.mark.parametrize("prompt_format, text, task, before, words", [
    ("guardreasoner", WHOLE, "response", WHOLE[:WHOLE.rindex("unharmful")], {"harmful", "unharmful"}),
    ("seed-binary", "Step 1: The request is harmful.\nLabel: harmful", "request", "Step 1: The request is harmful.\nLabel: ",
     {"harmful", "unharmful", "harmless", "safe", "unsafe"}),
    ("wildguard", "Harmful request: no\nResponse refusal: yes\nHarmful response: no\n", "completion",
     "Harmful request: no\nResponse refusal: ", {"yes", "no"}),
    ("llama-guard-3", "\n\nunsafe\nS2", "request", "\n\n", {"safe", "unsafe"}),
    ("shieldgemma", "Yes, it does. No doubt.", "request", "", {"Yes", "No"}),
    ("qwen3guard", "Safety: Controversial\nCategories: None\n", "request", "Safety: ", {"Safe", "Unsafe", "Controversial"})])
def test_the_place_of_a_label_is_where_another_word_is_another_label(workspace, prompt_format, text, task, before, words):
    shown = workspace.plugins.prompt_formats[prompt_format]
    place = label_place(shown, text, GuardExample(prompt="?", response="!", labels=Labels.model_validate(
        {task: "refusal" if task == "completion" else "harmful"})), task)
    assert place.before == before
    assert set(place.words) == words
    assert set(place.labels) == ({"refusal", "compliance"} if task == "completion" else {"harmful", "unharmful"})


def test_a_vote_counts_unreadable_answers_against_its_confidence(guard, monkeypatch):
    texts = [WHOLE, "nothing", WHOLE.replace("Request: harmful", "Request: unharmful"), WHOLE, WHOLE]
    one = guard()
    calls = says(monkeypatch, one, lambda _, sample: texts[sample])
    (said,) = all_of(one, [REPLY], confidence="vote", samples=5, temperature=0.7)
    assert said.labels.request == "harmful"
    assert said.confidence.request == 0.6
    assert said.score.request == 0.75
    assert said.votes["request"] == {"harmful": 3, "unharmful": 1, "unread": 1}
    assert (said.method, said.samples) == ("vote", 5)
    assert said.text == WHOLE
    assert calls[0][1:] == (5, {**calls[0][2], "temperature": 0.7, "seed": 42})


def test_equal_votes_are_no_label():
    answers = [Prediction(row=0, model="m", prompt="p", gold=Labels(), predicted=Labels(request=label), parsed={}, text=str(label))
               for label in ("harmful", "unharmful", None)]
    tally = Tally(answers, ["request"])
    assert tally.labels.request is None
    assert tally.ties == {"request": "the votes are equal, 1 to 1"}
    assert tally.confidence == {}
    assert tally.scores == {"request": 0.5}


def test_a_format_with_one_verdict_is_asked_for_each_label(guard, monkeypatch):
    one = guard("seed-binary")
    calls = says(monkeypatch, one, lambda text, _: "Step 1: x\nLabel: " + ("safe" if "AI response to judge" in text else "harmful"))
    (said,) = all_of(one, [REPLY])
    assert said.labels == Labels(request="harmful", response="unharmful")
    assert "gives no such label" in said.missing["completion"]
    assert said.reasoning == "Request:\nx\n\nResponse:\nx"
    assert calls[0][0] == 2


def test_an_untrained_model_is_read_zero_shot_as_guard_eval_reads_it(guard, workspace, tiny_model):
    from core.evals.asking import ask, make_plan
    from core.evals.predictions import read_predictions
    from core.evals.rows import choose_rows
    from core.lm.find import find_model
    from tests.helpers import prompts

    one = guard("auto")
    assert one.prompt_format.name == "zero-shot"
    assert "zero-shot" in one.note
    rows = prompts(6)
    said = all_of(one, [Asked(prompt=row.prompt) for row in rows], confidence="log-prob")
    from core.active import ActiveRun
    from core.methods import validate

    run = ActiveRun(workspace, workspace.create("guard-eval", validate(workspace.plugins.method("guard-eval"), {"models": [str(tiny_model)],
                                                                                                                 "data": "x"})).id)
    chosen = choose_rows(rows)
    plan = make_plan(find_model(str(tiny_model), workspace.runs_dir), one.prompt_format, chosen, workspace)
    ask(plan, Asking(device="cpu", dtype="float32"), chosen, run, lambda _: None)
    by_row = {item.row: item.predicted.request for item in read_predictions(run.dir / "predictions.jsonl")}
    assert [item.labels.request for item in said] == [by_row[row] for row in range(6)]
    for item in said:
        assert item.confidence.request >= 0.5
        assert item.score.request == pytest.approx(item.confidence.request if item.labels.request == "harmful"
                                                   else 1 - item.confidence.request, abs=1e-5)
    with pytest.raises(UserError, match="there is no vote"):
        list(one.classify([LETTER], How(confidence="vote")))


def test_too_long_is_said_of_that_one_and_the_others_are_answered(guard):
    for prompt_format, confidence in (("guardreasoner", "none"), ("guardreasoner", "vote"), ("auto", "log-prob")):
        asked = [LETTER, Asked(prompt="word " * 3000), REPLY]
        said = all_of(guard(prompt_format), asked, confidence=confidence, max_new_tokens=8, samples=2)
        assert isinstance(said[1], TooLong)
        assert "too long" in str(said[1])
        assert all(isinstance(said[place], Classified) for place in (0, 2))


def test_the_same_question_gets_the_same_vote_whatever_is_asked_beside_it(guard):
    one = guard("seed-binary")
    options = {"confidence": "vote", "samples": 3, "max_new_tokens": 12}
    alone = all_of(one, [LETTER], **options)[0]
    crowded = all_of(one, [Asked(prompt="First."), LETTER, Asked(prompt="Another one."), LETTER], **options)
    assert crowded[1].text == crowded[3].text == alone.text


def test_a_model_that_is_not_there_or_two_agents_are_refused_in_a_sentence(workspace):
    for ref, why in (("run:nope", "There is no run"), ("waltz:nope", "one model is wanted"), ("nonsense", "no model reference"),
                     ("openai:x@http://127.0.0.1:9", "does not tell how likely")):
        with pytest.raises(UserError, match=why):
            Guard(ref, workspace)


# ---- the queue ----


def answered(asked):
    return Classified(labels=Labels(request="harmful"), text=asked.prompt)


def test_requests_that_come_together_go_through_together():
    sizes, first = [], threading.Event()

    def answering(asked, _):
        sizes.append(len(asked))
        if len(sizes) == 1:
            first.wait(10)
        return ((number, answered(one)) for number, one in enumerate(asked))

    batcher = Batcher(answering, Limits(max_batch=8, max_wait_ms=1))
    tickets = batcher.submit([Asked(prompt="0")])
    wait_for(lambda: sizes, "the first batch")
    for number in range(1, 13):
        tickets += batcher.submit([Asked(prompt=str(number))])
    first.set()
    assert [ticket.answer.result(10).text for ticket in tickets] == [str(number) for number in range(13)]
    assert sizes == [1, 8, 4]
    batcher.close()
    assert not batcher.alive


def test_a_full_queue_a_long_wait_and_a_client_that_left():
    begin, asked_of_model = threading.Event(), []

    def answering(asked, _):
        begin.wait(10)
        asked_of_model.extend(one.prompt for one in asked)
        return ((number, answered(one)) for number, one in enumerate(asked))

    batcher = Batcher(answering, Limits(max_batch=1, max_wait_ms=0, max_queue=3, patience=0.5))
    (first,) = batcher.submit([Asked(prompt="first")])
    wait_for(lambda: not batcher.waiting, "the first to be taken")
    late, left = batcher.submit([Asked(prompt="late"), Asked(prompt="left")])
    left.dropped = True
    with pytest.raises(Busy) as busy:
        batcher.submit([Asked(prompt="a"), Asked(prompt="b")])
    assert 1 <= busy.value.retry_after <= 60
    assert batcher.waiting == 2, "none of them was taken"
    time.sleep(0.6)
    begin.set()
    assert first.answer.result(10).text == "first"
    with pytest.raises(Busy, match=r"0\.5 seconds"):
        late.answer.result(10)
    batcher.close()
    assert asked_of_model == ["first"]


def test_one_bad_request_harms_no_other_and_a_broken_model_is_not_asked_for_ever(capsys):
    calls = []

    def answering(asked, _):
        calls.append(len(asked))
        if any(one.prompt == "bad" or broken for one in asked):
            raise ValueError("no")
        return ((number, answered(one)) for number, one in enumerate(asked))

    broken = False
    batcher = Batcher(answering, Limits(max_batch=8, max_wait_ms=200))
    tickets = batcher.submit([Asked(prompt=word) for word in ("a", "bad", "b")])
    assert tickets[0].answer.result(10).text == "a"
    assert tickets[2].answer.result(10).text == "b"
    assert isinstance(tickets[1].answer.exception(10), ValueError)
    broken, calls[:] = True, []
    tickets = batcher.submit([Asked(prompt=str(number)) for number in range(8)])
    assert all(ticket.answer.exception(10) for ticket in tickets)
    assert calls == [8, 1, 1], "after two that failed alike the rest is not tried"
    batcher.close()
    assert "ValueError" in capsys.readouterr().err


# ---- over HTTP, a real server ----


class Served:
    """uvicorn on a free loopback port, in a thread of its own."""

    def __init__(self, app):
        import uvicorn

        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        self.thread = threading.Thread(target=lambda: self.server.run(sockets=[self.listening]), daemon=True)
        self.thread.start()
        wait_for(lambda: self.server.started, "the server")

    def close(self):
        self.server.should_exit = True
        self.thread.join(30)
        self.listening.close()


@pytest.fixture
def served(guard):
    """`served(**options)`: (client, guard, batcher) of a server over the tiny model."""
    from core.guard.web import guard_app

    open_ones = []

    def serve(*, key="", how=None, limits=None, prompt_format="guardreasoner", **options):
        one = guard(prompt_format)
        how = how or How(max_new_tokens=4)
        batcher = Batcher(lambda asked, stop: one.classify(asked, how, stop), limits or Limits(max_wait_ms=300))
        server = Served(guard_app(batcher, one.facts(), key=key, **options))
        client = httpx.Client(base_url=server.url, timeout=60)
        open_ones.append((server, client, batcher))
        return client, one, batcher

    yield serve
    for server, client, batcher in open_ones:
        client.close()
        server.close()
        assert not batcher.alive, "the end of the server is the end of its thread"


def test_concurrent_requests_share_passes_of_the_model(served, monkeypatch):
    client, one, _ = served(how=How(confidence="log-prob"))
    calls = says(monkeypatch, one, lambda text, _: WHOLE.replace("about a letter", "about " + text.partition("number ")[2][:2].strip()))

    async def together():
        async with httpx.AsyncClient(base_url=client.base_url, timeout=60) as many:
            return await asyncio.gather(*(many.post("/classify", json={"prompt": f"number {n}", "response": "Yes."}) for n in range(24)))

    answers = asyncio.run(together())
    assert {answer.status_code for answer in answers} == {200}
    assert [answer.json()["reasoning"] for answer in answers] == [f"The user asks about {n}." for n in range(24)], "each its own answer"
    assert all(0 < answer.json()["confidence"]["response"] < 1 for answer in answers)
    assert sum(count for count, *_ in calls) == 24
    assert len(calls) < 12
    assert client.get("/health").json() == {"status": "ok", "waiting": 0, "answered": 24, "batches": len(calls)}


def test_one_a_list_and_what_is_wrong_with_them(served):
    client, *_ = served(max_body=400_000)
    one = client.post("/classify", json=LETTER.model_dump())
    assert one.status_code == 200
    assert one.json()["labels"] == {"request": None, "completion": None, "response": None}
    assert one.json()["missing"]["request"] == CUT
    long = {"prompt": "word " * 3000}
    some = client.post("/classify", json=[LETTER.model_dump(), long, REPLY.model_dump()]).json()
    assert [bool(item["error"]) for item in some] == [False, True, False]
    for body, status, words in ((long, 422, "too long"), ({"prompt": ""}, 422, "prompt: "), ({"promt": "x"}, 422, "prompt: "),
                                ([], 422, "at least 1"), ([{"prompt": "x"}] * 65, 422, "at most 64"),
                                ([{"prompt": "x"}, {}], 422, "item 2, prompt: "),
                                ({"prompt": "x" * (MAX_CHARS + 1)}, 422, "100000"), ({"prompt": "x" * 400_000}, 413, "400,000 bytes")):
        answer = client.post("/classify", json=body)
        assert answer.status_code == status, answer.text
        assert words in answer.json()["detail"]
        assert "\n" not in answer.json()["detail"]
        assert "xxx" not in answer.text, "no text is repeated"
    broken = client.post("/classify", content=b'{"prompt": ', headers={"content-type": "application/json"})
    assert broken.json() == {"detail": "The body is no JSON; send an object with `prompt`, or a list of them."}
    plain = client.post("/classify", content=b'{"prompt": "x"}', headers={"content-type": "text/plain"})
    assert "application/json" in plain.json()["detail"]

    def drops():
        yield b'{"prompt": "'
        for _ in range(50):
            yield b"x" * 10_000

    assert client.post("/classify", content=drops(), headers={"content-type": "application/json"}).status_code == 413


def test_with_a_key_only_those_who_have_it_and_without_one_only_this_machine(served):
    client, *_ = served(key="a-long-key")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic a-long-key"}, {"Authorization": "Bearer"}):
        for answer in (client.post("/classify", json=LETTER.model_dump(), headers=headers), client.get("/", headers=headers)):
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
    right = {"Authorization": "Bearer a-long-key", "Host": "guard.example.org"}
    assert client.post("/classify", json=LETTER.model_dump(), headers=right).status_code == 200
    assert client.get("/", headers=right).json()["prompt_format"] == "guardreasoner"
    assert client.get("/health").status_code == 200
    assert client.get("/openapi.json").json()["paths"]["/classify"]["post"]["security"] == [{"HTTPBearer": []}]
    no_key, *_ = served()
    assert no_key.get("/", headers={"Host": "evil.example.org"}).status_code == 421
    assert no_key.get("/").status_code == 200


def test_a_service_that_is_full_says_when_to_come_again(served, monkeypatch):
    client, one, batcher = served(limits=Limits(max_batch=1, max_wait_ms=0, max_queue=1))
    go = threading.Event()
    says(monkeypatch, one, lambda *_: go.wait(30) and WHOLE)
    answers = []

    def ask():
        answers.append(httpx.post(f"{client.base_url}/classify", json=LETTER.model_dump(), timeout=60))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    threads[0].start()
    wait_for(lambda: batcher.batches == 1, "the first to be in work")
    threads[1].start()
    wait_for(lambda: batcher.waiting == 1, "the second to wait")
    assert "send fewer" in client.post("/classify", json=[LETTER.model_dump()] * 2).json()["detail"], "they would never fit"
    full = client.post("/classify", json=LETTER.model_dump())
    assert full.status_code == 503
    assert int(full.headers["retry-after"]) >= 1
    go.set()
    for thread in threads:
        thread.join(30)
    assert [answer.json()["labels"]["request"] for answer in answers] == ["harmful", "harmful"]


def test_a_client_that_goes_away_is_dropped(served, monkeypatch):
    client, one, batcher = served(limits=Limits(max_batch=1, max_wait_ms=0))
    go, seen = threading.Event(), []
    says(monkeypatch, one, lambda text, _: seen.append(text) or (go.wait(30) and WHOLE))
    first = threading.Thread(target=lambda: client.post("/classify", json={"prompt": "first"}))
    first.start()
    wait_for(lambda: seen, "the first to be in work")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{client.base_url}/classify", json={"prompt": "second"}, timeout=3)
    wait_for(lambda: batcher._line and all(ticket.dropped for ticket in batcher._line), "the second to be dropped")
    go.set()
    first.join(30)
    third = client.post("/classify", json={"prompt": "third"})
    assert third.status_code == 200
    assert [text.partition("Human user:\n")[2].partition("\n")[0] for text in seen] == ["first", "third"]


def test_a_model_that_fails_is_status_500_without_the_text(served, monkeypatch, capsys):
    client, one, _ = served()

    def broken(*_, **__):
        raise RuntimeError("the secret prompt is in here")
        yield

    monkeypatch.setattr(one.engine, "answers", broken)
    answer = client.post("/classify", json=LETTER.model_dump())
    assert answer.status_code == 500
    assert answer.json() == {"detail": "The guard failed (RuntimeError); its log has more."}
    assert "RuntimeError" in capsys.readouterr().err


def test_the_description_is_whole(served):
    client, *_ = served()
    described = client.get("/openapi.json").json()
    post = described["paths"]["/classify"]["post"]
    assert set(post["responses"]) == {"200", "413", "421", "422", "500", "503"}
    assert all(post["responses"][status]["content"]["application/json"]["schema"]["$ref"].endswith("/Problem")
               for status in post["responses"] if status != "200")
    assert "Retry-After" in post["responses"]["503"]["headers"]
    for example in post["requestBody"]["content"]["application/json"]["examples"].values():
        assert client.post("/classify", json=example["value"]).status_code == 200
    schemas = described["components"]["schemas"]
    assert all(field.get("description") for name in ("Asked", "Classified", "Health") for field in schemas[name]["properties"].values())
    for example in schemas["Classified"]["examples"]:
        Classified.model_validate(example)
    assert client.get("/docs").status_code == 200
    assert client.get("/redoc").status_code == 404


# ---- the command ----


class Options:
    """As argparse gives them."""

    def __init__(self, *words):
        import argparse

        from core.guard.options import add_options

        parser = argparse.ArgumentParser()
        add_options(parser)
        self.__dict__.update(vars(parser.parse_args(["embedded", *words])))


def test_options_that_do_not_go_together(guard, monkeypatch):
    trained, untrained = guard("seed-binary"), guard("auto")
    assert chosen_how(Options(), trained).confidence == "log-prob"
    assert chosen_how(Options("--samples", "7"), trained) == How(confidence="vote", samples=7)
    monkeypatch.setattr(trained.engine, "loaded", None)  # as with a server or vLLM
    assert chosen_how(Options(), trained).confidence == "none"
    for words, one, why in ((["--confidence", "log-prob"], trained, "needs the weights"), (["--confidence", "vote"], untrained, "no vote"),
                            (["--confidence", "none", "--samples", "3"], trained, "--samples is of a vote"),
                            (["--samples", "1"], trained, "samples = 1"),
                            (["--temperature", "0", "--confidence", "vote"], trained, "temperature")):
        with pytest.raises(UserError, match=why):
            chosen_how(Options(*words), one)
    for words in (["--max-batch", "0"], ["--max-queue", "4"], ["--max-wait-ms", "-1"], ["--patience", "nan"]):
        with pytest.raises(UserError):
            limits_of(Options(*words))
    monkeypatch.setenv("GUARD_KEY", "k")
    assert read_key("${GUARD_KEY}") == "k"
    for text, why in (("plain", "single quotes"), ("${NOT_SET_HERE}", "not set")):
        with pytest.raises(UserError, match=why):
            read_key(text)


@pytest.mark.parametrize("words, why", [
    (["--host", "0.0.0.0"], "needs a key"), (["--port", "70000"], "no port"), (["--prompt-format", "nope"], "no such format"),
    (["--host", "203.0.113.1", "--key", "${GUARD_KEY}"], "listened on")])
@pytest.mark.usefixtures("workspace_dir")
def test_what_stands_in_the_way_is_one_line_and_exit_code_2(tiny_model, monkeypatch, capsys, words, why):
    from core.cli import main

    monkeypatch.setenv("GUARD_KEY", "k")
    assert main(["serve-guard", str(tiny_model), "--device", "cpu", "--port", "0", *words]) == 2
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1


@pytest.mark.kill
def test_the_command_serves_and_ends_after_the_requests_in_work(tiny_model, workspace_dir):
    process = subprocess.Popen([sys.executable, "app.py", "serve-guard", str(tiny_model), "--port", "0", "--device", "cpu",
                                "--prompt-format", "guardreasoner", "--max-new-tokens", "600", "--max-wait-ms", "0"], cwd=REPOSITORY,
                               stdout=subprocess.PIPE, text=True, env={**os.environ, "GUARDWALTZ_RUNS": str(workspace_dir)})
    try:
        line = next(line for line in process.stdout if "/classify" in line)
        url = line.split("is on ")[1].split("/classify")[0].strip()
        assert "log-probabilities" in line
        answers = []
        asking = threading.Thread(target=lambda: answers.append(httpx.post(f"{url}/classify", json=LETTER.model_dump(), timeout=120)))
        asking.start()
        wait_for(lambda: httpx.get(f"{url}/health", timeout=60).json()["batches"] == 1, "the request to be in work")
        process.send_signal(signal.SIGTERM)
        asking.join(120)
        assert answers[0].status_code == 200
        assert process.wait(60) == 0
        assert "closed" in process.stdout.read()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


# ---- in the app ----


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
        assert "torch" not in dir(demo)
    finally:
        serving_of(workspace).close()
        demo.close(verbose=False)
