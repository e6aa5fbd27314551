"""The state of every node of an execution, put together from plain facts without asking a server.

The journal shows what nodes did. Its replay shows which were skipped or cancelled, and which are due. The
lock shows which of these are running, and a worker that walks on by itself reports how far it has come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from workflow_engine.definition.graph import Graph
from workflow_engine.definition.workflow import Workflow
from workflow_engine.execution.records import Snapshot
from workflow_engine.execution.states import ExecutionStatus, NodeStatus, SupersededFor
from workflow_engine.execution.walk import JournalEntry, Walk, node_statuses
from workflow_engine.postgres.executions.queries import Execution, NodeExecution, NodeWait
from workflow_engine.presentation.graph_layout import PlacedNode, place
from workflow_engine.redis.lock import Holder
from workflow_engine.redis.running_nodes import Progress


@dataclass(frozen=True)
class NodeView:
    """A node of an execution. Fields that its last journal row does not have are None."""

    id: str
    label: str | None
    type: str
    sub_type: str
    status: NodeStatus | None
    """None: not reached yet."""
    is_due: bool
    """In line to run, or running."""
    sources: tuple[str, ...]
    """The nodes that led here; those that may lead here if it is not reached yet, or was skipped."""
    visit: int | None = None
    attempt: int | None = None
    worker: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    duration_ms: int | None = None
    handles: tuple[str, ...] = ()
    """The ways out taken."""
    input_data: Any = None
    """Its config with the expressions evaluated, secrets masked."""
    error: str | None = None
    error_details: Mapping[str, Any] | None = None
    wait: NodeWait | None = None
    progress: Progress | None = None
    """The last progress report of a running node."""
    children: ChildrenView | None = None


@dataclass(frozen=True)
class ChildrenView:
    """The children of a node."""

    total: int
    """How many there are to be."""
    counts: Mapping[str, int]
    """Those that have started, by status."""


@dataclass(frozen=True)
class Run:
    """A holder of the execution's lock, or of a place in it."""

    holder: Holder
    progress: Progress | None = None
    """The last report of the node that it runs."""

    def node_id(self, due: Sequence[str], ended: Collection[str]) -> str:
        """Return the node that runs: that of its place, the first one due, or the one that was walked to.

        The last is ahead of the journal while rows of pure nodes before it are not committed. A report is
        up to a second old, so its node may have `ended`: then the one that is due runs.
        """
        if self.progress is not None and self.progress.node_id and self.progress.node_id not in ended:
            return self.progress.node_id
        return self.holder.place or due[0]

    @property
    def began_at(self) -> datetime:
        """When its node began, or its lock was taken, if no later time is known."""
        return datetime.fromisoformat((self.progress and self.progress.began_at) or self.holder.since)

    @property
    def reported(self) -> Progress | None:
        """What the node's own code has reported."""
        return self.progress if self.progress is not None and self.progress.is_of_the_node else None


@dataclass(frozen=True)
class ExecutionView:
    """An execution, its nodes in the order of the walk, and their places in a drawing."""

    execution: Execution
    nodes: Sequence[NodeView]
    places: Sequence[PlacedNode]
    """One for each of `nodes`."""


def view_execution(
    execution: Execution,
    workflow: Workflow,
    snapshot: Snapshot | None,
    journal: Sequence[NodeExecution],
    runs: Sequence[Run] = (),
    children: Mapping[int, Mapping[ExecutionStatus, int]] | None = None,
) -> ExecutionView:
    """Build the view of an execution, of which these runs hold the lock.

    `children` counts its children by status, for each journal row that opened a wait for them.
    """
    entries = [row.entry for row in snapshot.journal] if snapshot else []
    return _view(execution, workflow, entries, journal, runs, children, is_over=execution.is_finished)


def view_as_of(
    execution: Execution,
    workflow: Workflow,
    journal: Sequence[NodeExecution],
    seq: int,
    children: Mapping[int, Mapping[ExecutionStatus, int]] | None = None,
) -> ExecutionView:
    """Build the view that an execution had once the journal row `seq` was committed."""
    is_last = bool(journal) and seq >= journal[-1].seq
    known = [
        row
        if row.superseded_by is not None and row.superseded_by <= seq
        else replace(row, superseded_by=None, superseded_for=None)
        for row in journal
        if row.seq <= seq
    ]
    entries = [_entry(row) for row in known if row.superseded_by is None]
    is_over = execution.is_finished and is_last
    return _view(execution, workflow, entries, known, (), children, is_over=is_over)


