"""`rsft-ensemble` and `subset`: parts of a set, variants, their mining and the union; resume; what is found before the start."""

import json
import re
from collections import Counter
from types import SimpleNamespace

import pytest

from core.active import ActiveRun
from core.data import find_data, load_examples
from core.jobs import create
from core.lineage import ancestors
from core.lm.dpo_data import find_pairs
from core.methods import UserError, validate, with_preset
from core.mining.outputs import read_outputs
from core.preflight import look
from core.records import GuardExample, Labels, Preference, read_records
from core.runs import update_status
from core.split_guard import keys_to_register, prompt_key
from tests.helpers import execute, write
from tests.test_mining import ON_CPU, TRAIN
from tests.test_sft_exact import examples

RSFT = {name: value for name, value in TRAIN.items() if name != "lr"} | {"learning_rate": 3e-3}
SIZES = {"a": 12, "b": 8, "c": 4}


@pytest.fixture
def data(tmp_path, workspace):
    """24 rows of three sources, imported as "trio"."""
    sources = [name for name, count in SIZES.items() for _ in range(count)]
    rows = [row.model_copy(update={"source": source}) for row, source in zip(examples(24), sources, strict=True)]
    execute(workspace, "import-data", {"source": write(tmp_path / "trio.jsonl", rows), "name": "trio"})
    return "trio"


@pytest.fixture
def here(monkeypatch):
    """Children run in this process instead of one each (importing torch takes seconds); everything else of core.jobs is as it is.

    `here.done` = the keys that ran; `here.break_at` = the key of a child that dies.
    """
    from core.worker import _execute

    state = SimpleNamespace(done=[], break_at=None)

    def start(workspace, run, **_):
        state.done.append(run.status["key"])
        if run.status["key"] == state.break_at:
            update_status(run.dir, state="lost", message="killed")
        else:
            update_status(run.dir, **_execute(workspace, ActiveRun(workspace, run.id)))
        return SimpleNamespace(poll=lambda: 0)

    monkeypatch.setattr("core.jobs._popen", start)
    monkeypatch.setattr("core.worker.environment", lambda seed: {"seed": seed})
    return state


def settings_for(tiny_model, **more):
    return {"data": "trio", "model": str(tiny_model), "variants": 2, "rsft": RSFT, "mining": ON_CPU, **more}


@pytest.mark.usefixtures("data")
def test_variants_are_trained_on_parts_mined_and_merged(workspace, tiny_model, here):
    settings = settings_for(tiny_model, share=0.5, pairs={"pick": "longest"})
    run = execute(workspace, "rsft-ensemble", settings)
    keys = ["subset-1", "train-1", "mine-1", "subset-2", "train-2", "mine-2", "pairs"]
    assert here.done == [child.status["key"] for child in run.children()] == keys
    by_key = {child.status["key"]: child for child in run.children()}
    parts = [{row.prompt for row in load_examples(by_key[f"subset-{number}"].id, workspace)} for number in (1, 2)]
    assert [len(part) for part in parts] == [12, 12]
    assert parts[0] != parts[1]
    for number, part in enumerate(parts, start=1):
        trained = by_key[f"train-{number}"]
        assert set((trained.dir / "trained_keys.txt").read_text().split()) == {prompt_key(prompt) for prompt in part}
        assert trained.config["seed"] == 41 + number
        mined = by_key[f"mine-{number}"]
        assert len(list(read_outputs(mined.dir / "outputs.jsonl"))) == 24, "each mines the whole set"
        behind = {one.id for one in ancestors(mined, workspace)}
        assert behind == {trained.id, by_key[f"subset-{number}"].id, "data-0001"}, "lineage: model, its part, the set"
    report = run.report
    assert [(entry["rows"], entry["run"], entry["mining_run"], entry["mined_rows"]) for entry in report["variants"]] == [
        (12, by_key[f"train-{number}"].id, by_key[f"mine-{number}"].id, 24) for number in (1, 2)]
    assert [entry["hard_rows"] for entry in report["variants"]] == [by_key[f"mine-{number}"].report["hard"] for number in (1, 2)]
    assert report["agreement"] == by_key["pairs"].report["agreement"]
    assert (report["agreement"][0]["inputs"], report["agreement"][0]["a"]) == (24, by_key["mine-1"].id)
    pairs = list(read_records(by_key["pairs"].dir / "preferences.jsonl", Preference))
    assert report["pairs"]["counts"]["pairs"] == len(pairs) > 0
    assert len({(pair.user_prompt, pair.user_response) for pair in pairs}) == len(pairs), "one pair for each input"
    assert {pair.model for pair in pairs} <= {f"run:{by_key[f'train-{number}'].id}" for number in (1, 2)}
    assert report["headline"].startswith("2 variants; ")
    assert find_pairs(run.id, workspace).run.id == by_key["pairs"].id, "its pairs can be trained on by its own name"
    again = execute(workspace, "build-pairs", {"runs": [by_key["mine-2"].id, run.id]})
    assert [one["run"] for one in again.report["runs"]] == [by_key["mine-2"].id, by_key["mine-1"].id], "its miners, none twice"
    assert {child.id for child in run.children()} <= {one.id for one in ancestors(again, workspace)}
    here.done.clear()
    execute(workspace, "rsft-ensemble", settings, workspace.run(run.id))
    assert here.done == [], "on resume, what is done is taken as it is"


