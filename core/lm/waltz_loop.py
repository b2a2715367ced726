"""The iterations of a WaltzRL training: play, learn, write down, keep. One stage after the other."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.active import StopRequested
from core.answer_log import AnswerLog
from core.lm.agents import Speech
from core.lm.sft_callbacks import SAVE_EVERY, peak_memory
from core.lm.waltz import Stage, WaltzJob
from core.lm.waltz_checkpoint import begin_stage, newest_checkpoint, restore_checkpoint, same_start, save_checkpoint
from core.lm.waltz_rollouts import Rollout, roll_out
from core.lm.waltz_undo import BeforeUpdate
from core.lm.waltz_update import CPU_PASS, Learner, NotANumber, Room, estimated, first_line, is_memory
from core.methods import UserError
from core.waltz.ledger import (
    EPISODES,
    LEDGER,
    AgentStep,
    Iteration,
    PlayedEpisode,
    count_outcomes,
    forget_after,
    tally,
    why_left_out,
)
from core.waltz.protocol import AGENTS, Role
from core.words import duration, size

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.judge_cache import CachedJudge
    from core.lm.agents import Agents
    from core.lm.waltz_prompts import PromptPlan, Prompts

SHOWN = {"conversation_reward": "Good replies", "unsafe": "Unsafe", "overrefuse": "Over-refusals", "label_accuracy": "Right labels"}
"""Shares on the run card."""


@dataclass(kw_only=True)
class Loop:
    """Everything a training holds while it runs."""

    job: WaltzJob
    run: ActiveRun
    agents: Agents
    judge: CachedJudge
    prompts: Prompts
    plan: PromptPlan
    narrow: bool
    """Matrix products in bfloat16."""
    done: int = 0
    """Iterations done, over all stages and sittings."""
    _stage: Stage | None = None
    _learners: dict[Role, Learner] = field(default_factory=dict)
    _room: Room | None = None
    _saved: float = 0.0
    _began: float = 0.0
    _first: int = 0
    """`done` as this sitting began."""

    def train(self) -> None:
        """All iterations that are not done yet. Raises StopRequested once a checkpoint is written."""
        folder, about = newest_checkpoint(self.run) or (None, {})
        self.done = self._first = int(about.get("iteration", 0))
        same_start(self.run, self._digest(), resumes=folder is not None)
        forget_after(self.run.dir / EPISODES, PlayedEpisode, self.done)
        forget_after(self.run.dir / LEDGER, Iteration, self.done)
        if folder is not None:
            self._put_back(folder)
        self._saved = self._began = time.monotonic()
        self._tell("")
        with AnswerLog(self.run.dir / EPISODES) as episodes, AnswerLog(self.run.dir / LEDGER) as ledger:
            for stage in self.job.stages:
                if self.done < stage.last:
                    self._begin(stage, folder)
                    self._go_through(stage, episodes, ledger)

    # ---- stages ----

    def _put_back(self, folder: Path) -> None:
        """The agents as the checkpoint has them, with the adapters that they were given on the way."""
        for role in AGENTS:
            if (folder / role / "adapter_config.json").is_file() and self.agents.adapter(role) is None:
                self._add_adapter(role)
            self.agents.restore(role, folder / role)
        self.run.notice(f"Goes on from {folder.name} of {self.job.iterations:,} iterations.")

    def _add_adapter(self, role: Role) -> None:
        job = self.job
        self.agents.add_adapter(role, rank=job.lora_rank, alpha=job.lora_alpha, target=job.lora_target, seed=job.seed)

    def _begin(self, stage: Stage, folder: Path | None) -> None:
        """Freeze the references, make the optimizers: each stage begins as a run of its own would."""
        job, resumed = self.job, self.done >= stage.first
        for role in stage.learning:
            if self.agents.adapter(role) is None:
                self._add_adapter(role)
        begin_stage(self.run, self.agents, stage.number, stage.learning, resumed=resumed)
        self._room = self._room or Room(job.batch_size, CPU_PASS if self._device.type == "cpu" else 0)
        recompute = self._recompute()
        self._learners = {role: Learner(agents=self.agents, role=role, rule=job, room=self._room, narrow=self.narrow, recompute=recompute,
                                        notice=lambda text: self.run.notice(text, "warning"), need=lambda: job.need(str(self._device)),
                                        stop_if_asked=self.run.stop_if_asked)
                          for role in stage.learning}
        self._stage = stage
        if resumed and folder is not None:
            restore_checkpoint(folder, self.agents, self._optimizers)
        who = "both agents learn, lambda = 0" if stage.number == 2 else "the feedback agent learns, the conversation agent is frozen"
        self.run.log(f"stage {stage.number}, iterations {stage.first:,} to {stage.last:,}: {who}; {self.plan.prompts} prompts an iteration")

    @property
    def _optimizers(self) -> dict[Role, Any]:
        return {role: learner.optimizer for role, learner in self._learners.items()}

    @property
    def _device(self) -> Any:
        return self.agents.base_model.device

    def _recompute(self) -> bool:
        """Recomputing activations saves memory and costs a third of the speed: only where memory would not do."""
        from core.lm.sft_cost import activation_bytes, available_bytes, shape_of

        if self.job.activation_checkpointing != "auto":
            return self.job.activation_checkpointing == "on"
        longest = 2 * (self.job.max_new_tokens + self.job.max_feedback_tokens)  # replies and feedback, with as much again for prompts
        tokens = max(CPU_PASS, longest) if self._device.type == "cpu" else self.job.batch_size * longest
        kept = activation_bytes(shape_of(self.agents.base_model.config), tokens, "bfloat16" if self.narrow else "float32")
        return kept > 0.8 * available_bytes(str(self._device))

    # ---- iterations ----

    def _go_through(self, stage: Stage, episodes: AnswerLog, ledger: AnswerLog) -> None:
        for iteration in range(self.done + 1, stage.last + 1):
            try:
                self.run.stop_if_asked()
                with self._memory("playing and judging", "Use a smaller rollout_batch, shorter answers"):
                    rollout = self._played(iteration, stage)
                self._refuse_silence(iteration, rollout)
                with self._memory("learning", "Use a smaller lora_rank, shorter answers"):
                    line = self._learned(iteration, stage, rollout)
            except StopRequested:  # what was played and learned of this iteration is given up; resuming does it again
                self._keep(planned=False)
                raise
            episodes.add(*(PlayedEpisode(iteration=iteration, episode=episode) for episode in rollout.episodes))
            ledger.add(line)
            self.done = iteration
            self._show(line)
            planned = iteration % self.job.save_every == 0 or iteration == stage.last
            if planned or time.monotonic() - self._saved > SAVE_EVERY:
                self._keep(planned=planned)

    def _played(self, iteration: int, stage: Stage) -> Rollout:
        job, agents = self.job, self.agents
        agents.speech = Speech(temperature=1.0, top_p=1.0, max_new_tokens=job.max_new_tokens, max_feedback_tokens=job.max_feedback_tokens,
                               seed=job.seed + (iteration << 31), log_probs=True)
        agents.should_stop = self.run.should_stop
        agents.progress = lambda role, finished, turns: self._tell(f"{role} agent, answer {finished} of {turns}")
        openings = [self.prompts[place] for place in self.plan.places(iteration)]
        return roll_out(openings, agents, self.judge, job.rules, job.rewards_in(stage.number), self.run.should_stop)

    def _refuse_silence(self, iteration: int, rollout: Rollout) -> None:
        """Nothing is learned from guesses: a judge that mostly fails ends the training, and so do words that mostly have no room."""
        played, missing = len(rollout.episodes), rollout.missing
        left_out = sum(bool(one.left_out) for one in rollout.episodes)
        if left_out <= self.job.max_missing * played:
            return
        self._keep(planned=False)
        reason = next(iter(why_left_out(rollout.episodes)), "no reason given")
        more = f"more than max_missing = {self.job.max_missing:g} ({reason}). Nothing was learned from them"
        if 2 * missing >= left_out:
            raise UserError(f"In iteration {iteration} the judge {self.job.judge} gave no verdict in {missing} of {played} episodes, "
                            f"{more}; mend the judge, and resume.")
        raise UserError(f"In iteration {iteration} there was no room for an answer in {left_out - missing} of {played} episodes, "
                        f"{more}; begin anew with shorter prompts, or with a smaller max_new_tokens or max_feedback_tokens.")

    def _learned(self, iteration: int, stage: Stage, rollout: Rollout) -> Iteration:
        began = time.perf_counter()
        made: dict[str, AgentStep] = {}
        before = BeforeUpdate(self._learners.values())
        for role, learner in self._learners.items():
            self._tell(f"{role} agent learns")
            try:
                made[role] = learner.learn(rollout.texts(role), iteration)
            except StopRequested:
                before.put_back()
                raise
            except NotANumber as error:
                raise UserError(f"{error} in iteration {iteration}; {self._last_good()} Use a smaller learning_rate than "
                                f"{self.job.learning_rate:g}, or dtype=float32.") from None
        seconds = {**rollout.seconds, "update": time.perf_counter() - began}
        return Iteration(iteration=iteration, stage=stage.number, episodes=len(rollout.episodes),
                         left_out=sum(bool(one.left_out) for one in rollout.episodes), why_left_out=why_left_out(rollout.episodes),
                         values=tally(rollout.episodes), outcomes=count_outcomes(rollout.episodes), agents=made, seconds=seconds,
                         memory_bytes=peak_memory())

    @contextmanager
    def _memory(self, doing: str, advice: str) -> Iterator[None]:
        """Where memory runs out and nothing can be halved, the estimate and what helps."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_memory(error):
                raise
            raise UserError(f"Out of memory while {doing} ({first_line(error)}).{estimated(self.job.need(str(self._device)))} {advice}, "
                            "tuning=qlora or a smaller model, and resume.") from error

    def _last_good(self) -> str:
        found = newest_checkpoint(self.run)
        return f"{found[0].name} is the last good one (waltz:{self.run.id}@{found[0].name})." if found else "there is no checkpoint yet."

    # ---- what is kept and shown ----

    def _keep(self, *, planned: bool) -> None:
        assert self._stage is not None
        there = newest_checkpoint(self.run)
        if not self.done or (there is not None and there[1].get("iteration") == self.done):
            return
        save_checkpoint(self.run, self.agents, self.done, self._stage.number, self._optimizers, planned=planned)
        self._saved = time.monotonic()

    def _show(self, line: Iteration) -> None:
        values = {name: one.mean for name, one in line.values.items() if one.mean is not None}
        for role, step in line.agents.items():
            found = {"loss": step.loss, "kl": step.kl, "entropy": step.entropy, "ratio_clipped_share": step.clip_share,
                     "sampler_mismatch": step.mismatch, "grad_norm": step.grad_norm, "tokens": step.tokens}
            values |= {f"{role}_{name}": value for name, value in found.items() if value is not None}
        seconds = {f"{name}_seconds": value for name, value in line.seconds.items()}
        first = {"conversation_reward": values.pop("conversation_reward", None)}  # the run card draws the first number
        self.run.metrics(line.iteration, **first, **values, **seconds, stage=line.stage, left_out=line.left_out,
                         seconds=sum(line.seconds.values()), memory_bytes=line.memory_bytes)
        stats = {words: f"{mean:.0%}" for name, words in SHOWN.items() if (mean := line.values[name].mean) is not None}
        self.run.stats(**stats, Stage=line.stage, Memory=size(line.memory_bytes))
        self._tell("")

    def _tell(self, what: str) -> None:
        fresh, total = self.done - self._first, self.job.iterations
        left = f"{duration((time.monotonic() - self._began) / fresh * (total - self.done))} left" if fresh and self.done < total else ""
        self.run.progress(self.done, total, "iterations", detail=", ".join(filter(None, (what, left))))

    def _digest(self) -> dict[str, Any]:
        """What must not change between sittings."""
        models = {}
        for role in AGENTS:
            loaded = self.agents.loaded(role)
            weights = loaded.adapter / "adapter_model.safetensors" if loaded.adapter else None
            models[role] = hashlib.sha256(weights.read_bytes()).hexdigest() if weights else loaded.revision or loaded.base
        return {"prompts_sha256": self.prompts.sha256, "models": models, "judge": self.judge.identity}
