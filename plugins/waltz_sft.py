"""`waltz-sft`: both WaltzRL agents by supervised fine-tuning, before they train each other. The work is done in core/lm/waltz_sft.py."""

from __future__ import annotations

from typing import Annotated, Literal

from core import EpochsConfig, FromRun, Method, Problem, Stage, UserError, hookimpl, setting
from core.methods import short_path

REHEARSAL = {"tuning": "lora", "lora_rank": 16, "lora_alpha": 32, "learning_rate": 1e-3, "epochs": 2.0, "batch_size": 8,
             "gradient_accumulation_steps": 1, "warmup_ratio": 0.05, "max_length": 512, "asked_rows": 24}
PAPER_LIKE = {"model": "hf:meta-llama/Llama-3.1-8B-Instruct", "tuning": "lora", "lora_rank": 16, "lora_alpha": 32, "learning_rate": 1e-4,
              "lr_scheduler_type": "cosine", "warmup_ratio": 0.03, "epochs": 2.0, "batch_size": 8, "gradient_accumulation_steps": 4,
              "max_length": 2048, "asked_rows": 500}
SEEDS = {"tuning": "lora", "held_out_rows": 500, "validation_share": 0.2, "asked_rows": 500}


class WaltzSft(Method):
    """Teaches a conversation agent and a feedback agent from examples of each: two adapters over one base."""

    name = "waltz-sft"
    title = "Waltz SFT · two agents"
    summary = "Teaches a conversation agent to answer and a feedback agent to judge answers: two LoRA adapters over one base."
    stage = Stage.TRAINING
    paper = "https://arxiv.org/abs/2510.08240"
    makes = ("model",)
    presets = {"rehearsal": REHEARSAL, "paper-like": PAPER_LIKE, "seed-plan": SEEDS}
    preset_help = {
        "rehearsal": "Minutes on a CPU with the embedded model: small adapters, a high learning rate, two epochs.",
        "paper-like": "The base of the paper, Llama 3.1 8B Instruct, on one GPU: rank 16, 1e-4 cosine, 32 rows a step, two epochs. The "
                      "paper gives no fine-tuning before its training, so these numbers are ours.",
        "seed-plan": "The seeds' plan: 500 rows of each agent are held out, also of their 3,000, which is more than the usual tenth. The "
                     "rest is as the defaults: the seeds leave it to the hosted job.",
    }

    class Config(EpochsConfig):
        """Settings of the fine-tuning of both agents."""

        conversation: Annotated[str, FromRun("data", chat=True)] = setting(aliases=("conversation_data",))
        """What the conversation agent learns from: a set of conversations. The last message of each is learned."""
        feedback: Annotated[str, FromRun("data", chat=True)] = setting(aliases=("feedback_data",))
        """What the feedback agent learns from: conversations whose last message is feedback with labels (JSON or a safety score)."""
        model: Annotated[str, FromRun("model")] = setting("embedded", aliases=("base_model", "model_name_or_path"))
        """What both start from: embedded, hf:<hub id>, a folder, run:<id>, or both agents of a run, waltz:<id>. Adapters go on."""
        feedback_model: Annotated[str, FromRun("model")] = setting("", advanced=True)
        """Where the feedback agent starts, if not where the other does. It must sit on the same base."""
        tuning: Literal["lora", "qlora"] = setting("lora", aliases=("finetuning_type",))
        """lora: a small adapter for each. qlora: adapters on a 4-bit base, for less memory."""
        epochs: float = setting(3.0, aliases=("num_train_epochs",), gt=0, le=1000)
        """How often each row is learned from."""
        learning_rate: float = setting(1e-4, aliases=("lr",), gt=0, le=1)
        """Step size at its highest. Adapters of small models bear 1e-4 to 2e-3."""
        batch_size: int = setting(4, aliases=("per_device_train_batch_size",), ge=1, le=4096)
        """Rows that go through the model at once at most. With accumulation and processes it makes the rows of a step."""
        gradient_accumulation_steps: int = setting(8, aliases=("accumulation",), ge=1, le=4096)
        """Batches per step. A step's loss is the mean over all its answer tokens, so 2 x 2 learns what 4 x 1 does."""
        max_length: int = setting(2048, aliases=("cutoff_len", "max_seq_length"), ge=32, le=1_000_000, unit="tokens")
        """Longest conversation, its last message included."""
        on_long_rows: Literal["drop", "cut", "error"] = setting("drop", advanced=True)
        """What to do with longer rows: leave them out, keep their beginning, or refuse to start. They are counted either way."""
        held_out_rows: int = setting(500, ge=0, le=100_000, unit="rows")
        """Rows of each agent that are kept from training, to measure on, where the set has no validation rows of its own. 0 = none.
        Of fewer than 5,000 rows a tenth (validation_share), so 300 of 3,000; the preset seed-plan holds out 500 of them."""
        validation_share: float = setting(0.1, ge=0, lt=0.9, advanced=True, aliases=("val_size",))
        """Of a small set at most this share is held out."""
        asked_rows: int = setting(500, ge=0, le=100_000, advanced=True, unit="rows")
        """Held-out rows that the feedback agent answers at the end, to see how often its labels are right. 0 = none."""

    _seen = None
    """(config, prepared, counted tokens) of the last look."""

    def describe(self, config):
        return f"{short_path(config.model)} on {short_path(config.conversation)} and {short_path(config.feedback)}"

    def continued(self, config, run_id):
        return {**config.model_dump(), "model": f"waltz:{run_id}", "feedback_model": ""}

    def check(self, config):
        from core.data import find_chat
        from core.lm.agents_find import find_agents
        from core.lm.waltz_sft_check import check
        from core.lm.waltz_sft_data import models_of

        for field, find in (("conversation", lambda: find_chat(config.conversation, self.workspace, "conversation")),
                            ("feedback", lambda: find_chat(config.feedback, self.workspace, "feedback")),
                            ("feedback_model" if config.feedback_model else "model",
                             lambda: find_agents(models_of(config), self.workspace)),
                            ("feedback", lambda: self._looked_at(config))):
            try:
                find()
            except UserError as error:
                return [self._refused(str(error), field)]
        return check(config, *self._looked_at(config))

    def _refused(self, message, field):
        """The problem of what could not be looked at, with its remedy where there is one."""
        if "exclude_test_rows" in message:
            return Problem(message, field=field, fix={"exclude_test_rows": True}, fix_label="Leave them out")
        if message.startswith(("The tokenizer", "The chat template")):
            return Problem(message, field="model")
        return Problem(message, field="conversation" if "the conversation agent" in message else field)

    def estimate(self, config):
        from core.lm.waltz_sft_check import estimate

        prepared, tokens = self._looked_at(config)
        return estimate(config, prepared, tokens, self.workspace)

    def _looked_at(self, config):
        """(prepared rows, counted tokens): read once for check and estimate."""
        from core.lm.waltz_sft_check import count
        from core.lm.waltz_sft_data import prepare_agents

        if self._seen is None or self._seen[0] != config:
            prepared = prepare_agents(config, self.workspace)
            self._seen = (config, prepared, count(config, prepared))
        return self._seen[1], self._seen[2]

    def run(self, config, run):
        from core.lm.tune import TuneJob
        from core.lm.tune_setup import missing_teller
        from core.lm.waltz_sft import train_agents
        from core.lm.waltz_sft_data import prepare_agents, write_keys
        from core.lm.waltz_sft_report import make_report, write_card, write_job_files
        from core.waltz.rules_file import write_rules

        if missing := missing_teller(config.report_to):
            raise UserError(missing)
        run.progress(0, None, "steps", detail="looking at the rows")
        prepared = prepare_agents(config, self.workspace)
        self._say(prepared, run)
        if run.rank == 0:
            write_keys(prepared, run.dir)
            write_rules(run.dir, prepared.rules)
        values = config.model_dump()
        settings = {name: values[name] for name in TuneJob.__dataclass_fields__ if name in values and name != "model"}
        done = train_agents({role: TuneJob(**settings, model=found.ref) for role, found in prepared.found.items()}, prepared, run)
        if run.rank:
            return
        report = make_report(config, prepared, done, self._ask(config, prepared, done, run), run)
        plain = config.model_dump(mode="json")
        write_job_files(report, plain, run)
        write_card(report, plain, run)
        run.save_report(report)
        run.log(report["headline"])

    def _say(self, prepared, run):
        """What a reader of the run must know about its beginning."""
        if prepared.overridden:
            run.notice(f"Trained on although they are test rows (allow_test_rows): {prepared.hits}.", "warning")
        elif prepared.hits.count:
            run.notice(f"Left out: {prepared.hits}.")
        if unreadable := prepared.looked["feedback"].unreadable:
            run.notice(f"{unreadable:,} feedback rows have no labels that can be read and are left out.", "warning")

    def _ask(self, config, prepared, done, run):
        """What the feedback agent makes of held-out rows; None where none is asked. The agents are loaded as everybody will load them."""
        from core.lm.agents import Speech, open_agents
        from core.lm.waltz_sft import agent_folders
        from core.lm.waltz_sft_ask import score_feedback

        part = done["feedback"].part
        if not config.asked_rows or not part["rows"]["held_out"]["used"]:
            return None
        run.progress(0, None, "held-out rows", detail="feedback agent: loading both agents")
        folders = agent_folders(run.dir)
        longest = part["longest_held_out_answer"]
        agents = open_agents((str(folders["conversation"]), str(folders["feedback"])), self.workspace, device=config.device,
                             dtype=config.dtype, quantization="nf4" if config.tuning == "qlora" else None)
        agents.speech = Speech(max_feedback_tokens=longest + longest // 4 + 16, seed=config.seed)
        found = score_feedback(agents, prepared.held_out("feedback"), run, config.asked_rows)
        run.stats(**{"Labels right": f"{found['label_accuracy']['value']:.0%} of {found['rows']:,}"})
        return found


@hookimpl
def register_methods():
    return [WaltzSft]
