"""The prompts of a WaltzRL training: on the disk, past the split guard, and which of them each iteration plays."""

from __future__ import annotations

import hashlib
import json
import random
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

from core.files import replace_file
from core.methods import UserError
from core.mining.guarding import GuardTally, marked, refuse_test_rows
from core.split_guard import keep_trained_keys, prompt_key
from core.waltz.protocol import Opening
from core.words import plural

if TYPE_CHECKING:
    from core.runs import Workspace

FILE = "prompts.jsonl"
SIDES = ("harmful", "benign")
Pool = str
"""harmful, benign, or "" where prompts do not say what they are there for."""


@dataclass
class Prompts:
    """Prompts in a file, of which memory holds the places alone. Close it, or use it in a `with`."""

    path: Path
    sha256: str
    tally: GuardTally
    pools: dict[Pool, array[int]]
    """{pool: where each of its lines begins in the file}."""
    _file: IO[bytes] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return sum(map(len, self.pools.values()))

    def __getitem__(self, place: tuple[Pool, int]) -> Opening:
        """The prompt number `place[1]` of a pool."""
        if self._file is None:
            self._file = self.path.open("rb")
        self._file.seek(self.pools[place[0]][place[1]])
        return Opening(**json.loads(self._file.readline()))

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Prompts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def count_prompts(openings: Iterable[Opening], workspace: Workspace) -> tuple[dict[Pool, int], GuardTally]:
    """({pool: prompts that may be used}, what the split guard found). For the look before a start; writes nothing."""
    tally, found = GuardTally(), dict.fromkeys((*SIDES, ""), 0)
    for opening, is_test in marked(openings, _asked, workspace.store, tally):
        found[opening.side or ""] += not is_test
    return {pool: count for pool, count in found.items() if count}, tally


def write_prompts(openings: Iterable[Opening], folder: Path, workspace: Workspace, *, exclude: bool, allow: bool) -> Prompts:
    """Prompts of no test set (or, allow, all) into `folder`, and the keys of what is trained on. UserError where none is left."""
    tally = GuardTally()
    pools: dict[Pool, array[int]] = {}
    keys: set[str] = set()
    digest, place = hashlib.sha256(), 0
    with replace_file(folder / FILE) as file:
        for opening, is_test in marked(openings, _asked, workspace.store, tally):
            if is_test and not allow:
                continue
            line = json.dumps(asdict(opening), ensure_ascii=True, separators=(",", ":")) + "\n"
            file.write(line)
            digest.update(line.encode())
            pools.setdefault(opening.side or "", array("q")).append(place)
            place += len(line)  # ASCII: a letter is a byte
            keys.add(prompt_key(opening.prompt))
    refuse_test_rows(tally, exclude=exclude, allow=allow)
    if not pools:
        why = f": the data holds {tally.hits}" if tally.count else ""
        raise UserError(f"There is no prompt to train on{why}; choose other data.")
    keep_trained_keys(folder, sorted(keys))
    return Prompts(folder / FILE, digest.hexdigest(), tally, pools)


def _asked(opening: Opening) -> tuple[str, str | None]:
    return opening.prompt, None


@dataclass(frozen=True)
class PromptPlan:
    """Which prompts each iteration plays: a function of the seed and the iteration's number alone, so a resumed run goes on in place.

    Each pool is gone through in a new order again and again; no prompt is played twice in an iteration. What does not fill a whole
    iteration at the end of an order has its turn in the next one.
    """

    sizes: dict[Pool, int]
    """{pool: prompts it holds}."""
    shares: dict[Pool, int]
    """{pool: prompts of it in an iteration}."""
    seed: int

    @property
    def prompts(self) -> int:
        """Of one iteration."""
        return sum(self.shares.values())

    def places(self, iteration: int) -> Iterator[tuple[Pool, int]]:
        """(pool, number in it) of each prompt of an iteration; iterations count from 1."""
        for pool, share in self.shares.items():
            per_order = max(1, self.sizes[pool] // share)
            order = _order(self.sizes[pool], f"{self.seed} {pool} {(iteration - 1) // per_order}")
            start = (iteration - 1) % per_order * share
            yield from ((pool, number) for number in order[start:start + share])


@lru_cache(maxsize=8)
def _order(count: int, seed: str) -> array[int]:
    numbers = array("i", range(count))
    random.Random(seed).shuffle(numbers)
    return numbers


def plan_prompts(sizes: dict[Pool, int], prompts: int, benign_share: float, seed: int) -> tuple[PromptPlan, str]:
    """(the plan, a sentence where it is not what was asked for, or ""). sizes: {pool: prompts}, at least one of them."""
    total, unsaid = sum(sizes.values()), sizes.get("", 0)
    sides = [pool for pool in SIDES if sizes.get(pool)]
    odd = prompts * (not sides)
    if sides and unsaid:  # prompts that do not say what they are there for: as often as there are of them
        odd = min(prompts - 1, max(1, round(prompts * unsaid / total)))
    said = prompts - odd
    benign = said * (sides == ["benign"]) if len(sides) < 2 else min(max(round(said * benign_share), 0), said)
    wanted = {pool: count for pool, count in (("harmful", said - benign), ("benign", benign), ("", odd)) if count}
    shares = {pool: min(count, sizes[pool]) for pool, count in wanted.items()}
    plan = PromptPlan(dict(sizes), shares, seed)
    notes = []
    if len(sides) > 1 and unsaid:
        count = {pool: shares.get(pool, 0) for pool in (*SIDES, "")}
        notes.append(f"Of {total:,} prompts {unsaid:,} say no side: {count['']} of the {plan.prompts} in an iteration. benign_share splits "
                     f"the others: {count['harmful']} harmful, {count['benign']} benign.")
    if plan.prompts < prompts:
        held = " and ".join(f"{plural(sizes[pool], 'prompt')} {'of no known side' if not pool else f'that are {pool}'}" for pool in wanted)
        notes.append(f"An iteration plays {plan.prompts} prompts, not {prompts}: there are {held}.")
    return plan, " ".join(notes)
