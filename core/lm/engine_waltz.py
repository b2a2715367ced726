"""The engine behind `waltz:<run>`: two agents talk before one of them answers. What comes out is the last reply of each episode.

    with open_engine("waltz:waltzrl-0003", workspace) as engine:
        for answer in engine.answers(prompts): ...          # like any other model
        for episode in engine.episodes(prompts): ...        # with first reply, feedback and revision
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from core.lm.agents import Agents, Speech, open_agents
from core.lm.engines import ALIKE, EXACT, Engine, Prompt
from core.lm.generate import Generated
from core.methods import UserError
from core.records import Episode, Said
from core.waltz.protocol import Messages, Opening, Rules, Turn, play
from core.waltz.rules_file import rules_of

if TYPE_CHECKING:
    from core.lm.device import Dtype
    from core.lm.load import Quantization
    from core.refs import ModelRef
    from core.runs import Workspace

AT_ONCE = 64
"""Episodes in work at once: their turns share each decoding step."""
FEEDBACK_TOKENS = 512


class WaltzEngine(Engine):
    """Both agents over one base. `rules` are those the run was trained with; change them (revisions=0: the conversation agent alone)."""

    name = "waltz"

    def __init__(self, ref: ModelRef, workspace: Workspace, *, device: str = "auto", dtype: Dtype = "auto",
                 quantization: Quantization | None = None) -> None:
        self.ref = str(ref)
        self.rules: Rules = rules_of(self.ref, workspace)
        self.agents: Agents | None = open_agents(self.ref, workspace, device=device, dtype=dtype, quantization=quantization)
        self.promise = EXACT if self.agents.exact else ALIKE

    def answers(self, prompts: Iterable[Prompt], *, samples: int = 1, max_new_tokens: int = 256, temperature: float = 0.0,
                top_p: float = 1.0, seed: int = 42, indices: Iterable[int] | None = None, is_complete: Callable[[str], bool] | None = None,
                should_stop: Callable[[], bool] | None = None, on_batch: Callable[[int, int, int], None] | None = None,
                chat: bool = True, ordered: bool = True, have: Container[tuple[int, int]] = ()) -> Iterator[Generated]:
        """See Engine.answers. A reply is read by the other agent, so it goes on to its own end: is_complete is not asked, and
        answers come in order. What is there already (`have`) is made again: the episodes of a prompt are played together."""
        if not chat:
            raise UserError(f"{self.ref} is a pair of agents who chat, and this prompt format writes the whole prompt itself; use one that "
                            f"asks through the chat template, or one agent alone, {self.ref}#conversation.")
        speech = Speech(temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, max_feedback_tokens=FEEDBACK_TOKENS, seed=seed)
        done = tokens = 0
        began = time.perf_counter()
        for episode in self.episodes(prompts, speech, samples=samples, indices=indices, should_stop=should_stop):
            reply = episode.last.reply
            done, tokens = done + 1, tokens + sum(one.reply.tokens + (one.feedback.tokens if one.feedback else 0) for one in episode.rounds)
            if on_batch:
                on_batch(done, 0, tokens)
            yield Generated(episode.row, episode.sample, reply.text, (), 0, "length" if reply.finish == "length" else "stop",
                            time.perf_counter() - began, counted=reply.tokens)

    def episodes(self, prompts: Iterable[Prompt], speech: Speech | None = None, *, samples: int = 1, indices: Iterable[int] | None = None,
                 should_stop: Callable[[], bool] | None = None) -> Iterator[Episode]:
        """What the agents make of each prompt, in order. A prompt may be the messages of a chat, whose last one is the user's.

        The conversation agent reads the whole chat, the feedback agent the user's last message and the reply. When stopped, the episodes
        that are whole have been yielded.
        """
        from core.active import StopRequested

        assert self.agents is not None
        self.agents.speech, self.agents.should_stop = speech or Speech(), should_stop
        before: dict[int, Messages] = {}
        players = _InChat(self.agents, before)
        opened = (_opening(row, prompt, before) for row, prompt in zip(itertools.count() if indices is None else indices, prompts,
                                                                       strict=False))
        try:
            for episode in play(opened, players, replace(self.rules, samples=samples), at_once=AT_ONCE):
                yield episode
                if episode.sample == samples - 1:
                    before.pop(episode.row, None)
        except StopRequested:
            return

    def close(self) -> None:
        """Let go of the weights; they leave memory when nobody else uses them."""
        self.agents = None


class _InChat:
    """Players whose conversation agent also reads what was said before the last message."""

    def __init__(self, agents: Agents, before: dict[int, Messages]) -> None:
        self.agents, self.before = agents, before

    def say(self, turns: Sequence[Turn]) -> list[Said]:
        """See core.waltz.protocol.Players."""
        return self.agents.say([self._whole(turn) for turn in turns])

    def _whole(self, turn: Turn) -> Turn:
        before = self.before.get(turn.row)
        if not before or turn.role != "conversation":
            return turn
        own = [message for message in turn.messages if message["role"] == "system"]
        if before[0]["role"] == "system":
            own = []  # the chat brings its own
        return replace(turn, messages=[*own, *before, *(message for message in turn.messages if message["role"] != "system")])


def _opening(row: int, prompt: Any, before: dict[int, Messages]) -> Opening:
    """The episode of a prompt; what stands before a chat's last message is put into `before`."""
    if isinstance(prompt, str):
        return Opening(row, prompt)
    if not prompt or prompt[-1].get("role") != "user":
        raise UserError("The last message of a chat must be the user's for the agents to answer it.")
    if len(prompt) > 1:
        before[row] = [dict(message) for message in prompt[:-1]]
    return Opening(row, prompt[-1]["content"])
