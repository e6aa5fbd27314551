"""Resumption: an execution that may have stopped moving continues from its journal.

To resume it twice, or while it is moving, is harmless: what is due is published again, and admitted like any
other message. A run that ended without a commit is counted on the way.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, suppress
from types import TracebackType

from workflow_engine.engine.publisher import AHEAD_OF_THE_QUEUE, Envelope, Publisher
from workflow_engine.engine.stores import Stores
from workflow_engine.errors import BackingServiceUnavailable, CacheUnavailable, LeftToOthers
from workflow_engine.execution.lost_messages import lost_after
from workflow_engine.execution.records import FORMAT, Crashes, Snapshot
from workflow_engine.execution.states import ExecutionStatus, SlotStatus
from workflow_engine.execution.walk import Walk
from workflow_engine.nodes.results import failure_of
from workflow_engine.redis.lock import Claim, Holder, Unlocked
from workflow_engine.redis.results import Abandoned
from workflow_engine.runner.compiled import CompiledWorkflow, CompiledWorkflows
from workflow_engine.settings import Settings
from workflow_engine.telemetry.tracing import TRACEPARENT

LOOK_FOR_A_CRASH = "look for a crash or the kernel's out-of-memory killer in the worker's log"
"""The advice about a process that was lost for an unknown reason."""


class Resumption:
    """Publishes what is due if no hop does. One instance serves a process."""

    def __init__(
        self, stores: Stores, workflows: CompiledWorkflows, publisher: Publisher, settings: Settings
    ) -> None:
        self._state = stores.state
        self._cache = stores.cache
        self._locks = stores.locks
        self._workflows = workflows
        self._publisher = publisher
        self._lost_after = lost_after(settings.stall_after)

    def resume(self, execution_id: str) -> bool:
        """Publish what is due of an execution.

        Return False if there was nothing to do: the lock is held, or the execution does not exist, is paused
        or has ended.
        """
        is_sent = False
        while (sent := self._send_due(execution_id)) is not None:
            has_sent, unlocked = sent
            is_sent = is_sent or has_sent
            # A waiter that met our lock may have come for a later move than the one we read.
            if not unlocked.was_contended:
                break
        return is_sent

    def _send_due(self, execution_id: str) -> tuple[bool, Unlocked] | None:
        """Publish what is due, and return whether there was anything; None if the lock's holder resumes."""
        claim = self._locks.acquire_or_mark_contended(execution_id)
        if claim is None:
            return None
        with self.release_on_error(claim):
            snapshot = self._state.load_snapshot(execution_id, with_outputs=False)
            is_moving = snapshot is not None and may_move(snapshot)
            if snapshot is not None:
                workflow = self._workflows.get(snapshot.workflow_id, snapshot.version)
                if workflow.concurrency > 1:
                    sent = is_moving and self._send_siblings(workflow, snapshot)
                    return sent, self._locks.release_lock(claim)
                if (abandoned := self._cache.abandoned_run(execution_id)) is not None:
                    self.count_abandoned(execution_id, workflow, abandoned)
        try:
            unlocked = self._cache.discard(claim)
        except CacheUnavailable:  # the lock then expires by itself
            unlocked = Unlocked(was_ours=False, was_contended=False)
        if snapshot is None or not is_moving:
            return False, unlocked
        # After unlocking: an earlier message could arrive while we still hold the lock.
        self._publisher.go_on(_envelope(workflow, snapshot), replayed(workflow, snapshot))
        return True, unlocked

    def _send_siblings(self, workflow: CompiledWorkflow, snapshot: Snapshot) -> bool:
        """Publish the nodes in hand that no worker runs, and return whether there are any.

        One that was sent lately and not begun is left out: its message is on its way, or in the queue.
        """
        execution_id, walk = snapshot.execution_id, replayed(workflow, snapshot)
        # It may be of commits that Postgres has lost; siblings that go on rebuild it.
        self._cache.remove_from_cache(execution_id)
        if not walk.due and snapshot.status is ExecutionStatus.RUNNING:
            # The worker that was to bring it to rest after the last commit has died before.
            status = ExecutionStatus.COMPLETED if walk.is_finished else ExecutionStatus.WAITING
            settled = self._state.settle(execution_id, status, snapshot.fence)
            if settled is not None and walk.is_finished:
                self._cache.announce_finished(execution_id, status.value)
                self._publisher.follow_up(settled.follow_ups)
        in_hand, since = walk.in_hand(workflow.graph), self._cache.in_hand_since(execution_id)
        if forgotten := [node_id for node_id in in_hand if node_id not in since]:
            # By them, those that run are known to operators, to `concurrency` and to the next look.
            self._cache.note_in_hand(execution_id, forgotten, self._lost_after)
        # Those that are done already, too: a dead process would occupy its place for ever.
        known = list(dict.fromkeys([*in_hand, *since]))
        values = self._locks.values_of(execution_id, known) if known else []
        free = [node_id for node_id, value in zip(known, values, strict=True) if value is None]
        abandoned = {
            node_id for node_id in free if self.count_abandoned_place(execution_id, workflow, node_id)
        }
        due = [
            node_id
            for node_id in in_hand
            if node_id in abandoned or (node_id in free and since.get(node_id, math.inf) >= self._lost_after)
        ]
        turned_away = self._cache.take_turned_away(execution_id)
        standing = {*walk.due, *walk.waiting}.difference(due)
        due += [node_id for node_id in turned_away if node_id in standing]
        woken = self._publisher.woken(execution_id) if walk.waiting else []
        self._publisher.publish(_envelope(workflow, snapshot), [*due, *woken])
        return bool(due or woken)

    def release_on_error(self, claim: Claim) -> AbstractContextManager[None]:
        """Release the lock if the block raises, and resume the execution for a waiter that met it."""
        return _ReleaseOnError(self, claim)

    def release(self, claim: Claim) -> None:
        """Release the lock of a hop that has failed, and resume the execution for a waiter that met it."""
        with suppress(BackingServiceUnavailable):  # the lock then expires by itself
            if self._locks.release_lock(claim).was_contended:
                self.resume(claim.execution_id)

    def count_crash(
        self, execution_id: str, workflow: CompiledWorkflow, node_id: str, seq: int, what: str
    ) -> Crashes:
        """Count a run that began with this node on top of `seq` and ended without a commit; `what` says how.

        A worker that walks inline may have committed that node and further ones. The crash is then counted
        for the node that is first in line. Return the crashes of the node; none if there is nothing to count.
        """
        snapshot = self._state.load_snapshot(execution_id) if workflow.is_pure_inline else None
        if snapshot and any(row.entry.node_id == node_id and row.entry.seq > seq for row in snapshot.journal):
            due = replayed(workflow, snapshot).due
            node_id, seq = (due[0], snapshot.seq) if due else (node_id, seq)
        return self._state.count_crash(execution_id, node_id, seq, what)

    def count_error(self, execution_id: str, node_id: str, seq: int, error: BaseException) -> None:
        """Count a hop on top of `seq` that ended without a commit, by an error that is not the node's."""
        told = failure_of(error).error
        what = f"with {told.type}: {told.message}" if told is not None else ""
        with suppress(BackingServiceUnavailable):
            self._state.count_crash(execution_id, node_id, seq, what)
            self._cache.remove_from_cache(execution_id)  # it lacks this crash

    def count_abandoned(self, execution_id: str, workflow: CompiledWorkflow, run: Abandoned) -> None:
        """Count the run that left its mark: its process was lost while it ran a node."""
        holder = Holder.from_value(run.mark)
        if holder is None:
            return
        where = f"on {holder.instance}:{holder.process}, which started it at {holder.since}"
        self.count_crash(execution_id, workflow, holder.node_id, run.seq, f"{where}; {LOOK_FOR_A_CRASH}")

    def count_abandoned_place(self, execution_id: str, workflow: CompiledWorkflow, node_id: str) -> bool:
        """Count the run that left its mark in a place that is free. Return False if there is none."""
        run = self._cache.abandoned_run(execution_id, node_id)
        if run is None:
            return False
        self.count_abandoned(execution_id, workflow, run)
        # Last: if this is interrupted in between, the run is counted again rather than forgotten.
        _ = self._locks.release_abandoned(Claim(execution_id, "", run.mark, node_id, workflow.concurrency))
        self._cache.remove_from_cache(execution_id)  # it lacks this crash
        return True


