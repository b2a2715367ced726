"""Ask all columns at once and hear them side by side; then let the guard look at every answer."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from core.access import ANSWER, Meter, characters
from core.compare.records import Answer, Comparison
from core.guard.schema import Classified
from core.methods import UserError
from core.records import Episode
from core.runs import Workspace
from core.serving import LAST, Question, serving_of

UNHEARD = "stopped before the guard had answered"
Changed = set[int]
"""Places of columns that look different now."""


class _Asker(NamedTuple):
    """Which browser, and when: `who` and `since` of its questions."""

    who: str
    since: float


def ask(workspace: Workspace, comparison: Comparison, number: int, who: str, places: Sequence[int] | None = None, again: int = 0,
        live: dict[int, list[dict[str, Any]]] | None = None, key: str = "", since: float | None = None) -> Generator[Changed, None, None]:
    """Fill the answers of exchange `number`; yields which columns changed, as often as something was said: all of them when an answer is
    over, since what can be done with one depends on whether others are still being written.

    places: which columns (default all). again: see Comparison.options_of. live: {place: the newest event of each turn, or what is waited
    for}, for whoever draws an answer that is not whole. key: a visitor's own, for models that need one; it is handed on and kept nowhere.
    since: when the person asked (time.monotonic), if not now: Stop counts from then on. Whoever stops listening stops all. The exchange
    may leave its comparison meanwhile, and an answer its place to a newer one.
    """
    asker = _Asker(who, time.monotonic() if since is None else since)
    exchange = comparison.exchanges[number]
    wanted = list(range(len(comparison.columns))) if places is None else list(places)
    heard = live if live is not None else {}
    made = {place: Answer(seed=int(comparison.options_of(place, again)["seed"])) for place in wanted}
    for place, answer in made.items():
        exchange.answers[place] = answer
        heard[place] = []
    try:
        yield set(wanted)
        yield from _written(workspace, comparison, number, made, asker, again, heard, key)
        yield from _guarded(workspace, comparison.guard, exchange.prompt, made, asker)
    finally:
        for answer in made.values():
            answer.over = answer.over or "stopped"


def _written(workspace: Workspace, comparison: Comparison, number: int, made: Mapping[int, Answer], asker: _Asker, again: int,
             heard: dict[int, list[dict[str, Any]]], key: str) -> Iterator[Changed]:
    """Every model writes its answer."""
    wanted = {place: comparison.options_of(place, again) for place in made}
    allowed: list[int] = []
    questions: list[Question] = []
    with ExitStack() as stack:
        meters = _Meters(stack)
        for place, answer in made.items():
            model, messages = comparison.columns[place].model, comparison.messages(place, number)
            try:
                meter = meters.begin(place, workspace, model, messages, int(wanted[place].get("max_new_tokens") or ANSWER))
            except UserError as error:
                answer.over, answer.problem = "error", str(error)
                continue
            allowed.append(place)
            questions.append(Question(model, messages, meter.within(wanted[place]), key=_key(workspace, model, key),
                                      seconds=meter.seconds, **asker._asdict()))
        yield set(made)
        began = time.monotonic()
        for index, event in serving_of(workspace).ask_all(questions):
            place = allowed[index]
            meter = meters.hear(place, event)
            _take(made[place], heard[place], event, time.monotonic() - began)
            if event["who"] == "end" and made[place].finish == "length":
                made[place].problem = made[place].problem or meter.note(wanted[place])
            yield set(made) if made[place].over else {place}


def _take(answer: Answer, heard: list[dict[str, Any]], event: dict[str, Any], seconds: float) -> None:
    who = event["who"]
    if who in ("queue", "status"):
        heard[:] = [one for one in heard if "turn" in one] + [event]
    elif who in LAST:
        heard[:] = [one for one in heard if "turn" in one]
        answer.over, answer.seconds = who, round(seconds, 2)
        if who == "end":
            answer.tokens, answer.writing = int(event.get("tokens") or 0), float(event.get("writing") or 0.0)
            answer.finish, answer.usd = str(event.get("finish") or "stop"), event.get("usd")
            answer.problem = str(event.get("note") or "")
            answer.episode = Episode.model_validate(event["episode"]) if event.get("episode") else None
            if answer.episode is not None:
                answer.text = answer.episode.last.reply.text
        else:
            answer.problem = str(event.get("text") or "")
    elif "turn" in event:
        heard[:] = [one for one in heard if "turn" in one and one["turn"] != event["turn"]] + [event]
        if who in ("reply", "revision"):
            answer.text = str(event["text"])


def _guarded(workspace: Workspace, guard: str, prompt: str, made: Mapping[int, Answer], asker: _Asker) -> Iterator[Changed]:
    """Ask the guard about every whole answer, all at once."""
    whole = [place for place, answer in made.items() if answer.whole]
    if not guard or not whole:
        return
    questions: list[Question] = []
    with ExitStack() as stack:
        meters = _Meters(stack)
        try:
            for place in whole:
                messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": made[place].text}]
                meter = meters.begin(place, workspace, guard, messages)
                options = {} if meter.tokens is None else {"at_most": meter.tokens}
                questions.append(Question(guard, messages, options, kind="classify", seconds=meter.seconds, **asker._asdict()))
        except UserError as error:
            for place in whole:
                made[place].guard_problem = str(error)
            yield set(whole)
            return
        try:
            for index, event in serving_of(workspace).ask_all(questions):
                answer = made[whole[index]]
                meters.hear(whole[index], event)
                if event["who"] == "classified":
                    answer.guard = Classified.model_validate(event["classified"])
                elif event["who"] == "error":
                    answer.guard_problem = str(event["text"])
                elif event["who"] == "stopped":
                    answer.guard_problem = ": ".join(filter(None, [UNHEARD, str(event.get("text") or "")]))
                else:
                    continue
                yield {whole[index]}
        finally:  # nobody listens any more: nothing is waited for, then
            for place in whole:
                if made[place].guard is None:
                    made[place].guard_problem = made[place].guard_problem or UNHEARD


class _Meters:
    """One for each column, charged when its own answer is over: the slowest model is not paid for by all."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._open: dict[int, tuple[Meter, ExitStack]] = {}

    def begin(self, place: int, workspace: Workspace, model: str, messages: Sequence[Mapping[str, str]], writes: int = 0) -> Meter:
        """UserError where the question may not be asked."""
        own = ExitStack()
        meter = own.enter_context(workspace.access.asking(workspace, model, reads=characters(messages), writes=writes))
        self._stack.enter_context(closing(own))
        self._open[place] = meter, own
        return meter

    def hear(self, place: int, event: Mapping[str, Any]) -> Meter:
        """Count an event."""
        meter, own = self._open[place]
        meter.hear(event)
        if event["who"] in LAST:
            own.close()
        return meter


def refuse_two_places(workspace: Workspace, comparison: Comparison, key: str) -> None:
    """UserError where the columns would send a visitor's key to more than one service: it belongs to one of them."""
    places = {place for column in comparison.columns if (place := _place_of(workspace, column.model))} if key else set()
    found = sorted(places)  # not in the order of the columns, which may be blind
    if len(found) > 1:
        raise UserError(f"Your API key would go to {' and to '.join(found)}, and a key is for one service; ask each in a chat of its own, "
                        "or empty the field.")


def _place_of(workspace: Workspace, model: str) -> str:
    """Where a key for this model goes; "" where it takes none."""
    from core.chat_models import chat_model_for

    try:
        kind, ref = chat_model_for(model, workspace)
    except UserError:
        return ""
    return (urlsplit(ref.url).netloc.rpartition("@")[2] or kind.name) if kind.key else ""


def _key(workspace: Workspace, model: str, key: str) -> str:
    """The visitor's key, where this model takes one: it must not travel to a server that has nothing to do with it."""
    return key if key and _place_of(workspace, model) else ""
