"""The threshold sweep: the numbers of every threshold, from the scores of an evaluation to the card of the page."""

import json

import pytest

from core import UserError
from core.evals.predictions import read_predictions
from core.evals.sweep import sweep, thresholds
from core.files import write_json
from core.methods import validate
from core.records import Labels, Prediction
from core.scores import score_labels
from tests.helpers import execute, prompts, write


def scored(gold, score):
    return Prediction(row=0, model="m", prompt="p", gold=Labels(request=gold), predicted=Labels(), parsed={"request": score is not None},
                      text="", scores=None if score is None else {"request": score})


ROWS = [scored("harmful", 0.95), scored("harmful", 0.6), scored("harmful", 0.2), scored("harmful", None),
        scored("unharmful", 0.7), scored("unharmful", 0.4), scored("unharmful", 0.1), scored("unharmful", 0.1), scored("unharmful", None)]


def test_every_threshold_is_scored_like_labels_and_an_answer_without_a_score_is_wrong_at_each():
    found = sweep(ROWS, "request", 7)
    at = {point["threshold"]: point for point in found["points"]}
    assert found["unscored"] == 2
    assert found["positive"] == "harmful"
    assert (at[0.5]["recall"]["value"], at[0.5]["precision"]["value"], at[0.5]["fpr"]["value"]) == (2 / 4, 2 / 4, 2 / 5)
    assert (at[0.0]["recall"]["value"], at[0.0]["fpr"]["value"]) == (3 / 4, 1.0), "the unreadable harmful row is never found"
    assert (at[1.0]["recall"]["value"], at[1.0]["fpr"]["value"]) == (0.0, 1 / 5)
    assert at[1.0]["said"] == 0
    for threshold in (0.15, 0.5, 0.65):
        said = [None if row.scores is None else "harmful" if row.scores["request"] >= threshold else "unharmful" for row in ROWS]
        whole = score_labels([row.gold.request for row in ROWS], said, positive="harmful", negative="unharmful", seed=7)
        assert at[threshold]["f1"] == whole.f1.model_dump(mode="json")
    for measure in ("recall", "fpr"):
        values = [point[measure]["value"] for point in found["points"]]
        assert values == sorted(values, reverse=True), "a higher threshold finds less"
    assert sweep([row.model_copy(update={"scores": None}) for row in ROWS], "request", 7) is None
    assert sweep(ROWS, "response", 7) is None


def test_thresholds_see_between_scores_that_lie_close_to_one():
    close = sorted([1 - 1e-5 * step for step in range(10)] + [0.0])
    chosen = thresholds(close)
    assert {0.0, 0.5, 1.0} <= set(chosen)
    assert sum(close[1] < value < 1 for value in chosen) >= 9
    assert len(thresholds([number / 1e5 for number in range(10_000)])) <= 61


def test_an_evaluation_with_log_probabilities_sweeps_and_its_default_is_the_headline(workspace, tiny_model, tmp_path):
    data = write(tmp_path / "set.jsonl", prompts(16))
    settings = {"models": [str(tiny_model)], "data": data, "dtype": "float32", "device": "cpu"}
    run = execute(workspace, "guard-eval", {**settings, "confidence": "log-prob"})
    entry = run.report["tasks"]["request"]["models"][0]
    at_half = next(point for point in entry["sweep"]["points"] if point["threshold"] == 0.5)
    strict = entry["scores"]["strict"]
    assert at_half["f1"] == strict["f1"]
    assert at_half["precision"] == strict["per_class"]["harmful"]["precision"]
    assert run.report["confidence"] == {"method": "log-prob", "samples": 1}
    with_scores = list(read_predictions(run.dir / "predictions.jsonl"))
    assert all(item.predicted.request == ("harmful" if item.scores["request"] >= 0.5 else "unharmful") for item in with_scores)
    plain = execute(workspace, "guard-eval", settings)
    assert [item.predicted for item in read_predictions(plain.dir / "predictions.jsonl")] == [item.predicted for item in with_scores]
    assert "sweep" not in plain.report["tasks"]["request"]["models"][0]
    assert '"scores"' not in (plain.dir / "predictions.jsonl").read_text()


