"""The public demo over HTTP: pages offer what a visitor may do, and no call reaches what is not theirs to see, start or change."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import httpx
import pytest

from core.access import READ_ONLY, Settings
from core.methods import UserError
from core.visitor_id import Signer
from tests.public_demo import public_demo

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    with public_demo(tmp_path_factory.mktemp("public") / "runs") as started:
        yield started


WRITES = {"start", "stop", "resume", "continue", "delete", "save", "upload", "loaded_yaml", "import_demo", "started", "change", "build"}


def test_only_reading_asking_and_the_rehearsal_are_registered(app):
    named = app.browser().http.get("/gradio_api/info").json()["named_endpoints"]
    assert set(named) == {"/run_status", "/list_runs", "/classify"}, "a new endpoint for programs: may visitors have it?"
    functions = app.functions()
    assert not [name for name in functions if name.startswith(("new_run.", "method_panel."))], "no form of a method"
    writing = {name for name in functions if any(word in name.rpartition(".")[2] for word in WRITES)}
    assert writing <= {"rl_try._stop", "chat_page._stop"}, "one's own questions may be given up"
    assert not [item for item in app.demo.fns.values() if item.fn is not None and item.fn.__name__ == "uploaded"]


def test_pages_say_read_only_and_offer_no_button_that_would_be_refused(app):
    browser = app.browser()
    for page in ("/", "/training", "/mining", "/rl", "/evaluation", "/chat", "/runs", "/plugins"):
        answer = browser.http.get(page)
        assert answer.status_code == 200
        assert READ_ONLY[:40] in answer.text
    shown = browser.read("load", "runs_page", query="?run=rsft-0003")
    assert "rsft-0001" in shown
    assert "rsft-0002" not in shown
    for act in ("resume", "delete", "archive", "continue", "stop"):
        assert f'data-act=\\"{act}\\"' not in shown
    recipes = browser.read("load", "runs_page", query="?recipes=1")
    assert recipes.count('data-act=\\"start-recipe\\"') == 1


def test_two_visitors_do_not_see_each_others_runs(app):
    ada, ben = app.browser(), app.browser()
    assert ada.http.cookies["gw_visitor"] != ben.http.cookies["gw_visitor"]
    started = ada.press("act", "", module="runs_page", click=("start-recipe", "rehearsal"))
    assert started["success"]
    assert "recipe-0001" in json.dumps(started["output"])
    assert app.workspace.run("recipe-0001").state == "queued"
    assert "recipe-0001" in ada.read("load", "runs_page")
    for text in (ben.read("load", "runs_page"), ben.read("load", "runs_page", query="?run=recipe-0001"), ben.read("load", "data_page"),
                 ben.read("_open", "stage_page"), json.dumps(ben.api("list_runs")),
                 json.dumps(ben.press("tick", "run=recipe-0001", module="runs_page"))):
        assert "the owner's own guard" not in text
        assert "rehearsal" not in text.replace("Start the rehearsal", "")
    assert [run["id"] for run in ada.api("list_runs")["output"]["data"][0] if run["id"].startswith("recipe")] == ["recipe-0001"]
    assert ada.api("run_status", "recipe-0001")["success"]
    refused = ben.api("run_status", "recipe-0001")
    assert not refused["success"]
    assert "There is no run" in json.dumps(refused)
    # a second tab of the same browser is the same visitor
    ada.session = "anothertab1"
    assert "recipe-0001" in ada.read("load", "runs_page")
    second = ada.press("act", "", module="runs_page", click=("start-recipe", "rehearsal"))
    assert "One rehearsal at a time" in " ".join(second["said"])
    assert "config.yaml" in json.dumps(ada.press("act", "run=recipe-0001", module="runs_page", click=("download", "config.yaml"))["output"])
    assert "config.yaml" not in json.dumps(ben.press("act", "run=recipe-0001", module="runs_page", click=("download", "config.yaml")))


def test_a_visitor_cannot_change_or_start_anything_by_calling_what_pages_do_not_offer(app):
    browser = app.browser()
    before = {run.id: (run.status, run.labels) for run in app.workspace.runs()}
    for word, value in (("stop", "rsft-0003"), ("force", "rsft-0003"), ("resume", "rsft-0003"), ("delete-now", "rsft-0001"),
                        ("archive", "rsft-0001"), ("start-recipe", "guardreasoner"), ("start-recipe", "own-data"),
                        ("start-recipe", "/etc/passwd"), ("start-recipe", "../recipes/rehearsal")):
        answer = browser.press("act", "run=rsft-0001", module="runs_page", click=(word, value))
        assert "public demo" in " ".join(answer["said"]), (word, value, answer)
    browser.press("_act", "", module="stage_page", click=("resume", "rsft-0003"))
    browser.press("act", "", module="data_page", click=("demo", ""))
    browser.press("act", "", None, module="mining_page", click=("build", "rsft-0001"))
    browser.press("act", "", module="evaluation_page", click=("resume", "rsft-0003"))
    assert {run.id: (run.status, run.labels) for run in app.workspace.runs()} == before
    for name, data in (("start_run", ["rsft", {}]), ("stop_run", ["rsft-0001"]), ("runs_save_words", ["run=rsft-0001", "x", "", ""]),
                       ("data_import_demo", [])):
        assert browser.api(name, *data)["refused"] == 404
    assert browser.send(99_999)["refused"] in (400, 404, 422, 500)


def test_a_visitor_cannot_ask_a_model_that_is_not_on_the_list(app):
    browser = app.browser()
    for model in ("hf:someone/large", "openai:x@http://127.0.0.1:1/v1", "waltz:rsft-0002", "/etc"):
        answer = browser.press("_ask", model, "a question", "rules", "", module="rl_try")
        assert "not offered in this public demo" in json.dumps(answer["output"])
        answer = browser.api("classify", model, "a question", "", "auto", 5, 1.0, "auto")
        assert not answer["success"]
        assert "not offered in this public demo" in json.dumps(answer["output"])


def test_visitors_upload_nothing_and_send_little(app):
    http = app.browser().http
    assert http.post("/gradio_api/upload", files={"files": ("x.jsonl", b"{}")}).status_code == 404
    assert http.post("/gradio_api/component_server", json={}).status_code == 404
    long = {"data": ["x" * 600_000], "fn_index": 0, "session_hash": "s"}
    assert http.post("/gradio_api/queue/join", json=long).status_code == 413

    def without_length():
        yield b'{"data": ["'
        for _ in range(60):
            yield b"x" * 10_000
        yield b'"], "fn_index": 0, "session_hash": "s"}'

    with suppress(httpx.TransportError):  # the connection may end, or the answer may be a refusal
        assert http.post("/gradio_api/queue/join", content=without_length(), headers=JSON).status_code >= 400


def test_everything_else_of_gradio_is_not_there(app):
    http = app.browser().http
    for path in ("/monitoring", "/gradio_api/token", "/gradio_api/proxy=http://127.0.0.1:1/", "/gradio_api/stream/a/b/c/playlist-file",
                 "/gradio_api/vibe-code", "/gradio_api/openapi.json", "/docs", "/login", "/gradio_api/dev/reload", "/gradio_api/deep_link"):
        assert http.get(path).status_code == 404, path


def test_the_cookie_is_for_the_server_alone_and_survives_the_frame_of_a_space(app):
    from core.ui.gate import PublicGate

    cookie = app.browser().http.get("/", headers={"cookie": "gw_visitor=forged.00"}).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    framed: Any = PublicGate(None, Settings("public"), Signer(b"x"), frozenset(), secure=True)._cookie()
    assert "SameSite=None; Secure; Partitioned" in framed


def test_the_first_page_shows_the_finished_study(app):
    shown = app.browser().read("finished", "data_page")
    assert "study-0001" in shown
    assert "4.6" in shown
    for way in ("/runs?run=study-0001", "/chat", "/runs?recipes=1"):
        assert way in shown


def test_visitors_without_a_name_are_not_the_owner(app):
    """A request without cookie and session must not fall into what the owner may."""
    assert app.shown.access.viewer() == "nobody"
    with pytest.raises(UserError, match="cookies"), app.shown.access.asking(app.shown, "embedded"):
        pass
