"""A pretended ZeroGPU Space: `python -m tests.zero_gpu_app chat|evaluate ...`, a process of its own, because `spaces` changes torch.

It prints what came out as one line of JSON; what was asked of `spaces` stands in $FAKE_SPACES_LOG.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from core.compare.keeping import comparisons_of
from core.serving import serving_of
from tests.helpers import wait_for
from tests.opened_app import opened


def chat(runs: str, model: str) -> dict:
    """A visitor asks two columns under a guard, then something long, and presses Stop; then there is no quota left."""
    with opened(Path(runs)) as app:
        browser = app.browser(**{"x-ip-token": "the visitor's"})
        browser.act_on_page("_open", "chat_page")
        asked = {"Models": [model, model], "Guard": model, "Tokens at most": 8, "Temperature": 1}
        browser.act_on_page("_send", "chat_page", Message="How is a letter written?", **asked)
        made = {"pid": os.getpid(), "first": comparisons_of(app.shown).newest(1)[0].model_dump()}
        log = Path(os.environ["FAKE_SPACES_LOG"])
        before = log.read_text().count("computing")
        long = {**asked, "Tokens at most": 100_000, "Message": "And a book?"}
        sending = threading.Thread(target=browser.act_on_page, args=("_send", "chat_page"), kwargs=long)
        sending.start()
        wait_for(lambda: log.read_text().count("computing") > before or not sending.is_alive(), "the long answer")
        serving_of(app.shown).give_up(browser.session)  # what Stop does
        sending.join()
        made["second"] = comparisons_of(app.shown).newest(1)[0].model_dump()
        os.environ["FAKE_SPACES_REFUSES"] = "1"
        browser.act_on_page("_send", "chat_page", Message="And a poem?", **asked)
        made["refused"] = comparisons_of(app.shown).newest(1)[0].model_dump()
        return made


def evaluate(run_id: str) -> dict:
    """Execute a run in slices that end as soon as something is answered."""
    from core import zero_gpu
    from core.worker import main

    class Short(zero_gpu.SlicedRun):
        def should_stop(self) -> bool:
            answers = self.dir / "predictions.jsonl"
            size = answers.stat().st_size if answers.exists() else 0
            self.begun = getattr(self, "begun", size)
            return size > self.begun

    zero_gpu.SlicedRun = Short
    return {"code": main(run_id), "pid": os.getpid()}


if __name__ == "__main__":
    print(json.dumps({"chat": chat, "evaluate": evaluate}[sys.argv[1]](*sys.argv[2:])))
