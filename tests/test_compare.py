"""Comparisons: what each column reads, votes and their counting, what is kept and for whom, what is saved for training."""

import json
from contextlib import contextmanager

import pytest

from core.access import Access, Meter
from core.compare import asking
from core.compare.keeping import Comparisons, Room, exported, refuse_full, save_pair, save_turn
from core.compare.records import Answer, Comparison, checked_columns
from core.compare.votes import duels, keep_vote, votes
from core.methods import UserError
from core.records import ChatExample, Preference, read_records
from core.runs import Workspace


def comparison(models=("embedded", "run:a"), said=(("Hello?", ("Good day.", "No.")),), **more):
    made = Comparison(columns=checked_columns(list(models)), options={"temperature": 0.7, "seed": 5}, **more)
    for prompt, texts in said:
        number = made.open(prompt)
        made.exchanges[number].answers = [Answer(text=text, over="end" if text else "error") for text in texts]
    return made


def test_each_column_reads_its_own_conversation():
    made = comparison(said=[("One?", ("a1", "b1")), ("Two?", ("a2", "")), ("Three?", ("a3", "b3"))], system="Be brief.")
    made.columns[1].own["system"] = "Be long."
    assert made.messages(0, 1) == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One?"},
                                   {"role": "assistant", "content": "a1"}, {"role": "user", "content": "Two?"}]
    assert [one["content"] for one in made.messages(1, 2)] == ["Be long.", "One?", "b1", "Three?"], "a failed answer goes with its message"


def test_settings_of_a_column_come_before_the_shared_ones_and_seeds_are_the_same_for_all():
    made = comparison()
    made.columns[1].own = {"temperature": 0.1, "system": "x"}
    assert made.options_of(0) == {"temperature": 0.7, "seed": 5}
    assert made.options_of(1) == {"temperature": 0.1, "seed": 5}
    assert made.options_of(1, again=2)["seed"] == 7


def test_an_edited_message_replaces_what_came_after_it():
    made = comparison(said=[("One?", ("a", "b")), ("Two?", ("c", "d")), ("Three?", ("e", "f"))])
    assert made.open("Two, please?", at=1) == 1
    assert [one.prompt for one in made.exchanges] == ["One?", "Two, please?"]
    assert not made.exchanges[1].answers[0].over


@pytest.mark.parametrize("models, why", [([], "at least one"), (["embedded"] * 5, "5 models"), (["nonsense"], "no model reference"),
                                         (["", "  "], "at least one")])
def test_columns_that_cannot_be(models, why):
    with pytest.raises(UserError, match=why):
        checked_columns(models)


# ---- votes ----


def test_names_are_hidden_until_the_vote_and_the_vote_says_whether_they_were():
    made = comparison(blind=True)
    assert made.names_hidden
    made.vote(0, "A")
    assert not made.names_hidden
    assert made.exchanges[0].blind
    made.vote(0, "B")
    assert made.exchanges[0].blind, "a vote that is changed was blind all the same"
    made.open("And now?")
    made.exchanges[1].answers = [Answer(text="x", over="end"), Answer(text="y", over="end")]
    made.vote(1, "A")
    assert not made.exchanges[1].blind


def test_names_that_were_seen_stay_in_sight_when_the_vote_goes():
    made = comparison(blind=True)
    made.vote(0, "A")
    made.exchanges[0].vote = ""  # another answer is asked for
    assert not made.names_hidden
    made.vote(0, "B")
    assert not made.exchanges[0].blind
    made.open("Hello again?", at=0)
    assert not made.names_hidden


@pytest.mark.parametrize("change, choice, why", [
    ({}, "C", "is no vote"), ({"over": ""}, "A", "Wait until"), ({"text": "", "over": "error"}, "A", "gave no answer")])
def test_votes_that_cannot_be(change, choice, why):
    made = comparison()
    made.exchanges[0].answers[0] = made.exchanges[0].answers[0].model_copy(update=change)
    with pytest.raises(UserError, match=why):
        made.vote(0, choice)


