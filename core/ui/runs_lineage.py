"""The card "Where it comes from": core/lineage.py's graph of a run, drawn by lineage_svg.py."""

from __future__ import annotations

from markupsafe import Markup

from core import lineage
from core.lineage import lineage_graph
from core.runs import Run, Workspace
from core.ui import html
from core.ui.lineage_svg import Node, lineage_svg

Graph = tuple[list[lineage.Node], list[lineage.Edge]]
MOST = 40
"""Boxes up to which a drawing can be read."""

_known: dict[str, tuple[tuple[int | str, ...], Graph]] = {}
"""The last graph of each run, with the times it depends on: the page asks every two seconds."""


def graph_of(run: Run, workspace: Workspace) -> Graph:
    """lineage_graph, looked up again only when a run came or went, or this one changed."""
    stamp = (workspace.runs_dir.stat().st_mtime_ns, (run.dir / "labels.json").stat().st_mtime_ns, run.state, workspace.access.viewer())
    if run.id not in _known or _known[run.id][0] != stamp:
        _known[run.id] = (stamp, lineage_graph(run, workspace))
    return _known[run.id][1]


def made_from(run: Run, workspace: Workspace) -> list[str]:
    """Ids of the runs that were made directly from this one."""
    _, edges = graph_of(run, workspace)
    return sorted({edge.target for edge in edges if edge.source == run.id and edge.what != "step"})


def lineage_card(run: Run, workspace: Workspace) -> Markup:
    """The drawing with its header; for a run that stands alone a sentence."""
    nodes, edges = graph_of(run, workspace)
    head = html.card_header(f"Where {run.id} comes from", "data and runs it stands on, and what was made from it; click one to open it")
    if len(nodes) < 2:
        return html.card(head, html.div("It stands on nothing else here, and nothing was made from it yet.", "gw-help"))
    near = _nearest(run.id, nodes, edges)
    drawn = lineage_svg([_box(node, run.id) for node in near], [(edge.source, edge.target) for edge in edges])
    left_out = len(nodes) - len(near)
    note = html.div(f"{left_out} more runs of this family are left out of the drawing.", "gw-help") if left_out else ""
    return html.card(head, Markup(drawn), note)


def _nearest(start: str, nodes: list[lineage.Node], edges: list[lineage.Edge]) -> list[lineage.Node]:
    """The `MOST` nodes with the fewest arrows between them and the run."""
    distance = {start: 0}
    todo = [start]
    while todo:
        name = todo.pop(0)
        for edge in edges:
            for a, b in ((edge.source, edge.target), (edge.target, edge.source)):
                if a == name and b not in distance:
                    distance[b] = distance[a] + 1
                    todo.append(b)
    return sorted(nodes, key=lambda node: distance.get(node.id, len(nodes)))[:MOST]


def _box(node: lineage.Node, here: str) -> Node:
    if node.kind == "outside":
        return Node(node.id, node.title.rsplit("/", 1)[-1], "not made here", kind="outside")
    words = node.headline or (f"{node.method}, {node.state}" if node.state not in ("", "succeeded") else node.method)
    if node.kind == "data":
        words = words if node.title == node.id else f"data, {node.id}"
    return Node(node.id, node.title, words, "data" if node.kind == "data" else "run", f"/runs?run={node.id}", node.id == here)
