"""`hs-dpo`: hard-sample direct preference optimisation (GuardReasoner, arXiv 2501.18492, formula 2). The work is done in core/lm/dpo.py."""

from __future__ import annotations

from typing import Annotated, Literal

from core import EpochsConfig, FromRun, Method, Problem, Stage, UserError, hookimpl, setting
from core.methods import short_path

PAPER = {"tuning": "full", "batch_size": 4, "gradient_accumulation_steps": 64, "learning_rate": 5e-6, "lr_scheduler_type": "cosine",
         "epochs": 2.0, "beta": 0.01, "sft_mix": 2.0, "sft_reduction": "sequence", "use_weights": True, "max_length": 2048}
SEEDS = {"tuning": "qlora", "batch_size": 4, "gradient_accumulation_steps": 64, "learning_rate": 5e-6, "epochs": 2.0, "beta": 0.01,
         "sft_mix": 2.0, "use_weights": True, "max_length": 2048, "lora_rank": 16, "lora_alpha": 16}
REHEARSAL = {"tuning": "lora", "batch_size": 8, "gradient_accumulation_steps": 1, "learning_rate": 5e-5, "epochs": 2.0, "beta": 0.01,
             "sft_mix": 2.0, "warmup_ratio": 0.05, "validation_share": 0.1}


