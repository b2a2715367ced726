"""Checkpoints of a WaltzRL training: both agents, both optimizers, the random state, and where in the prompts it is.

    checkpoint-100/conversation/, feedback/    the agents, as any `waltz:` reference reads them (waltz:<run>@checkpoint-100)
                   state.pt                    optimizers and random state; only the newest two have it, the others are for use
                   checkpoint.json             written last: iteration, stage
    stage-1/feedback/, stage-2/...             the agents that learn, as the stage began: the reference of its KL term

The place in the prompts is the number of the iteration (core/lm/waltz_prompts.py), and so is the noise of the sampler.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.files import read_json, write_json
from core.methods import UserError
from core.waltz.protocol import AGENTS, Role

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.lm.agents import Agents

STATE = "state.pt"
ABOUT = "checkpoint.json"
PLAN_FILE = "plan.json"
RESUMABLE = 2
"""Newest checkpoints that keep what resuming needs: an older one serves where the newest is damaged."""


def save_checkpoint(run: ActiveRun, agents: Agents, iteration: int, stage: int, optimizers: Mapping[Role, Any], *, planned: bool) -> Path:
    """Write checkpoint-<iteration>, whole or not at all. planned: one of those that stay; others go when a newer one is there."""
    import torch

    folder = run.checkpoint_dir / f"checkpoint-{iteration}"
    half = folder.with_name(f".{folder.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir()
    for role in AGENTS:
        agents.save(role, half / role)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    torch.save({"optimizers": {role: optimizer.state_dict() for role, optimizer in optimizers.items()},
                "random": torch.get_rng_state(), "cuda": cuda}, half / STATE)
    write_json(half / ABOUT, {"iteration": iteration, "stage": stage, "planned": planned})
    shutil.rmtree(folder, ignore_errors=True)
    half.rename(folder)
    _thin_out(run)
    run.log(f"{folder.name} written")
    return folder


def _thin_out(run: ActiveRun) -> None:
    for folder in run.checkpoints()[:-1]:
        if not _about(folder).get("planned"):
            shutil.rmtree(folder, ignore_errors=True)
    for folder in run.checkpoints()[:-RESUMABLE]:
        (folder / STATE).unlink(missing_ok=True)


def newest_checkpoint(run: ActiveRun) -> tuple[Path, dict[str, Any]] | None:
    """(folder, its checkpoint.json) of the newest one that can be gone on from; None where there is none."""
    for folder in reversed(run.checkpoints()):
        about = _about(folder)
        if about and (folder / STATE).is_file() and all((folder / role).is_dir() for role in AGENTS):
            return folder, about
    return None


def _about(folder: Path) -> dict[str, Any]:
    """Its checkpoint.json; {} where that cannot be read, as a full disk may leave it."""
    try:
        return dict(read_json(folder / ABOUT, {}))
    except ValueError:
        return {}


def restore_checkpoint(folder: Path, agents: Agents, optimizers: Mapping[Role, Any]) -> None:
    """Put agents, optimizers and random state back, bit for bit. The agents must have the adapters they had."""
    import torch

    for role in AGENTS:
        agents.restore(role, folder / role)
    agents.forget()
    try:
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError) as error:
        raise UserError(f"{folder / STATE} cannot be read ({str(error).splitlines()[0][:120]}); delete {folder.name} and resume from the "
                        "checkpoint before it.") from error
    for role, optimizer in optimizers.items():
        optimizer.load_state_dict(state["optimizers"][role])
    torch.set_rng_state(state["random"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def begin_stage(run: ActiveRun, agents: Agents, stage: int, learning: Sequence[Role], *, resumed: bool) -> None:
    """Freeze the agents that learn as this stage finds them. Where it is gone on with, as it found them then.

    Afterwards the agents are as the stage began; a checkpoint is to be restored then.
    """
    for role in learning:
        folder = run.dir / f"stage-{stage}" / role
        if resumed:
            if not folder.is_dir():
                raise UserError(f"{folder} is gone, and with it the reference of stage {stage}; start a new run.")
            agents.restore(role, folder)
        else:
            folder.parent.mkdir(exist_ok=True)
            agents.save(role, folder)
        agents.freeze(role)


def same_start(run: ActiveRun, digest: dict[str, Any], *, resumes: bool) -> None:
    """Write down what the run began with; when it goes on, refuse anything that is not the same. `digest` says by its keys what is what.

    A run that wrote nothing down, because it is older, goes on.
    """
    before = read_json(run.dir / PLAN_FILE)
    if not resumes or before is None:
        write_json(run.dir / PLAN_FILE, digest)
        return
    changed = [name for name in digest if before.get(name) != digest[name]]
    if changed:
        words = {"prompts_sha256": "prompts", "models": "models that it starts from", "judge": "judge"}
        what = ", ".join(words.get(name, name) for name in changed)
        raise UserError(f"Changed since {run.id} began: {what}. Start a new run, or put them back and resume.")
