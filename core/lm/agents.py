"""The two agents in memory: two adapters over ONE base, who speak by our own engine and can be trained, frozen and saved.

    agents = open_agents("waltz:waltz-sft-0001", workspace)          # both agents of a run, or ("run:a", "run:b"), or "embedded" for both
    agents.speech = Speech(temperature=1.0, seed=7)
    for episode in play(openings, agents, Rules()): ...               # core/waltz/protocol.py: `say` makes them its players
    spoken = agents.sample(turns)                                     # the same words with the tokens that were sampled
    with agents.training("feedback") as model: ...                    # gradients on this agent's adapter and nowhere else
    with agents.reference("feedback") as model: ...                   # what `freeze` kept: no gradients

An agent is a name of an adapter on the base, so switching costs no reload and a second agent costs its adapter alone. An agent without
an adapter is the base itself. The base is the one that every inference load in this process shares, a judge's over the same model too.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core.files import write_json
from core.lm.agents_find import AgentsRef, find_agents
from core.lm.batch_prefix import SharedPrefix
from core.lm.device import Dtype
from core.lm.find import CARD, NO_ADAPTER
from core.lm.generate import generate
from core.lm.load import Loaded, Quantization, load_beside, load_model
from core.lm.save import save_trained
from core.lm.template import render_chat, template_hash
from core.methods import UserError
from core.records import Said
from core.waltz.feedback import is_whole
from core.waltz.protocol import AGENTS, Role, Turn, turn_seed

if TYPE_CHECKING:
    from core.runs import Workspace

LOOK_AFTER = "\n}"
"""A feedback's object can be closed after a token that holds one of these."""


@dataclass(frozen=True)
class Speech:
    """How answers are drawn. temperature 0: the likeliest token each time."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    """Of the conversation agent's answers."""
    max_feedback_tokens: int = 256
    seed: int = 42
    log_probs: bool = False
    """Keep with each token how likely it was."""


@dataclass(frozen=True)
class Spoken:
    """One answer, as it was sampled."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    """All that the agent wrote, the token that ends the turn included where it wrote one. Empty where the prompt left no room."""
    text: str
    finish: Literal["stop", "length"]
    note: str = ""
    """Why the answer is short or empty, where the prompt is to blame."""
    log_probs: tuple[float, ...] = ()
    """Of each token as it was sampled; empty unless `Speech.log_probs` is set."""

    @property
    def said(self) -> Said:
        """Without the tokens."""
        return Said(text=self.text, tokens=len(self.token_ids), finish=self.finish)


@dataclass
class _Voice:
    """What speaks for an agent as long as its weights stay as they are."""

    state: int
    """Of the weights: every change in place counts up a weight's version."""
    loaded: Loaded
    """The agent, or its adapter in the base's number format: float32 adapters on a bfloat16 base cost a fifth of the time."""
    prefix: SharedPrefix = field(default_factory=SharedPrefix)
    """The beginning that its prompts share."""


