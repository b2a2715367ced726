"""What a run was made from: its data, the models it started from, the runs inside it. For marking seen rows, and for the graph.

A run points back by its config: run ids (`run:rsft-0003`, `waltz:...`, a bare id) anywhere in it, names of imported sets in fields
marked FromRun("data"), and names of runs in fields whose mark says of which methods. A run that made other runs with run.child is also
made from those (an ensemble's miner from the models it trained inside). The way from a child to its parent is not followed: what a study
did after training a model is not in that model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

from core.data import holds_chat, row_files, set_name
from core.judges import guards_in
from core.methods import FromRun, Stage, from_run
from core.refs import run_id_of
from core.runs import Run, Workspace

Kind = Literal["data", "model", "report", "run", "outside"]


@dataclass(frozen=True)
class Node:
    """A run, or something that no run here made (a base model, a file)."""

    id: str
    kind: Kind
    """What it can be picked for; "outside" = not made here."""
    title: str
    method: str = ""
    state: str = ""
    headline: str = ""


@dataclass(frozen=True)
class Edge:
    """`target` was made from `source`."""

    source: str
    target: str
    what: Literal["data", "model", "run", "step"]
    """How the target names the source; step = a run inside the target."""


def run_of_model(ref: str, workspace: Workspace) -> Run | None:
    """The run behind a model reference: `run:<id>`, `waltz:<id>`, or a folder inside a run's folder; None for other models."""
    head, _, rest = ref.partition(":")
    if head in ("run", "waltz"):
        return workspace.run(run_id_of(rest))
    if head in ("hf", "mistral", "anthropic", "openai") or ref == "embedded":
        return None
    path = Path(ref).expanduser().resolve()
    if path.is_relative_to(workspace.runs_dir) and path != workspace.runs_dir:
        folder = workspace.runs_dir / path.relative_to(workspace.runs_dir).parts[0]
        return Run(folder) if (folder / "status.json").exists() else None
    return None


def ancestors(run: Run, workspace: Workspace) -> list[Run]:
    """Every run that `run` was made from, directly or not, nearest first; not `run` itself."""
    return _Index(workspace).behind(run)


def lineage_graph(run: Run, workspace: Workspace) -> tuple[list[Node], list[Edge]]:
    """The family of `run` for a picture: all it was made from, itself, all that was made from it, and the run it is a step of."""
    index = _Index(workspace)
    family = {one.id: one for one in [*index.behind(run), run, *index.ahead(run)]}
    edges = [edge for one in family.values() for edge in index.edges(one) if edge.source in family or index.is_outside(edge.source)]
    parent = index.runs.get(str(run.status.get("parent", "")))
    if parent:
        family[parent.id] = parent
        edges.append(Edge(run.id, parent.id, "step"))
    outside = dict.fromkeys(edge.source for edge in edges if edge.source not in family)
    nodes = [Node(name, "outside", name) for name in outside] + [_node(one, workspace) for one in family.values()]
    return nodes, list(dict.fromkeys(edges))


