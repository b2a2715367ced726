"""Single exchanges of an evaluation of agents: a list under a filter, and one of them opened. The texts stay in the file."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from core.methods import UserError
from core.records import Episode, lines_of
from core.runs import Run
from core.ui import html
from core.ui.episode_view import exchange, is_harmful
from core.ui.pieces import cut, pager, segments
from core.waltz.eval_log import EPISODES, EvaluatedEpisode
from core.waltz.rewards import OUTCOMES, Outcome, outcome

PAGE = 8
SHORT = 150
"""Characters of a prompt in the list."""
SIDES = (("", "both sides"), ("harmful", "harmful"), ("benign", "benign"))
PLAIN_WORDS = {"kept": "good", "missed": "bad"}
"""Outcomes of a model that nobody gave feedback to."""
Found = dict[str, dict[str, Sequence[int]]]
"""{outcome: {side: where each line begins}}."""


def exchanges_card(run: Run, entry: dict[str, Any], which: str, side: str, page: int, opened: str) -> Markup:
    """The whole card. Clicks: `which` (outcome), `side`, `page`, `row` (where a line begins)."""
    path = run.dir / EPISODES
    head_words = f"{entry['title']}: {'first replies' if entry['variant'] == 'alone' else 'final replies'}"
    if not path.exists():
        return html.card(html.card_header("Exchanges", head_words), html.empty_state("No exchanges here", f"{run.id} has no {EPISODES}."))
    final = entry["variant"] == "feedback"
    stat = path.stat()
    found = _index(path, entry["model"], final, stat.st_size, stat.st_mtime_ns)
    side = side if side in ("harmful", "benign") else ""
    counts = {name: sum(len(places) for of, places in found[name].items() if side in ("", of)) for name in OUTCOMES}
    names = [name for name in OUTCOMES if counts[name]]
    which = which if which in names else ""
    options = [("all", f"all {sum(counts.values()):,}"), *((name, f"{_word(name, final)} {counts[name]:,}") for name in names)]
    switch = html.div(segments(options, which or "all", "which", "which exchanges") + segments(SIDES, side, "side", "prompts"), "gw-line")
    places = sorted(place for name in ([which] if which else names) for of, starts in found[name].items() if side in ("", of)
                    for place in starts)
    if not places:
        nothing = html.empty_state("No such exchange", "There is none of this kind.")
        return html.card(html.card_header("Exchanges", head_words), switch, nothing)
    page = max(0, min(page, (len(places) - 1) // PAGE))
    part = places[page * PAGE:(page + 1) * PAGE]
    shown = int(opened) if opened.isdecimal() and int(opened) in places else part[0]
    rows = [_row(_read(path, place, final), final) for place in part]
    table = html.table(["Row", "Prompt", "Side", "Outcome", "Judge"], rows, keys=[str(place) for place in part], selected=str(shown),
                       label="exchanges", act="row")
    explained = html.div(OUTCOMES[which].capitalize() + "." if which in OUTCOMES and final else "", "gw-help") if which else Markup()
    return html.card(html.card_header("Exchanges", head_words), switch, explained, table, pager(len(places), page, PAGE),
                     exchange(_read(path, shown, final)))


def _row(episode: Episode, final: bool) -> tuple[Markup | str, ...]:
    verdict = episode.last.verdict
    judged = html.span("no verdict", "gw-sub") if verdict is None or verdict.good is None else html.join(
        [html.chip("harmful" if verdict.unsafe else "unharmful"), html.chip("refusal", "needless") if verdict.overrefuse else None], " ")
    return (html.span(f"{episode.row:04d}", "gw-mono"), html.veil(cut(episode.prompt, SHORT), is_harmful(episode)), str(episode.side or ""),
            _word(outcome(episode), final), judged)


def _word(name: Outcome, final: bool) -> str:
    return name if final else PLAIN_WORDS.get(name, name)


@lru_cache(maxsize=6)
def _index(path: Path, model: str, final: bool, bytes_now: int, changed: int) -> Found:  # noqa: ARG001 - they make it current
    found: dict[str, dict[str, array[int]]] = {name: {} for name in OUTCOMES}
    start = 0
    for number, line in lines_of(path):
        if line.endswith(b"\n"):
            try:
                record = EvaluatedEpisode.model_validate_json(line)
            except ValueError as error:
                raise UserError(f"{path}, line {number} is damaged ({str(error).splitlines()[0]}); run the evaluation again.") from None
            if record.model == model:
                episode = _as_asked(record.episode, final)
                found[outcome(episode)].setdefault(str(episode.side or ""), array("q")).append(start)
        start += len(line)
    return {name: dict(sides) for name, sides in found.items()}


def _read(path: Path, place: int, final: bool) -> Episode:
    with path.open("rb") as file:
        file.seek(place)
        return _as_asked(EvaluatedEpisode.model_validate_json(file.readline()).episode, final)


def _as_asked(episode: Episode, final: bool) -> Episode:
    """Without its feedback agent an episode is its first reply."""
    return episode if final else episode.model_copy(update={"rounds": [episode.rounds[0].model_copy(update={"feedback": None})]})
