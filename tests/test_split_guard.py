"""Promise 5: registered test rows are refused, dropped and counted, or used on the record; evaluations look back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import GuardExample, Labels, UserError
from core.runs import Workspace
from core.split_guard import (
    find_hits,
    guard_rows,
    keys_to_register,
    pair_key,
    prompt_key,
    seen_rows,
    training_keys,
    write_trained_keys,
)


def rows(*prompts, response=None):
    return [GuardExample(prompt=prompt, response=response, labels=Labels(request="harmful")) for prompt in prompts]


@pytest.fixture
def store(tmp_path):
    store = Workspace(tmp_path).store
    store.register_test_keys("set a", "data-0001", keys_to_register(rows("What is this?", "Second", response="reply")))
    store.register_test_keys("set b", "data-0002", keys_to_register(rows("Third")))
    return store


@pytest.mark.parametrize("spelling", ["what IS this?", " What\u2028is \t this? ", "Ｗhat is this?", "What\u00a0is this?"])
def test_spellings_of_one_prompt_share_a_key(spelling):
    assert prompt_key(spelling) == prompt_key("What is this?")


def test_other_words_have_other_keys():
    assert len({prompt_key(text) for text in ["What is this", "What is this?", "Whatis this?", "Straße", "strasse!"]}) == 5
    assert prompt_key("Straße") == prompt_key("STRASSE")
    assert pair_key("a", "b") != pair_key("a b", None)


@given(text=st.text())
@settings(max_examples=100, deadline=None)
def test_keys_exist_for_any_text_and_do_not_depend_on_space(text):
    assert prompt_key(text) == prompt_key(f"  {text}\n") == prompt_key(" ".join(text.split()))
    assert pair_key(text, text) != prompt_key(text)


@given(text=st.text(st.characters(max_codepoint=0x24F)))
@settings(max_examples=100, deadline=None)
def test_keys_do_not_depend_on_case(text):
    assert prompt_key(text.casefold()) == prompt_key(text)


def test_half_surrogates_have_a_key():
    assert prompt_key("\ud800")


def test_hits_are_counted_by_set(store):
    data = [*rows("new", "SECOND", "third"), *rows("second", response="Reply"), *rows("second", response="other")]
    hits = find_hits(data, store)
    assert (hits.count, hits.exact, hits.by_set, hits.indices) == (4, 2, {"set a": 3, "set b": 1}, (1, 2, 3, 4))
    assert "4 rows of registered test sets: set a (3), set b (1); 2 with the same response" in str(hits)


def test_hits_are_refused_dropped_or_used_on_the_record(store):
    data = rows("new", "second", "third")
    with pytest.raises(UserError, match=r"2 rows of registered test sets.*exclude_test_rows=true"):
        guard_rows(data, store)
    dropped = guard_rows(data, store, exclude_test_rows=True)
    assert ([row.prompt for row in dropped.examples], dropped.dropped, dropped.overridden) == (["new"], 2, False)
    assert dropped.record["test_rows_found"] == dropped.record["test_rows_dropped"] == 2
    used = guard_rows(data, store, allow_test_rows=True)
    assert (len(used.examples), used.dropped, used.overridden, used.record["test_rows_used"]) == (3, 0, True, 2)
    clean = guard_rows(rows("new"), store)
    assert (clean.record["test_rows_found"], clean.overridden) == (0, False)
    with pytest.raises(UserError, match="nothing is left"):
        guard_rows(rows("second"), store, exclude_test_rows=True)


def test_a_forgotten_test_set_guards_no_more(store):
    store.forget_test_keys("data-0002")
    assert find_hits(rows("third"), store).count == 0


def test_what_an_earlier_sitting_learned_stays_learned(tmp_path):
    assert write_trained_keys(tmp_path, rows("one", "two")) == 2
    assert write_trained_keys(tmp_path, rows("two", "three")) == 3, "resumed, and one row is in a test set by now"
    lines = (tmp_path / "trained_keys.txt").read_text().splitlines()
    assert lines == sorted(set(lines))
    assert seen_rows(rows("one", "two", "three", "four"), [tmp_path]) == [True, True, True, False]


def test_evaluations_look_back_at_the_whole_lineage(tmp_path):
    first, second, evaluation = (tmp_path / name for name in ("rsft-0001", "hsdpo-0001", "eval-0001"))
    for folder in (first, second, evaluation):
        folder.mkdir()
    assert write_trained_keys(first, rows("one", "ONE ", "two")) == 2
    write_trained_keys(second, rows("three"))
    lines = (first / "trained_keys.txt").read_text().split("\n")
    assert lines[-1] == ""
    assert lines[:-1] == sorted(lines[:-1])
    assert len(training_keys([first, second, evaluation])) == 3
    assert seen_rows(rows("Two", "three", "four"), [first, second, evaluation]) == [True, True, False]
    assert seen_rows(rows("two"), []) == [False]