class _Index:
    """All runs of a workspace, looked at once."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.runs = {run.id: run for run in workspace.runs()}  # newest first

    @cached_property
    def children(self) -> dict[str, list[Run]]:
        """{parent: the runs inside it}."""
        found: dict[str, list[Run]] = {}
        for run in self.runs.values():
            if parent := run.status.get("parent"):
                found.setdefault(parent, []).append(run)
        return found

    @cached_property
    def named(self) -> dict[str, list[Run]]:
        """{name: the runs that have it, newest first}."""
        found: dict[str, list[Run]] = {}
        for run in self.runs.values():
            found.setdefault(run.name, []).append(run)
        return found

    def is_outside(self, name: str) -> bool:
        """Is this the name of something that no run here made?"""
        return name not in self.runs

    def edges(self, run: Run) -> Iterator[Edge]:
        """What `run` was directly made from."""
        for field, mark, said in self._references(run):
            kind = mark.kind if mark else None
            text = set_name(said) if kind in ("data", "run") else said
            head, _, rest = text.partition(":")
            source = run_id_of(rest) if head in ("run", "waltz") else text
            if source in self.runs:
                yield Edge(source, run.id, kind or "run")
            elif mark and (made := self._called(text, mark, run)):
                yield Edge(made.id, run.id, mark.kind)
            elif kind in ("data", "model") and field and text:
                yield Edge(text, run.id, kind)
        for child in self.children.get(run.id, []):
            if child.status.get("stage") != Stage.EVALUATION:  # looking at a model puts nothing into it
                yield Edge(child.id, run.id, "step")

    def _references(self, run: Run) -> Iterator[tuple[str, FromRun | None, str]]:
        marks = self._marks(run.method)
        for field, text in _texts(run.dir / "config.yaml"):
            yield field, marks.get(field), text
            if field not in marks:  # a judge names its guards among others: run:rsft-0001+rules
                yield from ((field, None, guard) for guard in guards_in(text) if guard != text)

    def _marks(self, method: str) -> dict[str, FromRun]:
        """{field: mark} of the method's FromRun fields; the usual names where its plugin is not there any more."""
        known = self.workspace.plugins.methods.get(method)
        if known is None:
            return {"data": FromRun("data"), "model": FromRun("model")}
        marked = ((name, from_run(field)) for name, field in known.Config.model_fields.items())
        return {name: mark for name, mark in marked if mark}

    def _called(self, name: str, mark: FromRun, user: Run) -> Run | None:
        """What the name meant when `user` was made: a set that the field takes, else a run of the methods that it takes too."""
        named = [run for run in self.named.get(name, []) if run.id != user.id]
        made = _newest_before(user, [run for run in named if row_files(run)]) if mark.kind == "data" else None
        if made is not None and (mark.chat or not _is_chat(made)):
            return made
        return _newest_before(user, [run for run in named if run.method in mark.methods]) or made

    def behind(self, run: Run) -> list[Run]:
        """All runs that `run` was made from."""
        return self._walk(run, lambda one: [edge.source for edge in self.edges(one)])

    def ahead(self, run: Run) -> list[Run]:
        """All runs that were made from `run`."""
        links: dict[str, list[str]] = {}
        for one in self.runs.values():
            for edge in self.edges(one):
                links.setdefault(edge.source, []).append(edge.target)
        return self._walk(run, lambda one: links.get(one.id, []))

    def _walk(self, start: Run, following: Callable[[Run], list[str]]) -> list[Run]:
        found: dict[str, Run] = {}
        todo = [start]
        while todo:
            for name in following(todo.pop(0)):
                if name in self.runs and name not in found and name != start.id:
                    found[name] = self.runs[name]
                    todo.append(found[name])
        return list(found.values())


def _newest_before(user: Run, found: list[Run]) -> Run | None:
    """Of runs that share a name, newest first, the one that it meant when `user` was made."""
    return next((run for run in found if run.created <= user.created), found[-1] if found else None)


def _is_chat(run: Run) -> bool:
    return all(holds_chat(path) for path in row_files(run).values())


def _node(run: Run, workspace: Workspace) -> Node:
    method = workspace.plugins.methods.get(run.method)
    makes = method.makes if method else ()
    kind: Kind = "model" if "model" in makes else "data" if "data" in makes else "report" if "report" in makes else "run"
    headline = str((run.report or {}).get("headline", ""))
    return Node(run.id, kind, run.name, run.method, run.state, headline)


def _texts(path: Path) -> list[tuple[str, str]]:
    """(top-level field, text) of every text in a config, at any depth; read again only when the file changed."""
    try:
        return _read_texts(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        return []


@lru_cache(maxsize=4096)
def _read_texts(path: Path, changed: int) -> list[tuple[str, str]]:  # noqa: ARG001 (`changed` makes a new cache entry)
    config = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("config") or {}
    return [(field, text) for field, value in config.items() for text in _texts_in(value)]


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(item)
