"""The chat model `server`: answers as they are made, by a real `transformers serve` on loopback and by servers that misbehave."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from core import Sampling, UserError
from core.active import StopRequested
from core.chat_models import chat_model_for
from tests.opened_app import opened

HELLO = [{"role": "user", "content": "Please explain how a letter is written."}]


@pytest.fixture
def served():
    """`served(lines, status)`: base url of a server that answers so; what it was asked is in `served.asked`."""
    servers = []

    def start(lines, status=200, kind="text/event-stream"):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                start.asked.append((self.path, body, self.headers.get("Authorization")))
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.end_headers()
                for line in lines:
                    self.wfile.write(line.encode() + b"\n")
                    self.wfile.flush()

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/v1"

    start.asked = []
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def piece(text=None, finish=None, **more):
    return "data: " + json.dumps({"choices": [{"delta": {"content": text} if text else {}, "finish_reason": finish}], **more})


def asked(url, workspace, key="", stop=lambda: False):
    kind, ref = chat_model_for(f"openai:some-model@{url}", workspace)
    heard = []
    return heard, kind(ref, workspace, key).answer(HELLO, Sampling(temperature=0.5, seed=7, max_new_tokens=9), heard.append, stop)


def test_words_arrive_as_they_are_sent(served, workspace):
    url = served([": a comment", piece("Dear "), "", piece("friend"), piece(finish="length"),
                  'data: {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 5}}', "data: [DONE]"])
    heard, outcome = asked(url, workspace, key="mine")
    assert [(words.text, words.done) for words in heard] == [("Dear ", False), ("Dear friend", False), ("Dear friend", True)]
    assert (outcome.tokens, outcome.prompt_tokens, outcome.finish) == (5, 11, "length")
    path, body, authorization = served.asked[0]
    assert path == "/v1/chat/completions"
    assert authorization == "Bearer mine"
    assert {name: body[name] for name in ("model", "messages", "temperature", "seed", "max_tokens", "stream")} == {
        "model": "some-model", "messages": HELLO, "temperature": 0.5, "seed": 7, "max_tokens": 9, "stream": True}


def test_without_usage_the_pieces_are_counted_and_a_filter_is_a_refusal(served, workspace):
    _, outcome = asked(served([piece("a"), piece("b"), piece(finish="content_filter")]), workspace)
    assert (outcome.tokens, outcome.finish) == (2, "refused")
    assert "filter" in outcome.note


@pytest.mark.parametrize("lines, status, why", [
    (['{"error": {"message": "no such model"}}'], 404, "status 404 (no such model)"),
    (["data: no json"], 200, "something other than JSON"),
    (['data: {"error": {"message": "worker died"}}'], 200, "broke off: worker died"),
    (["<html>hello</html>"], 200, "sent no answer in OpenAI's format"),
    ([], 200, "sent no answer in OpenAI's format")])
def test_what_goes_wrong_is_one_sentence(served, workspace, lines, status, why):
    with pytest.raises(UserError) as caught:
        asked(served(lines, status), workspace)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-secret-123\r", "sk-secret-123\n", " sk-secret-123 "])
def test_a_key_is_sent_without_what_a_paste_or_a_file_adds_to_it(served, workspace, monkeypatch, key):
    url = served([piece("a")])
    asked(url, workspace, key=key)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    asked(url, workspace)
    assert [authorization for _, _, authorization in served.asked] == ["Bearer sk-secret-123"] * 2


@pytest.mark.parametrize("key", ["sk-secret\r\n-123", "sk-secr\u00e9t-123", "sk-secret\u2028-123", "sk-secret 123"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(served, workspace, monkeypatch, key):
    url = served([piece("a")])
    with pytest.raises(UserError, match=r"^Your API key has .*copy it anew") as typed:
        asked(url, workspace, key=key)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match=r"^The API key in OPENAI_API_KEY has") as lasting:
        asked(url, workspace)
    assert served.asked == []
    assert not any(part in str(caught.value) for caught in (typed, lasting) for part in ("secr", "123"))


@pytest.mark.parametrize("lines, status", [
    (['{"error": {"message": "%s no such key sk-secret-123"}}' % ("x" * 170)], 401), (["<p>sk-secret-123</p>"], 500),
    (['data: {"error": "%s no such key sk-secret-123"}' % ("x" * 180)], 200)])
def test_a_key_that_a_server_repeats_is_not_shown(served, workspace, monkeypatch, lines, status):
    """Neither whole, nor the beginning of it where the server's words are cut."""
    url = served(lines, status)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-123")
    for key in ("", "sk-secret-123"):
        with pytest.raises(UserError, match=r"\*\*\*") as caught:
            asked(url, workspace, key=key)
        assert "sk-" not in str(caught.value)


