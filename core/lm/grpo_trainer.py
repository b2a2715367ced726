"""TRL's GRPOTrainer with our roll-outs, our order of rows and a ledger of what every answer earned. The objective is TRL's own."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch.utils.data import Sampler
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from core.lm.grpo import reward_functions
from core.lm.grpo_callbacks import FollowRewards
from core.lm.grpo_rollouts import Rollouts
from core.lm.sft_trainer import PlannedTrainer, base_of, trained_weights
from core.lm.tune_setup import arguments, compute_dtype
from core.words import plural

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.lm.grpo import GrpoJob
    from core.lm.grpo_ledger import Ledger
    from core.lm.grpo_plan import GroupPlan
    from core.lm.grpo_table import PromptRows
    from core.lm.load import Loaded


class PlanSampler(Sampler[int]):
    """Rows as TRL's loader wants them: a step's rows, each once for every answer, and that list again for every pass of the step
    (answers are written once and learned from pass by pass). The whole training is one epoch to it, so resuming only skips."""

    def __init__(self, plan: GroupPlan) -> None:
        self.plan = plan

    def __len__(self) -> int:
        return self.plan.steps * self.plan.passes_per_step * self.plan.prompts * self.plan.group

    def __iter__(self) -> Iterator[int]:
        for rows in self.plan:
            for _ in range(self.plan.passes_per_step):
                yield from (row for row in rows for _ in range(self.plan.group))


class GroupTrainer(PlannedTrainer, GRPOTrainer):  # type: ignore[misc, unused-ignore]
    """GRPO whose reference is always the model as training starts.

    TRL copies an adapter that a model came with into a frozen one named "ref". For all weights it would read the base again from
    where its config says it came from, which after a merge is another model: there the copy is ours.
    """

    def __init__(self, *, model: Any, args: Any, rows: PromptRows, plan: GroupPlan, rewards: list[Any], rollouts: Rollouts, ledger: Ledger,
                 tokenizer: Any, follow: FollowRewards) -> None:
        self.plan, self.ledger, self.follow = plan, ledger, follow
        self.step_tokens = 0
        """Answer tokens of the current step."""
        wide, beta, frozen = trained_weights(model), args.beta, None
        if beta and not hasattr(model, "peft_config"):
            frozen, args.beta = copy.deepcopy(model).eval().requires_grad_(False), 0.0
        super().__init__(model=model, reward_funcs=rewards, args=args, train_dataset=rows.dataset, processing_class=tokenizer,
                         rollout_func=rollouts, callbacks=[follow])
        self._follow_with(follow, wide)
        if frozen is not None:
            add_fused_lm_head(frozen, temperature=self.temperature)
            self.beta = args.beta = beta
            self.ref_model = self.accelerator.prepare_model(frozen, evaluation_mode=True)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """The plan's order, not TRL's: TRL shuffles anew on resume from the second epoch on."""
        return PlanSampler(self.plan)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """The model ready to write for a while: no dropout, and one number format from prompt to last token.

        Accelerate has put autocast around `forward`. Weights in float32 would make keys of one format and values of another there;
        adapters in float32 on a narrower base need it.
        """
        model = self.model
        was_training, wrapped = model.training, model.forward
        unwrap = "_original_forward" in model.__dict__ and not hasattr(model, "peft_config")
        if unwrap:
            model.forward = model._original_forward
        model.eval()
        try:
            yield
        finally:
            model.train(was_training)
            if unwrap:
                model.forward = wrapped

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        """TRL's rewards, written down on their way."""
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        tokens = [len(ids) for ids in completion_ids_list]
        self.step_tokens = sum(tokens)
        self.ledger.add(self.state.global_step + 1, inputs, rewards.tolist(), tokens)
        return rewards


def make_trainer(job: GrpoJob, run: ActiveRun, loaded: Loaded, model: Any, rows: PromptRows, plan: GroupPlan, ledger: Ledger,
                 device: str) -> GroupTrainer:
    """The trainer of a job, ready to train."""
    shared: Any = plan  # of a plan `arguments` reads the number of steps and of passes, which this one has, too
    largest = plan.per_pass * (rows.longest + job.max_new_tokens)
    settings = arguments(job, run, shared, base_of(model).config, False, device, largest)
    settings |= {"per_device_train_batch_size": plan.per_pass, "num_generations": job.num_generations, "beta": job.beta,
                 "max_completion_length": job.max_new_tokens, "temperature": job.temperature, "top_p": job.top_p,
                 "loss_type": job.loss_type, "scale_rewards": job.scale_rewards, "shuffle_dataset": False,
                 "disable_dropout": True}  # dropout would give the answers another probability than they were sampled with
    passes = "one pass" if plan.passes_per_step == 1 else f"{plan.passes_per_step} passes"
    run.log(f"{plural(plan.steps, 'step')} of {plan.prompts} prompts x {plan.group} answers in {passes} of {plan.per_pass}, {device}, "
            f"{compute_dtype(job, device)}; reference: {'none (beta = 0)' if not job.beta else job.model + ' as it is now'}")
    return GroupTrainer(model=model, args=GRPOConfig(**settings), rows=rows, plan=plan,
                        rewards=reward_functions(job.prompt_format, job.rule), rollouts=Rollouts(job, loaded, run), ledger=ledger,
                        tokenizer=loaded.tokenizer, follow=FollowRewards(run, round(plan.epochs, 2), ledger))
