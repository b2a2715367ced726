"""Methods without a model, for tests of runs and jobs: they count, slowly, with checkpoints."""

import os
import time

from core import Config, Method, Stage, UserError, hookimpl, setting
from core.files import read_json, write_json


def fill(path):
    """Every byte of the disk, a small one."""
    if os.statvfs(path.parent).f_blocks * os.statvfs(path.parent).f_frsize > 64 * 2**20:
        raise UserError("the disk is not a small one")
    with path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


class Count(Method):
    name = "count"
    title = "Counting"
    summary = "Counts to a number; writes a checkpoint every step."
    stage = Stage.TRAINING
    makes = ("report",)

    class Config(Config):
        to: int = setting(5, ge=0, aliases=("n",))
        """Where to stop."""
        pause: float = setting(0.02, ge=0)
        """Seconds a step takes."""
        fail_at: int | None = setting(None, advanced=True)
        """Fail at this step."""
        mode: str = setting("plain", advanced=True)
        """plain, deaf (ignores Stop), bad-input, no-space, or fill-disk (only where it is a small one)."""

    def run(self, config, run):
        last = run.last_checkpoint()
        at = read_json(last / "checkpoint.json")["at"] if last else 0
        while at < config.to:
            time.sleep(config.pause)
            at += 1
            if at == config.fail_at:
                raise RuntimeError("asked to fail")
            if config.mode == "bad-input":
                raise UserError("mode = bad-input is not for running; choose plain.")
            if config.mode == "no-space":
                raise OSError(28, "No space left on device")
            if config.mode == "fill-disk":
                fill(run.dir / "large.bin")
            run.metrics(at, loss=1.0 / at)
            run.progress(at, config.to)
            folder = run.checkpoint_dir / f"checkpoint-{at}"
            folder.mkdir(exist_ok=True)
            write_json(folder / "checkpoint.json", {"at": at})
            if config.mode != "deaf":
                run.stop_if_asked()
        run.save_report({"kind": "count", "counted": at, "headline": f"counted to {at}"})


class ShortCount(Count):
    name = "short-count"
    title = "Counting at once"
    lane = "instant"


class LookAround(Method):
    name = "look-around"
    title = "Looking around"
    stage = Stage.TRAINING

    class Config(Config):
        processes: int = setting(1)
        """Ranks, as torchrun starts them."""
        child: bool = setting(False)
        """Have a child look, too, after this run has changed its environment."""

    def run(self, config, run):
        if run.rank == 0:
            write_json(run.dir / "seen.json", dict(os.environ))
        os.environ["CUDA_VISIBLE_DEVICES"] = "7"  # as training does
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(run.dir)
        if config.child:
            run.child("look-around", {}, key="child")


class Family(Method):
    name = "family"
    title = "Family"
    stage = Stage.TRAINING

    class Config(Config):
        children: int = setting(2)
        """How many."""
        to: int = setting(3)
        """Each child counts to this."""
        pause: float = setting(0.02)
        """Seconds a child's step takes."""

    def run(self, config, run):
        for index in range(config.children):
            run.child("count", {"to": config.to + index, "pause": config.pause}, key=f"child-{index}")


@hookimpl
def register_methods():
    return [Count, ShortCount, LookAround, Family]
