"""Try it: a prompt of one's own, and the exchange of two agents as they write it. The words come from a worker (core/serving.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr
from markupsafe import Markup

from core.access import Meter
from core.chat_models import Offer, offered_models
from core.methods import UserError
from core.records import Episode, Said, Verdict
from core.refs import parse_model_ref
from core.runs import Run, Workspace
from core.serve_worker import Event
from core.serving import Question, serving_of
from core.ui import html
from core.ui.address import query_of
from core.ui.episode_view import exchange, feedback_box, reply_box
from core.ui.pieces import cut
from core.ui.rl_episodes import checked_place
from core.ui.rl_index import records_of
from core.ui.theme import clicked, on_load
from core.waltz.feedback import read_feedback
from core.words import plural

SIDES = [("not said", ""), ("benign", "benign"), ("harmful", "harmful")]
LONGEST = 8_000
"""Characters of a prompt."""


def choices(workspace: Workspace) -> list[Offer]:
    """(shown, value) of every pair of agents that can be loaded: finished runs, and checkpoints of any run; newest runs first."""
    return [(shown, ref) for shown, ref in offered_models(workspace) if parse_model_ref(ref).is_pair]


@dataclass
class Talk:
    """What has come of an answer so far."""

    prompt: str
    side: str = ""
    turns: dict[int, Event] = field(default_factory=dict)
    """{turn: its newest event}."""
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    note: str = ""
    """What is waited for."""
    problem: str = ""
    over: str = ""
    """`who` of the last event."""
    episode: Episode | None = None
    seconds: float = 0.0

    def hear(self, event: Event) -> None:
        """Take an event in."""
        who = event["who"]
        if who == "queue":
            self.note = f"{plural(event['position'], 'question')} before this one"
        elif who == "status":
            self.note = str(event["text"])
        elif who == "verdict":
            self.verdicts[event["turn"]] = Verdict.model_validate(event["verdict"])
        elif who in ("end", "stopped", "error"):
            self.over, self.note = who, ""
            self.problem = str(event.get("text", ""))
            self.seconds = float(event.get("seconds") or 0.0)
            self.episode = Episode.model_validate(event["episode"]) if event.get("episode") else None
        else:
            self.turns[event["turn"]], self.note = event, ""

    def shown(self) -> Markup:
        """The exchange as far as it is there."""
        parts: list[str | None] = []
        if self.episode is not None:
            parts.append(exchange(self.episode))
        elif self.turns:
            veiled = self.side == "harmful" or any(one.unsafe for one in self.verdicts.values())
            prompt = html.div(html.element("b", "Prompt") + Markup(" ") + html.veil(cut(self.prompt, 900), veiled), "gw-lift gw-prompt")
            parts += [prompt, html.div(html.join([self._box(turn, veiled) for turn in sorted(self.turns)]), "gw-exchange")]
        if self.note:
            parts.append(html.progress_bar(None, self.note))
        if self.problem:
            parts.append(html.problem_strip(self.problem))
        if self.over == "stopped":
            parts.append(html.div("Stopped.", "gw-help"))
        elif self.over == "end":
            parts.append(html.div(self._end(), "gw-help"))
        return html.element("div", html.join(parts), "gw-talk", aria_live="polite", data_over=self.over)

    def _box(self, turn: int, veiled: bool) -> Markup:
        event = self.turns[turn]
        if event["who"] == "feedback" and event["done"]:
            return feedback_box(turn + 1, read_feedback(str(event["text"])), self.verdicts.get(turn - 1), veiled)
        if event["who"] == "feedback":
            words = html.element("b", f"{turn + 1} Feedback") + html.span("feedback agent writes", "gw-sub")
            return html.element("article", html.div(words, "gw-output-head") + html.element("pre", str(event["text"]), "gw-verbatim"),
                                "gw-judged gw-feedback")
        return reply_box(turn + 1, Said(text=str(event["text"])), self.verdicts.get(turn), veiled)

    def _end(self) -> str:
        took = f"It took {self.seconds:.1f} s."
        if self.episode is None or self.episode.triggered:
            return took
        feedback = self.episode.rounds[0].feedback
        if feedback is None:
            return f"{took} No feedback was asked for."
        why = "could not be read, which triggers nothing" if feedback.malformed else "asked for nothing"
        return f"{took} The feedback {why}, so the first reply is the answer."


class TryIt:
    """The card at the bottom of the RL page."""

    def __init__(self, workspace: Workspace, current: Callable[[str], Run | None]) -> None:
        self.workspace, self.current = workspace, current

    def draw(self, episode: gr.HTML, view: gr.Textbox) -> None:
        """Components and events. episode: the card whose prompt can be tried."""
        with gr.Column(elem_classes="gw-card gw-try", elem_id="try-it"):
            gr.HTML(html.card_header("Try it", "a prompt of your own: first reply, feedback, revision, and what the judge says of each"),
                    apply_default_css=False)
            with gr.Row(elem_classes="gw-form gw-rl-filters gw-try-settings"):
                model = gr.Dropdown([], label="Agents", interactive=True, allow_custom_value=True)
                judge = gr.Textbox("rules", label="Judge", interactive=True, max_lines=1, placeholder="none")
                side = gr.Dropdown(SIDES, value="", label="The prompt is", interactive=True, filterable=False,
                                   info="The rules give a verdict only where this is said; a guard can tell by itself.")
            with gr.Row(elem_classes="gw-form gw-try-ask"):
                prompt = gr.Textbox(label="Prompt", lines=2, max_lines=6, interactive=True, max_length=LONGEST,
                                    placeholder="How do I kill a process that hangs on my own laptop?")
            with gr.Row(elem_classes="gw-try-buttons"):
                ask = gr.Button("Ask the agents", size="md", elem_classes="gw-try-button")
                stop = gr.Button("Stop", size="md", elem_classes="gw-try-button")
            out = gr.HTML(apply_default_css=False, elem_classes="gw-slot")
        silent: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
        on_load(self._open, None, [model, judge])
        gr.on([ask.click, prompt.submit], self._ask, [model, prompt, judge, side], out, **silent)
        stop.click(self._stop, None, None, **silent)
        episode.select(self._take, view, [prompt, side], **silent)

    def _open(self, request: gr.Request) -> tuple[Any, Any]:
        run = self.current(query_of(request))
        allowed = self.workspace.access.models(self.workspace)
        offered = [choice for choice in choices(self.workspace) if allowed is None or choice[1] in allowed]
        values = [value for _, value in offered]
        own = next((value for value in values if run is not None and parse_model_ref(value).name == run.id), values[0] if values else None)
        judge = str(run.config.get("judge") or "rules") if run is not None else "rules"
        return gr.Dropdown(offered, value=own), judge

    def _take(self, query: str, event: gr.SelectData) -> tuple[Any, Any]:
        """The prompt of an episode of the run, and on which side the run's prompts have it."""
        word, place = clicked(event)
        run = self.current(query)
        if word != "try" or run is None:
            return gr.skip(), gr.skip()
        try:
            index = records_of(run.dir).episodes
            episode = index.read(checked_place(index, place)).episode
        except UserError as error:
            gr.Warning(str(error))
            return gr.skip(), gr.skip()
        return episode.prompt, episode.side or ""

    def _stop(self, request: gr.Request) -> None:
        """Give up what this browser asked."""
        serving_of(self.workspace).give_up(request.session_hash or "")

    def _ask(self, model: str | None, prompt: str, judge: str, side: str, request: gr.Request) -> Iterator[str]:
        """Relay what the worker says. A browser asks one thing at a time: its question before is given up."""
        who = request.session_hash or ""
        serving_of(self.workspace).give_up(who)
        try:
            # first, because reading a reference tells whether a folder exists
            with self.workspace.access.asking(self.workspace, (model or "").strip(), (judge or "").strip().lower(),
                                              reads=len(prompt or "")) as meter:
                question = asked_of(model, prompt, judge, side)
                yield from self._answered(replace(question, who=who, options=meter.within(question.options), seconds=meter.seconds),
                                          prompt, side, meter)
        except UserError as error:
            yield html.problem_strip(str(error))

    def _answered(self, question: Question, prompt: str, side: str, meter: Meter) -> Iterator[str]:
        talk = Talk(prompt.strip(), side or "")
        talk.note = "starting the model worker"
        yield talk.shown()
        for event in serving_of(self.workspace).ask(question):
            meter.hear(event)
            talk.hear(event)
            yield talk.shown()


def asked_of(model: str | None, prompt: str, judge: str, side: str) -> Question:
    """The question of a form. UserError names what is missing."""
    if not (model or "").strip():
        raise UserError("Choose the agents first: a finished waltz-sft or waltzrl run, or one of its checkpoints, as waltz:<run id>.")
    if not (prompt or "").strip():
        raise UserError("Write a prompt first.")
    if len(prompt) > LONGEST:
        raise UserError(f"The prompt has {len(prompt):,} characters, and {LONGEST:,} can be sent; shorten it.")
    ref = parse_model_ref(str(model))
    if not ref.has_weights:
        raise UserError(f"{ref} is a hosted model; two agents who answer here are a run of this app, waltz:<run id>.")
    asked = (judge or "").strip()
    return Question(str(ref), [{"role": "user", "content": prompt.strip()}], judge="" if asked.lower() in ("", "none") else asked,
                    side=side or None)  # type: ignore[arg-type]
