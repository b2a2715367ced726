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
from typing import TYPE_CHECKING, Protocol, TypeVar

from core.active import StopRequested
from core.answer_log import AnswerLog
from core.evals.seen import TrainedOn
from core.judges import Judge
from core.methods import UserError
from core.records import Episode
from core.waltz.eval_log import EvaluatedEpisode, read_evaluated
from core.waltz.eval_verdicts import ask_again, judge_all, refuse_silence, unjudged
from core.waltz.protocol import Opening

if TYPE_CHECKING:
    from core.active import ActiveRun

AT_ONCE = 64
"""Episodes that are judged and written together."""

Item = TypeVar("Item")


class Speaker(Protocol):
    """Whatever answers."""

    seconds: dict[str, float]
    """Time spent so far on each kind of answer: reply, feedback, revision."""

    def episodes(self, openings: Iterable[Opening], max_new_tokens: int) -> Iterator[Episode]:
        """An episode of each prompt, in order; max_new_tokens: of each reply. Raises StopRequested when stopped, after what is whole; an
        episode whose reply had not come, but later ones had, is there without it (`Said.failed`)."""

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
    What was answered is written before anything ends the run: an error of a server or of the judge, Stop. A resumed run asks for the
    answers and verdicts that are missing. UserError where the prompts are others than those of the episodes that are there, or where the
    judge mostly fails.
    """
    done = _kept(work, run)
    progress(done)
    silent = ask_again(work, speaker, run) if done else []
    refuse_silence(silent, len(silent), done, work)
    if done < work.count:
        _play(work, speaker(), run, progress, done, len(silent))


def _play(work: Work, spoken: Speaker, run: ActiveRun, progress: Callable[[int], None], done: int, missing: int) -> None:
    """The episodes after the first `done`, of which `missing` lack a verdict."""
    with AnswerLog(work.path) as log:
        episodes = spoken.episodes(itertools.islice(work.prompts, done, None), work.max_new_tokens)
        before = dict(spoken.seconds)
        while True:
            some, broken = gathered(episodes, AT_ONCE)
            if broken is None and run.should_stop():
                rest, broken = gathered(episodes)  # what has come already
                some += rest
            if some:
                shares = _shares(some, before, spoken.seconds)
                before = dict(spoken.seconds)
                broken = _judged(some, work, run, broken)
                log.add(*(_line(work, episode, shares) for episode in some))
                done += len(some)
                progress(done)
            if broken is not None:
                raise broken
            if not some:
                return
            silent = unjudged(some, work)
            missing += len(silent)
            refuse_silence(silent, missing, done, work)


def gathered(items: Iterator[Item], most: int | None = None) -> tuple[list[Item], Exception | None]:
    """The next `most` items (None = all); or those before an error, and the error: what was made before it may have been paid for."""
    found: list[Item] = []
    try:
        for item in itertools.islice(items, most):
            found.append(item)  # one by one: those before an error are there
    except Exception as error:
        return found, error
    return found, None


def _judged(episodes: list[Episode], work: Work, run: ActiveRun, broken: Exception | None) -> Exception | None:
    """Verdicts beside every reply, but none while somebody waits for a stop: a resumed run asks for them. Returns what ends the run."""
    if isinstance(broken, StopRequested) or run.should_stop():
        return broken or StopRequested()
    try:
        judge_all(episodes, work, run)
    except Exception as error:
        return broken or error
    return broken


def _line(work: Work, episode: Episode, shares: dict[str, float]) -> EvaluatedEpisode:
    seen = work.trained is not None and work.trained.holds(episode.prompt)
    return EvaluatedEpisode(model=work.model, episode=episode, seconds=_seconds(episode, shares), seen_in_training=seen)


def _kept(work: Work, run: ActiveRun) -> int:
    """How many episodes of this model are there."""
    done = 0
    prompts = iter(work.prompts)
    for line in read_evaluated(work.path):
        if line.model == work.model:
            opening = next(prompts, None)
            if opening is None or opening.prompt != line.episode.prompt:
                raise UserError(f"The prompts have changed since {run.id} began (its prompt {done} of {work.model} is another one now); "
                                "start a new evaluation.")
            done += 1
    if done:
        run.log(f"{work.model}: {done:,} episodes from before are kept ({work.path.name})")
    return done


def _shares(episodes: list[Episode], before: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    """Seconds of one answer of each kind: these were written together."""
    counts = {"reply": len(episodes), "feedback": sum(one.feedback is not None for episode in episodes for one in episode.rounds),
              "revision": sum(len(episode.rounds) - 1 for episode in episodes)}
    return {part: (now[part] - before.get(part, 0.0)) / count for part, count in counts.items() if count and part in now}


def _seconds(episode: Episode, shares: dict[str, float]) -> dict[str, float]:
    counts = {"reply": 1, "feedback": sum(one.feedback is not None for one in episode.rounds), "revision": len(episode.rounds) - 1}
    return {part: round(shares[part] * count, 6) for part, count in counts.items() if count and part in shares}
