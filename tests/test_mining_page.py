"""The Mining page without a browser: the index of outputs.jsonl, the filters, the cards, a person's edits, the pairs built from them."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import gradio as gr
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.methods import UserError
from core.mining.edits import Edit, add_edit, edits_file, history, read_edits
from core.mining.outputs import read_outputs
from core.mining.pairs import load_preferences
from core.mining.samples import KINDS, kind_of, tally
from core.records import HardSample, Labels, MinedSample, read_records
from core.runs import Workspace, this_process, update_status
from core.ui import mining_cards, mining_index, mining_page, mining_plots
from core.ui.address import read_view
from core.ui.mining_built import weights_of
from core.ui.mining_export import hard_samples
from core.ui.mining_index import Index, Reading, Wanted, build_index, find, index_of
from core.ui.mining_rows import choices, found_rows
from core.ui.mining_run import NOBODY
from core.ui.mining_view import PARTS, MiningPage
from tests.helpers import finish, wait_for
from tests.mining_runs import OTHER, folder, mining_run, output, pairs_run, rows, sample

FULL = "run=mine-0001"


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "runs")


@pytest.fixture
def page(workspace):
    mining_run(workspace)
    return MiningPage(workspace)


def shown(page, query=FULL, who=""):
    return page.shown(page.look(query), who)


def listed(page, query=FULL):
    """Row numbers under the filters of an address."""
    look = page.look(query)
    return look.miner.index.row[found_rows(look.miner, look.view)].tolist()


# The index

ODD = st.text(st.sampled_from([*'"\\{},: aB\n', "\u2028", "\u2029", "\x85", "\x00", "\x1f", "é", "İ", "ß", "🥖"]), min_size=1, max_size=12)
NUMBER = itertools.count()
WHOLE = st.builds(lambda row, prompt, right, tail: sample(row, right, prompt=prompt + tail, response=tail or None), st.integers(0, 30), ODD,
                  st.integers(0, 4), st.sampled_from(["", ',"outputs":[', '"prompt":', "crust", "CRUST"]))
JUNK = st.sampled_from([b"\x00\x00\x00", b"not json", b"{}", b"[]", b'{"row":1}', b'{"row":"\xff"}', b"", b"  ", b"\xef\xbb\xbf{}"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.one_of(WHOLE, JUNK), max_size=12), torn=st.booleans(),
       word=st.sampled_from(["a", "crust", "é", '"', "\u2028x", "outputs"]))
def test_the_index_finds_every_whole_line_and_counts_the_others(tmp_path, lines, torn, word):
    path = tmp_path / f"outputs-{next(NUMBER)}.jsonl"
    raw = [line.model_dump_json(exclude_none=True).encode() if isinstance(line, MinedSample) else line for line in lines]
    whole = b"".join(line + b"\n" for line in raw)
    path.write_bytes(whole + (sample(99, 2).model_dump_json().encode()[:-7] if torn else b""))
    first = {}
    for line in lines:
        if isinstance(line, MinedSample):
            first.setdefault(line.row, line)
    index = build_index(path)
    assert [index.read(place) for place in range(len(index))] == list(first.values())
    assert index.damaged_lines == sum(bool(line.strip()) for line in raw) - len(first)
    assert len(index.damaged) == min(index.damaged_lines, mining_index.TOLD)
    assert index.torn == torn
    found = {int(index.row[place]) for place in find(index, Wanted(kind="all", text=word))}
    texts = {row: f"{item.prompt} {item.response or ''}".lower() for row, item in first.items()}
    assert found == {row for row, text in texts.items() if all(part in text for part in word.split())}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from([*KINDS, "all"]), right=st.none() | st.integers(0, 4), source=st.sampled_from([None, "source 0", "", "gone"]),
       label=st.sampled_from(["", "harmful", "unharmful"]), task=st.sampled_from(["", "request", "response"]))
def test_filters_are_those_of_the_records(tmp_path, kind, right, source, label, task):
    path = tmp_path / "outputs.jsonl"
    if not path.exists():
        path.write_text("".join(item.model_dump_json(exclude_none=True) + "\n" for item in rows()))
    index = index_of(path)
    wanted = [item for item in rows() if kind in ("all", kind_of(item)) and right in (None, tally(item, "request").correct)
              and source in (None, item.source) and label in ("", item.gold.request) and task in ("", "request")]
    wanted.sort(key=lambda item: (-tally(item, "request").difficulty, item.row))
    got = index.row[find(index, Wanted(kind=kind, right=right, source=source, label=label, task=task))]
    assert got.tolist() == [item.row for item in wanted]


def test_rows_of_several_tasks_count_on_the_first_mixed_one(tmp_path):
    def said(request, response):
        return output("harmful").model_copy(update={"predicted": Labels(request=request, response=response)})

    item = MinedSample(row=0, prompt="q", response="r", gold=Labels(request="harmful", response="unharmful"), model="m", prompt_format="f",
                       outputs=[said("harmful", "unharmful"), said("harmful", "harmful")])
    path = tmp_path / "outputs.jsonl"
    path.write_text(item.model_dump_json() + "\n")
    index = build_index(path)
    assert (index.correct[0], index.incorrect[0]) == (1, 1)
    offered = choices(index, 2)
    assert [value for _, value in offered["task"]] == ["", "response"]
    assert [value for _, value in offered["gold"]] == ["", "unharmful"]


def test_a_large_file_is_read_beside_the_page_and_only_once(workspace, monkeypatch):
    run = mining_run(workspace)
    monkeypatch.setattr(mining_index, "AT_ONCE", 0)
    read = []
    monkeypatch.setattr(mining_index, "build_index", lambda *given: read.append(given) or build_index(*given))
    assert isinstance(index_of(run.dir / "outputs.jsonl", at_once=0), Reading)
    wait_for(lambda: isinstance(index_of(run.dir / "outputs.jsonl", at_once=0), Index), "the index")
    index = index_of(run.dir / "outputs.jsonl", at_once=0)
    assert len(read) == 1
    columns = ("row", "offset", "length", "head", "source", *mining_index.Facts._fields)
    assert sum(getattr(index, name).nbytes for name in columns) <= 96 * len(index), "no texts in memory"
    with (run.dir / "outputs.jsonl").open("a") as file:
        file.write(sample(50, 2).model_dump_json() + "\n")
    wait_for(lambda: isinstance(index_of(run.dir / "outputs.jsonl", at_once=0), Index), "the longer index")
    assert len(index_of(run.dir / "outputs.jsonl", at_once=0)) == len(index) + 1


def test_the_page_says_that_it_reads(workspace, monkeypatch):
    run = mining_run(workspace)
    monkeypatch.setattr("core.ui.mining_run.index_of", lambda *_: Reading(25, 100))
    parts = shown(MiningPage(workspace))
    assert "25 %" in parts["table"]
    assert parts["input"] == ""
    assert "6 of 12" in parts["difficulty"], "the report is there before the rows are read"
    assert run.id in parts["header"]


# What is shown

def test_the_cards_show_the_numbers_of_the_report(page, workspace):
    report = workspace.run("mine-0001").report
    parts = shown(page)
    for kind in ("hard", "all right", "all wrong"):
        share = report["kinds"][kind]["share"]
        for words in (f"{100 * share['value']:.1f} %", f"{100 * share['low']:.1f}–{100 * share['high']:.1f}",
                      f"{report['kinds'][kind]['count']} of {report['rows']}"):
            assert words in parts["difficulty"]
    assert "11 of 12 inputs have at least two outputs that count" in parts["difficulty"]
    assert "3 of 48" in parts["difficulty"], "unparsed outputs"
    assert "k = 4, T 1.0, top-p 0.95" in parts["header"]
    assert "6 found" in parts["list_head"]
    bars = [bar["count"] for bar in report["histogram"]]
    made = page.charts(page.look(FULL))[0]
    hard, other = made.data[0].y, made.data[1].y
    assert [round(12 * (a + b) / 100) for a, b in zip(hard, other, strict=True)] == bars
    assert [round(12 * a / 100) for a in hard] == [0, 2, 2, 2, 0], "row 11 has one right output and nothing to compare it with"
    assert [f"<b>{count}</b>" in note.text for note, count in zip(made.layout.annotations, bars, strict=False)] == [True] * 5


def test_the_forest_has_every_group_with_its_interval():
    made_up = [{"name": f"set {size}", "rows": size, "hard": {"value": 0.1 * place, "low": 0.05 * place, "high": 0.2 * place}}
               for place, size in enumerate(range(60, 0, -5))]
    figure = mining_plots.forest(made_up, {"value": 0.3})
    assert len(figure.data[0].x) == mining_plots.MOST_GROUPS
    assert list(figure.data[0].x) == sorted(figure.data[0].x, reverse=True)
    assert "2 smaller groups" in mining_cards.where_note({"by_source": made_up}, "source")
    odd = [{"name": "<b>", "rows": 3, "hard": {"value": 0.1, "low": 0.0, "high": 0.4}}]
    assert mining_plots.forest(odd, {"value": None}).layout.yaxis.ticktext == ("‹b› (n = 3)",)
    long = [{**odd[0], "name": f"a collection of loaves, part {part} of two"} for part in (1, 2)]
    assert len(set(mining_plots.forest(long, {"value": None}).data[0].y)) == 2, "two long names are two lines"


def test_the_list_is_hardest_first_with_dots_and_weights(page):
    assert listed(page) == [1, 4, 0, 8, 2, 5]
    table = shown(page)["table"]
    assert table.index("0001") < table.index("0004") < table.index("0000")
    first = table[table.index("<tbody>"):].split("</tr>")[0]
    assert "1 of 4" in first
    assert first.count('<i class="on">') == 1
    assert first.count("<i></i>") == 3
    assert "1.20" in first
    assert "kept" in first
    assert "1 to 6 of 6" in table


def test_filters_of_the_address(page):
    assert listed(page, f"{FULL}&right=2") == [0, 8]
    assert listed(page, f"{FULL}&kind=all+wrong") == [6, 10]
    assert listed(page, f"{FULL}&kind=unparsed") == [11]
    assert listed(page, f"{FULL}&gold=harmful") == [4, 5]
    assert listed(page, f"{FULL}&source=source+1&right=1") == [1]
    assert listed(page, f"{FULL}&q=LOAF+8") == [8]
    assert listed(page, f"{FULL}&edited=1") == []
    assert len(listed(page, f"{FULL}&kind=all")) == 12
    assert listed(page, f"{FULL}&kind=nonsense&right=x&task=&source=") == listed(page)
    assert "No input matches" in shown(page, f"{FULL}&q=nothing")["table"]
    assert "right=" not in page.act(f"{FULL}&right=2&q=x", "clear", "")


def test_a_double_click_counts_once_and_each_press_of_j_and_k(workspace):
    mining_run(workspace)
    with gr.Blocks() as demo:
        gr.HTML()
    with demo.route("Mining", "mining"):
        mining_page.build(workspace)
    modes = {(fn.fn.__name__, event): fn.trigger_mode for fn in demo.fns.values() if fn.fn for _, event in fn.targets}
    assert modes["act", "select"] == "once"
    assert modes["step", "key_up"] == "multiple"


def test_harmful_prompts_are_blurred_and_text_of_models_is_escaped(workspace):
    attack = "<script>alert(1)</script><img src=x>"
    mining_run(workspace, [sample(0, 2, gold="harmful", prompt=attack, source=attack, category=attack,
                                  ).model_copy(update={"outputs": [output("harmful", text=attack * 30), output("unharmful", text=attack)]}),
                           sample(1, 2)], k=2)
    parts = shown(MiningPage(workspace), f"{FULL}&row=0")
    for name in PARTS:
        assert "<script>" not in parts[name]
        assert "<img" not in parts[name]
    lines = parts["table"].split("<tr")[2:]
    assert ["gw-veil" in line for line in sorted(lines, key=lambda line: "0001" in line)] == [True, False]
    assert "gw-veil" in parts["input"]
    assert "gw-veil" not in shown(MiningPage(workspace), f"{FULL}&row=1")["input"]


def test_outputs_stand_side_by_side_with_their_verdicts(page):
    card = shown(page, f"{FULL}&row=2")["input"]
    assert card.count("<article") == 4
    assert card.count('class="gw-judged agrees"') == 3
    assert card.count('class="gw-judged differs"') == 1
    assert "41 tokens" in card
    assert 'class="gw-judged"' in shown(page, f"{FULL}&row=11&kind=all")["input"], "an output without a label neither agrees nor differs"


def test_next_and_previous_follow_the_list_over_its_pages(workspace):
    mining_run(workspace, [sample(row, 2) for row in range(20)])
    page = MiningPage(workspace)
    query = page.act(FULL, "next", "")
    assert read_view(query)["row"] == "1"
    query = page.act(f"{FULL}&row=7", "next", "7")
    assert (read_view(query)["row"], read_view(query)["page"]) == ("8", "2")
    assert "0008" in shown(page, query)["table"]
    assert read_view(page.act(query, "previous", "8")) == {"run": "mine-0001", "row": "7"}
    assert read_view(page.act(f"{FULL}&row=19&page=3", "next", "19"))["row"] == "19", "the end stays the end"
    assert read_view(page.act(FULL, "previous", "0"))["row"] == "0"


def test_the_same_strings_while_nothing_changed(page):
    look = page.look(FULL)
    assert page.shown(look) == page.shown(page.look(FULL))
    assert page.stamps(look) == page.stamps(page.look(FULL))


# Edits

def edits_of(workspace):
    return list(history(edits_file(workspace.run("mine-0001").dir)))


def test_a_pair_is_excluded_included_and_undone(page, workspace):
    before = (workspace.run("mine-0001").dir / "outputs.jsonl").read_bytes()
    query = page.act(FULL, "exclude", "1", "ann")
    assert read_view(query)["row"] == "1"
    edit = edits_of(workspace)[-1]
    assert (edit.kind, edit.row, edit.who) == ("exclude", 1, "ann")
    assert abs(edit.t - time.time()) < 5
    parts = shown(page, query, "ann")
    assert "6 found, 1 excluded by hand" in parts["list_head"]
    assert "Build pairs from 5 inputs" in parts["build"]
    assert "Include again" in parts["input"]
    assert "by you" in parts["input"]
    assert "by ann" in shown(page, query, "ben")["input"]
    assert listed(page, f"{FULL}&edited=1") == [1]
    page.act(query, "exclude", "1", "ann")
    assert "excluded by hand" not in shown(page, query)["list_head"]
    page.act(query, "exclude", "1")
    assert edits_of(workspace)[-1].who == NOBODY
    page.act(query, "undo", "1")
    assert [item.kind for item in edits_of(workspace)] == ["exclude", "include", "exclude", "include"], "nothing is ever taken out"
    assert read_edits(edits_file(workspace.run("mine-0001").dir)) == {}
    assert (workspace.run("mine-0001").dir / "outputs.jsonl").read_bytes() == before


def test_a_fixed_gold_label_counts_everywhere_and_the_original_is_kept(page, workspace):
    query = page.act(f"{FULL}&mode=gold&row=3&kind=all", "gold", "3 request harmful", "ann")  # row 3: all right until now
    assert "mode" not in read_view(query)
    card = shown(page, query, "ann")["input"]
    assert "was unharmful, changed by you" in card
    assert "original kept" in card
    assert card.count('class="gw-judged differs"') == 4
    assert 3 in listed(page, f"{FULL}&kind=all+wrong")
    assert 3 not in listed(page, f"{FULL}&kind=all+right")
    assert "1 input was edited" in shown(page, query)["difficulty"]
    counts = page.look(FULL).miner.index.counts()
    assert (counts["all right"], counts["all wrong"]) == (2, 3)
    page.act(query, "gold", "3 request unharmful", "ben")
    assert edits_of(workspace)[-1].label is None, "the original label takes the edit back"
    assert listed(page, f"{FULL}&edited=1") == []
    page.act(query, "exclude", "1")
    page.act(query, "gold", "0 request harmful")
    assert "gold changed" in shown(page, f"{FULL}&edited=1")["table"]
    for row in ("3", "1"):
        page.act(query, "gold", f"{row} request harmful")
    look = page.look(FULL)
    assert [look.miner.pair(look.miner.place_of(row)) for row in (0, 3, 1)] == ["gold changed", "", "excluded"]
    for row in ("0", "1", "3"):
        page.act(query, "gold", f"{row} request unharmful")
    page.act(query, "exclude", "1")
    written = len(edits_of(workspace))
    page.act(query, "gold", "3 request unharmful")
    assert len(edits_of(workspace)) == written, "what is so already is no edit"


def test_the_next_input_after_one_that_left_the_list(page):
    query = page.act(f"{FULL}&row=4", "exclude", "4")
    assert read_view(page.act(query, "next", "4"))["row"] == "0"
    mined = [(4, "harmful"), (0, "unharmful")]
    for row, gold in mined:  # k = 4 and 1 or 2 right: with the other label these rows stay hard
        page.act(query, "gold", f"{row} request {OTHER[gold]}")
    assert set(listed(page)) == {0, 1, 2, 4, 5, 8}


def test_a_row_that_an_edit_took_out_of_the_list_still_has_a_next_one(workspace):
    def mixed(row):
        return sample(row, 2, k=2, unparsed=0).model_copy(update={"outputs": [output("harmful"), output("unharmful")]})

    run = mining_run(workspace, [sample(0, 3), sample(1, 2), sample(2, 1), mixed(3)])
    page = MiningPage(workspace)
    two = next(item for item in read_outputs(run.dir / "outputs.jsonl") if item.row == 1)
    two.outputs[:] = [output("unharmful"), output(None), output(None), output("harmful")]
    add_edit(edits_file(run.dir), Edit(t=1.0, who="ann", row=1, kind="exclude"), two)
    assert listed(page, FULL) == [2, 1, 3, 0]
    assert listed(page, f"{FULL}&right=2") == [1]
    query = page.act(f"{FULL}&right=1&row=2", "gold", "2 request harmful")  # 3 of 4 right now: not among "1 of 4" any more
    assert listed(page, f"{FULL}&right=1") == [3]
    assert read_view(query)["row"] == "2"
    assert "Input 0002" in shown(page, query)["input"]
    assert read_view(page.act(query, "next", "2"))["row"] == "3"


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_outputs_are_swapped_by_hand_and_the_pairs_take_it(page, workspace):
    query = f"{FULL}&row=2&mode=swap"  # outputs 0, 1, 2 are right, 3 is wrong
    assert "Until you choose, build-pairs draws them" in shown(page, query)["input"]
    query = page.act(query, "pick-chosen", "2 1", "ann")
    edit = edits_of(workspace)[-1]
    assert (edit.kind, edit.chosen, edit.rejected) == ("swap", 1, 3)
    card = shown(page, query)["input"]
    assert [">chosen<" in part for part in card.split("<article")[1:]] == [False, True, False, False]
    assert [">rejected<" in part for part in card.split("<article")[1:]] == [False, False, False, True]
    assert "swapped" in shown(page, query)["table"]
    assert page.act(query, "pick-chosen", "2 3") == query, "a wrong output cannot be the chosen one"
    assert len(edits_of(workspace)) == 1
    built = pairs_run(workspace)
    pair = next(item for item in load_preferences(built.dir / "preferences.jsonl") if item.row == 2)
    texts = [item.text for item in next(item for item in rows() if item.row == 2).outputs]
    assert [texts.index(side[-1]["content"] if isinstance(side, list) else side) for side in (pair.chosen, pair.rejected)] == [1, 3]


def test_a_gold_label_fixed_after_a_swap_voids_the_swap_and_the_page_says_so(page, workspace):
    page.act(f"{FULL}&row=2&mode=swap", "pick-chosen", "2 1")
    page.act(f"{FULL}&row=2", "gold", "2 request harmful")
    parts = shown(page, f"{FULL}&row=2")
    assert "swap void" in parts["table"]
    assert "The pair picked by hand is not used" in parts["input"]
    assert ">chosen<" not in parts["input"]
    run = pairs_run(workspace)
    pair = next(item for item in load_preferences(run.dir / "preferences.jsonl") if item.row == 2)
    assert "the request is harmful" in str(pair.chosen)
    parts = shown(page, f"{FULL}&row=2")
    assert "1 pair picked by hand not used" in parts["pairs"]
    assert [">chosen<" in part for part in parts["input"].split("<article")[1:]] == [False, False, False, True]
    page.act(f"{FULL}&row=2&mode=swap", "pick-rejected", "2 0")
    assert "The pair picked by hand is not used" not in shown(page, f"{FULL}&row=2")["input"], "picked anew, after the label"


def test_undo_takes_back_the_newest_edit_first(page, workspace):
    query = f"{FULL}&row=2"
    page.act(query, "exclude", "2")
    time.sleep(0.002)
    page.act(query, "gold", "2 request harmful")
    assert "Undo: gold label changed" in shown(page, query)["input"]
    page.act(query, "undo", "2")
    assert "Undo: excluded" in shown(page, query)["input"]
    page.act(query, "undo", "2")
    assert "Undo" not in shown(page, query)["input"]
    assert len(edits_of(workspace)) == 4


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # what the page says to the person
def test_clicks_that_make_no_sense_write_nothing(page, workspace):
    for word, value in (("exclude", "6"), ("exclude", "999"), ("gold", "2 request maybe"), ("gold", "2 nonsense harmful"),
                        ("gold", "2 response harmful"), ("pick-chosen", "2 x"), ("pick-rejected", "2 9"), ("undo", "2"), ("undo", "")):
        page.act(FULL, word, value)
    assert edits_of(workspace) == []


def test_hard_samples_are_exported_as_they_stand_now(page):
    page.act(FULL, "exclude", "1")
    page.act(FULL, "gold", "2 request harmful")
    path = page.export(FULL, "export-hard", "mine-0001")
    found = {item.row: item for item in read_records(Path(path), HardSample)}
    assert sorted(found) == [0, 2, 4, 5, 8]
    assert (found[2].gold.request, found[2].k_correct, found[2].k_incorrect) == ("harmful", 1, 3)
    assert [item.row for item in hard_samples(page.look(FULL).miner)] == sorted(found)


# Pairs

def test_the_pairs_card_says_what_the_report_says(page, workspace):
    page.act(FULL, "exclude", "1")
    run = pairs_run(workspace)
    look = page.look(FULL)
    parts = page.shown(look)
    assert run.report["counts"]["pairs"] == 5
    for words in ("from 5 hard inputs", "0.8 to 1.2", "gamma 0.2, min-max", "1 hard row left out: excluded by hand."):
        assert words in parts["pairs"]
    assert weights_of(look.built) == [(bar["weight"], bar["pairs"]) for bar in run.report["weights"]["histogram"]]
    assert list(page.charts(look)[2]["value"].data[0].y) == [bar["pairs"] for bar in run.report["weights"]["histogram"]]
    assert "source 0" in parts["pairs_table"]
    assert "edited since" not in parts["pairs"]
    time.sleep(0.02)
    page.act(FULL, "exclude", "5")
    assert "edited since" in shown(page)["pairs"]


def test_edits_taken_back_after_a_build_are_edits_since(page, workspace):
    page.act(FULL, "exclude", "1")
    pairs_run(workspace)
    assert "edited since" not in shown(page)["pairs"]
    time.sleep(0.02)
    page.act(FULL, "exclude", "1")
    assert read_edits(edits_file(workspace.run("mine-0001").dir)) == {}
    assert "edited since" in shown(page)["pairs"], "the pair that was left out is wanted again"


def test_edits_made_while_pairs_are_built_are_edits_since(page, workspace):
    run = pairs_run(workspace)
    update_status(run.dir, started=time.time(), ended=time.time() + 60)
    time.sleep(0.02)
    page.act(FULL, "exclude", "1")
    assert "edited since" in shown(page)["pairs"]


def test_pairs_that_read_unreadable_outputs_otherwise_keep_their_weights_in_the_list(page, workspace):
    assert "counted an unreadable output" not in shown(page)["table"]
    mining_run(workspace, [*rows(), sample(12, 1, unparsed=2)], "mine-0002")
    query = "run=mine-0002"
    run = pairs_run(workspace, "mine-0002", unparsed="incorrect")
    stored = {pair.row: pair.weight for pair in load_preferences(run.dir / "preferences.jsonl")}
    parts = shown(page, query)
    assert "pairs-0001 counted an unreadable output as wrong, this run as nothing" in parts["table"]
    assert "Build the pairs again" in parts["build"]
    look = page.look(query)
    own = {row: look.miner.weight(look.miner.place_of(row), page.pairing.weighting(look.built), look.miner.gaps()) for row in (12,)}
    assert stored[12] != pytest.approx(own[12])
    assert 11 in stored
    line = shown(page, f"{query}&q=loaf+12")["table"].split("<tbody>")[1]
    assert f"{stored[12]:.2f}" in line
    assert f"{own[12]:.2f}" not in line
    pairs_run(workspace, "mine-0002", run_id="pairs-0002")
    assert "counted an unreadable output" not in shown(page, query)["table"], "the newest pairs, built as mined"


@pytest.mark.parametrize(("gamma", "norm"), [(0.2, "min-max"), (0.5, "seed-code")])
def test_the_list_has_the_weights_and_badges_of_the_pairs(page, workspace, gamma, norm):
    run = pairs_run(workspace, gamma=gamma, norm=norm)
    look = page.look(FULL)
    weighting, gaps = page.pairing.weighting(look.built), look.miner.gaps()
    pairs = list(load_preferences(run.dir / "preferences.jsonl"))
    assert len(pairs) == 6
    for pair in pairs:
        place = look.miner.place_of(pair.row)
        assert look.miner.weight(place, weighting, gaps) == pytest.approx(pair.weight)
        card = shown(page, f"{FULL}&row={pair.row}")["input"].split("<article")[1:]
        texts = [item.text for item in look.miner.edited(place).sample.outputs]
        for word, side in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            text = side[-1]["content"] if isinstance(side, list) else side
            assert [f">{word}<" in part for part in card] == [item == text for item in texts]


def test_agreement_of_two_miners(page, workspace):
    assert "One model has mined this set" in shown(page)["ensemble"]
    others = [item.model_copy(update={"model": "run:rsft-0002"}) for item in rows()[:9]]
    mining_run(workspace, [*others, sample(9, 2), sample(10, 0)], "mine-0002")
    run = pairs_run(workspace, "mine-0001", "mine-0002")
    line = run.report["agreement"][0]
    for query in (FULL, "run=mine-0002"):
        card = shown(page, query)["ensemble"]
        assert f"{line['inputs']} inputs, {line['both_hard']} hard for both" in card
        assert f"{100 * line['agree']['value']:.1f} %" in card
        assert f"{line['kappa']['value']:.2f}" in card


def test_pairs_are_built_by_a_run_of_their_own(page, workspace):
    query = page.act(FULL, "build", "mine-0001")
    assert query == FULL
    run = page.look(FULL).pairs[0]
    assert run.config["runs"] == ["mine-0001"]
    assert run.id in shown(page)["pairs"]
    assert finish(workspace, run) == "succeeded", run.log_tail()
    assert "from 6 hard inputs" in shown(page)["pairs"]
    assert page.export(FULL, "export-pairs", run.id).endswith("preferences.jsonl")


def test_pairs_are_built_again_from_all_their_miners_with_their_settings(page, workspace, monkeypatch):
    asked = []
    monkeypatch.setattr("core.ui.mining_view.jobs.submit", lambda _, method, values: asked.append((method, values)))
    mining_run(workspace, [item.model_copy(update={"model": "run:rsft-0002"}) for item in rows()], "mine-0002")
    first = pairs_run(workspace, "mine-0001", "mine-0002", pick="longest", gamma=0.5, norm="seed-code", seed=7)
    page.act(FULL, "exclude", "1")
    parts = shown(page)["build"]
    assert "Build pairs from 2 mining runs again" in parts
    assert f"/mining?from={first.id}" in parts, "other settings start from these"
    for query, miner in ((FULL, "mine-0001"), ("run=mine-0002", "mine-0002")):
        page.act(query, "build", miner)
        assert asked[-1] == ("build-pairs", first.config)


def test_what_comes_after_the_pairs(page, workspace):
    assert "gw-filled" in shown(page)["build"]
    assert "gw-filled" not in shown(page, f"{FULL}&new=1")["build"], "one filled button: the form's Start"
    run = pairs_run(workspace)
    assert "/training?method=hs-dpo" in shown(page)["pairs"]
    assert read_view(page.act("", "open", run.id)) == {"run": "mine-0001"}
    page.act(FULL, "gold", "3 request harmful")
    page.act(FULL, "exclude", "1")
    assert "holds no pair" not in shown(page, f"{FULL}&row=1")["input"], "left out on purpose"
    kept = [json.loads(line) for line in (run.dir / "preferences.jsonl").read_text().splitlines()]
    (run.dir / "preferences.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept if line["row"] != 2))
    assert "pairs-0001 holds no pair of these outputs" in shown(page, f"{FULL}&row=2")["input"]


def test_unreadable_outputs_count_as_the_run_counted_them(workspace):
    mining_run(workspace, unparsed="incorrect")
    page = MiningPage(workspace)
    assert 11 in listed(page), "one right and three unreadable outputs"
    card = shown(page, f"{FULL}&row=11&mode=swap")["input"]
    assert card.count("Make it the rejected one") == 3
    page.act(f"{FULL}&row=11", "pick-rejected", "11 2")
    assert [(edit.chosen, edit.rejected) for edit in edits_of(workspace)] == [(0, 2)]


def test_pairs_that_failed_say_why(page, workspace):
    why = "None of the hard rows gave a pair."
    folder(workspace, "pairs-0001", "build-pairs", {"runs": ["mine-0001"]}, state="failed", message=why)
    assert "None of the hard rows gave a pair." in shown(page)["pairs"]


# Other states

def test_a_page_without_runs_says_what_will_stand_here(workspace):
    parts = shown(MiningPage(workspace), "")
    assert "No mining run yet" in parts["running"]
    assert "Train a guard first" in parts["running"]
    assert parts["difficulty"] == ""
    assert parts["table"] == ""


def test_a_run_under_way_is_shown_live_with_stop(page, workspace):
    folder(workspace, "mine-0002", "mine-hard-samples", {"model": "m"}, state="running", process=this_process(), created=time.time() + 1,
           progress={"done": 30, "total": 100, "unit": "rows", "detail": "2 rows/s, 4 hard"}, stats={"Hard": "4 (13.3 %)"})
    parts = shown(page, "")
    for words in ("30 %", "4 hard", "13.3 %", 'data-act="stop"'):
        assert words in parts["running"]
    assert "mine-0001" in parts["header"], "the finished run stays on the page"
    update_status(workspace.run("mine-0002").dir, state="failed", message="No rows.")
    assert "No rows." in shown(page, "")["running"]


def test_a_run_without_hard_inputs_says_what_to_change(workspace):
    mining_run(workspace, [sample(row, 4) for row in range(5)])
    parts = shown(MiningPage(workspace))
    assert "a higher temperature" in parts["notices"]
    assert "No hard input" in parts["table"]
    assert "/mining?from=mine-0001" in parts["table"]
    assert "Build pairs" not in parts["build"]
    assert "All right" in parts["difficulty"]


def test_damage_is_said_and_the_rest_stays(page, workspace):
    run = workspace.run("mine-0001")
    path = run.dir / "outputs.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"{broken\n", *lines[2:], b'{"row": 77']))
    parts = shown(page)
    assert "1 damaged line of outputs.jsonl left out here: line 2" in parts["notices"]
    assert "has no end" in parts["notices"]
    assert listed(page) == [4, 0, 8, 2, 5]
    edits_file(run.dir).write_text("nonsense\n")
    assert "edits.jsonl, line 1" in shown(page)["table"]
    path.unlink()
    with pytest.raises(UserError, match="mine again"):
        index_of(path)
    assert page.look("").run is None


def test_runs_are_switched_and_their_filters_forgotten(page, workspace):
    mining_run(workspace, [sample(0, 2)], "mine-0002", k=4)
    boxes = page.boxes(page.look(FULL))
    assert boxes[3]["visible"]
    assert [value for _, value in boxes[4]["choices"]] == ["mine-0002", "mine-0001"]
    assert page.look("").run.id == "mine-0002", "the newest"
    assert read_view(page.act(f"{FULL}&row=3&right=2&q=x", "open", "mine-0002")) == {"run": "mine-0002"}
    assert json.loads(json.dumps(page.stamps(page.look(FULL)))) == page.stamps(page.look(FULL))