def test_one_model_has_nothing_to_be_compared_with():
    with pytest.raises(UserError, match="two or more"):
        comparison(models=["embedded"], said=[("Hello?", ("Good day.",))]).vote(0, "A")


def test_votes_are_counted_by_pair_and_only_blind_ones(workspace):
    def voted(models, choice, blind=True):
        made = comparison(models=models, said=[("Hello?", ("x",) * len(models))], blind=blind)
        made.vote(0, choice)
        keep_vote(workspace, made, 0)
        return made

    voted(["run:b", "embedded", "run:c"], "A")  # b beats embedded and c; embedded and c: nothing known
    voted(["embedded", "run:b"], "B")
    voted(["embedded", "run:b"], "tie")
    voted(["embedded", "run:b"], "bad")
    voted(["embedded", "run:b"], "A", blind=False)
    changed = voted(["embedded", "run:b"], "B")
    changed.vote(0, "A")
    keep_vote(workspace, changed, 0)
    assert len(votes(workspace)) == 6, "a changed vote counts once"
    found = {(duel.one, duel.other): duel for duel in duels(votes(workspace))}
    assert set(found) == {("embedded", "run:b"), ("run:b", "run:c")}
    duel = found["embedded", "run:b"]
    assert (duel.one_wins, duel.other_wins, duel.ties, duel.both_bad, duel.seen) == (1, 2, 1, 1, 1)
    assert duel.rate.value == pytest.approx(1 / 3)
    assert duel.rate.n == 3
    assert duel.rate.low < 1 / 3 < duel.rate.high
    assert found["run:b", "run:c"].one_wins == 1
    assert "Hello" not in (workspace.runs_dir / "votes.jsonl").read_text(), "votes hold no texts"


def test_a_vote_on_another_answer_does_not_replace_the_blind_one(workspace):
    made = comparison(models=["embedded", "run:b"], blind=True)
    made.vote(0, "A")
    keep_vote(workspace, made, 0)
    made.exchanges[0].answers[1] = Answer(text="Another.", over="end", seed=43)
    made.exchanges[0].vote = ""
    made.vote(0, "B")
    keep_vote(workspace, made, 0)
    (duel,) = duels(votes(workspace))
    assert (duel.one_wins, duel.other_wins, duel.seen) == (1, 0, 1)


# ---- keeping ----


def test_the_owners_comparisons_survive_a_restart_and_are_listed(workspace):
    made = comparison()
    Comparisons(workspace).keep(made)
    fresh = Comparisons(workspace)
    assert fresh.find(made.id) == made
    assert [one.id for one in fresh.newest(5)] == [made.id]
    assert workspace.runs() == [], "no run is made of it"


def test_a_vote_while_the_guard_still_reads_is_not_lost(workspace):
    kept = Comparisons(workspace)
    made = comparison()
    kept.keep(made)
    with kept.in_work(kept.find(made.id)) as asked:
        kept.find(made.id).vote(0, "A")
        asked.exchanges[0].answers[1].guard_problem = "late"
    found = Comparisons(workspace).find(made.id)
    assert found.exchanges[0].vote == "A"
    assert found.exchanges[0].answers[1].guard_problem == "late"


def test_an_event_that_found_it_before_another_changed_it_changes_the_same_one(workspace):
    """Each event finds the comparison first and works on it then; between the two, another one may have begun, or ended."""
    kept = Comparisons(workspace)
    made = comparison()
    kept.keep(made)
    early, late = kept.find(made.id), kept.find(made.id)
    with kept.in_work(late) as one:
        one.open("Two?")
        with kept.in_work(early) as other:
            assert other is one
            other.shared = True
    third = early.model_copy(deep=True)
    with kept.in_work(third) as again:
        assert [exchange.prompt for exchange in again.exchanges] == ["Hello?", "Two?"]
        assert again.shared


def test_what_is_there_already_is_not_written_again(workspace):
    kept = Comparisons(workspace)
    made = comparison()
    kept.keep(made)
    path = workspace.runs_dir / "comparisons" / f"{made.id}.json"
    before = path.stat().st_ino
    with kept.in_work(kept.find(made.id)):
        pass
    assert path.stat().st_ino == before, "looking at an old chat does not make it the newest"


