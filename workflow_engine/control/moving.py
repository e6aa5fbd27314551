"""Mover: one move of an execution, from where it stands to telling the workers and sending what is due."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from workflow_engine.control.descendants import Descendants
from workflow_engine.control.reopening import Reopening
from workflow_engine.engine.assembly import Engine
from workflow_engine.engine.context_cache import ExecutionContextCache
from workflow_engine.engine.executor import WorkflowExecutor
from workflow_engine.engine.publisher import Publisher
from workflow_engine.errors import (
    BackingServiceUnavailable,
    CacheUnavailable,
    ChildNotAwaited,
    ExecutionMoved,
    ExecutionNotFound,
    IllegalMove,
)
from workflow_engine.execution.bounded_texts import checked_note
from workflow_engine.execution.ids import checked_id
from workflow_engine.execution.records import Snapshot
from workflow_engine.execution.states import EVENT_TYPES, FINISHED, LEGAL_FROM, ExecutionStatus, Operation
from workflow_engine.json_values import check_size, encode, normalise
from workflow_engine.postgres.executions.children import Children
from workflow_engine.postgres.executions.moves import Amendment, Change, Moved, OperatorMoves
from workflow_engine.postgres.executions.state import ExecutionStateService
from workflow_engine.redis.lock import DistributedLockService, Holder
from workflow_engine.redis.running_nodes import RunningNodes
from workflow_engine.runner.compiled import CompiledWorkflows
from workflow_engine.telemetry.log_events import LogEvent, log_fields

log = logging.getLogger(__name__)


AMENDING = frozenset(
    {
        Operation.SET_OUTPUT,
        Operation.SET_VARIABLE,
        Operation.PAUSE_BEFORE,
        Operation.CLEAR_BREAKPOINTS,
    }
)
"""The operations that do not change the status."""

ATTEMPTS = 20
"""How often an operation is tried on an execution that keeps moving between its read and its write."""


@dataclass(frozen=True)
class Move:
    """The result of an operation."""

    execution_id: str
    operation: Operation
    status_before: ExecutionStatus
    status: ExecutionStatus
    seq: int
    """The execution's `seq` after it; for a retry or rerun, the number that superseded rows name."""
    holders: tuple[Holder, ...]
    """The holders that were running its nodes just after; none also if Redis could not be reached.

    After a pause or resume the results of these nodes still count; after any other operation they are
    refused.
    """
    interrupted: tuple[Holder, ...] = ()
    """Those whose nodes were asked to stop."""

    @property
    def is_running_a_node(self) -> bool:
        return bool(self.holders)


