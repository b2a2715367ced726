"""Verdicts that were given once are not asked for again: they lie in the workspace's store, by judge, prompt and reply.

A missing verdict is not kept: the next run may have more luck. The others are written as they come, so that what was asked, and perhaps
paid for, is there after an error or a kill. Of several judges each one's verdicts are kept besides those of all together.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from core.judges import AnyOf, Judge, Judged
from core.records import Verdict

if TYPE_CHECKING:
    from core.active import ActiveRun
    from core.runs import Workspace


AT_ONCE = 16
"""Verdicts that are written together."""


class CachedJudge(Judge):
    """Asks the store first, and the judge for what is not there. `asked` and `found` count."""

    name = "cached"
    title = "Cached"

    def __init__(self, judge: Judge, workspace: Workspace) -> None:
        super().__init__(judge.given, workspace)
        self.judge = AnyOf([CachedJudge(part, workspace) for part in judge.parts()], workspace) if isinstance(judge, AnyOf) else judge
        self.asked = self.found = 0

    @property
    def identity(self) -> str:
        """That of the judge behind it."""
        return self.judge.identity

    def verdicts(self, items: Sequence[Judged], should_stop: Callable[[], bool] | None = None) -> list[Verdict]:
        """See Judge.verdicts. Equal items of a call are asked about once."""
        identity = self.identity  # once: it may be a hash of weights
        keys = [key_of(identity, item) for item in items]
        known = {key: Verdict.model_validate_json(text) for key, text in self.workspace.store.verdicts(keys).items()}
        unknown = dict(zip(reversed(keys), reversed(items), strict=True))
        todo = [key for key in dict.fromkeys(keys) if key not in known]
        self.found += len(items) - len(todo)
        fresh: dict[str, Verdict] = {}
        written = 0
        try:
            for place, verdict in self.judge.each([unknown[key] for key in todo], should_stop):
                fresh[todo[place]] = verdict
                if len(fresh) >= written + AT_ONCE:
                    written = self._keep(fresh, written)
        finally:
            self._keep(fresh, written)
            self.asked += len(fresh)
        made = []
        for key in keys:
            one = known.get(key) or fresh.get(key)
            if one is None:  # stopped half-way
                break
            made.append(one)
        return made

    def _keep(self, given: dict[str, Verdict], written: int) -> int:
        """Write all but the first `written`; returns how many are written then."""
        new = {key: one.model_dump_json(exclude_none=True) for key, one in itertools.islice(given.items(), written, None)
               if not one.missing}
        if new:
            self.workspace.store.keep_verdicts(new)
        return len(given)

    def tokens(self) -> tuple[int, int]:
        """Those of the judge behind it."""
        return self.judge.tokens()

    def parts(self) -> list[Judge]:
        """The parts of the judge behind it, each with the store in front of it."""
        return self.judge.parts() if isinstance(self.judge, AnyOf) else [self]

    def close(self) -> None:
        """Close the judge behind it."""
        self.judge.close()


def tell_tokens(judge: Judge, run: ActiveRun) -> None:
    """One line of the log on what was asked over the net, also where the run ends badly: it may have to be paid. Prices are not known."""
    read, written = judge.tokens()
    if read or written:
        run.log(f"the judge read {read:,} and wrote {written:,} tokens over the net in this session, as its server counts them")


def key_of(identity: str, item: Judged) -> str:
    """Everything a verdict depends on, as one hash."""
    return hashlib.sha256(json.dumps([identity, item.prompt, item.reply, item.side]).encode()).hexdigest()
