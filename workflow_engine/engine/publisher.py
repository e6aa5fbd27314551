"""Enqueueing: which nodes of an execution are due, and the messages that ask workers to run them.

This is the last step of every hop, and of every recovery. A message may be lost afterwards without harm, and
one that cannot be sent only delays its execution: the journal shows what is due.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from workflow_engine.broker.dispatcher import Backlog, Dispatcher
from workflow_engine.engine.stores import Stores
from workflow_engine.errors import (
    BackingServiceUnavailable,
    BrokerUnavailable,
    CacheUnavailable,
    DatabaseUnavailable,
    WorkflowNotFound,
)
from workflow_engine.execution.messages import Dispatch, HopMessage, QueuedMessage
from workflow_engine.execution.records import (
    FIRST_SEQ,
    OUT_OF_ORDER,
    DueWait,
    FollowUps,
    NewExecution,
    StartedChild,
    StartedExecution,
)
from workflow_engine.execution.states import ExecutionStatus
from workflow_engine.execution.walk import Walk
from workflow_engine.outages import retry_unavailable
from workflow_engine.runner.compiled import CompiledWorkflow, CompiledWorkflows
from workflow_engine.settings import Settings
from workflow_engine.telemetry.log_events import LogEvent, log_context, log_fields
from workflow_engine.telemetry.tracing import TRACEPARENT

log = logging.getLogger(__name__)

AHEAD_OF_THE_QUEUE = 0
"""Priority of messages for executions that had stopped moving."""

PUBLISH_TIMEOUT = 30.0
"""Seconds a worker tries to enqueue the next node, after the commit and with the lock released."""


@dataclass(frozen=True)
class Envelope:
    """What the messages for all due nodes of an execution have in common."""

    execution_id: str
    workflow: CompiledWorkflow
    seq: int
    queue: str | None
    """The execution's queue, for nodes that name none; None: that of the settings."""
    priority: int | None
    committed_at: datetime | None
    """The database's time when `seq` was committed, or when its message was found to be lost."""
    traceparent: str | None = None
    """The trace context of what leads to the messages, if the execution is traced."""


