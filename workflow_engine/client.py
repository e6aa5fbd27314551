"""WorkflowClient: what producers use to deploy workflows, start executions and follow them."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from workflow_engine.callers_transaction import CallersTransactions
from workflow_engine.context import ExecutionContext
from workflow_engine.definition import Workflow
from workflow_engine.deployments import DeployedVersion, DeployedWorkflow, Deployment
from workflow_engine.engine import Engine
from workflow_engine.errors import InvalidValue, TriggerDataInvalid, WaitTimeout, WorkflowNotFound
from workflow_engine.events import Events, SentEvent
from workflow_engine.execution_queries import Execution, NodeExecution, checked_id
from workflow_engine.execution_records import NewExecution, StartedExecution, new_execution_id
from workflow_engine.graph import Graph
from workflow_engine.json_values import check_size, encode, normalise
from workflow_engine.nodes.triggers import check_trigger_data
from workflow_engine.operator_moves import ExecutionEvent
from workflow_engine.operators import Move, Operation, Operators
from workflow_engine.retention import Purged, Retention
from workflow_engine.schedules import ScheduledTrigger
from workflow_engine.settings import Settings
from workflow_engine.states import ExecutionStatus
from workflow_engine.validation import validate

if TYPE_CHECKING:
    from workflow_engine.callers_transaction import CallersSession

LONGEST_SIGNAL_WAIT = 5.0
"""Seconds `wait` trusts Redis to wake it before it asks Postgres again."""

LONGEST_KEY = 500
"""Characters of an idempotency key; Postgres must be able to index it."""


class WorkflowClient:
    """Deploys workflows, starts executions and tells how they are.

    Connects when it is first used and may be shared by threads. `app` is the Celery app whose broker
    takes the messages; without one the broker of the settings is used. Any method may raise
    `DatabaseUnavailable`.
    """

    def __init__(
        self, settings: Settings | None = None, *, app: Any = None, engine: Engine | None = None
    ) -> None:
        self._engine = engine or Engine.assemble(settings, app=app)
        self._events = Events(self._engine.state.engine, self._engine.settings)
        self._callers_transactions = CallersTransactions(self._engine.state.engine)
        self._operators = Operators(
            self._engine.state.engine,
            self._engine.cache,
            self._engine.settings,
            locks=self._engine.locks,
            plans=self._engine.plans,
            executor=self._engine.executor,
            running_nodes=self._engine.running_nodes,
        )

    def deploy(self, definition: Workflow | Mapping[str, Any]) -> Deployment:
        """Make a definition the current version of its workflow. Raises `DefinitionInvalid`."""
        content = definition.to_dict() if isinstance(definition, Workflow) else definition
        return self._engine.deployments.deploy(validate(content, self._engine.registry))

    def start(
        self,
        workflow_id: str,
        data: Any = None,
        *,
        trigger: str | None = None,
        variables: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        priority: int | None = None,
        version: int | None = None,
        session: CallersSession | None = None,
    ) -> StartedExecution:
        """Start an execution: one transaction in Postgres and one message.

        `data` is any JSON value, `{}` if none is given; it becomes the output of the trigger node.
        `trigger` is the id of a trigger node and may be left out if there is but one. `variables` add to
        and override those of the workflow. `priority` is 0 (first) to 9. With an `idempotency_key` that
        was used before for this workflow, the execution it started then is returned.

        With your SQLAlchemy `session` the execution is part of its transaction, and commits or rolls back
        with what you write there; the message follows the outermost commit. With a `Connection` call
        `publish()` of what is returned after its commit. Errors of SQLAlchemy are then raised as they are.

        Raises `WorkflowNotFound`, `TriggerDataInvalid`, `InvalidValue`, `IdempotencyConflict`,
        `SessionRefused`; nothing is stored then, and your transaction is unharmed.
        """
        if priority is not None and not 0 <= priority <= 9:
            raise InvalidValue("priority", f"{priority} is not between 0 (served first) and 9")
        if idempotency_key is not None:
            _check_key(idempotency_key)
        transaction = None if session is None else self._callers_transactions.join(session)
        number, trigger_ids = self._engine.deployments.starting_point(workflow_id, version)
        plan = self._engine.plans.get(workflow_id, number)
        trigger_node = plan.graph.nodes[_chosen_trigger(workflow_id, plan.graph, trigger)]
        encoded_data = self._checked_data(workflow_id, trigger_node.id, trigger_node.config, data)
        encoded_variables = self._checked_variables(plan.workflow, plan.graph, variables or {})
        fingerprint = hashlib.sha256(b"\0".join([trigger_node.id.encode(), encoded_data, encoded_variables]))
        return self._engine.executor.execute_workflow(
            NewExecution(
                execution_id=new_execution_id(),
                workflow_id=workflow_id,
                version=number,
                trigger_id=trigger_ids[trigger_node.id],
                trigger_node_id=trigger_node.id,
                trigger_sub_type=trigger_node.sub_type,
                trigger_label=trigger_node.label,
                data=encoded_data,
                variables=encoded_variables,
                priority=priority,
                idempotency_key=idempotency_key,
                fingerprint=fingerprint.hexdigest(),
                timeout=plan.workflow.settings.timeout,
            ),
            transaction,
        )

    def send_event(
        self,
        correlation_id: str | None = None,
        name: str = "",
        payload: Any = None,
        *,
        execution_id: str | None = None,
        event_id: str | None = None,
        actor: str | None = None,
    ) -> SentEvent:
        """Send an event to whatever waits for it: by correlation id, or in one execution.

        An event that nothing waits for yet is kept for `event_retention`. With an `event_id` it is safe to
        send it again. `actor` says who sent it. The answer tells what became of it.

        Raises `InvalidValue` and `ExecutionNotFound`; nothing is stored then.
        """
        sent = self._events.send(
            name,
            payload,
            correlation_id=correlation_id,
            execution_id=None if execution_id is None else checked_id(execution_id),
            event_id=event_id,
            actor=actor,
        )
        self._engine.enqueuer.wake(sent.woken)
        return sent

    def purge(self, older_than: float, *, dry_run: bool = False) -> Purged:
        """Remove executions that ended more than `older_than` seconds ago, and events kept for too long.

        In batches, each a transaction of its own; `dry_run` only counts.
        """
        retention = Retention(self._engine.state.engine, self._engine.settings)
        return retention.count(older_than) if dry_run else retention.purge(older_than)

    def get(self, execution_id: str) -> Execution:
        """An execution as it is now, with its result if it has completed. Raises `ExecutionNotFound`."""
        execution = self._engine.queries.get(execution_id)
        if execution.status is not ExecutionStatus.COMPLETED:
            return execution
        graph = self._engine.plans.get(execution.workflow_id, execution.version).graph
        return dataclasses.replace(execution, result=self._result(execution_id, graph.ends))

    def list(
        self,
        workflow_id: str | None = None,
        statuses: Sequence[ExecutionStatus] = (),
        *,
        limit: int = 50,
        before: str | None = None,
    ) -> Sequence[Execution]:
        """The newest executions first, without results; `before` is the last id of the page before."""
        return self._engine.queries.list(workflow_id, statuses, limit=limit, before=before)

    def count(self, workflow_id: str | None = None) -> dict[ExecutionStatus, int]:
        """How many executions have each status."""
        return self._engine.queries.count(workflow_id)

    def wait(self, execution_id: str, timeout: float | None = None) -> Execution:
        """Wait until an execution has ended, `timeout` seconds at most, and return it.

        Redis wakes the waiting; Postgres is what is believed. Raises `WaitTimeout`, `ExecutionNotFound`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._engine.cache.finished_signal(checked_id(execution_id)) as wait_for_signal:
            while not (execution := self._engine.queries.get(execution_id)).is_finished:
                left = LONGEST_SIGNAL_WAIT if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    raise WaitTimeout(execution_id, timeout or 0, execution.status.value)
                wait_for_signal(min(left, LONGEST_SIGNAL_WAIT))
        return self.get(execution_id)

    def journal(self, execution_id: str) -> Sequence[NodeExecution]:
        """What each node of an execution did, in the order it was committed. Raises `ExecutionNotFound`."""
        rows = self._engine.queries.journal(execution_id)
        if not rows:
            self._engine.queries.get(execution_id)
        return rows

    def pause(self, execution_id: str, *, reason: str | None = None, actor: str | None = None) -> Move:
        """Start no further node of an execution until it is resumed; one that runs may end.

        Like all moves of an operator it is recorded with who (`actor`) and why (`reason`). They raise
        `ExecutionNotFound`, and `IllegalMove` where the execution's status does not allow them.
        """
        return self._operators.pause(execution_id, reason=reason, actor=actor)

    def resume(self, execution_id: str, *, reason: str | None = None, actor: str | None = None) -> Move:
        """Let a paused execution go on; timers that came due meanwhile fire now."""
        return self._operators.resume(execution_id, reason=reason, actor=actor)

    def cancel(self, execution_id: str, *, reason: str | None = None, actor: str | None = None) -> Move:
        """End an execution at once; a node that runs is interrupted, and its result refused."""
        return self._operators.cancel(execution_id, reason=reason, actor=actor)

    def retry(
        self,
        execution_id: str,
        *,
        version: int | None = None,
        reason: str | None = None,
        actor: str | None = None,
    ) -> Move:
        """Let a failed execution go on from the node that failed, with the same idempotency key.

        `version` is that of the workflow to go on with, its own if left out. Raises `VersionDiffers` if
        what has been done does not fit it.
        """
        return self._operators.retry(execution_id, version=version, reason=reason, actor=actor)

    def rerun(
        self,
        execution_id: str,
        from_node: str,
        *,
        version: int | None = None,
        reason: str | None = None,
        actor: str | None = None,
    ) -> Move:
        """Run a node of an execution and all that follows it again, with new idempotency keys.

        What they did before stays in the journal, superseded. Raises `NodeNotFound`, `VersionDiffers`.
        """
        return self._operators.rerun(execution_id, from_node, version=version, reason=reason, actor=actor)

    def candidates(
        self,
        operation: Operation,
        *,
        workflow_id: str | None = None,
        statuses: Sequence[ExecutionStatus] = (),
        older_than: float | None = None,
    ) -> Sequence[str]:
        """Ids of the executions that an operation is possible for; `older_than` is in seconds."""
        return self._operators.candidates(
            operation, workflow_id=workflow_id, statuses=statuses, older_than=older_than
        )

    def events(self, execution_id: str) -> Sequence[ExecutionEvent]:
        """What operators did to an execution, and the events sent to it. Raises `ExecutionNotFound`."""
        return self._operators.events(execution_id)

    def history(self, execution_id: str) -> Sequence[NodeExecution | ExecutionEvent]:
        """Events and journal as one, in the order of time. Raises `ExecutionNotFound`."""
        entries: list[NodeExecution | ExecutionEvent] = [
            *self.journal(execution_id),
            *self.events(execution_id),
        ]
        return sorted(entries, key=lambda entry: (happened_at(entry), entry.seq or 0))

    def context(self, execution_id: str) -> ExecutionContext:
        """All that an execution has gathered so far. Raises `ExecutionNotFound`."""
        return self._engine.cache.load_context(checked_id(execution_id))

    def workflow(self, workflow_id: str, version: int | None = None) -> DeployedVersion:
        """A deployed version, the current one if none is named. Raises `WorkflowNotFound`."""
        return self._engine.deployments.version(workflow_id, version)

    def workflows(self) -> Sequence[DeployedWorkflow]:
        """All deployed workflows."""
        return self._engine.deployments.workflows()

    def schedules(self) -> Sequence[ScheduledTrigger]:
        """The scheduled triggers of all deployed workflows, with when each is due."""
        return self._engine.schedules.list()

    def _checked_data(self, workflow_id: str, trigger: str, config: Mapping[str, Any], data: Any) -> bytes:
        value = normalise({} if data is None else data, "data")
        if problems := check_trigger_data(config, value):
            raise TriggerDataInvalid(workflow_id, trigger, problems)
        encoded = encode(value)
        check_size(encoded, self._engine.settings.output_limit, "data")
        return encoded

    def _checked_variables(self, workflow: Workflow, graph: Graph, given: Mapping[str, Any]) -> bytes:
        for name in given:
            if name.startswith("_") or name in graph.nodes:
                raise InvalidValue(
                    f"variables.{name}",
                    "a variable may not start with _ nor have the name of a node; rename it",
                )
        encoded = encode(normalise({**workflow.variables, **given}, "variables"))
        check_size(encoded, self._engine.settings.output_limit, "variables")
        return encoded

    def _result(self, execution_id: str, ends: Sequence[str]) -> Any:
        outputs = self._engine.queries.outputs(execution_id, ends)
        return outputs.get(ends[0]) if len(ends) == 1 else outputs


def happened_at(entry: NodeExecution | ExecutionEvent) -> datetime:
    """When a journal row was committed, or an event recorded."""
    if isinstance(entry, ExecutionEvent):
        return entry.created_at
    took = timedelta(milliseconds=entry.duration_ms or 0)
    return entry.completed_at or entry.started_at + took  # a node that waits has not completed


def _check_key(key: str) -> None:
    normalise(key, "idempotency_key")
    if not 0 < len(key) <= LONGEST_KEY:
        raise InvalidValue("idempotency_key", f"it has {len(key)} characters, not 1 to {LONGEST_KEY}")


def _chosen_trigger(workflow_id: str, graph: Graph, wanted: str | None) -> str:
    triggers = graph.triggers
    names = ", ".join(triggers)
    if wanted is not None and wanted not in triggers:
        raise WorkflowNotFound(
            f"workflow {workflow_id!r} has no trigger {wanted!r}; its triggers are {names}"
        )
    if wanted is None and len(triggers) > 1:
        raise WorkflowNotFound(f"workflow {workflow_id!r} has several triggers, name one of them: {names}")
    return wanted or triggers[0]
