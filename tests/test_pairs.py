"""From hard samples to preference pairs: weights, choice, union, edits by hand, the split guard, and reading pairs back."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.active import ActiveRun, StopRequested
from core.jobs import create
from core.lineage import ancestors
from core.methods import UserError, validate
from core.mining.choosing import choose_pairs
from core.mining.edits import Edit, add_edit, apply_edits, edits_file, history, read_edits
from core.mining.outputs import read_outputs
from core.mining.pairs import load_preferences
from core.mining.samples import as_hard
from core.mining.weights import GapRange, alpha, gap
from core.preflight import look
from core.records import GuardExample, Labels, Preference, read_jsonl, read_records
from core.split_guard import keys_to_register
from tests.helpers import execute, write
from tests.test_mining import sample

R, W = "harmful", "unharmful"  # right and wrong, as every row here is harmful


def mined(workspace, rows, model="run:rsft-0001", **config):
    """A finished mining run with these rows."""
    method = workspace.plugins.method("mine-hard-samples")
    run = create(workspace, method, {"model": "embedded", "data": "anything", **config})
    rows = [row.model_copy(update={"model": model}) for row in rows]
    write(run.dir / "outputs.jsonl", rows)
    hard = sum(as_hard(row, config.get("unparsed", "drop")) is not None for row in rows)
    (run.dir / "report.json").write_text(json.dumps({"kind": "mine-hard-samples", "model": model, "rows": len(rows), "hard": hard,
                                                     "prompt_format": "seed-binary", "data": {"name": "anything"}}))
    (run.dir / "status.json").write_text(json.dumps({**run.status, "state": "succeeded"}))
    return run


def build(workspace, *runs, **settings):
    return execute(workspace, "build-pairs", {"runs": [run.id for run in runs], **settings})


def pairs_of(run):
    return list(read_records(run.dir / "preferences.jsonl", Preference))


def said(value):
    return value[0]["content"] if isinstance(value, list) else value


def rows_of(*answers, **more):
    return [sample(number, answers=list(given), **more) for number, given in enumerate(answers)]


MIXED = ([R, W, W, W], [R, R, W, W], [R, R, R, W], [R] * 4, [W] * 4, [None] * 4, [R, None, None, W])


# ---- weights ----


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=30), st.floats(0, 0.99))
def test_min_max_weights_are_the_closed_form_in_range_and_monotone(counts, gamma):
    gaps = [gap(right, wrong) for right, wrong in counts]
    low, high = min(gaps), max(gaps)
    weights = [alpha(right, wrong, gamma, "min-max", GapRange(low, high)) for right, wrong in counts]
    for found, weight in zip(gaps, weights, strict=True):
        closed = 1 + (found - low) * 2 * gamma / (high - low) - gamma if high > low else 1.0
        assert weight == pytest.approx(closed, abs=1e-12)
        assert 1 - gamma - 1e-12 <= weight <= 1 + gamma + 1e-12
    order = sorted(zip(gaps, weights, strict=True))
    assert [weight for _, weight in order] == sorted(weights)
    if high > low:
        assert (min(weights), max(weights)) == pytest.approx((1 - gamma, 1 + gamma))


@given(st.integers(1, 30), st.integers(1, 30), st.floats(0, 0.99))
def test_seed_code_weights_lie_between_1_and_1_plus_gamma(right, wrong, gamma):
    weight = alpha(right, wrong, gamma, "seed-code")
    assert weight == pytest.approx(1 + gamma * (wrong - right + right + wrong) / (2 * (right + wrong)))
    assert 1 <= weight <= 1 + gamma


def test_four_readable_answers_give_the_papers_three_weights():
    found = [alpha(right, 4 - right, 0.2, "min-max", GapRange(-2, 2)) for right in (3, 2, 1)]
    assert found == pytest.approx([0.8, 1.0, 1.2])
    assert alpha(2, 2, 0.2, "min-max", GapRange(0, 0)) == 1.0, "all gaps equal: the released code divides by zero"
    for wrong in ({"gamma": 1.0}, {"gamma": -0.1}, {"gamma": float("nan")}):
        with pytest.raises(ValueError, match="gamma"):
            alpha(2, 2, **wrong)
    with pytest.raises(ValueError, match="within the range"):
        alpha(1, 3, 0.2, "min-max", GapRange(-2, 0))


def test_seed_code_gives_all_63_weights_of_the_seeds(shared_data):
    """Pairs and samples join on idx; the seeds counted unknown answers as wrong, so k is 4 throughout."""
    if not (shared_data / "seed_dpo_pairs.jsonl").is_file():
        pytest.skip("seed_dpo_pairs.jsonl is not among the shared data sets")
    samples = {row["idx"]: row for row in read_jsonl(shared_data / "seed_hard_samples_exp18.jsonl")}
    pairs = list(read_jsonl(shared_data / "seed_dpo_pairs.jsonl"))
    assert all(samples[pair["idx"]]["prompt"] == pair["prompt"] for pair in pairs)
    counted = [sum(output["correct"] for output in samples[pair["idx"]]["outputs"]) for pair in pairs]
    assert [alpha(right, 4 - right, 0.5, "seed-code") for right in counted] == [pair["weight"] for pair in pairs]
    assert len(pairs) == 63


# ---- which answers ----


def test_each_way_to_choose():
    row = as_hard(sample(answers=[R, W, R, W, None]))
    row.outputs[2].text += " and a longer one"
    row.outputs[3].text += " " * 50 + "longest"
    assert choose_pairs(row, "longest", "drop", seed=0, most=9) == [(2, 3)]
    assert choose_pairs(row, "all", "drop", seed=0, most=9) == [(0, 1), (0, 3), (2, 1), (2, 3)]
    capped = choose_pairs(row, "all", "drop", seed=0, most=3)
    assert len(set(capped)) == 3
    assert set(capped) < {(0, 1), (0, 3), (2, 1), (2, 3)}
    drawn = {choose_pairs(row, "random", "drop", seed=seed, most=9)[0] for seed in range(40)}
    assert drawn == {(0, 1), (0, 3), (2, 1), (2, 3)}
    assert choose_pairs(row, "random", "drop", seed=3, most=9) == choose_pairs(row, "random", "drop", seed=3, most=9)
    unread = as_hard(sample(answers=[R, R, None]), "incorrect")
    assert choose_pairs(unread, "random", "incorrect", seed=0, most=9)[0][1] == 2
    unread.outputs[2].text = "  "
    assert choose_pairs(unread, "random", "incorrect", seed=0, most=9) == [], "nothing can be learned from an empty answer"


# ---- a run ----


def test_what_a_run_makes(workspace):
    run = build(workspace, mined(workspace, rows_of(*MIXED)))
    pairs, report = pairs_of(run), run.report
    assert [(pair.row, pair.k_correct, pair.k_incorrect) for pair in pairs] == [(0, 1, 3), (1, 2, 2), (2, 3, 1), (6, 1, 1)]
    assert [pair.weight for pair in pairs] == pytest.approx([1.2, 1.0, 0.8, 1.0])
    for pair in pairs:
        assert said(pair.prompt).startswith("Analyze this content for safety:"), "the guard's own prompt"
        assert [turn["role"] for turn in (*pair.prompt, *pair.chosen, *pair.rejected)] == ["user", "assistant", "assistant"]
        assert said(pair.chosen).endswith(R)
        assert not said(pair.chosen).endswith(W)
        assert said(pair.rejected).endswith(W)
        assert (pair.user_prompt, pair.model, pair.task, pair.prompt_format) == (f"Question {pair.row}?", "run:rsft-0001", "request",
                                                                                 "seed-binary")
        assert "at random" in pair.why
    counts = report["counts"]
    assert (counts["mined_rows"], counts["hard_rows"], counts["pairs"], counts["duplicates"]) == (7, 4, 4, 0)
    assert report["ranges"] == [{"run": "mine-0001", "source": "", "low": -2, "high": 2}]
    assert [(bar["weight"], bar["pairs"]) for bar in report["weights"]["histogram"]] == [(0.8, 1), (1.0, 2), (1.2, 1)]
    assert report["table"] == [{"source": "", "model": "run:rsft-0001", "pairs": 4}]
    assert report["headline"] == "4 pairs from 4 hard rows, weights 0.8 to 1.2"
    assert list(load_preferences(run.dir / "preferences.jsonl")) == pairs
    assert [one.id for one in ancestors(workspace.run(run.id), workspace)] == ["mine-0001"]
    again = build(workspace, workspace.run("mine-0001"))
    assert pairs_of(again) == pairs
    assert {said(pair.rejected) for pair in pairs_of(build(workspace, workspace.run("mine-0001"), seed=1))} != {
        said(pair.rejected) for pair in pairs}


def test_formats_without_chat_give_text(workspace):
    rows = [row.model_copy(update={"prompt_format": "guardreasoner-raw"}) for row in rows_of([R, W])]
    pair = pairs_of(build(workspace, mined(workspace, rows)))[0]
    assert isinstance(pair.prompt, str)
    assert "Human user:\nQuestion 0?" in pair.prompt
    assert (pair.chosen, pair.rejected) == ("Label 0: harmful", "Label 1: unharmful")


def test_presets(workspace):
    method = workspace.plugins.method("build-pairs")
    assert next(iter(method.presets)) == "paper"
    run = mined(workspace, rows_of(*MIXED[:3]))
    weights = {name: sorted(pair.weight for pair in pairs_of(build(workspace, run, **values))) for name, values in method.presets.items()}
    assert weights["paper"] == weights["paper-code"] == pytest.approx([0.8, 1.0, 1.2])
    assert weights["seed-plan"] == pytest.approx([1.125, 1.25, 1.375])


def test_unreadable_answers_count_as_the_mining_run_counted_them(workspace):
    run = mined(workspace, rows_of([R, R, None], [R, W]), unparsed="incorrect")
    assert [pair.row for pair in pairs_of(build(workspace, run))] == [0, 1]
    assert [pair.row for pair in pairs_of(build(workspace, run, unparsed="drop"))] == [1]


def test_weights_are_stretched_per_source_and_run_before_the_union(workspace):
    """Source a of the first run has gaps 2 and -2, source b only 2; the second run's gaps are 0 and 2."""
    first = mined(workspace, [sample(0, answers=[R, W, W, W], source="a"), sample(1, answers=[R, R, R, W], source="a"),
                              sample(2, answers=[R, W, W, W], source="b")])
    second = mined(workspace, [sample(0, answers=[R, R, W, W], source="a"), sample(3, answers=[R, W, W, W], source="a")], "run:rsft-0002")
    run = build(workspace, first, second)
    assert [(pair.model, pair.row, pair.weight) for pair in pairs_of(run)] == [
        ("run:rsft-0001", 0, 1.2), ("run:rsft-0001", 1, 0.8), ("run:rsft-0001", 2, 1.0), ("run:rsft-0002", 3, 1.2)]
    assert run.report["counts"]["duplicates"] == 1, "row 0 is hard for both; the first one's pair is kept"
    assert {(entry["run"], entry["source"]): (entry["low"], entry["high"]) for entry in run.report["ranges"]} == {
        (first.id, "a"): (-2, 2), (first.id, "b"): (2, 2), (second.id, "a"): (0, 2)}


