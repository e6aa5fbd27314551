"""Operators: a person, or a program on their behalf, moves an execution: pause, resume, cancel, retry, rerun.

Each move is one guarded statement that needs no lock, since whatever stops a worker from being believed is
in Postgres too: the status, and the fence. The same statement says in `execution_events` who did it and why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Engine

from workflow_engine.context_cache import ExecutionContextCache
from workflow_engine.errors import (
    BackingServiceUnavailable,
    CacheUnavailable,
    ExecutionMoved,
    IllegalMove,
    NodeNotFound,
    Problem,
    VersionDiffers,
)
from workflow_engine.execution_queries import checked_id
from workflow_engine.executor import WorkflowExecutor
from workflow_engine.graph import Graph
from workflow_engine.json_values import normalise
from workflow_engine.lock import DistributedLockService, Holder
from workflow_engine.operator_moves import Change, ExecutionEvent, OperatorMoves, Standing
from workflow_engine.plan import Plans
from workflow_engine.running_nodes import RunningNodes
from workflow_engine.settings import Settings
from workflow_engine.states import FINISHED, ExecutionStatus, SupersededFor
from workflow_engine.superseding import (
    differences,
    ending_failure,
    rows_of_a_rerun,
    rows_of_a_retry,
    visits_after,
)
from workflow_engine.walk import JournalEntry, Walk

log = logging.getLogger(__name__)


class Operation(StrEnum):
    """What an operator can do to an execution."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    RETRY = "retry"
    RERUN = "rerun"


LEGAL_FROM: dict[Operation, frozenset[ExecutionStatus]] = {
    Operation.PAUSE: frozenset({ExecutionStatus.PENDING, ExecutionStatus.RUNNING, ExecutionStatus.WAITING}),
    Operation.RESUME: frozenset({ExecutionStatus.PAUSED}),
    Operation.CANCEL: frozenset(set(ExecutionStatus) - FINISHED),
    Operation.RETRY: frozenset({ExecutionStatus.FAILED}),
    # A PENDING execution has not run anything yet.
    Operation.RERUN: frozenset(set(ExecutionStatus) - {ExecutionStatus.PENDING}),
}
"""The statuses that each operation is possible from; it is refused from every other."""

EVENT_TYPES = {
    Operation.PAUSE: "PAUSED",
    Operation.RESUME: "RESUMED",
    Operation.CANCEL: "CANCELLED",
    Operation.RETRY: "RETRIED",
    Operation.RERUN: "RERUN",
}
"""What `execution_events` calls each operation."""

ATTEMPTS = 20
"""How often an operation is tried on an execution that moves between being read and being written."""


@dataclass(frozen=True)
class Move:
    """What an operation came to."""

    execution_id: str
    operation: Operation
    status_before: ExecutionStatus
    status: ExecutionStatus
    seq: int
    """The execution's `seq` after it; for a retry or rerun, the number that superseded rows name."""
    holder: Holder | None
    """Who was running a node of it just after; None also if Redis could not be asked.

    After a pause or resume that node's result still counts, after any other operation it is refused.
    """
    is_interrupted: bool = False
    """Whether that node was told to stop."""

    @property
    def is_running_a_node(self) -> bool:
        return self.holder is not None


@dataclass(frozen=True)
class Reopening:
    """What a retry or rerun has in mind, before it is known where that leads."""

    event: str
    superseded: Sequence[JournalEntry]
    superseded_for: SupersededFor
    version: int
    details: dict[str, Any]


