"""What Gradio keeps of each browser that has a page open, without what it keeps for deep links only, which no page of ours has.

For those Gradio describes every component of every page anew when a session begins, and again whatever an event leaves as it is
(gr.skip), on the loop that answers all requests. With our eight pages a beginning was a sixth of a second in which nobody else was
answered, so fifty people who came at once waited for one another.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from gradio.blocks import BlocksConfig
from gradio.state_holder import SessionState, StateHolder


class Session(SessionState):
    """The state of a browser."""

    def __init__(self, blocks: Any) -> None:
        # Gradio describes the components that are both in the configuration and in `blocks`: there are none of these
        super().__init__(SimpleNamespace(**{**vars(blocks), "default_config": blocks.default_config, "blocks": ()}))
        self.blocks_config.config_for_block = _description


class Sessions(StateHolder):
    """All sessions of an app."""

    def __getitem__(self, session_id: str) -> SessionState:
        """The session of this name, begun if it is new."""
        if session_id not in self.session_data:
            self.session_data[session_id] = Session(self.blocks)
        return super().__getitem__(session_id)


def _description(number: int, rendered: list[int], block: Any, renderable: Any = None) -> dict[str, Any]:
    """What gr.render draws has to be described; it goes to the browser."""
    return BlocksConfig.config_for_block(number, rendered, block, renderable) if renderable else {}


def lighten(demo: Any) -> None:
    """Have a launched app begin its sessions so, before anybody has one."""
    sessions = Sessions()
    sessions.set_blocks(demo)
    demo.app.state_holder = sessions
