"""Open the app: build the pages, start what waits in the queue, print the address."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
import time
import webbrowser
from typing import Any

from core.methods import UserError
from core.runs import Workspace

MAX_UPLOAD = "200mb"
PUMP_EVERY = 1.0


def serve(port: int = 7860, listen: bool = False, share: bool = False, auth: str | None = None, root_path: str = "",
          page: str = "") -> None:
    """Serve until Ctrl-C. Runs go on afterwards: they are processes of their own. `page`: opened in a browser, if there is one."""
    login = read_auth(auth)
    if (listen or share) and login is None:
        flag = "--listen" if listen else "--share"
        raise UserError(f"{flag} lets other people start runs here, so it needs a login: set an environment variable to a password "
                        f"and add --auth 'USER:${{NAME_OF_VARIABLE}}'.")
    host = "0.0.0.0" if listen else "127.0.0.1"
    refuse_taken_port(host, port)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported
    workspace = Workspace()
    demo = _built(workspace)
    stop = threading.Event()
    threading.Thread(target=_pump, args=(workspace, stop), name="pump", daemon=True).start()
    try:
        _launch(demo, host, port, share, login, root_path)
        print(f"GuardWaltz is on http://{'127.0.0.1' if not listen else socket.gethostname()}:{port}{root_path}{page}", flush=True)
        if page and _has_screen():
            webbrowser.open(f"http://127.0.0.1:{port}{root_path}{page}")
        threading.Thread(target=_warm, name="warm", daemon=True).start()
        _wait()
    finally:
        stop.set()
        _close(demo, workspace)


def _has_screen() -> bool:
    """Without one, Python would open a text browser in this very terminal."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def read_auth(auth: str | None) -> tuple[str, str] | None:
    """("user", password) of USER:${NAME}. A password on the command line is refused: others can read it there."""
    if not auth:
        return None
    match = re.fullmatch(r"([^:]+):\$\{(\w+)\}", auth)
    if match is None:
        raise UserError("--auth takes USER:${NAME}, the name of an environment variable that holds the password, in single quotes; "
                        "a password on the command line could be read by others.")
    password = os.environ.get(match[2], "")
    if not password:
        raise UserError(f"--auth names the environment variable {match[2]}, which is not set; export {match[2]}=... first.")
    return match[1], password


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


def _built(workspace: Workspace) -> Any:
    from core.ui.build import build

    return build(workspace)


def _launch(demo: Any, host: str, port: int, share: bool, login: tuple[str, str] | None, root_path: str) -> None:
    from core.ui import theme

    demo.queue(default_concurrency_limit=16)  # events only read folders; several browsers must not wait for each other
    demo.launch(server_name=host, server_port=port, share=share, auth=[login] if login else None, root_path=root_path or None,
                quiet=True, prevent_thread_lock=True, run_history=False, ssr_mode=False, footer_links=[], show_error=False,
                max_file_size=MAX_UPLOAD, enable_monitoring=False, theme=theme.theme(), head=theme.head())
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


def _close(demo: Any, workspace: Workspace) -> None:
    from core.serving import serving_of
    from core.ui.checks import checks_of

    checks_of(workspace).close()
    serving_of(workspace).close()
    demo.close(verbose=False)
