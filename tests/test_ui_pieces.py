"""The HTML pieces: nothing from users or models brings tags along, numbers keep their intervals, shapes keep their words."""

import json
import re

import pytest
from markupsafe import Markup

from core.methods import Config, Estimate
from core.runs import Workspace, add_event, update_status
from core.ui import html, plots, run_card, runs_detail, samples
from core.ui.estimate import tiles
from core.ui.follow import story_of
from core.ui.pieces import stat_parts

BAD = '<img src=x onerror=alert(1)>"\'&'


@pytest.mark.parametrize("piece", [
    html.page_header(BAD, BAD, BAD), html.card_header(BAD, BAD, BAD), html.chip(BAD), html.chip("harmful", BAD), html.state_pill(BAD),
    html.gate_badge(BAD), html.stat_tiles([(BAD, BAD, BAD)]), html.progress_bar(0.5, BAD, BAD), html.log_block([BAD]), html.code_block(BAD),
    html.table([BAD], [[BAD]], keys=[BAD], label=BAD), html.key_value([(BAD, BAD)]), html.empty_state(BAD, BAD, BAD),
    html.problem_strip(BAD, "error", BAD), html.veil(BAD), html.small_link(BAD, BAD, BAD), html.small_button(BAD, BAD, BAD),
    html.link(BAD, "/x?" + BAD), html.button_link(BAD, BAD), html.judged(BAD, True), html.whisker(1, 0, 2, label=BAD), html.tag(BAD)])
def test_text_is_escaped(piece):
    assert isinstance(piece, Markup)
    assert "<img" not in piece
    for attribute in re.findall(r'="([^"]*)"', piece):
        assert "<" not in attribute


def test_pieces_nest_without_being_escaped_twice():
    header = html.card_header("a & b", right=html.state_pill("running"))
    assert "a &amp; b" in header
    assert '<span class="gw-pill gw-pill-running">' in header


@pytest.mark.parametrize("href", ["javascript:alert(1)", "data:text/html,x", " javascript:x", "vbscript:x"])
def test_a_link_goes_only_to_pages(href):
    assert 'href="#"' in html.link("x", href)
    assert 'href="#"' in html.button_link("x", href)


def test_links_out_do_not_hand_over_the_page():
    assert 'rel="noopener noreferrer"' in html.link("paper", "https://arxiv.org/abs/2501.18492")
    assert "target" not in html.link("runs", "/runs")


@pytest.mark.parametrize("state", html.STATES)
def test_a_pill_says_its_state_in_a_word_and_a_shape(state):
    pill = html.state_pill(state)
    assert f">{state}<" in pill
    assert f"gw-i-state-{state}" in pill


@pytest.mark.parametrize("label, words", [("harmful", "harmful"), ("unharmful", "unharmful"), ("refusal", "refusal"),
                                          ("compliance", "compliance"), (None, "unparsed"), ("", "unparsed")])
def test_a_chip_says_its_label_in_a_word_and_a_shape(label, words):
    assert f">{words}<" in html.chip(label)
    assert f"gw-i-chip-{words}" in html.chip(label)
    assert ("says " + words if label else words) in html.chip(label, "says")


@pytest.mark.parametrize("verdict, kind", [("PASS", "pass"), ("FAIL", "fail"), ("INSUFFICIENT DATA", "unsure")])
def test_a_gate_says_its_verdict(verdict, kind):
    badge = html.gate_badge(verdict)
    assert f">{verdict}<" in badge
    assert f"gw-gate-{kind}" in badge
    assert "INSUFFICIENT DATA" in html.gate_badge("anything else")


def test_a_number_never_stands_alone():
    assert "<b>72.7</b>" in html.number(72.7, 67.9, 77.0)
    assert "67.9–77.0" in html.number(72.7, 67.9, 77.0)
    assert "no interval given" in html.number(89.34, digits=2)
    assert "not measured" in html.number(None)
    assert html.interval(-1.2, 15.9, signed=True) == "−1.2 to +15.9"
    assert html.figures(float("nan")) == "–"


