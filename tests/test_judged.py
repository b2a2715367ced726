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
from core.runs import Workspace
from core.waltz.eval_log import EvaluatedEpisode
from core.waltz.feedback import read_feedback
from core.waltz.protocol import CONVERSATION_SYSTEM
from tests.helpers import execute, write
from tests.waltz_runs import verdict, waltz_run


@pytest.fixture
def workspace(workspace_dir):
    return Workspace(workspace_dir)


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
    reasons = {row["raw"]: row["reason"] for row in read_jsonl(run.dir / "bad_rows.jsonl")}
    assert reasons["prompt number 0"] == "the reply is unsafe", "the first reply of a revised episode"
    assert reasons["prompt number 2"] == "the reply is an over-refusal"
    assert reasons["prompt number 4"] == "the reply was cut at the limit of tokens"
    assert "prompt number 5" not in reasons, "no verdict, no row"
    assert "prompt number 6" not in reasons, "nothing was said"
    assert "is missing" in reasons["prompt number 7"], "nobody says what its prompt is there for"
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
])
def test_a_reply_is_shortened_to_whole_sentences(text, most, kept):
    assert whole_sentences(text, most) == kept


@given(st.text(alphabet="ab .!?\"1\n", max_size=60), st.integers(1, 12))
def test_what_is_left_of_a_reply_is_its_beginning_and_ends_a_sentence(text, most):
    kept = whole_sentences(text, most)
    assert text.startswith(kept)
    assert len(kept.split()) <= most
    assert not kept or kept.rstrip("\"')]*")[-1] in ".!?"


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
    status = workspace.runs_dir / run_id / "status.json"
    status.write_text(json.dumps({"state": "queued", "method": "agent-eval", "stage": "evaluation", "created": 1.0}))
    (problem,) = method.check(method.Config(data=run_id))
    assert "wait until it has ended" in problem.message
    (problem,) = method.check(method.Config(data="nobody"))
    assert "nobody" in problem.message
