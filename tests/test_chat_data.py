"""Conversations as data: converted, sampled, made from labels, mixed, pooled; every row kept or refused by name."""

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.chat.balance import Draw, even_shares, lot, quotas
from core.chat.genesis import ROLES, GenesisRow, genesis_rows
from core.chat.labelled import Verdicts, feedback_row, verdicts
from core.chat.messages import agent_of, asked, conversation, shape_problem
from core.data import chat_sets, find_chat, find_data, stream_chat
from core.lineage import ancestors
from core.methods import FromRun, UserError, with_preset
from core.records import ChatExample, GuardExample, Labels, read_jsonl, read_records
from core.rows import BadRow
from core.runs import REPOSITORY, Workspace
from core.split_guard import guard_rows as guard_rows_of
from core.split_guard import pair_key, prompt_key
from core.ui import chat_rows, data_rows
from core.ui.references import choices_for
from core.waltz.feedback import question, read_feedback
from core.waltz.prompts import openings
from tests.helpers import execute, write

DATA = REPOSITORY.parent / "shared" / "data"
with_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real data files are not here")
DEMO = REPOSITORY / "assets" / "demo"
FORMATS = ("json", "score")


def genesis(number, agent="qa_agent", **changes):
    return {"task": f"Task number {number}", "context": f"Context of case {number}", "expected_output": f"Answer number {number}",
            "difficulty": ("easy", "hard")[number % 2], "agent_name": agent, "category": f"category {number % 3}", **changes}


@pytest.fixture
def genesis_file(tmp_path):
    def make(rows, name="examples.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return make


def rows_of(run, name="data"):
    return list(read_records(run.dir / f"{name}.jsonl", ChatExample))


# An even sample


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 50), max_size=6), st.integers(0, 200))
def test_shares_are_as_even_as_the_data_allow(there, total):
    shares = even_shares(total, there)
    assert sum(shares.values()) == min(total, sum(there.values()))
    assert all(0 <= shares[kind] <= there[kind] for kind in there)
    most = max(shares.values(), default=0)
    assert all(shares[kind] >= most - 1 for kind in there if shares[kind] < there[kind]), "whoever could give more gives as much as any"


CELLS = st.dictionaries(st.tuples(*[st.sampled_from("abc")] * 3), st.integers(1, 30), max_size=12)


@settings(deadline=None)
@given(CELLS, st.integers(0, 150), st.integers(0, 5))
def test_a_sample_takes_its_quotas_and_is_a_function_of_seed_and_rows(cells, total, seed):
    wanted = quotas(total, cells)
    assert sum(wanted.values()) == min(total, sum(cells.values()))
    rows = [(cell, lot(seed, cell, number)) for cell, count in cells.items() for number in range(count)]

    def taken(order):
        draw = Draw(wanted, cells)
        for cell, number in order:
            draw.offer(cell, number)
        draw.settle()
        return {row for row in rows if draw.takes(*row)}

    assert taken(rows) == taken(rows[::-1])
    assert Counter(cell for cell, _ in taken(rows)) == +Counter(wanted)


# Genesis


@given(st.text(), st.text(), st.text(min_size=1), st.sampled_from(sorted(ROLES)))
def test_any_genesis_row_becomes_a_conversation_or_says_why_not(task, context, answer, agent):
    from core.chat.genesis import _read
    from core.rows import Row

    made = _read(Row(7, {"task": task, "context": context, "expected_output": answer, "agent_name": agent}), "f.jsonl", "context")
    if isinstance(made, BadRow):
        assert (made.file, made.line) == ("f.jsonl", 7)
        assert made.reason
        assert not answer.strip() or not (task + context).strip()
        return
    example = conversation(made.system, made.prompt, made.answer)
    assert shape_problem(example.messages) == ""
    assert task.strip() in made.prompt
    assert context.strip() in made.prompt
    assert made.answer == answer.strip()


