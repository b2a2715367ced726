"""Chats of visitors: seen by nobody else, kept nowhere, guarded without a click, and refused in a sentence."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import ClassVar

import pytest

from core.compare.keeping import comparisons_of
from core.ui import downloads
from tests.public_demo import public_demo
from tests.test_ui_pages import make


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    with public_demo(tmp_path_factory.mktemp("public") / "runs") as started:
        yield started


CLICKS = ("export", "link", "edit", "again", "save")


class EchoServing:
    """Answers with what was asked, without a model."""

    def __init__(self, workspace):
        pass

    def give_up(self, who):
        pass

    def ask_all(self, questions):
        for place, question in enumerate(questions):
            yield place, {"who": "reply", "turn": 0, "text": f"You asked: {question.messages[-1]['content']}", "done": True}
            yield place, {"who": "end", "tokens": 7, "seconds": 0.1}


def test_two_visitors_do_not_see_each_others_chats(app, monkeypatch):
    for module in ("core.compare.asking", "core.ui.chat_page"):
        monkeypatch.setattr(f"{module}.serving_of", EchoServing)
    words = "how is my rye loaf doing"
    ada, ben = app.browser(), app.browser()
    ada.act_on_page("_open", "chat_page")
    sent = ada.act_on_page("_send", "chat_page", Message=words)
    assert sent["success"], sent
    view = next(value for value in ada.values.values() if isinstance(value, str) and value.startswith("chat="))
    assert f"You asked: {words}" in json.dumps(ada.act_on_page("_open", "chat_page", query=f"?{view}"))
    for answer in (ben.act_on_page("_open", "chat_page", query=f"?{view}"), ben.act_on_page("_open", "chat_page"),
                   *(ben.act_on_page("_act", "chat_page", click=(word, "0,0"), view=view) for word in CLICKS),
                   ben.act_on_page("_send", "chat_page", Message="and mine", view=view)):
        assert words not in json.dumps(answer)
    on_disk = b"".join(path.read_bytes() for path in app.workspace.runs_dir.rglob("*") if path.is_file())
    assert b"rye loaf" not in on_disk, "of visitors no text is kept"


def test_a_visitor_cannot_save_a_chat_or_a_vote_into_the_owners_files(app, monkeypatch):
    for module in ("core.compare.asking", "core.ui.chat_page"):
        monkeypatch.setattr(f"{module}.serving_of", EchoServing)
    before = {path for path in app.workspace.runs_dir.rglob("*") if path.is_file()}
    ada = app.browser()
    ada.act_on_page("_open", "chat_page")
    ada.act_on_page("_send", "chat_page", Message="which loaf is better")
    for word, value in (("vote", "A"), ("save", "0,0"), ("pair", "0,1")):
        ada.act_on_page("_act", "chat_page", click=(word, value))
    assert {path for path in app.workspace.runs_dir.rglob("*") if path.is_file()} - before <= {
        app.workspace.runs_dir / name for name in ("visitors.sqlite", "visitors.sqlite-journal")}


class Guarded(EchoServing):
    """The same, with a guard that finds everything harmful."""

    def ask_all(self, questions):
        questions = list(questions)
        for place, question in enumerate(questions):
            Guarded.asked.append((question.kind, question.model))
            if question.kind == "classify":
                yield place, {"who": "classified", "classified": {"labels": {"request": "unharmful", "response": "harmful"}}}
        if questions[0].kind != "classify":
            yield from super().ask_all(questions)

    asked: ClassVar[list[tuple[str, str]]] = []


def test_a_visitors_chat_is_guarded_without_any_click_and_her_vote_is_said_to_count_nowhere(app, monkeypatch):
    for module in ("core.compare.asking", "core.ui.chat_page"):
        monkeypatch.setattr(f"{module}.serving_of", Guarded)
    Guarded.asked.clear()
    ada = app.browser()
    below = json.dumps(ada.act_on_page("_open", "chat_page"))
    assert "Your votes are not counted" in below
    assert "No votes yet" not in below
    sent = ada.act_on_page("_send", "chat_page", Message="how is my rye loaf doing")
    assert ("classify", "embedded") in Guarded.asked
    assert "gw-veil" in json.dumps(sent)
    Guarded.asked.clear()
    hasty = app.browser()  # sends before the page has opened
    hasty.act_on_page("_send", "chat_page", Message="how is my rye loaf doing", view="")
    assert ("classify", "embedded") in Guarded.asked


def test_a_visitor_cannot_take_another_ones_rehearsed_guard(app, monkeypatch):
    for module in ("core.compare.asking", "core.ui.chat_page"):
        monkeypatch.setattr(f"{module}.serving_of", Guarded)
    Guarded.asked.clear()
    make(app.workspace, "rsft-0007", visitor="somebody else").dir.joinpath("adapter").mkdir()
    ada = app.browser()
    opened_page = json.dumps(ada.act_on_page("_open", "chat_page"))
    assert "rsft-0007" not in opened_page
    for changes in ({"Guard": "run:rsft-0007"}, {"Models": ["run:rsft-0007"]}):
        ada.act_on_page("_send", "chat_page", Message="hello", **changes)
    assert not [model for _, model in Guarded.asked if model == "run:rsft-0007"]


def kept_chats(app):
    """{id: its messages} of what visitors said."""
    kept = comparisons_of(app.shown)
    return {name: [exchange.prompt for exchange in kept.find(name).exchanges] for name in list(kept._memory)}


@pytest.fixture
def echo(monkeypatch):
    for module in ("core.compare.asking", "core.ui.chat_page"):
        monkeypatch.setattr(f"{module}.serving_of", EchoServing)


def refused(answer):
    """The sentence, where the page takes the message back so that the next one can be sent at once."""
    said = json.dumps(answer, ensure_ascii=False)
    assert '\\"kind\\": \\"refused\\"' in said, said
    assert answer["success"]
    return said


@pytest.mark.usefixtures("echo")
def test_what_is_too_long_or_comes_after_the_last_token_is_kept_nowhere(app, monkeypatch):
    ada = app.browser()
    ada.act_on_page("_open", "chat_page")
    before = kept_chats(app)
    assert "20,000 can be sent" in refused(ada.act_on_page("_send", "chat_page", Message="x" * 20_001))
    assert "20,000 can be sent" in refused(ada.act_on_page("_send", "chat_page", Message="x", **{"System prompt": "y" * 20_001}))
    assert kept_chats(app) == before
    ada.act_on_page("_send", "chat_page", Message="a short one")
    (name,) = kept_chats(app).keys() - before.keys()
    with monkeypatch.context() as patch:
        patch.setattr(app.shown.access.ledger, "used", lambda _: (0.0, 20_000))
        for view in (f"chat={name}", ""):
            assert "20,000 tokens of today are used up" in refused(ada.act_on_page("_send", "chat_page", Message="another", view=view))
    assert kept_chats(app) == {**before, name: ["a short one"]}
    monkeypatch.setattr("core.compare.keeping.MOST_MESSAGES", 1)
    assert "begin a new one" in refused(ada.act_on_page("_send", "chat_page", Message="another", view=f"chat={name}",
                                                        **{"System prompt": "not kept"}))
    kept = comparisons_of(app.shown).find(name)
    assert (len(kept.exchanges), kept.system) == (1, "")


@pytest.mark.usefixtures("echo")
def test_a_visitor_cannot_find_out_which_folders_there_are(app):
    ada = app.browser()  # a program, for which no page has narrowed the list of models yet
    number = app.number_of("words", "chat_form")
    for model in ("/etc", "/etc/nonexist", "~root", "~nobody-here", "x" * 300):
        said = [refused(ada.act_on_page("_send", "chat_page", Message="hello", Models=[model], view="")),
                json.dumps(ada.act_on_page("_shaped", "chat_page", Models=[model], view="")),
                json.dumps(ada.send(number, *[[model] if item.label == "Models" else getattr(item, "value", None)
                                              for item in app.demo.fns[number].inputs]))]
        assert all("is not offered in this public demo" in one and "no model reference" not in one for one in said), said


@pytest.mark.usefixtures("echo")
@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999", "many"])
def test_a_number_that_is_none_is_refused_in_a_sentence(app, number):
    ada = app.browser()
    ada.act_on_page("_open", "chat_page")
    assert "B: tokens at most is" in refused(ada.act_on_page("_send", "chat_page", Message="hello", **{"B: tokens at most": number}))


@pytest.mark.usefixtures("echo")
def test_whatever_fails_the_next_message_can_be_sent(app, monkeypatch, capfd):
    def broken(*_):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("core.ui.chat_form.ChatForm.settle", broken)
    ada = app.browser()
    ada.act_on_page("_open", "chat_page")
    answer = ada.act_on_page("_send", "chat_page", Message="hello")
    assert "refused" in json.dumps(answer["steps"])
    assert not answer["success"]
    assert "a defect" in capfd.readouterr().err


def test_old_exports_are_deleted_and_a_viewer_has_few(monkeypatch, tmp_path):
    monkeypatch.setattr(downloads, "get_upload_folder", lambda: str(tmp_path))
    old, young = (Path(downloads.text_file("words", f"{name}.jsonl", "ada")) for name in ("old", "young"))
    assert old.read_text() == "words"
    os.utime(old, (time.time() - 3700,) * 2)
    downloads.text_file("words", "chat.jsonl", "ben")
    assert (old.parent.exists(), young.exists()) == (False, True)
    made = [Path(downloads.text_file("words", "chat.jsonl", "ada")) for _ in range(9)]
    assert [path.exists() for path in (young, *made)] == [False, False, *[True] * 8]
    assert len(list((tmp_path / "guardwaltz" / "ben").rglob("*.jsonl"))) == 1
