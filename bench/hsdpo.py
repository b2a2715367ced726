"""Pairs per second of `hs-dpo` over two epochs against TRL's DPOTrainer: same pairs, adapter and number format, in one run.

    python -m bench.hsdpo [--pairs 8] [--repeats 1] [--quick]
    python -m bench.hsdpo --memory          peak memory as the pairs grow (1k, 10k, 100k; tiny random model; two epochs are planned and
                                            the reference is asked about all pairs, but only the first 20 steps are made)

Contestants: TRL as it is out of the box; TRL tuned as its manual allows (no activation checkpointing, the reference precomputed, a
max_length that cuts nothing, batches of 2 and 4: 8 real pairs at once do not fit into 24 GB); ours. All make steps of 8 pairs.
Tokenising, loading and saving are in nobody's time; asking the reference is in everybody's. The order turns round with each repeat,
since shared machines drift.

Apart from speed: at three sets of weights each pair's DPO loss in float32 is compared with TRL's, and the mean losses that both
trainings end with are printed.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("CI", "1")  # TRL sends no telemetry from a CI
os.environ.setdefault("TQDM_DISABLE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

NEEDED_OVER_DEFAULTS, NEEDED_OVER_TUNED, NEEDED_LOSS = 1.8, 1.2, 1e-4
GOAL_OVER_DEFAULTS, GOAL_OVER_TUNED = 2.5, 1.6
STEP, BETA, RATE = 8, 0.01, 5e-5
GROWTH, MEMORY_STEPS, SIZES = 1.10, 20, (1_000, 10_000, 100_000)


def main() -> int:
    """Run the contest and print the ratios; exit code 1 when a floor is missed."""
    options = arguments()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return 0
    if options.memory:
        return memory(options.sizes or SIZES)
    import datasets

    from core.lm.tune_setup import hush

    hush()
    datasets.disable_progress_bars()
    pairs, what = chosen_pairs(options)
    rows = tokenised(pairs, options)
    tokens = sum(rows.length(place) for place in rows.rows)
    longest = max(len(row.prompt) + max(len(row.chosen), len(row.rejected)) for row in rows)
    common = sum(rows[place].common for place in rows.rows) / len(rows)
    print(f"{what}\n{len(rows)} pairs, {tokens:,} tokens with each prompt once (longest {longest:,} with one answer; the answers of a "
          f"pair begin with {common:.0f} equal tokens on average); {options.model}, LoRA r16 on all linear layers, {options.dtype}, "
          f"{options.epochs} epochs in steps of {STEP}, {os.cpu_count()} cores", flush=True)
    off = {"activation_checkpointing": False, "gradient_checkpointing": False, "precompute_ref_log_probs": True,
           "max_length": -(-longest // 64) * 64}
    contestants: dict[str, Any] = {"TRL defaults": partial(trl, rows, options)}
    for batch in options.batches:
        contestants[f"TRL tuned, batch {batch}"] = partial(trl, rows, options, per_device_train_batch_size=batch,
                                                           gradient_accumulation_steps=STEP // batch, **off)
    contestants["ours (hs-dpo)"] = partial(ours, pairs, options)
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for turn in range(options.repeats):
        for name in list(contestants)[:: 1 if turn % 2 == 0 else -1]:
            seen, seconds, loss = contestants[name]()
            speeds[name].append((seen / seconds, loss))
            print(f"  {turn + 1}. {name:24} {seen / seconds:7.3f} pairs/s   mean loss of the last epoch {loss:.5f}", flush=True)
            gc.collect()
    kept = show(speeds)
    if options.quick:
        print("--quick: the speeds above are those of a tiny model on a few pairs and are not judged")
        return 0 if compare_losses(rows, options) else 1
    return 0 if compare_losses(rows, options) and kept else 1


def show(speeds: dict[str, list[tuple[float, float]]]) -> bool:
    """The table, and whether the floors are kept."""
    mean = {name: len(runs) / sum(1 / speed for speed, _ in runs) for name, runs in speeds.items()}
    mine = mean["ours (hs-dpo)"]
    print(f"\n{'':26} pairs/s   ours is")
    for name, speed in mean.items():
        print(f"{name:26} {speed:7.3f}   {mine / speed:6.2f} x")
    best = max((name for name in mean if name.startswith("TRL tuned")), key=mean.__getitem__)
    kept = []
    for ratio, floor, goal, over in ((mine / mean["TRL defaults"], NEEDED_OVER_DEFAULTS, GOAL_OVER_DEFAULTS, "TRL's defaults"),
                                     (mine / mean[best], NEEDED_OVER_TUNED, GOAL_OVER_TUNED, f"the best tuned TRL, {best!r}")):
        kept.append(ratio >= floor)
        print(f"{ratio:.2f} x {over} (needed {floor}, goal {goal}): {'PASS' if kept[-1] else 'FAIL'}")
    ends = {name: runs[-1][1] for name, runs in speeds.items()}
    difference = abs(ends["ours (hs-dpo)"] - ends[best])
    print(f"mean loss of the last epoch: ours {ends['ours (hs-dpo)']:.5f}, {best} {ends[best]:.5f}, difference {difference:.1e} "
          "(other order of pairs, other rounding)")
    return all(kept)


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="a preference file (default: made from the shared R-SFT rows, else from the demo set)")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--pairs", type=int, default=8, help="pairs that each contestant learns in each epoch")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 4], help="micro-batches of the tuned TRL")
    parser.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float32"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="a tiny random model and few pairs: does it run, not how fast is it")
    parser.add_argument("--memory", action="store_true", help="peak memory as the pairs grow")
    parser.add_argument("--sizes", type=int, nargs="+", default=[], help="numbers of pairs for --memory")
    parser.add_argument("--measure", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    from core.lm.device import pick_device, pick_dtype

    if options.quick:
        from core.lm.tiny import make_tiny

        options.model = str(make_tiny(Path(tempfile.mkdtemp()) / "tiny"))
        options.pairs, options.repeats, options.batches = min(options.pairs, 16), 1, [8]
    options.device = pick_device(options.device)
    options.dtype = pick_dtype(options.dtype, options.device)
    return options


# Pairs


def chosen_pairs(options: argparse.Namespace) -> tuple[list[Any], str]:
    """(pairs, what they are): the same ones for every contestant, drawn at random."""
    from core.mining.pairs import load_preferences
    from core.runs import REPOSITORY

    if options.data:
        made, what = list(load_preferences(Path(options.data), need_weights=False)), Path(options.data).name
    else:
        shared = REPOSITORY.parent / "shared" / "data" / "rsft_train.jsonl"
        made, what = pairs_of_two_models(shared) if shared.exists() else pairs_of_two_rows(REPOSITORY / "assets/demo/guard-demo.jsonl")
    random.Random(0).shuffle(made)
    return made[:options.pairs], what


def pairs_of_two_models(path: Path) -> tuple[list[Any], str]:
    """Real answers of two guards to the same input: the first model's output is chosen, the other one's rejected.

    Two models share less of their words than two samples of one do, so what answers have in common helps ours less than in a study.
    """
    rows: dict[str, dict[str, str]] = {}
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            row = json.loads(line)
            rows.setdefault(row["instruction"] + "\n" + row["input"], {}).setdefault(row["model"], row["output"])
    both = [(prompt, *list(said.values())[:2]) for prompt, said in rows.items() if len(set(said.values())) > 1]
    return [preference(prompt, one, other, number) for number, (prompt, one, other) in enumerate(both)], \
        f"{path.name}: {len(both):,} inputs that two models answered differently"


def pairs_of_two_rows(path: Path) -> tuple[list[Any], str]:
    """From the demo set: a row's own answer, and the answer to the next row that has the other label."""
    from core.plugins import load_plugins
    from core.reading import read_examples

    plugins = load_plugins(installed=False)
    form = plugins.prompt_formats["seed-binary"]
    rows = [row for row in read_examples(path, plugins.data_formats).examples if row.reasoning]
    made = []
    for number, row in enumerate(rows):
        other = next((one for one in rows[number + 1:] if one.labels.request != row.labels.request), None)
        if other:
            made.append(preference(form.prompt(row), form.target(row), form.target(other), number))
    return made, f"{path.name}: {len(made):,} rows, each with another row's answer as the rejected one"