class Mover:
    """Writes moves, each one guarded statement, and tells the workers.

    Methods raise `ExecutionNotFound`, `IllegalMove`, `ExecutionMoved` for an execution that moves faster
    than it can be read, and `DatabaseUnavailable`. Redis and the broker may be away.
    """

    @classmethod
    def of(cls, engine: Engine) -> Mover:
        """Return what moves the executions of this engine."""
        return cls(
            engine.moves,
            engine.state,
            engine.cache,
            locks=engine.locks,
            workflows=engine.workflows,
            executor=engine.executor,
            running_nodes=engine.running_nodes,
            publisher=engine.publisher,
            children=engine.children,
            output_limit=engine.settings.output_limit,
        )

    def __init__(
        self,
        moves: OperatorMoves,
        state: ExecutionStateService,
        cache: ExecutionContextCache,
        *,
        locks: DistributedLockService,
        workflows: CompiledWorkflows,
        executor: WorkflowExecutor,
        running_nodes: RunningNodes,
        publisher: Publisher,
        children: Children,
        output_limit: int,
    ) -> None:
        self._moves = moves
        self._state = state
        self._cache = cache
        self._locks = locks
        self._compiled = workflows
        self._executor = executor
        self._running_nodes = running_nodes
        self._publisher = publisher
        self._children = children
        self._output_limit = output_limit
        self.descendants = Descendants(children, publisher, self._announce_cancelled, self._restart)

    def move(
        self,
        operation: Operation,
        execution_id: str,
        change: Callable[[], Change],
        reason: str | None,
        actor: str | None,
    ) -> Move:
        """Change the status, by a `change` that is asked for again if the execution has moved since."""
        execution_id = checked_id(execution_id)
        note = checked_note(reason, actor)
        for _ in range(ATTEMPTS):
            intended = change()
            holders_before = self._holders_to_interrupt(execution_id) if intended.takes_fence else ()
            if (moved := self._moves.write(execution_id, intended, **note)) is not None:
                status = intended.status
                self._follow_up(moved)
                holders, interrupted = self._notify_workers(execution_id, operation, status, holders_before)
                if intended.takes_fence:
                    self.descendants.see_to([execution_id])
                return Move(
                    execution_id, operation, moved.status_before, status, moved.seq, holders, interrupted
                )
            self._check_may_still(operation, execution_id)
        raise ExecutionMoved(execution_id, operation.value)

    def by_hand(
        self,
        operation: Operation,
        execution_id: str,
        node: str,
        output: Any,
        handle: str | None,
        reason: str | None,
        actor: str | None,
    ) -> Move:
        """Commit a row for a node in the place of a worker."""
        execution_id, note = checked_id(execution_id), checked_note(reason, actor)
        encoded = self.encoded(output, "output")
        for _ in range(ATTEMPTS):
            reopening = self.reopening(operation, execution_id)
            by_hand = reopening.by_hand(operation, node, encoded, handle, note["actor"])
            # Of nodes that run at the same time, the results of the others still count.
            refused = tuple(
                holder
                for holder in self._holders_to_interrupt(execution_id)
                if not reopening.is_shared or holder.node_id == node
            )
            if (moved := self._moves.commit(execution_id, by_hand, **note)) is not None:
                return self._moved(operation, execution_id, moved, refused)
            self._check_may_still(operation, execution_id)
        raise ExecutionMoved(execution_id, operation.value)

    def amend(
        self,
        operation: Operation,
        execution_id: str,
        amendment: Callable[[], Amendment],
        reason: str | None,
        actor: str | None,
    ) -> Move:
        """Change a stored value; the status stays."""
        execution_id, note = checked_id(execution_id), checked_note(reason, actor)
        for _ in range(ATTEMPTS):
            if (moved := self._moves.amend(execution_id, amendment(), **note)) is not None:
                return self._moved(operation, execution_id, moved, ())
            self._check_may_still(operation, execution_id)
        raise ExecutionMoved(execution_id, operation.value)

    def set_breakpoint(
        self,
        operation: Operation,
        execution_id: str,
        node: str | None,
        reason: str | None,
        actor: str | None,
    ) -> Move:
        """Pause the execution before `node` from now on; before no node if it is None."""
        execution_id, note = checked_id(execution_id), checked_note(reason, actor)
        sources, event = LEGAL_FROM[operation], EVENT_TYPES[operation]
        moved = self._moves.set_breakpoint(execution_id, node, sources, event, **note)
        if moved is None:
            self._check_may_still(operation, execution_id)
            raise ExecutionMoved(execution_id, operation.value)
        status = moved.status_before
        self._cache.remove_from_cache(execution_id)  # it says whether there are any
        try:
            holders = self._node_runners(execution_id)
        except CacheUnavailable:
            holders = ()
        return Move(execution_id, operation, status, status, moved.seq, holders)

    def _moved(
        self, operation: Operation, execution_id: str, moved: Moved, refused: tuple[Holder, ...]
    ) -> Move:
        """Notify the workers of a move that the journal records, and return it."""
        status = moved.status or moved.status_before
        self._follow_up(moved)
        holders, interrupted = self._notify_workers(execution_id, operation, status, refused)
        if operation not in AMENDING:
            self.descendants.see_to([execution_id])
        return Move(execution_id, operation, moved.status_before, status, moved.seq, holders, interrupted)

    def _check_may_still(self, operation: Operation, execution_id: str) -> None:
        """Raise if an operation that was refused is not possible any more."""
        status = self._state.status_of(execution_id)
        self.check_legal(operation, execution_id, status)
        if status.is_finished:
            self.check_awaited(operation, execution_id)

    def _follow_up(self, moved: Moved) -> None:
        for each in moved.follow_ups:
            self._publisher.follow_up(each)

    def encoded(self, value: Any, path: str) -> bytes:
        """Return a value as it is stored. Raises `InvalidValue` for one that is no JSON or too large."""
        encoded = encode(normalise(value, path))
        check_size(encoded, self._output_limit, path)
        return encoded

    def reopening(self, operation: Operation, execution_id: str) -> Reopening:
        """Return where an execution stands, and would continue, if the operation is legal now."""
        snapshot = self._state.load_snapshot(checked_id(execution_id), with_outputs=False)
        if snapshot is None:
            raise ExecutionNotFound(execution_id)
        self.check_legal(operation, snapshot.execution_id, snapshot.status)
        return self.reopening_of(snapshot)

    def reopening_of(self, snapshot: Snapshot) -> Reopening:
        """Return where an execution would continue after an operation."""
        return Reopening(snapshot, self._compiled)

    def check_legal(self, operation: Operation, execution_id: str, status: ExecutionStatus) -> None:
        """Raise `IllegalMove` for a status from which the operation is not possible."""
        if status not in LEGAL_FROM[operation]:
            possible_from = [each.value for each in ExecutionStatus if each in LEGAL_FROM[operation]]
            raise IllegalMove(execution_id, status.value, operation.value, possible_from)

    def check_awaited(self, operation: Operation, execution_id: str) -> None:
        """Raise `ChildNotAwaited` for a child whose parent does not wait for it any more."""
        place = self._children.parent_of(execution_id)
        if place is not None and not place.is_awaited:
            raise ChildNotAwaited(execution_id, operation.value, place.parent_id, place.root_id)

    def _announce_cancelled(self, execution_id: str) -> None:
        self._notify_workers(execution_id, Operation.CANCEL, ExecutionStatus.CANCELLED, ())

    def _restart(self, execution_id: str) -> bool:
        """Retry a child of an execution that is retried, from where it failed or was cancelled.

        Return False if another process has done so, or its parent no longer waits for it.
        """
        for _ in range(ATTEMPTS):
            snapshot = self._state.load_snapshot(execution_id, with_outputs=False)
            if snapshot is None or not snapshot.status.is_finished:
                return False
            retried = self.reopening_of(snapshot).retry()
            if (moved := self._moves.write(execution_id, retried, actor="its parent")) is not None:
                self._follow_up(moved)
                self._notify_workers(execution_id, Operation.RETRY, retried.status, ())
                return True
            place = self._children.parent_of(execution_id)
            if place is not None and not place.is_awaited:
                return False
        return False

    def _notify_workers(
        self,
        execution_id: str,
        operation: Operation,
        status: ExecutionStatus,
        holders_before: tuple[Holder, ...],
    ) -> tuple[tuple[Holder, ...], tuple[Holder, ...]]:
        """Invalidate the cache and interrupt the running nodes.

        Return the holders that run a node, and those that were interrupted. A worker that enters a node
        after the cached context is gone reads the move from Postgres. So the holders found now are the last
        ones that may have missed it.
        """
        holders: tuple[Holder, ...] = ()
        interrupted: tuple[Holder, ...] = ()
        try:
            self._cache.remove_from_cache(execution_id)
            if status.is_finished and operation not in AMENDING:
                self._cache.announce_finished(execution_id, status.value)
            holders = self._node_runners(execution_id)
            # A holder from before the move runs with a fence that was taken. One that took the lock since, in
            # an execution that continues, runs with the new fence.
            for holder in holders:
                if (status.is_finished and operation not in AMENDING) or holder in holders_before:
                    self._running_nodes.interrupt(execution_id, holder)
                    interrupted = (*interrupted, holder)
            if status not in (ExecutionStatus.PAUSED, *FINISHED) and operation not in AMENDING:
                # If a worker holds the lock, it publishes what is due after unlocking.
                self._executor.resume_execution(execution_id)
        except BackingServiceUnavailable as error:
            log.warning(
                "The %s of execution %s is in effect, but workers were not notified: %s",
                operation,
                execution_id,
                error,
                extra=log_fields(
                    LogEvent.MOVE_NOT_ANNOUNCED,
                    execution_id=execution_id,
                    operation=operation.value,
                    error=error,
                ),
            )
        return holders, interrupted

    def _holders_to_interrupt(self, execution_id: str) -> tuple[Holder, ...]:
        try:
            return self._node_runners(execution_id)
        except CacheUnavailable:
            return ()  # their results are refused all the same

    def _node_runners(self, execution_id: str) -> tuple[Holder, ...]:
        # A holder without a task runs no node: it only publishes what is due.
        return tuple(holder for holder in self._locks.holders(execution_id) if holder.task_id)
