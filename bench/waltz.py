"""One iteration of WaltzRL (both agents learn) against the plain arrangement: two LoRA policies on two bases and two reference bases.

    python -m bench.waltz [--episodes 16] [--repeats 1] [--quick]
    python -m bench.waltz --memory          peak memory of one arrangement after the other, each in a process of its own

Contestants: the plain arrangement with one `generate` for each episode and turn; the same with one batched `generate` for each turn;
ours (waltzrl: one base, two adapters, our engine, shared beginnings). Same prompts, number format, longest answers, micro-batch, number
of optimizer steps, objective; all of them put only response positions through the language model's head. The plain update pads rows and
learns each text as a row of its own. Judged by rules, which cost nothing. Loading is in nobody's time.

Untrained agents seldom write feedback that can be read, so every second feedback is taken to ask for a revision, in all contestants
alike: the tokens that were sampled are learned from, the words that the protocol reads are given.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

NEEDED_OVER_SINGLE, NEEDED_OVER_BATCHED, NEEDED_MEMORY = 2.5, 1.2, 0.5
GOAL_OVER_SINGLE, GOAL_OVER_BATCHED, GOAL_MEMORY = 5.0, 2.0, 0.35
ADVICE = "Please answer again, shorter."
OURS, SINGLE, BATCHED = "ours (waltzrl)", "plain, one generate an episode and turn", "plain, one batched generate a turn"


@dataclass
class Work:
    """What a contestant did."""

    episodes: int = 0
    tokens: int = 0
    """Sampled by both agents."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("rollout", "judge", "update"), 0.0))

    @property
    def total(self) -> float:
        """Seconds of everything."""
        return sum(self.seconds.values())

    @property
    def rate(self) -> float:
        """Episodes per second."""
        return self.episodes / self.total