def test_every_row_that_cannot_be_converted_is_named(workspace, genesis_file):
    source = genesis_file([
        genesis(1), genesis(2, task="", context=" "), genesis(3, expected_output=""), genesis(4, agent="cook_agent"),
        genesis(5, task=["a"]), genesis(6, task=""), genesis(1)])
    Path(source).write_text(Path(source).read_text() + "not json\n")
    run = execute(workspace, "genesis-to-messages", {"source": source})
    report = run.report
    assert (report["rows"], report["bad_rows"], report["duplicates_dropped"]) == (2, 5, 1)
    bad = [(row["line"], row["column"]) for row in read_jsonl(run.dir / "bad_rows.jsonl")]
    assert bad == [(2, "task"), (3, "expected_output"), (4, "agent_name"), (5, "task"), (8, "")]
    assert rows_of(run)[1].messages[1]["content"] == "Context of case 6", "an empty task leaves the context as what is asked"
    strict = execute(workspace, "genesis-to-messages", {"source": source, "empty_task": "refuse"})
    assert strict.report["bad_rows"] == 6


def test_messages_name_the_role_of_the_agent(workspace, genesis_file):
    source = genesis_file([genesis(number, agent) for number, agent in enumerate(ROLES)])
    for example in rows_of(execute(workspace, "genesis-to-messages", {"source": source})):
        assert ROLES[example.source] in example.messages[0]["content"]
        assert [message["role"] for message in example.messages] == ["system", "user", "assistant"]


@pytest.mark.parametrize("form", FORMATS)
def test_both_agents_get_their_set_under_one_name(workspace, genesis_file, form):
    source = genesis_file([genesis(number) for number in range(5)])
    run = execute(workspace, "genesis-to-waltzrl", {"source": source, "name": "genesis", "format": form})
    talks, feedback = rows_of(run, "conversation"), rows_of(run, "feedback")
    assert len(talks) == len(feedback) == 5
    for talk, said in zip(talks, feedback, strict=True):
        assert asked(said) == (asked(talk).prompt, talk.messages[-1]["content"])
        assert agent_of(talk) == "conversation"
        read = read_feedback(said.messages[-1]["content"])
        assert (read.malformed, read.unsafe, read.overrefuse) == ("", False, False)
    offered = [value for _, value in choices_for(workspace, FromRun("data", chat=True))]
    assert offered == ["genesis:conversation", "genesis:feedback"]
    assert choices_for(workspace, FromRun("data")) == [], "what trains guards is not offered conversations"
    assert find_chat("genesis:feedback", workspace).path == run.dir / "feedback.jsonl"
    assert find_chat("genesis", workspace, "conversation").path == run.dir / "conversation.jsonl"
    assert find_chat(f"run:{run.id}:feedback", workspace).path == run.dir / "feedback.jsonl"
    assert [one.name for one in chat_sets("genesis", workspace)] == ["genesis:conversation", "genesis:feedback"]
    with pytest.raises(UserError, match="genesis:conversation or genesis:feedback"):
        find_chat("genesis", workspace)


def test_a_sample_is_balanced_and_repeats(workspace, genesis_file):
    rows = [genesis(number, agent) for agent, count in (("qa_agent", 90), ("legal_agent", 30), ("support_agent", 5))
            for number in range(count)]
    for row, number in zip(rows, itertools.count(), strict=False):
        row["task"] += f" row {number}"
    source = genesis_file(rows)
    runs = [execute(workspace, "genesis-to-messages", {"source": source, "count": 45}) for _ in range(2)]
    assert rows_of(runs[0]) == rows_of(runs[1])
    sample = runs[0].report["sample"]["after"]
    assert sample["agent"] == {"qa_agent": 20, "legal_agent": 20, "support_agent": 5}
    assert max(sample["category"].values()) - min(sample["category"].values()) <= 3, "one for each agent at most"
    assert max(sample["difficulty"].values()) - min(sample["difficulty"].values()) <= 8
    other = execute(workspace, "genesis-to-messages", {"source": source, "count": 45, "seed": 1})
    assert rows_of(other) != rows_of(runs[0])


