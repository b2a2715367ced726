"""The log of answers: whole lines are the cursor, whatever happens to the process that writes."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.answer_log import AnswerLog, _alone, count_rows, read_log
from core.methods import UserError
from core.records import Labels, MinedSample, Output, Prediction
from tests.fakes.answer_writer import ROWS, write_answers
from tests.helpers import wait_for

REPOSITORY = Path(__file__).parents[1]

def sample(row: int) -> MinedSample:
    return MinedSample(row=row, prompt=f"prompt\u2028{row}", gold=Labels(request="harmful"), model="m", prompt_format="f",
                       outputs=[Output(text="Answers: ä\n", predicted=Labels(request="harmful"), tokens=3)])


def test_any_record_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "outputs.jsonl"
    with AnswerLog(path) as log:
        log.add(sample(0))
        log.add(sample(1), sample(2))
        log.add()
        assert log.rows == count_rows(path) == 3, "rows are not in the file when add returns"
    assert list(read_log(path, MinedSample)) == [sample(0), sample(1), sample(2)]
    assert AnswerLog(path).rows == 3
    prediction = Prediction(row=0, model="m", prompt="p", gold=Labels(), predicted=Labels(), parsed={"request": True}, text="t")
    with AnswerLog(tmp_path / "predictions.jsonl") as log:
        log.add(prediction)
    assert list(read_log(tmp_path / "predictions.jsonl", Prediction)) == [prediction]
    assert list(read_log(tmp_path / "none.jsonl", Prediction)) == []
    assert (count_rows(tmp_path / "none.jsonl"), AnswerLog(tmp_path / "none.jsonl").rows) == (0, 0)


def test_opening_takes_no_line_away_that_another_writer_adds_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "edits.jsonl"
    with AnswerLog(path) as other:
        other.add(sample(0))
        look = Path.stat

        def stat(self: Path, **how: bool) -> os.stat_result:
            other.add(sample(1))
            return look(self, **how)

        monkeypatch.setattr(Path, "stat", stat)
        with AnswerLog(path) as log:
            monkeypatch.undo()
            log.add(sample(2))
        assert [item.row for item in read_log(path, MinedSample)] == [0, *[1] * (other.rows - 1), 2]


def test_a_line_that_is_being_written_is_not_taken_for_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    line = sample(0).model_dump_json(exclude_none=True).encode() + b"\n"
    with ThreadPoolExecutor(1) as threads, path.open("ab", buffering=0) as file, _alone(file):
        file.write(line[:9])
        opened = threads.submit(AnswerLog, path)
        with pytest.raises(TimeoutError):
            opened.result(0.5)
        file.write(line[9:])
        fcntl.flock(file, fcntl.LOCK_UN)
        assert opened.result(60).rows == 1
    assert path.read_bytes() == line


@pytest.mark.parametrize("torn", [b'{"row":1,"prom', b"\xc3", b""])
def test_a_torn_last_line_is_cut_off(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "outputs.jsonl"
    with AnswerLog(path) as log:
        log.add(sample(0))
    path.write_bytes(path.read_bytes() + torn)
    assert [item.row for item in read_log(path, MinedSample)] == [0]
    assert count_rows(path) == 1
    with AnswerLog(path) as log:
        assert log.rows == 1
        log.add(sample(1))
    assert list(read_log(path, MinedSample)) == [sample(0), sample(1)]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "outputs.jsonl"
    path.write_text(sample(0).model_dump_json() + "\n" + '{"row": 1}\n' + sample(2).model_dump_json() + "\n")
    with pytest.raises(UserError, match=r"outputs\.jsonl, line 2 is damaged \(.*\); mine again\."):
        list(read_log(path, MinedSample, "mine again"))


@pytest.mark.kill
def test_a_killed_writer_goes_on_where_it_was(tiny_model: Path, tmp_path: Path) -> None:
    """kill -9 in the middle, then resumed: the file is byte for byte that of a run that nothing happened to."""
    path, whole = tmp_path / "killed" / "outputs.jsonl", tmp_path / "whole" / "outputs.jsonl"
    path.parent.mkdir()
    whole.parent.mkdir()
    writer = subprocess.Popen([sys.executable, "-m", "tests.fakes.answer_writer", str(tiny_model), str(path), "0.05"], cwd=REPOSITORY)
    try:
        write_answers(str(tiny_model), whole)
        wait_for(lambda: count_rows(path) >= 5, "five rows")
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    before = path.read_bytes()
    assert 5 <= count_rows(path) < ROWS, "the writer was over before it was killed"
    path.write_bytes(before + b'{"row":7,"pro')  # as if the kill had come within a write
    write_answers(str(tiny_model), path)
    assert path.read_bytes().startswith(before), "rows that were written did not stay"
    assert path.read_bytes() == whole.read_bytes()
    assert [json.loads(line)["row"] for line in path.read_text().splitlines()] == list(range(ROWS))