def main() -> int:
    """Run the contest, or the memory check; exit code 1 when a floor is missed."""
    options = arguments()
    if options.memory_child:
        print(json.dumps(memory_child(options)))
        return 0
    return memory(options) if options.memory else speed(options)


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="the base of both agents")
    parser.add_argument("--data", default="", help="prompts with a side (default: the demo set)")
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=96, help="of an answer at most")
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=2, help="PPO epochs")
    parser.add_argument("--minibatches", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float32"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="a tiny random model: does it run, not how fast is it")
    parser.add_argument("--memory", action="store_true", help="peak memory of the arrangements")
    parser.add_argument("--memory-child", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    from core.lm.device import pick_device
    from core.lm.tune_setup import hush
    from core.lm.waltz import matrix_dtype

    hush()
    if options.quick and options.model == "embedded":
        from core.lm.tiny import make_tiny

        options.model = str(make_tiny(Path(tempfile.mkdtemp()) / "tiny"))
        options.episodes, options.tokens = min(options.episodes, 8), min(options.tokens, 12)
    options.device = pick_device(options.device)
    options.dtype = matrix_dtype(options.dtype, options.device)
    return options


# ---- speed ----


def speed(options: argparse.Namespace) -> int:
    """The contest."""
    done: dict[str, Work] = {}
    contestants: dict[str, Callable[[], Any]] = {
        SINGLE: lambda: Plain(options, batched=False), BATCHED: lambda: Plain(options, batched=True), OURS: lambda: Ours(options)}
    print(f"{options.episodes} episodes an iteration, answers of at most {options.tokens} tokens, every second one revised; "
          f"{options.model}, {options.device}, {options.dtype}, LoRA r16, {options.epochs} x {options.minibatches} optimizer steps an "
          f"agent, micro-batch {options.micro_batch}, {os.cpu_count()} cores", flush=True)
    for turn in range(options.repeats):
        for name in list(contestants)[:: 1 if turn % 2 == 0 else -1]:  # turned round with each repeat, since shared machines drift
            arrangement = contestants[name]()
            work = iterate(arrangement, options, turn)
            total = done.setdefault(name, Work())
            total.episodes, total.tokens = total.episodes + work.episodes, total.tokens + work.tokens
            total.seconds = {part: total.seconds[part] + seconds for part, seconds in work.seconds.items()}
            print(f"  {turn + 1}. {name:42} {work.rate:7.3f} episodes/s, {work.tokens / work.episodes:6.1f} tokens each", flush=True)
            del arrangement
            gc.collect()
    return show(done, options)


def show(done: dict[str, Work], options: argparse.Namespace) -> int:
    """The table, and whether the floors are kept."""
    mine = done[OURS]
    print(f"\n{'':42} episodes/s   ours is   roll-out   judge   update   tokens/episode")
    for name, work in done.items():
        shares = [work.seconds[part] / work.total for part in ("rollout", "judge", "update")]
        print(f"{name:42} {work.rate:10.3f}  {mine.rate / work.rate:7.2f} x  {shares[0]:8.1%} {shares[1]:7.1%} {shares[2]:8.1%}"
              f"   {work.tokens / work.episodes:10.1f}")
    if options.quick:
        print("--quick: the speeds above are those of a tiny model and are not judged")
        return 0
    kept = []
    for name, floor, goal in ((SINGLE, NEEDED_OVER_SINGLE, GOAL_OVER_SINGLE), (BATCHED, NEEDED_OVER_BATCHED, GOAL_OVER_BATCHED)):
        ratio = mine.rate / done[name].rate
        kept.append(ratio >= floor)
        print(f"{ratio:.2f} x {name!r} (needed {floor}, goal {goal}): {'PASS' if kept[-1] else 'FAIL'}")
    return 0 if all(kept) else 1


def iterate(arrangement: Any, options: argparse.Namespace, turn: int) -> Work:
    """One iteration of stage 2: play, judge, both agents learn."""
    from core.judges import open_judge
    from core.lm.waltz_rollouts import roll_out
    from core.waltz.protocol import AGENTS, Rules
    from core.waltz.rewards import DirRule

    workspace = arrangement.workspace
    arrangement.seed(turn)
    players: Any = Forced(arrangement.players)
    rollout = roll_out(openings(options, workspace), players, open_judge("rules", workspace), Rules(),
                       DirRule())  # with lambda, so that feedbacks earn different things and there is something to learn
    began = time.perf_counter()
    for role in AGENTS:
        step = arrangement.learn(role, rollout)
        if step.steps != options.epochs * options.minibatches:
            raise SystemExit(f"the {role} agent made {step.steps} optimizer steps: {step.why or 'too few episodes'}; take more --episodes")
    work = Work(len(rollout.episodes), sum(len(one.token_ids) for one in rollout.spoken.values()))
    work.seconds = {**rollout.seconds, "update": time.perf_counter() - began}
    return work


class Forced:
    """Players whose every second feedback is read as one that asks for a revision, whatever it says."""

    def __init__(self, players: Any) -> None:
        self.players = players

    def sample(self, turns: Sequence[Any]) -> list[Any]:
        """The tokens are those that were sampled; only the text of a feedback is given."""
        from core.waltz.feedback import write_json

        made = self.players.sample(turns)
        if turns[0].role != "feedback":
            return list(made)
        return [replace(one, text=write_json("", turn.row % 4 < 2, False, ADVICE), finish="stop")
                for turn, one in zip(turns, made, strict=True)]


def openings(options: argparse.Namespace, workspace: Any) -> list[Any]:
    """The prompts: the same ones for every contestant, harmful and benign in turn."""
    from core.runs import REPOSITORY
    from core.waltz.prompts import openings as read

    data = options.data or str(REPOSITORY / "assets" / "demo" / "waltz-prompts.jsonl")
    half = -(-options.episodes // 2)
    sides = [list(islice(read(data, workspace, side=side), half)) for side in ("harmful", "benign")]  # type: ignore[arg-type]
    chosen = [one for pair in zip(*sides, strict=False) for one in pair][:options.episodes]
    if len(chosen) < options.episodes:
        raise SystemExit(f"{data} has {len(chosen)} prompts in pairs of a harmful and a benign one, not {options.episodes}")
    return [replace(one, row=row) for row, one in enumerate(chosen)]


# ---- ours ----


class Ours:
    """What `waltzrl` holds: one base, two adapters, frozen copies of them, an optimizer each."""

    def __init__(self, options: argparse.Namespace) -> None:
        from core.lm.agents import open_agents
        from core.lm.waltz_update import CPU_PASS, Learner, Room
        from core.runs import Workspace
        from core.waltz.protocol import AGENTS

        self.options = options
        self.workspace = Workspace(tempfile.mkdtemp())
        self.players = open_agents(options.model, self.workspace, device=options.device, dtype=options.dtype, trainable=True)
        for role in AGENTS:
            self.players.add_adapter(role, seed=1)
            self.players.freeze(role)
        room = Room(options.micro_batch, CPU_PASS if options.device == "cpu" else 0)
        self.learners = {role: Learner(agents=self.players, role=role, rule=rule_of(options), room=room,
                                       narrow=options.dtype == "bfloat16", recompute=False, notice=print) for role in AGENTS}

    def seed(self, turn: int) -> None:
        """Other words each time."""
        from core.lm.agents import Speech

        self.players.speech = Speech(temperature=1.0, max_new_tokens=self.options.tokens, max_feedback_tokens=self.options.tokens,
                                     seed=turn, log_probs=True)

    def learn(self, role: Any, rollout: Any) -> Any:
        """As the training does it."""
        return self.learners[role].learn(rollout.texts(role), 1)

    def tensors(self) -> int:
        """Bytes of weights, adapters and optimizer states."""
        models = [self.players._weights.peft]
        return held_bytes(models, [learner.optimizer for learner in self.learners.values()])


def rule_of(options: argparse.Namespace) -> Any:
    """The same objective for all."""
    from core.lm.waltz import UpdateRule

    return UpdateRule(ppo_epochs=options.epochs, minibatches=options.minibatches, batch_size=options.micro_batch, learning_rate=1e-5)


# ---- the plain arrangement ----


class Plain:
    """Two policies, each an adapter on a base of its own, and two more bases as references. `generate` of the library speaks."""

    def __init__(self, options: argparse.Namespace, *, batched: bool) -> None:
        from core.lm.waltz_update import Learner, Room
        from core.runs import Workspace
        from core.waltz.protocol import AGENTS

        self.options, self.batched = options, batched
        self.workspace = Workspace(tempfile.mkdtemp())
        self.players = self
        self.agents = {role: PlainAgent(options, self.workspace) for role in AGENTS}
        self.learners = {}
        for role in AGENTS:
            learner = Learner(agents=self.agents[role], role=role, rule=rule_of(options), room=Room(options.micro_batch, 0),  # type: ignore[arg-type]
                              narrow=options.dtype == "bfloat16", recompute=False, notice=print)
            learner.tree = False
            self.learners[role] = learner

    def seed(self, turn: int) -> None:
        """Other words each time."""
        import torch

        torch.manual_seed(turn)

    def sample(self, turns: Sequence[Any]) -> list[Any]:
        """One `generate` for all turns, or one for each."""
        agent = self.agents[turns[0].role]
        parts = [turns] if self.batched else [[turn] for turn in turns]
        return [spoken for part in parts for spoken in agent.sample(part, self.options.tokens)]

    def learn(self, role: Any, rollout: Any) -> Any:
        """The same update, each text a padded row of its own."""
        from core.lm.waltz_texts import Texts

        return self.learners[role].learn(Texts([[text] for text in rollout.texts(role).texts]), 1)

    def tensors(self) -> int:
        """Bytes of weights, adapters and optimizer states."""
        models = [model for agent in self.agents.values() for model in (agent.model, agent.frozen)]
        return held_bytes(models, [learner.optimizer for learner in self.learners.values()])


class PlainAgent:
    """One policy with its reference: as much of core.lm.agents.Agents as a Learner asks for."""

    def __init__(self, options: argparse.Namespace, workspace: Any) -> None:
        from peft import LoraConfig, get_peft_model

        from core.lm.waltz_head import prepare_head

        loaded, copy = (load_apart(options, workspace) for _ in range(2))
        self.tokenizer = loaded.tokenizer
        self.frozen = copy.model.requires_grad_(False)
        prepare_head(self.frozen)
        self.base_model = loaded.model
        self.model = get_peft_model(loaded.model, LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
        self.model.eval()

    def loaded(self, _: Any) -> Any:
        """Whose tokenizer it is."""
        return SimpleNamespace(tokenizer=self.tokenizer)

    def parameters(self, _: Any) -> dict[str, Any]:
        """What is trained."""
        return {name: weight for name, weight in self.model.named_parameters() if ".lora_" in name}

    @contextmanager
    def training(self, _: Any) -> Iterator[Any]:
        """The policy."""
        yield self.model

    @contextmanager
    def reference(self, _: Any) -> Iterator[Any]:
        """The other base."""
        yield self.frozen

    def forget(self) -> None:
        """Nothing is kept over calls."""

    def sample(self, turns: Sequence[Any], tokens: int) -> list[Any]:
        """One call of the library's `generate`."""
        import torch

        from core.lm.agents import Spoken
        from core.lm.generate import stop_ids
        from core.lm.template import render_chat

        tokenizer = self.tokenizer
        tokenizer.padding_side = "left"
        texts = [render_chat(tokenizer, turn.messages) for turn in turns]
        batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt").to(self.base_model.device)
        with torch.inference_mode():
            out = self.model.generate(**batch, max_new_tokens=tokens, do_sample=True, temperature=1.0, top_p=1.0, top_k=0)
        stops = stop_ids(self.base_model, tokenizer)
        made = []
        for row, ids in enumerate(out[:, batch.input_ids.shape[1]:].tolist()):
            count = next((place + 1 for place, token in enumerate(ids) if token in stops), len(ids))
            prompt = batch.input_ids[row][batch.attention_mask[row].bool()].tolist()
            text = tokenizer.decode([token for token in ids[:count] if token not in stops], skip_special_tokens=True)
            made.append(Spoken(tuple(prompt), tuple(ids[:count]), text, "stop" if ids[count - 1] in stops else "length"))
        return made


def load_apart(options: argparse.Namespace, workspace: Any) -> Any:
    """A model that shares nothing with another one."""
    from core.lm.load import load_model

    return load_model(options.model, workspace.runs_dir, device=options.device, dtype=options.dtype, trainable=True)


# ---- memory ----


def memory(options: argparse.Namespace) -> int:
    """Each arrangement in a process of its own; PASS when ours needs at most half."""
    found = {}
    for name in ("plain", "ours"):
        command = [sys.executable, "-m", "bench.waltz", "--memory-child", name, "--model", options.model, "--data", options.data,
                   "--episodes", str(options.episodes), "--tokens", str(options.tokens), "--micro-batch", str(options.micro_batch),
                   "--epochs", str(options.epochs), "--minibatches", str(options.minibatches), "--dtype", options.dtype,
                   "--device", options.device]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).resolve().parent.parent)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name:6}" + "".join(f"  {words} {found[name][key] / 1e6:9.1f} MB" for key, words in WORDS.items()), flush=True)
    ratios = {key: found["ours"][key] / found["plain"][key] for key in WORDS}
    print("\nours / plain: " + ", ".join(f"{words} {ratios[key]:.2f}" for key, words in WORDS.items()))
    if options.quick:
        print("--quick: the sizes above are those of a tiny model and are not judged")
        return 0
    kept = ratios["held"] <= NEEDED_MEMORY
    print(f"weights, adapters and optimizers in memory: {ratios['held']:.2f} of the plain arrangement (at most {NEEDED_MEMORY}, goal "
          f"{GOAL_MEMORY}): {'PASS' if kept else 'FAIL'}")
    return 0 if kept else 1


WORDS = {"held": "weights + adapters + optimizers, resident", "tensors": "the same, by tensors", "whole": "whole iteration, peak"}


def memory_child(options: argparse.Namespace) -> dict[str, int]:
    """Bytes above the memory after imports: with everything loaded and every optimizer state made, and at the peak of an iteration."""
    import peft  # noqa: F401  the libraries' own memory is not what is measured
    import torch
    import transformers

    from bench.memory import resident
    from core.lm import agents, waltz_update  # noqa: F401

    transformers.LlamaForCausalLM  # noqa: B018  loads the lazy module
    after_imports = resident("VmRSS")
    arrangement: Any = Ours(options) if options.memory_child == "ours" else Plain(options, batched=True)
    for learner in arrangement.learners.values():
        for weight in learner.weights:
            weight.grad = torch.zeros_like(weight)
        learner.optimizer.step()  # makes its states; nothing moves
        learner.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    held = resident("VmRSS") - after_imports
    iterate(arrangement, options, 0)
    return {"held": held, "tensors": arrangement.tensors(), "whole": resident("VmHWM") - after_imports}


def held_bytes(models: Sequence[Any], optimizers: Sequence[Any]) -> int:
    """Of every tensor once."""
    import torch

    tensors = {weight.data_ptr(): weight for model in models for weight in model.parameters()}
    tensors |= {value.data_ptr(): value for optimizer in optimizers for state in optimizer.state.values() for value in state.values()
                if isinstance(value, torch.Tensor)}
    return sum(one.numel() * one.element_size() for one in tensors.values())


if __name__ == "__main__":
    sys.exit(main())
