"""One iteration's episodes: played by the agents, judged, paid, and turned into the texts that each agent learns from."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from core.judges import Judge, Judged
from core.lm.waltz_texts import Text, Texts
from core.records import Episode, Said
from core.waltz.protocol import Opening, Role, Rules, Turn, play
from core.waltz.rewards import TOTAL, RewardRule, reward

if TYPE_CHECKING:
    from core.lm.agents import Agents, Spoken


class Recorder:
    """The agents as players of the protocol, and the tokens of all that they said."""

    def __init__(self, agents: Agents) -> None:
        self.agents = agents
        self.spoken: dict[tuple[int, int, int], Spoken] = {}
        """By row, sample and number of the turn."""

    def say(self, turns: Sequence[Turn]) -> list[Said]:
        """See core.waltz.protocol.Players."""
        made = self.agents.sample(turns)
        self.spoken.update(((turn.row, turn.sample, turn.number), one) for turn, one in zip(turns, made, strict=True))
        return [one.said for one in made]


@dataclass
class Rollout:
    """The episodes of an iteration, with verdicts and rewards, and what was said in them as tokens."""

    episodes: list[Episode]
    spoken: dict[tuple[int, int, int], Spoken]
    seconds: dict[str, float] = field(default_factory=dict)
    """{"rollout", "judge"}."""

    @property
    def missing(self) -> int:
        """Episodes in which a verdict is missing."""
        return sum(any(one.verdict is None or one.verdict.good is None for one in episode.rounds) for episode in self.episodes)

    def texts(self, role: Role) -> Texts:
        """What an agent wrote in the episodes that count, with what it earned.

        Every reply of an episode is credited with R_c of the last one; a feedback with its own R_f.
        """
        return Texts([list(self._texts(episode, role)) for episode in self.episodes if not episode.left_out])

    def _texts(self, episode: Episode, role: Role) -> list[Text]:
        found = []
        for number, one in enumerate(episode.rounds):
            if role == "feedback" and one.feedback is None:
                continue
            earned = one.terms[TOTAL] if role == "feedback" else float(episode.conversation_reward or 0.0)
            spoken = self.spoken[episode.row, episode.sample, 2 * number + (role == "feedback")]
            found.append(Text(spoken.prompt_ids, spoken.token_ids, earned, spoken.log_probs))
        return found


def roll_out(openings: Sequence[Opening], agents: Agents, judge: Judge, rules: Rules, rule: RewardRule,
             should_stop: Callable[[], bool] | None = None) -> Rollout:
    """Play an episode (or `rules.samples` of them) of each prompt, ask the judge about every reply, and pay. Raises StopRequested."""
    began = time.perf_counter()
    recorder = Recorder(agents)
    episodes = list(play(openings, recorder, rules, at_once=len(openings) * rules.samples))
    played = time.perf_counter()
    ask_judge(episodes, judge, should_stop)
    paid = [_whole(reward(episode, rule), recorder.spoken) for episode in episodes]
    return Rollout(paid, recorder.spoken, {"rollout": played - began, "judge": time.perf_counter() - played})


def ask_judge(episodes: Sequence[Episode], judge: Judge, should_stop: Callable[[], bool] | None = None) -> None:
    """Put a verdict beside every reply. Raises StopRequested when stopped on the way."""
    rounds = [(episode, one) for episode in episodes for one in episode.rounds]
    given = judge.verdicts([Judged(episode.prompt, one.reply.text, episode.side) for episode, one in rounds], should_stop)
    if len(given) < len(rounds):
        from core.active import StopRequested

        raise StopRequested
    for (_, one), verdict in zip(rounds, given, strict=True):
        one.verdict = verdict


def _whole(episode: Episode, spoken: dict[tuple[int, int, int], Spoken]) -> Episode:
    """An episode in which somebody had no room to answer is left out: nothing was sampled that could be learned from."""
    for number in range(2 * len(episode.rounds)):
        said = spoken.get((episode.row, episode.sample, number))
        if said is not None and not said.token_ids and not episode.left_out:
            return episode.model_copy(update={"left_out": said.note or "an answer is empty", "conversation_reward": None})
    return episode
