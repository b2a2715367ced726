"""What a preference training shows while it works; progress, Stop and checkpoints are those of core/lm/sft_callbacks.py."""

from __future__ import annotations

from typing import Any

from core.lm.sft_callbacks import Follow

SHOWN = ("dpo_loss", "sft_loss", "reward_chosen", "reward_rejected", "reward_margin", "reward_accuracy", "kl_estimate")


class PairFollow(Follow):
    """Curves of the loss's parts, the rewards, and the loss of each group of weights."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_step_begin(args, state, control, **kwargs)
        self.trainer.begin_step()

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        control = super().on_substep_end(args, state, control, **kwargs)
        if self.stopping:
            self.trainer.give_up_step()
            control.should_log = True  # the whole steps since the last point of the curves, where there are any
        return control

    def step_values(self, speed: float | None) -> tuple[dict[str, float], dict[str, str]]:
        found = self.trainer.take_totals()
        pairs = found.pop("pairs")
        stats = {"Margin": f"{found['reward_margin']:+.3f}", "Right": f"{found['reward_accuracy']:.0%}"}
        if self.busy:
            found["pairs_per_second"] = pairs / self.busy
            stats["Speed"] = f"{pairs / self.busy:.2f} pairs/s"
        return {**found, "pairs": pairs}, stats

    def eval_values(self, metrics: dict[str, float]) -> dict[str, float]:
        own = ("eval_loss", "eval_loss_error", "eval_seconds")
        return {name: value for name, value in metrics.items() if name.startswith("eval_") and name not in own}
