"""What can be picked for a field that takes another run's output, or a format's name. Read anew each time a page loads."""

from __future__ import annotations

from core.data import AGENT_SETS, holds_chat, row_files
from core.methods import FromRun, OneOf
from core.runs import Run, Workspace

Choice = tuple[str, str]
EMBEDDED: Choice = ("embedded · SmolLM2-135M-Instruct", "embedded")


AUTO: Choice = ("auto", "auto")


def choices_for(workspace: Workspace, mark: FromRun | OneOf) -> list[Choice]:
    """(shown, value) for a marked field, newest runs first; other values may be typed."""
    if isinstance(mark, OneOf):
        return [AUTO, *_formats(workspace, mark)]
    finished = [run for run in workspace.runs() if run.state == "succeeded"]
    runs = [run for run in finished if not mark.methods or run.method in mark.methods]
    if mark.kind == "data":
        return _data(finished, mark.chat) + ([(_words(run), run.id) for run in runs] if mark.methods else [])
    if mark.kind == "model":
        models = [run for run in runs if (run.dir / "adapter").is_dir() or (run.dir / "model").is_dir()]
        trained = [(_words(run), f"run:{run.id}") for run in models]
        pairs = [run for run in runs if all((run.dir / agent).is_dir() for agent in AGENT_SETS)]
        trained += [(f"{_words(run)} · both agents", f"waltz:{run.id}") for run in pairs]
        return trained if mark.methods else [EMBEDDED, *trained]
    return [(_words(run), run.id) for run in runs]


def _formats(workspace: Workspace, mark: OneOf) -> list[Choice]:
    """"qwen3guard · Qwen3Guard-Gen": the name as it is typed, then its title."""
    plugins = workspace.plugins
    known = plugins.prompt_formats if mark.kind == "prompt format" else plugins.data_formats
    return [(f"{name} · {item.title}", name) for name, item in known.items()]


def _data(runs: list[Run], chat: bool) -> list[Choice]:
    """Sets of labelled rows, or of conversations, by name.

    Of two with one name the newest has it, the older one goes by its id. A set for each agent has two lines.
    """
    taken: set[str] = set()
    choices = []
    for run in runs:
        if files := row_files(run):
            value = run.id if run.name in taken else run.name
            taken.add(value)
            named = [f"{value}:{agent}" if agent else value for agent, path in files.items() if holds_chat(path) == chat]
            choices += [(_words(run, name), name) for name in named]
    return choices


def _words(run: Run, name: str = "") -> str:
    """"guard-demo · 400 rows"."""
    status = run.status
    shown = name or run.id
    rows = (status.get("stats") or {}).get("Rows")
    rows = rows[0] if isinstance(rows, list) else rows
    about = [run.name if run.name != shown and not name else "", f"{rows} rows" if rows else status.get("what", "")]
    return " · ".join([shown, *filter(None, about)])
