"""What Gradio keeps of each browser that has a page open, without what it keeps for deep links, which no page of ours has.

Gradio describes every component of every page anew for each new session, and it does so on the loop that answers all requests: with our
eight pages that is a sixth of a second in which nobody else is answered, and fifty people who come at once wait for one another.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from gradio.state_holder import SessionState, StateHolder


class Session(SessionState):  # type: ignore[misc]
    """The state of a browser. Gradio describes a component here when it first changes; the others are those of the page as built."""

    def __init__(self, blocks: Any) -> None:
        # Gradio describes the components that are both in the configuration and in `blocks`: there are none of these
        super().__init__(SimpleNamespace(default_config=blocks.default_config, blocks=()))


class Sessions(StateHolder):  # type: ignore[misc]
    """All sessions of an app."""

    def __getitem__(self, session_id: str) -> SessionState:
        """The session of this name, begun if it is new."""
        if session_id not in self.session_data:
            self.session_data[session_id] = Session(self.blocks)
        return super().__getitem__(session_id)


def lighten(demo: Any) -> None:
    """Have a launched app begin its sessions so, before anybody has one."""
    sessions = Sessions()
    sessions.set_blocks(demo)
    demo.app.state_holder = sessions
