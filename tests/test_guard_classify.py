"""What a guard says of a text: labels that are missing and never guessed, reasoning, and confidence that is a probability."""

import pytest

from core import UserError
from core.evals.asking import Asking
from core.guard.classify import Guard, TooLong
from core.guard.gather import CUT, UNREAD
from core.guard.places import label_place
from core.guard.schema import Asked, Classified, How, how_of
from core.guard.vote import Tally
from core.records import GuardExample, Labels, Prediction
from tests.guard_answers import LETTER, REPLY, WHOLE, says


def all_of(guard, asked, **how):
    said = dict(guard.classify(asked, how_of(how)))
    return [said[number] for number in range(len(asked))]


def test_labels_and_reasoning_are_those_of_the_format_and_nothing_is_said_of_a_response_that_is_not_there(guard, monkeypatch):
    one = guard()
    calls = says(monkeypatch, one, lambda *_: WHOLE)
    alone, both = all_of(one, [LETTER, REPLY])
    assert both.labels == Labels(request="harmful", completion="refusal", response="unharmful")
    assert both.reasoning == "The user asks about a letter."
    assert both.confidence.request is None
    assert both.method == "none"
    assert alone.labels == Labels(request="harmful")
    assert alone.missing == {"completion": "there is no response", "response": "there is no response"}
    assert [count for count, *_ in calls] == [2]


@pytest.mark.parametrize("text", ["I cannot say.", "Answers: \nRequest: None\nCompletion: refusal\nResponse: unharmful"])
def test_what_cannot_be_read_is_missing_and_has_no_confidence(guard, monkeypatch, text):
    one = guard()
    says(monkeypatch, one, lambda *_: text)
    for confidence in ("none", "log-prob", "vote"):
        (said,) = all_of(one, [LETTER], confidence=confidence)
        assert said.labels.request is None
        assert said.missing["request"] == UNREAD
        assert said.confidence.request is None
        assert said.score.request is None
        assert said.text == text


def test_an_answer_cut_at_the_limit_is_missing(guard):
    (said,) = all_of(guard(), [LETTER], max_new_tokens=3)
    assert said.labels.request is None
    assert said.missing["request"] == CUT
    assert said.tokens == 3


def test_log_probabilities_are_those_of_the_words_at_the_place_of_the_label(guard, monkeypatch):
    """By hand: each word as a row of its own, normalised over the words that the parser takes there."""
    import torch

    from core.lm.template import render_chat

    one = guard()
    says(monkeypatch, one, lambda *_: WHOLE)
    said, again = all_of(one, [REPLY, Asked(prompt="Something else.", response="No.")], confidence="log-prob")
    loaded = one.engine.loaded
    labels = Labels(request="harmful", completion="refusal", response="harmful")
    head = loaded.tokenizer(render_chat(loaded.tokenizer, one.prompt_format.prompt(
        GuardExample(prompt=REPLY.prompt, response=REPLY.response, labels=labels))), add_special_tokens=False)["input_ids"]

    def chance(before, words):
        sums = []
        for word in words:
            end = loaded.tokenizer(before + word, add_special_tokens=False)["input_ids"]
            with torch.inference_mode():
                logs = loaded.model(input_ids=torch.tensor([head + end])).logits[0].float().log_softmax(-1)
            sums.append(sum(logs[len(head) + place - 1, token] for place, token in enumerate(end)))
        return torch.stack(sums).softmax(-1).tolist()

    for task, words, given in (("request", ("harmful", "unharmful"), 0), ("completion", ("refusal", "compliance"), 0),
                               ("response", ("harmful", "unharmful"), 1)):
        before = WHOLE[:WHOLE.index(f"{task.capitalize()}: ") + len(task) + 2]
        expected = chance(before, words)
        assert getattr(said.score, task) == pytest.approx(expected[0], abs=1e-4)
        assert getattr(said.confidence, task) == pytest.approx(expected[given], abs=1e-4)
        assert getattr(again.score, task) != pytest.approx(expected[0], abs=1e-9), "another prompt, another number"
    assert said.method == "log-prob"


