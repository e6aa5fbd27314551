"""Overlap: the end of a hop goes on while its process serves further messages.

At its end a hop waits for two servers. The commit is sent, and if the next message comes before its result,
the process serves that: both belong to different executions. If that node ends before the result is here, its
commit is collected, and one statement makes all that were collected meanwhile. Nothing follows from a commit
before its result is read. Then the node is left, and that call is sent together with the one that enters a
further message's node. So a busy process hardly waits, however late it or Postgres are woken, and commits
share a flush of the disk.

A node that runs while a commit is awaited is one that has been brief in this process. Should it take longer
for once, a thread finishes the hops before it. If the process dies, a commit that was sent stands or falls by
itself. One that was collected is lost with it: its node runs again, like any that a process dies with.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from workflow_engine.engine.hop import After, Committed, Hop
from workflow_engine.engine.inline import Slice
from workflow_engine.engine.resumption import Resumption
from workflow_engine.engine.steps.admission import Admission, NotAdmitted
from workflow_engine.engine.steps.commits import AwaitedCommit, Commits, Offer, SentCommits
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
from workflow_engine.redis.calls import SentEntry, SentLeaving
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
"""Seconds without a commit beside the next message after which the connection for them is closed."""

LONGEST_AWAITED = 0.1
"""Seconds after which a thread finishes hops whose process is still busy with the next node."""

MOST_COLLECTED = 4
"""Commits that are collected while another is awaited: nodes that would run again if the process died."""

CONTINUED_BY_OTHERS = (
    BackingServiceUnavailable,
    DatabaseOutdated,
    ExecutionNotFound,
    LeftToOthers,
    NotAdmitted,
)


class _Left(NamedTuple):
    """A hop whose node was left, and Redis has yet to reply."""

    done: Committed
    sent: SentLeaving


@dataclass(frozen=True)
class _Entered:
    """The next message, whose node was entered, and Redis has yet to reply."""

    next: NextMessage
    sent: SentEntry


@dataclass(frozen=True, eq=False)
class _Flight:
    """The commits that are awaited, and those that were collected meanwhile."""

    sent: SentCommits
    collected: list[AwaitedCommit]

    def is_of(self, message: NextMessage) -> bool:
        """Return whether a message is one of an execution with a commit in it."""
        return any(each.is_of(message) for each in chain(self.sent.awaited, self.collected))


class Overlap:
    """What of hops goes on while their process serves the next message. One instance serves a process."""

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
        self._flight: _Flight | None = None
        self._is_next_in_sight = False
        self._left: Sequence[_Left] = ()
        self._entered: _Entered | None = None
        self._durations: dict[tuple[str, int, str], float] = {}
        self._guard = threading.Lock()
        self._finishing = threading.Lock()
        self._is_needed = threading.Event()
        self._thread: threading.Thread | None = None

    # -- a hop, in this order --------------------------------------------------------------------------------

    def entered(self, message: HopMessage, task_id: str) -> SentEntry | None:
        """Return the call that has entered the node of a message; None if none was sent for it.

        The node of another message, which is not served here after all, is released.
        """
        self._is_next_in_sight = False
        self._end_leaving()
        entered, self._entered = self._entered, None
        if entered is None:
            return None
        if entered.next == (message, task_id):
            return entered.sent
        self._resumption.release(entered.sent.entry.claim)
        return None

    def make_way(self, hop: Hop) -> None:
        """Finish the hops before, unless the node that runs next is brief."""
        if not self.is_brief(hop, hop.node.id):
            self.conclude()

    def commit(
        self, hop: Hop, outcome: Outcome, after: After, slice_: Slice, look_ahead: LookAhead
    ) -> Committed | None:
        """Send or collect a commit; await the result if the next message comes first.

        Return None, and send nothing, if the result has to be waited for in any case.
        """
        if look_ahead is sees_nothing or not may_be_awaited(hop, outcome):
            return None
        walk, step = after
        if slice_.upcoming(hop, walk) is not None:
            return None
        commit = self._commits.prepared(hop, outcome, walk, step, slice_.uncommitted)
        if commit is None:
            return None
        slice_.take_uncommitted()
        try:
            joined = self._collect(commit)
            if joined is not None and self._goes_on_behind(joined, look_ahead):
                return commit.expected
            landed = self._take(joined)
            if joined is not None and landed is None:
                return commit.expected  # a thread makes it
            return self._send(landed, commit, look_ahead)
        except BaseException:
            self.conclude()  # it may be on its way, and perhaps no message comes that would see to it
            raise

    def leave(self, done: Committed, look_ahead: LookAhead) -> None:
        """Leave a node after its commit; if the next message is here, enter that one's in the same call."""
        following = look_ahead(None)
        if following is None or self._send_ahead([done], following):
            self._departure.leave_and_enqueue(done)

    def end(self) -> None:
        """End a hop: what is awaited stays so only if the next message is in sight."""
        if not self._is_next_in_sight:
            self.conclude()
        if self._entered is None:
            self._end_leaving()

    def settle(self) -> None:
        """Finish what is unfinished, and release the next node, whose message will not be served here."""
        self._end_leaving()
        self.conclude()
        if self._entered is not None:
            self._resumption.release(self._entered.sent.entry.claim)
            self._entered = None

    # -- commits whose results are awaited -------------------------------------------------------------------

    def _collect(self, commit: AwaitedCommit) -> _Flight | None:
        """Add a commit to those that were collected, if there is room, and return the flight before it."""
        with self._guard:
            flight = self._flight
            if flight is None or len(flight.collected) >= MOST_COLLECTED:
                return None
            flight.collected.append(commit)
            return flight

    def _goes_on_behind(self, flight: _Flight, look_ahead: LookAhead) -> bool:
        """Return whether the next message, of another execution, comes before the reply that is awaited."""
        if flight.sent.reply.is_here:
            return False
        following = look_ahead(None) or look_ahead(flight.sent.reply.socket)
        if following is None or flight.is_of(following):
            return False
        self._is_next_in_sight = True
        self._send_ahead((), following)
        return True

    def _send(self, landed: _Flight | None, commit: AwaitedCommit, look_ahead: LookAhead) -> Committed:
        """Send a commit with those that were collected, once the ones before are made, and leave these."""
        done = [] if landed is None else self._results(self._commits.received(landed.sent))
        waiting = [] if landed is None else landed.collected
        waiting = waiting if commit in waiting else [*waiting, commit]
        try:
            flight = self._depart(waiting)
            if flight is None:
                done += self._results(self._commits.offered(each) for each in waiting if each is not commit)
                _, own = self._commits.offered(commit)
                return own()
            following = look_ahead(None)
            done = self._send_ahead(done, following)
            if following is None and not flight.sent.reply.is_here:
                following = look_ahead(flight.sent.reply.socket)
                self._send_ahead((), following)
            if following is not None and not flight.is_of(following):
                self._is_next_in_sight = True
                self._watch()
                return commit.expected
        finally:
            self._leave(done)
        return self._finish(commit)

    def _depart(self, commits: Sequence[AwaitedCommit]) -> _Flight | None:
        """Send as many commits as one statement may make; the others are the first to be collected."""
        together, others = _parted(commits)
        if (sent := self._commits.send(together)) is None:
            return None
        self._flight = _Flight(sent, others)
        return self._flight

    def _finish(self, commit: AwaitedCommit) -> Committed:
        """Finish all that is awaited, but leave the node of this commit to the caller, and return it.

        Raises as `Commits.commit` does for that alone.
        """
        flight = self._take()
        if flight is None:
            return commit.expected  # a thread does
        own: Callable[[], Committed] | None = None
        for group in self._landing(flight):
            offers = dict(group)
            own = offers.pop(commit, own)
            self._leave(self._results(offers.items()))
        return own() if own is not None else commit.expected

    def conclude(self, seen: _Flight | None = None) -> None:
        """Finish all hops whose commits are awaited; if `seen` is given, only those.

        Wait for a thread that does.
        """
        with self._finishing:
            if (flight := self._take(seen)) is not None:
                for group in self._landing(flight):
                    self._leave(self._results(group))

    def _landing(self, flight: _Flight) -> Iterator[Iterable[Offer]]:
        """Read the results of a flight, then send what was collected and read the results of that."""
        yield self._commits.received(flight.sent)
        rest = flight.collected
        while rest:
            together, rest = _parted(rest)
            sent = self._commits.send(together)
            yield self._commits.received(sent) if sent is not None else map(self._commits.offered, together)

    def _take(self, seen: _Flight | None = None) -> _Flight | None:
        """Return the flight that this thread sees to; None if there is none, or another thread does."""
        with self._guard:
            flight = self._flight
            if seen is not None and flight is not seen:
                return None
            self._flight = None
            return flight

    def _results(self, offers: Iterable[Offer]) -> list[Committed]:
        """Return what commits have come to, without those that are given up."""
        results = []
        for awaited, result in offers:
            try:
                with awaited.hop.log_context():
                    results.append(result())
            except Exception as error:  # noqa: BLE001 - it would be raised in the hop of another execution
                self._give_up(awaited.hop, error)
        return results

    def _leave(self, done: Iterable[Committed]) -> None:
        for each in done:
            try:
                self._departure.leave_and_enqueue(each)
            except Exception as error:  # noqa: BLE001 - it would be raised in the hop of another execution
                self._give_up(each.hop, error)

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

    # -- leaving nodes and entering another in one round trip ----------------------------------------------

    def _send_ahead(self, done: Sequence[Committed], following: NextMessage | None) -> list[Committed]:
        """Leave nodes, enter that of the next message, or both, without waiting for Redis.

        Return those that are not left by this, because what follows has to be waited for.
        """
        # A message for a broker elsewhere follows the reply, which is read soon if there is more to do.
        may_send_later = following is not None
        calls = [(each, self._departure.leaving(each, may_send_later)) for each in done]
        leaving = [(each, call) for each, call in calls if call is not None]
        entry = None
        if following is not None and self._entered is None:
            entry = self._admission.entry(*following)
        if not leaving and entry is None:
            return list(done)
        self._end_leaving()
        with suppress(CacheUnavailable):  # they are left again, each by a call of its own
            if (sent := self._cache.send_ahead([call for _, call in leaving], entry)) is not None:
                if sent.entry is not None and following is not None:
                    self._entered = _Entered(following, sent.entry)
                self._left = [_Left(each, one) for (each, _), one in zip(leaving, sent.leaving, strict=True)]
                return [each for each, call in calls if call is None]
        return list(done)

    def _end_leaving(self) -> None:
        """Read the replies for the nodes that were left last, and do what follows from them."""
        left, self._left = self._left, ()
        for done, sent in left:
            try:
                with done.hop.log_context():
                    try:
                        result = self._cache.left(sent)
                    except CacheUnavailable:
                        result = self._departure.leave(done)
                    self._departure.enqueue(done, result)
            except Exception as error:  # noqa: BLE001 - it would be raised in the hop of another execution
                self._give_up(done.hop, error)

    # -- nodes that are brief, and one that is not for once --------------------------------------------------

    def note(self, hop: Hop, outcome: Outcome) -> None:
        """Remember how long a node takes."""
        node, took = _node(hop, hop.node.id), min(outcome.duration_ms, LONG)
        if len(self._durations) >= MOST_NODES:
            self._durations.clear()
        average = self._durations.get(node, took)
        self._durations[node] = average + WEIGHT * (took - average)

    def is_brief(self, hop: Hop, node_id: str) -> bool:
        """Return whether a node of a hop's workflow has been brief in this process."""
        return self._durations.get(_node(hop, node_id), BRIEF) < BRIEF

    def start_looking(self) -> None:
        """Have a thread close the connection for commits that are awaited, now and then."""
        if self._thread is None or not self._thread.is_alive():  # it is none of a forked process
            self._thread = threading.Thread(target=self._keep_looking, name="overlap", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        """Have a thread finish the hops before if this one does not in time."""
        if not self._is_needed.is_set():
            self._is_needed.set()
            self.start_looking()

    def _keep_looking(self) -> None:
        while True:
            if not self._is_needed.wait(QUIET):
                self._commits.rest()
                continue
            seen = self._flight
            if seen is None:
                # In this order: another thread sets the event after it has sent a commit.
                self._is_needed.clear()
                if self._flight is not None:
                    self._is_needed.set()
                continue
            time.sleep(LONGEST_AWAITED)
            self.conclude(seen)


def _parted(commits: Sequence[AwaitedCommit]) -> tuple[list[AwaitedCommit], list[AwaitedCommit]]:
    """Return those that one statement may make with the first, that one included, and the others."""
    first, *others = commits
    if not first.may_join_others:
        return [first], others
    return (
        [each for each in commits if each.may_join_others],
        [each for each in others if not each.may_join_others],
    )


def _node(hop: Hop, node_id: str) -> tuple[str, int, str]:
    return hop.workflow.workflow.id, hop.workflow.version, node_id


def may_be_awaited(hop: Hop, outcome: Outcome) -> bool:
    """Return whether a hop may end for Celery before its commit has.

    Celery is told how a failed node ended, and a span ends with its commit. After a crash, each node is
    committed before another runs, so that the next crash is counted for the right one.
    """
    if outcome.status is not NodeStatus.COMPLETED or hop.span is not None:
        return False
    return not hop.is_shared and not hop.cached.crashes
