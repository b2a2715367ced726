"""Fast ways to the loss give the loss: against TRL, transformers, and themselves in every layout and grouping."""

import math
import random
import tracemalloc
from array import array
from collections import Counter

import pytest
import torch
from trl.trainer.utils import add_fused_lm_head

from core.active import ActiveRun
from core.lm.load import load_model
from core.lm.sft import SftJob, fine_tune
from core.lm.sft_attention import can_pack, use_rows_attention
from core.lm.sft_batch import Collator, shared_beginning
from core.lm.sft_loss import AnswerLoss, add_answer_head
from core.lm.sft_plan import Passes, plan_steps
from core.lm.sft_rows import build_rows, end_of_turn
from core.lm.sft_trainer import _eval_loss
from core.lm.tune import logged_steps
from core.methods import UserError
from core.plugins import load_plugins
from core.records import GuardExample, Labels
from core.runs import Workspace

WORDS = ["letter", "bank", "help", "assistant", "request", "answer", "harmful", "safe", "explain", "user", "write", "cannot", "do"]
FORMATS = load_plugins(installed=False).prompt_formats


def examples(count, seed=0):
    chance = random.Random(seed)
    return [GuardExample(prompt=f"Question {number}: {' '.join(chance.choices(WORDS, k=chance.randint(2, 14)))}?",
                         labels=Labels(request=("unharmful", "harmful")[number % 2]),
                         reasoning={"request": [f"The user asks for {' '.join(chance.choices(WORDS, k=chance.randint(1, 9)))}."]})
            for number in range(count)]


@pytest.fixture
def loaded(tiny_model, tmp_path):
    return load_model(str(tiny_model), tmp_path, device="cpu", dtype="float32", trainable=True)


@pytest.fixture
def rows(loaded):
    return build_rows(examples(9), FORMATS["seed-binary"], loaded.tokenizer).rows


def tokens_of(row):
    """A row as TRL wants it."""
    return {"input_ids": list(row.ids), "labels": [-100] * row.prompt + list(row.ids[row.prompt:])}


def measure(model, batch, **options):
    """(mean loss, gradient of all weights)."""
    model.requires_grad_(True).zero_grad()
    out = model(**batch, answer_head=True, **options)
    (out.nll / out.count).backward()
    return (out.nll / out.count).item(), torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


def test_loss_and_gradient_are_those_of_transformers(loaded, rows):
    model, batch = loaded.model, Collator(2, packed=False)(rows)
    model.requires_grad_(True)
    plain = model(**batch).loss
    plain.backward()
    wanted = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
    add_answer_head(model)
    loss, gradient = measure(model, batch)
    assert abs(loss - plain.item()) < 1e-6
    assert torch.allclose(gradient, wanted, atol=1e-6)