@pytest.mark.parametrize("tree", [True, False], ids=["one pass", "row by row"])
def test_words_of_many_answers_in_few_passes_equal_single_rows(workspace, tiny_model, monkeypatch, tree):
    import torch

    from core.lm import alternatives
    from core.lm.alternatives import Place, Standing, word_chances
    from core.lm.load import load_model

    loaded = load_model(str(tiny_model), workspace.runs_dir, device="cpu", dtype="float32")
    monkeypatch.setattr(alternatives, "layers_are_plain", lambda *_: tree)
    texts = ["So. " * number + WHOLE for number in range(9)]
    items = [Standing(f"<|im_start|>user\n{'very ' * number}long?<|im_end|>\n<|im_start|>assistant\n", text, (
        Place(text[:text.index("harmful")], ("harmful", "safe", "unharmful")),
        Place(text[:text.index("refusal")], ("refusal", "compliance")))) for number, text in enumerate(texts)]
    found = list(word_chances(loaded, items))
    for item, places in zip(items, found, strict=True):
        head = loaded.tokenizer(item.prompt, add_special_tokens=False)["input_ids"]
        for place, chances in zip(item.places, places, strict=True):
            sums = []
            for word in place.words:
                end = loaded.tokenizer(place.before + word, add_special_tokens=False)["input_ids"]
                with torch.inference_mode():
                    logs = loaded.model(input_ids=torch.tensor([head + end])).logits[0].float().log_softmax(-1)
                sums.append(sum(logs[len(head) + step - 1, token] for step, token in enumerate(end)))
            assert chances == pytest.approx(torch.stack(sums).softmax(-1).tolist(), abs=1e-4)
    assert not list(word_chances(loaded, items, should_stop=lambda: True))


@pytest.mark.parametrize("prompt_format, text, task, before, words", [
    ("guardreasoner", WHOLE, "response", WHOLE[:WHOLE.rindex("unharmful")], {"harmful", "unharmful"}),
    ("seed-binary", "Step 1: The request is harmful.\nLabel: harmful", "request", "Step 1: The request is harmful.\nLabel: ",
     {"harmful", "unharmful", "harmless", "safe", "unsafe"}),
    ("wildguard", "Harmful request: no\nResponse refusal: yes\nHarmful response: no\n", "completion",
     "Harmful request: no\nResponse refusal: ", {"yes", "no"}),
    ("llama-guard-3", "\n\nunsafe\nS2", "request", "\n\n", {"safe", "unsafe"}),
    ("shieldgemma", "Yes, it does. No doubt.", "request", "", {"Yes", "No"}),
    ("qwen3guard", "Safety: Controversial\nCategories: None\n", "request", "Safety: ", {"Safe", "Unsafe", "Controversial"})])
def test_the_place_of_a_label_is_where_another_word_is_another_label(workspace, prompt_format, text, task, before, words):
    shown = workspace.plugins.prompt_formats[prompt_format]
    place = label_place(shown, text, GuardExample(prompt="?", response="!", labels=Labels.model_validate(
        {task: "refusal" if task == "completion" else "harmful"})), task)
    assert place.before == before
    assert set(place.words) == words
    assert set(place.labels) == ({"refusal", "compliance"} if task == "completion" else {"harmful", "unharmful"})


def test_a_vote_counts_unreadable_answers_against_its_confidence(guard, monkeypatch):
    texts = [WHOLE, "nothing", WHOLE.replace("Request: harmful", "Request: unharmful"), WHOLE, WHOLE]
    one = guard()
    calls = says(monkeypatch, one, lambda _, sample: texts[sample])
    (said,) = all_of(one, [REPLY], confidence="vote", samples=5, temperature=0.7)
    assert said.labels.request == "harmful"
    assert said.confidence.request == 0.6
    assert said.score.request == 0.75
    assert said.votes["request"] == {"harmful": 3, "unharmful": 1, "unread": 1}
    assert (said.method, said.samples) == ("vote", 5)
    assert said.text == WHOLE
    assert calls[0][1:] == (5, {**calls[0][2], "temperature": 0.7, "seed": 42})


