"""Many people at once: what a session and a clock leave undone, so that nobody waits for it."""

import json

import gradio as gr
import pytest
from gradio.state_holder import SessionState

from core.runs import Run
from core.ui import runs_detail
from core.ui.sessions import Session, Sessions
from tests.opened_app import opened


def make(runs, name, **status):
    """A finished run with as little in its folder as a page wants."""
    folder = runs / name
    folder.mkdir()
    (folder / "status.json").write_text(json.dumps({"state": "succeeded", "method": "rsft", "created": 1.0, "stage": "training", **status}))
    (folder / "config.yaml").write_text("method: rsft\nconfig:\n  seed: 7\n")
    (folder / "command.sh").write_text("#!/bin/sh\npython app.py run rsft\n")
    (folder / "labels.json").write_text("{}")
    return Run(folder)


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GUARDWALTZ_STUDY", "off")
        patch.delenv("GUARDWALTZ_PLUGINS", raising=False)
        with opened(tmp_path_factory.mktemp("load") / "runs") as started:
            yield started


@pytest.fixture(scope="module")
def small():
    """(an app of one page, what Gradio keeps of a browser in it, what we keep)."""
    with gr.Blocks() as demo:
        box, mine = gr.Textbox("word", label="box"), gr.State([])
        gr.Button("go").click(lambda: ["said", gr.skip()], None, [box, mine])
    return demo, SessionState(demo), Session(demo)


def test_a_session_begins_without_a_description_of_every_component(small):
    demo, gradios, ours = small
    assert len(gradios.config_values) == len(demo.blocks), "what is left out here is still what Gradio does"
    assert ours.config_values == {}
    assert set(vars(gradios)) == set(vars(ours))
    assert ours.blocks_config.blocks == demo.blocks


def test_what_a_session_is_for_stays(small):
    demo, _, ours = small
    state = next(block for block in demo.blocks.values() if isinstance(block, gr.State))
    box = next(block for block in demo.blocks.values() if isinstance(block, gr.Textbox))
    other = Session(demo)
    ours[state._id] = ["kept"]
    ours[box._id] = gr.Textbox("word", label="renamed", render=False)
    assert (ours[state._id], other[state._id]) == (["kept"], []), "a state belongs to one browser"
    assert (ours[box._id].label, other[box._id].label) == ("renamed", "box")


def test_nothing_is_described_while_the_app_answers(app):
    run = make(app.workspace.runs_dir, "rsft-0001")
    browser = app.browser()
    assert run.id in browser.read("load", "runs_page", query=f"?run={run.id}")
    assert browser.press("tick", f"run={run.id}", module="runs_page")["success"]
    assert app.demo.state_holder is app.demo.app.state_holder
    assert isinstance(app.demo.state_holder, Sessions)
    assert not any(app.demo.state_holder[browser.session].config_values.values())


def test_the_clock_of_the_runs_page_leaves_the_form_alone_until_the_open_run_is_gone(app):
    run = make(app.workspace.runs_dir, "rsft-0002")
    browser, query = app.browser(), f"run={run.id}"
    words = {item._id for item in app.demo.fns[app.number_of("close", "runs_page")].outputs if getattr(item, "label", "") == "Note"}
    assert words
    assert not words & {item._id for item in app.demo.fns[app.number_of("tick", "runs_page")].outputs}
    assert browser.press("tick", query, module="runs_page")["output"]["data"][0] == ""
    unchanged = browser.press("close", query, "", module="runs_page")["output"]["data"]
    assert [value for value in unchanged if "value" in value] == [], "nothing is written over"
    run.delete()
    assert browser.press("tick", query, module="runs_page")["output"]["data"][0] == query
    assert browser.press("close", query, query, module="runs_page")["output"]["data"][0] == ""


def test_a_look_at_a_run_reads_only_the_events_that_came_since(tmp_path, monkeypatch):
    run = make(tmp_path, "rsft-0003", state="succeeded")
    events = run.dir / "events.jsonl"
    events.write_text('{"kind": "notice", "level": "warning", "text": "first"}\n')
    assert "first" in runs_detail.live_part(run)
    monkeypatch.setattr(Run, "events", None)  # the whole file, which a night of training makes long
    with events.open("a") as file:
        file.write('{"kind": "notice", "level": "warning", "text": "second"}\n{"kind": "notice", "level": "info", "text": "third"}\n')
    shown = runs_detail.live_part(run)
    assert [word in shown for word in ("first", "second", "third")] == [True, True, False]
