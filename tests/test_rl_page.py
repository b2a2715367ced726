"""The RL page without a browser: files that grow, the filters, why each word earned what it did, what is shown and blurred."""

import html as html_words
import itertools
import random
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.answer_log import AnswerLog
from core.methods import UserError
from core.records import Episode, Round, Verdict
from core.runs import Workspace
from core.ui import rl_board, rl_index, rl_page, rl_plots, rl_view
from core.ui.address import read_view
from core.ui.agents_plot import board_figure
from core.ui.episode_view import exchange
from core.ui.evaluation_agents import board_of
from core.ui.rl_episodes import iterations_of, wanted_of
from core.ui.rl_index import Wanted, records_of
from core.ui.rl_try import Talk, TryIt, asked_of, choices
from core.waltz.ledger import EPISODES, LEDGER, Iteration, PlayedEpisode, forget_after, read_episodes, read_iterations
from core.waltz.rewards import OUTCOMES, TOTAL, DirRule, WeightedSumRule, outcome, reward
from core.waltz.why import explain, rule_of
from tests.waltz_runs import CONFIG, add_iterations, agent_evaluation, feedback, iterations, played, said, verdict, waltz_run

RUN = "waltzrl-0001"


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "runs").mkdir()
    return Workspace(tmp_path / "runs")


@pytest.fixture
def run(workspace):
    return waltz_run(workspace, count=12, batch=8)


def words(markup):
    return " ".join(re.sub("<[^>]+>", " ", str(markup)).split())


# ---- files that grow ----


def test_an_index_finds_every_episode_and_reads_only_what_is_new(run, monkeypatch):
    records = records_of(run.dir)
    everything = list(read_episodes(run.dir))
    assert [records.episodes.read(place) for place in range(len(records.episodes))] == everything
    assert len(records.history) == 12
    parsed = []
    monkeypatch.setattr(rl_index.PlayedEpisode, "model_validate_json", lambda line: parsed.append(line) or everything[0])
    add_iterations(run, 1, 8, skip=12, of=13)
    assert len(records_of(run.dir).episodes) == len(everything) + 8
    assert len(parsed) == 8


def test_a_torn_line_waits_and_a_damaged_one_is_counted(run):
    path = run.dir / EPISODES
    line = path.read_bytes().split(b"\n")[0]
    before = len(records_of(run.dir).episodes)
    with path.open("ab") as file:
        file.write(b"{not json}\n" + line[:50])
    assert (len(records_of(run.dir).episodes), records_of(run.dir).episodes.damaged) == (before, 1)
    with path.open("ab") as file:
        file.write(line[50:] + b"\n")
    records = records_of(run.dir)
    assert len(records.episodes) == before + 1
    assert records.episodes.read(before) == records.episodes.read(0)


def test_what_a_resumed_run_takes_back_is_forgotten(run):
    assert len(records_of(run.dir).history) == 12
    for name, kind in ((EPISODES, PlayedEpisode), (LEDGER, Iteration)):
        forget_after(run.dir / name, kind, 10)
    records = records_of(run.dir)
    assert (len(records.history), len(records.episodes)) == (10, 80)
    assert records.episodes.renewed == 1
    assert [line.iteration for line in read_iterations(run.dir)] == records.history.iterations
    with pytest.raises(UserError, match="written anew while it was read"):
        records.episodes.read(95)  # found before the file was rewritten


def test_a_file_of_another_run_with_the_same_number_begins_anew(run):
    """The file system gives a deleted file's inode again, and two runs may begin with the same episode."""
    path = run.dir / EPISODES
    assert len(records_of(run.dir).episodes) == 96
    first, second, *rest = path.read_bytes().splitlines(keepends=True)
    inode = path.stat().st_ino
    path.write_bytes(first + second + first + b"".join(rest))
    assert path.stat().st_ino == inode
    records = records_of(run.dir)
    assert (len(records.episodes), records.episodes.renewed) == (97, 1)
    assert records.episodes.read(2) == records.episodes.read(0)


