"""Attempts: one run of a node in this process, or a wait for a worker that has its code."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from workflow_engine.definition.body import TRIGGER_ID
from workflow_engine.engine.children import ChildExecutions, outer_values
from workflow_engine.engine.hop import Hop, worker_name
from workflow_engine.engine.preconditions.joins import incomplete_join
from workflow_engine.engine.preconditions.slots import Slots
from workflow_engine.engine.steps.admission import NotAdmitted, Overtaken
from workflow_engine.engine.stores import Stores
from workflow_engine.errors import UnknownNodeType
from workflow_engine.execution.context import ExecutionContext, LazyMapping
from workflow_engine.execution.records import BegunRun, DonePart
from workflow_engine.execution.states import NodeStatus
from workflow_engine.json_values import decode
from workflow_engine.nodes.results import NodeError
from workflow_engine.outages import retry_unavailable
from workflow_engine.postgres.executions.parts import Parts
from workflow_engine.redis.running_nodes import RunningNode, RunningNodes
from workflow_engine.runner.compiled import CompiledWorkflows
from workflow_engine.runner.node_run import Outcome, run_node
from workflow_engine.runner.surroundings import CALLED_AROUND_NODES
from workflow_engine.settings import Settings
from workflow_engine.telemetry.log_events import LogEvent, log_fields

log = logging.getLogger(__name__)

QUEUE_TIMEOUT = "QUEUE_TIMEOUT"
"""The type of the error of a node that has stood in its queue for longer than its `queueTimeout`."""

CRASHED = "CRASHED"
"""The type of the error of a node with `onCrash: fail` whose run ended without a commit."""


class Attempts:
    """Runs the nodes that were admitted. One instance serves a process."""

    def __init__(
        self,
        stores: Stores,
        workflows: CompiledWorkflows,
        running_nodes: RunningNodes,
        settings: Settings,
    ) -> None:
        self._children = ChildExecutions(stores, workflows, settings)
        self._slots = Slots(stores)
        self._parts = stores.parts
        self._queue_deadlines = stores.queue_deadlines
        self._state = stores.state
        self._waits = stores.waits
        self._cache = stores.cache
        self._locks = stores.locks
        self._running_nodes = running_nodes
        self._settings = settings

    def run(self, hop: Hop) -> Outcome:
        """Evaluate the expressions of a node, call its executor, and return the outcome.

        Raises `NodeInterrupted`, `NotAdmitted` for a node that already waits for its code, and `Overtaken`.
        """
        is_marked, crashes = hop.node.on_crash == "fail", hop.crashes
        if crashes.count > self._settings.max_recoveries and crashes.begun is None:
            message = (
                f"the worker process that ran this node was lost {crashes.count} times, most recently "
                f"{crashes.last}"
            )
            return hop.failure_outcome(NodeError("WORKER_LOST", message))
        if hop.node.queue_timeout is not None and not self._begins_in_time(hop):
            return _stood_too_long(hop)
        try:
            compiled, graph = hop.workflow.node(hop.node.id), hop.workflow.graph
            if hop.workflow.is_body:
                hop = self._with_data_of_body(hop)
            if compiled.required is not None and (error := self._incomplete(hop, compiled.required)):
                return hop.failure_outcome(error)
            with self._running_nodes.running(hop.claim, hop.walked_to) as running:
                context = self._context(hop, running)
                if (compiled.slot_limits or hop.lacks_slot) and (
                    limited := self._slots.taken(hop, compiled, context)
                ) is not None:
                    return limited
                begin = partial(self._begin, hop) if is_marked else None
                limit = self._settings.output_limit
                for call in CALLED_AROUND_NODES:
                    call()
                try:
                    outcome = run_node(
                        compiled,
                        graph,
                        context,
                        limit,
                        hop.claim.token,
                        begin,
                        self._settings.node_log_limit,
                        None if compiled.is_whole else self._parts_of(hop),
                    )
                finally:
                    for call in CALLED_AROUND_NODES:
                        call()
            return outcome if outcome.wait is None else self._children.prepared(hop, context, outcome)
        except UnknownNodeType as error:
            if is_marked:
                self._state.unmark_begun(hop.execution_id, hop.node.id, hop.claim.token)
            return self._leave_to_others(hop, error)

    def expired(self, hop: Hop) -> Outcome:
        """Return the outcome of a node that has stood in its queue for too long.

        Raises `NotAdmitted` for one that has begun, or may still begin.
        """
        if self._begins_in_time(hop):
            raise NotAdmitted("the node has begun in time")
        return _stood_too_long(hop)

    def finished(self, hop: Hop) -> None:
        """Let go of what the attempt held beside its lock, whether it was committed or not."""
        if self._slots.held:  # none of the code for limits runs where none are used
            self._slots.stop_renewing(hop)

    def _begins_in_time(self, hop: Hop) -> bool:
        """Return whether the node may begin; one that has begun before, and was woken or retried, may."""
        if hop.woken is not None or hop.attempt > 1:
            return True
        return self._queue_deadlines.begin(hop.execution_id, hop.node.id)

    def _with_data_of_body(self, hop: Hop) -> Hop:
        """Return the hop with what a body gets from around it, which every node of it may read.

        An inline walk keeps no outputs from one node to the next. Raises `ContextUnavailable`.
        """
        if TRIGGER_ID in hop.cached.outputs:
            return hop
        given = self._cache.output_loader(hop.cached)(TRIGGER_ID)
        cached = replace(hop.cached, outputs={**hop.cached.outputs, TRIGGER_ID: given})
        return replace(hop, cached=cached)

    def _begin(self, hop: Hop) -> NodeError | None:
        """Mark that a node with `onCrash: fail` begins. Return its error if it has begun before.

        Raises `Overtaken` if the execution has moved on without this worker.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        run = BegunRun(hop.claim.token, hop.walk.visit(hop.node.id), worker_name(), now)
        begun = retry_unavailable(
            lambda: self._state.mark_begun(hop.execution_id, hop.node.id, hop.committed_seq, run),
            self._settings.commit_retry_timeout,  # with one token: a lost reply must not look like a crash
            f"mark that node {hop.node.id} of execution {hop.execution_id} begins",
        )
        if begun == run:
            return None
        # The worker that has taken our lock may be running the node.
        if begun is None or not self._locks.is_locked_by_me(hop.claim):
            raise Overtaken("the execution has moved on without this worker")
        lost = hop.crashes.last or f"on {begun.worker}, which began it at {begun.at}"
        message = f"the worker process that ran this node was lost {lost}; onCrash: fail forbids another run"
        return NodeError(CRASHED, message, {"worker": begun.worker, "startedAt": begun.at})

    def _incomplete(self, hop: Hop, required: int) -> NodeError | None:
        """Return the error of a merge at which fewer branches have arrived than required."""
        return incomplete_join(
            hop.workflow.graph,
            hop.walk,
            hop.node.id,
            required,
            lambda: self._state.load_snapshot(hop.execution_id),
        )

    def _leave_to_others(self, hop: Hop, lacking: UnknownNodeType) -> Outcome:
        """Make the node wait for a worker that has its code, or fail once it has waited too long.

        Raises `NotAdmitted` for a node that has waited before: its wait is still open.
        """
        is_given_up = hop.woken is not None and hop.woken.is_given_up
        if is_given_up or not self._settings.unknown_type_timeout:
            return hop.failure_outcome(NodeError("UNKNOWN_NODE_TYPE", str(lacking)))
        _log_missing_code(lacking.name, self._settings.unknown_type_timeout, lacking.remedy)
        if hop.woken is None:
            return Outcome(NodeStatus.WAITING, needs=lacking.name)
        self._waits.park(hop.execution_id, hop.node.id, lacking.name)
        raise NotAdmitted(f"the node waits for a worker that has {lacking.name!r}")

    def _parts_of(self, hop: Hop) -> _PartsOfVisit:
        return _PartsOfVisit(hop, self._parts, self._settings.commit_retry_timeout)

    def _context(self, hop: Hop, running: RunningNode) -> ExecutionContext:
        cached, identity = hop.cached, hop.cached.identity
        outputs, iteration = dict(cached.outputs), {}
        if hop.workflow.is_body:
            outer = outer_values(copy.deepcopy(outputs.get(TRIGGER_ID)))
            # What the body reads is the data of its workflow's trigger.
            outputs = {**outer.outputs, **outputs, TRIGGER_ID: outer.trigger}
            iteration = dict(outer.iteration)
        return ExecutionContext(
            execution_id=hop.execution_id,
            workflow_id=identity["workflowId"],
            trigger_id=identity["triggerId"],
            trigger_node_id=identity["triggerNodeId"],
            current_node_id=hop.node.id,
            node_outputs=LazyMapping(outputs, self._cache.output_loader(cached)),
            variables=decode(cached.variables),
            metadata=LazyMapping(
                dict(identity["metadata"]), self._cache.metadata_loader(cached), announced=("executionPath",)
            ),
            idempotency_key=hop.idempotency_key,
            attempt=hop.attempt,
            wake=None if hop.woken is None else self._children.wake(hop),
            arrivals=hop.walk.arrivals(hop.workflow.graph, hop.node.id),
            failures=hop.failures,
            iteration=iteration,
            run=running,
        )


