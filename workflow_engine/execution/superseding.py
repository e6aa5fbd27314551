"""Which journal rows a retry or a rerun supersedes, and whether the other rows fit a workflow version.

The journal is never erased. A superseded row no longer counts: replaying the other rows gives the walk from
which the execution goes on, as if it had never been any further.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from workflow_engine.definition.body import KINDS
from workflow_engine.definition.graph import Graph
from workflow_engine.errors import Problem
from workflow_engine.execution.states import NodeStatus
from workflow_engine.execution.walk import JournalEntry

Journal = Sequence[JournalEntry]
"""The rows that are not superseded, by `seq`, the trigger's first."""


def ending_failure(journal: Journal) -> JournalEntry | None:
    """Return the row of the unhandled failure that ended the execution, if there is one."""
    last = journal[-1]
    return last if last.status is NodeStatus.FAILED and not last.handles else None


def rows_of_a_retry(graph: Graph, journal: Journal) -> list[JournalEntry]:
    """Return the rows that a retry supersedes: the failure that ended the execution, and its whole visit.

    Waits and earlier attempts of that visit go too, so that the node begins as on the first attempt. A node
    that has waited for children keeps that wait: it waits again, for those that have failed. An execution
    that timed out, rather than ended by a node's failure, has no such rows.
    """
    failure = ending_failure(journal)
    if failure is None:
        return []
    before = [row for row in journal[:-1] if row.node_id == failure.node_id]
    if (
        graph.nodes[failure.node_id].kind in KINDS
        and before
        and (before[-1].visit, before[-1].status) == (failure.visit, NodeStatus.WAITING)
    ):
        return [failure]
    return [row for row in journal if (row.node_id, row.visit) == (failure.node_id, failure.visit)]


def rows_of_a_rerun(graph: Graph, journal: Journal, node_id: str) -> list[JournalEntry]:
    """Return the rows that a rerun from this node supersedes: its own, all downstream and the last failure.

    A trigger keeps its row: its data is what the execution was started with.
    """
    repeated = {node_id, *graph.downstream(node_id)}
    if (failure := ending_failure(journal)) is not None:
        repeated.add(failure.node_id)
    return [row for row in journal[1:] if row.node_id in repeated]


def visits_after(visits: Mapping[str, int], rerun: Iterable[JournalEntry]) -> dict[str, int]:
    """Return the visits by node id, once a rerun has superseded these rows: each node's next one."""
    after = dict(visits)
    for row in rerun:
        after[row.node_id] = max(after.get(row.node_id, 1), row.visit + 1)
    return after


def differences(journal: Journal, before: Graph, after: Graph) -> Iterator[Problem]:
    """Yield the reasons why an execution with this journal cannot go on with another version of its graph.

    Every node of the journal has to exist there with the same type, and the edges it took have to lead to
    the same nodes.
    """
    for row in journal:
        kind = before.nodes[row.node_id].kind
        node = after.nodes.get(row.node_id)
        if node is None:
            yield Problem(row.node_id, "this node has run, but is missing there")
        elif node.kind != kind:
            yield Problem(row.node_id, f"this node has run as {kind}, but is {node.kind} there")
        elif changed := _taken(before, row) ^ _taken(after, row):
            ways = ", ".join(
                f"to {target} from {handle}" if handle else f"to {target}"
                for handle, target in sorted(changed)
            )
            yield Problem(row.node_id, f"the edges that this node has taken differ there: {ways}")


def _taken(graph: Graph, row: JournalEntry) -> set[tuple[str, str]]:
    return {(edge.handle, edge.target) for edge in graph.outgoing[row.node_id] if edge.handle in row.handles}
