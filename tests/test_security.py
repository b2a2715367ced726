"""What strangers can reach: nothing without the login, no file outside what is offered, no script from a text."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import re
from collections import deque
from html.parser import HTMLParser
from urllib.parse import quote, urlsplit

import httpx
import pytest

from core.access import Settings
from core.compare.keeping import comparisons_of
from core.compare.records import Answer, Column, Comparison, Exchange
from core.compare.votes import keep_vote
from core.files import write_json, write_text
from core.guard.schema import Classified
from core.methods import UserError
from core.records import Episode, Feedback, GuardExample, Labels, Round, Said, write_records
from core.rows import FREE_UNPACKED, read_rows
from core.runs import Workspace
from core.ui.door import open_door
from tests.fakes.openid_server import CLIENT, SECRET, openid_server
from tests.mining_runs import mining_run, pairs_run, sample
from tests.opened_app import Opened, opened
from tests.test_ui_pages import data_set, evaluation, make
from tests.waltz_runs import waltz_run

SECRET_WORD = "xylophone-4711"
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)><a href=\"javascript:alert(1)\">x</a><svg/onload=alert(1)>"
"""Texts as a hostile data set, model or plugin may hold them."""
CHAT = "hostile-chat"
PAGES = ("/", "/training", "/mining", "/rl", "/evaluation", "/chat", "/runs", "/plugins")

OPEN_WITH_A_PASSWORD = {
    **dict.fromkeys(PAGES, "Gradio shows its login page there, with none of the app's components"),
    "/login": "takes the password", "/logout": "ends a login; without one it does nothing", "/login_check": "says that nobody is logged in",
    "/gradio_api/login_check": "says that nobody is logged in", "/gradio_api/user": "names the asker: nobody",
    "/gradio_api/app_id": "a random number of this start, which the login page polls",
    "/gradio_api/startup-events": "starts Gradio's queue; says true", "/theme.css": "colours", "/gradio_api/theme.css": "colours",
    "/favicon.ico": "a picture", "/robots.txt": "a word to search engines", "/manifest.json": "the title of the app",
    **dict.fromkeys(("/static/x", "/assets/x", "/svelte/x"), "files of Gradio's own package")}
OPEN_WITH_OAUTH = {
    "/login/huggingface": "sends to Hugging Face", "/login/callback": "takes what Hugging Face answers, and checks it",
    "/logout": "ends a login; without one it does nothing", "/favicon.ico": "a picture", "/robots.txt": "a word to search engines",
    "/static/x": "files of Gradio's own package", "/gradio_api/startup-events": "starts Gradio's queue; Gradio asks for it itself"}


def every_route(app: Opened) -> list[tuple[str, str]]:
    """(method, path) of each route that the app answers, with something in place of parameters."""
    found = set()

    def walk(routes, prefix=""):
        for route in routes:
            inner = getattr(route, "routes", None) or getattr(getattr(route, "original_router", None), "routes", None)
            path = prefix + (getattr(route, "path", "") or "")
            if inner:
                walk(inner, prefix + (getattr(route, "prefix", "") or ""))
                continue
            for method in getattr(route, "methods", None) or ("GET",):
                found.add((method, re.sub(r"\{[^}]*\}", "x", path)))

    walk(app.demo.app.routes)
    return sorted(found)


def opened_to(app: Opened, client: httpx.Client, known: dict[str, str]) -> list[str]:
    """Routes that answer this client, beside those that are known to."""
    reached = []
    for method, path in every_route(app):
        if (path.rstrip("/") or "/") in known:
            continue
        with client.stream(method, path, follow_redirects=False) as answer:
            if answer.status_code not in (401, 403):
                reached.append(f"{method} {path}: {answer.status_code}")
    return reached


# a password


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """The owner's app behind a password, with a run in it."""
    runs = tmp_path_factory.mktemp("locked") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SPACE_ID", "GUARDWALTZ_MODE"):
            patch.delenv(name, raising=False)
        patch.setenv("APP_PASSWORD", "correct horse")
        patch.setenv("GUARDWALTZ_UPLOAD_MB", "1")
        make(Workspace(runs), "rsft-0001", what=SECRET_WORD)
        with opened(runs, auth="ada:${APP_PASSWORD}") as app:
            yield app


