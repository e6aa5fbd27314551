"""The static structure of a definition: who follows whom, where an execution can start and end.

It is built once per workflow version and never changes, so everything a hop asks of it is looked up,
not searched for: a hop must cost the same in a graph of ten nodes and of ten thousand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from workflow_engine.definition import ERROR, Edge, Node, Workflow


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes and edges by node id. Edges keep the order of the definition, which the walk relies on."""

    nodes: Mapping[str, Node]
    outgoing: Mapping[str, tuple[Edge, ...]]
    incoming: Mapping[str, tuple[Edge, ...]]
    positions: Mapping[str, tuple[int, ...]]
    """Beside `outgoing`: where each of these edges stands among the incoming edges of its target."""

    @classmethod
    def of(cls, workflow: Workflow) -> Graph:
        """Build the structure of a valid definition, in time linear in its size.

        Raises KeyError for an edge from or to a node that does not exist, which validation refuses.
        """
        outgoing: dict[str, list[Edge]] = {node.id: [] for node in workflow.nodes}
        incoming: dict[str, list[Edge]] = {node.id: [] for node in workflow.nodes}
        positions: dict[str, list[int]] = {node.id: [] for node in workflow.nodes}
        for edge in workflow.edges:
            positions[edge.source].append(len(incoming[edge.target]))
            outgoing[edge.source].append(edge)
            incoming[edge.target].append(edge)
        return cls(
            nodes={node.id: node for node in workflow.nodes},
            outgoing={node_id: tuple(edges) for node_id, edges in outgoing.items()},
            incoming={node_id: tuple(edges) for node_id, edges in incoming.items()},
            positions={node_id: tuple(places) for node_id, places in positions.items()},
        )

    @property
    def triggers(self) -> tuple[str, ...]:
        """Ids of the trigger nodes, in the order of the definition."""
        return tuple(node_id for node_id, node in self.nodes.items() if node.type == "trigger")

    @property
    def ends(self) -> tuple[str, ...]:
        """Ids of the nodes whose outputs are the execution's result, in the order of the definition."""
        return tuple(node_id for node_id in self.nodes if self.is_end(node_id))

    def is_end(self, node_id: str) -> bool:
        """Whether no edge leaves this node other than from `error`."""
        return all(edge.handle == ERROR for edge in self.outgoing[node_id])

    def joins_any(self, node_id: str) -> bool:
        """Whether this node is a merge that goes on with the first branch that arrives."""
        node = self.nodes[node_id]
        return node.kind == "logic/merge" and node.config.get("join") == "any"

    def handles_errors(self, node_id: str) -> bool:
        """Whether an edge leaves this node from `error`."""
        return any(edge.handle == ERROR for edge in self.outgoing[node_id])

    def downstream(self, node_id: str) -> frozenset[str]:
        """Ids of all nodes that can be reached from this one, itself left out."""
        found: set[str] = set()
        pending = [node_id]
        while pending:
            targets = {edge.target for edge in self.outgoing[pending.pop()]} - found
            found |= targets
            pending.extend(targets)
        return frozenset(found)