def _stood_too_long(hop: Hop) -> Outcome:
    message = (
        f"no worker began the node within its queueTimeout of {hop.node.queue_timeout:g} s; add workers for "
        "its queue, or give it longer"
    )
    return hop.failure_outcome(NodeError(QUEUE_TIMEOUT, message))


@dataclass(frozen=True, slots=True)
class _PartsOfVisit:
    """The parts of a node's work that are done in one visit."""

    hop: Hop
    parts: Parts
    timeout: float
    """Seconds for which a part is offered while Postgres is away."""

    def done(self) -> Sequence[DonePart]:
        hop = self.hop
        return self.parts.done(hop.execution_id, hop.node.id, hop.walk.visit(hop.node.id))

    def save(self, place: int, value: bytes) -> None:
        """Store the value of a part. Raises `Overtaken` if the execution has moved on without this worker."""
        hop = self.hop
        is_kept = retry_unavailable(
            lambda: self.parts.save(
                hop.execution_id,
                hop.node.id,
                hop.walk.visit(hop.node.id),
                place,
                value,
                fence=None if hop.is_shared else hop.cached.fence,
                token=hop.claim.token,
                attempt=hop.attempt,
            ),
            self.timeout,
            f"store part {place} of node {hop.node.id} of execution {hop.execution_id}",
        )
        if not is_kept:
            raise Overtaken("the execution has moved on without this worker")


@functools.lru_cache(maxsize=1000)
def _log_missing_code(name: str, timeout: float, remedy: str) -> None:
    """Warn once for each name; `show` lists the executions that wait for it."""
    log.warning(
        "This worker does not have %r. Nodes that need it wait for a worker that does, and fail after %g s "
        "without one. To have it here, %s.",
        name,
        timeout,
        remedy,
        extra=log_fields(LogEvent.CODE_MISSING, needs=name),
    )