def test_every_route_wants_the_login(locked):
    routes = every_route(locked)
    assert len(routes) > 60, "the walk has lost its way"
    assert ("POST", "/gradio_api/queue/join") in routes
    assert ("POST", "/gradio_api/upload") in routes
    assert opened_to(locked, httpx.Client(base_url=locked.url), OPEN_WITH_A_PASSWORD) == []
    forged = {f"access-token-{locked.demo.app.cookie_id}": "guess", f"access-token-unsecure-{locked.demo.app.cookie_id}": "guess"}
    assert opened_to(locked, httpx.Client(base_url=locked.url, cookies=forged), OPEN_WITH_A_PASSWORD) == []


def test_what_is_open_says_nothing_of_the_app(locked):
    stranger = httpx.Client(base_url=locked.url)
    for path in OPEN_WITH_A_PASSWORD:
        answer = stranger.get(path)
        assert SECRET_WORD not in answer.text
        assert "rsft-0001" not in answer.text
        if path in PAGES:
            assert '"auth_required":true' in answer.text.replace(" ", "")
            assert '"components":[]' in answer.text.replace(" ", "")
    assert stranger.get("/gradio_api/user").json() is None
    assert stranger.post("/login", data={"username": "ada", "password": "wrong"}).status_code == 400


def test_with_the_password_everything_is_there(locked):
    browser = locked.browser()
    assert browser.http.post("/login", data={"username": "ada", "password": "correct horse"}).status_code == 200
    assert SECRET_WORD in browser.read("load", "runs_page")
    assert browser.http.get("/gradio_api/info").status_code == 200
    assert len(browser.http.post("/gradio_api/upload", files={"files": ("x.jsonl", b"{}")}).json()) == 1
    large = browser.http.post("/gradio_api/upload", files={"files": ("x.jsonl", b"x" * 1_500_000)})
    assert large.status_code == 413


def test_the_door_has_no_websocket(locked):
    from starlette.testclient import TestClient
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), TestClient(locked.demo.app).websocket_connect("/gradio_api/queue/join"):
        pass


# signing in with Hugging Face


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """A private Space of Ada's, and the service that says who somebody is."""
    import gradio.oauth

    runs = tmp_path_factory.mktemp("space") / "runs"
    with openid_server() as service, pytest.MonkeyPatch.context() as patch:
        values = {"OAUTH_CLIENT_ID": CLIENT, "OAUTH_CLIENT_SECRET": SECRET, "OAUTH_SCOPES": "openid profile",
                  "OPENID_PROVIDER_URL": service.url}
        for name, value in {**values, "SPACE_ID": "ada/guardwaltz", "SYSTEM": "spaces", "GUARDWALTZ_OWNERS": "Ada, ben"}.items():
            patch.setenv(name, value)
        for name, value in values.items():
            patch.setattr(gradio.oauth, name, value)  # read when gradio is imported, which a real Space has done by then
        patch.delenv("GUARDWALTZ_MODE", raising=False)
        patch.delenv("SPACE_HOST", raising=False)
        make(Workspace(runs), "rsft-0001", what=SECRET_WORD)
        with opened(runs) as app:
            yield app, service


def sign_in(app: Opened, service, name: str) -> str:
    """The session cookie after the whole way: app, service, app. It is for https only, so it is carried by hand."""
    service.name = name
    browser = httpx.Client(base_url=app.url, follow_redirects=False)
    to_service = browser.get("/login/huggingface?_target_url=/runs")
    cookie = to_service.headers["set-cookie"].split(";")[0]
    assert "secure" in to_service.headers["set-cookie"].lower()
    back = urlsplit(httpx.get(to_service.headers["location"]).headers["location"])
    done = browser.get(f"{back.path}?{back.query}", headers={"cookie": cookie})
    assert done.status_code in (302, 307), done.text
    return done.headers["set-cookie"].split(";")[0]


def test_every_route_wants_the_owner(space):
    app, service = space
    assert open_door(Settings(owners=("ada",))).host == "0.0.0.0"
    assert opened_to(app, httpx.Client(base_url=app.url), OPEN_WITH_OAUTH) == []
    stranger = httpx.Client(base_url=app.url, headers={"cookie": sign_in(app, service, "eve")})
    assert opened_to(app, stranger, OPEN_WITH_OAUTH) == []
    forged = httpx.Client(base_url=app.url, headers={"cookie": "session=eyJvYXV0aF9pbmZvIjoge319.aaaa.bbbb"})
    assert opened_to(app, forged, OPEN_WITH_OAUTH) == []


