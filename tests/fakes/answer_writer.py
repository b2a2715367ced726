"""A mining run in small: k samples of each row with an engine, one line for each row, in order. `python -m` runs it in a process.

    python -m tests.fakes.answer_writer MODEL FILE SECONDS_BETWEEN_ROWS
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from core.answer_log import AnswerLog
from core.lm.engines import open_engine
from core.records import Labels, MinedSample, Output
from core.runs import Workspace

ROWS, SAMPLES = 100, 3


def write_answers(model: str, path: Path, pause: float = 0.0) -> None:
    """Go on after the rows that the file holds."""
    outputs: list[Output] = []
    with AnswerLog(path) as log, open_engine(model, Workspace(path.parent), device="cpu", dtype="float32") as engine:
        todo = range(log.rows, ROWS)
        for made in engine.answers((f"a letter to number {row}" for row in todo), indices=todo, samples=SAMPLES, temperature=1.0,
                                   top_p=0.95, max_new_tokens=12):
            outputs.append(Output(text=made.text, predicted=Labels(), tokens=made.tokens, finish=made.finish))
            if len(outputs) == SAMPLES:
                log.add(MinedSample(row=made.index, prompt=str(made.index), gold=Labels(), outputs=outputs, model="m", prompt_format="x"))
                outputs = []
                time.sleep(pause)


if __name__ == "__main__":
    write_answers(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