def preference(prompt: str, chosen: str, rejected: str, number: int) -> Any:
    """A pair of messages with one of the paper's three weights."""
    from core.records import Preference

    said = {"prompt": ("user", prompt), "chosen": ("assistant", chosen), "rejected": ("assistant", rejected)}
    messages = {name: [{"role": role, "content": text}] for name, (role, text) in said.items()}
    return Preference(**messages, weight=(0.8, 1.0, 1.2)[number % 3])


def tokenised(pairs: list[Any], options: argparse.Namespace) -> Any:
    """The pairs as token ids, which every contestant gets."""
    from core.lm.dpo_rows import build_pairs
    from core.lm.load import load_model

    tokenizer = load_model(options.model, Path(tempfile.mkdtemp()), device="cpu", dtype=options.dtype).tokenizer
    rows = build_pairs(pairs, tokenizer, Path(tempfile.gettempdir()), max_length=2048)
    if rows.dropped or rows.refused:
        print(f"{rows.dropped} pairs over 2,048 tokens and {rows.refused.total()} without a difference are left out")
    return rows


# Contestants


def fresh_model(options: argparse.Namespace, dtype: str = "") -> Any:
    """The base with nothing added to it, warmed up by one small pass."""
    import torch

    from core.lm.load import load_model

    torch.manual_seed(42)
    loaded = load_model(options.model, Path(tempfile.mkdtemp()), device=options.device, dtype=dtype or options.dtype, trainable=True)
    with torch.no_grad():
        loaded.model(input_ids=torch.ones(1, 64, dtype=torch.long, device=options.device))
    return loaded


