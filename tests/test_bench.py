"""The benchmarks that need what test machines lack, or hours: their parts, small."""

import re

import pytest
import torch

from bench import query
from core.runs import REPOSITORY

PAIRS = 200
DEMO = str(REPOSITORY / "assets" / "demo" / "guard-demo.jsonl")


def test_milliseconds_per_query_of_a_tiny_shape(capsys):
    assert query.main(["tiny", "--queries", "5", "--tokens", "9", "--data", DEMO]) == 0
    said = capsys.readouterr().out
    assert re.search(r"5 queries, 9 new tokens each, greedy, bfloat16", said)
    assert re.search(r"^tiny +engine \w+ +[\d.]+ ms/query +9\.0 tokens/query", said, re.MULTILINE), "no answer ends early"


def test_the_papers_shapes_want_a_gpu(monkeypatch):
    monkeypatch.setattr("core.lm.device.pick_device", lambda _: "cpu")
    with pytest.raises(SystemExit, match=r"3b and 8b: these shapes need a CUDA GPU, and the device here is cpu"):
        query.main(["3b", "8b"])


@pytest.mark.parametrize(("shape", "billions"), [("3b", 3.213), ("8b", 8.030)])
def test_the_shapes_have_as_many_weights_as_their_models(shape, billions):
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**query.SHAPES[shape]))
    assert sum(weights.numel() for weights in model.parameters()) / 1e9 == pytest.approx(billions, abs=1e-3)
    found = query.Asked("own", queries=10, tokens=2550, seconds=0.3)
    said = " ".join(query.line(shape, found).split())
    assert f"30.00 ms/query 255.0 tokens/query 8500.0 tokens/s the paper, one H100: {query.PAPER[shape][0]} ms" in said


def test_the_memory_check_plans_a_whole_training_and_makes_a_few_steps(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "CI", "TQDM_DISABLE"):  # what the module sets where it is unset ends with this test
        monkeypatch.setenv(name, "1" if name != "OMP_WAIT_POLICY" else "passive")
    from bench import hsdpo

    found = hsdpo.measure(PAIRS)
    assert (found["planned"], found["steps"]) == (2 * PAIRS / 8, hsdpo.MEMORY_STEPS)


def test_the_benchmark_compares_three_arrangements(tmp_path, monkeypatch, capsys):
    from bench import waltz

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["bench.waltz", "--quick", "--episodes", "4", "--tokens", "6", "--device", "cpu"])
    assert waltz.main() == 0
    table = capsys.readouterr().out.rsplit("ours is", 1)[1]
    assert all(name in table for name in (waltz.SINGLE, waltz.BATCHED, waltz.OURS))
