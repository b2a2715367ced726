"""requirements.txt, from which a Space and the Dockerfile install: written from pyproject.toml by `python -m core.requirements`."""

from __future__ import annotations

import sys
import tomllib

from core.files import write_text
from core.runs import REPOSITORY

PATH = REPOSITORY / "requirements.txt"
CPU_BUILD = "https://download.pytorch.org/whl/cpu"
HEAD = f"""# Written from pyproject.toml by `python -m core.requirements`; a test keeps them the same.
# The index below has PyTorch's CPU build (0.2 GB). On a Space with a GPU delete that line: then the CUDA build comes (3 GB).
--extra-index-url {CPU_BUILD}
"""


def text() -> str:
    """What the file has to hold."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return HEAD + "\n".join(project["dependencies"]) + "\n"


def main() -> int:
    """Write it; with --check only say whether it is current."""
    if "--check" not in sys.argv:
        write_text(PATH, text())
        return 0
    current = PATH.exists() and PATH.read_text(encoding="utf-8") == text()
    print(f"{PATH.name} is current" if current else f"{PATH.name} is not what pyproject.toml says; run: make docs")
    return 0 if current else 1


if __name__ == "__main__":
    sys.exit(main())
