"""`python -m core.keep`: bring the copies up to date once; exit code 1 with a sentence where that did not work."""

from __future__ import annotations

import sys

from core.keep import VARIABLE, place_of
from core.keep.sync import Synced, sync
from core.methods import UserError
from core.runs import Workspace


def main() -> int:
    """Waits for another process that is at it."""
    workspace = Workspace()
    try:
        place = place_of(workspace)
        done = sync(workspace, place, wait=True) if place else Synced(f"{VARIABLE} is not set; name a folder or hf://datasets/OWNER/NAME.")
    except UserError as error:
        done = Synced(str(error))
    for line in done.notes:
        print(f"note: {line}", file=sys.stderr)
    if done.trouble:
        print(f"error: {done.trouble}", file=sys.stderr)
    return 1 if done.trouble else 0


if __name__ == "__main__":
    sys.exit(main())
