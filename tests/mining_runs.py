"""Run folders as mining and build-pairs leave them, written with their own records and summaries; texts are made up and harmless."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from core.files import write_json, write_text
from core.mining.build import PairBuilder
from core.mining.build_report import make_report
from core.mining.samples import as_hard
from core.mining.summary import Summary
from core.records import Labels, MinedSample, Output, write_records
from core.runs import Run, Workspace, config_yaml

OTHER = {"harmful": "unharmful", "unharmful": "harmful"}


def output(label: str | None, steps: int = 1, text: str = "") -> Output:
    """An answer that gives a label, or none."""
    reasoning = text or "\n".join(f"Step {number}. The user asks about bread and flour." for number in range(1, steps + 1))
    said = f"{reasoning}\nAnswers: the request is {label}." if label else reasoning
    return Output(text=said, predicted=Labels(request=label), tokens=40 + steps)


def sample(row: int, right: int, k: int = 4, gold: str = "unharmful", unparsed: int = 0, **fields: Any) -> MinedSample:
    """A row with `right` right answers, `unparsed` without a label, the others wrong."""
    labels = [gold] * right + [OTHER[gold]] * (k - right - unparsed) + [None] * unparsed
    return MinedSample(row=row, gold=Labels(request=gold), outputs=[output(label, 1 + place) for place, label in enumerate(labels)],
                       **{"prompt": f"How long does loaf {row} bake?", "model": "run:rsft-0001", "prompt_format": "guardreasoner",
                          "source": f"source {row % 2}", **fields})


def rows() -> list[MinedSample]:
    """Twelve rows: six hard, three all right, two all wrong, one unparsed; row 4 and 5 have harmful gold."""
    rights = [2, 1, 3, 4, 1, 3, 0, 4, 2, 4, 0]
    made = [sample(row, right, gold="harmful" if row in (4, 5) else "unharmful") for row, right in enumerate(rights)]
    return [*made, sample(11, 1, unparsed=3)]


def folder(workspace: Workspace, run_id: str, method: str, config: dict[str, Any], **status: Any) -> Run:
    """A run folder of the mining stage."""
    path = workspace.runs_dir / run_id
    path.mkdir()
    write_text(path / "config.yaml", config_yaml(method, config))
    write_text(path / "command.sh", f"#!/bin/sh\npython app.py run {method}\n")
    write_json(path / "labels.json", {"name": "", "tags": [], "note": "", "archived": False})
    write_json(path / "status.json", {"state": "succeeded", "method": method, "stage": "mining", "lane": "compute",
                                      "what": "guard on loaves", "created": time.time(), "ended": time.time(), **status})
    return Run(path)


def mining_run(workspace: Workspace, samples: Iterable[MinedSample] | None = None, run_id: str = "mine-0001", k: int = 4,
               **config: Any) -> Run:
    """A finished mining run: outputs.jsonl, hard.jsonl and report.json."""
    settings = {"model": "run:rsft-0001", "data": "loaves", "k": k, "temperature": 1.0, "top_p": 0.95, "unparsed": "drop", **config}
    run = folder(workspace, run_id, "mine-hard-samples", settings)
    found, summary = list(rows() if samples is None else samples), Summary(k, settings["unparsed"])
    for item in found:
        summary.add(item)
    write_records(run.dir / "outputs.jsonl", found)
    write_records(run.dir / "hard.jsonl", [hard for item in found if (hard := as_hard(item, settings["unparsed"]))])
    notes = [] if summary.hard else [summary.nothing_hard()]
    write_json(run.dir / "report.json", {"kind": "mine-hard-samples", "run": run.id, "headline": summary.headline(), "overrides": [],
                                         "model": "run:rsft-0001", "data": {"name": "loaves"}, **summary.record(), "notes": notes})
    return run


def pairs_run(workspace: Workspace, *mined: str, run_id: str = "pairs-0001", **changes: Any) -> Run:
    """A finished build-pairs run over mining runs, built by the product's own code."""
    values = {"runs": list(mined or ("mine-0001",)), "pick": "random", "gamma": 0.2, "norm": "min-max", "unparsed": "as mined",
              "max_pairs_per_row": 4, "exclude_test_rows": False, "allow_test_rows": False, "seed": 42, **changes}
    run = folder(workspace, run_id, "build-pairs", values, lane="instant", ended=time.time() + 0.01)
    builder = PairBuilder(SimpleNamespace(**values), workspace)
    builder.survey()
    silent = SimpleNamespace(progress=lambda *_, **__: None, stop_if_asked=lambda: None)
    write_records(run.dir / "preferences.jsonl", builder.build(silent))
    write_json(run.dir / "report.json", make_report(builder, run))
    return run
