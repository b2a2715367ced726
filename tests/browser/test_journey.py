"""The whole way in a real browser with the tiny model: import, train, evaluate, look after the runs. Pages say what the files say."""

import json
from collections import Counter

import pytest
from playwright.sync_api import expect

from core.jobs import submit
from core.records import GuardExample, read_jsonl, read_records
from core.runs import Workspace
from core.split_guard import find_hits
from core.ui import html
from core.ui.method_panel import FILL
from tests.browser.conftest import opening
from tests.browser.driving import LONG, WAIT, expect_tile, field, fits_the_phone, offered, pick, shown_run, start, switch, type_in, unfold
from tests.helpers import FAKE_PLUGINS, finish, wait_for

pytestmark = pytest.mark.browser

CURVE = "document.querySelector('.gw-live .js-plotly-plot').data[0].y"


@pytest.fixture(scope="module")
def imported(browser, app):
    """The demo set, imported with the button."""
    with opening(browser, app) as open_page:
        page = open_page("/")
        page.get_by_role("button", name="Import the demo set").first.click()
        expect(page.locator("table[aria-label='imported sets']")).to_contain_text("registered", timeout=LONG)
    return app.workspace.runs()[0]


@pytest.fixture(scope="module")
def trained(browser, app, imported, tiny_model):
    """A short training on the imported set, started in the form. Its page is closed while it runs."""
    with opening(browser, app) as open_page:
        page = open_page("/training?method=rsft")
        expect(field(page, "Data")).to_have_value(f"{imported.name} · 500 rows", timeout=WAIT)
        type_in(page, "Model", str(tiny_model))
        unfold(page)
        switch(page, "Dtype", "float32")
        run = app.workspace.run(start(page, **{"Epochs": 1, "Limit, rows": 32}))
        assert run.state in ("queued", "running")
    return run


@pytest.fixture(scope="module")
def evaluated(browser, app, trained, tiny_model):
    """The untrained and the trained model on six rows, started in the form."""
    assert finish(app.workspace, trained) == "succeeded"
    with opening(browser, app) as open_page:
        page = open_page("/evaluation")
        expect(page.locator(".gw-method:visible .gw-estimate-note")).to_have_text(FILL, timeout=LONG)
        assert page.locator(".gw-form .gw-problem:visible").count() == 0, "a form that nobody has touched complains of nothing"
        page.locator("button.gw-start:visible").click()
        expect(page.locator(".gw-form")).to_contain_text("Nothing to evaluate", timeout=LONG)
        type_in(page, "Models", str(tiny_model))
        pick(page, "Models", trained.id)
        pick(page, "Data", "guard-demo")
        switch(page, "Task", "request")
        field(page, "Limit").fill("6")
        unfold(page)
        field(page, "Max new tokens").fill("8")
        switch(page, "Dtype", "float32")
        page.locator("button.gw-start:visible").click()
        wait_for(lambda: [run for run in app.workspace.runs() if run.method == "guard-eval"], "the evaluation to be queued")
        run = app.workspace.runs()[0]
        expect(page.locator("table[aria-label=models]")).to_be_visible(timeout=LONG)
    assert finish(app.workspace, run) == "succeeded"
    return run


def test_the_imported_set_is_shown_as_its_report_says(new_page, app, imported):
    page = new_page("/")
    report = imported.report
    assert report["splits"]["test"]["rows"] == 100
    tests = [row for row in read_records(imported.dir / "data.jsonl", GuardExample) if row.split == "test"]
    assert find_hits(tests, app.workspace.store).count == 100, "the test rows are registered"
    line = page.locator("table[aria-label='imported sets'] tbody tr")
    expect(line).to_contain_text(f"{report['rows']}", timeout=WAIT)
    expect(line).to_contain_text("100 test, 400 train")
    for name, count in report["labels"]["request"].items():
        expect(line).to_contain_text(f"{name} {count}")
    expect_tile(page, "Rows", f"{report['rows']:,}")
    expect_tile(page, "With a response", f"{report['with_response']:,}")
    expect_tile(page, "With reasoning", f"{max(report['with_reasoning'], report['with_target']):,}")
    expect_tile(page, "Prompt length", f"{report['lengths']['prompt']['words']['median']:,} words")
    expect_tile(page, "Left out", "0")
    rows = page.locator("table[aria-label=rows] tbody tr")
    expect(rows).to_have_count(25)
    for row in range(25):
        harmful = rows.nth(row).locator(".gw-chip-harmful").count() > 0
        assert (rows.nth(row).locator(".gw-veil").count() > 0) == harmful, "harmful rows are blurred, others are not"


