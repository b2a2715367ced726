"""A comparison as HTML: what models write cannot act, what is harmful is blurred, what is hidden stays hidden."""

from html.parser import HTMLParser

import pytest

from core.compare.records import Answer, Comparison, checked_columns
from core.compare.votes import Duel
from core.guard.schema import Classified
from core.records import Episode, Feedback, Labels, Round, Said
from core.ui import chat_view
from core.ui.chat_view import column_head, duel_table, latest, settings_words, thinking, visitors_votes, vote_bar
from core.ui.markdown import written

NASTY = ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[click](javascript:alert(1))", "![x](http://example.org/x.png)",
         "<http://example.org>", "`<b>`", "&lt;script&gt;", "<label class='gw-veil'>", "[a]: http://example.org\n\n[a]",
         "```html\n<script>x</script>\n```", "| a | b |\n| - | - |\n| <i>x</i> | y |"]


class Tags(HTMLParser):
    """What a browser would make of it."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes = set(), set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def said(*texts, over="end", labels=None, **more):
    made = Comparison(columns=checked_columns(["embedded", "run:a"]), options={"temperature": 0.7, "seed": 5}, **more)
    number = made.open("Is <b>this</b> fine?")
    made.exchanges[number].answers = [
        Answer(text=text, over=over, guard=Classified(labels=labels, model="run:g", reasoning="Because.") if labels else None)
        for text in texts]
    return made


@pytest.mark.parametrize("text", NASTY)
def test_nothing_that_a_model_writes_becomes_a_tag_a_link_or_a_picture(text):
    found = Tags()
    found.feed(str(written(text)) + str(latest(said(text, "y"), 0)))
    assert not found.tags & {"script", "img", "a", "i", "b", "label", "iframe", "style"}
    assert not {name for name in found.attributes if name.startswith("on")} | (found.attributes & {"href", "src"})


def test_markdown_is_laid_out():
    shown = str(written("# Title\n\n1. one\n2. **two**\n\n```\ncode\n```\n\n| a | b |\n| - | - |\n| 1 | 2 |"))
    for tag in ("<h1>", "<ol>", "<strong>", "<pre>", "<table>"):
        assert tag in shown


def test_the_message_is_escaped_and_its_harm_blurs_every_column():
    made = said("x", "y", labels=Labels(request="harmful", completion="refusal", response="unharmful"))
    made.exchanges[0].answers[1].guard = None
    for place in (0, 1):
        shown = str(latest(made, place))
        assert "<b>this</b>" not in shown
        assert "gw-veil" in shown


def test_a_harmful_answer_is_blurred_and_the_verdicts_stand_under_it():
    shown = str(latest(said("x", "y", labels=Labels(request="unharmful", completion="compliance", response="harmful")), 0))
    assert "gw-veil" in shown
    assert "gw-chip-harmful" in shown
    assert "gw-chip-compliance" in shown
    assert "Because." in shown


def test_a_label_that_could_not_be_read_is_no_verdict():
    made = said("x", "y")
    made.exchanges[0].answers[0].guard = Classified(labels=Labels(), missing={"response": "no such label can be read"})
    shown = str(latest(made, 0))
    assert "unparsed" in shown
    assert "unharmful" not in shown


def test_names_are_hidden_in_blind_mode_until_the_vote():
    made = said("x", "y", blind=True)
    assert "run:a" not in str(column_head(made, 1)) + str(latest(made, 1)) + str(vote_bar(made, 3))
    made.vote(0, "A")
    assert "run:a" in str(column_head(made, 1))


@pytest.mark.parametrize("event", [{"who": "status", "text": "loading run:a"}, {"who": "feedback", "turn": 1, "text": "run:a says more"}])
def test_what_is_waited_for_tells_no_name(event):
    made = said("x", "", over="", blind=True)
    assert "run:a" not in str(latest(made, 1, [event]))
    made.blind = False
    assert "run:a" in str(latest(made, 1, [event]))


def test_before_the_vote_nothing_about_an_answer_tells_which_model_it_is():
    rounds = [Round(reply=Said(text="First."), feedback=Feedback(text="{}", unsafe=True, feedback="Say less.")),
              Round(reply=Said(text="y"))]
    made = said("x", "y", "z", blind=True)
    one, two, three = made.exchanges[0].answers
    one.over, one.problem = "error", "run:a has no adapter."
    two.episode = Episode(row=0, prompt="p", rounds=rounds)
    three.usd, three.tokens, three.writing, three.problem = 0.0125, 40, 2.0, "the service's content filter ended it"
    clues = ("run:a", "Revised", "Say less", "USD", "tok/s", "service")

    def shown():
        return "".join(str(column_head(made, place)) + str(latest(made, place)) for place in range(3))

    made.columns += checked_columns(["hf:x/y"])
    assert not [clue for clue in clues if clue in shown()]
    made.vote(0, "B")
    assert not [clue for clue in clues if clue not in shown()]


def test_a_visitor_is_offered_nothing_to_save():
    made = said("x", "y")
    made.vote(0, "A")
    assert "Save A over B as a pair" in str(latest(made, 1))
    made.owner = "a visitor"
    assert "Again" in str(latest(made, 1))
    assert "Save" not in str(latest(made, 1))


def test_nobody_votes_before_every_answer_is_whole():
    assert not vote_bar(said("x", "", over=""), 0)
    assert not vote_bar(said("", "", over="error"), 0)
    assert str(vote_bar(said("x", "y"), 0)).count("data-key") == 4


def test_two_agents_show_first_reply_feedback_and_revision():
    rounds = [Round(reply=Said(text="First words."), feedback=Feedback(text="{}", unsafe=False, overrefuse=True, feedback="Say more.")),
              Round(reply=Said(text="Better words."))]
    made = said("Better words.", "y")
    made.exchanges[0].answers[0].episode = Episode(row=0, prompt="p", rounds=rounds)
    shown = str(latest(made, 0))
    assert "Revised once after feedback" in shown
    assert all(words in shown for words in ("First words.", "Say more.", "Better words."))
    made.exchanges[0].answers[0].episode = Episode(row=0, prompt="p", rounds=[rounds[0].model_copy(update={
        "feedback": Feedback(text="no json", malformed="it is no JSON")})])
    assert "Not revised: its feedback could not be read" in str(latest(made, 0))


@pytest.mark.parametrize("text, thought, rest", [
    ("<think>hm</think>Yes.", "hm", "Yes."), ("<think>still", "still", ""), ("No tags.", "", "No tags."),
    ("a <think>b</think>", "", "a <think>b</think>")])
def test_reasoning_is_folded(text, thought, rest):
    assert thinking(text) == (thought, rest)


def test_what_is_waited_for_is_said():
    made = said("", "", over="")
    assert chat_view.STARTING in str(latest(made, 0))
    assert "2 questions before this one" in str(latest(made, 0, [{"who": "queue", "position": 2}]))


def test_speed_seed_settings_and_votes_in_words():
    made = said("x", "y")
    made.exchanges[0].answers[0] = made.exchanges[0].answers[0].model_copy(update={"tokens": 62, "writing": 2.0, "seed": 7})
    assert "31 tok/s, seed 7" in str(column_head(made, 0))
    assert settings_words(made) == "Settings: temperature 0.7, top-p 1, 256 tokens, seed 5, no guard, no system prompt"
    assert "No votes yet" in str(duel_table([]))
    shown = str(duel_table([Duel(one="run:a", other="embedded", one_wins=3, other_wins=1)]))
    assert "75.0 %" in shown
    assert "gw-whisker" in shown


# a public demo: the guard reads a text before a person does

CALM = Labels(request="unharmful", completion="compliance", response="unharmful")


def of_a_visitor(verdict=None, over="end", guard="embedded", **answer):
    made = said("Some words that", "y", over=over, owner="ada", guard=guard)
    made.exchanges[0].answers[0] = Answer(text="Some words that", over=over, guard=verdict, **answer)
    return made


def test_in_a_public_demo_a_text_is_blurred_from_its_first_word_until_its_verdict_is_there():
    growing = str(latest(of_a_visitor(over=""), 0, [{"who": "feedback", "turn": 1, "text": "It should"}]))
    assert growing.count("gw-veil-shut") == 2
    assert "checkbox" not in growing, "what is drawn anew with every word has no Show of its own"
    assert "blurred until it has read the answer" in growing
    waiting = str(latest(of_a_visitor(), 0))
    assert "gw-veil" in waiting
    assert "checkbox" in waiting
    assert "gw-veil" not in str(latest(of_a_visitor(Classified(labels=CALM)), 0))


@pytest.mark.parametrize("made", [
    of_a_visitor(guard_problem="it failed"), of_a_visitor(Classified(labels=Labels(request="unharmful"))),
    of_a_visitor(over="stopped"), of_a_visitor(over="error", problem="It failed.")])
def test_no_verdict_is_no_leave_to_show_a_text_in_a_public_demo(made):
    assert "checkbox" in str(latest(made, 0)), "whoever wants to read it can show it"


def test_without_a_guard_and_in_a_private_app_texts_are_shown_as_they_grow():
    private = of_a_visitor(over="")
    private.owner = ""
    for made in (of_a_visitor(over="", guard=""), private):
        assert "gw-veil" not in str(latest(made, 0))


def test_a_reply_that_was_revised_stays_blurred_because_no_guard_reads_it():
    rounds = [Round(reply=Said(text="First words."), feedback=Feedback(text="{}", unsafe=True, overrefuse=False, feedback="Do not.")),
              Round(reply=Said(text="Some words that"))]
    shown = str(latest(of_a_visitor(Classified(labels=CALM), episode=Episode(row=0, prompt="p", rounds=rounds)), 0))
    assert shown.count("checkbox") == 2, "the first reply and its feedback"
    assert shown.index("First words.") < shown.rindex("checkbox") < shown.index("Some words that")


def test_a_guard_that_was_never_trained_as_one_says_so_under_the_verdict():
    assert "a guess" in str(latest(of_a_visitor(Classified(labels=CALM, prompt_format="zero-shot")), 0))
    assert "a guess" not in str(latest(of_a_visitor(Classified(labels=CALM, prompt_format="guardreasoner")), 0))


def test_visitors_are_told_what_becomes_of_their_votes():
    assert "not counted" in str(visitors_votes())
    assert "No votes yet" not in str(visitors_votes())
