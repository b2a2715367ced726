"""check-data: PASS or FAIL for each rule, with the rows that break it; nothing personal is repeated in what it writes."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.chat.checked import check_problem, newest_check
from core.chat.messages import conversation
from core.chat.near import NearDuplicates, grams
from core.chat.personal import PersonalData, masked
from core.data import find_chat
from core.methods import UserError, validate
from core.preflight import look
from core.records import GuardExample, Labels, read_jsonl
from core.runs import REPOSITORY
from core.ui import chat_rows
from core.waltz.feedback import question, write_json
from tests.helpers import execute, write

DATA = REPOSITORY.parent / "shared" / "data"
with_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real data files are not here")
DEMO = REPOSITORY / "assets" / "demo"
WORDS = ("bakery", "river", "engine", "violin", "harbour", "lantern", "meadow", "compass", "orchard", "granite")
LEVELS = ("easy", "medium", "hard")


def talk(number, answer="", **about):
    words = f"{WORDS[number % 10]} {WORDS[number // 10 % 10]} {WORDS[number * 7 % 10]} {number}"
    return conversation("", f"What about the {words}?", answer or f"The {words} is fine.", difficulty=LEVELS[number % 3], **about)


def said(number, unsafe=False, overrefuse=False):
    asked = talk(number)
    answer = write_json("why", unsafe, overrefuse, "change it" if unsafe or overrefuse else "")
    return conversation("", question(asked.messages[0]["content"], asked.messages[1]["content"]), answer, difficulty=LEVELS[number % 3])


def checked(workspace, tmp_path, rows, **settings_):
    """(verdict by rule, report, run)"""
    run = execute(workspace, "check-data", {"data": rows if isinstance(rows, str) else write(tmp_path / "rows.jsonl", rows), **settings_})
    report = run.report
    return {rule["rule"]: gate["verdict"] for rule, gate in zip(report["rules"], report["gates"], strict=True)}, report, run


def test_a_good_set_passes_every_rule(workspace, tmp_path):
    verdicts, report, run = checked(workspace, tmp_path, [talk(number) for number in range(60)])
    assert set(verdicts.values()) == {"PASS"}
    assert report["verdict"] == "PASS"
    assert not (run.dir / "offending_rows.jsonl").exists()


def test_the_same_answer_again_and_again_is_a_trap(workspace, tmp_path):
    rows = [talk(number, f"Answer {number % 10} to everything.") for number in range(60)]
    verdicts, report, _ = checked(workspace, tmp_path, rows)
    assert verdicts["answer diversity"] == "FAIL"
    assert [rule for rule, verdict in verdicts.items() if verdict != "PASS"] == ["answer diversity"]
    assert "10 distinct answers in 60 rows" in next(gate["explanation"] for gate in report["gates"] if gate["name"] == "Different answers")


@with_data
def test_the_ten_answers_of_the_real_conversation_set_are_found(workspace, tmp_path):
    verdicts, report, run = checked(workspace, tmp_path, str(DATA / "genesis" / "waltzrl_conversation_unique.jsonl"))
    assert verdicts["answer diversity"] == "FAIL"
    rule = next(rule for rule in report["rules"] if rule["rule"] == "answer diversity")
    assert rule["details"]["distinct"] == 10
    assert [answer["count"] for answer in rule["details"]["most_frequent"]] == [181, 105, 65, 45, 45, 45, 45, 25, 25, 25]
    assert report["rows"] == 606
    assert sum(row["rule"] == "answer diversity" for row in read_jsonl(run.dir / "offending_rows.jsonl")) == 10
    assert check_problem(find_chat(str(DATA / "genesis" / "waltzrl_conversation_unique.jsonl"), workspace), workspace).severity == "warning"


def trap(source=""):
    """100 rows with ten answers, some of them again and again, as in the real set."""
    counts = [30, 18, 11, 8, 8, 7, 7, 4, 4, 3]
    answers = [f"Answer {number} to everything." for number, count in enumerate(counts) for _ in range(count)]
    return [talk(number, answer, source=source) for number, answer in enumerate(answers)]


def explanation(report, name):
    return next(gate["explanation"] for gate in report["gates"] if gate["name"] == name)


def test_good_rows_beside_a_trap_do_not_hide_it(workspace, tmp_path):
    good = [talk(number, source="good") for number in range(1000, 1110)]
    verdicts, report, run = checked(workspace, tmp_path, [*trap("trap"), *good], max_near_duplicates=1)
    assert verdicts["answer diversity"] == verdicts["repeated answers"] == "FAIL"
    assert "10 distinct answers in 100 rows of trap; 120 distinct answers in 210 rows in all" in explanation(report, "Different answers")
    assert "stands in 30 rows of 210" in explanation(report, "Rows with one answer")
    lines = [row["line"] for row in read_jsonl(run.dir / "offending_rows.jsonl") if row["rule"] == "repeated answers"]
    assert len(lines) == 3, "those in more than ten rows"
    unsaid = [row.model_copy(update={"source": ""}) for row in [*trap(), *good]]
    verdicts, _, _ = checked(workspace, tmp_path, unsaid, max_near_duplicates=1)
    assert (verdicts["answer diversity"], verdicts["repeated answers"]) == ("PASS", "FAIL"), "where no row names its source"


@pytest.mark.parametrize(("copies", "verdict"), [(10, "PASS"), (11, "FAIL")])
def test_a_few_rows_may_have_the_same_answer(workspace, tmp_path, copies, verdict):
    rows = [talk(number, "I do not know." if number < copies else "") for number in range(200)]
    verdicts, _, _ = checked(workspace, tmp_path, rows, max_near_duplicates=1)
    assert verdicts["repeated answers"] == verdict
    assert verdicts["answer diversity"] == "PASS"
    assert checked(workspace, tmp_path, rows, max_near_duplicates=1, max_same_answer=0.1)[0]["repeated answers"] == "PASS"


def test_a_mix_says_which_source_is_a_trap(workspace, tmp_path):
    sources = [write(tmp_path / "trap.jsonl", trap()), write(tmp_path / "good.jsonl", [talk(number) for number in range(1000, 1110)])]
    run = execute(workspace, "mix", {"sources": sources})
    notices = [event["text"] for event in run.events("notice")]
    assert [text for text in notices if "distinct answers" in text] == [text for text in notices if text.startswith(
        "trap has 10 distinct answers in 100 rows, one of them in 30")]
    assert len(notices) == 1
    found = look(workspace, "mix", {"sources": sources}).problems
    assert [(one.severity, one.field) for one in found] == [("warning", "sources")]
    assert not look(workspace, "mix", {"sources": sources, "shares": [0, 1]}).problems
    assert checked(workspace, tmp_path, run.id, max_near_duplicates=1)[0]["answer diversity"] == "FAIL"


@with_data
def test_converted_genesis_rows_teach_no_fault(workspace, tmp_path):
    execute(workspace, "genesis-to-waltzrl", {"source": str(DATA / "genesis"), "name": "genesis"})
    verdicts, _, _ = checked(workspace, tmp_path, "genesis:feedback")
    assert verdicts["label unsafe"] == verdicts["label overrefuse"] == "FAIL"
    assert "label unsafe" not in checked(workspace, tmp_path, "genesis:conversation")[0]


@pytest.mark.parametrize(("unsafe", "verdict"), [(20, "PASS"), (19, "FAIL"), (80, "PASS"), (81, "FAIL"), (0, "FAIL")])
def test_the_rarer_label_makes_up_a_fifth(workspace, tmp_path, unsafe, verdict):
    rows = [said(number, unsafe=number < unsafe, overrefuse=number % 2 == 0) for number in range(100)]
    verdicts, _, _ = checked(workspace, tmp_path, rows)
    assert verdicts["label unsafe"] == verdict
    assert verdicts["label overrefuse"] == "PASS"


def test_difficulty_that_is_rare_fails_and_that_nobody_names_is_not_decided(workspace, tmp_path):
    rows = [talk(number).model_copy(update={"difficulty": "hard" if number < 5 else "easy"}) for number in range(60)]
    assert checked(workspace, tmp_path, rows)[0]["difficulty"] == "FAIL"
    nameless = [row.model_copy(update={"difficulty": ""}) for row in rows]
    verdicts, report, _ = checked(workspace, tmp_path, nameless)
    assert verdicts["difficulty"] == "INSUFFICIENT DATA"
    assert report["verdict"] == "PASS"


def test_rows_that_cannot_be_learned_from_are_named(workspace, tmp_path):
    path = tmp_path / "talks.jsonl"
    rows = [talk(number).model_dump(exclude_defaults=True) for number in range(3)]
    wrong = {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, wrong, {"messages": []}]) + "[1]\n{\n")
    verdicts, _, run = checked(workspace, tmp_path, str(path))
    assert verdicts["format"] == "FAIL"
    found = {row["line"]: row["reason"] for row in read_jsonl(run.dir / "offending_rows.jsonl") if row["rule"] == "format"}
    assert sorted(found) == [4, 5, 6, 7]
    assert "last message" in found[4]


PERSONAL = {"e-mail address": "jane.roe@meadow-bakery.org", "phone number": "+44 20 7946 0958", "card number": "4111 1111 1111 1111",
            "account number": "GB82 WEST 1234 5698 7654 32", "address of a machine": "8.8.4.4", "social security number": "536-90-4399",
            "passport number": "C01X00T47", "driver's licence number": "S514-172-80-844-0", "birth date": "1984-03-09"}


def test_personal_data_is_found_named_and_never_repeated(workspace, tmp_path):
    rows = [talk(number) for number in range(len(PERSONAL) + 20)]
    words = {"passport number": "passport", "driver's licence number": "driver's license", "birth date": "date of birth"}
    for row, (kind, text) in zip(rows, PERSONAL.items(), strict=False):
        row.messages[-1]["content"] = f"Write to {words.get(kind, '')} {text} about it, please."
    rows[-1].messages[0]["content"] = f"{PERSONAL['e-mail address']} {'far too long ' * 1600}"
    verdicts, report, run = checked(workspace, tmp_path, rows)
    assert verdicts["personal data"] == "FAIL"
    rule = next(rule for rule in report["rules"] if rule["rule"] == "personal data")
    assert set(rule["details"]["kinds"]) == set(PERSONAL)
    assert rule["offending"] == len(PERSONAL) + 1
    written = "".join(path.read_text() for path in run.dir.iterdir() if path.is_file())
    assert not [text for text in PERSONAL.values() if text in written]
    assert "e-mail address in message 2, letters 11 to 36: j***.***@******-******.***" in written
    assert checked(workspace, tmp_path, rows, max_personal=len(PERSONAL) + 1)[0]["personal data"] == "PASS"


def test_everyday_numbers_are_not_personal():
    finder = PersonalData()
    for text in ("Growth was 14% in Q2 2023, from 4.2M to 4.8M.", "Order #RT-58921 came in 5-7 days.", "Version 3.11.2 costs $85,000.",
                 "See RFC 2119, section 3.", "Call foo(1, 2, 3) at line 1234567.", "Write to you@example.com from 10.0.0.1 or 192.0.2.7.",
                 "4111 1111 1111 1112 and 000-12-3456 have wrong digits.", "a::b, std::map, 12:34:56", "trademark #85672341",
                 "Order C01X00T47, made on 1984-03-09.",
                 "A passport costs 165 dollars and takes 6 to 8 weeks.", "A driving licence class B, renewed every 15 years",
                 "Bach was born on 21 March 1685.", "born in 1984", "Her passport is a document; call line 1234567 about it."):
        assert finder.find(text) == [], text


@pytest.mark.parametrize("text, kind, found", [
    ("My passport number is 912803456.", "passport number", "912803456"), ("Passport No: C01X00T47", "passport number", "C01X00T47"),
    ("passport (US) x1234567, valid", "passport number", "x1234567"),
    ("Driver’s license # D1234567 of California", "driver's licence number", "D1234567"),
    ("driving licence MORGA753116SM9IJ", "driver's licence number", "MORGA753116SM9IJ"),
    ("She was born on 12 May 1990 in Oslo", "birth date", "12 May 1990"), ("DOB: 12/05/1990", "birth date", "12/05/1990"),
    ("his birthday, March 3rd, 2001, is", "birth date", "March 3rd, 2001"), ("Date of birth 1984.03.09", "birth date", "1984.03.09")])
def test_what_has_no_check_digits_is_known_by_the_words_before_it(text, kind, found):
    assert [(one.kind, text[one.start:one.end]) for one in PersonalData().find(text)] == [(kind, found)]


@given(st.text())
def test_masking_keeps_only_the_first_letter(text):
    assert len(masked(text)) == len(text)
    assert not any(letter.isalnum() for letter in masked(text)[1:])


def test_rows_that_ask_nearly_the_same_are_found(workspace, tmp_path):
    garden = "The garden is large and green, the sea is near, and everybody likes to sit there in the evening. "
    rows = [talk(number) for number in range(40)]
    for place, end in ((40, "What shall we plant?"), (41, "So, what shall we plant?"), (42, "What shall we plant, then?")):
        rows.append(conversation("", garden * 2 + end, f"Answer {place}.", difficulty="hard"))
    verdicts, _, run = checked(workspace, tmp_path, rows, max_near_duplicates=0.04)
    assert verdicts["near-duplicates"] == "FAIL"
    found = {row["line"]: row["reason"] for row in read_jsonl(run.dir / "offending_rows.jsonl") if row["rule"] == "near-duplicates"}
    assert set(found) == {42, 43}
    assert all("line 41" in reason for reason in found.values()), "each is named with the first of its kind"
    assert checked(workspace, tmp_path, rows, max_near_duplicates=0.05)[0]["near-duplicates"] == "PASS"


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(alphabet="abcdefgh ", min_size=12, max_size=60), min_size=2, max_size=12))
def test_near_duplicates_are_those_whose_grams_overlap(texts):
    with NearDuplicates(0.8) as index:
        kept = []
        for row, text in enumerate(texts):
            like = index.find(text, row)
            overlaps = [_jaccard(text, other) for other in kept]
            if max(overlaps, default=0) == 1:
                assert like is not None, "the same grams are always found"
            if like is not None:
                assert _jaccard(text, texts[like.row]) > 0.5, "and what is found is alike"
            else:
                kept.append(text)


def _jaccard(one, other):
    return len(grams(one) & grams(other)) / len(grams(one) | grams(other))


def test_length_is_measured_in_words_or_in_tokens_of_a_model(workspace, tmp_path, tiny_model):
    rows = [talk(number) for number in range(30)]
    rows[7].messages[0]["content"] += " and so on" * 100
    verdicts, report, run = checked(workspace, tmp_path, rows, max_length=200)
    assert verdicts["length"] == "FAIL"
    assert [row["line"] for row in read_jsonl(run.dir / "offending_rows.jsonl") if row["rule"] == "length"] == [8]
    in_tokens = checked(workspace, tmp_path, rows, max_length=5000, model=str(tiny_model))[1]
    lengths = [next(rule["details"] for rule in one["rules"] if rule["rule"] == "length") for one in (report, in_tokens)]
    assert [one["unit"] for one in lengths] == ["words", "tokens"]
    assert lengths[1]["lengths"]["max"] > 300


def test_rows_shared_with_test_sets_are_found(workspace, tmp_path):
    rows = [talk(number) for number in range(30)]
    tests = [GuardExample(prompt=rows[3].messages[0]["content"].upper(), labels=Labels(request="unharmful"))]
    execute(workspace, "import-data", {"source": write(tmp_path / "tests.jsonl", tests), "role": "test"})
    rows[5] = rows[5].model_copy(update={"split": "validation"})
    rows.append(conversation("", rows[5].messages[0]["content"], "The same prompt, to be learned.", difficulty="easy"))
    verdicts, report, run = checked(workspace, tmp_path, rows)
    assert verdicts["train/test overlap"] == "FAIL"
    assert report["rules"][-1]["details"] == {"registered": 1, "held_out": 1}
    assert {row["line"] for row in read_jsonl(run.dir / "offending_rows.jsonl") if row["rule"] == "train/test overlap"} == {4, 31}


def test_a_failed_check_warns_whoever_trains_on_the_very_rows(workspace, tmp_path):
    path = write(tmp_path / "rows.jsonl", [talk(number, "Always the same.") for number in range(30)])
    source = find_chat(path, workspace)
    assert check_problem(source, workspace) is None
    _, _, run = checked(workspace, tmp_path, path)
    assert run.id in check_problem(source, workspace, "conversation").message
    (tmp_path / "rows.jsonl").write_text((tmp_path / "rows.jsonl").read_text().replace("Always the same.", "Now another.", 1))
    assert newest_check(source, workspace) is None, "other rows, another set"


def test_training_warns_before_the_start(workspace, tmp_path, tiny_model):
    sets = {"conversation": write(tmp_path / "talk.jsonl", [talk(number, "Always the same.") for number in range(40)]),
            "feedback": write(tmp_path / "judge.jsonl", [said(number, number % 3 == 0, number % 3 == 1) for number in range(40)])}
    method = workspace.plugins.method("waltz-sft")
    config = validate(method, {"model": str(tiny_model), **sets})
    assert not [problem for problem in method(workspace).check(config) if "check-data (" in problem.message]
    for path in sets.values():
        checked(workspace, tmp_path, path)
    warned = [problem for problem in method(workspace).check(config) if "check-data (" in problem.message]
    assert [(problem.field, problem.severity) for problem in warned] == [("conversation", "warning")]


def test_the_demo_sets_hold_their_promises(workspace, tmp_path):
    for name in ("conversation", "feedback"):
        verdicts, _, _ = checked(workspace, tmp_path, str(DEMO / f"waltz-{name}.jsonl"))
        assert "FAIL" not in verdicts.values(), (name, verdicts)


def test_guard_rows_are_refused_in_one_sentence(workspace, tmp_path):
    guard = write(tmp_path / "guard.jsonl", [GuardExample(prompt="p", labels=Labels(request="unharmful"))])
    for data in (guard, "nowhere"):
        with pytest.raises(UserError):
            checked(workspace, tmp_path, data)


def test_the_data_page_shows_the_verdicts_beside_the_set(workspace, tmp_path):
    source = write(tmp_path / "rows.jsonl", [talk(number, "Always the same.") for number in range(30)])
    made = execute(workspace, "mix", {"sources": [source], "name": "dull", "held_out": 0})
    assert chat_rows.checks(made, workspace) == ""
    checked(workspace, tmp_path, "dull:conversation")
    shown = chat_rows.checks(made, workspace)
    assert "FAIL" in shown
    assert "1 distinct answer in 30 rows" in shown
