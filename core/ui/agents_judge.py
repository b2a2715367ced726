"""The card on the judge of an evaluation of agents: how often it, and each judge it is made of, is wrong where people labelled replies."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from core.ui import html
from core.ui.agents_cards import share
from core.ui.evaluation_board import common_scale

Report = dict[str, Any]
MEASURED = {"unsafe": "Unsafe", "overrefuse": "Over-refusal", "refusal": "Is it a refusal at all?"}
KINDS = {"misses": "Missed, of replies with it", "false_alarms": "False alarm, of replies without it", "right": "Right"}
REFUSAL = ("“Is it a refusal at all?” is no over-refusal rate: every prompt is given to the judge as benign, harmful ones too, and its "
           "word is compared with the label of the reply.")


def judge_card(report: Report) -> Markup:
    """A table for each set of labelled replies: every judge alone, then joined, and what each was measured on. Old reports have one."""
    judge = report["judge"]
    head = html.card_header("The judge", judge["identity"])
    errors = judge.get("errors")
    if not errors:
        text = "How often it is wrong was not measured: give labelled replies as judge_data. All rates here are what this judge says."
        return html.card(head, html.div(text, "gw-help"))
    tables = _tables(judge["name"], errors)
    scale = common_scale(one[name][kind] for one in errors for name in _measured(one) for kind in KINDS)
    parts = [_table(found, scale) for found in tables]
    notes = [_left_out(one) for one in errors if one["left_out_as_learned"]]
    if any("refusal" in _measured(one) for one in errors):
        notes.append(REFUSAL)
    if any(_is_joined(found, len(found) - 1) for found in tables):
        notes.append("All joined: a fault as soon as one of them sees it, and no verdict where one has none.")
    return html.card(head, *parts, html.div(" ".join([*notes, "Percent, 95 % Wilson intervals."]), "gw-help"))


def _tables(name: str, errors: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The entries of each set in their order: all judges of one set come before those of the next, which may be called the same. name:
    the judge's, for old reports."""
    tables: list[list[dict[str, Any]]] = []
    for one in errors:
        entry = {"judge": name, **one}
        if not tables or entry["data"] != tables[-1][0]["data"] or entry["judge"] in [before["judge"] for before in tables[-1]]:
            tables.append([])
        tables[-1].append(entry)
    return tables


def _is_joined(errors: list[dict[str, Any]], place: int) -> bool:
    """Is this entry of a table what the judges before it say together?"""
    return 1 < place == len(errors) - 1


def _table(errors: list[dict[str, Any]], scale: tuple[float, float]) -> Markup:
    data = errors[0]["data"]
    rows = []
    for place, one in enumerate(errors):
        about = html.div("all joined", "gw-sub") if _is_joined(errors, place) else Markup()
        name = html.div(html.element("b", one["judge"]) + about, "gw-model")
        for measured in _measured(one) or ["unsafe"]:
            right = one[measured]["right"]
            rows.append((name, MEASURED[measured], right["n"] + right["missing"], _missing(one, measured),
                         *(share(one[measured][kind], scale) for kind in KINDS)))
    replies = max(one["rows"] + one["left_out_as_learned"] for one in errors)
    columns = ["Judge", "Measured", "Rows", "No verdict", *KINDS.values()]
    return html.div(html.element("b", data) + html.span(f" {replies:,} replies that people labelled", "gw-sub")) + \
        html.table(columns, rows, right=(2,), label=f"judge errors on {data}")


def _measured(errors: dict[str, Any]) -> list[str]:
    """What the labels of a set could check, whether or not the judge had a verdict."""
    return [name for name in MEASURED if name in errors and (errors[name]["right"]["n"] or errors[name]["right"]["missing"])]


def _missing(errors: dict[str, Any], measured: str) -> Markup:
    right = errors[measured]["right"]
    if not right["missing"]:
        return html.span("none")
    words = f"{right['missing']:,} of {right['missing'] + right['n']:,}"
    why = errors[measured].get("why_missing", errors["why_missing"])
    return html.span(words, "gw-nowrap") + html.div(why, "gw-interval")


def _left_out(errors: dict[str, Any]) -> str:
    left, judge = errors["left_out_as_learned"], errors.get("judge", "the judge")
    return f"{left:,} replies of {errors['data']} are left out for {judge}, which was trained on their prompts."
