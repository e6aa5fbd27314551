"""What there is to see of an execution: every node of its graph, from plain facts put together.

The journal says what nodes did, replaying it says which were skipped or cancelled and which are due, and
the lock says whether the first of these is being run. None of this asks a server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from workflow_engine.cli.graph_layout import PlacedNode, place
from workflow_engine.definition import Workflow
from workflow_engine.execution_queries import Execution, NodeExecution, NodeWait
from workflow_engine.execution_records import Snapshot
from workflow_engine.graph import Graph
from workflow_engine.lock import Holder
from workflow_engine.running_nodes import Progress
from workflow_engine.states import NodeStatus, SupersededFor
from workflow_engine.walk import Walk, node_statuses


@dataclass(frozen=True)
class NodeView:
    """A node of an execution. What its last row in the journal does not tell is None."""

    id: str
    label: str | None
    type: str
    sub_type: str
    status: NodeStatus | None
    """None: not reached yet."""
    is_due: bool
    """In line to run, or running."""
    sources: tuple[str, ...]
    """The nodes that led here; before it is reached, and after it was skipped, those that may have."""
    visit: int | None = None
    attempt: int | None = None
    worker: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    duration_ms: int | None = None
    handles: tuple[str, ...] = ()
    """The ways out taken."""
    error: str | None = None
    error_details: Mapping[str, Any] | None = None
    wait: NodeWait | None = None
    progress: Progress | None = None
    """What a running node has said last of how far it is."""


@dataclass(frozen=True)
class ExecutionView:
    """An execution, its nodes in the order of the walk, and where they stand in a drawing."""

    execution: Execution
    nodes: Sequence[NodeView]
    places: Sequence[PlacedNode]
    """Beside `nodes`."""


def view_execution(
    execution: Execution,
    workflow: Workflow,
    snapshot: Snapshot | None,
    journal: Sequence[NodeExecution],
    holder: Holder | None = None,
    progress: Progress | None = None,
) -> ExecutionView:
    """Put together what was read about an execution; `holder` is who has its lock.

    `progress` is what the node that the holder runs has reported.
    """
    graph = Graph.of(workflow)
    entries = [row.entry for row in snapshot.journal] if snapshot else []
    visits = _visits_of_reruns(journal)
    is_over = execution.is_finished
    start = execution.trigger_node_id
    statuses: dict[str, NodeStatus] = {}
    due: Sequence[str] = ()
    if entries:
        statuses = node_statuses(graph, start, entries, visits, is_over=is_over)
        due = () if is_over else tuple(Walk.replay(graph, start, entries, visits).due)
    if holder is not None and due:
        statuses[due[0]] = NodeStatus.RUNNING
    rows = {row.node_id: row for row in journal if row.superseded_by is None}
    places = tuple(place(graph, start))
    nodes = tuple(
        _node_views(graph, [each.node_id for each in places], statuses, due, rows, holder, progress)
    )
    return ExecutionView(execution, nodes, places)


def _node_views(
    graph: Graph,
    node_ids: Sequence[str],
    statuses: Mapping[str, NodeStatus],
    due: Sequence[str],
    rows: Mapping[str, NodeExecution],
    holder: Holder | None,
    progress: Progress | None,
) -> Iterator[NodeView]:
    for node_id in node_ids:
        node, row, status = graph.nodes[node_id], rows.get(node_id), statuses.get(node_id)
        known: dict[str, Any] = {}
        if status is NodeStatus.RUNNING and holder is not None:
            since = datetime.fromisoformat(holder.since)
            worker = f"{holder.instance}:{holder.process}"
            known = {"worker": worker, "started_at": since, "progress": progress}
        elif row is not None:
            known = {
                "visit": row.visit,
                "attempt": row.attempt,
                "worker": row.worker,
                "started_at": row.started_at,
                "completed_at": row.completed_at,
                "duration_ms": row.duration_ms,
                "handles": row.handles,
                "error": row.error,
                "error_details": row.error_details,
                "wait": row.wait,
            }
        yield NodeView(
            id=node_id,
            label=node.label,
            type=node.type,
            sub_type=node.sub_type,
            status=status,
            is_due=node_id in due,
            sources=_sources(graph, node_id, rows),
            **known,
        )


def _sources(graph: Graph, node_id: str, rows: Mapping[str, NodeExecution]) -> tuple[str, ...]:
    incoming = graph.incoming[node_id]
    taken = [
        edge.source for edge in incoming if edge.source in rows and edge.handle in rows[edge.source].handles
    ]
    return tuple(dict.fromkeys(taken or (edge.source for edge in incoming)))


def _visits_of_reruns(journal: Sequence[NodeExecution]) -> dict[str, int]:
    """For each node with a visit superseded by a rerun, the number of the visit that takes its place."""
    visits: dict[str, int] = {}
    for row in journal:
        if row.superseded_for is SupersededFor.RERUN:
            visits[row.node_id] = max(visits.get(row.node_id, 1), row.visit + 1)
    return visits