def test_a_large_file_is_read_piece_by_piece(run, monkeypatch):
    index = rl_index.EpisodeIndex(run.dir / EPISODES)
    seen = []
    while not seen or index.file.done < index.file.total:
        index.file.advance(20_000)
        seen.append(len(index))
    assert seen == sorted(set(seen)), "each look reads on"
    assert len(seen) > 3
    assert seen[-1] == 96
    monkeypatch.setattr("core.ui.growing.AT_ONCE", 20_000)
    fresh = rl_index.EpisodeIndex(run.dir / EPISODES)
    fresh.file.advance(20_000)
    assert fresh.file.behind


def test_an_empty_or_missing_file_is_no_error(workspace):
    other = waltz_run(workspace, "waltzrl-0002", count=0)
    look = rl_view.look_at(other, "")
    assert len(look.records.history) == len(look.found) == 0
    shown = rl_view.shown(look)
    assert "No iteration yet" in shown["charts_head"]
    assert "No episode yet" in shown["table"]
    (other.dir / EPISODES).unlink()
    assert len(records_of(other.dir).episodes) == 0


@given(what=st.sampled_from(["", *OUTCOMES, "nonsense"]), side=st.sampled_from(["", "benign", "harmful", "unknown", "nonsense"]),
       text=st.sampled_from(["", "3", "3-5", "4-", "5–9", "9 to 11", "x", "-3"]))
def test_filters_are_those_of_the_records(what, side, text):
    index = _index()
    bounds = iterations_of(text) or (0, 10**12)
    wanted = [place for place, one in enumerate(ALL) if _what(one.episode) == what or what not in OUTCOMES]
    wanted = [place for place in wanted if side not in ("benign", "harmful", "unknown")
              or (ALL[place].episode.side or "unknown") == side]
    wanted = [place for place in wanted if bounds[0] <= ALL[place].iteration <= bounds[1]]
    view = {"outcome": what, "side": side, "iteration": text}
    assert index.find(wanted_of(view)).tolist() == wanted[::-1]
    counts = index.counts(wanted_of(view))
    assert counts[""] == sum(counts[name] for name in OUTCOMES)
    if what in OUTCOMES:
        assert counts[what] == len(wanted)


ALL = [PlayedEpisode(iteration=line.iteration, episode=episode if place % 5 else episode.model_copy(update={"side": None}))
       for line, some in iterations(12, 6) for place, episode in enumerate(some)]


def _what(episode):
    return "unjudged" if episode.left_out else outcome(episode)


def _index(kept=[]):  # noqa: B006 - made once for all examples
    if not kept:
        import tempfile
        from pathlib import Path

        path = Path(tempfile.mkdtemp()) / EPISODES
        with AnswerLog(path) as log:
            log.add(*ALL)
        kept.append(rl_index.EpisodeIndex(path))
        kept[0].file.advance()
        path.unlink()
        path.parent.rmdir()
    return kept[0]


@pytest.mark.parametrize("text, expected", [("340", (340, 340)), ("300-340", (300, 340)), (" 7 – 9 ", (7, 9)), ("5-", (5, 10**12)),
                                            ("", None), ("late", None), ("3,4", None)])
def test_iterations_are_read_from_what_people_write(text, expected):
    assert iterations_of(text) == expected


# ---- why ----


@pytest.mark.parametrize("rule", [DirRule(), DirRule(lambda_=0.0), WeightedSumRule()])
def test_what_is_told_adds_up_to_what_was_paid(rule):
    dice = random.Random(3)
    told = set()
    for row in range(400):
        episode = played(row, dice, dice.random(), rule)
        lines = explain(episode, rule)
        if episode.left_out:
            assert not lines
            continue
        assert lines[0].adds == episode.conversation_reward
        for number, one in enumerate(episode.rounds, start=1):
            adds = [line.adds for line in lines if line.turn == number]
            assert sum(adds) == pytest.approx(one.terms.get(TOTAL, 0.0))
        told |= {line.why for line in lines}
    assert len(told) > 10


TABLE = [  # before, after, does the feedback see it, what is told of R_DIR
    (verdict(unsafe=True), verdict(), True, 0.65, "the revision was better than the reply, and both labels were right"),
    (verdict(unsafe=True), verdict(unsafe=True), True, 0.0, "the revision was as bad as the reply"),
    (verdict(), verdict(unsafe=True), False, 0.0, "the revision was worse than the reply, but a label was wrong, so it does not count"),
    (verdict(overrefuse=True), verdict(), False, 0.0,
     "the revision was better than the reply, but a label was wrong, so it does not count"),
    (verdict(), verdict(), False, 0.0, "the revision was as good as the reply"),
    (verdict(unsafe=True), None, None, 0.0, "there was no revision"),
]


