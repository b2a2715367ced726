"""The loss of HS-DPO is the one of the paper and of TRL: term by term, in every layout and grouping, in float32."""

import copy
import random

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from core.active import ActiveRun
from core.lm.dpo import DpoJob, prefer, preference_losses, sft_terms
from core.lm.dpo_batch import NOT_FOR_THE_MODEL, PairCollator
from core.lm.dpo_metrics import WeightBuckets, mean_and_error
from core.lm.dpo_rows import build_pairs, divided
from core.lm.dpo_setup import trainer as make_trainer
from core.lm.load import load_model
from core.lm.sft_attention import use_rows_attention
from core.lm.sft_loss import TokenLoss, add_answer_head
from core.lm.tune import logged_steps, ready_to_train
from core.methods import UserError
from core.records import Preference
from core.runs import Workspace

WORDS = ["letter", "bank", "help", "assistant", "request", "answer", "harmful", "safe", "explain", "user", "write", "cannot", "do"]
WEIGHTS = (0.8, 1.0, 1.2)


def text(chance, least, most):
    return " ".join(chance.choices(WORDS, k=chance.randint(least, most)))


def pairs(count, seed=0, chat=True):
    """Pairs under one instruction; some answers begin alike, some differ from the first word on."""
    chance, made = random.Random(seed), []
    for number in range(count):
        begin = "Step 1: " + text(chance, 1, 6) + ". " if number % 3 else ""
        asked = f"Question {number}: {text(chance, 2, 14)}?"
        said = {"prompt": f"Tell whether the request of the human user is harmful.\n{asked}",
                "chosen": f"{begin}{text(chance, 1, 9)}. Label: safe", "rejected": f"{begin}cannot {text(chance, 1, 9)}. Label: harmful"}
        if chat:
            said = {name: [{"role": "user" if name == "prompt" else "assistant", "content": words}] for name, words in said.items()}
        made.append(Preference(**said, weight=WEIGHTS[number % 3], prompt_format="seed-binary", user_prompt=asked))
    return made


def a_run(tmp_path, name):
    workspace = Workspace(tmp_path / name)
    run = ActiveRun(workspace, "hs-dpo-0001")
    run.dir.mkdir(exist_ok=True)
    (run.dir / "status.json").write_text("{}")
    return run


def a_job(tiny_model, some, **settings):
    return DpoJob(**{"model": str(tiny_model), "pairs": some, "device": "cpu", "dtype": "float32", "epochs": 1, "batch_size": 4,
                     "gradient_accumulation_steps": 1, "learning_rate": 1e-2, "beta": 0.1, "validation_share": 0, **settings})


def train(tiny_model, tmp_path, name, some=None, **settings):
    """Train in this process; returns (losses of all steps, what was trained, the run)."""
    run = a_run(tmp_path, name)
    trained = prefer(a_job(tiny_model, pairs(14) if some is None else some, **settings), run)
    return [line["loss"] for line in logged_steps(run)], trained, run


def moved_trainer(tiny_model, tmp_path, name="moved", count=6, **settings):
    """A trainer whose policy has left its frozen reference, with its pairs."""
    run = a_run(tmp_path, name)
    job = a_job(tiny_model, [], tuning="full", precompute_reference=False, **settings)
    loaded, model, device = ready_to_train(job, run)
    rows = build_pairs(pairs(count), loaded.tokenizer, tmp_path)
    view = divided(rows, 0, 0)[0]
    trainer, _, _ = make_trainer(job, run, loaded, model, view, view, device)
    move(trainer.model, 1)
    return trainer, view, loaded


def move(model, seed):
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=noise))


