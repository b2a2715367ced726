"""The look before a WaltzRL training starts: what stands in its way, what it will cost; and what its settings mean."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from core.answer_cost import CPU_PARAMETERS, CPU_TOKENS
from core.judges import asks_hosted, judge_problem, part_names
from core.lm.agents_find import AgentsRef, agent_refs, find_agents
from core.lm.device import pick_device
from core.lm.find import Found
from core.lm.sft_check import shape_at, tokenizer_of
from core.lm.sft_cost import FIXED_SECONDS, adapter_parameters, available_bytes, guess_seconds, peak_bytes, train_flops
from core.lm.template import render_chat
from core.lm.waltz import LEARNING, matrix_dtype
from core.lm.waltz_prompts import Pool, count_prompts, plan_prompts
from core.lm.waltz_update import CPU_PASS
from core.methods import Estimate, Problem, UserError
from core.mining.guarding import GuardTally, refusal
from core.waltz.protocol import Opening, Rules, conversation_turn
from core.waltz.rewards import DirRule, RewardRule, WeightedSumRule
from core.waltz.rules_file import rules_of
from core.words import duration, plural, size

if TYPE_CHECKING:
    from core.runs import Workspace

COUNTED = 100
"""Prompts whose tokens are counted before a start."""
CUT = 0.6
"""Usual length of an answer, as a part of the longest; a guess."""
TRIGGERED = 0.5
"""Usual share of episodes with a revision; a guess."""


# ---- what settings mean ----


def refs_of(config: Any) -> AgentsRef:
    """The models to start from."""
    return (str(agent_refs(config.model)[0]), config.feedback_model) if config.feedback_model else str(config.model)


def rules_for(config: Any, workspace: Workspace) -> Rules:
    """How episodes are played: as the agents were taught to talk, with what the settings say."""
    critic = rules_of(config.feedback_model or config.model, workspace)
    form = critic.feedback_format if config.feedback_format == "auto" else config.feedback_format
    system = critic.feedback_system if form == critic.feedback_format else None
    return replace(rules_of(config.model, workspace), revisions=config.revisions, samples=config.samples, feedback_format=form,
                   feedback_system=system)


def rewards_of(config: Any) -> RewardRule:
    """What is paid."""
    if config.reward == "dir":
        return DirRule(config.dir.alpha, config.dir.lambda_, config.dir.gamma)
    return WeightedSumRule(config.weighted_sum.alpha, config.weighted_sum.beta, config.weighted_sum.gamma)


def openings_of(config: Any, workspace: Workspace) -> Iterator[Opening]:
    """The prompts that may be learned from, one after the other."""
    from core.waltz.prompts import openings

    return openings(config.data, workspace, split="train")


# ---- the look ----


@dataclass(frozen=True)
class Looked:
    """What was found before a start."""

    agents: tuple[Found, Found]
    pools: dict[Pool, int]
    """{pool: prompts that may be used}."""
    tests: GuardTally
    judge: str
    """Why the judge cannot be used; "" = it can."""
    prompt_tokens: int | None
    """Longest of the first prompts as the conversation agent reads them; None while the embedded model is not there."""


def look_at(config: Any, workspace: Workspace) -> Looked:
    """UserError where agents or prompts cannot be found. Loads no weights."""
    agents = find_agents(refs_of(config), workspace)
    rules = rules_for(config, workspace)
    pools, tests = count_prompts(openings_of(config, workspace), workspace)
    if not pools and not tests.count:
        raise UserError(f"There are no prompts in the data {config.data}; choose other data.")
    return Looked(agents, pools, tests, judge_problem(config.judge, workspace), _longest_prompt(config, agents[0], rules, workspace))


def _longest_prompt(config: Any, found: Found, rules: Rules, workspace: Workspace) -> int | None:
    tokenizer = tokenizer_of(found)
    if tokenizer is None:
        return None
    texts = [render_chat(tokenizer, conversation_turn(rules, one.prompt, [])) for one in islice(openings_of(config, workspace), COUNTED)]
    return max((len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]), default=0) if texts else 0


def check(config: Any, looked: Looked) -> list[Problem]:
    """Problems of a training whose agents and prompts can be found."""
    problems = []
    if looked.judge:
        problems.append(Problem(looked.judge, field="judge"))
    if looked.tests.count and not (config.exclude_test_rows or config.allow_test_rows):
        problems.append(Problem(refusal(looked.tests.hits), field="data", fix={"exclude_test_rows": True}, fix_label="Leave them out"))
    elif looked.tests.count and config.allow_test_rows:
        problems.append(Problem(f"The data holds {looked.tests.hits}, and they may be trained on. Every report after this run says so.",
                                field="allow_test_rows", severity="warning"))
    if not looked.pools:
        return [*problems, Problem("Every prompt is in a registered test set; choose other data.", field="data")]
    if config.tuning == "qlora" and not importlib.util.find_spec("bitsandbytes"):
        problems.append(Problem("tuning = qlora needs bitsandbytes, which is not installed; run `pip install bitsandbytes`.",
                                field="tuning", fix={"tuning": "lora"}, fix_label="Use lora"))
    try:
        device = pick_device(config.device)
    except UserError as error:
        return [*problems, Problem(str(error), field="device", fix={"device": "auto"}, fix_label="Use what is there")]
    return [*problems, *_sides(config, looked), *_learning(config, looked), *_memory(config, looked, device)]


def _sides(config: Any, looked: Looked) -> list[Problem]:
    problems = []
    if "" in looked.pools and "rules" in part_names(config.judge):
        problems.append(Problem(f"{plural(looked.pools[''], 'prompt')} do not say whether they are harmful or benign, and the judge rules "
                                "has no verdict on them; take a guard as the judge, or prompts with a side.", field="judge",
                                severity="error" if set(looked.pools) == {""} else "warning"))
    elif set(looked.pools) <= {"harmful"} or set(looked.pools) <= {"benign"}:
        only, other = (("harmful", "refuses everything") if "harmful" in looked.pools else ("benign", "refuses nothing"))
        problems.append(Problem(f"All prompts are {only}, so an agent that {other} earns the most; mix in the other kind.", field="data",
                                severity="warning"))
    _, note = plan_prompts(looked.pools, config.rollout_batch, config.benign_share, config.seed)
    if note:
        problems.append(Problem(note, field="rollout_batch", severity="warning"))
    return problems


def _learning(config: Any, looked: Looked) -> list[Problem]:
    problems = []
    if not any(found.adapter for found in looked.agents):
        problems.append(Problem(f"{config.model} was never taught to give feedback: as long as its words cannot be read they earn 0 and "
                                "trigger nothing. Start from a waltz-sft run.", field="model", severity="warning"))
    episodes = config.rollout_batch * config.samples
    if config.minibatches > episodes:
        problems.append(Problem(f"minibatches = {config.minibatches}, but an iteration plays {plural(episodes, 'episode')}.",
                                field="minibatches", fix={"minibatches": 1}, fix_label="Use one", severity="warning"))
    if config.reward == "dir" and not config.dir.alpha:
        problems.append(Problem("With dir.alpha = 0 an improvement earns nothing, and the feedback agent learns labels alone.", field="dir",
                                severity="warning"))
    if config.reward == "weighted_sum":
        problems.append(Problem("The weighted sum pays a feedback for what the reply is like, not for what it changed: watch the label "
                                "accuracy and the trigger rate.", field="reward", severity="warning"))
    if config.reward == "dir" and config.stage != 2 and not (config.dir.lambda_ or config.dir.gamma):
        problems.append(Problem("In stage 1 lambda and gamma are 0, so labels and format earn nothing.", field="dir", severity="warning"))
    return problems


def _memory(config: Any, looked: Looked, device: str) -> list[Problem]:
    need = peak(config, looked, device)
    if need is None or need <= (there := available_bytes(device)):
        return []
    return [Problem(f"The training needs about {size(need)} of memory and {size(there)} are free on {device}; use a smaller batch_size, "
                    "shorter answers or tuning=qlora.", field="batch_size", fix={"batch_size": 1}, severity="warning")]


def peak(config: Any, looked: Looked, device: str) -> int | None:
    """Bytes: the base once, each learning agent's adapter with optimizer and frozen copy, the activations of a pass."""
    shape = shape_at(looked.agents[0])
    if shape is None or looked.prompt_tokens is None:
        return None
    strand = _strand_tokens(config, looked.prompt_tokens)
    tokens = max(CPU_PASS, strand) if device == "cpu" else min(config.batch_size, config.rollout_batch * config.samples) * strand
    trained = len(LEARNING[1 if config.stage == 1 else 2]) * adapter_parameters(shape, config.lora_rank)
    return 4 * trained + peak_bytes(shape, tuning=config.tuning, dtype=matrix_dtype(config.dtype, device), tokens=tokens, trained=trained,
                                    checkpointing=config.activation_checkpointing == "on")


