"""Chat with the two agents of a run: the conversation agent replies, the feedback agent may ask for another answer (WaltzRL)."""

from __future__ import annotations

from typing import Any

from core import ChatModel, Outcome, Words, hookimpl


class AgentsChat(ChatModel):
    """A pair of agents over one base, who play the protocol they were trained with."""

    name = "agents"
    title = "Two agents of a run"
    engine: Any = None

    @classmethod
    def takes(cls, ref):
        return ref.is_pair

    @classmethod
    def offered(cls, workspace):
        from core.data import AGENT_SETS

        def whole(folder):
            return all((folder / role).is_dir() for role in AGENT_SETS)

        offers = []
        for run in workspace.runs():
            if run.labels["archived"]:
                continue
            if run.state == "succeeded" and whole(run.dir):
                words = [run.id, run.name if run.name != run.id else "", run.status.get("what", "")]
                offers.append((" · ".join(filter(None, words)), f"waltz:{run.id}"))
            offers += [(f"{run.id} · {folder.name}", f"waltz:{run.id}@{folder.name}")
                       for folder in reversed(run.checkpoints()) if whole(folder)]
        return offers

    def answer(self, messages, sampling, tell, should_stop):
        from dataclasses import replace

        from core.active import StopRequested
        from core.lm.agents import Speech
        from core.lm.engines import open_engine

        if self.engine is None:
            self.engine = open_engine(self.ref, self.workspace)
        engine = self.engine

        def heard(turn, text, done):
            tell(Words("feedback" if turn.role == "feedback" else "revision" if turn.number else "reply", turn.number, text, done))

        own_rules = engine.rules
        if sampling.revisions is not None:
            engine.rules = replace(own_rules, revisions=sampling.revisions)
        engine.agents.on_text = heard
        speech = Speech(temperature=sampling.temperature, top_p=sampling.top_p, max_new_tokens=sampling.max_new_tokens,
                        max_feedback_tokens=sampling.max_feedback_tokens, seed=sampling.seed)
        try:
            for episode in engine.episodes([list(messages)], speech, should_stop=should_stop):
                said = [one for part in episode.rounds for one in (part.reply, part.feedback) if one is not None]
                cut = episode.last.reply.finish == "length"
                return Outcome(tokens=sum(one.tokens for one in said), finish="length" if cut else "stop", episode=episode)
        finally:
            engine.agents.on_text, engine.rules = None, own_rules
        raise StopRequested

    def close(self):
        if self.engine is not None:
            self.engine.close()
            self.engine = None


@hookimpl
def register_chat_models():
    return [AgentsChat]
