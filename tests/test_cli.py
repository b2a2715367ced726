"""The command line as a user meets it: one sentence and exit code 2 for wrong input, the same run as the form."""

import os
import subprocess
import sys

import pytest
import yaml

from core.runs import REPOSITORY
from tests.helpers import FAKE_PLUGINS


@pytest.fixture
def app(tmp_path):
    environment = {**os.environ, "GUARDWALTZ_RUNS": str(tmp_path / "runs"), "GUARDWALTZ_PLUGINS": str(FAKE_PLUGINS)}

    def call(*words, cwd=REPOSITORY):
        return subprocess.run([sys.executable, REPOSITORY / "app.py", *words], cwd=cwd, env=environment, capture_output=True, text=True)

    return call


@pytest.mark.parametrize(("words", "said"), [
    (("run", "cuont"), "did you mean count"),
    (("run", "count", "pauze=1"), "did you mean pause"),
    (("run", "count", "to=many"), "to = 'many': input should be a valid integer"),
    (("run", "count", "to"), "'to' is not key=value"),
    (("run", "count", "--preset", "quick"), "no preset 'quick'"),
    (("run", "--config", "nowhere.yaml"), "no file nowhere.yaml"),
    (("run", "import-data", "source=/nowhere/x.jsonl"), "/nowhere/x.jsonl"),
    (("run", "guard-eval", "data=nothing-imported"), "nothing-imported"),
    (("run", "rsft", "data=nothing-imported"), "nothing-imported"),
    (("run", "rsft", "data=assets/demo/guard-demo.jsonl", "model=/etc"), "/etc"),
    (("run", "rsft", "data=assets/demo/guard-demo.jsonl", "model=nonsense"), "nonsense"),
    (("run", "rsft", "data=assets/demo/guard-demo.jsonl", "model=openai:x@http://127.0.0.1:1/v1"), "weights"),
    (("show", "rsft-9999"), "no run 'rsft-9999'"),
    (("show", "../../etc"), "no run"),
    (("recipe", "nope"), "no recipe 'nope'"),
    (("ui", "--listen"), "--auth"),
    (("ui", "--share"), "--auth"),
])
def test_wrong_input_is_one_plain_sentence_and_exit_code_2(app, words, said):
    done = app(*words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_run_follow_show_and_repeat_from_the_config(app, tmp_path):
    first = app("run", "count", "n=3", "--name", "three")
    assert first.returncode == 0, first.stderr
    assert "count-0001 succeeded" in first.stdout
    config = tmp_path / "runs" / "count-0001" / "config.yaml"
    assert yaml.safe_load(config.read_text())["config"]["to"] == 3
    assert app("run", "--config", str(config), "to=4").returncode == 0
    assert "to: 4" in app("show", "count-0002").stdout
    assert "succeeded" in app("runs").stdout
    assert app("run", "count", "fail_at=1").returncode == 1
    assert app("delete", "count-0003").returncode == 0


def test_options_may_stand_between_the_settings(app):
    done = app("run", "count", "--name", "x", "n=2", "--detach", "pause=0")
    assert done.returncode == 0, done.stderr
    assert app("run", "count", "n=2", "--nonsense").returncode == 2


def test_command_sh_repeats_the_run(app, tmp_path):
    app("run", "count", "n=2", "pause=0")
    line = (tmp_path / "runs" / "count-0001" / "command.sh").read_text().splitlines()[-1]
    assert app(*line.split()[2:]).returncode == 0
    runs = tmp_path / "runs"
    assert (runs / "count-0001" / "config.yaml").read_text() == (runs / "count-0002" / "config.yaml").read_text()


def test_a_study_of_ones_own_is_started_and_gone_on_with_from_another_folder(app, tmp_path):
    work = tmp_path / "work"
    (work / "guard").mkdir(parents=True)
    (work / "my.yaml").write_text("title: Mine\nsettings: {mode: plain}\n"
                                  "steps: {only: {method: count, settings: {mode: $mode, fail_at: 2}}}")
    first = app("recipe", "my.yaml", "mode=./guard", cwd=work)
    assert "asked to fail" in first.stdout, first.stdout + first.stderr
    config = yaml.safe_load((tmp_path / "runs" / "recipe-0001" / "config.yaml").read_text())["config"]
    assert (config["recipe"], config["settings"]) == (str(work / "my.yaml"), {"mode": str(work / "guard")})
    again = app("recipe", "../work/my.yaml", "mode=guard/", cwd=work)
    assert "going on with recipe-0001" in again.stdout
    assert "asked to fail" in again.stdout


def test_doctor_says_what_is_wrong_and_what_to_do(app):
    done = app("doctor")
    assert "torch 2." in done.stdout
    assert "HF_TOKEN" in done.stdout
    assert "runs folder" in done.stdout