def test_a_page_says_where_to_sign_in(space):
    app, service = space
    nobody = httpx.get(f"{app.url}/runs")
    assert nobody.status_code == 401
    assert 'href="/login/huggingface?_target_url=/runs"' in nobody.text
    eve = httpx.get(f"{app.url}/runs", headers={"cookie": sign_in(app, service, "eve")})
    assert eve.status_code == 403
    assert "signed in as eve, who is not an owner" in eve.text
    assert SECRET_WORD not in nobody.text + eve.text


def test_owners_come_in_however_they_write_their_name(space):
    app, service = space
    for name in ("ada", "Ben"):
        browser = app.browser(cookie=sign_in(app, service, name))
        assert browser.http.get("/runs").status_code == 200
        assert SECRET_WORD in browser.read("load", "runs_page")


def test_a_session_that_has_run_out_is_none(space, monkeypatch):
    app, service = space
    cookie = sign_in(app, service, "ada")
    monkeypatch.setattr("core.ui.gate.time.time", lambda: 9e9)
    assert httpx.get(f"{app.url}/runs", headers={"cookie": cookie}).status_code == 401


# files and texts


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The owner's app over runs whose every text holds tags and scripts, with a secret file beside the runs folder."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "secret.txt").write_text(SECRET_WORD)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SPACE_ID", "GUARDWALTZ_MODE"):
            patch.delenv(name, raising=False)
        workspace = Workspace(folder / "runs")
        _fill(workspace)
        with opened(folder / "runs") as app:
            yield app, folder


def _fill(workspace):
    """One run of each kind that a page draws, from the fixtures of the page tests, with hostile texts in every place that takes one."""
    evil = {"name": EVIL, "tags": [EVIL], "note": EVIL}
    run = make(workspace, "rsft-0001", what=EVIL, message=EVIL, labels=evil, config={"data": EVIL}, state="failed", stats={EVIL: EVIL},
               progress={"done": 1, "total": 2, "unit": EVIL, "detail": EVIL, "t": 1.0}, report={"headline": EVIL})
    write_text(run.dir / "log.txt", f"12:00:00 {EVIL}\nerror: {EVIL}\n")
    write_text(run.dir / "report.html", EVIL)
    write_json(run.dir / "env.json", {"cpu": EVIL})
    row = {"step": 1, "prompt": EVIL, "response": EVIL, "text": EVIL, "gold": {"request": "harmful"}, "predicted": {"request": EVIL}}
    write_text(run.dir / "samples.jsonl", json.dumps(row) + "\n")
    write_text(run.dir / "events.jsonl", json.dumps({"t": 1.0, "kind": "notice", "level": "warning", "text": EVIL}) + "\n")
    data = data_set(workspace, name=EVIL, sources={EVIL: {"rows": 3, "labels": {}}})
    write_records(data.dir / "data.jsonl", [GuardExample(prompt=EVIL, response=EVIL, labels=Labels(request="harmful"), source=EVIL,
                                                         category=EVIL, split="train", row=number) for number in (1, 2, 3)])
    evaluated = evaluation(workspace, name=EVIL)
    for path in (evaluated.dir / "predictions.jsonl", evaluated.dir / "report.json"):
        text = path.read_text()
        for word in ("question 0", "A step.", "source 0", "First", "A note.", "Answers: harmful"):
            text = text.replace(json.dumps(word)[1:-1], json.dumps(EVIL)[1:-1])
        path.write_text(text)
    mining_run(workspace, [sample(row, 2, prompt=EVIL, source=EVIL, category=EVIL) for row in range(3)])
    outputs = workspace.runs_dir / "mine-0001" / "outputs.jsonl"
    outputs.write_text(outputs.read_text().replace("The user asks about bread and flour.", json.dumps(EVIL)[1:-1]))
    pairs_run(workspace)
    waltz = waltz_run(workspace)
    for path in waltz.dir.glob("*.jsonl"):
        path.write_text(path.read_text().replace("Forty minutes, at a middling heat.", json.dumps(EVIL)[1:-1]).replace(
            "How long does loaf", json.dumps(EVIL)[1:-1]))
    _fill_chat(workspace)


