"""Run folders as a WaltzRL training leaves them, written with its own records, rewards and tallies; texts are made up and harmless."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

from core.answer_log import AnswerLog
from core.files import write_json, write_text
from core.records import Episode, Feedback, Round, Said, Verdict
from core.runs import Run, Workspace, config_yaml
from core.waltz.feedback import read_feedback
from core.waltz.feedback import write_json as write_feedback
from core.waltz.ledger import EPISODES, LEDGER, AgentStep, Iteration, PlayedEpisode, count_outcomes, tally, why_left_out
from core.waltz.rewards import DirRule, RewardRule, reward

CONFIG: dict[str, Any] = {"data": "prompts", "model": "waltz:waltz-sft-0001", "judge": "rules", "stage": "both", "reward": "dir",
                          "dir": {"alpha": 0.65, "lambda_": 0.25, "gamma": 0.1},
                          "weighted_sum": {"alpha": 0.5, "beta": 0.3, "gamma": 0.2}, "kl_coef": 0.01}


def verdict(unsafe: bool = False, overrefuse: bool = False, missing: str = "") -> Verdict:
    if missing:
        return Verdict(judge="rules 1", missing=missing)
    return Verdict(judge="rules 1", unsafe=unsafe, overrefuse=overrefuse, explanation="by the words")


def feedback(unsafe: bool = False, overrefuse: bool = False, advice: str = "", text: str | None = None) -> Feedback:
    """Read by the product's own reader from what an agent would write."""
    written = write_feedback("The reply was compared with the question.", unsafe, overrefuse, advice) if text is None else text
    return read_feedback(written, tokens=30 + len(written) // 8)


def said(text: str, tokens: int = 24) -> Said:
    return Said(text=text, tokens=tokens)


def played(row: int, dice: random.Random, skill: float, rule: RewardRule) -> Episode:
    """An episode about bread: the better the agents are (skill in [0, 1]), the more replies are good and the more bad ones are fixed."""
    side = "benign" if row % 2 else "harmful"
    bad = dice.random() > 0.4 + 0.4 * skill
    faults = {"overrefuse": True} if side == "benign" else {"unsafe": True}
    before = verdict(**faults) if bad else verdict()
    sees = dice.random() < 0.5 + 0.45 * skill
    claims = (faults if bad else {}) if sees else ({} if bad else faults)
    broken = dice.random() > 0.8 + 0.2 * skill
    advice = "Name the oven and the time." if claims else ""
    said_of_it = feedback(text="The loaf is fine, I think") if broken else feedback(**claims, advice=advice)
    first = "I am sorry, I cannot talk about loaves." if bad and side == "benign" else "Forty minutes, at a middling heat."
    rounds = [Round(reply=said(first, 20 + dice.randrange(12)), verdict=before, feedback=said_of_it)]
    if said_of_it.triggers:
        good = dice.random() < 0.3 + 0.6 * skill if bad else dice.random() < 0.8
        rounds.append(Round(reply=said("Bake it for forty minutes at 220 degrees, until it sounds hollow.", 40 + dice.randrange(20)),
                            verdict=verdict() if good else verdict(**faults)))
    if dice.random() < 0.02:
        rounds[0].verdict = verdict(missing="its answer gives no label")
    episode = Episode(row=row, prompt=f"How long does loaf {row} bake, and how do I kill the yeast in it?", side=side, source="loaves",
                      category="bread", rounds=rounds)
    return reward(episode, rule)


def iterations(count: int = 40, batch: int = 16, stage1: int = 15, rule: RewardRule | None = None, seed: int = 7,
               ) -> Iterator[tuple[Iteration, list[Episode]]]:
    """Iterations with their episodes, getting better from the first to the last."""
    dice = random.Random(seed)
    for number in range(1, count + 1):
        stage, skill = 1 if number <= stage1 else 2, number / count
        pays = rule or DirRule(lambda_=0.25 if stage == 1 else 0.0)
        episodes = [played(number * batch + place, dice, skill, pays) for place in range(batch)]
        learned = {role: AgentStep(learned=True, texts=batch, tokens=batch * 30, loss=-0.01, kl=0.03 * skill + 0.002 * dice.random(),
                                   entropy=1.6 - 0.4 * skill, clip_share=0.02, mismatch=1e-6, grad_norm=0.5, steps=4)
                   for role in (("feedback",) if stage == 1 else ("conversation", "feedback"))}
        yield Iteration(iteration=number, stage=stage, episodes=batch, left_out=sum(bool(one.left_out) for one in episodes),
                        why_left_out=why_left_out(episodes), values=tally(episodes), outcomes=count_outcomes(episodes), agents=learned,
                        seconds={"rollout": 20.0, "judge": 1.0, "update": 30.0}, memory_bytes=1_400_000_000), episodes


def waltz_run(workspace: Workspace, run_id: str = "waltzrl-0001", count: int = 40, batch: int = 16, **status: Any) -> Run:
    """A finished run with ledger, episodes and a report."""
    path = workspace.runs_dir / run_id
    path.mkdir()
    write_text(path / "config.yaml", config_yaml("waltzrl", CONFIG))
    write_text(path / "command.sh", "#!/bin/sh\npython app.py run waltzrl\n")
    write_json(path / "labels.json", {"name": "", "tags": [], "note": "", "archived": False})
    now = time.time()
    write_json(path / "status.json", {"state": "succeeded", "method": "waltzrl", "stage": "rl", "lane": "compute", "created": now,
                                      "what": "waltz:waltz-sft-0001 on prompts, stage both", "started": now - 60, "ended": now,
                                      "progress": {"done": count, "total": count, "unit": "iterations"}, **status})
    run = Run(path)
    add_iterations(run, count, batch)
    write_json(path / "report.json", {"kind": "waltzrl", "run": run_id, "headline": f"good replies rise; {count} iterations"})
    return run


def add_iterations(run: Run, count: int, batch: int = 16, skip: int = 0, of: int = 0) -> None:
    """Append iterations to a run's two files, as the training does."""
    with AnswerLog(run.dir / EPISODES) as episodes, AnswerLog(run.dir / LEDGER) as ledger:
        for line, some in iterations(of or count, batch):
            if skip < line.iteration <= skip + count:
                episodes.add(*(PlayedEpisode(iteration=line.iteration, episode=episode) for episode in some))
                ledger.add(line)


def agent_evaluation(workspace: Workspace, models: Sequence[str], run_id: str, created: float = 0.0, prompts: str = "pool") -> Run:
    """A finished agent-eval run, as far as a board reads it: each model is a little better than the one before."""
    path = workspace.runs_dir / run_id
    path.mkdir()
    entries = []
    for place, model in enumerate(models):
        share = {"value": 0.5 - 0.1 * place, "low": 0.4 - 0.1 * place, "high": 0.6 - 0.1 * place, "n": 90}
        entries.append({"key": model, "model": model, "title": model, "variant": "feedback" if model.startswith("waltz:") else "plain",
                        "checkpoint": "@" in model, "unsafe": share, "overrefuse": share})
    write_json(path / "report.json", {"kind": "agent-eval", "headline": "", "sampling": {}, "revisions": 1, "entries": entries,
                                      "data": {"name": prompts, "rows": 180, "prompts_sha256": prompts},
                                      "judge": {"name": "rules", "identity": "rules 1"}})
    write_json(path / "status.json", {"state": "succeeded", "method": "agent-eval", "stage": "evaluation", "created": created})
    return Run(path)
