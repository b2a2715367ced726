"""Cards of an evaluation of agents: the numbers of every model, feedback, pairs, cost. All from report.json."""

from __future__ import annotations

from collections import Counter
from typing import Any

from markupsafe import Markup

from core.ui import html
from core.ui.agents_plot import percents
from core.ui.evaluation_board import common_scale, notes_strip, p_words
from core.waltz.eval_board import PUBLISHED, Board
from core.waltz.eval_tally import PAIRED, PARTS

Report = dict[str, Any]
Interval = dict[str, Any]
WIDTH = 118
NUMBERS = {"unsafe": "Unsafe, harmful prompts", "overrefuse": "Over-refusal, benign prompts", "helpful": "Helpful, benign prompts",
           "good": "Neither fault, all prompts", "capability": "Capability"}
FEEDBACK = {"trigger_benign": "Asks for a revision, benign", "trigger_harmful": "Asks for a revision, harmful",
            "labels": "Both labels right", "label_unsafe": "“unsafe” right", "label_overrefuse": "“overrefuse” right",
            "faultless": "Right if it always said “no fault”", "format": "Can be read"}


def board_table(board: Board) -> Markup:
    """The points of the figure as numbers; those on the Pareto front are marked."""
    scales = [common_scale({"value": point[0], "low": point[1], "high": point[2]} for point in points)
              for points in ([one.unsafe for one in board.points], [one.overrefuse for one in board.points])]
    rows = []
    titles = Counter(point.title for point in board.points)
    for point in board.points:
        cells = [html.number_over_whisker(*percents(triple), scale, width=WIDTH) +
                 html.div(f"n = {n:,}", "gw-interval")
                 for triple, n, scale in zip((point.unsafe, point.overrefuse), (point.n_harmful, point.n_benign), scales, strict=True)]
        ref = html.div(point.key.removesuffix(" alone"), "gw-mono") if titles[point.title] > 1 else Markup()  # three seeds, one name
        name = html.div(html.element("b", point.title) + ref + html.div(html.link(point.run, f"/evaluation?run={point.run}"), "gw-sub"),
                        "gw-model")
        rows.append((html.element("b", str(point.number)), name, *cells, "on it" if point.on_front else ""))
    for one in PUBLISHED:
        name = html.div(html.span(one.title, "gw-sub") + html.div("published", "gw-sub"), "gw-model")
        cells = [html.element("b", html.figures(100 * value)) + html.span("", "gw-diamond", aria_hidden="true") +
                 html.div("no interval given", "gw-interval") for value in (one.unsafe, one.overrefuse)]
        rows.append(("", name, *cells, ""))
    return html.table(["", "Model", "Unsafe, %", "Over-refusal, %", "Pareto front"], rows, label="agents")


def board_legend(board: Board, report: Report) -> Markup:
    """Shapes, what the points have in common, and what is not drawn."""
    keys = [("gw-key-pair", "agents with feedback"), ("gw-key-alone", "the conversation agent alone"), ("gw-key-plain", "a model"),
            ("gw-key-published", "published: Llama 3.1 8B, other prompts, other judge")]
    shapes = html.div(html.join(html.span(html.span("", f"gw-shape {kind}", aria_hidden="true") + html.span(words), "gw-key")
                                for kind, words in keys), "gw-keys")
    data, judge = report["data"], report["judge"]
    small = " Small and faint: checkpoints." if any(point.checkpoint for point in board.points) else ""
    words = [f"Lower left is better; bars are 95 % intervals (Wilson); line: Pareto front.{small}",
             f"All points: the same {data['rows']:,} prompts of {data['name']} "
             f"({data['prompts_sha256'][:6]}), judge {judge['name']}."]
    if len(board.runs) > 1:
        words.append(f"From {len(board.runs)} evaluations: {', '.join(board.runs)}.")
    if board.others:
        words.append(f"Not drawn, because they are on other prompts or by another judge: {', '.join(board.others)}.")
    if board.unmeasured:
        words.append(f"Without a point, because one of the two numbers is not measured: {', '.join(board.unmeasured)}.")
    return shapes + html.div(" ".join(words), "gw-help")


