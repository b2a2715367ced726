"""What a visitor of the public demo may start, see, ask and use up, and when that is forgotten."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress

import pytest

from core import jobs
from core.access import Limits, Settings, is_rehearsal
from core.files import write_json
from core.methods import UserError
from core.runs import Workspace
from core.visitor_id import Visitor
from core.visitors import Ledger, Question, VisitorAccess, forget_old
from tests.test_ui_pages import make

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
