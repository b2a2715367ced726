"""`waltzrl` as a run: what it leaves, which judge it takes, what ends it, and what is refused before the start."""

import json
from collections import Counter

import pytest

from core.active import ActiveRun
from core.jobs import create
from core.lm.waltz_check import rules_for
from core.methods import UserError, nested, validate
from core.preflight import look
from core.records import GuardExample, Labels
from core.split_guard import prompt_key
from core.waltz.ledger import read_episodes, read_iterations
from core.waltz.protocol import Rules
from core.waltz.rules_file import write_rules
from tests.helpers import execute, prompts, write
from tests.waltz_training import FEW, agents_on, equal, learner_of, losses, rolled_out

pytestmark = pytest.mark.usefixtures("fake_judges")


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "prompts.jsonl", prompts())


# ---- runs ----


def test_a_run_leaves_two_agents_every_episode_and_a_report(workspace, data, tiny_model):
    from core.lm.agents import open_agents

    run = execute(workspace, "waltzrl", {**FEW, "data": data, "model": str(tiny_model)})
    lines = list(read_iterations(run.dir))
    assert [(line.iteration, line.stage, line.episodes) for line in lines] == [(1, 1, 6), (2, 1, 6), (3, 2, 6), (4, 2, 6)]
    assert [sorted(line.agents) for line in lines] == [["feedback"]] * 2 + [["conversation", "feedback"]] * 2
    assert all(step.learned for line in lines for step in line.agents.values())
    assert lines[2].agents["feedback"].kl == pytest.approx(0, abs=1e-6), "the reference is the agent as the stage began"
    assert abs(lines[1].agents["feedback"].kl) > 1e-6
    episodes = list(read_episodes(run.dir))
    assert Counter(one.iteration for one in episodes) == {1: 6, 2: 6, 3: 6, 4: 6}
    assert all(one.episode.rounds[0].feedback is not None and one.episode.rounds[0].verdict is not None for one in episodes)
    assert sum(one.episode.conversation_reward for one in episodes if one.iteration == 4) / 6 == lines[3].values["conversation_reward"].mean
    assert [one.name for one in run.checkpoints()] == [f"checkpoint-{number}" for number in (1, 2, 3, 4)]
    assert [(one / "state.pt").exists() for one in run.checkpoints()] == [False, False, True, True]
    assert (run.dir / "trained_keys.txt").read_text().split() == sorted(prompt_key(row.prompt) for row in prompts())
    assert run.report["stages"]["stage 2"]["values"]["conversation_reward"]["first_quarter"]["n"] == 6
    assert run.report["left_out"] == {"episodes": 0, "of": 24, "why": {}}
    assert "Dynamic Improvement Reward" in (run.dir / "README.md").read_text()
    for ref in (f"waltz:{run.id}", f"waltz:{run.id}@checkpoint-1"):
        agents = open_agents(ref, workspace, device="cpu", dtype="float32")
        assert agents.adapter("feedback") is not None
    early, late = (open_agents(f"waltz:{run.id}{at}", workspace, device="cpu", dtype="float32") for at in ("@checkpoint-2", ""))
    assert early.adapter("conversation") is None, "frozen in stage 1: it is the base still"
    assert late.adapter("conversation") is not None


def test_the_frozen_agent_does_not_move_in_stage_1(workspace, data, tiny_model):
    from safetensors.torch import load_file

    settings = {**FEW, "data": data, "stage": 2, "stage2_iterations": 1}
    first = execute(workspace, "waltzrl", {**settings, "model": str(tiny_model)})
    second = execute(workspace, "waltzrl", {**FEW, "data": data, "stage": 1, "model": f"waltz:{first.id}"})
    for role, still in (("conversation", True), ("feedback", False)):
        before, after = (load_file(run.dir / role / "adapter_model.safetensors") for run in (first, second))
        assert all((before[name] == after[name]).all() for name in before) == still