def test_an_answer_that_nobody_was_there_to_end_is_stopped(workspace):
    kept = Comparisons(workspace)
    made = comparison()
    made.open("Two?")
    kept.keep(made)
    assert [answer.over for answer in Comparisons(workspace).find(made.id).exchanges[1].answers] == ["stopped", "stopped"]
    with kept.in_work(comparison()) as asked:
        asked.open("Two?")
        assert not kept.find(asked.id).exchanges[1].answers[0].over, "it is being written"


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "short", "a" * 100, "nobody-has-this-id", "%2e%2e%2fsecret"])
def test_ids_that_lead_nowhere(workspace, name):
    assert Comparisons(workspace).find(name) is None


def test_a_visitors_chat_stays_in_memory_and_is_read_by_nobody_else_unless_it_is_shared(workspace):
    kept = Comparisons(workspace)
    made = comparison(owner="visitor-1")
    kept.keep(made)
    assert kept.find(made.id, "visitor-1") == made
    assert kept.find(made.id, "visitor-2") is None
    assert not list(workspace.runs_dir.rglob("*.json")), "no disk"
    made.shared = True
    kept.keep(made)
    assert kept.find(made.id, "visitor-2") == made
    assert Comparisons(workspace).find(made.id, "visitor-1") is None


class Comer(Access):
    """Whoever comes, from a network."""

    place = "house"

    def network(self):
        return self.place


def kept_of(workspace, *comers):
    """(owner, network) of each -> which of their chats are still there, each kept in turn."""
    kept = Comparisons(Workspace(workspace.runs_dir, Comer()))
    made = []
    for owner, kept.workspace.access.place in comers:
        made.append(comparison(owner=owner))
        kept.keep(made[-1])
    return [kept.find(one.id, one.owner) is not None for one in made]


def test_a_visitor_who_begins_many_chats_pushes_out_nobody_elses(workspace, monkeypatch):
    monkeypatch.setattr("core.compare.keeping.OF_A_VISITOR", Room(2, 10**6))
    assert kept_of(workspace, ("ada", "house"), *[("eve", "house")] * 4) == [True, False, False, True, True]
    monkeypatch.setattr("core.compare.keeping.OF_A_VISITOR", Room(10, 2 * len(comparison(owner="eve").model_dump_json()) + 99))
    assert kept_of(workspace, ("ada", "house"), *[("eve", "house")] * 4) == [True, False, False, True, True], "nor long ones"


def test_nor_by_new_cookies_from_one_network(workspace, monkeypatch):
    monkeypatch.setattr("core.compare.keeping.OF_A_NETWORK", Room(3, 10**6))
    assert kept_of(workspace, ("ada", "house"), *[(f"eve{number}", "den") for number in range(5)]) == [True, False, False, True, True, True]


def test_all_visitors_together_have_so_much_room(workspace, monkeypatch):
    monkeypatch.setattr("core.compare.keeping.OF_ALL", Room(3, 10**6))
    assert kept_of(workspace, *[(f"v{number}", f"n{number}") for number in range(5)]) == [False, False, True, True, True]
    monkeypatch.setattr("core.compare.keeping.OF_ALL", Room(3, 1))
    assert kept_of(workspace, ("ada", "house"), ("ben", "hut")) == [False, True], "what was just said stays"


def test_a_visitors_chat_has_so_many_messages(monkeypatch):
    monkeypatch.setattr("core.compare.keeping.MOST_MESSAGES", 2)
    made = comparison(owner="v", said=[("One?", ("a", "b")), ("Two?", ("c", "d"))])
    with pytest.raises(UserError, match="2 messages"):
        refuse_full(made)
    refuse_full(made, at=1)
    refuse_full(comparison(said=[("One?", ("a", "b"))] * 3))  # the owner's lie on the disk


