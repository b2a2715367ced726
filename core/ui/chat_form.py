"""What is asked, and how: models, guard, system prompt, sampling settings of all columns and of single ones."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import gradio as gr

from core.chat_models import Offer, Sampling, chat_model_for
from core.compare.records import LETTERS, MOST_COLUMNS, Column, Comparison, checked_columns
from core.guard.offers import UNTRAINED, first_guard, guard_offers
from core.methods import UserError
from core.runs import Workspace
from core.ui import chat_view, html

Updates = dict[Any, Any]
OWN = ("temperature", "top_p", "max_new_tokens", "system")
"""What a column may have of its own."""
OWN_WORDS = ("temperature", "top-p", "tokens at most", "system prompt")
"""The same, as the fields are labelled."""
USUAL: dict[str, float | int] = {"temperature": 0.7, "top_p": 0.95, "max_new_tokens": 256, "seed": 42}
"""Options until somebody changes them."""
NO_GUARD = ""
AGAIN = "again"
"""Chosen among the models: one more column of the first one, so that it can be compared with itself at other settings."""
LONGEST_SETTINGS = 20_000
"""Characters of a visitor's system prompts."""
_Values = tuple[list[str], str, dict[str, float | int], str, dict[int, dict[str, Any]]]
KEY_PLACE = 7
"""Of the API key among `ChatForm.fields`."""


