"""ExecutionControl: what a person, or a program on their behalf, does to an execution.

Each move is one guarded statement that needs no lock: the status and the fence, which refuse a worker's
commit, are in Postgres too. The same statement records in `execution_events` who did it and why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from workflow_engine.control.descendants import Descendants
from workflow_engine.control.limits import LimitControl
from workflow_engine.control.rehearsal import Group, effect_of, grouped
from workflow_engine.control.reopening import Preview, Reopening
from workflow_engine.control.workflows import WorkflowControl
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
    WorkflowEngineError,
)
from workflow_engine.execution.bounded_texts import checked_note
from workflow_engine.execution.ids import checked_id
from workflow_engine.execution.states import EVENT_TYPES, FINISHED, LEGAL_FROM, ExecutionStatus, Operation
from workflow_engine.json_values import check_size, encode, normalise
from workflow_engine.postgres.executions.children import Children
from workflow_engine.postgres.executions.filters import ExecutionFilter
from workflow_engine.postgres.executions.moves import Amendment, Change, ExecutionEvent, Moved, OperatorMoves
from workflow_engine.postgres.executions.state import ExecutionStateService
from workflow_engine.postgres.limits import Limits
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


class ExecutionControl:
    """Moves executions on behalf of a person. Every method may raise `DatabaseUnavailable`.

    All operations raise `ExecutionNotFound`, `IllegalMove`, and `InvalidValue` for an `actor` or `reason`
    that cannot be stored. Redis and the broker may be away: the move is in effect all the same, and recovery
    publishes what could not be sent.
    """

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
        workflow_control: WorkflowControl,
        output_limit: int,
        limits: Limits,
    ) -> None:
        self._output_limit = output_limit
        self.workflows = workflow_control
        """What is done to workflows and triggers: `client.control.workflows.deactivate("shop")`."""
        self._moves = moves
        self._state = state
        self._cache = cache
        self._locks = locks
        self._compiled = workflows
        self._executor = executor
        self._running_nodes = running_nodes
        self._publisher = publisher
        self._children = children
        self.limits = LimitControl(limits, publisher)
        self.descendants = Descendants(children, publisher, self._announce_cancelled, self._restart)

    def pause(
        self,
        execution_id: str,
        *,
        children: bool = False,
        reason: str | None = None,
        actor: str | None = None,
    ) -> Move:
        """Start no further node until it is resumed. A running node may finish; waits go on and are kept.

        No further child starts, and those that run go on; with `children` they are paused too, on all levels.
        """
        change = Change(ExecutionStatus.PAUSED, LEGAL_FROM[Operation.PAUSE], EVENT_TYPES[Operation.PAUSE])
        move = self._move(Operation.PAUSE, execution_id, lambda: change, reason, actor)
        if children:
            self._for_each_child(move.execution_id, LEGAL_FROM[Operation.PAUSE], self.pause, reason, actor)
        return move

    def resume(
        self,
        execution_id: str,
        *,
        children: bool = False,
        reason: str | None = None,
        actor: str | None = None,
    ) -> Move:
        """Resume a paused execution from where it stopped; nodes that came due since are due now.

        With `children` those that are paused are resumed too, on all levels.
        """

        def change() -> Change:
            return self._reopening(Operation.RESUME, execution_id).resume()

        move = self._move(Operation.RESUME, execution_id, change, reason, actor)
        if children:
            self._for_each_child(move.execution_id, LEGAL_FROM[Operation.RESUME], self.resume, reason, actor)
        return move

    def cancel(self, execution_id: str, *, reason: str | None = None, actor: str | None = None) -> Move:
        """End an execution at once: interrupt a running node, refuse its result, and cancel all waits.

        Its children are cancelled too, on all levels.

        The result's `holders` are the worker processes, and the tasks, that run such nodes.
        """
        change = Change(
            ExecutionStatus.CANCELLED,
            LEGAL_FROM[Operation.CANCEL],
            EVENT_TYPES[Operation.CANCEL],
            takes_fence=True,
        )
        return self._move(Operation.CANCEL, execution_id, lambda: change, reason, actor)

    def retry(
        self,
        execution_id: str,
        *,
        version: int | None = None,
        reason: str | None = None,
        actor: str | None = None,
    ) -> Move:
        """Resume from the node whose failure ended the execution, as if that visit had not begun.

        If children of it have failed, they are retried themselves, and those that completed are kept. Raises
        `ChildNotAwaited` for a child whose parent does not wait for it any more.

        The node keeps its visit, and so its idempotency key. `version` is the version of the workflow to
        continue with. Raises `VersionDiffers` if the journal does not fit it, `WorkflowNotFound`.
        """

        def change() -> Change:
            return self._reopening(Operation.RETRY, execution_id).retry(version)

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
        """Run a node and everything after it again; what they did before is superseded, not erased.

        Each of these nodes makes a new visit, with a new idempotency key. A paused execution stays paused.
        Raises `NodeNotFound` for a node that the execution has not reached, and `WorkflowNotFound`. Raises
        `VersionDiffers` if the rest of the journal does not fit the `version` to continue with.
        """

        def change() -> Change:
            return self._reopening(Operation.RERUN, execution_id).rerun(from_node, version)

        return self._move(Operation.RERUN, execution_id, change, reason, actor)

    def preview(self, operation: Operation, execution_id: str, from_node: str | None = None) -> Preview:
        """Return what a retry, or a rerun from a node, would do; nothing changes.

        Raises as the operation would.
        """
        return self._reopening(operation, execution_id).preview(operation, from_node)

    def skip(
        self,
        execution_id: str,
        node: str,
        *,
        output: Any = None,
        handle: str | None = None,
        reason: str | None = None,
        actor: str | None = None,
    ) -> Move:
        """Give a node that is due, waits or has failed an output, and go on behind it without running it.

        If its failure has ended the execution, the execution is reopened. A node that runs is interrupted and
        its result refused. `handle` names the way out of a node that has several. Raises `NodeNotFound`,
        `InvalidValue`, and `IllegalNodeMove` for a node that is done or not reached.
        """
        return self._by_hand(Operation.SKIP, execution_id, node, output, handle, reason, actor)

    def complete(
        self,
        execution_id: str,
        node: str,
        output: Any = None,
        *,
        handle: str | None = None,
        reason: str | None = None,
        actor: str | None = None,
    ) -> Move:
        """End the wait of a node by hand, with this output.

        Children that it waits for are cancelled. Raises as `skip` does; the node must wait.
        """
        return self._by_hand(Operation.COMPLETE, execution_id, node, output, handle, reason, actor)

    def set_output(
        self,
        execution_id: str,
        node: str,
        output: Any,
        *,
        reason: str | None = None,
        actor: str | None = None,
    ) -> Move:
        """Replace the output of a completed node, before a resume, retry or rerun goes on with it.

        The way that the node took stays. The history keeps the output that it had. Raises `NodeNotFound`,
        `IllegalNodeMove`, `InvalidValue`, and `TriggerDataInvalid` for data that a trigger's schema refuses.
        """
        encoded = self._encoded(output, "output")
        operation = Operation.SET_OUTPUT

        def amendment() -> Amendment:
            return self._reopening(operation, execution_id).output_of(node, encoded)

        return self._amend(operation, execution_id, amendment, reason, actor)

    def set_variable(
        self,
        execution_id: str,
        name: str,
        value: Any,
        *,
        reason: str | None = None,
        actor: str | None = None,
    ) -> Move:
        """Give a variable a value, before a resume, retry or rerun goes on with it.

        It has this value wherever the execution goes on, until a node sets it again. Raises `InvalidValue`.
        """
        encoded = self._encoded(value, f"variables.{name}")
        operation = Operation.SET_VARIABLE

        def amendment() -> Amendment:
            return self._reopening(operation, execution_id).variable(name, encoded)

        return self._amend(operation, execution_id, amendment, reason, actor)

    def pause_before(
        self, execution_id: str, node: str, *, reason: str | None = None, actor: str | None = None
    ) -> Move:
        """Pause the execution whenever this node becomes due; resume it to go on with the node.

        If the node is due and no worker runs it yet, the execution is paused now. The breakpoint stays until
        `clear_breakpoints`; a retry or rerun that begins with the node does not stop at it. Raises
        `NodeNotFound`.
        """
        operation = Operation.PAUSE_BEFORE
        reopening = self._reopening(operation, execution_id)
        reopening.check_node(operation, node)
        move = self._set_breakpoint(operation, execution_id, node, reason, actor)
        is_due = node in self._reopening(operation, execution_id).walk().due
        if not is_due or move.status is ExecutionStatus.PAUSED:
            return move
        if any(holder.node_id == node for holder in move.holders):
            return move
        note = reason or f"breakpoint before {node}, which was due already"
        with suppress(IllegalMove):  # it has been paused or has ended meanwhile
            paused = self.pause(execution_id, reason=note, actor=actor)
            return replace(move, status=paused.status, holders=paused.holders)
        return move

    def clear_breakpoints(
        self, execution_id: str, *, reason: str | None = None, actor: str | None = None
    ) -> Move:
        """Remove all breakpoints of an execution, those of its workflow too; a paused one stays paused."""
        return self._set_breakpoint(Operation.CLEAR_BREAKPOINTS, execution_id, None, reason, actor)

    def audit(self, execution_id: str) -> list[ExecutionEvent]:
        """Return what operators did to an execution and the events that it received, oldest first.

        Raises `ExecutionNotFound`.
        """
        found = self._moves.events(execution_id)
        if not found:
            self._state.status_of(checked_id(execution_id))
        return found

    def candidates(
        self,
        operation: Operation,
        wanted: ExecutionFilter | None = None,
        **filters: Any,
    ) -> list[str]:
        """Return the ids of the executions for which an operation is possible, oldest first.

        They are filtered by `wanted`, or by arguments with the names of its fields: `workflow_id`,
        `statuses`, `where`, `tags`, `since`, `until`, `older_than`, `text`. Raises `InvalidValue`.
        """
        wanted = wanted or ExecutionFilter(**filters)
        possible = LEGAL_FROM[operation].intersection(wanted.statuses or ExecutionStatus)
        return self._moves.select(sorted(possible), wanted)

    def dry_run(
        self,
        operation: Operation,
        wanted: ExecutionFilter | Sequence[str],
        **arguments: Any,
    ) -> list[Group]:
        """Return what an operation would do to these executions, in groups; nothing changes.

        `wanted` are filters, which leave out those in a status that does not allow the operation, or ids.
        `arguments` are those of the operation, such as `node` and `output`. Raises `InvalidValue`.
        """
        given = dict(arguments)
        for name, path in (("output", "output"), ("value", f"variables.{given.get('name')}")):
            if name in given:
                given[name] = self._encoded(given[name], path)
        ids = self.candidates(operation, wanted) if isinstance(wanted, ExecutionFilter) else wanted
        return grouped([self._rehearsed(operation, execution_id, given) for execution_id in ids])

    def _rehearsed(
        self, operation: Operation, execution_id: str, arguments: Mapping[str, Any]
    ) -> tuple[str, str, int, str, str, bool]:
        snapshot = self._state.load_snapshot(checked_id(execution_id), with_outputs=False)
        if snapshot is None:
            raise ExecutionNotFound(execution_id)
        try:
            self._check_legal(operation, snapshot.execution_id, snapshot.status)
            if snapshot.status.is_finished and operation not in AMENDING:
                self._check_awaited(operation, snapshot.execution_id)
            effect, is_refused = effect_of(Reopening(snapshot, self._compiled), operation, arguments), False
        except (WorkflowEngineError, ValueError) as refusal:
            if isinstance(refusal, BackingServiceUnavailable):
                raise
            # Without the id, in which alike refusals differ.
            text = str(refusal).replace(f" of execution {snapshot.execution_id}", "")
            effect, is_refused = text.replace(snapshot.execution_id, "…"), True
        return (
            snapshot.execution_id,
            snapshot.workflow_id,
            snapshot.version,
            snapshot.status.value,
            effect,
            is_refused,
        )

    # One move, from where the execution stands to sending what is due

    def _move(
        self,
        operation: Operation,
        execution_id: str,
        change: Callable[[], Change],
        reason: str | None,
        actor: str | None,
    ) -> Move:
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

    def _by_hand(
        self,
        operation: Operation,
        execution_id: str,
        node: str,
        output: Any,
        handle: str | None,
        reason: str | None,
        actor: str | None,
    ) -> Move:
        execution_id, note = checked_id(execution_id), checked_note(reason, actor)
        encoded = self._encoded(output, "output")
        for _ in range(ATTEMPTS):
            reopening = self._reopening(operation, execution_id)
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

    def _amend(
        self,
        operation: Operation,
        execution_id: str,
        amendment: Callable[[], Amendment],
        reason: str | None,
        actor: str | None,
    ) -> Move:
        execution_id, note = checked_id(execution_id), checked_note(reason, actor)
        for _ in range(ATTEMPTS):
            if (moved := self._moves.amend(execution_id, amendment(), **note)) is not None:
                return self._moved(operation, execution_id, moved, ())
            self._check_may_still(operation, execution_id)
        raise ExecutionMoved(execution_id, operation.value)

    def _set_breakpoint(
        self,
        operation: Operation,
        execution_id: str,
        node: str | None,
        reason: str | None,
        actor: str | None,
    ) -> Move:
        execution_id, note = checked_id(execution_id), checked_note(reason, actor)
        sources, event = LEGAL_FROM[operation], EVENT_TYPES[operation]
        moved = self._moves.set_breakpoint(execution_id, node, sources, event, **note)
        if moved is None:
            self._check_may_still(operation, execution_id)
            raise ExecutionMoved(execution_id, operation.value)
        status = moved.status_before
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
        self._check_legal(operation, execution_id, status)
        if status.is_finished:
            self._check_awaited(operation, execution_id)

    def _follow_up(self, moved: Moved) -> None:
        for each in moved.follow_ups:
            self._publisher.follow_up(each)

    def _encoded(self, value: Any, path: str) -> bytes:
        encoded = encode(normalise(value, path))
        check_size(encoded, self._output_limit, path)
        return encoded

    def _reopening(self, operation: Operation, execution_id: str) -> Reopening:
        snapshot = self._state.load_snapshot(checked_id(execution_id), with_outputs=False)
        if snapshot is None:
            raise ExecutionNotFound(execution_id)
        self._check_legal(operation, snapshot.execution_id, snapshot.status)
        return Reopening(snapshot, self._compiled)

    def _check_legal(self, operation: Operation, execution_id: str, status: ExecutionStatus) -> None:
        if status not in LEGAL_FROM[operation]:
            possible_from = [each.value for each in ExecutionStatus if each in LEGAL_FROM[operation]]
            raise IllegalMove(execution_id, status.value, operation.value, possible_from)

    def _check_awaited(self, operation: Operation, execution_id: str) -> None:
        place = self._children.parent_of(execution_id)
        if place is not None and not place.is_awaited:
            raise ChildNotAwaited(execution_id, operation.value, place.parent_id, place.root_id)

    # Children

    def _for_each_child(
        self,
        execution_id: str,
        statuses: Collection[ExecutionStatus],
        operate: Callable[..., Move],
        reason: str | None,
        actor: str | None,
    ) -> None:
        last = None
        while found := self._children.of(execution_id, sorted(statuses), last):
            for last in found:
                with suppress(IllegalMove, ExecutionMoved, ExecutionNotFound):  # it has ended since
                    operate(last, children=True, reason=reason, actor=actor)

    def _announce_cancelled(self, execution_id: str) -> None:
        self._notify_workers(execution_id, Operation.CANCEL, ExecutionStatus.CANCELLED, ())

    def _restart(self, execution_id: str) -> None:
        """Retry a child of an execution that is retried, from where it failed or was cancelled."""
        for _ in range(ATTEMPTS):
            snapshot = self._state.load_snapshot(execution_id, with_outputs=False)
            if snapshot is None or not snapshot.status.is_finished:
                return
            change = Reopening(snapshot, self._compiled).retry()
            if (moved := self._moves.write(execution_id, change, actor="its parent")) is not None:
                self._follow_up(moved)
                self._notify_workers(execution_id, Operation.RETRY, change.status, ())
                return
            place = self._children.parent_of(execution_id)
            if place is not None and not place.is_awaited:
                return

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
