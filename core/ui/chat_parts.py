"""The Chat page's components, and what they show of a comparison. Its events are in core/ui/chat_page.py."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.compare.keeping import comparisons_of
from core.compare.records import MOST_COLUMNS, Comparison
from core.compare.votes import duels, votes
from core.runs import Workspace
from core.ui import chat_view, html
from core.ui.address import view_box
from core.ui.chat_box import MessageBox
from core.ui.chat_form import ChatForm
from core.ui.downloads import download_box
from core.ui.theme import block
from core.words import ago

Updates = dict[Any, Any]
EARLIER = 8
LONGEST = 20_000
"""Characters of a message."""


class ChatParts:
    """Components, and the updates that show things in them."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.kept = comparisons_of(workspace)
        self.box = MessageBox()
        self.form = ChatForm(workspace)

    def draw(self) -> None:
        """The page from top to bottom."""
        self.view = view_box()
        with gr.Row(elem_classes="gw-chat-top"):
            gr.HTML(html.page_header("Chat", "One message, several models, the guard's verdict under each answer."),
                    apply_default_css=False)
            with gr.Row(elem_classes="gw-chat-switches"):
                self.blind = gr.Checkbox(label="Blind", interactive=True, container=False, min_width=60)
                self.blur = gr.Checkbox(value=True, label="Blur harmful text", interactive=True, container=False, min_width=120)
        self.heads, self.pasts, self.lives, self.columns = [], [], [], []
        with gr.Row(elem_classes="gw-chat-columns", equal_height=True):
            for place in range(MOST_COLUMNS):
                with gr.Column(visible=place < 2, min_width=0, elem_classes="gw-card gw-chat-column") as column:
                    self.heads.append(block())
                    with gr.Column(elem_classes="gw-chat-scroll"):
                        self.pasts.append(block(elem_classes="gw-slot"))
                        self.lives.append(block())
                self.columns.append(column)
        with gr.Column(elem_classes="gw-card gw-chat-dock"):
            self.votes = block(elem_classes="gw-slot", elem_id="votes")
            self.notice = block(elem_classes="gw-slot")
            self.edited = block(elem_classes="gw-slot")
            with gr.Row(elem_classes="gw-form gw-chat-ask"):
                self.box.draw(LONGEST)
                self.prompt = self.box.prompt
                self.send = gr.Button("Send", variant="primary", size="md", scale=1, min_width=110)
                self.stop = gr.Button("Stop", size="md", scale=1, min_width=80, elem_classes="gw-stop-button")
            self.form.draw()
        with gr.Column(elem_classes="gw-card"):
            self.below = block(elem_classes="gw-stack")
        self.editing = gr.State(-1)
        self.download = download_box()

    @staticmethod
    def placeholder(count: int) -> Any:
        """The words in the empty message box, for so many columns."""
        whom = {1: "Ask it.", 2: "Ask both.", 3: "Ask all three."}.get(count, "Ask all four.")
        return gr.Textbox(placeholder=f"{whom} Enter sends.")

    def whole(self, comparison: Comparison) -> Updates:
        """Everything that follows from a comparison; what was told about the one before goes."""
        return {**self.answered(comparison), self.notice: "", self.form.summary: html.span(chat_view.settings_words(comparison))}

    def answered(self, comparison: Comparison) -> Updates:
        """Columns and votes. Notice and settings stay as they are: the person may have gone on while the answers were written."""
        updates: Updates = {}
        for place in range(MOST_COLUMNS):
            there = place < len(comparison.columns)
            updates[self.columns[place]] = gr.Column(visible=there)
            if there:
                updates[self.pasts[place]] = chat_view.earlier(comparison, place)
                updates.update(self.column(comparison, place, []))
        return {**updates, self.votes: self.vote_bar(comparison)}

    def column(self, comparison: Comparison, place: int, live: list[dict[str, Any]]) -> Updates:
        """Of one column, what changes while its answer grows."""
        return {self.heads[place]: chat_view.column_head(comparison, place),
                self.lives[place]: chat_view.latest(comparison, place, live)}

    def vote_bar(self, comparison: Comparison) -> str:
        """The buttons to vote with, or what stands in their place."""
        return chat_view.vote_bar(comparison, len(votes(self.workspace)) if not comparison.owner else 0)

    def earlier(self) -> str:
        """Votes so far, and earlier comparisons; of visitors nothing is kept, so nothing is listed."""
        if self.workspace.access.viewer():
            parts = [html.card_header("Votes", "of this visit only"), chat_view.visitors_votes()]
        else:
            parts = [html.card_header("Votes", "blind ones: the names were hidden until the vote"),
                     chat_view.duel_table(duels(votes(self.workspace)))]
            rows: list[list[html.Cell]] = [
                [html.link(one.exchanges[0].prompt[:80], f"/chat?chat={one.id}"), len(one.exchanges),
                 "hidden" if one.names_hidden else ", ".join(column.model for column in one.columns), ago(one.created)]
                for one in self.kept.newest(EARLIER)]
            if rows:
                parts += [html.card_header("Earlier comparisons"), html.table(["First message", "Messages", "Models", "Begun"], rows,
                                                                             right=(1,), label="earlier comparisons")]
        links = [html.small_link("New chat", "new"), html.small_link("Export as JSONL", "export"), html.small_link("Copy a link", "link")]
        return html.div(html.join(links, " "), "gw-acts") + html.join(parts)

    def edits(self, number: int) -> Updates:
        """Which message is being edited; -1: none."""
        told = html.problem_strip(f"Message {number + 1} is being edited: when you send it, what came after it is replaced.", "info",
                                  html.small_link("Leave it", "leave")) if number >= 0 else ""
        return {self.editing: number, self.edited: told}

    def everything(self) -> list[Any]:
        """What an event may have to change."""
        return [self.view, *self.columns, *self.heads, *self.pasts, *self.lives, self.votes, self.notice, self.send, self.form.summary,
                self.edited, self.prompt, self.box.word, self.editing, self.below, self.blind, *self.form.fields]
