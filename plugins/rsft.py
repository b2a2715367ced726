"""`rsft`: reasoning supervised fine-tuning (GuardReasoner, arXiv 2501.18492, formula 1). The work is done in core/lm/sft.py."""

from __future__ import annotations

from typing import Annotated, Literal

from core import EpochsConfig, FromRun, Method, OneOf, Problem, Stage, UserError, hookimpl, setting
from core.methods import short_path

PROJECTIONS = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
SEEDS = {"tuning": "qlora", "lora_rank": 16, "lora_alpha": 16, "lora_dropout": 0.0, "lora_target": PROJECTIONS, "batch_size": 4,
         "gradient_accumulation_steps": 8, "learning_rate": 5e-5, "epochs": 3.0, "max_length": 2048}
PAPER = {"tuning": "full", "batch_size": 16, "gradient_accumulation_steps": 24, "learning_rate": 5e-5, "lr_scheduler_type": "cosine",
         "warmup_ratio": 0.0, "epochs": 3.0, "max_length": 2048}
REHEARSAL = {"tuning": "lora", "lora_rank": 16, "lora_alpha": 32, "learning_rate": 1e-3, "epochs": 2.0, "batch_size": 8,
             "gradient_accumulation_steps": 1, "warmup_ratio": 0.05, "validation_share": 0.1}


