"""WorkflowClient: what producers use to deploy workflows, start executions and follow them."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from workflow_engine.context import ExecutionContext
from workflow_engine.definition import Workflow
from workflow_engine.deployments import DeployedVersion, DeployedWorkflow, Deployment
from workflow_engine.engine import Engine
from workflow_engine.errors import InvalidValue, TriggerDataInvalid, WaitTimeout, WorkflowNotFound
from workflow_engine.execution_queries import Execution, NodeExecution, checked_id
from workflow_engine.execution_records import NewExecution, StartedExecution, new_execution_id
from workflow_engine.graph import Graph
from workflow_engine.json_values import check_size, encode, normalise
from workflow_engine.nodes.triggers import check_trigger_data
from workflow_engine.settings import Settings
from workflow_engine.states import ExecutionStatus
from workflow_engine.validation import validate

LONGEST_SIGNAL_WAIT = 5.0
"""Seconds `wait` trusts Redis to wake it before it asks Postgres again."""


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
    ) -> StartedExecution:
        """Start an execution: one transaction in Postgres and one message.

        `data` is any JSON value, `{}` if none is given; it becomes the output of the trigger node.
        `trigger` is the id of a trigger node and may be left out if there is but one. `variables` add to
        and override those of the workflow. `priority` is 0 (first) to 9. With an `idempotency_key` that
        was used before for this workflow, the execution it started then is returned.

        Raises `WorkflowNotFound`, `TriggerDataInvalid`, `InvalidValue`, `IdempotencyConflict`; nothing
        is stored then.
        """
        if priority is not None and not 0 <= priority <= 9:
            raise InvalidValue("priority", f"{priority} is not between 0 (served first) and 9")
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
            )
        )

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

    def context(self, execution_id: str) -> ExecutionContext:
        """All that an execution has gathered so far. Raises `ExecutionNotFound`."""
        return self._engine.cache.load_context(checked_id(execution_id))

    def workflow(self, workflow_id: str, version: int | None = None) -> DeployedVersion:
        """A deployed version, the current one if none is named. Raises `WorkflowNotFound`."""
        return self._engine.deployments.version(workflow_id, version)

    def workflows(self) -> Sequence[DeployedWorkflow]:
        """All deployed workflows."""
        return self._engine.deployments.workflows()

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
