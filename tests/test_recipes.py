"""Studies: parsing, filling in, resuming where it stopped."""

import os
import signal

import pytest

from core.jobs import create, resume, submit
from core.lineage import ancestors
from core.methods import UserError, validate, with_preset
from core.plugins import load_plugins
from core.recipes import fill, find_unfinished, parse_recipe, recipe_files, recipe_path
from core.records import read_jsonl
from core.runs import REPOSITORY, Workspace
from core.split_guard import prompt_key
from core.waltz.ledger import read_iterations
from tests.helpers import FAKE_PLUGINS, execute, finish, wait_for, write
from tests.test_grpo import small_guard
from tests.test_sft_exact import examples

DEMO = REPOSITORY / "assets" / "demo"
RECIPE = """
title: Two counts
settings: {to: 20}
steps:
  first: {method: count, settings: {to: $to, pause: 0.05}}
  second: {method: count, settings: {to: 3}}
"""


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("GUARDWALTZ_PLUGINS", str(FAKE_PLUGINS))
    return Workspace(tmp_path / "runs")


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "two.yaml"
    path.write_text(RECIPE)
    return {"recipe": str(path), "settings": {"to": 30}}


def test_names_are_filled_in_at_any_depth():
    filled = fill({"a": ["$n", "run:$guard"], "b": "x ${KEY}"}, {"n": 3, "guard": "rsft-0001"})
    assert filled == {"a": [3, "run:rsft-0001"], "b": "x ${KEY}"}


@pytest.mark.parametrize(("text", "words"), [
    ("title: x\nsteps: {a: {method: count, settings: {to: $nope}}}", r"\$nope is neither"),
    ("title: x", "steps"),
    ("- a", "valid dictionary|Recipe"),
    ("title: [", "not YAML"),
    ("title: x\nsteps: {a: {metod: count}}", r"steps\.a"),
])
def test_a_wrong_recipe_is_one_sentence(text, words):
    with pytest.raises(UserError, match=words):
        parse_recipe(text, "file.yaml")


def test_the_recipes_that_ship_name_real_methods_and_settings():
    plugins = load_plugins(installed=False)
    for path in recipe_files():
        parsed = parse_recipe(path.read_text(), path.name)
        for preset in parsed.presets or [None]:
            given = {**dict.fromkeys(parsed.needed, "rows.jsonl"), **({"preset": preset} if preset else {})}
            known = parsed.values(given, path.name)
            for key, step in parsed.steps.items():
                method = plugins.method(step.method)
                assert set(step.settings) <= set(method.Config.model_fields)
                given = fill(with_preset(method, fill(step.preset, known), step.settings), known)
                assert validate(method, given), (path.name, preset, key)
                known[key] = f"{key}-0001"


def test_a_setting_without_a_value_must_be_given():
    recipe = parse_recipe(RECIPE.replace("to: 20", "to: null"), "file.yaml")
    assert recipe.needed == ["to"]
    with pytest.raises(UserError, match="it needs to; give it as to="):
        recipe.values({}, "it")
    assert recipe.values({"to": 4}, "it")["to"] == 4


def test_a_misspelled_setting_fails_before_the_first_step(workspace, recipe):
    run = submit(workspace, "recipe", {**recipe, "settings": {"tto": 1}})
    assert finish(workspace, run) == "failed"
    assert "no setting 'tto'" in run.status["message"]
    assert not run.children()


PRESETS = """
title: Presets
settings: {pause: 0}
presets:
  short: {to: 2}
  long: {to: 5, pause: 0.01}
steps:
  first: {method: count, settings: {to: $to, pause: $pause}}
"""


