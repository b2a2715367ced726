"""Reading files: every kind, every kind of damage, and the splits."""

import gzip
import itertools
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import GuardExample, Labels, UserError
from core.plugins import load_plugins
from core.reading import AmbiguousLayout, detect, read_examples, to_examples
from core.rows import MAX_ROW_BYTES, BadRow, Row, parse_json, read_hub, read_rows
from core.splits import assign_splits

LAYOUTS = load_plugins(installed=False).data_formats
ROWS = [{"prompt": "one", "label": "safe"}, {"prompt": "two\u2028still two", "label": "unsafe"}]
DATA = Path(__file__).parents[1].parent / "shared" / "data"


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def values(path):
    rows = list(read_rows(path))
    assert all(isinstance(row, Row) for row in rows), rows
    return [row.values for row in rows]


def refused(path):
    with pytest.raises(UserError) as error:
        list(read_rows(path))
    assert path.name in str(error.value)
    return str(error.value)


def packed(content: bytes) -> bytes:
    """Gzip without the time of day: it would be part of the tests' names, and two test processes would disagree on them."""
    return gzip.compress(content, mtime=0)


# Kinds of files


@pytest.mark.parametrize(("name", "content"), [
    ("a.jsonl", jsonl(ROWS)), ("a.ndjson", jsonl(ROWS).rstrip("\n")), ("a.jsonl", "\ufeff" + jsonl(ROWS)),
    ("a.jsonl", "\n\n" + jsonl(ROWS) + "\n"), ("a.jsonl", jsonl(ROWS).replace("\n", "\r\n")), ("a.json", json.dumps(ROWS)),
    ("a.json", json.dumps(ROWS, indent=2)), ("a.json", jsonl(ROWS)), ("a.json", json.dumps({"meta": {"x": [1]}, "data": ROWS})),
    ("a.jsonl.gz", packed(jsonl(ROWS).encode())),
    ("a.json.gz", packed(json.dumps(ROWS).encode())), ("a.csv", "prompt,label\none,safe\ntwo\u2028still two,unsafe\n"),
    ("a.csv", '\ufeff"prompt","label"\r\n"one","safe"\r\n"two\u2028still two","unsafe"'),
    ("a.tsv", "prompt\tlabel\none\tsafe\ntwo\u2028still two\tunsafe\n"),
    ("a.csv", "prompt;label\none;safe\ntwo\u2028still two;unsafe\n"),
    ("a.csv.gz", packed("prompt,label\none,safe\ntwo\u2028still two,unsafe".encode())),
])
def test_the_same_rows_in_every_kind_of_file(tmp_path, name, content):
    assert values(write(tmp_path / name, content)) == ROWS


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    rows = [*ROWS, {"prompt": "three", "label": None}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert values(tmp_path / "a.parquet") == rows
    assert "not a readable Parquet" in refused(write(tmp_path / "b.parquet", "PAR1 no"))


def test_lines_are_numbered_as_an_editor_shows_them(tmp_path):
    path = write(tmp_path / "a.csv", 'prompt,label\n"two\nlines",safe\n\nshort\nlast,safe\n')
    assert [(row.line, isinstance(row, BadRow)) for row in read_rows(path)] == [(2, False), (5, True), (6, False)]
    path = write(tmp_path / "a.jsonl", '\n{"prompt": "a"}\n\nno\n')
    assert [(row.line, isinstance(row, BadRow)) for row in read_rows(path)] == [(2, False), (4, True)]


def test_one_json_object_is_one_row(tmp_path):
    assert values(write(tmp_path / "a.json", json.dumps(ROWS[0]))) == ROWS[:1]
    turns = {"messages": [{"role": "user", "content": "x"}]}
    assert values(write(tmp_path / "b.json", json.dumps(turns))) == [turns]
    assert "2 lists" in refused(write(tmp_path / "c.json", json.dumps({"train": ROWS, "test": ROWS})))


# Damage: a bad row where the others can still be read, else one sentence for the whole file


@pytest.mark.parametrize(("line", "reason"), [
    (b'{"prompt": "caf\xe9"}', "not UTF-8: byte 0xe9 at position 15"), (b'{"prompt": "a\0b"}', "NUL byte at position 13"),
    (b'{"prompt": "a",}', "is not JSON"), (b'{"prompt": "a", "prompt": "b"}', "'prompt' occurs twice"),
    (b'["a"]', "not an object but an array"),
    (b'"a"', "not an object but a text"), (b"17", "not an object but a number"), (b"null", "not an object but null"),
    (b'{"a": NaN}', "NaN is not JSON"), (b'{"a": "\\ud83d"}', "surrogate"),
    (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    (b'{"a": ' + b"9" * 5000 + b"}", "limit"), (b'{"a": "x\ty"}', "is not JSON"), (b"no", "is not JSON"),
])
def test_a_damaged_line_is_one_bad_row(tmp_path, line, reason):
    path = write(tmp_path / "a.jsonl", b'{"prompt": "before"}\n' + line + b'\n{"prompt": "after"}\n')
    before, bad, after = read_rows(path)
    assert isinstance(bad, BadRow)
    assert reason in bad.reason
    assert (bad.file, bad.line) == ("a.jsonl", 2)
    assert len(bad.raw) <= 200
    assert [before.values, after.values] == [{"prompt": "before"}, {"prompt": "after"}]


def test_a_torn_last_line_says_so(tmp_path):
    rows = list(read_rows(write(tmp_path / "a.jsonl", jsonl(ROWS) + '{"prompt": "thr')))
    assert "cut off" in rows[-1].reason
    assert len(rows) == 3


def test_a_huge_line_is_skipped_without_holding_it(tmp_path):
    path = write(tmp_path / "a.jsonl", b'{"prompt": "a"}\n' + b'{"prompt": "' + b"x" * (2 * MAX_ROW_BYTES) + b'"}\n{"prompt": "b"}\n')
    first, huge, last = read_rows(path)
    assert "10 MB" in huge.reason
    assert (first.line, huge.line, last.line) == (1, 2, 3)


@pytest.mark.parametrize(("body", "line", "reason"), [
    (b"only one\n", 2, "has 1 cells, the header has 2"), (b'a,"b\nc,safe\n', 2, "opening quote"), (b'a,"b"c\n', 2, "is not CSV"),
    (b"caf\xe9,safe\n", 2, "not UTF-8"), (b"a\0b,safe\n", 2, "NUL"),
])
def test_a_damaged_csv_row(tmp_path, body, line, reason):
    bad = [row for row in read_rows(write(tmp_path / "a.csv", b"prompt,label\n" + body)) if isinstance(row, BadRow)]
    assert [row.line for row in bad] == [line]
    assert reason in bad[0].reason


@pytest.mark.parametrize(("name", "content", "reason"), [
    ("a.jsonl", b"", "is empty"), ("a.json", b"", "is empty"), ("a.csv", b"", "is empty"), ("a.parquet", b"", "is empty"),
    ("a.jsonl", b"\n \n", "no rows"), ("a.json", b" \n", "is empty"), ("a.json", b"[]", "holds no rows"),
    ("a.csv", b"prompt,label\n", "no rows"), ("a.csv", b"\nprompt\n", "no header"), ("a.csv", b"a,a\n1,2\n", "'a' twice"),
    ("a.csv", b"pr\xe9,label\n1,2\n", "not UTF-8"),
    ("a.jsonl", "{}".encode("utf-16"), "is UTF-16"), ("a.csv", "a,b\n1,2".encode("utf-16"), "is UTF-16"),
    ("a.json", b'[{"a": 1}, {"a":', "is not JSON"), ("a.json", b'[{"a": 1, "a": 2}]', "occurs twice"),
    ("a.json", b"[" * 100_000, "nested too deeply"), ("a.json", b"17", "a number"),
    ("a.jsonl", b'[{"a": 1}]', "begins with an array"), ("a.csv", b"PK\x03\x04...", "ZIP archive"), ("a.txt", b"hello", "of no kind"),
    ("a.jsonl.gz", packed(jsonl(ROWS * 500).encode())[:-20], "damaged"), ("a.parquet.gz", b"PAR1", "unpack"),
])
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path, name, content, reason):
    assert reason in refused(write(tmp_path / name, content))


def test_missing_files_and_folders(tmp_path):
    assert "no file" in refused(tmp_path / "missing.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    assert "not a file" in refused(tmp_path / "folder.jsonl")
    for name in ("x" * 5000 + ".jsonl", "nul\0.jsonl"):
        with pytest.raises(UserError, match="no file"):
            list(read_rows(Path(name)))


NAMES = st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz", "a.csv.gz"])


@given(content=st.binary(max_size=200), name=NAMES)
@settings(max_examples=150, deadline=None)
def test_any_bytes_give_rows_bad_rows_or_a_user_error(tmp_path_factory, content, name):
    path = write(tmp_path_factory.mktemp("any") / name, content)
    try:
        rows = list(read_rows(path))
    except UserError:
        return
    assert all(isinstance(row, Row | BadRow) for row in rows)
    assert rows


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(rows=st.lists(st.dictionaries(TEXT, TEXT, min_size=1, max_size=4), min_size=1, max_size=6), ascii=st.booleans())
@settings(max_examples=60, deadline=None)
def test_what_json_writes_is_read_back(tmp_path_factory, rows, ascii):
    text = "".join(json.dumps(row, ensure_ascii=ascii) + "\n" for row in rows)
    assert values(write(tmp_path_factory.mktemp("any") / "a.jsonl", text)) == rows


@given(data=st.binary(max_size=100))
@settings(max_examples=100, deadline=None)
def test_parse_json_raises_only_value_errors(data):
    try:
        parse_json(data)
    except ValueError as error:
        assert str(error)  # noqa: PT017


# Layout detection and conversion


def test_detection_shows_the_runners_up():
    found = detect([Row(1, {"text": "x", "label": "safe"}), BadRow("f", 2, "", "torn"), Row(3, {"text": "y", "other": 1})], LAYOUTS)
    assert [(item.name, item.score, item.share) for item in found] == [("text-label", 70, 0.5), ("prompt-response-label", 50, 0.5)]


def test_two_layouts_that_fit_equally_are_the_users_choice():
    class Twin(LAYOUTS["text-label"]):
        name = "twin"

    class Broken(Twin):
        name = "broken"

        @classmethod
        def matches(cls, row):
            raise RuntimeError("a stranger's bug")

    layouts = {"text-label": LAYOUTS["text-label"], "twin": Twin, "broken": Broken}
    rows = [Row(1, {"text": "x", "label": "safe"})]
    with pytest.raises(AmbiguousLayout, match="text-label and twin"):
        to_examples(rows, layouts, name="f")
    assert len(to_examples(rows, layouts, name="f", format="twin").examples) == 1


def test_rows_are_examples_or_bad_rows_and_none_is_lost(tmp_path):
    wrong = [{"prompt": "x", "label": "perhaps"}, {"prompt": 5, "label": "safe"}, {"prompt": "", "label": 1}]
    path = write(tmp_path / "a.jsonl", jsonl([*ROWS, *wrong]) + "torn")
    result = read_examples(path, LAYOUTS)
    assert [(example.row, example.labels.request) for example in result.examples] == [(1, "unharmful"), (2, "harmful")]
    assert [(bad.line, bad.column) for bad in result.bad] == [(3, "label"), (4, "prompt"), (5, "prompt"), (6, "")]
    assert str(result.bad[0]).startswith("a.jsonl, line 3, column label: 'perhaps' is not a request label")


def test_columns_and_constants(tmp_path):
    path = write(tmp_path / "a.csv", "q,kind\nhello,x\n")
    assert read_examples(path, LAYOUTS, columns={"prompt": "q", "label": "y", "category": "kind"}).bad[0].column == "y"
    result = read_examples(path, LAYOUTS, columns={"prompt": "q", "category": "kind"}, fixed={"label": "harmful"})
    assert (result.format, result.examples[0].labels.request, result.examples[0].category) == ("prompt-response-label", "harmful", "x")
    with pytest.raises(UserError, match="no column to name"):
        read_examples(path, LAYOUTS, format="advbench", columns={"prompt": "q"})
    with pytest.raises(UserError, match="no format 'nope'"):
        read_examples(path, LAYOUTS, format="nope")
    double = read_examples(write(tmp_path / "b.jsonl", jsonl([*ROWS, {"prompt": "x", "label": None}])), LAYOUTS, fixed={"label": "harmful"})
    assert [bad.column for bad in double.bad] == ["label", "label"]
    assert [example.row for example in double.examples] == [3]


@pytest.mark.parametrize(("row", "hint"), [
    ({"prompt": "x", "chosen": "a", "rejected": "b"}, "preference pairs"),
    ({"prompt": "x", "outputs": [], "k_correct": 1}, "mined hard samples"), ({"a": 1}, "its columns are a")])
def test_an_unknown_layout_is_refused_with_its_columns(tmp_path, row, hint):
    with pytest.raises(UserError, match=hint):
        read_examples(write(tmp_path / "a.jsonl", jsonl([row])), LAYOUTS)


def test_only_torn_rows_are_refused_with_the_first_reason(tmp_path):
    with pytest.raises(UserError, match=r"None of the first rows of a\.jsonl can be read; a\.jsonl, line 1"):
        read_examples(write(tmp_path / "a.jsonl", "x\ny\n"), LAYOUTS)


REFUSED = ["genesis/qa_agent_examples_100", "genesis/content_agent_examples_100", "genesis/legal_agent_examples_100",
           "genesis/support_agent_examples_100", "genesis/analyst_agent_examples_100", "genesis/waltzrl_safety_scenarios_50",
           "hs_mining_multi_outputs", "seed_dpo_pairs", "seed_hard_samples_exp18", "seed_guardreasoner_4bit_results",
           "gr_preds/1B/OpenAIModeration_labels"]


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data files are not here")
@pytest.mark.parametrize("name", REFUSED)
def test_real_files_that_are_no_guard_data_are_refused(name):
    with pytest.raises(UserError, match="in no known layout: its columns are"):
        read_examples(DATA / f"{name}.jsonl", LAYOUTS)


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data files are not here")
def test_real_chat_data_gives_no_example_and_says_why():
    result = read_examples(DATA / "genesis/waltzrl_conversation_unique.jsonl", LAYOUTS)
    assert (len(result.examples), len(result.bad)) == (0, 606)
    assert "chat data, not guard data" in result.bad[0].reason


def test_a_hub_set_out_of_reach_is_one_sentence(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def fail(*_, **__):
        raise ConnectionError("Couldn't reach the Hub\nlong trace")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError, match=r"owner/name.*Couldn't reach the Hub.*download its file"):
        list(read_hub("owner/name"))


def test_a_hub_set_is_read_as_rows(monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: iter(ROWS))
    result = to_examples(read_hub("owner/name", "test"), LAYOUTS, name="owner/name")
    assert [example.row for example in result.examples] == [1, 2]


# Splits


def examples(count, seed=0):
    rng = random.Random(seed)
    return [GuardExample(prompt=f"prompt {rng.randrange(count)}", response=f"{number}", source=rng.choice("abc"),
                         labels=Labels.model_validate({"request": rng.choice(["harmful", "unharmful"])})) for number in range(count)]


def test_splits_are_the_same_in_any_order_and_for_any_spelling():
    rows = examples(300)
    sides = {row.response: side for row, side in zip(rows, assign_splits(rows, test=0.2, validation=0.1), strict=True)}
    shuffled = random.Random(1).sample(rows, len(rows))
    shouted = [row.model_copy(update={"prompt": row.prompt.upper() + "  "}) for row in shuffled]
    again = {row.response: side for row, side in zip(shouted, assign_splits(shouted, test=0.2, validation=0.1), strict=True)}
    assert sides == again
    assert assign_splits(rows, test=0.2, seed=1) != assign_splits(rows, test=0.2, seed=2)


@given(count=st.integers(1, 120), test=st.sampled_from([0.0, 0.1, 0.2, 0.5]), validation=st.sampled_from([0.0, 0.1, 0.3]),
       seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_shares_are_near_and_a_prompt_is_on_one_side(count, test, validation, seed):
    rows = examples(count, seed)
    sides = assign_splits(rows, test=test, validation=validation, seed=seed)
    assert len({(row.prompt, side) for row, side in zip(rows, sides, strict=True)}) == len({row.prompt for row in rows})
    for share, name in ((test, "test"), (validation, "validation")):
        assert sides.count(name) <= round(share * count) + 1
    assert test or "test" not in sides
    assert validation or "validation" not in sides


def test_shares_are_exact_within_labels_and_sources():
    rows = [GuardExample(prompt=f"{source} {label} {number}", source=source, labels=Labels.model_validate({"request": label}))
            for source, label, number in itertools.product("ab", ["harmful", "unharmful"], range(50))]
    sides = assign_splits(rows, test=0.2, validation=0.1)
    for source, label in itertools.product("ab", ["harmful", "unharmful"]):
        here = [side for row, side in zip(rows, sides, strict=True) if (row.source, row.labels.request) == (source, label)]
        assert (here.count("test"), here.count("validation")) == (10, 5)


def test_shares_that_do_not_fit_are_an_error():
    with pytest.raises(ValueError):
        assign_splits(examples(3), test=0.7, validation=0.7)
