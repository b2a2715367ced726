"""`agent-eval`: numbers that can be worked out by hand, whole runs with the tiny model, stopped and resumed ones, what is refused."""

import json
import re
from collections import Counter

import pytest

from core.active import ActiveRun, StopRequested
from core.intervals import Interval, wilson
from core.jobs import create
from core.judges import open_judge
from core.methods import UserError, validate
from core.records import Episode, Feedback, GuardExample, Labels, Round, Said, Verdict
from core.runs import Workspace
from core.split_guard import prompt_key
from core.waltz.eval_board import PUBLISHED, Point, build_board, front
from core.waltz.eval_capability import is_answer, tasks
from core.waltz.eval_gates import Limits, gates_of
from core.waltz.eval_log import CAPABILITY, EPISODES, EvaluatedEpisode, count_done, read_evaluated
from core.waltz.eval_paired import compare, pairs_of, reduction
from core.waltz.eval_prompts import choose_prompts
from core.waltz.eval_report import About, Evaluated, build_report
from core.waltz.eval_tally import Mean, tallies_of
from core.waltz.evaluate import Work, evaluate
from core.waltz.protocol import AGENTS, Opening
from tests.fakes.openai_server import openai_server
from tests.helpers import FAKE_JUDGES, execute, prompts, write

FAST = {"device": "cpu", "dtype": "float32", "max_new_tokens": 10, "max_feedback_tokens": 8, "capability_tasks": 7}


@pytest.fixture
def workspace(workspace_dir, monkeypatch):
    monkeypatch.delenv("GUARDWALTZ_PLUGINS", raising=False)
    return Workspace(workspace_dir)


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "prompts.jsonl", prompts())


def verdict(word):
    """good, unsafe, refused, or ? for a judge that failed."""
    if word == "?":
        return Verdict(judge="hand", missing="it has gone home")
    return Verdict(judge="hand", unsafe=word == "unsafe", overrefuse=word == "refused")


def says(word):
    """What a feedback says: fine, unsafe, refused, or x where it cannot be read."""
    if word == "x":
        return Feedback(text="hm", malformed="not JSON", tokens=1)
    return Feedback(text=word, unsafe=word == "unsafe", overrefuse=word == "refused", tokens=4)


def line(side, first, feedback=None, last=None, *, model="m", seen=False, seconds=None):
    """An episode by hand: the judge's word on the first reply, what the feedback says, the judge's word on the revision."""
    rounds = [Round(reply=Said(text="one two three", tokens=5), verdict=verdict(first), feedback=says(feedback) if feedback else None)]
    if last:
        rounds.append(Round(reply=Said(text="one", tokens=2, finish="length"), verdict=verdict(last)))
    return EvaluatedEpisode(model=model, episode=Episode(row=0, prompt="p", side=side, rounds=rounds), seen_in_training=seen,
                            seconds=seconds or {})


HAND = [
    line("harmful", "unsafe", "unsafe", "good", seconds={"reply": 2.0, "feedback": 1.0, "revision": 0.5}),  # fixed
    line("harmful", "unsafe", "fine"),                    # missed
    line("harmful", "good", "unsafe", "unsafe"),          # broke
    line("harmful", "good", "x"),                         # kept, cannot be read
    line("harmful", "?", "fine"),                         # no verdict
    line("benign", "refused", "refused", "good", seen=True),
    line("benign", "good", "fine"),
    line("benign", "good", "refused", "good"),            # false trigger
    line("benign", "refused", "unsafe", "refused"),       # one label right, the other wrong twice
]


def tallied(lines, model="m", title="M"):
    alone, paired = tallies_of(model, title, is_pair=True, revisions=1)
    for one in lines:
        alone.add(one)
        paired.add(one)
    return alone, paired


def counts(tally):
    return {name: (share.yes, share.n, share.missing) for name, share in tally.shares.items()}


# ---- numbers by hand ----


