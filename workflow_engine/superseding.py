"""Which journal rows a retry or a rerun supersedes, and whether what is left fits a workflow version.

Nothing of the journal is ever erased. A row that is superseded counts no longer: replaying what is left
gives the walk from which the execution goes on, as if it had never been any further.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from workflow_engine.errors import Problem
from workflow_engine.graph import Graph
from workflow_engine.states import NodeStatus
from workflow_engine.walk import JournalEntry

Journal = Sequence[JournalEntry]
"""The rows that are not superseded, by `seq`, the trigger's first."""


def ending_failure(journal: Journal) -> JournalEntry | None:
    """The row of the failure that nothing handled and that ended the execution, if one did."""
    last = journal[-1]
    return last if last.status is NodeStatus.FAILED and not last.handles else None


def rows_of_a_retry(journal: Journal) -> list[JournalEntry]:
    """What a retry supersedes: the failure that ended the execution, and all that led to it in its visit.

    Its waits and its earlier attempts go too, so that the node begins as on the first attempt. An
    execution that no node's failure ended, but its own timeout, has nothing to supersede.
    """
    failure = ending_failure(journal)
    if failure is None:
        return []
    return [row for row in journal if (row.node_id, row.visit) == (failure.node_id, failure.visit)]


def rows_of_a_rerun(graph: Graph, journal: Journal, node_id: str) -> list[JournalEntry]:
    """What a rerun from this node supersedes: its rows, those of all that follows it, and what failed last.

    A trigger keeps its row: its data is what the execution was started with.
    """
    repeated = {node_id, *graph.downstream(node_id)}
    if (failure := ending_failure(journal)) is not None:
        repeated.add(failure.node_id)
    return [row for row in journal[1:] if row.node_id in repeated]


def visits_after(visits: Mapping[str, int], rerun: Iterable[JournalEntry]) -> dict[str, int]:
    """The visits by node id, once these rows are superseded by a rerun: each node's next one."""
    after = dict(visits)
    for row in rerun:
        after[row.node_id] = max(after.get(row.node_id, 1), row.visit + 1)
    return after


def differences(journal: Journal, before: Graph, after: Graph) -> Iterator[Problem]:
    """Why an execution with this journal cannot go on with another version of its graph.

    Every node of the journal has to be there with the type it had, and the edges it took have to lead
    where they led.
    """
    for row in journal:
        kind = before.nodes[row.node_id].kind
        node = after.nodes.get(row.node_id)
        if node is None:
            yield Problem(row.node_id, "this node has run and is missing there")
        elif node.kind != kind:
            yield Problem(row.node_id, f"this node has run as {kind} and is {node.kind} there")
        elif changed := _taken(before, row) ^ _taken(after, row):
            ways = ", ".join(
                f"to {target} from {handle}" if handle else f"to {target}"
                for handle, target in sorted(changed)
            )
            yield Problem(row.node_id, f"the edges this node has taken are not the same there: {ways}")


def _taken(graph: Graph, row: JournalEntry) -> set[tuple[str, str]]:
    return {(edge.handle, edge.target) for edge in graph.outgoing[row.node_id] if edge.handle in row.handles}
