"""`grpo`: reinforcement on label correctness, the baseline beside HS-DPO (arXiv 2505.20087, appendix F). core/lm/grpo.py does it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import field_validator

from core import FromRun, Method, OneOf, Problem, Stage, UserError, WeightsConfig, hookimpl, setting
from core.methods import short_path

REHEARSAL = {"steps": 20, "prompts_per_step": 2, "num_generations": 4, "max_new_tokens": 256, "learning_rate": 5e-5, "batch_size": 4,
             "temperature": 1.0, "beta": 0.01}
PAPER = {"tuning": "full", "steps": 0, "epochs": 1.0, "prompts_per_step": 64, "num_generations": 8, "max_new_tokens": 1024,
         "learning_rate": 1e-6, "batch_size": 8, "temperature": 1.0, "beta": 0.01}


class Grpo(Method):
    """Pays a guard for right labels on rows that it is unsure about."""

    name = "grpo"
    title = "GRPO · reinforcement on right labels"
    summary = ("Samples several answers to each hard row and makes the better ones likelier. The baseline that HS-DPO has to beat: in the "
               "paper it did not beat fine-tuning.")
    stage = Stage.RL
    paper = "https://arxiv.org/abs/2505.20087"
    makes = ("model",)
    presets = {"rehearsal": REHEARSAL, "paper": PAPER}
    preset_help = {
        "rehearsal": "20 steps with the embedded model on a CPU: some quarter of an hour. Enough to see it work, not to see it win.",
        "paper": "Appendix F: temperature 1.0, learning rate 1e-6, KL 0.01, 8 roll-outs, all weights. The rows of a step are our choice. "
                 "It wants a GPU that holds the model, its copy and the optimizer.",
    }

    class Config(WeightsConfig):
        """Settings of a GRPO training."""

        data: Annotated[str, FromRun("data", methods=("mine-hard-samples",))] = setting()
        """Rows with gold labels: a mine-hard-samples run (its hard samples, with the edits by hand), an imported set, or a file. Test
        rows are never used."""
        model: Annotated[str, FromRun("model")] = setting(aliases=("base_model", "model_name_or_path"))
        """What to start from, usually run:<id> of an rsft run. An adapter is continued, and is the frozen reference, too."""
        prompt_format: Annotated[str, OneOf("prompt format")] = setting("auto", aliases=("template",))
        """How the guard is asked and answers. auto: the one stored with the model, else the one the rows were mined in."""
        tuning: Literal["lora", "qlora", "full"] = setting("lora", aliases=("finetuning_type",))
        """lora: a small adapter. qlora: an adapter on a 4-bit base, for less memory. full: all weights."""
        steps: int = setting(0, aliases=("max_steps",), ge=0)
        """Optimizer steps. 0 = as many as the epochs make."""
        epochs: float = setting(1.0, aliases=("num_train_epochs",), gt=0, le=1000)
        """How often each row is asked about, when steps is 0."""
        learning_rate: float = setting(1e-5, aliases=("lr",), gt=0, le=1)
        """Step size at its highest. Appendix F: 1e-6 to 1e-5 for all weights; adapters bear 10 to 100 times more."""
        beta: float = setting(0.01, aliases=("kl_coef",), ge=0, le=10)
        """Weight of the KL divergence to the model as training starts. Appendix F: 0 to 0.03. 0 = nothing holds it."""
        num_generations: int = setting(8, aliases=("rollouts", "k"), le=64)
        """Answers to each prompt: the group within which rewards are compared. Appendix F: 4 to 16."""
        prompts_per_step: int = setting(4, ge=1, le=4096)
        """Rows asked about in a step. With num_generations it makes the answers of a step."""
        temperature: float = setting(1.0, gt=0, le=5)
        """Spread of the answers. Appendix F: 0.6 to 1.4."""
        top_p: float = setting(1.0, gt=0, le=1, advanced=True)
        """Draw from the likeliest tokens that hold this share. Below 1 the answers are not those of the distribution that is trained."""
        max_new_tokens: int = setting(512, aliases=("max_completion_length",), ge=1, le=32768, unit="tokens")
        """Longest answer; longer ones are cut, and mostly unreadable."""
        request_weight: float = setting(1.0, ge=0, le=100)
        """What the request label counts, relative to the other labels that a row has. 0 = not at all."""
        response_weight: float = setting(1.0, ge=0, le=100)
        """What the response label counts."""
        completion_weight: float = setting(1.0, ge=0, le=100)
        """What the completion label (refusal or compliance) counts."""
        false_positive_penalty: float = setting(0.7, ge=0, le=1)
        """What a false alarm loses of the 1 that a right label earns. At most 1: no error may earn less than an unreadable answer."""
        false_negative_penalty: float = setting(1.0, ge=0, le=1)
        """What a miss loses. More than a false alarm: RL guards lose recall on what is harmful."""
        format_reward: float = setting(0.1, ge=0, le=1)
        """For an answer in which every asked label can be read, right or wrong. An unreadable one earns 0."""
        limit: int = setting(0, ge=0, aliases=("max_samples",), unit="rows")
        """Use only so many rows, drawn at random. 0 = all, or as many as the steps need."""
        batch_size: int = setting(8, aliases=("per_device_train_batch_size",), ge=1, le=4096)
        """Answers that are learned from at once at most; a step's answers are cut into equal passes. It changes memory, not the result."""
        loss_type: Literal["dapo", "grpo", "dr_grpo"] = setting("dapo", advanced=True)
        """dapo: mean over the tokens of a step. grpo: mean over each answer, then over answers. dr_grpo: divided by a constant length."""
        scale_rewards: Literal["group", "batch", "none"] = setting("group", advanced=True)
        """An advantage is the reward less its group's mean, divided by the standard deviation of the group, of the step, or by nothing."""
        lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = setting("constant", advanced=True)
        """How the learning rate falls over the run."""
        save_steps: int = setting(0, advanced=True, ge=0)
        """Steps between two checkpoints. 0 = four in a run; one every 10 minutes is written besides."""
        sample_rows: int = setting(2, advanced=True, ge=0, le=20)
        """Prompts of a step whose first answer is kept to be read, ten times in a run. 0 = none."""
        device: str = setting("auto", advanced=True)
        """auto, cpu, cuda, cuda:<number> or mps. One process; several GPUs are not used."""

        @field_validator("num_generations")
        @classmethod
        def a_group(cls, value: int) -> int:
            """An advantage is a reward less the mean of its group."""
            if value < 2:
                raise ValueError("an answer is judged against the mean of the other answers to its prompt, so a group needs at least 2; a "
                                 "lone answer always gets the advantage 0 and nothing is learned. 4 to 16 are usual")
            return value

    _seen = None
    """(config, choice of rows) of the last look."""

    def describe(self, config):
        return f"{short_path(config.model)} on {short_path(config.data)}"

    def continued(self, config, run_id):
        return {**config.model_dump(), "model": f"run:{run_id}", "prompt_format": "auto"}

    def check(self, config):
        from core.lm.grpo_check import check, count_prompts
        from core.lm.grpo_rows import find_rows
        from core.mining.guarding import refusal

        try:
            find_rows(config.data, self.workspace)
        except UserError as error:
            return [Problem(str(error), field="data")]
        try:
            choice = self._chosen(config.model_copy(update={"exclude_test_rows": True}))
        except UserError as error:
            return [Problem(str(error), field=_field_of(str(error)))]
        tests = choice.counts.tests
        if tests.count and not (config.exclude_test_rows or config.allow_test_rows):
            return [Problem(refusal(tests.hits), field="data", fix={"exclude_test_rows": True}, fix_label="Leave them out")]
        problems = check(config, choice, count_prompts(choice))
        if tests.count and config.allow_test_rows:
            problems.append(Problem(f"The data holds {tests.hits}, and they may be trained on. Every report after this run says so.",
                                    field="allow_test_rows", severity="warning"))
        return problems

    def estimate(self, config):
        from core.lm.grpo_check import count_prompts, estimate

        choice = self._chosen(config.model_copy(update={"exclude_test_rows": True}))
        return estimate(config, choice, count_prompts(choice))

    def _chosen(self, config):
        """The rows are read once for check and estimate."""
        from core.lm.grpo_rows import choose_rows

        if self._seen is None or self._seen[0] != config:
            self._seen = (config, choose_rows(config, self.workspace, _rule(config).tasks))
        return self._seen[1]

    def run(self, config, run):
        from core.lm.grpo import GrpoJob, reinforce
        from core.lm.grpo_card import model_card
        from core.lm.grpo_report import make_report
        from core.lm.grpo_rows import choose_rows
        from core.lm.tune_setup import missing_teller

        if missing := missing_teller(config.report_to):
            raise UserError(missing)
        rule = _rule(config)
        choice = choose_rows(config, self.workspace, rule.tasks)
        self._say(config, choice, run)
        values = config.model_dump()
        settings = {name: values[name] for name in GrpoJob.__dataclass_fields__ if name in values and name != "prompt_format"}
        trained = reinforce(GrpoJob(**settings, prompt_format=choice.prompt_format, rule=rule, choice=choice), run)
        report = make_report(trained, run)
        trained.save(run, model_card(report, config.model_dump(mode="json"), run.name))
        run.save_report(report)
        run.log(report["headline"])

    def _say(self, config, choice, run):
        """What a reader of the run must know about its beginning."""
        counts = choice.counts
        run.log(f"prompt format {choice.prompt_format.name}: {choice.why}")
        kind = "hard samples" if choice.mined else "rows of every difficulty"
        run.log(f"{choice.wanted:,} of {counts.usable:,} usable {kind} of {choice.source.name}")
        if counts.tests.count:
            fate = "May be trained on although they are test rows (allow_test_rows)" if config.allow_test_rows else "Left out"
            run.notice(f"{fate}: {counts.tests.hits}.", "warning" if config.allow_test_rows else "info")
        if config.top_p < 1:
            run.notice(f"Answers are drawn with top_p = {config.top_p:g} and learned from as if drawn with 1.")


def _rule(config):
    """What the settings pay for."""
    from core.lm.grpo import RewardRule
    from core.mining.samples import TASK_ORDER

    weights = {task: getattr(config, f"{task}_weight") for task in TASK_ORDER}
    return RewardRule(weights, config.false_positive_penalty, config.false_negative_penalty, config.format_reward)


def _field_of(message: str) -> str:
    """The field that an error is about."""
    if "prompt_format" in message:
        return "prompt_format"
    return "request_weight" if "reward counts" in message else "model" if "model" in message.split(";")[0] else "data"


@hookimpl
def register_methods():
    return [Grpo]
