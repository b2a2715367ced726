"""A guard as a service: requests that share a pass, a queue that refuses in time, and answers over HTTP."""

import asyncio
import socket
import threading
import time

import httpx
import pytest

from core.guard.batching import Batcher, Busy, Limits
from core.guard.gather import CUT
from core.guard.schema import MAX_CHARS, Asked, Classified, How
from core.records import Labels
from tests.guard_answers import LETTER, REPLY, WHOLE, says
from tests.helpers import wait_for

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