@pytest.mark.parametrize("before, after, sees, adds, why", TABLE)
def test_each_case_has_its_sentence(before, after, sees, adds, why):
    says = feedback(text="no object") if sees is None else feedback(unsafe=True, advice="Leave that out.")
    rounds = [Round(reply=said("Bread."), verdict=before, feedback=says)]
    rounds += [Round(reply=said("Rolls."), verdict=after)] if after else []
    line = next(one for one in explain(reward(Episode(row=0, prompt="?", rounds=rounds), DirRule()), DirRule()) if one.term == "R_DIR")
    assert (line.adds, line.why) == (adds, why)


def test_the_rule_is_read_from_the_settings():
    assert rule_of(CONFIG, 1) == DirRule()
    assert rule_of(CONFIG, 2) == DirRule(lambda_=0.0)
    assert rule_of({"reward": "dir", "dir": {"alpha": 1, "lambda": 2}}, 1) == DirRule(alpha=1, lambda_=2)
    assert rule_of({**CONFIG, "reward": "weighted_sum"}, 2) == WeightedSumRule()
    assert rule_of({}, 1) == DirRule()


# ---- what is shown ----


def test_the_page_shows_the_opened_episode_with_its_terms(run):
    place = next(place for place, one in enumerate(read_episodes(run.dir)) if _what(one.episode) == "fixed")
    shown = rl_view.shown(rl_view.look_at(run, f"run={RUN}&outcome=fixed&episode={place}"))
    told = words(shown["episode"])
    for piece in (f"Episode {place + 1:,}", "1 Reply", "2 Feedback", "3 Revision", "R DIR", "judged by rules 1", "parsed as JSON"):
        assert piece in told
    assert "a bad reply became a good one" in words(shown["list_head"])
    assert shown["table"].count("data-act=\"episode\"") == min(8, len(rl_view.look_at(run, "outcome=fixed").found))


def test_harmful_texts_are_blurred_until_asked_for():
    calm = Episode(row=0, prompt="BREAD", side="benign", rounds=[Round(reply=said("ROLLS"), verdict=verdict())])
    assert "gw-veil" not in exchange(calm)
    for one in (calm.model_copy(update={"side": "harmful"}),
                calm.model_copy(update={"rounds": [Round(reply=said("ROLLS"), verdict=verdict(unsafe=True))]})):
        drawn = str(exchange(one))
        assert drawn.count('class="gw-veil') == 2
        for text in ("BREAD", "ROLLS"):
            before = drawn.partition(text)[0]
            assert before.rfind('class="gw-veil') > before.rfind("</label>"), "every text lies in a veil"


def test_words_of_models_bring_no_markup_along():
    evil = "<img src=x onerror=alert(1)>"
    episode = Episode(row=0, prompt=evil, rounds=[Round(reply=said(evil), verdict=Verdict(judge=evil, missing=evil),
                                                        feedback=feedback(True, False, evil)), Round(reply=said(evil))])
    assert "<img" not in str(exchange(episode))


def test_a_view_survives_nonsense(run):
    for query in ("episode=999999", "episode=x", "page=99", "outcome=kept&page=-3", "iteration=x"):
        shown = rl_view.shown(rl_view.look_at(run, query))
        assert "data-act=\"episode\"" in shown["table"]
    assert "No episode matches" in rl_view.shown(rl_view.look_at(run, "iteration=900"))["table"]


def test_clicks_change_the_view_and_stay_inside_the_list(run, monkeypatch):
    look = rl_view.look_at(run, "")
    newest = int(look.found[0])
    here = rl_view.act(run, f"run={RUN}", "outcome", "kept")
    assert read_view(here) == {"run": RUN, "outcome": "kept"}
    assert read_view(rl_view.act(run, "", "step", "-1"))["episode"] == str(newest)
    here = ""
    for _ in range(10):
        here = rl_view.act(run, here, "step", "1")
    assert read_view(here) == {"episode": str(int(look.found[10])), "page": "2"}
    assert read_view(rl_view.act(run, "outcome=kept&page=2&iteration=4", "clear", "")) == {}
    said = []
    monkeypatch.setattr(rl_view.gr, "Warning", said.append)
    assert rl_view.act(run, "page=2", "episode", "12345678") == "page=2"
    assert "There is no episode" in said[0]


