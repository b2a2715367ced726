"""Supervised fine-tuning of the two WaltzRL agents (the seeds' stage 1): two LoRA adapters over one base, one after the other in one run.

Each agent's training is that of core/lm/sft.py on its own rows, with checkpoints and curve in a folder of its own (`sft-conversation/`,
`sft-feedback/`), so it can be killed and resumed anywhere. An agent that is done is written down before the other one begins.

waltz_sft_data.py    which rows, past the split guard     waltz_sft_rows.py     those rows as tokens, on the disk
waltz_sft_ask.py     what the feedback agent makes of held-out rows
waltz_sft_report.py  report.json, the card, and the files that the hosted job leaves
waltz_sft_check.py   the look before a start
"""

from __future__ import annotations

import gc
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core.active import ActiveRun
from core.files import read_json, write_json
from core.lm.sft import Trained, learn
from core.lm.tune import TuneJob, longest_allowed, ready_to_train, tell_rows
from core.methods import UserError
from core.waltz.protocol import AGENTS, Role
from core.words import plural

if TYPE_CHECKING:
    from core.lm.load import Loaded
    from core.lm.sft_rows import TrainRows
    from core.lm.waltz_sft_data import PreparedAgents

PART = "part.json"
"""What is known of an agent whose training is done; written last."""


class AgentRun(ActiveRun):
    """One agent's share of a run: checkpoints and curve in a folder of its own; what it says, it says as the run."""

    def __init__(self, run: ActiveRun, role: Role, first_step: int) -> None:
        super().__init__(run.workspace, run.id, run.rank)
        self.dir = run.dir / f"sft-{role}"
        self.dir.mkdir(exist_ok=True)
        self.whole, self.role, self.first_step = run, role, first_step

    def log(self, text: str) -> None:
        """One line into the run's log."""
        self.whole.log(f"{self.role} agent: {text}")

    def notice(self, text: str, level: Literal["info", "warning"] = "info") -> None:
        """A line on the run card."""
        self.whole.notice(f"{self.role} agent: {text}", level)

    def progress(self, done: float, total: float | None = None, unit: str = "steps", detail: str = "") -> None:
        """How far this agent is, and which of the two it is."""
        number = AGENTS.index(self.role) + 1
        self.whole.progress(done, total, unit, f"{self.role} agent, {number} of {len(AGENTS)}" + (f": {detail}" if detail else ""))

    def metrics(self, step: int, **values: float | int | None) -> None:
        """Into the agent's own events, which a resumed run counts from, and into the run's curve behind the steps of the agent before."""
        super().metrics(step, **values)
        self.whole.metrics(self.first_step + step, **values)

    def stats(self, **values: Any) -> None:
        """On the run card, under the agent's name."""
        self.whole.stats(**{f"{self.role.capitalize()} {name[0].lower()}{name[1:]}": value for name, value in values.items()})

    def should_stop(self) -> bool:
        """Has somebody asked the run to stop?"""
        return self.whole.should_stop()


@dataclass(frozen=True)
class AgentDone:
    """An agent that is trained and written down."""

    role: Role
    part: dict[str, Any]
    """Its share of report.json."""

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return int(self.part["steps"])


def train_agents(jobs: dict[Role, TuneJob], prepared: PreparedAgents, run: ActiveRun) -> dict[Role, AgentDone]:
    """Train both, or go on where the run was; each agent lies in `<run>/<role>/` once it is done. Raises StopRequested."""
    done: dict[Role, AgentDone] = {}
    for role in AGENTS:
        share = AgentRun(run, role, sum(one.steps for one in done.values()))
        done[role] = _finished(share, prepared) or _train(jobs[role], share, prepared)
    return done


def _finished(share: AgentRun, prepared: PreparedAgents) -> AgentDone | None:
    part = read_json(share.dir / PART)
    if part is None or not (share.whole.dir / share.role).is_dir():
        return None
    if part["data"]["sha256"] != prepared.sets[share.role].source.sha256():
        raise UserError(f"The rows of the {share.role} agent have changed since {share.id} trained it; start a new run, or put them "
                        "back and resume.")
    share.notice(f"was trained before ({plural(part['steps'], 'step')}); it is taken as it is.")
    return AgentDone(share.role, part)


def _train(job: TuneJob, share: AgentRun, prepared: PreparedAgents) -> AgentDone:
    from core.lm.save import save_trained

    role = share.role
    loaded, model, device = ready_to_train(job, share)
    rows, held_out = _rows(job, loaded, share, prepared)
    trained = learn(job, share, loaded, model, device, rows, held_out, loaded.prompt_format)
    part = _part(trained, share, prepared)
    if share.rank == 0:
        folder, half = share.whole.dir / role, share.whole.dir / f".{role}.half"
        shutil.rmtree(half, ignore_errors=True)
        save_trained(trained.model, loaded.tokenizer, half, base=loaded.base, prompt_format=loaded.prompt_format)
        shutil.rmtree(folder, ignore_errors=True)
        half.rename(folder)
        write_json(share.dir / PART, part)
    _close(rows, held_out)
    del trained, loaded, model
    _free_memory()
    return AgentDone(role, part)


def _rows(job: TuneJob, loaded: Loaded, share: AgentRun, prepared: PreparedAgents) -> tuple[TrainRows, TrainRows]:
    from core.lm.waltz_sft_rows import build_chat_rows

    limit = longest_allowed(job, loaded, share)
    share.progress(0, None, "steps", detail="reading rows")
    rows = build_chat_rows(prepared.train(share.role), loaded.tokenizer, share.dir, max_length=limit, on_long=job.on_long_rows)
    held_out = build_chat_rows(prepared.held_out(share.role), loaded.tokenizer, share.dir, max_length=limit, on_long="drop")
    tell_rows(share, rows, held_out, limit, f"None of the rows of {prepared.sets[share.role].source.name} can be trained on")
    return rows, held_out


def _part(trained: Trained, share: AgentRun, prepared: PreparedAgents) -> dict[str, Any]:
    """What report.json says of this agent."""
    from core.lm.sft_report import loss_record

    source, job = prepared.sets[share.role].source, trained.job
    return {
        "start": job.model, "model": f"waltz:{share.id}#{share.role}",
        "data": {"name": source.name, "sha256": source.sha256(), "run": source.run.id if source.run else None, "file": str(source.path)},
        "rows": {"train": trained.rows.record(), "held_out": trained.held_out.record(), **prepared.looked[share.role].record()},
        "longest_held_out_answer": max((row.answer for row in trained.held_out.rows), default=0),
        "losses": loss_record(trained), "steps": trained.steps, "planned_steps": trained.plan.steps, "best_step": trained.best_step,
        "stopped_early": trained.stopped_early, "rows_end_to_end": trained.packed, "answer_tokens": trained.answer_tokens,
        "seconds": round(trained.seconds, 2), "peak_memory_bytes": trained.peak_memory_bytes,
        "trained_parameters": trained.trained_parameters, "dtype": trained.dtype, "describe": trained.loaded.describe(),
    }


def _close(*made: TrainRows) -> None:
    for one in made:
        close = getattr(one.rows, "close", None)
        if close:
            close()


def _free_memory() -> None:
    """The base of the first agent leaves before that of the second comes: trainers and callbacks hold each other."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def agent_folders(run_dir: Path) -> dict[Role, Path]:
    """Where the agents of a run lie."""
    return {role: run_dir / role for role in AGENTS}