def test_both_stages_are_one_run_after_the_other(workspace, data, tiny_model):
    """Stage 2 begins with fresh optimizers and references, as a run of its own would; only the numbers of its iterations differ."""
    whole = execute(workspace, "waltzrl", {**FEW, "data": data, "model": str(tiny_model)})
    first = execute(workspace, "waltzrl", {**FEW, "data": data, "model": str(tiny_model), "stage": 1})
    equal(losses(first), losses(whole)[:2])


def test_a_judge_over_the_same_base_shares_its_weights_and_disturbs_nobody(workspace, data, tiny_model, tmp_path, monkeypatch):
    """Verdicts of a model with an adapter on the agents' base: the same as with a base of its own, and one base is in memory."""
    import shutil

    from core.lm import waltz_loop

    real, one_base = waltz_loop.roll_out, []

    def looked_at(openings, agents, judge, *rest):
        made = real(openings, agents, judge, *rest)
        one_base.append(judge.judge.engine.loaded._weights is agents._weights)
        return made

    monkeypatch.setattr(waltz_loop, "roll_out", looked_at)

    agents = agents_on(tiny_model, workspace)
    learner_of(agents, "feedback").learn(rolled_out(agents, workspace, data).texts("feedback"), 1)
    agents.save("feedback", tmp_path / "reader")
    del agents
    settings = {**FEW, "data": data, "stage1_iterations": 1, "stage2_iterations": 2, "judge": f"reader:{tmp_path / 'reader'}"}
    shared = execute(workspace, "waltzrl", {**settings, "model": str(tiny_model)})
    apart = execute(workspace, "waltzrl", {**settings, "model": str(shutil.copytree(tiny_model, tmp_path / "copy"))})
    assert one_base == [True] * 3 + [False] * 3
    equal(losses(shared), losses(apart))
    assert any(step is not None for *_, step in losses(shared))


def test_episodes_without_a_verdict_teach_nothing_and_are_counted(workspace, data, tiny_model):
    run = execute(workspace, "waltzrl", {**FEW, "data": data, "model": str(tiny_model), "stage": 1, "judge": "shy", "rollout_batch": 12,
                                         "stage1_iterations": 1})
    (line,) = read_iterations(run.dir)
    assert line.left_out == 3  # prompts 1, 10 and 11
    assert line.why_left_out == {"a verdict is missing: it is shy": 3}
    assert line.outcomes["unjudged"] == 3
    assert line.agents["feedback"].texts == 9
    assert run.report["left_out"]["episodes"] == 3


def test_a_judge_that_says_nothing_ends_the_training(workspace, data, tiny_model):
    settings = {**FEW, "data": data, "model": str(tiny_model), "judge": "silent"}
    with pytest.raises(UserError, match=r"no verdict in 6 of 6 episodes, more than max_missing = 0.5 .*gone home"):
        execute(workspace, "waltzrl", settings)


def test_prompts_that_leave_no_room_end_the_training_and_the_judge_is_not_blamed(workspace, tmp_path, tiny_model):
    long = [one.model_copy(update={"prompt": one.prompt + " word" * 20_000}) for one in prompts(8)]
    settings = {**FEW, "data": write(tmp_path / "long.jsonl", long), "model": str(tiny_model), "stage": 1}
    with pytest.raises(UserError, match=r"there was no room for an answer in 6 of 6 episodes.*shorter prompts"):
        execute(workspace, "waltzrl", settings)


def test_the_feedback_agent_is_asked_as_it_was_taught_and_not_as_the_other_one(workspace, data):
    kept = workspace.runs_dir / "waltz-sft-0001"
    kept.mkdir()
    (kept / "status.json").write_text("{}")
    write_rules(kept, Rules(conversation_system="Be brief.", feedback_format="score", feedback_system="Look closely."))
    method = workspace.plugins.method("waltzrl")
    config = validate(method, {**FEW, "data": data, "model": "embedded", "feedback_model": "waltz:waltz-sft-0001#feedback"})
    rules = rules_for(config, workspace)
    assert (rules.feedback_format, rules.feedback_system) == ("score", "Look closely.")
    assert rules.conversation_system == Rules().conversation_system