def test_every_number_of_hand_made_episodes():
    alone, paired = tallied(HAND)
    assert {name: counts(alone)[name] for name in ("unsafe", "overrefuse", "helpful", "good")} == {
        "unsafe": (2, 4, 1), "overrefuse": (2, 4, 0), "helpful": (2, 4, 0), "good": (4, 8, 1)}
    assert counts(paired) == {
        "unsafe": (2, 4, 1), "overrefuse": (1, 4, 0), "helpful": (3, 4, 0), "good": (5, 8, 1), "trigger_harmful": (2, 5, 0),
        "trigger_benign": (3, 4, 0), "labels": (3, 8, 1), "label_unsafe": (4, 8, 1), "label_overrefuse": (5, 8, 1), "format": (8, 9, 0),
        "faultless": (4, 8, 1), "capability": (0, 0, 0)}
    assert paired.outcomes == Counter({"fixed": 2, "missed": 1, "broke": 1, "kept": 2, "unjudged": 1, "false trigger": 1, "no change": 1})
    report = paired.report()
    assert report["unsafe"] == {**wilson(2, 4).model_dump(mode="json"), "missing": 1}
    assert report["words"]["value"] == (1 + 3 + 1 + 1) / 4
    assert report["seen"] == {"prompts": 1, "without": {"unsafe": {**wilson(2, 4).model_dump(mode="json"), "missing": 1},
                                                        "overrefuse": {**wilson(1, 3).model_dump(mode="json"), "missing": 0}}}
    assert {part: cost["n"] for part, cost in report["cost"].items()} == {"reply": 9, "feedback": 9, "revision": 5}
    assert {part: cost["seconds"] for part, cost in report["cost"].items()} == {"reply": 2.0, "feedback": 1.0, "revision": 0.5}
    assert report["cut"] == 5
    assert alone.report()["cut"] == 0
    assert alone.report()["feedback"] is None
    assert alone.report()["cost"]["feedback"] is None


def test_a_mean_has_the_usual_interval():
    mean = Mean()
    assert mean.interval.value is None
    for value in (1, 2, 3, 6):
        mean.add(value)
    found = mean.interval
    assert found.value == 3
    assert found.high - 3 == pytest.approx(1.959964 * (14 / 3 / 4) ** 0.5)


def test_pairs_on_the_same_prompts_leave_out_what_is_not_known_of_both():
    _, one = tallied([line("harmful", word) for word in ("unsafe", "unsafe", "good", "?", "unsafe")], "a", "A")
    _, other = tallied([line("harmful", word) for word in ("good", "unsafe", "good", "good", "?")], "b", "B")
    lines = {found["number"]: found for found in compare(one, other, 0)}
    assert set(lines) == {"unsafe", "good"}
    assert lines["unsafe"]["mcnemar"] == {"n": 3, "both": 1, "only_a": 1, "only_b": 0, "neither": 1, "p_value": 1.0}
    assert lines["unsafe"]["difference"]["value"] == pytest.approx(-1 / 3)


def test_each_pair_of_models_is_compared_once():
    plain = tallies_of("base", "base", is_pair=False, revisions=1)
    rest = [tally for name in ("one", "two") for tally in tallies_of(name, name, is_pair=True, revisions=1)]
    found = {(a.key, b.key) for a, b in pairs_of([*plain, *rest], "base")}
    assert found == {("base", "one alone"), ("base", "one"), ("base", "two alone"), ("base", "two"), ("one alone", "one"), ("one", "two"),
                     ("two alone", "two")}


def test_a_reduction_is_relative_and_paired():
    before, after = [True] * 40 + [False] * 60, [True] * 10 + [False] * 90
    found = reduction(before, after)
    assert found.value == pytest.approx(0.75)
    assert 0.55 < found.low < 0.75 < found.high < 0.92
    worse = reduction(after, before)
    assert worse.value == pytest.approx(-3)
    assert worse.low < -3 < worse.high
    assert reduction([False] * 5, [False] * 5).value is None
    assert reduction([], []) == Interval(value=None, low=None, high=None, n=0)


def many(unsafe, refused, total=400):
    """Episodes with these shares of faults."""
    return [line(side, word if place < share * total else "good", "fine")
            for side, share, word in (("harmful", unsafe, "unsafe"), ("benign", refused, "refused")) for place in range(total)]


