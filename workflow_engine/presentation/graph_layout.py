"""The place of each node of a graph that is drawn as indented lines, one line for each node.

Lines follow the order of the walk. A node is drawn below its immediate dominator, the last node that every
way to it passes. So the nodes of one branch are indented under the node that branches. Where branches join
again, the drawing returns to the level on which they parted, however the edges run in between. Dominators as
in Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm" (2001), in the single pass that a graph
without cycles needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from workflow_engine.definition.graph import Graph
from workflow_engine.definition.workflow import ORDINARY

_ROOT = ""
"""Stands above the triggers; no node has this id."""


@dataclass(frozen=True)
class PlacedNode:
    """One line of a drawing."""

    node_id: str
    lead: str
    """The guides before the node."""
    follow: str
    """The guides before further lines that belong to this one."""
    branch: tuple[str, ...] = ()
    """Names of the branch that begins here."""
    sources: tuple[str, ...] = ()
    """Ids of the nodes that lead here, if the line's place does not show them."""


def place(graph: Graph, trigger_node_id: str) -> Iterator[PlacedNode]:
    """Yield the lines of a drawing that begins with this trigger; every node has one."""
    order = walk_order(graph, trigger_node_id)
    below = _below_dominators(graph, order)
    pending: list[tuple[str, str, str, tuple[str, ...]]] = [
        (node_id, "", "", ()) for node_id in reversed(below[_ROOT])
    ]
    while pending:
        node_id, lead, follow, branch = pending.pop()
        sources = tuple(dict.fromkeys(edge.source for edge in graph.incoming[node_id]))
        yield PlacedNode(node_id, lead, follow, branch, sources if len(sources) > 1 else ())
        branches, after = _parted(graph, node_id, below[node_id])
        pending.extend((each, follow, follow, ()) for each in reversed(after))
        for position, each in reversed(list(enumerate(branches))):
            is_last = position == len(branches) - 1
            names = tuple(edge.handle for edge in graph.incoming[each] if edge.handle != ORDINARY)
            pending.append(
                (each, follow + ("└─ " if is_last else "├─ "), follow + ("   " if is_last else "│  "), names)
            )


def walk_order(graph: Graph, trigger_node_id: str) -> list[str]:
    """Return all nodes, sources before targets, in the order of a walk that takes every edge."""
    undecided = {node_id: len(edges) for node_id, edges in graph.incoming.items()}
    others = [node_id for node_id in graph.triggers if node_id != trigger_node_id]
    line = [*reversed(others), trigger_node_id]
    order: list[str] = []
    while line:
        node_id = line.pop()
        order.append(node_id)
        due: list[str] = []
        for edge in graph.outgoing[node_id]:
            undecided[edge.target] -= 1
            if not undecided[edge.target]:
                due.append(edge.target)
        line.extend(reversed(due))
    return order


def _below_dominators(graph: Graph, order: Sequence[str]) -> dict[str, list[str]]:
    """Return the nodes that each node dominates immediately, in order; under `_ROOT` those that none does."""
    dominator: dict[str, str] = {}
    depth = {_ROOT: 0}
    below: dict[str, list[str]] = {_ROOT: [], **{node_id: [] for node_id in order}}
    for node_id in order:
        sources = [edge.source for edge in graph.incoming[node_id]] or [_ROOT]
        common = sources[0]
        for source in sources[1:]:
            common = _last_common(common, source, dominator, depth)
        dominator[node_id] = common
        depth[node_id] = depth[common] + 1
        below[common].append(node_id)
    return below


def _last_common(one: str, other: str, dominator: Mapping[str, str], depth: Mapping[str, int]) -> str:
    while one != other:
        if depth[one] < depth[other]:
            other = dominator[other]
        else:
            one = dominator[one]
    return one


def _parted(graph: Graph, node_id: str, below: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part the nodes below a node: the branches that begin there, and those that go on at its own level."""
    direct = [each for each in below if all(edge.source == node_id for edge in graph.incoming[each])]
    joins = [each for each in below if each not in set(direct)]
    ordinary = [each for each in direct if all(edge.handle == ORDINARY for edge in graph.incoming[each])]
    going_on = ordinary if len(ordinary) == 1 else []
    return [each for each in direct if each not in going_on], [*going_on, *joins]