def test_a_loss_that_is_no_number_stops_and_names_the_last_good_checkpoint(workspace, data, tiny_model):
    settings = {**FEW, "data": data, "model": str(tiny_model), "stage": 1, "ppo_epochs": 1, "minibatches": 1, "stage1_iterations": 5}
    method = workspace.plugins.method("waltzrl")
    run = create(workspace, method, settings)
    config = validate(method, run.config).model_copy(update={"learning_rate": 1e30})
    with pytest.raises(UserError, match=r"feedback agent is not a number in iteration 2; checkpoint-1 is the last good one"):
        method(workspace).run(config, ActiveRun(workspace, run.id))
    assert [one.name for one in run.checkpoints()] == ["checkpoint-1"]
    assert len(losses(run)) == 1


# ---- before the start ----


def problems_of(workspace, **settings):
    return [problem.message for problem in look(workspace, "waltzrl", {**FEW, **settings}).problems]


def test_what_cannot_be_trained_is_said_before_the_start(workspace, data, tiny_model, tmp_path):
    from core.lm.tiny import make_tiny

    fine = {"data": data, "model": str(tiny_model)}
    other = str(make_tiny(tmp_path / "other", seed=1))
    cases = [({"model": "mistral:ft:small"}, "weights cannot be had"), ({"feedback_model": other}, "two agents share one base"),
             ({"judge": "oracle"}, "no judge 'oracle'"), ({"data": "nothing"}, "no data 'nothing'"),
             ({"model": "waltz:none-0001"}, "no run 'none-0001'"), ({"dir": {"alhpa": 1}}, "alhpa")]
    for settings, words in cases:
        found = problems_of(workspace, **fine | settings)
        assert any(words in message for message in found), (words, found)
    sideless = fine | {"data": write(tmp_path / "unsaid.jsonl", [GuardExample(prompt="Hello there", labels=Labels())]), "judge": "rules"}
    assert any("the judge rules has no verdict" in message for message in problems_of(workspace, **sideless))
    answer = look(workspace, "waltzrl", {**FEW, **fine})
    assert {problem.severity for problem in answer.problems} == {"warning"}
    assert any("never taught to give feedback" in problem.message for problem in answer.problems)
    assert answer.estimate.tokens > 0
    assert answer.estimate.peak_memory_bytes > 0


def test_prompts_of_a_test_set_are_refused_or_left_out(workspace, data, tiny_model):
    keys = [prompt_key(row.prompt) for row in prompts()[:4]]
    workspace.store.register_test_keys("exam", "data-0009", keys)
    assert any("exclude_test_rows" in message for message in problems_of(workspace, data=data, model=str(tiny_model)))
    with pytest.raises(UserError, match="exclude_test_rows"):
        execute(workspace, "waltzrl", {**FEW, "data": data, "model": str(tiny_model)})
    run = execute(workspace, "waltzrl", {**FEW, "data": data, "model": str(tiny_model), "exclude_test_rows": True, "stage": 1,
                                         "stage1_iterations": 1})
    assert run.report["split_guard"]["test_rows_dropped"] == 4
    assert not set((run.dir / "trained_keys.txt").read_text().split()) & set(keys)


def test_one_of_a_group_of_settings_can_be_given_alone(workspace, data, tiny_model):
    method = workspace.plugins.method("waltzrl")
    given = {"data": data, "model": str(tiny_model), "dir": {"alpha": 0.5, "gamma": 0.2}, "dir.lambda": 0.75}
    config = validate(method, given)
    assert (config.dir.alpha, config.dir.lambda_, config.dir.gamma) == (0.5, 0.75, 0.2)
    assert nested(method.Config, {"a": 1, "b.c": 2, "b.d": 3}) == {"a": 1, "b": {"c": 2, "d": 3}}
    again = validate(method, json.loads(json.dumps(config.model_dump(mode="json"))))
    assert again == config
    for name, preset in method.presets.items():
        assert validate(method, {**given, **preset}).dir.lambda_ == 0.75, name