@dataclass
class Agents:
    """Two agents over one base; `core.waltz.protocol.Players`. Open with `open_agents`."""

    ref: AgentsRef
    speech: Speech = field(default_factory=Speech)
    should_stop: Callable[[], bool] | None = None
    """Asked at every token; `sample` and `say` then raise StopRequested."""
    progress: Callable[[Role, int, int], None] | None = None
    """Told (role, finished, all) of the turns in work, every few tokens."""
    on_text: Callable[[Turn, str, bool], None] | None = None
    """Told (turn, text so far, is that all) while a single turn is in work, every few tokens: for a person who waits for the words."""
    _loaded: dict[Role, Loaded] = field(default_factory=dict)
    _references: dict[Role, str | None] = field(default_factory=dict)
    """Name of the frozen copy's adapter; None = the base alone."""
    _copies: dict[tuple[Role, str], str] = field(default_factory=dict)
    """Names of adapters that were made to hold copies, by what they are for."""
    _voices: dict[Role, _Voice] = field(default_factory=dict)
    _training: str | None = None

    # ---- looking ----

    def loaded(self, role: Role) -> Loaded:
        """The agent as engines take it. Its `model` and `activate` switch the agent's adapter on."""
        return self._loaded[role]

    def adapter(self, role: Role) -> str | None:
        """Name of the agent's adapter on the base; None = the agent is the base itself."""
        return self._loaded[role]._name

    @property
    def base(self) -> str:
        """Reference of the model below both."""
        return self._loaded["conversation"].base

    @property
    def base_model(self) -> Any:
        """The base in memory, without adapters."""
        return self._weights.model

    @property
    def exact(self) -> bool:
        """Does a re-run give the same words, whatever the batch?"""
        loaded = self._loaded["conversation"]
        return loaded.dtype == "float32" and loaded.quantization is None

    def parameters(self, role: Role) -> dict[str, Any]:
        """{name: weight} of the agent's adapter; {} where it has none."""
        name = self.adapter(role)
        return {} if name is None else _weights_of(self._weights.peft, name)

    def describe(self) -> dict[str, Any]:
        """For env.json and reports: the base's numbers once, and what each agent is."""
        each = {role: self._loaded[role].describe() for role in AGENTS}
        own = ("model", "adapter", "prompt_format", "chat_template_sha256")
        shared = {key: value for key, value in each["conversation"].items() if key not in own}
        return {**shared, "agents": {role: {key: each[role][key] for key in own} for role in AGENTS}}

    @property
    def _weights(self) -> Any:
        return self._loaded["conversation"]._weights

    # ---- speaking ----

    def say(self, turns: Sequence[Turn]) -> list[Said]:
        """See core.waltz.protocol.Players. Raises StopRequested when stopped."""
        return [spoken.said for spoken in self.sample(turns)]

    def sample(self, turns: Sequence[Turn]) -> list[Spoken]:
        """The answer to each turn, in order, with its tokens. All turns are of one role and one number.

        Noise is a function of (speech.seed, role, number, row, sample, token): in float32 an answer does not depend on what else is
        asked with it. A feedback ends as soon as its JSON object is closed.
        """
        if not turns:
            return []
        role, number = turns[0].role, turns[0].number
        if any((turn.role, turn.number) != (role, number) for turn in turns):
            raise ValueError("turns of one call are of one role and one number")
        voice, speech = self._voice(role), self.speech
        loaded = voice.loaded
        texts = [render_chat(loaded.tokenizer, turn.messages) for turn in turns]
        samples, firsts = _alike(turns, texts)
        feedback = role == "feedback"
        made = list(generate(
            loaded, [texts[place] for place in firsts], indices=[turns[place].row for place in firsts], samples=samples,
            first_samples=[turns[place].sample for place in firsts], temperature=speech.temperature, top_p=speech.top_p,
            max_new_tokens=speech.max_feedback_tokens if feedback else speech.max_new_tokens, seed=turn_seed(speech.seed, role, number),
            is_complete=self._look(turns), look_after=LOOK_AFTER, should_stop=self.should_stop,
            on_batch=self._tell(role, len(turns)), prefix=voice.prefix, log_probs=speech.log_probs))
        if len(made) < len(turns):
            from core.active import StopRequested

            raise StopRequested
        if self.on_text is not None and len(turns) == 1:
            self.on_text(turns[0], made[0].text, True)
        ids = loaded.tokenizer([texts[place] for place in firsts], add_special_tokens=False)["input_ids"]
        return [Spoken(tuple(ids[place // samples]), one.token_ids, one.text, one.finish, one.note, one.log_probs)
                for place, one in enumerate(made)]

    def _look(self, turns: Sequence[Turn]) -> Callable[[str], bool] | None:
        """Ends a feedback whose object is closed; lets a listener hear on the way."""
        ends, told = is_whole if turns[0].role == "feedback" else None, self.on_text
        if told is None or len(turns) != 1:
            return ends

        def look(text: str) -> bool:
            told(turns[0], text, False)
            return ends is not None and ends(text)

        return look

    def _tell(self, role: Role, turns: int) -> Callable[[int, int, int], None] | None:
        progress = self.progress
        return None if progress is None else lambda finished, _, __: progress(role, finished, turns)

    def _voice(self, role: Role) -> _Voice:
        """Kept over calls until the agent's weights move."""
        state = sum(weight._version for weight in self.parameters(role).values())
        if role not in self._voices or self._voices[role].state != state:
            self._voices[role] = _Voice(state, self._narrowed(role))
        return self._voices[role]

    def _narrowed(self, role: Role) -> Loaded:
        """The agent with a copy of its adapter in the base's number format, where that is another one."""
        import torch

        loaded = self._loaded[role]
        if loaded._name is None or loaded.quantization or self.base_model.dtype == torch.float32 or self._dtype(role) != torch.float32:
            return loaded
        return replace(loaded, _name=self._copy(role, "speaking", wide=False))

    def forget(self) -> None:
        """Drop keys and values kept over calls: to free them, or after a weight was replaced unseen (`weight.data = ...`)."""
        self._voices.clear()

    # ---- learning ----

    def add_adapter(self, role: Role, *, rank: int = 16, alpha: int = 16, target: str = "all-linear", seed: int = 42) -> None:
        """Give an agent that is the base itself a fresh LoRA adapter: it changes nothing until it is trained."""
        import torch

        from core.lm.tune import TuneJob
        from core.lm.tune_setup import _lora

        if self.adapter(role) is not None:
            raise ValueError(f"the {role} agent has an adapter already")
        job = TuneJob(model="", lora_rank=rank, lora_alpha=alpha, lora_target=target)
        name = self._free_name(role)
        with self._weights.lock, self._own_chance():
            torch.manual_seed(turn_seed(seed, role, 0))
            try:
                self._weights.new(name, _lora(job))
            except ValueError as error:
                raise UserError(f"lora_target = {target!r} does not fit {self.base} ({str(error).splitlines()[0][:160]}); use all-linear, "
                                "or module names with commas.") from error
            self._weights.peft.eval()
        self._loaded[role] = replace(self._loaded[role], _name=name)

    @contextmanager
    def training(self, role: Role) -> Iterator[Any]:
        """The model with this agent's adapter on, in training mode, gradients on that adapter's weights alone; then as it was.

        Dropout is off: it would give the words another probability than they were sampled with.
        """
        name = self.adapter(role)
        if name is None:
            raise ValueError(f"the {role} agent has no adapter to train; see add_adapter")
        weights = self._weights
        with weights.lock:
            weights.select(name)
            weights.peft.set_requires_grad(name, True)
            weights.peft.train()
            _without_dropout(weights.peft)
            self._training = name
            try:
                yield weights.peft
            finally:
                self._training = None
                weights.peft.set_requires_grad(name, False)
                weights.peft.eval()

    def freeze(self, role: Role) -> None:
        """Keep the agent as it is now: from here on `reference(role)` is this. A second call forgets the first.

        Costs a copy of the adapter; nothing where the agent has none, or has one that adds nothing yet (LoRA's B is zero): then the base
        alone is the reference.
        """
        name = self.adapter(role)
        if name is None or _adds_nothing(self.parameters(role)):
            self._references[role] = None
            return
        import torch

        self._references[role] = self._copy(role, "reference", wide=self._dtype(role) == torch.float32)

    def _copy(self, role: Role, purpose: str, *, wide: bool) -> str:
        """Name of an adapter that holds the agent's weights as they are now, without gradients; one for each purpose.

        wide: in float32, else in the base's number format.
        """
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        weights, name = self._weights, self.adapter(role)
        with weights.lock:
            kept = self._copies.get((role, purpose))
            if kept is None:
                kept = self._copies[role, purpose] = self._free_name(f"{role}-{purpose}")
                with self._own_chance():  # its first weights are random, and are written over at once
                    weights.peft.add_adapter(kept, copy.deepcopy(weights.peft.peft_config[name]), autocast_adapter_dtype=wide)
                weights.selected = "?"
            set_peft_model_state_dict(weights.peft, get_peft_model_state_dict(weights.peft, adapter_name=name), adapter_name=kept)
            weights.peft.set_requires_grad(kept, False)
            weights.peft.eval()
        return kept

    def _dtype(self, role: Role) -> Any:
        """Number format of the agent's adapter."""
        return next(iter(self.parameters(role).values())).dtype

    @contextmanager
    def reference(self, role: Role) -> Iterator[Any]:
        """The model as `freeze` kept this agent, without gradients; then whatever was on before. May stand inside `training`."""
        import torch

        if role not in self._references:
            raise ValueError(f"the {role} agent was never frozen")
        weights, name = self._weights, self._references[role]
        with weights.lock:
            before, was_training = weights.selected, bool(self._training)
            weights.select(name)
            model = weights.model if name is None else weights.peft
            model.eval()
            try:
                with torch.no_grad():
                    yield model
            finally:
                if before != "?":
                    weights.select(before)
                if was_training:
                    weights.peft.set_requires_grad(self._training, True)
                    weights.peft.train()
                    _without_dropout(weights.peft)

    # ---- keeping ----

    def save(self, role: Role, folder: Path) -> None:
        """Write the agent so that `waltz:<run>#<role>` finds it: adapter, tokenizer, template, card. The folder appears when it is whole.

        Of an agent that is its base nothing but the card and the tokenizer is written.
        """
        loaded, name = self._loaded[role], self.adapter(role)
        half = folder.with_name(f".{folder.name}.half")
        shutil.rmtree(half, ignore_errors=True)
        if name is None:
            half.mkdir(parents=True)
            loaded.tokenizer.save_pretrained(half)
            write_json(half / CARD, {"base": loaded.base, "prompt_format": loaded.prompt_format, NO_ADAPTER: True,
                                     "chat_template_sha256": template_hash(loaded.tokenizer)})
        else:
            with self._weights.lock:
                save_trained(loaded.model, loaded.tokenizer, half, base=loaded.base, prompt_format=loaded.prompt_format)
        shutil.rmtree(folder, ignore_errors=True)
        half.rename(folder)

    def restore(self, role: Role, folder: Path) -> None:
        """Put weights that `save` wrote into the agent's adapter, bit for bit. The adapter must be of the same shape."""
        from peft import set_peft_model_state_dict
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        name = self.adapter(role)
        if name is None:
            if (folder / "adapter_model.safetensors").exists():
                raise UserError(f"{folder} holds an adapter, and the {role} agent has none; resume with the models the run began with.")
            return
        try:
            saved = load_file(folder / "adapter_model.safetensors", device=str(self._weights.model.device))
            with self._weights.lock:
                found = set_peft_model_state_dict(self._weights.peft, saved, adapter_name=name)
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise UserError(f"The {role} agent cannot be put back from {folder} ({str(error).splitlines()[0][:160]}).") from error
        if found.unexpected_keys:
            raise UserError(f"{folder} holds weights that the {role} agent has no place for; resume with the settings the run began with.")

    def _own_chance(self) -> Any:
        """Random numbers drawn inside are not missed outside."""
        import torch

        device = self._weights.model.device
        return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])

    def _free_name(self, wanted: str) -> str:
        taken = self._weights.peft.peft_config if self._weights.peft is not None else {}
        return next(name for name in [wanted, *(f"{wanted}-{number}" for number in range(2, 10_000))] if name not in taken)


def open_agents(ref: AgentsRef, workspace: Workspace, *, device: str = "auto", dtype: Dtype = "auto",
                quantization: Quantization | None = None, trainable: bool = False,
                progress: Callable[[int, int | None, str], None] | None = None) -> Agents:
    """Both agents over one base in memory.

    ref: `waltz:<run>` or `waltz:<run>@checkpoint-100`; a pair (conversation, feedback) of models over one base; or one model for both.
    trainable: adapters are float32 copies of the caller's own (one for each agent, also where both begin as the same one); an agent
    without an adapter stays the base until `add_adapter`. UserError: different bases (both named), a hosted model, no such run.
    """
    first, second = find_agents(ref, workspace)
    options: dict[str, Any] = {"device": device, "dtype": dtype, "quantization": quantization, "progress": progress}
    if not trainable:
        loaded = load_model(first.ref, workspace.runs_dir, **options)
        return Agents(ref, _loaded={"conversation": loaded, "feedback": load_beside(loaded, second.ref, workspace.runs_dir)})
    base = load_model(first.base, workspace.runs_dir, **options)
    agents = Agents(ref, _loaded={"conversation": base, "feedback": base})
    for role, found in zip(AGENTS, (first, second), strict=True):
        agents._loaded[role] = load_beside(base, found.ref, workspace.runs_dir, trainable=True, called=agents._free_name(role))
    if base._weights.peft is not None:
        base._weights.peft.eval()
    return agents


def _alike(turns: Sequence[Turn], texts: Sequence[str]) -> tuple[int, list[int]]:
    """(samples, places of the first of each): k if the turns are groups of k samples of one prompt, which is then computed once; else 1."""
    groups = [list(group) for _, group in groupby(range(len(turns)), lambda place: (turns[place].row, texts[place]))]
    sizes = {len(group) for group in groups}
    runs_on = all(turns[place].sample == turns[group[0]].sample + step for group in groups for step, place in enumerate(group))
    if len(sizes) == 1 and runs_on:
        return sizes.pop(), [group[0] for group in groups]
    return 1, list(range(len(turns)))


def _weights_of(peft: Any, adapter: str) -> dict[str, Any]:
    inside, end = f".{adapter}.", f".{adapter}"
    return {name: weight for name, weight in peft.named_parameters() if inside in name or name.endswith(end)}


def _adds_nothing(weights: dict[str, Any]) -> bool:
    """Is this a LoRA adapter as it was made, whose product is zero?"""
    plain = all(".lora_A." in name or ".lora_B." in name for name in weights)
    return plain and not any(bool(weight.any()) for name, weight in weights.items() if ".lora_B." in name)


def _without_dropout(model: Any) -> None:
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
