"""Row by row: the evaluated rows with what each model said, one of them opened with every model's reasoning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from markupsafe import Markup

from core.evals.predictions import FILE, RowView, answers_to_row, filter_rows, read_predictions
from core.records import Prediction, Task
from core.runs import Run
from core.ui import html
from core.ui.pieces import cut, fold, numbered_steps, pager, segments, veil_block
from core.words import plural

PAGE = 12
SHORT = 150
"""Characters of a prompt in the list."""
HARD = "hard"
FILTERS = (("all", "all"), ("wrong", "wrong"), ("unparsed", "unparsed"), ("differ", "models differ"), (HARD, "hard"))


def rows_of(run: Run, task: Task) -> Sequence[RowView]:
    """All rows of a task; read again only when predictions.jsonl has grown."""
    return _read(run, task)[0]


def harmful_rows(run: Run, task: Task) -> frozenset[int]:
    """Rows with a harmful request or response, whatever the task asks about: their texts are blurred."""
    return _read(run, task)[1]


def _read(run: Run, task: Task) -> tuple[Sequence[RowView], frozenset[int]]:
    path = run.dir / FILE
    if not path.exists():
        return (), frozenset()
    stat = path.stat()
    return _rows(path, stat.st_size, stat.st_mtime_ns, task)


@lru_cache(maxsize=8)
def _rows(path: Path, bytes_now: int, changed: int, task: Task) -> tuple[Sequence[RowView], frozenset[int]]:  # noqa: ARG001 - they make it current
    harmful: set[int] = set()

    def noted() -> Iterator[Prediction]:
        for item in read_predictions(path):
            if "harmful" in (item.gold.request, item.gold.response):
                harmful.add(item.row)
            yield item

    return tuple(filter_rows(noted(), "all", task)), frozenset(harmful)


def chosen_rows(rows: Sequence[RowView], which: str, model: str, hard: frozenset[int] = frozenset()) -> list[RowView]:
    """Rows under a filter; wrong and unparsed are about one model, hard about the samples that chose the `hard` rows."""
    tests = {"wrong": lambda row: row.is_wrong(model), "unparsed": lambda row: row.is_unparsed(model), "differ": RowView.differs,
             HARD: lambda row: row.row in hard}
    test = tests.get(which)
    return [row for row in rows if test(row)] if test else list(rows)


def rows_card(run: Run, task: Task, entry: dict[str, Any], titles: dict[str, str], which: str, page: int, open_row: int | None,
              hard: frozenset[int] | None = None) -> Markup:
    """The whole card. Clicks: `which`, `page`, `row`. hard: numbers of the hard rows; None where none were chosen."""
    rows = rows_of(run, task)
    model, title = entry["model"], entry["title"]
    which = which if which != HARD or hard is not None else "all"
    counts = {name: len(chosen_rows(rows, name, model, hard or frozenset())) for name, _ in FILTERS}
    found = chosen_rows(rows, which, model, hard or frozenset())
    absent = {*(["differ"] if len(titles) < 2 else []), *([HARD] if hard is None else [])}
    options = [(name, f"{words} {counts[name]}") for name, words in FILTERS if name not in absent]
    head = html.card_header("Row by row", _about(which, len(found), title), segments(options, which, "which", "which rows"))
    if not rows:
        text = "predictions.jsonl holds every answer of an evaluation. This run has none."
        return html.card(head, html.empty_state("No answers here", text))
    if not found:
        return html.card(head, html.empty_state("No such row", f"Rows of this kind stand here. {title} has none."))
    page = max(0, min(page, (len(found) - 1) // PAGE))
    part = found[page * PAGE:(page + 1) * PAGE]
    opened = next((row for row in rows if row.row == open_row), None) or part[0]
    veiled = harmful_rows(run, task)
    cells = [(html.span(f"{row.row:04d}", "gw-mono"), html.veil(cut(row.prompt, SHORT), row.row in veiled), html.chip(row.gold),
              _answer(row, model)) for row in part]
    table = html.table(["Row", "Prompt", "Gold", title], cells, keys=[str(row.row) for row in part], selected=str(opened.row), label="rows",
                       act="row")
    left = html.div(table + pager(len(found), page, PAGE), "gw-rows-list")
    return html.card(head, html.div(left + detail(run, task, opened, titles), "gw-rows"))


def _about(which: str, count: int, title: str) -> str:
    words = {"wrong": f"where {title} gives the wrong label", "unparsed": f"where {title} gives no readable label",
             "differ": "where the models differ", HARD: "that k samples answered partly right and partly wrong"}.get(which, "in all")
    return f"{count:,} {'row' if count == 1 else 'rows'} {words}"


def _answer(row: RowView, model: str) -> Markup:
    return html.chip(row.answers.get(model)) if model in row.answers else html.span("not asked", "gw-sub")


def detail(run: Run, task: Task, row: RowView, titles: dict[str, str]) -> Markup:
    """One row: the texts, every model's label, every model's reasoning."""
    order = {model: place for place, model in enumerate(titles)}
    veiled = row.row in harmful_rows(run, task)
    answers = sorted(answers_to_row(run.dir / FILE, row.row, task), key=lambda item: order.get(item.model, len(order)))
    parts = [html.element("h3", f"Row {row.row:04d}, all models", "gw-row-title"),
             html.div(html.veil(row.prompt, veiled), "gw-quote")]
    if row.response:
        parts.append(html.div(html.element("b", "Response. ") + html.veil(row.response, veiled), "gw-quote"))
    about = ", ".join(filter(None, [row.source, _category(answers), "seen in training" if row.seen_in_training else ""]))
    parts.append(html.div(html.chip(row.gold, "gold") + html.span(about, "gw-sub"), "gw-line"))
    parts += [_verdict(item, task, titles) for item in answers]
    return html.div(html.join(parts), "gw-sunken gw-row-detail")


def _category(answers: Sequence[Prediction]) -> str:
    return next((item.category for item in answers if item.category), "")


def _verdict(item: Prediction, task: Task, titles: dict[str, str]) -> Markup:
    label, gold = getattr(item.predicted, task), getattr(item.gold, task)
    agrees = "no label to compare" if label is None else "agrees with gold" if label == gold else "differs from gold"
    tokens = plural(item.tokens, "token") if item.tokens else ""
    why = f"not coherent: {item.incoherent_why}" if item.incoherent_why else "coherent" if item.coherent else "no reasoning"
    head = html.div(html.element("b", titles.get(item.model, item.model)) + html.chip(label) + html.span(
        ", ".join(filter(None, [agrees, tokens, why])), "gw-sub"), "gw-line")
    return html.judged(head + reasoning(item), None if label is None else label == gold)


def reasoning(item: Prediction) -> Markup:
    """The steps in words, and the answer verbatim in a fold."""
    veiled = "harmful" in (item.gold.request, item.gold.response)
    ended = html.span("Cut at the token limit.", "gw-sub") if item.finish == "length" else Markup()
    steps = veil_block(numbered_steps(item.reasoning), veiled, "gw-steps") if item.reasoning else Markup()
    return steps + ended + fold("The answer as it was written", html.element("pre", item.text, "gw-verbatim"))


def as_task(name: str, known: Sequence[str]) -> Task:
    """The task asked for, or the first there is."""
    return cast(Task, name if name in known else next(iter(known)))
