"""`python -m core.keep`: bring the copies up to date once; exit code 1 with a sentence where that did not work."""

from __future__ import annotations

import sys

from core.keep import place_of
from core.keep.sync import sync
from core.methods import UserError
from core.runs import Workspace


def main() -> int:
    """Waits for another process that is at it."""
    workspace = Workspace()
    try:
        place = place_of(workspace)
        trouble = sync(workspace, place, wait=True) if place else "GUARDWALTZ_KEEP is not set; name a folder or hf://datasets/OWNER/NAME."
    except UserError as error:
        trouble = str(error)
    if trouble:
        print(f"error: {trouble}", file=sys.stderr)
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main())