@pytest.mark.usefixtures("data")
def test_a_killed_ensemble_goes_on_with_the_step_it_was_at(workspace, tiny_model, here):
    settings = settings_for(tiny_model, mine=False)
    here.break_at = "train-2"
    run = create(workspace, workspace.plugins.method("rsft-ensemble"), settings)
    with pytest.raises(UserError, match="Step train-2"):
        execute(workspace, "rsft-ensemble", settings, run)
    here.done.clear()
    here.break_at = None
    again = execute(workspace, "rsft-ensemble", settings, run)
    assert here.done == ["train-2"]
    assert len(again.children()) == 4
    assert (again.report["pairs"], again.report["agreement"]) == (None, [])
    assert again.report["headline"] == "2 variants"
    with pytest.raises(UserError, match="has no pairs: its variants mined nothing"):
        find_pairs(again.id, workspace)
    with pytest.raises(UserError, match=r"mined nothing \(mine = false\); mine the guards"):
        execute(workspace, "build-pairs", {"runs": [again.id]})


@pytest.mark.usefixtures("data", "here")
def test_one_source_is_left_out_of_each_variant(workspace, tiny_model):
    settings = settings_for(tiny_model, subsets="leave-one-source-out", with_all=True, mine=False, rsft={**RSFT, "epochs": 1})
    run = execute(workspace, "rsft-ensemble", settings)
    found = [(entry["name"], entry["leave_out"], entry["rows"]) for entry in run.report["variants"]]
    assert found == [("all", [], 24), ("1", ["c"], 20), ("2", ["b"], 16)], "the smallest sources are left out first"
    parts = [Counter(row.source for row in load_examples(entry["subset_run"], workspace)) for entry in run.report["variants"]]
    assert parts == [Counter(SIZES), Counter(a=12, b=8), Counter(a=12, c=4)]


@pytest.mark.usefixtures("data")
def test_the_papers_preset_makes_the_papers_subsets(workspace, tiny_model, monkeypatch):
    """WildGuard always stays; of the three others one is left out each time (GuardReasoner, 4.2)."""
    sizes = {"WildGuard": 86_759, "Aegis": 10_798, "BeaverTails": 27_186, "ToxicChat": 2_801}
    monkeypatch.setattr("core.mining.subsets.source_sizes", lambda *_: sizes)
    method = workspace.plugins.method("rsft-ensemble")
    config = validate(method, with_preset(method, "paper", {"data": "trio", "model": str(tiny_model)}))
    made = method(workspace)._variants(config)
    assert [variant.part["leave_out"] for variant in made] == [[], ["ToxicChat"], ["Aegis"], ["BeaverTails"]]


@pytest.mark.usefixtures("data", "here")
def test_variants_without_hard_samples_end_without_pairs_and_say_so(workspace, tiny_model, monkeypatch):
    monkeypatch.setattr("core.mining.summary.Summary.hard", property(lambda _: 0))
    run = execute(workspace, "rsft-ensemble", settings_for(tiny_model, variants=1, share=1.0, rsft={**RSFT, "epochs": 1},
                                                           mining={**ON_CPU, "limit": 2, "max_new_tokens": 2}))
    assert run.report["pairs"] is None
    assert "found a hard sample, so there are no pairs" in " ".join(event["text"] for event in run.events("notice"))
    with pytest.raises(UserError, match="has no pairs: none of its variants found a hard sample"):
        find_pairs(run.id, workspace)


