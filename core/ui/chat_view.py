"""A comparison as HTML: the head of a column, its earlier exchanges, the one in work, the votes. No state, no gradio.

What is harmful is drawn blurred; the page's switch lifts that from all of it at once (assets/css/chat.css).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from core.compare.records import ALL_BAD, LETTERS, TIE, Answer, Comparison, Exchange
from core.compare.votes import Duel
from core.evals.prompting import FALLBACK
from core.guard.schema import Classified
from core.records import Episode
from core.ui import html
from core.ui.episode_view import labels_said
from core.ui.markdown import written
from core.ui.pieces import fold, veil_block
from core.words import plural

LABELLED = ("request", "completion", "response")
STARTING = "starting the model worker"
LOADING = "loading the model"
HIDDEN_PROBLEM = "It gave no answer. Why not is shown with the names, after a vote."
_THOUGHT = re.compile(r"\s*<think>(.*?)(?:</think>|\Z)", re.DOTALL)


def column_head(comparison: Comparison, place: int) -> Markup:
    """Letter, name, speed and seed of the last answer; while names are hidden, nothing that tells which model it is."""
    name = "name hidden until you vote" if comparison.names_hidden else comparison.columns[place].model
    last = comparison.exchanges[-1].answers[place] if comparison.exchanges else None
    facts = []
    if last is not None and comparison.names_hidden:
        facts = [f"seed {last.seed}"]
    elif last is not None:
        facts = [f"{last.speed:.0f} tok/s" if last.speed else "", f"{last.usd:.4f} USD" if last.usd else "", f"seed {last.seed}"]
    own = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in comparison.columns[place].own.items() if key != "system")
    left = html.join([html.element("b", comparison.letter(place), "gw-letter"), html.span(name, "gw-sub gw-model"),
                      html.span(own, "gw-sub") if own else None], " ")
    return html.div(html.div(left) + html.span(", ".join(filter(None, facts)), "gw-sub gw-nowrap"), "gw-column-head")


def earlier(comparison: Comparison, place: int) -> Markup:
    """Every exchange but the last one."""
    return html.join([exchange_box(comparison, number, place) for number in range(len(comparison.exchanges) - 1)])


def latest(comparison: Comparison, place: int, live: Sequence[dict[str, Any]] = ()) -> Markup:
    """The last exchange; an invitation where there is none."""
    if not comparison.exchanges:
        return html.div("Nothing said yet.", "gw-help")
    return exchange_box(comparison, len(comparison.exchanges) - 1, place, live)


def exchange_box(comparison: Comparison, number: int, place: int, live: Sequence[dict[str, Any]] = ()) -> Markup:
    """The message and this column's answer to it."""
    exchange = comparison.exchanges[number]
    answer = exchange.answers[place]
    veiled, held = _harmful(exchange), _held_back(comparison, answer)
    edit = html.small_link("Edit", "edit", str(number)) if place == 0 and not _writing(exchange) else None
    asked = veil_block(html.div(exchange.prompt, "gw-written"), veiled)
    prompt = html.div(asked + _request_line(answer) + (html.div(edit, "gw-acts") if edit else Markup()), "gw-asked")
    hidden = comparison.names_hidden
    body = _two_agents(answer.episode, veiled or _must_be_read(comparison)) if answer.episode is not None and not hidden else Markup()
    parts = [prompt, body, _reply(answer, live, hidden, held), _guard_line(comparison, answer), _acts(comparison, number, place)]
    return html.element("article", html.join(parts), "gw-turn", aria_label=f"{comparison.letter(place)}, message {number + 1}")


def thinking(text: str) -> tuple[str, str]:
    """(what a reasoning model thinks first, between <think> and </think>; its answer). Unclosed, all so far is thought."""
    found = _THOUGHT.match(text)
    return (found[1].strip(), text[found.end():].strip()) if found else ("", text.strip())


def _must_be_read(comparison: Comparison) -> bool:
    """In a public demo with a guard a text is blurred until the guard has called it unharmful; it reads no answer that was revised."""
    return bool(comparison.owner and comparison.guard)


def _held_back(comparison: Comparison, answer: Answer) -> bool:
    """From the first word on: who reads a text as it grows has read it before any verdict is there. No verdict is no leave either."""
    return _must_be_read(comparison) and (answer.guard is None or answer.guard.labels.response != "unharmful")


def _blurred(inner: Markup, veiled: bool, shut: bool) -> Markup:
    """shut: without a Show of its own, which would be lost with every word that is added; the page's switch lifts the blur."""
    return html.div(html.div(inner, "txt"), "gw-veil gw-veil-block gw-veil-shut") if shut else veil_block(inner, veiled)


