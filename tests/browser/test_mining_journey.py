"""The Mining page in a real browser: numbers as in the report, filters, keys, edits by hand, pairs, files to take home."""

import json
import re

import pytest
from playwright.sync_api import expect

from core.mining.edits import edits_file, history, read_edits
from core.records import HardSample, read_records
from core.ui import html
from tests.browser.driving import LONG, WAIT, fits_the_phone
from tests.helpers import finish
from tests.mining_runs import mining_run, sample

pytestmark = pytest.mark.browser
LINES = "table[aria-label=inputs] tbody tr"
LIST = ".gw-filters"


def rows():
    """Thirty rows: half of them hard, some with harmful gold, of three sources."""
    return [sample(row, min(row % 8, 4), gold="unharmful" if row % 5 else "harmful", source=f"set {row % 3}") for row in range(30)]


@pytest.fixture(scope="module")
def mined(app):
    return mining_run(app.workspace, rows())


def opened(page):
    """The row of the card below the list."""
    return page.locator("[data-input]")


def test_the_page_shows_the_numbers_of_the_report(new_page, mined):
    page = new_page(f"/mining?run={mined.id}")
    report = mined.report
    tiles = page.locator(".gw-share")
    expect(tiles).to_have_count(4, timeout=WAIT)
    shares = [report["kinds"][kind]["share"] for kind in ("hard", "all right", "all wrong")]
    for place, share in enumerate([*shares, report["outputs"]["request"]["unparsed"]["share"]]):
        value, low, high = (100 * share[end] for end in ("value", "low", "high"))
        expect(tiles.nth(place).locator("b")).to_have_text(f"{value:.1f} %")
        expect(tiles.nth(place).locator(".gw-interval")).to_have_text(html.interval(low, high))
    expect(page.locator(".gw-mining-top .js-plotly-plot")).to_have_count(2, timeout=WAIT)
    bars = page.evaluate("document.querySelector('.gw-mining-top .js-plotly-plot').data.slice(0, 2).map((bar) => Array.from(bar.y))")
    assert [round(a + b, 6) for a, b in zip(*bars, strict=True)] == [round(100 * bar["share"]["value"], 6) for bar in report["histogram"]]
    page.locator("[data-act=by][data-value=gold]").click()
    expect(page.locator(".gw-mining-top")).to_contain_text("request: harmful", timeout=WAIT)
    page.wait_for_url("**by=gold*", timeout=WAIT)  # the address follows what is seen
    page.reload()
    expect(page.locator("[data-act=by][data-value=gold]")).to_have_attribute("aria-pressed", "true", timeout=WAIT)


def test_filters_narrow_the_list_and_stay_in_the_address(new_page, mined):
    hard = list(read_records(mined.dir / "hard.jsonl", HardSample))
    page = new_page(f"/mining?run={mined.id}")
    expect(page.locator("[data-act=kind][data-value=hard]")).to_have_text(f"hard {len(hard)}", timeout=WAIT)
    for label, words, wanted in (("Source", "set 1", [item for item in hard if item.source == "set 1"]),
                                 ("Right outputs", "1 of 4", [item for item in hard if item.source == "set 1" and item.k_correct == 1])):
        box = page.locator(LIST).get_by_label(label, exact=True)
        box.click()
        page.locator("[role=option]", has_text=re.compile(rf"^\s*(✓\s*)?{words}\s*$")).first.click()
        expect(page.locator(LINES)).to_have_count(min(8, len(wanted)), timeout=WAIT)
    assert "source=set+1" in page.url
    search = page.locator(LIST).get_by_label("Text", exact=True)
    search.fill(f"loaf {wanted[0].row} ")
    search.press("Enter")
    expect(page.locator(LINES)).to_have_count(1, timeout=WAIT)
    page.wait_for_url("**q=loaf*", timeout=WAIT)  # the address follows what is seen
    page.reload()
    expect(page.locator(LINES)).to_have_count(1, timeout=WAIT)
    expect(page.locator(LIST).get_by_label("Text", exact=True)).to_have_value(f"loaf {wanted[0].row} ")
    search.fill("nothing like it")
    search.press("Enter")
    page.get_by_role("button", name="Take the filters away").click()
    expect(page.locator(LINES)).to_have_count(8, timeout=WAIT)
    expect(page.locator(LIST).get_by_label("Text", exact=True)).to_have_value("")


def test_keys_walk_and_exclude_but_not_while_typing(new_page, mined):
    page = new_page(f"/mining?run={mined.id}")
    expect(page.locator(f"{LINES}.selected")).to_have_count(1, timeout=WAIT)
    order = [line.get_attribute("data-value") for line in page.locator(LINES).all()]
    expect(opened(page)).to_have_attribute("data-input", order[0])
    for key, place in (("j", 1), ("j", 2), ("k", 1)):
        page.keyboard.press(key)
        expect(opened(page)).to_have_attribute("data-input", order[place], timeout=WAIT)
    page.locator(LIST).get_by_label("Text", exact=True).press_sequentially("jxk")
    expect(opened(page)).to_have_attribute("data-input", order[1])
    assert not edits_file(mined.dir).exists()
    page.locator(LIST).get_by_label("Text", exact=True).fill("")
    page.locator(".gw-title").click()
    page.keyboard.press("x")
    expect(page.locator(f"{LINES}.selected")).to_contain_text("excluded", timeout=WAIT)
    assert [edit.kind for edit in read_edits(edits_file(mined.dir))[int(order[1])]] == ["exclude"]
    page.keyboard.press("x")
    expect(page.locator(f"{LINES}.selected")).to_contain_text("kept", timeout=WAIT)


