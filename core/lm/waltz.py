"""WaltzRL (arXiv 2510.08240, as summarised in docs): two agents train each other. A feedback agent learns to say what helps, a
conversation agent learns to reply, and to reply again.

    c_0 ~ pi_c(. | p);  f_t ~ pi_f(. | p, c_0, .., c_t);  where f_t triggers  c_{t+1} ~ pi_c(. | p, c_0, feedback of f_0, ..)    t < T_max
    R_c(p, c)  = 1 if the judge calls c neither unsafe nor over-refusing          every reply of an episode earns R_c of the last one
    R_DIR(f_t) = R_c(p, c_{t+1}) - R_c(p, c_t)
    R_f        = alpha R_DIR [both labels right] + lambda [both labels right] + gamma [readable]          each feedback earns its own

    stage 1    pi_c is frozen: no gradient, no optimizer, no copy of it. pi_f learns format and labels: lambda > 0
    stage 2    both learn from the same episodes, each from its own words. lambda = 0

Each agent learns by REINFORCE++ with a clipped ratio and a KL term to its reference, which is the agent as the stage begins
(core/lm/waltz_loss.py has the equations). Words are drawn at temperature 1 from the whole vocabulary, so what is learned from is what
the policy says. An episode without a verdict teaches nothing and is counted.

waltz_prompts.py    prompts on the disk, split guard, plan     waltz_rollouts.py    play, judge, pay
waltz_texts.py      what was said, as strands and passes       waltz_head.py        log-probabilities and entropies
waltz_loss.py       advantages, clip                           waltz_update.py      one agent learns
waltz_loop.py       iterations, stages, curves                 waltz_checkpoint.py  what resuming needs
waltz_undo.py       an update that is stopped on the way
waltz_check.py, waltz_report.py, waltz_card.py                 core/lm/agents.py    two adapters over one base
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from core.lm.device import Dtype
from core.waltz.protocol import AGENTS, Opening, Role, Rules
from core.waltz.rewards import DirRule, RewardRule

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.lm.agents import Agents
    from core.lm.agents_find import AgentsRef
    from core.lm.waltz_prompts import PromptPlan, Prompts

Tuning = Literal["lora", "qlora"]
LEARNING: dict[int, tuple[Role, ...]] = {1: ("feedback",), 2: AGENTS}
"""{stage: agents that learn in it}."""


@dataclass(frozen=True)
class Stage:
    """A stretch of the training. Iterations are counted over all stages."""

    number: int
    first: int
    """Its first iteration."""
    last: int

    @property
    def learning(self) -> tuple[Role, ...]:
        """The agents that learn in it."""
        return LEARNING[self.number]


@dataclass(frozen=True, kw_only=True)
class UpdateRule:
    """How an agent learns from what it said in an iteration. Names and defaults are those of the `waltzrl` method's settings."""

    learning_rate: float = 1e-5
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    kl_coef: float = 0.01
    clip: float = 0.2
    ppo_epochs: int = 2
    minibatches: int = 2
    batch_size: int = 8
    """Episodes that go through the model at once at most."""
    seed: int = 42