def test_presets_of_a_recipe_the_first_holds_and_what_is_given_wins():
    recipe = parse_recipe(PRESETS, "file.yaml")
    assert recipe.values({}, "it") == {"preset": "short", "to": 2, "pause": 0}
    assert recipe.values({"preset": "long"}, "it") == {"preset": "long", "to": 5, "pause": 0.01}
    assert recipe.values({"preset": "long", "to": 7}, "it") == {"preset": "long", "to": 7, "pause": 0.01}
    with pytest.raises(UserError, match=r"it has no preset 'longer'; it has: short, long\."):
        recipe.values({"preset": "longer"}, "it")
    with pytest.raises(UserError, match=r"it has no setting 'too'; it has: pause, preset, to\."):
        recipe.values({"too": 1}, "it")
    with pytest.raises(UserError, match=r"file.yaml, preset short: to is set in another preset"):
        parse_recipe(PRESETS.replace("short: {to: 2}", "short: {}"), "file.yaml")
    with pytest.raises(UserError, match=r"\$preset is neither"):
        parse_recipe(RECIPE.replace("to: 3", "to: $preset"), "file.yaml")


def test_a_study_runs_with_the_preset_that_was_asked_for(workspace, tmp_path):
    path = tmp_path / "presets.yaml"
    path.write_text(PRESETS)
    run = submit(workspace, "recipe", {"recipe": str(path), "settings": {"preset": "long"}})
    assert finish(workspace, run) == "succeeded"
    assert run.children()[0].report["counted"] == 5


def child_here(workspace):
    """`core.jobs.run_child` without a process of its own for each step."""
    def here(parent, method, settings, *, key, name=""):
        child = create(workspace, workspace.plugins.method(method), settings, parent=parent.id, key=key, name=name)
        return execute(workspace, method, settings, child)

    return here


@pytest.mark.parametrize("name", ["guardreasoner", "guardreasoner-ensemble"])
def test_guardreasoner_from_data_to_evaluation_with_a_tiny_model(name, workspace, tiny_model, tmp_path, monkeypatch):
    """Every step of the recipe on two dozen rows; the answers of a random model are bad, the plumbing is the same.

    The steps run in this process: seven interpreters that load torch would take a minute.
    """
    monkeypatch.setattr("core.jobs.run_child", child_here(workspace))
    rows = [row.model_copy(update={"split": "test" if number >= 26 else "train"}) for number, row in enumerate(examples(32))]
    (tmp_path / "guard").mkdir()
    settings = {"source": write(tmp_path / "rows.jsonl", rows), "name": "tiny-rows", "model": small_guard(tiny_model, tmp_path / "guard"),
                "mined_rows": 12, "longer_epochs": 2, "hard_k": 2}
    study = execute(workspace, "recipe", {"recipe": name, "settings": settings})
    by_key = {step["key"]: workspace.run(step["run"]) for step in study.report["steps"]}
    assert list(by_key) == list(parse_recipe(recipe_path(name).read_text(), "it").steps)
    guard, mined, pairs, tuned, longer, evaluation = (by_key[key] for key in ("guard", "mined", "pairs", "hsdpo", "longer", "evaluation"))
    assert mined.config["model"] == tuned.config["model"] == f"run:{guard.id}"
    assert (guard.config["learning_rate"], mined.config["limit"]) == (1e-3, 12)
    assert tuned.config["data"] == pairs.id
    assert (longer.config["model"], longer.config["epochs"]) == (settings["model"], 2), "one schedule over all its epochs"
    models = evaluation.report["tasks"]["request"]["models"]
    assert [entry["model"] for entry in models] == [settings["model"], f"run:{guard.id}", f"run:{longer.id}", f"run:{tuned.id}"]
    assert evaluation.report["tasks"]["request"]["rows"] == 6
    assert guard.id in (study.dir / "report.html").read_text()
    variants = by_key["ensemble"].report["variants"] if "ensemble" in by_key else []
    assert len(variants) == (2 if "ensemble" in name else 0)
    assert [one["run"] for one in pairs.report["runs"]] == [mined.id, *(variant["mining_run"] for variant in variants)]
    assert {variant["run"] for variant in variants} <= {one.id for one in ancestors(tuned, workspace)}