def test_new_episodes_are_told_and_not_pushed_in(run):
    drawn = len(records_of(run.dir).episodes)
    assert rl_view.fresh_words(rl_view.look_at(run, ""), drawn) == ""
    add_iterations(run, 1, 8, skip=12, of=13)
    assert "8 new since the list was drawn" in words(rl_view.fresh_words(rl_view.look_at(run, ""), drawn))


def test_every_term_of_both_rewards_has_a_chart(run):
    look = rl_view.look_at(run, "")
    drawn = [chart.title for chart, (_, figure) in zip(rl_plots.CHARTS, rl_view.figures(look), strict=True) if figure is not None]
    assert drawn == ["Good replies", "Improvement (DIR)", "Feedback labels right", "Format right", "Feedback triggers", "KL to the start",
                     "Reward of the feedback", "Unsafe", "Over-refusal", "Entropy, nats", "Length, tokens"]
    assert [chart.first for chart in rl_plots.CHARTS] == sorted((chart.first for chart in rl_plots.CHARTS), reverse=True)
    sums = rl_index.History(line for line, _ in iterations(8, 8, rule=WeightedSumRule()))
    titles = [chart.title for chart in rl_plots.CHARTS if rl_plots.figure(sums, chart) is not None]
    assert {"Safety", "Helpfulness", "Alignment"} <= set(titles)
    assert "Improvement (DIR)" not in titles


def test_a_chart_draws_the_means_of_the_ledger(run):
    history = records_of(run.dir).history
    chart = next(one for one in rl_plots.CHARTS if one.title == "Improvement (DIR)")
    figure = rl_plots.figure(history, chart)
    line = figure.data[-1]
    assert list(line.x) == history.iterations
    assert list(line.y) == pytest.approx([one.values["dir"].mean for one in read_iterations(run.dir)])
    long = rl_index.History(replace_iteration(one, number) for number, one in zip(range(1, 1001), itertools.cycle(
        line for line, _ in iterations(20, 4)), strict=False))
    assert len(rl_plots.points_of(long, "dir")) <= 2 * rl_plots.MOST_POINTS


def replace_iteration(line, number):
    return line.model_copy(update={"iteration": number, "stage": 1})


def test_only_runs_of_two_agents_have_a_ledger(run):
    assert rl_view.has_ledger(run)
    assert not rl_view.has_ledger(None)
    (run.dir / LEDGER).unlink()
    (run.dir / EPISODES).unlink()
    assert not rl_view.has_ledger(run), "a grpo run keeps its view"


def test_the_page_is_built(workspace):
    import gradio as gr

    waltz_run(workspace, count=2, batch=4)
    with gr.Blocks() as demo:
        gr.HTML()
    with demo.route("RL", "rl"):
        rl_page.build(workspace)
    assert demo.fns


# ---- the board ----


def agents_in(folder):
    for role in ("conversation", "feedback"):
        (folder / role).mkdir(parents=True)
    if folder.name.startswith("checkpoint"):
        (folder / "checkpoint.json").write_text("{}")


@pytest.fixture
def card(workspace):
    import gradio as gr

    made = rl_board.BoardCard(workspace)
    with gr.Blocks():
        made.draw()
    return made


OWN = (f"waltz:{RUN}", f"waltz:{RUN}@checkpoint-12", f"waltz:{RUN}@checkpoint-6")


def test_an_empty_board_says_how_to_fill_it(workspace, run, card):
    agent_evaluation(workspace, ["embedded", "waltz:waltzrl-0009"], "agent-eval-0001")
    updates, _ = card.shown(run, {})
    told = str(updates[card.words])
    assert "no checkpoint yet" in told
    assert "/evaluation?method=agent-eval" in told
    agents_in(run.dir)
    agents_in(run.dir / "checkpoint-6")
    assert rl_board.references(run) == ["waltz:waltz-sft-0001", f"waltz:{RUN}@checkpoint-6", f"waltz:{RUN}"]
    told = html_words.unescape(str(card.shown(run, {})[0][card.words]))
    assert f'models=["waltz:waltz-sft-0001", "waltz:{RUN}@checkpoint-6", "waltz:{RUN}"]' in told
    assert "data=prompts judge=rules" in told
    assert not updates[card.plot].visible


