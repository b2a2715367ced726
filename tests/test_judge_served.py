"""Judges that are asked over HTTP: what the judge `api` asks and reads, one request that fails, a server that does, what is kept."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.judge_cache import CachedJudge
from core.judges import Judge, Judged, guards_in, judge_problem, open_judge
from core.lm import engine_server
from core.methods import UserError, validate
from core.runs import Workspace
from tests.fakes.openai_server import OpenAIServer, openai_server
from tests.helpers import execute, prompts, write

REFUSAL, HELP = "I'm sorry, I can't help with that.", "Gladly."
GUARD = "Harmful request: no\nResponse refusal: no\nHarmful response: yes"


@pytest.fixture
def workspace(workspace_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("GUARDWALTZ_PLUGINS", raising=False)
    return Workspace(workspace_dir)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setattr(engine_server, "FIRST_WAIT", 0.001)
    monkeypatch.delenv(engine_server.KEY, raising=False)
    with openai_server() as running:
        yield running


def reads(asked: str, _: int = 0) -> str:
    """A chat model that finds a refusal where the reply says sorry, and harm in what is called bad."""
    shown = json.loads(asked)
    found = {"reason": "so it seems", "unsafe": "bad" in shown["reply"], "refusal": "sorry" in shown["reply"]}
    return json.dumps(found if "side" in shown else {**found, "harmful_request": "bad" in shown["prompt"]})


def cached(workspace: Workspace, text: str) -> CachedJudge:
    return CachedJudge(open_judge(text, workspace), workspace)


# ---- the judge `api` ----


def test_a_chat_model_is_the_judge(server: OpenAIServer, workspace: Workspace) -> None:
    server.answer = reads
    items = [Judged("p", REFUSAL, "harmful"), Judged("p", REFUSAL, "benign"), Judged("p", "bad", "harmful"), Judged("p", HELP, "benign"),
             Judged("p", REFUSAL), Judged("a bad p", REFUSAL), Judged("p", " ", "benign"), Judged("p", "")]
    judge = cached(workspace, f"openai:gpt-4o@{server.url}")
    said = judge.verdicts(items)
    assert [(one.unsafe, one.overrefuse) for one in said] == [
        (False, False), (False, True), (True, False), (False, False), (False, True), (False, False), (False, True), (None, None)]
    assert said[0].explanation == "so it seems"
    assert "empty" in said[7].missing
    assert len(server.asked) == 6, "an empty reply costs no question"
    assert server.paths[0] == "/v1/chat/completions"
    first = next(body for body in server.asked if json.loads(body["messages"][1]["content"]) == {
        "prompt": "p", "side": "harmful", "reply": REFUSAL})
    assert (first["model"], first["temperature"], first["messages"][0]["role"]) == ("gpt-4o", 0.0, "system")
    assert "harmful_request" not in first["messages"][0]["content"]
    assert 1 <= server.most_running <= engine_server.AT_ONCE
    read, written = judge.tokens()
    assert (read > 0, written > 0) == (True, True)
    again = cached(workspace, f"openai:gpt-4o@{server.url}")
    assert again.verdicts(items) == said
    assert (len(server.asked), again.tokens()) == (6, (0, 0))


@pytest.mark.parametrize(("answer", "found"), [
    ('```json\n{"unsafe": true, "refusal": false}\n```', True),
    ('<think>{"unsafe": false}</think> {"unsafe": true, "refusal": false}', True),
    ('Here it is: {"unsafe": true, "refusal": false, "reason": "half a letter \\ud83d"}.', True),
    ("I cannot judge this.", "no JSON object: 'I cannot judge this.'"), ("", "is empty"), ('{"unsafe": true}', "does not say 'refusal'"),
    ('{"unsafe": "yes", "refusal": false}', "does not say 'unsafe'"), ("{" * 60, "no JSON object"),
    ('{"unsafe": true, "refusal": false} {"unsafe": false, "refusal": false}', "more than one"), ('{"unsafe": tr', "no JSON object")])
def test_what_can_be_read_is_a_verdict_and_the_rest_is_missing(answer: str, found: Any, server: OpenAIServer, workspace: Workspace) -> None:
    server.answer = lambda *_: answer
    (said,) = cached(workspace, f"api:openai:m@{server.url}").verdicts([Judged("p", "r", "harmful")])
    assert said.unsafe if found is True else found in said.missing


def test_an_answer_that_was_cut_or_filtered_says_so(server: OpenAIServer, workspace: Workspace) -> None:
    judge = open_judge(f"openai:m@{server.url}", workspace)
    server.answer = lambda *_: "let me think " * 300
    assert "cut" in judge.verdicts([Judged("p", "r", "benign")])[0].missing
    server.answer, server.filters = reads, lambda _: True
    assert "content filter" in judge.verdicts([Judged("p", "r", "benign")])[0].missing


def test_how_it_is_named(workspace: Workspace) -> None:
    url = "http://127.0.0.1:9/v1"
    names = {f"openai:gpt-4o@{url}": "api", f"api:openai:wildguard@{url}": "api", f"openai:allenai/wildguard@{url}": "guard",
             f"guard:openai:wildguard@{url}": "guard"}
    assert {text: open_judge(text, workspace).name for text in names} == names
    assert not any(judge_problem(text, workspace) for text in names)
    assert guards_in(f"rules+run:rsft-0001+guard:run:rsft-0002+api:openai:llama3:8b@{url}+openai:llama3:8b@{url}") == [
        "run:rsft-0001", "run:rsft-0002", f"openai:llama3:8b@{url}", f"openai:llama3:8b@{url}"]
    assert "openai:<model>@<base url>" in judge_problem("nobody", workspace)
    assert "openai:<model>@<base url>" in judge_problem("api:embedded", workspace)
    assert "names no server" in judge_problem("openai:m@http://:80", workspace)
    assert judge_problem(f"guard:openai:gpt-4o@{url}", workspace), "asked for as a guard, which it is not"


def test_a_guard_in_a_folder_is_found_behind_a_judge(tmp_path: Path) -> None:
    assert guards_in(f"{tmp_path}+rules+guard:{tmp_path}") == [str(tmp_path), str(tmp_path)]
    assert guards_in(f"rules+{tmp_path / 'nothing'}") == []


def test_its_identity_is_what_is_asked_and_whom(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    import plugins.judge_api as judge_api

    def identity(text: str) -> str:
        return open_judge(text, workspace).identity

    plain = identity("openai:gpt-4o@https://api.example.org/v1")
    assert plain == identity("openai:gpt-4o@https://somebody:secret@api.example.org/v1/?token=secret")
    assert "secret" not in plain
    others = ["openai:gpt-4o-mini@https://api.example.org/v1", "openai:gpt-4o@https://api.example.com/v1",
              "openai:gpt-4o@https://api.example.org/other/v1"]
    assert len({plain, *map(identity, others)}) == 4
    monkeypatch.setattr(judge_api, "VERSION", judge_api.VERSION + 1)
    assert identity("openai:gpt-4o@https://api.example.org/v1") != plain


def test_an_evaluation_with_a_chat_model_as_the_judge(server: OpenAIServer, workspace: Workspace, tmp_path: Path,
                                                         capfd: pytest.CaptureFixture[str]) -> None:
    server.answer = lambda asked, _: reads(asked) if asked.startswith("{") else REFUSAL
    server.trouble_with = lambda asked: (400, "content filter") if asked.startswith("{") and "Prompt 3:" in asked else None
    settings = {"models": [f"openai:vanilla@{server.url}"], "judge": f"openai:gpt-4o@{server.url}", "capability_tasks": 0,
                "data": write(tmp_path / "prompts.jsonl", prompts())}
    run = execute(workspace, "agent-eval", settings)
    entry = run.report["entries"][0]
    assert (entry["unsafe"]["value"], entry["unsafe"]["n"], entry["unsafe"]["missing"]) == (0, 5, 1)
    assert (entry["overrefuse"]["value"], entry["overrefuse"]["n"]) == (1, 6)
    assert run.report["judge"]["identity"].startswith("api 1 gpt-4o 127.0.0.1:")
    assert "tokens over the net" in capfd.readouterr().out
    assert workspace.store.count_verdicts() == 11


# ---- requests that fail ----


@pytest.mark.parametrize(("judge", "reply"), [("openai:m@", json.dumps({"unsafe": True, "refusal": False})), ("openai:wildguard@", GUARD)])
@pytest.mark.parametrize("trouble", [(400, "content filter"), (413, "too long"), (422, "no"), (500, "out of memory"), (0, "")])
def test_a_request_that_fails_alone_is_missing(judge: str, reply: str, trouble: tuple[int, str], server: OpenAIServer,
                                               workspace: Workspace) -> None:
    server.answer = lambda *_: reply
    server.trouble_with = lambda asked: trouble if "prompt 7" in asked else None
    said = cached(workspace, judge + server.url).verdicts([Judged(f"prompt {number}", "r", "harmful") for number in range(21)])
    assert [number for number, one in enumerate(said) if one.missing] == [7]
    assert all(one.unsafe for one in said if not one.missing)
    assert (trouble[1] or "did not answer") in said[7].missing
    assert workspace.store.count_verdicts() == 20


@pytest.mark.parametrize("trouble", [(401, "who are you"), (403, "not you"), (404, "no such model"), (429, "no money left"), (500, "down")])
def test_a_server_that_fails_for_all_is_an_error(trouble: tuple[int, str], server: OpenAIServer, workspace: Workspace) -> None:
    server.always = trouble
    items = [Judged(f"prompt {number}", "r", "harmful") for number in range(40)]
    with pytest.raises(UserError, match=trouble[1]):
        open_judge(f"openai:m@{server.url}", workspace).verdicts(items)


def test_a_server_that_is_not_there_is_an_error(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_server, "FIRST_WAIT", 0.001)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match="did not answer"):
            open_judge(f"openai:m@http://127.0.0.1:{nobody.getsockname()[1]}/v1", workspace).verdicts([Judged("p", "r", "harmful")])


@pytest.mark.parametrize("judge", ["openai:wildguard@{}", "openai:wildguard@{}+late"])
def test_what_was_answered_is_kept_when_the_rest_fails(judge: str, server: OpenAIServer, workspace: Workspace) -> None:
    """The key is taken back after 12 answers, or the second judge fails after the first has been asked."""

    class Late(Judge):
        name = "late"
        title = "Late"

        def verdicts(self, items: Any, should_stop: Any = None) -> Any:
            raise UserError("it has gone home")

    workspace.plugins.judges["late"] = Late
    server.answer = lambda *_: GUARD
    if "late" not in judge:
        server.trouble_with = lambda _: (401, "no more") if len(server.asked) > 12 else None
    items = [Judged(f"prompt {number}", HELP, "harmful") for number in range(40)]
    with pytest.raises(UserError, match=r"no more|gone home"):
        cached(workspace, judge.format(server.url)).verdicts(items)
    kept = workspace.store.count_verdicts()
    assert kept == (40 if "late" in judge else 12)
    server.trouble_with, before = lambda _: None, len(server.asked)
    assert len(cached(workspace, f"openai:wildguard@{server.url}").verdicts(items)) == 40
    assert len(server.asked) - before == 40 - kept, "what was kept is not asked again"


def test_an_estimate_says_that_the_judge_may_cost_money(workspace: Workspace, tmp_path: Path) -> None:
    kind = workspace.plugins.method("agent-eval")
    settings = {"models": ["openai:vanilla@http://127.0.0.1:9/v1"], "data": write(tmp_path / "prompts.jsonl", prompts())}
    notes = [kind(workspace).estimate(validate(kind, {**settings, "judge": judge})).note
             for judge in ("rules", "rules+openai:gpt-4o@http://127.0.0.1:9/v1")]
    assert ["money" in note for note in notes] == [False, True]
    assert "up to 12 replies" in notes[1]
