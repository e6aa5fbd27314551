"""Recovery: executions that should be moving, and are not, continue from their journal.

Either a parent reports a process that died with a node, or an execution is found that has not moved for a
while. In both cases what is due is published again and admitted like any other message. So two rescuers, or
a rescuer and the worker that it believed dead, cannot both run the same node to a commit.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from workflow_engine.engine.assembly import Engine
from workflow_engine.engine.resumption import LOOK_FOR_A_CRASH
from workflow_engine.errors import BackingServiceUnavailable, WorkflowEngineError, WorkflowNotFound
from workflow_engine.execution.lost_messages import lost_after, lost_again_after
from workflow_engine.execution.messages import HopMessage
from workflow_engine.execution.records import FORMAT, DueWait
from workflow_engine.maintenance.queued_messages import QueuedMessages
from workflow_engine.maintenance.takeover import Takeover
from workflow_engine.nodes.results import NodeError
from workflow_engine.outages import retry_unavailable
from workflow_engine.postgres.executions.stalled import ActiveExecution, StalledExecution
from workflow_engine.redis.lock import Claim, Holder, renewal_interval
from workflow_engine.runner.node_run import TIMEOUT
from workflow_engine.runner.time_limit import GRACE, timeout_message
from workflow_engine.telemetry.log_events import LogEvent, log_context, log_fields

log = logging.getLogger(__name__)

Stopped = TypeVar("Stopped", bound=ActiveExecution)

LOOK_INTERVAL = 1.0
LOOKS_PER_STALL = 12
"""Seconds between two looks of the fleet, or this share of `stall_after` if that is shorter."""

LOCKING_AGAIN = 1.0
"""Seconds that processes have to take their locks again after Redis has lost them, besides the time between
two renewals."""

WAKES = 1_000
"""Woken nodes that one look examines."""

SLICE = 0.25
"""Seconds after which a look at many executions is cut short for the timekeeper's other work."""

SETTLING = 0.25
"""Seconds in which a message that has just left its queue begins its node, or is put back. Of a long queue
that is served, one look after another would find such messages, and take them for lost."""

LEASE_ENDS = 0.01
"""Seconds after which a lease that has ended can be taken again."""

TURN = f"recovery:{FORMAT}"
"""The lease of a look. Workers of a newer release share one of their own: older ones cannot rescue theirs."""


@dataclass(frozen=True)
class LostNode:
    """A node whose process died while it ran."""

    message: HopMessage
    task_id: str
    reason: str
    """How the process ended, as far as its parent knows."""
    advice: str = LOOK_FOR_A_CRASH
    """What to do about it."""


