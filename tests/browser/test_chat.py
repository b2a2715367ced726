"""Chat: the embedded model beside an adapter of it, a guard under both, votes by key, and what a reload keeps."""

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import expect

from core.compare.keeping import comparisons_of
from core.compare.records import Answer, Column, Comparison, Exchange
from core.compare.votes import votes
from core.guard.schema import Classified
from core.records import Labels
from core.runs import Workspace
from tests.browser.conftest import end_app, opening, start_app
from tests.browser.driving import LONG, WAIT, fits_the_phone, tab_to

ADAPTED = "run:rsft-0001"


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """An app whose workspace has a finished run with an adapter of the embedded model."""
    import torch

    from core.lm.agents import open_agents

    folder = tmp_path_factory.mktemp("chat")
    workspace = Workspace(folder / "runs")
    agents = open_agents("embedded", workspace, device="cpu", trainable=True)
    agents.add_adapter("conversation", rank=2)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in agents.parameters("conversation").items():
            if ".lora_B." in name:
                weight.normal_(std=0.3)
    run = workspace.runs_dir / "rsft-0001"
    run.mkdir()
    agents.save("conversation", run / "adapter")
    (run / "status.json").write_text(json.dumps({"state": "succeeded", "method": "rsft", "stage": "training", "created": 1.0}))
    started = start_app(workspace.runs_dir, folder / "app.log")
    yield started
    end_app(started)


@pytest.fixture
def open_page(browser, app):
    with opening(browser, app) as opened:
        yield opened


def settings(page, **values):
    """Open the fold and fill boxes by their label."""
    expect(page.locator(".gw-letter").first).to_be_visible(timeout=LONG)  # the page has its lists
    page.locator(".gw-chat-settings > button").first.click()
    for label, value in values.items():
        box = page.get_by_label(label.replace("_", " "), exact=True).first
        box.fill(str(value))
        box.press("Enter")
        box.blur()


def ask(page, text):
    page.locator("#message textarea").fill(text)
    page.locator("#message textarea").press("Enter")


LATE = """() => {
    const real = window.fetch;
    window.late = {milliseconds: 0, waiting: 0, told: 0, ended: false};
    window.fetch = async (...asked) => {
        const answer = await real(...asked);
        if (!String(asked[0].url || asked[0]).includes('/queue/data') || !answer.body) return answer;
        let last = Promise.resolve(), rest = '';
        const words = new TextDecoder(), bytes = new TextEncoder();
        const later = new TransformStream({
            transform(chunk, out) {
                const parts = (rest + words.decode(chunk, {stream: true})).split('\\n\\n');
                rest = parts.pop();
                for (const part of parts) {
                    window.late.waiting += 1;
                    window.late.ended = part.includes('close_stream');
                    last = last.then(() => new Promise((go) => setTimeout(go, window.late.milliseconds))).then(() => {
                        out.enqueue(bytes.encode(part + '\\n\\n'));
                        window.late.waiting -= 1;
                        window.late.told += 1;
                    });
                }
            },
            flush: () => last,
        });
        return new Response(answer.body.pipeThrough(later), {status: answer.status, headers: answer.headers});
    };
}"""
"""Everything that the app tells the page comes late, message by message, as on a busy machine."""


@contextmanager
def told_late(page):
    """Inside, each message of the app takes its time; afterwards all of them have come."""
    page.evaluate("Object.assign(window.late, {milliseconds: 700, told: 0, ended: false})")
    yield
    page.wait_for_function("window.late.waiting === 0 && window.late.told > 0")
    page.evaluate("window.late.milliseconds = 0")


def columns(page):
    return page.locator(".gw-chat-column:visible")