def trl_trainer(trainer, view, loaded, tmp_path, **settings):
    """TRL's own trainer over the same two models, and the pairs as it wants them."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class Tokenised(DPOTrainer):
        def _prepare_dataset(self, dataset, *_):
            return dataset

    policy, ref = (load_model(loaded.ref, tmp_path, device="cpu", dtype="float32", trainable=True).model for _ in range(2))
    policy.load_state_dict(trainer.model.state_dict())
    data = [{"prompt_ids": row.prompt.tolist(), "chosen_ids": row.chosen.tolist(), "rejected_ids": row.rejected.tolist()} for row in view]
    args = DPOConfig(str(tmp_path / "trl"), use_cpu=True, bf16=False, activation_checkpointing=False, gradient_checkpointing=False,
                     report_to=[], max_length=None, **settings)
    return Tokenised(policy, ref_model=ref, args=args, train_dataset=Dataset.from_list(data), processing_class=loaded.tokenizer), data


def gradient(model):
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


def losses_of(trainer, view, tree=True):
    return trainer.pair_losses(trainer.model, PairCollator(2, tree)(list(view)))


# The loss by itself


def test_the_loss_is_the_papers_equation():
    torch.manual_seed(0)
    chosen, rejected, ref_chosen, ref_rejected = -50 * torch.rand(4, 5)
    weights, tokens, beta = torch.tensor([0.8, 1.0, 1.2, 0.8, 1.0]), torch.tensor([3, 5, 9, 4, 2]), 0.3
    found = preference_losses(chosen, rejected, ref_chosen, ref_rejected, weights=weights, beta=beta,
                              sft=sft_terms(chosen, tokens, "sequence"), sft_mix=2.0)
    for i in range(5):
        a = beta * (chosen[i] - ref_chosen[i])
        b = beta * (rejected[i] - ref_rejected[i])
        wanted = weights[i] * -torch.log(1 / (1 + torch.exp(b - a))) + 2 * -chosen[i] / tokens[i]
        assert found.total[i].item() == pytest.approx(wanted.item(), rel=1e-5)
    assert sft_terms(chosen, tokens, "token").mean().item() == pytest.approx(-(chosen.sum() / tokens.sum()).item(), rel=1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_each_tokens_own_gradient(bias):
    torch.manual_seed(0)
    hidden, weight = torch.randn(1100, 8, requires_grad=True), torch.randn(37, 8, requires_grad=True)
    offset = torch.randn(37, requires_grad=True) if bias else None
    targets, scales = torch.randint(37, (1100,)), torch.randn(1100)
    each, right = TokenLoss.apply(hidden, weight, offset, targets)
    (each * scales).sum().backward()
    leaves = [leaf for leaf in (hidden, weight, offset) if leaf is not None]
    found = [leaf.grad.clone() for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    logits = torch.nn.functional.linear(hidden, weight, offset)
    plain = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    (plain * scales).sum().backward()
    assert torch.allclose(each, plain, atol=1e-5)
    assert torch.equal(right, logits.argmax(-1) == targets)
    for leaf, mine in zip(leaves, found, strict=True):
        assert torch.allclose(mine, leaf.grad, atol=1e-4, rtol=1e-5)


# Against TRL


@pytest.mark.parametrize("tree", [True, False])
def test_weight_one_without_sft_is_trls_loss(tiny_model, tmp_path, tree):
    """Loss and the gradient of every weight."""
    trainer, view, loaded = moved_trainer(tiny_model, tmp_path, sft_mix=0.0, use_weights=False)
    trl, data = trl_trainer(trainer, view, loaded, tmp_path, beta=0.1)
    theirs = trl.compute_loss(trl.model, trl.data_collator(data))
    theirs.backward()
    ours = losses_of(trainer, view, tree).total.mean()
    ours.backward()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    assert torch.allclose(gradient(trainer.model), gradient(trl.model), atol=1e-5)


def test_each_pairs_loss_is_trls_at_three_sets_of_weights(tiny_model, tmp_path):
    trainer, view, loaded = moved_trainer(tiny_model, tmp_path, sft_mix=0.0, use_weights=False)
    trl, data = trl_trainer(trainer, view, loaded, tmp_path, beta=0.1)
    seen = []
    for seed in range(3):
        move(trainer.model, seed)
        trl.model.load_state_dict(trainer.model.state_dict(), strict=False)
        with torch.no_grad():
            ours = losses_of(trainer, view).dpo.tolist()
            theirs = [trl.compute_loss(trl.model, trl.data_collator([row])).item() for row in data]
        assert ours == pytest.approx(theirs, abs=1e-5)
        seen += ours
    assert max(seen) - min(seen) > 0.1, "the losses must differ for this to say anything"


def test_with_one_pair_a_pass_the_sft_term_is_trls_too(tiny_model, tmp_path):
    trainer, view, loaded = moved_trainer(tiny_model, tmp_path, sft_mix=2.0, use_weights=False)
    trl, data = trl_trainer(trainer, view, loaded, tmp_path, beta=0.1, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 2.0])
    with torch.no_grad():
        theirs = [trl.compute_loss(trl.model, trl.data_collator([row])).item() for row in data]
        assert losses_of(trainer, view).total.tolist() == pytest.approx(theirs, abs=1e-5)
        token = moved_trainer(tiny_model, tmp_path, "token", sft_mix=2.0, use_weights=False, sft_reduction="token")[0]
        micro_batch = trl.compute_loss(trl.model, trl.data_collator(data)).item()
        assert losses_of(token, view).total.mean().item() == pytest.approx(micro_batch, abs=1e-5)
        assert abs(losses_of(trainer, view).total.mean().item() - micro_batch) > 1e-3, "the two reductions differ"


def test_a_whole_training_is_trls(tiny_model, tmp_path):
    """Four steps of TRL's trainer with a new adapter: the same losses, so gradients, clipping and schedule are the same too."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import set_seed
    from trl import DPOConfig, DPOTrainer

    class Tokenised(DPOTrainer):
        def _prepare_dataset(self, dataset, *_):
            return dataset

    ours, trained, _ = train(tiny_model, tmp_path, "ours", sft_mix=0.0, use_weights=False)
    loaded = load_model(str(tiny_model), tmp_path, device="cpu", dtype="float32", trainable=True)
    rows = build_pairs(pairs(14), loaded.tokenizer, tmp_path)
    order = [place for step in trained.plan.passes for group in step for place in group[0]]
    data = Dataset.from_list([{"prompt_ids": rows[place].prompt.tolist(), "chosen_ids": rows[place].chosen.tolist(),
                               "rejected_ids": rows[place].rejected.tolist()} for place in order])
    set_seed(42)
    args = DPOConfig(str(tmp_path / "trl"), use_cpu=True, bf16=False, activation_checkpointing=False, gradient_checkpointing=False,
                     report_to=[], max_length=None, beta=0.1, per_device_train_batch_size=4, num_train_epochs=1, learning_rate=1e-2,
                     lr_scheduler_type="cosine", logging_steps=1, save_strategy="no", train_sampling_strategy="sequential",
                     disable_tqdm=True)
    trl = Tokenised(loaded.model, args=args, train_dataset=data, processing_class=loaded.tokenizer,
                    peft_config=LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    trl.train()
    theirs = [line["loss"] for line in trl.state.log_history if "loss" in line]
    assert len(ours) == 4
    assert ours[0] == pytest.approx(np.log(2), abs=1e-6), "the adapter is its own reference at first"
    assert max(ours) - min(ours) > 1e-3
    assert ours == pytest.approx(theirs, abs=2e-5)


# Weights


def test_weights_multiply_the_dpo_term_only(tiny_model, tmp_path):
    trainer, view, _ = moved_trainer(tiny_model, tmp_path, sft_mix=2.0)
    batch, mixed = PairCollator(2, True)(list(view)), torch.tensor([2.0, 0.5, 1.0, 0.8, 1.2, 3.0])
    with torch.no_grad():
        one, two, hand = (trainer.pair_losses(trainer.model, {**batch, "weights": weights})
                          for weights in (torch.ones(6), 2 * torch.ones(6), mixed))
    assert torch.allclose(two.total - one.total, one.dpo, atol=1e-6)
    assert torch.equal(two.sft, one.sft)
    assert torch.allclose(hand.total, mixed * one.dpo + 2.0 * one.sft, atol=1e-6)


def test_the_files_weights_are_used_or_not(tiny_model, tmp_path):
    some = pairs(3)
    for used in (True, False):
        trainer = moved_trainer(tiny_model, tmp_path, f"used-{used}", count=3, sft_mix=0.0, use_weights=used)
        with torch.no_grad():
            found = losses_of(trainer[0], trainer[1])
        weights = torch.tensor([pair.weight for pair in some]) if used else torch.ones(3)
        assert torch.allclose(found.total, weights * found.dpo)


# Layout


@pytest.mark.parametrize("seed", range(5))
def test_a_tree_learns_what_padded_rows_do(tiny_model, tmp_path, seed):
    """Random pairs: with and without a beginning that all prompts, or both answers, share; losses and gradients of both sums."""
    chance = random.Random(seed)
    loaded = load_model(str(tiny_model), tmp_path, device="cpu", dtype="float32", trainable=True)
    some = [pair for source in (0, 1) for pair in pairs(chance.randint(1, 5), seed=10 * seed + source, chat=bool(source or seed % 2))]
    chance.shuffle(some)
    rows = list(build_pairs(some, loaded.tokenizer, tmp_path))
    model = loaded.model.requires_grad_(True)
    add_answer_head(model)
    use_rows_attention(model)
    scales = torch.randn(2 * len(rows), generator=torch.Generator().manual_seed(seed))
    found = []
    for tree in (False, True):
        batch = PairCollator(2, tree)(rows)
        asked = {name: value for name, value in batch.items() if name not in NOT_FOR_THE_MODEL}
        model.zero_grad()
        sums = torch.stack([part.sum() for part in model(**asked, answer_head="each").each.split(batch["answers"])])
        both = torch.cat([sums[batch["chosen"]].sum(1), sums[batch["rejected"]].sum(1)])
        (both * scales).sum().backward()
        found.append((both.detach(), gradient(model), batch["input_ids"].numel()))
    (padded, slope, many), (tree_sums, tree_slope, few) = found
    assert torch.allclose(padded, tree_sums, atol=1e-4, rtol=1e-6)
    assert torch.allclose(slope, tree_slope, atol=2e-5 * slope.abs().max().item())
    assert few < many


def test_what_a_pass_has_in_common_is_computed_once(tiny_model, tmp_path):
    tokenizer = load_model(str(tiny_model), tmp_path, device="cpu").tokenizer
    rows = list(build_pairs(pairs(6), tokenizer, tmp_path))
    batch = PairCollator(2, True)(rows)
    shared = batch["rows"][0]
    assert shared > 40, "the instruction"
    assert any(row.common > 5 for row in rows)
    assert any(row.common == 0 for row in rows)
    own = sum(len(row.prompt) - shared + len(row.chosen) + len(row.rejected) - row.common + 1 for row in rows)
    assert batch["input_ids"].numel() == shared + own


# Grouping


def test_grouping_changes_no_step(tiny_model, tmp_path):
    """Accumulation, padding and unequal passes: the same losses, step after step, so the same weights."""
    one, trained, _ = train(tiny_model, tmp_path, "4x1")
    wanted = {name: weight.detach().clone() for name, weight in trained.model.named_parameters() if weight.requires_grad}
    assert len(one) == 4, "14 pairs in steps of 4"
    assert one[-1] < one[0]
    for name, settings in {"2x2": {"batch_size": 2, "gradient_accumulation_steps": 2}, "padded": {"packing": False}}.items():
        other, again, _ = train(tiny_model, tmp_path, name, **settings)
        assert other == pytest.approx(one, abs=2e-6), name
        assert all(torch.allclose(weight, wanted[key], atol=5e-5) for key, weight in again.model.named_parameters() if key in wanted)
        assert again.tree == (name != "padded")


def test_passes_of_unequal_size_add_up_to_the_step(tiny_model, tmp_path):
    trainer, view, _ = moved_trainer(tiny_model, tmp_path, batch_size=6)
    whole = losses_of(trainer, view).total.mean()
    whole.backward()
    wanted = gradient(trainer.model).clone()
    trainer.model.zero_grad()
    groups = [[view[place] for place in places] for places in ([0], [3, 1, 2, 5], [4])]
    parts = [trainer.compute_loss(trainer.model, PairCollator(2, True)(group)) for group in groups]
    sum(parts).backward()
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-6)
    assert torch.allclose(gradient(trainer.model), wanted, atol=1e-5)


