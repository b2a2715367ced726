"""`guard-to-feedback`: labelled replies become feedback to learn, with true labels in both of the feedback agent's formats."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from core import ChatExample, Method, Problem, Stage, UserError, hookimpl
from core.chat.labelled import KINDS, LabelledConfig, LabelledJob
from core.chat.saving import refused_rows, save_report, save_sets
from core.methods import short_path
from core.words import plural

if TYPE_CHECKING:
    from collections.abc import Iterator

    from core.active import ActiveRun


class GuardToFeedback(Method):
    """unsafe = the response is harmful; overrefuse = the request is unharmful and the completion a refusal."""

    name = "guard-to-feedback"
    title = "Labelled replies to feedback"
    summary = "Prompts with labelled replies become examples for the feedback agent, with true unsafe and over-refusal labels."
    stage = Stage.DATA
    paper = "https://arxiv.org/abs/2510.08240"
    lane = "instant"
    makes = ("data",)
    resumable = False

    class Config(LabelledConfig):
        """Which rows, and how the feedback about them is written."""

    def check(self, config: Config) -> list[Problem]:
        """Are there rows of each kind that may be used?"""
        try:
            job = LabelledJob(config, self.workspace)
            with refused_rows() as refused:
                job.survey(refused)
            job.refuse_nothing_left(refused)
        except UserError as error:
            tests = "exclude_test_rows=true" in str(error)
            return [Problem(str(error), "data", fix={"exclude_test_rows": True} if tests else None,
                            fix_label="Leave them out" if tests else None)]
        found = []
        if refused.count:
            found.append(Problem(f"{plural(refused.count, 'row')} cannot be used and will be listed: "
                                 f"{refused.reasons.most_common(1)[0][0]}.", "data", severity="warning"))
        if job.spared:
            found.append(Problem(job.spared, "least_share", severity="warning"))
        if missing := _missing(Counter({kind: 1 for kind, _ in job.there})):
            found.append(Problem(missing, "data", severity="warning"))
        return found

    def describe(self, config: Config) -> str:
        """The set and the format."""
        return f"{short_path(config.data)} as {config.format}"

    def run(self, config: Config, run: ActiveRun) -> None:
        """One set, data.jsonl."""
        job = LabelledJob(config, run.workspace)
        with refused_rows(run) as refused:
            job.survey(refused)
            job.refuse_nothing_left(refused)
        taken: Counter[tuple[str, ...]] = Counter()

        def rows() -> Iterator[tuple[str, ChatExample]]:
            for cell, example in job.chosen():
                taken[cell] += 1
                yield "data", example

        if config.name:
            run.set_labels(name=config.name)
        described = save_sets(run, rows())
        save_report(run, described, refused, {
            "name": run.name, "format": f"feedback as {config.format}", "source": config.data, "sample": job.sample(taken),
            "not_training": job.not_training, "duplicates_dropped": job.duplicates,
            "conflicting_labels": job.conflicts,
            **job.tests.record(dropped=not config.allow_test_rows)})
        if refused.count:
            run.notice(f"{plural(refused.count, 'row')} cannot be used and are listed in bad_rows.jsonl: "
                       f"{refused.reasons.most_common(1)[0][0]}.", "warning")
        if job.conflicts:
            run.notice(f"{plural(job.conflicts, 'row')} contradict the labels of another row with the same texts; the first one is kept.",
                       "warning")
        if job.spared:
            run.notice(job.spared)
        if missing := _missing(Counter({kind: 1 for kind, _ in taken})):
            run.notice(missing, "warning")


def _missing(kinds: Counter[str]) -> str:
    """What an agent that learns from these rows never sees; "" = it sees everything."""
    gone = [kind for kind in KINDS if not kinds[kind]]
    return f"No row is of the kind {' or '.join(gone)}: an agent cannot learn to tell it. Mix in a set that has such rows." if gone else ""


@hookimpl
def register_methods() -> list[type[Method]]:
    """The one method of this file."""
    return [GuardToFeedback]
