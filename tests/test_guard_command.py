"""`serve-guard`: options that do not go together are refused in a line, and SIGTERM ends it after the requests in work."""

import os
import signal
import subprocess
import sys
import threading

import httpx
import pytest

from core import UserError
from core.guard.schema import How
from core.guard.serve import chosen_how, limits_of, read_key
from core.runs import REPOSITORY
from tests.guard_answers import LETTER
from tests.helpers import wait_for


class Options:
    """As argparse gives them."""

    def __init__(self, *words):
        import argparse

        from core.guard.options import add_options

        parser = argparse.ArgumentParser()
        add_options(parser)
        self.__dict__.update(vars(parser.parse_args(["embedded", *words])))


def test_options_that_do_not_go_together(guard, monkeypatch):
    trained, untrained = guard("seed-binary"), guard("auto")
    assert chosen_how(Options(), trained).confidence == "log-prob"
    assert chosen_how(Options("--samples", "7"), trained) == How(confidence="vote", samples=7)
    monkeypatch.setattr(trained.engine, "loaded", None)  # as with a server or vLLM
    assert chosen_how(Options(), trained).confidence == "none"
    for words, one, why in ((["--confidence", "log-prob"], trained, "needs the weights"), (["--confidence", "vote"], untrained, "no vote"),
                            (["--confidence", "none", "--samples", "3"], trained, "--samples is of a vote"),
                            (["--samples", "1"], trained, "samples = 1"),
                            (["--temperature", "0", "--confidence", "vote"], trained, "temperature")):
        with pytest.raises(UserError, match=why):
            chosen_how(Options(*words), one)
    for words in (["--max-batch", "0"], ["--max-queue", "4"], ["--max-wait-ms", "-1"], ["--patience", "nan"]):
        with pytest.raises(UserError):
            limits_of(Options(*words))
    monkeypatch.setenv("GUARD_KEY", "k")
    assert read_key("${GUARD_KEY}") == "k"
    for text, why in (("plain", "single quotes"), ("${NOT_SET_HERE}", "not set")):
        with pytest.raises(UserError, match=why):
            read_key(text)


@pytest.mark.parametrize("words, why", [
    (["--host", "0.0.0.0"], "needs a key"), (["--port", "70000"], "no port"), (["--prompt-format", "nope"], "no such format"),
    (["--host", "203.0.113.1", "--key", "${GUARD_KEY}"], "listened on")])
@pytest.mark.usefixtures("workspace_dir")
def test_what_stands_in_the_way_is_one_line_and_exit_code_2(tiny_model, monkeypatch, capsys, words, why):
    from core.cli import main

    monkeypatch.setenv("GUARD_KEY", "k")
    assert main(["serve-guard", str(tiny_model), "--device", "cpu", "--port", "0", *words]) == 2
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1


@pytest.mark.kill
def test_the_command_serves_and_ends_after_the_requests_in_work(tiny_model, workspace_dir):
    process = subprocess.Popen([sys.executable, "app.py", "serve-guard", str(tiny_model), "--port", "0", "--device", "cpu",
                                "--prompt-format", "guardreasoner", "--max-new-tokens", "600", "--max-wait-ms", "0"], cwd=REPOSITORY,
                               stdout=subprocess.PIPE, text=True, env={**os.environ, "GUARDWALTZ_RUNS": str(workspace_dir)})
    try:
        line = next(line for line in process.stdout if "/classify" in line)
        url = line.split("is on ")[1].split("/classify")[0].strip()
        assert "log-probabilities" in line
        answers = []
        asking = threading.Thread(target=lambda: answers.append(httpx.post(f"{url}/classify", json=LETTER.model_dump(), timeout=120)))
        asking.start()
        wait_for(lambda: httpx.get(f"{url}/health", timeout=60).json()["batches"] == 1, "the request to be in work")
        process.send_signal(signal.SIGTERM)
        asking.join(120)
        assert answers[0].status_code == 200
        assert process.wait(60) == 0
        assert "closed" in process.stdout.read()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
