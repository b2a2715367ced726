"""The whole plugin contract, on one screen. A hook returns a list of classes; each class carries its own `name`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from core.chat_models import ChatModel
    from core.formats import DataFormat, PromptFormat
    from core.judges import Judge
    from core.methods import Method

hookspec = pluggy.HookspecMarker("guardwaltz")
hookimpl = pluggy.HookimplMarker("guardwaltz")


@hookspec
def register_methods() -> list[type[Method]]:
    """Return methods: things that make one run of one stage (data, training, mining, rl, evaluation, study)."""


@hookspec
def register_judges() -> list[type[Judge]]:
    """Return judges: things that say of a reply whether it is unsafe and whether it refuses without need."""


@hookspec
def register_chat_models() -> list[type[ChatModel]]:
    """Return chat models: things that answer messages (local weights, servers, hosted services)."""


@hookspec
def register_formats() -> list[type[DataFormat] | type[PromptFormat]]:
    """Return dataset layouts (how a file's rows become records) and guard prompt formats (with their parsers)."""