def _strand_tokens(config: Any, prompt: int) -> int:
    """Longest exchange as the conversation agent reads it."""
    return int(prompt + config.max_new_tokens + config.revisions * (config.max_feedback_tokens + config.max_new_tokens))


def estimate(config: Any, looked: Looked) -> Estimate:
    """Words times their usual number; the time of speaking is known for CPUs only, roughly. A guard's answers are not in it."""
    stages = {1: config.stage1_iterations, 2: config.stage2_iterations}
    counted = {number: count for number, count in stages.items() if config.stage in (number, "both")}
    episodes = plan_prompts(looked.pools, config.rollout_batch, config.benign_share, config.seed)[0].prompts * config.samples
    reply, feedback = CUT * config.max_new_tokens, CUT * config.max_feedback_tokens
    spoken = {"conversation": reply * (1 + TRIGGERED * config.revisions), "feedback": feedback * (1 + TRIGGERED * (config.revisions - 1))}
    written = int(sum(counted.values()) * episodes * sum(spoken.values()))
    each = ", ".join(f"{count:,} {pool or 'of no known side'}" for pool, count in looked.pools.items())
    notes = [f"{plural(sum(counted.values()), 'iteration')} of {plural(episodes, 'episode')}, some {sum(spoken.values()):,.0f} tokens each",
             f"prompts: {each}"]
    shape, device = shape_at(looked.agents[0]), pick_device(config.device)
    if shape is None or looked.prompt_tokens is None:
        return Estimate(tokens=written, note="; ".join([*notes, "time and memory are known once the model is here"]))
    need = peak(config, looked, device)
    if device != "cpu":
        return Estimate(tokens=written, peak_memory_bytes=need, note="; ".join([*notes, "the time of roll-outs on this device was never "
                                                                                  "measured"]))
    flops = 0.0
    for number, count in counted.items():
        for role in LEARNING[number]:
            read = looked.prompt_tokens + reply + (feedback + reply if role == "conversation" else feedback)
            once = train_flops(shape, int(read), int(spoken[role]), full=False)
            flops += count * episodes * once * (config.ppo_epochs + 1)  # two looks without gradients cost one pass with them
    learning = guess_seconds(flops, device, matrix_dtype(config.dtype, device), 1)
    writing = written / (CPU_TOKENS * CPU_PARAMETERS / shape.parameters)
    middle, low, high = (seconds + factor * writing for seconds, factor in zip(learning, (1, 0.4, 3), strict=True))
    notes.append(f"time is a guess from the model's size, between {duration(low)} and {duration(high)}")
    if config.judge != "rules":
        notes.append("the judge's own time comes on top" + (", and what its server asks for" if asks_hosted(config.judge) else ""))
    return Estimate(seconds=max(middle, FIXED_SECONDS), seconds_low=low, seconds_high=high, tokens=written, peak_memory_bytes=need,
                    note="; ".join(notes))
