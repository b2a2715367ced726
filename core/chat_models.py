"""What a chat model is: something that answers messages, in words that grow while it writes.

    local     weights on this machine, with or without an adapter          embedded, hf:..., a folder, run:<id>, waltz:<run>#conversation
    agents    two agents who talk before they answer                       waltz:<run>
    server    anything that speaks OpenAI's HTTP interface                 openai:<model>@<base url>

A hosted service is one more class in a plugin: it names the environment variable of its key, says what an answer cost, and says so when
it refused. Chat models live in the model worker (core/serve_worker.py), never in the process that draws pages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from core.methods import UserError
from core.refs import ModelRef, parse_model_ref

if TYPE_CHECKING:
    from core.records import Episode
    from core.runs import Workspace

Who = Literal["reply", "feedback", "revision"]
Finish = Literal["stop", "length", "refused"]
Offer = tuple[str, str]
"""(shown, model reference)."""


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn."""

    temperature: float = 0.0
    """0 = the likeliest token each time."""
    top_p: float = 1.0
    max_new_tokens: int = 256
    max_feedback_tokens: int = 256
    """Of a feedback agent's answers."""
    seed: int = 42
    revisions: int | None = None
    """Of two agents at most; None = as they were trained, 0 = the conversation agent alone."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Sampling:
        """From {name: value}; what is missing or None is the default. UserError for a value that cannot be."""
        try:
            made = cls(**{name: value for name, value in options.items() if value is not None})
        except TypeError as error:
            raise UserError(f"A sampling setting is unknown: {error}.") from None
        for name, fits, bounds in (("temperature", 0 <= made.temperature <= 5, "from 0 to 5"),
                                   ("top_p", 0 < made.top_p <= 1, "above 0, to 1"),
                                   ("max_new_tokens", 1 <= made.max_new_tokens <= 131_072, "from 1 to 131,072")):
            if not fits:
                raise UserError(f"{name} = {getattr(made, name)} must be {bounds}.")
        return made


@dataclass(frozen=True)
class Words:
    """All that one turn says so far."""

    who: Who
    turn: int
    """0 = the first reply, 1 = its feedback, 2 = the revision, ..."""
    text: str
    done: bool = False


@dataclass(frozen=True)
class Outcome:
    """What is known when an answer is whole."""

    tokens: int
    """Of the answer; of all turns where two agents spoke."""
    prompt_tokens: int = 0
    finish: Finish = "stop"
    note: str = ""
    """Why the answer is short, empty or refused, in one sentence."""
    usd: float | None = None
    """What it cost; None = nothing is paid."""
    episode: Episode | None = None
    """Where two agents spoke: every turn of theirs."""


class ChatModel:
    """Answers messages. Return the class from `register_chat_models`."""

    name: ClassVar[str]
    title: ClassVar[str]
    local: ClassVar[bool] = True
    """It computes on this machine, so it takes turns with the others and its memory counts. False: texts leave the machine."""
    key: ClassVar[str] = ""
    """Environment variable of the key it needs; "" = none. core.api_key.ApiKey(self.given_key, self.key) reads and checks it."""

    def __init__(self, ref: ModelRef, workspace: Workspace, key: str = "") -> None:
        """Cheap: weights and connections are opened by the first `answer`. key: a visitor's own, in place of the environment's."""
        self.ref, self.workspace, self.given_key = ref, workspace, key

    @classmethod
    def takes(cls, ref: ModelRef) -> bool:
        """Does it answer for this reference?"""
        raise NotImplementedError

    @classmethod
    def offered(cls, workspace: Workspace) -> list[Offer]:
        """What a list of models shows; references beyond it can be typed."""
        return []

    def answer(self, messages: Sequence[dict[str, str]], sampling: Sampling, tell: Callable[[Words], None],
               should_stop: Callable[[], bool]) -> Outcome:
        """Answer [{role, content}], whose last one is the user's; `tell` hears the words as they grow.

        should_stop: asked all the time; a stopped answer raises StopRequested. A failure is a UserError in one sentence.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Give back what it holds."""


def chat_model_for(text: str, workspace: Workspace) -> tuple[type[ChatModel], ModelRef]:
    """(class, parsed reference) of the model that `text` names. UserError where nothing answers for it."""
    ref = parse_model_ref(text)
    for kind in workspace.plugins.chat_models.values():
        if kind.takes(ref):
            return kind, ref
    raise UserError(f"No chat model answers for {ref}: no plugin takes {ref.kind}: references; the Plugins page lists what is loaded.")


def offered_models(workspace: Workspace) -> list[Offer]:
    """Everything that the loaded chat models offer, each reference once."""
    found = {ref: shown for kind in workspace.plugins.chat_models.values() for shown, ref in reversed(kind.offered(workspace))}
    return [(shown, ref) for ref, shown in reversed(found.items())]