def test_a_vote_is_resumed_and_too_long_a_row_is_an_unreadable_answer(workspace, tiny_model, tmp_path):
    rows = [*prompts(3), prompts(1)[0].model_copy(update={"prompt": "word " * 3000})]
    settings = {"models": [str(tiny_model)], "data": write(tmp_path / "set.jsonl", rows), "dtype": "float32", "device": "cpu",
                "confidence": "vote", "confidence_samples": 3, "prompt_format": "seed-label", "max_new_tokens": 8}
    run = execute(workspace, "guard-eval", settings)
    found = sorted(read_predictions(run.dir / "predictions.jsonl"), key=lambda item: item.row)
    assert [item.row for item in found] == [0, 1, 2, 3]
    assert (found[3].text, found[3].finish, found[3].predicted.request, found[3].scores) == ("", "length", None, None)
    path = run.dir / "predictions.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1]))
    again = execute(workspace, "guard-eval", settings, run)
    assert sorted(read_predictions(again.dir / "predictions.jsonl"), key=lambda item: item.row) == found


@pytest.mark.parametrize("settings, why", [
    ({"confidence": "vote"}, "there is no vote"), ({"confidence": "log-prob", "temperature": 0.7}, "set it to 0"),
    ({"confidence": "vote", "parse_rule": "official", "prompt_format": "guardreasoner"}, "parse_rule"),
    ({"confidence": "log-prob", "engine": "vllm"}, "need the weights"),
    ({"confidence": "vote", "models": [], "predictions": "x"}, "no scores")])
def test_what_cannot_be_scored_is_said_before_it_starts(workspace, tiny_model, tmp_path, settings, why):
    given = {"models": [str(tiny_model)], "data": write(tmp_path / "set.jsonl", prompts(8)), **settings}
    config = validate(workspace.plugins.method("guard-eval"), given)
    problems = workspace.plugins.method("guard-eval")(workspace).check(config)
    assert any(why in problem.message for problem in problems if problem.severity == "error"), problems


# ---- the page ----


@pytest.fixture
def evaluation(workspace):
    """A finished evaluation whose report has a sweep."""
    folder = workspace.runs_dir / "guard-0001"
    folder.mkdir()
    both = ["harmful", "unharmful"]
    strict = score_labels(both, both, positive="harmful", negative="unharmful").model_dump(mode="json")
    entry = {"model": "run:a", "title": "A", "prompt_format": "x", "rows": 9,
             "scores": dict.fromkeys(("strict", "drop", "paper-code"), strict),
             "by_source": {}, "by_category": {}, "coherent": {"value": None, "low": None, "high": None, "n": 0}, "incoherent_why": {},
             "tokens_mean": None, "length": {}, "seconds": None, "seconds_rows": 0, "seen": {"rows": 0, "runs": [], "scores_without": None}}
    task = {"rows": 9, "positive": "harmful", "negative": "unharmful", "gold": {"harmful": 4, "unharmful": 5}, "reference": "run:a",
            "models": [{**entry, "sweep": sweep(ROWS, "request", 0)}, {**entry, "model": "run:b", "title": "B"}], "baselines": [],
            "comparisons": []}
    write_json(folder / "report.json", {"kind": "guard-eval", "headline": "", "policy": "strict", "seed": 0, "data": {"name": "d"},
                                        "confidence": {"method": "vote", "samples": 5}, "reference": "run:a", "tasks": {"request": task},
                                        "gates": [], "overrides": [], "notes": []})
    write_json(folder / "status.json", {"state": "succeeded", "method": "guard-eval", "stage": "evaluation", "created": 1.0})
    (folder / "config.yaml").write_text("method: guard-eval\nconfig: {}\n")
    return workspace


def test_the_card_shows_the_default_the_chosen_threshold_and_a_warning(evaluation):
    from core.ui.evaluation_page import EvaluationPage

    page = EvaluationPage(evaluation)
    box, head, plot, chosen, numbers = page.fixed("?model=run:a")[-5:]
    assert box["visible"]
    assert "share of 5 samples" in head
    assert chosen["value"] == "0.5"
    assert "0.5 (default)" in next(words for words, value in chosen["choices"] if value == "0.5")
    assert "default" in numbers
    assert "Do not choose a threshold on rows whose numbers you report" in numbers
    assert "2 answers without a score count as wrong" in numbers
    assert [trace.name for trace in plot["value"].data if trace.name] == ["precision", "recall", "F1", "false positive rate"]
    *_, other, moved = page.fixed("?model=run:a&cut=0.66")[-5:]
    assert other["value"] == "0.65", "the nearest there is"
    assert "chosen" in moved
    for query in ("?model=run:b", "?show=suite", "?model=run:a&cut=nonsense"):
        assert page.fixed(query)[-5]["visible"] == ("nonsense" in query)
    json.loads(plot["value"].to_json())


def test_without_any_evaluation_there_is_no_card(workspace):
    from core.ui.evaluation_page import EvaluationPage

    assert EvaluationPage(workspace).fixed("")[-5]["visible"] is False
    with pytest.raises(UserError):
        validate(workspace.plugins.method("guard-eval"), {"confidence_samples": 1})