def clock() -> Any:
    """A callback that sums the seconds inside optimizer steps and keeps the losses."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        seconds = 0.0

        def __init__(self) -> None:
            self.losses: list[float] = []

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.seconds += time.perf_counter() - self.began

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs and "loss" in logs:
                self.losses.append(logs["loss"])

        def last_epoch(self, epochs: int) -> float:
            half = self.losses[-max(1, len(self.losses) // epochs):]
            return sum(half) / len(half)

    return Clock()


def trl_trainer(rows: Any, loaded: Any, folder: str, callbacks: list[Any], options: argparse.Namespace, adapter: bool = True,
                **settings: Any) -> Any:
    """TRL's DPOTrainer on these tokens. Only the tokenising is left out of it."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    class Tokenised(DPOTrainer):  # type: ignore[misc]
        reference_seconds = 0.0

        def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
            """What TRL does to data that are tokens: pairs whose prompt fills max_length are dropped."""
            return dataset.filter(lambda row: not args.max_length or len(row["prompt_ids"]) < args.max_length)

        def _precompute_ref_logps(self, *values: Any) -> Any:
            began = time.perf_counter()
            made = super()._precompute_ref_logps(*values)
            self.reference_seconds += time.perf_counter() - began
            return made

    data = Dataset.from_list([{"prompt_ids": row.prompt.tolist(), "chosen_ids": row.chosen.tolist(), "rejected_ids": row.rejected.tolist()}
                              for row in rows])
    args = DPOConfig(folder, num_train_epochs=options.epochs, bf16=options.dtype == "bfloat16" and adapter, use_cpu=options.device == "cpu",
                     save_strategy="no", report_to=[], disable_tqdm=True, beta=BETA, learning_rate=RATE, lr_scheduler_type="cosine",
                     logging_steps=1, **settings)
    lora = LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM") if adapter else None
    return Tokenised(loaded.model, args=args, train_dataset=data, processing_class=loaded.tokenizer, callbacks=callbacks, peft_config=lora)


def trl(rows: Any, options: argparse.Namespace, **settings: Any) -> tuple[int, float, float]:
    """(pairs learned from, seconds, mean loss of the last epoch) of TRL; what is not in `settings` is its default."""
    loaded, watch = fresh_model(options), clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = quietly(trl_trainer, rows, loaded, folder, [watch], options, **settings)
        quietly(trainer.train)
        return len(trainer.train_dataset) * options.epochs, watch.seconds + trainer.reference_seconds, watch.last_epoch(options.epochs)