def test_base_and_adapter_side_by_side_with_a_guard_and_blind_votes(app, open_page):
    page = open_page("/chat")
    expect(columns(page)).to_have_count(2, timeout=WAIT)
    expect(columns(page).nth(0)).to_contain_text("embedded", timeout=WAIT)
    expect(columns(page).nth(1)).to_contain_text(ADAPTED)
    settings(page, Guard="embedded", Tokens_at_most=12, Temperature=1)
    expect(page.locator(".block.gw-chat-summary")).to_contain_text("temperature 1, top-p 0.95, 12 tokens, seed 42, guard embedded",
                                                                   timeout=WAIT)
    ask(page, "How is a letter written? <b onclick='x'>bold</b>")
    for place in range(2):
        expect(columns(page).nth(place).locator(".gw-answer[data-over=end]")).to_have_count(1, timeout=LONG)
        expect(columns(page).nth(place).locator(".gw-asked")).to_contain_text("<b onclick='x'>bold</b>")
    texts = [columns(page).nth(place).locator(".gw-md").inner_text() for place in range(2)]
    assert texts[0] != texts[1], "two models"
    page.wait_for_url("**chat=*")
    page.reload()
    expect(columns(page).nth(0).locator(".gw-md")).to_have_text(texts[0], timeout=LONG)
    expect(columns(page).nth(1).locator(".gw-md")).to_have_text(texts[1], timeout=WAIT)

    page.get_by_label("Blind").check()
    expect(columns(page).nth(0)).to_contain_text("name hidden until you vote", timeout=WAIT)
    ask(page, "And a poem?")
    expect(page.locator(".gw-answer[data-over=end]")).to_have_count(2, timeout=LONG)
    expect(page.locator("[data-act=vote]")).to_have_count(4, timeout=LONG)
    expect(page.locator(".gw-guard", has_text="Guard reads")).to_have_count(0, timeout=LONG)  # its word moves the links below it
    expect(columns(page).nth(0)).not_to_contain_text(ADAPTED)
    page.locator("h1").click()
    page.keyboard.press("2")
    expect(page.locator("[data-act=vote][aria-pressed=true]")).to_have_text("B", timeout=WAIT)
    expect(page.locator(".gw-model", has_text="name hidden")).to_have_count(0, timeout=WAIT)
    shown = [columns(page).nth(place).locator(".gw-model").inner_text() for place in range(2)]
    assert sorted(shown) == ["embedded", ADAPTED]
    expect(page.locator("table[aria-label=votes]")).to_contain_text(ADAPTED, timeout=WAIT)
    (vote,) = votes(app.workspace)
    assert vote["vote"] == "B"
    assert vote["blind"]
    assert vote["models"] == shown

    page.locator("[data-act=pair]").click()
    expect(page.locator(".gw-problem")).to_contain_text("preferences.jsonl", timeout=WAIT)
    with page.expect_download(timeout=LONG) as taken:
        page.locator("[data-act=export]").click()
    lines = [json.loads(line) for line in Path(taken.value.path()).read_text(encoding="utf-8").splitlines()]
    assert [line["model"] for line in lines] == shown


def test_edit_again_stop_and_an_empty_message(open_page):
    page = open_page("/chat")
    expect(columns(page)).to_have_count(2, timeout=WAIT)
    settings(page, Tokens_at_most=6, Temperature=1)
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".gw-problem")).to_contain_text("Write a message first.", timeout=WAIT)
    ask(page, "One?")
    expect(page.locator(".gw-answer[data-over=end]")).to_have_count(2, timeout=LONG)
    columns(page).nth(0).locator("[data-act=again]").click()
    expect(columns(page).nth(0)).to_contain_text("seed 43", timeout=LONG)
    expect(columns(page).nth(1)).to_contain_text("seed 42")
    page.locator("[data-act=edit]").first.click()
    expect(page.locator("#message textarea")).to_have_value("One?", timeout=WAIT)
    page.locator("[data-act=save]").first.click()
    expect(page.locator(".gw-problem", has_text="Saved to")).to_be_visible(timeout=WAIT)
    expect(page.locator("[data-act=leave]")).to_be_visible()  # it is still being edited, and that still stands there
    ask(page, "One, please?")
    expect(page.locator("[data-act=leave]")).to_have_count(0, timeout=WAIT)
    expect(page.locator(".gw-asked").first).to_contain_text("One, please?", timeout=WAIT)
    expect(page.locator(".gw-turn")).to_have_count(2)
    expect(page.locator(".gw-answer[data-over=end]")).to_have_count(2, timeout=LONG)
    page.get_by_label("Tokens at most", exact=True).first.fill("2000")
    page.get_by_label("Tokens at most", exact=True).first.blur()
    ask(page, "Tell a long story.")
    expect(page.locator(".gw-answer .gw-md").nth(2)).to_be_visible(timeout=LONG)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".gw-answer[data-over=stopped]")).to_have_count(2, timeout=LONG)


