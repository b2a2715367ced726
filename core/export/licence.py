"""The licence of a base model, as its own card states it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from core.methods import UserError

EMBEDDED = ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
"""(hub id, licence) of the model that the embedded one was made from."""


def base_licence(base: str) -> str:
    """The licence of a base as its card names it ("apache-2.0"); "" where no card can be had or it names none."""
    if base == "embedded":
        return EMBEDDED[1]
    card = Path(base).expanduser() / "README.md"
    if base.startswith("hf:") or not card.is_file():
        card = _hub_card(base.removeprefix("hf:")) or card
    try:
        said = front_matter(card.read_text(encoding="utf-8"))[0]
    except (OSError, UnicodeDecodeError):
        return ""
    name = said.get("license")
    if name == "other":
        name = said.get("license_name") or name
    return str(name) if isinstance(name, str) else ""


def _hub_card(repo: str) -> Path | None:
    from core.lm.hub import hub_file

    try:
        return hub_file(repo, "README.md") if repo.count("/") == 1 and not repo.startswith(("/", ".", "~")) else None
    except UserError:  # no network, a closed repository: the licence stays unknown, which the card says
        return None


def front_matter(text: str) -> tuple[dict[str, Any], str]:
    """(the YAML between the --- lines, the text below) of a card; ({}, the text) where it has none."""
    if not text.startswith("---\n"):
        return {}, text
    head, mark, rest = text[4:].partition("\n---\n")
    try:
        values = yaml.safe_load(head) if mark else None
    except yaml.YAMLError:
        values = None
    return (values, rest.lstrip("\n")) if isinstance(values, dict) else ({}, text)
