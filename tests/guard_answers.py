"""What the tests of a guard share: questions, a whole answer, and a model that writes what a test tells it to."""

from core.guard.schema import Asked
from core.lm.generate import Generated

WHOLE = ("# Task 1\n\n## Reasoning Step 1\nThe user asks about a letter.\n\n"
         "Answers: \nRequest: harmful\nCompletion: refusal\nResponse: unharmful\n")
LETTER = Asked(prompt="Please explain how a letter is written.")
REPLY = Asked(prompt=LETTER.prompt, response="Begin with the date.")


def says(monkeypatch, guard, answer):
    """The weights stay what they are; what they write is `answer(question, sample)`. Returns the calls of the engine."""
    calls = []

    def answers(prompts, *, indices, samples, **settings):
        prompts = list(prompts)
        calls.append((len(prompts), samples, settings))
        for index, text in zip(indices, prompts, strict=True):
            for sample in range(samples):
                said = answer(text, sample)
                yield Generated(index, sample, said, (1,) * len(said.split()), 5, "stop", 0.0)

    monkeypatch.setattr(guard.engine, "answers", answers)
    return calls
