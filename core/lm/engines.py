"""One way to ask a model many things, whatever answers: our own engine, vLLM, transformers' continuous batching, a server.

    with open_engine("run:rsft-0001", workspace) as engine:
        for made in engine.answers(prompts, samples=4, temperature=1.0):
            ...

Answers come in input order while they are made, prompts are read as they are needed, so neither is ever all in memory.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from core.lm import generate, load, template
from core.lm.batch_prefix import SharedPrefix
from core.lm.device import Dtype, pick_device
from core.lm.generate import Generated
from core.lm.load import Loaded, Quantization
from core.methods import UserError
from core.refs import ModelRef, parse_model_ref

if TYPE_CHECKING:
    from core.runs import Workspace

EngineName = Literal["auto", "own", "vllm", "transformers", "server"]
Prompt = str | Sequence[dict[str, str]]
"""What a user says; a whole rendered prompt where the format writes that itself; or, for chats, messages."""
EXACT = "In float32, a re-run gives the same texts whatever the batch."
ALIKE = "Same distribution; texts may differ between runs."


class Engine:
    """Answers prompts. Open one with `open_engine` and close it, or use it in a `with`."""

    name: ClassVar[str]
    promise: str = ALIKE
    """What a re-run gives; a sentence for the run."""
    choice: str = ""
    """Which engine this is, and why: one sentence for the log."""
    ref: str
    """Reference of the model that answers."""
    loaded: Loaded | None = None
    """The weights, where they are in this process and anything but `answers` may use them."""
    forgiving: bool = False
    """A request that fails alone (a server's content filter, say) becomes an answer that says why it `failed`. Else it ends the call."""
    holds_base: ClassVar[bool] = False
    """Computes on between two answers: whoever uses other weights over the same base in this thread must use up `answers` before."""

    def answers(self, prompts: Iterable[Prompt], *, samples: int = 1, max_new_tokens: int = 256, temperature: float = 0.0,
                top_p: float = 1.0, seed: int = 42, indices: Iterable[int] | None = None, is_complete: Callable[[str], bool] | None = None,
                should_stop: Callable[[], bool] | None = None, on_batch: Callable[[int, int, int], None] | None = None,
                chat: bool = True, ordered: bool = True, have: Container[tuple[int, int]] = ()) -> Iterator[Generated]:
        """Answer each prompt `samples` times; yields in input order, the samples of a prompt together.

        chat: prompts are what a user says (or messages) and go through the model's chat template; else they are the whole text.
        indices: the rows' own numbers, where they are not 0, 1, 2, ...; what is drawn depends on them, so a resumed run passes the old
        ones. is_complete(text): the answer is whole, stop there. should_stop: asked all the time; what is finished is still yielded, in
        order, with gaps, and so it is where a request fails and ends the call. on_batch(finished, running, tokens): totals of this call,
        every few steps. ordered=False: as they come, and no slow answer holds the others up. have: (row, sample) of answers that are there
        already; they are left out (two agents make them again).
        """
        raise NotImplementedError

    def close(self) -> None:
        """Give back what the engine holds. It cannot answer any more."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class OwnEngine(Engine):
    """core/lm/generate.py. The beginning that prompts share is computed once for as long as the engine is open."""

    name = "own"

    def __init__(self, loaded: Loaded) -> None:
        self.loaded, self.ref = loaded, loaded.ref
        self.promise = EXACT if loaded.dtype == "float32" and loaded.quantization is None else ALIKE
        self.prefix = SharedPrefix()  # of this model with this adapter: another engine has another one

    def answers(self, prompts: Iterable[Prompt], *, samples: int = 1, max_new_tokens: int = 256, temperature: float = 0.0,
                top_p: float = 1.0, seed: int = 42, indices: Iterable[int] | None = None, is_complete: Callable[[str], bool] | None = None,
                should_stop: Callable[[], bool] | None = None, on_batch: Callable[[int, int, int], None] | None = None,
                chat: bool = True, ordered: bool = True, have: Container[tuple[int, int]] = ()) -> Iterator[Generated]:
        """See Engine.answers."""
        assert self.loaded is not None
        texts = rendered(self.loaded.tokenizer, prompts, chat)
        yield from generate.generate(self.loaded, texts, samples=samples, max_new_tokens=max_new_tokens, temperature=temperature,
                                     top_p=top_p, seed=seed, indices=indices, is_complete=is_complete, should_stop=should_stop,
                                     on_batch=on_batch, add_special_tokens=not chat, ordered=ordered, prefix=self.prefix, have=have)

    def close(self) -> None:
        """Let go of the weights; they leave memory when nobody else uses them."""
        self.loaded, self.prefix = None, SharedPrefix()


def rendered(tokenizer: Any, prompts: Iterable[Prompt], chat: bool) -> Iterator[str]:
    """The whole text of each prompt, one by one."""
    for prompt in prompts:
        if chat:
            yield template.render_chat(tokenizer, prompt)
        elif isinstance(prompt, str):
            yield prompt
        else:
            raise UserError("This prompt format writes the whole prompt itself, but a prompt here is a list of messages; give a text.")


def open_engine(model_ref: str | ModelRef, workspace: Workspace, engine: EngineName = "auto", *, device: str = "auto",
                dtype: Dtype = "auto", quantization: Quantization | None = None, log: Callable[[str], None] | None = None) -> Engine:
    """The engine for a model; `log` is told in one sentence which one it is, and why.

    auto: a server for `openai:<model>@<url>`; both agents for `waltz:<run>`; on a GPU vLLM where it is installed, else transformers'
    continuous batching for models that our own engine cannot batch well (sliding windows, recurrent layers); our own engine for
    everything else. Why not continuous batching for every model on a GPU: docs/architecture.md.
    """
    ref = parse_model_ref(model_ref) if isinstance(model_ref, str) else model_ref
    if engine not in ("auto", "own", "vllm", "transformers", "server"):
        raise UserError(f"engine = {engine!r} is none of auto, own, vllm, transformers, server.")
    if ref.kind == "openai" or engine == "server":
        opened = _server(ref, engine)
    elif ref.is_pair:
        opened = _pair(ref, workspace, engine, device, dtype, quantization)
    elif engine == "vllm" or (engine == "auto" and pick_device(device).startswith("cuda") and _has_vllm()):
        opened = _vllm(ref, workspace, engine, device, dtype, quantization)
    else:
        opened = _with_weights(ref, workspace, engine, device, dtype, quantization)
    if log:
        log(opened.choice)
    return opened


def _server(ref: ModelRef, engine: str) -> Engine:
    if ref.kind != "openai" or engine not in ("auto", "server"):
        raise UserError(f"engine = {engine}: {ref} cannot be asked that way; a server is named openai:<model>@<base url> and goes with "
                        "engine = auto or server.")
    from core.lm.engine_server import ServerEngine

    opened = ServerEngine(ref)
    opened.choice = f"The server at {opened.url} answers for {ref.name}."
    return opened


def _pair(ref: ModelRef, workspace: Workspace, engine: str, device: str, dtype: Dtype, quantization: Quantization | None) -> Engine:
    if engine not in ("auto", "own"):
        raise UserError(f"engine = {engine}: {ref} is two agents, who talk by our own engine; take engine = auto.")
    from core.lm.engine_waltz import WaltzEngine

    opened = WaltzEngine(ref, workspace, device=device, dtype=dtype, quantization=quantization)
    opened.choice = f"Two agents answer for {ref} by our own engine: reply, feedback, revision."
    return opened


def _vllm(ref: ModelRef, workspace: Workspace, engine: str, device: str, dtype: Dtype, quantization: Quantization | None) -> Engine:
    if not _has_vllm():
        raise UserError("engine = vllm: vLLM is not installed here; install it (pip install 'vllm>=0.22,<=0.31'), or take engine = auto.")
    if not pick_device(device).startswith("cuda"):
        raise UserError(f"engine = vllm needs a GPU, and device = {device} is none; take engine = auto.")
    from core.lm.engine_vllm import VllmEngine

    opened = VllmEngine(ref, workspace.runs_dir, device=device, dtype=dtype, quantization=quantization)
    opened.choice = f"vLLM answers for {ref}: " + ("asked for." if engine == "vllm" else "there is a GPU, and vLLM is installed.")
    return opened


def _with_weights(ref: ModelRef, workspace: Workspace, engine: str, device: str, dtype: Dtype, quantization: Quantization | None) -> Engine:
    from core.lm.engine_transformers import TransformersEngine

    loaded = load.load_model(ref, workspace.runs_dir, device=device, dtype=dtype, quantization=quantization)
    if engine == "transformers":
        chosen, why = "transformers", "asked for"
    elif engine == "own":
        chosen, why = "own", "asked for"
    elif not loaded.device.startswith("cuda"):
        chosen, why = "own", f"the device is {loaded.device}"
    elif _own_batches_well(loaded):
        chosen, why = "own", "there is a GPU, but no vLLM, and the model is a plain transformer"
    else:
        chosen, why = "transformers", "there is a GPU, but no vLLM, and the model has sliding windows or recurrent layers"
    opened: Engine
    if chosen == "own":
        opened = OwnEngine(loaded)
        opened.choice = f"Our own engine answers for {ref} ({loaded.dtype}): {why}."
    else:
        opened = TransformersEngine(loaded)
        opened.choice = f"transformers' continuous batching answers for {ref} ({loaded.dtype}): {why}."
    return opened


def _has_vllm() -> bool:
    return importlib.util.find_spec("vllm") is not None


def _own_batches_well(loaded: Loaded) -> bool:
    try:
        return generate.layers_are_plain(loaded.model.config, loaded.ref)
    except UserError:
        return False