def _fill_chat(workspace):
    """A voted comparison of hostile models: a plain answer, one of two agents, one that failed, and a guard whose words are hostile."""
    written = f"{EVIL}\n\n[x](javascript:alert(1)) ![x](http://example.org/x.png) <http://example.org>\n\n`{EVIL}`\n\n```{EVIL}\n{EVIL}\n```"
    said = Classified(labels=Labels(request="harmful", completion="refusal", response="harmful"), reasoning=EVIL, text=EVIL, model=EVIL,
                      prompt_format=EVIL)
    unread = Classified(labels=Labels(), missing={"response": EVIL}, text=EVIL, model=EVIL, prompt_format=EVIL)
    first = Round(reply=Said(text=written), feedback=Feedback(text=EVIL, unsafe=True, overrefuse=False, feedback=EVIL, reasoning=EVIL))
    episode = Episode(row=0, prompt=EVIL, rounds=[first, Round(reply=Said(text=written))])
    answers = [Answer(text=f"<think>{EVIL}</think>{written}", over="end", problem=EVIL, guard=said),
               Answer(text=written, over="end", episode=episode, guard=unread),
               Answer(text=written, over="error", problem=EVIL, guard_problem=EVIL)]
    columns = [Column(model=f"{EVIL}{place}", own={"temperature": EVIL}) for place in range(3)]
    exchanges = [Exchange(prompt=EVIL, answers=answers, vote="A", blind=True) for _ in range(2)]
    comparison = Comparison(id=CHAT, columns=columns, system=EVIL, guard=EVIL, options={"temperature": 0.7}, exchanges=exchanges)
    comparisons_of(workspace).keep(comparison)
    keep_vote(workspace, comparison, 0)


QUERIES = {"runs_page": ("load", ["?run=rsft-0001", "?run=data-0001", "?compare=rsft-0001,data-0001"]),
           "data_page": ("load", ["", "?run=data-0001&row=1"]), "stage_page": ("_open", ["?run=rsft-0001"]),
           "evaluation_page": ("load", ["?run=eval-0001&tick=1&row=0", "?run=eval-0001&which=all", "?show=suite"]),
           "mining_page": ("load", ["?run=mine-0001&row=1"]), "chat_page": ("_open", ["", f"?chat={CHAT}"]),
           "rl_page": ("_open", ["?run=waltzrl-0001", "?run=waltzrl-0001&episode=0-0"])}
TAGS = frozenset(re.findall(r"\w+", """
    a article aside b button code dd details div dl dt em fieldset figure footer g h1 h2 h3 h4 header i input label legend li line main nav
    ol option p path pre rect section select small span strong sub summary sup svg table tbody td text tfoot th thead time title tr tspan ul
    use circle polygon polyline defs marker mark iframe br hr wbr kbd"""))
"""What our pieces are made of; none of these runs anything by itself."""


class Live(HTMLParser):
    """Reads as a browser does, and collects what a browser would act on."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag not in TAGS:
            self.found.append(f"<{tag}>")
        self.found += [f"<{tag} {name}>" for name in given if name.startswith("on")]
        self.found += [f"<{tag} {name}={value}>" for name, value in given.items() if name in ("href", "src", "action", "xlink:href")
                       and not (value or "").startswith(("/", "?", "#", "http://", "https://"))]
        if tag == "iframe":  # a report is a page of its own: its frame may run nothing, and reach nothing of ours
            allowed = (given.get("sandbox") or "allow-scripts").split()
            self.found += [f"<iframe {word}>" for word in allowed if word in ("allow-scripts", "allow-same-origin")]


def live(text):
    """What a browser would act on in this HTML."""
    parser = Live()
    parser.feed(text)
    parser.close()
    return parser.found


def test_the_reader_of_this_test_finds_what_a_browser_would_act_on():
    assert len(live(EVIL)) >= 5
    assert live(f'<div title="{EVIL.replace(chr(34), "&quot;")}">{EVIL.replace("<", "&lt;")}</div>') == []
    assert live('<iframe srcdoc="x"></iframe>') == ["<iframe allow-scripts>"]


def strings_of(value):
    """Every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings_of(item)


@pytest.mark.parametrize("module", QUERIES)
def test_texts_of_users_and_models_bring_no_script_along(hostile, module):
    app, _ = hostile
    name, queries = QUERIES[module]
    escaped = 0
    for query in queries:
        number = app.number_of(name, module)
        answer = app.browser().send(number, *[None] * app.inputs_of(name, module), query=query)
        assert answer["success"], answer
        components = app.demo.fns[number].outputs
        for component, value in zip(components, answer["output"]["data"], strict=True):
            if component.get_block_name() != "html":
                continue  # text boxes show text; charts are looked at below
            for text in strings_of(value):
                assert live(text) == []
                escaped += text.count("&lt;script&gt;")
    assert escaped > 3, f"{module} shows few of the hostile texts, so this test has shown little"


