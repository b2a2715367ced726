"""Chat: one message, several models, the guard's verdict under each answer. What happens on the page; the words come from the model worker
(core/serving.py).

What the page shows is a Comparison (core/compare): its id stands in the address, so refresh, tabs and links keep it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr

from core.chat_models import offered_models
from core.compare.asking import ask, refuse_two_places
from core.compare.keeping import exported, refuse_full, save_pair, save_turn
from core.compare.records import Comparison
from core.compare.votes import keep_vote
from core.methods import UserError
from core.runs import Workspace
from core.serving import serving_of
from core.ui import chat_form, html
from core.ui.address import query_of, read_view, write_view
from core.ui.chat_box import SENDING
from core.ui.chat_parts import LONGEST, ChatParts, Updates
from core.ui.downloads import text_file
from core.ui.theme import clicked, on_load

DRAW_EVERY = 0.12
"""Seconds between two drawings of answers that grow."""
SILENT: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
BLUR = "(on) => { document.body.classList.toggle('gw-unblurred', !on); }"


def build(workspace: Workspace) -> None:
    """Put the page on the route that is being built."""
    page = ChatPage(workspace)
    page.draw()
    page.listen()


class ChatPage(ChatParts):
    """Its events: what is asked, stopped, voted on and kept."""

    def listen(self) -> None:
        """Once everything is drawn."""
        everything = self.everything()
        asked = [self.view, self.prompt, self.editing, self.blind, *self.form.fields]
        several: dict[str, Any] = {**SILENT, "trigger_mode": "multiple"}  # what is done counts while an earlier event still answers
        latest: dict[str, Any] = {**SILENT, "trigger_mode": "always_last"}  # two fields filled faster than the app answers
        on_load(self._open, None, everything)
        gr.on([self.send.click, self.prompt.submit], self._send, asked, everything, js=SENDING, **several)
        self.stop.click(self._stop, None, None, **SILENT)
        self.blur.change(None, self.blur, None, js=BLUR, api_visibility="private")
        gr.on([self.blind.input, *(field.input for field in self.form.shaping)], self._shaped, asked, everything, **latest)
        gr.on([field.input for field in self.form.sampling], self.form.words, self.form.fields, self.form.summary, **latest)
        for part in (*self.heads, *self.pasts, *self.lives, self.votes, self.notice, self.edited, self.below):
            part.select(self._act, [self.view, self.form.key, self.prompt], [*everything, self.download], **several)

    def _current(self, query: str) -> Comparison | None:
        name = read_view(query).get("chat", "")
        return self.kept.find(name, self.workspace.access.viewer()) if name else None

    def _open(self, request: gr.Request) -> Updates:
        query = query_of(request)
        comparison = self._current(query)
        allowed = self.workspace.access.models(self.workspace)
        offers = chat_form.allowed_offers(offered_models(self.workspace), allowed)
        updates = self.form.opened(comparison, offers, free=allowed is None)
        if comparison is None and read_view(query).get("chat"):
            updates[self.notice] = html.problem_strip("There is no comparison with this link here any more; a new one begins.", "info")
            query = write_view(read_view(query), chat="")
        shown = comparison or self.form.fresh(offers)
        return {**self.whole(shown), **updates, self.view: query, self.blind: shown.blind,
                self.prompt: self.placeholder(len(shown.columns)), self.below: self.earlier()}

    def _send(self, query: str, prompt: str | None, editing: int, blind: bool, request: gr.Request, *values: Any) -> Iterator[Updates]:
        """Ask every column, and draw the answers as they grow. What is still being written for this browser is stopped."""
        if prompt is None:  # see SENDING
            yield {self.notice: gr.skip()}  # a generator that yields nothing would empty every output
            return
        who = request.session_hash or ""
        try:
            text = prompt.strip()
            if not text:
                raise UserError("Write a message first.")
            if len(text) > LONGEST:
                raise UserError(f"The message has {len(text):,} characters, and {LONGEST:,} can be sent; shorten it.")
            self.workspace.access.demand_share(self.workspace)
            found = self._current(query)
            if found is None or found.owner != self.workspace.access.viewer() or found.is_left(who):
                found = self._new(blind, values)
            key = chat_form.key_in(values)
            refuse_two_places(self.workspace, found, key)
            with self.kept.in_work(found) as comparison:
                at = editing if 0 <= editing < len(comparison.exchanges) else None
                refuse_full(comparison, at)
                self.form.settle(comparison, values)
                number = comparison.open(text, at)
                serving_of(self.workspace).give_up(who)
                since = time.monotonic()
                self.kept.keep(comparison)
                yield {**self.whole(comparison), **self.box.sent(prompt), self.view: write_view(read_view(query), chat=comparison.id),
                       **self.edits(-1)}
                yield from self._answers(comparison, number, who, since, key=key)
        except UserError as error:
            yield {**self.box.refused(), self.notice: html.problem_strip(str(error))}
        except Exception:  # whatever it is, the next message can be sent at once
            yield {**self.box.refused(), self.notice: html.problem_strip("That did not work, and the app's own log says why.")}
            raise

    def _new(self, blind: bool, values: tuple[Any, ...]) -> Comparison:
        comparison = self.form.comparison(values, blind)
        comparison.owner = self.workspace.access.viewer()
        return comparison

    def _answers(self, comparison: Comparison, number: int, who: str, since: float, places: list[int] | None = None, again: int = 0,
                 key: str = "") -> Iterator[Updates]:
        """Of a comparison in work. since: when they were asked for; Stop counts from then on."""
        live: dict[int, list[dict[str, Any]]] = {}
        stale: set[int] = set()
        drawn = 0.0
        answers = comparison.exchanges[number].answers
        with closing(ask(self.workspace, comparison, number, who, places, again, live, key, since)) as heard:
            for changed in heard:
                stale |= changed
                if time.monotonic() - drawn > DRAW_EVERY or any(answers[place].over for place in changed):
                    updates: Updates = {}
                    for place in stale:
                        updates.update(self.column(comparison, place, live.get(place, [])))
                    stale, drawn = set(), time.monotonic()
                    if not comparison.is_left(who):
                        yield {**updates, self.votes: self.vote_bar(comparison)}
        self.kept.keep(comparison)
        below = self.earlier()
        yield {**({} if comparison.is_left(who) else self.answered(comparison)), self.below: below}
        yield {self.notice: gr.skip()}  # Gradio sends the last word of a generator twice; the person may be in another chat by then

    def _stop(self, request: gr.Request) -> None:
        serving_of(self.workspace).give_up(request.session_hash or "")

    def _shaped(self, query: str, prompt: str, _editing: int, blind: bool, request: gr.Request, *values: Any) -> Updates:
        """Models or blind were changed: what was said stays at its link, and a new chat begins."""
        try:
            wanted = self.form.comparison(values, blind)
        except UserError as error:
            return {self.notice: html.problem_strip(str(error))}
        current = self._current(query)
        same = current is not None and current.blind == blind and sorted(column.model for column in current.columns) == sorted(
            column.model for column in wanted.columns)
        if same:
            return {self.notice: ""}
        if current is not None:
            self._leave(current, request)
        updates = {**self.whole(wanted), **self.box.anew(prompt), self.view: write_view(read_view(query), chat=""),
                   self.prompt: self.placeholder(len(wanted.columns)), **self.edits(-1)}
        if current is not None and current.exchanges:
            updates[self.notice] = html.problem_strip("Other models: a new chat begins. The one before is under Earlier comparisons."
                                                      if not current.owner else "Other models: a new chat begins.", "info")
        return updates

    def _leave(self, comparison: Comparison, request: gr.Request) -> None:
        """Nothing of it is drawn or written for this browser any more."""
        comparison.leave(request.session_hash or "")
        serving_of(self.workspace).give_up(request.session_hash or "")

    def _act(self, query: str, key: str, prompt: str, event: gr.SelectData, request: gr.Request) -> Iterator[Updates]:
        """A click on one of our links or buttons."""
        word, value = clicked(event)
        comparison = self._current(query)
        if word == "new":
            yield from self._began_anew(query, comparison, prompt, request)
            return
        if comparison is None:
            yield {self.notice: html.problem_strip("There is nothing here yet; send a message first.", "info")}
            return
        if comparison.owner != self.workspace.access.viewer():
            yield {self.notice: html.problem_strip("This comparison is somebody else's; it can be read, and nothing more.", "info")}
            return
        try:
            with self.kept.in_work(comparison) as comparison:
                yield from self._acted(comparison, word, value, key, prompt, request)
        except UserError as error:
            yield {self.notice: html.problem_strip(str(error))}

    def _began_anew(self, query: str, comparison: Comparison | None, prompt: str, request: gr.Request) -> Iterator[Updates]:
        if comparison is None:
            yield {self.notice: ""}
            return
        self._leave(comparison, request)
        fresh = comparison.model_copy(deep=True, update={"exchanges": [], "revealed": False})
        yield {**self.whole(fresh), **self.box.anew(prompt), self.view: write_view(read_view(query), chat=""), **self.edits(-1)}

    def _acted(self, comparison: Comparison, word: str, value: str, key: str, prompt: str, request: gr.Request) -> Iterator[Updates]:
        numbers = [int(part) for part in value.split(",") if part.isdecimal()]
        sizes = (len(comparison.exchanges), len(comparison.columns))
        if any(number >= size for number, size in zip(numbers, sizes, strict=False)):
            raise UserError("That part of the chat is gone; reload the page.")
        if word == "vote":
            comparison.vote(len(comparison.exchanges) - 1, value)
            if not comparison.owner:
                keep_vote(self.workspace, comparison, len(comparison.exchanges) - 1)
            yield {**self.whole(comparison), self.below: self.earlier()}
        elif word == "edit":
            yield {**self.box.edit(prompt, comparison.exchanges[numbers[0]].prompt), **self.edits(numbers[0])}
        elif word == "leave":
            yield {**self.box.leave(prompt), **self.edits(-1)}
        elif word == "again":
            yield from self._again(comparison, numbers[0], numbers[1], request.session_hash or "", key)
        elif word in ("save", "pair"):
            yield {self.notice: html.problem_strip(self._saved(comparison, word, numbers), "info")}
        elif word == "export":
            yield {self.download: text_file("".join(exported(comparison)), f"chat-{comparison.id}.jsonl", self.workspace.access.viewer())}
        elif word == "link":
            comparison.shared = True
            address = f"{request.headers.get('origin') or ''}/chat?chat={comparison.id}"
            yield {self.notice: html.problem_strip("Whoever has this link may read the comparison:", "info", html.code_block(address))}

    def _again(self, comparison: Comparison, number: int, place: int, who: str, key: str) -> Iterator[Updates]:
        """Another answer of one column, with the next seed. Only the last message can be asked again: later ones build on the others."""
        if number != len(comparison.exchanges) - 1:
            raise UserError("Only the last message can be answered again; edit an earlier one to go on from there.")
        if not float(comparison.options_of(place).get("temperature", 0)):
            raise UserError("At temperature 0 the answer would be the same; raise the temperature in the settings.")
        exchange = comparison.exchanges[number]
        if not exchange.answers[place].over:
            raise UserError("This answer is still being written; stop it, then ask for another.")
        key = (key or "").strip()
        refuse_two_places(self.workspace, comparison, key)
        again = exchange.answers[place].seed - int(comparison.options_of(place)["seed"]) + 1
        since = time.monotonic()
        exchange.vote = ""
        yield {self.notice: ""}
        yield from self._answers(comparison, number, who, since, [place], again, key)

    def _saved(self, comparison: Comparison, word: str, numbers: list[int]) -> str:
        if comparison.owner:
            raise UserError("Visitors of the public demo cannot save into its data sets; export the chat instead.")
        number, place = numbers
        if word == "save":
            path: Path = save_turn(self.workspace, comparison, number, place)
            return f"Saved to {path}. Train with it: conversation={path} in waltz-sft, or mix it with other sets."
        better = "ABCD".index(comparison.exchanges[number].vote)
        path = save_pair(self.workspace, comparison, number, better, place)
        return f"Saved to {path}. Train with it: data={path} in hs-dpo."
