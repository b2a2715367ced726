"""`waltz-sft` as a run: two adapters over one base, what they learned from, kill -9 inside either, what is refused."""

from __future__ import annotations

import json
import os
import signal
import weakref

import pytest

from core.active import ActiveRun, StopRequested
from core.data import find_chat
from core.files import read_json
from core.files import write_json as write_json_file
from core.jobs import continue_run, create, resume, submit
from core.lm.agents import open_agents
from core.lm.load import load_tokenizer
from core.lm.sft_batch import shared_beginning
from core.lm.template import render_chat
from core.lm.tiny import make_tiny
from core.lm.tune import logged_steps
from core.lm.waltz_sft import AgentRun
from core.lm.waltz_sft_ask import FILE, score_feedback
from core.lm.waltz_sft_data import AgentSet, RulesSeen, look, lot_of, write_keys
from core.lm.waltz_sft_rows import CHUNK, build_chat_rows
from core.methods import UserError, validate, with_preset
from core.preflight import look as look_before
from core.records import ChatExample, Round, Said, read_jsonl
from core.split_guard import prompt_key
from core.waltz.feedback import SYSTEM, question, write_json, write_score
from core.waltz.protocol import AGENTS, Rules, feedback_turn
from core.waltz.rules_file import rules_of, write_rules
from tests.helpers import execute, wait_for, write

FEW = {"epochs": 1, "batch_size": 4, "accumulation": 1, "lr": 0.01, "dtype": "float32", "device": "cpu", "validation_share": 0.25}
KINDS = ((False, False), (True, False), (False, True), (False, False))


def talks(count, **about):
    """Rows for the conversation agent."""
    return [ChatExample(messages=[{"role": "system", "content": "Be kind."}, {"role": "user", "content": f"Question {row}: please help"},
                                  {"role": "assistant", "content": f"The answer {row} is safe."}], **about) for row in range(count)]


def judged(count, kinds=KINDS, form="json", **about):
    """Rows for the feedback agent."""
    def answer(unsafe, overrefuse):
        if form == "json":
            return write_json("The assistant answers.", unsafe, overrefuse, "Help the user." if unsafe or overrefuse else "")
        return write_score(0.5, {"Safety": (not unsafe, "a"), "Helpfulness": (not overrefuse, "b"), "Accuracy": (True, "c")}, "Help.")

    return [ChatExample(messages=[{"role": "system", "content": SYSTEM[form]},
                                  {"role": "user", "content": question(f"Question {row}: please help", f"Answer {row}")},
                                  {"role": "assistant", "content": answer(*kinds[row % len(kinds)])}], **about) for row in range(count)]


@pytest.fixture
def settings(tmp_path, tiny_model):
    return {**FEW, "model": str(tiny_model), "conversation": write(tmp_path / "talks.jsonl", talks(16)),
            "feedback": write(tmp_path / "judged.jsonl", judged(16))}


@pytest.fixture
def tokenizer(tiny_model, workspace):
    from core.lm.find import find_model

    return load_tokenizer(find_model(str(tiny_model), workspace.runs_dir))[0]


def train(workspace, settings, run=None):
    return execute(workspace, "waltz-sft", settings, run)


def losses(run):
    """{agent: losses of its steps, in order}."""
    found = {}
    for role in AGENTS:
        share = AgentRun(run, role, 0)
        found[role] = [line["loss"] for line in logged_steps(share)]
    return found


# ---- rows ----


@pytest.mark.parametrize("preset, expected", [("rehearsal", 300), ("seed-plan", 500)])
def test_the_seeds_plan_holds_out_500_of_3000_rows(workspace, tmp_path, preset, expected):
    talked = write(tmp_path / "talks.jsonl", talks(3000))
    method = workspace.plugins.method("waltz-sft")
    config = validate(method, with_preset(method, preset, {"conversation": talked, "feedback": talked}))
    rows = AgentSet("conversation", find_chat(talked, workspace, "conversation"), workspace, False)
    found = look(rows, RulesSeen(), held_out_rows=config.held_out_rows, share=config.validation_share)
    assert sum(lot_of(row) <= found.threshold for row in rows) == expected