class Publisher:
    """Publishes messages for the nodes that are due. One instance serves a process."""

    def __init__(
        self,
        stores: Stores,
        workflows: CompiledWorkflows,
        dispatcher: Dispatcher,
        settings: Settings,
    ) -> None:
        self._state = stores.state
        self._waits = stores.waits
        self._cache = stores.cache
        self._limits = stores.limits
        self._workflows = workflows
        self._dispatcher = dispatcher
        self._settings = settings

    def begin(self, new: NewExecution, started: StartedExecution) -> None:
        """Publish the first nodes of an execution whose creation has committed, once it has its slots."""
        if new.limits:
            self.follow_up(FollowUps(freed=tuple(slot.key for slot in new.limits)))
            return
        envelope = self._envelope_of_start(new, started)
        with log_context(started.id, new.workflow_id):
            if new.due:
                self.publish(envelope, _first_in_hand(new, envelope))
            else:
                self.go_on(envelope, Walk.start(envelope.workflow.graph, new.trigger_node_id))

    def begin_all(self, begun: Sequence[tuple[NewExecution, StartedExecution]]) -> None:
        """Publish the first nodes of executions that were created together, once each has its slots."""
        dispatches: list[Dispatch] = []
        freed: dict[str, None] = {}
        for new, started in begun:
            if new.limits:
                freed |= dict.fromkeys(slot.key for slot in new.limits)
            elif not new.due:
                self.begin(new, started)  # it ends at once
            else:
                envelope = self._envelope_of_start(new, started)
                dispatches += [self._dispatch(envelope, each) for each in _first_in_hand(new, envelope)]
        if dispatches:
            with suppress(BrokerUnavailable):  # logged as an outage; recovery sends what is due
                retry_unavailable(
                    lambda: self._dispatcher.publish(dispatches),
                    0.0,
                    f"enqueue the first nodes of {len(begun)} executions",
                )
        if freed:
            self.follow_up(FollowUps(freed=tuple(freed)))

    def _envelope_of_start(self, new: NewExecution, started: StartedExecution) -> Envelope:
        return Envelope(
            started.id,
            self._workflows.get(new.workflow_id, new.version),
            FIRST_SEQ,
            new.queue,
            new.priority,
            started.created_at,
            new.metadata.get(TRACEPARENT),
        )

    def follow_up(self, follow_ups: FollowUps | None) -> None:
        """Publish the first nodes of children that have started, and the nodes of parents that were woken.

        Children of which nothing is due end at once, which may start further ones. Slots that are free are
        granted, to executions that begin or go on then. While a server is away, the messages are left to
        recovery, and the slots to the timekeepers.
        """
        left = [follow_ups]
        while left:
            if (each := left.pop()) is None:
                continue
            self.wake_if_possible(each.woken)
            if each.freed:
                left.append(self._granted(each.freed))
            for execution_id in each.reopened:
                self._reopen(execution_id)
            for child in each.started:
                try:
                    left.append(self._begin(child))
                except (BackingServiceUnavailable, WorkflowNotFound, ValueError) as error:
                    log.warning(
                        "Cannot publish the first node of execution %s; it will be rescued as stalled: %s",
                        child.execution_id,
                        error,
                        extra=log_fields(
                            LogEvent.EXECUTION_LEFT, execution_id=child.execution_id, error=error
                        ),
                    )

    def _granted(self, keys: Sequence[str]) -> FollowUps | None:
        try:
            return self._limits.grant(keys)
        except DatabaseUnavailable as error:
            log.debug("Cannot grant slots of %s now; a timekeeper will: %s", ", ".join(keys), error)
            return None

    def _reopen(self, execution_id: str) -> None:
        """Publish what is due of an execution that has its slot again, after a retry or rerun."""
        try:
            snapshot = self._state.load_snapshot(execution_id, with_outputs=False)
            if snapshot is None:
                return
            workflow = self._workflows.get(snapshot.workflow_id, snapshot.version)
            walk = Walk.replay(
                workflow.graph,
                snapshot.trigger_node_id,
                [row.entry for row in snapshot.journal],
                snapshot.visits,
            )
            envelope = Envelope(
                execution_id, workflow, snapshot.seq, snapshot.queue, snapshot.priority, snapshot.read_at
            )
            self.go_on(envelope, walk)
        except (BackingServiceUnavailable, WorkflowNotFound, ValueError) as error:
            log.warning(
                "Cannot publish what is due of execution %s; it will be rescued as stalled: %s",
                execution_id,
                error,
                extra=log_fields(LogEvent.EXECUTION_LEFT, execution_id=execution_id, error=error),
            )

    def _begin(self, first: StartedChild) -> FollowUps | None:
        workflow = self._workflows.get(first.workflow_id, first.version)
        walk = Walk.start(workflow.graph, first.trigger_node_id)
        envelope = Envelope(
            first.execution_id,
            workflow,
            FIRST_SEQ,
            first.queue,
            first.priority,
            first.created_at,
            first.traceparent,
        )
        with log_context(first.execution_id, first.workflow_id):
            return self._go_on(envelope, walk)

    def go_on(self, envelope: Envelope, walk: Walk) -> None:
        """Publish the nodes in hand and those that were woken, or complete a finished execution."""
        self.follow_up(self._go_on(envelope, walk))

    def _go_on(self, envelope: Envelope, walk: Walk) -> FollowUps | None:
        execution_id = envelope.execution_id
        if walk.is_finished:
            follow_ups = self._state.update_execution_status(execution_id, ExecutionStatus.COMPLETED)
            with suppress(CacheUnavailable):
                self._cache.announce_finished(execution_id, ExecutionStatus.COMPLETED.value)
            return follow_ups
        woken = self.woken(execution_id) if walk.waiting else []
        self.publish(envelope, [*walk.in_hand(envelope.workflow.graph), *woken])
        return None

    def wake(self, due: Sequence[DueWait]) -> None:
        """Enqueue nodes whose waits are over and claimed. Raises `BrokerUnavailable`."""
        self._dispatcher.publish([dispatch for _, dispatch in self._dispatches(due)])

    def wake_unless_queued(self, due: Sequence[DueWait]) -> list[DueWait]:
        """Enqueue these nodes, except those whose earlier message is still queued, and return the latter.

        Raises `BrokerUnavailable`.
        """
        oldest = functools.cache(self._dispatcher.oldest)
        dispatches = list(self._dispatches(due))
        queued = [
            wait
            for wait, _ in dispatches
            if any(may_be_behind(oldest(*place), wait) for place in self.places_of(wait))
        ]
        self._dispatcher.publish([dispatch for wait, dispatch in dispatches if wait not in queued])
        return queued

    def places_of(self, wait: DueWait) -> list[tuple[str, int]]:
        """Return each queue and priority in which the message that woke a node may stand.

        Raises `WorkflowNotFound` or `ValueError` if only another worker can read the definition.
        """
        envelope = self._envelope_of(wait)
        sent = (self._dispatch(replace(envelope, priority=each), wait.node_id) for each in _priorities(wait))
        return list(dict.fromkeys((dispatch.queue, dispatch.priority) for dispatch in sent))

    def _dispatches(self, due: Sequence[DueWait]) -> Iterator[tuple[DueWait, Dispatch]]:
        for wait in due:
            try:
                yield wait, self._dispatch_of(wait)
            except (WorkflowNotFound, ValueError) as error:
                # A definition that only a newer worker can read must not hold up all others.
                log.warning(
                    "Cannot wake a node of execution %s; leaving it to another worker: %s",
                    wait.execution_id,
                    error,
                    extra=log_fields(
                        LogEvent.EXECUTION_LEFT,
                        execution_id=wait.execution_id,
                        workflow=wait.workflow_id,
                        node_id=wait.node_id,
                        seq=wait.seq,
                        error=error,
                    ),
                )

    def _dispatch_of(self, wait: DueWait) -> Dispatch:
        return self._dispatch(self._envelope_of(wait), wait.node_id)

    def _envelope_of(self, wait: DueWait) -> Envelope:
        """Return the envelope of the message for a node; ahead of the queue if an earlier one was lost."""
        first, again = _priorities(wait)
        return Envelope(
            wait.execution_id,
            self._workflows.get(wait.workflow_id, wait.version),
            wait.seq,
            wait.queue,
            first if wait.woken_before is None else again,
            wait.woken_at,
            wait.traceparent,
        )

    def wake_if_possible(self, due: Sequence[DueWait]) -> None:
        """Enqueue nodes whose waits are over; while a server is away, leave them to the timekeepers."""
        if due:
            with suppress(BackingServiceUnavailable):  # logged as an outage; the claim ends with its lease
                retry_unavailable(lambda: self.wake(due), 0.0, "enqueue the nodes that an event woke")

    def woken(self, execution_id: str) -> list[str]:
        """Return the nodes that were woken; none while Postgres is away: timekeepers claim them again."""
        try:
            return self._waits.take_wake_request(execution_id)
        except DatabaseUnavailable as error:
            log.warning(
                "Cannot read the woken nodes of execution %s; a timekeeper will enqueue them: %s",
                execution_id,
                error,
                extra=log_fields(LogEvent.WAKE_DELAYED, execution_id=execution_id, error=error),
            )
            return []

    def publish(self, envelope: Envelope, node_ids: Sequence[str], timeout: float = 0.0) -> None:
        """Publish messages for these nodes, retrying for `timeout` seconds while the broker is away."""
        dispatches = [self._dispatch(envelope, node_id) for node_id in node_ids]
        if not dispatches:
            return
        with suppress(BrokerUnavailable):  # logged as an outage; recovery sends what is due
            retry_unavailable(
                lambda: self._dispatcher.publish(dispatches),
                timeout,
                f"enqueue {', '.join(node_ids)} of execution {envelope.execution_id}",
            )

    def queued(self, envelope: Envelope, node_id: str) -> QueuedMessage | None:
        """Return the message for a node, which the script that leaves it can send; None to publish it."""
        try:
            return self._dispatcher.queued(self._dispatch(envelope, node_id))
        except BrokerUnavailable:
            return None

    def oldest_in_queue_of(self, envelope: Envelope, node_id: str) -> datetime | Backlog:
        """Return when the commit was made that led to the oldest message in the queue of this node."""
        dispatch = self._dispatch(envelope, node_id)
        return self._dispatcher.oldest(dispatch.queue, dispatch.priority)

    def is_taken(self, execution_id: str) -> bool:
        """Return whether a worker may hold a message of this execution behind others that it runs."""
        taken = self._dispatcher.taken()
        return taken is None or execution_id in taken

    def _dispatch(self, envelope: Envelope, node_id: str) -> Dispatch:
        workflow = envelope.workflow
        route, settings = workflow.route(node_id), self._settings
        priorities = (route.priority, envelope.priority, settings.node_priority)
        return Dispatch(
            HopMessage(envelope.execution_id, workflow.workflow.id, workflow.version, node_id, envelope.seq),
            queue=route.queue or envelope.queue or settings.queue,
            priority=next(number for number in priorities if number is not None),
            committed_at=envelope.committed_at,
            traceparent=envelope.traceparent,
        )


def _first_in_hand(new: NewExecution, envelope: Envelope) -> Sequence[str]:
    return new.due[: envelope.workflow.graph.concurrency]


def may_be_behind(oldest: datetime | Backlog, wait: DueWait) -> bool:
    """Return whether the message that woke a node may stand behind the oldest one of its queue."""
    if wait.woken_before is None:
        return False
    return isinstance(oldest, datetime) and oldest <= wait.woken_before + OUT_OF_ORDER


def _priorities(wait: DueWait) -> tuple[int | None, int | None]:
    """Return the priority of the message that woke a node first, and of those that did so again."""
    return wait.priority, AHEAD_OF_THE_QUEUE
