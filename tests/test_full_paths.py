"""A run starts in another folder than the command that made it: files and folders of a config get their full path, names stay."""

import pytest

from core.methods import from_run, full_path, short_path
from core.plugins import load_plugins

METHODS = load_plugins().methods
FIELDS = [(name, field) for name, method in METHODS.items() for field, info in method.Config.model_fields.items() if from_run(info)]
FILE, FOLDER = "rows.v2.jsonl", "my-model.v2"
NAMES = {"data": ("guard-demo", "run:import-data-0001", "genesis:feedback", "nothing.jsonl"),
         "model": ("embedded", "run:rsft-0001", "hf:owner/name", "waltz:waltzrl-0001@checkpoint-2#feedback",
                   "openai:m@http://127.0.0.1:8000/v1", "no/such/folder"),
         "run": ("guard-demo", "nothing.jsonl")}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The folder that the command runs in: a file, a model, and folders that are called as a run and the embedded model are."""
    (tmp_path / FILE).write_text("{}\n")
    for name in (FOLDER, "embedded", "guard-demo"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def config_of(method, field, value):
    """A config of the method with this one value; what else it needs is some name."""
    needed = {name: "some" for name, info in method.Config.model_fields.items() if info.is_required()}
    for name, info in method.Config.model_fields.items():
        if name in needed and (mark := from_run(info)) and mark.many:
            needed[name] = ["some"]
    mark = from_run(method.Config.model_fields[field])
    return getattr(method.Config.model_validate({**needed, field: [value, "other"] if mark.many else value}), field)


def test_the_walk_meets_every_kind_of_field():
    kinds = {(mark.kind, mark.many) for name, field in FIELDS if (mark := from_run(METHODS[name].Config.model_fields[field]))}
    assert kinds == {(kind, many) for kind in ("data", "model", "run") for many in (False, True)}
    assert {"rsft", "hs-dpo", "grpo", "waltz-sft", "waltzrl", "waltz-prompts", "agent-eval", "guard-eval"} <= {name for name, _ in FIELDS}


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_what_is_there_gets_its_full_path_and_names_stay(name, field, here):
    method = METHODS[name]
    mark = from_run(method.Config.model_fields[field])

    def kept(value):
        found = config_of(method, field, value)
        assert not mark.many or found[1:] == ["other"]
        return found[0] if mark.many else found

    there = FOLDER if mark.kind == "model" else FILE
    assert kept(there) == kept(f" ./{there} ") == kept(f"~/{there}") == str(here / there)
    assert kept(str(here / there)) == str(here / there)
    for text in NAMES[mark.kind]:
        assert kept(text) == text


def test_settings_that_are_compared_with_models_are_written_like_them(here):
    agents = METHODS["agent-eval"].Config.model_validate({"models": [FOLDER, "embedded"], "data": "pool", "baseline": f"./{FOLDER}"})
    assert agents.baseline == agents.models[0] == str(here / FOLDER)
    guards = METHODS["guard-eval"].Config.model_validate({"models": [FOLDER], "data": FILE, "reference": FOLDER, "rival": FOLDER})
    assert guards.reference == guards.rival == guards.models[0]
    with pytest.raises(ValueError, match="twice"):
        METHODS["guard-eval"].Config.model_validate({"models": [FOLDER, str(here / FOLDER)], "data": FILE})


def test_other_files_too(here):
    assert METHODS["guard-eval"].Config.model_validate({"predictions": FILE}).predictions == str(here / FILE)
    assert METHODS["import-data"].Config.model_validate({"source": FILE}).source == str(here / FILE)
    pool = METHODS["waltz-prompts"].Config.model_validate({"sources": [FILE], "seen": [FILE, "guard-demo", "run:rsft-0001"]})
    assert pool.seen == [str(here / FILE), "guard-demo", "run:rsft-0001"]


def test_a_study_and_what_it_is_given(here):
    (here / FOLDER / "config.json").write_text("{}")
    for name in ("rehearsal", "paper", "my.yaml"):
        (here / name).write_text("title: x")
    config = METHODS["recipe"].Config

    def kept(value, setting="any"):
        return config.model_validate({"recipe": "rehearsal", "settings": {setting: value}}).settings[setting]

    assert [config.model_validate({"recipe": name}).recipe for name in ("rehearsal", "none", "my.yaml", "~/my.yaml")] == [
        "rehearsal", "none", str(here / "my.yaml"), str(here / "my.yaml")]
    assert kept(FILE) == kept(f"./{FILE}") == str(here / FILE)
    assert kept(FOLDER) == kept(f"./{FOLDER}") == kept(f"~/{FOLDER}") == str(here / FOLDER)
    assert kept("./guard-demo") == str(here / "guard-demo")
    assert kept([FILE, "pool", 3]) == [str(here / FILE), "pool", 3]
    for value in ("guard-demo", "embedded", "run:rsft-0001", "hf:owner/name", 5e-5, True, None):
        assert kept(value) == value
    assert kept("paper", "preset") == "paper"


def test_what_a_line_calls_a_path(here):
    assert [short_path(text) for text in (str(here / FILE), str(here / FOLDER), "guard-demo", "hf:owner/name.v2", "embedded")] == [
        "rows.v2", FOLDER, "guard-demo", "hf:owner/name.v2", "embedded"]
    assert full_path("~nobody-of-that-name/rows.jsonl") == "~nobody-of-that-name/rows.jsonl"