def test_the_union_goes_by_the_normalised_input(workspace):
    rows = [sample(0, answers=[R, W], prompt="How do I  sharpen a KNIFE?"), sample(1, answers=[R, W], prompt="how do i sharpen a knife?"),
            sample(2, answers=[R, W], prompt="how do i sharpen a knife?", response="With a stone.")]
    run = build(workspace, mined(workspace, rows))
    assert [pair.row for pair in pairs_of(run)] == [0, 2], "another response is another input"
    everything = build(workspace, mined(workspace, [sample(0, answers=[R, R, W, W])]), pick="all", max_pairs_per_row=3)
    assert [pair.row for pair in pairs_of(everything)] == [0, 0, 0]


def test_agreement_between_miners(workspace):
    chance = random.Random(0)
    answers = [[chance.choice(([R, W], [R, R])) for _ in range(40)] for _ in range(2)]
    runs = [mined(workspace, rows_of(*one), f"run:rsft-000{number}") for number, one in enumerate(answers, 1)]
    both = [(W in a, W in b) for a, b in zip(*answers, strict=True)]
    entry, = build(workspace, *runs).report["agreement"]
    assert (entry["a"], entry["b"], entry["inputs"]) == (runs[0].id, runs[1].id, 40)
    assert (entry["both_hard"], entry["neither_hard"]) == (both.count((True, True)), both.count((False, False)))
    agreed = sum(a == b for a, b in both) / 40
    expected = sum((sum(a is side for a, _ in both) / 40) * (sum(b is side for _, b in both) / 40) for side in (True, False))
    assert entry["agree"]["value"] == pytest.approx(agreed)
    assert entry["kappa"]["value"] == pytest.approx((agreed - expected) / (1 - expected))
    assert entry["kappa"]["low"] < entry["kappa"]["value"] < entry["kappa"]["high"]


