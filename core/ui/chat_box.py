"""The message box of the Chat page: what somebody types while the server is still answering is never overwritten.

An event that wrote into the box would write late on a busy machine, and twice: Gradio sends the last update of a generator again when it
ends. So events say a word about the box, in a hidden box beside it, and the browser does what the word means for what stands there now.
"""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import gradio as gr

Updates = dict[Any, Any]

SENDING = """(view, prompt, ...others) => {
    const now = Date.now();
    if (window.gwSending > now) return [view, null, ...others];
    window.gwSending = now + 10_000;
    return [view, prompt, ...others];
}"""
"""Until the server has the message, and for ten seconds at most, another Enter sends nothing: it would be the same text again."""

OBEY = """(word, now, kept) => {
    const {number, kind, was, text} = JSON.parse(word);
    const state = kept ? JSON.parse(kept) : {number: 0, put: null, draft: ''};
    if (number <= state.number) return [now, kept];
    if (kind === 'sent' || kind === 'refused') window.gwSending = 0;
    if (kind === 'refused') return [now, JSON.stringify({...state, number})];
    const join = (one, other) => one && other ? one + '\\n' + other : one || other;
    const editing = state.put !== null;
    let next = now, put = null, draft = '';
    if (kind === 'edit' && now === was) {
        [next, put] = [text, text];
        draft = now.trim() && now !== state.put ? join(state.draft, now) : state.draft;
        document.querySelector('#message textarea').focus();
    } else if (kind === 'edit') {
        draft = state.draft;
    } else {
        let rest = now;
        if (kind === 'sent') rest = now.startsWith(was) ? now.slice(was.length).trimStart() : now;
        else if (editing && now === was && (kind === 'leave' || now === state.put)) rest = '';
        next = join(state.draft, rest);
    }
    return [next, JSON.stringify({number, put, draft})];
}"""
"""A word, the box as it is, what is remembered -> the last two anew. `was` is the box as the event saw it: what has changed since then, a
person has typed. `put` is the message that was put in for editing, `draft` what stood there before; it comes back afterwards."""


class MessageBox:
    """The box, and the words about it. Every event that is given `prompt` hands its value on as `was`."""

    def __init__(self) -> None:
        self._numbers = itertools.count(time.time_ns() // 1000)  # an app that was started anew goes on after the words of the old one

    def draw(self, longest: int) -> None:
        """Components."""
        self.prompt = gr.Textbox(show_label=False, label="Message", lines=1, max_lines=8, interactive=True, max_length=longest,
                                 container=False, scale=8, elem_id="message")
        self.word = gr.Textbox(visible="hidden", label="word", container=False)
        kept = gr.Textbox(visible="hidden", label="kept", container=False)
        self.word.change(None, [self.word, self.prompt, kept], [self.prompt, kept], js=OBEY, api_visibility="private")

    def sent(self, was: str) -> Updates:
        """The server has the message: it leaves the box, what was typed after it stays."""
        return self._say("sent", was)

    def refused(self) -> Updates:
        """The server does not take the message: it stays, and can be sent again."""
        return self._say("refused", "")

    def edit(self, was: str, text: str) -> Updates:
        """Put an earlier message in, unless something was typed meanwhile. A draft that stood there comes back after it."""
        return self._say("edit", was, text)

    def leave(self, was: str) -> Updates:
        """The person gives the editing up."""
        return self._say("leave", was)

    def anew(self, was: str) -> Updates:
        """Another chat begins: a message put in for editing goes, whatever was typed stays."""
        return self._say("anew", was)

    def _say(self, kind: str, was: str, text: str = "") -> Updates:
        return {self.word: json.dumps({"number": next(self._numbers), "kind": kind, "was": was or "", "text": text})}