def test_loss_is_trls(loaded, rows, tmp_path):
    """TRL's own trainer on the same rows in one padded batch."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    data = Dataset.from_list([tokens_of(row) for row in rows])
    args = SFTConfig(str(tmp_path), use_cpu=True, bf16=False, activation_checkpointing=False, gradient_checkpointing=False, report_to=[])
    trl = SFTTrainer(loaded.model, args, train_dataset=data, processing_class=loaded.tokenizer)
    theirs = trl.compute_loss(trl.model, trl.data_collator([data[place] for place in range(len(data))])).item()
    add_answer_head(loaded.model)
    for packed in (False, True):
        if packed:
            use_rows_attention(loaded.model)
        out = loaded.model(**Collator(2, packed)(rows), answer_head=True)
        assert abs((out.nll / out.count).item() - theirs) < 1e-6


def test_rows_end_to_end_learn_what_padded_rows_do(loaded, rows):
    model = loaded.model
    add_answer_head(model)
    padded = measure(model, Collator(2, packed=False)(rows))
    use_rows_attention(model)
    batch = Collator(2, packed=True)(rows)
    assert batch["shared"] >= 40, "the instruction is computed once"
    assert batch["input_ids"].numel() == sum(len(row) for row in rows) - (len(rows) - 1) * batch["shared"]
    packed = measure(model, batch)
    assert abs(packed[0] - padded[0]) < 1e-6
    assert torch.allclose(packed[1], padded[1], atol=2e-6)
    assert measure(model, Collator(2, packed=False)(rows))[0] == pytest.approx(padded[0], abs=1e-6), "padded rows still work"


@pytest.mark.parametrize(("kind", "packs"), [("qwen2", True), ("qwen3", True), ("mistral", False), ("gemma2", False), ("granite", False)])
def test_other_architectures_keep_their_loss(rows, loaded, kind, packs):
    """Soft-capped and scaled logits go through TRL's head; windows and caps in the attention keep the padded layout."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": len(loaded.tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
             "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    extra = {"granite": {"logits_scaling": 3.0}, "gemma2": {"final_logit_softcapping": 0.5, "attn_implementation": "eager"}}.get(kind, {})
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **extra)).float()
    batch = Collator(2, packed=False)(rows)
    wanted = model(**batch).loss.item()
    add_fused_lm_head(model, outputs=("log_probs", "is_top1"))  # TRL's trainer has put it there
    add_answer_head(model)
    assert measure(model, batch)[0] == pytest.approx(wanted, abs=2e-6)
    assert can_pack(model.config, "cpu") == packs
    if packs:
        use_rows_attention(model)
        assert measure(model, Collator(2, packed=True)(rows))[0] == pytest.approx(wanted, abs=2e-6)


def test_bfloat16_products_agree_with_the_flash_kernel(loaded, rows, monkeypatch):
    from core.lm import sft_attention

    model = loaded.model.to(torch.bfloat16)
    add_answer_head(model)
    use_rows_attention(model)
    batch = Collator(2, packed=True)(rows)
    short = measure(model, batch)[0]
    monkeypatch.setattr(sft_attention, "SHORT", 0)
    assert measure(model, batch)[0] == pytest.approx(short, rel=2e-2)


