"""What an iteration of WaltzRL training leaves to read: episodes.jsonl, one line an episode, and ledger.jsonl, one line an iteration."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import TypeVar

from core.answer_log import read_log
from core.files import replace_file
from core.records import Episode, Record
from core.waltz.feedback import label_score
from core.waltz.rewards import FORMAT, LABEL, feedback_reward, outcome

EPISODES = "episodes.jsonl"
LEDGER = "ledger.jsonl"
REPAIR = "take the line out, or resume the run from a checkpoint before it"


class PlayedEpisode(Record):
    """A line of episodes.jsonl: which iteration played it, and the whole exchange with every reward term."""

    iteration: int
    """From 1, counted over both stages."""
    episode: Episode


class Spread(Record):
    """A number over the episodes (or replies, or feedbacks) of an iteration."""

    mean: float | None = None
    """None where n is 0."""
    std: float | None = None
    """Standard deviation with divisor n."""
    n: int


class AgentStep(Record):
    """What one agent learned in an iteration, and how."""

    learned: bool
    """False: nothing was to be learned (see why); the weights have not moved."""
    why: str = ""
    texts: int = 0
    """Replies, or feedbacks, learned from."""
    tokens: int = 0
    """Their tokens, stop tokens included."""
    loss: float | None = None
    """Mean over response tokens and optimizer steps of -min(r A, clip(r) A)."""
    return_mean: float | None = None
    """Of the token returns, before they are normalised."""
    return_std: float | None = None
    kl: float | None = None
    """Mean of log pi_old - log pi_ref over response tokens: the k1 estimate, which may be negative."""
    entropy: float | None = None
    """Mean entropy of the next token, in nats, before the update."""
    clip_share: float | None = None
    """Tokens whose ratio left [1 - clip, 1 + clip] in the direction that clipping stops, over all optimizer steps."""
    mismatch: float | None = None
    """Mean of |log p as it was sampled - log p under the training forward| over tokens. None where the sampler does not say."""
    grad_norm: float | None = None
    """Before it is cut, mean over optimizer steps."""
    steps: int = 0
    """Optimizer steps done."""


class Iteration(Record):
    """A line of ledger.jsonl. `values` are over the episodes that count; see `tally` for the names."""

    iteration: int
    stage: int
    episodes: int
    """Played."""
    left_out: int
    """Episodes from which nothing is learned, because a verdict is missing or there was no room for an answer."""
    why_left_out: dict[str, int] = {}
    values: dict[str, Spread]
    outcomes: dict[str, int]
    """{outcome (core.waltz.rewards.OUTCOMES): episodes}."""
    agents: dict[str, AgentStep]
    """{"conversation" | "feedback": ...}; an agent that is frozen in this stage is not there."""
    seconds: dict[str, float]
    """{"rollout" | "judge" | "update": ...}."""
    memory_bytes: int = 0
    """Most memory used so far."""


LineT = TypeVar("LineT", PlayedEpisode, Iteration)


def spread(values: Iterable[float | bool]) -> Spread:
    """Mean and standard deviation."""
    listed = [float(value) for value in values]
    return Spread(mean=fmean(listed), std=pstdev(listed), n=len(listed)) if listed else Spread(n=0)


def tally(episodes: Sequence[Episode]) -> dict[str, Spread]:
    """Everything about the episodes that count:

    conversation_reward, first_reply_reward     R_c of the last and of the first reply
    feedback_reward                             sum of R_f over the rounds of an episode that has feedback
    dir, label, format, ... reward              each term of R_f (core/waltz/rewards.py), over feedbacks
    trigger, trigger_benign, trigger_harmful    share of episodes with a revision; of those with a prompt of that side
    unsafe, unsafe_first                        last (first) replies that are unsafe; of prompts that are not known to be benign
    overrefuse, overrefuse_first                the same for over-refusal, of prompts that are not known to be harmful
    score                                       how safe a feedback that can be read calls its reply: its score, else its label as 0 or 1
    score_unsafe                                the same, of replies that the judge calls unsafe
    label_accuracy, format_rate                 of feedbacks
    reply_tokens, revision_tokens, feedback_tokens, cut
    """
    counted = [episode for episode in episodes if not episode.left_out]
    rounds = [one for episode in counted for one in episode.rounds]
    feedbacks = [one for one in rounds if one.feedback is not None]
    found = {"conversation_reward": spread(episode.conversation_reward or 0.0 for episode in counted),
             "first_reply_reward": spread(_good(episode, 0) for episode in counted),
             "feedback_reward": spread(feedback_reward(episode) for episode in counted if episode.rounds[0].feedback is not None)}
    for term in sorted({name for one in feedbacks for name in one.terms}):
        found[term] = spread(one.terms[term] for one in feedbacks if term in one.terms)
    found["trigger"] = spread(episode.triggered for episode in counted)
    for side in ("benign", "harmful"):
        found[f"trigger_{side}"] = spread(episode.triggered for episode in counted if episode.side == side)
    for name, place in (("", -1), ("_first", 0)):
        found[f"unsafe{name}"] = spread(_verdict(episode, place, "unsafe") for episode in counted if episode.side != "benign")
        found[f"overrefuse{name}"] = spread(_verdict(episode, place, "overrefuse") for episode in counted if episode.side != "harmful")
    scores = [(label_score(one.feedback), one.verdict) for one in feedbacks if one.feedback is not None and not one.feedback.malformed]
    found["score"] = spread(score for score, _ in scores)
    found["score_unsafe"] = spread(score for score, verdict in scores if verdict is not None and verdict.unsafe)
    found["label_accuracy"] = spread(one.terms[LABEL] for one in feedbacks if LABEL in one.terms)
    found["format_rate"] = spread(one.terms[FORMAT] for one in feedbacks if FORMAT in one.terms)
    found["reply_tokens"] = spread(episode.rounds[0].reply.tokens for episode in counted)
    found["revision_tokens"] = spread(one.reply.tokens for episode in counted for one in episode.rounds[1:])
    found["feedback_tokens"] = spread(one.feedback.tokens for one in feedbacks if one.feedback is not None)
    texts = [text for one in rounds for text in (one.reply, one.feedback) if text is not None]
    found["cut"] = spread(text.finish == "length" for text in texts)
    return found


def count_outcomes(episodes: Iterable[Episode]) -> dict[str, int]:
    """{outcome: episodes}, left-out ones as "unjudged"."""
    return dict(Counter("unjudged" if episode.left_out else outcome(episode) for episode in episodes))


def why_left_out(episodes: Iterable[Episode]) -> dict[str, int]:
    """{reason: episodes from which nothing is learned}."""
    return dict(Counter(episode.left_out for episode in episodes if episode.left_out).most_common(20))


def read_iterations(run_dir: Path) -> Iterator[Iteration]:
    """The ledger of a run, in order; empty where there is none yet."""
    return read_log(run_dir / LEDGER, Iteration, REPAIR)


def read_episodes(run_dir: Path) -> Iterator[PlayedEpisode]:
    """All episodes of a run, in the order in which they were played, never all in memory."""
    return read_log(run_dir / EPISODES, PlayedEpisode, REPAIR)


def forget_after(path: Path, kind: type[LineT], iteration: int) -> None:
    """Take out what comes after `iteration`: a killed run did it, and the resumed one does it again."""
    if not path.exists():
        return
    with replace_file(path) as file:
        for line in itertools.takewhile(lambda one: one.iteration <= iteration, read_log(path, kind, REPAIR)):
            file.write(line.model_dump_json(exclude_none=True) + "\n")


def _good(episode: Episode, place: int) -> bool:
    verdict = episode.rounds[place].verdict
    return bool(verdict is not None and verdict.good)


def _verdict(episode: Episode, place: int, fault: str) -> bool:
    verdict = episode.rounds[place].verdict
    return bool(verdict is not None and getattr(verdict, fault))

