"""The public demo: who may do what, what each may use, and that no visitor sees, starts or spends what is not theirs to."""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from core import jobs
from core.access import OWNER, READ_ONLY, Limits, Settings, gpu_words, is_rehearsal, read_settings
from core.compare.keeping import comparisons_of
from core.files import write_json
from core.methods import UserError
from core.runs import Workspace
from core.ui import downloads
from core.ui.door import open_door
from core.ui.visiting import address_of
from core.visitor_id import Signer, Visitor, network
from core.visitors import Ledger, Question, VisitorAccess, forget_old
from tests.opened_app import opened
from tests.test_ui_pages import make

JSON = {"content-type": "application/json"}
REHEARSAL = {"recipe": "rehearsal", "settings": {}}
ADA, BEN = Visitor("ada", "house"), Visitor("ben", "house")


@pytest.fixture
def idle(monkeypatch):
    """Nothing leaves the queue."""
    monkeypatch.setattr(jobs, "LANE_SLOTS", {"compute": 0, "api": 0, "instant": 0})


class Demo:
    """A public workspace, and who asks."""

    def __init__(self, folder, **limits):
        self.plain = Workspace(folder)
        self.visitor = ADA
        settings = Settings("public", limits=Limits(**limits))
        self.access = VisitorAccess(settings, folder, lambda: self.visitor)
        self.shown = Workspace(folder, self.access)

    def rehearse(self, visitor=ADA):
        self.visitor = visitor
        return jobs.submit(self.shown, "recipe", REHEARSAL)


@pytest.fixture
def demo(tmp_path, idle):  # noqa: ARG001
    return Demo(tmp_path)


# what the environment says


def test_without_a_word_the_app_is_private_and_its_owner_may_all():
    assert read_settings({}) == Settings("private")
    assert Workspace.__init__.__defaults__[-1] is OWNER


@pytest.mark.parametrize("wrong", [{"GUARDWALTZ_MODE": "open"}, {"GUARDWALTZ_PUBLIC_MINUTES": "lots"}, {"GUARDWALTZ_PUBLIC_QUEUE": "0"},
                                   {"GUARDWALTZ_PUBLIC_MODELS": "embedded,openai:x"}, {"GUARDWALTZ_UPLOAD_MB": "-1"}])
