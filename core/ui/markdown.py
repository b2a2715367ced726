"""What models write, as HTML that is ours: paragraphs, lists, code and tables; no tag, link or picture of theirs reaches the page."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from markupsafe import Markup

from core.ui import html

LONGEST = 60_000
"""Characters that are laid out; a longer text is shown as it is."""


def written(text: str, class_: str = "gw-md") -> Markup:
    """A model's text, laid out."""
    if len(text) > LONGEST:
        return html.div(text, "gw-written")
    return html.element("div", Markup(_parser().render(text)), class_)


@lru_cache(maxsize=1)
def _parser() -> Any:
    from markdown_it import MarkdownIt

    # html=False: tags of theirs are escaped. Without links and images nothing is fetched and nobody is led away.
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable("table")
    return parser.disable(["link", "image", "autolink", "reference", "html_inline", "html_block", "entity"])
