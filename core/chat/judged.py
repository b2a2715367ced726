"""Replies and what is said of them, for sets of conversations: labelled rows, or what an evaluation or a WaltzRL training had judged.

Of a judged episode each round is a row: its verdict becomes labels. A judge's word stands for a person's, so what is learned from these
rows can be no better than the judge.

    unsafe       -> response harmful                    side harmful -> request harmful
    overrefuse   -> completion refusal                  side benign  -> request unharmful
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from core.data import DataSource, find_data, stream_examples
from core.methods import UserError
from core.records import Episode, GuardExample, Labels, Round
from core.waltz.eval_log import EPISODES, read_evaluated
from core.waltz.ledger import read_episodes
from core.waltz.prompts import LABEL_OF

if TYPE_CHECKING:
    from core.runs import Run, Workspace

EVALUATION, TRAINING = "agent-eval", "waltzrl"
JUDGED = (EVALUATION, TRAINING)
"""Methods whose runs hold judged replies."""


class Reply(NamedTuple):
    """A row with a reply, and whether the reply ended by itself."""

    example: GuardExample
    whole: bool
    """False: it was cut at the limit of tokens."""
    line: int
    """Its line in `Replies.file`, from 1; the replies of one episode share theirs."""


class Replies(NamedTuple):
    """Where rows come from: each call of `stream` reads them anew, in the same order."""

    name: str
    file: str
    stream: Callable[[], Iterator[Reply]]
    run: Run | None
    """The run whose judge labelled them; None: people did."""

    @property
    def judged(self) -> bool:
        """By a judge of ours, not by people?"""
        return self.run is not None


def find_replies(ref: str, workspace: Workspace) -> Replies:
    """A set of labelled rows, a file, or else a run that had replies judged; UserError where there is none of these.

    Sets come first, as everywhere a name is given: an evaluation must not hide the set that it shares a name with.
    """
    try:
        source = find_data(ref, workspace)
    except UserError:
        run = _judged_run(ref, workspace)
        if run is None:
            raise
        return Replies(run.name, EPISODES, partial(_rows_of, run), run)
    return Replies(source.name, source.path.name, partial(_labelled, source, workspace), None)


def _labelled(source: DataSource, workspace: Workspace) -> Iterator[Reply]:
    for place, example in enumerate(stream_examples(source, workspace), start=1):
        line = example.row if source.run is None else None  # an imported row says where it stood in the file that was imported
        yield Reply(example, True, line or place)


def _judged_run(ref: str, workspace: Workspace) -> Run | None:
    wanted = ref.strip().removeprefix("run:")
    return next((run for run in workspace.runs() if run.method in JUDGED and wanted in (run.id, run.name)
                 and (run.dir / EPISODES).is_file()), None)


def _rows_of(run: Run) -> Iterator[Reply]:
    if run.method == EVALUATION:
        episodes = ((one.model, one.episode) for one in read_evaluated(run.dir / EPISODES))
    else:
        episodes = ((f"waltz:{run.id}", one.episode) for one in read_episodes(run.dir))
    for line, (speaker, episode) in enumerate(episodes, start=1):
        for one in episode.rounds:
            if (example := _as_example(speaker, episode, one)) is not None:
                yield Reply(example, one.reply.finish != "length", line)


def _as_example(speaker: str, episode: Episode, one: Round) -> GuardExample | None:
    """None where the judge said nothing, or nothing was replied: such a round teaches nothing."""
    verdict = one.verdict
    if verdict is None or verdict.good is None or not one.reply.text.strip():
        return None
    labels = {"response": "harmful" if verdict.unsafe else "unharmful"}
    if episode.side:
        labels["request"] = LABEL_OF[episode.side]
    if verdict.overrefuse:
        labels["completion"] = "refusal"
    elif episode.side == "benign":
        labels["completion"] = "compliance"
    return GuardExample(prompt=episode.prompt, response=one.reply.text, labels=Labels.model_validate(labels), source=speaker,
                        category=episode.category)


def refuse_unfinished(replies: Replies) -> None:
    """UserError where the run that judges them is still at work: its rows would change between two readings."""
    run = replies.run
    if run is not None and run.state in ("queued", "running"):
        raise UserError(f"{run.id} is {run.state}; wait until it has ended, or stop it first.")