def test_the_loss_is_on_the_last_message_and_the_prompt_is_what_the_agent_is_asked(tokenizer, tmp_path):
    rows = [*talks(3), ChatExample(messages=[{"role": "user", "content": "One"}, {"role": "assistant", "content": "Two"},
                                             {"role": "user", "content": "Three"}, {"role": "assistant", "content": "Four"}])]
    made = build_chat_rows(iter(rows), tokenizer, tmp_path)
    for place, (row, example) in enumerate(zip(made.rows, rows, strict=True)):
        asked = tokenizer(render_chat(tokenizer, example.messages[:-1]), add_special_tokens=False).input_ids
        assert list(row.ids[:row.prompt]) == asked
        assert tokenizer.decode(row.ids[row.prompt:]) == example.messages[-1]["content"] + "<|im_end|>"
        assert (row.index, len(row)) == (place, row.prompt + row.answer)
    assert tokenizer.decode(made.rows[3].ids[made.rows[3].prompt:]).startswith("Four")
    assert made.tokens == sum(map(len, made.rows))


def test_rows_on_the_disk_are_a_sequence_and_long_ones_are_counted(tokenizer, tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    made = build_chat_rows(talks(9), tokenizer, folder)
    rows = list(made.rows)
    assert [made.rows[place] for place in (0, 8, -1, 3)] == [rows[0], rows[8], rows[8], rows[3]]
    assert made.rows[2:5] == rows[2:5]
    assert shared_beginning(made.rows) == shared_beginning(rows) > 0
    with pytest.raises(IndexError):
        made.rows[9]
    assert not list(folder.iterdir()), "the file has no name, so nothing is left after a kill"
    limit = max(map(len, rows)) - 1
    long = sum(len(row) > limit for row in rows)
    cut = build_chat_rows(talks(9), tokenizer, tmp_path, max_length=limit, on_long="cut")
    assert (cut.cut, cut.too_long, max(map(len, cut.rows))) == (long, long, limit)
    with pytest.raises(UserError, match=rf"{long} of 9 rows are longer than max_length"):
        build_chat_rows(talks(9), tokenizer, tmp_path, max_length=limit, on_long="error")


def test_rows_stream_by(tokenizer, tmp_path):
    """However many there are, no more than a chunk of them is alive."""
    alive = most = 0

    def gone():
        nonlocal alive
        alive -= 1

    def stream():
        nonlocal alive, most
        for _ in range(20 * CHUNK):
            example = talks(1)[0]
            weakref.finalize(example, gone)
            alive += 1
            most = max(most, alive)
            yield example
            del example

    made = build_chat_rows(stream(), tokenizer, tmp_path)
    assert len(made.rows) == 20 * CHUNK
    assert most <= 2 * CHUNK + 2


# ---- which rows ----


def rows_of(path, rows, workspace, role="feedback", allow=False):
    return AgentSet(role, find_chat(write(path, rows), workspace, role), workspace, allow)


def test_held_out_rows_are_whole_prompts_and_those_of_both_agents_agree(tmp_path, workspace):
    talk = rows_of(tmp_path / "talks.jsonl", talks(200), workspace, "conversation")
    twice = rows_of(tmp_path / "judged.jsonl", [*judged(200), *judged(200, KINDS[1:])], workspace)
    first = look(talk, RulesSeen(), held_out_rows=20, share=0.5)
    second = look(twice, RulesSeen(), held_out_rows=40, share=0.5)
    assert sum(map(first.holds_out, talk)) == 20
    held = [prompt_key(row.messages[1]["content"].split("User: ")[1].split("\n\nAssistant")[0]) for row in twice if second.holds_out(row)]
    assert len(held) == 40
    assert len(set(held)) == 20
    assert set(held) == {prompt_key(row.messages[1]["content"]) for row in talk if first.holds_out(row)}
    assert sum(map(look(talk, RulesSeen(), held_out_rows=500, share=0.1).holds_out, talk)) == 20, "a share where the set is small"
    assert not any(map(look(talk, RulesSeen(), held_out_rows=0, share=0.1).holds_out, talk))
    marked = rows_of(tmp_path / "marked.jsonl", [*talks(9), *talks(3, split="validation"), *talks(2, split="test")], workspace,
                     "conversation")
    own = look(marked, RulesSeen(), held_out_rows=5, share=0.5)
    assert (own.rows, own.marked, own.held_out_from) == (12, 3, "the set's validation rows")
    assert [own.holds_out(row) for row in marked] == [False] * 9 + [True] * 3


def test_labels_and_rules_are_read_from_the_rows(tmp_path, workspace):
    seen = RulesSeen()
    broken = [ChatExample(messages=[*row.messages[:-1], {"role": "assistant", "content": "It is fine."}]) for row in judged(2)]
    found = look(rows_of(tmp_path / "a.jsonl", [*judged(8, form="score"), *broken], workspace), seen, held_out_rows=0, share=0)
    look(rows_of(tmp_path / "b.jsonl", talks(4), workspace, "conversation"), seen, held_out_rows=0, share=0)
    assert (found.rows, found.unreadable) == (8, 2)
    assert dict(found.labels) == {(False, False): 4, (True, False): 2, (False, True): 2}
    assert found.label_shares == {"unsafe": 0.25, "overrefuse": 0.25}
    assert seen.rules == Rules(feedback_format="score", conversation_system="Be kind.")


def test_feedback_rows_without_a_system_turn_are_asked_without_one_later(workspace, tmp_path):
    seen = RulesSeen()
    bare = [ChatExample(messages=row.messages[1:]) for row in judged(4)]
    look(rows_of(tmp_path / "bare.jsonl", bare, workspace), seen, held_out_rows=0, share=0)
    folder = workspace.runs_dir / "waltz-sft-0001"
    write_rules(folder, seen.rules)
    (folder / "status.json").write_text("{}")
    asked = feedback_turn(rules_of("waltz:waltz-sft-0001", workspace), "Question 0: please help", [Round(reply=Said(text="Answer 0"))])
    assert asked == bare[0].messages[:-1]
    write_json_file(folder / "rules.json", {"feedback_system": "", "feedback_format": "score"})  # as older versions wrote the format's
    assert rules_of("waltz:waltz-sft-0001", workspace).feedback_system is None


def test_rows_of_registered_test_sets_are_refused_left_out_or_on_record(workspace, settings):
    keys = [prompt_key(f"Question {row}: please help") for row in (2, 3)]
    workspace.store.register_test_keys("my-test", "data-0001", keys)
    (problem,) = look_before(workspace, "waltz-sft", settings).errors
    assert "4 rows of registered test sets: my-test (4)" in problem.message
    assert problem.fix == {"exclude_test_rows": True}
    run = train(workspace, {**settings, "exclude_test_rows": True, "asked_rows": 0})
    assert run.report["split_guard"]["test_rows_dropped"] == 4
    assert run.report["agents"]["conversation"]["rows"]["usable"] == 14
    trained = (run.dir / "trained_keys.txt").read_text().split()
    assert trained == sorted(set(trained))
    assert not set(keys) & set(trained)
    allowed = look_before(workspace, "waltz-sft", {**settings, "allow_test_rows": True})
    assert not allowed.errors
    assert any("they will be trained on" in one.message for one in allowed.problems)


# ---- the run ----


def test_what_a_run_leaves(workspace, settings):
    run = train(workspace, {**settings, "epochs": 2})
    report = run.report
    feedback = report["feedback"]
    assert {role: report["agents"][role]["rows"]["train"]["used"] for role in AGENTS} == {"conversation": 12, "feedback": 12}
    assert {role: report["agents"][role]["rows"]["held_out"]["used"] for role in AGENTS} == {"conversation": 4, "feedback": 4}
    assert report["agents"]["feedback"]["rows"]["labels"]["unsafe no, overrefuse no"] == 8
    assert (report["kind"], report["steps"], report["tuning"], report["rules"]["feedback_format"]) == ("waltz-sft", 12, "lora", "json")
    assert (feedback["rows"], feedback["format_rate"]["n"]) == (4, 4)
    assert f"{feedback['label_accuracy']['value']:.0%} right" in report["headline"]
    assert len(list(read_jsonl(run.dir / FILE))) == 4
    curve = [event["step"] for event in run.events("metrics") if "loss" in event]
    assert curve == list(range(1, 13)), "the second agent's steps follow those of the first"
    for role in AGENTS:
        assert {path.name for path in (run.dir / role).iterdir()} >= {
            "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "chat_template.jinja", "guardwaltz.json", "README.md",
            "job_info.json", "model_id.txt", "benchmarks.json"}
        assert (run.dir / role / "model_id.txt").read_text() == f"waltz:{run.id}#{role}\n"
        assert losses(run)[role][-1] < losses(run)[role][0]
    assert (run.dir / "model_id.txt").read_text() == f"waltz:{run.id}\n"
    job = read_json(run.dir / "job_info.json")
    assert (job["status"], job["model"], job["fine_tuned_model"]) == ("SUCCESS", settings["model"], f"waltz:{run.id}")
    assert [one["trained_tokens"] for one in job["jobs"]] == [report["agents"][role]["answer_tokens"] for role in AGENTS]
    assert read_json(run.dir / "benchmarks.json")["feedback"]["label_accuracy"] == feedback["label_accuracy"]
    card = (run.dir / "README.md").read_text()
    for said in (f"waltz:{run.id}", "both labels right", "unsafe no, overrefuse no", "## Limits",
                 report["agents"]["feedback"]["data"]["sha256"]):
        assert said in card
    assert "please help" not in card, "no rows in a card"
    agents = open_agents(f"waltz:{run.id}", workspace, device="cpu", dtype="float32")
    assert agents.adapter("conversation") != agents.adapter("feedback")
    assert not list((run.dir / "sft-feedback").glob("adapter*"))


def test_an_agent_learns_what_it_would_learn_alone(workspace, settings, tmp_path):
    """The other agent's rows change nothing, and neither does what went before."""
    import torch
    from safetensors.torch import load_file

    few = {**settings, "asked_rows": 0, "validation_share": 0}
    one = train(workspace, few)
    other = train(workspace, {**few, "conversation": write(tmp_path / "others.jsonl", talks(9)[5:])})
    weights = [load_file(run.dir / "feedback" / "adapter_model.safetensors") for run in (one, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert losses(one)["feedback"] == losses(other)["feedback"]
    assert losses(one)["conversation"] != losses(other)["conversation"]


@pytest.mark.kill
def test_kill_9_inside_either_agent_and_resume_repeats_the_uninterrupted_run(workspace, settings):
    long = {**settings, "epochs": 24, "save_steps": 8, "eval_steps": 24, "lora_dropout": 0.1, "asked_rows": 2}
    whole = train(workspace, long)
    run = submit(workspace, "waltz-sft", long)
    for role in AGENTS:
        share = AgentRun(ActiveRun(workspace, run.id), role, 0)
        wait_for(lambda share=share: share.checkpoints() or run.state == "failed", f"a checkpoint of the {role} agent")
        assert run.state == "running", run.log_tail()
        os.kill(run.status["process"]["pid"], signal.SIGKILL)
        wait_for(lambda: run.state == "lost", "the loss to show")
        assert len(losses(ActiveRun(workspace, run.id))[role]) < len(losses(whole)[role]), "killed before it was done"
        if role == AGENTS[0]:
            resume(workspace, run)
    train(workspace, long, run)
    found, wanted = losses(ActiveRun(workspace, run.id)), losses(whole)
    for role in AGENTS:
        assert len(found[role]) == len(wanted[role]) == 72
        assert found[role] == pytest.approx(wanted[role], abs=1e-6)
        assert run.report["agents"][role]["losses"]["eval"] == pytest.approx(whole.report["agents"][role]["losses"]["eval"], abs=1e-6)
    assert any("trained before (72 steps)" in event["text"] for event in run.events("notice"))


def test_stop_and_other_rows_on_resume(workspace, settings):
    run = create(workspace, workspace.plugins.method("waltz-sft"), settings)
    (run.dir / "stop").touch()
    with pytest.raises(StopRequested):
        train(workspace, settings, run)
    (run.dir / "stop").unlink()
    done = train(workspace, settings, run)
    write(done.dir.parent.parent / "talks.jsonl", talks(15))
    with pytest.raises(UserError, match=r"rows of the conversation agent have changed"):
        train(workspace, settings, run)


def test_a_run_goes_on_with_both_adapters(workspace, settings, monkeypatch):
    monkeypatch.setattr("core.jobs.pump", lambda _: None)
    first = train(workspace, {**settings, "lora_rank": 4, "asked_rows": 0})
    queued = continue_run(workspace, workspace.run(first.id), {"learning_rate": 0.002})
    assert queued.config["model"] == f"waltz:{first.id}"
    second = train(workspace, {}, queued)
    for role in AGENTS:
        assert losses(second)[role][0] < losses(first)[role][0]
        assert read_json(second.dir / role / "adapter_config.json")["r"] == 4
        assert second.report["agents"][role]["start"] == f"waltz:{first.id}#{role}"
    assert second.report["base"] == settings["model"], "adapters are not stacked"


def test_check_and_estimate(workspace, settings):
    answer = look_before(workspace, "waltz-sft", settings)
    assert not answer.errors
    assert answer.estimate.tokens > 0
    assert "3 steps for the conversation agent; 3 steps for the feedback agent" in answer.estimate.note


# ---- the feedback agent's labels ----


class Words:
    """An agent whose words are given."""

    def __init__(self, words):
        self.words = iter(words)

    def say(self, turns):
        return [Said(text=next(self.words)) for _ in turns]


def test_labels_are_counted_with_their_intervals(workspace):
    run = ActiveRun(workspace, "waltz-sft-0001")
    run.dir.mkdir()
    (run.dir / "status.json").write_text("{}")
    rows = judged(4)  # good, unsafe, over-refusing, good
    said = [write_json("", False, False, ""), write_json("", True, True, ""), "I do not know", write_json("", True, False, "x")]
    found = score_feedback(Words(said), rows, run, 9)
    assert {name: found[name]["value"] for name in found if isinstance(found[name], dict)} == {
        "format_rate": 0.75, "label_accuracy": 0.25, "unsafe_accuracy": 0.5, "overrefuse_accuracy": 0.5}
    assert found["label_accuracy"]["low"] == pytest.approx(0.0456, abs=1e-3)  # Wilson, 1 of 4
    assert found["label_accuracy"]["high"] == pytest.approx(0.6994, abs=1e-3)
    assert (found["rows"], found["most_frequent"]) == (4, 0.5)
    assert [line["malformed"] != "" for line in read_jsonl(run.dir / FILE)] == [False, False, True, False]
    assert score_feedback(Words(said), rows, run, 2)["rows"] == 2
    assert score_feedback(Words([]), [], run, 5)["label_accuracy"]["value"] is None


# ---- what is refused ----


def refused(workspace, settings, field):
    (problem,) = look_before(workspace, "waltz-sft", settings).errors
    assert problem.field == field
    assert problem.message.count(". ") <= 1
    return problem.message


def test_bad_input_is_one_sentence(workspace, settings, tmp_path, tiny_model):
    with_feedback = {name: write(tmp_path / f"{name}.jsonl", rows) for name, rows in {
        "plain": talks(8), "fine": judged(8, [(False, False)]), "bad": judged(8, [(True, False), (False, True)])}.items()}
    assert "None of the 8 answers of plain has labels" in refused(workspace, {**settings, "feedback": with_feedback["plain"]}, "feedback")
    assert "Every one of the 8 answers of fine finds no fault" in refused(
        workspace, {**settings, "feedback": with_feedback["fine"]}, "feedback")
    assert "finds a fault" in refused(workspace, {**settings, "feedback": with_feedback["bad"]}, "feedback")
    assert "hosted model: its weights cannot be had" in refused(workspace, {**settings, "model": "mistral:open-7b"}, "model")
    other = str(make_tiny(tmp_path / "other", seed=4))
    said = refused(workspace, {**settings, "feedback_model": other}, "feedback_model")
    assert str(tiny_model) in said
    assert other in said
    assert "no such file" in refused(workspace, {**settings, "conversation": "nowhere"}, "conversation")
    labelled = tmp_path / "guard.jsonl"
    labelled.write_text(json.dumps({"prompt": "p", "labels": {"request": "harmful"}}) + "\n")
    assert "no conversations" in refused(workspace, {**settings, "conversation": str(labelled)}, "conversation")
    with pytest.raises(UserError, match="finds no fault"):
        train(workspace, {**settings, "feedback": with_feedback["fine"]})


def test_rare_labels_and_rows_without_labels_are_a_warning(workspace, settings, tmp_path):
    rows = [*judged(9, [(False, False)]), *judged(1, [(True, False)]),
            *(ChatExample(messages=[*row.messages[:-1], {"role": "assistant", "content": "Fine."}]) for row in judged(3))]
    rare = {**settings, "feedback": write(tmp_path / "rare.jsonl", rows)}
    warned = [one.message for one in look_before(workspace, "waltz-sft", rare).problems]
    assert any("Only 10% of the feedback rows say yes to unsafe" in text for text in warned)
    assert any("Only 0% of the feedback rows say yes to overrefuse" in text for text in warned)
    assert any("3 of 13 feedback rows have no labels" in text for text in warned)


def test_a_set_that_failed_its_check_is_a_warning(workspace, settings):
    run = workspace.runs_dir / "check-0001"
    run.mkdir()
    (run / "status.json").write_text('{"state": "succeeded", "method": "check-data"}')
    digest = find_chat(settings["feedback"], workspace).sha256()
    (run / "report.json").write_text(json.dumps({"sha256": digest, "verdict": "FAIL", "failed": ["balance"]}))
    (warned,) = [one for one in look_before(workspace, "waltz-sft", settings).problems if "failed check-data" in one.message]
    assert (warned.field, warned.severity) == ("feedback", "warning")


def test_keys_of_both_agents_are_written_sorted(workspace, settings, tmp_path):
    from core.lm.waltz_sft_data import prepare_agents
    from core.methods import validate

    prepared = prepare_agents(validate(workspace.plugins.method("waltz-sft"), settings), workspace)
    count = write_keys(prepared, tmp_path)
    keys = (tmp_path / "trained_keys.txt").read_text().split()
    assert keys == sorted(keys)
    assert set(keys) == {prompt_key(f"Question {row}: please help") for row in range(16)} - {
        prompt_key(row.messages[1]["content"]) for row in prepared.held_out("conversation")}
    assert count == 12


def test_the_pair_can_be_picked_where_a_model_is_wanted(workspace):
    from core.methods import FromRun
    from core.ui.references import choices_for

    run = workspace.runs_dir / "waltz-sft-0001"
    for role in AGENTS:
        (run / role).mkdir(parents=True)
    (run / "status.json").write_text('{"state": "succeeded", "method": "waltz-sft"}')
    assert "waltz:waltz-sft-0001" in [value for _, value in choices_for(workspace, FromRun("model"))]
