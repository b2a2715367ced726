"""How long guards' answers are and how fast they come, for estimates before a run."""

from __future__ import annotations

from pathlib import Path

ANSWER_TOKENS = {True: 250, False: 15}
"""Usual length of an answer with and without reasoning (GuardReasoner, table 9: 254 to 260, and 17 to 20)."""
CPU_PARAMETERS = 135e6
"""Size of the embedded model, for which the speed below was measured."""
CPU_TOKENS = 150.0
"""Answer tokens a second that the embedded model gives on two CPU cores, all rows together."""


def speed_is_known(base: str, device: str) -> bool:
    """Is this the embedded model on a CPU, whose speed we know?"""
    return base == "embedded" and device in ("auto", "cpu") and not Path("/dev/nvidia0").exists()