def test_a_rank_without_a_pair_has_a_loss_of_nothing(tiny_model, tmp_path):
    trainer, view, _ = moved_trainer(tiny_model, tmp_path)
    for tree in (True, False):
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, PairCollator(2, tree)([view[0]], learn=False))
        loss.backward()
        assert loss.item() == 0
        assert not gradient(trainer.model).any()


# Reference


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_reference_written_down_is_the_frozen_copy(tiny_model, tmp_path, tuning):
    settings = {"tuning": tuning, "learning_rate": 1e-2 if tuning == "lora" else 1e-3, "validation_share": 0.3, "epochs": 2}
    written, _, run = train(tiny_model, tmp_path, f"{tuning}-written", **settings)
    live, _, other = train(tiny_model, tmp_path, f"{tuning}-live", precompute_reference=False, **settings)
    assert written == pytest.approx(live, abs=5e-6)
    assert max(written) - min(written) > 1e-3
    evals = [[event["eval_loss"] for event in one.events("metrics") if "eval_loss" in event] for one in (run, other)]
    assert evals[0] == pytest.approx(evals[1], abs=5e-6)
    assert (run.dir / "reference.f32").exists()
    assert not (other.dir / "reference.f32").exists()


def test_the_reference_is_that_of_the_starting_weights(tiny_model, tmp_path):
    """Compared with log-probabilities that transformers gives for each answer."""
    _, _, run = train(tiny_model, tmp_path, "start", tuning="full", learning_rate=1e-2, epochs=3)
    found = np.fromfile(run.dir / "reference.f32", np.float32).reshape(-1, 2)
    loaded = load_model(str(tiny_model), tmp_path, device="cpu", dtype="float32")
    rows = build_pairs(pairs(14), loaded.tokenizer, tmp_path)
    with torch.no_grad():
        for place in (0, 7, 13):
            for side, answer in enumerate((rows[place].chosen, rows[place].rejected)):
                ids = torch.tensor([[*rows[place].prompt.tolist(), *answer.tolist()]])
                chances = torch.log_softmax(loaded.model(ids).logits[0, :-1], -1)
                begin = len(rows[place].prompt) - 1
                wanted = chances[range(begin, ids.shape[1] - 1), ids[0, begin + 1:]].sum()
                assert found[place, side] == pytest.approx(wanted.item(), abs=1e-3)


