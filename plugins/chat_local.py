"""Chat with weights on this machine: the embedded model, a Hub model, a folder, and every model that a run of this app made.

Adapters over one base share it: a second one costs its adapter alone, and switching between them reloads nothing (core/lm/load.py).
"""

from __future__ import annotations

from core import ChatModel, Outcome, Words, hookimpl


class LocalChat(ChatModel):
    """One model, by whichever engine suits it."""

    name = "local"
    title = "Weights on this machine"
    engine = None

    @classmethod
    def takes(cls, ref):
        return ref.has_weights and not ref.is_pair

    @classmethod
    def offered(cls, workspace):
        offers = [("embedded · SmolLM2-135M-Instruct", "embedded")]
        for run in workspace.runs():
            if run.state == "succeeded" and not run.labels["archived"] and any((run.dir / kind).is_dir() for kind in ("adapter", "model")):
                offers.append((" · ".join(filter(None, [run.id, run.status.get("what", "")])), f"run:{run.id}"))
        return offers

    def answer(self, messages, sampling, tell, should_stop):
        from core.active import StopRequested
        from core.lm.engines import open_engine

        if self.engine is None:
            self.engine = open_engine(self.ref, self.workspace)

        def heard(text):
            tell(Words("reply", 0, text))
            return False

        for made in self.engine.answers([list(messages)], max_new_tokens=sampling.max_new_tokens, temperature=sampling.temperature,
                                        top_p=sampling.top_p, seed=sampling.seed, is_complete=heard, should_stop=should_stop):
            if should_stop():  # what a stopped engine yields is what it had
                break
            tell(Words("reply", 0, made.text, done=True))
            return Outcome(tokens=made.tokens, prompt_tokens=made.prompt_tokens, finish=made.finish, note=made.note)
        raise StopRequested

    def close(self):
        if self.engine is not None:
            self.engine.close()
            self.engine = None


@hookimpl
def register_chat_models():
    return [LocalChat]
