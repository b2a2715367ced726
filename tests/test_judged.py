"""Replies that a judge looked at, as feedback and as talk: what becomes a row, what does not and why."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.chat.judged import find_replies
from core.chat.labelled_job import whole_sentences
from core.chat.messages import asked, shape_problem
from core.lineage import ancestors
from core.methods import UserError
from core.records import ChatExample, Episode, GuardExample, Labels, Round, Said, read_jsonl, read_records
from core.waltz.eval_log import EvaluatedEpisode
from core.waltz.feedback import read_feedback
from core.waltz.protocol import CONVERSATION_SYSTEM
from tests.helpers import execute, write
from tests.waltz_runs import verdict, waltz_run


def episode(row, side, reply, judged, *later, finish="stop"):
    """A prompt, a first reply with its verdict, and (reply, verdict) of the revisions."""
    rounds = [(Said(text=reply, finish=finish), judged), *((Said(text=text), one) for text, one in later)]
    return Episode(row=row, prompt=f"prompt number {row}", side=side, rounds=[Round(reply=said, verdict=one) for said, one in rounds])


EPISODES = [
    episode(0, "harmful", "bad", verdict(unsafe=True), ("better", verdict())),
    episode(1, "harmful", "no", verdict()),
    episode(2, "benign", "sorry", verdict(overrefuse=True)),
    episode(3, "benign", "here it is", verdict()),
    episode(4, "benign", "here it goes on and", verdict(), finish="length"),
    episode(5, "benign", "who knows", verdict(missing="the judge was out")),
    episode(6, "benign", "  ", verdict()),
    episode(7, None, "fine, whatever it was", verdict()),
]


def evaluation(workspace, episodes=EPISODES, state="succeeded"):
    """A finished agent-eval run, as far as others read it."""
    folder = workspace.runs_dir / "agent-eval-0001"
    folder.mkdir()
    (folder / "status.json").write_text(json.dumps({"state": state, "method": "agent-eval", "stage": "evaluation", "created": 1.0}))
    write(folder / "episodes.jsonl", [EvaluatedEpisode(model="embedded", episode=one) for one in episodes])
    return folder.name


def talk_of(run):
    return {example.messages[1]["content"]: example.messages[2]["content"] for example in read_records(run.dir / "data.jsonl", ChatExample)}


def test_good_whole_replies_become_talk_and_all_others_say_why_not(workspace):
    run = execute(workspace, "good-replies", {"data": evaluation(workspace), "name": "own words"})
    assert talk_of(run) == {"prompt number 0": "better", "prompt number 1": "no", "prompt number 3": "here it is"}
    for example in read_records(run.dir / "data.jsonl", ChatExample):
        assert (example.messages[0]["content"], example.source) == (CONVERSATION_SYSTEM, "embedded")
        assert shape_problem(example.messages) == ""
    assert run.report["not_taken"] == {"the reply is unsafe": 1, "the reply is an over-refusal": 1}, "prompt 0 (its first reply) and 2"
    assert run.status["stats"]["Not taken"] == "2"
    bad = {row["raw"]: row for row in read_jsonl(run.dir / "bad_rows.jsonl")}
    assert set(bad) == {"prompt number 4", "prompt number 7"}, "5 and 6 are no rows: no verdict, nothing said"
    assert bad["prompt number 4"]["reason"] == "the reply was cut at the limit of tokens"
    assert "is missing" in bad["prompt number 7"]["reason"], "nobody says what its prompt is there for"
    lines = (workspace.runs_dir / "agent-eval-0001" / bad["prompt number 7"]["file"]).read_text().splitlines()
    for prompt, row in bad.items():
        assert prompt in lines[row["line"] - 1]
    assert run.report["labels_from"] == "a judge"
    assert [one.id for one in ancestors(workspace.run(run.id), workspace)] == ["agent-eval-0001"]


@pytest.mark.parametrize(("text", "most", "kept"), [
    ("One two. Three four five! Six", 5, "One two. Three four five!"),
    ("One two. Three four five! Six", 4, "One two."),
    ("One two three", 9, ""),
    ("It is so:\n1. Stir it. 2. Bake", 20, "It is so:\n1. Stir it."),
    ('He said "so it is." And then', 20, 'He said "so it is."'),
    ("About 3.5 of them. More", 20, "About 3.5 of them."),
    ("Long first sentence here. Next.", 3, ""),
    ("All of it stays.", 4, "All of it stays."),
    ("You should ask Dr. Smith about it today.", 6, ""),
    ("Bake it. You should ask Dr.", 6, "Bake it."),
    ("It is Mr. Hill vs. Mrs. Hill and Prof. Lee. More", 20, "It is Mr. Hill vs. Mrs. Hill and Prof. Lee."),
    ("Use a tool, e.g. a hammer", 6, ""),
    ("Use a tool, e.g. Python or such. Then", 7, "Use a tool, e.g. Python or such."),
    ("Use flour, sugar etc. and stir. Bake", 20, "Use flour, sugar etc. and stir."),
    ("See No. 5 of it. Then", 20, "See No. 5 of it."),
    ("No. It cannot be done", 20, "No."),
    ("Ah! how late it is. Élan. é", 20, "Ah! how late it is."),
    ("Go to example.com. Then", 20, "Go to example.com."),
])
def test_a_reply_is_shortened_to_whole_sentences(text, most, kept):
    assert whole_sentences(text, most) == kept


@given(st.text(alphabet="ab .!?\"1\n", max_size=60), st.integers(1, 12))
def test_what_is_left_of_a_reply_is_its_beginning_and_ends_a_sentence(text, most):
    kept = whole_sentences(text, most)
    assert text.startswith(kept)
    assert len(kept.split()) <= most
    assert not kept or kept.rstrip("\"')]*")[-1] in ".!?"


PHRASES = ["Ask Dr.", "see Mrs. Hill", "e.g. bread", "i.e.", "in the U.S. today", "St. Ives", "No. 7", "flour etc. and", "It is so.",
           "why?", "Yes!"]


@given(st.lists(st.sampled_from(PHRASES), max_size=8), st.integers(1, 20))
def test_no_reply_ends_at_an_abbreviation_or_before_a_small_letter(phrases, most):
    text = " ".join(phrases)
    kept = whole_sentences(text, most)
    rest = text[len(kept):]
    assert not kept.endswith((" Dr.", "e.g.", "i.e.", "U.S.", "St.", "Mrs.", "etc."))
    assert not kept.endswith("No.")
    assert not kept or not rest or (rest[0] == " " and not rest[1].islower())


def test_cut_and_long_replies_are_shortened_where_that_is_wanted(workspace):
    episodes = [episode(0, "benign", "Stir it well. Then bake it for", verdict(), finish="length"),
                episode(1, "benign", "no full stop", verdict()),
                episode(2, "benign", "one word after the other without an end", verdict()),
                episode(3, "benign", "Stir it. Bake it. Let it cool down.", verdict())]
    run = execute(workspace, "good-replies", {"data": evaluation(workspace, episodes), "shorten_to": 5})
    assert talk_of(run) == {"prompt number 0": "Stir it well.", "prompt number 1": "no full stop", "prompt number 3": "Stir it. Bake it."}
    assert run.report["bad_row_reasons"] == {"response: no sentence ends within 5 words": 1}


def test_every_verdict_becomes_feedback_that_says_the_same(workspace):
    run = execute(workspace, "guard-to-feedback", {"data": evaluation(workspace), "least_share": 0})
    found = {}
    for example in read_records(run.dir / "data.jsonl", ChatExample):
        prompt, reply = asked(example)
        read = read_feedback(example.messages[-1]["content"])
        found[prompt, reply] = (read.unsafe, read.overrefuse)
    assert found == {("prompt number 0", "bad"): (True, False), ("prompt number 0", "better"): (False, False),
                     ("prompt number 1", "no"): (False, False), ("prompt number 2", "sorry"): (False, True),
                     ("prompt number 3", "here it is"): (False, False), ("prompt number 4", "here it goes on and"): (False, False)}


def test_episodes_of_a_training_are_replies_too(workspace):
    training = waltz_run(workspace, count=2, batch=8)
    replies = list(find_replies(training.id, workspace).stream())
    assert len(replies) >= 16
    lines = (training.dir / "episodes.jsonl").read_text().splitlines()
    assert all(json.dumps(reply.example.prompt) in lines[reply.line - 1] for reply in replies)
    assert replies[-1].line == len(lines)
    good = {(reply.example.prompt, reply.example.response) for reply in replies
            if reply.whole and reply.example.labels.response == "unharmful" and not (
                reply.example.labels.completion == "refusal" and reply.example.labels.request == "unharmful")}
    run = execute(workspace, "good-replies", {"data": training.id})
    assert set(talk_of(run).items()) <= good
    assert run.report["sample"]["taken"] == len(good)


def test_people_s_labels_do_as_well_and_count_is_spread_over_the_cases(workspace, tmp_path):
    labels = [("unharmful", "compliance")] * 9 + [("harmful", "refusal")] * 3
    rows = [GuardExample(prompt=f"prompt number {number}", response=f"reply {number}",
                         labels=Labels(request=request, completion=completion, response="unharmful"))
            for number, (request, completion) in enumerate(labels)]
    run = execute(workspace, "good-replies", {"data": write(tmp_path / "rows.jsonl", rows), "count": 6})
    assert run.report["sample"]["after"]["case"] == {"good answer": 3, "right refusal": 3}
    assert run.report["labels_from"] == "the set"


@pytest.mark.parametrize("method", ["good-replies", "guard-to-feedback"])
def test_replies_to_test_prompts_are_refused(workspace, tmp_path, method):
    test = GuardExample(prompt="Prompt  number 3", labels=Labels(request="unharmful"))
    execute(workspace, "import-data", {"source": write(tmp_path / "test.jsonl", [test]), "role": "test"})
    data = evaluation(workspace)
    with pytest.raises(UserError, match="exclude_test_rows=true"):
        execute(workspace, method, {"data": data})
    run = execute(workspace, method, {"data": data, "exclude_test_rows": True})
    assert run.report["test_rows_dropped"] == 1
    assert "prompt number 3" not in (run.dir / "data.jsonl").read_text()


def test_what_gives_no_row_is_said_before_the_start(workspace):
    method = workspace.plugins.methods["good-replies"](workspace)
    bad = [episode(1, "harmful", "bad", verdict(unsafe=True)), episode(2, "benign", "sorry", verdict(overrefuse=True))]
    run_id = evaluation(workspace, bad)
    (problem,) = method.check(method.Config(data=run_id))
    assert problem.severity == "error"
    assert "neither unsafe nor an over-refusal" in problem.message
    assert "the reply is unsafe (1)" in problem.message
    assert "training" not in problem.message
    status = workspace.runs_dir / run_id / "status.json"
    status.write_text(json.dumps({"state": "queued", "method": "agent-eval", "stage": "evaluation", "created": 1.0}))
    (problem,) = method.check(method.Config(data=run_id))
    assert "wait until it has ended" in problem.message
    (problem,) = method.check(method.Config(data="nobody"))
    assert "nobody" in problem.message


@pytest.mark.parametrize("method", ["good-replies", "guard-to-feedback"])
@pytest.mark.parametrize("order", [1, -1])
def test_of_rows_that_contradict_each_other_none_is_taken_whichever_comes_first(workspace, tmp_path, method, order):
    good = [GuardExample(prompt=f"prompt number {number}", response="Gladly.",
                         labels=Labels(request="unharmful", completion="compliance", response="unharmful")) for number in range(3)]
    unsafe = good[0].model_copy(update={"prompt": " Prompt number 0", "labels": good[0].labels.model_copy(update={"response": "harmful"})})
    refused = good[1].model_copy(update={"labels": good[1].labels.model_copy(update={"completion": "refusal"})})
    rows = [*good, unsafe, refused, good[2]][::order]
    run = execute(workspace, method, {"data": write(tmp_path / "rows.jsonl", rows), **({} if method == "good-replies" else
                                                                                      {"least_share": 0})})
    assert [("prompt number 2" in line) for line in (run.dir / "data.jsonl").read_text().splitlines()] == [True]
    assert (run.report["conflicting_labels"], run.report["duplicates_dropped"], run.report["not_taken"]) == (4, 1, {})
    method = workspace.plugins.methods["good-replies"](workspace)
    (problem,) = method.check(method.Config(data=write(tmp_path / "rows.jsonl", [good[0], unsafe])))
    assert "2 rows contradict the labels of another row" in problem.message


def test_where_no_row_is_left_the_error_names_the_reason(workspace, tmp_path):
    def error(**settings):
        with pytest.raises(UserError) as caught:
            execute(workspace, "good-replies", settings)
        return str(caught.value)

    row = GuardExample(prompt="prompt number 3", response="Gladly.",
                       labels=Labels(request="unharmful", completion="compliance", response="unharmful"))
    execute(workspace, "import-data", {"source": write(tmp_path / "test.jsonl", [row]), "role": "test", "name": "held out"})
    only_tests = error(data=write(tmp_path / "rows.jsonl", [row]), exclude_test_rows=True)
    assert "exclude_test_rows leaves out 1 row of registered test sets: held out (1); 1 with the same response." in only_tests
    assert "for training" not in only_tests
    others = [row.model_copy(update={"prompt": "another", "split": "validation"})]
    assert "1 row is not for training" in error(data=write(tmp_path / "rows.jsonl", others))
    silent = error(data=evaluation(workspace, [episode(1, "benign", "who knows", verdict(missing="the judge was out"))]))
    assert "no round has a verdict" in silent
    assert "for training" not in silent


def labelled_set(workspace, tmp_path, name):
    row = GuardExample(prompt="an imported prompt", response="Gladly.",
                       labels=Labels(request="unharmful", completion="compliance", response="unharmful"))
    return execute(workspace, "import-data", {"source": write(tmp_path / f"{name}.jsonl", [row]), "name": name})


def call(workspace, run_id, name):
    (workspace.runs_dir / run_id / "labels.json").write_text(json.dumps({"name": name, "tags": [], "note": "", "archived": False}))


def test_a_judged_run_is_an_ancestor_by_its_name_too(workspace):
    call(workspace, evaluation(workspace), "my-eval")
    talk = execute(workspace, "good-replies", {"data": "my-eval", "name": "my-eval"})
    assert [one.id for one in ancestors(workspace.run(talk.id), workspace)] == ["agent-eval-0001"], "the talk of that name is itself"
    feedback = execute(workspace, "guard-to-feedback", {"data": "my-eval", "least_share": 0})
    assert [one.id for one in ancestors(workspace.run(feedback.id), workspace)] == ["agent-eval-0001"], "talk has no labels"


@pytest.mark.parametrize("state", ["succeeded", "running"])
def test_an_evaluation_hides_no_set_of_its_name(workspace, tmp_path, state):
    imported = labelled_set(workspace, tmp_path, "both")
    call(workspace, evaluation(workspace, state=state), "both")
    run = execute(workspace, "good-replies", {"data": "both"})
    assert talk_of(run) == {"an imported prompt": "Gladly."}
    assert run.report["labels_from"] == "the set"
    assert [one.id for one in ancestors(workspace.run(run.id), workspace)] == [imported.id]


def test_bad_rows_of_an_imported_set_are_named_by_their_lines(workspace, tmp_path):
    rows = [GuardExample(prompt=f"prompt number {number}", response="Gladly.", row=number, labels=Labels(
        request="unharmful", completion="compliance" if number % 2 else None, response="unharmful")) for number in range(1, 7)]
    source = execute(workspace, "import-data", {"source": write(tmp_path / "rows.jsonl", [*rows[:1], *rows]), "name": "set",
                                                  "deduplicate": "exact"})
    run = execute(workspace, "good-replies", {"data": "set"})
    lines = (source.dir / "data.jsonl").read_text().splitlines()
    bad = list(read_jsonl(run.dir / "bad_rows.jsonl"))
    assert [row["raw"] for row in bad] == [f"prompt number {number}" for number in (2, 4, 6)]
    for row in bad:
        assert row["raw"] in lines[row["line"] - 1]