def ours(pairs: list[Any], options: argparse.Namespace) -> tuple[int, float, float]:
    """The same of `hs-dpo`, through the code that a run uses: plain DPO (no weights, no R-SFT term), as TRL does it."""
    from core.lm import dpo_setup
    from core.lm.dpo import DpoJob
    from core.lm.dpo_reference import reference_of
    from core.lm.dpo_rows import build_pairs, divided
    from core.lm.tune_setup import trainable

    loaded, watch = fresh_model(options), clock()
    with tempfile.TemporaryDirectory() as folder:
        run = bench_run(folder)
        job = DpoJob(model=options.model, pairs=pairs, epochs=options.epochs, batch_size=STEP, gradient_accumulation_steps=1, beta=BETA,
                     learning_rate=RATE, sft_mix=0.0, use_weights=False, validation_share=0, dtype=options.dtype, device=options.device,
                     save_steps=10**9)
        rows = build_pairs(pairs, loaded.tokenizer, run.dir, max_length=2048)
        train, held_out = divided(rows, 0, 0)
        model = quietly(trainable, job, loaded, run)
        trainer, plan, tree = quietly(dpo_setup.trainer, job, run, loaded, model, train, held_out, options.device)
        trainer.add_callback(watch)
        began = time.perf_counter()
        looks = dpo_setup.looks(job, plan, train, held_out, options.device, tree)
        trainer.reference = quietly(reference_of, trainer, run, loaded, rows.sha256, looks)
        reference = time.perf_counter() - began
        quietly(trainer.train)
    return len(train) * options.epochs, watch.seconds + reference, watch.last_epoch(options.epochs)


def bench_run(folder: str) -> Any:
    """A run folder for trainers that write into one."""
    from core.active import ActiveRun
    from core.runs import Workspace

    run = ActiveRun(Workspace(folder), "hs-dpo-0001")
    run.dir.mkdir()
    return run


# Correctness


def compare_losses(rows: Any, options: argparse.Namespace) -> bool:
    """Each pair's DPO loss in float32, ours and TRL's, at three fixed sets of weights with the same reference."""
    import torch

    from core.lm import dpo_setup
    from core.lm.dpo import DpoJob
    from core.lm.dpo_rows import PairView, divided

    everything, _ = divided(rows, 0, 0)
    few = PairView(rows, everything.places[:4 if options.quick else 8])
    loaded = fresh_model(options, "float32")
    with tempfile.TemporaryDirectory() as folder:
        run = bench_run(folder)
        job = DpoJob(model=options.model, pairs=[], tuning="full", beta=0.1, sft_mix=0.0, use_weights=False, precompute_reference=False,
                     dtype="float32", device=options.device, epochs=1)
        nobody = PairView(rows, everything.places[:0])
        trainer, _, _ = quietly(dpo_setup.trainer, job, run, loaded, loaded.model, few, nobody, options.device)
        theirs = fresh_model(options, "float32")
        other = quietly(trl_trainer, list(few), theirs, folder + "/trl", [], options, adapter=False, per_device_train_batch_size=1,
                        max_length=None, activation_checkpointing=False, gradient_checkpointing=False)
        other.beta = 0.1
        worst = spread = 0.0
        for seed in range(3):
            shake(trainer.model, other.model, seed)
            with torch.no_grad():
                mine = trainer.pair_losses(trainer.model, trainer._prepare_inputs(trainer._collate(list(few)))).dpo
                wanted = torch.stack([other.compute_loss(other.model, other._prepare_inputs(other.data_collator([row])))
                                      for row in other.train_dataset])
            worst = max(worst, float((mine - wanted).abs().max()))
            spread = max(spread, float(wanted.max() - wanted.min()))
    kept = worst <= NEEDED_LOSS
    print(f"per-pair DPO losses in float32 at 3 sets of weights, {len(few)} pairs: largest difference to TRL's {worst:.1e} (needed "
          f"{NEEDED_LOSS:.0e}; the losses differ among themselves by up to {spread:.2f}): {'PASS' if kept else 'FAIL'}")
    return kept


def shake(one: Any, other: Any, seed: int) -> None:
    """Move both models away from the reference by the same small random step."""
    import torch

    noise = torch.Generator().manual_seed(seed)
    twin = dict(other.named_parameters())
    with torch.no_grad():
        for name, weight in one.named_parameters():
            step = 0.01 * weight.float().std().cpu() * torch.randn(weight.shape, generator=noise)
            weight.add_(step.to(weight.device))
            twin[name].copy_(weight)


# Memory


