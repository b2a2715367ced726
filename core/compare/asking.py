"""Ask all columns at once and hear them side by side; then let the guard look at every answer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

from core.access import Meter
from core.compare.records import Answer, Comparison
from core.guard.schema import Classified
from core.methods import UserError
from core.records import Episode
from core.runs import Workspace
from core.serving import LAST, Question, serving_of

UNHEARD = "stopped before the guard had answered"
Changed = set[int]
"""Places of columns that look different now."""


def ask(workspace: Workspace, comparison: Comparison, number: int, who: str, places: Sequence[int] | None = None, again: int = 0,
        live: dict[int, list[dict[str, Any]]] | None = None, key: str = "") -> Generator[Changed, None, None]:
    """Fill the answers of exchange `number`; yields which columns changed, as often as something was said: all of them when an answer is
    over, since what can be done with one depends on whether others are still being written.

    places: which columns (default all). again: see Comparison.options_of. live: {place: the newest event of each turn, or what is waited
    for}, for whoever draws an answer that is not whole. key: a visitor's own, for models that need one; it is handed on and kept nowhere.
    Whoever stops listening stops all. The exchange may leave its comparison meanwhile, and an answer its place to a newer one.
    """
    exchange = comparison.exchanges[number]
    wanted = list(range(len(comparison.columns))) if places is None else list(places)
    heard = live if live is not None else {}
    made = {place: Answer(seed=int(comparison.options_of(place, again)["seed"])) for place in wanted}
    for place, answer in made.items():
        exchange.answers[place] = answer
        heard[place] = []
    try:
        yield set(wanted)
        yield from _written(workspace, comparison, number, made, who, again, heard, key)
        yield from _guarded(workspace, comparison.guard, exchange.prompt, made, who)
    finally:
        for answer in made.values():
            answer.over = answer.over or "stopped"


def _written(workspace: Workspace, comparison: Comparison, number: int, made: Mapping[int, Answer], who: str, again: int,
             heard: dict[int, list[dict[str, Any]]], key: str) -> Iterator[Changed]:
    """Every model writes its answer."""
    allowed: list[int] = []
    with contextlib.ExitStack() as stack:
        meters: dict[int, Meter] = {}
        for place, answer in made.items():
            try:
                meters[place] = stack.enter_context(workspace.access.asking(workspace, comparison.columns[place].model))
                allowed.append(place)
            except UserError as error:
                answer.over, answer.problem = "error", str(error)
        yield set(made)
        questions = [Question(comparison.columns[place].model, comparison.messages(place, number), comparison.options_of(place, again),
                              key=_key(workspace, comparison.columns[place].model, key), who=who) for place in allowed]
        began = time.monotonic()
        for index, event in serving_of(workspace).ask_all(questions):
            place = allowed[index]
            meters[place].hear(event)
            _take(made[place], heard[place], event, time.monotonic() - began)
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
        elif who == "error":
            answer.problem = str(event["text"])
    elif "turn" in event:
        heard[:] = [one for one in heard if "turn" in one and one["turn"] != event["turn"]] + [event]
        if who in ("reply", "revision"):
            answer.text = str(event["text"])


def _guarded(workspace: Workspace, guard: str, prompt: str, made: Mapping[int, Answer], who: str) -> Iterator[Changed]:
    """Ask the guard about every whole answer, all at once."""
    whole = [place for place, answer in made.items() if answer.whole]
    if not guard or not whole:
        return
    with contextlib.ExitStack() as stack:
        try:
            meters = [stack.enter_context(workspace.access.asking(workspace, guard)) for _ in whole]
        except UserError as error:
            for place in whole:
                made[place].guard_problem = str(error)
            yield set(whole)
            return
        questions = [Question(guard, [{"role": "user", "content": prompt}, {"role": "assistant", "content": made[place].text}],
                              kind="classify", who=who) for place in whole]
        try:
            for index, event in serving_of(workspace).ask_all(questions):
                answer = made[whole[index]]
                meters[index].hear(event)
                if event["who"] == "classified":
                    answer.guard = Classified.model_validate(event["classified"])
                elif event["who"] == "error":
                    answer.guard_problem = str(event["text"])
                elif event["who"] == "stopped":
                    answer.guard_problem = UNHEARD
                else:
                    continue
                yield {whole[index]}
        finally:  # nobody listens any more: nothing is waited for, then
            for place in whole:
                if made[place].guard is None:
                    made[place].guard_problem = made[place].guard_problem or UNHEARD


def _key(workspace: Workspace, model: str, key: str) -> str:
    """The visitor's key, where this model takes one: it must not travel to a server that has nothing to do with it."""
    from core.chat_models import chat_model_for

    try:
        return key if key and chat_model_for(model, workspace)[0].key else ""
    except UserError:
        return ""
