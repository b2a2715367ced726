"""The generic page of a stage, with a stranger's method (tests/fake_plugins/counting.py): form, start, stop, resume, text."""

import pytest
from playwright.sync_api import expect

from core.jobs import stop
from tests.browser.driving import WAIT, field, fits_the_phone, start

pytestmark = pytest.mark.browser
COUNT = "/training?method=count"


def test_a_run_is_started_seen_by_others_stopped_and_resumed(new_page, app):
    page = new_page(COUNT)
    run = app.workspace.run(start(page, To=5000, Pause="0.1"))  # nobody waits for its end
    expect(page.locator(".gw-live .gw-pill-running")).to_be_visible(timeout=WAIT)
    page.reload()
    expect(page.locator(".gw-live")).to_contain_text(run.id, timeout=WAIT)
    other = new_page("/training")
    expect(other.locator(".gw-live")).to_contain_text(run.id, timeout=WAIT)
    other.locator(".gw-live").get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator(".gw-live .gw-pill-stopped")).to_be_visible(timeout=WAIT)
    page.locator(".gw-live").get_by_role("button", name="Resume").click()
    expect(other.locator(".gw-live .gw-pill-running")).to_be_visible(timeout=WAIT)
    expect(page.locator(".js-plotly-plot")).to_be_visible(timeout=WAIT)
    stop(app.workspace, run, force=True)


def test_wrong_input_is_said_at_its_field_and_stops_the_start(new_page, app):
    page = new_page(COUNT)
    before = len(app.workspace.runs())
    field(page, "Pause").fill("soon")
    expect(page.locator(".gw-problem-error:visible")).to_contain_text("'soon' is not a number", timeout=WAIT)
    page.locator("button.gw-start:visible").click()
    expect(page.locator(".gw-form")).to_contain_text("Not started: mend Pause first.", timeout=WAIT)
    assert len(app.workspace.runs()) == before
    field(page, "Pause").fill("0.5")
    expect(page.locator(".gw-problem-error:visible")).to_have_count(0, timeout=WAIT)


def test_what_was_typed_survives_a_refresh_and_can_be_taken_away(new_page):
    page = new_page(COUNT)
    expect(field(page, "To")).to_have_value("5", timeout=WAIT)  # the page has filled its form
    page.locator("button:visible", has_text="As command").click()
    expect(page.locator(".gw-code pre:visible")).to_contain_text("python app.py run count", timeout=WAIT)
    field(page, "To").fill("77")
    expect(page.locator(".gw-code pre:visible")).to_have_text("python app.py run count to=77", timeout=WAIT)
    page.reload()
    expect(field(page, "To")).to_have_value("77", timeout=WAIT)


def test_a_yaml_file_fills_the_form_of_its_method(new_page, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("method: family\nconfig:\n  children: 7\n")
    page = new_page(COUNT)
    expect(field(page, "To")).to_have_value("5", timeout=WAIT)  # the page has filled its form
    page.locator("input[type=file]").first.set_input_files(path)
    expect(field(page, "Children")).to_have_value("7", timeout=WAIT)
    expect(page.locator(".gw-form")).to_contain_text("Filled from config.yaml.")


@pytest.mark.parametrize("path", ["/", "/training", "/mining", "/rl", "/evaluation", "/chat", "/runs", "/plugins"])
def test_no_page_scrolls_sideways_on_a_phone(new_page, path):
    page = new_page(path, phone=True)
    page.wait_for_timeout(800)  # what is wider may come later
    for dark in (False, True):
        page.evaluate("(dark) => document.body.classList.toggle('dark', dark)", dark)
        assert fits_the_phone(page)
    assert page.locator(".gw-title").count() == 1