def test_a_wrong_value_is_refused_by_its_name(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        read_settings(wrong)


def test_limits_and_lists_come_from_the_environment():
    found = read_settings({"GUARDWALTZ_MODE": "Public", "GUARDWALTZ_OWNERS": "ada, ben ,", "GUARDWALTZ_PUBLIC_MINUTES": "3",
                           "GUARDWALTZ_PUBLIC_MODELS": "mistral:small", "GUARDWALTZ_PUBLIC_RUNS": "rsft-0001"})
    assert (found.public, found.owners, found.limits.minutes, found.models, found.runs) == (
        True, ("ada", "ben"), 3, ("mistral:small",), ("rsft-0001",))


def test_a_private_space_needs_owners_and_sign_in(monkeypatch):
    monkeypatch.setenv("SPACE_ID", "ada/guardwaltz")
    for name in ("OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OAUTH_SCOPES", "OPENID_PROVIDER_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="GUARDWALTZ_OWNERS"):
        open_door(Settings())
    with pytest.raises(UserError, match="hf_oauth: true"):
        open_door(Settings(owners=("ada",)))
    assert open_door(Settings("public")).host == "0.0.0.0"


def test_strangers_come_in_by_a_password_or_as_visitors_only(monkeypatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    monkeypatch.setenv("PASSWORD", "x")
    with pytest.raises(UserError, match="needs a login"):
        open_door(Settings(), listen=True)
    with pytest.raises(UserError, match="do not go together"):
        open_door(Settings("public"), auth="ada:${PASSWORD}")
    assert open_door(Settings("public"), listen=True).login is None
    assert open_door(Settings(), listen=True, auth="ada:${PASSWORD}").login == ("ada", "x")
    assert open_door(Settings()).host == "127.0.0.1"


def test_a_space_says_when_its_gpu_is_not_what_it_seems(monkeypatch):
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    assert gpu_words() == ""
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert "not installed" in gpu_words()


# who asks


def test_a_cookie_is_ours_or_nobodys(tmp_path):
    signer = Signer.of(tmp_path)
    cookie = signer.new_cookie()
    assert signer.read_cookie(cookie)
    assert Signer.of(tmp_path).read_cookie(cookie)
    assert Signer(b"other").read_cookie(cookie) == ""
    for wrong in ("", ".", cookie[:-1], "x" + cookie, "name.", "ä.ö"):
        assert signer.read_cookie(wrong) == ""
    assert (tmp_path / "visitors.secret").stat().st_mode & 0o077 == 0
    mine, other = signer.visitor(cookie, "s1", "1.2.3.4"), signer.visitor("forged.00", "s1", "1.2.3.4")
    assert mine.key == signer.visitor(cookie, "s2", "9.9.9.9").key != other.key
    assert mine.address == other.address
    assert "1.2.3.4" not in json.dumps([mine.key, mine.address])


def test_a_household_is_one_address(monkeypatch):
    assert network("2001:db8:1:2::7") == network("2001:db8:1:2:ffff::1") != network("2001:db8:1:3::7")
    monkeypatch.delenv("SPACE_ID", raising=False)
    monkeypatch.delenv("GUARDWALTZ_PROXIES", raising=False)
    forged = {"x-forwarded-for": "8.8.8.8, 9.9.9.9, 10.0.0.1"}
    assert address_of(forged, "127.0.0.1") == "127.0.0.1", "without a proxy anybody can write that header"
    monkeypatch.setenv("SPACE_ID", "ada/guardwaltz")
    assert address_of(forged, "10.0.0.2") == "9.9.9.9", "what the nearest proxy saw, not what the browser wrote first"
    assert address_of({}, "10.0.0.2") == "10.0.0.2"
    monkeypatch.setenv("GUARDWALTZ_PROXIES", "1")
    assert address_of(forged, "10.0.0.2") == "8.8.8.8"


# what they may start


def test_visitors_start_the_rehearsal_and_nothing_else(demo):
    run = demo.rehearse()
    assert (run.status["visitor"], run.state) == ("ada", "queued")
    for method, values in (("rsft", {"data": "x"}), ("recipe", {"recipe": "guardreasoner", "settings": {}}),
                           ("recipe", {"recipe": "rehearsal", "settings": {"model": "hf:someone/large"}}), ("waltzrl", {}),
                           ("import-data", {"source": "/etc/passwd"})):
        assert not is_rehearsal(method, values)
        with pytest.raises(UserError, match="public demo"):
            jobs.submit(demo.shown, method, values)
    for act in (lambda: jobs.stop(demo.shown, run), lambda: jobs.resume(demo.shown, run), lambda: jobs.delete(demo.shown, run),
                lambda: jobs.continue_run(demo.shown, run, {})):
        with pytest.raises(UserError, match="public demo"):
            act()
    assert run.state == "queued"
    assert len(demo.plain.runs()) == 1


def test_one_rehearsal_a_visitor_a_few_an_address_and_a_short_queue(demo):
    demo.rehearse(ADA)
    with pytest.raises(UserError, match="One rehearsal at a time"):
        demo.rehearse(ADA)
    demo.rehearse(BEN)
    demo.rehearse(Visitor("cas", "house"))
    with pytest.raises(UserError, match="Your network"):
        demo.rehearse(Visitor("dot", "house"))
    for number in range(5):
        demo.rehearse(Visitor(f"v{number}", f"other {number}"))
    with pytest.raises(UserError, match="queue is full"):
        demo.rehearse(Visitor("late", "far"))
    with pytest.raises(UserError, match="cookies"):
        demo.rehearse(Visitor("", "far"))


def test_the_minutes_of_rehearsals_are_counted_from_their_folders(demo):
    run = demo.rehearse()
    now = time.time()
    write_json(run.dir / "status.json", {**run.status, "state": "succeeded", "started": now - 60 * 20, "ended": now})
    with pytest.raises(UserError, match=r"Your 20 minutes .* midnight UTC"):
        demo.rehearse()
    demo.rehearse(BEN)  # the house has some left
    write_json(run.dir / "status.json", {**run.status, "created": now - 26 * 3600})
    demo.rehearse()  # that was yesterday's


def test_old_rehearsals_go_with_their_steps_and_published_runs_stay(demo):
    run = demo.rehearse()
    make(demo.plain, "rsft-0001", parent=run.id)
    make(demo.plain, "rsft-0002", labels={"tags": ["public"]}, ended=1.0)
    long_ago = time.time() - 25 * 3600
    assert forget_old(demo.plain, Limits()) == []
    write_json(run.dir / "status.json", {**run.status, "state": "succeeded", "ended": long_ago})
    assert forget_old(demo.plain, Limits()) == ["rsft-0001", run.id]
    assert [one.id for one in demo.plain.runs()] == ["rsft-0002"]


# what they may see


def test_visitors_see_their_own_runs_and_published_ones(demo):
    run = demo.rehearse()
    make(demo.plain, "rsft-0001", parent=run.id)
    make(demo.plain, "recipe-0002", "recipe", labels={"tags": ["public"]})
    make(demo.plain, "rsft-0002", parent="recipe-0002")
    make(demo.plain, "rsft-0003")  # the owner's, not published
    assert {one.id for one in demo.shown.runs()} == {run.id, "rsft-0001", "recipe-0002", "rsft-0002"}
    demo.visitor = BEN
    assert {one.id for one in demo.shown.runs()} == {"recipe-0002", "rsft-0002"}
    hidden, missing = [], []
    for name, said in (("rsft-0003", hidden), (run.id, hidden), ("rsft-9999", missing)):
        with pytest.raises(UserError) as error:
            demo.shown.run(name)
        said.append(str(error.value).replace(name, "it"))
    assert set(hidden) == set(missing), "a hidden run must read like one that is not there"
    assert len(demo.plain.runs()) == 5


def test_a_tag_on_somebodys_rehearsal_publishes_nothing(demo):
    run = demo.rehearse()
    run.set_labels(tags=["public"])
    demo.visitor = BEN
    assert demo.shown.runs() == []


# what they may ask


def test_models_are_a_fixed_list(demo):
    make(demo.plain, "rsft-0001", labels={"tags": ["public"]}).dir.joinpath("adapter").mkdir()
    make(demo.plain, "rsft-0002").dir.joinpath("adapter").mkdir()
    own = demo.rehearse()
    make(demo.plain, "rsft-0003", parent=own.id, state="running").dir.joinpath("adapter").mkdir()
    assert demo.shown.access.models(demo.shown) == ["embedded", "run:rsft-0001"]
    for model in ("run:rsft-0002", "run:rsft-0003", "hf:someone/large", "openai:x@http://127.0.0.1:1/v1", "/etc", "../", "anthropic:x", ""):
        with pytest.raises(UserError, match="not offered"), demo.access.asking(demo.shown, model):
            pass
    with pytest.raises(UserError, match="judge"), demo.access.asking(demo.shown, "embedded", "guard:hf:someone/large"):
        pass
    with demo.access.asking(demo.shown, "embedded", "rules"):
        pass


def test_what_a_visitors_rehearsal_made_is_hers_to_ask_and_nobody_elses(demo):
    own = demo.rehearse()
    make(demo.plain, "rsft-0001", parent=own.id).dir.joinpath("adapter").mkdir()
    assert demo.access.models(demo.shown) == ["embedded", "run:rsft-0001"]
    with demo.access.asking(demo.shown, "run:rsft-0001"):
        pass
    demo.plain.run("rsft-0001").set_labels(tags=["public"])  # publishes nothing of a visitor's
    for other in (BEN, Visitor("", "house")):
        demo.visitor = other
        assert demo.access.models(demo.shown) == ["embedded"]
        with pytest.raises(UserError, match="not offered"), demo.access.asking(demo.shown, "run:rsft-0001"):
            pass


def test_questions_at_once_are_few(demo):
    with ExitStack() as open_ones:
        for _ in range(4):
            open_ones.enter_context(demo.access.asking(demo.shown, "embedded"))
        with pytest.raises(UserError, match="4 questions of yours"), demo.access.asking(demo.shown, "embedded"):
            pass
        for number in range(8):
            demo.visitor = Visitor(f"v{number // 4}", "house")
            open_ones.enter_context(demo.access.asking(demo.shown, "embedded"))
        demo.visitor = Visitor("one more", "house")
        with pytest.raises(UserError, match="Too many"), demo.access.asking(demo.shown, "embedded"):
            pass
        demo.visitor = Visitor("one more", "far")
        with demo.access.asking(demo.shown, "embedded"):
            pass
    demo.visitor = ADA
    with suppress(ValueError), demo.access.asking(demo.shown, "embedded"):
        raise ValueError  # a question that fails leaves its place, too
    for _ in range(5):
        with demo.access.asking(demo.shown, "embedded"):
            pass


def test_tokens_are_counted_for_the_visitor_and_the_address(demo):
    def ask(visitor, tokens):
        demo.visitor = visitor
        with demo.access.asking(demo.shown, "embedded") as meter:
            meter.hear({"who": "end", "tokens": tokens})

    ask(ADA, 20_000)
    with pytest.raises(UserError, match="Your 20,000 tokens"):
        ask(ADA, 1)
    ask(BEN, 39_999)
    with pytest.raises(UserError, match="Your 20,000"):
        ask(BEN, 1)
    ask(Visitor("new cookie", "house"), 1)
    with pytest.raises(UserError, match="network's 60,000"):
        ask(Visitor("newer cookie", "house"), 1)
    ask(Visitor("newer cookie", "far"), 1)
    again = VisitorAccess(demo.access.settings, demo.plain.runs_dir, lambda: ADA)
    with pytest.raises(UserError, match="Your 20,000"), again.asking(demo.shown, "embedded"):
        pass  # a restart of the app gives nobody a new day


def test_what_a_model_reads_counts_too(demo):
    """A hosted model is paid for both; where it does not say how much it read, characters tell."""
    def used(*events):
        before = demo.access.ledger.used("ada")[1]
        with demo.access.asking(demo.shown, "embedded", reads=400) as meter:
            for event in events:
                meter.hear(event)
        return demo.access.ledger.used("ada")[1] - before

    words, end = {"who": "reply", "turn": 0, "text": "x" * 40}, {"who": "end", "tokens": 9, "prompt_tokens": 0}
    assert used(words, end) == 109
    assert used(words, {**end, "prompt_tokens": 250}) == 259
    assert used(words) == 110
    assert used({"who": "status", "text": "loading"}, {"who": "stopped"}) == 100
    assert used({"who": "queue", "position": 2}, {"who": "stopped"}) == 0, "it was never asked"
    assert used({"who": "queue", "position": 2}, {"who": "status", "text": "asked"}, {"who": "stopped"}) == 100
    assert used() == 100


def test_questions_under_way_keep_within_what_is_left_of_the_day(demo):
    def asking(reads=0, writes=131_072):
        return demo.access.asking(demo.shown, "embedded", reads=4 * reads, writes=writes)

    with asking() as meter:
        assert (meter.tokens, meter.seconds) == (1024, 300), "one answer, however much is left"
    with asking(writes=7) as meter:
        assert meter.tokens == 7
    demo.access.ledger.add("ada", 0.0, 18_000)
    demo.access.ledger.add("ada", 1100.0, 0)
    with ExitStack() as together:
        four = [together.enter_context(asking()) for _ in range(4)]
        assert [meter.tokens for meter in four] == [500] * 4, "the columns of a comparison have the same"
        assert sum(meter.seconds for meter in four) == pytest.approx(100, abs=1)
    with asking(reads=1500, writes=900) as meter:
        assert 1500 + meter.tokens <= 2000
        with pytest.raises(UserError, match=r"Your tokens of today do not reach .* 1,500 would be read"), asking(reads=1500):
            pass
    with pytest.raises(UserError, match=r"about 2,000 would be read, and 500 are left"), asking(reads=2000):
        pass
    demo.access.ledger.add("house", 0.0, 55_000)
    demo.visitor = BEN
    with asking() as meter:
        assert meter.tokens == (60_000 - 55_000 - 1500) // 12, "the network's, which twelve questions may share"


def test_waiting_in_the_line_is_free_and_texts_are_not_kept(demo, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("core.visitors.time.monotonic", lambda: clock[0])
    question = Question()
    clock[0] = 500.0
    question.hear({"who": "queue", "position": 3})
    clock[0] = 503.0
    for text in ("a secret of mine, ", "a secret of mine, and more of it"):
        question.hear({"who": "reply", "turn": 0, "text": text, "done": False})
    assert question.used() == (3.0, 8)
    demo.access.ledger.add("ada", *question.used())
    assert demo.access.ledger.used("ada") == (3.0, 8)
    assert b"secret of mine" not in b"".join(path.read_bytes() for path in demo.plain.runs_dir.glob("visitors*"))


def test_a_new_day_forgets_the_old_one(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path / "used.sqlite")
    ledger.add("ada", 5.0, 100)
    monkeypatch.setattr("core.visitors.today", lambda: "2999-01-01")
    assert ledger.used("ada") == (0.0, 0)
    ledger.add("ada", 1.0, 1)
    assert ledger.used("ada") == (1.0, 1)


# the app itself


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """A public demo with a published study, a run of the owner's own, and a compute lane that never starts anything."""
    runs = tmp_path_factory.mktemp("public") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "LANE_SLOTS", {"compute": 0, "api": 0, "instant": 0})
        patch.setenv("GUARDWALTZ_MODE", "public")
        patch.delenv("SPACE_ID", raising=False)
        workspace = Workspace(runs)
        make(workspace, "rsft-0001", labels={"tags": ["public"]}, what="the published guard")
        make(workspace, "rsft-0002", what="the owner's own guard")
        make(workspace, "rsft-0003", labels={"tags": ["public"]}, state="lost", what="a published one that stopped")
        make(workspace, "study-0001", "recipe", labels={"tags": ["public"]}, report={"title": "A study", "summary": "It is done."})
        make(workspace, "agent-eval-0001", "agent-eval", parent="study-0001", stage="evaluation", stats={"Unsafe": "4.6 (2.1–9.8)"})
        with opened(runs) as started:
            yield started


WRITES = {"start", "stop", "resume", "continue", "delete", "save", "upload", "loaded_yaml", "import_demo", "started", "change", "build"}


def test_only_reading_asking_and_the_rehearsal_are_registered(app):
    named = app.browser().http.get("/gradio_api/info").json()["named_endpoints"]
    assert set(named) == {"/run_status", "/list_runs", "/classify"}, "a new endpoint for programs: may visitors have it?"
    functions = app.functions()
    assert not [name for name in functions if name.startswith(("new_run.", "method_panel."))], "no form of a method"
    writing = {name for name in functions if any(word in name.rpartition(".")[2] for word in WRITES)}
    assert writing <= {"rl_try._stop", "chat_page._stop"}, "one's own questions may be given up"
    assert not [item for item in app.demo.fns.values() if item.fn is not None and item.fn.__name__ == "uploaded"]


def test_pages_say_read_only_and_offer_no_button_that_would_be_refused(app):
    browser = app.browser()
    for page in ("/", "/training", "/mining", "/rl", "/evaluation", "/chat", "/runs", "/plugins"):
        answer = browser.http.get(page)
        assert answer.status_code == 200
        assert READ_ONLY[:40] in answer.text
    shown = browser.read("load", "runs_page", query="?run=rsft-0003")
    assert "rsft-0001" in shown
    assert "rsft-0002" not in shown
    for act in ("resume", "delete", "archive", "continue", "stop"):
        assert f'data-act=\\"{act}\\"' not in shown
    recipes = browser.read("load", "runs_page", query="?recipes=1")
    assert recipes.count('data-act=\\"start-recipe\\"') == 1


def test_two_visitors_do_not_see_each_others_runs(app):
    ada, ben = app.browser(), app.browser()
    assert ada.http.cookies["gw_visitor"] != ben.http.cookies["gw_visitor"]
    started = ada.press("act", "", module="runs_page", click=("start-recipe", "rehearsal"))
    assert started["success"]
    assert "recipe-0001" in json.dumps(started["output"])
    assert app.workspace.run("recipe-0001").state == "queued"
    assert "recipe-0001" in ada.read("load", "runs_page")
    for text in (ben.read("load", "runs_page"), ben.read("load", "runs_page", query="?run=recipe-0001"), ben.read("load", "data_page"),
                 ben.read("_open", "stage_page"), json.dumps(ben.api("list_runs")),
                 json.dumps(ben.press("tick", "run=recipe-0001", module="runs_page"))):
        assert "the owner's own guard" not in text
        assert "rehearsal" not in text.replace("Start the rehearsal", "")
    assert [run["id"] for run in ada.api("list_runs")["output"]["data"][0] if run["id"].startswith("recipe")] == ["recipe-0001"]
    assert ada.api("run_status", "recipe-0001")["success"]
    refused = ben.api("run_status", "recipe-0001")
    assert not refused["success"]
    assert "There is no run" in json.dumps(refused)
    # a second tab of the same browser is the same visitor
    ada.session = "anothertab1"
    assert "recipe-0001" in ada.read("load", "runs_page")
    second = ada.press("act", "", module="runs_page", click=("start-recipe", "rehearsal"))
    assert "One rehearsal at a time" in " ".join(second["said"])
    assert "recipe-0001" not in ben.press("act", "", module="runs_page", click=("download", "config.yaml")).get("text", "")


def test_a_visitor_cannot_change_or_start_anything_by_calling_what_pages_do_not_offer(app):
    browser = app.browser()
    before = {run.id: (run.status, run.labels) for run in app.workspace.runs()}
    for word, value in (("stop", "rsft-0003"), ("force", "rsft-0003"), ("resume", "rsft-0003"), ("delete-now", "rsft-0001"),
                        ("archive", "rsft-0001"), ("start-recipe", "guardreasoner"), ("start-recipe", "own-data"),
                        ("start-recipe", "/etc/passwd"), ("start-recipe", "../recipes/rehearsal")):
        answer = browser.press("act", "run=rsft-0001", module="runs_page", click=(word, value))
        assert "public demo" in " ".join(answer["said"]), (word, value, answer)
    browser.press("_act", "", module="stage_page", click=("resume", "rsft-0003"))
    browser.press("act", "", module="data_page", click=("demo", ""))
    browser.press("act", "", None, module="mining_page", click=("build", "rsft-0001"))
    browser.press("act", "", module="evaluation_page", click=("resume", "rsft-0003"))
    assert {run.id: (run.status, run.labels) for run in app.workspace.runs()} == before
    for name, data in (("start_run", ["rsft", {}]), ("stop_run", ["rsft-0001"]), ("runs_save_words", ["run=rsft-0001", "x", "", ""]),
                       ("data_import_demo", [])):
        assert browser.api(name, *data)["refused"] == 404
    assert browser.send(99_999)["refused"] in (400, 404, 422, 500)


def test_a_visitor_cannot_ask_a_model_that_is_not_on_the_list(app):
    browser = app.browser()
    for model in ("hf:someone/large", "openai:x@http://127.0.0.1:1/v1", "waltz:rsft-0002", "/etc"):
        answer = browser.press("_ask", model, "a question", "rules", "", module="rl_try")
        assert "not offered in this public demo" in json.dumps(answer["output"])
        answer = browser.api("classify", model, "a question", "", "auto", 5, 1.0, "auto")
        assert not answer["success"]
        assert "not offered in this public demo" in json.dumps(answer["output"])


def test_visitors_upload_nothing_and_send_little(app):
    http = app.browser().http
    assert http.post("/gradio_api/upload", files={"files": ("x.jsonl", b"{}")}).status_code == 404
    assert http.post("/gradio_api/component_server", json={}).status_code == 404
    long = {"data": ["x" * 600_000], "fn_index": 0, "session_hash": "s"}
    assert http.post("/gradio_api/queue/join", json=long).status_code == 413

    def without_length():
        yield b'{"data": ["'
        for _ in range(60):
            yield b"x" * 10_000
        yield b'"], "fn_index": 0, "session_hash": "s"}'

    with suppress(httpx.TransportError):  # the connection may end, or the answer may be a refusal
        assert http.post("/gradio_api/queue/join", content=without_length(), headers=JSON).status_code >= 400


def test_everything_else_of_gradio_is_not_there(app):
    http = app.browser().http
    for path in ("/monitoring", "/gradio_api/token", "/gradio_api/proxy=http://127.0.0.1:1/", "/gradio_api/stream/a/b/c/playlist-file",
                 "/gradio_api/vibe-code", "/gradio_api/openapi.json", "/docs", "/login", "/gradio_api/dev/reload", "/gradio_api/deep_link"):
        assert http.get(path).status_code == 404, path


def test_the_cookie_is_for_the_server_alone_and_survives_the_frame_of_a_space(app):
    from core.ui.gate import PublicGate

    cookie = app.browser().http.get("/", headers={"cookie": "gw_visitor=forged.00"}).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    framed: Any = PublicGate(None, Settings("public"), Signer(b"x"), frozenset(), secure=True)._cookie()
    assert "SameSite=None; Secure; Partitioned" in framed


def test_the_first_page_shows_the_finished_study(app):
    shown = app.browser().read("finished", "data_page")
    assert "study-0001" in shown
    assert "4.6" in shown
    for way in ("/runs?run=study-0001", "/chat", "/runs?recipes=1"):
        assert way in shown


# chats


CLICKS = ("export", "link", "edit", "again", "save")


class EchoServing:
    """Answers with what was asked, without a model."""

    def __init__(self, workspace):
        pass

    def give_up(self, who):
        pass

    def ask_all(self, questions):
        for place, question in enumerate(questions):
            yield place, {"who": "reply", "turn": 0, "text": f"You asked: {question.messages[-1]['content']}", "done": True}
            yield place, {"who": "end", "tokens": 7, "seconds": 0.1}


def test_two_visitors_do_not_see_each_others_chats(app, monkeypatch):
    for module in ("core.compare.asking", "core.ui.chat_page"):
        monkeypatch.setattr(f"{module}.serving_of", EchoServing)
    words = "how is my rye loaf doing"
    ada, ben = app.browser(), app.browser()
    ada.act_on_page("_open", "chat_page")
    sent = ada.act_on_page("_send", "chat_page", Message=words)
    assert sent["success"], sent
    view = next(value for value in ada.values.values() if isinstance(value, str) and value.startswith("chat="))
    assert f"You asked: {words}" in json.dumps(ada.act_on_page("_open", "chat_page", query=f"?{view}"))
    for answer in (ben.act_on_page("_open", "chat_page", query=f"?{view}"), ben.act_on_page("_open", "chat_page"),
                   *(ben.act_on_page("_act", "chat_page", click=(word, "0,0"), view=view) for word in CLICKS),
                   ben.act_on_page("_send", "chat_page", Message="and mine", view=view)):
        assert words not in json.dumps(answer)
    on_disk = b"".join(path.read_bytes() for path in app.workspace.runs_dir.rglob("*") if path.is_file())
    assert b"rye loaf" not in on_disk, "of visitors no text is kept"


def test_a_visitor_cannot_save_a_chat_or_a_vote_into_the_owners_files(app, monkeypatch):
    for module in ("core.compare.asking", "core.ui.chat_page"):
        monkeypatch.setattr(f"{module}.serving_of", EchoServing)
    before = {path for path in app.workspace.runs_dir.rglob("*") if path.is_file()}
    ada = app.browser()
    ada.act_on_page("_open", "chat_page")
    ada.act_on_page("_send", "chat_page", Message="which loaf is better")
    for word, value in (("vote", "A"), ("save", "0,0"), ("pair", "0,1")):
        ada.act_on_page("_act", "chat_page", click=(word, value))
    assert {path for path in app.workspace.runs_dir.rglob("*") if path.is_file()} - before <= {
        app.workspace.runs_dir / name for name in ("visitors.sqlite", "visitors.sqlite-journal")}


class Guarded(EchoServing):
    """The same, with a guard that finds everything harmful."""

    def ask_all(self, questions):
        questions = list(questions)
        for place, question in enumerate(questions):
            Guarded.asked.append((question.kind, question.model))
            if question.kind == "classify":
                yield place, {"who": "classified", "classified": {"labels": {"request": "unharmful", "response": "harmful"}}}
        if questions[0].kind != "classify":
            yield from super().ask_all(questions)

    asked: ClassVar[list[tuple[str, str]]] = []


def test_a_visitors_chat_is_guarded_without_any_click_and_her_vote_is_said_to_count_nowhere(app, monkeypatch):
    for module in ("core.compare.asking", "core.ui.chat_page"):
        monkeypatch.setattr(f"{module}.serving_of", Guarded)
    Guarded.asked.clear()
    ada = app.browser()
    below = json.dumps(ada.act_on_page("_open", "chat_page"))
    assert "Your votes are not counted" in below
    assert "No votes yet" not in below
    sent = ada.act_on_page("_send", "chat_page", Message="how is my rye loaf doing")
    assert ("classify", "embedded") in Guarded.asked
    assert "gw-veil" in json.dumps(sent)
    Guarded.asked.clear()
    hasty = app.browser()  # sends before the page has opened
    hasty.act_on_page("_send", "chat_page", Message="how is my rye loaf doing", view="")
    assert ("classify", "embedded") in Guarded.asked


def test_a_visitor_cannot_take_another_ones_rehearsed_guard(app, monkeypatch):
    for module in ("core.compare.asking", "core.ui.chat_page"):
        monkeypatch.setattr(f"{module}.serving_of", Guarded)
    Guarded.asked.clear()
    make(app.workspace, "rsft-0007", visitor="somebody else").dir.joinpath("adapter").mkdir()
    ada = app.browser()
    opened_page = json.dumps(ada.act_on_page("_open", "chat_page"))
    assert "rsft-0007" not in opened_page
    for changes in ({"Guard": "run:rsft-0007"}, {"Models": ["run:rsft-0007"]}):
        ada.act_on_page("_send", "chat_page", Message="hello", **changes)
    assert not [model for _, model in Guarded.asked if model == "run:rsft-0007"]


def test_visitors_without_a_name_are_not_the_owner(app):
    """A request without cookie and session must not fall into what the owner may."""
    assert app.shown.access.viewer() == "nobody"
    with pytest.raises(UserError, match="cookies"), app.shown.access.asking(app.shown, "embedded"):
        pass


def kept_chats(app):
    """{id: its messages} of what visitors said."""
    kept = comparisons_of(app.shown)
    return {name: [exchange.prompt for exchange in kept.find(name).exchanges] for name in list(kept._memory)}


@pytest.fixture
def echo(monkeypatch):
    for module in ("core.compare.asking", "core.ui.chat_page"):
        monkeypatch.setattr(f"{module}.serving_of", EchoServing)


def refused(answer):
    """The sentence, where the page takes the message back so that the next one can be sent at once."""
    said = json.dumps(answer, ensure_ascii=False)
    assert '\\"kind\\": \\"refused\\"' in said, said
    assert answer["success"]
    return said


@pytest.mark.usefixtures("echo")
def test_what_is_too_long_or_comes_after_the_last_token_is_kept_nowhere(app, monkeypatch):
    ada = app.browser()
    ada.act_on_page("_open", "chat_page")
    before = kept_chats(app)
    assert "20,000 can be sent" in refused(ada.act_on_page("_send", "chat_page", Message="x" * 20_001))
    assert "20,000 can be sent" in refused(ada.act_on_page("_send", "chat_page", Message="x", **{"System prompt": "y" * 20_001}))
    assert kept_chats(app) == before
    ada.act_on_page("_send", "chat_page", Message="a short one")
    (name,) = kept_chats(app).keys() - before.keys()
    with monkeypatch.context() as patch:
        patch.setattr(app.shown.access.ledger, "used", lambda _: (0.0, 20_000))
        for view in (f"chat={name}", ""):
            assert "20,000 tokens of today are used up" in refused(ada.act_on_page("_send", "chat_page", Message="another", view=view))
    assert kept_chats(app) == {**before, name: ["a short one"]}
    monkeypatch.setattr("core.compare.keeping.MOST_MESSAGES", 1)
    assert "begin a new one" in refused(ada.act_on_page("_send", "chat_page", Message="another", view=f"chat={name}",
                                                        **{"System prompt": "not kept"}))
    kept = comparisons_of(app.shown).find(name)
    assert (len(kept.exchanges), kept.system) == (1, "")


@pytest.mark.usefixtures("echo")
def test_a_visitor_cannot_find_out_which_folders_there_are(app):
    ada = app.browser()  # a program, for which no page has narrowed the list of models yet
    number = app.number_of("words", "chat_form")
    for model in ("/etc", "/etc/nonexist", "~root", "~nobody-here", "x" * 300):
        said = [refused(ada.act_on_page("_send", "chat_page", Message="hello", Models=[model], view="")),
                json.dumps(ada.act_on_page("_shaped", "chat_page", Models=[model], view="")),
                json.dumps(ada.send(number, *[[model] if item.label == "Models" else getattr(item, "value", None)
                                              for item in app.demo.fns[number].inputs]))]
        assert all("is not offered in this public demo" in one and "no model reference" not in one for one in said), said


@pytest.mark.usefixtures("echo")
@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999", "many"])
def test_a_number_that_is_none_is_refused_in_a_sentence(app, number):
    ada = app.browser()
    ada.act_on_page("_open", "chat_page")
    assert "B: tokens at most is" in refused(ada.act_on_page("_send", "chat_page", Message="hello", **{"B: tokens at most": number}))


@pytest.mark.usefixtures("echo")
def test_whatever_fails_the_next_message_can_be_sent(app, monkeypatch, capfd):
    def broken(*_):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("core.ui.chat_form.ChatForm.settle", broken)
    ada = app.browser()
    ada.act_on_page("_open", "chat_page")
    answer = ada.act_on_page("_send", "chat_page", Message="hello")
    assert "refused" in json.dumps(answer["steps"])
    assert not answer["success"]
    assert "a defect" in capfd.readouterr().err


@pytest.mark.usefixtures("echo")
def test_old_exports_are_deleted_and_a_viewer_has_few(monkeypatch, tmp_path):
    monkeypatch.setattr(downloads, "get_upload_folder", lambda: str(tmp_path))
    old, young = (Path(downloads.text_file("words", f"{name}.jsonl", "ada")) for name in ("old", "young"))
    assert old.read_text() == "words"
    os.utime(old, (time.time() - 3700,) * 2)
    downloads.text_file("words", "chat.jsonl", "ben")
    assert (old.parent.exists(), young.exists()) == (False, True)
    made = [Path(downloads.text_file("words", "chat.jsonl", "ada")) for _ in range(9)]
    assert [path.exists() for path in (young, *made)] == [False, False, *[True] * 8]
    assert len(list((tmp_path / "guardwaltz" / "ben").rglob("*.jsonl"))) == 1