class HsDpo(Method):
    """Teaches a guard to prefer its right answers to its wrong ones, on the samples it is unsure about."""

    name = "hs-dpo"
    title = "HS-DPO · hard-sample preferences"
    summary = "Teaches a trained guard to prefer its right answers to its wrong ones, the harder the sample the more."
    stage = Stage.TRAINING
    paper = "https://arxiv.org/abs/2501.18492"
    makes = ("model",)
    presets = {"rehearsal": REHEARSAL, "seed-plan": SEEDS, "paper": PAPER}
    preset_help = {
        "rehearsal": "Minutes on a CPU: the adapter of an R-SFT run goes on, 8 pairs a step, 5e-5 (ten times the paper's: an adapter bears "
                     "more than all weights do, and there are few steps), beta 0.01, two epochs.",
        "seed-plan": "The seeds' plan: a 4-bit base under the R-SFT adapter, 256 pairs a step (4 x 64), 5e-6, beta 0.01, R-SFT mix 2.",
        "paper": "GuardReasoner: all weights, 256 pairs a step (4 x 64 here, 64 x 1 on 4 GPUs there), 5e-6 cosine, 2 epochs, beta 0.01, "
                 "R-SFT mix 2.",
    }

    class Config(EpochsConfig):
        """Settings of a preference training."""

        data: Annotated[str, FromRun("run", methods=("build-pairs", "rsft-ensemble"))] = setting(aliases=("pairs",))
        """A finished run of build-pairs, or of rsft-ensemble (the pairs of its union), or a file of preferences (prompt, chosen, rejected,
        weight)."""
        model: Annotated[str, FromRun("model")] = setting(aliases=("base_model", "model_name_or_path"))
        """The R-SFT guard to start from, usually the one that was mined: run:<id>. As it is now, it is the frozen reference."""
        tuning: Literal["lora", "qlora", "full"] = setting("lora", aliases=("finetuning_type",))
        """lora: its adapter goes on, or a new one. qlora: the same on a 4-bit base, for less memory. full: all weights."""
        epochs: float = setting(2.0, aliases=("num_train_epochs",), gt=0, le=1000)
        """How often each pair is learned from."""
        learning_rate: float = setting(5e-6, aliases=("lr",), gt=0, le=1)
        """Step size at its highest. The paper's 5e-6 is for all weights; adapters bear ten times more."""
        batch_size: int = setting(4, aliases=("per_device_train_batch_size",), ge=1, le=4096)
        """Pairs that go through the model at once at most. With accumulation and processes it makes the pairs of a step."""
        gradient_accumulation_steps: int = setting(8, aliases=("accumulation",), ge=1, le=4096)
        """Batches per step. A step's loss is the mean over all its pairs, so 2 x 2 learns what 4 x 1 does."""
        beta: float = setting(0.01, aliases=("pref_beta",), gt=0, le=10)
        """Scale of the rewards: the smaller, the further the guard may go from the reference."""
        sft_mix: float = setting(2.0, aliases=("pref_ftx",), ge=0, le=100)
        """How much of the R-SFT loss on the chosen answers is added, so that the guard keeps writing well. 0 = none."""
        sft_reduction: Literal["sequence", "token"] = setting("sequence", advanced=True)
        """sequence: every chosen answer counts the same, however pairs are grouped. token: every token of a pass does, as in TRL."""
        use_weights: bool = setting(True)
        """Multiply each pair's preference loss by its weight. Off: plain DPO, and pairs may lack weights."""
        max_length: int = setting(2048, aliases=("cutoff_len", "max_seq_length"), ge=32, le=1_000_000, unit="tokens")
        """Longest prompt with an answer."""
        on_long_rows: Literal["drop", "cut", "error"] = setting("drop", advanced=True)
        """What to do with longer pairs: leave them out, keep the beginning of their answers, or refuse to start. They are counted."""
        validation_share: float = setting(0.05, ge=0, lt=0.9, aliases=("val_size",))
        """Part of the prompts whose pairs are held out, to measure loss, margins and accuracy on. 0 = none."""
        precompute_reference: bool = setting(True, advanced=True, aliases=("precompute_ref_log_probs",))
        """Ask the reference once, before the first step, and write down what it says. Off: keep a frozen copy and ask it at each step."""
        lora_dropout: float = setting(0.0, advanced=True, ge=0, lt=1)
        """Part of a new adapter's input that is dropped at random. 0 switches all dropout off, so that rewards are exact."""

    _seen = None
    """(config, prepared, seen pairs) of the last look."""

    def describe(self, config):
        return f"{short_path(config.model)} on {short_path(config.data)}"

    def continued(self, config, run_id):
        return {**config.model_dump(), "model": f"run:{run_id}"}

    def check(self, config):
        from core.lm.dpo_check import check
        from core.lm.dpo_data import find_pairs
        from core.lm.find import find_model

        for field, find in (("data", lambda: find_pairs(config.data, self.workspace)),
                            ("model", lambda: find_model(config.model, self.workspace.runs_dir)),
                            ("data", lambda: self._looked_at(config))):
            try:
                find()
            except UserError as error:
                return [self._refused(str(error), field)]
        return check(config, *self._looked_at(config))

    def _refused(self, message, field):
        """The problem of what could not be looked at, with its remedy where there is one."""
        if "exclude_test_rows" in message:
            return Problem(message, field=field, fix={"exclude_test_rows": True}, fix_label="Leave them out")
        if "has no weight" in message:
            return Problem(message, field=field, fix={"use_weights": False}, fix_label="Train without weights")
        return Problem(message, field="model" if message.startswith(("The tokenizer", "The chat template")) else field)

    def estimate(self, config):
        from core.lm.dpo_check import estimate

        prepared, seen = self._looked_at(config)
        return estimate(config, prepared, seen, self.workspace)

    def _looked_at(self, config):
        """(prepared, seen pairs): read once for check and estimate."""
        from core.lm.dpo_check import look_at
        from core.lm.dpo_data import prepare_pairs

        if self._seen is None or self._seen[0] != config:
            prepared = prepare_pairs(config, self.workspace)
            self._seen = (config, prepared, look_at(config, prepared))
        return self._seen[1], self._seen[2]

    def run(self, config, run):
        from core.lm.card import model_card
        from core.lm.dpo import DpoJob, prefer
        from core.lm.dpo_card import PARTS
        from core.lm.dpo_data import prepare_pairs
        from core.lm.dpo_report import make_report
        from core.lm.tune_setup import missing_teller

        if missing := missing_teller(config.report_to):
            raise UserError(missing)
        prepared = prepare_pairs(config, self.workspace, run)
        values = config.model_dump()
        settings = {name: values[name] for name in DpoJob.__dataclass_fields__ if name in values}
        trained = prefer(DpoJob(**settings, pairs=prepared.pairs), run)
        report = make_report(prepared, trained, run)
        trained.save(run, model_card(report, config.model_dump(mode="json"), run.name, PARTS))
        if run.rank == 0:
            run.save_report(report)
            run.log(report["headline"])


@hookimpl
def register_methods():
    return [HsDpo]
