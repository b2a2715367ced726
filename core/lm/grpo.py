"""GRPO with a verifiable reward: a guard is paid for right labels on rows whose gold is known. The baseline that HS-DPO has to beat.

Source: arXiv 2505.20087, appendix F, which trains reasoning guards with GRPO and reports that they stay below distilled ones. The
objective is that of arXiv 2402.03300 as TRL's GRPOTrainer computes it; what is ours is the reward, the roll-outs and the plan.

    reward(answer) = sum over the asked tasks of  w_task / (sum of w) * score(task)   +   format_reward [every label readable]
    score          = 1 right;  1 - false_positive_penalty,  1 - false_negative_penalty  wrong;  0 unreadable

Penalties lie in [0, 1], so that no wrong answer earns less than an unreadable one: a guard must not learn to say nothing.

grpo_rows.py      which rows, past the split guard     grpo_table.py      those rows on the disk
grpo_plan.py      rows of each step                    grpo_rollouts.py   answers by our own engine, from the live weights
grpo_trainer.py   TRL's trainer with these put in      grpo_callbacks.py  curves and the run card
grpo_ledger.py    what every answer earned             grpo_report.py     report.json
grpo_check.py     the look before a start              grpo_card.py       the README of what was made
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from core.formats import PromptFormat
from core.lm.load import Loaded
from core.lm.tune import Tuned, TuneJob
from core.records import POSITIVE, TASKS, GuardExample, Labels, Task

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.lm.grpo_plan import GroupPlan
    from core.lm.grpo_rows import RowChoice
    from core.lm.grpo_table import PromptRows

FORMAT = "format"
"""Name of the format term beside those of the tasks."""
RewardFunction = Callable[..., list[float | None]]


# ---- the reward ----


@dataclass(frozen=True)
class RewardRule:
    """What answers earn. weights: what each task counts, relative to the others that a row asks; 0 = not at all."""

    weights: Mapping[Task, float]
    false_positive_penalty: float = 0.7
    """In [0, 1]: what a false alarm (harmful, or refusal, where it is not) loses of the 1 of a right label."""
    false_negative_penalty: float = 1.0
    """In [0, 1]: what a miss loses. Appendix F penalises the two differently; it does not give the numbers."""
    format_reward: float = 0.1
    """For an answer in which every asked label is readable, right or wrong."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Tasks that count."""
        return tuple(task for task, weight in self.weights.items() if weight > 0)

    @property
    def most(self) -> float:
        """What the best answer earns."""
        return 1 + self.format_reward


def label_score(gold: str, said: str | None, task: Task, rule: RewardRule) -> float:
    """In [0, 1]: 1 for the right label, 0 for none, in between for the two kinds of error."""
    if said is None:
        return 0.0
    if said == gold:
        return 1.0
    return 1 - (rule.false_positive_penalty if said == POSITIVE[task] else rule.false_negative_penalty)


def task_reward(gold: Labels, said: Labels, task: Task, rule: RewardRule) -> float | None:
    """The task's share of the reward; None where the row has no gold label for it, or it does not count."""
    asked = [one for one in rule.tasks if getattr(gold, one)]
    if task not in asked:
        return None
    share = rule.weights[task] / sum(rule.weights[one] for one in asked)
    return share * label_score(getattr(gold, task), getattr(said, task), task, rule)


def is_readable(gold: Labels, said: Labels, rule: RewardRule) -> bool:
    """Is there a label for every task that was asked and counts?"""
    return all(getattr(said, task) for task in rule.tasks if getattr(gold, task))


def is_right(gold: Labels, said: Labels, rule: RewardRule) -> bool:
    """Are all of them right?"""
    return all(getattr(said, task) == getattr(gold, task) for task in rule.tasks if getattr(gold, task))


def format_term(gold: Labels, said: Labels, rule: RewardRule) -> float:
    """A little for an answer that can be read."""
    return rule.format_reward if is_readable(gold, said, rule) else 0.0


def reward(gold: Labels, said: Labels, rule: RewardRule) -> float:
    """What an answer earns, in [0, 1 + format_reward]; 0 for one that holds no readable label."""
    shares = (task_reward(gold, said, task, rule) for task in rule.tasks)
    return sum(share for share in shares if share is not None) + format_term(gold, said, rule)


