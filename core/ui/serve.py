"""Open the app: build the pages, start what waits in the queue, print the address."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
import webbrowser
from typing import Any

from core import keep
from core.access import read_settings
from core.methods import UserError
from core.runs import Workspace
from core.serving import serving_of
from core.shipped import place
from core.ui.door import Door, open_door

PUMP_EVERY = 1.0
FORGET_EVERY = 600.0
"""Seconds between two looks for rehearsals of visitors that are old enough to be deleted."""
LAST_COPY = 7.0
"""Seconds that the end waits for a copy of what was saved last: `docker stop` gives ten for everything."""


def serve(port: int = 7860, listen: bool = False, share: bool = False, auth: str | None = None, root_path: str = "",
          page: str = "") -> None:
    """Serve until Ctrl-C. Runs go on afterwards: they are processes of their own. `page`: opened in a browser, if there is one."""
    door = open_door(read_settings(), listen=listen, share=share, auth=auth)
    refuse_taken_port(door.host, port)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported
    workspace = Workspace()
    fill(workspace)
    shown, demo = built(workspace, door)
    stop = threading.Event()
    threading.Thread(target=_pump, args=(workspace, stop), name="pump", daemon=True).start()
    keeper = threading.Thread(target=keep.watch, args=(workspace, stop, _say), name="keep", daemon=True)
    keeper.start()
    if door.public:
        threading.Thread(target=_forget, args=(workspace, door, stop), name="forget", daemon=True).start()
    try:
        launch(demo, door, workspace, port, share, root_path)
        print(f"GuardWaltz is on http://{'127.0.0.1' if not listen else socket.gethostname()}:{port}{root_path}{page}", flush=True)
        if page and _has_screen():
            webbrowser.open(f"http://127.0.0.1:{port}{root_path}{page}")
        threading.Thread(target=_warm, name="warm", daemon=True).start()
        _wait()
    finally:
        stop.set()
        close(demo, shown)
        keeper.join(LAST_COPY)


def fill(workspace: Workspace) -> None:
    """What was kept comes back; a workspace that is empty all the same shows the study that ships with the app. Not while kept runs are
    still to come: theirs may be the names of the study's."""
    if keep.bring_back(workspace, _say):
        place(workspace)


def _say(text: str) -> None:
    """A line for whoever reads the app's log."""
    print(text, flush=True)


def _has_screen() -> bool:
    """Without one, Python would open a text browser in this very terminal."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def refuse_taken_port(host: str, port: int) -> None:
    """A plain sentence instead of a traceback from the server."""
    if not 0 < port < 65536:
        raise UserError(f"{port} is no port; take one from 1024 to 65535, for example --port 7860.")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            other = port + 1 if port < 65535 else 7860
            raise UserError(f"Port {port} cannot be used ({error.strerror}); GuardWaltz may be open already on http://127.0.0.1:{port}. "
                            f"Take another one: --port {other}.") from None


def built(workspace: Workspace, door: Door) -> tuple[Workspace, Any]:
    """(the workspace as those who come in see it, the pages over it)."""
    from core.ui.build import build

    shown = Workspace(workspace.runs_dir, door.access(workspace))
    serving_of(shown)  # it may hold a function of ZeroGPU, which must be known before the app opens
    return shown, build(shown, sign_out=door.oauth)


def launch(demo: Any, door: Door, workspace: Workspace, port: int, share: bool = False, root_path: str = "") -> None:
    """Answer requests, in threads of this process."""
    from core.ui import theme
    from core.ui.sessions import lighten

    demo.queue(default_concurrency_limit=16)  # events only read folders; several browsers must not wait for each other
    demo.launch(server_name=door.host, server_port=port, share=share, auth=[door.login] if door.login else None,
                root_path=root_path or None, quiet=True, prevent_thread_lock=True, run_history=False, ssr_mode=False, footer_links=[],
                show_error=False, max_file_size=f"{door.settings.upload_mb}mb", enable_monitoring=False, theme=theme.theme(),
                head=theme.head(), app_kwargs={"middleware": door.layers(demo, workspace)})
    lighten(demo)
    if share:
        print(f"shared on {demo.share_url}", flush=True)


def _pump(workspace: Workspace, stop: threading.Event) -> None:
    """Start what waits, also when nobody looks."""
    from core.jobs import pump

    while not stop.wait(PUMP_EVERY):
        try:
            pump(workspace)
        except Exception as error:  # a locked or full disk now must not end the queue for good
            print(f"queue: {type(error).__name__}: {error}", flush=True)
            stop.wait(10)


def _forget(workspace: Workspace, door: Door, stop: threading.Event) -> None:
    """Old rehearsals of visitors go, so that the disk of a public demo does not fill up."""
    from core.visitors import forget_old

    while not stop.wait(FORGET_EVERY):
        try:
            if gone := forget_old(workspace, door.settings.limits):
                print(f"deleted old rehearsals of visitors: {', '.join(gone)}", flush=True)
        except Exception as error:  # a folder may be gone or locked now, and not in ten minutes
            print(f"visitors: {type(error).__name__}: {error}", flush=True)


def _warm() -> None:
    """Import plotly before the first chart asks for it."""
    import plotly.graph_objects  # noqa: F401


def _wait() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `docker stop` closes like Ctrl-C
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print("closed; running runs go on, and wait for you on the Runs page", flush=True)


def close(demo: Any, workspace: Workspace) -> None:
    """End the answering, and the helpers of the pages."""
    from core.ui.checks import checks_of

    checks_of(workspace).close()
    serving_of(workspace).close()
    demo.close(verbose=False)