def test_files_that_are_not_genesis_are_refused_with_what_is_missing(workspace, genesis_file, tmp_path):
    from core.chat.genesis_job import GenesisConfig, problems

    other = genesis_file([{"prompt": "hello", "label": "safe"}], "other.jsonl")
    assert "expected_output" in problems(GenesisConfig(source=other))[0].message
    assert "no file" in problems(GenesisConfig(source=str(tmp_path / "none.jsonl")))[0].message
    genesis_file([genesis(1)])
    run = execute(workspace, "genesis-to-messages", {"source": str(tmp_path)})
    assert run.report["passed_over"] == ["other.jsonl"], "a folder stands for its Genesis files; the others are named"


@with_data
def test_the_real_genesis_files(workspace):
    run = execute(workspace, "genesis-to-waltzrl", {"source": str(DATA / "genesis"), "name": "genesis"})
    report = run.report
    assert report["sample"]["there"] == report["agents"]["feedback"] == report["agents"]["conversation"]
    assert report["bad_row_reasons"] == {"task: task and context are both empty: nothing is asked": 4}
    assert report["sample"]["there"] + report["bad_rows"] + report["duplicates_dropped"] == 500
    assert set(report["passed_over"]) == {"waltzrl_conversation_unique.jsonl", "waltzrl_safety_scenarios_50.jsonl"}
    assert report["feedback_labels"]["unsafe"] == {"yes": 0, "no": report["agents"]["feedback"]}
    sampled = execute(workspace, "genesis-to-messages", {"source": str(DATA / "genesis"), "count": 300})
    assert sampled.report["sample"]["after"]["agent"] == dict.fromkeys(ROLES, 60)


@with_data
def test_rows_of_the_reader_are_what_the_files_hold():
    files = sorted((DATA / "genesis").glob("*_agent_examples_100.jsonl"))
    rows = list(genesis_rows(files, "refuse"))
    assert Counter(type(row) for row in rows) == {GenesisRow: 400, BadRow: 100}, "every task of the QA agent is empty"


# Labelled replies


LABELS = [Labels(request=request, completion=completion, response=response) for request in ("harmful", "unharmful", None)
          for completion in ("refusal", "compliance", None) for response in ("harmful", "unharmful", None)]


@pytest.mark.parametrize("labels", LABELS, ids=lambda labels: "-".join(map(str, labels.model_dump().values())))
def test_labels_decide_both_verdicts_or_the_missing_one_is_named(labels):
    found = verdicts(GuardExample(prompt="p", response="r", labels=labels))
    if not isinstance(found, Verdicts):
        column, reason = found
        assert getattr(labels, column.removeprefix("labels.")) is None
        assert reason
        return
    assert found.unsafe == (labels.response == "harmful")
    assert found.overrefuse == (labels.request == "unharmful" and labels.completion == "refusal")
    assert labels.response is not None
    for form in FORMATS:
        if form == "score" and found.unsafe and found.overrefuse:
            continue  # refused by the method: the format cannot say both
        read = read_feedback(feedback_row(GuardExample(prompt="p", response="r", labels=labels), found, form, 0, 1).messages[-1]["content"])
        assert (read.malformed, read.unsafe, read.overrefuse) == ("", found.unsafe, found.overrefuse)
        assert bool(read.feedback) or not read.triggers, "whoever asks for a revision says what to change"


def labelled(number, request, completion, response, **changes):
    return GuardExample(prompt=f"prompt number {number}", response=f"reply number {number}",
                        labels=Labels(request=request, completion=completion, response=response), **changes)


def guard_rows(unsafe=0, refused=0, fine=0, open_=0):
    kinds = (("harmful", "compliance", "harmful"), ("unharmful", "refusal", "unharmful"), ("unharmful", "compliance", "unharmful"),
             (None, None, "unharmful"))
    numbers = itertools.count()
    return [labelled(next(numbers), *labels) for labels, count in zip(kinds, (unsafe, refused, fine, open_), strict=True)
            for _ in range(count)]


