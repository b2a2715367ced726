"""Where references to two agents lead, before any weights are read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from core.lm.find import Found, find_model
from core.methods import UserError
from core.refs import ModelRef, parse_model_ref
from core.waltz.protocol import AGENTS

if TYPE_CHECKING:
    from core.runs import Workspace

AgentsRef = str | tuple[str, str]
"""A `waltz:` reference, one model for both agents, or (conversation, feedback)."""


def find_agents(ref: AgentsRef, workspace: Workspace) -> tuple[Found, Found]:
    """(conversation, feedback): where the references lead, before any weights are read. UserError as in `open_agents`."""
    first, second = (find_model(one, workspace.runs_dir) for one in agent_refs(ref))
    if (first.location or first.base, first.revision) != (second.location or second.base, second.revision):
        raise UserError(f"The conversation agent {first.ref} sits on {first.base}, the feedback agent {second.ref} on {second.base}; two "
                        "agents share one base in memory, so train both on the same one.")
    return first, second


def agent_refs(ref: AgentsRef) -> tuple[str, str]:
    """(conversation, feedback) as references of single models. UserError for a hosted model, whose weights cannot be had."""
    if isinstance(ref, str):
        pair = parse_model_ref(ref)
        both = (str(replace(pair, agent="conversation")), str(replace(pair, agent="feedback"))) if pair.is_pair else (ref, ref)
    else:
        both = ref
    for role, one in zip(AGENTS, both, strict=True):
        parsed: ModelRef = parse_model_ref(one)
        if parsed.is_pair:
            raise UserError(f"{one} is a pair of agents, and the {role} agent is one model; write {one}#{role}.")
        if not parsed.has_weights:
            raise UserError(f"{one} is a hosted model: its weights cannot be had, so it can be no agent here; pick embedded, hf:<hub id>, "
                            "a folder or run:<id>.")
    return both
