"""transformers' continuous batching as an engine: paged keys and values, so it takes models with sliding windows.

On a CPU it is no faster than plain batches and wants its memory bounded; it is there for GPUs without vLLM, and for models that
our own engine cannot batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from core.lm.engine_window import Asked, requests, through
from core.lm.engines import Engine, Prompt, rendered
from core.lm.generate import CHECK_EVERY, Generated, stop_ids, token_budget
from core.lm.load import Loaded
from core.methods import UserError

AT_ONCE = {"cpu": 16, "cuda": 256}
PAGE = {"cpu": 128, "cuda": 256}
"""Tokens in one page of keys and values."""
BATCH_TOKENS = {"cpu": 512, "cuda": 8192}


class TransformersEngine(Engine):
    """Holds the base while `answers` runs: other threads wait; the same thread must not ask another adapter over it meanwhile."""

    name = "transformers"
    holds_base = True

    def __init__(self, loaded: Loaded) -> None:
        self.loaded, self.ref = loaded, loaded.ref

    def answers(self, prompts: Iterable[Prompt], *, samples: int = 1, max_new_tokens: int = 256, temperature: float = 0.0,
                top_p: float = 1.0, seed: int = 42, indices: Iterable[int] | None = None, is_complete: Callable[[str], bool] | None = None,
                should_stop: Callable[[], bool] | None = None, on_batch: Callable[[int, int, int], None] | None = None,
                chat: bool = True, ordered: bool = True, have: Container[tuple[int, int]] = ()) -> Iterator[Generated]:
        """See Engine.answers."""
        loaded = self.loaded
        assert loaded is not None
        with loaded.activate() as model, _manager(model, loaded, max_new_tokens, temperature, top_p, seed) as manager:
            backend = _Flight(manager, model, loaded, max_new_tokens, is_complete, add_special_tokens=not chat)
            asked = requests(rendered(loaded.tokenizer, prompts, chat), indices, samples, have)
            yield from through(backend, asked, AT_ONCE.get(model.device.type, 16), ordered=ordered, should_stop=should_stop,
                               on_batch=on_batch)

    def close(self) -> None:
        """Let go of the weights; they leave memory when nobody else uses them."""
        self.loaded = None


@contextmanager
def _manager(model: Any, loaded: Loaded, max_new_tokens: int, temperature: float, top_p: float, seed: int) -> Iterator[Any]:
    """A running manager of continuous batching, stopped at the end, with its memory bounded."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    core = model.get_base_model() if hasattr(model, "get_base_model") else model  # adapters sit inside it
    kind = core.device.type
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0} if temperature > 0 else {"do_sample": False}
    settings = GenerationConfig(max_new_tokens=max_new_tokens, eos_token_id=sorted(stop_ids(core, loaded.tokenizer)),
                                pad_token_id=loaded.tokenizer.pad_token_id or 0, **sampling)
    page = PAGE.get(kind, 128)
    budget = token_budget(core.config.get_text_config(decoder=True), core.dtype, core.device)
    # on a GPU the library sizes its cache by the memory that is free; elsewhere nothing would bound it
    bounds = {} if kind == "cuda" else {"num_blocks": max(16, min(budget // page, 512))}
    manager = core.init_continuous_batching(
        generation_config=settings,
        continuous_batching_config=ContinuousBatchingConfig(page_size=page, max_batch_tokens=BATCH_TOKENS.get(kind, 512), seed=seed,
                                                            auto_switch_to_flash=False, **bounds))
    manager.start()
    try:
        yield manager
    finally:
        manager.stop(block=True, timeout=60, hard_stop=True)
        manager.destroy()


class _Flight:
    """The requests of one call. Tokens are streamed, so that a whole answer ends its request."""

    def __init__(self, manager: Any, model: Any, loaded: Loaded, max_new_tokens: int, is_complete: Callable[[str], bool] | None, *,
                 add_special_tokens: bool) -> None:
        self.manager, self.tokenizer, self.is_complete = manager, loaded.tokenizer, is_complete
        self.max_new_tokens, self.add_special_tokens = max_new_tokens, add_special_tokens
        self.stops = stop_ids(model, loaded.tokenizer)
        self.context = int(getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None) or 2**31)
        self.running: dict[str, tuple[Asked, int, int, str]] = {}
        """Of each request: what was asked, the prompt's tokens, the limit, the note."""
        self.refused: list[tuple[Asked, Generated]] = []

    def start(self, asked: Asked) -> None:
        ids = self.tokenizer(asked.prompt, add_special_tokens=self.add_special_tokens)["input_ids"]
        limit, note = min(self.max_new_tokens, self.context - len(ids)), ""
        if not ids or limit <= 0:
            note = f"the prompt has {len(ids)} tokens and the model's context is {self.context}" if ids else "the prompt is empty"
            self.refused.append((asked, Generated(asked.index, asked.sample, "", (), len(ids), "length", 0.0, note)))
            return
        if limit < self.max_new_tokens:
            note = f"only {limit} answer tokens fit into the model's context of {self.context}"
        name = f"{asked.number}"
        self.running[name] = asked, len(ids), limit, note
        self.manager.add_request(list(ids), request_id=name, max_new_tokens=limit, streaming=self.is_complete is not None,
                                 eos_token_id=sorted(self.stops))

    def finished(self) -> Iterator[tuple[Asked, Generated]]:
        yield from self.refused
        self.refused = []
        found = self.manager.get_result(timeout=0.5) if self.running else None
        while found is not None:
            done = self._look(found)
            if done is not None:
                yield done
            queue = self.manager.output_router.output_queue
            found = None if queue.empty() else self.manager.get_result(timeout=0)
        if self.running and not self.manager.is_running():
            raise UserError("transformers' continuous batching ended before its requests did; its own message is in the log. "
                            "Take engine = own, or a smaller max_new_tokens.")

    def cancel(self) -> None:
        for name in self.running:
            self.manager.cancel_request(name)
        self.running = {}

    def _look(self, found: Any) -> tuple[Asked, Generated] | None:
        """The answer, where this output ends it: the library says so, or the text is whole."""
        if found.request_id not in self.running:
            return None  # what was still on its way when its request had been ended
        if found.error is not None:
            raise UserError(f"transformers' continuous batching failed on a request ({found.error}); take engine = own.")
        tokens = list(found.generated_tokens)
        over = found.is_finished()
        if not over and not self._is_whole(tokens):
            return None
        asked, prompt_tokens, _, note = self.running.pop(found.request_id)
        if not over:
            self.manager.cancel_request(found.request_id)
        stopped = not over or (bool(tokens) and tokens[-1] in self.stops) or self._is_whole(tokens, always=True)
        made = Generated(asked.index, asked.sample, self._text(tokens), tuple(tokens), prompt_tokens, "stop" if stopped else "length",
                         time.perf_counter() - asked.began)
        return asked, replace(made, note=note)

    def _is_whole(self, tokens: list[int], always: bool = False) -> bool:
        if self.is_complete is None or not tokens:
            return False
        look = always or len(tokens) % CHECK_EVERY == 0 or "\n" in self.tokenizer.decode([tokens[-1]])
        return look and self.is_complete(self._text(tokens))

    def _text(self, tokens: list[int]) -> str:
        shown = tokens[:-1] if tokens and tokens[-1] in self.stops else tokens
        return str(self.tokenizer.decode(shown, skip_special_tokens=True, clean_up_tokenization_spaces=False)) if shown else ""
