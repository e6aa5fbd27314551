"""Admission: a message is admitted to its node, or dropped with the reason.

Usually that is one call to Redis, which takes the execution's lock and reads what the node needs. A context
that is missing there, or behind the message, is rebuilt from Postgres.

Siblings that come to one process while another is entered would only queue for the servers. So they are put
in line, and one call enters all of them. If the first finds no context, it caches one before the others are
entered.
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
from workflow_engine.redis.calls import Entry, SentEntry
from workflow_engine.redis.lock import Claim, Holder
from workflow_engine.redis.results import Full, Held, Late, Missing
from workflow_engine.runner.compiled import CompiledWorkflow, CompiledWorkflows
from workflow_engine.telemetry.log_events import LogEvent, log_fields

log = logging.getLogger(__name__)

NOT_DUE = "the node is neither due nor woken"

LONGEST_REASON = 300
"""Characters of the reason why a definition cannot be read."""


Entered = Late | Held | Full | Missing | CachedContext
"""What comes of entering a node."""


class NotAdmitted(Exception):
    """A message is not admitted to a node; another worker publishes what is due."""


class Overtaken(NotAdmitted):
    """The execution has moved on after the node was admitted; what is due has to be published again."""


@dataclass(frozen=True)
class _Reading:
    """What Postgres has of an execution, and the walk that follows from it, if it may move."""

    snapshot: Snapshot | None
    walk: Walk | None = None
    encoded: bytes = b""


@dataclass(eq=False)
class _Arrival:
    """A node that is to be entered, and what has come of it."""

    entry: Entry
    entered: Entered | None = None
    reading: _Reading | None = None
    """What was read where its context was missing."""


class Admission:
    """Turns messages into hops. One instance serves a process."""

    def __init__(self, stores: Stores, workflows: CompiledWorkflows, resumption: Resumption) -> None:
        self._state = stores.state
        self._waits = stores.waits
        self._cache = stores.cache
        self._locks = stores.locks
        self._workflows = workflows
        self._resumption = resumption
        self._arrivals: Gathering[_Arrival] = Gathering()

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
            reading = None
            if sent is not None:
                entered = self._cache.entered(sent)
            else:
                entry = Entry(claim, node.id, message.seq, workflow.needs(node.id))
                entered, reading = self._enter(message, workflow, entry)
            if isinstance(entered, Late) and entered.was_contended:
                self._resumption.resume(message.execution_id)
        if isinstance(entered, Late):
            raise NotAdmitted(NOT_DUE)
        if isinstance(entered, Held):
            raise _locked_out(entered, task_id)
        if isinstance(entered, Full):
            raise NotAdmitted("as many nodes of the execution run as may run at the same time")
        with self._resumption.release_on_error(claim):
            cached, walk, lacks_slot = self._context(claim, message, workflow, node, entered, reading)
            _check_version(message, cached.identity["workflowId"], cached.identity["version"])
            woken = self._waits.woken(message.execution_id, node.id) if node.id in walk.waiting else None
            if woken is None and node.id not in walk.due:
                raise NotAdmitted(NOT_DUE)
        return Hop(claim, workflow, node, cached, walk, woken, cause=cause, lacks_slot=lacks_slot)

    def waiting(self, execution_id: str) -> int:
        """Return how many nodes of an execution wait until others have been entered."""
        return self._arrivals.waiting(execution_id)

    def _enter(
        self, message: HopMessage, workflow: CompiledWorkflow, entry: Entry
    ) -> tuple[Entered, _Reading | None]:
        """Enter a node; if it may have siblings, together with those that come while others are entered.

        Return also what was read for all of them, where the context was missing.
        """
        arrival = _Arrival(entry)
        if entry.claim.place:
            together = partial(self._enter_together, message, workflow)
            self._arrivals.served(message.execution_id, arrival, together)
        return arrival.entered or self._cache.enter(*entry), arrival.reading

    def _enter_together(
        self, message: HopMessage, workflow: CompiledWorkflow, arrivals: Sequence[_Arrival], _: PassOn
    ) -> None:
        """Enter siblings, and cache a missing context before the next ones are entered."""
        if len(arrivals) > 1:
            entered = self._cache.enter_jointly([each.entry for each in arrivals])
            for each, result in zip(arrivals, entered, strict=True):
                each.entered = result
        else:
            arrivals[0].entered = self._cache.enter(*arrivals[0].entry)
        if arrivals[0].entered == Missing():
            reading = self._read(arrivals[0].entry.claim, message, workflow)
            for each in arrivals:
                each.reading = reading if each.entered == Missing() else None

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
        reading: _Reading | None,
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
        if reading is None:
            # A newer one, which siblings have brought further, stays; but it would lack the crash.
            replaces_newer = abandoned is not None or isinstance(entered, CachedContext)
            reading = self._read(claim, message, workflow, replaces_newer=replaces_newer)
        return _rebuilt(message, workflow, node, reading)

    def _read(
        self,
        claim: Claim,
        message: HopMessage,
        workflow: CompiledWorkflow,
        *,
        replaces_newer: bool = False,
    ) -> _Reading:
        """Read an execution from Postgres, and cache its context if it may move."""
        snapshot = self._state.load_snapshot(checked_id(message.execution_id))
        if snapshot is None or not may_move(snapshot):
            return _Reading(snapshot)
        _check_version(message, snapshot.workflow_id, snapshot.version)
        walk = replayed(workflow, snapshot)
        encoded = walk.to_json()
        self._cache.cache_context(claim, snapshot, encoded, replaces_newer=replaces_newer)
        return _Reading(snapshot, walk, encoded)


def _rebuilt(
    message: HopMessage, workflow: CompiledWorkflow, node: Node, reading: _Reading
) -> tuple[CachedContext, Walk, bool]:
    """Return the context as it was read, the walk, and whether the execution lacks a slot."""
    snapshot, walk = reading.snapshot, reading.walk
    if snapshot is None:
        raise ExecutionNotFound(message.execution_id)
    if walk is None:
        limited = " and waits for a slot of its limits" if snapshot.slots is SlotStatus.LIMITED else ""
        raise NotAdmitted(f"the execution is {snapshot.status}{limited}")
    if node.id not in walk.due and node.id not in walk.waiting:
        raise NotAdmitted(NOT_DUE)
    lacks_slot = bool(workflow.limits) and snapshot.slots is None
    return rebuilt_context(snapshot, reading.encoded, workflow.needs(node.id)), walk, lacks_slot


def _locked_out(held: Held, task_id: str) -> Exception:
    holder = Holder.from_value(held.holder)
    if holder is not None and task_id and holder.task_id == task_id:
        return LeftToOthers("an earlier delivery of this message holds the lock, or left it behind")
    return NotAdmitted("the execution is locked by another worker, which will resume it")


def _check_version(message: HopMessage, workflow_id: str, version: int) -> None:
    if (workflow_id, version) != (message.workflow, message.version):
        raise NotAdmitted(f"the execution runs version {version} of {workflow_id!r}")
