"""A guard that classifies interactions: asked in the prompt format that it was trained in, as `guard-eval` asks, and read by its parser.

    with Guard("run:rsft-0001", workspace) as guard:
        for number, said in guard.classify([Asked(prompt="...")], How(confidence="log-prob")):
            ...
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from core.evals.prompting import choose_format
from core.evals.questions import Question, answer, questions
from core.guard.gather import Part, Work, of_label
from core.guard.places import LabelPlace, label_place
from core.guard.schema import Asked, Classified, How
from core.guard.vote import Tally
from core.methods import UserError
from core.records import POSITIVE, TASKS, GuardExample, Labels, Prediction, Task
from core.refs import parse_model_ref

if TYPE_CHECKING:
    from core.lm.device import Dtype
    from core.lm.engines import Engine, EngineName
    from core.lm.load import Quantization
    from core.runs import Workspace

Stop = Callable[[], bool] | None
ANSWER_ROOM = 16
"""Tokens that a label which is picked may need, "Label:" included."""


class TooLong(UserError):
    """An interaction does not fit into the guard's context."""


class Guard:
    """A model that answers in a guard's prompt format. One thread at a time may use it."""

    def __init__(self, ref: str, workspace: Workspace, *, prompt_format: str = "auto", device: str = "auto", dtype: Dtype = "auto",
                 quantization: Quantization | None = None, engine: EngineName = "auto",
                 log: Callable[[str], None] | None = None) -> None:
        """Loads the weights. UserError where there is no such model, or it cannot be asked."""
        from core.lm.engines import open_engine
        from core.lm.find import Found, find_model

        parsed = parse_model_ref(ref)
        found = find_model(parsed, workspace.runs_dir) if parsed.has_weights else Found(str(parsed), str(parsed), "")
        self.ref, self.is_local = found.ref, parsed.has_weights
        self.prompt_format, self.note = choose_format(found, prompt_format, workspace.plugins.prompt_formats, alone=True)
        self.picks = bool(self.prompt_format.choices(GuardExample(prompt="?", labels=Labels(request="harmful"))))
        """Nothing is written: the likelier of the labels is taken, as `guard-eval` asks models that were never trained as guards."""
        if self.picks and not parsed.has_weights:
            raise UserError(f"{self.ref} would be asked in {self.prompt_format.name}, which takes the likelier of two labels, and a server "
                            "does not tell how likely they are; name the format it answers in.")
        self.engine: Engine = open_engine(parsed, workspace, "own" if self.picks else engine, device=device, dtype=dtype,
                                          quantization=quantization, log=log)

    def problem(self, how: How) -> str:
        """Why this guard cannot answer in this way; "" = it can."""
        if how.confidence == "vote" and self.picks:
            return (f"{self.ref} is asked in {self.prompt_format.name}, where nothing is sampled, so there is no vote; "
                    "take confidence = log-prob.")
        if how.confidence == "log-prob" and self.engine.loaded is None:
            return (f"confidence = log-prob needs the weights of {self.ref} in this process, and the engine {self.engine.name} keeps them "
                    "elsewhere; take vote, or engine = own.")
        return ""

    def facts(self) -> dict[str, Any]:
        """What a client may want to know of the model."""
        described = self.engine.loaded.describe() if self.engine.loaded is not None else {"model": self.ref}
        return {**described, "prompt_format": self.prompt_format.name, "prompt_format_title": self.prompt_format.title,
                "labels": list(self.prompt_format.tasks), "reasons": self.prompt_format.reasons, "engine": self.engine.name,
                "note": self.note}

    def classify(self, asked: Sequence[Asked], how: How, should_stop: Stop = None) -> Iterator[tuple[int, Classified | UserError]]:
        """(its place in `asked`, what the guard says, or why it cannot), each as soon as it is known; what is equal is asked once.

        Ends early when stopped. A failure of the model itself is raised, and concerns everything that was not yielded before.
        """
        works = [self._begun(number, one, how) for number, one in enumerate(asked)]
        waiting: dict[int, list[tuple[Work, Question]]] = {}
        for work, these in works:
            if not these:
                yield work.number, work.said
            for question in these:
                waiting.setdefault(_number_of(question.text), []).append((work, question))
        first = {index: members[0][1] for index, members in waiting.items()}
        for index, part in self.parts(first, how, should_stop):
            for work, question in waiting[index]:
                work.add(question, part)
                if not work.open:
                    yield work.number, work.problem or work.whole(self.prompt_format)

    def parts(self, asked: dict[int, Question], how: How, should_stop: Stop = None) -> Iterator[tuple[int, Part | UserError]]:
        """The same for questions that were put already: {their own number: question}. What is drawn depends on the number."""
        if problem := self.problem(how):
            raise UserError(problem)
        yield from (self._picked if self.picks else self._voted if how.confidence == "vote" else self._written)(asked, how, should_stop)

    def close(self) -> None:
        """Let go of the weights."""
        self.engine.close()

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- the questions ----

    def _begun(self, number: int, asked: Asked, how: How) -> tuple[Work, list[Question]]:
        response = asked.response or None
        wanted: list[Task] = list(TASKS) if response is not None else ["request"]
        # a label in an example says which ones are asked for; the prompt does not show it
        example = GuardExample(prompt=asked.prompt, response=response, labels=Labels.model_validate({task: POSITIVE[task]
                                                                                                      for task in wanted}))
        these = questions(self.prompt_format, [example], wanted)
        missing: dict[Task, str] = {task: "there is no response" for task in TASKS if task not in wanted}
        missing |= {task: f"the prompt format {self.prompt_format.name} gives no such label" for task in wanted
                    if task not in self.prompt_format.tasks}
        said = Classified(labels=Labels(), missing=missing, method=how.confidence, model=self.ref,
                          samples=how.samples if how.confidence == "vote" else 1, prompt_format=self.prompt_format.name)
        return Work(number, len(these), said), these

    def _prediction(self, question: Question, made: Any) -> Prediction:
        return answer(question, self.ref, made.text, self.prompt_format, finish=made.finish, tokens=made.tokens)

    # ---- three ways to an answer: each yields (number of the question, what came of it) ----

    def _written(self, asked: dict[int, Question], how: How, should_stop: Stop) -> Iterator[tuple[int, Part | UserError]]:
        """The likeliest answer, and (log-prob) how likely its labels are."""
        ready: dict[int, tuple[Prediction, dict[Task, LabelPlace]]] = {}
        for made in self._answers(asked, how, should_stop, samples=1, temperature=0.0):
            question, problem = asked[made.index], _too_long(made)
            if problem:
                yield made.index, problem
                continue
            one = self._prediction(question, made)
            places = self._places(made.text, question) if how.confidence == "log-prob" else {}
            if places:
                ready[made.index] = one, places  # looked at when all are written: together, while the rest of the batch is not held up
            else:
                yield made.index, Part(one, one.predicted)
        yield from self._looked_up(asked, ready, should_stop)

    def _places(self, text: str, question: Question) -> dict[Task, LabelPlace]:
        found = {task: label_place(self.prompt_format, text, question.example, task) for task in question.tasks}
        return {task: place for task, place in found.items() if place}

    def _looked_up(self, asked: dict[int, Question], ready: dict[int, tuple[Prediction, dict[Task, LabelPlace]]],
                   should_stop: Stop) -> Iterator[tuple[int, Part]]:
        if not ready:
            return
        from core.lm.alternatives import Place, Standing, word_chances
        from core.lm.engines import rendered

        loaded, chat = self.engine.loaded, self.prompt_format.chat
        assert loaded is not None
        prompts = rendered(loaded.tokenizer, [asked[index].text for index in ready], chat)
        standing = [Standing(prompt, one.text, tuple(Place(place.before, place.words) for place in places.values()))
                    for prompt, (one, places) in zip(prompts, ready.values(), strict=True)]
        found = word_chances(loaded, standing, add_special_tokens=not chat, should_stop=should_stop)
        for (index, (one, places)), chances in zip(ready.items(), found, strict=False):
            scores = {task: place.positive(row, task) for (task, place), row in zip(places.items(), chances, strict=True)}
            yield index, Part(one, one.predicted, scores, {task: of_label(one.predicted, task, score) for task, score in scores.items()})

    def _voted(self, asked: dict[int, Question], how: How, should_stop: Stop) -> Iterator[tuple[int, Part | UserError]]:
        """k sampled answers, and what most of the readable ones say."""
        drawn: dict[int, list[Prediction]] = {index: [] for index in asked}
        for made in self._answers(asked, how, should_stop, samples=how.samples, temperature=how.temperature):
            if problem := _too_long(made):
                if made.sample == 0:
                    yield made.index, problem
                continue
            these = drawn[made.index]
            these.append(self._prediction(asked[made.index], made))
            if len(these) == how.samples:
                tally = Tally(these, asked[made.index].tasks)
                yield made.index, Part(tally.speaker, tally.labels, tally.scores, tally.confidence, tally.votes, tally.ties, tally.tokens)

    def _picked(self, asked: dict[int, Question], how: How, should_stop: Stop) -> Iterator[tuple[int, Part | UserError]]:
        """The likelier of the labels a format allows: one pass, nothing is written."""
        from core.lm.choose import choose
        from core.lm.engines import rendered

        loaded, shown = self.engine.loaded, self.prompt_format
        assert loaded is not None
        prompts = dict(zip(asked, rendered(loaded.tokenizer, [one.text for one in asked.values()], shown.chat), strict=True))
        groups: dict[tuple[str, ...], dict[int, str]] = {}
        for index, question in asked.items():
            if problem := _beyond(loaded, prompts[index], add_special_tokens=not shown.chat):
                yield index, problem
            else:
                groups.setdefault(shown.choices(question.example), {})[index] = prompts[index] + shown.answer_start
        for choices, members in groups.items():
            for picked in choose(loaded, members.values(), choices, indices=members, add_special_tokens=not shown.chat,
                                 should_stop=should_stop):
                question = asked[picked.index]
                one = answer(question, self.ref, shown.answer_start + picked.text, shown, tokens=picked.tokens)
                scores, sure = {}, {}
                if how.confidence == "log-prob":
                    (task,) = question.tasks
                    means = [getattr(shown.parse(shown.answer_start + choice, question.example).labels, task) for choice in choices]
                    scores[task] = min(1.0, sum(chance for chance, label in zip(picked.probabilities, means, strict=True)
                                                if label == POSITIVE[task]))
                    sure[task] = of_label(one.predicted, task, scores[task])
                yield picked.index, Part(one, one.predicted, scores, sure)

    def _answers(self, asked: dict[int, Question], how: How, should_stop: Stop, *, samples: int, temperature: float) -> Iterator[Any]:
        shown = self.prompt_format
        return self.engine.answers([question.text for question in asked.values()], indices=list(asked), samples=samples, ordered=False,
                                   max_new_tokens=how.max_new_tokens or shown.max_new_tokens, temperature=temperature,
                                   top_p=how.top_p, seed=how.seed, chat=shown.chat, is_complete=shown.is_complete, should_stop=should_stop)


def _number_of(text: str) -> int:
    """A question's own number, which its samples depend on: the same question, the same samples, whatever is asked beside it."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:7], "big")


def _too_long(made: Any) -> TooLong | None:
    """Refused by the engine before anything was written."""
    if made.finish == "length" and not made.tokens and made.note:
        return TooLong(f"This interaction is too long: with the guard's instructions {made.note}; shorten the prompt or the response.")
    return None


def _beyond(loaded: Any, prompt: str, *, add_special_tokens: bool) -> TooLong | None:
    config = loaded.model.config.get_text_config(decoder=True)
    context = int(getattr(config, "max_position_embeddings", None) or 2**31)
    tokens = len(loaded.tokenizer(prompt, add_special_tokens=add_special_tokens)["input_ids"])
    if tokens + ANSWER_ROOM <= context:
        return None
    return TooLong(f"This interaction is too long: with the guard's instructions the prompt has {tokens} tokens and the model's context is "
                   f"{context}; shorten the prompt or the response.")
