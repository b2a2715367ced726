"""Outputs per second of mining: k sampled answers to real guard prompts, against what people write without this project.

    python -m bench.mine [--model embedded] [--prompts 16] [--tokens 256] [--seconds 90]
    python -m bench.mine --memory [--rows 1000 10000 100000]

Contestants, same prompts, same sampling (T 1.0, top_p 0.95, no top_k), same limit, the end-of-text token as the only stop rule:
(a) the seeds' loop: one `generate` call for each output, float32, time-boxed; (b) plain `generate(num_return_sequences=k)` in
bfloat16, at 4, 16 and 64 sequences, the best of them; ours (core/lm/engines.py) in bfloat16. Loading is in nobody's time.
An untrained base model seldom ends by itself, so nearly all outputs have the full length; tokens per second are printed as well.
FLOP/s count what each contestant really computes, without padding, as a share of a bfloat16 matrix product measured here.

--memory: peak resident memory above that after imports, of the mining path (engine and answer log) with the tiny random model and 8
new tokens, as rows grow; each size in a process of its own.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

NEEDED_OVER_LOOP, NEEDED_OVER_PLAIN = 12.0, 1.3
GOAL_OVER_LOOP, GOAL_OVER_PLAIN = 30.0, 2.0
NEEDED_MEMORY = 0.10
TEMPERATURE, TOP_P = 1.0, 0.95
SEQUENCES = (4, 16, 64)
MEMORY_TOKENS, MEMORY_SAMPLES = 8, 2


@dataclass
class Work:
    """What a contestant did: outputs, their tokens, seconds, and the operations that took."""

    outputs: int = 0
    tokens: int = 0
    seconds: float = 0.0
    flop: float = 0.0

    @property
    def rate(self) -> float:
        """Outputs per second."""
        return self.outputs / self.seconds


def main() -> int:
    """Run the contest, or the memory check; exit code 1 when a promise is broken."""
    options = arguments()
    if options.memory_child:
        return memory_child(options.memory_child)
    return memory(options.rows) if options.memory else speed(options)


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="a model reference; an adapter too")
    parser.add_argument("--data", default="", help="a file of guard examples (default: the shared training labels, else the demo set)")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--samples", type=int, default=4, help="k")
    parser.add_argument("--tokens", type=int, default=256, help="max_new_tokens")
    parser.add_argument("--seconds", type=float, default=90, help="time for the loop of single calls")
    parser.add_argument("--sequences", type=int, nargs="+", default=SEQUENCES, help="batches of plain generate")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--memory-child", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if any(count % options.samples for count in options.sequences):
        parser.error(f"--sequences must be multiples of --samples ({options.samples})")
    return options


# ---- speed ----


def speed(options: argparse.Namespace) -> int:
    """The contest."""
    from core.lm.device import pick_device
    from core.lm.load import load_model
    from core.lm.template import render_chat
    from core.runs import Workspace

    options.device = pick_device(options.device)
    workspace = Workspace(tempfile.mkdtemp())
    loaded = load_model(options.model, workspace.runs_dir, device=options.device, dtype="bfloat16")
    texts = chosen_texts(options, workspace)
    prompts = [render_chat(loaded.tokenizer, text) for text in texts]
    lengths = [len(loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"]) for prompt in prompts]
    print(f"{len(prompts)} prompts of {min(lengths)} to {max(lengths)} tokens ({sum(lengths):,} in all), k = {options.samples}, at most "
          f"{options.tokens} tokens each; {options.model}, {options.device}, {os.cpu_count()} cores", flush=True)
    peak = matmul_peak(options.device)
    print(f"bfloat16 matrix product, 2048 cubed: {peak / 1e9:,.0f} GFLOP/s", flush=True)
    done: dict[str, Work] = {}

    def ran(name: str, work: Work) -> None:
        total = done.setdefault(name, Work())
        total.outputs, total.tokens = total.outputs + work.outputs, total.tokens + work.tokens
        total.seconds, total.flop = total.seconds + work.seconds, total.flop + work.flop
        print(f"  {name:38} {work.outputs:5} outputs in {work.seconds:7.1f} s: {work.rate:7.3f} outputs/s "
              f"{work.tokens / work.seconds:8.1f} tokens/s", flush=True)

    for turn in range(options.repeats):  # the order turns round with each repeat, since shared machines drift
        arms = [("ours", 0), *((f"plain generate, {count} sequences", count) for count in options.sequences)]
        for name, count in arms[:: 1 if turn % 2 == 0 else -1]:
            ran(name, plain(loaded, prompts, options, count) if count else ours(options, workspace, texts, lengths))
    del loaded
    gc.collect()
    single = load_model(options.model, workspace.runs_dir, device=options.device, dtype="float32")
    ran("loop of single calls, float32", loop(single, prompts, options))
    return show(done, peak)


def show(done: dict[str, Work], peak: float) -> int:
    """The table, and whether the promise is kept."""
    mine = done["ours"]
    print(f"\n{'':40} outputs/s   tokens/s   GFLOP/s   of peak   ours is")
    for name, work in done.items():
        print(f"{name:40} {work.rate:9.3f}  {work.tokens / work.seconds:9.1f} {work.flop / work.seconds / 1e9:9.1f} "
              f"{work.flop / work.seconds / peak:8.1%}  {mine.rate / work.rate:7.2f} x")
    best = max((name for name in done if name.startswith("plain")), key=lambda name: done[name].rate)
    over_loop, over_plain = mine.rate / done["loop of single calls, float32"].rate, mine.rate / done[best].rate
    kept = over_loop >= NEEDED_OVER_LOOP and over_plain >= NEEDED_OVER_PLAIN
    print(f"\n{over_loop:.1f} x the loop of single calls (needed {NEEDED_OVER_LOOP:g}, goal {GOAL_OVER_LOOP:g}), "
          f"{over_plain:.2f} x {best!r} (needed {NEEDED_OVER_PLAIN:g}, goal {GOAL_OVER_PLAIN:g}): {'PASS' if kept else 'FAIL'}")
    return 0 if kept else 1


def chosen_texts(options: argparse.Namespace, workspace: Any) -> list[str]:
    """What a guard is asked: a random draw, the same for every contestant."""
    from core.data import load_examples
    from core.runs import REPOSITORY

    shared = REPOSITORY.parent / "shared" / "data" / "guardreasonertrain_labels_5k.jsonl"
    demo = REPOSITORY / "assets" / "demo" / "guard-demo.jsonl"
    if not options.data and not shared.exists():
        print(f"The real guard prompts ({shared.name}) are not beside the checkout; the demo set is used, whose prompts are shorter.")
    path = options.data or str(shared if shared.exists() else demo)
    form = workspace.plugins.prompt_formats["guardreasoner"]
    examples = [row for row in load_examples(path, workspace) if row.split != "test"]
    random.Random(0).shuffle(examples)
    print(f"{Path(path).name}: {len(examples):,} rows, prompt format {form.name}")
    return [form.prompt(example) for example in examples[:options.prompts]]


def ours(options: argparse.Namespace, workspace: Any, texts: list[str], lengths: list[int]) -> Work:
    """Through the engine that mining uses. It is opened afresh, so that the shared beginning is in the time."""
    from core.lm.engines import OwnEngine, open_engine

    with open_engine(options.model, workspace, "own", device=options.device, dtype="bfloat16") as engine:
        assert isinstance(engine, OwnEngine)
        assert engine.loaded is not None
        model = engine.loaded.model
        began = time.perf_counter()
        made = list(engine.answers(texts, samples=options.samples, max_new_tokens=options.tokens,
                                   temperature=TEMPERATURE, top_p=TOP_P, seed=1))
        seconds = time.perf_counter() - began
        shared = len(engine.prefix.tokens)
    work = Work(len(made), sum(answer.tokens for answer in made), seconds)
    counts: dict[int, list[int]] = {}
    for answer in made:
        counts.setdefault(answer.index, []).append(answer.tokens)
    work.flop = flop(model, shared, 0, []) + sum(flop(model, lengths[row] - shared, shared, outs) for row, outs in counts.items())
    return work


def plain(loaded: Any, prompts: list[str], options: argparse.Namespace, sequences: int) -> Work:
    """`generate` on padded batches, each prompt with k sequences."""
    work = Work()
    step = sequences // options.samples
    for first in range(0, len(prompts), step):
        library(loaded, prompts[first:first + step], options, options.samples, work)
    return work


def loop(loaded: Any, prompts: list[str], options: argparse.Namespace) -> Work:
    """One call for each output, until the time is over; at least one output."""
    work = Work()
    while work.seconds < options.seconds and work.outputs < len(prompts) * options.samples:
        library(loaded, [prompts[work.outputs % len(prompts)]], options, 1, work)
    return work


def library(loaded: Any, prompts: list[str], options: argparse.Namespace, samples: int, work: Work) -> None:
    """One call of the library's `generate`, added to `work`."""
    import torch

    tokenizer = loaded.tokenizer
    tokenizer.padding_side = "left"
    began = time.perf_counter()
    batch = tokenizer(prompts, add_special_tokens=False, padding=True, return_tensors="pt").to(loaded.device)
    with torch.inference_mode():
        out = loaded.model.generate(**batch, max_new_tokens=options.tokens, do_sample=True, temperature=TEMPERATURE, top_p=TOP_P, top_k=0,
                                    num_return_sequences=samples)
    texts = tokenizer.batch_decode(out[:, batch.input_ids.shape[1]:], skip_special_tokens=True)
    work.seconds += time.perf_counter() - began
    stops = loaded.model.generation_config.eos_token_id
    stops = set(stops) if isinstance(stops, list) else {stops}
    for row, ids in enumerate(out[:, batch.input_ids.shape[1]:].tolist()):
        count = next((place + 1 for place, token in enumerate(ids) if token in stops), len(ids))
        prompt = int(batch.attention_mask[row // samples].sum())
        work.tokens += count
        work.flop += flop(loaded.model, prompt, 0, [count])  # it computes the prompt for each of its sequences
    work.outputs += len(texts)


def flop(model: Any, tokens: int, before: int, outputs: list[int]) -> float:
    """Operations for `tokens` of a prompt after `before` cached ones, then for answers of these lengths: 2 a weight, and attention."""
    config = model.config.get_text_config(decoder=True)
    head = config.vocab_size * config.hidden_size
    core = sum(weights.numel() for weights in model.parameters()) - head * (1 if config.tie_word_embeddings else 2)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    pair = 4 * config.num_hidden_layers * config.num_attention_heads * size  # of one token with one column
    total = 2.0 * core * tokens + pair * sum(range(before + 1, before + tokens + 1)) + (2 * head if outputs else 0)
    for count in outputs:  # the first token of an answer comes from the prompt's last one
        total += (count - 1) * 2 * (core + head) + pair * sum(range(before + tokens + 1, before + tokens + count))
    return total


def matmul_peak(device: str) -> float:
    """FLOP/s of a large bfloat16 matrix product, the best of a few."""
    import torch

    one, other = (torch.randn(2048, 2048, dtype=torch.bfloat16, device=device) for _ in range(2))
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        one @ other
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        best = max(best, 2 * 2048**3 / (time.perf_counter() - began))
    return best


# ---- memory ----


def memory(sizes: list[int]) -> int:
    """Peaks as rows grow; PASS when the largest is within 10 % of the smallest."""
    print(f"tiny random model, k = {MEMORY_SAMPLES}, {MEMORY_TOKENS} new tokens, outputs.jsonl written row by row", flush=True)
    peaks = []
    for rows in sizes:
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "bench.mine", "--memory-child", str(rows)], check=True, capture_output=True, text=True,
                              cwd=Path(__file__).resolve().parent.parent)
        peaks.append(float(done.stdout.split()[-1]))
        print(f"{rows:9,} rows: {peaks[-1] / 1e6:7.1f} MB above imports   ({time.perf_counter() - began:.0f} s)", flush=True)
    growth = max(peaks) / peaks[0] - 1
    print(f"\ngrowth over {sizes[0]:,} rows: {growth:.1%} (at most {NEEDED_MEMORY:.0%}): {'PASS' if growth <= NEEDED_MEMORY else 'FAIL'}")
    return 0 if growth <= NEEDED_MEMORY else 1


