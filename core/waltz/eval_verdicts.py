"""The judge's word on the episodes of an evaluation: asked for, missing, asked for again by a resumed run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from core.methods import UserError
from core.records import Episode, Verdict, write_records
from core.waltz.eval_log import EvaluatedEpisode, read_evaluated
from core.waltz.protocol import Opening
from core.words import plural

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.waltz.evaluate import Speaker, Work

ENOUGH_TO_END = 16
"""Episodes of a model after which a judge that mostly fails ends the run."""
NO_ANSWER = "the model gave no answer"


def judge_all(episodes: Sequence[Episode], work: Work, run: ActiveRun) -> None:
    """Verdicts beside every reply. Where the model gave none there is nothing to judge, and the verdict is missing."""
    if work.judge is None:
        return
    for one in (one for episode in episodes for one in episode.rounds if episode.failed):
        one.verdict = Verdict(judge=work.judge_text, missing=f"{NO_ANSWER}: {one.reply.failed}")
    if answered := [episode for episode in episodes if not episode.failed]:
        from core.lm.waltz_rollouts import ask_judge

        ask_judge(answered, work.judge, run.should_stop)


def unjudged(episodes: Iterable[Episode], work: Work) -> list[Episode]:
    """Those that lack a verdict; none where no judge is asked."""
    return [episode for episode in episodes if work.judge is not None and _lacks_verdict(episode)]


def _lacks_verdict(episode: Episode) -> bool:
    return any(one.verdict is None or one.verdict.good is None for one in episode.rounds)


def ask_again(work: Work, speaker: Callable[[], Speaker], run: ActiveRun) -> list[Episode]:
    """Of the episodes that are there: the model where it gave no answer, then the judge where it gave no verdict.

    What they say now is in the file however this ends. Returns the episodes that still lack a verdict.
    """
    lines = {line.episode.row: line for line in read_evaluated(work.path) if line.model == work.model and _is_open(line.episode, work)}
    if not lines:
        return []
    run.log(f"{work.model}: {plural(len(lines), 'episode')} from before lacked an answer or a verdict, which is asked for again")
    try:
        _answer_again(lines, work, speaker)
        judge_all([line.episode for line in lines.values()], work, run)
    finally:
        write_records(work.path, (lines.get(line.episode.row, line) if line.model == work.model else line
                                  for line in read_evaluated(work.path)))
    return unjudged((line.episode for line in lines.values()), work)


def _is_open(episode: Episode, work: Work) -> bool:
    return bool(episode.failed) or (work.judge is not None and _lacks_verdict(episode))


def _answer_again(lines: dict[int, EvaluatedEpisode], work: Work, speaker: Callable[[], Speaker]) -> None:
    failed = [line.episode for line in lines.values() if line.episode.failed]
    openings = [Opening(one.row, one.prompt, one.side, one.source, one.category) for one in failed]
    for episode in speaker().episodes(openings, work.max_new_tokens) if failed else ():
        lines[episode.row] = lines[episode.row].model_copy(update={"episode": episode, "seconds": {}})


def refuse_silence(silent: Sequence[Episode], missing: int, done: int, work: Work) -> None:
    """UserError where most of the `done` episodes lack a verdict: numbers made of the few that there are would mean little.

    silent: some of the `missing` ones, for the reason.
    """
    if missing <= work.max_missing * done or (done < ENOUGH_TO_END and missing < done):
        return
    reason = next((one.verdict.missing for episode in silent for one in episode.rounds if one.verdict and one.verdict.missing), "")
    unanswered = reason.startswith(NO_ANSWER)
    who, advice = f"The judge {work.judge_text} gave no verdict", "mend the judge, and resume"
    if unanswered:
        who, advice = "There is no verdict", "mend what serves the model, and resume, or start anew with a higher max_missing"
    raise UserError(f"{who} in {missing} of {done} episodes of {work.model}, more than max_missing = {work.max_missing:g} "
                    f"({reason or 'no reason given'}); {advice}.")
