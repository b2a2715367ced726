"""Verdicts that were given once are not asked for again: they lie in the workspace's store, by judge, prompt and reply.

A missing verdict is not kept: the next run may have more luck.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from core.judges import Judge, Judged
from core.records import Verdict

if TYPE_CHECKING:
    from core.runs import Workspace


class CachedJudge(Judge):
    """Asks the store first, and the judge for what is not there. `asked` and `found` count."""

    name = "cached"
    title = "Cached"

    def __init__(self, judge: Judge, workspace: Workspace) -> None:
        super().__init__(judge.given, workspace)
        self.judge = judge
        self.asked = self.found = 0

    @property
    def identity(self) -> str:
        """That of the judge behind it."""
        return self.judge.identity

    def verdicts(self, items: Sequence[Judged], should_stop: Callable[[], bool] | None = None) -> list[Verdict]:
        """See Judge.verdicts. Equal items of a call are asked about once."""
        identity = self.identity  # once: a guard's is a hash of its weights
        keys = [key_of(identity, item) for item in items]
        known = {key: Verdict.model_validate_json(text) for key, text in self.workspace.store.verdicts(keys).items()}
        unknown = dict(zip(reversed(keys), reversed(items), strict=True))
        todo = [key for key in dict.fromkeys(keys) if key not in known]
        given = self.judge.verdicts([unknown[key] for key in todo], should_stop)
        fresh = dict(zip(todo, given, strict=False))
        self.asked, self.found = self.asked + len(given), self.found + len(items) - len(todo)
        self.workspace.store.keep_verdicts({key: one.model_dump_json(exclude_none=True) for key, one in fresh.items() if not one.missing})
        made = []
        for key in keys:
            one = known.get(key) or fresh.get(key)
            if one is None:  # stopped half-way
                break
            made.append(one)
        return made

    def parts(self) -> list[Judge]:
        """The parts of the judge behind it, each with the store in front of it."""
        parts = self.judge.parts()
        return [self] if parts == [self.judge] else [CachedJudge(part, self.workspace) for part in parts]

    def close(self) -> None:
        """Close the judge behind it."""
        self.judge.close()


def key_of(identity: str, item: Judged) -> str:
    """Everything a verdict depends on, as one hash."""
    return hashlib.sha256(json.dumps([identity, item.prompt, item.reply, item.side]).encode()).hexdigest()