def test_what_is_saved_can_be_trained_on(workspace):
    made = comparison(said=[("One?", ("a1", "a1")), ("Two?", ("better", "worse"))], system="Be kind.")
    chat = save_turn(workspace, made, 1, 0)
    (row,) = read_records(chat, ChatExample)
    assert [one["content"] for one in row.messages] == ["Be kind.", "One?", "a1", "Two?", "better"]
    pairs = save_pair(workspace, made, 1, 0, 1)
    save_pair(workspace, made, 1, 0, 1)
    rows = list(read_records(pairs, Preference))
    assert len(rows) == 2
    assert rows[0].chosen == [{"role": "assistant", "content": "better"}]
    assert rows[0].rejected == [{"role": "assistant", "content": "worse"}]
    assert rows[0].prompt == made.messages(0, 1)
    from core.data import find_chat

    assert find_chat(str(chat), workspace).path == chat


def test_answers_to_different_conversations_are_no_pair(workspace):
    with pytest.raises(UserError, match="different conversations"):
        save_pair(workspace, comparison(said=[("One?", ("a", "b")), ("Two?", ("c", "d"))]), 1, 0, 1)
    with pytest.raises(UserError, match="same text"):
        save_pair(workspace, comparison(said=[("One?", ("a", "a"))]), 0, 0, 1)
    with pytest.raises(UserError, match="two whole answers"):
        save_pair(workspace, comparison(said=[("One?", ("a", ""))]), 0, 0, 1)


def test_an_export_tells_no_hidden_name():
    made = comparison(blind=True)
    lines = [json.loads(line) for line in exported(made)]
    assert [line["model"] for line in lines] == ["A", "B"]
    made.vote(0, "tie")
    lines = [json.loads(line) for line in exported(made)]
    assert [line["model"] for line in lines] == ["embedded", "run:a"]
    assert lines[0]["messages"][-1] == {"role": "assistant", "content": "Good day."}


# ---- asking ----


