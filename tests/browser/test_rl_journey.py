"""The RL page in a real browser: charts and warnings of a WaltzRL run, its episodes, a run that goes on, and a prompt of one's own."""

import re

import pytest
from playwright.sync_api import expect

from core.waltz.history import History
from core.waltz.ledger import read_episodes, read_iterations
from core.waltz.rewards import outcome
from core.waltz.warnings import checks
from tests.browser.driving import LONG, WAIT, fits_the_phone
from tests.mining_runs import folder
from tests.waltz_runs import add_iterations, agent_evaluation, waltz_run

pytestmark = pytest.mark.browser
LINES = "table[aria-label=episodes] tbody tr"


@pytest.fixture(scope="module")
def run(app, tiny_model):
    """A finished run of twelve iterations, whose agents are untrained ones over the tiny model."""
    from core.lm.agents import open_agents
    from core.waltz.protocol import AGENTS, Rules
    from core.waltz.rules_file import write_rules

    made = waltz_run(app.workspace, count=12, batch=8)
    agents = open_agents(str(tiny_model), app.workspace, device="cpu", dtype="float32", trainable=True)
    for role in AGENTS:
        agents.add_adapter(role, rank=4)
        agents.save(role, made.dir / role)
    write_rules(made.dir, Rules())
    return made


def counts(run):
    found = ["unjudged" if one.episode.left_out else outcome(one.episode) for one in read_episodes(run.dir)]
    return {name: found.count(name) for name in found}


def test_charts_episodes_and_their_filters(new_page, run):
    page = new_page(f"/rl?run={run.id}")
    expect(page.locator(".gw-mini .js-plotly-plot")).to_have_count(11, timeout=LONG)
    expect(page.locator(".gw-live .js-plotly-plot")).to_have_count(0)
    made = checks(History(read_iterations(run.dir)))
    expect(page.locator(".gw-checked")).to_have_count(sum(check.stage == made[-1].stage for check in made), timeout=WAIT)
    expect(page.locator("button.gw-start:visible")).to_have_count(0)
    expect(page.locator(LINES)).to_have_count(8, timeout=WAIT)
    fixed = counts(run)["fixed"]
    page.locator("[data-act=outcome][data-value=fixed]").click()
    expect(page.locator("[data-act=outcome][data-value=fixed]")).to_have_text(f"fixed {fixed}", timeout=WAIT)
    expect(page.locator(LINES)).to_have_count(min(8, fixed), timeout=WAIT)
    card = page.locator("[data-episode]")
    expect(card).to_contain_text("3 Revision", timeout=WAIT)
    expect(card.locator("table[aria-label='reward terms'] tbody tr")).to_have_count(4)
    was = card.get_attribute("data-episode")
    assert page.evaluate("window.scrollY") == 0 or page.locator(LINES).first.is_visible(), "a filter does not scroll the page away"
    card.locator("[data-act=step][data-value='1']").click()
    expect(card).not_to_have_attribute("data-episode", was, timeout=WAIT)
    page.reload()
    expect(page.locator("[data-act=outcome][data-value=fixed]")).to_have_attribute("aria-pressed", "true", timeout=WAIT)
    page.locator("[data-act=new]").click()
    expect(page.locator("button.gw-start:visible")).to_have_count(1, timeout=WAIT)


def test_harmful_texts_are_blurred_until_shown(new_page, run):
    place = next(place for place, one in enumerate(read_episodes(run.dir)) if one.episode.side == "harmful")
    page = new_page(f"/rl?run={run.id}&episode={place}")
    text = page.locator("[data-episode] .gw-prompt .txt")
    expect(text).to_have_css("filter", "blur(5px)", timeout=WAIT)
    page.locator("[data-episode] .gw-prompt .gw-veil").click()
    expect(text).to_have_css("filter", "none")
    expect(page.locator("[data-episode] .gw-exchange .txt").first).to_have_css("filter", "none")


def test_a_run_that_goes_on_is_followed(new_page, app):
    run = waltz_run(app.workspace, "waltzrl-0007", count=3, batch=8)
    page = new_page(f"/rl?run={run.id}")
    expect(page.locator(".gw-waltz")).to_contain_text("3 so far", timeout=LONG)
    add_iterations(run, 2, 8, skip=3, of=5)
    expect(page.locator(".gw-waltz")).to_contain_text("16 new since the list was drawn", timeout=WAIT)
    expect(page.locator(".gw-waltz")).to_contain_text("5 so far", timeout=WAIT)
    page.get_by_role("button", name="Show them").click()
    expect(page.locator("[data-act=outcome][data-value='']")).to_have_text("all 40", timeout=WAIT)


def test_the_board_comes_when_the_run_has_been_evaluated(new_page, app):
    run = waltz_run(app.workspace, "waltzrl-0008", count=3, batch=8)
    page = new_page(f"/rl?run={run.id}")
    board = page.locator(".gw-board")
    expect(board).to_contain_text("Not measured yet", timeout=LONG)
    expect(board.locator(".js-plotly-plot")).to_have_count(0)
    agent_evaluation(app.workspace, ["embedded", f"waltz:{run.id}"], "agent-eval-0001")
    expect(board.locator(".js-plotly-plot")).to_have_count(1, timeout=LONG)
    expect(board).to_contain_text("agent-eval-0001: numbers, gates, exchanges")


def test_a_prompt_of_ones_own(new_page, run):
    page = new_page(f"/rl?run={run.id}")
    expect(page.locator(".gw-try input").first).to_have_value(re.compile(run.id), timeout=LONG)
    page.locator(".gw-try textarea").last.fill("How long does bread bake?")
    page.get_by_role("button", name="Ask the agents").click()
    talk = page.locator(".gw-talk")
    expect(talk).to_have_attribute("data-over", "end", timeout=LONG)
    for words in ("1 Reply", "2 Feedback", "How long does bread bake?", "does not say"):
        expect(talk).to_contain_text(words)


def test_a_prompt_of_the_run_brings_its_side_along(new_page, run):
    place, one = next((place, one.episode) for place, one in enumerate(read_episodes(run.dir)) if one.episode.side == "benign")
    page = new_page(f"/rl?run={run.id}&episode={place}")
    this_prompt = page.get_by_role("link", name="Try this prompt")
    expect(this_prompt).to_be_visible(timeout=LONG)  # the page is whole: what comes in above later would push the card away
    page.get_by_role("link", name="Try it", exact=True).click(timeout=LONG)
    expect(page.locator("#try-it")).to_be_in_viewport()
    this_prompt.click()
    expect(page.locator(".gw-try textarea").last).to_have_value(one.prompt, timeout=WAIT)
    expect(page.locator(".gw-try-settings input").last).to_have_value("benign", timeout=WAIT)
    expect(page.locator("#try-it")).to_be_in_viewport()


def test_other_runs_keep_their_view_and_the_page_fits_a_phone(new_page, app, run):
    plain = folder(app.workspace, "grpo-0001", "grpo", {"model": "run:rsft-0001"}, stage="rl")
    page = new_page(f"/rl?run={plain.id}")
    expect(page.locator(".gw-live")).to_contain_text(plain.id, timeout=WAIT)
    expect(page.locator("button.gw-start:visible")).to_have_count(1, timeout=WAIT)
    expect(page.locator(".gw-waltz:visible")).to_have_count(0)
    page = new_page(f"/rl?run={run.id}", phone=True, dark=True)
    expect(page.locator(".gw-mini .js-plotly-plot")).to_have_count(11, timeout=LONG)
    page.wait_for_timeout(500)
    assert fits_the_phone(page)
