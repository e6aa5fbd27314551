"""Graphs for tests: small ones sketched by hand, and Hypothesis strategies for any valid one."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from hypothesis import strategies as st

from workflow_engine.definition.graph import Graph
from workflow_engine.definition.workflow import ERROR, ORDINARY, Edge, Node, Workflow

HANDLES = {
    "trigger/manual": (ORDINARY,),
    "action/function": (ORDINARY,),
    "logic/condition": ("true", "false"),
    "logic/switch": ("small", "large", "default"),
    "logic/merge": (ORDINARY,),
}
"""The ways out of every kind of node used here, `error` apart; triggers never fail."""


def sketch(
    *edges: str,
    triggers: Collection[str] = ("start",),
    any_merges: Collection[str] = (),
    merges: Mapping[str, int] = MappingProxyType({}),
    name: str = "sketch",
) -> Workflow:
    """Return a workflow from edges such as `"start -> check"` and `"check -true-> charge"`, in their order.

    Nodes come in the order in which the edges name them. What leaves by `true` or `false` is a condition.
    `merges` go on with so many arrivals.
    """
    ways = [_read(edge) for edge in edges]
    ids = dict.fromkeys([*triggers, *(node_id for way in ways for node_id in (way.source, way.target))])
    conditions = {way.source for way in ways if way.handle in ("true", "false")}

    def node(node_id: str) -> Node:
        if node_id in triggers:
            return _node(node_id, "trigger/manual")
        if node_id in any_merges:
            return _node(node_id, "logic/merge", join="any")
        if node_id in merges:
            return _node(node_id, "logic/merge", join=merges[node_id])
        return _node(node_id, "logic/condition" if node_id in conditions else "action/function")

    return Workflow(id=name, nodes=tuple(node(node_id) for node_id in ids), edges=tuple(ways))


def graph(
    *edges: str,
    triggers: Collection[str] = ("start",),
    any_merges: Collection[str] = (),
    merges: Mapping[str, int] = MappingProxyType({}),
) -> Graph:
    """Return the graph of a `sketch`."""
    return Graph.of(sketch(*edges, triggers=triggers, any_merges=any_merges, merges=merges))


def _read(edge: str) -> Edge:
    source, arrow, target = edge.split()
    return Edge(source=source, target=target, source_handle=arrow.removesuffix("->").strip("-") or None)


def _node(node_id: str, kind: str, **config: Any) -> Node:
    node_type, sub_type = kind.split("/")
    return Node(id=node_id, type=node_type, sub_type=sub_type, config=config)  # type: ignore[arg-type]


ANY_MERGE = ("logic/merge", {"join": "any"})
ACTION = ("action/function", {})

nodes = st.sampled_from(
    [
        *(ACTION, ACTION, ACTION, ANY_MERGE, ANY_MERGE),
        *[("logic/merge", {"join": number}) for number in (2, 2, 3)],
        ("logic/condition", {}),
        ("logic/switch", {}),
        ("logic/merge", {"join": "all"}),
        ("logic/merge", {}),
    ]
)
picks = st.lists(st.integers(0, 60), min_size=1, max_size=4)


@st.composite
def workflows(draw: st.DrawFn, max_nodes: int = 12) -> Workflow:
    """Draw any valid graph: several triggers, branches, error edges, joins on all kinds of nodes, no cycle.

    Every node is reachable from some trigger. The definition lists nodes and edges in any order, since
    nothing obliges an author to list them from first to last.
    """
    plans = draw(
        st.lists(st.tuples(nodes, picks), min_size=draw(st.integers(0, max_nodes)), max_size=max_nodes)
    )
    found = [
        _node(f"t{number}", "trigger/manual") for number in range(draw(st.sampled_from([1, 1, 1, 2, 3])))
    ]
    edges: list[Edge] = []
    for number, ((kind, config), numbers) in enumerate(plans):
        target = _node(f"n{number}", kind, **config)
        ways = [way for node in found for way in _ways_out(node)]
        # Counted from the end, so that small numbers make long chains and all numbers shrink towards one.
        chosen = dict.fromkeys(ways[-1 - pick % len(ways)] for pick in numbers)
        edges += [Edge(source=source, target=target.id, source_handle=way or None) for source, way in chosen]
        found.append(target)
    if seed := draw(st.integers(0, 20)):
        random.Random(seed).shuffle(found)
        random.Random(seed + 1).shuffle(edges)
    return Workflow(id="generated", nodes=tuple(found), edges=tuple(edges))


def _ways_out(node: Node) -> list[tuple[str, str]]:
    """Return the node's handles, the ordinary one three times, or most of a graph would be skipped."""
    handles = [way for handle in HANDLES[node.kind] for way in [handle] * (1 if handle else 3)]
    return [(node.id, handle) for handle in handles + [ERROR] * (node.type != "trigger")]