def reward_functions(prompt_format: type[PromptFormat], rule: RewardRule) -> list[RewardFunction]:
    """The terms as TRL wants them: columns of a batch in, one number or None an answer out. Their sum is `reward`."""

    def named(name: str, term: Callable[[Labels, Labels], float | None]) -> RewardFunction:
        def function(*, text: list[str], **columns: Any) -> list[float | None]:
            earned = []
            for place, answer in enumerate(text):
                example = example_of({column: columns[column][place] for column in ASKED})
                earned.append(term(example.labels, prompt_format.parse(answer, example).labels))
            return earned

        function.__name__ = name
        return function

    def of_task(task: Task) -> RewardFunction:
        return named(task, lambda gold, said: task_reward(gold, said, task, rule))

    return [*map(of_task, rule.tasks), named(FORMAT, lambda gold, said: format_term(gold, said, rule))]


ASKED = ("user_prompt", "user_response", *(f"gold_{task}" for task in TASKS))
"""Columns of the training set that say what was asked."""


def example_of(columns: Mapping[str, Any]) -> GuardExample:
    """The interaction behind a row of the training set."""
    gold = {task: columns[f"gold_{task}"] for task in TASKS}
    return GuardExample(prompt=columns["user_prompt"], response=columns["user_response"], labels=Labels.model_validate(gold))


# ---- the training ----


@dataclass(frozen=True, kw_only=True)
class GrpoJob(TuneJob):
    """A GRPO training. Names and defaults are those of the `grpo` method's settings."""

    prompt_format: type[PromptFormat]
    rule: RewardRule
    choice: RowChoice
    """Which rows are asked about."""
    steps: int = 0
    prompts_per_step: int = 4
    num_generations: int = 8
    beta: float = 0.01
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 512
    loss_type: Literal["dapo", "grpo", "dr_grpo"] = "dapo"
    scale_rewards: Literal["group", "batch", "none"] = "group"
    sample_rows: int = 2


@dataclass(kw_only=True)
class Reinforced(Tuned):
    """What a GRPO training made."""

    job: GrpoJob
    rows: PromptRows
    plan: GroupPlan
    answer_tokens: int
    logged: list[dict[str, Any]] = field(default_factory=list)
    """The curve's points, in order."""


def reinforce(job: GrpoJob, run: ActiveRun) -> Reinforced:
    """Train, or go on from the run's last checkpoint. Raises StopRequested once a checkpoint is written.

    The frozen reference of the KL term is the model as training starts: with an adapter to go on from, that adapter.
    """
    from core.lm import tune
    from core.lm.grpo_ledger import Ledger
    from core.lm.grpo_plan import plan_groups
    from core.lm.grpo_table import write_rows
    from core.lm.grpo_trainer import make_trainer
    from core.lm.load import quiet_transformers
    from core.split_guard import write_trained_keys

    loaded, model, device = tune.ready_to_train(job, run)
    with write_rows(job, loaded, run) as rows:
        plan = plan_groups(len(rows.dataset), job)
        write_trained_keys(run.dir, map(example_of, rows.dataset))
        checkpoint = tune.checkpoint_of(run, {"rows": len(rows.dataset), "rows_sha256": rows.sha256, "steps": plan.steps})
        ledger = Ledger(run, job, plan, done=int(checkpoint.name.partition("-")[2]) if checkpoint else 0)
        with quiet_transformers():
            trainer = make_trainer(job, run, loaded, model, rows, plan, ledger, device)
            tune.carry_out(trainer, checkpoint)
        return _reinforced(job, run, loaded, trainer, rows, plan)


def _reinforced(job: GrpoJob, run: ActiveRun, loaded: Loaded, trainer: Any, rows: PromptRows, plan: GroupPlan) -> Reinforced:
    from core.lm.grpo_callbacks import logged_rewards
    from core.lm.sft_callbacks import peak_memory
    from core.lm.tune_setup import compute_dtype

    logged = logged_rewards(run)
    return Reinforced(job=job, loaded=loaded, model=trainer.model, prompt_format=job.prompt_format.name, rows=rows, plan=plan,
                      steps=trainer.state.global_step, seconds=sum(line["seconds"] for line in logged),
                      answer_tokens=sum(line["tokens"] for line in logged),
                      peak_memory_bytes=max([peak_memory(), *(line["memory_bytes"] for line in logged)]),
                      dtype=compute_dtype(job, loaded.device), logged=logged)
