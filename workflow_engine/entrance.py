"""Entering a node: take its execution's lock and read what it needs, or say why the message leads nowhere.

Usually that is one call to Redis. What is missing there, or behind the message, is rebuilt from Postgres; and
a message that finds its node not due makes sure that the one which is due has its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from workflow_engine.cached_context import CachedContext, rebuilt_context
from workflow_engine.context_cache import ExecutionContextCache, Held, Late, Missing
from workflow_engine.definition import Node
from workflow_engine.dispatch import HopMessage
from workflow_engine.enqueue import AHEAD_OF_THE_QUEUE, Enqueuer, Standing
from workflow_engine.errors import (
    BackingServiceUnavailable,
    CacheUnavailable,
    ExecutionNotFound,
    GivenBack,
    WorkflowNotFound,
)
from workflow_engine.execution_queries import checked_id
from workflow_engine.execution_records import FORMAT, Losses, Snapshot
from workflow_engine.execution_state import ExecutionStateService
from workflow_engine.hop import Hop
from workflow_engine.lock import Claim, DistributedLockService, Holder
from workflow_engine.plan import Plans, WorkflowPlan
from workflow_engine.states import ExecutionStatus
from workflow_engine.waits import Waits
from workflow_engine.walk import Walk

NOT_DUE = "the node is neither due nor woken"


class NotEntered(Exception):
    """A message does not lead into a node; somebody else is bound to publish what is due."""


class Entrance:
    """Where messages become hops. One instance serves a process."""

    def __init__(
        self,
        state: ExecutionStateService,
        cache: ExecutionContextCache,
        locks: DistributedLockService,
        plans: Plans,
        waits: Waits,
        enqueuer: Enqueuer,
    ) -> None:
        self._state = state
        self._cache = cache
        self._locks = locks
        self._plans = plans
        self._waits = waits
        self._enqueuer = enqueuer

    def enter(self, message: HopMessage, task_id: str) -> Hop:
        """Take the lock and read what the node needs.

        Raises `NotEntered` if the message leads nowhere, `ExecutionNotFound`, and `GivenBack` if it is to
        come again.
        """
        workflow, node = self._node_of(message)
        claim = self._locks.new_claim(message.execution_id, task_id)
        with self.given_up_on_error(claim):  # the script may have run though its answer was lost
            entered = self._cache.enter(claim, node.id, message.seq, workflow.needs(node.id))
            if isinstance(entered, Held):
                # Whoever unlocks after a knock enqueues a woken node for which this message is dropped; who
                # had unlocked before it leaves the way free.
                self._cache.knock(message.execution_id)
                entered = self._cache.enter(claim, node.id, message.seq, workflow.needs(node.id))
                if isinstance(entered, Late) and self._cache.take_knock(message.execution_id):
                    self.resume(message.execution_id)  # somebody else's knock may have been taken with ours
        if isinstance(entered, Late):
            raise NotEntered(NOT_DUE)
        if isinstance(entered, Held):
            raise _locked_out(entered, task_id)
        self._locks.hold(claim)
        with self.given_up_on_error(claim):
            if isinstance(entered, CachedContext) and entered.mark and workflow.is_inline:
                # Who vanished may have committed further nodes than the context tells of.
                self._count_loss(message.execution_id, None, entered.mark)
                entered = Missing()
            if isinstance(entered, Missing):
                cached, losses = self._rebuild(claim, message, workflow, node)
            else:
                cached, losses = entered, self._losses(entered)
            _check_version(message, cached.identity["workflowId"], cached.identity["version"])
            walk = Walk.from_json(cached.walk)
            woken = self._waits.woken(message.execution_id, node.id) if node.id in walk.waiting else None
            if woken is None and node.id not in walk.due:
                raise NotEntered(NOT_DUE)
        return Hop(claim, workflow, node, cached, walk, losses, woken)

    def _node_of(self, message: HopMessage) -> tuple[WorkflowPlan, Node]:
        try:
            workflow = self._plans.get(message.workflow, message.version)
        except WorkflowNotFound as error:
            raise NotEntered(str(error)) from error
        if (node := workflow.graph.nodes.get(message.node_id)) is None:
            raise NotEntered("the workflow has no such node")
        return workflow, node

    def _rebuild(
        self, claim: Claim, message: HopMessage, workflow: WorkflowPlan, node: Node
    ) -> tuple[CachedContext, Losses]:
        """Read the context from Postgres and cache it; also how many processes this node has lost."""
        snapshot = self._state.load_snapshot(checked_id(message.execution_id))
        if snapshot is None:
            raise ExecutionNotFound(message.execution_id)
        if not _may_move(snapshot):
            raise NotEntered(f"the execution is {snapshot.status}")
        _check_version(message, snapshot.workflow_id, snapshot.version)
        walk = _replayed(workflow, snapshot)
        encoded = walk.to_json()
        self._cache.cache_context(claim, snapshot, encoded)
        if node.id not in walk.due and node.id not in walk.waiting:
            raise NotEntered(NOT_DUE)
        return rebuilt_context(snapshot, encoded, workflow.needs(node.id)), snapshot.losses

    def resume(self, execution_id: str) -> bool:
        """Send what is due of an execution that may have come to a halt, as the journal has it.

        False if there was nothing to do: the lock is held, or the execution does not exist, is paused or
        has ended.
        """
        is_sent = False
        while (sent := self._send_due(execution_id)) is not None:
            is_sent = is_sent or sent
            # Whoever has met our lock meanwhile may know of a later move than we have read.
            if not self._cache.take_knock(execution_id):
                break
        return is_sent

    def _send_due(self, execution_id: str) -> bool | None:
        """Whether there was something to send; None if somebody else holds the lock, and knows of us."""
        claim = self._locks.acquire_lock(execution_id)
        if claim is None:
            # Whoever unlocks after a knock sends what is due; who had unlocked before leaves the way free.
            self._cache.knock(execution_id)
            claim = self._locks.acquire_lock(execution_id)
        if claim is None:
            return None
        with self._locks.released(claim):
            self._cache.take_knock(execution_id)  # whoever has come until now is served with this
            snapshot = self._state.load_snapshot(execution_id)
            if snapshot is not None and (abandoned := self._cache.abandoned_run(execution_id)) is not None:
                entered, mark = abandoned
                workflow = self._plans.get(snapshot.workflow_id, snapshot.version)
                self._count_loss(execution_id, None if workflow.is_inline else entered, mark)
            is_moving = snapshot is not None and _may_move(snapshot)
            self._cache.remove_from_cache(execution_id)
        if snapshot is None or not is_moving:
            return False
        # Only now, or the message could arrive while we still hold the lock.
        workflow = self._plans.get(snapshot.workflow_id, snapshot.version)
        standing = Standing(execution_id, workflow, snapshot.seq, AHEAD_OF_THE_QUEUE, snapshot.read_at)
        self._enqueuer.go_on(standing, _replayed(workflow, snapshot))
        return True

    @contextmanager
    def given_up_on_error(self, claim: Claim) -> Iterator[None]:
        """If this raises, give the lock up, and send what is due for whoever has met it meanwhile."""
        try:
            yield
        except BaseException:
            with suppress(CacheUnavailable):  # the lock then expires by itself
                self._locks.release_lock(claim)
            with suppress(BackingServiceUnavailable):
                if self._cache.take_knock(claim.execution_id):
                    self.resume(claim.execution_id)
            raise

    def _losses(self, cached: CachedContext) -> Losses:
        return self._count_loss(cached.execution_id, cached.seq, cached.mark) if cached.mark else Losses()

    def _count_loss(self, execution_id: str, seq: int | None, mark: bytes) -> Losses:
        """A mark that somebody left and never removed is a process that was lost while it ran a node."""
        return self._state.count_loss(execution_id, seq, _last_trace(mark))


def _locked_out(held: Held, task_id: str) -> Exception:
    holder = Holder.from_value(held.holder)
    if holder is not None and task_id and holder.task_id == task_id:
        return GivenBack("an earlier delivery of this message holds the lock, or left it behind")
    return NotEntered("the execution is locked by another worker, which goes on with it")


def _last_trace(mark: bytes) -> str:
    """What the mark of a process that was lost says about it."""
    holder = Holder.from_value(mark)
    if holder is None:
        return "without a trace"
    return f"on {holder.instance}:{holder.process}, which began to run it at {holder.since}"


def _check_version(message: HopMessage, workflow_id: str, version: int) -> None:
    if (workflow_id, version) != (message.workflow, message.version):
        raise NotEntered(f"the execution runs version {version} of {workflow_id!r}")


def _may_move(snapshot: Snapshot) -> bool:
    if snapshot.format > FORMAT:
        raise GivenBack(f"execution {snapshot.execution_id} was written by a newer release")
    return not snapshot.status.is_finished and snapshot.status is not ExecutionStatus.PAUSED


def _replayed(workflow: WorkflowPlan, snapshot: Snapshot) -> Walk:
    return Walk.replay(
        workflow.graph, snapshot.trigger_node_id, [row.entry for row in snapshot.journal], snapshot.visits
    )