class Rsft(Method):
    """Teaches a model to reason before it answers, from rows that hold a teacher's reasoning."""

    name = "rsft"
    title = "R-SFT · reasoning fine-tuning"
    summary = "Teaches a guard to reason before it answers, from rows with reasoning. LoRA, 4-bit LoRA or all weights."
    stage = Stage.TRAINING
    leads = True
    paper = "https://arxiv.org/abs/2501.18492"
    makes = ("model",)
    presets = {"rehearsal": REHEARSAL, "seed-plan": SEEDS, "paper": PAPER}
    preset_help = {
        "rehearsal": "Minutes on a CPU with the embedded model: a small adapter, a high learning rate, two epochs.",
        "seed-plan": "The seeds' plan: 4-bit LoRA of rank 16 on seven projections, 32 rows a step, 3 epochs.",
        "paper": "GuardReasoner: all weights, 384 rows a step (16 x 24 here, 16 x 6 on 4 GPUs there), 5e-5 cosine, 3 epochs.",
    }

    class Config(EpochsConfig):
        """Settings of a reasoning fine-tuning."""

        data: Annotated[str, FromRun("data")] = setting()
        """Rows with reasoning: an imported set, a run, or a file. Its test rows are never used."""
        model: Annotated[str, FromRun("model")] = setting("embedded", aliases=("base_model", "model_name_or_path"))
        """What to start from: embedded, hf:<hub id>, a folder, or run:<id>. An adapter is continued."""
        prompt_format: Annotated[str, OneOf("prompt format")] = setting("auto", aliases=("template",))
        """How the guard is asked and answers. auto: the one stored with the model, else what the rows call for."""
        tuning: Literal["lora", "qlora", "full"] = setting("lora", aliases=("finetuning_type",))
        """lora: a small adapter. qlora: an adapter on a 4-bit base, for less memory. full: all weights."""
        epochs: float = setting(3.0, aliases=("num_train_epochs",), gt=0, le=1000)
        """How often each row is learned from."""
        learning_rate: float = setting(5e-5, aliases=("lr",), gt=0, le=1)
        """Step size at its highest. Adapters of small models bear 1e-4 to 2e-3; full training wants 1e-5 to 5e-5."""
        batch_size: int = setting(4, aliases=("per_device_train_batch_size",), ge=1, le=4096)
        """Rows that go through the model at once at most. With accumulation and processes it makes the rows of a step."""
        gradient_accumulation_steps: int = setting(8, aliases=("accumulation",), ge=1, le=4096)
        """Batches per step. A step's loss is the mean over all its answer tokens, so 2 x 2 learns what 4 x 1 does."""
        max_length: int = setting(2048, aliases=("cutoff_len", "max_seq_length"), ge=32, le=1_000_000, unit="tokens")
        """Longest row, prompt and answer together."""
        on_long_rows: Literal["drop", "cut", "error"] = setting("drop", advanced=True)
        """What to do with longer rows: leave them out, keep their beginning, or refuse to start. They are counted either way."""
        validation_share: float = setting(0.05, ge=0, lt=0.9, aliases=("val_size",))
        """Part of the rows that is held out to measure the eval loss, where the set has no validation rows. 0 = none."""
        limit: int = setting(0, ge=0, aliases=("max_samples",), unit="rows")
        """Use only so many rows, drawn at random. 0 = all."""
        sample_rows: int = setting(3, advanced=True, ge=0, le=20)
        """Held-out rows that the model answers at each evaluation, to be read. 0 = none."""

    _seen = None
    """(config, prepared, counted) of the last look."""

    def describe(self, config):
        return f"{short_path(config.model)} on {short_path(config.data)}"

    def continued(self, config, run_id):
        return {**config.model_dump(), "model": f"run:{run_id}", "prompt_format": "auto"}

    def check(self, config):
        from core.lm.sft_check import check
        from core.lm.sft_data import learnable_rows
        from core.split_guard import find_hits

        try:
            hits = find_hits(learnable_rows(config.data, self.workspace), self.workspace.store)
        except UserError as error:
            return [Problem(str(error), field="data")]
        if hits.count and not (config.exclude_test_rows or config.allow_test_rows):
            return [Problem(f"The data holds {hits}. Such rows are not trained on.", field="data", fix={"exclude_test_rows": True},
                            fix_label="Leave them out")]
        try:
            prepared, counted = self._looked_at(config)
        except UserError as error:
            return [Problem(str(error), field="prompt_format" if "prompt_format" in str(error) else "model")]
        problems = check(config, prepared, counted)
        if prepared.guarded.overridden:
            problems.append(Problem(f"The data holds {hits}, and they will be trained on. Every report after this run says so.",
                                    field="allow_test_rows", severity="warning"))
        return problems

    def estimate(self, config):
        from core.lm.sft_check import estimate

        prepared, counted = self._looked_at(config)
        return estimate(config, prepared, counted, self.workspace)

    def _looked_at(self, config):
        """(prepared data, counted tokens): read once for check and estimate."""
        from core.lm.sft_check import count
        from core.lm.sft_data import prepare

        if self._seen is None or self._seen[0] != config:
            prepared = prepare(config, self.workspace)
            self._seen = (config, prepared, count(config, prepared))
        return self._seen[1], self._seen[2]

    def run(self, config, run):
        from core.lm.card import model_card
        from core.lm.sft import SftJob, fine_tune
        from core.lm.sft_data import prepare
        from core.lm.sft_report import make_report
        from core.lm.tune_setup import missing_teller
        from core.split_guard import write_trained_keys

        if missing := missing_teller(config.report_to):
            raise UserError(missing)
        prepared = prepare(config, self.workspace)
        if run.rank == 0:
            write_trained_keys(run.dir, prepared.train)
        self._say(config, prepared, run)
        values = config.model_dump()
        settings = {name: values[name] for name in SftJob.__dataclass_fields__ if name in values and name != "prompt_format"}
        trained = fine_tune(SftJob(**settings, prompt_format=prepared.prompt_format, train=prepared.train, held_out=prepared.held_out), run)
        report = make_report(prepared, trained, run)
        trained.save(run, model_card(report, config.model_dump(mode="json"), run.name))
        if run.rank == 0:
            run.save_report(report)
            run.log(report["headline"])

    def _say(self, config, prepared, run):
        """What a reader of the run must know about its beginning."""
        run.log(f"prompt format {prepared.prompt_format.name}: {prepared.why}")
        guarded = prepared.guarded
        if guarded.dropped:
            run.notice(f"Left out: {guarded.hits}.")
        if guarded.overridden:
            run.notice(f"Trained on although they are test rows (allow_test_rows): {guarded.hits}.", "warning")
        if config.model.startswith("run:"):
            before = self._last_rate(config.model)
            ended = f"; {config.model} ended at {before:.2g}" if before is not None else ""
            run.notice(f"Starts from {config.model} with a new schedule: learning rate {config.learning_rate:g}, "
                       f"{config.lr_scheduler_type}, {config.epochs:g} epochs{ended}.")

    def _last_rate(self, ref) -> float | None:
        from core.lm.tune import logged_steps

        try:
            steps = logged_steps(self.workspace.run(ref))
        except UserError:
            return None
        return steps[-1].get("learning_rate") if steps else None


@hookimpl
def register_methods():
    return [Rsft]
