"""Supervised tokens per second of `rsft` against TRL's SFTTrainer: same rows, same adapter, same number format, in one run.

    python bench/sft.py [--data FILE] [--rows 8] [--repeats 2] [--device cpu]

Contestants: TRL as it is out of the box; TRL tuned as its manual allows (no activation checkpointing, a max_length that cuts
nothing, batches of 4 and 8, packed; and not packed, with rows grouped by length); ours. A supervised token is one that is in the
loss; TRL's default max_length cuts long rows, and what is cut is not counted. The clock runs inside optimizer steps only, so
loading, tokenising and saving are in nobody's time. The order turns round with each repeat, since shared machines drift.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("CI", "1")  # TRL sends no telemetry from a CI
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

NEEDED_OVER_DEFAULTS, NEEDED_OVER_TUNED = 1.5, 1.0


def main() -> int:
    """Run the contest and print the ratios; exit code 1 when ours is not fast enough."""
    options = arguments()
    import datasets

    from core.lm.tune_setup import hush

    hush()
    datasets.disable_progress_bars()
    rows, examples, form = chosen_rows(options)
    longest = max(len(row) for row in rows)
    print(f"{len(rows)} rows, {sum(len(row) for row in rows):,} tokens (longest {longest:,}), {sum(row.answer for row in rows):,} of them "
          f"answer; {options.model}, LoRA r16 on all linear layers, {options.dtype}, {os.cpu_count()} cores", flush=True)
    nothing_cut = -(-longest // 64) * 64
    tuned = {"activation_checkpointing": False, "gradient_checkpointing": False, "max_length": nothing_cut}
    contestants: dict[str, Any] = {"TRL defaults": partial(trl, rows, options)}
    for batch in (4, 8):
        contestants[f"TRL tuned, packed, batch {batch}"] = partial(trl, rows, options, packing=True,
                                                                   per_device_train_batch_size=batch, **tuned)
    contestants["TRL tuned, by length, batch 4"] = partial(trl, rows, options, per_device_train_batch_size=4,
                                                           train_sampling_strategy="group_by_length", **tuned)
    contestants["ours (rsft)"] = partial(ours, examples, form, options)
    totals: dict[str, list[tuple[int, float, float]]] = {name: [] for name in contestants}
    for turn in range(options.repeats):
        for name in list(contestants)[:: 1 if turn % 2 == 0 else -1]:
            tokens, wall, cpu = contestants[name]()
            totals[name].append((tokens, wall, cpu))
            print(f"  {turn + 1}. {name:40} {tokens / wall:8.1f} supervised tokens/s   {tokens / cpu:8.1f} per CPU second", flush=True)
    return show(totals)


def show(totals: dict[str, list[tuple[int, float, float]]]) -> int:
    """The table, and whether the promise is kept."""
    speeds = {name: sum(run[0] for run in runs) / sum(run[1] for run in runs) for name, runs in totals.items()}
    by_cpu = {name: sum(run[0] for run in runs) / sum(run[2] for run in runs) for name, runs in totals.items()}
    mine = speeds["ours (rsft)"]
    print(f"\n{'':42} tokens/s   per CPU s   ours is")
    for name, speed in speeds.items():
        print(f"{name:42} {speed:8.1f}    {by_cpu[name]:8.1f}   {mine / speed:6.2f} x")
    best = max((name for name in speeds if name.startswith("TRL tuned")), key=speeds.__getitem__)
    over_defaults, over_tuned = mine / speeds["TRL defaults"], mine / speeds[best]
    kept = over_defaults >= NEEDED_OVER_DEFAULTS and over_tuned >= NEEDED_OVER_TUNED
    print(f"\n{over_defaults:.2f} x TRL's defaults (needed {NEEDED_OVER_DEFAULTS}), {over_tuned:.2f} x the best tuned TRL, {best!r} "
          f"(needed {NEEDED_OVER_TUNED}): {'PASS' if kept else 'FAIL'}")
    return 0 if kept else 1


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="a file of rows with reasoning (default: the shared R-SFT rows, else the demo set)")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--rows", type=int, default=0, help="rows that each contestant learns once (default: about 5,000 tokens' worth)")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float32"])
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    from core.lm.device import pick_device, pick_dtype

    options.device = pick_device(options.device)
    options.dtype = pick_dtype(options.dtype, options.device)
    return options


def chosen_rows(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """(rows, their examples, prompt format): a random draw, the same for every contestant."""
    from core.data import load_examples
    from core.lm.load import load_model
    from core.lm.sft_data import choose_format
    from core.lm.sft_rows import build_rows
    from core.runs import REPOSITORY, Workspace

    shared = REPOSITORY.parent / "shared" / "data" / "rsft_train.jsonl"
    data = options.data or str(shared if shared.exists() else REPOSITORY / "assets" / "demo" / "guard-demo.jsonl")
    workspace = Workspace(tempfile.mkdtemp())
    examples = [row for row in load_examples(data, workspace) if row.split != "test"]
    random.Random(0).shuffle(examples)
    loaded = load_model(options.model, workspace.runs_dir, device=options.device, dtype=options.dtype)
    form, why = choose_format("auto", loaded, examples, workspace.plugins.prompt_formats)
    print(f"{Path(data).name}: {len(examples):,} rows, format {form.name} ({why})")
    made = build_rows(examples[:2000], form, loaded.tokenizer)
    count = min(options.rows or max(8, round(5000 * len(made.rows) / made.tokens)), len(made.rows))
    return made.rows[:count], [examples[row.index] for row in made.rows[:count]], form


def clock() -> Any:
    """A callback that sums wall and CPU time inside optimizer steps."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        wall = cpu = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.began = time.perf_counter(), time.process_time()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.wall += time.perf_counter() - self.began[0]
            self.cpu += time.process_time() - self.began[1]

    return Clock()


