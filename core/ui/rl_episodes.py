"""The episodes of a WaltzRL run as a list to filter, and the one that is opened: the whole exchange, and what each word earned."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from core.methods import UserError
from core.ui import html
from core.ui.address import View, page_number
from core.ui.episode_view import exchange, is_harmful, terms_table
from core.ui.pieces import cut, pager, segments
from core.ui.rl_index import NAMES, SIDE_NAMES, EpisodeIndex, Ints, Records, Wanted
from core.waltz.ledger import PlayedEpisode
from core.waltz.rewards import OUTCOMES, feedback_reward, outcome
from core.waltz.why import explain, rule_of
from core.words import size

PAGE = 8
SHORT = 130
"""Characters of a prompt in the list."""
FILTERS = ("outcome", "side", "iteration")
"""Names in the address."""
SIDE_CHOICES = [("all", ""), ("benign", "benign"), ("harmful", "harmful"), ("not known", "unknown")]
_RANGE = re.compile(r"\s*(\d{1,12})\s*(?:(?:-|–|to)\s*(\d{1,12})?)?\s*")


def wanted_of(view: View) -> Wanted:
    """The filters that an address asks for; what makes no sense is no filter."""
    chosen, side = view.get("outcome", ""), view.get("side", "")
    return Wanted(chosen if chosen in NAMES else "", side if side in SIDE_NAMES else "", iterations_of(view.get("iteration", "")))


def iterations_of(text: str) -> tuple[int, int] | None:
    """(first, last) of "340", "300-340" or "300-"; None for anything else."""
    found = _RANGE.fullmatch(text)
    if found is None:
        return None
    first = int(found[1])
    open_end = found[2] is None and text.strip()[-1:] in "-–o"
    return (first, 10**12) if open_end else (first, int(found[2] or first))


def list_head(records: Records, view: View) -> Markup:
    """How many episodes there are, and the outcomes to choose from."""
    index, wanted = records.episodes, wanted_of(view)
    counts = index.counts(wanted)
    there = [name for name in NAMES if counts[name] or name == wanted.outcome]
    options = [("", f"all {counts['']:,}"), *((name, f"{name} {counts[name]:,}") for name in there)]
    note = OUTCOMES[wanted.outcome] if wanted.outcome else "each prompt, and what the two agents made of it"  # type: ignore[index]
    shown = [html.card_header("Episodes", note), segments(options, wanted.outcome, "outcome", "which episodes") if len(index) else None]
    if index.file.behind:
        shown.append(html.progress_bar(index.file.done / index.file.total, f"reading the episodes, {size(index.file.done)} of "
                                                                           f"{size(index.file.total)}"))
    if index.damaged:
        shown.append(html.problem_strip(f"{index.damaged:,} lines of episodes.jsonl are no episodes; they are left out.", "warning"))
    if view.get("iteration") and wanted.iterations is None:
        shown.append(html.problem_strip(f"{view['iteration']!r} is no iteration; write 340, or 300-340.", "warning"))
    return html.join(shown)


def table(records: Records, view: View, found: Ints) -> Markup:
    """One page of the list, the newest episodes first."""
    index = records.episodes
    if not len(found):
        return _nothing(view)
    pages = max(1, -(-len(found) // PAGE))
    page = page_number(view, pages)
    part = [int(place) for place in found[page * PAGE:(page + 1) * PAGE]]
    opened = opened_place(index, view, found)
    cells, keys = [], []
    for place in part:
        cells.append(_line(index.read(place)))
        keys.append(str(place))
    shown = html.table(["Iteration", "Prompt", "Side", "Outcome", "Reply", "Feedback"], cells, keys=keys,
                       selected=None if opened is None else str(opened), label="episodes", act="episode")
    return shown + pager(len(found), page, PAGE, html.span("newest first; Reply and Feedback are rewards", "gw-sub"), ("newer", "older"))


def _line(played: PlayedEpisode) -> list[str]:
    episode = played.episode
    counts = not episode.left_out
    earned = (episode.conversation_reward, feedback_reward(episode)) if counts else (None, None)
    return [html.span(f"{played.iteration:,}", "gw-mono"), html.veil(cut(episode.prompt, SHORT), is_harmful(episode)),
            html.span(episode.side or "not known", "gw-sub"), html.span(outcome(episode) if counts else "unjudged", "gw-nowrap"),
            html.figures(earned[0], 0), html.figures(earned[1], 2)]


def opened_place(index: EpisodeIndex, view: View, found: Ints) -> int | None:
    """The episode that the address names, else the first of the page."""
    asked = view.get("episode", "")
    if asked.isdecimal() and len(asked) < 16 and int(asked) < len(index):
        return int(asked)
    page = page_number(view, max(1, -(-len(found) // PAGE)))
    return int(found[page * PAGE]) if len(found) else None


def neighbour(index: EpisodeIndex, view: View, found: Ints, step: int) -> int | None:
    """The next (1) or previous (-1) episode of the list; it stays inside."""
    here = opened_place(index, view, found)
    if here is None or not len(found):
        return None
    order = found.tolist()
    at = order.index(here) + step if here in order else 0
    return int(order[max(0, min(len(order) - 1, at))])


def episode_card(records: Records, view: View, found: Ints, config: Mapping[str, Any]) -> Markup:
    """The opened episode."""
    place = opened_place(records.episodes, view, found)
    if place is None:
        return Markup()
    played = records.episodes.read(place)
    episode = played.episode
    stage = stage_of(records, played.iteration)
    try:
        terms = terms_table(explain(episode, rule_of(config, stage)))
    except (TypeError, ValueError, KeyError) as error:
        terms = html.problem_strip(f"What was earned cannot be told term by term: the settings of this run do not fit its terms ({error}).",
                                   "warning")
    judge = next((one.verdict.judge for one in episode.rounds if one.verdict is not None), "")
    about = ", ".join(filter(None, [f"iteration {played.iteration:,}", f"stage {stage}" if stage else "",
                                    f"{episode.side} prompt" if episode.side else "", episode.source, episode.category,
                                    f"judged by {judge}" if judge else ""]))
    what = "unjudged" if episode.left_out else outcome(episode)
    try_it = html.link("Try this prompt", "#try-it", data_act="try", data_value=place)
    right = html.join([html.tag(what), try_it, html.small_link("previous", "step", "-1"), html.small_link("next", "step", "1")])
    head = html.card_header(f"Episode {place + 1:,}", about, right)
    return html.element("section", html.join([head, exchange(episode), terms]), "gw-card gw-episode", data_episode=place)


def stage_of(records: Records, iteration: int) -> int:
    """The stage that played an iteration; 0 where the ledger does not know it yet."""
    history = records.history
    for stage, first, last in history.parts():
        if history.iterations[first] <= iteration <= history.iterations[last - 1]:
            return stage
    return history.stages[-1] if history.stages else 0


def _nothing(view: View) -> Markup:
    if any(view.get(name) for name in FILTERS):
        return html.empty_state("No episode matches", "Episodes that fit the filters stand here. None does now.",
                                html.small_link("Take the filters away", "clear"))
    return html.empty_state("No episode yet", "Each prompt that was played stands here with the whole exchange, as soon as the first "
                            "iteration is done.")


def checked_place(index: EpisodeIndex, value: str) -> int:
    """The place in a click. UserError where it is none."""
    if not value.isdecimal() or int(value) >= len(index):
        raise UserError(f"There is no episode {value!r} here; open the page again.")
    return int(value)
