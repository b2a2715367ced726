"""GRPO: what answers earn, which rows are asked about, and a run whole, stopped and resumed."""

import json
import math
import statistics
from pathlib import Path

import pytest

from core.active import StopRequested
from core.files import append_json_line, read_json, write_json
from core.jobs import continue_run, create
from core.lm.grpo import RewardRule, is_readable, is_right, reward, reward_functions
from core.lm.grpo_callbacks import logged_rewards
from core.lm.grpo_ledger import read_groups
from core.lm.grpo_plan import GroupPlan
from core.lm.grpo_report import difference, over_prompts
from core.lm.grpo_rows import find_rows
from core.methods import UserError, validate
from core.mining.edits import Edit, add_edit, edits_file
from core.mining.outputs import read_outputs
from core.plugins import load_plugins
from core.preflight import look
from core.records import Labels, MinedSample, Output, read_jsonl
from core.runs import Workspace
from core.split_guard import keys_to_register, prompt_key
from tests.helpers import execute, write
from tests.test_sft_exact import examples

FORMATS = load_plugins(installed=False).prompt_formats
RULE = RewardRule({"request": 2.0, "response": 1.0, "completion": 1.0}, false_positive_penalty=0.25, false_negative_penalty=0.75,
                  format_reward=0.1)
FEW = {"steps": 4, "num_generations": 4, "prompts_per_step": 3, "max_new_tokens": 32, "learning_rate": 0.01, "batch_size": 12,
       "dtype": "float32", "device": "cpu"}


# ---- what answers earn ----


def labels(request=None, completion=None, response=None):
    return Labels(request=request, completion=completion, response=response)


@pytest.mark.parametrize(("gold", "said", "earned"), [
    (labels("harmful"), labels("harmful"), 1.1),
    (labels("unharmful"), labels("harmful"), 0.75 + 0.1),
    (labels("harmful"), labels("unharmful"), 0.25 + 0.1),
    (labels("harmful"), labels(), 0.0),
    (labels("harmful"), labels(response="harmful"), 0.0),
    (labels("harmful", "refusal", "unharmful"), labels("harmful", "refusal", "unharmful"), 1.1),
    (labels("harmful", "refusal", "unharmful"), labels("harmful", "compliance", "harmful"), 0.5 + 0.25 / 4 + 0.75 / 4 + 0.1),
    (labels("harmful", "compliance", "unharmful"), labels("harmful", "refusal", None), 0.5 + 0.75 / 4),
    (labels(None, "refusal"), labels(None, "refusal"), 1.1),
])
def test_the_reward_is_its_closed_form(gold, said, earned):
    assert reward(gold, said, RULE) == pytest.approx(earned)
    assert is_right(gold, said, RULE) == (earned == pytest.approx(1.1))
    assert 0 <= earned <= RULE.most


def test_no_error_earns_less_than_an_unreadable_answer_and_none_more_than_a_right_one():
    hard = RewardRule({"request": 1.0}, false_positive_penalty=1.0, false_negative_penalty=1.0, format_reward=0.0)
    assert reward(labels("harmful"), labels("unharmful"), hard) == reward(labels("harmful"), labels(), hard) == 0
    for wrong in (labels("unharmful"), labels()):
        assert reward(labels("harmful"), wrong, RULE) < reward(labels("harmful"), labels("harmful"), RULE)


def test_a_task_without_weight_is_not_paid_and_need_not_be_readable():
    rule = RewardRule({"request": 1.0, "response": 0.0, "completion": 0.0})
    assert rule.tasks == ("request",)
    assert reward(labels("harmful", "refusal", "harmful"), labels("harmful"), rule) == pytest.approx(1.1)
    assert is_readable(labels("harmful", "refusal"), labels("harmful"), rule)


