"""Agents, or any models, on the same prompts: play, judge, write down. The report is made of what was written (eval_report.py).

    for model in models:
        evaluate(model, speaker, prompts, path, ...)      # goes on after the episodes that are there

A model is heard through a `Speaker`. An evaluation without a feedback agent needs no episodes of its own: it is the first replies of
the same ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from core.answer_log import AnswerLog
from core.evals.seen import TrainedOn
from core.judges import Judge
from core.methods import UserError
from core.records import Episode, Verdict
from core.waltz.eval_log import EvaluatedEpisode, read_evaluated
from core.waltz.protocol import Opening

if TYPE_CHECKING:
    from core.active import ActiveRun

AT_ONCE = 64
"""Episodes that are judged and written together."""
ENOUGH_TO_END = 16
"""Episodes of a model after which a judge that mostly fails ends the run."""
NO_ANSWER = "the model gave no answer"


class Speaker(Protocol):
    """Whatever answers."""

    seconds: dict[str, float]
    """Time spent so far on each kind of answer: reply, feedback, revision."""

    def episodes(self, openings: Iterable[Opening], max_new_tokens: int) -> Iterator[Episode]:
        """An episode of each prompt, in order; max_new_tokens: of each reply. Raises StopRequested when stopped."""

    def close(self) -> None:
        """Let go of the weights."""


@dataclass(frozen=True)
class Work:
    """One model and what it has to do."""

    model: str
    prompts: Iterable[Opening]
    """Can be gone through again and again."""
    count: int
    path: Path
    """Where the episodes are written."""
    judge: Judge | None
    """None = the answers are checked without one."""
    judge_text: str = ""
    trained: TrainedOn | None = None
    max_new_tokens: int = 256
    max_missing: float = 1.0
    """End the run when more than this share of a model's episodes has no verdict."""


def evaluate(work: Work, speaker: Callable[[], Speaker], run: ActiveRun, progress: Callable[[int], None]) -> None:
    """Play what is not there yet. `progress` is told how many episodes of this model there are. Raises StopRequested when stopped.

    speaker: opens the model, or gives the one that is open; not called where nothing is left to do.
    UserError where the prompts are others than those of the episodes that are there, or where the judge mostly fails; nothing that it
    failed at is written, so a resumed run asks it again.
    """
    done, missing = _kept(work, run)
    progress(done)
    if done >= work.count:
        return
    spoken = speaker()
    with AnswerLog(work.path) as log:
        episodes = spoken.episodes(itertools.islice(work.prompts, done, None), work.max_new_tokens)
        before = dict(spoken.seconds)
        while some := list(itertools.islice(episodes, AT_ONCE)):
            run.stop_if_asked()
            shares = _shares(some, before, spoken.seconds)
            before = dict(spoken.seconds)
            if work.judge is not None:
                missing += _judge(some, work, run)
                _refuse_silence(some, missing, done + len(some), work)
            log.add(*(_line(work, episode, shares) for episode in some))
            done += len(some)
            progress(done)


def _line(work: Work, episode: Episode, shares: dict[str, float]) -> EvaluatedEpisode:
    seen = work.trained is not None and work.trained.holds(episode.prompt)
    return EvaluatedEpisode(model=work.model, episode=episode, seconds=_seconds(episode, shares), seen_in_training=seen)


def _kept(work: Work, run: ActiveRun) -> tuple[int, int]:
    """(episodes of this model that are there, how many of them lack a verdict)."""
    done = missing = 0
    prompts = iter(work.prompts)
    for line in read_evaluated(work.path):
        if line.model == work.model:
            opening = next(prompts, None)
            if opening is None or opening.prompt != line.episode.prompt:
                raise UserError(f"The prompts have changed since {run.id} began (its prompt {done} of {work.model} is another one now); "
                                "start a new evaluation.")
            done, missing = done + 1, missing + _is_missing(line.episode)
    if done:
        run.log(f"{work.model}: {done:,} episodes from before are kept ({work.path.name})")
    return done, missing


def _judge(episodes: list[Episode], work: Work, run: ActiveRun) -> int:
    """Verdicts beside every reply; returns how many episodes lack one."""
    from core.lm.waltz_rollouts import ask_judge

    assert work.judge is not None
    for one in (one for episode in episodes for one in episode.rounds if episode.failed):
        one.verdict = Verdict(judge=work.judge_text, missing=f"{NO_ANSWER}: {one.reply.failed}")
    if answered := [episode for episode in episodes if not episode.failed]:
        ask_judge(answered, work.judge, run.should_stop)
    return sum(map(_is_missing, episodes))


def _is_missing(episode: Episode) -> bool:
    return any(one.verdict is not None and one.verdict.good is None for one in episode.rounds)


def _refuse_silence(episodes: list[Episode], missing: int, done: int, work: Work) -> None:
    """Numbers made of the few verdicts there are would mean little."""
    if missing <= work.max_missing * done or (done < ENOUGH_TO_END and missing < done):
        return
    reason = next((one.verdict.missing for episode in episodes for one in episode.rounds if one.verdict and one.verdict.missing), "")
    silent = reason.startswith(NO_ANSWER)
    who = "There is no verdict" if silent else f"The judge {work.judge_text} gave no verdict"
    advice = "mend what serves the model, and resume, or start anew with a higher max_missing" if silent else "mend the judge, and resume"
    raise UserError(f"{who} in {missing} of {done} episodes of {work.model}, more than max_missing = {work.max_missing:g} "
                    f"({reason or 'no reason given'}); {advice}.")


def _shares(episodes: list[Episode], before: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    """Seconds of one answer of each kind: these were written together."""
    counts = {"reply": len(episodes), "feedback": sum(one.feedback is not None for episode in episodes for one in episode.rounds),
              "revision": sum(len(episode.rounds) - 1 for episode in episodes)}
    return {part: (now[part] - before.get(part, 0.0)) / count for part, count in counts.items() if count and part in now}


def _seconds(episode: Episode, shares: dict[str, float]) -> dict[str, float]:
    counts = {"reply": 1, "feedback": sum(one.feedback is not None for one in episode.rounds), "revision": len(episode.rounds) - 1}
    return {part: round(shares[part] * count, 6) for part, count in counts.items() if count and part in shares}
