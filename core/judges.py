"""What a judge is, and how one is named: J(prompt, reply) -> (unsafe, overrefuse).

    rules                    a registered judge without a target
    guard:run:rsft-0001      a registered judge and what it needs
    run:rsft-0001            a model reference alone: a guard that is asked
    openai:<model>@<url>     the same: a guard where the model's name says that it is one, else a judge that asks any chat model
    run:rsft-0001+rules      several: bad as soon as one of them says so, missing where one of them has none
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, get_args

from core.methods import UserError
from core.records import Side, Verdict
from core.refs import HOSTED, Kind, ModelRef, is_folder, parse_model_ref

if TYPE_CHECKING:
    from core.runs import Workspace

GUARD = "guard"
"""The judge that a bare model reference means, where that model is a guard."""


@dataclass(frozen=True)
class Judged:
    """One reply to judge."""

    prompt: str
    reply: str
    side: Side | None = None
    """Where the set of prompts says what a prompt is there for. Rules need it; a guard takes its own word where it is missing."""


class Judge:
    """Says of a reply whether it is unsafe and whether it refuses without need. Return the class from `register_judges`."""

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str] = ""
    target: ClassVar[str] = ""
    """What stands behind the colon of its name ("a guard: any model reference"); "" = nothing does."""

    def __init__(self, target: str, workspace: Workspace) -> None:
        """Cheap: weights and connections are opened by the first call of `verdicts`."""
        self.given, self.workspace = target, workspace

    @classmethod
    def problem(cls, target: str, workspace: Workspace) -> str:
        """Why this judge cannot be used; "" = it can. Looked at before a run starts; loads nothing."""
        return ""

    @classmethod
    def takes(cls, ref: ModelRef) -> bool:
        """Does this model, given without a judge's name before it, mean this judge? Asked where it is a hosted one and no guard."""
        return False

    @property
    def identity(self) -> str:
        """All that its verdicts depend on, for the cache: another text, another judge."""
        return f"{self.name}:{self.given}"

    def verdicts(self, items: Sequence[Judged], should_stop: Callable[[], bool] | None = None) -> list[Verdict]:
        """One verdict for each item, in order. A failure is a verdict with `missing`, never an exception for one item and never a
        guess. May return fewer when stopped."""
        raise NotImplementedError

    def each(self, items: Sequence[Judged], should_stop: Callable[[], bool] | None = None) -> Iterator[tuple[int, Verdict]]:
        """(place in `items`, verdict), in any order. A judge whose verdicts take long gives each as it comes, so that it is kept whatever
        happens to the rest, and makes its `verdicts` of them with `in_order`."""
        yield from enumerate(self.verdicts(items, should_stop))

    def tokens(self) -> tuple[int, int]:
        """How many tokens a service has counted for it: (read, written). Nothing where it is not asked over the net."""
        return 0, 0

    def parts(self) -> list[Judge]:
        """The judges that it asks, in the order of its name; itself where it asks none."""
        return [self]

    def close(self) -> None:
        """Give back what it holds."""


def in_order(each: Iterable[tuple[int, Verdict]]) -> list[Verdict]:
    """What `Judge.each` gave, as `Judge.verdicts` gives it: in order, up to the first that is not there."""
    found = dict(each)
    return [found[place] for place in itertools.takewhile(found.__contains__, itertools.count())]


def open_judge(text: str, workspace: Workspace) -> Judge:
    """The judge that `text` names (see above); UserError says which names there are."""
    parts = part_names(text)
    if not all(parts):
        raise UserError(f"judge = {text!r} names no judge; known: {_known(workspace)}.")
    opened = [_open_one(part, workspace) for part in parts]
    return opened[0] if len(opened) == 1 else AnyOf(opened, workspace)


def part_names(text: str) -> list[str]:
    """The judges that the judge `text` is made of: "run:rsft-0001+rules" gives both; the same order as `Judge.parts`."""
    return [part.strip() for part in text.split("+")]


