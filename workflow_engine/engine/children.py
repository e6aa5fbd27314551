"""Children of a node: made ready to start before its commit, and read once they have ended.

The version of a workflow is looked up once, when the node begins to wait, and is that of all its children. A
body gets a copy of those values around it that its expressions read, and of no others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from workflow_engine.definition.body import SEPARATOR, TRIGGER_ID
from workflow_engine.engine.failure_workflows import FAILURE_OF
from workflow_engine.engine.hop import Hop
from workflow_engine.engine.stores import Stores
from workflow_engine.errors import (
    BackingServiceUnavailable,
    ContextUnavailable,
    InvalidValue,
    TriggerDataInvalid,
    WorkflowNotFound,
)
from workflow_engine.execution.children import SHOWN_FAILURES, ChildResult, EndedChildren
from workflow_engine.execution.context import ExecutionContext, Wake
from workflow_engine.execution.records import EndedChild, NewChildren, NewExecution, WokenWait
from workflow_engine.execution.states import WaitType
from workflow_engine.execution.walk import Walk
from workflow_engine.json_values import check_size, encode, normalise
from workflow_engine.nodes.children import Children
from workflow_engine.nodes.results import NodeError
from workflow_engine.nodes.trigger.direct import check_trigger_data
from workflow_engine.runner.compiled import CompiledWorkflow, CompiledWorkflows
from workflow_engine.runner.node_run import Outcome
from workflow_engine.settings import Settings
from workflow_engine.telemetry.tracing import TRACEPARENT

REFUSED = "CHILDREN_REFUSED"
"""The type of the error of a node whose children cannot be started."""


class ChildExecutions:
    """Prepares and reads the children of nodes. One instance serves a process."""

    def __init__(self, stores: Stores, workflows: CompiledWorkflows, settings: Settings) -> None:
        self._children = stores.children
        self._deployments = stores.deployments
        self._workflows = workflows
        self._settings = settings

    def prepared(self, hop: Hop, context: ExecutionContext, outcome: Outcome) -> Outcome:
        """Return the outcome of a node that waits for children, with what they are started with.

        The node fails if its children cannot start: the workflow or trigger does not exist, or its data does
        not fit.
        """
        if outcome.wait is None or (wanted := outcome.wait.children) is None:
            return outcome
        try:
            self._check_items(wanted)
            start = self._of_body(hop, context, wanted)
            if start is None:
                start = self._of_workflow(hop, wanted)
        except (WorkflowNotFound, TriggerDataInvalid, InvalidValue) as error:
            failed = hop.attempt_failure_outcome(NodeError(REFUSED, str(error)))
            return dataclasses.replace(
                failed, input_data=outcome.input_data, duration_ms=outcome.duration_ms, logs=outcome.logs
            )
        has_items = wanted.items is not None
        is_named = has_items and wanted.workflow is None
        children = NewChildren(
            start=start,
            total=wanted.count,
            first=wanted.index,
            has_items=has_items,
            batch=wanted.batch,
            adapts=wanted.adapts,
            item_variable=wanted.item_variable if is_named else None,
            index_variable=wanted.index_variable if is_named else None,
            concurrency=wanted.concurrency,
            tolerated=wanted.tolerated,
            starts_in=wanted.starts_in,
            outlives_parent=wanted.outlives_parent,
            deepest=self._settings.max_depth,
            most=self._settings.max_descendants,
        )
        return dataclasses.replace(outcome, children=children)

    def _check_items(self, wanted: Children) -> None:
        count, most = len(wanted.items or ()), self._settings.max_items
        if count > most:
            raise InvalidValue(
                "items",
                f"{count:,} items are more than the {most:,} allowed (WORKFLOW_ENGINE_MAX_ITEMS); split them",
            )

    def wake(self, hop: Hop) -> Wake | None:
        """Return what the node learns of its wait; None for one that begins only now."""
        wake, woken = hop.wake, hop.woken
        if wake is None or woken is None or woken.type is not WaitType.CHILDREN:
            return wake
        return dataclasses.replace(wake, children=self._ended(hop, woken))

    # -- of a workflow -----------------------------------------------------------------------------------

    def _of_workflow(self, hop: Hop, wanted: Children) -> NewExecution:
        """Return what the children of a workflow have in common. Raises as `WorkflowClient.start` does."""
        assert wanted.workflow is not None
        version, trigger_ids = self._deployments.starting_point(wanted.workflow, wanted.version)
        compiled = self._workflows.get(wanted.workflow, version)
        trigger = compiled.graph.nodes[compiled.trigger(wanted.trigger)]
        batch = 1 if wanted.adapts else wanted.batch
        all_data = [wanted.data] if wanted.items is None else _batches(wanted.items, batch)
        for index, data in enumerate(all_data):
            if problems := check_trigger_data(trigger.config, data):
                which = f"{trigger.id} (child {index})" if wanted.items is not None else trigger.id
                raise TriggerDataInvalid(wanted.workflow, which, problems)
        given = normalise(dict(wanted.variables), "variables")
        for name in given:
            if name.startswith("_") or name in compiled.graph.nodes:
                raise InvalidValue(
                    f"variables.{name}",
                    "a variable may not start with _ nor have the name of a node; rename it",
                )
        variables = {**normalise(compiled.workflow.variables, "variables"), **given}
        return self._new_execution(
            hop, compiled, trigger_ids[trigger.id], trigger.id, wanted, wanted.data, variables
        )

    # -- of a body ---------------------------------------------------------------------------------------

    def _of_body(self, hop: Hop, context: ExecutionContext, wanted: Children) -> NewExecution | None:
        """Return what the children of a node's body have in common; None if it names a workflow."""
        if wanted.workflow is not None:
            return None
        body = hop.workflow.body(hop.node.id)
        read = body.names_read
        known = (
            hop.workflow.graph.nodes.keys() | outer_values(hop.cached.outputs.get(TRIGGER_ID)).outputs.keys()
        )
        outputs = {name: context.node_outputs[name] for name in read & known if name in context.node_outputs}
        data: dict[str, Any] = {"outputs": outputs}
        if "_trigger" in read:
            data["trigger"] = context.trigger_data
        if hop.node.kind == "logic/loop":
            data["index"] = wanted.index
            if wanted.index and wanted.items is None:
                data["previous"] = wanted.previous
        else:  # the names of the loop around it mean the same in a group
            data |= {name.removeprefix("_"): value for name, value in context.iteration.items()}
        seen = dict(context.variables)
        if "_vars" not in read:
            seen = {name: value for name, value in seen.items() if name in read}
        variables = {**seen, **normalise(body.workflow.variables, "variables")}
        trigger_id: str = hop.cached.identity["triggerId"]
        return self._new_execution(hop, body, trigger_id, TRIGGER_ID, wanted, data, variables)

    def _new_execution(
        self,
        hop: Hop,
        compiled: CompiledWorkflow,
        trigger_id: str,
        trigger_node_id: str,
        wanted: Children,
        data: Any,
        variables: Mapping[str, Any],
    ) -> NewExecution:
        trigger = compiled.graph.nodes[trigger_node_id]
        due = Walk.start(compiled.graph, trigger_node_id).due
        first = compiled.route(due[0]) if due else None
        limits = (compiled.workflow.settings.timeout, wanted.timeout)
        encoded, encoded_variables = encode(data), encode(dict(variables))
        for part, name in ((encoded, "data"), (encoded_variables, "variables")):
            check_size(part, self._settings.output_limit, name)
        workflow_id, _, body = compiled.workflow.id.partition(SEPARATOR)
        return NewExecution(
            execution_id="",
            workflow_id=workflow_id,
            version=compiled.version,
            trigger_id=trigger_id,
            trigger_node_id=trigger_node_id,
            trigger_sub_type=trigger.sub_type,
            trigger_label=trigger.label,
            data=encoded,
            variables=encoded_variables,
            queue=hop.cached.identity["queue"] or self._settings.queue,
            priority=hop.cached.identity["priority"],
            due_queue=first.queue if first else None,
            due_priority=first.priority if first else None,
            due=tuple(due),
            queue_timeouts=compiled.queue_timeouts_of(due[: compiled.concurrency]),
            body=body or None,
            metadata=_inherited(hop),
            timeout=min((limit for limit in limits if limit is not None), default=None),
        )

    # -- once they have ended ----------------------------------------------------------------------------

    def _ended(self, hop: Hop, woken: WokenWait) -> EndedChildren:
        counts = woken.children

        def load(with_outputs: bool, only_failed: bool) -> Sequence[ChildResult]:
            ends = self._workflows.get(counts["workflow"], counts["version"]).graph.ends
            try:
                children = self._children.ended(
                    hop.execution_id,
                    woken.seq,
                    ends,
                    first=counts["first"],
                    with_outputs=with_outputs,
                    only_failed=only_failed,
                    most=SHOWN_FAILURES if only_failed else None,
                    output_limit=self._settings.output_limit,
                )
            except BackingServiceUnavailable as error:
                raise ContextUnavailable(str(error)) from error
            return [child_result(child, ends) for child in children]

        return EndedChildren(
            counts["first"], counts["total"], counts["completed"], counts["failed"], counts["tolerated"], load
        )


