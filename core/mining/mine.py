"""Mining as a run: rows, k answers each, outputs.jsonl line by line, then hard.jsonl and the report. A killed run goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from core.answer_log import AnswerLog
from core.methods import UserError
from core.mining.ahead import FILE as AHEAD_FILE
from core.mining.ahead import Ahead, Answer
from core.mining.answering import answered_rows, open_answers
from core.mining.begun import begin, is_noted, note_engine
from core.mining.outputs import FILE, HARD_FILE, read_outputs
from core.mining.plan import Plan, make_plan, notes
from core.mining.rows import Asked, refuse, rows_to_ask
from core.mining.samples import as_hard
from core.mining.summary import Summary
from core.records import MinedSample, Output
from core.words import plural

if TYPE_CHECKING:
    from core.active import ActiveRun


class Speed(NamedTuple):
    """Rows that this process answered (a resumed run found the others), and the seconds it took, loading left out."""

    rows: int
    seconds: float

    @property
    def rows_per_second(self) -> float:
        """0 where nothing was left to answer."""
        return self.rows / self.seconds if self.rows else 0.0


def mine(config: Any, run: ActiveRun) -> None:
    """Ask, write down, count, report."""
    plan = make_plan(config, run.workspace)
    refuse(plan.survey, plan.source, plan.prompt_format, exclude_test_rows=config.exclude_test_rows, allow_test_rows=config.allow_test_rows)
    begun = begin(plan, config, run)
    _say(plan, config, run)
    summary = Summary(config.k, config.unparsed)
    speed = _ask(plan, config, run, summary, begun)
    count = run.save_records(HARD_FILE.removesuffix(".jsonl"), _hard_samples(run.dir / FILE, config.unparsed))
    report = _report(plan, config, run, summary, begun, speed)
    run.save_report(report)
    run.stats(Rows=f"{summary.rows:,}", Hard=f"{count:,}", **({"Speed": f"{speed.rows_per_second:.2g} rows/s"} if speed.rows else {}))
    if not count:
        run.notice(summary.nothing_hard(), "warning")
    run.log(report["headline"])


def _ask(plan: Plan, config: Any, run: ActiveRun, summary: Summary, begun: dict[str, Any]) -> Speed:
    """Answer the rows that are still open."""
    total, path = plan.survey.mined, run.dir / FILE
    rows = rows_to_ask(plan.source, run.workspace, plan.prompt_format, plan.survey, seed=config.seed,
                       allow_test_rows=config.allow_test_rows)
    with AnswerLog(path) as log:
        first = _take_up(path, rows, summary, run)
        if summary.rows:
            run.log(f"{plural(summary.rows, 'row')} from before are kept")
        run.progress(summary.rows, total, "rows")
        started, before = time.monotonic(), summary.rows
        if before < total:
            run.log(f"loading {plan.found.ref}")
            with open_answers(config, plan.found.ref, run) as engine, Ahead(run.dir / AHEAD_FILE, first) as kept:
                if not is_noted(engine, begun):
                    kept.forget()  # answers of another engine: a row has all its answers from one; they go before the engine is noted
                note_engine(engine, summary.rows, begun, run)
                if kept.held:
                    run.log(f"{plural(len(kept.held), 'answer')} to later rows from before are kept")
                started = time.monotonic()

                def working(finished: int, running: int, tokens: int) -> None:  # rows come in order, so the first may be long in coming
                    run.progress(summary.rows, total, "rows", detail=f"{finished:,} answers, {running} in work, {tokens:,} tokens")

                for asked, answers in answered_rows(engine, rows, plan.prompt_format, plan.sampling(config), run.should_stop, working,
                                                    kept):
                    sample = as_sample(asked, answers, plan.found.ref, plan.prompt_format)
                    log.add(sample)
                    summary.add(sample)
                    _tell(run, summary, total, before, time.monotonic() - started)
                if summary.rows == total:
                    kept.done()
        speed = Speed(summary.rows - before, time.monotonic() - started)
    run.stop_if_asked()
    if summary.rows != total:
        raise RuntimeError(f"the engine answered {summary.rows} of {total} rows and ended")
    return speed


def as_sample(asked: Asked, answers: list[Answer], model: str, prompt_format: Any) -> MinedSample:
    """The record of one row. A label that cannot be read stays None; it is counted, never guessed."""
    example = asked.question.example
    outputs = [Output(text=made.text, predicted=prompt_format.parse(made.text, example).labels, tokens=made.tokens, finish=made.finish)
               for made in answers]
    return MinedSample(row=asked.row, prompt=example.prompt, response=example.response, gold=example.labels, outputs=outputs, model=model,
                       prompt_format=prompt_format.name, source=example.source, category=example.category)


def _take_up(path: Path, rows: Iterator[Asked], summary: Summary, run: ActiveRun) -> int:
    """Count the rows that a killed or stopped run left, and move `rows` past them; they must be the rows of today. Returns the number that
    comes after theirs."""
    last = -1
    for sample in read_outputs(path):
        asked = next(rows, None)
        if asked is None or _place(asked) != (sample.row, sample.prompt, sample.response):
            raise UserError(f"The rows to mine have changed since {run.id} began (its row {sample.row} is not the next one now); start a "
                            "new mining run.")
        summary.add(sample)
        last = sample.row
    return last + 1


def _place(asked: Asked) -> tuple[int, str, str | None]:
    return asked.row, asked.question.example.prompt, asked.question.example.response


def _tell(run: ActiveRun, summary: Summary, total: int, before: int, seconds: float) -> None:
    """Progress and curves while running: about 200 points, the last row always."""
    done = summary.rows
    rate = (done - before) / seconds if seconds else 0.0
    run.progress(done, total, "rows", detail=f"{rate:.2g} rows/s, {summary.hard:,} hard")
    if done == total or done % max(1, total // 200) == 0:
        run.metrics(done, hard_share=summary.hard / done, rows_per_second=round(rate, 3))
        run.stats(Rows=f"{done:,}", Hard=f"{summary.hard:,} ({100 * summary.hard / done:.1f} %)", Speed=f"{rate:.2g} rows/s")


def _hard_samples(path: Path, unparsed: Any) -> Iterator[Any]:
    return (hard for sample in read_outputs(path) if (hard := as_hard(sample, unparsed)))


def _say(plan: Plan, config: Any, run: ActiveRun) -> None:
    """What a reader of the run must know about its beginning."""
    counted = plan.survey
    run.log(f"prompt format {plan.prompt_format.name}; {plural(counted.mined, 'row')} of {plan.source.name}, {config.k} answers each")
    if plan.note:
        run.notice(plan.note)
    for line in notes(plan):
        run.log(line)
    if counted.tests.count:
        fate = "Mined although they are test rows (allow_test_rows)" if config.allow_test_rows else "Left out"
        run.notice(f"{fate}: {counted.tests.hits}.", "warning" if config.allow_test_rows else "info")


def _report(plan: Plan, config: Any, run: ActiveRun, summary: Summary, begun: dict[str, Any], speed: Speed) -> dict[str, Any]:
    source, tests = plan.source, plan.survey.tests
    return {
        "kind": "mine-hard-samples", "run": run.id, "headline": summary.headline(), "model": plan.found.ref, "base": plan.found.base,
        "model_identity": begun["model"], "prompt_format": plan.prompt_format.name,
        "data": {"name": source.name, "sha256": begun["data_sha256"], "run": source.run.id if source.run else None,
                 "file": str(source.path), **plan.survey.record()},
        "split_guard": tests.record(dropped=not config.allow_test_rows),
        "test_rows_overridden": bool(tests.count and config.allow_test_rows),
        "test_rows_used": tests.count if config.allow_test_rows else 0,
        "overrides": _overrides(tests.count, config.allow_test_rows, run),
        "settings": {"k": config.k, "temperature": config.temperature, "top_p": config.top_p, "unparsed": config.unparsed,
                     "max_new_tokens": begun["max_new_tokens"], "limit": config.limit, "seed": config.seed},
        "engines": begun["engines"], **summary.record(),
        "speed": {"rows": speed.rows, "seconds": round(speed.seconds, 2), "rows_per_second": round(speed.rows_per_second, 3)},
        "notes": [*([plan.note] if plan.note else []), *notes(plan), *([] if summary.hard else [summary.nothing_hard()])],
    }


def _overrides(used: int, allowed: bool, run: ActiveRun) -> list[dict[str, Any]]:
    if not (used and allowed):
        return []
    return [{"run": run.id, "setting": "allow_test_rows", "rows": used,
             "text": f"{run.id} ran with allow_test_rows=true: {plural(used, 'row')} of registered test sets were mined."}]