@pytest.mark.parametrize("form", FORMATS)
def test_guard_rows_become_balanced_feedback(workspace, tmp_path, form):
    data = write(tmp_path / "guard.jsonl", guard_rows(unsafe=10, refused=4, fine=80, open_=3))
    run = execute(workspace, "guard-to-feedback", {"data": data, "format": form})
    counts = run.report["sample"]["after"]["kind"]
    assert counts == {"unsafe": 8, "nothing wrong": 8, "over-refusal": 4}, "the rarest makes up a fifth"
    assert run.report["bad_rows"] == 3
    assert [row["column"] for row in read_jsonl(run.dir / "bad_rows.jsonl")] == ["labels.completion"] * 3
    whole = execute(workspace, "guard-to-feedback", {"data": data, "format": form, "least_share": 0})
    assert whole.report["rows"] == 94
    for example in rows_of(whole):
        prompt, reply = asked(example)
        number = int(prompt.removeprefix("prompt number "))
        assert reply == f"reply number {number}"
        read = read_feedback(example.messages[-1]["content"])
        assert (read.unsafe, read.overrefuse) == (number < 10, 10 <= number < 14)


@pytest.mark.parametrize(("counts", "left"), [({"unsafe": 6, "refused": 6, "fine": 6}, [6, 6, 6]),
                                              ({"unsafe": 2, "refused": 6, "fine": 6}, [2, 2, 2])])
def test_the_rarest_kind_is_never_thinned_out(workspace, tmp_path, counts, left):
    data = write(tmp_path / "guard.jsonl", guard_rows(**counts))
    run = execute(workspace, "guard-to-feedback", {"data": data, "least_share": 0.5})
    assert sorted(run.report["sample"]["after"]["kind"].values()) == left


def test_test_rows_make_no_feedback(workspace, tmp_path):
    rows = guard_rows(unsafe=4, refused=4, fine=4)
    execute(workspace, "import-data", {"source": write(tmp_path / "test.jsonl", rows[:1]), "role": "test"})
    data = write(tmp_path / "guard.jsonl", [*rows, labelled(99, "harmful", "refusal", "unharmful", split="test")])
    with pytest.raises(UserError, match="exclude_test_rows=true"):
        execute(workspace, "guard-to-feedback", {"data": data})
    run = execute(workspace, "guard-to-feedback", {"data": data, "exclude_test_rows": True, "least_share": 0})
    assert (run.report["rows"], run.report["test_rows_dropped"], run.report["not_training"]) == (11, 1, 1)
    assert "prompt number 0" not in {asked(example).prompt for example in rows_of(run)}
    used = execute(workspace, "guard-to-feedback", {"data": data, "allow_test_rows": True, "least_share": 0})
    assert (used.report["rows"], used.report["test_rows_used"]) == (12, 1)


def test_a_reply_stands_in_the_feedback_once_and_not_at_all_where_its_labels_contradict_each_other(workspace, tmp_path):
    rows = guard_rows(unsafe=3, refused=3, fine=3)
    again = [rows[0], rows[8].model_copy(update={"labels": Labels(request="unharmful", completion="refusal", response="unharmful")})]
    run = execute(workspace, "guard-to-feedback", {"data": write(tmp_path / "guard.jsonl", [*rows, *again])})
    assert (run.report["rows"], run.report["duplicates_dropped"], run.report["conflicting_labels"]) == (8, 1, 2)
    assert "prompt number 8" not in {asked(example).prompt for example in rows_of(run)}, "neither label is known to be right"


# Names


def test_guard_and_chat_sets_are_told_apart_in_one_sentence(workspace, tmp_path, genesis_file):
    chat = execute(workspace, "genesis-to-messages", {"source": genesis_file([genesis(1)]), "name": "talks"})
    execute(workspace, "import-data", {"source": write(tmp_path / "guard.jsonl", guard_rows(fine=3)), "name": "guard"})
    assert find_chat("talks", workspace).run.id == chat.id
    wrong = {"talks": find_data, "talks:feedback": find_data, "guard": find_chat, str(tmp_path / "guard.jsonl"): find_chat,
             "guard:feedback": find_chat, "nothing": find_chat, "": find_chat}
    for ref, look in wrong.items():
        with pytest.raises(UserError) as caught:
            look(ref, workspace)
        assert str(caught.value).endswith((".", "`."))
        assert ref.partition(":")[0] in str(caught.value)