def memory_child(rows: int) -> int:
    """Mine so many lazily made rows; prints the peak above the memory after imports, in bytes."""
    import torch  # noqa: F401  the libraries' own memory is not what is measured
    import transformers

    from bench.memory import resident
    from core.answer_log import AnswerLog
    from core.lm.engines import open_engine
    from core.lm.tiny import make_tiny
    from core.mining.ahead import FILE as AHEAD_FILE
    from core.mining.ahead import Ahead
    from core.mining.answering import Sampling, answered_rows
    from core.mining.rows import Asked
    from core.records import Labels, MinedSample, Output
    from core.runs import Workspace

    transformers.LlamaForCausalLM  # noqa: B018  loads the lazy module
    with tempfile.TemporaryDirectory() as folder:
        model = make_tiny(Path(folder) / "model")
        after_imports = resident("VmRSS")
        path = Path(folder) / "outputs.jsonl"
        asked: Any = (Asked(row, SimpleNamespace(text=text)) for row, text in enumerate(memory_texts(rows)))  # type: ignore[arg-type]
        sampling = Sampling(MEMORY_SAMPLES, MEMORY_TOKENS, TEMPERATURE, TOP_P, seed=42)
        chat = SimpleNamespace(chat=True, is_complete=None)
        with (AnswerLog(path) as log, Ahead(Path(folder) / AHEAD_FILE, 0) as ahead,
              open_engine(str(model), Workspace(folder), device="cpu", dtype="float32") as engine):
            for one, answers in answered_rows(engine, asked, chat, sampling, lambda: False, ahead=ahead):
                outputs = [Output(text=made.text, predicted=Labels(), tokens=made.tokens, finish=made.finish) for made in answers]
                log.add(MinedSample(row=one.row, prompt=str(one.row), gold=Labels(), outputs=outputs, model="tiny", prompt_format="none"))
            assert log.rows == rows
        print(resident("VmHWM") - after_imports)
    return 0


def memory_texts(rows: int) -> Iterator[str]:
    """Prompts of 5 to 60 words, made as they are needed. Of many words, as real prompts are: the tokenizer remembers the last 10,000 words
    it has seen, and 1,000 rows have to fill that as well as 100,000 do."""
    for row in range(rows):
        words = 4 + row * 7 % 56
        yield f"request {row}: " + " ".join(f"w{(row * 61 + place) * 7919 % 20011}" for place in range(words))


if __name__ == "__main__":
    sys.exit(main())