class _ReleaseOnError:
    # Not a generator, which costs more: every hop runs this several times.
    __slots__ = ("_claim", "_resumption")

    def __init__(self, resumption: Resumption, claim: Claim) -> None:
        self._resumption = resumption
        self._claim = claim

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._resumption.release(self._claim)


def _envelope(workflow: CompiledWorkflow, snapshot: Snapshot) -> Envelope:
    return Envelope(
        snapshot.execution_id,
        workflow,
        snapshot.seq,
        snapshot.queue,
        AHEAD_OF_THE_QUEUE,
        snapshot.read_at,
        snapshot.metadata.get(TRACEPARENT),
    )


def may_move(snapshot: Snapshot) -> bool:
    """Return whether an execution has nodes to run.

    Raises `LeftToOthers` if a newer release has written it.
    """
    if snapshot.format > FORMAT:
        raise LeftToOthers(f"execution {snapshot.execution_id} was written by a newer release")
    if snapshot.status.is_finished or snapshot.status is ExecutionStatus.PAUSED:
        return False
    return snapshot.slots is not SlotStatus.LIMITED


def replayed(workflow: CompiledWorkflow, snapshot: Snapshot) -> Walk:
    """Return the walk that the journal of an execution leads to."""
    return Walk.replay(
        workflow.graph, snapshot.trigger_node_id, [row.entry for row in snapshot.journal], snapshot.visits
    )
