"""`waltzrl`: two agents train each other with the Dynamic Improvement Reward (arXiv 2510.08240). core/lm/waltz.py does it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict

from core import Config, FromRun, Method, Problem, Stage, UserError, hookimpl, setting
from core.methods import short_path

DIR = {"alpha": 0.65, "lambda_": 0.25, "gamma": 0.1}
PAPER = {"stage": "both", "stage1_iterations": 100, "stage2_iterations": 500, "rollout_batch": 32, "benign_share": 0.5, "revisions": 1,
         "learning_rate": 1e-5, "kl_coef": 0.01, "clip": 0.2, "reward": "dir", "dir": DIR, "save_every": 50}
SEEDS = {"stage": 2, "stage2_iterations": 1000, "rollout_batch": 32, "revisions": 1, "learning_rate": 1e-5, "save_every": 100,
         "reward": "dir", "dir": DIR}
REHEARSAL = {"stage": "both", "stage1_iterations": 3, "stage2_iterations": 3, "rollout_batch": 16, "benign_share": 0.5, "revisions": 1,
             "max_new_tokens": 64, "max_feedback_tokens": 96, "learning_rate": 1e-4, "kl_coef": 0.01, "clip": 0.2, "ppo_epochs": 1,
             "minibatches": 2, "judge": "rules", "reward": "dir", "dir": DIR, "save_every": 3}


class Weights(BaseModel):
    """Base of the two rewards' coefficients."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Dir(Weights):
    """R_f = alpha * R_DIR * [both labels right] + lambda * [both labels right] + gamma * [readable]."""

    alpha: float = setting(0.65, ge=0, le=100)
    """What an improvement earns (and a change for the worse costs), where both labels are right. The paper's value."""
    lambda_: float = setting(0.25, title="lambda", ge=0, le=100, validation_alias=AliasChoices("lambda_", "lambda"))
    """What two right labels earn in stage 1; in stage 2 it is 0. Our choice: no source gives one."""
    gamma: float = setting(0.1, ge=0, le=100)
    """What a feedback that can be read earns. The paper's value."""


class WeightedSum(Weights):
    """The seeds' sum: alpha * Safety + beta * Helpfulness + gamma * Alignment, each in [0, 1]."""

    alpha: float = setting(0.5, ge=0, le=100)
    """Of Safety: the score that the feedback gives (1 - score where the judge calls the reply unsafe), times whether its label on safety is
    the judge's, so that inflating does not pay."""
    beta: float = setting(0.3, ge=0, le=100)
    """Of Helpfulness: the judge does not call the last reply an over-refusal."""
    gamma: float = setting(0.2, ge=0, le=100)
    """Of Alignment: the fault that the feedback names is gone in the end, or it named none."""


