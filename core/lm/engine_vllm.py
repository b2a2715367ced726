"""vLLM as an engine, where it is installed and there is a GPU.

It was never run on this project's machines: it is written to the documented interface of the versions that TRL 1.16 names
(0.22 to 0.31), and what builds the requests is tested without vLLM. Report what fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path
from typing import Any

from core.lm.device import Dtype, pick_device, pick_dtype
from core.lm.engine_window import Asked, requests, through
from core.lm.engines import Engine, Prompt, rendered
from core.lm.find import find_model
from core.lm.generate import CHECK_EVERY, END_OF_TURN, Generated
from core.lm.load import Quantization, load_tokenizer
from core.methods import UserError
from core.refs import ModelRef

AT_ONCE = 512
"""Requests handed over at a time; vLLM itself decides how many of them share a step."""
MEMORY_SHARE = 0.85
ADAPTER = 1
"""vLLM's number of the adapter: there is one per engine."""


class VllmEngine(Engine):
    """Prompts go in as token ids; the prefix cache computes what prompts share once; an adapter goes through LoRARequest."""

    name = "vllm"

    def __init__(self, ref: ModelRef, runs_dir: Path, *, device: str, dtype: Dtype, quantization: Quantization | None) -> None:
        from vllm import LLM  # type: ignore[import-not-found, unused-ignore]

        self.ref = str(ref)
        found = find_model(ref, runs_dir)
        place = pick_device(device)
        if place != "cuda:0":
            raise UserError(f"engine = vllm takes the first visible GPU, not {place}; set CUDA_VISIBLE_DEVICES and device = auto.")
        self.tokenizer, location = load_tokenizer(found)
        self.lora = lora_request(found.adapter)
        options = engine_options(location, found.revision, pick_dtype(dtype, place), quantization, found.adapter)
        self.llm: Any = LLM(**options)
        self.context = int(self.llm.llm_engine.model_config.max_model_len)

    def answers(self, prompts: Iterable[Prompt], *, samples: int = 1, max_new_tokens: int = 256, temperature: float = 0.0,
                top_p: float = 1.0, seed: int = 42, indices: Iterable[int] | None = None, is_complete: Callable[[str], bool] | None = None,
                should_stop: Callable[[], bool] | None = None, on_batch: Callable[[int, int, int], None] | None = None,
                chat: bool = True, ordered: bool = True, have: Container[tuple[int, int]] = ()) -> Iterator[Generated]:
        """See Engine.answers."""
        backend = _Flight(self, {"temperature": temperature, "top_p": top_p}, max_new_tokens, seed, is_complete, not chat)
        asked = requests(rendered(self.tokenizer, prompts, chat), indices, samples, have)
        yield from through(backend, asked, AT_ONCE, ordered=ordered, should_stop=should_stop, on_batch=on_batch)

    def close(self) -> None:
        """Let go of the model and the GPU memory it holds."""
        self.llm = None


def engine_options(location: str, revision: str | None, dtype: str, quantization: str | None, adapter: Path | None) -> dict[str, Any]:
    """Arguments of vllm.LLM. The rank of an adapter must be known when the engine starts."""
    options: dict[str, Any] = {"model": location, "dtype": dtype, "enable_prefix_caching": True, "trust_remote_code": False,
                               "gpu_memory_utilization": MEMORY_SHARE, "generation_config": "vllm"}
    if revision:
        options["revision"] = revision
    if quantization == "nf4":
        options["quantization"] = "bitsandbytes"
    if adapter is not None:
        options |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": next_rank(_rank(adapter))}
    return options


def next_rank(rank: int) -> int:
    """The smallest rank that vLLM has room for and that holds this one."""
    for room in (8, 16, 32, 64, 128, 256, 320, 512):
        if rank <= room:
            return room
    raise UserError(f"The adapter has rank {rank}, more than vLLM takes (512); take engine = own.")


