"""ExecutionControl: what a person, or a program on their behalf, does to an execution.

Each move is one guarded statement that needs no lock: the status and the fence, which refuse a worker's
commit, are in Postgres too. The same statement records in `execution_events` who did it and why.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from workflow_engine.control.limits import LimitControl
from workflow_engine.control.moving import Move, Mover
from workflow_engine.control.rehearsal import Group, Rehearsal
from workflow_engine.control.reopening import Preview
from workflow_engine.control.workflows import WorkflowControl
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import ExecutionMoved, ExecutionNotFound, IllegalMove
from workflow_engine.execution.ids import checked_id
from workflow_engine.execution.states import EVENT_TYPES, LEGAL_FROM, ExecutionStatus, Operation
from workflow_engine.postgres.executions.children import Children
from workflow_engine.postgres.executions.filters import ExecutionFilter
from workflow_engine.postgres.executions.moves import Amendment, Change, ExecutionEvent, OperatorMoves
from workflow_engine.postgres.executions.state import ExecutionStateService


class ExecutionControl:
    """Moves executions on behalf of a person. Every method may raise `DatabaseUnavailable`.

    All operations raise `ExecutionNotFound`, `IllegalMove`, and `InvalidValue` for an `actor` or `reason`
    that cannot be stored. Redis and the broker may be away: the move is in effect all the same, and recovery
    publishes what could not be sent.
    """

    @classmethod
    def of(cls, engine: Engine) -> ExecutionControl:
        """Return what moves the executions of this engine."""
        return cls(
            Mover.of(engine),
            engine.moves,
            engine.state,
            engine.children,
            workflows=WorkflowControl(engine.deployments, engine.triggers, engine.cache),
            limits=LimitControl(engine.limits, engine.publisher),
        )

    def __init__(
        self,
        mover: Mover,
        moves: OperatorMoves,
        state: ExecutionStateService,
        children: Children,
        *,
        workflows: WorkflowControl,
        limits: LimitControl,
    ) -> None:
        self._mover = mover
        self._moves = moves
        self._state = state
        self._children = children
        self._rehearsal = Rehearsal(mover, state)
        self.workflows = workflows
        """What is done to workflows and triggers: `client.control.workflows.deactivate("shop")`."""
        self.limits = limits
        self.descendants = mover.descendants

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
        move = self._mover.move(Operation.PAUSE, execution_id, lambda: change, reason, actor)
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
            return self._mover.reopening(Operation.RESUME, execution_id).resume()

        move = self._mover.move(Operation.RESUME, execution_id, change, reason, actor)
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
        return self._mover.move(Operation.CANCEL, execution_id, lambda: change, reason, actor)

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
            return self._mover.reopening(Operation.RETRY, execution_id).retry(version)

        return self._mover.move(Operation.RETRY, execution_id, change, reason, actor)

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
            return self._mover.reopening(Operation.RERUN, execution_id).rerun(from_node, version)

        return self._mover.move(Operation.RERUN, execution_id, change, reason, actor)

    def preview(self, operation: Operation, execution_id: str, from_node: str | None = None) -> Preview:
        """Return what a retry, or a rerun from a node, would do; nothing changes.

        Raises as the operation would.
        """
        return self._mover.reopening(operation, execution_id).preview(operation, from_node)

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
        return self._mover.by_hand(Operation.SKIP, execution_id, node, output, handle, reason, actor)

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
        return self._mover.by_hand(Operation.COMPLETE, execution_id, node, output, handle, reason, actor)

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
        encoded = self._mover.encoded(output, "output")
        operation = Operation.SET_OUTPUT

        def amendment() -> Amendment:
            return self._mover.reopening(operation, execution_id).output_of(node, encoded)

        return self._mover.amend(operation, execution_id, amendment, reason, actor)

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
        encoded = self._mover.encoded(value, f"variables.{name}")
        operation = Operation.SET_VARIABLE

        def amendment() -> Amendment:
            return self._mover.reopening(operation, execution_id).variable(name, encoded)

        return self._mover.amend(operation, execution_id, amendment, reason, actor)

    def pause_before(
        self, execution_id: str, node: str, *, reason: str | None = None, actor: str | None = None
    ) -> Move:
        """Pause the execution whenever this node becomes due; resume it to go on with the node.

        If the node is due and no worker runs it yet, the execution is paused now. The breakpoint stays until
        `clear_breakpoints`; a retry or rerun that begins with the node does not stop at it. Raises
        `NodeNotFound`.
        """
        operation = Operation.PAUSE_BEFORE
        reopening = self._mover.reopening(operation, execution_id)
        reopening.check_node(operation, node)
        move = self._mover.set_breakpoint(operation, execution_id, node, reason, actor)
        is_due = node in self._mover.reopening(operation, execution_id).walk().due
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
        return self._mover.set_breakpoint(Operation.CLEAR_BREAKPOINTS, execution_id, None, reason, actor)

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
        ids = self.candidates(operation, wanted) if isinstance(wanted, ExecutionFilter) else wanted
        return self._rehearsal.groups(operation, ids, arguments)

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