def test_keys_alone_are_enough(open_page):
    page = open_page("/chat")
    expect(page.locator(".gw-letter").first).to_be_visible(timeout=LONG)  # the page has its lists
    box = page.locator("#message textarea")
    tab_to(page, box)
    tab_to(page, page.locator(".gw-chat-settings > button").first)
    page.keyboard.press("Enter")
    for label, value in (("Temperature", "1"), ("Tokens at most", "6")):
        tab_to(page, page.get_by_label(label, exact=True).first)
        page.keyboard.press("Control+A")
        page.keyboard.type(value)
    tab_to(page, box)
    page.keyboard.type("One?")
    page.keyboard.press("Enter")
    expect(page.locator(".gw-answer[data-over=end]")).to_have_count(2, timeout=LONG)
    tab_to(page, columns(page).nth(0).locator("[data-act=again]"))
    page.keyboard.press("Enter")
    expect(columns(page).nth(0)).to_contain_text("seed 43", timeout=LONG)
    expect(page.locator("[data-act=vote]")).to_have_count(4, timeout=LONG)
    tab_to(page, page.locator("[data-act=vote]").nth(1))
    page.keyboard.press("Space")
    expect(page.locator("[data-act=vote][aria-pressed=true]")).to_have_text("B", timeout=WAIT)
    tab_to(page, page.locator("[data-act=edit]").first)
    page.keyboard.press("Enter")
    expect(box).to_have_value("One?", timeout=WAIT)
    expect(box).to_be_focused()
    tab_to(page, page.get_by_label("Tokens at most", exact=True).first)
    page.keyboard.press("Control+A")
    page.keyboard.type("2000")
    tab_to(page, box)
    page.keyboard.press("End")
    page.keyboard.type(" Two?")
    page.keyboard.press("Enter")
    expect(page.locator(".gw-asked").first).to_contain_text("One? Two?", timeout=WAIT)
    tab_to(page, page.get_by_role("button", name="Stop"))
    page.keyboard.press("Enter")
    expect(page.locator(".gw-answer[data-over=stopped]")).to_have_count(2, timeout=LONG)


def test_a_message_is_sent_once_and_a_new_chat_does_not_wait_for_the_one_that_was_left(open_page):
    page = open_page("/chat", script=LATE)
    settings(page, Tokens_at_most=2)
    with told_late(page):
        ask(page, "One?")
        page.locator("#message textarea").press("Enter")  # nothing has happened yet, so somebody presses it again
    expect(page.locator(".gw-answer[data-over=end]")).to_have_count(2, timeout=LONG)
    expect(page.locator(".gw-asked")).to_have_count(2)  # one in each column
    page.get_by_label("Tokens at most", exact=True).first.fill("2000")
    page.get_by_label("Tokens at most", exact=True).first.blur()
    ask(page, "Tell a long story.")
    expect(page.locator(".gw-answer .gw-md").nth(2)).to_be_visible(timeout=LONG)
    page.locator("[data-act=new]").click()
    expect(page.locator(".gw-asked")).to_have_count(0, timeout=WAIT)
    page.get_by_label("Tokens at most", exact=True).first.fill("3")
    page.get_by_label("Tokens at most", exact=True).first.blur()
    ask(page, "Two?")
    expect(page.locator(".gw-asked").first).to_contain_text("Two?", timeout=WAIT)
    expect(page.locator(".gw-answer[data-over=end]")).to_have_count(2, timeout=LONG)
    assert page.locator(".gw-asked").count() == 2, "nothing of the chat that was left is drawn here"


