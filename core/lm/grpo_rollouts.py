"""Roll-outs: answers to the prompts of a step, sampled from the live training weights by our own engine (core/lm/generate.py).

TRL's plain generation decodes every prompt once for each of its answers and pads all to the longest; ours computes a prompt once
and lets finished answers leave. Sampling noise is a function of (seed, step, prompt, answer, token), so a resumed run in float32
draws what the uninterrupted one drew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.lm.generate import generate
from core.lm.sft_callbacks import StoppedInEvaluation

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.lm.grpo import GrpoJob
    from core.lm.load import Loaded


class StoppedInRollouts(StoppedInEvaluation):
    """Stop was asked for while answers were written. The step is given up; resuming does it again."""


class Rollouts:
    """TRL's `rollout_func`: (prompts, each repeated for every answer of its group; the trainer) -> token ids of prompts and answers."""

    def __init__(self, job: GrpoJob, loaded: Loaded, run: ActiveRun) -> None:
        self.job, self.loaded, self.run = job, loaded, run

    def __call__(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        """Log-probabilities are left to the trainer's own forward pass (None): there they are exact, whatever engine sampled."""
        job, tokenizer = self.job, self.loaded.tokenizer
        special = not job.prompt_format.chat
        singles = prompts[::job.num_generations]
        if prompts != [prompt for prompt in singles for _ in range(job.num_generations)]:
            raise RuntimeError("TRL handed over prompts that are not in groups of num_generations")
        step = trainer.state.global_step
        with trainer.answering():
            made = list(generate(self.loaded, singles, max_new_tokens=job.max_new_tokens, temperature=job.temperature, top_p=job.top_p,
                                 seed=job.seed + (step << 31), samples=job.num_generations, add_special_tokens=special,
                                 should_stop=self.run.should_stop, on_batch=self._tell(step, trainer.state.max_steps, len(prompts))))
        if len(made) < len(prompts):
            raise StoppedInRollouts
        ids = tokenizer(singles, add_special_tokens=special)["input_ids"]
        return {"prompt_ids": [list(ids[place // job.num_generations]) for place in range(len(prompts))],
                "completion_ids": [list(one.token_ids) for one in made], "logprobs": None,
                "text": [one.text for one in made], "finish": [one.finish for one in made]}

    def _tell(self, step: int, steps: int, answers: int) -> Any:
        return lambda finished, _, __: self.run.progress(step, steps, "steps", detail=f"answer {finished} of {answers}")
