"""`python app.py serve-guard run:<id>`: one guard, one process, until Ctrl-C or SIGTERM; requests in work are answered first."""

from __future__ import annotations

import os
import re
import signal
import socket
from ipaddress import ip_address
from typing import Any

from core.guard.batching import Limits
from core.guard.schema import How, how_of
from core.methods import UserError

GRACE = 120
"""Seconds that requests in work have at the end."""


def serve_guard(options: Any) -> int:
    """Serve until the end; UserError for what stands in the way, before the model is loaded where that can be known."""
    key = read_key(options.key)
    if not key and not _is_local(options.host):
        raise UserError(f"--host {options.host} lets other machines ask, so it needs a key: set an environment variable to one and add "
                        "--key '${NAME_OF_VARIABLE}'.")
    limits = limits_of(options)
    how_of(_vote_options(options, options.confidence or "vote"))
    with _listening(options.host, options.port) as listening:
        return _serve(options, key, limits, listening)


def _serve(options: Any, key: str, limits: Limits, listening: socket.socket) -> int:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: idle threads must not spin on cores that others need
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import uvicorn

    from core.guard.batching import Batcher
    from core.guard.classify import Guard
    from core.guard.web import guard_app
    from core.runs import Workspace

    with Guard(options.model, Workspace(), prompt_format=options.prompt_format, device=options.device, dtype=options.dtype,
               engine=options.engine, log=print) as guard:
        how = chosen_how(options, guard)
        if guard.note:
            print(guard.note)
        batcher = Batcher(lambda asked, stop: guard.classify(asked, how, stop), limits)
        facts = {**guard.facts(), "confidence": how.confidence, "samples": how.samples if how.confidence == "vote" else 1}
        app = guard_app(batcher, facts, key=key)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, server_header=False,
                                               timeout_graceful_shutdown=GRACE))
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn ends the server, then passes the signal on
        port = listening.getsockname()[1]
        sure = {"vote": f"a vote of {how.samples}", "log-prob": "log-probabilities", "none": "no confidence"}[how.confidence]
        print(f"{guard.ref} in {guard.prompt_format.name}, with {sure}, is on http://{options.host}:{port}/classify; "
              f"http://{options.host}:{port}/docs describes it", flush=True)
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            pass
        finally:
            batcher.close()
        print("closed; what was asked is answered", flush=True)
    return 0


def chosen_how(options: Any, guard: Any) -> How:
    """What was asked for, or else the best that this guard can give: log-probabilities, where the weights are in this process."""
    wanted = options.confidence
    if wanted is None:
        wanted = "vote" if options.samples else "none" if guard.problem(How(confidence="log-prob")) else "log-prob"
    how = how_of(_vote_options(options, wanted))
    if problem := guard.problem(how):
        raise UserError(problem)
    return how


def _vote_options(options: Any, confidence: str) -> dict[str, Any]:
    given = {"samples": options.samples, "temperature": options.temperature}
    if confidence != "vote" and (unused := next((name for name, value in given.items() if value is not None), None)):
        raise UserError(f"--{unused} is of a vote, and confidence is {confidence} here; add --confidence vote, or leave it out.")
    return {"confidence": confidence, "max_new_tokens": options.max_new_tokens, **given}


def limits_of(options: Any) -> Limits:
    """Checked limits of the queue."""
    for name, value, least in (("max-batch", options.max_batch, 1), ("max-queue", options.max_queue, 1),
                               ("max-wait-ms", options.max_wait_ms, 0), ("patience", options.patience, 1)):
        if not value >= least:
            raise UserError(f"--{name} {value:g} is too small; give {least} or more.")
    if options.max_queue < options.max_batch:
        raise UserError(f"--max-queue {options.max_queue} is smaller than --max-batch {options.max_batch}, so no batch is ever full; "
                        "raise it.")
    return Limits(options.max_batch, options.max_wait_ms, options.max_queue, options.patience)


def read_key(text: str | None) -> str:
    """The key in the environment variable that ${NAME} names. One on the command line is refused: others can read it there."""
    if not text:
        return ""
    match = re.fullmatch(r"\$\{(\w+)\}", text)
    if match is None:
        raise UserError("--key takes ${NAME}, the name of an environment variable that holds the key, in single quotes; "
                        "a key on the command line could be read by others.")
    key = os.environ.get(match[1], "").strip()
    if not key:
        raise UserError(f"--key names the environment variable {match[1]}, which is not set; export {match[1]}=... first.")
    return key


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _listening(host: str, port: int) -> socket.socket:
    """A socket that is bound before the model is loaded; 0 takes a free port."""
    if not 0 <= port < 65536:
        raise UserError(f"{port} is no port; take one from 1024 to 65535, for example --port 7861.")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        raise UserError(f"{host}:{port} cannot be listened on ({error.strerror}); take another --port or --host.") from None
