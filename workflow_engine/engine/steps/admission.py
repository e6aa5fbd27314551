"""Admission: a message is admitted to its node, or dropped with the reason.

Usually that is one call to Redis, which takes the execution's lock and reads what the node needs. A context
that is missing there, or behind the message, is rebuilt from Postgres.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from workflow_engine.definition.workflow import Node
from workflow_engine.engine.hop import Hop
from workflow_engine.engine.resumption import Resumption, may_move, replayed
from workflow_engine.engine.stores import Stores
from workflow_engine.errors import ExecutionNotFound, LeftToOthers, WorkflowNotFound
from workflow_engine.execution.gathering import Gathering, PassOn
from workflow_engine.execution.ids import checked_id
from workflow_engine.execution.messages import HopMessage
from workflow_engine.execution.records import Snapshot
from workflow_engine.execution.states import SlotStatus
from workflow_engine.execution.walk import Walk
from workflow_engine.redis.cached_context import CachedContext, rebuilt_context
from workflow_engine.redis.contexts import Entry, SentEntry
from workflow_engine.redis.lock import Claim, Holder
from workflow_engine.redis.results import Full, Held, Late, Missing
from workflow_engine.runner.compiled import CompiledWorkflow, CompiledWorkflows
from workflow_engine.telemetry.log_events import LogEvent, log_fields

log = logging.getLogger(__name__)

NOT_DUE = "the node is neither due nor woken"

LONGEST_REASON = 300
"""Characters of the reason why a definition cannot be read."""


class NotAdmitted(Exception):
    """A message is not admitted to a node; another worker publishes what is due."""


class Overtaken(NotAdmitted):
    """The execution has moved on after the node was admitted; what is due has to be published again."""


@dataclass(eq=False)
class _Reading:
    """What a node has read of its execution."""

    snapshot: Snapshot | None = None
    is_first: bool = False
    """Its node is the one that caches it."""
    is_done: bool = False


class Admission:
    """Turns messages into hops. One instance serves a process."""

    def __init__(self, stores: Stores, workflows: CompiledWorkflows, resumption: Resumption) -> None:
        self._state = stores.state
        self._waits = stores.waits
        self._cache = stores.cache
        self._locks = stores.locks
        self._workflows = workflows
        self._resumption = resumption
        self._gathering: Gathering[_Reading] = Gathering()

    def entry(self, message: HopMessage, task_id: str) -> Entry | None:
        """Return what entering the node of a message takes; None if a server has to be asked for it.

        None, too, for a node that may have siblings, and for one that its workflow does not have.
        """
        workflow = self._workflows.kept(message.workflow, message.version)
        if workflow is None or workflow.concurrency > 1 or message.node_id not in workflow.graph.nodes:
            return None
        claim = self._locks.new_claim(message.execution_id, task_id, message.node_id)
        return Entry(claim, message.node_id, message.seq, workflow.needs(message.node_id))

    def admit(
        self, message: HopMessage, task_id: str, sent: SentEntry | None = None, cause: str | None = None
    ) -> Hop:
        """Take the lock and read what the node needs, by the call that was sent ahead for it if there is one.

        `cause` is the trace context of what led to the message.

        Raises `NotAdmitted` if its node is not due, `ExecutionNotFound`, and `LeftToOthers` if only another
        worker, or a later attempt, can serve the message.
        """
        workflow, node = self._node_of(message)
        if sent is not None:
            claim = sent.entry.claim
        else:
            claim = self._locks.new_claim(message.execution_id, task_id, node.id, workflow.concurrency)
        # The script may have run although its reply was lost: then the lock is ours.
        with self._resumption.release_on_error(claim):
            if sent is not None:
                entered = self._cache.entered(sent)
            else:
                entered = self._cache.enter(claim, node.id, message.seq, workflow.needs(node.id))
            if isinstance(entered, Late) and entered.was_contended:
                self._resumption.resume(message.execution_id)
        if isinstance(entered, Late):
            raise NotAdmitted(NOT_DUE)
        if isinstance(entered, Held):
            raise _locked_out(entered, task_id)
        if isinstance(entered, Full):
            raise NotAdmitted("as many nodes of the execution run as may run at the same time")
        with self._resumption.release_on_error(claim):
            cached, walk, lacks_slot = self._context(claim, message, workflow, node, entered)
            _check_version(message, cached.identity["workflowId"], cached.identity["version"])
            woken = self._waits.woken(message.execution_id, node.id) if node.id in walk.waiting else None
            if woken is None and node.id not in walk.due:
                raise NotAdmitted(NOT_DUE)
        return Hop(claim, workflow, node, cached, walk, woken, cause=cause, lacks_slot=lacks_slot)

    def _node_of(self, message: HopMessage) -> tuple[CompiledWorkflow, Node]:
        try:
            workflow = self._workflows.get(message.workflow, message.version)
        except WorkflowNotFound as error:
            raise NotAdmitted(str(error)) from error
        except ValueError as error:
            raise LeftToOthers(
                f"cannot read version {message.version} of workflow {message.workflow!r}; a newer release "
                f"may have deployed it: {str(error)[:LONGEST_REASON]}"
            ) from error
        if (node := workflow.graph.nodes.get(message.node_id)) is None:
            raise NotAdmitted("the workflow has no such node")
        return workflow, node

    def _context(
        self,
        claim: Claim,
        message: HopMessage,
        workflow: CompiledWorkflow,
        node: Node,
        entered: CachedContext | Missing,
    ) -> tuple[CachedContext, Walk, bool]:
        """Return the context that the node runs on, the walk, and whether the execution lacks a slot.

        Only one that begins, or was reopened, can lack it: its context is not cached then.

        The context is rebuilt if a worker vanished. Its crash has to be counted, which the cached context
        lacks, and if it walked inline it may have committed further nodes.
        """
        abandoned = entered.abandoned
        if abandoned is not None:
            self._resumption.count_abandoned(message.execution_id, workflow, abandoned)
        elif isinstance(entered, CachedContext):
            with suppress(ValueError):
                return entered, Walk.from_json(entered.walk), False
            log.warning(
                "Cannot read the cached walk of execution %s; rebuilding it from Postgres",
                message.execution_id,
                extra=log_fields(LogEvent.CONTEXT_DISCARDED),
            )
        # A newer one, which siblings have brought further, stays; but it would lack the crash.
        replaces_newer = abandoned is not None or isinstance(entered, CachedContext)
        return self._rebuild(claim, message, workflow, node, replaces_newer)

    def _rebuild(
        self,
        claim: Claim,
        message: HopMessage,
        workflow: CompiledWorkflow,
        node: Node,
        replaces_newer: bool,
    ) -> tuple[CachedContext, Walk, bool]:
        """Read the context from Postgres and cache it."""
        reading = self._read(checked_id(message.execution_id), is_shared=bool(claim.place))
        snapshot = reading.snapshot
        if snapshot is None:
            raise ExecutionNotFound(message.execution_id)
        if not may_move(snapshot):
            limited = " and waits for a slot of its limits" if snapshot.slots is SlotStatus.LIMITED else ""
            raise NotAdmitted(f"the execution is {snapshot.status}{limited}")
        _check_version(message, snapshot.workflow_id, snapshot.version)
        walk = replayed(workflow, snapshot)
        encoded = walk.to_json()
        if reading.is_first or replaces_newer:
            self._cache.cache_context(claim, snapshot, encoded, replaces_newer=replaces_newer)
        if node.id not in walk.due and node.id not in walk.waiting:
            raise NotAdmitted(NOT_DUE)
        lacks_slot = bool(workflow.limits) and snapshot.slots is None
        return rebuilt_context(snapshot, encoded, workflow.needs(node.id)), walk, lacks_slot

    def waiting(self, execution_id: str) -> int:
        """Return how many nodes of an execution wait until it is read from Postgres."""
        return self._gathering.waiting(execution_id)

    def _read(self, execution_id: str, *, is_shared: bool) -> _Reading:
        """Read an execution, once for all its nodes in this process that have been entered and wait for it.

        Each reads what was committed before it was entered, and what has been since.
        """
        reading = _Reading()
        if is_shared:
            self._gathering.served(execution_id, reading, partial(self._read_for, execution_id))
        if not reading.is_done:
            self._read_for(execution_id, [reading])
        return reading

    def _read_for(self, execution_id: str, readings: Sequence[_Reading], _: PassOn | None = None) -> None:
        snapshot = self._state.load_snapshot(execution_id)
        for each in readings:
            each.snapshot, each.is_first, each.is_done = snapshot, each is readings[0], True


def _locked_out(held: Held, task_id: str) -> Exception:
    holder = Holder.from_value(held.holder)
    if holder is not None and task_id and holder.task_id == task_id:
        return LeftToOthers("an earlier delivery of this message holds the lock, or left it behind")
    return NotAdmitted("the execution is locked by another worker, which will resume it")


def _check_version(message: HopMessage, workflow_id: str, version: int) -> None:
    if (workflow_id, version) != (message.workflow, message.version):
        raise NotAdmitted(f"the execution runs version {version} of {workflow_id!r}")
