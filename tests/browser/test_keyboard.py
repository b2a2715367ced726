"""The main flow without a mouse: everything is reached with Tab, done with Enter or Space, and the focus is seen and kept."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import opening
from tests.browser.driving import LONG, SEEN, WAIT, field, shown_run, tab_to
from tests.helpers import finish

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def counted(browser, app):
    """A run that was started with keys alone."""
    with opening(browser, app) as open_page:
        page = open_page("/training?method=count")
        expect(field(page, "To")).to_have_value("5", timeout=WAIT)
        tab_to(page, field(page, "To"))
        page.keyboard.press("Control+A")
        page.keyboard.type("3")
        tab_to(page, page.locator("button.gw-start:visible"))
        page.keyboard.press("Enter")
        page.wait_for_url("**run=*", timeout=LONG)
        run = app.workspace.run(shown_run(page))
    assert run.config["to"] == 3
    assert finish(app.workspace, run) == "succeeded"
    return run


def test_rows_open_and_boxes_tick_and_the_focus_stays(new_page, counted):
    page = new_page("/runs")
    row = page.locator(f"table[aria-label=runs] tr[data-run={counted.id}]")
    expect(row).to_be_visible(timeout=WAIT)
    tab_to(page, row)
    page.keyboard.press("Enter")
    expect(row).to_have_attribute("aria-selected", "true", timeout=WAIT)
    expect(row).to_be_focused()
    box = page.get_by_label(f"compare {counted.id}")
    tab_to(page, box)
    page.keyboard.press("Space")
    expect(box).to_be_checked(timeout=WAIT)
    expect(box).to_be_focused()
    archive = page.get_by_role("button", name="Archive", exact=True)
    tab_to(page, archive)
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Take out of the archive")).to_be_focused(timeout=WAIT)
    page.keyboard.press("Enter")
    expect(archive).to_be_focused(timeout=WAIT)


def test_a_segment_is_chosen_and_the_advanced_settings_open(new_page):
    page = new_page("/training?method=rsft")
    full = page.locator(".gw-method:visible input[type=radio][value=full]")
    expect(full).to_have_count(1, timeout=WAIT)
    tab_to(page, full)
    page.keyboard.press("Space")
    expect(full).to_be_checked()
    tab_to(page, page.locator(".gw-method:visible .gw-advanced > button"))
    page.keyboard.press("Enter")
    expect(field(page, "Lora rank")).to_be_visible(timeout=WAIT)


def test_blurred_text_is_shown_with_the_space_bar(new_page):
    page = new_page("/")
    page.get_by_role("button", name="Import the demo set").first.press("Enter")
    veil = page.locator("table[aria-label=rows] .gw-veil").first
    expect(veil).to_be_visible(timeout=LONG)
    blurred = "element => getComputedStyle(element.querySelector('.txt')).filter"
    assert "blur" in veil.evaluate(blurred)
    veil.locator("input").focus()
    page.keyboard.press("Space")
    assert veil.evaluate(blurred) == "none"
    assert page.evaluate(SEEN)