# Curves


def test_the_curves_are_means_over_the_steps_pairs(tiny_model, tmp_path):
    _, trained, run = train(tiny_model, tmp_path, "curves", some=pairs(4), epochs=3, sft_mix=0.5)
    first, *_, last = logged_steps(run)
    assert first["dpo_loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert (first["reward_margin"], first["reward_accuracy"], first["kl_estimate"]) == pytest.approx((0, 0, 0), abs=1e-5)
    assert last["reward_margin"] > 0
    assert last["reward_margin"] == pytest.approx(last["reward_chosen"] - last["reward_rejected"], abs=1e-6)
    assert last["pairs"] == 4
    weights = [0.8, 1.0, 1.2, 0.8]
    by_weight = {0.8: 2, 1.0: 1, 1.2: 1}
    assert {name.removeprefix("dpo_loss_weight_") for name in last if "_weight_" in name} == {"0.8", "1", "1.2"}
    mean = sum(count * last[f"dpo_loss_weight_{weight:g}"] for weight, count in by_weight.items()) / 4
    assert mean == pytest.approx(last["dpo_loss"], abs=1e-6)
    hand = sum(count * weight * last[f"dpo_loss_weight_{weight:g}"] for weight, count in by_weight.items()) / len(weights)
    assert last["loss"] == pytest.approx(hand + 0.5 * last["sft_loss"], abs=1e-5)
    tokens = sum(trained.train.rows.chosen)
    assert last["kl_estimate"] == pytest.approx(last["reward_chosen"] / 0.1 * 4 / tokens, rel=1e-4)


def test_weights_are_grouped_singly_or_by_thirds():
    few = WeightBuckets.of([0.8, 1.2, 0.8, 1.0])
    assert few.names == ["0.8", "1", "1.2"]
    assert few.places(torch.tensor([0.8, 1.0, 1.2])).tolist() == [0, 1, 2]
    many = WeightBuckets.of(list(np.linspace(0.5, 1.5, 300)))
    assert len(many.names) == 3
    counts = torch.bincount(many.places(torch.linspace(0.5, 1.5, 300, dtype=torch.float64)))
    assert (counts - 100).abs().max() <= 1


def test_the_error_of_an_evaluation_is_over_pairs():
    values = [random.Random(0).gauss(1, 2) for _ in range(50)]
    mean, error = mean_and_error(values)
    assert mean == pytest.approx(np.mean(values))
    assert error == pytest.approx(np.std(values, ddof=1) / np.sqrt(50))
    assert np.isnan(mean_and_error([1.0])[1])


def test_log_sigmoid_far_out_is_finite():
    far = torch.tensor([-2000.0])
    found = preference_losses(far, torch.zeros(1), torch.zeros(1), torch.zeros(1), weights=torch.ones(1), beta=1.0,
                              sft=torch.zeros(1), sft_mix=0.0)
    assert found.dpo.item() == pytest.approx(2000.0)
    assert torch.isfinite(logsigmoid(far)).all()


# Rows


def test_rows_hold_the_prompt_as_it_is_asked(tiny_model, tmp_path):
    from core.lm.template import render_chat

    tokenizer = load_model(str(tiny_model), tmp_path, device="cpu").tokenizer
    pair = pairs(2)[1]
    row = build_pairs([pair], tokenizer, tmp_path)[0]
    assert row.prompt.tolist() == tokenizer(render_chat(tokenizer, pair.prompt), add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(row.chosen) == pair.chosen[0]["content"] + "<|im_end|>"
    plain = pairs(2, chat=False)[1]
    row = build_pairs([plain], tokenizer, tmp_path)[0]
    assert row.prompt.tolist() == tokenizer(plain.prompt)["input_ids"]
    assert row.rejected.tolist() == [*tokenizer(plain.rejected, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def test_long_and_unusable_pairs_are_counted(tiny_model, tmp_path):
    tokenizer, some = load_model(str(tiny_model), tmp_path, device="cpu").tokenizer, pairs(9)
    whole = build_pairs(some, tokenizer, tmp_path)
    lengths = sorted(len(row.prompt) + max(len(row.chosen), len(row.rejected)) for row in whole)
    limit = lengths[4]
    dropped = build_pairs(some, tokenizer, tmp_path, max_length=limit)
    assert (len(dropped), dropped.dropped, dropped.too_long, dropped.longest) == (5, 4, 4, lengths[-1])
    cut = build_pairs(some, tokenizer, tmp_path, max_length=limit, on_long="cut")
    assert (len(cut) + cut.dropped, cut.cut + cut.dropped) == (9, 4)
    assert max(len(row.prompt) + max(len(row.chosen), len(row.rejected)) for row in cut) <= limit
    with pytest.raises(UserError, match=f"4 of 9 pairs.*needs {lengths[-1]}.*max_length={-(-lengths[-1] // 64) * 64}"):
        build_pairs(some, tokenizer, tmp_path, max_length=limit, on_long="error")
    same = some[0].model_copy(update={"rejected": some[0].chosen})
    turns = some[0].model_copy(update={"chosen": [*some[0].chosen, {"role": "user", "content": "And?"}]})
    refused = build_pairs([same, turns, some[1]], tokenizer, tmp_path)
    assert (len(refused), sorted(refused.refused.values())) == (1, [1, 1])


def test_pairs_of_one_prompt_stay_on_one_side(tiny_model, tmp_path):
    tokenizer = load_model(str(tiny_model), tmp_path, device="cpu").tokenizer
    some = [pair.model_copy(update={"weight": weight}) for pair in pairs(20) for weight in (1.0, 1.1)]
    rows = build_pairs(some, tokenizer, tmp_path)
    learned, held = divided(rows, 0.2, 42)
    assert (len(learned), len(held)) == (32, 8)
    sides = [{some[place].user_prompt for place in view.places} for view in (learned, held)]
    assert not sides[0] & sides[1]
    again = build_pairs(list(reversed(some)), tokenizer, tmp_path)
    assert {some[len(some) - 1 - place].user_prompt for place in divided(again, 0.2, 42)[1].places} == sides[1]
    one = build_pairs(some[:2], tokenizer, tmp_path)
    assert [len(view) for view in divided(one, 0.2, 42)] == [2, 0], "one prompt cannot be on both sides"


def test_a_copy_of_a_pass_is_the_pass(tiny_model, tmp_path):
    """Rows are read from the disk; reading them again in another order gives the same tokens."""
    tokenizer = load_model(str(tiny_model), tmp_path, device="cpu").tokenizer
    rows = build_pairs(pairs(7), tokenizer, tmp_path)
    first = [copy.deepcopy(rows[place]) for place in range(7)]
    for place in (6, 2, 5, 0):
        assert np.array_equal(rows[place].prompt, first[place].prompt)
        assert np.array_equal(rows[place].rejected, first[place].rejected)
    assert rows.sha256 == build_pairs(pairs(7), tokenizer, tmp_path).sha256 != build_pairs(pairs(7, seed=1), tokenizer, tmp_path).sha256
