"""Failure workflows: what the end of a failed execution starts, by `onFailure` of its workflow.

It is made ready before that end, and started by the same transaction. An execution that was started so starts
no other when it fails, nor do the children below it: there are no chains.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workflow_engine.definition.workflow import OnFailure
from workflow_engine.engine.hop import Hop
from workflow_engine.engine.stores import Stores
from workflow_engine.errors import (
    ExpressionError,
    InvalidValue,
    StartRefused,
    TriggerDataInvalid,
    WorkflowNotFound,
)
from workflow_engine.execution.ids import new_execution_id
from workflow_engine.execution.records import FailureStart, NewExecution
from workflow_engine.execution.walk import Walk
from workflow_engine.expressions import Scope, compile_template
from workflow_engine.expressions.compiler import FAILURE
from workflow_engine.json_values import check_size, decode, encode, normalise
from workflow_engine.nodes.trigger.direct import check_trigger_data
from workflow_engine.runner.compiled import CompiledWorkflow, CompiledWorkflows
from workflow_engine.runner.limits import slots_of_execution
from workflow_engine.runner.node_run import Outcome
from workflow_engine.settings import Settings
from workflow_engine.telemetry.tracing import TRACEPARENT

FAILURE_OF = "failureOf"
"""Where the metadata of an execution, and of the children below it, name the one whose failure started it."""


class FailureWorkflows:
    """Makes ready what failed executions start. One instance serves a process."""

    def __init__(self, stores: Stores, workflows: CompiledWorkflows, settings: Settings) -> None:
        self._state = stores.state
        self._deployments = stores.deployments
        self._workflows = workflows
        self._settings = settings

    def of_commit(self, hop: Hop, outcome: Outcome) -> FailureStart | None:
        """Return what is started once a node has failed its execution; None if that starts nothing."""
        on_failure, metadata = hop.workflow.workflow.on_failure, hop.cached.identity["metadata"]
        if on_failure is None or FAILURE_OF in metadata:
            return None
        node, error = hop.node, outcome.error
        about = {
            "id": node.id,
            "type": node.type,
            "subType": node.sub_type,
            **({} if node.label is None else {"label": node.label}),
        }
        told = {} if error is None else error.as_output(hop.attempt)
        return self._start(on_failure, hop.workflow, hop.execution_id, about, told, hop.traceparent)

    def of_timeout(self, execution_id: str, workflow_id: str, version: int) -> FailureStart | None:
        """Return what is started once an execution has failed by its timeout; None if that starts nothing."""
        workflow = self._workflows.get(workflow_id, version)
        if (on_failure := workflow.workflow.on_failure) is None:
            return None
        seconds = workflow.workflow.settings.timeout
        message = "the execution took longer than its timeout" + (f" of {seconds} s" if seconds else "")
        error = {"type": "EXECUTION_TIMEOUT", "message": message}
        return self._start(on_failure, workflow, execution_id, None, error, None)

    def _start(
        self,
        on_failure: OnFailure,
        failed: CompiledWorkflow,
        execution_id: str,
        node: Mapping[str, Any] | None,
        error: Mapping[str, Any],
        traceparent: str | None,
    ) -> FailureStart:
        execution = {"id": execution_id, "workflowId": failed.workflow.id, "version": failed.version}
        failure = {"execution": execution, "node": node, "error": error}
        metadata = {FAILURE_OF: execution_id, **({} if traceparent is None else {TRACEPARENT: traceparent})}
        try:
            data = self._data(on_failure, execution_id, failure)
            return FailureStart(on_failure.workflow, self._new_execution(on_failure, data, metadata))
        except (
            WorkflowNotFound,
            StartRefused,
            TriggerDataInvalid,
            InvalidValue,
            ExpressionError,
        ) as error_of_start:
            return FailureStart(on_failure.workflow, refused=str(error_of_start))

    def _data(self, on_failure: OnFailure, execution_id: str, failure: Mapping[str, Any]) -> Any:
        if "data" not in on_failure.model_fields_set:
            return normalise(failure, "data")
        template = compile_template(on_failure.data)
        variables: dict[str, Any] = {}
        outputs: dict[str, Any] = {}
        trigger_id = ""
        if template.names - {FAILURE}:
            # Rarely, and never by a hop that goes on: so the journal is read, and no cached context.
            snapshot = self._state.load_snapshot(execution_id)
            for row in snapshot.journal if snapshot is not None else ():
                variables |= row.variables or {}
            if snapshot is not None:
                trigger_id = snapshot.trigger_node_id
                outputs = {trigger_id: decode(snapshot.journal[0].output or b"null")}
        scope = Scope(variables, outputs, trigger_id, iteration={FAILURE: failure})
        return normalise(template.evaluate(scope), "data")

    def _new_execution(self, on_failure: OnFailure, data: Any, metadata: Mapping[str, Any]) -> NewExecution:
        """Check a start against the deployed workflow. Raises as `WorkflowClient.start` does."""
        way_in = self._deployments.way_in(on_failure.workflow)
        compiled = self._workflows.get(on_failure.workflow, way_in.version)
        trigger = compiled.graph.nodes[compiled.trigger(on_failure.trigger)]
        way_in.check_open(on_failure.workflow, trigger.id)
        if problems := check_trigger_data(trigger.config, data):
            raise TriggerDataInvalid(on_failure.workflow, trigger.id, problems)
        due = Walk.start(compiled.graph, trigger.id).due
        first = compiled.route(due[0]) if due else None
        variables = normalise(compiled.workflow.variables, "variables")
        encoded = encode(data)
        check_size(encoded, self._settings.output_limit, "data")
        return NewExecution(
            execution_id=new_execution_id(),
            workflow_id=on_failure.workflow,
            version=way_in.version,
            trigger_id=way_in.trigger_ids[trigger.id],
            trigger_node_id=trigger.id,
            trigger_sub_type=trigger.sub_type,
            trigger_label=trigger.label,
            data=encoded,
            variables=encode(variables),
            queue=self._settings.queue,
            due_queue=first.queue if first else None,
            due_priority=first.priority if first else None,
            due=tuple(due),
            queue_timeouts=compiled.queue_timeouts_of(due[: compiled.concurrency]),
            timeout=compiled.workflow.settings.timeout,
            limits=slots_of_execution(compiled.limits, trigger.id, data, variables),
            metadata=metadata,
        )