def test_what_is_typed_while_the_app_is_late_is_neither_overwritten_nor_lost(open_page):
    page = open_page("/chat", script=LATE)
    box = page.locator("#message textarea")
    settings(page, Tokens_at_most=2)
    with told_late(page):
        ask(page, "One?")
        box.press("End")
        box.press_sequentially("Two")  # before the app has said that it has the first
    expect(box).to_have_value("Two", timeout=WAIT)
    expect(page.locator(".gw-asked").first).to_contain_text("One?")
    expect(page.locator(".gw-answer[data-over=end]")).to_have_count(2, timeout=LONG)
    with told_late(page):
        page.locator("[data-act=edit]").first.click()
        expect(box).to_have_value("One?", timeout=WAIT)
        box.fill("One, please?")  # before the app has said that it is done
    expect(box).to_have_value("One, please?")
    page.locator("[data-act=leave]").click()
    expect(box).to_have_value("Two", timeout=WAIT)  # the draft is back
    with told_late(page):
        page.locator("[data-act=edit]").first.click()
        box.fill("One, at once?")  # before the message was there
    expect(box).to_have_value("One, at once?")
    with told_late(page):
        page.locator("[data-act=leave]").click()
        box.fill("Another")
    expect(box).to_have_value("Another")
    page.locator("[data-act=edit]").first.click()
    expect(box).to_have_value("One?", timeout=WAIT)
    ask(page, "One, please?")
    expect(page.locator(".gw-asked").first).to_contain_text("One, please?", timeout=WAIT)
    expect(box).to_have_value("Another", timeout=WAIT)
    page.locator("[data-act=new]").click()
    expect(page.locator(".gw-asked")).to_have_count(0, timeout=WAIT)
    expect(box).to_have_value("Another")


def test_what_is_sent_before_the_page_has_heard_that_an_earlier_answer_is_over_is_answered(open_page):
    """The app has ended its stream of answers, and the page does not know it yet."""
    page = open_page("/chat", script=LATE)
    settings(page)
    with told_late(page):
        page.get_by_label("Tokens at most", exact=True).first.fill("2")
        page.wait_for_function("window.late.ended")
        ask(page, "One?")
    expect(page.locator(".gw-asked").first).to_contain_text("One?", timeout=WAIT)
    expect(page.locator(".gw-answer[data-over=end]")).to_have_count(2, timeout=LONG)


def test_the_switch_unveils_what_is_blurred_and_veils_it_again(app, open_page):
    made = Comparison(columns=[Column(model="embedded"), Column(model=ADAPTED)], exchanges=[Exchange(prompt="One?", answers=[
        Answer(text="A text.", over="end", guard=Classified(labels=Labels(request="harmful"))), Answer(text="Another.", over="end")])])
    comparisons_of(app.workspace).keep(made)
    page = open_page(f"/chat?chat={made.id}")
    asked = page.locator(".gw-asked .txt").first
    expect(asked).to_have_css("filter", "blur(5px)", timeout=LONG)
    page.get_by_label("Blur harmful text").uncheck()
    expect(asked).to_have_css("filter", "none")
    page.get_by_label("Blur harmful text").check()
    expect(asked).to_have_css("filter", "blur(5px)")


def test_the_phone_shows_one_column_and_the_next_peeks_in(open_page):
    page = open_page("/chat", phone=True, dark=True)
    expect(columns(page).nth(0).locator(".gw-letter")).to_be_visible(timeout=LONG)
    assert fits_the_phone(page)
    width = columns(page).nth(0).bounding_box()["width"]
    assert 280 < width < 380
    expect(page.locator("#message textarea")).to_have_attribute("placeholder", "Ask both. Enter sends.")
    expect(page.locator(".block.gw-chat-summary")).to_contain_text("temperature 0.7, top-p 0.95, 256 tokens, seed 42, no guard")
    send, stop = page.get_by_role("button", name="Send"), page.get_by_role("button", name="Stop")
    expect(stop).to_be_hidden()
    ask(page, "Tell a long story.")
    expect(stop).to_be_visible(timeout=WAIT)
    expect(send).to_be_hidden()
    stop.click()
    expect(send).to_be_visible(timeout=LONG)


def test_a_link_to_nothing_says_so(open_page):
    page = open_page("/chat?chat=nobody-has-this-id")
    expect(page.locator(".gw-problem")).to_contain_text("no comparison with this link", timeout=LONG)
    expect(page.locator(".gw-letter").first).to_be_visible(timeout=LONG)