@pytest.mark.parametrize("name", ["guardreasoner", "guardreasoner-ensemble", "own-data"])
def test_training_for_longer_starts_from_the_base_and_is_longer(name):
    """Going on from the finished guard would be a second schedule, not R-SFT for more epochs."""
    recipe = parse_recipe(recipe_path(name).read_text(), name)
    guard, longer = (recipe.steps[key].settings for key in ("guard", "longer"))
    assert longer["model"] == guard["model"] == "$model"
    for preset in recipe.presets or [None]:
        known = recipe.values({**dict.fromkeys(recipe.needed, "rows.jsonl"), **({"preset": preset} if preset else {})}, name)
        known |= {key: f"{key}-0001" for key in recipe.steps}
        assert fill(longer, known)["epochs"] > fill(guard, known)["epochs"]


def test_waltzrl_from_prompts_to_evaluation_with_a_tiny_model(workspace, tiny_model, tmp_path, monkeypatch):
    """Every step of the recipe on a few rows of the demo data: each takes what the one before made, and nothing tested was trained on."""
    monkeypatch.setattr("core.jobs.run_child", child_here(workspace))

    def first(name, rows):
        lines = (DEMO / f"waltz-{name}.jsonl").read_text().splitlines()[:rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        return str(tmp_path / f"{name}.jsonl")

    settings = {"prompts": [first("prompts", 16)], "conversation": first("conversation", 8), "feedback": first("feedback", 8),
                "model": str(tiny_model), "stage1_iterations": 1, "stage2_iterations": 1, "max_new_tokens": 6, "max_feedback_tokens": 6,
                "capability_tasks": 2, "evaluation_tokens": 6, "evaluation_feedback_tokens": 6}
    study = execute(workspace, "recipe", {"recipe": "waltzrl", "settings": settings})
    by_key = {step["key"]: workspace.run(step["run"]) for step in study.report["steps"]}
    assert list(by_key) == list(parse_recipe(recipe_path("waltzrl").read_text(), "it").steps)
    pool, sft, stage1, stage2, evaluation = by_key.values()
    assert [stage1.config["data"], stage2.config["data"], evaluation.config["data"]] == [pool.id] * 3
    assert [stage1.config["model"], stage2.config["model"]] == [f"waltz:{sft.id}", f"waltz:{stage1.id}"]
    assert (stage1.config["stage"], stage2.config["stage"], stage1.config["rollout_batch"]) == (1, 2, 16), "the preset and the step's own"
    assert [[sorted(line.agents) for line in read_iterations(one.dir)] for one in (stage1, stage2)] == [
        [["feedback"]], [["conversation", "feedback"]]]
    models = [settings["model"], *(f"waltz:{one.id}" for one in (sft, stage1, stage2))]
    assert list(dict.fromkeys(one["model"] for one in evaluation.report["entries"])) == models
    tested = {prompt_key(row["prompt"]) for row in read_jsonl(pool.dir / "data.jsonl") if row["split"] == "test"}
    assert tested
    for one in (sft, stage1, stage2):
        assert not tested & set((one.dir / "trained_keys.txt").read_text().split())
    assert sft.id in (study.dir / "report.html").read_text()


@pytest.mark.kill
def test_a_killed_study_goes_on_with_the_step_it_was_in(workspace, recipe):
    run = submit(workspace, "recipe", recipe)
    wait_for(lambda: run.children() and len(run.children()[0].checkpoints()) > 2, "the first step")
    os.kill(run.status["process"]["pid"], signal.SIGKILL)
    wait_for(lambda: run.state == "lost", "the loss to show")
    assert find_unfinished(workspace, recipe).id == run.id
    resume(workspace, run)
    assert finish(workspace, run) == "succeeded"
    first, second = run.children()
    assert [event["step"] for event in first.events("metrics")][-1] == 30
    assert second.report["counted"] == 3
    assert [step["key"] for step in run.report["steps"]] == ["first", "second"]
    assert "Two counts" in (run.dir / "report.html").read_text()
    assert find_unfinished(workspace, recipe) is None
