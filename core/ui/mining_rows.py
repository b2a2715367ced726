"""The list of mined inputs: filters, one line each with its right outputs, weight and the state of its pair."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from core.mining.samples import TASK_ORDER
from core.ui import html
from core.ui.address import View, page_number
from core.ui.mining_index import LABELS, NONE, Index, Ints, Wanted, find
from core.ui.mining_run import Built, Miner, Weighting
from core.ui.pieces import cut, pager, segments

PAGE = 8
SHORT = 150
"""Characters of a prompt in the list."""
FILTERS = ("right", "source", "gold", "task", "q")
"""Names in the address, in the order of the page."""
EMPTY = "(none)"
"""How a source without a name is called; the report says it too."""
KIND_WORDS = {"hard": "hard", "all right": "all right", "all wrong": "all wrong", "unparsed": "unparsed", "all": "all"}
Choice = tuple[str, str]


def wanted_of(view: View, miner: Miner) -> Wanted:
    """The filters that an address asks for; what makes no sense is no filter."""
    right = view.get("right", "")
    source = view.get("source", "")
    return Wanted(kind=kind_of_view(view), right=int(right) if right.isdecimal() else None,
                  source=None if not source else "" if source == EMPTY else source, label=view.get("gold", ""), task=view.get("task", ""),
                  text=view.get("q", ""), rows=frozenset(miner.edits) if view.get("edited") else None)


def kind_of_view(view: View) -> str:
    """hard, unless the address asks for another kind."""
    asked = view.get("kind", "hard")
    return asked if asked in KIND_WORDS else "hard"


def choices(index: Index, k: int) -> dict[str, list[Choice]]:
    """(shown, value) of each dropdown: only what occurs."""
    labels = [LABELS[code] for code in _occurring(index.label) if code != NONE]
    tasks = [TASK_ORDER[code] for code in _occurring(index.task) if code != NONE]
    return {"right": [("any", ""), *((f"{right} of {k}", str(right)) for right in range(k + 1))],
            "source": [("all", ""), *sorted((name or EMPTY, name or EMPTY) for name in index.sources)],
            "gold": [("all", ""), *((label, label) for label in labels)],
            "task": [("all", ""), *((task, task) for task in tasks)]}


def _occurring(codes: Ints) -> list[int]:
    return sorted(set(codes.tolist()))


def list_head(miner: Miner, view: View) -> Markup:
    """Title, how many there are, and the kinds to choose from."""
    counts, edited = miner.index.counts(), len(miner.edits)
    out = miner.excluded()
    sub = f"{counts['hard']:,} found" + (f", {out:,} excluded by hand" if out else "")
    options = [(kind, f"{words} {counts[kind]:,}" if kind in counts else f"{words} {len(miner.index):,}")
               for kind, words in KIND_WORDS.items()]
    switch = segments(options, kind_of_view(view), "kind", "which inputs")
    pressed = bool(view.get("edited"))
    only = html.element("button", f"edited {edited:,}", "gw-button gw-small" + (" gw-chosen" if pressed else ""), type="button",
                        data_act="edited", data_value="" if pressed else "1", aria_pressed="true" if pressed else "false")
    return html.card_header("Hard inputs", sub, html.div(switch + only, "gw-line"))


def found_rows(miner: Miner, view: View) -> Ints:
    """Places under the filters, hardest first."""
    return find(miner.index, wanted_of(view, miner))


def opened_place(miner: Miner, view: View, found: Ints) -> int | None:
    """The row that the address names, else the first of the page."""
    asked = view.get("row", "")
    place = miner.place_of(int(asked)) if asked.isdecimal() and len(asked) < 16 else None
    if place is not None:
        return place
    page = page_number(view, pages(found))
    return int(found[page * PAGE]) if len(found) else None


def pages(found: Ints) -> int:
    """Pages of the list, at least one."""
    return max(1, -(-len(found) // PAGE))


def neighbour(miner: Miner, view: View, found: Ints, step: int) -> int | None:
    """The next (1) or previous (-1) row of the list; it stays inside. A row that an edit took out of the list is still known."""
    here = opened_place(miner, view, found)
    if here is None or not len(found):
        return None
    order = found.tolist()
    if here in order:
        return int(order[max(0, min(len(order) - 1, order.index(here) + step))])
    before = find(miner.mined, wanted_of(view, miner)).tolist()  # as it was mined, the row was among these
    inside = set(order)
    if here not in before:
        return int(order[0])
    at = before.index(here)
    rest = before[at + 1:] if step > 0 else before[:at][::-1]
    return next((place for place in rest if place in inside), int(order[-1 if step > 0 else 0]))


def table(miner: Miner, view: View, found: Ints, weighting: Weighting, built: Built | None = None) -> Markup:
    """One page of the list. Weights are those that pairs would have now, which are those of `built` where nothing was edited since; where
    it counted unreadable outputs in another way they are read from its file, and a line above says so."""
    other = built if built is not None and built.reads_otherwise(miner) else None
    above = html.problem_strip(_other_reading(miner, other), "info") if other else Markup()
    if not len(found):
        return above + _nothing(miner, view)
    page = page_number(view, pages(found))
    part = found[page * PAGE:(page + 1) * PAGE].tolist()
    opened = opened_place(miner, view, found)
    gaps = miner.gaps()
    cells = [_line(miner, place, miner.weight(place, weighting, gaps), other) for place in part]
    keys = [str(int(miner.index.row[place])) for place in part]
    selected = None if opened is None else str(int(miner.index.row[opened]))
    columns = ["Input", "Prompt", "Source", "Gold", "Right outputs", "Weight", "Pair"]
    shown = html.table(columns, cells, keys=keys, selected=selected, label="inputs", act="row")
    keys_note = html.join([html.element("kbd", "J") + html.span(" next"), html.element("kbd", "K") + html.span(" previous"),
                           html.element("kbd", "X") + html.span(" exclude")], ", ")
    note = html.span("hardest first", "gw-sub") + html.span(keys_note, "gw-keys-note")
    return above + shown + pager(len(found), page, PAGE, html.span(note, "gw-line"))


def _other_reading(miner: Miner, built: Built) -> str:
    mined, other = ("nothing", "wrong") if miner.index.unparsed_as == "drop" else ("wrong", "nothing")
    return (f"{built.run.id} counted an unreadable output as {other}, this run as {mined}. The weights below are those of its pairs; which "
            "inputs are hard, and how many, stands here as this run counted.")


def _line(miner: Miner, place: int, weight: float | None, other: Built | None) -> Sequence[str]:
    sample = miner.edited(place).sample
    index = miner.index
    weight = other.weight_of(sample.row, sample.model) if other else weight
    task = miner.task_of(place)
    source = html.span(sample.source or EMPTY, "gw-sub")
    gold = html.chip(getattr(sample.gold, task), "" if task == "request" else task) if task else html.span("no label", "gw-sub")
    prompt = html.veil(cut(sample.prompt, SHORT), bool(index.harmful[place]))
    if sample.response:
        prompt += html.span(" with a response", "gw-sub")
    right = dots(int(index.correct[place]), len(sample.outputs), int(index.unparsed[place]))
    shown = html.figures(weight, 2) if weight is not None else html.span("–", "gw-sub")
    pair = miner.pair(place)
    words = html.span(pair, "gw-pair-excluded" if pair == "excluded" else "gw-sub") if pair else html.span("none", "gw-sub")
    return [html.span(f"{sample.row:04d}", "gw-mono"), prompt, source, gold, right, shown, words]


def dots(right: int, of: int, unparsed: int) -> Markup:
    """Filled for a right output, open for a wrong one, dashed for one without a label; the same in words."""
    words = f"{right} of {of}" + (f", {unparsed} unparsed" if unparsed else "")
    if of > 10:
        return html.span(words, "gw-nowrap")
    shapes = ["on"] * right + [""] * max(0, of - right - unparsed) + ["un"] * unparsed
    marks = html.span(html.join([html.element("i", "", shape) for shape in shapes]), "gw-dots", aria_hidden="true")
    return html.span(marks + html.span(words), "gw-nowrap gw-right-outputs")


def _nothing(miner: Miner, view: View) -> Markup:
    counts, kind = miner.index.counts(), kind_of_view(view)
    narrowed = any(view.get(name) for name in (*FILTERS, "edited"))
    if narrowed:
        return html.empty_state("No input matches", "Inputs that fit the filters stand here. None does now.",
                                html.small_link("Take the filters away", "clear"))
    if kind == "hard" and not counts["hard"]:
        text = ("Inputs with right and wrong outputs mixed stand here. This run found none, so no pairs can be built from it; the note at "
                "the top says what to change.")
        return html.empty_state("No hard input", text, html.link("Mine again with other settings", f"/mining?from={miner.run.id}"))
    return html.empty_state("No such input", f"Inputs of the kind “{kind}” stand here. This run has none.",
                            html.small_link("Show the hard ones", "kind", "hard"))