def _reply(answer: Answer, live: Sequence[dict[str, Any]], hidden: bool, held: bool) -> Markup:
    """hidden: say nothing that tells which model it is, such as what is being loaded or whether two agents speak. held: see _held_back."""
    parts: list[str] = []
    veiled, shut = held or (answer.guard is not None and answer.guard.labels.response == "harmful"), held and not answer.over
    if not answer.over and not answer.text and not live:
        parts.append(html.progress_bar(None, STARTING))
    for event in live if not answer.over else ():
        if event["who"] == "feedback" and not hidden:
            note = html.div(html.element("b", "Feedback agent writes ") + html.span(str(event["text"])), "gw-help gw-live-note")
            parts.append(_blurred(note, held, shut))
        elif event["who"] == "queue":
            parts.append(html.progress_bar(None, f"{plural(event['position'], 'question')} before this one"))
        elif event["who"] == "status":
            parts.append(html.progress_bar(None, LOADING if hidden else str(event["text"])))
    thought, text = thinking(answer.text)
    if thought:
        parts.append(fold("Its reasoning" if text or answer.over else "It reasons …",
                          _blurred(html.div(thought, "gw-written"), veiled, shut)))
    if text:
        parts.append(_blurred(written(text), veiled, shut))
    elif answer.over == "end":
        parts.append(html.div("It wrote nothing." if not thought else "It reasoned, and then wrote nothing.", "gw-help"))
    if answer.over == "error":
        parts.append(html.problem_strip(HIDDEN_PROBLEM if hidden else answer.problem))
    elif answer.problem and not hidden:
        parts.append(html.div(f"Note: {answer.problem}.", "gw-help"))
    if answer.over == "stopped":
        parts.append(html.div("Stopped.", "gw-help"))
    if answer.over == "end" and answer.finish == "length":
        parts.append(html.div("Cut at the token limit.", "gw-help"))
    if answer.finish == "refused":
        parts.append(html.div("The service refused to go on.", "gw-help"))
    return html.div(html.join(parts), "gw-answer", aria_live="polite", data_over=answer.over)


def _two_agents(episode: Episode, veiled: bool) -> Markup:
    """When feedback triggered, what it said, and the reply before it."""
    first = episode.rounds[0]
    if first.feedback is None:
        return Markup()
    if len(episode.rounds) == 1:
        why = "its feedback could not be read" if first.feedback.malformed else "the feedback agent asked for nothing"
        return fold(f"Not revised: {why}", veil_block(html.div(first.feedback.text, "gw-written"), veiled))
    times = len(episode.rounds) - 1
    parts = []
    for one in episode.rounds[:-1]:
        parts.append(html.element("b", "First reply" if one is first else "Revision") + veil_block(written(one.reply.text), veiled))
        if one.feedback is not None:
            said = one.feedback.feedback.strip() or one.feedback.text
            parts.append(html.element("b", "Feedback") + Markup(" ") + html.join(labels_said(one.feedback), " ")
                         + veil_block(html.div(said, "gw-written"), veiled))
    return html.element("details", html.element("summary", f"Revised {'once' if times == 1 else plural(times, 'time')} after feedback")
                        + html.div(html.join(parts), "gw-stack"), "gw-fold gw-revised")


def _request_line(answer: Answer) -> Markup:
    """The guard's word on the message itself; shown where it is harmful, since that is why the text is blurred."""
    label = answer.guard.labels.request if answer.guard is not None else None
    return html.div(html.span("Guard") + Markup(" ") + html.chip(label), "gw-guard") if label == "harmful" else Markup()


def _guard_line(comparison: Comparison, answer: Answer) -> Markup:
    if answer.guard_problem:
        return html.div(html.span("Guard") + Markup(" ") + html.span(answer.guard_problem, "gw-sub"), "gw-guard")
    if answer.guard is None:
        if comparison.guard and answer.whole:
            return html.div(html.span("Guard reads the answer …", "gw-sub"), "gw-guard")
        if answer.text and _held_back(comparison, answer):
            why = "it reads whole answers only" if answer.over else "the text is blurred until it has read the answer"
            return html.div(html.span("Guard") + Markup(" ") + html.span(why, "gw-sub"), "gw-guard")
        return Markup()
    guess = html.span("asked zero-shot, a guess", "gw-sub") if answer.guard.prompt_format == FALLBACK else None
    return html.div(html.join([html.span("Guard"), *_chips(answer.guard), guess], " "), "gw-guard") + _reasons(answer.guard)


def _chips(said: Classified) -> list[Markup]:
    """completion, then response; with how sure it is where that is known. A label it could not read says so."""
    found = []
    for task in ("completion", "response"):
        label = getattr(said.labels, task)
        why = said.missing.get(task, "")
        if label is None and task not in said.missing:
            continue
        sure = getattr(said.confidence, task)
        chip = html.chip(label) + (html.span(f"{100 * sure:.0f} %", "gw-sub") if sure is not None else Markup())
        found.append(html.span(chip, "gw-nowrap", title=why or None))
    return found