def test_a_file_of_conversations_is_read_and_its_faults_are_named(workspace, tmp_path):
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "row": 3, "split": "test"}
    path = tmp_path / "talks.jsonl"
    path.write_text(json.dumps(good) + "\n")
    assert [one.split for one in stream_chat(find_chat(str(path), workspace))] == ["test"]
    faults = (("assistant:a", "take turns"), ("user:a", "last message"), ("user:a assistant:", "empty"),
              ("user:a system:b assistant:c", "system"), ("human:a assistant:c", "human"))
    for turns, why in faults:
        bad = {"messages": [{"role": turn.partition(":")[0], "content": turn.partition(":")[2]} for turn in turns.split()]}
        path.write_text(json.dumps(good) + "\n" + json.dumps(bad) + "\n")
        with pytest.raises(UserError, match=f"line 2 .*{why}"):
            list(stream_chat(find_chat(str(path), workspace)))


def test_a_run_on_one_agents_set_descends_from_the_run_that_made_it(workspace, genesis_file):
    made = execute(workspace, "genesis-to-waltzrl", {"source": genesis_file([genesis(n) for n in range(9)]), "name": "genesis"})
    mixed = execute(workspace, "mix", {"sources": ["genesis:feedback"], "held_out": 0})
    assert [run.id for run in ancestors(mixed, workspace)] == [made.id]


# Mixing


def talks(prefix, count, agent="conversation"):
    if agent == "conversation":
        return [conversation("", f"{prefix} question {number}", f"{prefix} answer {number}") for number in range(count)]
    said = json.dumps({"reasoning": "", "unsafe": False, "overrefuse": False, "feedback": ""})
    return [conversation("", question(f"{prefix} question {number}", f"{prefix} answer {number}"), said) for number in range(count)]


def test_a_mix_keeps_the_shares_and_no_row_twice(workspace, tmp_path):
    first, second = talks("one", 300), talks("two", 50)
    again = conversation("another system prompt", "ONE  question 3", "One answer 3")
    sources = [write(tmp_path / "one.jsonl", first), write(tmp_path / "two.jsonl", [*second, again])]
    run = execute(workspace, "mix", {"sources": sources, "shares": [3, 2], "held_out": 20, "held_out_share": 0.5})
    given = {one["source"]: one for one in run.report["given"]["conversation"]}
    assert (given["one"]["taken"], given["two"]["taken"]) == (75, 50), "3 to 2, as many as the smaller source allows"
    assert given["two"]["duplicates"] == 1
    rows = rows_of(run, "conversation")
    assert Counter(row.split for row in rows) == {"train": 105, "validation": 20}
    assert len({pair_key(row.messages[0]["content"], row.messages[-1]["content"]) for row in rows}) == 125
    assert find_chat(run.id, workspace).path == run.dir / "conversation.jsonl", "where there is one agent's set, none has to be named"
    everything = execute(workspace, "mix", {"sources": sources})
    assert everything.report["rows"] == 350
    assert execute(workspace, "mix", {"sources": sources, "count": 70}).report["rows"] == 70


def test_the_seeds_plan_holds_out_500_of_3000_rows(workspace, tmp_path):
    source = write(tmp_path / "one.jsonl", talks("one", 3000))
    for preset, expected in (("any-size", 300), ("seed-plan", 500)):
        settings = with_preset(workspace.plugins.method("mix"), preset, {"sources": [source]})
        rows = rows_of(execute(workspace, "mix", settings), "conversation")
        assert sum(row.split == "validation" for row in rows) == expected