class WaltzRL(Method):
    """Reply, feedback, revision: both agents learn from what the revision gained."""

    name = "waltzrl"
    title = "WaltzRL · two agents"
    summary = ("A feedback agent reads each reply and asks for a better one where it is unsafe or refuses without need; it earns what the "
               "revision gained. Then both learn together.")
    stage = Stage.RL
    leads = True
    paper = "https://arxiv.org/abs/2510.08240"
    makes = ("model",)
    presets = {"rehearsal": REHEARSAL, "paper": PAPER, "seed-plan": SEEDS}
    preset_help = {
        "rehearsal": "3 + 3 iterations of 16 short episodes with the embedded model, judged by rules: minutes on a CPU. Enough to see it "
                     "work, not to see it win.",
        "paper": "32 prompts an iteration, half of them benign, one revision, KL 0.01, clip 0.2, alpha 0.65, gamma 0.1. The paper's "
                 "learning rate of 5e-7 is for all weights; adapters bear 10 to 100 times more, so it is 1e-5. The iterations, epochs and "
                 "minibatches are our choice.",
        "seed-plan": "The seeds' plan: 1,000 iterations of joint training at 1e-5, a checkpoint every 100. Their first stage is waltz-sft.",
    }

    class Config(Config):
        """Settings of a WaltzRL training."""

        data: Annotated[str, FromRun("data")] = setting(aliases=("prompts",))
        """Prompts to play on: pooled prompts (waltz-prompts), an imported set, or a file. Best half harmful, half benign but borderline."""
        model: Annotated[str, FromRun("model")] = setting(aliases=("agents", "base_model", "model_name_or_path"))
        """The agents to start from: waltz:<id> of a waltz-sft or waltzrl run, or one model that both begin as. Hosted models cannot be
        trained: their weights cannot be had."""
        feedback_model: Annotated[str, FromRun("model")] = setting("", advanced=True)
        """The feedback agent, where it is not that of `model`; it must sit on the same base."""
        judge: str = setting("rules")
        """Who says whether a reply is unsafe or refuses without need: rules, run:<id> of a guard, openai:<model>@<base url> for a chat
        model behind a server, or several with + (run:<id>+rules)."""
        stage: Literal[1, 2, "both"] = setting("both")
        """1: the conversation agent is frozen, the feedback agent learns format and labels. 2: both learn. both: one after the other."""
        stage1_iterations: int = setting(100, ge=1, le=1_000_000)
        """Iterations of stage 1, where it is done."""
        stage2_iterations: int = setting(500, aliases=("iterations",), ge=1, le=1_000_000)
        """Iterations of stage 2, where it is done."""
        rollout_batch: int = setting(32, ge=1, le=65_536, unit="prompts")
        """Prompts played in each iteration. The paper's 32."""
        samples: int = setting(1, ge=1, le=64, aliases=("num_generations",))
        """Episodes of each prompt."""
        benign_share: float = setting(0.5, ge=0, le=1)
        """Part of these prompts that are benign, where the data have both kinds; of prompts that say which they are. The paper: half."""
        revisions: int = setting(1, ge=1, le=8, aliases=("t_max",), title="Revisions (T_max)")
        """How often a reply may be revised. The paper trains with 1."""
        reward: Literal["dir", "weighted_sum"] = setting("dir")
        """dir: what the revision gained, where the labels are right. weighted_sum: the seeds' sum of three scores."""
        dir: Dir = setting(Dir(), title="Coefficients of dir")
        """Used with reward = dir."""
        weighted_sum: WeightedSum = setting(WeightedSum(), title="Coefficients of weighted_sum")
        """Used with reward = weighted_sum."""
        learning_rate: float = setting(1e-5, aliases=("lr",), gt=0, le=1)
        """Step size of both optimizers; it stays constant."""
        kl_coef: float = setting(0.01, aliases=("beta",), ge=0, le=10)
        """Weight of the KL term that holds each agent to what it was as the stage began. 0 = nothing holds it."""
        clip: float = setting(0.2, aliases=("clip_range", "epsilon"), gt=0, lt=1)
        """How far a token's probability may move in an iteration before its gradient is cut: 1 - clip to 1 + clip times."""
        ppo_epochs: int = setting(2, ge=1, le=64, aliases=("num_ppo_epochs",))
        """How often each episode is learned from."""
        minibatches: int = setting(2, ge=1, le=4096, aliases=("num_mini_batches",))
        """Optimizer steps in one such round."""
        max_new_tokens: int = setting(256, ge=1, le=32_768, unit="tokens")
        """Longest reply; longer ones are cut, and learned from all the same."""
        max_feedback_tokens: int = setting(256, ge=1, le=32_768, unit="tokens")
        """Longest feedback; longer ones are cut, and cannot be read."""
        feedback_format: Literal["auto", "json", "score"] = setting("auto", advanced=True)
        """json: the paper's object. score: the seeds' text. auto: what the agents were taught."""
        max_missing: float = setting(0.5, ge=0, le=1)
        """End the training when the judge has no verdict for more than this part of an iteration's episodes. Such episodes never teach."""
        tuning: Literal["lora", "qlora"] = setting("lora", aliases=("finetuning_type",))
        """lora: an adapter for each agent. qlora: the same on a 4-bit base, for less memory."""
        batch_size: int = setting(8, aliases=("per_device_train_batch_size", "micro_batch"), ge=1, le=4096)
        """Episodes that go through the model at once at most; gradients are added up. It changes memory, not the result."""
        save_every: int = setting(100, aliases=("save_steps",), ge=1)
        """Iterations between two checkpoints that are kept. One every 10 minutes is written besides."""
        lora_rank: int = setting(16, advanced=True, aliases=("lora_r",), ge=1, le=1024)
        """Rank of a new adapter. One that an agent brings along keeps its own."""
        lora_alpha: int = setting(16, advanced=True, ge=1, le=4096)
        """Scale of a new adapter; its weight is alpha / rank."""
        lora_target: str = setting("all-linear", advanced=True)
        """Modules that get a new adapter: all-linear, or names with commas (q_proj,v_proj)."""
        weight_decay: float = setting(0.0, advanced=True, ge=0, le=1)
        """Pull of AdamW towards zero."""
        max_grad_norm: float = setting(1.0, advanced=True, ge=0)
        """Longer gradients are cut to this length. 0 = never."""
        activation_checkpointing: Literal["auto", "on", "off"] = setting("auto", advanced=True, aliases=("gradient_checkpointing",))
        """Recompute instead of remember: less memory, a third slower. auto: only where memory would not do."""
        dtype: Literal["auto", "float32", "bfloat16"] = setting("auto", advanced=True)
        """Number format of matrix products. auto: bfloat16 where the hardware has it. In float32 a re-run gives the same words."""
        device: str = setting("auto", advanced=True)
        """auto, cpu, cuda, cuda:<number> or mps. One process; several GPUs are not used."""
        exclude_test_rows: bool = setting(False)
        """Leave out prompts that are in a registered test set. Else such prompts stop the run."""
        allow_test_rows: bool = setting(False, advanced=True)
        """Use prompts of registered test sets all the same. Every report after it says so."""

    _seen: Any = None
    """(config, what was looked at) of the last look."""

    def describe(self, config):
        return f"{short_path(config.model)} on {short_path(config.data)}, stage {config.stage}"

    def continued(self, config, run_id):
        return {**config.model_dump(), "model": f"waltz:{run_id}", "feedback_model": "", "stage": 2, "feedback_format": "auto"}

    def check(self, config):
        from core.lm.waltz_check import check

        try:
            return check(config, self._looked_at(config))
        except UserError as error:
            return [_refused(str(error))]

    def estimate(self, config):
        from core.lm.waltz_check import estimate

        return estimate(config, self._looked_at(config))

    def _looked_at(self, config):
        """Agents, prompts and judge are looked at once for check and estimate."""
        from core.lm.waltz_check import look_at

        if self._seen is None or self._seen[0] != config:
            self._seen = (config, look_at(config, self.workspace))
        return self._seen[1]

    def run(self, config, run):
        from core.lm.waltz import WaltzJob, waltz
        from core.lm.waltz_card import model_card
        from core.lm.waltz_check import look_at, openings_of, peak, refs_of, rewards_of, rules_for
        from core.lm.waltz_report import make_report

        values = config.model_dump()
        settings = {name: values[name] for name in WaltzJob.__dataclass_fields__ if name in values}
        job = WaltzJob(**settings, models=refs_of(config), openings=lambda: openings_of(config, self.workspace),
                       rules=rules_for(config, self.workspace), rewards=rewards_of(config),
                       need=lambda device: peak(config, look_at(config, self.workspace), device))
        trained = waltz(job, run)
        report = make_report(trained, run)
        trained.save(run, model_card(report, config.model_dump(mode="json"), run.name))
        run.save_report(report)
        run.log(report["headline"])


def _refused(message):
    """The problem of what could not be looked at, with its remedy where there is one."""
    if "exclude_test_rows" in message:
        return Problem(message, field="data", fix={"exclude_test_rows": True}, fix_label="Leave them out")
    return Problem(message, field="judge" if message.startswith("judge") else "data" if "data" in message.split(";")[0] else "model")


@hookimpl
def register_methods():
    return [WaltzRL]