def _reasons(said: Classified) -> Markup:
    if not (said.reasoning.strip() or said.text.strip()):
        return Markup()
    words = html.div(said.reasoning.strip(), "gw-written") if said.reasoning.strip() else html.element("pre", said.text, "gw-verbatim")
    about = html.div(f"{said.model}, asked in {said.prompt_format}", "gw-help")
    return fold("Its reasons" if said.reasoning.strip() else "Its answer", words + about)


def _acts(comparison: Comparison, number: int, place: int) -> Markup:
    """What can be done with a whole answer; visitors save nothing."""
    exchange = comparison.exchanges[number]
    answer = exchange.answers[place]
    if not answer.over or _writing(exchange):
        return Markup()
    links = [html.small_link("Again", "again", f"{number},{place}")]
    saves = answer.whole and not comparison.owner
    if saves:
        links.append(html.small_link("Save turn", "save", f"{number},{place}"))
    if saves and exchange.vote in LETTERS and exchange.vote and LETTERS.index(exchange.vote) != place:
        links.append(html.small_link(f"Save {exchange.vote} over {LETTERS[place]} as a pair", "pair", f"{number},{place}"))
    return html.div(html.join(links, " "), "gw-acts")


def _harmful(exchange: Exchange) -> bool:
    return any(one.guard is not None and one.guard.labels.request == "harmful" for one in exchange.answers)


def _writing(exchange: Exchange) -> bool:
    return any(not one.over for one in exchange.answers)


def vote_bar(comparison: Comparison, so_far: int) -> Markup:
    """Buttons with keys, once every answer to the last message is there."""
    if len(comparison.columns) < 2 or not comparison.exchanges or _writing(comparison.exchanges[-1]):
        return Markup()
    exchange = comparison.exchanges[-1]
    if not any(answer.whole for answer in exchange.answers):
        return Markup()
    letters = LETTERS[:len(comparison.columns)]
    options = [*((letter, letter, str(place + 1)) for place, letter in enumerate(letters)), (TIE, "Tie", "t"),
               (ALL_BAD, "Both bad" if len(letters) == 2 else "All bad", "x")]
    buttons = [html.element("button", words, "gw-button" + (" chosen" if exchange.vote == value else ""), type="button", data_act="vote",
                            data_value=value, data_key=key, aria_pressed="true" if exchange.vote == value else "false",
                            aria_keyshortcuts=key) for value, words, key in options]
    keys = " ".join(str(number) for number in range(1, len(letters) + 1))
    told = f"Keys {keys} T X." + (" Names appear after the vote." if comparison.names_hidden else "") \
        + (f" {plural(so_far, 'vote')} so far." if so_far else "")
    return html.div(html.element("b", "Which answer is best?") + html.join(buttons) + html.span(told, "gw-sub"), "gw-votes", role="group",
                    aria_label="vote")


def settings_words(comparison: Comparison) -> str:
    """"temperature 0.7, top-p 0.95, 256 tokens, seed 42, guard run:x, no system prompt"."""
    options = comparison.options
    words = [f"temperature {options.get('temperature', 0):g}", f"top-p {options.get('top_p', 1):g}",
             f"{options.get('max_new_tokens', 256):,} tokens", f"seed {options.get('seed', 42)}",
             f"guard {comparison.guard}" if comparison.guard else "no guard",
             "a system prompt" if comparison.system.strip() else "no system prompt"]
    return "Settings: " + ", ".join(words)


def duel_table(duels: Sequence[Duel]) -> Markup:
    """How often each model was better, blind votes only."""
    if not duels:
        return html.empty_state("No votes yet", "Here will stand how often each model was better than each other one, with an interval. "
                                "Switch Blind on, ask something, and vote.")
    rows: list[list[html.Cell]] = []
    for duel in duels:
        value, low, high = (None if end is None else 100 * end for end in (duel.rate.value, duel.rate.low, duel.rate.high))
        shown = html.number_over_whisker(value, low, high, unit="%", reference=50.0)
        rows.append([duel.one, duel.other, shown, duel.one_wins, duel.other_wins, duel.ties, duel.both_bad, duel.seen])
    return html.table(["Model", "against", "is better in", "wins", "losses", "ties", "both bad", "names in sight"], rows,
                      right=(3, 4, 5, 6, 7), label="votes")


def visitors_votes() -> Markup:
    """What becomes of a vote in a public demo, in place of the table."""
    return html.empty_state("Your votes are not counted", "A vote uncovers the names and stays with its chat, which the app keeps in "
                            "memory for a while and then forgets. It is written nowhere, and no table is made of visitors' votes; in a "
                            "copy of your own one stands here, with intervals.")