def test_a_whisker_lies_where_its_numbers_are():
    drawn = html.whisker(50, 40, 60, (0, 100), reference=25, width=110)
    assert 'aria-label="50.0 from 40.0 to 60.0"' in drawn
    assert 'role="img"' in drawn
    assert 'cx="55.0"' in drawn
    assert "M45.0 8H65.0" in drawn
    assert 'class="reference" d="M30.0 ' in drawn
    assert 'cx="105.0"' in html.whisker(500, width=110), "outside the scale it stays inside the drawing"
    assert "diamond" in html.whisker(50, published=True)
    assert "no interval given" in html.whisker(50, published=True)
    assert html.whisker(None) == ""


def test_rows_that_can_be_chosen_can_be_reached_by_keyboard():
    drawn = html.table(["Run"], [["a"], ["b"]], keys=["r-1", "r-2"], selected="r-2")
    assert drawn.count('tabindex="0"') == 2
    assert 'data-run="r-1" data-act="row" data-value="r-1" aria-selected="false"' in drawn
    assert '<tr class="selected"' in drawn
    assert "tabindex" not in html.table(["Run"], [["a"]])


def test_the_log_marks_warnings():
    shown = html.log_block(["07:00:00 step 1", "07:00:01 warning: 3 rows skipped", "failed: no disk"])
    assert '<div class="warn"><span class="faint">07:00:01</span> <span>warning: 3 rows skipped</span></div>' in shown
    assert '<div class="bad">' in shown


def test_blurred_text_can_be_shown_without_script():
    assert 'type="checkbox" aria-label="Show blurred text"' in html.veil("x")
    assert html.veil("x", on=False) == "<span>x</span>"


def test_estimate_tiles():
    shown = tiles(Estimate(seconds=355, seconds_low=250, seconds_high=540, tokens=1_300_000, peak_memory_bytes=2_100_000_000))
    for words in ("6 min", "4 min to 9 min", "2.1 GB", "0.00 USD", "this machine", "1.3 M"):
        assert words in shown
    assert "checking…" in tiles(None, "checking…")


@pytest.fixture
def run(tmp_path):
    workspace = Workspace(tmp_path)
    run = workspace.create("count", Config(), stage="training", what="embedded on <demo>")
    update_status(run.dir, state="succeeded", started=100.0, ended=160.0, progress={"done": 9, "total": 10, "unit": "steps", "t": 150.0},
                  stats={"Train loss": ["0.94", "smoothed"], "Rows": 400})
    return run


@pytest.mark.parametrize("value, parts", [
    ("93.7 (91.0–96.0)", ("93.7", "91.0–96.0")), ("F1 81.2 (72.3–89.1)", ("F1 81.2", "72.3–89.1")),
    (["0.94", "smoothed"], ("0.94", "smoothed")), ("1,285 answer tokens/s", ("1,285", "answer tokens/s")),
    ("1.949 ± 0.117", ("1.949 ± 0.117", "")),
    ("3.2 GB", ("3.2 GB", "")),
    ("5 min 13 s", ("5 min 13 s", "")), (0.123456, ("0.1235", "")), (400, ("400", "")), ("PASS", ("PASS", "")), ([], ("", ""))])
def test_the_unit_or_interval_of_a_statistic_goes_into_the_small_words(value, parts):
    assert stat_parts(value) == parts


def test_the_run_card(run):
    top = run_card.top(run)
    for words in (run.id, "embedded on &lt;demo&gt;", "succeeded", "step 9 of 10", "took 1 min", "0.94", "smoothed", "400"):
        assert words in top
    assert top == run_card.top(run), "the same string while nothing changed"
    assert "Open in Runs" in run_card.actions(run)
    assert "Resume" not in run_card.actions(run)


@pytest.mark.parametrize("state, words", [("stopped", "Resume"), ("failed", "Resume"), ("queued", "Take out of the queue")])
def test_the_acts_of_a_run(run, state, words):
    update_status(run.dir, state=state, message="the disk is full")
    assert words in run_card.actions(run)
    assert ("the disk is full" in run_card.top(run)) == (state == "failed")