class Operators:
    """Moves executions on behalf of a person. Every method may raise `DatabaseUnavailable`.

    All operations raise `ExecutionNotFound`, `IllegalMove`, and `InvalidValue` for an `actor` or `reason`
    that cannot be stored. Redis and the broker may be away: the move holds all the same, and recovery
    brings on what could not be sent.
    """

    def __init__(
        self,
        engine: Engine,
        cache: ExecutionContextCache,
        settings: Settings,
        *,
        locks: DistributedLockService,
        plans: Plans,
        executor: WorkflowExecutor,
        running_nodes: RunningNodes,
    ) -> None:
        self._moves = OperatorMoves(engine, settings)
        self._cache = cache
        self._locks = locks
        self._plans = plans
        self._executor = executor
        self._running_nodes = running_nodes

    def pause(self, execution_id: str, *, reason: str | None = None, actor: str | None = None) -> Move:
        """Start no further node until it is resumed. A node that runs may end; waits go on, and keep."""
        change = Change(ExecutionStatus.PAUSED, EVENT_TYPES[Operation.PAUSE])
        return self._move(Operation.PAUSE, execution_id, lambda _: change, reason, actor)

    def resume(self, execution_id: str, *, reason: str | None = None, actor: str | None = None) -> Move:
        """Let a paused execution go on from where it stands; what came due meanwhile is due now."""

        def change(standing: Standing) -> Change:
            walk = self._walk(standing, standing.version, standing.journal, standing.visits)
            return Change(
                status=_status(walk),
                event=EVENT_TYPES[Operation.RESUME],
                fence=standing.fence,
                waiting=_rows_waiting(walk, standing.journal),
            )

        return self._move(Operation.RESUME, execution_id, change, reason, actor)

    def cancel(self, execution_id: str, *, reason: str | None = None, actor: str | None = None) -> Move:
        """End an execution at once. A node that runs is interrupted, its result refused; waits are cancelled.

        The answer's `holder` tells who runs such a node, if one does, and as which task.
        """
        change = Change(ExecutionStatus.CANCELLED, EVENT_TYPES[Operation.CANCEL], takes_fence=True)
        return self._move(Operation.CANCEL, execution_id, lambda _: change, reason, actor)

    def retry(
        self,
        execution_id: str,
        *,
        version: int | None = None,
        reason: str | None = None,
        actor: str | None = None,
    ) -> Move:
        """Go on from the node whose failure ended the execution, as if that visit had not begun.

        The node keeps its visit, and so its idempotency key. `version` is that of the workflow to go on
        with. Raises `VersionDiffers` if what has been done does not fit it, `WorkflowNotFound`.
        """

        def change(standing: Standing) -> Change:
            failure = ending_failure(standing.journal)
            reopening = Reopening(
                event=EVENT_TYPES[Operation.RETRY],
                superseded=rows_of_a_retry(standing.journal),
                superseded_for=SupersededFor.RETRY,
                version=version or standing.version,
                details={"nodeId": failure.node_id} if failure else {},
            )
            return self._reopen(standing, reopening)[0]

        return self._move(Operation.RETRY, execution_id, change, reason, actor)

    def rerun(
        self,
        execution_id: str,
        from_node: str,
        *,
        version: int | None = None,
        reason: str | None = None,
        actor: str | None = None,
    ) -> Move:
        """Run a node and all that follows it again; what they did before is superseded, not erased.

        Each of these nodes makes a new visit, with a new idempotency key. A paused execution stays paused.
        Raises `NodeNotFound` for a node that the execution has not come to, `VersionDiffers` if what is
        left of the journal does not fit the `version` to go on with, `WorkflowNotFound`.
        """

        def change(standing: Standing) -> Change:
            graph = self._graph(standing, standing.version)
            if from_node not in graph.nodes:
                raise _unknown_node(standing, from_node)
            reopening = Reopening(
                event=EVENT_TYPES[Operation.RERUN],
                superseded=rows_of_a_rerun(graph, standing.journal, from_node),
                superseded_for=SupersededFor.RERUN,
                version=version or standing.version,
                details={"nodeId": from_node},
            )
            change, walk = self._reopen(standing, reopening)
            if from_node not in (*walk.due, standing.trigger_node_id):
                raise _unknown_node(standing, from_node)
            return change

        return self._move(Operation.RERUN, execution_id, change, reason, actor)

    def events(self, execution_id: str) -> list[ExecutionEvent]:
        """What operators did to an execution and which events were sent to it, oldest first.

        Raises `ExecutionNotFound`.
        """
        found = self._moves.events(execution_id)
        if not found:
            self._moves.read(execution_id, with_journal=False)
        return found

    def candidates(
        self,
        operation: Operation,
        *,
        workflow_id: str | None = None,
        statuses: Sequence[ExecutionStatus] = (),
        older_than: float | None = None,
    ) -> list[str]:
        """Ids of the executions that an operation is possible for, the oldest first.

        `statuses` narrows them down; `older_than` is in seconds since the start, by the database's clock.
        """
        wanted = LEGAL_FROM[operation].intersection(statuses or ExecutionStatus)
        return self._moves.select(sorted(wanted), workflow_id, older_than)

    # One move, from reading where the execution stands to sending what is due

    def _move(
        self,
        operation: Operation,
        execution_id: str,
        change: Callable[[Standing], Change],
        reason: str | None,
        actor: str | None,
    ) -> Move:
        note = {"reason": normalise(reason, "reason"), "actor": normalise(actor, "actor")}
        # What a pause or cancel writes does not depend on what has been done.
        with_journal = operation not in (Operation.PAUSE, Operation.CANCEL)
        for _ in range(ATTEMPTS):
            standing = self._moves.read(execution_id, with_journal=with_journal)
            if standing.status not in LEGAL_FROM[operation]:
                raise _illegal(standing, operation)
            intended = change(standing)
            holder_before = self._holder_to_interrupt(standing.execution_id) if intended.takes_fence else None
            if (moved := self._moves.write(standing, intended, **note)) is not None:
                seq, status = moved
                holder, is_interrupted = self._spread(standing.execution_id, operation, status, holder_before)
                return Move(
                    standing.execution_id, operation, standing.status, status, seq, holder, is_interrupted
                )
        raise ExecutionMoved(checked_id(execution_id), operation.value)

    def _spread(
        self,
        execution_id: str,
        operation: Operation,
        status: ExecutionStatus,
        holder_before: Holder | None,
    ) -> tuple[Holder | None, bool]:
        """Let the fleet know of a move; who runs a node of the execution, and whether it was told to stop.

        Whoever enters a node after the cached context is gone finds the move in Postgres, so a holder that
        is seen now is the last one that may not know of it.
        """
        holder, is_interrupted = None, False
        try:
            self._cache.remove_from_cache(execution_id)
            if status.is_finished:
                self._cache.announce_finished(execution_id, status.value)
            holder = self._node_runner(execution_id)
            # Whoever held the lock before the move and still does runs with a fence that was taken; but who
            # has taken it since, of an execution that goes on, runs with the new one.
            if holder is not None and (status.is_finished or holder == holder_before):
                self._running_nodes.interrupt(execution_id, holder.token)
                is_interrupted = True
            if status not in (ExecutionStatus.PAUSED, *FINISHED):
                # A worker that holds the lock looks for what is due when it has unlocked.
                self._executor.resume_execution(execution_id)
        except BackingServiceUnavailable as error:
            log.warning(
                "The %s of execution %s holds, but was not spread: %s", operation, execution_id, error
            )
        return holder, is_interrupted

    def _holder_to_interrupt(self, execution_id: str) -> Holder | None:
        try:
            return self._node_runner(execution_id)
        except CacheUnavailable:
            return None  # its result is refused all the same

    def _node_runner(self, execution_id: str) -> Holder | None:
        held = self._locks.held_by(execution_id)
        # Who holds the lock on behalf of no task only looks for what is due.
        return held[1] if held is not None and held[1].task_id else None

    # Where an execution goes on from

    def _reopen(self, standing: Standing, reopening: Reopening) -> tuple[Change, Walk]:
        """What a retry or rerun writes, and the walk it leads to."""
        superseded = {row.seq for row in reopening.superseded}
        left = [row for row in standing.journal if row.seq not in superseded]
        visits, details = standing.visits, reopening.details
        if reopening.superseded_for is SupersededFor.RERUN:
            visits = visits_after(visits, reopening.superseded)
        if reopening.version != standing.version:
            self._check_version(standing, reopening.version, left, visits)
            details = {**details, "version": reopening.version, "versionBefore": standing.version}
        walk = self._walk(standing, reopening.version, left, visits)
        is_paused = standing.status is ExecutionStatus.PAUSED
        change = Change(
            status=ExecutionStatus.PAUSED if is_paused else _status(walk),
            event=reopening.event,
            takes_fence=True,
            fence=standing.fence,
            version=reopening.version,
            superseded=reopening.superseded,
            superseded_for=reopening.superseded_for,
            waiting=_rows_waiting(walk, left),
            details=details,
        )
        return change, walk

    def _check_version(
        self, standing: Standing, version: int, left: list[JournalEntry], visits: dict[str, int]
    ) -> None:
        before, after = self._graph(standing, standing.version), self._graph(standing, version)
        problems = list(differences(left, before, after))
        if not problems:
            try:
                Walk.replay(after, standing.trigger_node_id, left, visits)
            except ValueError as error:
                problems = [Problem("", f"its nodes could not have run in this order there: {error}")]
        if problems:
            raise VersionDiffers(standing.execution_id, version, problems)

    def _walk(
        self, standing: Standing, version: int, journal: list[JournalEntry], visits: dict[str, int]
    ) -> Walk:
        return Walk.replay(self._graph(standing, version), standing.trigger_node_id, journal, visits)

    def _graph(self, standing: Standing, version: int) -> Graph:
        return self._plans.get(standing.workflow_id, version).graph


def _status(walk: Walk) -> ExecutionStatus:
    """Of an execution that goes on; one that has nothing left to do is completed by whoever publishes."""
    return ExecutionStatus.WAITING if walk.waiting and not walk.due else ExecutionStatus.RUNNING


def _rows_waiting(walk: Walk, journal: Sequence[JournalEntry]) -> list[int]:
    """The rows that opened the waits of the nodes that wait."""
    last = {row.node_id: row.seq for row in journal}
    return [last[node_id] for node_id in walk.waiting]


def _illegal(standing: Standing, operation: Operation) -> IllegalMove:
    possible_from = [status.value for status in ExecutionStatus if status in LEGAL_FROM[operation]]
    return IllegalMove(standing.execution_id, standing.status.value, operation.value, possible_from)


def _unknown_node(standing: Standing, node_id: str) -> NodeNotFound:
    known = ", ".join(dict.fromkeys(row.node_id for row in standing.journal))
    return NodeNotFound(
        standing.execution_id,
        node_id,
        f"execution {standing.execution_id} cannot be run again from {node_id!r}, which it has not come to; "
        f"it has come to {known}",
    )
