"""Walking inline: a worker continues with the next nodes itself, for a slice of time under one claim."""

from __future__ import annotations

import time
from contextlib import suppress

from workflow_engine.engine.hop import Committed, Hop
from workflow_engine.errors import UnknownNodeType
from workflow_engine.execution.messages import Route
from workflow_engine.execution.states import ExecutionStatus
from workflow_engine.redis.lock import DistributedLockService

TIME_SLICE = 0.5
"""Seconds after which a worker that walks inline enqueues the next node; a running node is not cut short."""


class Slice:
    """The time for which one message may occupy its worker."""

    def __init__(self, locks: DistributedLockService) -> None:
        self._locks = locks
        self._ends = time.monotonic() + TIME_SLICE

    def following(self, done: Committed) -> Hop | None:
        """Return the hop into the node that this worker continues with; None if it has to leave first.

        Woken nodes, and moves of operators, are enqueued on leaving. So is a node that has a queue, priority
        or timeout of its own.
        """
        workflow, result = done.hop.workflow, done.result
        if not workflow.is_inline or not result.accepted or not done.walk.due:
            return None
        if result.status is not ExecutionStatus.RUNNING or result.wake_requested:
            return None
        if time.monotonic() >= self._ends or not self._locks.holds(done.hop.claim):
            return None
        node = workflow.graph.nodes[done.walk.due[0]]
        if any(_has_queue_of_its_own(workflow.route(each.id)) for each in (node, done.hop.node)):
            return None
        with suppress(UnknownNodeType):
            if workflow.node(node.id).limits.hard is None:
                return done.hop.following(node, done.outcome, done.walk, result)
        return None


def _has_queue_of_its_own(route: Route) -> bool:
    return route.queue is not None or route.priority is not None