def test_what_the_chat_refuses_is_told_without_a_script(hostile):
    app, _ = hostile
    browser = app.browser()
    browser.act_on_page("_open", "chat_page")
    told = [text for changes in ({"Models": [EVIL]}, {"A: temperature": EVIL})
            for text in strings_of(browser.act_on_page("_send", "chat_page", Message=EVIL, **changes)["steps"])]
    assert sum("&lt;script&gt;" in text for text in told) >= 2
    assert [found for text in told if "<" in text for found in live(text)] == []


def test_a_file_that_is_not_offered_cannot_be_fetched(hostile):
    app, folder = hostile
    http = app.browser().http
    run = folder / "runs" / "rsft-0001"
    link = folder / "runs" / "rsft-0001" / "link.txt"
    link.symlink_to(folder / "secret.txt")
    from gradio.utils import get_upload_folder

    inside = os.path.join(get_upload_folder(), "guardwaltz")
    wanted = [str(folder / "secret.txt"), "/etc/passwd", str(run / "config.yaml"), str(link), str(folder / "runs" / "guardwaltz.sqlite"),
              "README.md", "core/access.py", f"{inside}/../../../../../../etc/passwd", "../../etc/passwd", "//etc/passwd",
              "file:///etc/passwd", "/proc/self/environ"]
    for path in wanted:
        once = quote(path, safe="")
        for written in (path, once, quote(once, safe=""), path.replace("..", "%2e%2e"), path.replace("/", "\\")):
            for route in ("/gradio_api/file=", "/gradio_api/file/", "/static/", "/assets/", "/svelte/", "/gradio_api/proxy="):
                answer = http.get(httpx.URL(app.url, raw_path=(route + written).encode()))
                assert answer.status_code in (400, 401, 403, 404, 405, 422, 500) or not _is_of(answer.text), (route, written)
                assert SECRET_WORD not in answer.text
                assert "root:x:" not in answer.text


def _is_of(text):
    return SECRET_WORD in text or "root:" in text or "import " in text


def test_a_download_offers_only_the_files_of_its_run(hostile):
    app, _ = hostile
    browser = app.browser()
    for name in ("../../secret.txt", "/etc/passwd", "link.txt", "..%2f..%2fsecret.txt", "adapter/../../rsft-0001/../../secret.txt"):
        answer = browser.press("act", "run=rsft-0001", module="runs_page", click=("download", name))
        assert "has no file" in " ".join(answer["said"]), name
    for run in ("../runs/rsft-0001", "..", "rsft-0001/../rsft-0001"):
        answer = browser.press("act", f"run={quote(run)}", module="runs_page", click=("download", "config.yaml"))
        assert "There is no run" in " ".join(answer["said"]), run
    got = browser.press("act", "run=rsft-0001", module="runs_page", click=("download", "config.yaml"))["output"]["data"][-1]
    assert browser.http.get(f"/gradio_api/file={got['path']}").text.startswith("method: rsft")


def test_archives_are_refused_and_bombs_do_not_go_off(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "rows.jsonl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", "x" * 10_000)
    with pytest.raises(UserError, match="ZIP archive"):
        list(read_rows(tmp_path / "rows.jsonl"))
    bomb = tmp_path / "bomb.jsonl.gz"
    line = b'{"prompt": "' + b"x" * 1_000_000 + b'"}\n'  # few and long, because reading a million rows is what takes time
    with gzip.open(bomb, "wb") as file:
        for _ in range(FREE_UNPACKED // len(line) + 40):
            file.write(line)
    assert bomb.stat().st_size < 1_000_000
    seen = itertools.count()
    with pytest.raises(UserError, match="200 times its size"):
        deque(zip(read_rows(bomb), seen, strict=False), maxlen=0)
    assert 0 < next(seen) * len(line) <= max(FREE_UNPACKED, 200 * bomb.stat().st_size)
    honest = tmp_path / "honest.jsonl.gz"
    with gzip.open(honest, "wb") as file:
        file.write(line * 3)
    assert honest.stat().st_size * 200 < 3 * len(line), "it unpacks to as many times its size, and to less than anybody minds"
    assert sum(1 for _ in read_rows(honest)) == 3
