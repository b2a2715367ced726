"""One grammar for naming a model, everywhere (form, command line, recipe).

embedded | hf:<hub id> | <path> | run:<id> | mistral:<id> | anthropic:<id> | openai:<model>@<base url>
waltz:<run id>[@checkpoint-<n>]                            the two agents of a run, who talk before they answer (core/lm/agents.py)
waltz:<run id>[@checkpoint-<n>]#conversation | #feedback   one of them alone, like any other model with an adapter
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.methods import UserError

Kind = Literal["embedded", "hf", "path", "run", "mistral", "anthropic", "openai", "waltz"]
HOSTED: frozenset[str] = frozenset({"mistral", "anthropic", "openai"})
_WALTZ = re.compile(r"([\w-]+)(?:@(checkpoint-\d+))?(?:#(conversation|feedback))?")


@dataclass(frozen=True)
class ModelRef:
    """A parsed model reference. `name` is the hub id, path, run id or hosted model; `url` only for openai, the rest only for waltz."""

    kind: Kind
    name: str
    url: str = ""
    checkpoint: str = ""
    """Name of a checkpoint folder; "" = what the run made in the end."""
    agent: str = ""
    """conversation or feedback; "" = both."""

    def __str__(self) -> str:
        if self.kind in ("embedded", "path"):
            return self.name
        at = self.url or self.checkpoint
        return f"{self.kind}:{self.name}" + (f"@{at}" if at else "") + (f"#{self.agent}" if self.agent else "")

    @property
    def has_weights(self) -> bool:
        """Can be loaded and trained here. A hosted model's weights cannot be had."""
        return self.kind not in HOSTED

    @property
    def is_pair(self) -> bool:
        """Two agents, not one model."""
        return self.kind == "waltz" and not self.agent


def parse_model_ref(text: str) -> ModelRef:
    """Read a model reference; UserError names the value and the forms that exist. Does not look whether it is there."""
    text = text.strip()
    if text == "embedded":
        return ModelRef("embedded", text)
    head, colon, rest = text.partition(":")
    if colon and head in ("hf", "run", "mistral", "anthropic", "waltz"):
        if not rest:
            raise UserError(f"{text!r} names no model; write {head}:<id>.")
        return _pair(text, rest) if head == "waltz" else ModelRef(head, rest)  # type: ignore[arg-type]
    if colon and head == "openai":
        model, at, url = rest.partition("@")
        if not (model and at and url.startswith(("http://", "https://"))):
            raise UserError(f"{text!r} is not openai:<model>@<base url>, for example openai:my-model@http://127.0.0.1:8000/v1.")
        return ModelRef("openai", model, url)
    if not text:
        raise UserError("No model given; write embedded, hf:<hub id>, a folder, or run:<id>.")
    if is_folder(text):
        return ModelRef("path", text)
    raise UserError(f"{text!r} is no model reference: not a folder here, and not one of embedded, hf:<hub id>, run:<id>, "
                    "openai:<model>@<base url>.")


def is_folder(text: str) -> bool:
    """Does a folder of this name exist? False for what can be no path."""
    try:
        return Path(text).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):  # too long a name, a home of nobody, a zero byte
        return False


def _pair(text: str, rest: str) -> ModelRef:
    found = _WALTZ.fullmatch(rest)
    if not found:
        raise UserError(f"{text!r} is not waltz:<run id>; a checkpoint is named waltz:<run id>@checkpoint-100, one agent alone "
                        "waltz:<run id>#conversation or waltz:<run id>#feedback.")
    return ModelRef("waltz", found[1], checkpoint=found[2] or "", agent=found[3] or "")


def run_id_of(text: str) -> str:
    """The run id in what follows `run:` or `waltz:`, without checkpoint and agent."""
    return re.split("[@#]", text, maxsplit=1)[0]