def _entry(row: NodeExecution) -> JournalEntry:
    waits = row.wait is not None
    return JournalEntry(
        row.seq, row.node_id, row.visit, row.attempt, row.status, row.handles, waits, row.retry_rule
    )


def _view(
    execution: Execution,
    workflow: Workflow,
    entries: Sequence[JournalEntry],
    journal: Sequence[NodeExecution],
    runs: Sequence[Run],
    children: Mapping[int, Mapping[ExecutionStatus, int]] | None,
    *,
    is_over: bool,
) -> ExecutionView:
    graph = Graph.of(workflow)
    visits = _visits_of_reruns(journal)
    start = execution.trigger_node_id
    statuses: dict[str, NodeStatus] = {}
    due: Sequence[str] = ()
    if entries:
        statuses = node_statuses(graph, start, entries, visits, is_over=is_over)
        due = () if is_over else tuple(Walk.replay(graph, start, entries, visits).due)
    ended = [node_id for node_id, status in statuses.items() if status.is_final]
    running = {run.node_id(due, ended): run for run in runs} if due else {}
    statuses.update(dict.fromkeys(running.keys() & graph.nodes.keys(), NodeStatus.RUNNING))
    rows = {row.node_id: row for row in journal if row.superseded_by is None}
    places = tuple(place(graph, start))
    kept = _children_by_node(journal, children or {})
    nodes = tuple(
        replace(node, children=kept.get(node.id))
        for node in _node_views(graph, [each.node_id for each in places], statuses, due, rows, running)
    )
    return ExecutionView(execution, nodes, places)


def _node_views(
    graph: Graph,
    node_ids: Sequence[str],
    statuses: Mapping[str, NodeStatus],
    due: Sequence[str],
    rows: Mapping[str, NodeExecution],
    running: Mapping[str, Run],
) -> Iterator[NodeView]:
    for node_id in node_ids:
        node, row, status = graph.nodes[node_id], rows.get(node_id), statuses.get(node_id)
        known: dict[str, Any] = {}
        if (run := running.get(node_id)) is not None:
            worker = f"{run.holder.instance}:{run.holder.process}"
            known = {"worker": worker, "started_at": run.began_at, "progress": run.reported}
        elif row is not None:
            known = {
                "visit": row.visit,
                "attempt": row.attempt,
                "worker": row.worker,
                "started_at": row.started_at,
                "completed_at": row.completed_at,
                "duration_ms": row.duration_ms,
                "handles": row.handles,
                "input_data": row.input_data,
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


def _children_by_node(
    journal: Sequence[NodeExecution], counts: Mapping[int, Mapping[ExecutionStatus, int]]
) -> dict[str, ChildrenView]:
    """Return the children of each node, those of superseded visits left out."""
    totals: Counter[str] = Counter()
    by_status: dict[str, Counter[str]] = {}
    for row in journal:
        if row.superseded_by is None and row.wait is not None and row.wait.children is not None:
            totals[row.node_id] += row.wait.children
            by_status.setdefault(row.node_id, Counter()).update(
                {status.value: count for status, count in counts.get(row.seq, {}).items()}
            )
    return {node_id: ChildrenView(total, dict(by_status[node_id])) for node_id, total in totals.items()}


def _sources(graph: Graph, node_id: str, rows: Mapping[str, NodeExecution]) -> tuple[str, ...]:
    incoming = graph.incoming[node_id]
    taken = [
        edge.source for edge in incoming if edge.source in rows and edge.handle in rows[edge.source].handles
    ]
    return tuple(dict.fromkeys(taken or (edge.source for edge in incoming)))


def _visits_of_reruns(journal: Sequence[NodeExecution]) -> dict[str, int]:
    """Return, for each node with a visit superseded by a rerun, the number of the visit that replaces it."""
    visits: dict[str, int] = {}
    for row in journal:
        if row.superseded_for is SupersededFor.RERUN:
            visits[row.node_id] = max(visits.get(row.node_id, 1), row.visit + 1)
    return visits
