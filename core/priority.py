"""A training gives way to whoever waits at a screen: the pages, the checks of a form, and the model worker that answers chats.

A lower priority costs nothing while nobody else wants the processor, and a page needs a few milliseconds of it now and then.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

NICE = 5
"""Where another wants the same core, a process this nice gets a quarter of it: pages and chats come first, a training still gets on."""
TRIES = 20
"""The kernel lets ordinary users regroup a session ten times a second in all: of many ranks that start at once some must ask again."""

GROUP = Path("/proc/self/autogroup")


def give_way() -> None:
    """Lower the priority of this thread, of the threads and processes it starts, and of its session if it leads one.

    Linux with autogroups shares a core between sessions first, and niceness counts only inside a session. A worker is a session of its
    own, so without the second step it would get as much as the app, however nice it is. A session that somebody else leads is left
    alone: it may be a terminal. Harmless where a platform has none of this.
    """
    if not hasattr(os, "setpriority"):  # Windows
        return
    with contextlib.suppress(OSError):  # set, not added: a worker that starts the next one in the queue would hand its niceness on
        os.setpriority(os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))
    if os.getsid(0) != os.getpid():
        return
    for _ in range(TRIES):
        try:
            GROUP.write_text(str(NICE))
            return
        except BlockingIOError:
            time.sleep(0.1)
        except OSError:  # a kernel without autogroups, or a system that hides them
            return