def _inherited(hop: Hop) -> dict[str, Any]:
    """Return the metadata that a child has from its parent."""
    failure_of = hop.cached.identity["metadata"].get(FAILURE_OF)
    traced = {} if hop.traceparent is None else {TRACEPARENT: hop.traceparent}
    return traced if failure_of is None else {**traced, FAILURE_OF: failure_of}


def child_result(child: EndedChild, ends: Sequence[str]) -> ChildResult:
    """Return how a child ended: its output is its result, as `client.get` returns it."""
    output = child.outputs.get(ends[0]) if len(ends) == 1 else dict(child.outputs)
    return ChildResult(
        child.index, child.execution_id, child.status, output, child.error, child.error_details
    )


class OuterValues(NamedTuple):
    """What a body gets from around it with the data of its trigger."""

    outputs: Mapping[str, Any]
    """Outputs by node id."""
    trigger: Any
    """The data that its workflow was started with; None if the body does not read it."""
    iteration: Mapping[str, Any]
    """`_index` and `_previous`, as far as there are any."""


def outer_values(trigger_data: Any) -> OuterValues:
    """Read the data of the trigger of a body; any other data has no such values."""
    data = trigger_data if isinstance(trigger_data, dict) else {}
    iteration = {f"_{name}": data[name] for name in ("index", "previous") if name in data}
    return OuterValues(data.get("outputs", {}), data.get("trigger"), iteration)


def _batches(items: Sequence[Any], size: int | None) -> Sequence[Any]:
    if size is None:
        return items
    return [list(items[place : place + size]) for place in range(0, len(items), size)]
