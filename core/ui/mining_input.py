"""One mined input with its outputs side by side: what each says, which of them make the pair, and what a person can put right."""

from __future__ import annotations

import time
from collections.abc import Sequence

from markupsafe import Markup

from core.mining.choosing import sides
from core.mining.edits import Edit, Edited
from core.mining.samples import as_hard, outcome, tasks_of
from core.records import NEGATIVE, POSITIVE, Output, Task
from core.ui import html
from core.ui.mining_pairs import chosen_pair
from core.ui.mining_run import NOBODY, Built, Miner
from core.ui.pieces import cut, fold, veil_block
from core.words import plural

SHORT = 420
"""Characters of an output that stand open; the whole text is in a fold."""
SHORT_PROMPT = 600
Sides = tuple[list[int], list[int]]
TASK_WORDS: dict[Task, str] = {"request": "Request", "completion": "Completion", "response": "Response"}
KEYS = """
const byKey = (event) => {
  if (!element.isConnected) return document.removeEventListener('keydown', byKey);
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest && event.target.closest('input:not([type=checkbox]), textarea, select, [contenteditable=true]')) return;
  const act = {j: 'next', k: 'previous', x: 'exclude'}[event.key.toLowerCase()];
  const card = act && element.querySelector('[data-input]');
  if (!card) return;
  event.preventDefault();
  if (act === 'exclude') return trigger('select', {index: act, value: card.dataset.input});
  trigger('key_up', {key: act, input_value: card.dataset.input});
};
document.addEventListener('keydown', byKey);
"""
"""J, K and X work anywhere on the page, but not while somebody types. J and K are an event of their own, because a second press counts
while the first is being answered; a second X, like a second click, must not take the first one back."""


def input_card(miner: Miner, place: int, built: Built | None, mode: str, who: str, may_edit: bool = True) -> Markup:
    """The whole card. `mode`: "gold" or "swap" while one of them is being chosen."""
    mode = mode if may_edit else ""
    edited = miner.edited(place)
    sample = edited.sample
    task = miner.task_of(place)
    pairs = built.pairs_of(sample.row, sample.model) if built else []
    pair = chosen_pair(miner.hand_pair(edited), edited, built.path if built else None, pairs)
    veiled = bool(miner.index.harmful[place])
    about = ", ".join(filter(None, [sample.source, sample.category, "with a response" if sample.response else "no response"]))
    head = html.card_header(f"Input {sample.row:04d}", about, gold_line(edited, who))
    texts = [html.div(html.veil(cut(sample.prompt, SHORT_PROMPT), veiled), "gw-quote gw-lift")]
    if len(sample.prompt) > SHORT_PROMPT:
        texts.append(fold("The whole prompt", veil_block(html.element("pre", sample.prompt, "gw-verbatim"), veiled)))
    if sample.response:
        texts.append(html.div(html.element("b", "Response. ") + html.veil(cut(sample.response, SHORT_PROMPT), veiled), "gw-quote"))
    can = sides_of(miner, edited) if mode == "swap" else None
    outputs = [output_card(edited, number, task, pair, veiled, can) for number in range(len(sample.outputs))]
    parts = [html.join(texts), html.div(html.join(outputs), "gw-cards gw-outputs"), _asked(edited, pair, mode, can),
             _void(miner, edited), _no_pair(miner, place, edited, built) if pair is None else Markup(),
             _buttons(miner, place, edited, who) if may_edit else _next(edited)]
    return html.element("section", head + html.join(parts), "gw-card", data_input=sample.row)


def _void(miner: Miner, edited: Edited) -> Markup:
    """The pair that a person picked does not hold any more."""
    if not miner.swap_is_void(edited):
        return Markup()
    return html.div("The pair picked by hand is not used: the gold label was changed after that, and its outputs are on the wrong sides "
                    "now. build-pairs chooses another one, unless you pick again.", "gw-help")