def test_nobody_there_is_one_sentence(workspace):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match="did not answer"):
        asked(f"http://127.0.0.1:{port}/v1", workspace)


def test_a_stopped_answer_ends_between_two_pieces(served, workspace):
    with pytest.raises(StopRequested):
        asked(served([piece("a"), piece("b")]), workspace, stop=lambda: True)


def test_a_real_transformers_serve(tiny_model, workspace, tmp_path):
    """The server that comes with transformers, a model of two random layers, greedy: the same words as from our own engine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = os.path.join(os.path.dirname(sys.executable), "transformers")
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen([command, "serve", str(tiny_model), "--port", str(port), "--host", "127.0.0.1", "--device", "cpu",
                                   "--dtype", "float32"], stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        try:
            _wait_until_up(server, port)
            kind, ref = chat_model_for(f"openai:{tiny_model}@http://127.0.0.1:{port}/v1", workspace)
            heard = []
            outcome = kind(ref, workspace).answer(HELLO, Sampling(max_new_tokens=24), heard.append, lambda: False)
        finally:
            server.kill()
            server.wait()
    local, own = chat_model_for(str(tiny_model), workspace)
    ours = []
    model = local(own, workspace)
    model.answer(HELLO, Sampling(max_new_tokens=24), ours.append, lambda: False)
    model.close()
    assert heard[-1].done
    assert len(heard) > 2
    assert outcome.tokens > 0
    assert heard[-1].text.strip()[:20] == ours[-1].text.strip()[:20]


def _wait_until_up(server, port):
    until = time.monotonic() + 240
    while time.monotonic() < until:
        assert server.poll() is None, "the server ended"
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code < 500:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise AssertionError("the server did not come up")


KEY = "sk-visitor-7f3a"


@pytest.mark.parametrize("mode", ["private", "public"])
def test_a_key_that_is_typed_stays_with_the_browser_that_typed_it(mode, served, tmp_path, monkeypatch):
    """The whole app, its model worker included; one server repeats the key in its error, one answers, and one key cannot be sent."""
    bad = served([json.dumps({"error": {"message": f"wrong key: {KEY}"}})], 401)
    good = served([piece("Dear friend"), piece(finish="stop"), "data: [DONE]"])
    models = [f"openai:some-model@{url}" for url in (bad, good)]
    for name, value in {"MODE": mode, "PUBLIC_MODELS": ",".join(models), "STUDY": "off"}.items():
        monkeypatch.setenv(f"GUARDWALTZ_{name}", value)
    monkeypatch.delenv("SPACE_ID", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "served"))
    with opened(tmp_path / "runs") as app:
        ada, ben = app.browser(), app.browser()
        ada.act_on_page("_open", "chat_page")
        heard = []
        for model, key, said in ((models[0], KEY + "\r", "wrong key: ***"), (models[1], f"{KEY}\n", "Dear friend"),
                                 (models[1], f"{KEY}\r\u00e9", "copy it anew")):
            asked_with = {"Your API key": key, "Models": [model]}
            answer = ada.act_on_page("_send", "chat_page", view="", Message="Hello?", **asked_with)
            heard.append(answer)
            view = next(value for value in ada.values.values() if isinstance(value, str) and value.startswith("chat="))
            for word, value in (("again", "0,0"), ("link", ""), ("export", "")):
                heard.append(ada.act_on_page("_act", "chat_page", click=(word, value), view=view, **asked_with))
            seen = ben.act_on_page("_open", "chat_page", query=f"?{view}")
            assert said in json.dumps(seen)
            heard += [seen, ben.act_on_page("_open", "chat_page"), ben.http.get(f"/chat?{view}").text,
                      ben.act_on_page("_act", "chat_page", click=("export", ""), view=view)]
    assert [authorization for _, _, authorization in served.asked] == [f"Bearer {KEY}"] * 4, "it went where it belongs"
    assert KEY not in json.dumps(heard)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert tmp_path / "runs" / "serving.log" in files
    assert bool(list(tmp_path.glob("runs/comparisons/*.json"))) == (mode == "private")
    assert not [path for path, data in files.items() if KEY.encode() in data]
