"""Reopening: where an execution continues after a resume, a retry or a rerun, derived from its journal."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workflow_engine.definition.graph import Graph
from workflow_engine.definition.workflow import ERROR, ORDINARY, Node
from workflow_engine.errors import (
    IllegalNodeMove,
    InvalidValue,
    NodeNotFound,
    Problem,
    TriggerDataInvalid,
    VersionDiffers,
)
from workflow_engine.execution.messages import Route
from workflow_engine.execution.records import NodeCommit, Snapshot
from workflow_engine.execution.states import (
    EVENT_TYPES,
    ExecutionStatus,
    NodeStatus,
    Operation,
    SupersededFor,
    WaitStatus,
)
from workflow_engine.execution.superseding import (
    differences,
    ending_failure,
    rows_of_a_rerun,
    rows_of_a_retry,
    visits_after,
)
from workflow_engine.execution.walk import JournalEntry, Walk
from workflow_engine.json_values import decode
from workflow_engine.nodes.trigger.direct import check_trigger_data
from workflow_engine.postgres.executions.moves import Amendment, Change, CommitByHand
from workflow_engine.runner.compiled import CompiledWorkflows


@dataclass(frozen=True)
class Preview:
    """What a retry or a rerun would do, before it is done."""

    runs: tuple[str, ...]
    """The nodes that would be due at once, in order."""
    waits: tuple[str, ...]
    """The nodes that would wait again; one that waits for children has those that failed retried."""
    may_follow: tuple[str, ...]
    """The nodes that these lead to, in the order of the definition; which of them run depends on results."""
    superseded: tuple[JournalEntry, ...]
    """The journal rows that would no longer count."""


SUPERSEDED_FOR = {Operation.RETRY: SupersededFor.RETRY, Operation.RERUN: SupersededFor.RERUN}


class Reopening:
    """The changes that reopen one execution, derived from its state when it was read."""

    def __init__(self, snapshot: Snapshot, workflows: CompiledWorkflows) -> None:
        self._snapshot = snapshot
        self._workflows = workflows
        self._journal = [row.entry for row in snapshot.journal]

    @property
    def is_shared(self) -> bool:
        """True if several nodes of the execution may run at the same time."""
        return self._graph(self._snapshot.version).concurrency > 1

    def resume(self) -> Change:
        """Return the change that resumes it where it stopped."""
        snapshot = self._snapshot
        walk = self._walk(snapshot.version, self._journal, snapshot.visits)
        return Change(
            status=self._status(walk),
            sources={snapshot.status},
            event=EVENT_TYPES[Operation.RESUME],
            fence=snapshot.fence,
            waiting=_rows_waiting(walk, self._journal),
            due=self._due(snapshot.version, walk),
        )

    def retry(self, version: int | None = None) -> Change:
        """Return the change that resumes it from the node whose failure ended it.

        Raises `VersionDiffers`, `WorkflowNotFound`.
        """
        return self._retry(version)[0]

    def by_hand(
        self, operation: Operation, node_id: str, output: bytes, handle: str | None, actor: str | None
    ) -> CommitByHand:
        """Return the commit that gives a node its output in place of a run.

        Raises `NodeNotFound`, `IllegalNodeMove`, `InvalidValue`.
        """
        return self._by_hand(operation, node_id, output, handle, actor)[0]

    def _by_hand(
        self, operation: Operation, node_id: str, output: bytes, handle: str | None, actor: str | None
    ) -> tuple[CommitByHand, Walk]:
        snapshot, reopening = self._snapshot, None
        graph = self._graph(snapshot.version)
        node = self._node(graph, operation, node_id)
        if snapshot.status is ExecutionStatus.FAILED:
            failure = ending_failure(self._journal)
            if failure is not None and failure.node_id != node_id:
                raise IllegalNodeMove(
                    snapshot.execution_id,
                    node_id,
                    operation.value,
                    f"only {failure.node_id!r} can be, whose failure ended the execution",
                )
            reopening, walk = self._retry(None)
            reopening = replace(reopening, event=None)
        else:
            walk = self._walk(snapshot.version, self._journal, snapshot.visits)
        self._check_stands(walk, operation, node_id)
        handles = (_way_out(graph, node_id, handle),)
        visit, attempt, was_waiting = walk.visit(node_id), walk.attempt(node_id), node_id in walk.waiting
        step = walk.advance(graph, node_id, handles)
        due = self._due(snapshot.version, walk) or Route()
        by_hand = CommitByHand(
            NodeCommit(
                execution_id=snapshot.execution_id,
                fence=snapshot.fence,
                token=str(uuid.uuid4()),
                execution_status=_status_after(walk),
                node_id=node_id,
                type=node.type,
                sub_type=node.sub_type,
                label=node.label,
                visit=visit,
                attempt=attempt,
                status=NodeStatus.COMPLETED,
                handles=handles,
                output=output,
                worker=f"operator {actor}" if actor else "operator",
                due_queue=due.queue,
                due_priority=due.priority,
                closes=(*step.cancelled, *((node_id,) if was_waiting else ())),
                is_limited=self._workflows.get(self._snapshot.workflow_id, self._snapshot.version).is_limited,
                woken_status=WaitStatus.COMPLETED if was_waiting else None,
                newly_due=step.due,
            ),
            sources={snapshot.status},
            event=EVENT_TYPES[operation],
            reopening=reopening,
            details={"nodeId": node_id, **({"handle": handle} if handle else {})},
        )
        return by_hand, walk

    def output_of(self, node_id: str, output: bytes) -> Amendment:
        """Return the amendment that gives a node another output. Raises as `by_hand` does."""
        operation = Operation.SET_OUTPUT
        graph = self._graph(self._snapshot.version)
        node = self._node(graph, operation, node_id)
        rows = [row for row in self._journal if row.node_id == node_id and row.status is NodeStatus.COMPLETED]
        if not rows:
            raise IllegalNodeMove(
                self._snapshot.execution_id, node_id, operation.value, "it has not completed; skip it instead"
            )
        if node.type == "trigger" and (problems := check_trigger_data(node.config, decode(output))):
            raise TriggerDataInvalid(self._snapshot.workflow_id, node_id, problems)
        return self._amendment(operation, {"nodeId": node_id}, seq=rows[-1].seq, output=output)

    def variable(self, name: str, value: bytes) -> Amendment:
        """Return the amendment that gives a variable another value. Raises `InvalidValue`."""
        if name.startswith("_") or not name or name in self._graph(self._snapshot.version).nodes:
            raise InvalidValue(
                f"variables.{name}",
                "it needs a name that does not start with _ and is not that of a node",
            )
        return self._amendment(Operation.SET_VARIABLE, {"name": name}, variable=name, value=value)

    def _amendment(self, operation: Operation, details: dict[str, Any], **what: Any) -> Amendment:
        snapshot = self._snapshot
        return Amendment({snapshot.status}, EVENT_TYPES[operation], snapshot.fence, details=details, **what)

    def check_node(self, operation: Operation, node_id: str) -> None:
        """Raise `NodeNotFound` if its workflow has no such node."""
        self._node(self._graph(self._snapshot.version), operation, node_id)

    def _node(self, graph: Graph, operation: Operation, node_id: str) -> Node:
        if (node := graph.nodes.get(node_id)) is None:
            raise NodeNotFound(
                self._snapshot.execution_id,
                node_id,
                f"cannot {operation.value} node {node_id!r} of execution {self._snapshot.execution_id}: "
                f"its workflow has {', '.join(graph.nodes)}",
            )
        return node

    def _check_stands(self, walk: Walk, operation: Operation, node_id: str) -> None:
        if node_id in walk.waiting or (operation is Operation.SKIP and node_id in walk.due):
            return
        if operation is Operation.COMPLETE and node_id in walk.due:
            why = "it does not wait; skip it instead"
        else:
            waiting = f"{', '.join(walk.waiting)} waiting" if walk.waiting else ""
            due = f"{', '.join(walk.due)} due" if walk.due else ""
            why = f"it is done or not reached; {' and '.join(filter(None, (due, waiting))) or 'none is due'}"
        raise IllegalNodeMove(self._snapshot.execution_id, node_id, operation.value, why)

    def _retry(self, version: int | None) -> tuple[Change, Walk]:
        failure = ending_failure(self._journal)
        superseded, visits = (
            rows_of_a_retry(self._graph(self._snapshot.version), self._journal),
            self._snapshot.visits,
        )
        details = {"nodeId": failure.node_id} if failure else {}
        return self._superseding(Operation.RETRY, superseded, visits, version, details)

    def rerun(self, from_node: str, version: int | None = None) -> Change:
        """Return the change that runs a node and everything after it again.

        Raises `NodeNotFound`, `VersionDiffers`, `WorkflowNotFound`.
        """
        return self._rerun(from_node, version)[0]

    def walk(self) -> Walk:
        """Return where it stands now."""
        return self._walk(self._snapshot.version, self._journal, self._snapshot.visits)

    def walk_after(
        self, operation: Operation, from_node: str = "", version: int | None = None
    ) -> tuple[Walk, int]:
        """Return where a retry or rerun would go on, and the number of rows it would supersede.

        Raises as they do.
        """
        is_rerun = operation is Operation.RERUN
        change, walk = self._rerun(from_node, version) if is_rerun else self._retry(version)
        return walk, len(change.superseded)

    def walk_by_hand(self, operation: Operation, node_id: str, handle: str | None) -> Walk:
        """Return where it would go on after a commit by hand. Raises as `by_hand`."""
        return self._by_hand(operation, node_id, b"null", handle, None)[1]

    def _rerun(self, from_node: str, version: int | None) -> tuple[Change, Walk]:
        snapshot = self._snapshot
        graph = self._graph(snapshot.version)
        if from_node not in graph.nodes:
            raise self._unknown_node(from_node)
        superseded = rows_of_a_rerun(graph, self._journal, from_node)
        visits = visits_after(snapshot.visits, superseded)
        change, walk = self._superseding(Operation.RERUN, superseded, visits, version, {"nodeId": from_node})
        if from_node not in (*walk.due, snapshot.trigger_node_id):
            raise self._unknown_node(from_node)
        return change, walk

    def preview(self, operation: Operation, from_node: str | None = None) -> Preview:
        """Return what a retry, or a rerun from a node, would do. Raises as they do."""
        graph = self._graph(self._snapshot.version)
        change = self.rerun(from_node or "") if operation is Operation.RERUN else self.retry()
        rows = {row.seq for row in change.superseded}
        left = [row for row in self._journal if row.seq not in rows]
        visits = self._snapshot.visits
        if operation is Operation.RERUN:
            visits = visits_after(visits, change.superseded)
        walk = self._walk(self._snapshot.version, left, visits)
        begins = (*walk.due, *walk.waiting)
        follow = frozenset().union(*(graph.downstream(node_id) for node_id in begins))
        may_follow = tuple(node_id for node_id in graph.nodes if node_id in follow.difference(begins))
        return Preview(tuple(walk.due), tuple(walk.waiting), may_follow, tuple(change.superseded))

    def _superseding(
        self,
        operation: Operation,
        superseded: Sequence[JournalEntry],
        visits: Mapping[str, int],
        version: int | None,
        details: dict[str, Any],
    ) -> tuple[Change, Walk]:
        """Return the change that a retry or rerun makes, and the walk it leads to."""
        snapshot, rows = self._snapshot, {row.seq for row in superseded}
        left = [row for row in self._journal if row.seq not in rows]
        if version in (None, snapshot.version):
            version = snapshot.version
        else:
            self._check_version(version, left, visits)
            details = {**details, "version": version, "versionBefore": snapshot.version}
        walk = self._walk(version, left, visits)
        is_paused = snapshot.status is ExecutionStatus.PAUSED
        change = Change(
            status=ExecutionStatus.PAUSED if is_paused else self._status(walk),
            sources={snapshot.status},
            event=EVENT_TYPES[operation],
            takes_fence=True,
            fence=snapshot.fence,
            version=version,
            superseded=superseded,
            superseded_for=SUPERSEDED_FOR[operation],
            waiting=_rows_waiting(walk, left),
            due=self._due(version, walk),
            details=details,
        )
        return change, walk

    def _check_version(
        self, version: int, journal: Sequence[JournalEntry], visits: Mapping[str, int]
    ) -> None:
        problems = list(differences(journal, self._graph(self._snapshot.version), self._graph(version)))
        if not problems:
            try:
                self._walk(version, journal, visits)
            except ValueError as error:
                problems = [Problem("", f"its nodes could not have run in this order there: {error}")]
        if problems:
            raise VersionDiffers(self._snapshot.execution_id, version, problems)

    def _status(self, walk: Walk) -> ExecutionStatus:
        """Return the status with which it continues; if nothing is left to do, publishing completes it."""
        if walk.waiting and not walk.due:
            return ExecutionStatus.WAITING
        return ExecutionStatus.RUNNING if self._snapshot.has_begun else ExecutionStatus.PENDING

    def _walk(self, version: int, journal: Sequence[JournalEntry], visits: Mapping[str, int]) -> Walk:
        return Walk.replay(self._graph(version), self._snapshot.trigger_node_id, journal, visits)

    def _due(self, version: int, walk: Walk) -> Route | None:
        workflow = self._workflows.get(self._snapshot.workflow_id, version)
        return workflow.route(walk.due[0]) if walk.due else None

    def _graph(self, version: int) -> Graph:
        return self._workflows.get(self._snapshot.workflow_id, version).graph

    def _unknown_node(self, node_id: str) -> NodeNotFound:
        execution_id = self._snapshot.execution_id
        known = ", ".join(dict.fromkeys(row.node_id for row in self._journal))
        return NodeNotFound(
            execution_id,
            node_id,
            f"cannot rerun execution {execution_id} from {node_id!r}, which it has not reached; "
            f"it has reached {known}",
        )


def _status_after(walk: Walk) -> ExecutionStatus:
    if walk.due:
        return ExecutionStatus.RUNNING
    return ExecutionStatus.COMPLETED if walk.is_finished else ExecutionStatus.WAITING


def _way_out(graph: Graph, node_id: str, handle: str | None) -> str:
    """Return the handle by which a node leaves that did not run. Raises `InvalidValue`."""
    handles = tuple(dict.fromkeys(edge.handle for edge in graph.outgoing[node_id]))
    named = ", ".join(each for each in handles if each != ORDINARY)
    if handle is not None:
        if handle not in handles:
            ways = f"its ways out are {named}" if named else "it has one way out; name none"
            raise InvalidValue("handle", f"no edge leaves {node_id!r} from {handle!r}; {ways}")
        return handle
    if set(handles) <= {ORDINARY, ERROR}:
        return ORDINARY
    raise InvalidValue("handle", f"{node_id!r} has several ways out, {named}; name the one to take")


def _rows_waiting(walk: Walk, journal: Sequence[JournalEntry]) -> list[int]:
    """Return the rows that opened the waits of the nodes that wait."""
    last = {row.node_id: row.seq for row in journal}
    return [last[node_id] for node_id in walk.waiting]