def test_a_training_goes_on_without_its_page_and_shows_its_last_numbers(new_page, app, trained):
    page = new_page("/training")
    expect(page.locator(".gw-live")).to_contain_text(trained.id, timeout=WAIT)
    assert finish(app.workspace, trained) == "succeeded"
    expect(page.locator(".gw-live .gw-pill-succeeded")).to_be_visible(timeout=WAIT)
    expect(page.locator(".gw-live .js-plotly-plot")).to_be_visible(timeout=WAIT)
    losses = [event["loss"] for event in trained.events("metrics") if "loss" in event]
    expect_tile(page, "Train loss", f"{losses[-1]:.3f}")
    page.wait_for_function(f"{CURVE}.length === {len(losses)}", timeout=WAIT)  # it is drawn every five seconds
    assert page.evaluate(CURVE) == pytest.approx(losses), "the curve goes through the losses that were written"
    samples = list(read_jsonl(trained.dir / "samples.jsonl"))
    newest = [row for row in samples if row["step"] == samples[-1]["step"]]
    expect(page.locator(".gw-samples article")).to_have_count(len(newest))
    # a new model is offered wherever models are picked, as soon as the page is opened
    page.reload()
    wait_for(lambda: trained.id in offered(field(page, "Model")), "the new model in the form", 60)
    data = new_page("/")
    wait_for(lambda: trained.id in offered(data.get_by_label("Model", exact=True).last), "the new tokenizer on the Data page", 60)


def test_the_board_shows_the_numbers_of_the_report(new_page, evaluated):
    page = new_page(f"/evaluation?run={evaluated.id}")
    task = evaluated.report["tasks"]["request"]
    lines = page.locator("table[aria-label=models] tbody tr")
    expect(lines.first).to_be_visible(timeout=WAIT)
    for place, entry in enumerate(task["models"]):
        score = entry["scores"]["strict"]
        for column, name in enumerate(("f1", "accuracy", "unparsed"), start=1):
            value, low, high = (100 * score[name][end] for end in ("value", "low", "high"))
            cell = lines.nth(place).locator("td").nth(column)
            expect(cell.locator("b")).to_have_text(f"{value:.1f}")
            expect(cell.locator(".gw-interval")).to_have_text(f"{low:.1f}–{high:.1f}")
            expect(cell.locator("svg")).to_have_attribute("aria-label", html.spoken(value, low, high))


def test_the_row_filters_count_what_the_predictions_say(new_page, evaluated):
    page = new_page(f"/evaluation?run={evaluated.id}")
    answers = [json.loads(line) for line in (evaluated.dir / "predictions.jsonl").open()]
    chosen = evaluated.report["tasks"]["request"]["models"][-1]["model"]
    mine = [item for item in answers if item["model"] == chosen]
    said = {}
    for item in answers:
        said.setdefault(item["row"], set()).add(item["predicted"].get("request"))
    counts = Counter(all=len(said), differ=sum(len(labels) > 1 for labels in said.values()),
                     wrong=sum(item["predicted"].get("request") != item["gold"]["request"] for item in mine),
                     unparsed=sum(item["predicted"].get("request") is None for item in mine))
    assert counts["all"] == 6
    for which, words in (("all", "all"), ("wrong", "wrong"), ("unparsed", "unparsed"), ("differ", "models differ")):
        button = page.locator(f"[data-act=which][data-value={which}]")
        expect(button).to_have_text(f"{words} {counts[which]}", timeout=WAIT)
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true", timeout=WAIT)
        expect(page.locator("table[aria-label=rows] tbody tr")).to_have_count(counts[which], timeout=WAIT)


