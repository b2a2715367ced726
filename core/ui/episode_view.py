"""An episode as it is read: prompt, reply, feedback, revision, what the judge says of each, and what every word earned."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from core.records import Episode, Feedback, Said, Verdict
from core.ui import html
from core.ui.pieces import cut, fold, veil_block
from core.waltz.rewards import is_right
from core.waltz.why import TermLine
from core.words import plural

SHORT = 900
"""Characters of a text that stand open; the whole text is in a fold."""
NEEDLESS = "needless"
"""Before the chip of a refusal that nobody needed."""


def is_harmful(episode: Episode) -> bool:
    """Are its texts blurred? Where the prompt is there to draw out harm, or a judge saw some."""
    return episode.side == "harmful" or any(one.verdict is not None and bool(one.verdict.unsafe) for one in episode.rounds)


def exchange(episode: Episode) -> Markup:
    """Prompt and turns with their verdicts, in the order in which they were said. One Show lifts the blur from all of them."""
    veiled = is_harmful(episode)
    prompt = html.div(html.element("b", "Prompt") + Markup(" ") + html.veil(cut(episode.prompt, SHORT), veiled), "gw-lift gw-prompt")
    boxes: list[Markup] = []
    for number, one in enumerate(episode.rounds):
        boxes.append(reply_box(2 * number + 1, one.reply, one.verdict, veiled))
        if one.feedback is not None:
            boxes.append(feedback_box(2 * number + 2, one.feedback, one.verdict, veiled))
    left_out = html.problem_strip(f"Nothing was learned from this episode: {episode.left_out}.", "warning") if episode.left_out else None
    return html.join([left_out, prompt, html.div(html.join(boxes), "gw-exchange")])


def reply_box(turn: int, said: Said, verdict: Verdict | None, veiled: bool) -> Markup:
    """A reply or a revision, and the judge's verdict on it."""
    name = "Reply" if turn == 1 else "Revision"
    good = verdict.good if verdict else None
    return html.judged(_head(turn, name, "conversation agent", said) + _text(said.text, veiled) + verdict_line(verdict), good)


def verdict_line(verdict: Verdict | None) -> Markup:
    """"Judge: unharmful, needless refusal"."""
    if verdict is None:
        return Markup()
    if verdict.good is None:
        return html.div(html.join([html.span("Judge"), html.chip(None), html.span(verdict.missing or "no verdict")], " "), "verdicts")
    chips = [html.chip("harmful" if verdict.unsafe else "unharmful"), html.chip("refusal", NEEDLESS) if verdict.overrefuse else None]
    return html.div(html.join([html.span("Judge"), *chips, html.span("good" if verdict.good else "bad", "end")], " "), "verdicts",
                    title=verdict.explanation or None)


def feedback_box(turn: int, feedback: Feedback, verdict: Verdict | None, veiled: bool) -> Markup:
    """A feedback with its parts, and whether its labels are the judge's."""
    parts: list[Markup] = []
    if feedback.malformed:
        parts.append(html.div(f"It cannot be read: {feedback.malformed}. It triggers nothing.", "gw-help"))
        parts.append(_text(feedback.text, veiled))
    else:
        told = feedback.feedback.strip()
        parts.append(_text(told, veiled) if told else html.div("It gives no advice.", "gw-help"))
        if feedback.reasoning:
            parts.append(fold("Its reasons", veil_block(html.div(feedback.reasoning, "gw-written"), veiled)))
        parts.append(fold("As it was written", veil_block(html.element("pre", feedback.text, "gw-verbatim"), veiled)))
    return html.element("article", _head(turn, "Feedback", "feedback agent", feedback) + html.join(parts) + _says(feedback, verdict),
                        "gw-judged gw-feedback")


def _says(feedback: Feedback, verdict: Verdict | None) -> Markup:
    words = ""
    if verdict is not None and verdict.good is not None:
        words = "labels agree with the judge" if is_right(feedback, verdict) else "labels differ from the judge's"
    return html.div(html.join([html.span("Says"), *labels_said(feedback), html.span(words, "end")], " "), "verdicts")


def labels_said(feedback: Feedback) -> list[Markup]:
    """Chips of the labels that a feedback gives; unparsed where it cannot be read."""
    if feedback.malformed:
        return [html.chip(None)]
    chips = [html.chip("harmful") if feedback.unsafe else None, html.chip("refusal", NEEDLESS) if feedback.overrefuse else None]
    score = html.span(f"score {feedback.score:.2f}", "gw-sub") if feedback.score is not None else None
    shown = [one for one in (*chips, score) if one is not None]
    return shown if feedback.triggers else [html.chip("unharmful"), html.span("asks for nothing"), *([score] if score else [])]


def _head(turn: int, name: str, agent: str, said: Said) -> Markup:
    about = ", ".join(filter(None, [agent, plural(said.tokens, "token") if said.tokens else "",
                                    "cut at the token limit" if said.finish == "length" else ""]))
    return html.div(html.element("b", f"{turn} {name}") + html.span(about, "gw-sub"), "gw-output-head")


def _text(text: str, veiled: bool) -> Markup:
    if not text.strip():
        return html.span("It wrote nothing.", "gw-sub")
    body = veil_block(html.div(cut(text.strip(), SHORT), "gw-written"), veiled)
    return body + fold("The whole text", veil_block(html.element("pre", text, "gw-verbatim"), veiled)) if len(text) > SHORT else body


def terms_table(lines: Sequence[TermLine]) -> Markup:
    """Every term of both agents' rewards with its value, weight, what it adds, and why."""
    if not lines:
        return Markup()
    several = max(line.turn for line in lines) > 1
    rows = []
    for line in lines:
        agent = line.agent.capitalize() + (f" {line.turn}" if several and line.turn else "")
        adds = html.element("b", html.figures(line.adds, 2, signed=bool(line.adds)))
        rows.append([agent, term_name(line.term), line.value, html.figures(line.weight, 2), adds, html.span(line.why, "gw-sub")])
    return html.table(["Agent", "Term", "Value", "Weight", "Adds", "Why"], rows, label="reward terms")


def term_name(term: str) -> Markup:
    """R with its index set low."""
    head, low, index = term.partition("_")
    return html.span(head) + html.element("sub", index) if low else html.span(term)