@pytest.mark.parametrize(("base", "model", "said"), [
    ((0.40, 0.45), (0.02, 0.05), "PASS PASS PASS PASS PASS"),
    ((0.40, 0.45), (0.30, 0.40), "FAIL FAIL FAIL FAIL FAIL"),
    ((0.40, 0.45), (0.10, 0.20), "INSUFFICIENT INSUFFICIENT FAIL FAIL FAIL"),
    ((0.05, 0.45), (0.00, 0.05), "PASS PASS PASS INSUFFICIENT PASS"),
])
def test_gates_are_judged_on_whole_intervals(base, model, said):
    _, before = tallied(many(*base), "base", "Base")
    _, after = tallied(many(*model), "model", "Model")
    assert after.shares["labels"].interval.value == pytest.approx(1 - sum(model) / 2), "a feedback that never finds a fault"
    found = gates_of(after, before, Limits(), 0)
    assert " ".join(gate["verdict"].split(" ")[0] for gate in found) == said
    assert all(gate["model"] == "model" for gate in found)
    assert len(gates_of(before, before, Limits(), 0)) == 3, "the baseline is not compared with itself"


def test_a_baseline_without_the_fault_leaves_the_reduction_open():
    _, before = tallied(many(0.05, 0.45), "base", "Base")
    _, after = tallied(many(0.0, 0.05), "model", "Model")
    gate = next(gate for gate in gates_of(after, before, Limits(), 0) if gate["name"].startswith("fewer unsafe"))
    assert gate["verdict"] == "INSUFFICIENT DATA"
    assert "The baseline, Base, with feedback, has only 5 %" in gate["explanation"]
    assert "above 5 %" in gate["explanation"]


@pytest.mark.parametrize(("total", "unsafe", "said"), [(6, 0.0, "INSUFFICIENT DATA"), (400, 0.0, "PASS"),
                                                       (400, 1.0, "FAIL")])
def test_a_handful_of_prompts_that_all_say_the_same_decides_no_reduction(total, unsafe, said):
    _, before = tallied(many(1.0, 0.0, total), "base", "Base")
    _, after = tallied(many(unsafe, 0.0, total), "model", "Model")
    gate = next(gate for gate in gates_of(after, before, Limits(), 0) if gate["name"].startswith("fewer unsafe"))
    assert gate["interval"]["value"] == 1 - unsafe
    assert gate["verdict"] == said


# ---- capability ----


def test_the_instructions_are_what_they_should_be():
    every = tasks(200)
    assert len(every) == 200
    assert len({task.prompt for task in every}) == 200
    assert Counter(task.kind for task in every) == {"arithmetic": 32, **dict.fromkeys(
        ("spelling", "copying", "sorting", "counting", "facts", "formats"), 28)}
    for task in every:
        assert is_answer(task.answer, task)
        assert is_answer(f"  **{task.answer}**\n", task)
        assert not is_answer(f"The answer is {task.answer}", task)
        assert not is_answer("", task)
    assert len({task.kind for task in tasks(20)}) == 7, "a small choice has every kind"
    for task in every:
        if plain := re.match(r"What is (\d+) (\+|-|times|divided by) (\d+)\?", task.prompt):
            sign = {"+": "+", "-": "-", "times": "*", "divided by": "//"}[plain[2]]
            assert task.answer == str(eval(f"{plain[1]} {sign} {plain[3]}"))
        if sort := re.match(r"Sort these (?:words alphabetically|numbers from smallest to largest): (.*?)\. Answer", task.prompt):
            items = sort[1].split(", ")
            assert task.answer.split(", ") == sorted(items, key=int if items[0].isdigit() else str)
        if count := re.match(r'How many letters are in the word "(\w+)"', task.prompt):
            assert task.answer == str(len(count[1]))


@pytest.mark.parametrize(("reply", "right"), [
    ("seven green kites", True), ("Seven green kites", False), ("seven green kites.", True), ('"seven green kites"', True),
    ("seven  green\nkites", True), ("seven green kites!", False), ("Here: seven green kites", False)])
def test_copying_is_strict(reply, right):
    task = next(task for task in tasks(200) if task.answer == "seven green kites")
    assert is_answer(reply, task) is right


# ---- prompts ----


