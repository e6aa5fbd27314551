"""Departure: a node is left after its commit, and what is due next is enqueued (steps 4 and 5 of a hop)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from workflow_engine.engine.hop import Committed, Hop
from workflow_engine.engine.publisher import PUBLISH_TIMEOUT, Envelope, Publisher
from workflow_engine.engine.resumption import Resumption
from workflow_engine.engine.siblings import Siblings
from workflow_engine.engine.stores import Stores
from workflow_engine.errors import CacheUnavailable
from workflow_engine.execution.messages import QueuedMessage
from workflow_engine.execution.states import ExecutionStatus
from workflow_engine.outages import retry_unavailable
from workflow_engine.redis.calls import Leaving
from workflow_engine.redis.results import LeaveResult
from workflow_engine.settings import Settings
from workflow_engine.telemetry.log_events import LogEvent, log_fields

log = logging.getLogger(__name__)


class Departure:
    """Leaves nodes and enqueues what follows. One instance serves a process."""

    def __init__(
        self,
        stores: Stores,
        siblings: Siblings,
        resumption: Resumption,
        publisher: Publisher,
        settings: Settings,
    ) -> None:
        self._cache = stores.cache
        self._locks = stores.locks
        self._siblings = siblings
        self._resumption = resumption
        self._publisher = publisher
        self._settings = settings

    def leave_and_enqueue(self, done: Committed) -> None:
        """Write the context, unlock the execution, and send the messages for what is due."""
        with done.hop.log_context():
            self.enqueue(done, self.leave(done))

    def leave_jointly(self, committed: Sequence[Committed]) -> None:
        """Do that for siblings whose commits follow one another, none of which waits, ends or cancels."""
        last, graph = committed[-1], committed[-1].hop.workflow.graph
        before = set(committed[0].hop.walk.in_hand(graph)) - {done.hop.node.id for done in committed}
        to_send = [node_id for node_id in last.walk.in_hand(graph) if node_id not in before]
        with last.hop.log_context():
            messages = self._messages(last.envelope, to_send)
            left = self._until_left(last.hop, lambda: self._siblings.leave_jointly(committed, messages))
            self._publisher.publish(last.envelope, [] if left.has_sent else to_send, PUBLISH_TIMEOUT)
            self._siblings.enqueue(last, left)

    def leave(self, done: Committed) -> LeaveResult:
        """Write the context and unlock the execution, retrying while Redis is away until the lock expires."""
        return self._until_left(done.hop, lambda: self._leave_cache(done))

    def _until_left(self, hop: Hop, leave: Callable[[], LeaveResult]) -> LeaveResult:
        try:
            # Until the lock has expired by itself: a message that meets it held would be dropped.
            return retry_unavailable(
                leave,
                self._settings.lock_expiry,
                f"unlock execution {hop.execution_id}",
            )
        except CacheUnavailable as error:
            log.warning(
                "Execution %s was committed, but its context was not cached; its lock will expire: %s",
                hop.execution_id,
                error,
                extra=log_fields(LogEvent.CONTEXT_NOT_CACHED, error=error),
            )
            return LeaveResult(was_updated=False, was_contended=True)

    def _leave_cache(self, done: Committed) -> LeaveResult:
        hop, result = done.hop, done.result
        if done.cancelled and hop.is_shared:
            self._siblings.interrupt(hop.execution_id, done.cancelled)
        if result.accepted and result.status.is_finished:
            unlocked = self._cache.finish(hop.claim, result.status.value)
            return LeaveResult(was_updated=False, was_contended=unlocked.was_contended)
        if result.accepted and done.goes_on and hop.node.id not in hop.cached.crashes:
            unlocked = self._locks.release_lock(hop.claim)  # the context is as it was entered
            return LeaveResult(was_updated=True, was_contended=unlocked.was_contended)
        if result.accepted and result.status is not ExecutionStatus.PAUSED and not done.goes_on:
            changed = hop.changed_fields(done.outcome, done.walk, result)
            messages = self._messages(done.envelope, done.to_send)
            if hop.is_shared:
                return self._siblings.leave(done, changed, messages)
            message = messages[0] if messages else None
            return self._cache.update_context(hop.claim, hop.cached.stored_seq, result.seq, changed, message)
        unlocked = self._cache.discard(hop.claim)
        return LeaveResult(was_updated=False, was_contended=unlocked.was_contended)

    def _messages(self, envelope: Envelope, node_ids: Sequence[str]) -> list[QueuedMessage]:
        """Return the messages that the call which leaves can send; none if it cannot send all of them."""
        messages = [self._publisher.queued(envelope, node_id) for node_id in node_ids]
        sendable = [message for message in messages if message is not None]
        return sendable if len(sendable) == len(messages) else []

    def leaving(self, done: Committed, may_send_later: bool) -> Leaving | None:
        """Return the call that leaves a node; None unless that call does all that follows.

        With `may_send_later`, `enqueue` does the rest: it sends a message to a broker elsewhere.
        """
        hop, result = done.hop, done.result
        if not done.is_left_by_one_call:
            return None
        if result.status.is_finished:
            return self._cache.finishing(hop.claim, result.status.value)
        messages = self._messages(done.envelope, done.to_send)
        if len(messages) != 1 and not may_send_later:
            return None
        changed = hop.changed_fields(done.outcome, done.walk, result)
        message = messages[0] if len(messages) == 1 else None
        return self._cache.updating(hop.claim, hop.cached.stored_seq, result.seq, changed, message)

    def enqueue(self, done: Committed, left: LeaveResult) -> None:
        """Send the messages for what is due and was not sent on leaving."""
        hop, result = done.hop, done.result
        execution_id = hop.execution_id
        if not result.accepted:
            log.warning(
                "The result of node %s of execution %s was refused: the execution has moved on without it.",
                hop.node.id,
                execution_id,
                extra=log_fields(LogEvent.COMMIT_REFUSED),
            )
            self._resumption.resume(execution_id)
            return
        if result.follow_ups is not None:
            self._publisher.follow_up(result.follow_ups)
        if result.status in (ExecutionStatus.RUNNING, ExecutionStatus.WAITING):
            due = [] if left.has_sent else done.to_send
            woken = self._publisher.woken(execution_id) if done.has_to_wake(left) else []
            self._publisher.publish(done.envelope, [*due, *woken], PUBLISH_TIMEOUT)
            if done.goes_on and hop.is_shared and left.was_contended:
                self._resumption.resume(execution_id)  # a sibling may have found all places taken
            elif hop.is_shared:
                self._siblings.enqueue(done, left)
        elif result.status is ExecutionStatus.PAUSED and left.was_contended:
            self._resumption.resume(execution_id)  # it may have been resumed while we held the lock