def memory(sizes: list[int] | tuple[int, ...]) -> int:
    """Peak resident memory less that after importing, each number of pairs in a process of its own."""
    found = {}
    for count in sizes:
        done = subprocess.run([sys.executable, "-m", "bench.hsdpo", "--measure", str(count)], capture_output=True, text=True, check=False,
                              cwd=Path(__file__).resolve().parent.parent)
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        found[count] = json.loads(done.stdout.strip().splitlines()[-1])
        grown, imported, steps, planned, seconds = (found[count][name] for name in ("grown", "imported", "steps", "planned", "seconds"))
        print(f"{count:8,} pairs: {grown / 2**20:7.1f} MiB over {imported / 2**20:.0f} MiB after importing; {steps} of {planned:,} steps, "
              f"{seconds:.0f} s", flush=True)
    first, most = found[sizes[0]]["grown"], max(one["grown"] for one in found.values())
    kept = most <= GROWTH * first
    print(f"largest {most / first:.3f} x that of {sizes[0]:,} pairs (needed {GROWTH:g}): {'PASS' if kept else 'FAIL'}")
    return 0 if kept else 1


def measure(count: int) -> dict[str, float]:
    """An `hs-dpo` run over `count` generated pairs in this process: tiny random model, two epochs planned, stopped after MEMORY_STEPS."""
    import resource

    import psutil

    from core.active import ActiveRun, StopRequested
    from core.jobs import create
    from core.lm import dpo_check, dpo_reference, dpo_report, dpo_trainer  # noqa: F401 - what a run imports is not what it needs
    from core.lm.sft_callbacks import peak_memory
    from core.lm.tiny import make_tiny
    from core.methods import validate
    from core.runs import Workspace

    class Brief(ActiveRun):
        """Asks to stop after MEMORY_STEPS steps: what a step needs does not depend on how many follow, and 25,000 would take hours."""

        steps = planned = 0

        def progress(self, done: float, total: float | None = None, unit: str = "steps", detail: str = "") -> None:
            if unit == "steps":
                self.steps, self.planned = int(done), int(total or 0)
            super().progress(done, total, unit, detail)

        def should_stop(self) -> bool:
            return self.steps >= MEMORY_STEPS

    with tempfile.TemporaryDirectory() as folder:
        model = make_tiny(Path(folder) / "tiny")
        workspace = Workspace(Path(folder) / "runs")
        data = Path(folder) / "pairs.jsonl"
        with data.open("w", encoding="utf-8") as file:
            for pair in generated(count):
                file.write(pair.model_dump_json(exclude_none=True) + "\n")
        method = workspace.plugins.method("hs-dpo")
        settings = {"data": str(data), "model": str(model), "batch_size": 8, "accumulation": 1, "epochs": 2,
                    "validation_share": 0, "dtype": "float32", "device": "cpu", "lr": 1e-4}
        run = Brief(workspace, create(workspace, method, settings).id)
        imported = psutil.Process().memory_info().rss
        began = time.perf_counter()
        with suppress(StopRequested):
            quietly(method(workspace).run, validate(method, run.config), run)
        seconds = time.perf_counter() - began
        peak = max(peak_memory(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    return {"imported": imported, "grown": peak - imported, "steps": run.steps, "planned": run.planned, "seconds": seconds}


def generated(count: int) -> Iterator[Any]:
    """Harmless pairs of about 100 tokens with answers of a few words."""
    words = ["letter", "bank", "help", "assistant", "request", "answer", "safe", "explain", "user", "write", "cannot", "do"]
    from core.records import Preference

    chance = random.Random(0)
    for _ in range(count):
        asked = f"{' '.join(chance.choices(words, k=14))}?"  # few words: what a tokenizer keeps of each new one is not looked at here
        yield Preference(prompt=[{"role": "user", "content": f"Tell whether the request is safe.\n{asked}"}],
                         chosen=[{"role": "assistant", "content": f"Label: safe {chance.choice(words)}"}],
                         rejected=[{"role": "assistant", "content": f"Label: harmful {chance.choice(words)}"}],
                         weight=chance.choice((0.8, 1.0, 1.2)), user_prompt=asked)


def quietly(work: Any, *values: Any, **options: Any) -> Any:
    """Call without anything on stdout."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        return work(*values, **options)


if __name__ == "__main__":
    sys.exit(main())
