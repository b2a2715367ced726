"""The generation engine: what a row answers depends on the row alone, and no step is spent on rows that are done."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.lm import batch_shared, sampling
from core.lm import generate as engine
from core.lm.batch_prefix import SharedPrefix
from core.lm.batch_rows import Row, Table
from core.lm.batch_shared import SharedTable
from core.lm.generate import Generated, generate
from core.lm.load import Loaded, load_model
from core.lm.template import render_chat

TEXT = "how do I write a letter to my bank when they do not answer and what is safe to say in it please"


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> Loaded:
    """The tiny model in float32, where batching changes nothing but rounding."""
    return load_model(str(tiny_model), tiny_model, device="cpu", dtype="float32")


def prompts_of(loaded: Loaded, count: int) -> list[str]:
    """Chat prompts of many lengths, with a shared beginning (the template's system turn)."""
    words = TEXT.split()
    return [render_chat(loaded.tokenizer, " ".join(words[i % 7:i % 7 + 2 + (i * 5) % 14]) + f" {i}") for i in range(count)]


def one_by_one(loaded: Loaded, prompt: str, tokens: int) -> tuple[int, ...]:
    """What the library's own generate answers to one prompt."""
    import torch

    ids = loaded.tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.inference_mode():
        out = loaded.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
    return tuple(out[0, ids.shape[1]:].tolist())


def margins(loaded: Loaded, prompt: str, answer: tuple[int, ...]) -> list[float]:
    """At each token of an answer: how far the best logit was above the second, when the whole text goes through at once."""
    import torch

    ids = loaded.tokenizer(prompt, add_special_tokens=False).input_ids
    with torch.inference_mode():
        logits = loaded.model(torch.tensor([[*ids, *answer]])).logits[0, len(ids) - 1:-1].float()
    best = logits.topk(2, -1).values
    return (best[:, 0] - best[:, 1]).tolist()


def ids_of(answers: list[Generated]) -> list[tuple[int, ...]]:
    """Token ids of every answer."""
    return [answer.token_ids for answer in answers]


@pytest.mark.parametrize("batch_tokens", [None, 700, 1], ids=["all at once", "rows refilled", "one row"])
def test_greedy_is_plain_generate_whatever_the_batch(tiny: Loaded, batch_tokens: int | None) -> None:
    prompts = prompts_of(tiny, 24)
    prompts[3] = "no template and nothing in common"  # ends the shared prefix
    for these in (prompts, [*prompts[:3], *prompts[4:]]):
        answers = list(generate(tiny, these, max_new_tokens=24, batch_tokens=batch_tokens))
        assert [answer.index for answer in answers] == list(range(len(these)))
        assert ids_of(answers) == [one_by_one(tiny, prompt, 24) for prompt in these]
        assert answers[0].prompt_tokens == len(tiny.tokenizer(these[0], add_special_tokens=False).input_ids)


@pytest.mark.parametrize("table", [SharedTable, Table])
def test_greedy_rows_equal_plain_generate_except_at_ties(tiny: Loaded, table: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row, with several samples of a prompt, an odd one between them, on both kinds of table."""
    monkeypatch.setattr(engine, "can_share", lambda *_: table is SharedTable)
    prompts = prompts_of(tiny, 40)
    prompts[7] = "no template and nothing in common"
    prompts[8] = prompts[8].replace("trained by Hugging Face", "trained by others")  # shares a part of the beginning
    answers = list(generate(tiny, prompts, max_new_tokens=40, samples=2, batch_tokens=3000))
    assert len(answers) == 80
    compared = 0
    for answer in answers:
        plain = one_by_one(tiny, prompts[answer.index], 40)
        differ = [place for place, (ours, theirs) in enumerate(zip(answer.token_ids, plain, strict=False)) if ours != theirs]
        compared += len(plain)
        if differ:
            assert margins(tiny, prompts[answer.index], plain)[differ[0]] < 1e-4, f"row {answer.index} differs at token {differ[0]}"
        else:
            assert answer.token_ids == plain
    assert compared > 2000


def test_long_answers_beside_short_ones(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room for answers grows with the longest row and shrinks when it has left; a long row between many short ones is unharmed."""
    monkeypatch.setitem(engine.MAX_ROWS, "cpu", 3)
    widths = []
    fit = batch_shared._Part.fit
    monkeypatch.setattr(batch_shared._Part, "fit", lambda part, columns: (fit(part, columns), widths.append(part.columns))[0])
    prompts = prompts_of(tiny, 50)
    long = 1
    plain = [one_by_one(tiny, prompt, 150 if row == long else 8) for row, prompt in enumerate(prompts)]
    ends = {tiny.tokenizer.decode(tokens, skip_special_tokens=True) for row, tokens in enumerate(plain) if row != long}
    answers = list(generate(tiny, prompts, max_new_tokens=150, is_complete=lambda text: text in ends))
    assert ids_of(answers) == plain
    assert len(plain[long]) == 150
    assert widths[0] < max(widths) >= 128
    assert any(after < before for before, after in itertools.pairwise(widths)), "room for answers is never given back"


def test_which_table_is_used(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared parts are for plain attention on a CPU; the model's own attention is back after every step."""
    def table() -> type:
        return type(engine._Engine(tiny, sampling.Draw(0, 1, 0), None, None, SharedPrefix()).table)

    assert table() is SharedTable
    seen = []
    forward = engine._forward
    monkeypatch.setattr(engine, "_forward", lambda model, ids, *rest: (seen.append((ids.shape[1] == 1, model.config._attn_implementation)),
                                                                       forward(model, ids, *rest))[1])
    answers = generate(tiny, prompts_of(tiny, 3), max_new_tokens=4)
    next(answers)
    assert tiny.model.config._attn_implementation == "sdpa"
    list(answers)
    assert {(False, "sdpa"), (True, "guardwaltz_shared")} == set(seen)
    monkeypatch.setattr(tiny.model.config, "attn_logit_softcapping", 30.0, raising=False)
    assert table() is Table


def test_a_prompt_is_computed_once_for_all_its_samples(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engine.MAX_ROWS, "cpu", 10)  # room for two prompts of four, and two rows that must wait
    computed = 0
    forward = engine._forward

    def counted(model: Any, ids: Any, *rest: Any) -> Any:
        nonlocal computed
        computed += ids.shape[0] if ids.shape[1] > 1 else 0
        return forward(model, ids, *rest)

    monkeypatch.setattr(engine, "_forward", counted)
    answers = list(generate(tiny, prompts_of(tiny, 9), samples=4, temperature=1.0, max_new_tokens=12,
                            is_complete=lambda text: len(text) % 3 == 0))
    assert len(answers) == 36
    assert computed == 9 + 1, "a prompt was computed more than once (one more is the shared beginning)"


def test_the_shared_beginning(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows with less in common, prompts with nothing in common, and one prompt that is the beginning itself."""
    monkeypatch.setitem(engine.MAX_ROWS, "cpu", 2)  # windows of 4 prompts
    prompts = prompts_of(tiny, 20)
    prompts[2] = "no template and nothing in common"
    prompts[12] = prompts[12].replace("trained by Hugging Face", "trained by others")
    prompts[15] = prompts[15][:prompts[15].index("user")]
    assert ids_of(list(generate(tiny, prompts, max_new_tokens=8))) == [one_by_one(tiny, prompt, 8) for prompt in prompts]


def test_one_odd_prompt_does_not_end_the_sharing() -> None:
    prefix = SharedPrefix()
    same = list(range(40))
    prompts = [[*same, 50 + number, 60] for number in range(15)]
    prefix.fit([*prompts, [999, 5]])
    assert prefix.tokens == same
    assert [prefix.length_for([prompt]) for prompt in (prompts[0], [*same[:20], 7], [*same[:10], 7], same)] == [40, 20, 0, 39]
    prefix.cache = "computed"
    prefix.fit([[*same[:30], 7], [*same[:30], 8]])
    assert (prefix.tokens, prefix.cache) == (same, "computed"), "a shorter beginning is a part of the one that is there"
    prefix.fit([[3] * 30 + [7], [3] * 30 + [8]])
    assert (prefix.tokens, prefix.cache) == ([3] * 30, None)


def test_sampling_does_not_depend_on_the_batch(tiny: Loaded) -> None:
    prompts = prompts_of(tiny, 10)
    options: dict[str, Any] = {"max_new_tokens": 16, "temperature": 1.0, "top_p": 0.9, "samples": 3}
    whole = list(generate(tiny, prompts, **options))
    small = list(generate(tiny, prompts, batch_tokens=150, **options))
    assert ids_of(whole) == ids_of(small)
    assert [(answer.index, answer.sample) for answer in whole] == [(i, k) for i in range(10) for k in range(3)]
    rest = list(generate(tiny, prompts[6:], indices=range(6, 10), **options))  # a resumed run
    assert ids_of(rest) == ids_of(whole)[18:]
    assert len(set(ids_of(whole))) == 30
    assert ids_of(list(generate(tiny, prompts[:1], seed=7, **options)))[0] != whole[0].token_ids


def test_sampling_resumes_from_any_cursor(tiny: Loaded) -> None:
    """Whatever the order, the batch and which rows are there: (seed, row, sample) alone decide."""
    prompts = prompts_of(tiny, 12)
    options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 0.8, "top_p": 0.95, "samples": 2}
    whole = {(answer.index, answer.sample): answer.token_ids for answer in generate(tiny, prompts, **options)}
    for cursor in range(1, 12, 3):
        for answer in generate(tiny, prompts[cursor:], indices=range(cursor, 12), **options):
            assert answer.token_ids == whole[answer.index, answer.sample]
    have = {key for key in whole if key[0] == 3 or key in ((0, 1), (5, 0))}
    rest = list(generate(tiny, prompts, have=have, **options))  # of what is there already nothing is made
    assert [(answer.index, answer.sample) for answer in rest] == [key for key in whole if key not in have]
    assert all(answer.token_ids == whole[answer.index, answer.sample] for answer in rest)
    assert list(generate(tiny, prompts, have=set(whole), **options)) == []
    mixed = [9, 2, 11, 4]
    for answer in generate(tiny, [prompts[row] for row in mixed], indices=mixed, batch_tokens=400, ordered=False, **options):
        assert answer.token_ids == whole[answer.index, answer.sample]


def drawn(draw: sampling.Draw, chances: Any, count: int) -> Any:
    """How often each token is drawn, in `count` rows."""
    import torch

    rows = [Row(i, i, 0, [1], 1) for i in range(count)]
    return torch.bincount(torch.tensor(draw.tokens(chances.log().expand(count, -1), rows)), minlength=len(chances))


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_noise_draws_from_the_softmax(top_p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chi-square at a small vocabulary; below 1, over the nucleus and nothing else."""
    import torch

    monkeypatch.setattr(sampling, "CANDIDATES", (3, 5))
    chances = torch.tensor([0.3, 0.25, 0.15, 0.1, 0.08, 0.06, 0.04, 0.02])
    kept = 8 if top_p == 1 else 4  # 0.3 + 0.25 + 0.15 < 0.8
    counts = drawn(sampling.Draw(1.0, top_p, seed=1), chances, 20_000)
    expected = chances[:kept] / chances[:kept].sum() * 20_000
    assert counts[kept:].sum() == 0
    chi_square = ((counts[:kept] - expected) ** 2 / expected).sum().item()
    assert chi_square < {8: 24.3, 4: 16.3}[kept]  # 99.9 % of a chi-square with 7 and 3 degrees of freedom
    warm = drawn(sampling.Draw(2.0, 1.0, seed=2), chances, 20_000)
    flat = chances.sqrt() / chances.sqrt().sum() * 20_000
    assert ((warm - flat) ** 2 / flat).sum().item() < 24.3


def test_a_nucleus_needs_no_noise_for_the_other_tokens() -> None:
    """The same tokens as with noise for the whole vocabulary, flat, peaked and tied rows alike."""
    import torch

    torch.manual_seed(0)
    logits = torch.randn(64, 3000) * torch.linspace(0.01, 6, 64)[:, None]
    logits[5:9] = logits[5:9].round()  # many ties at the edge of the nucleus
    logits[9] = 0.0
    rows = [Row(number, number, 3, [1], 1, out=[1] * number) for number in range(64)]
    for top_p in (0.05, 0.5, 0.95, 0.999):
        best = logits.softmax(-1).sort(-1, descending=True).values
        lowest = best.masked_fill(best.cumsum(-1) - best >= top_p, 2.0).amin(-1, keepdim=True)
        kept = logits.masked_fill(logits.softmax(-1) < lowest * (1 - 1e-6), float("-inf"))
        keys = [sampling.key_of_noise(4, row.index, row.sample, len(row.out)) for row in rows]
        expected = (kept + sampling._gumbel(keys, torch.arange(3000))).argmax(-1).tolist()
        assert sampling.Draw(1.0, top_p, 4).tokens(logits, rows) == expected
        assert [sampling.Draw(1.0, top_p, 4).tokens(logits[i:i + 1], rows[i:i + 1])[0] for i in range(64)] == expected


class Steps:
    """Counts the rows of every forward pass."""

    def __init__(self, loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        forward = engine._forward

        def counted(model: Any, ids: Any, *rest: Any) -> Any:
            self.rows.append(ids.shape[0] if ids.shape[1] == 1 else 0)
            return forward(model, ids, *rest)

        monkeypatch.setattr(engine, "_forward", counted)


def test_rows_leave_when_their_answer_is_complete(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = prompts_of(tiny, 12)
    whole = list(generate(tiny, prompts, max_new_tokens=64))
    steps = Steps(tiny, monkeypatch)
    short = list(generate(tiny, prompts, max_new_tokens=64, is_complete=lambda text: len(text) % 3 == 0))
    decoding = [rows for rows in steps.rows if rows]
    assert decoding == sorted(decoding, reverse=True)
    assert decoding[0] > decoding[-1], "finished rows stay in the batch"
    assert sum(decoding) == sum(answer.tokens - 1 for answer in short), "a step was spent on a row that is done"
    for before, after in zip(whole, short, strict=True):
        assert after.token_ids == before.token_ids[:after.tokens]
        assert (after.finish == "stop") == (len(after.text) % 3 == 0 or after.token_ids[-1] == 2)
        assert after.tokens <= engine.CHECK_EVERY or after.tokens % engine.CHECK_EVERY == 0 or after.finish == "stop"


def test_waiting_rows_take_the_places_of_finished_ones(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engine.MAX_ROWS, "cpu", 4)
    steps = Steps(tiny, monkeypatch)
    seen: list[tuple[int, int, int]] = []
    answers = list(generate(tiny, prompts_of(tiny, 16), max_new_tokens=24, is_complete=lambda text: len(text) % 4 == 0,
                            on_batch=lambda *what: seen.append(what)))
    decoding = [rows for rows in steps.rows if rows]
    assert max(decoding) == 4
    assert sum(decoding) / len(decoding) > 3, "places stay empty while rows wait"
    assert seen[-1] == (16, 0, sum(answer.tokens for answer in answers))


def test_prompts_are_read_as_they_are_needed(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 rows stream: what is read ahead of what was yielded stays within a few batches, and what is kept within that."""
    import gc

    monkeypatch.setitem(engine.MAX_ROWS, "cpu", 64)
    read, ahead = 0, 0

    def prompts() -> Iterator[str]:
        nonlocal read
        for read in range(1, 2001):
            yield f"prompt number {read}"

    kept = []
    for following, answer in enumerate(generate(tiny, prompts(), max_new_tokens=2)):
        assert answer.index == following
        ahead = max(ahead, read - following)
        if following in (500, 1500):
            kept.append(sum(type(thing) in (Row, Generated) for thing in gc.get_objects()))
    assert (read, following) == (2000, 1999)
    assert ahead <= 6 * 64
    assert max(kept) <= 8 * 64, f"rows are kept: {kept}"


def test_stopping_keeps_what_is_finished(tiny: Loaded) -> None:
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls > 12

    answers = list(generate(tiny, prompts_of(tiny, 12), max_new_tokens=64, is_complete=lambda text: len(text) % 3 == 0, should_stop=stop))
    assert 0 < len(answers) < 12
    assert [answer.index for answer in answers] == sorted(answer.index for answer in answers)


def test_answers_as_they_come(tiny: Loaded) -> None:
    prompts = prompts_of(tiny, 8)
    options: dict[str, Any] = {"max_new_tokens": 32, "is_complete": lambda text: len(text) % 3 == 0}
    loose = list(generate(tiny, prompts, ordered=False, **options))
    assert [answer.index for answer in loose] != list(range(8))
    assert ids_of(sorted(loose, key=lambda answer: answer.index)) == ids_of(list(generate(tiny, prompts, **options)))


def test_prompts_that_do_not_fit(tiny: Loaded) -> None:
    answers = list(generate(tiny, ["word " * 2500, "short", "", "a" + " bank" * 2040], max_new_tokens=100))
    assert [answer.finish for answer in answers] == ["length"] * 4
    assert [bool(answer.text) for answer in answers] == [False, True, False, True]
    assert "the model's context is 2048" in answers[0].note
    assert answers[2].note == "the prompt is empty"
    assert answers[3].tokens == 2048 - answers[3].prompt_tokens < 100
    assert "only" in answers[3].note


@pytest.mark.embedded
@pytest.mark.usefixtures("embedded_model")
def test_the_embedded_model_answers_as_in_plain_generate(workspace_dir: Path, tiny_model: Path) -> None:
    loaded = load_model("embedded", workspace_dir, device="cpu", dtype="float32")
    prompts = [render_chat(loaded.tokenizer, text) for text in ("What is the capital of France?", "Say hello.", "What is 2 + 2?")]
    answers = list(generate(loaded, prompts, max_new_tokens=16))
    assert "Paris" in answers[0].text
    assert answers[0].finish == "stop"
    assert ids_of(answers) == [one_by_one(loaded, prompt, 16) for prompt in prompts]
    assert loaded.describe()["base_title"] == "SmolLM2-135M-Instruct, Q4_1 dequantised"
    assert loaded.template_hash == load_model(str(tiny_model), workspace_dir).template_hash
