"""A WaltzRL training that is stopped, killed and resumed ends as one that never was, and another task is refused."""

import os
import signal
from pathlib import Path

import pytest

from core.active import StopRequested
from core.files import read_json
from core.jobs import create, resume, submit
from core.judges import open_judge
from core.methods import UserError
from core.waltz.ledger import read_episodes, read_iterations
from core.waltz.protocol import AGENTS
from tests.helpers import execute, finish, prompts, wait_for, write
from tests.waltz_training import FEW, agents_on, equal, learner_of, losses, rolled_out

pytestmark = pytest.mark.usefixtures("fake_judges")


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "prompts.jsonl", prompts())


def test_stop_keeps_what_is_done_and_resume_ends_as_if_never_stopped(workspace, data, tiny_model, monkeypatch):
    settings = {**FEW, "data": data, "model": str(tiny_model), "save_every": 100}
    whole = execute(workspace, "waltzrl", settings)
    from core.lm import waltz_loop

    real, run = waltz_loop.roll_out, create(workspace, workspace.plugins.method("waltzrl"), settings)
    calls = []

    def stopping(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            (run.dir / "stop").touch()
        return real(*args, **kwargs)

    monkeypatch.setattr(waltz_loop, "roll_out", stopping)
    with pytest.raises(StopRequested):
        execute(workspace, "waltzrl", settings, run)
    assert [one.name for one in run.checkpoints()] == ["checkpoint-2", "checkpoint-3"], "the end of a stage, and the stop"
    (run.dir / "stop").unlink()
    again = execute(workspace, "waltzrl", settings, run)
    assert len(calls) == 5
    equal(losses(again), losses(whole))
    assert [one.model_dump() for one in read_episodes(again.dir)] == [one.model_dump() for one in read_episodes(whole.dir)]
    assert [one.name for one in again.checkpoints()] == ["checkpoint-2", "checkpoint-4"], "that of the stop is not kept for good"


def test_stop_within_an_update_undoes_it_and_resume_ends_as_if_never_stopped(workspace, data, tiny_model, monkeypatch):
    """Before the first optimizer step, and after one of the second agent: the checkpoint is that of the iteration before, bit for bit."""
    import torch

    from core.lm import waltz_update

    settings = {**FEW, "data": data, "model": str(tiny_model), "stage": 2, "stage2_iterations": 2, "rollout_batch": 4}
    whole = execute(workspace, "waltzrl", settings)
    wanted = torch.load(whole.checkpoints()[0] / "state.pt", weights_only=True)["optimizers"]
    real, steps = waltz_update.Learner._step, []

    for stopped_at in (0, 5):
        run = create(workspace, workspace.plugins.method("waltzrl"), {**settings, "save_every": 100})
        steps.clear()

        def stopping(self, *args, run=run, stopped_at=stopped_at):
            second = any(read_iterations(run.dir))
            if second and len(steps) == stopped_at:
                (run.dir / "stop").touch()
            made = real(self, *args)
            steps.extend([self.role] * second)
            return made

        monkeypatch.setattr(waltz_update.Learner, "_step", stopping)
        with pytest.raises(StopRequested):
            execute(workspace, "waltzrl", settings, run)
        assert steps == ["conversation", "conversation", "conversation", "conversation", "feedback"][:stopped_at], "at the next pass"
        assert len(list(read_iterations(run.dir))) == 1
        assert [one.name for one in run.checkpoints()] == ["checkpoint-1"]
        kept = torch.load(run.checkpoints()[0] / "state.pt", weights_only=True)["optimizers"]
        for role in AGENTS:
            files = [(one.checkpoints()[0] / role / "adapter_model.safetensors").read_bytes() for one in (run, whole)]
            assert files[0] == files[1]
            tensors = [[tensor for place in state[role]["state"].values() for tensor in place.values()] for state in (kept, wanted)]
            assert all(torch.equal(one, other) for one, other in zip(*tensors, strict=True))
        monkeypatch.setattr(waltz_update.Learner, "_step", real)
        (run.dir / "stop").unlink()
        again = execute(workspace, "waltzrl", settings, run)
        equal(losses(again), losses(whole))
        assert [one.model_dump() for one in read_episodes(again.dir)] == [one.model_dump() for one in read_episodes(whole.dir)]


def test_stop_is_seen_before_each_pass_of_an_update(tiny_model, workspace, data):
    """Also in those that only measure: all of them together may take longer than a stop is waited for."""
    from core.lm.waltz_update import Room

    agents = agents_on(tiny_model, workspace)
    texts = rolled_out(agents, workspace, data).texts("conversation")
    learner, asked = learner_of(agents, "conversation", ppo_epochs=1, minibatches=1), []
    learner.room, learner.stop_if_asked = Room(1, 0), lambda: asked.append(1)
    learner.learn(texts, 1)
    passes = len(texts.strands)
    assert len(asked) >= passes + 2 * -(-passes // 2)


@pytest.mark.kill
def test_kill_9_and_resume_repeats_the_uninterrupted_run(workspace, data, tiny_model):
    settings = {**FEW, "data": data, "model": str(tiny_model), "stage1_iterations": 4, "stage2_iterations": 8, "save_every": 2}
    wanted = losses(execute(workspace, "waltzrl", settings))
    run = submit(workspace, "waltzrl", settings)
    wait_for(lambda: len(list(read_iterations(run.dir))) > 6, "seven iterations")
    os.kill(run.status["process"]["pid"], signal.SIGKILL)
    wait_for(lambda: run.state == "lost", "the loss to show")
    assert len(losses(run)) < len(wanted), "killed before it was done"
    resume(workspace, run)
    assert finish(workspace, run) == "succeeded", run.log_tail()
    equal(losses(run), wanted)
    assert [one.iteration for one in read_episodes(run.dir)] == [number for number in range(1, 13) for _ in range(6)]


def test_other_prompts_are_refused_on_resume(workspace, data, tiny_model):
    settings = {**FEW, "data": data, "model": str(tiny_model), "stage": 1}
    run = execute(workspace, "waltzrl", settings)
    write(Path(data), prompts(14))
    with pytest.raises(UserError, match=r"Changed since .* began: prompts\b"):
        execute(workspace, "waltzrl", settings, run)


def test_another_judge_is_refused_on_resume(workspace, data, tiny_model, monkeypatch):
    settings = {**FEW, "data": data, "model": str(tiny_model), "stage": 1}
    run = execute(workspace, "waltzrl", settings)
    judge = type(open_judge(FEW["judge"], workspace))
    monkeypatch.setattr(judge, "identity", property(lambda _: "the same name, other weights"))
    with pytest.raises(UserError, match=r"Changed since .* began: judge"):
        execute(workspace, "waltzrl", settings, run)


def test_what_resuming_and_asking_need_lies_in_the_folder(workspace, data, tiny_model):
    run = execute(workspace, "waltzrl", {**FEW, "data": data, "model": str(tiny_model), "stage": 1, "stage1_iterations": 1})
    assert set(read_json(run.dir / "plan.json")) == {"prompts_sha256", "models", "judge"}
    assert read_json(run.dir / "rules.json")["revisions"] == 1