def _no_pair(miner: Miner, place: int, edited: Edited, built: Built | None) -> Markup:
    """Pairs were built, and this input has none of its own among them."""
    if built is None or edited.excluded or not miner.is_hard(place):
        return Markup()
    return html.div(f"{built.run.id} holds no pair of these outputs: another run's pair of the same input was kept, it was left out, "
                    "or it was edited since.", "gw-help")


def gold_line(edited: Edited, who: str) -> Markup:
    """The gold label of each task, and where an edited one comes from."""
    pieces: list[Markup] = []
    for name in tasks_of(edited.original):
        label, was = getattr(edited.sample.gold, name), getattr(edited.original.gold, name)
        pieces.append(html.span("Gold") if not pieces else Markup())
        pieces.append(html.chip(label, "" if name == "request" else name))
        edit = next((edit for edit in edited.edits if edit.kind == "gold" and edit.task == name), None)
        if edit is not None and label != was:
            pieces.append(html.span(f"was {was}, changed by {_by(edit, who)}, {_when(edit.t)}; original kept"))
    if not pieces:
        pieces = [html.span("no gold label")]
    return html.span(html.join(pieces, " "), "gw-gold-line")


def _by(edit: Edit, who: str) -> str:
    return "you" if edit.who == (who or NOBODY) else edit.who


def _when(moment: float) -> str:
    return time.strftime("%d %b %H:%M", time.localtime(moment)).lstrip("0")


def output_card(edited: Edited, number: int, task: Task | None, pair: tuple[int, int] | None, veiled: bool, can: Sides | None) -> Markup:
    """One output: its text, the label it gives for each task, whether that is the gold label. `can`: while a pair is being picked."""
    sample = edited.sample
    output = sample.outputs[number]
    said = outcome(sample, output, task) if task else "unparsed"
    agrees = {"correct": True, "incorrect": False, "unparsed": None}[said]
    small = ", ".join(filter(None, [plural(output.tokens, "token") if output.tokens else "",
                                    "cut at the token limit" if output.finish == "length" else ""]))
    badge = html.tag("chosen") if pair and pair[0] == number else html.tag("rejected") if pair and pair[1] == number else Markup()
    head = html.div(html.element("b", f"Output {number + 1}") + html.span(small, "gw-sub") + html.span(badge, "end"), "gw-output-head")
    text = output.text.strip()
    body = veil_block(html.div(cut(text, SHORT), "gw-written"), veiled) if text else html.span("It wrote nothing.", "gw-sub")
    whole = fold("The whole output", veil_block(html.element("pre", output.text, "gw-verbatim"), veiled)) if len(text) > SHORT else Markup()
    words = {True: "agrees", False: "differs", None: "no label"}[agrees]
    verdicts = html.div(html.join([*_labels(edited, output, task), html.span(words, "end")], " "), "verdicts")
    return html.judged(html.join([head, body, whole, verdicts, _pick(sample.row, number, can, pair) if can else None]), agrees)


def _labels(edited: Edited, output: Output, task: Task | None) -> list[Markup]:
    """The parsed label of each task; the one that decides first."""
    tasks = sorted(tasks_of(edited.original), key=lambda name: name != task)
    return [html.span(html.span(TASK_WORDS[name] + " ") + html.chip(getattr(output.predicted, name)), "gw-nowrap") for name in tasks]


def _pick(row: int, number: int, can: Sides, pair: tuple[int, int] | None) -> Markup:
    """The button that makes an output the chosen or the rejected one."""
    side = "chosen" if number in can[0] else "rejected" if number in can[1] else None
    if side is None:
        return html.span("Neither right nor wrong, so in no pair.", "gw-help")
    now = pair is not None and pair[0 if side == "chosen" else 1] == number
    return _toggle(f"{side} now" if now else f"Make it the {side} one", now, f"pick-{side}", f"{row} {number}")


