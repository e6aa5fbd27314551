"""Walking inline: a worker continues with the next nodes itself, for a slice of time under one claim.

A pure node is not committed at once: its row is committed together with that of the next node which is not
pure, or that of the last node of the slice. A crash before that repeats what is pure, with the same result,
and the one node that would be repeated anyway. So an effect never rests on a result that could come out
otherwise. Where another node of the execution could come in between and change a pure result, that is
committed before a node which is not pure runs.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

from workflow_engine.engine.hop import After, Committed, Hop
from workflow_engine.execution.records import CommitResult, PureRow
from workflow_engine.execution.states import ExecutionStatus, NodeStatus
from workflow_engine.execution.walk import Walk
from workflow_engine.redis.lock import DistributedLockService
from workflow_engine.runner.compiled import CompiledNode
from workflow_engine.runner.node_run import Outcome

TIME_SLICE = 0.5
"""Seconds after which a worker that walks inline enqueues the next node; a running node is not cut short."""

MOST_UNCOMMITTED = 100
"""Rows that are committed together, at most."""

MOST_BYTES_UNCOMMITTED = 262_144
"""Bytes of outputs, variables, inputs and logs after which the rows are committed."""

LONGEST_UNCOMMITTED = 0.1
"""Seconds after which they are: a pause, a cancellation or a wait that is over is noticed with a commit."""


class Slice:
    """The time for which one message may occupy its worker."""

    def __init__(self, locks: DistributedLockService) -> None:
        self._locks = locks
        self._ends = time.monotonic() + TIME_SLICE
        self.uncommitted: list[Committed] = []
        """The pure nodes that have run since the last commit."""
        self._bytes = 0
        self._may_differ = False
        """Another node could change what one of them makes, if they had to be repeated."""
        self._ahead: tuple[Hop, Outcome] | None = None
        """The next node, and what it has come to, if it has run while the last commit was awaited."""

    def following(self, done: Committed) -> Hop | None:
        """Return the hop into the node that this worker continues with; None if it has to leave first.

        Woken nodes, and moves of operators, are enqueued on leaving. So is a node that has a queue, priority
        or timeout of its own.
        """
        result = done.result
        if not result.accepted or result.status is not ExecutionStatus.RUNNING or result.wake_requested:
            return None
        if done.goes_on:
            return None
        if (node := self.upcoming(done.hop, done.walk)) is None:
            return None
        if self._ahead is not None:
            return self._ahead[0]
        return done.hop.following(node.node, done.outcome, done.walk, result)

    def keep_ahead(self, hop: Hop, outcome: Outcome) -> None:
        """Keep what the next node has come to, as it has run already."""
        self._ahead = hop, outcome

    def take_ahead(self) -> Outcome | None:
        """Return what the node that is walked to has come to; None if it has yet to run."""
        ahead, self._ahead = self._ahead, None
        return ahead[1] if ahead is not None else None

    def put_off(self, hop: Hop, outcome: Outcome, after: After) -> Committed | None:
        """Return what a pure node has come to, and the hop that comes before its commit.

        None if it is to be committed now.
        """
        if not _may_be_put_off(hop, outcome):
            return None
        walk, step = after
        if step.cancelled or (upcoming := self.upcoming(hop, walk)) is None or not upcoming.is_plain:
            return None
        may_differ = self._may_differ or _may_differ(hop)
        if may_differ and not upcoming.is_pure:
            return None
        row = hop.pure_row_of(outcome, walk, step)
        size = self._bytes + size_of(row)
        if size > MOST_BYTES_UNCOMMITTED or len(self.uncommitted) + 1 >= MOST_UNCOMMITTED:
            return None
        began = self.uncommitted[0].hop.began if self.uncommitted else hop.began
        if row.ended - began > LONGEST_UNCOMMITTED:
            return None
        self._bytes, self._may_differ = size, may_differ
        expected = CommitResult(
            accepted=True,
            seq=hop.cached.seq + 1,
            status=ExecutionStatus.RUNNING,
            fence=row.token,
            wake_requested=False,
            committed_at=datetime.now(UTC),
        )
        rows = (*hop.uncommitted, row)
        following = hop.following(upcoming.node, outcome, walk, expected, rows)
        done = Committed(hop, outcome, walk, expected, followed_by=following)
        self.uncommitted.append(done)
        return done

    def take_uncommitted(self) -> list[Committed]:
        """Return the pure nodes that have run since the last commit, and forget them."""
        taken, self.uncommitted = self.uncommitted, []
        self._bytes, self._may_differ = 0, False
        return taken

    def upcoming(self, hop: Hop, walk: Walk) -> CompiledNode | None:
        """Return the node that is next in line, if this worker may run it itself."""
        workflow = hop.workflow
        if not workflow.is_pure_inline or not walk.due:
            return None
        if time.monotonic() >= self._ends or not self._locks.holds(hop.claim):
            return None
        if workflow.has_queue_of_its_own(hop.node.id):
            return None
        return workflow.inline_node(walk.due[0])


def _may_be_put_off(hop: Hop, outcome: Outcome) -> bool:
    """Return whether an outcome may be committed together with later ones.

    A failure may have been one of this process. After a crash each row is committed alone, so that the next
    crash is counted for the right node. A breakpoint stops an execution with the commit before it.
    """
    if outcome.status is not NodeStatus.COMPLETED or hop.woken is not None or hop.lacks_slot:
        return False
    if hop.cached.crashes or hop.cached.may_have_breakpoints or not hop.workflow.is_pure_inline:
        return False
    return hop.workflow.node(hop.node.id).is_pure


def _may_differ(hop: Hop) -> bool:
    """Return whether another node that is due or waits could change what this one makes."""
    is_alone = len(hop.walk.due) == 1 and not hop.walk.waiting
    return not is_alone and not hop.workflow.node(hop.node.id).reads_the_past


def size_of(row: PureRow) -> int:
    """Return the bytes of the values in a row."""
    return sum(map(len, filter(None, (row.output, row.variables, row.input_data, row.logs))))
