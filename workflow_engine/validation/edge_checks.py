"""Problems of the edges of a definition, and of the graph that they make of its nodes.

The graph is checked as its author meant it. An edge to `chrge`, which is a problem by itself, still leads
to `charge`, so that one typo does not make half of the workflow unreachable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workflow_engine.definition.problems import check_model, listed, nearest, short_repr, suggestion
from workflow_engine.definition.workflow import ERROR, ORDINARY, Edge
from workflow_engine.errors import Problem
from workflow_engine.paths import at
from workflow_engine.validation.node_checks import CheckedNode

MAX_SUGGESTIONS = 20
"""Unknown ends of edges for which the nearest node id is searched, which compares every id."""


@dataclass(frozen=True)
class CheckedEdge:
    """An edge after its check. Its ends are ids of existing nodes, where it is clear which ones are meant."""

    path: str
    problems: tuple[Problem, ...]
    edge: Edge | None
    source: str | None
    target: str | None


def check_edges(
    edges: Sequence[Any], nodes: Mapping[str, CheckedNode], *, all_nodes_known: bool = True
) -> list[CheckedEdge]:
    """Check each edge by itself, and that none is repeated.

    If the ids of some nodes are illegible, an edge to an unknown id may lead to one of them.
    """
    check = _EdgeCheck(nodes, all_nodes_known)
    return [check(f"edges[{index}]", edge) for index, edge in enumerate(edges)]


class _EdgeCheck:
    """Checks one edge after the other and finds repetitions."""

    def __init__(self, nodes: Mapping[str, CheckedNode], all_nodes_known: bool) -> None:
        self._nodes = nodes
        self._all_nodes_known = all_nodes_known
        self._seen: dict[tuple[str, str, str], str] = {}
        self._suggestions_left = MAX_SUGGESTIONS

    def __call__(self, path: str, content: Any) -> CheckedEdge:
        edge, problems = check_model(Edge, content, path)
        written = content if isinstance(content, Mapping) else {}
        source, unknown_source = self._end(path, "source", written.get("source"))
        target, unknown_target = self._end(path, "target", written.get("target"))
        problems += [*unknown_source, *unknown_target]
        if target is not None and self._nodes[target].type == "trigger":
            message = f"{target!r} is a trigger, where executions start; no edge may lead into it"
            problems.append(Problem(at(path, "target"), message))
        if edge is not None:
            problems += self._repetition(path, edge)
            if source is not None:
                problems += _handle_problems(path, edge, self._nodes[source])
        return CheckedEdge(path, tuple(problems), edge, source, target)

    def _end(self, path: str, key: str, node_id: Any) -> tuple[str | None, list[Problem]]:
        """Return the node that one end of an edge means, and the problems of that end."""
        if not isinstance(node_id, str):
            return None, []
        if node_id in self._nodes:
            return node_id, []
        meant = None
        if self._suggestions_left:
            self._suggestions_left -= 1
            meant = nearest(node_id, self._nodes)
        if meant is None and not self._all_nodes_known:
            return None, []
        question = f"; did you mean {meant!r}?" if meant else "; add one, or remove this edge"
        return meant, [Problem(at(path, key), f"there is no node {short_repr(node_id)}{question}")]

    def _repetition(self, path: str, edge: Edge) -> Iterator[Problem]:
        first = self._seen.setdefault((edge.source, edge.target, edge.handle), path)
        if first != path:
            yield Problem(path, f"this is the same edge as {first}; remove one of the two")


def _handle_problems(path: str, edge: Edge, source: CheckedNode) -> Iterator[Problem]:
    if source.handles == ():
        yield Problem(path, f"{edge.source!r} fails on purpose and ends its branch here; remove this edge")
        return
    path = at(path, "sourceHandle")
    if edge.handle == ERROR:
        yield from _error_edge_problems(path, source)
        return
    handles = source.handles
    if handles is None or edge.handle in handles:
        return
    if handles == (ORDINARY,):
        yield Problem(path, f"{edge.source!r} has only one way out, without a name; leave sourceHandle out")
    elif edge.handle == ORDINARY:
        yield Problem(path, f"is required: say by which way this leaves {edge.source!r}, {listed(handles)}")
    else:
        meant = suggestion(edge.handle, handles) or f"; it has {listed(handles)}"
        yield Problem(path, f"{edge.source!r} has no way out {short_repr(edge.handle)}{meant}")


def _error_edge_problems(path: str, source: CheckedNode) -> Iterator[Problem]:
    if source.type == "trigger":
        yield Problem(path, f"{source.id!r} is a trigger, which does not fail; remove this edge")
    elif source.on_error in ("fail", "continue"):
        message = (
            f"onError: {source.on_error} of {source.id!r} already defines what a failure does; "
            "remove that or this edge"
        )
        yield Problem(path, message)


def join_problems(nodes: Mapping[str, CheckedNode], edges: Sequence[CheckedEdge]) -> Iterator[Problem]:
    """Yield a problem for each merge that asks for more branches than lead to it."""
    merges = {node_id: node for node_id, node in nodes.items() if node.kind == "logic/merge"}
    if not any(key in node.config for node in merges.values() for key in ("join", "require")):
        return
    incoming: dict[str, list[CheckedEdge]] = {node_id: [] for node_id in merges}
    for edge in edges:
        if edge.target in incoming:
            incoming[edge.target].append(edge)
    for node_id, node in merges.items():
        into = incoming[node_id]
        if any(edge.edge is None or edge.source is None for edge in into):
            continue  # it may come from anywhere
        sources = {edge.source for edge in into}
        counted = {edge.source for edge in into if edge.edge is not None and edge.edge.handle != ERROR}
        yield from _count_problem(node, "join", len(sources), "")
        yield from _count_problem(node, "require", len(counted), ", `error` edges apart")


def _count_problem(node: CheckedNode, key: str, branches: int, apart: str) -> Iterator[Problem]:
    wanted = node.config.get(key)
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted <= branches:
        return
    lead = f"{branches} branch leads" if branches == 1 else f"{branches} branches lead"
    advice = f"write at most {branches}, or `all`" if branches > 1 else "leave it out, or draw more edges"
    message = f"asks for {short_repr(wanted)} branches, but {lead} here{apart}; {advice}"
    yield Problem(at(node.path, "config", key), message)


# -- the graph -------------------------------------------------------------------------------------------


def cycle_problems(nodes: Mapping[str, CheckedNode], edges: Sequence[CheckedEdge]) -> Iterator[Problem]:
    """Yield a problem for each edge that leads back to a node before it.

    Depth-first search from every node, in time linear in the size of the graph and without recursion. An
    edge into the current path closes a cycle, and without those edges there is none.
    """
    outgoing = _outgoing(nodes, edges)
    visited: set[str] = set()
    for root in nodes:
        if root in visited:
            continue
        path, positions, ahead = [root], {root: 0}, [iter(outgoing[root])]
        visited.add(root)
        while ahead:
            edge = next(ahead[-1], None)
            if edge is None or edge.target is None:
                ahead.pop()
                del positions[path.pop()]
            elif edge.target in positions:
                yield Problem(edge.path, _cycle_message(path, positions[edge.target]))
            elif edge.target not in visited:
                visited.add(edge.target)
                positions[edge.target] = len(path)
                path.append(edge.target)
                ahead.append(iter(outgoing[edge.target]))


def _outgoing(nodes: Mapping[str, CheckedNode], edges: Sequence[CheckedEdge]) -> dict[str, list[CheckedEdge]]:
    outgoing: dict[str, list[CheckedEdge]] = {node_id: [] for node_id in nodes}
    for edge in edges:
        if edge.source is not None and edge.target is not None:
            outgoing[edge.source].append(edge)
    return outgoing


def _cycle_message(path: Sequence[str], start: int) -> str:
    shown_at_most = 10
    steps = list(path[start : start + shown_at_most])
    if len(path) - start > shown_at_most:
        steps[-1:] = ["…", path[-1]]
    cycle = " → ".join([*steps, path[start]])
    return f"closes the cycle {cycle}; remove one of its edges, an execution cannot go in circles"


def unreachable_problems(nodes: Mapping[str, CheckedNode], edges: Sequence[CheckedEdge]) -> Iterator[Problem]:
    """Yield a problem for each node that cannot be reached from any trigger.

    In doubt there is none. A node whose type is illegible may be a trigger; an edge whose source is
    illegible may come from one, and one whose target is illegible may lead anywhere.
    """
    if any(edge.edge is None and edge.target is None for edge in edges):
        return
    outgoing = _outgoing(nodes, edges)
    starts = [node_id for node_id, node in nodes.items() if node.type in ("trigger", None)]
    starts += [edge.target for edge in edges if edge.source is None and edge.target is not None]
    reached = set(starts)
    while starts:
        for edge in outgoing[starts.pop()]:
            if edge.target is not None and edge.target not in reached:
                reached.add(edge.target)
                starts.append(edge.target)
    for node_id, node in nodes.items():
        if node_id not in reached:
            yield Problem(node.path, "no way leads here from a trigger; add an edge to it, or remove it")
