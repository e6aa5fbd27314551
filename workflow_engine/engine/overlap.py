"""Overlap: the end of a hop goes on while its process serves the next message.

At its end a hop waits for two servers. The commit is sent, and if the next message comes before its result,
the process serves that: both belong to different executions. Nothing follows from a commit before its result
is read. Then the node is left, and that call is sent together with the one that enters a further message's
node. So a busy process hardly waits, and several commits can share a flush of the disk.

The node that runs while a commit is awaited is one that has been brief in this process. Should it take longer
for once, a thread finishes the hop before it. If the process dies, a commit that was sent stands or falls by
itself, and the takeover of its lock continues the execution.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

from workflow_engine.engine.hop import Committed, Hop
from workflow_engine.engine.inline import Slice
from workflow_engine.engine.resumption import Resumption
from workflow_engine.engine.steps.admission import Admission, NotAdmitted
from workflow_engine.engine.steps.commits import AwaitedCommit, Commits
from workflow_engine.engine.steps.departure import Departure
from workflow_engine.engine.stores import Stores
from workflow_engine.errors import (
    BackingServiceUnavailable,
    CacheUnavailable,
    DatabaseOutdated,
    ExecutionNotFound,
    LeftToOthers,
)
from workflow_engine.execution.messages import HopMessage, LookAhead, NextMessage, sees_nothing
from workflow_engine.execution.states import NodeStatus
from workflow_engine.redis.contexts import SentEntry, SentLeaving
from workflow_engine.runner.node_run import Outcome
from workflow_engine.telemetry.log_events import LogEvent, log_fields

log = logging.getLogger(__name__)

BRIEF = 5.0
"""Milliseconds that a node may take, on average, to run while a commit is awaited."""

LONG = 4 * BRIEF
"""The most that one run adds to the average: a node that is long for once does not change it much."""

WEIGHT = 0.2
"""The weight of the last run in the average."""

MOST_NODES = 10_000
"""Nodes whose durations a process remembers."""

QUIET = 60.0
"""Seconds without such a commit after which the connection for them is closed."""

LONGEST_AWAITED = 0.1
"""Seconds after which a thread finishes a hop whose process is still busy with the next node."""

CONTINUED_BY_OTHERS = (
    BackingServiceUnavailable,
    DatabaseOutdated,
    ExecutionNotFound,
    LeftToOthers,
    NotAdmitted,
)


@dataclass(frozen=True)
class _Left:
    """A hop whose node was left, and Redis has yet to reply."""

    done: Committed
    sent: SentLeaving


@dataclass(frozen=True)
class _Entered:
    """The next message, whose node was entered, and Redis has yet to reply."""

    next: NextMessage
    sent: SentEntry


class Overlap:
    """What of a hop goes on while its process serves the next message. One instance serves a process."""

    def __init__(
        self,
        stores: Stores,
        admission: Admission,
        commits: Commits,
        departure: Departure,
        resumption: Resumption,
    ) -> None:
        self._cache = stores.cache
        self._admission = admission
        self._commits = commits
        self._departure = departure
        self._resumption = resumption
        self._awaited: AwaitedCommit | None = None
        self._left: _Left | None = None
        self._entered: _Entered | None = None
        self._durations: dict[tuple[str, int, str], float] = {}
        self._taking = threading.Lock()
        self._is_needed = threading.Event()
        self._thread: threading.Thread | None = None

    # -- the next hop, in this order -------------------------------------------------------------------------

    @property
    def unfinished(self) -> AwaitedCommit | None:
        """The hop before, while the result of its commit is awaited."""
        return self._awaited

    def entered(self, message: HopMessage, task_id: str) -> SentEntry | None:
        """Return the call that has entered the node of a message; None if none was sent for it.

        The node of another message, which is not served here after all, is released.
        """
        self._end_leaving()
        entered, self._entered = self._entered, None
        if entered is None:
            return None
        if entered.next == (message, task_id):
            return entered.sent
        self._resumption.release(entered.sent.entry.claim)
        return None

    def make_way(self, hop: Hop) -> None:
        """Finish the hop before, unless the node that runs next is brief."""
        if self._awaited is not None and self._durations.get(_node(hop), BRIEF) >= BRIEF:
            self.conclude(self._awaited)

    def commit(self, hop: Hop, outcome: Outcome, slice_: Slice, look_ahead: LookAhead) -> Committed | None:
        """Send a commit, and leave the hop before; await the result if the next message comes first.

        Return None, and send nothing, if the result has to be waited for in any case.
        """
        self._note(hop, outcome)
        if look_ahead is sees_nothing or not _may_be_awaited(hop, outcome):
            return None
        walk, step = hop.walk_after(outcome)
        if slice_.continues(hop, walk):
            return None
        earlier = self._decided(self._awaited)  # there is one connection for such commits
        awaited: AwaitedCommit | None = None
        try:
            awaited = self._awaited = self._commits.send(hop, outcome, walk, step, slice_.uncommitted)
            if awaited is None:
                return None
            slice_.take_uncommitted()
            following = look_ahead(None)
            if not self._send_ahead(earlier, following):
                self._leave(earlier)
            earlier = None
            if following is None and not awaited.reply.is_here:
                following = look_ahead(awaited.reply.socket)
                self._send_ahead(None, following)
            if following is None or following.message.execution_id == hop.execution_id:
                return self._commits.received(awaited) if self._takes(awaited) else awaited.expected
            self._watch()
            return awaited.expected
        except BaseException:
            self.conclude(awaited)  # it was sent, and perhaps no message comes that would see to it
            raise
        finally:
            self._leave(earlier)

    def leave(self, done: Committed, look_ahead: LookAhead) -> None:
        """Leave a node after its commit; if the next message is here, enter that one's in the same call."""
        following = look_ahead(None)
        if following is None or not self._send_ahead(done, following):
            self._departure.leave_and_enqueue(done)

    def end(self, earlier: AwaitedCommit | None) -> None:
        """End a hop: only its own end may overlap with the next one, not that of the hop before."""
        self.conclude(earlier)
        if self._entered is None:
            self._end_leaving()

    def settle(self) -> None:
        """Finish what is unfinished, and release the next node, whose message will not be served here."""
        self._end_leaving()
        self.conclude(self._awaited)
        if self._entered is not None:
            self._resumption.release(self._entered.sent.entry.claim)
            self._entered = None

    # -- leaving a node and entering another in one round trip ---------------------------------------------

    def _send_ahead(self, done: Committed | None, following: NextMessage | None) -> bool:
        """Leave a node, enter that of the next message, or both, without waiting for Redis.

        Return whether the node is left; if not, this takes calls whose replies have to be waited for.
        """
        # A message for a broker elsewhere follows the reply, which is read soon if there is more to do.
        may_send_later = following is not None
        leaving = self._departure.leaving(done, may_send_later) if done is not None else None
        entry = None
        if following is not None and self._entered is None:
            entry = self._admission.entry(*following)
        if leaving is None and entry is None:
            return False
        self._end_leaving()
        with suppress(CacheUnavailable):  # it is left again, by a call of its own
            if (sent := self._cache.send_ahead(leaving, entry)) is not None:
                if sent.entry is not None and following is not None:
                    self._entered = _Entered(following, sent.entry)
                if sent.leaving is not None and done is not None:
                    self._left = _Left(done, sent.leaving)
        return self._left is not None

    def _end_leaving(self) -> None:
        """Read the reply for the node that was left last, and do what follows from it."""
        left, self._left = self._left, None
        if left is None:
            return
        done = left.done
        try:
            with done.hop.log_context():
                try:
                    result = self._cache.left(left.sent)
                except CacheUnavailable:
                    result = self._departure.leave(done)
                self._departure.enqueue(done, result)
        except Exception as error:  # noqa: BLE001 - it would be raised in the hop of another execution
            self._give_up(done.hop, error)

    # -- a commit whose result is awaited ------------------------------------------------------------------

    def conclude(self, awaited: AwaitedCommit | None) -> None:
        """Finish a hop whose commit is awaited, unless that is done."""
        self._leave(self._decided(awaited))

    def _decided(self, awaited: AwaitedCommit | None) -> Committed | None:
        """Read the result of a commit. Return None if another thread has, or if there is none to be had."""
        if awaited is None or not self._takes(awaited):
            return None
        try:
            with awaited.hop.log_context():
                return self._commits.received(awaited)
        except Exception as error:  # noqa: BLE001 - it would be raised in the hop of another execution
            self._give_up(awaited.hop, error)
            return None

    def _takes(self, awaited: AwaitedCommit) -> bool:
        """Return whether this thread is the one that reads the result."""
        with self._taking:
            is_ours = self._awaited is awaited
            if is_ours:
                self._awaited = None
            return is_ours

    def _leave(self, done: Committed | None) -> None:
        if done is None:
            return
        try:
            self._departure.leave_and_enqueue(done)
        except Exception as error:  # noqa: BLE001 - it would be raised in the hop of another execution
            self._give_up(done.hop, error)

    def _give_up(self, hop: Hop, error: Exception) -> None:
        """Leave an execution to the recovery: the message of this hop will not come again.

        The message that is served meanwhile has no part in the error.
        """
        is_known = isinstance(error, CONTINUED_BY_OTHERS)
        with hop.log_context():
            log.warning(
                "Node %s of execution %s has run, but the hop cannot be finished; recovery continues it: %s",
                hop.node.id,
                hop.execution_id,
                error,
                exc_info=None if is_known else error,
                extra=log_fields(LogEvent.HOP_UNFINISHED, error=error),
            )
            if not is_known:
                self._resumption.count_error(hop.execution_id, hop.node.id, hop.committed_seq, error)
            self._resumption.release(hop.claim)

    # -- nodes that are brief, and one that is not for once --------------------------------------------------

    def _note(self, hop: Hop, outcome: Outcome) -> None:
        """Remember how long a node takes."""
        node, took = _node(hop), min(outcome.duration_ms, LONG)
        if len(self._durations) >= MOST_NODES:
            self._durations.clear()
        average = self._durations.get(node, took)
        self._durations[node] = average + WEIGHT * (took - average)

    def _watch(self) -> None:
        """Have a thread finish the hop if this one does not in time."""
        if not self._is_needed.is_set():
            self._is_needed.set()
            if self._thread is None or not self._thread.is_alive():  # it is none of a forked process
                self._thread = threading.Thread(target=self._keep_looking, name="overlap", daemon=True)
                self._thread.start()

    def _keep_looking(self) -> None:
        while True:
            if not self._is_needed.wait(QUIET):
                self._commits.rest()
                continue
            seen = self._awaited
            if seen is None:
                # In this order: another thread sets the event after it has sent a commit.
                self._is_needed.clear()
                if self._awaited is not None:
                    self._is_needed.set()
                continue
            time.sleep(LONGEST_AWAITED)
            self.conclude(seen)


def _node(hop: Hop) -> tuple[str, int, str]:
    return hop.workflow.workflow.id, hop.workflow.version, hop.node.id


def _may_be_awaited(hop: Hop, outcome: Outcome) -> bool:
    """Return whether a hop may end for Celery before its commit has.

    Celery is told how a failed node ended, and a span ends with its commit. After a crash, each node is
    committed before another runs, so that the next crash is counted for the right one.
    """
    if outcome.status is not NodeStatus.COMPLETED or hop.span is not None:
        return False
    return not hop.is_shared and not hop.cached.crashes