def test_equal_texts_make_no_pair_and_are_counted(workspace):
    rows = rows_of([R, W], [R, W])
    rows[0].outputs[1].text = rows[0].outputs[0].text + " "
    run = build(workspace, mined(workspace, rows))
    assert [pair.row for pair in pairs_of(run)] == [1]
    assert run.report["counts"]["skipped"] == {"chosen and rejected are the same text": 1}
    assert "1 hard row left out: chosen and rejected are the same text." in run.report["notes"]


def test_uneven_right_labels_are_told(workspace):
    rows = rows_of([R, W], [R, W, W], [R, R, W])
    other = "unharmful" if rows[0].gold.request == "harmful" else "harmful"
    rows[2] = rows[2].model_copy(update={"gold": rows[2].gold.model_copy(update={"request": other})})
    report = build(workspace, mined(workspace, rows)).report
    assert sorted(line["pairs"] for line in report["by_gold"]) == [1, 2]
    assert any(note.startswith("Right answers of the request: ") and "2 " in note for note in report["notes"])


def test_stop_ends_a_build_and_leaves_no_file(workspace, monkeypatch):
    miner = mined(workspace, rows_of(*MIXED[:3]))
    run = create(workspace, workspace.plugins.method("build-pairs"), {"runs": [miner.id]})
    told = []
    monkeypatch.setattr(ActiveRun, "progress", lambda self, done, *_: (told.append(done), (self.dir / "stop").touch()))
    with pytest.raises(StopRequested):
        execute(workspace, "build-pairs", {}, run)
    assert told == [1], "after the first row"
    assert not (run.dir / "preferences.jsonl").exists()