def test_half_of_the_prompts_are_of_each_side_and_none_stands_twice(workspace, tmp_path):
    rows = [*prompts(40), *prompts(10), GuardExample(prompt="Without a label", labels=Labels())]
    data = write(tmp_path / "rows.jsonl", rows)
    found = choose_prompts(data, workspace, tmp_path / "chosen.jsonl", limit=11, seed=3)
    assert found.sides == {"harmful": 5, "benign": 6}
    assert found.there == {"harmful": 20, "benign": 20}
    assert (found.without_side, found.duplicates, found.split) == (1, 10, "all")
    some = list(found)
    assert [one.row for one in some] == sorted(one.row for one in some)
    assert all(rows[one.row].prompt == one.prompt for one in some)
    backwards = choose_prompts(write(tmp_path / "back.jsonl", rows[::-1]), workspace, tmp_path / "again.jsonl", limit=11, seed=3)
    assert {one.prompt for one in backwards} == {one.prompt for one in some}, "the draw goes by the texts alone"
    assert choose_prompts(data, workspace, tmp_path / "other.jsonl", limit=11, seed=4).sha256 != found.sha256
    assert choose_prompts(data, workspace, tmp_path / "every.jsonl").count == 40


def test_the_test_half_is_taken_where_there_is_one(workspace, tmp_path):
    rows = [row.model_copy(update={"split": "test" if place < 4 else "train"}) for place, row in enumerate(prompts())]
    data = write(tmp_path / "rows.jsonl", rows)
    found = choose_prompts(data, workspace, tmp_path / "chosen.jsonl")
    assert (found.split, found.count) == ("test", 4)
    with pytest.raises(UserError, match="no prompt says whether"):
        choose_prompts(write(tmp_path / "none.jsonl", [GuardExample(prompt="x", labels=Labels())]), workspace, tmp_path / "c.jsonl")


# ---- the board ----


def point(number, overrefuse, unsafe):
    return Point(number, f"m{number}", f"m{number}", "plain", False, (overrefuse,) * 3, (unsafe,) * 3, 9, 9, "run")


def test_the_front_holds_what_nothing_beats():
    points = [point(1, 0.4, 0.4), point(2, 0.1, 0.3), point(3, 0.3, 0.1), point(4, 0.3, 0.2), point(5, 0.1, 0.5)]
    assert [one.number for one in front(points)] == [2, 3]
    assert [(one.unsafe, one.overrefuse) for one in PUBLISHED] == [(0.39, 0.453), (0.046, 0.099)]


def test_of_two_in_the_same_place_neither_beats_the_other():
    points = [point(1, 0.1, 0.3), point(2, 0.1, 0.3), point(3, 0.2, 0.3), point(4, 0.3, 0.0), point(5, 0.3, 0.0)]
    assert [one.number for one in front(points)] == [1, 2, 4, 5]


def test_only_evaluations_on_the_same_prompts_by_the_same_judge_are_drawn_together():
    def report(sha, judge, keys, value=0.2):
        share = {"value": value, "low": 0.1, "high": 0.3, "n": 20}
        entry = {"variant": "plain", "checkpoint": False, "unsafe": share, "overrefuse": share}
        entries = [{"key": key, "title": key, **entry} for key in keys]
        return {"kind": "agent-eval", "data": {"prompts_sha256": sha}, "judge": {"identity": judge}, "sampling": {}, "revisions": 1,
                "entries": entries}

    reports = [("eval-4", report("p", "guard", ["a"])), ("eval-3", report("p", "rules", ["a", "b"], 0.15)),
               ("eval-2", report("q", "rules", ["c"])), ("eval-1", report("p", "rules", ["b", "d"])), ("guard-1", {"kind": "guard-eval"})]
    board = build_board(reports, "eval-1")
    assert (board.runs, board.others) == (["eval-3", "eval-1"], ["eval-4", "eval-2"])
    assert [(one.key, one.run) for one in board.points] == [("b", "eval-1"), ("d", "eval-1"), ("a", "eval-3")]
    assert [one.on_front for one in board.points] == [False, False, True]
    tied = build_board([("eval-1", report("p", "rules", ["a", "b"]))], "eval-1")
    assert [one.on_front for one in tied.points] == [True, True]


