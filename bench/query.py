"""Milliseconds per query of a guard on a GPU, at the shapes of the paper's models, beside the paper's numbers on one H100.

    python -m bench.query 3b 8b [--queries 512] [--tokens 255] [--engine auto] [--folder FOLDER]

Speed does not depend on what the weights are, so they are random, in bfloat16: made on the device, written to a folder (16 GB for 8b)
and loaded from it as any model is, since vLLM reads nothing else. Nothing is downloaded but, where it is not there yet, the embedded
model, whose tokenizer is used. The prompts are real ones where ../shared/data is there, else those of the demo set. Every answer has
exactly --tokens tokens, greedy, with nothing that could end it. All queries are given at once, so this is throughput, as in the paper
(table 9, GuardReasoner by vLLM); loading and a short warm-up are not in the time. `tiny` runs anywhere, to see that it runs.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

LLAMA = {"vocab_size": 128_256, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131_072, "rms_norm_eps": 1e-5}
SHAPES: dict[str, dict[str, Any]] = {
    "3b": {**LLAMA, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
           "tie_word_embeddings": True},
    "8b": {**LLAMA, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "tie_word_embeddings": False},
    "tiny": {"vocab_size": 2048, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096, "tie_word_embeddings": True},
}
"""Llama-3.2-3B, Llama-3.1-8B (their config.json, without what does not change the speed), and a toy."""
PAPER = {"3b": (30.29, 257.64), "8b": (35.77, 260.26)}
"""{shape: (milliseconds per query, tokens per answer)}, table 9."""


@dataclass(frozen=True)
class Asked:
    """What one shape took."""

    engine: str
    queries: int
    tokens: int
    seconds: float

    @property
    def milliseconds(self) -> float:
        """Per query."""
        return 1000 * self.seconds / self.queries


def main(given: list[str] | None = None) -> int:
    """Time each shape and print it beside the paper's."""
    options = arguments(given)
    from bench.mine import chosen_texts
    from core.lm.device import pick_device
    from core.lm.embedded import ensure_embedded
    from core.lm.tiny import make_tiny
    from core.runs import Workspace

    device = pick_device("auto")
    if set(options.shapes) - {"tiny"} and not device.startswith("cuda"):
        sys.exit(f"{' and '.join(options.shapes)}: these shapes need a CUDA GPU, and the device here is {device}; tiny runs anywhere.")
    with tempfile.TemporaryDirectory(dir=options.folder or None) as folder:
        workspace = Workspace(Path(folder) / "runs")
        texts = chosen_texts(argparse.Namespace(data=options.data, prompts=options.queries), workspace)
        print(f"{len(texts)} queries, {options.tokens} new tokens each, greedy, bfloat16, {device_name(device)}", flush=True)
        for shape in options.shapes:
            words = make_tiny(Path(folder) / "words") if shape == "tiny" else ensure_embedded()
            model = make_random(Path(folder) / shape, SHAPES[shape], words, device)
            print(line(shape, ask(str(model), texts, options, workspace)), flush=True)
            shutil.rmtree(model)
    return 0


def arguments(given: list[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="+", choices=sorted(SHAPES))
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=255, help="of every answer")
    parser.add_argument("--engine", default="auto", choices=["auto", "own", "vllm", "transformers"])
    parser.add_argument("--data", default="", help="a file of guard examples (default: the shared training labels, else the demo set)")
    parser.add_argument("--folder", default="", help="where the weights are written meanwhile (default: the system's temporary folder)")
    return parser.parse_args(given)


def device_name(device: str) -> str:
    """What the device is called by its maker."""
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else f"{device}, {os.cpu_count()} cores"


def make_random(folder: Path, shape: dict[str, Any], words: Path, device: str) -> Path:
    """Write a random llama of this shape into `folder`, with the tokenizer of the folder `words`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    from core.lm.generate import stop_ids
    from core.lm.load import quiet_transformers

    tokenizer = AutoTokenizer.from_pretrained(words)
    config = LlamaConfig(**shape, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
                         pad_token_id=tokenizer.pad_token_id, architectures=["LlamaForCausalLM"])
    torch.manual_seed(0)
    with torch.device(device), torch.no_grad():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        for token in stop_ids(model, tokenizer):
            model.get_output_embeddings().weight[token] = 0  # its logit is 0, never the highest of thousands: no answer ends
    with quiet_transformers():
        model.save_pretrained(folder, max_shard_size="4GB")
    tokenizer.save_pretrained(folder)
    del model
    give_back()
    return folder


def ask(model: str, texts: list[str], options: argparse.Namespace, workspace: Any) -> Asked:
    """All queries through the engine of `options`, after a few short ones."""
    from core.lm.engines import open_engine

    with open_engine(model, workspace, options.engine, dtype="bfloat16") as engine:
        list(engine.answers(texts[:8], max_new_tokens=8))
        began = time.perf_counter()
        made = list(engine.answers(texts, max_new_tokens=options.tokens))
        seconds = time.perf_counter() - began
        name = engine.name
    del engine
    give_back()
    return Asked(name, len(made), sum(answer.tokens for answer in made), seconds)


def give_back() -> None:
    """Let the GPU have the memory of what is not used any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def line(shape: str, asked: Asked) -> str:
    """"3b   own   28.1 ms/query   ...; the paper: 30.29 ms"."""
    paper = "no number in the paper"
    if shape in PAPER:
        wanted, tokens = PAPER[shape]
        paper = f"the paper, one H100: {wanted} ms of {tokens} tokens ({asked.milliseconds / wanted:.2f} x)"
    return (f"{shape:5} engine {asked.engine:12} {asked.milliseconds:8.2f} ms/query   {asked.tokens / asked.queries:6.1f} tokens/query   "
            f"{asked.tokens / asked.seconds:9.1f} tokens/s   {paper}")


if __name__ == "__main__":
    sys.exit(main())