def test_no_pairs_is_an_error_and_leaves_no_file(workspace):
    easy = mined(workspace, rows_of([R] * 4, [W] * 4))
    with pytest.raises(UserError, match=r"no hard sample in mine-0001 \(2 rows\).* higher temperature, more rows, a larger k, or a less"):
        build(workspace, easy)
    only = mined(workspace, rows_of([R, W]))
    add_edit(edits_file(only.dir), Edit(t=1, who="ann", row=0, kind="exclude"), next(read_outputs(only.dir / "outputs.jsonl")))
    with pytest.raises(UserError, match="1 excluded by hand"):
        build(workspace, only)
    assert not list(workspace.runs_dir.glob("build-pairs-*/preferences.jsonl"))
    assert pairs_of(build(workspace, easy, mined(workspace, rows_of([R, W])))), "one miner that found some is enough"


def test_runs_that_are_none_or_not_done_are_refused(workspace):
    run = mined(workspace, rows_of([R, W]))
    (run.dir / "status.json").write_text(json.dumps({**run.status, "state": "stopped"}))
    assert "mine-0001 is stopped; only finished" in look(workspace, "build-pairs", {"runs": "mine-0001"}).errors[0].message
    other = execute(workspace, "import-data", {"source": _labelled(workspace), "name": "labelled"})
    assert "is a run of import-data" in look(workspace, "build-pairs", {"runs": [other.id]}).errors[0].message
    for runs, words in (([], "names no run"), (["mine-0001", "run:mine-0001"], "twice")):
        with pytest.raises(UserError, match=words):
            validate(workspace.plugins.method("build-pairs"), {"runs": runs})