def test_a_prompt_that_one_agent_is_measured_on_is_not_learned_by_the_other(workspace, tmp_path):
    pair = [write(tmp_path / "talk.jsonl", talks("x", 200)), write(tmp_path / "judge.jsonl", talks("x", 120, "feedback"))]
    run = execute(workspace, "mix", {"sources": pair, "name": "both", "held_out": 500})
    sides = {agent: {split: {prompt_key(asked(row).prompt) for row in rows_of(run, agent) if row.split == split}
                     for split in ("train", "validation")} for agent in ("conversation", "feedback")}
    assert len(sides["conversation"]["validation"]) == 20, "a tenth, because 500 would leave nothing"
    assert len(sides["feedback"]["validation"]) == 12
    assert not (sides["conversation"]["validation"] | sides["feedback"]["validation"]) & (
        sides["conversation"]["train"] | sides["feedback"]["train"])
    assert find_chat("both:feedback", workspace).name == "both:feedback"


@pytest.mark.parametrize(("changes", "why"), [({"shares": [1]}, "2 sources"), ({"sources": ["one", "one"]}, "twice"),
                                              ({"shares": [0, 0]}, "zeros")])
def test_a_mix_that_makes_no_sense_says_why(workspace, tmp_path, changes, why):
    for name in ("one", "two"):
        write(tmp_path / f"{name}.jsonl", talks(name, 5))
    sources = [str(tmp_path / f"{name}.jsonl") for name in changes.pop("sources", ["one", "two"])]
    with pytest.raises(UserError, match=why):
        execute(workspace, "mix", {"sources": sources, **changes})


# Prompts to play on


def prompt_rows(prefix, count, side="harmful"):
    words = ("bakery", "river", "engine", "violin", "harbour", "lantern", "meadow", "compass", "orchard", "granite")
    return [{"prompt": f"{prefix} {words[number % 10]} {words[number // 10 % 10]} {number}", "side": side, "category": "c"}
            for number in range(count)]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_prompts_are_pooled_once_and_split_once(workspace, tmp_path):
    bad = jsonl(tmp_path / "bad.jsonl", prompt_rows("break the", 40))
    same = {"prompt": "BREAK the bakery  bakery 0", "side": "benign"}
    good = jsonl(tmp_path / "good.jsonl", [*prompt_rows("mend the", 60, "benign"), same])
    run = execute(workspace, "waltz-prompts", {"sources": [bad, good], "name": "pool", "similarity": 1.0, "test_share": 0.3})
    rows = list(read_records(run.dir / "data.jsonl", GuardExample))
    assert len({row.prompt for row in rows}) == len(rows) == 100
    assert run.report["given"][1]["duplicates"] == run.report["given"][1]["other_label"] == 1
    assert Counter((row.labels.request, row.split) for row in rows) == {
        ("harmful", "test"): 12, ("harmful", "train"): 28, ("unharmful", "test"): 18, ("unharmful", "train"): 42}
    with pytest.raises(UserError, match="30 rows of registered test sets"):
        guard_rows_of(rows, workspace.store)
    assert Counter(opening.side for opening in openings("pool", workspace, split="train")) == {"harmful": 28, "benign": 42}
    places = [opening.row for opening in openings("pool", workspace, "benign")]
    assert [rows[place].labels.request for place in places] == ["unharmful"] * 60


def test_files_in_another_order_give_the_same_halves(tmp_path):
    paths = [jsonl(tmp_path / "bad.jsonl", prompt_rows("break the", 40)),
             jsonl(tmp_path / "good.jsonl", prompt_rows("mend the", 60, "benign"))]
    found = []
    for place, order in enumerate((paths, paths[::-1])):
        workspace = Workspace(tmp_path / f"runs{place}")
        run = execute(workspace, "waltz-prompts", {"sources": order, "similarity": 1.0})
        found.append({row.prompt: row.split for row in read_records(run.dir / "data.jsonl", GuardExample)})
    assert found[0] == found[1]