def numbers_card(report: Report, chosen: str, number_of: dict[str, int]) -> Markup:
    """Every model: unsafe, over-refusal, help, ability, and the paired tests against the baseline. A click does `model`."""
    entries = report["entries"]
    names = [name for name in ("unsafe", "overrefuse", "helpful", "capability") if any(entry[name] for entry in entries)]
    scales = {name: common_scale(entry[name] for entry in entries if entry[name]) for name in names}
    marks = {name: next(entry[name] for entry in entries if entry["key"] == report["baseline"]) for name in names}
    rows = []
    for entry in entries:
        title = html.element("b", " ".join(filter(None, [str(number_of.get(entry["key"], "")), entry["title"]])))
        cells = [share(entry[name], scales[name], marks[name]) + (_words(entry) if name == "helpful" else Markup()) for name in names]
        rows.append((html.div(title + html.div(entry["model"], "gw-mono"), "gw-model"), *cells, _p(report, entry["key"])))
    data, told = report["data"], "that of the agents" if report["sampling"]["system_prompt"] == "agents" else "none"
    drawn = "drawn by side from " + f"{sum(data['there'].values()):,}" if data["sampled"] else "all of the split"
    sub = f"{data['sides']['harmful']:,} harmful and {data['sides']['benign']:,} benign prompts, {drawn} ({data['split']})"
    columns = ["Model", *(NUMBERS[name] for name in names), "McNemar p"]
    table = html.table(columns, rows, keys=[entry["key"] for entry in entries], selected=chosen, label="agent numbers", act="model")
    title = next(entry["title"] for entry in entries if entry["key"] == report["baseline"])
    tasks = (report["capability"] or {}).get("tasks")
    note = ["Percent, with 95 % Wilson intervals. Helpful: the judge finds neither fault. p: exact, on the same prompts, against "
            f"{title} (dotted line), not adjusted for the number of tests.",
            f"Capability: {tasks} instructions whose whole reply must be the answer." if tasks else "",
            f"System prompt of models that are no agents: {told}."]
    overrides = [html.problem_strip(str(line.get("text", line)), "warning") for line in report.get("overrides", [])]
    learned = [_seen(entry) for entry in entries if entry["seen"]["prompts"]]
    seen = [html.problem_strip(html.join([html.div(text) for text in learned]), "warning")] if learned else []
    return html.card(html.card_header(f"{data['name']}, judged by {report['judge']['name']}", sub), *overrides, *seen, table,
                     html.div(" ".join(filter(None, note)), "gw-help"), notes_strip([str(text) for text in report.get("notes", [])]))


def share(interval: Interval | None, scale: tuple[float, float], mark: Interval | None = None) -> Markup:
    """A share of report.json as a cell: percent, interval, whisker and n; words where it has no number. mark: the dotted line."""
    if interval is None or interval["value"] is None:
        return html.span("not measured" if interval is None or not interval.get("missing") else "no verdict", "gw-sub")
    value, low, high = (100 * interval[end] for end in ("value", "low", "high"))
    reference = 100 * mark["value"] if mark and mark["value"] is not None else None
    missing = f", {interval['missing']:,} missing" if interval.get("missing") else ""
    return html.number_over_whisker(value, low, high, scale, reference=reference, width=WIDTH) + \
        html.div(f"n = {interval['n']:,}{missing}", "gw-interval")


def _words(entry: dict[str, Any]) -> Markup:
    words = entry["words"]
    if words["value"] is None:
        return Markup()
    return html.div(f"{html.figures(words['value'])} words ({html.interval(words['low'], words['high'])})", "gw-interval")


def _p(report: Report, key: str) -> Markup:
    if key == report["baseline"]:
        return html.span("baseline")
    found = {line["number"]: line for line in report["comparisons"] if {line["a"], line["b"]} == {report["baseline"], key}}
    shown = [f"{words} {p_words(found[name]['mcnemar']['p_value'])}"
             for name, words in (("unsafe", "unsafe"), ("overrefuse", "over-refusal"), ("capability", "capability")) if name in found]
    return html.join([html.div(text, "gw-nowrap") for text in shown]) if shown else html.span("no prompts in common", "gw-sub")


def _seen(entry: dict[str, Any]) -> str:
    seen, without = entry["seen"], entry["seen"]["without"]
    text = f"{entry['title']}: {seen['prompts']:,} of {entry['episodes']:,} prompts were trained on ({', '.join(seen['runs'])})."
    if not without:
        return f"{text} No prompt is left without them."
    parts = [f"{words} {_text(without[name])}" for name, words in (("unsafe", "unsafe"), ("overrefuse", "over-refusal"))]
    return f"{text} Without them: {', '.join(parts)}."


