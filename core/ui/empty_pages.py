"""Pages whose methods are not built yet: what will stand there, and where to go meanwhile."""

from __future__ import annotations

import gradio as gr

from core.ui import html

_PAGES = {
    "training": ("Training", "Teach a model to reason about safety before it labels.", "No training method is loaded",
                 "Here will stand: a form for each training method, the live run with its curve and log, and what the model writes while "
                 "it learns. Each method comes from a plugin, and none of those that were found brings one.",
                 ("See which plugins are loaded", "/plugins")),
    "mining": ("Mining", "Find the inputs the guard is unsure about: right in some samples, wrong in others.",
               "No mining method is loaded",
               "Here will stand: how many inputs are hard, which sources they come from, each hard input with its answers side by side, "
               "and a button that builds preference pairs from them. Each method comes from a plugin, and none of those that were found "
               "brings one.",
               ("See which plugins are loaded", "/plugins")),
    "rl": ("RL", "Two agents waltz: one replies, one gives feedback, both learn from what the revision gained.",
           "WaltzRL is not built yet in this version",
           "It will train a conversation agent and a feedback agent together. Here will stand: the reward ledger, that is, every term "
           "that each agent earned in an episode and why; the curves of each term; how safe and how helpful the pair is against the "
           "model it started from; and single episodes of reply, feedback and revision.\n"
           "A plugin that brings an RL method appears on this page by itself.", ("Train a guard meanwhile", "/training")),
}


def build(name: str) -> None:
    """Put the page on the route that is being built. `name`: training, mining, rl."""
    title, subtitle, heading, text, (words, href) = _PAGES[name]
    gr.HTML(html.page_header(title, subtitle), apply_default_css=False)
    with gr.Column(elem_classes="gw-card"):
        gr.HTML(html.empty_state(heading, text, html.link(words, href)), apply_default_css=False)