def test_near_duplicates_and_prompts_without_a_side_are_left_out_and_counted(workspace, tmp_path):
    rows = [{"prompt": "Please tell me how to bake a very good loaf of sourdough bread at home", "label": "safe"},
            {"prompt": "Please tell me how to bake a very good loaf of sourdough bread at home!!", "label": "safe"},
            {"prompt": "Please tell me how I could bake a quick cake", "label": "safe"}]
    source = jsonl(tmp_path / "rows.jsonl", rows)
    run = execute(workspace, "waltz-prompts", {"sources": [source, jsonl(tmp_path / "bad.jsonl", prompt_rows("break the", 6))],
                                               "sides": ["benign", "harmful"]})
    assert run.report["given"][0]["near_duplicates"] == 1
    unlabelled = GuardExample(prompt="a prompt without a label of the request", response="r", labels=Labels(response="harmful"))
    other = write(tmp_path / "guard.jsonl", [unlabelled, *guard_rows(fine=4)])
    mixed = execute(workspace, "waltz-prompts", {"sources": [other], "similarity": 1.0})
    assert mixed.report["given"][0]["without_label"] == mixed.report["bad_rows"] == 1


def test_what_was_seen_is_trained_on_and_what_is_registered_is_tested(workspace, tmp_path):
    rows = prompt_rows("break the", 30)
    source = jsonl(tmp_path / "pool.jsonl", rows)
    execute(workspace, "import-data", {"source": jsonl(tmp_path / "tests.jsonl", rows[:5]), "role": "test"})
    learned = write(tmp_path / "talk.jsonl", [conversation("", row["prompt"], "No.") for row in rows[4:10]])
    run = execute(workspace, "waltz-prompts", {"sources": [source], "seen": [learned], "similarity": 1.0})
    half = {row.prompt: row.split for row in read_records(run.dir / "data.jsonl", GuardExample)}
    assert {half[row["prompt"]] for row in rows[:4]} == {"test"}
    assert {half[row["prompt"]] for row in rows[5:10]} == {"train"}
    assert rows[4]["prompt"] not in half, "seen and registered: neither half may have it"
    assert run.report["bad_rows"] == 1
    assert run.report["forced"] == {"train": 5, "test": 4}


def test_prompts_that_a_model_was_trained_on_are_not_tested_with(workspace, tmp_path):
    rows = prompt_rows("break the", 20)
    model = execute(workspace, "mix", {"sources": [write(tmp_path / "talk.jsonl", talks("x", 3))]})
    (model.dir / "trained_keys.txt").write_text("".join(prompt_key(row["prompt"].upper()) + "\n" for row in rows[:15]))
    run = execute(workspace, "waltz-prompts", {"sources": [jsonl(tmp_path / "pool.jsonl", rows)], "seen": [f"run:{model.id}"],
                                               "similarity": 1.0})
    half = {row.prompt: row.split for row in read_records(run.dir / "data.jsonl", GuardExample)}
    assert Counter(half.values()) == {"train": 15, "test": 5}
    assert {half[row["prompt"]] for row in rows[:15]} == {"train"}


def test_the_demo_prompts_are_split_away_from_what_the_agents_learn(workspace):
    run = execute(workspace, "waltz-prompts", {"sources": [str(DEMO / "waltz-prompts.jsonl")],
                                               "seen": [str(DEMO / "waltz-conversation.jsonl"), str(DEMO / "waltz-feedback.jsonl")]})
    assert {split: part["labels"]["request"] for split, part in run.report["splits"].items()} == {
        "train": {"harmful": 40, "unharmful": 40}, "test": {"harmful": 20, "unharmful": 20}}


# The Data page


def test_the_data_page_shows_conversations(workspace, genesis_file):
    from core.ui.data_page import DataPage

    run = execute(workspace, "genesis-to-waltzrl", {"source": genesis_file([genesis(number) for number in range(3)])})
    (run.dir / "status.json").write_text(json.dumps({**run.status, "stage": "data"}))
    assert data_rows.is_ready(run)
    assert data_rows.is_chat(run)
    assert len(data_rows.rows_of(run)) == 6
    shown = DataPage(workspace).shown(f"run={run.id}")
    assert "Answer number 2" in shown[3]
    assert "3 conversation" in shown[1]
    assert "Task number 0" in chat_rows.whole(run, 0)
    assert chat_rows.whole(run, 99) == ""