def _labelled(workspace):
    path = workspace.runs_dir.parent / "labelled.jsonl"
    path.write_text('{"prompt": "How do I sharpen a knife?", "labels": {"request": "unharmful"}}\n')
    return str(path)


def test_a_truncated_run_is_named_by_line(workspace):
    run = mined(workspace, rows_of([R, W], [R, W]))
    path = run.dir / "outputs.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(lines[0][:50] + b"\n" + lines[1] + b"\n")
    with pytest.raises(UserError, match=r"outputs.jsonl, line 1 is damaged"):
        build(workspace, run)


def test_a_test_set_registered_after_the_mining_is_kept_out(workspace):
    run = mined(workspace, rows_of([R, W], [R, W, W], [R, R]))
    workspace.store.register_test_keys("late", "data-0009", keys_to_register([GuardExample(prompt="question 1?", labels=Labels())]))
    found = look(workspace, "build-pairs", {"runs": run.id}).errors[0]
    assert "1 row of registered test sets: late (1)" in found.message
    assert found.fix == {"exclude_test_rows": True}
    with pytest.raises(UserError, match="late"):
        build(workspace, run)
    dropped = build(workspace, run, exclude_test_rows=True)
    assert [pair.row for pair in pairs_of(dropped)] == [0]
    assert dropped.report["split_guard"]["test_rows_dropped"] == 1
    used = build(workspace, run, allow_test_rows=True)
    assert len(pairs_of(used)) == 2
    assert "1 row of registered test sets are in its pairs" in used.report["overrides"][0]["text"]


# ---- edits by hand ----


def test_edits_are_kept_as_lines_and_the_latest_counts(tmp_path):
    path, row = tmp_path / "edits.jsonl", sample(3, answers=[R, W, W])
    made = [Edit(t=1, who="ann", row=3, kind="exclude", note="unclear"),
            Edit(t=2, who="bob", row=3, kind="gold", task="request", label="safe"),
            Edit(t=3, who="ann", row=3, kind="swap", chosen=1, rejected=0), Edit(t=4, who="ann", row=3, kind="include"),
            Edit(t=5, who="ann", row=3, kind="gold", task="request", label="harmful")]
    for edit in made[:3]:
        add_edit(path, edit, row)
    found = apply_edits(row, read_edits(path)[3])
    assert (found.excluded, found.sample.gold.request, found.pair) == (True, "unharmful", (1, 0))
    assert found.original == row, "as mined"
    for edit in made[3:]:
        add_edit(path, edit, row)
    assert list(history(path)) == made, "nothing is overwritten"
    found = apply_edits(row, read_edits(path)[3])
    assert (found.excluded, found.sample.gold.request, [edit.t for edit in found.edits]) == (False, "harmful", [5, 3])
    for undo in (Edit(t=6, who="ann", row=3, kind="gold", task="request"), Edit(t=7, who="ann", row=3, kind="swap")):
        add_edit(path, undo, row)
    assert read_edits(path) == {}, "an edit that is taken back is none"


def test_edits_that_fit_no_row_are_refused(tmp_path):
    path, row = tmp_path / "edits.jsonl", sample(3, answers=[R, W])
    for edit, words in ((Edit(t=1, who="ann", row=4, kind="exclude"), "row 4"),
                        (Edit(t=1, who="ann", row=3, kind="swap", chosen=0, rejected=2), "has 2 outputs"),
                        (Edit(t=1, who="ann", row=3, kind="gold", task="response", label="harmful"), "not asked about the response")):
        with pytest.raises(UserError, match=words):
            add_edit(path, edit, row)
    for values in ({"kind": "gold", "task": "request", "label": "perhaps"}, {"kind": "gold"}, {"kind": "swap", "chosen": 1},
                   {"kind": "swap", "chosen": 1, "rejected": 1}, {"kind": "exclude", "label": "harmful"}, {"kind": "exclude", "who": ""}):
        with pytest.raises(ValueError):
            Edit.model_validate({"t": 1, "who": "ann", "row": 3, **values})
    assert not path.exists()
    path.write_bytes(b'{"t": 1, "who": "a')
    add_edit(path, Edit(t=2, who="ann", row=3, kind="exclude"), row)
    assert [edit.t for edit in history(path)] == [2], "a torn line is not glued to the next one"
    path.write_bytes(b"nonsense\n" + path.read_bytes())
    with pytest.raises(UserError, match="line 1 is damaged"):
        read_edits(path)