def test_a_person_corrects_an_input_and_takes_it_back(new_page, mined):
    hard = list(read_records(mined.dir / "hard.jsonl", HardSample))
    page = new_page(f"/mining?run={mined.id}")
    row = next(item for item in hard if item.gold.request == "unharmful" and item.k_correct == 1).row
    page.locator(f"{LINES}[data-value='{row}']").click()
    expect(opened(page)).to_have_attribute("data-input", str(row), timeout=WAIT)
    expect(opened(page).locator("article.agrees")).to_have_count(1)
    page.get_by_role("button", name="Exclude pair").click()
    expect(page.locator(".gw-build")).to_contain_text(f"Build pairs from {len(hard) - 1} inputs", timeout=WAIT)
    page.get_by_role("button", name="Fix gold label").click()
    page.locator(f"[data-act=gold][data-value='{row} request harmful']").click()
    expect(opened(page)).to_contain_text("was unharmful, changed by you", timeout=WAIT)
    expect(opened(page).locator("article.agrees")).to_have_count(3)
    page.get_by_role("button", name=re.compile("^Undo: gold")).click()
    expect(opened(page)).not_to_contain_text("changed by you", timeout=WAIT)
    page.get_by_role("button", name="Undo: excluded").click()
    expect(page.locator(".gw-build")).to_contain_text(f"Build pairs from {len(hard)} inputs", timeout=WAIT)
    assert [edit.kind for edit in history(edits_file(mined.dir)) if edit.row == row] == ["exclude", "gold", "gold", "include"]
    assert row not in read_edits(edits_file(mined.dir))


def test_pairs_are_built_and_everything_can_be_taken_home(new_page, app, mined):
    page = new_page(f"/mining?run={mined.id}")
    expect(page.locator(LINES)).to_have_count(8, timeout=WAIT)
    row = int(page.locator(LINES).nth(1).get_attribute("data-value"))
    page.locator(LINES).nth(1).click()
    expect(opened(page)).to_have_attribute("data-input", str(row), timeout=WAIT)
    page.get_by_role("button", name="Swap chosen output").click()
    page.locator("[data-act=pick-rejected]").last.click()
    expect(page.locator(f"{LINES}.selected")).to_contain_text("swapped", timeout=WAIT)
    swap = read_edits(edits_file(mined.dir))[row][-1]
    page.locator("[data-act=build]").click()
    expect(page.locator(".gw-stat", has_text="Pairs").first).to_be_visible(timeout=LONG)
    run = next(item for item in app.workspace.runs() if item.method == "build-pairs")
    assert finish(app.workspace, run) == "succeeded"
    expect(page.locator(".gw-stat", has_text="Pairs").locator("b").first).to_have_text(str(run.report["counts"]["pairs"]), timeout=WAIT)
    expect(opened(page).locator("article", has_text="chosen").first).to_contain_text(f"Output {swap.chosen + 1}")
    with page.expect_download(timeout=WAIT) as download:
        page.get_by_role("button", name="Export the hard samples").click()
    exported = [json.loads(line) for line in download.value.path().read_text().splitlines()]
    assert [item["row"] for item in exported] == [item.row for item in read_records(mined.dir / "hard.jsonl", HardSample)]
    with page.expect_download(timeout=WAIT) as download:
        page.get_by_role("button", name="Download", exact=True).click()
    assert download.value.path().read_bytes() == (run.dir / "preferences.jsonl").read_bytes()


def test_the_form_stands_beside_the_result_when_asked_for(new_page, mined):
    page = new_page(f"/mining?run={mined.id}")
    expect(page.locator("button.gw-start:visible")).to_have_count(0, timeout=WAIT)
    page.get_by_role("button", name="New mining run").click()
    expect(page.locator("button.gw-start:visible")).to_have_text("Start mining", timeout=WAIT)
    expect(page.locator(".gw-method:visible")).to_contain_text("Asks a trained guard k times")
    page.get_by_role("button", name="Close the form").click()
    expect(page.locator("button.gw-start:visible")).to_have_count(0, timeout=WAIT)


def test_a_full_page_fits_a_phone(new_page, mined):
    page = new_page(f"/mining?run={mined.id}&new=1", phone=True, dark=True)
    expect(page.locator(LINES).first).to_be_visible(timeout=WAIT)
    expect(page.locator(".gw-mining-top .js-plotly-plot")).to_have_count(2, timeout=WAIT)
    page.wait_for_timeout(500)
    assert fits_the_phone(page)