@dataclass(frozen=True, kw_only=True)
class WaltzJob(UpdateRule):
    """A WaltzRL training. Names and defaults are those of the `waltzrl` method's settings."""

    models: AgentsRef
    """A `waltz:` reference, one model for both agents, or (conversation, feedback)."""
    openings: Callable[[], Iterable[Opening]]
    """The prompts; each call reads them anew."""
    judge: str
    rules: Rules
    rewards: RewardRule = field(default_factory=DirRule)
    stage: Literal[1, 2, "both"] = "both"
    stage1_iterations: int = 100
    stage2_iterations: int = 500
    rollout_batch: int = 32
    benign_share: float = 0.5
    max_new_tokens: int = 256
    max_feedback_tokens: int = 256
    max_missing: float = 0.5
    tuning: Tuning = "lora"
    lora_rank: int = 16
    lora_alpha: int = 16
    lora_target: str = "all-linear"
    save_every: int = 100
    dtype: Dtype = "auto"
    device: str = "auto"
    activation_checkpointing: Literal["auto", "on", "off"] = "auto"
    exclude_test_rows: bool = False
    allow_test_rows: bool = False
    need: Callable[[str], int | None] = lambda _: None
    """What the estimate says of memory on a device, in bytes; asked when it runs out."""

    @property
    def stages(self) -> list[Stage]:
        """The stages, in order."""
        found: list[Stage] = []
        for number, count in ((1, self.stage1_iterations), (2, self.stage2_iterations)):
            if self.stage in (number, "both"):
                before = found[-1].last if found else 0
                found.append(Stage(number, before + 1, before + count))
        return found

    @property
    def iterations(self) -> int:
        """Of all stages."""
        return self.stages[-1].last

    def rewards_in(self, stage: int) -> RewardRule:
        """What is paid in a stage: from stage 2 on a right label alone earns nothing."""
        return replace(self.rewards, lambda_=0.0) if stage == 2 and isinstance(self.rewards, DirRule) else self.rewards


@dataclass(kw_only=True)
class Waltzed:
    """What a training made, for reports and cards."""

    job: WaltzJob
    agents: Agents
    prompts: Prompts
    plan: PromptPlan
    dtype: str
    """Number format of the matrix products."""
    trained_parameters: dict[Role, int] = field(default_factory=dict)
    judged: int = 0
    """Verdicts asked for in this sitting, those found in the store not counted."""
    found: int = 0
    """Verdicts found in the store."""

    def save(self, run: ActiveRun, card: str) -> None:
        """conversation/ and feedback/, and the card."""
        for role in AGENTS:
            self.agents.save(role, run.dir / role)
        run.save_text("README.md", card)


def waltz(job: WaltzJob, run: ActiveRun) -> Waltzed:
    """Train, or go on from the run's last checkpoint. Raises StopRequested once a checkpoint is written."""
    from transformers import set_seed

    from core.judge_cache import CachedJudge, tell_tokens
    from core.judges import open_judge
    from core.lm.agents import open_agents
    from core.lm.load import quiet_transformers
    from core.lm.tune_setup import claim_device, hush
    from core.lm.waltz_loop import Loop
    from core.lm.waltz_prompts import plan_prompts, write_prompts
    from core.waltz.rules_file import write_rules

    hush()
    device = claim_device(job.device)
    set_seed(job.seed)
    run.progress(0, None, "prompts", detail="reading the prompts")
    with write_prompts(job.openings(), run.dir, run.workspace, exclude=job.exclude_test_rows, allow=job.allow_test_rows) as prompts:
        plan, note = plan_prompts({pool: len(places) for pool, places in prompts.pools.items()}, job.rollout_batch, job.benign_share,
                                  job.seed)
        if note:
            run.notice(note, "warning")
        write_rules(run.dir, job.rules)
        run.progress(0, None, "iterations", detail="loading the agents")
        dtype = matrix_dtype(job.dtype, device)
        with quiet_transformers():
            agents = open_agents(job.models, run.workspace, device=device, dtype=dtype, trainable=True, progress=run.progress,
                                 quantization="nf4" if job.tuning == "qlora" else None)
            judge = CachedJudge(open_judge(job.judge, run.workspace), run.workspace)
            try:
                loop = Loop(job=job, run=run, agents=agents, judge=judge, prompts=prompts, plan=plan, narrow=dtype == "bfloat16")
                loop.train()
            finally:
                judge.close()
                tell_tokens(judge, run)
    return Waltzed(job=job, agents=agents, prompts=prompts, plan=plan, dtype=dtype, judged=judge.asked, found=judge.found,
                   trained_parameters={role: sum(weight.numel() for weight in agents.parameters(role).values())
                                       for stage in job.stages for role in stage.learning})


def matrix_dtype(asked: str, device: str) -> Any:
    """float32 or bfloat16. float16 would need loss scaling, so GPUs without bfloat16 train in float32."""
    from core.lm.device import pick_dtype

    kind = pick_dtype(asked, device)
    return "float32" if kind == "float16" else kind
