"""A key on its way into a request: checked before it is sent, and no part of what is said when the request fails."""

from __future__ import annotations

import os
import re

from core.methods import UserError

SHOWN = "***"
SHORTEST = 4
"""Characters of what is hidden in texts: a placeholder of a letter or two is no secret, and stands in every word."""


class ApiKey:
    """Of a service that takes it as bearer token; false where there is none."""

    def __init__(self, given: str, variable: str) -> None:
        """given: a visitor's own, else the environment's `variable` counts. UserError, which does not show it, where it cannot be sent."""
        typed = given.strip()
        self._key = typed or os.environ.get(variable, "").strip()
        if not re.fullmatch("[!-~]*", self._key):  # an HTTP library would name the whole header in its error
            raise UserError(f"{'Your API key' if typed else f'The API key in {variable}'} has a space, a line break or a letter with an "
                            "accent in it, which no key has; copy it anew.")

    def __bool__(self) -> bool:
        return bool(self._key)

    @property
    def headers(self) -> dict[str, str]:
        """What a request sends along."""
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def hide(self, text: str) -> str:
        """The text without the key: some services repeat it in what they say of it. Before a text is cut, or half of it would stay."""
        return hide(text, self._key)


def hide(text: str, *keys: str) -> str:
    """The text with *** in place of each key."""
    for key in keys:
        if len(key.strip()) >= SHORTEST:
            text = text.replace(key.strip(), SHOWN)
    return text