def test_a_row_sees_only_itself(loaded, rows):
    """Another first row changes nothing in the second, not even by rounding."""
    model = loaded.model
    add_answer_head(model)
    use_rows_attention(model)
    with torch.no_grad():
        one = model(**Collator(2, True)([rows[0], rows[1]]), answer_head=True).each[rows[0].answer:]
        other = model(**Collator(2, True)([rows[2], rows[1]]), answer_head=True).each[rows[2].answer:]
        alone = model(**Collator(2, True)([rows[1]]), answer_head=True).each
    assert torch.allclose(one, other, atol=1e-6)
    assert torch.allclose(one, alone, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_the_heads_own_gradients(bias):
    torch.manual_seed(0)
    hidden, weight = torch.randn(1100, 8, requires_grad=True), torch.randn(37, 8, requires_grad=True)
    offset = torch.randn(37, requires_grad=True) if bias else None
    targets = torch.randint(37, (1100,))
    ours, right = AnswerLoss.apply(hidden, weight, offset, targets)
    (ours * 0.5).backward()
    leaves = [leaf for leaf in (hidden, weight, offset) if leaf is not None]
    found = [leaf.grad.clone() for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    logits = torch.nn.functional.linear(hidden, weight, offset)
    plain = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    (plain * 0.5).backward()
    assert ours.item() == pytest.approx(plain.item(), rel=1e-6)
    assert right == (logits.argmax(-1) == targets).sum()
    for leaf, gradient in zip(leaves, found, strict=True):
        assert torch.allclose(gradient, leaf.grad, atol=1e-4, rtol=1e-5)


def train(tiny_model, tmp_path, name, **settings):
    """Train in this process; returns (losses of all steps, what was trained)."""
    workspace = Workspace(tmp_path / name)
    run = ActiveRun(workspace, "rsft-0001")
    run.dir.mkdir(exist_ok=True)
    (run.dir / "status.json").write_text("{}")
    job = SftJob(**{"model": str(tiny_model), "prompt_format": FORMATS["seed-binary"], "train": examples(22), "device": "cpu",
                    "dtype": "float32", "epochs": 1, "batch_size": 4, "gradient_accumulation_steps": 1, "learning_rate": 1e-2,
                    "sample_rows": 0, **settings})
    trained = fine_tune(job, run)
    return [line["loss"] for line in logged_steps(run)], trained


def test_grouping_changes_no_step(tiny_model, tmp_path):
    """Accumulation, packing and unequal passes: the same losses, step after step."""
    one, _ = train(tiny_model, tmp_path, "4x1")
    assert len(one) == 6, "22 rows in steps of 4"
    assert one[-1] < one[0]
    others = {"2x2": {"batch_size": 2, "gradient_accumulation_steps": 2}, "1x4": {"batch_size": 1, "gradient_accumulation_steps": 4},
              "padded": {"packing": False}}
    for name, settings in others.items():
        other, trained = train(tiny_model, tmp_path, name, **settings)
        assert other == pytest.approx(one, abs=2e-6), name
        assert trained.packed == (name != "padded")


def test_a_whole_training_is_trls(tiny_model, tmp_path):
    """Six steps of TRL's trainer on the rows in our order: every loss is the same, so gradients, clipping and schedule are too."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import set_seed
    from trl import SFTConfig, SFTTrainer

    ours, trained = train(tiny_model, tmp_path, "ours", packing=False)
    rows = trained.rows.rows
    order = [place for step in trained.plan.passes for group in step for place in group[0]]
    set_seed(42)
    loaded = load_model(str(tiny_model), tmp_path, device="cpu", dtype="float32", trainable=True)
    data = Dataset.from_list([tokens_of(rows[place]) for place in order])
    args = SFTConfig(str(tmp_path / "trl"), use_cpu=True, bf16=False, activation_checkpointing=False, gradient_checkpointing=False,
                     report_to=[], per_device_train_batch_size=4, num_train_epochs=1, learning_rate=1e-2, lr_scheduler_type="cosine",
                     weight_decay=0.0, logging_steps=1, save_strategy="no", train_sampling_strategy="sequential", disable_tqdm=True)
    trl = SFTTrainer(loaded.model, args, train_dataset=data, processing_class=loaded.tokenizer,
                     peft_config=LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    trl.train()
    theirs = [line["loss"] for line in trl.state.log_history if "loss" in line]
    assert ours == pytest.approx(theirs, abs=5e-6)


def test_eval_loss_is_the_mean_over_tokens(tiny_model, tmp_path):
    held_out = examples(7, seed=5)
    _, trained = train(tiny_model, tmp_path, "eval", held_out=held_out, epochs=0.5)
    model, tokenizer = trained.model, trained.loaded.tokenizer
    rows = build_rows(held_out, FORMATS["seed-binary"], tokenizer).rows
    with torch.no_grad():
        sums = [float(model(**Collator(2, packed=False)([row]), answer_head=True).nll) for row in rows]
    counts = [row.answer for row in rows]
    assert trained.eval_loss.loss == pytest.approx(sum(sums) / sum(counts), abs=1e-5)
    assert trained.eval_loss.tokens == sum(counts)
    chance = random.Random(1)
    draws = [[chance.randrange(len(rows)) for _ in rows] for _ in range(4000)]
    spread = torch.tensor([sum(sums[i] for i in draw) / sum(counts[i] for i in draw) for draw in draws]).std()
    assert trained.eval_loss.error == pytest.approx(float(spread), rel=0.25), "the error is the bootstrap's, over rows"


def test_one_held_out_row_has_no_interval():
    found = _eval_loss([6.0], [3], 1.0)
    assert found.loss == 2.0
    assert math.isnan(found.error)
    assert str(found) == "2.000"


@pytest.mark.parametrize("settings", [{}, {"laid_end_to_end": True, "shared": 5}, {"grouped": False}, {"tokens_per_pass": 60}])
@pytest.mark.parametrize("ranks", [1, 2])
def test_plan_uses_every_row_once_an_epoch(settings, ranks):
    chance = random.Random(3)
    lengths = [chance.randint(6, 50) for _ in range(37)]
    plan = plan_steps(lengths, rows_per_step=8, rows_per_pass=2, epochs=2.5, ranks=ranks, seed=7, **settings)
    steps = [[row for ranks_ in step for group in ranks_ for row in group] for step in plan.passes]
    seen = [row for step in steps for row in step]
    assert len(seen) == round(37 * 2.5)
    assert set(Counter(seen).values()) == {2, 3}
    assert {len(step) for step in steps[:-1]} == {8}, "the last step alone may be smaller"
    assert all(len(step) == plan.passes_per_step and all(len(line) == ranks for line in step) for step in plan.passes)
    one = plan_steps(lengths, rows_per_step=8, rows_per_pass=4, epochs=2.5, seed=7)
    assert [sorted(step) for step in steps] == [sorted(row for line in step for group in line for row in group) for step in one.passes]


def test_a_plan_keeps_a_few_bytes_of_each_row():
    """100,000 pairs over two epochs are planned; what a training keeps of them must hardly grow."""
    from core.lm.sft_trainer import numbers_of

    count = 20_000
    tracemalloc.start()
    plan = plan_steps([100] * count, rows_per_step=8, rows_per_pass=2, epochs=2)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert (plan.steps, len(plan.micro_batches)) == (5000, 20_000)
    assert kept / count < 16, "4 bytes for each of the two epochs, 4 a pass, and room to grow"
    assert numbers_of(plan.micro_batches).data.nbytes / count <= 4, "of each pass the loader has its number"


def test_passes_are_read_one_by_one_and_empty_ones_can_be_left_out():
    passes = Passes(array("i", [5, 6, 7]), array("i", [0, 2, 2, 3, 3]))
    assert list(passes) == [passes[number] for number in range(5)] == [[], [5, 6], [], [7], []]
    assert list(passes.filled()) == [[5, 6], [7]]
    assert list(Passes(array("i"), array("i")).filled()) == []


def test_rows_hold_the_prompt_as_it_is_asked_and_learn_only_the_answer(loaded):
    form, tokenizer = FORMATS["seed-binary"], loaded.tokenizer
    example = examples(1)[0]
    row = build_rows([example], form, tokenizer).rows[0]
    from core.lm.template import render_chat

    assert list(row.ids[:row.prompt]) == tokenizer(render_chat(tokenizer, form.prompt(example)), add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(row.ids[row.prompt:]) == form.target(example) + "<|im_end|>"
    labels = Collator(2, packed=True)([row])["labels"][0]
    assert (labels != -100).sum() == row.answer
    assert end_of_turn(tokenizer, chat=False) == [tokenizer.eos_token_id]


def test_long_rows_are_counted_whatever_is_done_with_them(loaded):
    form, tokenizer, some = FORMATS["seed-binary"], loaded.tokenizer, examples(9)
    whole = build_rows(some, form, tokenizer)
    limit = sorted(len(row) for row in whole.rows)[4]
    dropped = build_rows(some, form, tokenizer, max_length=limit)
    assert (len(dropped.rows), dropped.dropped, dropped.too_long, dropped.longest) == (5, 4, 4, whole.longest)
    cut = build_rows(some, form, tokenizer, max_length=limit, on_long="cut")
    assert (len(cut.rows) + cut.dropped, cut.too_long) == (9, 4)
    assert max(len(row) for row in cut.rows) == limit
    with pytest.raises(UserError, match=f"4 of 9 rows.*needs {whole.longest}.*max_length={-(-whole.longest // 64) * 64}"):
        build_rows(some, form, tokenizer, max_length=limit, on_long="error")
    refused = build_rows([*some, GuardExample(prompt="x", labels=Labels(request="harmful"))], form, tokenizer)
    assert refused.refused.total() == 1
    assert "no reasoning" in next(iter(refused.refused))


def test_the_shared_beginning_ends_before_any_answer(rows):
    shared = shared_beginning(rows)
    assert 0 < shared < min(row.prompt for row in rows)
    assert len({tuple(row.ids[:shared]) for row in rows}) == 1
    assert shared_beginning(rows[:1]) == 0
    assert shared_beginning([rows[0], rows[0]]) == rows[0].prompt - 1, "the last prompt token predicts, so each row keeps its own"
