"""What every answer earned: rewards.jsonl, one line a group; samples.jsonl, a few answers to read; and the means for the curves."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.files import append_json_line, replace_file
from core.lm.grpo import FORMAT, example_of, is_readable, is_right
from core.records import read_jsonl

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.lm.grpo import GrpoJob
    from core.lm.grpo_plan import GroupPlan

FILE = "rewards.jsonl"
SAMPLES_FILE = "samples.jsonl"
EVEN = 1e-6
"""Rewards of a group that differ by less teach nothing: every advantage is 0."""
SAMPLED_STEPS = 10
"""Steps of a run that leave answers to read."""


class Ledger:
    """Written to by the trainer at each step. `done`: steps of the checkpoint that is gone on from; what came later is forgotten."""

    def __init__(self, run: ActiveRun, job: GrpoJob, plan: GroupPlan, *, done: int = 0) -> None:
        self.run, self.job, self.plan = run, job, plan
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        for name in (FILE, SAMPLES_FILE):
            forget_after(run.dir / name, done)

    def add(self, step: int, inputs: list[dict[str, Any]], rewards: list[list[float]], tokens: list[int]) -> None:
        """Answers of one step in groups. inputs: rows of the table with `text` and `finish`; rewards: the terms of each answer, NaN
        where a term does not apply; tokens: of each answer."""
        group = self.job.num_generations
        for start in range(0, len(inputs), group):
            part = slice(start, start + group)
            self._group(step, start // group, inputs[part], rewards[part], tokens[part])

    def values(self) -> dict[str, float]:
        """Means since this was last asked."""
        found = {name: self._sums[name] / count for name, count in self._counts.items()}
        self._sums.clear()
        self._counts.clear()
        return found

    def _group(self, step: int, slot: int, inputs: list[dict[str, Any]], rewards: list[list[float]], tokens: list[int]) -> None:
        rule, form = self.job.rule, self.job.prompt_format
        example = example_of(inputs[0])
        said = [form.parse(one["text"], example).labels for one in inputs]
        totals = [sum(term for term in terms if term == term) for terms in rewards]  # a term that does not apply is NaN
        right = [is_right(example.labels, labels, rule) for labels in said]
        readable = [is_readable(example.labels, labels, rule) for labels in said]
        clipped = [one["finish"] == "length" for one in inputs]
        append_json_line(self.run.dir / FILE, {
            "step": step, "row": inputs[0]["row"], "rewards": [round(total, 6) for total in totals], "right": right, "readable": readable,
            "tokens": tokens, "clipped": clipped})
        even = max(totals) - min(totals) < EVEN
        self._take(even_groups=[even], reward=totals, right_share=right, readable_share=readable, answer_tokens=tokens,
                   clipped_share=clipped)
        for place, term in enumerate((*rule.tasks, FORMAT)):
            self._take(**{f"reward_{term}": [terms[place] for terms in rewards if terms[place] == terms[place]]})
        if self._is_sampled(step) and slot < self.job.sample_rows:
            append_json_line(self.run.dir / SAMPLES_FILE, {
                "step": step, "trained": True, "prompt": example.prompt, "response": example.response, "text": inputs[0]["text"],
                "gold": example.labels.model_dump(exclude_none=True), "predicted": said[0].model_dump(exclude_none=True),
                "reward": round(totals[0], 4), "group_rewards": [round(total, 4) for total in totals]})

    def _take(self, **values: list[Any]) -> None:
        for name, listed in values.items():
            self._sums[name] += sum(listed)
            self._counts[name] += len(listed)
            if not self._counts[name]:
                del self._counts[name]

    def _is_sampled(self, step: int) -> bool:
        between = max(1, self.plan.steps // SAMPLED_STEPS)
        return step % between == 0 or step in (1, self.plan.steps)


def read_groups(run_dir: Path) -> Iterator[dict[str, Any]]:
    """The groups of a run, step by step."""
    return read_jsonl(run_dir / FILE)


def forget_after(path: Path, step: int) -> None:
    """Take out lines of steps after `step`: a killed run did them, and the resumed one does them again."""
    if path.exists():
        with replace_file(path) as file:
            for line in read_jsonl(path):
                if line["step"] <= step:
                    file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