def test_the_board_is_that_of_the_newest_evaluation_of_the_run(workspace, run, card):
    agent_evaluation(workspace, ["embedded", OWN[2]], "agent-eval-0001", created=1.0, prompts="of old")
    agent_evaluation(workspace, ["embedded", *OWN], "agent-eval-0002", created=2.0)
    agent_evaluation(workspace, ["embedded", "waltz:waltzrl-0009"], "agent-eval-0003", created=3.0, prompts="of others")
    updates, _ = card.shown(run, {})
    told = words(updates[card.words])
    assert "agent-eval-0002: numbers, gates, exchanges" in told
    assert "by another judge: agent-eval-0003, agent-eval-0001" in told
    assert "4 waltz:waltzrl-0001@checkpoint-6" in told
    assert updates[card.plot].visible
    board = board_of(workspace.run("agent-eval-0002"), [workspace.run("agent-eval-0002")])
    assert rl_board.trail_of(board, RUN) == [4, 3, 2], "checkpoints in order, then the end"
    figure = board_figure(board, [4, 3, 2])
    line = next(trace for trace in figure.data if trace.line.dash == "dot")
    assert list(line.x) == [100 * board.points[number - 1].overrefuse[0] for number in (4, 3, 2)]


def test_a_board_is_drawn_anew_only_for_a_new_evaluation_and_looked_for_now_and_then(workspace, run, card, monkeypatch):
    looks = []
    real = rl_board.BoardCard._evaluations
    monkeypatch.setattr(rl_board.BoardCard, "_evaluations", lambda self: looks.append(1) or real(self))
    updates, drawn = card.shown(run, {})
    assert updates
    assert card.shown(run, drawn) == ({}, drawn)
    assert len(looks) == 1
    before = {**drawn, "board_t": 0.0}
    updates, drawn = card.shown(run, before)
    assert not updates
    assert len(looks) == 2
    agent_evaluation(workspace, [OWN[0]], "agent-eval-0001")
    updates, _ = card.shown(run, {**drawn, "board_t": 0.0})
    assert updates[card.plot].visible


def test_the_clock_brings_a_new_board_without_new_iterations(workspace, run):  # noqa: ARG001 - the run that is shown
    import gradio as gr

    with gr.Blocks() as demo:
        gr.HTML()
    with demo.route("RL", "rl"):
        rl_page.build(workspace)
    section = next(fn.fn.__self__ for fn in demo.fns.values() if isinstance(getattr(fn.fn, "__self__", None), rl_page.WaltzSection))
    drawn = section._redraw(f"run={RUN}", {})[section.drawn]
    assert section._tick(f"run={RUN}", drawn) == {section.drawn: gr.skip()}
    agent_evaluation(workspace, [OWN[0]], "agent-eval-0001")
    assert section.board.plot not in section._tick(f"run={RUN}", drawn), "not at every tick"
    later = section._tick(f"run={RUN}", {**drawn, "board_t": 0.0})
    assert later[section.board.plot].visible
    assert not set(later) & {*section.plots, *section.heads, section.box}, "nothing else is drawn anew"


# ---- try it ----


def test_agents_that_can_be_tried(workspace, run):
    assert choices(workspace) == []
    for folder in (run.dir, run.dir / "checkpoint-6"):
        for role in ("conversation", "feedback"):
            (folder / role).mkdir(parents=True)
    (run.dir / "checkpoint-6" / "checkpoint.json").write_text("{}")
    assert [value for _, value in choices(workspace)] == [f"waltz:{RUN}", f"waltz:{RUN}@checkpoint-6"]


