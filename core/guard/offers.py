"""Which of the models that may be chosen can be a guard here, and which of those were trained to be one.

Reads small files of this machine, never the Hub: a page asks it whenever it is opened.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from core.chat_models import Offer
from core.evals.prompting import KNOWN
from core.methods import UserError
from core.refs import ModelRef, parse_model_ref

if TYPE_CHECKING:
    from core.runs import Workspace

UNTRAINED = "untrained: its labels are guesses"


def guard_offers(offered: Iterable[Offer], workspace: Workspace) -> list[Offer]:
    """Every single model whose weights are here. One that was never trained as a guard is asked zero-shot, and its name says so."""
    found = []
    for shown, text in offered:
        ref = parse_model_ref(text)
        if ref.has_weights and not ref.is_pair:
            found.append((f"{text} ({UNTRAINED})" if is_trained(ref, workspace) is False else shown, text))
    return found


def first_guard(guards: Iterable[Offer], workspace: Workspace) -> str:
    """What to begin with: the first guard that a run has trained (lists are newest first), else the embedded model; "" without both."""
    refs = [ref for _, ref in guards]
    trained = (ref for ref in refs if ref.startswith("run:") and is_trained(parse_model_ref(ref), workspace))
    return next(trained, "embedded" if "embedded" in refs else "")


def is_trained(ref: ModelRef, workspace: Workspace) -> bool | None:
    """Does a prompt format of guards lie with its weights, or does its name tell one? None where that is not known."""
    if any(part in ref.name.lower() for part, _ in KNOWN):
        return True
    if ref.kind == "hf":
        return None
    from core.lm.find import find_model

    try:
        return bool(find_model(ref, workspace.runs_dir).prompt_format)
    except UserError:  # the first question to it says what is wrong
        return None
