"""One agent learns from what it said in an iteration (the equations are in core/lm/waltz_loss.py).

The log-probabilities of pi_old and of the reference are computed again under the training forward, for exactly the tokens that were
sampled, before the first step; how far they lie from those of the sampler is written down. Then a few epochs of minibatches, each
of whole episodes, each an optimizer step whose loss is the mean over its response tokens however they are cut into passes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from core.lm.four_bit import keep_differentiable
from core.lm.sft_attention import NAME, can_pack, use_rows_attention
from core.lm.sft_trainer import base_of
from core.lm.waltz_head import log_probabilities, measured, prepare_head
from core.lm.waltz_loss import Advantages, clipped_surrogate, normalised, returns_to_go, token_rewards
from core.lm.waltz_texts import PassMaker, Strand, Texts
from core.methods import UserError
from core.waltz.ledger import AgentStep
from core.waltz.protocol import Role
from core.words import size

if TYPE_CHECKING:
    from core.lm.agents import Agents
    from core.lm.waltz import UpdateRule

CPU_PASS = 2048
"""Tokens in one pass on a CPU."""
LOOK = 2
"""A pass without gradients holds so many times as much."""


class Step(NamedTuple):
    """One optimizer step."""

    loss: float
    clipped: int
    """Tokens whose gradient clipping stopped."""
    tokens: int
    grad_norm: float


@dataclass
class Room:
    """How much goes through the model at once. One for both agents, since memory that is not there is not there for either."""

    most: int
    tokens: int
    halved: bool = False

    def maker(self, pad: int, tree: bool, times: int = 1) -> PassMaker:
        """Passes of this size, or `times` as large where no gradients are kept."""
        return PassMaker(pad, tree, self.most * times, self.tokens * times)

    def halve(self) -> None:
        """Half as much from now on."""
        self.most, self.tokens, self.halved = max(1, self.most // 2), self.tokens // 2, True


@dataclass
class Learner:
    """One agent, its optimizer, and its way from texts to new weights. Its reference must be frozen (Agents.freeze)."""

    agents: Agents
    role: Role
    rule: UpdateRule
    room: Room
    narrow: bool
    """Matrix products in bfloat16, adapters in float32."""
    recompute: bool
    """Compute activations again in the backward pass instead of remembering them."""
    notice: Callable[[str], None]
    need: Callable[[], int | None] = lambda: None
    """What the estimate says, in bytes; for the words when memory runs out."""
    stop_if_asked: Callable[[], None] = lambda: None
    """Raises where somebody wants the run to stop; asked before each pass. What the update has changed by then is the caller's to undo."""
    weights: list[Tensor] = field(default_factory=list)
    optimizer: Any = None
    tree: bool = False

    def __post_init__(self) -> None:
        self.weights = list(self.agents.parameters(self.role).values())
        self.optimizer = torch.optim.AdamW(self.weights, lr=self.rule.learning_rate, weight_decay=self.rule.weight_decay)
        base = base_of(self.agents.base_model)
        prepare_head(base)
        keep_differentiable(base)
        self.tree = can_pack(base.config, base.device.type)

    def learn(self, texts: Texts, iteration: int) -> AgentStep:
        """Change the agent's weights by what it said. UserError when memory does not do, NotANumber, or what `stop_if_asked` raises."""
        if not len(texts):
            return AgentStep(learned=False, why="it wrote nothing from which something could be learned")
        with tree_attention(self.agents.base_model, self.tree), self._format():
            reference = None
            if self.rule.kl_coef:
                with self.agents.reference(self.role) as model:
                    reference = self._measure(model, texts)[0]
            with self.agents.training(self.role) as model:
                old, entropy = self._measure(model, texts)
                advantages = self.advantages(texts, old, reference)
                step = _described(texts, old, reference, entropy, advantages)
                if not advantages.teach:
                    return step.model_copy(update={"why": "all its texts earned the same"})
                steps = [self._step(model, texts, part, old, advantages.values) for part in self._minibatches(texts, iteration)]
        self.agents.forget()
        tokens = sum(one.tokens for one in steps)
        return step.model_copy(update={
            "learned": True, "steps": len(steps), "loss": sum(one.loss for one in steps) / len(steps),
            "clip_share": sum(one.clipped for one in steps) / tokens, "grad_norm": sum(one.grad_norm for one in steps) / len(steps)})

    def advantages(self, texts: Texts, old: Tensor, reference: Tensor | None) -> Advantages:
        """Of every response token of the batch. old, reference: log-probabilities, flat."""
        held = old if reference is None else reference
        rewards = token_rewards(old, held, texts.rewards, texts.lengths, self.rule.kl_coef)
        return normalised(returns_to_go(rewards, texts.lengths))

    def _measure(self, model: Any, texts: Texts) -> tuple[Tensor, Tensor]:
        """(log p, entropy) of every token, flat, without gradients."""
        chances = torch.full((texts.tokens,), math.nan, device=self.agents.base_model.device)
        entropies = torch.full_like(chances, math.nan)

        def look() -> None:
            for strands in self._maker(LOOK).passes(texts.strands):
                self.stop_if_asked()
                inputs, places = self._inputs(texts, strands, LOOK)
                chances[places], entropies[places] = measured(model, inputs)

        self._with_room(look)
        return chances, entropies

    def _minibatches(self, texts: Texts, iteration: int) -> Iterator[list[Strand]]:
        """Strands of each optimizer step: every episode once in an epoch, in an order of its own."""
        for epoch in range(self.rule.ppo_epochs):
            order = list(range(len(texts.groups)))
            random.Random(f"{self.rule.seed} {self.role} {iteration} {epoch}").shuffle(order)
            count = min(self.rule.minibatches, len(order))
            for number in range(count):
                part = order[len(order) * number // count:len(order) * (number + 1) // count]
                yield [texts.strands[strand] for group in part for strand in texts.groups[group]]

    def _step(self, model: Any, texts: Texts, strands: Sequence[Strand], old: Tensor, advantages: Tensor) -> Step:
        """One optimizer step: the loss is the mean over the response tokens of these strands."""
        tokens = len(texts.places(strands))
        found = [0.0, 0]

        def passes() -> None:
            self.optimizer.zero_grad(set_to_none=True)
            found[:] = [0.0, 0]
            for group in self._maker().passes(strands):
                self.stop_if_asked()
                inputs, places = self._inputs(texts, group)
                surrogate = clipped_surrogate(log_probabilities(model, inputs), old[places], advantages[places], self.rule.clip)
                loss = surrogate.losses.sum() / tokens
                loss.backward()
                found[0] += float(loss.detach())
                found[1] += int(surrogate.clipped.sum())

        self._with_room(passes)
        norm = float(torch.nn.utils.clip_grad_norm_(self.weights, self.rule.max_grad_norm or math.inf))
        if not (math.isfinite(found[0]) and math.isfinite(norm)):
            self.optimizer.zero_grad(set_to_none=True)
            raise NotANumber(f"The loss of the {self.role} agent is not a number")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return Step(found[0], int(found[1]), tokens, norm)

    def _maker(self, times: int = 1) -> PassMaker:
        return self.room.maker(self.agents.loaded(self.role).tokenizer.pad_token_id or 0, self.tree, times)

    def _inputs(self, texts: Texts, strands: Sequence[Strand], times: int = 1) -> tuple[dict[str, Any], Tensor]:
        """(the model's inputs, where the tokens that it will tell of stand in a flat tensor)."""
        device = self.agents.base_model.device
        inputs, order = self._maker(times).inputs(strands)
        moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}
        return moved, torch.tensor(texts.places(order), device=device)

    @contextmanager
    def _format(self) -> Iterator[None]:
        """The number format of training. PEFT would widen every adapter's input to float32 and autocast narrow it again."""
        from peft.helpers import disable_input_dtype_casting

        base = self.agents.base_model
        with torch.autocast(base.device.type, torch.bfloat16, enabled=self.narrow), \
                disable_input_dtype_casting(base, active=self.narrow), _recomputing(base, self.recompute):
            yield

    def _with_room(self, work: Callable[[], None]) -> None:
        """Do the work; where memory is short, once in a run, halve what goes through the model at once and do it again."""
        try:
            work()
            return
        except (RuntimeError, MemoryError) as error:
            if not is_memory(error):
                raise
            reason = first_line(error)
        estimate = estimated(self.need())
        if self.room.halved or self.room.most <= 1:
            raise UserError(f"Out of memory with {self.room.most} episodes at once ({reason}).{estimate} Use shorter answers, "
                            "activation_checkpointing=on, tuning=qlora or a smaller model, and resume.")
        self.room.halve()
        self.notice(f"Out of memory ({reason}): batch_size is {self.room.most} from here on. The result stays the same.{estimate}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._again(work, estimate, reason)

    def _again(self, work: Callable[[], None], estimate: str, reason: str) -> None:
        try:
            work()
        except (RuntimeError, MemoryError) as error:
            if not is_memory(error):
                raise
            raise UserError(f"Out of memory again with {self.room.most} episodes at once ({reason}).{estimate} Use shorter answers, "
                            "activation_checkpointing=on, tuning=qlora or a smaller model, and resume.") from None


class NotANumber(Exception):
    """The loss or its gradient is NaN or infinite; the optimizer did not take the step."""


def _described(texts: Texts, old: Tensor, reference: Tensor | None, entropy: Tensor, advantages: Advantages) -> AgentStep:
    """What can be said before anything is learned."""
    mismatch = None
    if texts.sampled is not None:
        mismatch = float((old - torch.tensor(texts.sampled, device=old.device)).abs().mean())
    return AgentStep(learned=False, texts=len(texts), tokens=texts.tokens, return_mean=advantages.mean, return_std=advantages.std,
                     kl=None if reference is None else float((old - reference).mean()), entropy=float(entropy.mean()), mismatch=mismatch)


@contextmanager
def tree_attention(base: Any, tree: bool) -> Iterator[None]:
    """Attention over a tree of pieces for a while; for speaking the model needs the usual one back."""
    before = base.config._attn_implementation
    if not tree or before == NAME:
        yield
        return
    use_rows_attention(base)
    try:
        yield
    finally:
        base.set_attn_implementation(before)


@contextmanager
def _recomputing(base: Any, on: bool) -> Iterator[None]:
    """Activations are computed again in the backward pass instead of remembered."""
    if on:
        base.activation_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        if on:
            base.activation_checkpointing_disable()


def is_memory(error: BaseException) -> bool:
    """Does it say that memory has run out, on a GPU or a CPU?"""
    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "out of memory" in text or "can't allocate memory" in text


def first_line(error: BaseException) -> str:
    """What an error says, for a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else "no message"


def estimated(need: int | None) -> str:
    """A sentence with the estimate, or "" where there is none."""
    return f" The estimate is {size(need)} of memory." if need else ""