def test_the_functions_for_trl_add_up_to_the_reward():
    texts = ["Answers:\nRequest: harmful\nCompletion: refusal\nResponse: unharmful", "Answers:\nRequest: unharmful", "no labels here"]
    columns = {"user_prompt": ["How do I bake bread?"] * 3, "user_response": ["No."] * 3, "gold_request": ["harmful"] * 3,
               "gold_completion": [None] * 3, "gold_response": ["unharmful"] * 3}
    functions = reward_functions(FORMATS["guardreasoner"], RULE)
    assert [function.__name__ for function in functions] == ["request", "response", "completion", "format"]
    terms = {function.__name__: function(text=texts, prompts=["x"] * 3, trainer_state=object(), **columns) for function in functions}
    assert terms["completion"] == [None, None, None], "there is no gold label, so the term does not apply"
    gold = labels("harmful", None, "unharmful")
    for place, text in enumerate(texts):
        said = FORMATS["guardreasoner"].parse(text).labels
        assert sum(term[place] or 0 for term in terms.values()) == pytest.approx(reward(gold, said, RULE))
    assert [terms[name][2] for name in ("request", "response", "format")] == [0, 0, 0]


# ---- which rows, in which order ----


def test_every_row_is_asked_once_before_any_is_asked_again():
    plan = GroupPlan(rows=7, prompts=3, group=2, per_pass=2, steps=7, seed=1)
    asked = [row for rows in plan for row in rows]
    assert len(asked) == 21
    assert [sorted(asked[start:start + 7]) for start in (0, 7, 14)] == [list(range(7))] * 3
    assert asked[:7] != asked[7:14]
    assert list(GroupPlan(7, 3, 2, 2, 7, seed=1)) == list(plan) != list(GroupPlan(7, 3, 2, 2, 7, seed=2))
    assert len(next(iter(GroupPlan(rows=2, prompts=5, group=2, per_pass=1, steps=1, seed=0)))) == 5


def test_the_loader_gets_groups_together_and_once_for_each_pass():
    from core.lm.grpo_trainer import PlanSampler

    plan = GroupPlan(rows=4, prompts=2, group=3, per_pass=2, steps=2, seed=0)
    sampler = PlanSampler(plan)
    order = list(sampler)
    assert len(order) == len(sampler) == 2 * 3 * 6
    first, second = next(iter(plan))
    assert order[:6] == order[6:12] == order[12:18] == [first] * 3 + [second] * 3


def test_intervals_over_prompts():
    found = over_prompts([0.2, 0.4, 0.6, 0.8] * 25, (0, 1))
    assert found.value == pytest.approx(0.5)
    assert found.high - found.value == pytest.approx(1.96 * statistics.stdev([0.2, 0.4, 0.6, 0.8] * 25) / 10, rel=1e-3)
    assert over_prompts([1.0], (0, 1)).value is None
    certain = over_prompts([1.0] * 4, (0, 1))
    assert (certain.low, certain.high) == (pytest.approx(4 / (4 + 3.8415), rel=1e-3), 1.0), "four equal prompts are no certainty"
    change = difference(over_prompts([0.0, 1.0] * 50, None), over_prompts([0.5, 1.5] * 50, None))
    assert change.value == pytest.approx(0.5)
    assert change.high - 0.5 == pytest.approx(1.96 * math.sqrt(2 * statistics.variance([0.0, 1.0] * 50) / 100), rel=1e-3)


# ---- runs ----


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "rows.jsonl", examples(24))


def grpo(workspace, settings, run=None):
    return execute(workspace, "grpo", settings, run)


@pytest.fixture(scope="module")
def guard(tiny_model, tmp_path_factory):
    """A folder with an adapter on the tiny model that writes labels often enough to be paid for some."""
    return small_guard(tiny_model, tmp_path_factory.mktemp("guard"))


def small_guard(tiny_model, folder):
    """The path of that adapter: seconds of rsft on the rows of `examples`."""
    (folder / "runs").mkdir()
    workspace = Workspace(folder / "runs")
    run = execute(workspace, "rsft", {
        "data": write(folder / "rows.jsonl", examples(24)), "model": str(tiny_model), "tuning": "lora", "epochs": 20, "batch_size": 8,
        "accumulation": 1, "lr": 0.02, "dtype": "float32", "device": "cpu", "sample_rows": 0, "validation_share": 0, "save_steps": 999})
    return str(run.dir / "adapter")