class Scripted:
    """A Serving that says what it was told to."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def ask_all(self, questions):
        self.asked.append(list(questions))
        for place, events in enumerate(self.answers.pop(0)):
            for event in events:
                yield place, event


def test_answers_and_guard_verdicts_are_taken_as_they_come(workspace, monkeypatch):
    end = {"who": "end", "seconds": 1.0, "tokens": 4, "writing": 0.5, "finish": "stop"}
    labels = {"labels": {"request": "unharmful", "completion": "compliance", "response": "unharmful"}}
    serving = Scripted([[{"who": "status", "text": "loading"}, {"who": "reply", "turn": 0, "text": "Good", "done": False},
                         {"who": "reply", "turn": 0, "text": "Good day.", "done": True}, end], [{"who": "error", "text": "It failed."}]],
                       [[{"who": "classified", "classified": labels}, {"who": "end", "seconds": 1.0}]])
    monkeypatch.setattr(asking, "serving_of", lambda _: serving)
    made = Comparison(columns=checked_columns(["embedded", "run:a"]), guard="run:g")
    number = made.open("Hello?")
    seen = [(set(changed), [answer.over for answer in made.exchanges[0].answers]) for changed in asking.ask(workspace, made, number, "me")]
    one, other = made.exchanges[0].answers
    assert (one.text, one.over, one.tokens, one.speed) == ("Good day.", "end", 4, 8.0)
    assert one.guard.labels.completion == "compliance"
    assert (other.over, other.problem, other.guard) == ("error", "It failed.", None)
    assert ({0}, ["", ""]) in seen
    assert ({0, 1}, ["end", "error"]) in seen, "the first answer, too: it can be voted on and asked again from now on"
    assert ({0}, ["end", "error"]) in seen, "the guard's word"
    assert [question.model for question in serving.asked[1]] == ["run:g"], "the guard reads whole answers only"
    assert {question.who for asked in serving.asked for question in asked} == {"me"}


def test_stop_counts_from_when_the_person_asked(workspace, monkeypatch):
    end = {"who": "end", "seconds": 1.0}
    serving = Scripted([[{"who": "reply", "turn": 0, "text": "Yes.", "done": True}, end]], [[end]])
    monkeypatch.setattr(asking, "serving_of", lambda _: serving)
    made = Comparison(columns=checked_columns(["embedded"]), guard="run:g")
    list(asking.ask(workspace, made, made.open("Hello?"), "me", since=5.0))
    assert [(one.kind, one.who, one.since) for asked in serving.asked for one in asked] == [("answer", "me", 5.0), ("classify", "me", 5.0)]


def test_an_answer_again_draws_with_the_next_seed_and_leaves_the_others_alone(workspace, monkeypatch):
    serving = Scripted([[{"who": "reply", "turn": 0, "text": "New.", "done": True}, {"who": "end"}]])
    monkeypatch.setattr(asking, "serving_of", lambda _: serving)
    made = comparison()
    list(asking.ask(workspace, made, 0, "me", [1], again=1))
    assert [answer.text for answer in made.exchanges[0].answers] == ["Good day.", "New."]
    assert made.exchanges[0].answers[1].seed == serving.asked[0][0].options["seed"] == 6


def test_an_answer_asked_anew_while_the_guard_reads_the_old_one_is_not_mixed_up_with_it(workspace, monkeypatch):
    def labelled(response):
        return {"who": "classified", "classified": {"labels": {"response": response}}}

    said = [[{"who": "reply", "turn": 0, "text": "Old.", "done": True}, {"who": "end"}]] * 2
    new = [[{"who": "reply", "turn": 0, "text": text, "done": False} for text in ("New", "New one")]]
    serving = Scripted(said, [[labelled("unharmful")], [labelled("harmful")]], new)
    monkeypatch.setattr(asking, "serving_of", lambda _: serving)
    made = Comparison(columns=checked_columns(["embedded", "run:a"]), guard="run:g")
    first = asking.ask(workspace, made, made.open("Hello?"), "me")
    while made.exchanges[0].answers[0].guard is None:
        next(first)
    old = made.exchanges[0].answers[1]
    second = asking.ask(workspace, made, 0, "me", [1], again=1)
    while made.exchanges[0].answers[1].text != "New":
        next(second)
    for _ in first:
        pass
    newest = made.exchanges[0].answers[1]
    assert (old.guard.labels.response, newest.guard, newest.text) == ("harmful", None, "New"), "the word on the old text is the old one's"
    assert not newest.over, "who asked first does not end what another one writes"
    second.close()
    assert newest.over == "stopped"


def test_a_guard_that_nobody_waits_for_is_not_waited_for_for_ever(workspace, monkeypatch):
    """Somebody closes the page while the guard reads: the chat, opened again, must not say that it still does."""
    said = [[{"who": "reply", "turn": 0, "text": "Good day.", "done": True}, {"who": "end"}]] * 2
    labels = {"labels": {"response": "unharmful"}}
    monkeypatch.setattr(asking, "serving_of", lambda _: serving)
    serving = Scripted(said, [[{"who": "classified", "classified": labels}], [{"who": "classified", "classified": labels}]])
    made = Comparison(columns=checked_columns(["embedded", "run:a"]), guard="run:g")
    heard = asking.ask(workspace, made, made.open("Hello?"), "me")
    while made.exchanges[0].answers[0].guard is None:
        next(heard)
    heard.close()
    one, other = made.exchanges[0].answers
    assert (one.guard_problem, other.guard_problem) == ("", asking.UNHEARD)


def test_a_visitors_key_goes_only_to_models_that_take_one(workspace, monkeypatch):
    serving = Scripted([[{"who": "end"}], [{"who": "end"}]])
    monkeypatch.setattr(asking, "serving_of", lambda _: serving)
    made = Comparison(columns=checked_columns(["embedded", "openai:m@http://127.0.0.1:1/v1"]))
    list(asking.ask(workspace, made, made.open("Hello?"), "me", key="a secret"))
    assert [question.key for question in serving.asked[0]] == ["", "a secret"]
    assert "a secret" not in repr(serving.asked[0])
    assert "a secret" not in made.model_dump_json()


class Charged(Access):
    """Notes when each question is charged, and bounds it."""

    def __init__(self, tokens=None):
        self.tokens, self.said = tokens, []

    @contextmanager
    def asking(self, workspace, model, judge="", reads=0, writes=0):
        meter = Meter()
        meter.tokens, meter.seconds = self.tokens, self.tokens
        self.said.append(("asked", model, reads, writes))
        yield meter
        self.said.append(("charged", model))


def test_each_column_is_charged_when_its_own_answer_is_over(workspace, monkeypatch):
    """The slowest model of a comparison, or one that never answers, is not paid for by the others."""
    access = Charged()
    done = [{"who": "reply", "turn": 0, "text": "Good.", "done": True}, {"who": "end"}]
    serving = Scripted([done, [{"who": "reply", "turn": 0, "text": "And", "done": False}]], [[{"who": "classified", "classified": {
        "labels": {}}}, {"who": "end"}], [{"who": "error", "text": "It failed."}]])
    monkeypatch.setattr(asking, "serving_of", lambda _: serving)
    shown = Workspace(workspace.runs_dir, access)
    made = Comparison(columns=checked_columns(["embedded", "run:slow"]), options={"max_new_tokens": 9})
    answering = asking.ask(shown, made, made.open("Hello?"), "me")
    while made.exchanges[0].answers[1].text != "And":
        next(answering)
    assert access.said == [("asked", "embedded", 6, 9), ("asked", "run:slow", 6, 9), ("charged", "embedded")]
    answering.close()
    assert access.said[3:] == [("charged", "run:slow")], "who leaves is charged, too"

    access.said.clear()
    made.guard, made.exchanges[0].answers = "run:g", [Answer(text="Good.", over="end") for _ in range(2)]
    reading = asking._guarded(shown, "run:g", "Hello?", dict(enumerate(made.exchanges[0].answers)), asking._Asker("me", 0.0))
    assert [next(reading), next(reading)] == [{0}, {1}]
    first, second = "Hello?", "Good."
    assert access.said[:3] == [*[("asked", "run:g", len(first + second), 0)] * 2, ("charged", "run:g")]
    reading.close()


def test_an_answer_is_bounded_by_what_its_asker_has_left_and_says_so(workspace, monkeypatch):
    serving = Scripted([[{"who": "end", "finish": "length"}], [{"who": "stopped", "text": "its time is over"}]])
    monkeypatch.setattr(asking, "serving_of", lambda _: serving)
    made = Comparison(columns=checked_columns(["embedded", "run:a"]), options={"max_new_tokens": 131_072})
    made.columns[1].own = {"max_new_tokens": 5}
    list(asking.ask(Workspace(workspace.runs_dir, Charged(tokens=30)), made, made.open("Hello?"), "me"))
    assert [(one.options["max_new_tokens"], one.seconds) for one in serving.asked[0]] == [(30, 30), (5, 30)]
    one, other = made.exchanges[0].answers
    assert "30 tokens at most" in one.problem
    assert (other.over, other.problem) == ("stopped", "its time is over")
    assert made.options["max_new_tokens"] == 131_072, "tomorrow it may be more"


@pytest.mark.parametrize("models, refused", [
    (["openai:a@http://one.test/v1", "openai:b@http://two.test/v1"], True),
    (["openai:a@http://two.test/v1", "openai:b@http://one.test:1/v1"], True),
    (["openai:a@http://one.test:1/v1", "openai:b@http://one.test:2/v1"], True),
    (["openai:a@http://one.test/v1", "openai:b@http://one.test/v2", "embedded"], False), (["embedded", "run:a"], False)])
def test_one_key_goes_to_one_service(workspace, models, refused):
    made = Comparison(columns=checked_columns(models))
    asking.refuse_two_places(workspace, made, "")
    if not refused:
        asking.refuse_two_places(workspace, made, "sk-mine")
        return
    with pytest.raises(UserError, match=r"one\.test.* and to .*for one service") as caught:
        asking.refuse_two_places(workspace, made, "sk-mine")
    assert "sk-mine" not in str(caught.value)


@pytest.mark.parametrize("name", ["~nouser1/x", "x" * 300, "a\0b", "/" + "y/" * 3000])
def test_a_name_that_no_disk_can_have_is_one_sentence(name):
    with pytest.raises(UserError, match="no model reference"):
        checked_columns([name])