def _toggle(words: str, on: bool, act: str, value: str) -> Markup:
    """A small button that says whether it is chosen."""
    return html.element("button", words, "gw-button gw-small" + (" gw-chosen" if on else ""), type="button", data_act=act, data_value=value,
                        aria_pressed="true" if on else "false")


def _asked(edited: Edited, pair: tuple[int, int] | None, mode: str, can: Sides | None) -> Markup:
    """What has to be chosen in a mode."""
    close = html.small_link("Close", "mode", "")
    if mode == "gold":
        lines = [html.div(html.join([html.element("b", TASK_WORDS[name]), *_label_buttons(edited, name)], " "), "gw-line")
                 for name in tasks_of(edited.original)]
        words = html.span("The right label. The original stays in outputs.jsonl; the row is counted anew with yours.", "gw-help")
        return html.div(html.join([words, *lines, close]), "gw-sunken gw-question")
    if can is not None:
        now = f"Now: output {pair[0] + 1} over output {pair[1] + 1}." if pair else "Until you choose, build-pairs draws them."
        text = f"Press the output to prefer and the output to reject. {now}" if all(can) else \
            "A pair needs one right and one wrong output on the deciding task; this input has only one kind."
        return html.div(html.span(text, "gw-help") + close, "gw-sunken gw-question")
    return Markup()


def _label_buttons(edited: Edited, task: Task) -> list[Markup]:
    now = getattr(edited.sample.gold, task)
    return [_toggle(html.chip(label), label == now, "gold", f"{edited.sample.row} {task} {label}")
            for label in (POSITIVE[task], NEGATIVE[task])]


def sides_of(miner: Miner, edited: Edited) -> Sides:
    """(outputs that may be chosen, outputs that may be rejected), as build-pairs sees them; ([], []) where the row is not hard."""
    unparsed = miner.index.unparsed_as
    hard = as_hard(edited.sample, unparsed)
    return sides(hard, unparsed) if hard else ([], [])


def picked(can: Sides, pair: tuple[int, int] | None, side: str, number: int) -> tuple[int, int] | None:
    """(chosen, rejected) after an output was made one of them; the other one stays, else it is the first there is."""
    right, wrong = can
    if not right or not wrong or number not in (right if side == "chosen" else wrong):
        return None
    chosen, rejected = pair if pair and pair[0] in right and pair[1] in wrong else (right[0], wrong[0])
    return (number, rejected) if side == "chosen" else (chosen, number)


def _next(edited: Edited) -> Markup:
    """For those who only read."""
    return html.div(html.small_button("Next input", "next", str(edited.sample.row)), "gw-buttons")


def _buttons(miner: Miner, place: int, edited: Edited, who: str) -> Markup:
    row = str(edited.sample.row)
    hard = miner.is_hard(place)
    buttons: list[Markup] = []
    if hard or edited.excluded:
        buttons.append(html.small_button("Include again" if edited.excluded else "Exclude pair", "exclude", row))
    if tasks_of(edited.original):
        buttons.append(html.small_button("Fix gold label", "mode", "gold"))
    if hard:
        buttons.append(html.small_button("Swap chosen output", "mode", "swap"))
    last = newest(edited.edits)
    if last is not None:
        buttons.append(html.small_button(f"Undo: {_what(last)}", "undo", row))
    buttons.append(html.small_button("Next input", "next", row))
    said = "Edits are kept with who and when, and can be undone."
    if last is not None:
        said = f"{_what(last).capitalize()} by {_by(last, who)}, {_when(last.t)}. {said}"
    return html.div(html.join(buttons) + html.span(said, "gw-help"), "gw-buttons")


def newest(edits: Sequence[Edit]) -> Edit | None:
    """The edit in force that was made last: the one that Undo takes back."""
    return max(edits, key=lambda edit: edit.t, default=None)


def _what(edit: Edit) -> str:
    return {"exclude": "excluded", "include": "included", "gold": "gold label changed", "swap": "outputs swapped"}[edit.kind]
