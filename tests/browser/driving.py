"""What a person does to a form, and what stands on a page: used by the tests that drive a browser."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Locator, Page, expect

WAIT = 30_000
"""Milliseconds a page gets on a busy machine."""
LONG = 240_000
"""Milliseconds for what waits on a process that imports torch."""

SEEN = """() => {
    const focus = document.activeElement;
    const styles = [focus, focus.closest('label'), focus.closest('.wrap')].filter(Boolean).map((part) => getComputedStyle(part));
    return styles.some((style) => style.outlineStyle === 'solid' && parseFloat(style.outlineWidth) >= 2);
}"""
"""Has the element with the focus, or the box around it, an outline?"""


def field(page: Page, label: str, within: str = ".gw-method") -> Locator:
    """The box of a setting in the form that is seen; a label's own text also holds the help."""
    return page.locator(f"{within}:visible .container", has=_name(page, label)).locator("input, textarea").first


def _name(page: Page, label: str) -> Locator:
    return page.locator("[data-testid=block-info]", has_text=re.compile(rf"^\s*{re.escape(label)}\s*$"))


def pick(page: Page, label: str, words: str) -> None:
    """Choose what holds `words` in a dropdown."""
    box = field(page, label)
    box.click()
    box.fill(words)
    page.locator("[role=option]", has_text=words).first.click()
    box.blur()


def type_in(page: Page, label: str, words: str) -> None:
    """Write something of one's own into a dropdown."""
    box = field(page, label)
    box.click()
    box.fill(words)
    box.press("Enter")
    box.blur()


def offered(box: Locator) -> str:
    """What a dropdown offers now. It opens when it gets the focus."""
    box.blur()
    box.click()
    return "".join(box.page.locator("[role=listbox]").all_inner_texts())


def switch(page: Page, label: str, choice: str) -> None:
    """Press one segment of a choice."""
    page.locator(".gw-method:visible fieldset", has=_name(page, label)).locator("label", has_text=re.compile(rf"^\s*{choice}\s*$")).click()


def unfold(page: Page) -> None:
    """Open the advanced settings."""
    page.locator(".gw-method:visible .gw-advanced > button").click()


def start(page: Page, **fields: object) -> str:
    """Fill boxes, press Start, and wait for the address to name the run."""
    for label, value in fields.items():
        field(page, label).fill(str(value))
    page.locator("button.gw-start:visible").click()
    page.wait_for_url("**run=*", timeout=LONG)  # a check comes first
    return shown_run(page)


def shown_run(page: Page) -> str:
    """The run that the address names."""
    return parse_qs(urlsplit(page.url).query)["run"][0]


def tile(page: Page, name: str) -> Locator:
    """A statistic of a run card."""
    return page.locator(".gw-stat:visible", has=page.locator(".name", has_text=re.compile(rf"^{name}$")))


def expect_tile(page: Page, name: str, value: str) -> None:
    """The large figures of a statistic."""
    expect(tile(page, name).locator("b")).to_have_text(value, timeout=WAIT)


def fits_the_phone(page: Page) -> bool:
    """No sideways scroll, once charts and fonts have their size."""
    page.wait_for_function("document.documentElement.scrollWidth <= window.innerWidth", timeout=WAIT)
    return True


def tab_to(page: Page, target: Locator, limit: int = 60) -> None:
    """Press Tab until `target` has the focus; each stop on the way must be seen."""
    for _ in range(limit):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            continue  # the end of the page
        assert page.evaluate(SEEN), "no outline: " + page.evaluate("document.activeElement.outerHTML.slice(0, 200)")
        if target.evaluate("element => element === document.activeElement"):
            return
    raise AssertionError(f"{limit} times Tab did not reach it")