def test_words_about_a_run_and_its_way_into_the_archive(new_page, evaluated):
    page = new_page(f"/runs?run={evaluated.id}")
    expect(field(page, "Name", ".gw-form")).to_be_visible(timeout=WAIT)
    field(page, "Name", ".gw-form").fill("first look")
    field(page, "Tags", ".gw-form").fill("tiny, demo,tiny")
    field(page, "Note", ".gw-form").fill("Only six rows.")
    page.get_by_role("button", name="Save", exact=True).click()
    wait_for(lambda: evaluated.labels["name"] == "first look", "the words to be saved")
    assert evaluated.labels["tags"] == ["tiny", "demo"]
    assert evaluated.labels["note"] == "Only six rows."
    expect(page.locator("table[aria-label=runs]")).to_contain_text("first look", timeout=WAIT)
    page.get_by_role("button", name="Archive", exact=True).click()
    expect(page.get_by_role("button", name="Take out of the archive")).to_be_visible(timeout=WAIT)
    expect(page.locator(f"table[aria-label=runs] tr[data-run={evaluated.id}]")).to_have_count(0)
    page.get_by_role("button", name="Take out of the archive").click()
    expect(page.locator(f"table[aria-label=runs] tr[data-run={evaluated.id}]")).to_be_visible(timeout=WAIT)
    wait_for(lambda: not evaluated.labels["archived"], "it to be taken out")


def test_the_lineage_goes_from_the_data_to_the_evaluation(new_page, imported, trained, evaluated):
    page = new_page(f"/runs?run={evaluated.id}")
    drawing = page.locator(".gw-lineage-lying")
    expect(drawing).to_be_visible(timeout=WAIT)
    places = [drawing.locator(f"a[href='/runs?run={run.id}']").bounding_box()["x"] for run in (imported, trained, evaluated)]
    assert places == sorted(places)
    assert len(set(places)) == 3
    drawing.locator(f"a[href='/runs?run={trained.id}']").click()
    expect(page.locator(".gw-lineage-lying .gw-node-here")).to_contain_text(trained.id, timeout=WAIT)
    assert shown_run(page) == trained.id


def test_two_runs_are_compared_and_one_is_deleted(new_page, app, monkeypatch):
    monkeypatch.setenv("GUARDWALTZ_PLUGINS", str(FAKE_PLUGINS))  # as the app has it
    workspace = Workspace(app.workspace.runs_dir)
    first, second = (submit(workspace, "count", {"to": to, "pause": 0}) for to in (3, 5))
    for run in (first, second):
        assert finish(workspace, run) == "succeeded"
    page = new_page(f"/runs?run={second.id}")
    for run in (first, second):
        page.get_by_label(f"compare {run.id}").click()
        expect(page.get_by_label(f"compare {run.id}")).to_be_checked(timeout=WAIT)
    table = page.locator("table[aria-label='settings that differ']")
    expect(table.locator("tr", has_text="to").last).to_contain_text("3", timeout=WAIT)
    expect(table.locator("tbody tr td:first-child")).to_have_text(["method", "state", "result", "to"], timeout=WAIT)  # what differs
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_text("cannot be undone")).to_be_visible(timeout=WAIT)
    assert second.dir.exists(), "one click only asks"
    page.get_by_role("button", name="Delete for good").click()
    expect(page.locator(f"tr[data-run={second.id}]")).to_have_count(0, timeout=WAIT)
    assert not second.dir.exists()


@pytest.mark.parametrize("path", ["/", "/training", "/evaluation?new=1&run={evaluated}", "/runs?run={trained}"])
def test_full_pages_fit_a_phone(new_page, trained, evaluated, path):
    page = new_page(path.format(trained=trained.id, evaluated=evaluated.id), phone=True)
    expect(page.locator(".gw-stat b").first).to_be_visible(timeout=WAIT)
    page.wait_for_timeout(800)
    assert fits_the_phone(page)
    for box in page.locator(".gw-log:visible, .gw-stat b:visible").all():
        assert box.evaluate("box => box.scrollWidth <= box.clientWidth"), f"{box.inner_text()} does not fit"