def sampling_options(options: dict[str, Any], limit: int, seed: int, stops: list[int], *, stream: bool) -> dict[str, Any]:
    """Arguments of vllm.SamplingParams for one request. stream: the text so far is looked at after each token."""
    return {**options, "max_tokens": limit, "seed": seed, "stop_token_ids": stops, "skip_special_tokens": True,
            "output_kind": "CUMULATIVE" if stream else "FINAL_ONLY"}


def lora_request(adapter: Path | None) -> Any:
    """What tells vLLM to use an adapter."""
    if adapter is None:
        return None
    from vllm.lora.request import LoRARequest  # type: ignore[import-not-found, unused-ignore]

    return LoRARequest(lora_name=adapter.parent.name or "adapter", lora_int_id=ADAPTER, lora_path=str(adapter))


def _rank(adapter: Path) -> int:
    from core.files import read_json

    return int(read_json(adapter / "adapter_config.json", {}).get("r") or 16)


class _Flight:
    """The requests of one call."""

    def __init__(self, engine: VllmEngine, options: dict[str, Any], max_new_tokens: int, seed: int,
                 is_complete: Callable[[str], bool] | None, add_special_tokens: bool) -> None:
        self.engine, self.options, self.max_new_tokens, self.seed = engine, options, max_new_tokens, seed
        self.is_complete, self.add_special_tokens = is_complete, add_special_tokens
        vocabulary = engine.tokenizer.get_vocab()
        self.stops = sorted({vocabulary[token] for token in END_OF_TURN if token in vocabulary})
        self.running: dict[str, Asked] = {}
        self.refused: list[tuple[Asked, Generated]] = []

    def start(self, asked: Asked) -> None:
        from vllm import SamplingParams  # type: ignore[import-not-found, unused-ignore]
        from vllm.sampling_params import RequestOutputKind  # type: ignore[import-not-found, unused-ignore]

        ids = list(self.engine.tokenizer(asked.prompt, add_special_tokens=self.add_special_tokens)["input_ids"])
        limit = min(self.max_new_tokens, self.engine.context - len(ids))
        if not ids or limit <= 0:
            note = f"the prompt has {len(ids)} tokens and the model's context is {self.engine.context}" if ids else "the prompt is empty"
            self.refused.append((asked, Generated(asked.index, asked.sample, "", (), len(ids), "length", 0.0, note)))
            return
        settings = sampling_options(self.options, limit, asked.seed(self.seed), self.stops, stream=self.is_complete is not None)
        settings["output_kind"] = RequestOutputKind[settings["output_kind"]]
        name = f"guardwaltz-{asked.number}"
        self.running[name] = asked
        self.engine.llm.llm_engine.add_request(name, {"prompt_token_ids": ids}, SamplingParams(**settings), lora_request=self.engine.lora)

    def finished(self) -> Iterator[tuple[Asked, Generated]]:
        yield from self.refused
        self.refused = []
        for output in self.engine.llm.llm_engine.step() if self.running else ():
            asked = self.running.get(output.request_id)
            if asked is None:
                continue
            answer = output.outputs[0]
            whole = self._is_whole(answer)
            if output.finished or whole:
                del self.running[output.request_id]
                if not output.finished:
                    self.engine.llm.llm_engine.abort_request([output.request_id])
                yield asked, as_generated(output, asked, stopped=whole or answer.finish_reason != "length")

    def cancel(self) -> None:
        if self.running:
            self.engine.llm.llm_engine.abort_request(list(self.running))
            self.running = {}

    def _is_whole(self, answer: Any) -> bool:
        if self.is_complete is None:
            return False
        look = len(answer.token_ids) % CHECK_EVERY == 0 or answer.text.endswith("\n") or answer.finish_reason is not None
        return look and self.is_complete(answer.text)


def as_generated(output: Any, asked: Asked, *, stopped: bool) -> Generated:
    """Our record of a vllm.RequestOutput."""
    answer = output.outputs[0]
    return Generated(asked.index, asked.sample, answer.text, tuple(answer.token_ids), len(output.prompt_token_ids or ()),
                     "stop" if stopped else "length", time.perf_counter() - asked.began)
