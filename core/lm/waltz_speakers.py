"""Who answers in an evaluation of agents: a pair that plays the protocol, or any model that an engine can ask, alone.

Both are core.waltz.evaluate.Speaker.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from core.lm.agents import Agents, Speech, open_agents
from core.lm.engines import ALIKE, EXACT, Engine, EngineName, open_engine
from core.lm.generate import Generated
from core.records import Episode, Round, Said
from core.refs import parse_model_ref
from core.waltz.evaluate import AT_ONCE, Speaker, gathered
from core.waltz.protocol import Opening, Rules, Turn, conversation_turn, play

if TYPE_CHECKING:
    from core.lm.device import Dtype
    from core.runs import Workspace

NOT_YET = "the run ended before it came"
"""Why a reply is missing that later ones have overtaken; a resumed run asks for it."""


@dataclass(frozen=True)
class Speaking:
    """How answers are made."""

    speech: Speech
    device: str = "auto"
    dtype: Dtype = "auto"
    quantization: Literal["none", "nf4"] = "none"
    engine: EngineName = "auto"


def open_speaker(ref: str, rules: Rules, how: Speaking, workspace: Workspace, should_stop: Callable[[], bool],
                 log: Callable[[str], None]) -> Speaker:
    """Load the model, or the pair. rules: of the episodes; a model that is no pair plays without feedback."""
    quantization: Literal["nf4"] | None = None if how.quantization == "none" else how.quantization
    if parse_model_ref(ref).is_pair:
        log(f"loading the two agents of {ref}")
        agents = open_agents(ref, workspace, device=how.device, dtype=how.dtype, quantization=quantization)
        agents.speech, agents.should_stop = how.speech, should_stop
        log(EXACT if agents.exact else ALIKE)
        return Pair(agents, rules)
    log(f"loading {ref}")
    engine = open_engine(ref, workspace, how.engine, device=how.device, dtype=how.dtype, quantization=quantization, log=log)
    log(engine.promise)
    return Alone(engine, rules, how.speech, should_stop)


class Pair:
    """Two agents over one base."""

    def __init__(self, agents: Agents, rules: Rules) -> None:
        self.agents: Agents | None = agents
        self.rules = rules
        self.seconds: dict[str, float] = defaultdict(float)

    def episodes(self, openings: Iterable[Opening], max_new_tokens: int) -> Iterator[Episode]:
        """See Speaker."""
        assert self.agents is not None
        self.agents.speech = replace(self.agents.speech, max_new_tokens=max_new_tokens)
        return play(openings, self, self.rules, at_once=AT_ONCE)

    def say(self, turns: Sequence[Turn]) -> list[Said]:
        """The agents' words, and how long they took."""
        assert self.agents is not None
        began = time.perf_counter()
        said = self.agents.say(turns)
        part = "feedback" if turns[0].role == "feedback" else "revision" if turns[0].number else "reply"
        self.seconds[part] += time.perf_counter() - began
        return said

    def close(self) -> None:
        """Let go of the weights."""
        self.agents = None
        _free_memory()


class Alone:
    """One model, whatever engine asks it, as a conversation agent without a partner."""

    def __init__(self, engine: Engine, rules: Rules, speech: Speech, should_stop: Callable[[], bool]) -> None:
        self.engine, self.rules, self.speech, self.should_stop = engine, rules, speech, should_stop
        engine.forgiving = True  # a prompt that a server's filter refuses is a missing answer, not the end of the run
        self.seconds: dict[str, float] = defaultdict(float)

    def episodes(self, openings: Iterable[Opening], max_new_tokens: int) -> Iterator[Episode]:
        """See Speaker."""
        from core.active import StopRequested

        asked, played = itertools.tee(openings)  # an engine reads ahead, but a few batches only
        made = (self._batches if self.engine.holds_base else self._answers)(asked, max_new_tokens)
        gap = False
        for answer in self._timed(made):
            opening = next(played)
            while opening.row != answer.index:  # the call has ended, and some later answers had come
                gap = True
                yield _episode(opening, Said(text="", failed=NOT_YET))
                opening = next(played)
            yield _episode(opening, Said(text=answer.text, tokens=answer.tokens, finish=answer.finish, failed=answer.failed or None))
        if gap or next(played, None) is not None:
            raise StopRequested

    def _timed(self, made: Iterator[Generated]) -> Iterator[Generated]:
        while True:
            began = time.perf_counter()
            answer = next(made, None)
            self.seconds["reply"] += time.perf_counter() - began
            if answer is None:
                return
            yield answer

    def _batches(self, openings: Iterator[Opening], max_new_tokens: int) -> Iterator[Generated]:
        """Each batch is answered whole before any of it is given: whoever gets it may ask a judge over the same base."""
        while some := list(itertools.islice(openings, AT_ONCE)):
            made, broken = gathered(self._answers(some, max_new_tokens))
            yield from made
            if broken is not None:
                raise broken
            if len(made) < len(some):  # stopped
                return

    def _answers(self, openings: Iterable[Opening], max_new_tokens: int) -> Iterator[Generated]:
        asked, numbered = itertools.tee(openings)
        return self.engine.answers((conversation_turn(self.rules, opening.prompt, []) for opening in asked),
                                   indices=(opening.row for opening in numbered), max_new_tokens=max_new_tokens,
                                   temperature=self.speech.temperature, top_p=self.speech.top_p, seed=self.speech.seed,
                                   should_stop=self.should_stop)

    def close(self) -> None:
        """Let go of the weights."""
        self.engine.close()
        _free_memory()


def _episode(opening: Opening, reply: Said) -> Episode:
    return Episode(row=opening.row, prompt=opening.prompt, side=opening.side, source=opening.source, category=opening.category,
                   rounds=[Round(reply=reply)])


def _free_memory() -> None:
    """Before the next model is loaded."""
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