def fresh_model(options: argparse.Namespace) -> Any:
    """The base with nothing added to it, warmed up by one small pass."""
    import torch

    from core.lm.load import load_model

    torch.manual_seed(42)
    loaded = load_model(options.model, Path(tempfile.mkdtemp()), device=options.device, dtype=options.dtype, trainable=True)
    with torch.no_grad():
        loaded.model(input_ids=torch.ones(1, 64, dtype=torch.long, device=options.device))
    return loaded


def trl(rows: Any, options: argparse.Namespace, **settings: Any) -> tuple[int, float, float]:
    """(supervised tokens, wall seconds, CPU seconds) of one epoch of TRL's SFTTrainer; what is not in `settings` is its default."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    loaded, watch = fresh_model(options), clock()
    data = Dataset.from_list([{"input_ids": list(row.ids), "labels": [-100] * row.prompt + list(row.ids[row.prompt:])} for row in rows])
    if settings.get("train_sampling_strategy"):
        data = data.add_column("length", [len(row) for row in rows])
    with tempfile.TemporaryDirectory() as folder:
        args = SFTConfig(folder, num_train_epochs=1, bf16=options.dtype == "bfloat16", use_cpu=options.device == "cpu", save_strategy="no",
                         report_to=[], disable_tqdm=True, **settings)
        trainer = SFTTrainer(loaded.model, args, train_dataset=data, processing_class=loaded.tokenizer, callbacks=[watch],
                             peft_config=LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
        tokens = sum(label != -100 for labels in trainer.train_dataset["labels"] for label in labels)
        quietly(trainer.train)
    return tokens, watch.wall, watch.cpu


def ours(examples: Any, form: Any, options: argparse.Namespace) -> tuple[int, float, float]:
    """The same of `rsft`, through the code that a run uses; TRL's default of 8 rows a step."""
    from core.active import ActiveRun
    from core.lm import sft, sft_setup, tune_setup
    from core.lm.sft_rows import build_rows
    from core.runs import Workspace

    loaded, watch = fresh_model(options), clock()
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(folder)
        run = ActiveRun(workspace, "rsft-0001")
        run.dir.mkdir()
        job = sft.SftJob(model=options.model, prompt_format=form, train=examples, epochs=1, batch_size=8, gradient_accumulation_steps=1,
                         dtype=options.dtype, device=options.device, save_steps=10**9)
        rows = build_rows(examples, form, loaded.tokenizer).rows
        model = tune_setup.trainable(job, loaded, run)
        trainer, _, _ = quietly(sft_setup.trainer, job, run, loaded, model, rows, [], options.device)
        trainer.add_callback(watch)
        quietly(trainer.train)
    return sum(row.answer for row in rows), watch.wall, watch.cpu


def quietly(work: Any, *values: Any) -> Any:
    """Call without anything on stdout."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        return work(*values)


if __name__ == "__main__":
    sys.exit(main())