def mined(workspace, data, guard, outcomes):
    """A finished mining run; outcomes: {row of `examples`: a string of R (right), W (wrong), U (unreadable) for its answers}."""
    rows = examples(24)
    run = create(workspace, workspace.plugins.method("mine-hard-samples"), {"data": data, "model": guard})
    flip = {"harmful": "unharmful", "unharmful": "harmful"}
    samples = []
    for row, kinds in outcomes.items():
        gold = rows[row].labels
        said = {"R": gold, "W": Labels(request=flip[gold.request]), "U": Labels()}
        samples.append(MinedSample(row=row, prompt=rows[row].prompt, gold=gold, model=guard, prompt_format="seed-binary", source="made",
                                   outputs=[Output(text=kind, predicted=said[kind]) for kind in kinds]))
    write(run.dir / "outputs.jsonl", samples)
    (run.dir / "status.json").write_text(json.dumps({**run.status, "state": "succeeded"}))
    return run


def weights_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def test_what_a_run_on_hard_samples_leaves(workspace, data, guard, tiny_model):
    miner = mined(workspace, data, guard, {0: "RRRW", 1: "RRRR", 2: "WWRW", 3: "RWUU", 4: "RRRR", 5: "WWWW", 6: "RW"})
    originals = {sample.row: sample for sample in read_outputs(miner.dir / "outputs.jsonl")}
    add_edit(edits_file(miner.dir), Edit(t=1.0, who="me", row=2, kind="exclude"), originals[2])
    run = grpo(workspace, {**FEW, "data": miner.id, "model": guard, "prompts_per_step": 2, "learning_rate": 1e-3})
    report = run.report
    rows = dict(enumerate(examples(24)))
    assert report["rows"]["rows"] == 7
    assert (report["rows"]["not_hard"], report["rows"]["excluded_by_hand"], report["rows"]["used"]) == (3, 1, 3)
    assert {line["row"] for line in read_groups(run.dir)} == {0, 3, 6}
    assert (run.dir / "trained_keys.txt").read_text().split() == sorted(prompt_key(rows[row].prompt) for row in (0, 3, 6))
    assert (report["data"]["hard_samples"], report["data"]["run"], report["prompt_format"]) == (True, miner.id, "seed-binary")
    assert (report["steps"], report["planned_steps"], report["rewards"]["answers"]) == (4, 4, 4 * 2 * 4)
    assert report["headline"].startswith("reward ")
    found = report["rewards"]["reward"]["difference"]
    assert found["low"] <= found["value"] <= found["high"]
    points = logged_rewards(run)
    assert [point["step"] for point in points] == [1, 2, 3, 4]
    assert {"reward", "reward_request", "reward_format", "right_share", "readable_share", "kl", "answer_tokens", "clipped_share",
            "even_groups", "learning_rate", "entropy"} <= set(points[0])
    groups = list(read_groups(run.dir))
    assert points[0]["reward"] == pytest.approx(statistics.mean(groups[0]["rewards"] + groups[1]["rewards"]), abs=1e-6)
    samples = list(read_jsonl(run.dir / "samples.jsonl"))
    assert {sample["gold"]["request"] for sample in samples} <= {"harmful", "unharmful"}
    assert all(sample["trained"] for sample in samples)
    assert not (run.dir / ".rows.arrow").exists()
    assert {path.name for path in (run.dir / "adapter").iterdir()} >= {
        "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "chat_template.jinja", "guardwaltz.json", "README.md"}
    card = (run.dir / "README.md").read_text()
    for said in (report["data"]["sha256"], "appendix F", "seed-binary", "learning_rate | 0.001", "false alarm"):
        assert said in card
    assert rows[0].prompt not in card
    from core.lm.find import find_model

    model = find_model(f"run:{run.id}", workspace.runs_dir)
    assert (model.prompt_format, model.base) == ("seed-binary", str(tiny_model))


def test_a_corrected_gold_label_makes_a_row_hard_or_easy(workspace, data, guard):
    miner = mined(workspace, data, guard, {0: "RRRR", 1: "RW"})
    originals = {sample.row: sample for sample in read_outputs(miner.dir / "outputs.jsonl")}
    run = grpo(workspace, {**FEW, "steps": 1, "data": f"run:{miner.id}", "model": guard})
    assert {line["row"] for line in read_groups(run.dir)} == {1}
    add_edit(edits_file(miner.dir), Edit(t=1.0, who="me", row=1, kind="exclude"), originals[1])
    with pytest.raises(UserError, match=r"holds no hard sample: of 2 mined rows none .* and 1 were excluded by hand. Mine again"):
        grpo(workspace, {**FEW, "data": miner.id, "model": guard})
    errors = look(workspace, "grpo", {**FEW, "data": miner.id, "model": guard}).errors
    assert [problem.field for problem in errors] == ["data"]


def test_the_reference_is_the_starting_adapter_and_stays_it(workspace, data, guard, monkeypatch):
    """At the first step policy and reference are one, so the KL is 0; the bare base would be far away."""
    import torch

    run = grpo(workspace, {**FEW, "data": data, "model": guard, "beta": 0.02, "save_steps": 1})
    kl = [point["kl"] for point in logged_rewards(run)]
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert kl[-1] > 1e-3
    start, last = weights_of(Path(guard)), run.dir / "checkpoint-4"
    frozen, moved = weights_of(last / "ref"), weights_of(last)
    assert all(torch.equal(frozen[name], start[name]) for name in start)
    assert any(not torch.equal(moved[name], start[name]) for name in start)
    assert run.report["reference"] == guard
    # the test above can fail: against the bare base the KL of the first step is not 0
    monkeypatch.setattr("trl.trainer.grpo_trainer.use_adapter", lambda model, **_: model.disable_adapter())
    bare = grpo(workspace, {**FEW, "data": data, "model": guard, "beta": 0.02, "steps": 1})
    assert logged_rewards(bare)[0]["kl"] > 0.05


def test_all_weights_from_an_adapter_keep_the_merged_model_as_reference(workspace, data, guard):
    """TRL would read the base again, which is not where this training starts."""
    run = grpo(workspace, {**FEW, "data": data, "model": guard, "tuning": "full", "learning_rate": 1e-3, "steps": 2})
    kl = [point["kl"] for point in logged_rewards(run)]
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert kl[1] > 0
    assert (run.dir / "model" / "model.safetensors").exists()
    assert run.report["trained_parameters"] == run.report["model"]["parameters"]


def test_advantages_are_rewards_against_their_group(workspace, data, guard, monkeypatch):
    from core.lm.grpo_trainer import GroupTrainer

    seen, plain = [], GroupTrainer._generate_and_score_completions

    def watched(self, inputs):
        made = plain(self, inputs)
        seen.append((made["advantages"].tolist(), made.get("old_per_token_logps")))
        return made

    monkeypatch.setattr(GroupTrainer, "_generate_and_score_completions", watched)
    run = grpo(workspace, {**FEW, "data": data, "model": guard, "steps": 2, "batch_size": 4})
    groups = list(read_groups(run.dir))
    assert any(max(group["rewards"]) > min(group["rewards"]) for group in groups), "a group with a signal"
    wanted = []
    for group in groups:
        middle, spread = statistics.mean(group["rewards"]), statistics.stdev(group["rewards"])
        wanted += [(value - middle) / (spread + 1e-4) for value in group["rewards"]]
    assert [value for advantages, _ in seen for value in advantages] == pytest.approx(wanted, abs=1e-4)
    assert all(old is None for _, old in seen), "log-probabilities are those of the training forward pass"


def test_roll_outs_are_those_of_the_engine_with_the_weights_of_the_step(workspace, data, guard):
    from core.lm.generate import generate
    from core.lm.load import load_model
    from core.lm.sft_rows import render_prompt

    run = grpo(workspace, {**FEW, "data": data, "model": guard, "sample_rows": 3, "learning_rate": 0.1, "steps": 2})
    loaded, form = load_model(guard, workspace.runs_dir, device="cpu", dtype="float32"), FORMATS["seed-binary"]
    by_prompt = {row.prompt: row for row in examples(24)}

    def expected(samples, seed):
        prompts = [render_prompt(by_prompt[sample["prompt"]], form, loaded.tokenizer) for sample in samples]
        made = generate(loaded, prompts, max_new_tokens=32, temperature=1.0, seed=seed, samples=4)
        return [one.text for one in made if one.sample == 0]

    samples = list(read_jsonl(run.dir / "samples.jsonl"))
    first, second = ([sample for sample in samples if sample["step"] == step] for step in (1, 2))
    assert [sample["text"] for sample in first] == expected(first, 42)
    assert [sample["text"] for sample in second] != expected(second, 42 + (1 << 31)), "the weights have moved"


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_bfloat16(workspace, data, guard, tuning):
    run = grpo(workspace, {**FEW, "data": data, "model": guard, "dtype": "bfloat16", "tuning": tuning, "steps": 1, "max_new_tokens": 8})
    assert run.report["dtype"] == "bfloat16"
    assert logged_rewards(run)[0]["kl"] == pytest.approx(0, abs=1e-3)


def test_the_size_of_a_pass_does_not_change_the_result(workspace, data, guard):
    one, many = (grpo(workspace, {**FEW, "data": data, "model": guard, "steps": 2, "batch_size": size}) for size in (12, 5))
    assert (one.report["passes_per_step"], many.report["passes_per_step"]) == (1, 3), "12 answers in passes of 4, the most that fits"
    first, second = weights_of(one.dir / "adapter"), weights_of(many.dir / "adapter")
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 1e-4


def test_stop_in_a_roll_out_and_resume_end_as_if_never_stopped(workspace, data, guard, monkeypatch):
    from core.lm.grpo_rollouts import Rollouts

    settings = {**FEW, "data": data, "model": guard, "steps": 5, "save_steps": 2, "epochs": 3, "limit": 7}
    whole = grpo(workspace, settings)
    run = create(workspace, workspace.plugins.method("grpo"), settings)
    plain = Rollouts.__call__

    def stopped(self, prompts, trainer):
        if trainer.state.global_step == 3:
            (run.dir / "stop").touch()
        return plain(self, prompts, trainer)

    monkeypatch.setattr(Rollouts, "__call__", stopped)
    with pytest.raises(StopRequested):
        grpo(workspace, settings, run)
    assert run.checkpoints()[-1].name == "checkpoint-3"
    assert {line["step"] for line in read_groups(run.dir)} == {1, 2, 3}
    monkeypatch.setattr(Rollouts, "__call__", plain)
    (run.dir / "stop").unlink()
    append_json_line(run.dir / "rewards.jsonl", {**next(iter(read_groups(run.dir))), "step": 4})  # as a killed run leaves
    with (run.dir / "rewards.jsonl").open("a") as file:
        file.write('{"step": 4, "row"')
    again = grpo(workspace, settings, run)
    assert list(read_groups(again.dir)) == list(read_groups(whole.dir))
    for one, other in zip(logged_rewards(again), logged_rewards(whole), strict=True):
        assert [one[name] for name in ("reward", "policy_loss", "kl")] == pytest.approx([other[name] for name in (
            "reward", "policy_loss", "kl")], abs=1e-6)
    first, second = weights_of(whole.dir / "adapter"), weights_of(again.dir / "adapter")
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 1e-6
    assert again.report["rewards"] == whole.report["rewards"]


def test_a_model_that_cannot_be_read_earns_nothing_and_is_counted(workspace, data, tiny_model):
    settings = {**FEW, "data": data, "model": str(tiny_model), "steps": 1, "max_new_tokens": 8}
    warned = [problem.message for problem in look(workspace, "grpo", settings).problems]
    assert any("never taught the format seed-binary" in message for message in warned)
    run = grpo(workspace, settings)
    rewards = run.report["rewards"]
    assert (rewards["answers"], rewards["unreadable_answers"], rewards["groups_without_signal"], rewards["prompts_asked"]) == (12, 12, 3, 3)
    assert logged_rewards(run)[0]["reward"] == 0
    assert rewards["reward"]["first_quarter"]["value"] == 0


def test_a_new_adapter_without_kl_and_continue(workspace, data, tiny_model, monkeypatch):
    monkeypatch.setattr("core.jobs.pump", lambda _: None)
    first = grpo(workspace, {**FEW, "data": data, "model": str(tiny_model), "steps": 1, "beta": 0, "lora_rank": 4})
    assert (first.report["kl"], first.report["reference"]) == (None, None)
    queued = continue_run(workspace, workspace.run(first.id), {"steps": 2, "beta": 0.01})
    assert (queued.config["model"], queued.config["steps"]) == (f"run:{first.id}", 2)
    second = grpo(workspace, {}, queued)
    assert read_json(second.dir / "adapter" / "adapter_config.json")["r"] == 4
    assert second.report["base"] == str(tiny_model)
    assert logged_rewards(second)[0]["kl"] == pytest.approx(0, abs=1e-6)


def test_rows_of_test_sets_are_refused_or_dropped_or_on_record(workspace, data, guard):
    workspace.store.register_test_keys("my-test", "data-0001", keys_to_register(examples(20)))
    settings = {**FEW, "data": data, "model": guard, "steps": 2}
    problem = look(workspace, "grpo", settings).errors[0]
    assert "20 rows of registered test sets: my-test (20)" in problem.message
    assert problem.fix == {"exclude_test_rows": True}
    with pytest.raises(UserError, match="my-test"):
        grpo(workspace, settings)
    dropped = grpo(workspace, {**settings, "exclude_test_rows": True})
    assert dropped.report["split_guard"]["test_rows_dropped"] == 20
    assert {line["row"] for line in read_groups(dropped.dir)} <= set(range(20, 24))
    used = grpo(workspace, {**settings, "allow_test_rows": True})
    assert used.report["test_rows_overridden"] is True
    assert "registered test sets were among" in (used.dir / "README.md").read_text()


def test_wrong_settings_and_data_say_what_to_do(workspace, data, guard, tmp_path):
    good = {**FEW, "data": data, "model": guard}
    answer = look(workspace, "grpo", good)
    assert not answer.errors
    assert answer.estimate.tokens > 0
    assert "4 steps x 3 prompts x 4 answers" in answer.estimate.note
    assert any("rows of every difficulty" in problem.message for problem in answer.problems)
    lone = look(workspace, "grpo", {**good, "num_generations": 1}).errors[0]
    assert lone.field == "num_generations"
    assert "a group needs at least 2" in lone.message
    tested = write(tmp_path / "test.jsonl", [row.model_copy(update={"split": "test"}) for row in examples(3)])
    wrong = {
        "There is no data": {"data": "nowhere"}, "only validation or test rows": {"data": tested},
        "no model reference": {"model": "nothing-here"}, "weights cannot be had": {"model": "mistral:large"},
        "was trained in seed-binary": {"prompt_format": "guardreasoner"}, "other weights": {"request_weight": 0},
        "give a weight above 0": {"request_weight": 0, "response_weight": 0, "completion_weight": 0},
        "not on this machine": {"device": "cuda:9"}}
    for words, change in wrong.items():
        errors = look(workspace, "grpo", {**good, **change}).errors
        assert any(words in problem.message for problem in errors), (words, errors)
    twice = look(workspace, "grpo", {**good, "steps": 0, "prompts_per_step": 30}).problems
    assert {"prompts_per_step": 24} in [problem.fix for problem in twice]
    with pytest.raises(UserError, match=r"None of the 12 rows fits: prompt and max_new_tokens = 2,040 exceed"):
        grpo(workspace, {**good, "max_new_tokens": 2040})


def test_an_adapter_of_another_base_is_refused(workspace, data, guard, tmp_path):
    import shutil

    folder = shutil.copytree(guard, tmp_path / "adapter")
    write_json(folder / "adapter_config.json", {**read_json(folder / "adapter_config.json"), "r": 8})
    with pytest.raises(UserError, match="does not fit its base"):
        grpo(workspace, {**FEW, "data": data, "model": str(folder)})


def test_an_unfinished_mining_run_is_no_data(workspace, data, guard):
    run = create(workspace, workspace.plugins.method("mine-hard-samples"), {"data": data, "model": guard})
    with pytest.raises(UserError, match=f"{run.id} is .*, so its hard samples are not known yet"):
        find_rows(run.id, workspace)


def test_presets_are_valid_and_say_what_they_are(workspace, data, guard):
    method = workspace.plugins.method("grpo")
    for name, settings in method.presets.items():
        assert validate(method, {**settings, "data": data, "model": guard})
        assert method.preset_help[name]
    paper = validate(method, {**method.presets["paper"], "data": data, "model": guard})
    assert (paper.temperature, paper.learning_rate, paper.beta, paper.num_generations) == (1.0, 1e-6, 0.01, 8)