@pytest.mark.usefixtures("data")
def test_what_is_wrong_is_found_before_the_first_training(workspace, tiny_model, tmp_path):
    def errors(**changes):
        found = look(workspace, "rsft-ensemble", settings_for(tiny_model, **changes)).errors
        return [(problem.field, problem.message) for problem in found]

    assert errors() == []
    for changes, field, words in (
            ({"rsft": {"epoch": 1}}, "rsft", "did you mean epochs?"), ({"rsft": {"data": "x"}}, "rsft", "sets data"),
            ({"rsft_preset": "papper"}, "rsft_preset", "no preset 'papper'"), ({"mining": {"k": 1}}, "mining", "k = 1"),
            ({"mining_preset": "x"}, "mining_preset", "mine-hard-samples has no preset"),
            ({"pairs": {"gamma": 1.5}}, "pairs", "gamma = 1.5"), ({"pairs_preset": "x"}, "pairs_preset", "build-pairs has no preset"),
            ({"mining_data": "nowhere"}, "mining_data", "There is no data 'nowhere'"),
            ({"data": "nowhere"}, "data", "There is no data 'nowhere'"),
            ({"model": "run:rsft-0099"}, "model", "There is no run")):
        found = errors(**changes)
        assert found, changes
        assert words in found[0][1], found
        assert found[0][0] == field, found
    one = write(tmp_path / "one.jsonl", examples(6))
    assert "have one source" in errors(data=one, subsets="leave-one-source-out")[0][1]
    few = look(workspace, "rsft-ensemble", settings_for(tiny_model, subsets="leave-one-source-out", variants=5))
    assert any("3 sources" in problem.message for problem in few.problems)
    workspace.store.register_test_keys("my-test", "data-0009", keys_to_register(examples(2)))
    refused = look(workspace, "rsft-ensemble", settings_for(tiny_model)).errors[0]
    assert "my-test (2)" in refused.message
    assert refused.fix == {"exclude_test_rows": True}
    assert look(workspace, "rsft-ensemble", settings_for(tiny_model, exclude_test_rows=True)).estimate.seconds > 0


@pytest.mark.usefixtures("data")
def test_rows_that_cannot_be_mined_are_refused_before_the_first_training(workspace, tiny_model, tmp_path, here):
    usable = examples(1)[0]
    tested = GuardExample(prompt="Is this a test?", labels=usable.labels)
    workspace.store.register_test_keys("my-test", "data-0009", keys_to_register([tested]))
    sets = {"test": [usable, tested], "held": [usable.model_copy(update={"split": "validation"})],
            "other": [GuardExample(prompt="Say it.", response="No.", labels=Labels(completion="refusal"))]}
    said = {"test": r"my-test \(1\)", "held": "has no training rows", "other": "has a gold label that seed-label answers"}
    for name, words in said.items():
        settings = settings_for(tiny_model, mining_data=write(tmp_path / f"{name}.jsonl", sets[name]))
        problem, = look(workspace, "rsft-ensemble", settings).errors
        assert problem.field == "mining_data"
        assert re.search(words, problem.message)
        assert problem.fix == ({"exclude_test_rows": True} if name == "test" else None)
        with pytest.raises(UserError, match=words):
            execute(workspace, "rsft-ensemble", settings)
        assert look(workspace, "rsft-ensemble", {**settings, "mine": False}).errors == []
    assert here.done == []
    left_out = settings_for(tiny_model, mining_data=str(tmp_path / "test.jsonl"), exclude_test_rows=True)
    assert look(workspace, "rsft-ensemble", left_out).errors == []


def test_a_subset_is_exact_repeats_and_keeps_validation_rows(workspace, tmp_path):
    rows = examples(20)
    for row in rows[:4]:
        row.split = "validation"
    for row in rows[4:6]:
        row.split = "test"
    path = write(tmp_path / "split.jsonl", rows)

    def part(**settings):
        run = execute(workspace, "subset", {"data": path, **settings})
        made = list(read_records(run.dir / "data.jsonl", GuardExample))
        assert run.report["rows"] == len(made)
        return [row.prompt for row in made]

    half = part(share=0.5)
    assert len(half) == 4 + 7
    assert half[:4] == [row.prompt for row in rows[:4]]
    assert half == part(share=0.5)
    assert half != part(share=0.5, seed=1)
    assert sorted(half, key=[row.prompt for row in rows].index) == half
    assert part() == [row.prompt for row in rows if row.split != "test"]
    with pytest.raises(UserError, match="no training rows of that source"):
        part(leave_out=["nowhere"])
    with pytest.raises(UserError, match="Nothing is left of the 14 training rows"):
        part(share=0.01)
    with pytest.raises(UserError, match="share"):
        validate(workspace.plugins.method("subset"), {"data": path, "share": 0})
    chosen = execute(workspace, "subset", {"data": path})
    assert find_data(chosen.id, workspace).run.id == chosen.id, "a set like any other"
    assert json.loads((chosen.dir / "report.json").read_text())["data"]["file"] == path