def _text(interval: Interval) -> str:
    if interval["value"] is None:
        return f"undefined (n = {interval['n']})"
    return f"{100 * interval['value']:.1f} % ({html.interval(100 * interval['low'], 100 * interval['high'])}, n = {interval['n']:,})"


def feedback_card(report: Report) -> Markup:
    """What the feedback agents are worth; "" where none was asked."""
    entries = [entry for entry in report["entries"] if entry["feedback"]]
    if not entries:
        return Markup()
    scales = {name: common_scale(entry["feedback"][name] for entry in entries) for name in FEEDBACK}
    scales["faultless"] = scales["labels"] = common_scale(entry["feedback"][name] for entry in entries for name in ("labels", "faultless"))
    rows = [(html.div(html.element("b", entry["title"]) + html.div(entry["model"], "gw-mono"), "gw-model"),
             *(share(entry["feedback"][name], scales[name]) for name in FEEDBACK)) for entry in entries]
    note = ("Labels are compared with the judge's, on first replies; what cannot be read is never right and triggers nothing. An agent "
            "that never finds a fault would be right wherever the first reply has none: the number to beat.")
    return html.card(html.card_header("Feedback agents", "percent, 95 % Wilson intervals"),
                     html.table(["Agents", *FEEDBACK.values()], rows, label="feedback"), html.div(note, "gw-help"))


def pairs_card(report: Report) -> Markup:
    """Every pair of models that was compared, on the same prompts."""
    titles = {entry["key"]: entry["title"] for entry in report["entries"]}
    pairs: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for line in report["comparisons"]:
        pairs.setdefault((line["a"], line["b"]), {})[line["number"]] = line
    if not pairs:
        return Markup()
    names = [name for name in PAIRED if any(name in found for found in pairs.values())]
    rows = [(html.div(html.element("b", titles[b]) + html.div(f"against {titles[a]}", "gw-sub"), "gw-model"),
             *(_difference(found.get(name)) for name in names)) for (a, b), found in pairs.items()]
    note = ("Difference in points with its 95 % interval (paired bootstrap), and p of McNemar's exact test, not adjusted for the number of "
            "tests. Of unsafe and over-refusal less is better, of the others more.")
    return html.card(html.card_header("On the same prompts", "each model against the baseline, the one before it, and itself alone"),
                     html.table(["Model", *(NUMBERS[name] for name in names)], rows, label="pairs of models"), html.div(note, "gw-help"))


def _difference(line: dict[str, Any] | None) -> Markup:
    if line is None:
        return html.span("not measured", "gw-sub")
    gap, test = line["difference"], line["mcnemar"]
    value, low, high = (100 * gap[end] for end in ("value", "low", "high"))
    return html.number(value, low, high, signed=True) + \
        html.div(f"p {p_words(test['p_value'])}, {test['only_a'] + test['only_b']:,} of {test['n']:,} differ", "gw-interval")


def cost_card(report: Report) -> Markup:
    """Tokens and seconds of each kind of answer."""
    rows = []
    for entry in report["entries"]:
        cells = [_cost(entry["cost"][part]) for part in PARTS]
        rows.append((html.div(html.element("b", entry["title"]), "gw-model"), *cells, f"{entry['cut']:,}", f"{entry['empty']:,}"))
    note = ("Mean tokens with the 95 % interval of the mean, and seconds an answer while many were written together: a lone answer takes "
            "longer. Cut: final replies at the token limit.")
    columns = ["Model", "Reply", "Feedback", "Revision", "Cut", "Empty"]
    return html.card(html.card_header("What it costs", "tokens and seconds of each answer"),
                     html.table(columns, rows, right=(4, 5), label="cost"), html.div(note, "gw-help"))


def _cost(cost: dict[str, Any] | None) -> Markup:
    if cost is None:
        return html.span("none", "gw-sub")
    tokens = cost["tokens"]
    known = tokens["value"] is not None
    number = html.number(tokens["value"], tokens["low"], tokens["high"], "tokens") if known else html.span("1 answer")
    seconds = "not timed" if cost["seconds"] is None else f"{cost['seconds']:.3g} s each"
    return number + html.div(f"{seconds}, n = {cost['n']:,}", "gw-interval")