def test_pairs_follow_the_edits_in_whichever_run_an_input_occurs(workspace):
    first = mined(workspace, rows_of([R, W, W], [R, W], [R, R, R, W], [R, W]))
    second = mined(workspace, rows_of([R, W], [R, W], [W, R], [R, W]), "run:rsft-0002")
    row = {item.row: item for item in read_outputs(first.dir / "outputs.jsonl")}
    path = edits_file(first.dir)
    add_edit(path, Edit(t=1, who="ann", row=0, kind="exclude"), row[0])
    add_edit(path, Edit(t=2, who="ann", row=2, kind="gold", task="request", label="unharmful"), row[2])
    add_edit(path, Edit(t=3, who="ann", row=3, kind="swap", chosen=1, rejected=0), row[3])
    before = (first.dir / "outputs.jsonl").read_bytes()
    run = build(workspace, second, first)
    found = {pair.row: pair for pair in pairs_of(run)}
    assert set(found) == {1, 2, 3}, "row 0 does not come back through the other model"
    assert said(found[2].chosen) == "Label 0: unharmful", "the corrected label holds for the second model's answers too"
    alone = {pair.row: pair for pair in pairs_of(build(workspace, first))}
    assert (said(alone[3].chosen), said(alone[3].rejected)) == ("Label 1: unharmful", "Label 0: harmful")
    assert "picked by hand" in alone[3].why
    assert (alone[2].k_correct, alone[2].k_incorrect) == (1, 3)
    assert run.report["counts"]["excluded_by_hand"] == 2
    assert (first.dir / "outputs.jsonl").read_bytes() == before


def test_a_pair_picked_by_hand_is_void_once_the_gold_label_was_changed_after_it(workspace):
    runs = {}
    for name, edits in {  # of row 0, whose outputs are right, right, wrong; gold is turned round, so that they are wrong, wrong, right
        "swap, then gold": [("swap", 2), ("gold", 3)], "gold, then a swap against it": [("gold", 2), ("against", 3)],
        "gold, swap, gold": [("gold", 2), ("turned swap", 3), ("gold back", 4)],
        "swap, gold, gold back": [("swap", 2), ("gold", 3), ("gold back", 4)],
    }.items():
        run = runs[name] = mined(workspace, rows_of([R, R, W], [R, W]))
        row = next(read_outputs(run.dir / "outputs.jsonl"))
        fields = {"swap": {"kind": "swap", "chosen": 1, "rejected": 2}, "turned swap": {"kind": "swap", "chosen": 2, "rejected": 1},
                  "against": {"kind": "swap", "chosen": 1, "rejected": 2},
                  "gold": {"kind": "gold", "task": "request", "label": W}, "gold back": {"kind": "gold", "task": "request"}}
        for word, moment in edits:
            add_edit(edits_file(run.dir), Edit(t=moment, who="ann", row=0, **fields[word]), row)
    for name, chosen, void in (("swap, then gold", W, 1), ("gold, then a swap against it", R, 0), ("gold, swap, gold", R, 1),
                               ("swap, gold, gold back", R, 0)):
        built = build(workspace, runs[name])
        pair = next(pair for pair in pairs_of(built) if pair.row == 0)
        assert said(pair.chosen).endswith(f": {chosen}"), name
        assert pair.why.startswith("picked by hand") == (not void), name
        assert built.report["counts"]["void_by_hand"] == void, name
        assert any("1 pair picked by hand not used" in note for note in built.report["notes"]) == bool(void), name
    assert said(pairs_of(build(workspace, runs["swap, gold, gold back"]))[0].chosen) == f"Label 1: {R}", "it holds again"