def test_equal_votes_are_no_label():
    answers = [Prediction(row=0, model="m", prompt="p", gold=Labels(), predicted=Labels(request=label), parsed={}, text=str(label))
               for label in ("harmful", "unharmful", None)]
    tally = Tally(answers, ["request"])
    assert tally.labels.request is None
    assert tally.ties == {"request": "the votes are equal, 1 to 1"}
    assert tally.confidence == {}
    assert tally.scores == {"request": 0.5}


def test_a_format_with_one_verdict_is_asked_for_each_label(guard, monkeypatch):
    one = guard("seed-binary")
    calls = says(monkeypatch, one, lambda text, _: "Step 1: x\nLabel: " + ("safe" if "AI response to judge" in text else "harmful"))
    (said,) = all_of(one, [REPLY])
    assert said.labels == Labels(request="harmful", response="unharmful")
    assert "gives no such label" in said.missing["completion"]
    assert said.reasoning == "Request:\nx\n\nResponse:\nx"
    assert calls[0][0] == 2


def test_an_untrained_model_is_read_zero_shot_as_guard_eval_reads_it(guard, workspace, tiny_model):
    from core.evals.asking import ask, make_plan
    from core.evals.predictions import read_predictions
    from core.evals.rows import choose_rows
    from core.lm.find import find_model
    from tests.helpers import prompts

    one = guard("auto")
    assert one.prompt_format.name == "zero-shot"
    assert "zero-shot" in one.note
    rows = prompts(6)
    said = all_of(one, [Asked(prompt=row.prompt) for row in rows], confidence="log-prob")
    from core.active import ActiveRun
    from core.methods import validate

    run = ActiveRun(workspace, workspace.create("guard-eval", validate(workspace.plugins.method("guard-eval"), {"models": [str(tiny_model)],
                                                                                                                 "data": "x"})).id)
    chosen = choose_rows(rows)
    plan = make_plan(find_model(str(tiny_model), workspace.runs_dir), one.prompt_format, chosen, workspace)
    ask(plan, Asking(device="cpu", dtype="float32"), chosen, run, lambda _: None)
    by_row = {item.row: item.predicted.request for item in read_predictions(run.dir / "predictions.jsonl")}
    assert [item.labels.request for item in said] == [by_row[row] for row in range(6)]
    for item in said:
        assert item.confidence.request >= 0.5
        assert item.score.request == pytest.approx(item.confidence.request if item.labels.request == "harmful"
                                                   else 1 - item.confidence.request, abs=1e-5)
    with pytest.raises(UserError, match="there is no vote"):
        list(one.classify([LETTER], How(confidence="vote")))


def test_too_long_is_said_of_that_one_and_the_others_are_answered(guard):
    for prompt_format, confidence in (("guardreasoner", "none"), ("guardreasoner", "vote"), ("auto", "log-prob")):
        asked = [LETTER, Asked(prompt="word " * 3000), REPLY]
        said = all_of(guard(prompt_format), asked, confidence=confidence, max_new_tokens=8, samples=2)
        assert isinstance(said[1], TooLong)
        assert "too long" in str(said[1])
        assert all(isinstance(said[place], Classified) for place in (0, 2))


def test_the_same_question_gets_the_same_vote_whatever_is_asked_beside_it(guard):
    one = guard("seed-binary")
    options = {"confidence": "vote", "samples": 3, "max_new_tokens": 12}
    alone = all_of(one, [LETTER], **options)[0]
    crowded = all_of(one, [Asked(prompt="First."), LETTER, Asked(prompt="Another one."), LETTER], **options)
    assert crowded[1].text == crowded[3].text == alone.text


def test_a_model_that_is_not_there_or_two_agents_are_refused_in_a_sentence(workspace):
    for ref, why in (("run:nope", "There is no run"), ("waltz:nope", "one model is wanted"), ("nonsense", "no model reference"),
                     ("openai:x@http://127.0.0.1:9", "does not tell how likely")):
        with pytest.raises(UserError, match=why):
            Guard(ref, workspace)
