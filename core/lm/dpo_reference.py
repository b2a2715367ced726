"""Log-probabilities of the reference, computed with the starting weights before the first step and written into the run folder.

So training needs one model in memory, a resumed run does not compute them again, and weights that have moved cannot be taken for
the reference: what was not written down yet when a run was interrupted is computed by the model that training started from,
which is loaded before any checkpoint is.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from core.files import read_json, write_json
from core.methods import UserError
from core.words import plural

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.lm.dpo_rows import PairView
    from core.lm.dpo_trainer import PairTrainer
    from core.lm.load import Loaded
    from core.lm.sft_plan import Passes

NUMBERS = "reference.f32"
"""log P_ref of (chosen, rejected) of each pair, float32, row by row; NaN = not computed yet."""
ABOUT = "reference.json"
BLOCK = 16
"""Passes of each rank after which the numbers are written down."""


class Numbers:
    """The file, indexed by places of pairs: float32 [places, 2]. Nothing of it is kept in memory."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("r+b", buffering=0)

    def __getitem__(self, places: Any) -> Any:
        return np.array([self._read(int(place)) for place in places], np.float32).reshape(-1, 2)

    def __setitem__(self, places: Any, values: Any) -> None:
        for place, value in zip(places, values, strict=True):
            self._file.seek(8 * int(place))
            self._file.write(np.asarray(value, np.float32).tobytes())

    def _read(self, place: int) -> Any:
        self._file.seek(8 * place)
        return np.frombuffer(self._file.read(8), np.float32)


def reference_of(trainer: PairTrainer, run: ActiveRun, loaded: Loaded, sha256: str, looks: Sequence[tuple[PairView, Passes]]) -> Numbers:
    """[all pairs, 2] in float32, read from the disk as needed. NaN where no pass has the pair.

    looks: pairs with the passes over them; sha256: of all pairs. Raises StopRequested.
    """
    count = len(looks[0][0].rows)
    if run.rank == 0:
        _begin(run, {"model": loaded.ref, "weights_sha256": start_hash(loaded), "pairs_sha256": sha256, "pairs": count})
    trainer.accelerator.wait_for_everyone()
    found = Numbers(run.dir / NUMBERS)
    waiting = [(view, passes, _missing(found, view, passes)) for view, passes in looks]
    if any(numbers for _, _, numbers in waiting):
        _compute(trainer, run, found, waiting)
    return found


def _missing(found: Numbers, view: PairView, passes: Passes) -> array[int]:
    """Numbers of the passes with a pair that was not written down yet."""
    return array("i", (number for number, group in enumerate(passes) if np.isnan(found[view.places[group]]).any()))


def _compute(trainer: PairTrainer, run: ActiveRun, found: Numbers, waiting: list[tuple[PairView, Passes, array[int]]]) -> None:
    accelerator = trainer.accelerator
    ranks, rank = accelerator.num_processes, accelerator.process_index
    todo = sum(len(passes[number]) for _, passes, numbers in waiting for number in numbers)
    run.log(f"reference: log-probabilities of {plural(todo, 'pair')}")
    done = 0
    coming = ((view, passes[number]) for view, passes, numbers in waiting for number in numbers)
    while block := list(islice(coming, BLOCK * ranks)):
        places = np.concatenate([view.places[group] for view, group in block])
        sums = torch.zeros(len(places), 2, device=trainer.args.device)
        where = 0
        with trainer._looking():
            for number, (view, group) in enumerate(block):
                if number % ranks == rank:
                    inputs = trainer._prepare_inputs(trainer._collate([view[place] for place in group]))
                    sums[where:where + len(group)] = torch.stack(trainer.log_probabilities(trainer.model, inputs), 1)
                where += len(group)
                if ranks == 1:
                    run.stop_if_asked()
        sums = accelerator.reduce(sums) if ranks > 1 else sums
        if rank == 0:  # the others see the same file
            found[places] = sums.cpu().numpy()
        done += len(places)
        run.progress(done, todo, "pairs", detail="reference")
        if trainer.follow.agreed(run.should_stop()):
            from core.active import StopRequested

            raise StopRequested
    accelerator.wait_for_everyone()


def _begin(run: ActiveRun, about: dict[str, Any]) -> None:
    """Keep the file that is there, or make a fresh one. Numbers of another model or other pairs are refused."""
    path = run.dir / NUMBERS
    before = read_json(run.dir / ABOUT)
    if before is not None and path.exists() and path.stat().st_size == 8 * about["pairs"] and before == about:
        return
    if before is not None and run.last_checkpoint() is not None:
        what = "pairs have" if before.get("pairs_sha256") != about["pairs_sha256"] else "model that it starts from has"
        raise UserError(f"The {what} changed since {run.id} began, so its reference is not known any more; start a new run, or put "
                        "them back and resume.")
    with path.open("wb") as file:
        for start in range(0, about["pairs"], 4096):
            np.full((min(4096, about["pairs"] - start), 2), np.nan, np.float32).tofile(file)
    write_json(run.dir / ABOUT, about)


def start_hash(loaded: Loaded) -> str:
    """sha256 of the adapter that training starts from; of a model without one the Hub's commit, "" where there is none."""
    if loaded.adapter is None:
        return loaded.revision or ""
    with (loaded.adapter / "adapter_model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
