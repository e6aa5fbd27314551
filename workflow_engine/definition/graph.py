"""The static structure of a definition: which node follows which, where an execution can start and end.

It is built once per workflow version and never changes, so a hop looks everything up and searches for
nothing. It must cost the same in a graph of ten nodes and of ten thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from workflow_engine.definition.workflow import ERROR, Edge, Node, Workflow


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes and edges by node id. Edges keep the order of the definition, which the walk relies on."""

    nodes: Mapping[str, Node]
    outgoing: Mapping[str, tuple[Edge, ...]]
    incoming: Mapping[str, tuple[Edge, ...]]
    ways: Mapping[str, tuple[tuple[str, int, str], ...]]
    """Of each edge in `outgoing`: its target, its position among the target's incoming edges, its handle."""
    concurrency: int = 1
    """Nodes of one execution that may run at the same time."""

    @classmethod
    def of(cls, workflow: Workflow) -> Graph:
        """Build the structure of a valid definition, in time linear in its size.

        Raises KeyError for an edge from or to a node that does not exist, which validation refuses.
        """
        outgoing: dict[str, list[Edge]] = {node.id: [] for node in workflow.nodes}
        incoming: dict[str, list[Edge]] = {node.id: [] for node in workflow.nodes}
        ways: dict[str, list[tuple[str, int, str]]] = {node.id: [] for node in workflow.nodes}
        for edge in workflow.edges:
            ways[edge.source].append((edge.target, len(incoming[edge.target]), edge.handle))
            outgoing[edge.source].append(edge)
            incoming[edge.target].append(edge)
        return cls(
            nodes={node.id: node for node in workflow.nodes},
            outgoing={node_id: tuple(edges) for node_id, edges in outgoing.items()},
            incoming={node_id: tuple(edges) for node_id, edges in incoming.items()},
            ways={node_id: tuple(each) for node_id, each in ways.items()},
            concurrency=workflow.settings.concurrency,
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
        """Return whether the output of this node is part of the result.

        No edge leaves it other than from `error`, and it is not there to fail.
        """
        if self.nodes[node_id].kind == "logic/fail":
            return False
        return all(edge.handle == ERROR for edge in self.outgoing[node_id])

    def joins_any(self, node_id: str) -> bool:
        """Return whether this node is a merge that goes on as soon as some of its branches have arrived."""
        return node_id in self._early_merges

    def enough_arrivals(self, node_id: str) -> int | None:
        """Return how many arrivals a merge goes on with: 1 for `join: any`; None for any other node."""
        return self._early_merges.get(node_id)

    @cached_property
    def _early_merges(self) -> dict[str, int]:
        """What `enough_arrivals` returns, of the merges that go on early."""
        joins = {
            node_id: node.config.get("join")
            for node_id, node in self.nodes.items()
            if node.kind == "logic/merge"
        }
        return {
            node_id: 1 if join == "any" else join
            for node_id, join in joins.items()
            if join == "any" or isinstance(join, int)
        }

    def branches(self, node_id: str) -> tuple[str, ...]:
        """Return the sources that lead to this node otherwise than by their `error` edge, each once."""
        sources = (edge.source for edge in self.incoming[node_id] if edge.handle != ERROR)
        return tuple(dict.fromkeys(sources))

    @cached_property
    def any_merges(self) -> tuple[str, ...]:
        """Ids of the merges that go on as soon as some of their branches have arrived."""
        return tuple(self._early_merges)

    @cached_property
    def _joins_after(self) -> dict[str, tuple[str, ...]]:
        return {}

    def joins_after(self, node_id: str) -> tuple[str, ...]:
        """Return the ids of the nodes with several incoming edges that can be reached from this one."""
        if (joins := self._joins_after.get(node_id)) is None:
            reached = self.downstream(node_id)
            joins = tuple(each for each in self.nodes if each in reached and len(self.incoming[each]) > 1)
            self._joins_after[node_id] = joins
        return joins

    def handles_errors(self, node_id: str) -> bool:
        """Return whether an edge leaves this node from `error`."""
        return any(edge.handle == ERROR for edge in self.outgoing[node_id])

    def upstream(self, node_id: str) -> frozenset[str]:
        """Return the ids of all nodes from which this one can be reached, itself left out."""
        return _reached(node_id, lambda each: {edge.source for edge in self.incoming[each]})

    def downstream(self, node_id: str) -> frozenset[str]:
        """Return the ids of all nodes that can be reached from this one, itself left out."""
        return _reached(node_id, lambda each: {edge.target for edge in self.outgoing[each]})


def _reached(node_id: str, neighbours: Callable[[str], set[str]]) -> frozenset[str]:
    found: set[str] = set()
    pending = [node_id]
    while pending:
        new = neighbours(pending.pop()) - found
        found |= new
        pending.extend(new)
    return frozenset(found)