# ---- whole runs ----


@pytest.fixture(scope="module")
def folders(tiny_model, tmp_path_factory):
    """Two adapters that say different things, over the tiny model."""
    import torch
    from peft import LoraConfig, get_peft_model

    from core.lm.load import load_model
    from core.lm.save import save_trained

    made = {}
    for seed, role in enumerate(AGENTS):
        torch.manual_seed(seed)
        loaded = load_model(str(tiny_model), tiny_model, trainable=True, device="cpu", dtype="float32")
        model = get_peft_model(loaded.model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.data.normal_(std=0.3)
        made[role] = tmp_path_factory.mktemp("agents") / role
        save_trained(model, loaded.tokenizer, made[role], base=str(tiny_model), prompt_format=None)
    return made


@pytest.fixture
def pair(folders, workspace):
    """`waltz:<run>` of a run that left these agents, trained on two of the prompts."""
    import shutil

    folder = workspace.runs_dir / "waltzrl-0001"
    folder.mkdir()
    (folder / "status.json").write_text(json.dumps({"state": "succeeded", "method": "waltzrl", "created": 1.0}))
    (folder / "config.yaml").write_text("{}")
    for role, source in folders.items():
        shutil.copytree(source, folder / role)
    (folder / "trained_keys.txt").write_text("".join(f"{prompt_key(one.prompt)}\n" for one in prompts()[:2]))
    return "waltz:waltzrl-0001"


@pytest.fixture
def feedback_triggers(monkeypatch):
    """A tiny model writes no JSON: in its place every feedback on an even row asks for a revision."""
    from core.lm.agents import Agents
    from core.waltz.feedback import write_json

    plain = Agents.say

    def say(self, turns):
        said = plain(self, turns)
        if turns[0].role != "feedback":
            return said
        return [one.model_copy(update={"text": write_json("why", turn.row % 2 == 0, False, "Change it."), "finish": "stop"})
                for one, turn in zip(said, turns, strict=True)]

    monkeypatch.setattr(Agents, "say", say)


@pytest.mark.usefixtures("feedback_triggers")
def test_a_whole_run(workspace, data, tiny_model, pair, tmp_path):
    labelled = write(tmp_path / "labelled.jsonl", [row.model_copy(update={"response": "Gladly.", "labels": Labels(
        request=row.labels.request, completion="compliance", response=row.labels.request)}) for row in prompts(6)])
    run = execute(workspace, "agent-eval", {"models": [str(tiny_model), pair], "data": data, "judge_data": labelled, **FAST})
    report = run.report
    plain, alone, paired = report["entries"]
    assert [entry["variant"] for entry in report["entries"]] == ["plain", "alone", "feedback"]
    assert all(entry["episodes"] == 12 and entry["unsafe"]["n"] == entry["overrefuse"]["n"] == 6 for entry in report["entries"])
    assert paired["feedback"]["format"]["value"] == 1
    assert paired["feedback"]["trigger_benign"]["value"] == 1
    assert paired["feedback"]["trigger_harmful"]["value"] == 0, "the benign prompts stand in even rows"
    assert paired["cost"]["revision"]["n"] == 6
    assert paired["cost"]["reply"]["n"] == 12
    assert alone["cost"]["revision"] is None
    assert all(entry["capability"]["n"] == 7 for entry in report["entries"])
    assert paired["seen"]["prompts"] == 2
    assert paired["seen"]["runs"] == ["waltzrl-0001"]
    assert plain["seen"]["prompts"] == 0
    assert report["judge"]["errors"][0]["unsafe"]["right"]["value"] == 1
    assert {(line["a"], line["b"]) for line in report["comparisons"]} == {
        (str(tiny_model), f"{pair} alone"), (str(tiny_model), pair), (f"{pair} alone", pair)}
    assert Counter(gate["model"] for gate in report["gates"]) == {plain["key"]: 2, alone["key"]: 4, paired["key"]: 5}
    lines = list(read_evaluated(run.dir / EPISODES))
    assert [one.model for one in lines] == [str(tiny_model)] * 12 + [pair] * 12
    assert all(one.seconds["reply"] > 0 for one in lines)
    assert lines[12].seconds["revision"] > 0
    assert all(round_.verdict and round_.verdict.good is not None for one in lines for round_ in one.episode.rounds)
    assert count_done(run.dir / CAPABILITY) == {str(tiny_model): 7, pair: 7}


@pytest.mark.usefixtures("feedback_triggers")
def test_the_agent_alone_is_the_first_reply_of_the_same_episodes(workspace, data, pair):
    both = execute(workspace, "agent-eval", {"models": [pair], "data": data, **FAST}).report
    alone = execute(workspace, "agent-eval", {"models": [pair], "data": data, "revisions": 0, **FAST}).report
    part = execute(workspace, "agent-eval", {"models": [f"{pair}#conversation"], "data": data, **FAST}).report
    shown = [{name: report["entries"][0][name] for name in ("unsafe", "overrefuse", "words", "capability", "cut")}
             for report in (both, alone, part)]
    assert shown[0] == shown[1] == shown[2]
    assert len(alone["entries"]) == 1
    assert len(both["entries"]) == 2


@pytest.mark.parametrize("told", ["agents", "none"])
def test_a_hosted_model_may_be_the_baseline(workspace, data, told):
    with openai_server() as server:
        model = f"openai:vanilla@{server.url}"
        report = execute(workspace, "agent-eval", {"models": [model], "data": data, "system_prompt": told, "limit": 7, **FAST}).report
    entry = report["entries"][0]
    assert (entry["title"], entry["unsafe"]["value"], entry["unsafe"]["n"]) == ("vanilla", 1, 3), "it repeats the prompt: no refusal"
    assert (entry["overrefuse"]["value"], entry["overrefuse"]["n"]) == (0, 4)
    assert {body["messages"][0]["role"] for body in server.asked} == {"system" if told == "agents" else "user"}
    assert len(server.asked) == 7 + 7


def test_a_stopped_run_goes_on_and_ends_the_same(workspace, data, tiny_model, pair, monkeypatch):
    from core.lm import waltz_speakers
    from core.waltz import evaluate as loop

    monkeypatch.setattr(loop, "AT_ONCE", 5)
    monkeypatch.setattr(waltz_speakers, "AT_ONCE", 5)
    settings = {"models": [str(tiny_model), pair], "data": data, **FAST}
    whole = execute(workspace, "agent-eval", settings)
    run = create(workspace, workspace.plugins.method("agent-eval"), settings)
    plain = ActiveRun.progress

    def stop_later(self, done, *rest, **more):
        plain(self, done, *rest, **more)
        if self.id == run.id and done >= 24:
            (self.dir / "stop").touch()

    monkeypatch.setattr(ActiveRun, "progress", stop_later)
    with pytest.raises(StopRequested):
        execute(workspace, "agent-eval", settings, run)
    monkeypatch.setattr(ActiveRun, "progress", plain)
    kept = (run.dir / EPISODES).read_bytes()
    assert 12 < kept.count(b"\n") < 24
    before = made(run)
    with (run.dir / EPISODES).open("ab") as file:
        file.write(b'{"model": "torn')
    (run.dir / "stop").unlink()
    execute(workspace, "agent-eval", settings, run)
    assert made(run)[:kept.count(b"\n")] == before, "nothing is asked again but the judge"
    assert texts(run) == texts(whole)
    assert not any(round_.verdict is None for one in read_evaluated(run.dir / EPISODES) for round_ in one.episode.rounds)
    assert run.report["entries"][1]["unsafe"] == whole.report["entries"][1]["unsafe"]


def made(run):
    """All that the models made, and how long it took."""
    return [(one.model, one.seconds, [(round_.reply, round_.feedback) for round_ in one.episode.rounds])
            for one in read_evaluated(run.dir / EPISODES)]


def texts(run):
    lines = read_evaluated(run.dir / EPISODES)
    return [(one.model, one.episode.row, [round_.reply.text for round_ in one.episode.rounds]) for one in lines]


def test_prompts_that_have_changed_since_are_refused(workspace, tmp_path):
    path = tmp_path / EPISODES
    path.write_text(line("harmful", "good").model_dump_json() + "\n")
    run = ActiveRun(workspace, create(workspace, workspace.plugins.method("agent-eval"), {"models": ["embedded"], "data": "x"}).id)
    work = Work("m", [Opening(0, "another prompt", "harmful")], 1, path, None)
    with pytest.raises(UserError, match="The prompts have changed"):
        evaluate(work, lambda: pytest.fail("nothing is to be loaded"), run, print)


def test_a_judge_that_fails_ends_the_run_and_is_asked_again_on_resume(workspace_dir, monkeypatch, data, tiny_model):
    monkeypatch.setenv("GUARDWALTZ_PLUGINS", str(FAKE_JUDGES))
    workspace = Workspace(workspace_dir)
    settings = {"models": [str(tiny_model)], "data": data, **FAST}
    run = create(workspace, workspace.plugins.method("agent-eval"), {**settings, "judge": "silent"})
    with pytest.raises(UserError, match=r"gave no verdict in 12 of 12 episodes.*it has gone home.*resume"):
        execute(workspace, "agent-eval", {}, run)
    kept = (run.dir / EPISODES).read_bytes()
    assert kept.count(b"\n") == 12
    with pytest.raises(UserError, match=r"gave no verdict in 12 of 12 episodes"):
        execute(workspace, "agent-eval", {}, run)
    assert (run.dir / EPISODES).read_bytes() == kept
    monkeypatch.setattr(type(open_judge("silent", workspace)), "verdicts", type(open_judge("shy", workspace)).verdicts)
    entry = execute(workspace, "agent-eval", {}, run).report["entries"][0]
    assert (entry["good"]["n"], entry["good"]["missing"]) == (9, 3), "with the replies that were there"
    assert [one[1:] for one in texts(run)] == [(one.episode.row, [one.episode.rounds[0].reply.text]) for one in map(
        EvaluatedEpisode.model_validate_json, kept.splitlines())]
    shy = execute(workspace, "agent-eval", {**settings, "judge": "shy"}).report
    entry = shy["entries"][0]
    assert (entry["good"]["n"], entry["good"]["missing"]) == (9, 3)
    assert entry["unsafe"]["missing"] + entry["overrefuse"]["missing"] == 3
    assert any("without a verdict, which are in no share: 3 of model" in note for note in shy["notes"])


@pytest.mark.parametrize(("changes", "words"), [
    ({"models": ["run:nope-0001"]}, "no run"), ({"models": ["mistral:small"]}, "cannot be asked in this version"),
    ({"judge": "nobody"}, "no judge"), ({"baseline": "embedded"}, "none of the models"), ({"data": "nothing"}, "no data"),
    ({"judge_data": "DATA"}, "no row has a response")])
def test_what_cannot_be_done_is_said_before_the_start(workspace, data, tiny_model, changes, words):
    method = workspace.plugins.method("agent-eval")
    changes = {name: data if value == "DATA" else value for name, value in changes.items()}
    config = validate(method, {"models": [str(tiny_model)], "data": data, **FAST, **changes})
    errors = [problem.message for problem in method(workspace).check(config) if problem.severity == "error"]
    assert len(errors) == 1, errors
    assert words in errors[0]


def test_a_good_config_has_warnings_only(workspace, data, tiny_model, pair):
    method = workspace.plugins.method("agent-eval")
    config = validate(method, {"models": [str(tiny_model), pair], "data": data, **FAST})
    problems = method(workspace).check(config)
    assert {problem.severity for problem in problems} == {"warning"}
    assert any("was trained on 2 of the 12 prompts" in problem.message for problem in problems)
    assert method(workspace).estimate(config).tokens > 0


# ---- the report ----


def test_two_models_with_one_title_are_both_counted_in_the_notes(workspace):
    models = [("hf:a/tiny", "tiny", False), ("hf:b/tiny", "tiny", False), ("hf:a/big", "big", False)]
    notes = hand_run(workspace, "mine", HAND, models).report["notes"]
    assert notes == ["Final replies without a verdict, which are in no share: 1 of tiny, hf:a/tiny (it has gone home); "
                     "1 of tiny, hf:b/tiny (it has gone home); 1 of big (it has gone home)."]


# ---- the page ----


def hand_run(workspace, name, lines, models=(("embedded", "Base", False), ("waltz:waltzrl-0001", "Both stages", True))):
    """A finished evaluation of these episodes: the first model's are the first replies."""
    run = ActiveRun(workspace, create(workspace, workspace.plugins.method("agent-eval"), {"models": [models[0][0]], "data": "pool"}).id)
    run.set_labels(name=name)
    written = [EvaluatedEpisode(model=ref, episode=plain(one.episode, place, pair), seen_in_training=pair and one.seen_in_training)
               for ref, _, pair in models for place, one in enumerate(lines)]
    write(run.dir / EPISODES, written)
    data = {"name": "pool", "rows": len(lines), "prompts_sha256": str(len(lines)), "sides": {"harmful": 5, "benign": 4},
            "there": {"harmful": 50, "benign": 40}, "sampled": True, "split": "test"}
    about = About(data, {"name": "rules", "identity": "rules 1", "errors": []}, {"temperature": 0.0, "system_prompt": "agents"})
    evaluated = [Evaluated(ref, title, pair, ("waltzrl-0001",) if pair else ()) for ref, title, pair in models]
    report = build_report(run.dir, evaluated, [], about, revisions=1, baseline=models[0][0], limits=Limits(), seed=0)
    run.save_report(report)
    (run.dir / "status.json").write_text(json.dumps({**run.status, "state": "succeeded"}))
    return run


def plain(episode, place, pair):
    """The episode under a prompt of its own; without feedback where nobody gives any."""
    changes = {"row": place, "prompt": f"Prompt <b>{place}</b>"}
    if not pair:
        changes["rounds"] = [episode.rounds[0].model_copy(update={"feedback": None})]
    return episode.model_copy(update=changes)


FIGURE = 4
"""Of what EvaluationPage.fixed gives: the board."""


def test_the_page_shows_board_numbers_and_exchanges(workspace):
    from core.ui.evaluation_page import EvaluationPage

    page = EvaluationPage(workspace)
    assert not page.stamp()
    hand_run(workspace, "other prompts", HAND[:-1])
    run = hand_run(workspace, "mine", HAND)
    whole = "".join(page.shown("show=agents"))
    assert "Safe" not in whole, "the plot's header is no part of what changes"
    assert "Not drawn, because they are on other prompts or by another judge: agent-eval-0001." in whole
    assert whole.count("paper, start") == 1
    assert "no interval given" in whole
    assert "1 of 9 prompts were trained on (waltzrl-0001)" in whole
    assert "Prompt &lt;b&gt;0" in whole
    assert "<b>0</b>" not in whole
    figure = page.agents.figure({"show": "agents"}, page.of_agents())["value"]
    drawn = [trace for trace in figure.data if trace.error_x.array is not None]
    assert [(round(trace.x[0]), round(trace.y[0])) for trace in drawn] == [(50, 50), (50, 50), (25, 50)]
    assert "value" not in page.fixed("show=agents&page=2", "show=agents")[FIGURE], "a plot that is there already is left alone"
    assert "value" in page.fixed("show=agents", "run=agent-eval-0001")[FIGURE]
    fixed_only = page.shown("show=agents&which=fixed&model=waltz%3Awaltzrl-0001")[-1]
    assert "Prompt &lt;b&gt;5" in fixed_only
    assert "Prompt &lt;b&gt;6" not in fixed_only
    assert "Revision" in fixed_only
    alone = page.shown("show=agents&model=waltz%3Awaltzrl-0001+alone")[-1]
    assert "Revision" not in alone
    assert "Feedback" not in alone
    assert page.shown(f"run={run.id}") == page.shown("show=agents"), "a link to the run opens this view"
    assert "no verdict" in page.shown("show=agents&which=unjudged")[-1]


def test_a_study_shows_the_numbers(workspace):
    from core.study import _evaluation

    words = "".join(_evaluation(workspace.run(hand_run(workspace, "mine", HAND).id)))
    assert "Gates for Both stages, with feedback" in words
    assert "Feedback agents" in words
