"""What a GRPO run shows while it works. Progress, Stop and checkpoints are those of every training (sft_callbacks.Follow)."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from core.lm.sft_callbacks import Follow, peak_memory
from core.methods import UserError
from core.words import size

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.lm.grpo_ledger import Ledger
    from core.runs import Run


class FollowRewards(Follow):
    """Curves of the reward and its terms, of how far the policy has moved, of length and readability."""

    def __init__(self, run: ActiveRun, epochs: float, ledger: Ledger) -> None:
        super().__init__(run, epochs)
        self.ledger = ledger
        self._began = 0.0
        self._in_steps = 0.0
        """Seconds in steps, roll-outs included, since the last log."""
        self._written = 0
        """Answer tokens since the last log."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step begins before its answers are written."""
        super().on_step_begin(args, state, control, **kwargs)
        self._began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Count what the step took."""
        self._in_steps += time.monotonic() - self._began
        self._written += self.trainer.step_tokens
        return super().on_step_end(args, state, control, **kwargs)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """The reward comes first, because the first number is the one that the run card draws; GRPO's loss says little."""
        if not logs or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise UserError(f"The loss is not a number at step {state.global_step}; use a smaller learning_rate than "
                            f"{args.learning_rate:g}, or dtype=float32.")
        values = self.ledger.values()
        tokens, seconds = self._written, self._in_steps
        self._written, self._in_steps = 0, 0.0
        speed = tokens / seconds if seconds else None
        others = {"policy_loss": logs["loss"], "kl": logs.get("kl"), "entropy": logs.get("entropy"),
                  "ratio_clipped_share": logs.get("clip_ratio/region_mean"), "learning_rate": logs.get("learning_rate"),
                  "grad_norm": logs.get("grad_norm"), "tokens": tokens, "seconds": seconds, "tokens_per_second": speed,
                  "memory_bytes": peak_memory()}
        first = {"reward": values.pop("reward", None)}
        self.run.metrics(state.global_step, **first, **values, **others)
        stats = {"Reward": f"{first['reward']:.3f}" if first["reward"] is not None else "-",
                 "Right": f"{values.get('right_share', 0):.0%}", "Readable": f"{values.get('readable_share', 0):.0%}",
                 "Memory": size(peak_memory())}
        if logs.get("kl") is not None:
            stats["KL"] = f"{logs['kl']:.4f}"
        if speed:
            stats["Speed"] = f"{speed:,.0f} answer tokens/s"
        self.run.stats(**stats)


def logged_rewards(run: Run) -> list[dict[str, Any]]:
    """The points of a run's curve, in order; of a step done twice (killed after its checkpoint) the later one."""
    found = {event["step"]: event for event in run.events("metrics") if "reward" in event}
    return [found[step] for step in sorted(found)]