class ChatForm:
    """The fold under the message box. `fields` are the inputs, in the order in which `_read` takes them."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def draw(self) -> None:
        """Components."""
        offered = [("embedded · SmolLM2-135M-Instruct", "embedded")]
        with gr.Accordion("Settings", open=False, elem_classes="gw-chat-settings") as self.summary_fold:
            with gr.Row(elem_classes="gw-form"):
                self.models = gr.Dropdown(offered, value=["embedded"], label="Models", multiselect=True, max_choices=MOST_COLUMNS,
                                          allow_custom_value=True, interactive=True, scale=2,
                                          info=_models_words(free=True))
                # who sends before the page has opened is guarded, too, where everybody may come in
                self.guard = gr.Dropdown([("none", NO_GUARD), (f"embedded ({UNTRAINED})", "embedded")], label="Guard", interactive=True,
                                         value="embedded" if self.workspace.access.public else NO_GUARD, allow_custom_value=True, scale=1,
                                         info="Labels each message and answer.")
            with gr.Row(elem_classes="gw-form"):
                self.temperature = gr.Number(USUAL["temperature"], label="Temperature", minimum=0, maximum=5, step=0.1, interactive=True,
                                             min_width=90)
                self.top_p = gr.Number(USUAL["top_p"], label="Top-p", minimum=0.01, maximum=1, step=0.05, interactive=True, min_width=90)
                self.tokens = gr.Number(USUAL["max_new_tokens"], label="Tokens at most", minimum=1, precision=0, interactive=True,
                                        min_width=90)
                self.seed = gr.Number(USUAL["seed"], label="Seed", minimum=0, precision=0, interactive=True, min_width=90,
                                      info="The same for all columns.")
            with gr.Row(elem_classes="gw-form"):
                self.system = gr.Textbox(label="System prompt", lines=1, max_lines=6, interactive=True, placeholder="none", scale=3)
                self.key = gr.Textbox(label="Your API key", type="password", interactive=True, max_lines=1, scale=1,
                                      info="For servers and hosted models. It stays in this tab and is written nowhere.")
            self.own: list[list[Any]] = []
            with gr.Accordion("Settings of single columns", open=False):
                for place in range(MOST_COLUMNS):
                    with gr.Row(elem_classes="gw-form"):
                        letter = LETTERS[place]
                        self.own.append([
                            *(gr.Textbox(label=f"{letter}: {words}", placeholder="shared", interactive=True, max_lines=1, min_width=80)
                              for words in OWN_WORDS[:3]),
                            gr.Textbox(label=f"{letter}: {OWN_WORDS[3]}", placeholder="shared", interactive=True, max_lines=3, scale=2)])
        self.summary = gr.HTML(apply_default_css=False, elem_classes="gw-slot gw-chat-summary")
        self.shaping = [self.models]
        self.sampling = [self.guard, self.temperature, self.top_p, self.tokens, self.seed, self.system]
        self.fields = [*self.shaping, *self.sampling, self.key, *(field for fields in self.own for field in fields)]

    def preset(self, offered: Sequence[Offer]) -> list[str]:
        """What a new chat compares: the base and the newest model that was made of it."""
        trained = [ref for _, ref in offered if ref != "embedded"]
        return ["embedded", *trained[:1]]

    def preset_guard(self, guards: Sequence[Offer]) -> str:
        """What a new chat is guarded by: in a public demo by the best there is, in a private app by none until one is chosen."""
        return first_guard(guards, self.workspace) if self.workspace.access.public else NO_GUARD

    def fresh(self, offered: Sequence[Offer]) -> Comparison:
        """A comparison in which nothing is said yet, as the fields are when the page opens."""
        try:
            columns = checked_columns(self.preset(offered))
        except UserError:
            columns = [Column(model="embedded")]
        return Comparison(columns=columns, options=dict(USUAL), guard=self.preset_guard(guard_offers(offered, self.workspace)))

    def opened(self, comparison: Comparison | None, offers: Sequence[Offer], free: bool) -> Updates:
        """The fields as a comparison has them; lists as they are now. free: other models may be typed, too."""
        guards = guard_offers(offers, self.workspace)
        guard = comparison.guard if comparison else self.preset_guard(guards)
        hidden = comparison is not None and comparison.names_hidden
        chosen = _chosen([column.model for column in comparison.columns] if comparison else self.preset(offers), hidden)
        if not free:  # a link may lead to a comparison of models that are on somebody else's list
            known = {AGAIN, *(ref for _, ref in offers)}
            chosen = chosen if known.issuperset(chosen) else self.preset(offers)
            guard = guard if guard in {NO_GUARD, *(ref for _, ref in guards)} else self.preset_guard(guards)
        takes_key = free or any(_needs_key(self.workspace, ref) for _, ref in offers)
        updates: Updates = {self.key: gr.Textbox(visible=takes_key),
                            self.models: gr.Dropdown([*offers, ("the first of them, again", AGAIN)], value=chosen, allow_custom_value=free,
                                                     info=_models_words(free)),
                            self.guard: gr.Dropdown([("none", NO_GUARD), *guards], value=guard, allow_custom_value=free)}
        if comparison is not None:
            options = {**USUAL, **comparison.options}
            updates.update({self.temperature: options["temperature"], self.top_p: options["top_p"],
                            self.tokens: options["max_new_tokens"], self.seed: options["seed"], self.system: comparison.system})
            for place, column in enumerate(comparison.columns):
                updates.update({field: str(column.own.get(name, "")) for field, name in zip(self.own[place], OWN, strict=True)})
        return updates

    def comparison(self, values: Sequence[Any], blind: bool) -> Comparison:
        """A new one. Blind: the columns stand in an order that nobody knows."""
        models, guard, options, system, own = self._read(values)
        self.workspace.access.demand_models(self.workspace, models)  # first, because reading a reference tells whether a folder exists
        columns = checked_columns(models, own)
        if blind:
            if any(own.values()):
                raise UserError("Settings of single columns would tell which column is which; empty them, or switch Blind off.")
            random.SystemRandom().shuffle(columns)
        return Comparison(columns=columns, guard=guard, options=options, system=system, blind=blind)

    def settle(self, comparison: Comparison, values: Sequence[Any]) -> None:
        """Take over what may change from message to message."""
        _, comparison.guard, comparison.options, comparison.system, own = self._read(values)
        if not comparison.blind:
            for place, column in enumerate(comparison.columns):
                column.own = own.get(place, {})

    def _read(self, values: Sequence[Any]) -> _Values:
        """See `_read`; the texts of visitors are short, because they are kept in memory."""
        found = _read(values)
        _, guard, _, system, own = found
        texts = [guard, system, *(str(one.get("system", "")) for one in own.values())]
        if self.workspace.access.public and (count := sum(map(len, texts))) > LONGEST_SETTINGS:
            raise UserError(f"The system prompts have {count:,} characters, and {LONGEST_SETTINGS:,} can be sent; shorten them.")
        return found

    def words(self, *values: Any) -> str:
        """The settings in a line."""
        try:
            return html.span(chat_view.settings_words(self.comparison(values, False)))
        except UserError as error:
            return html.problem_strip(str(error))


def allowed_offers(offered: Sequence[Offer], allowed: Sequence[str] | None) -> list[Offer]:
    """What may be chosen. allowed: references of a public demo, which takes no others; None = all."""
    if allowed is None:
        return list(offered)
    known = [offer for offer in offered if offer[1] in allowed]
    return [*known, *((ref, ref) for ref in allowed if ref not in {one for _, one in known})]


def key_in(values: Sequence[Any]) -> str:
    """The API key among the fields. It is read for one question and kept nowhere."""
    return str(values[KEY_PLACE] or "").strip()


def _needs_key(workspace: Workspace, ref: str) -> bool:
    try:
        return bool(chat_model_for(ref, workspace)[0].key)
    except UserError:
        return False


def _read(values: Sequence[Any]) -> _Values:
    """(models, guard, shared options, system prompt, own settings by column). UserError names the field."""
    models, guard, temperature, top_p, tokens, seed, system, _, *rest = values
    options: dict[str, float | int] = {
        "temperature": _number(temperature, "Temperature", USUAL["temperature"]), "top_p": _number(top_p, "Top-p", USUAL["top_p"]),
        "max_new_tokens": int(_number(tokens, "Tokens at most", USUAL["max_new_tokens"])),
        "seed": int(_number(seed, "Seed", USUAL["seed"]))}
    Sampling.of(options)
    own: dict[int, dict[str, Any]] = {}
    for place in range(MOST_COLUMNS):
        found = {}
        for name, words, text in zip(OWN, OWN_WORDS, rest[place * len(OWN):(place + 1) * len(OWN)], strict=True):
            if str(text or "").strip():
                number = str(text).strip() if name == "system" else _number(text, f"{LETTERS[place]}: {words}", 0)
                found[name] = int(number) if name == "max_new_tokens" else number
        Sampling.of({name: value for name, value in found.items() if name != "system"})
        own[place] = found
    own = {place: found for place, found in own.items() if found}
    return _columns_of(list(models or [])), str(guard or "").strip(), options, str(system or ""), own


def _columns_of(chosen: list[str]) -> list[str]:
    """A model for each column: AGAIN stands for the first model that is chosen."""
    named = [ref for ref in chosen if ref != AGAIN]
    return [named[0] if ref == AGAIN else ref for ref in chosen] if named else []


def _chosen(models: list[str], hidden: bool) -> list[str]:
    """The choice that leads to these columns. hidden: in an order that does not tell which column is which."""
    once = list(dict.fromkeys(sorted(models) if hidden else models))
    once.sort(key=lambda ref: models.count(ref) < 2)  # AGAIN is the first one's
    return [*once, AGAIN] if len(once) < len(models) else once


def _models_words(free: bool) -> str:
    return "One to four, a column each" + ("; type openai:<model>@<base url> for a server." if free else ".")


def _number(value: Any, name: str, default: float) -> float:
    if value is None or (isinstance(value, str) and not value.strip()):
        return default
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{name} is {value!r}; write a number.")
    return number