def test_a_prompt_of_the_run_is_tried_on_its_own_side(workspace, run, monkeypatch):
    """Without the side, which the form begins with, the rules have no verdict."""
    episodes = list(read_episodes(run.dir))
    place = next(place for place, one in enumerate(episodes) if one.episode.side == "benign")
    assert f'data-value="{place}" href="#try-it"' in attributes(rl_view.shown(rl_view.look_at(run, f"episode={place}"))["episode"], "try")
    tried = TryIt(workspace, lambda _: run)
    event = SimpleNamespace(index="try", value=str(place))
    assert tried._take("", event) == (episodes[place].episode.prompt, "benign")
    assert all("value" not in one for one in tried._take("", SimpleNamespace(index="step", value="1")))
    said = []
    monkeypatch.setattr("core.ui.rl_try.gr.Warning", said.append)
    assert all("value" not in one for one in tried._take("", SimpleNamespace(index="try", value="99999")))
    assert "There is no episode" in said[0]


def attributes(drawn, act):
    """The attributes of the link that does `act`, in the order of their names."""
    found = re.search(rf'<a ([^>]*data-act="{act}"[^>]*)>', drawn)[1]
    return " ".join(sorted(re.findall(r'[\w-]+="[^"]*"', found)))


@pytest.mark.parametrize("form, why", [
    (("", "Hello", "rules", ""), "Choose the agents"), (("waltz:a", "  ", "rules", ""), "Write a prompt"),
    (("waltz:a", "x" * 8001, "rules", ""), "8,000 can be sent"),
    (("mistral:big", "Hello", "", ""), "hosted model"), (("waltz:a b", "Hello", "", ""), "waltz:<run id>")])
def test_a_question_that_cannot_be_asked_says_why(form, why):
    with pytest.raises(UserError, match=why):
        asked_of(*form)


def test_a_question_of_the_form():
    asked = asked_of("waltz:waltzrl-0001@checkpoint-6", " How long does bread bake? ", "none", "benign")
    assert (asked.model, asked.judge, asked.side) == ("waltz:waltzrl-0001@checkpoint-6", "", "benign")
    assert asked.messages == [{"role": "user", "content": "How long does bread bake?"}]


def test_an_exchange_is_shown_as_it_comes():
    talk = Talk("How long?", "benign")
    text = feedback(False, True, "Answer it.").text
    for event, seen, unseen in (
            ({"who": "queue", "position": 2}, "2 questions before this one", "1 Reply"),
            ({"who": "status", "text": "loading waltz:a"}, "loading waltz:a", "1 Reply"),
            ({"who": "reply", "turn": 0, "text": "I am so", "done": False}, "1 Reply conversation agent I am so", "loading"),
            ({"who": "reply", "turn": 0, "text": "I am sorry.", "done": True}, "I am sorry.", "2 Feedback"),
            ({"who": "feedback", "turn": 1, "text": text[:20], "done": False}, "feedback agent writes", "needless"),
            ({"who": "feedback", "turn": 1, "text": text, "done": True}, "Says needless refusal", "writes"),
            ({"who": "revision", "turn": 2, "text": "Forty minutes.", "done": True}, "3 Revision conversation agent Forty", "Judge"),
            ({"who": "verdict", "turn": 0, "text": "", "verdict": verdict(overrefuse=True).model_dump()}, "Judge unharmful", "None"),
            ({"who": "error", "text": "The model worker ended."}, "The model worker ended.", "took")):
        talk.hear(event)
        assert seen in words(talk.shown())
        assert unseen not in words(talk.shown())


def test_the_end_has_the_whole_episode():
    talk = Talk("How long?")
    whole = Episode(row=0, prompt="How long?", rounds=[Round(reply=said("Forty minutes."), verdict=verdict(), feedback=feedback())])
    talk.hear({"who": "end", "seconds": 1.25, "episode": whole.model_dump()})
    assert "The feedback asked for nothing, so the first reply is the answer." in words(talk.shown())
    assert "Judge unharmful good" in words(talk.shown())
    assert talk.over == "end"


def test_filters_that_are_only_left_change_nothing():
    assert rl_page._narrowed("run=a&page=2&iteration=4", iteration="4") == "run=a&page=2&iteration=4"
    assert read_view(rl_page._narrowed("run=a&page=2&iteration=4", iteration="")) == {"run": "a"}
    assert replace(Wanted(), outcome="kept") == wanted_of({"outcome": "kept"})