def test_events_are_read_on_from_where_they_were(run):
    add_event(run.dir, "progress", done=1, total=10, unit="steps", detail="")
    add_event(run.dir, "metrics", step=1, loss=2.0, eval_loss=1.9, eval_loss_low=1.8, eval_loss_high=2.0)
    story = story_of(run)
    assert story.series("loss") == [(1, 2.0)]
    with (run.dir / "events.jsonl").open("a") as file:
        file.write('{"t": 1, "kind": "metrics", "step": 2, "lo')  # a line that is being written
    assert story_of(run).series("loss") == [(1, 2.0)]
    with (run.dir / "events.jsonl").open("a") as file:
        file.write('ss": 1.0}\n')
    add_event(run.dir, "metrics", step=1, loss=3.0)  # a resumed run repeats a step
    assert story_of(run).series("loss") == [(1, 3.0), (2, 1.0)]
    with (run.dir / "events.jsonl").open("a") as file:
        file.write('{"t": 1, "ki\n')  # a full disk
    assert run_card.points(run) == 3
    assert [trace.mode for trace in run_card.curve(run).data] == ["lines", "lines", "markers"]


def test_a_run_that_got_a_deleted_ones_number_has_a_story_of_its_own(run):
    path = run.dir / "events.jsonl"
    add_event(run.dir, "notice", level="warning", text="The old run's warning.")
    assert [notice["text"] for notice in story_of(run).notices] == ["The old run's warning."]
    before = path.stat()
    path.write_text("")  # in place: a file system may give the inode again at once
    for step in range(20):
        add_event(run.dir, "metrics", step=step, loss=1.0)
    assert (path.stat().st_ino, path.stat().st_size > before.st_size) == (before.st_ino, True)
    assert "The old run" not in runs_detail.live_part(run)
    assert story_of(run).notices == []
    assert len(story_of(run).metrics) == 20
    path.unlink()
    assert story_of(run).metrics == []


def test_the_curve_of_a_method_with_other_metrics(run):
    add_event(run.dir, "metrics", step=1, lr=0.1, reward=0.5)
    assert run_card.curve(run).layout.yaxis.title.text == "reward"


def test_no_curve_without_points(run):
    assert run_card.curve(run) is None


def test_smoothing_neither_lags_nor_loses_ends():
    values = [float(i) for i in range(100)]
    assert plots.smooth(values, 5)[50] == 50
    assert plots.smooth(values, 5)[0] == 0
    assert plots.smooth([2.0]) == [2.0]
    assert plots.smooth([]) == []
    thinned = plots.thin([(i, 1.0) for i in range(5001)], 500)
    assert len(thinned) <= 501
    assert thinned[-1] == (5000, 1.0)


def test_samples_of_the_newest_step(run):
    write_samples(run, {"step": 1, "prompt": "old", "text": "t", "gold": "harmful", "predicted": "harmful"},
                  {"step": 2, "prompt": "<b>p</b>", "text": "t", "gold": {"request": "harmful"}, "predicted": {}})
    shown = samples.cards(run)
    assert "at step 2" in shown
    assert shown.count("<article") == 1
    assert "&lt;b&gt;p" in shown
    assert "differs" in shown
    assert "unparsed" in shown
    assert shown.count("gw-veil") == 1, "the prompt of a harmful row is blurred"


def test_a_sample_agrees_when_every_label_it_gave_is_the_gold_one(run):
    gold = {"request": "unharmful", "completion": "compliance", "response": "unharmful"}
    row = {"step": 1, "prompt": "p", "response": "r", "text": "t", "gold": gold}
    for predicted, words in (({"request": "unharmful"}, "agrees"), ({"request": "unharmful", "response": "harmful"}, "differs")):
        write_samples(run, {**row, "predicted": predicted})
        assert f">{words}<" in samples.cards(run)
    assert "says response harmful" in samples.cards(run)
    assert "gw-veil" not in samples.cards(run), "the row is harmless, so nothing of it is blurred"


@pytest.mark.parametrize("line", ["{", "[]", "7"])
def test_damaged_samples_are_said_in_their_place(run, line):
    (run.dir / "samples.jsonl").write_text(line + "\n")
    assert "samples.jsonl of count-0001 cannot be shown" in samples.cards(run)


def write_samples(run, *rows):
    (run.dir / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