class Recovery:
    """Rescues executions that lost their worker or their message."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._next_look = 0.0
        self._takeover = Takeover(engine)
        self._look: Iterator[bool] | None = None
        self._continues_at = 0.0
        self._locked_at = 0.0

    def process_lost(self, lost: LostNode) -> None:
        """Release the lock of the dead process, and resume its execution.

        A node that exceeded its timeout fails. Otherwise the crash is counted and what is due is published.
        After `max_recoveries` crashes, the worker that enters the node fails it with `WORKER_LOST`.
        """
        retry_unavailable(
            lambda: self._recover(lost),
            self._engine.settings.commit_retry_timeout,
            f"recover execution {lost.message.execution_id}",
        )

    @property
    def seconds_until_look(self) -> float:
        """The seconds until this worker tries to look again, or until a look continues that was cut short."""
        return max(0.0, (self._continues_at if self.is_looking else self._next_look) - time.monotonic())

    @property
    def is_looking(self) -> bool:
        """True while a look was cut short and continues with a later call."""
        return self._look is not None

    def rescue_stalled(self) -> int:
        """Rescue executions whose worker has died, and stalled ones, and return their number.

        The workers of the fleet take turns to look. An execution is left alone while its lock is held by a
        process that lives, and while its message may still be queued. The oldest message of its queue and
        priority decides that. A look takes `SLICE` seconds at most before it is cut short. What seems lost is
        examined again after `SETTLING` seconds, in a later call.
        """
        if self._look is not None and self.seconds_until_look:
            return 0
        if self._look is None:
            if not self._is_our_turn():
                return 0
            self._look = self._rescues()
        ends, rescued = time.monotonic() + SLICE, 0
        try:
            for has_rescued in self._look:
                rescued += has_rescued
                if time.monotonic() > ends or self.seconds_until_look:
                    return rescued
        except BaseException:
            self._look = None
            raise
        self._look = None
        return rescued

    def _is_our_turn(self) -> bool:
        interval = min(LOOK_INTERVAL, self._engine.settings.stall_after / LOOKS_PER_STALL)
        if time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + interval
        # A little shorter, so that a single worker does not miss every other turn of its own.
        return self._engine.leases.take(TURN, interval * 0.9)

    def _look_in(self, seconds: float) -> None:
        """Put the next look of the fleet off, and have it here unless this worker dies."""
        self._engine.leases.extend(TURN, seconds)
        self._next_look = time.monotonic() + seconds + LEASE_ENDS

    def _rescues(self) -> Iterator[bool]:
        """Rescue one execution after another; yield False where a look may be cut short in between."""
        for freed in self._takeover.freed():
            yield freed is not None and self._is_done(self._resume_freed, freed)
        data_age = self._engine.data_age.seconds()
        # If it has lost its data, locks included, nodes that run have to lock them again.
        locking = renewal_interval(self._engine.settings.lock_expiry) + LOCKING_AGAIN - data_age
        if locking > SETTLING:
            self._look_in(locking - SETTLING)  # what seems lost then is examined again when they have
            return
        self._locked_at = time.monotonic() + locking
        queued = QueuedMessages(self._engine.dispatcher, data_age)
        for stalled in self._stalled(data_age, queued):
            yield stalled is not None and self._is_done(self._rescue, stalled)
        yield from self._lost_wakes(queued)

    def _stalled(self, data_age: float, queued: QueuedMessages) -> Iterator[StalledExecution | None]:
        """Yield executions that have lost their message, and None after every page of those looked at.

        If Redis has lost its data, so are all messages in it.
        """
        settings = self._engine.settings
        suspicious_after = min(data_age, lost_after(settings.stall_after))
        again = lost_again_after(settings.stall_after)
        taken = functools.cache(self._engine.dispatcher.taken)
        pages = self._engine.stalled.pages(suspicious_after, again, queued.front, queued.kept)
        for found in pages:
            idle = self._idle([execution for execution in found if not queued.holds(execution.id)], taken)
            kept = math.inf if self._may_lock_again else queued.kept
            yield from (execution for execution in idle if execution.seconds > kept)
            if in_doubt := [execution for execution in idle if execution.seconds <= kept]:
                self._settle()
                yield None
                now = queued.read_again()
                gone = [execution for execution in in_doubt if not now.may_hold_that_of(execution)]
                yield from self._idle(gone, functools.cache(self._engine.dispatcher.taken))
            yield None

    def _idle(
        self, stalled: Sequence[StalledExecution], taken: Callable[[], Collection[str] | None]
    ) -> list[StalledExecution]:
        """Return the executions that no process that lives runs, nor has taken to run later."""
        held = self._engine.locks.held_values([execution.id for execution in stalled]) if stalled else []
        return [
            execution
            for execution, values in zip(stalled, self._takeover.held_by_living(stalled, held), strict=True)
            if self._is_idle(execution, values) and not self._may_be_taken(execution, taken)
        ]

    @property
    def _may_lock_again(self) -> bool:
        """True while nodes that run may still have to take locks again that Redis has lost."""
        return time.monotonic() < self._locked_at

    def _settle(self) -> None:
        """Let a look continue only when messages that have just left their queue have begun their nodes."""
        self._continues_at = max(time.monotonic() + SETTLING, self._locked_at)

    def _lost_wakes(self, queued: QueuedMessages) -> Iterator[bool]:
        """Let waits that are over be claimed again if the message for their node was lost; yield each."""
        stall_after = self._engine.settings.stall_after
        patience, again = lost_after(stall_after), lost_again_after(stall_after)
        woken = self._engine.waits.overdue(patience, again, queued.kept, WAKES)
        gone = [wait for wait in self._not_resumed(woken) if self._is_gone(wait, queued)]
        if self._may_lock_again or not all(map(queued.is_from_before_a_loss, gone)):
            self._settle()
            yield False
            now = queued.read_again()
            gone = [wait for wait in self._not_resumed(gone) if self._is_gone(wait, now)]
        taken = self._engine.dispatcher.taken() if gone else ()
        lost = [wait for wait in gone if taken is not None and wait.execution_id not in taken]
        for wait in self._engine.waits.end_claims(lost):
            log.warning(
                "The message that woke node %s of execution %s was lost; it is sent again.",
                wait.node_id,
                wait.execution_id,
                extra=log_fields(
                    LogEvent.MESSAGE_SENT_AGAIN,
                    execution_id=wait.execution_id,
                    workflow=wait.workflow_id,
                    node_id=wait.node_id,
                    seq=wait.seq,
                ),
            )
            yield True

    def _not_resumed(self, woken: Sequence[DueWait]) -> list[DueWait]:
        """Return the waits whose nodes no process runs."""
        held = self._engine.locks.held_values([wait.execution_id for wait in woken]) if woken else []
        return [
            wait
            for wait, values in zip(woken, held, strict=True)
            if not {"", wait.node_id}.intersection(_places(values))
        ]

    def _is_gone(self, wait: DueWait, queued: QueuedMessages) -> bool:
        """Return whether the message that woke a node is in no queue."""
        try:
            return not queued.may_hold(wait, self._engine.publisher.places_of(wait))
        except (WorkflowNotFound, ValueError):
            return False  # another worker can read the definition

    def _is_idle(self, execution: StalledExecution, values: Sequence[bytes]) -> bool:
        """Return whether no node runs, or of nodes that may run at once, one that was sent does not."""
        is_overdue = execution.seconds >= self._engine.settings.stall_after
        if not values:
            return is_overdue or not self._is_frozen(execution.id)
        try:
            workflow = self._engine.workflows.get(execution.workflow_id, execution.version)
        except (WorkflowNotFound, ValueError):
            return False
        if workflow.concurrency == 1:
            return False
        running = _places(values)
        patience = lost_after(self._engine.settings.stall_after)
        since = self._engine.cache.in_hand_since(execution.id)
        return is_overdue or any(
            seconds >= patience and node_id not in running and not self._is_frozen(execution.id, node_id)
            for node_id, seconds in since.items()
        )

    def _is_frozen(self, execution_id: str, place: str = "") -> bool:
        """Return whether a process that lives began a node and let its lock expire.

        Its message was not lost. Where Redis does not list its connections, any such process may live.
        """
        run = self._engine.cache.abandoned_run(execution_id, place)
        holder = Holder.from_value(run.mark) if run is not None else None
        return holder is not None and not self._engine.presence.disconnected([holder.life])

    def _may_be_taken(self, execution: StalledExecution, taken: Callable[[], Collection[str] | None]) -> bool:
        """Return whether a worker may hold the message, behind others that it runs.

        For `stall_after` at most: the worker may be dead.
        """
        if execution.seconds >= self._engine.settings.stall_after:
            return False
        executions = taken()
        return executions is None or execution.id in executions

    def _is_done(self, rescue: Callable[[Stopped], bool], execution: Stopped) -> bool:
        with log_context(execution.id, execution.workflow_id):
            try:
                return rescue(execution)
            except BackingServiceUnavailable:
                raise
            except (WorkflowEngineError, ValueError) as error:
                _warn_once(f"Cannot rescue execution {execution.id}; leaving it to other workers: {error}")
                return False

    def _resume_freed(self, execution: ActiveExecution) -> bool:
        """Resume an execution whose lock a dead process held; the mark that it left counts the crash."""
        # A node that was woken is sent again, too: the wait that is over still names it.
        self._engine.waits.request_wake(execution.id)
        self._engine.stalled.leave(execution.id)  # its message is given time
        return self._engine.executor.resume_execution(execution.id)

    def _rescue(self, execution: StalledExecution) -> bool:
        workflow = self._engine.workflows.get(execution.workflow_id, execution.version)
        if workflow.concurrency > 1:
            return self._engine.stalled.claim(execution) and self._rescue_siblings(execution)
        if not self._engine.stalled.claim(execution):
            return False
        log.warning(
            "Rescuing execution %s: it has not moved for %.0f s, no worker runs it and its message is not "
            "queued",
            execution.id,
            execution.seconds,
            extra=log_fields(LogEvent.EXECUTION_RESCUED, idle_seconds=round(execution.seconds)),
        )
        return self._engine.executor.resume_execution(execution.id)

    def _rescue_siblings(self, execution: StalledExecution) -> bool:
        """Resume an execution of which some nodes may be running: the others may have lost their messages."""
        if not self._engine.executor.resume_execution(execution.id):
            return False
        log.warning(
            "Rescued execution %s: it has not moved for %.0f s, and due nodes neither ran nor were queued",
            execution.id,
            execution.seconds,
            extra=log_fields(LogEvent.EXECUTION_RESCUED, idle_seconds=round(execution.seconds)),
        )
        return True

    def _recover(self, lost: LostNode) -> None:
        message = lost.message
        claim, holder, seq = self._claim_of(lost)
        if claim is not None and holder is not None:
            timeout = self._outrun_timeout(message, holder)
            if timeout is not None:
                unlocked = self._engine.locks.release_abandoned(claim)
                self._engine.executor.fail_node(message, NodeError(TIMEOUT, timeout_message(timeout)))
                if unlocked.was_contended:
                    self._engine.executor.resume_execution(message.execution_id)
                return
        # Count first, then release: if we are interrupted in between, the lock still keeps others out.
        place = f"on {holder.instance}:{holder.process} " if holder is not None else ""
        crashes = self._engine.executor.count_crash(message, seq, f"{place}({lost.reason}); {lost.advice}")
        if crashes.count:
            log.warning(
                "The process of task %s was lost with a node of execution %s (crash %d of this node): %s",
                lost.task_id,
                message.execution_id,
                crashes.count,
                lost.reason,
                extra=log_fields(LogEvent.PROCESS_LOST, task_id=lost.task_id, times_lost=crashes.count),
            )
        if claim is not None:
            _ = self._engine.locks.release_abandoned(claim)
        self._engine.executor.resume_execution(message.execution_id)

    def _claim_of(self, lost: LostNode) -> tuple[Claim | None, Holder | None, int]:
        """Return the claim under which the dead process ran the node, its holder, and the seq it ran on.

        The lock may have expired, if the node kept even the renewal from running; the mark has not. Without
        either, the seq is that of the message.
        """
        message = lost.message
        execution_id = message.execution_id
        places = self._engine.workflows.get(message.workflow, message.version).concurrency
        place = message.node_id if places > 1 else ""
        run = self._engine.cache.abandoned_run(execution_id, place)
        mark, seq = (run.mark, run.seq) if run is not None else (None, message.seq)
        for value in (mark, self._engine.locks.value_of(execution_id, place)):
            holder = Holder.from_value(value) if value is not None else None
            if value is not None and holder is not None and holder.task_id == lost.task_id:
                claim = Claim(execution_id, holder.token, value, place, places)
                return claim, holder, seq if value == mark else message.seq
        return None, None, message.seq

    def _outrun_timeout(self, message: HopMessage, holder: Holder) -> float | None:
        """Return the node's timeout if its process lived long enough for the watchdog to have ended it."""
        workflow = self._engine.workflows.get(message.workflow, message.version)
        timeout = workflow.graph.nodes[message.node_id].timeout
        if timeout is None:
            return None
        lived = (datetime.now(UTC) - datetime.fromisoformat(holder.since)).total_seconds()
        return timeout if lived >= timeout + GRACE else None


def _places(values: Sequence[bytes]) -> set[str]:
    """Return the places of a lock that are held by these values; "" is the whole lock."""
    return {holder.place for value in values if (holder := Holder.from_value(value)) is not None}


@functools.lru_cache(maxsize=1000)
def _warn_once(line: str) -> None:
    log.warning("%s", line, extra=log_fields(LogEvent.EXECUTION_LEFT))