@pytest.mark.parametrize(("moment", "void"), [(1, 0), (5, 1)])
def test_a_gold_label_changed_in_another_run_voids_an_older_pair(workspace, moment, void):
    first, second = mined(workspace, rows_of([R, R, W])), mined(workspace, rows_of([R, R, R]), "run:rsft-0002")
    row = next(read_outputs(first.dir / "outputs.jsonl"))
    add_edit(edits_file(first.dir), Edit(t=3, who="ann", row=0, kind="swap", chosen=0, rejected=2), row)
    add_edit(edits_file(second.dir), Edit(t=moment, who="ben", row=0, kind="gold", task="request", label=W), row)
    run = build(workspace, first, second)
    assert run.report["counts"]["void_by_hand"] == void
    assert said(pairs_of(run)[0].chosen).endswith(W if void else R)


# ---- reading pairs back ----


PAIR = {"prompt": "p", "chosen": "a", "rejected": "b", "weight": 1.1}


def load(tmp_path, *lines, **options):
    path = tmp_path / "preferences.jsonl"
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return list(load_preferences(path, **options))


def test_plain_trl_files_are_read(tmp_path):
    turns = {name: [{"role": role, "content": name}] for name, role in
             (("prompt", "user"), ("chosen", "assistant"), ("rejected", "assistant"))}
    found = load(tmp_path, {**PAIR, "score_chosen": 4}, {**turns, "weight": 2})
    assert [(said(pair.chosen), pair.weight) for pair in found] == [("a", 1.1), ("chosen", 2.0)]
    plain = {name: PAIR[name] for name in ("prompt", "chosen", "rejected")}
    assert load(tmp_path, plain, need_weights=False)[0].weight == 1.0
    assert load(tmp_path, json.dumps(PAIR))[0].prompt == "p", "a last line needs no line end"


@pytest.mark.parametrize("line, words", [
    ({name: PAIR[name] for name in ("prompt", "chosen", "rejected")}, "has no weight"),
    ({**PAIR, "weight": None}, "has no weight"),
    ({**PAIR, "weight": -0.2}, "weight = -0.2 is not a number above 0"),
    ({**PAIR, "weight": 0}, "weight = 0 is not"),
    ({**PAIR, "weight": float("nan")}, "weight = nan"),
    ({**PAIR, "weight": float("inf")}, "weight = inf"),
    ({**PAIR, "weight": "1.2"}, "weight = '1.2'"),
    ({**PAIR, "weight": True}, "weight = True"),
    ({**PAIR, "weight": 10**400}, "weight = 10000000000000000000... (401 characters) is not a number above 0 that float32 can hold"),
    ({**PAIR, "weight": 1e39}, "weight = 1e+39 is not"),
    ({**PAIR, "weight": 1e-60}, "weight = 1e-60 is not"),
    ({"chosen": "a", "rejected": "b", "weight": 1}, "prompt is missing"),
    ({**PAIR, "rejected": ""}, "rejected is missing, empty"),
    ({**PAIR, "chosen": [{"role": "assistant"}]}, "chosen is missing, empty, or neither"),
    ({**PAIR, "chosen": [{"role": "assistant", "content": "a"}]}, "all text or all messages"),
    ({**PAIR, "rejected": "a"}, "chosen and rejected are the same"),
    ({**PAIR, "task": "weather"}, "no preference pair"),
    ('{"prompt": "p", "chosen": "a", "rej', "is cut off"),
    ("[1]\n", "is not an object"),
    ("nonsense\n", "is not JSON"),
])
def test_bad_pairs_are_named_by_line(tmp_path, line, words):
    with pytest.raises(UserError) as error:
        load(tmp_path, PAIR, PAIR, line)
    assert "preferences.jsonl, line 3" in str(error.value)
    assert words in str(error.value)


def test_a_file_without_pairs_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no pairs"):
        load(tmp_path)
    with pytest.raises(UserError, match="There is no file"):
        list(load_preferences(tmp_path / "nowhere.jsonl"))
