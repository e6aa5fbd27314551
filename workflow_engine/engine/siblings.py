"""Siblings: nodes of one execution that run at the same time, and what each owes the others on leaving.

They leave in any order. A node whose message finds all places taken is noted, and the next one that leaves
sends it again. The one that leaves with the latest commit also looks for nodes in hand whose message was
lost: while siblings commit, no look for stalled executions would notice.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from workflow_engine.engine.hop import Committed
from workflow_engine.engine.publisher import PUBLISH_TIMEOUT, Publisher
from workflow_engine.engine.resumption import Resumption
from workflow_engine.engine.stores import Stores
from workflow_engine.errors import CacheUnavailable
from workflow_engine.execution.lost_messages import lost_beside_siblings_after
from workflow_engine.execution.messages import QueuedMessage
from workflow_engine.execution.records import OUT_OF_ORDER
from workflow_engine.redis.cached_context import content_fields
from workflow_engine.redis.calls import Part
from workflow_engine.redis.lock import Holder
from workflow_engine.redis.results import LeaveResult
from workflow_engine.redis.running_nodes import RunningNodes
from workflow_engine.settings import Settings
from workflow_engine.telemetry.log_events import LogEvent, log_fields

log = logging.getLogger(__name__)


class Siblings:
    """What the nodes of an execution owe to one another. One instance serves a process."""

    def __init__(
        self,
        stores: Stores,
        running_nodes: RunningNodes,
        publisher: Publisher,
        resumption: Resumption,
        settings: Settings,
    ) -> None:
        self._cache = stores.cache
        self._locks = stores.locks
        self._running_nodes = running_nodes
        self._publisher = publisher
        self._resumption = resumption
        self._overdue_after = timedelta(seconds=lost_beside_siblings_after(settings.stall_after))

    def leave(
        self, done: Committed, changed: Mapping[bytes, Any], messages: Sequence[QueuedMessage]
    ) -> LeaveResult:
        """Add what a commit has changed to the context that siblings share, and free the node's place."""
        hop, result = done.hop, done.result
        if hop.crashes.count:
            # The crashes that were read with it may lack those of siblings since.
            self._cache.remove_from_cache(hop.execution_id)
        return self._cache.add_to_context(
            hop.claim,
            hop.cached.stored_seq,
            result.seq,
            changed,
            in_hand=done.walk.in_hand(hop.workflow.graph),
            between={row.entry.seq: row.entry.node_id for row in hop.missed},
            messages=messages,
        )

    def leave_jointly(self, committed: Sequence[Committed], messages: Sequence[QueuedMessage]) -> LeaveResult:
        """Do what `leave` does for nodes whose commits follow one another, by one call."""
        *earlier, last = committed
        parts = [Part(done.hop.claim, done.result.seq, _own_fields(done)) for done in earlier]
        changed = last.hop.changed_fields(last.outcome, last.walk, last.result)
        latest = max(committed, key=lambda done: done.hop.cached.stored_seq).hop
        return self._cache.add_jointly(
            [*parts, Part(last.hop.claim, last.result.seq, changed)],
            latest.cached.stored_seq,
            in_hand=last.walk.in_hand(last.hop.workflow.graph),
            between={row.entry.seq: row.entry.node_id for row in latest.missed},
            messages=messages,
        )

    def enqueue(self, done: Committed, left: LeaveResult) -> None:
        """Send again what was turned away, and what is overdue because its message was lost."""
        walk = done.walk
        turned_away = [each for each in left.turned_away if each in walk.due or each in walk.waiting]
        overdue = [each for each in left.overdue if each in walk.due and self._is_lost(done, each)]
        self._publisher.publish(done.envelope, [*turned_away, *overdue], PUBLISH_TIMEOUT)

    def interrupt(self, execution_id: str, node_ids: Sequence[str]) -> None:
        """Ask the workers that run these nodes to stop; the fence refuses their results in any case."""
        try:
            for value in self._locks.values_of(execution_id, node_ids):
                if value is not None and (holder := Holder.from_value(value)) is not None:
                    self._running_nodes.interrupt(execution_id, holder)
        except CacheUnavailable as error:
            log.debug("Cannot interrupt nodes of execution %s: %s", execution_id, error)

    def _is_lost(self, done: Committed, node_id: str) -> bool:
        """Return whether a node that was sent long ago has no message in its queue, and no worker runs it.

        A run that has ended without a commit is counted.
        """
        execution_id, envelope = done.hop.execution_id, done.envelope
        if self._locks.value_of(execution_id, node_id) is not None:
            return False
        if self._resumption.count_abandoned_place(execution_id, envelope.workflow, node_id):
            return True
        oldest = self._publisher.oldest_in_queue_of(envelope, node_id)
        sent_at = done.result.committed_at - self._overdue_after
        if isinstance(oldest, datetime) and oldest <= sent_at + OUT_OF_ORDER:
            return False  # it may be waiting there
        if self._publisher.is_taken(execution_id):
            return False
        log.warning(
            "The message for node %s of execution %s was lost; it is sent again.",
            node_id,
            execution_id,
            extra=log_fields(LogEvent.MESSAGE_SENT_AGAIN),
        )
        return True


def _own_fields(done: Committed) -> dict[bytes, Any]:
    """Return the fields of the context that belong to a commit alone."""
    hop, output = done.hop, done.outcome.output
    return content_fields(done.result.seq, hop.node.id, output, None, begins_visit=hop.begins_visit)