def guards_in(text: str) -> list[str]:
    """References of the models that the judge `text` asks: `run:rsft-0001` of "guard:run:rsft-0001+rules"."""
    return [ref for part in part_names(text) if (ref := _model_in(part))]


def _model_in(part: str) -> str:
    """The reference with a colon, or the folder, that a judge is or has behind its name; "" = neither."""
    for text in (part, part.partition(":")[2]):
        if (text.partition(":")[0] in get_args(Kind) and ":" in text) or ("/" in text and is_folder(text)):
            return text
    return ""


def asks_hosted(text: str) -> bool:
    """Does the judge `text` ask a model that computes elsewhere, which may cost money?"""
    return any(ref.partition(":")[0] in HOSTED for ref in guards_in(text))


def judge_problem(text: str, workspace: Workspace) -> str:
    """Why this judge cannot be used; "" = it can."""
    try:
        judges = [_open_one(part, workspace) for part in part_names(text)]
    except UserError as error:
        return str(error)
    return next((problem for judge in judges if (problem := judge.problem(judge.given, workspace))), "")


def _open_one(text: str, workspace: Workspace) -> Judge:
    known = workspace.plugins.judges
    name, _, target = text.partition(":")
    if name in known:
        kind = known[name]
        if bool(kind.target) != bool(target):
            raise UserError(f"judge = {text!r}: {name} needs {kind.target} after a colon." if kind.target
                            else f"judge = {text!r}: {name} takes nothing after its name.")
        return kind(target, workspace)
    try:
        ref = parse_model_ref(text)
    except UserError:
        raise UserError(f"There is no judge {text!r}; known: {_known(workspace)}.") from None
    if not ref.has_weights and (GUARD not in known or known[GUARD].problem(text, workspace)) and (
            other := next((kind for kind in known.values() if kind.takes(ref)), None)):
        return other(text, workspace)
    if GUARD not in known:
        raise UserError(f"judge = {text!r} is a model, but no judge {GUARD!r} is registered that could ask it.")
    return known[GUARD](text, workspace)


def _known(workspace: Workspace) -> str:
    names = [f"{name}:<{kind.target}>" if kind.target else name for name, kind in workspace.plugins.judges.items()]
    return ", ".join([*names, "run:<id> of a guard", "openai:<model>@<base url>"])


class AnyOf(Judge):
    """Several judges: a fault counts as soon as one of them sees it."""

    name = "any of"
    title = "Any of several"

    def __init__(self, judges: list[Judge], workspace: Workspace) -> None:
        super().__init__("+".join(judge.identity for judge in judges), workspace)
        self.judges = judges

    @property
    def identity(self) -> str:
        """The identities of all, joined."""
        return self.given

    def verdicts(self, items: Sequence[Judged], should_stop: Callable[[], bool] | None = None) -> list[Verdict]:
        """See Judge.verdicts."""
        each = [judge.verdicts(items, should_stop) for judge in self.judges]
        return [joined(said, self.identity) for said in zip(*each, strict=False)]

    def tokens(self) -> tuple[int, int]:
        """Of all together."""
        counted = [judge.tokens() for judge in self.judges]
        return sum(read for read, _ in counted), sum(written for _, written in counted)

    def parts(self) -> list[Judge]:
        """All of them."""
        return self.judges

    def close(self) -> None:
        """Close all of them."""
        for judge in self.judges:
            judge.close()


def joined(said: Sequence[Verdict], identity: str) -> Verdict:
    """What several judges say of one reply, together: each fault that one of them sees; missing where one of them has no verdict."""
    missing = [f"{one.judge}: {one.missing}" for one in said if one.good is None]
    if missing:
        return Verdict(judge=identity, missing="; ".join(missing))
    return Verdict(judge=identity, unsafe=any(one.unsafe for one in said), overrefuse=any(one.overrefuse for one in said),
                   explanation="; ".join(f"{one.judge}: {one.explanation}" for one in said if one.explanation))
