"""`logic/sub-workflow`: runs another workflow, or the nodes of its body, as a child, and waits for it.

With a `body` it is a group: the node's own `timeout`, `retry` and `error` edge then cover several nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from workflow_engine.definition.body import Body
from workflow_engine.definition.problems import short_repr
from workflow_engine.execution.children import ChildResult
from workflow_engine.execution.context import ExecutionContext, Wake
from workflow_engine.execution.states import ExecutionStatus
from workflow_engine.nodes.children import Children
from workflow_engine.nodes.config_fields import Amount, ConstantText, seconds_of
from workflow_engine.nodes.contract import Config, NodeType
from workflow_engine.nodes.results import NodeExecutionResult, failure, success, waiting

ONLY_WITH_WORKFLOW = ("version", "trigger", "data", "variables")


def check_what_runs(config: Config, body: Any, workflow: Any) -> None:
    """Raise ValueError unless a config has either a `body` or a `workflow`, with the keys that go with it."""
    if (body is None) == (workflow is None):
        raise ValueError("give either a `workflow`, by its id, or a `body` of nodes and edges")
    if body is not None and (given := [key for key in ONLY_WITH_WORKFLOW if key in config.model_fields_set]):
        raise ValueError(
            f"`{given[0]}` goes with a `workflow`; a body reads the values around it by their names"
        )


class SubWorkflowConfig(Config):
    """Config of `logic/sub-workflow`."""

    workflow: str | None = Field(None, min_length=1, description="the id of the workflow to run")
    version: int | None = Field(
        None, ge=1, description="its version; left out: the one that is current when this node begins"
    )
    trigger: ConstantText | None = Field(None, description="the trigger to start at, if it has several")
    data: Any = Field(None, description="the data it is started with; left out: an empty object")
    variables: dict[str, Any] | None = Field(None, description="variables that add to and override its own")
    body: Body | None = Field(None, description="in place of a workflow: nodes and edges, as a group")
    timeout: Amount = Field(None, description="seconds the child may take")
    on_parent_end: Literal["cancel", "leave"] = Field(
        "cancel", description="what happens to the child if this execution ends before it"
    )

    @model_validator(mode="after")
    def _runs_one_thing(self) -> SubWorkflowConfig:
        check_what_runs(self, self.body, self.workflow)
        return self


class SubWorkflow:
    """Returns the result of the child; a child that failed or was cancelled fails the node."""

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        try:
            timeout = node_data.get("timeout")
            children = Children(
                workflow=workflow_id(node_data),
                version=node_data.get("version"),
                trigger=node_data.get("trigger"),
                data=node_data.get("data", {}),
                variables=node_data.get("variables") or {},
                timeout=None if timeout is None else seconds_of(timeout, "timeout"),
                outlives_parent=node_data.get("onParentEnd") == "leave",
            )
        except ValueError as error:
            return failure("INVALID_SUB_WORKFLOW", str(error))
        return waiting(children=children)

    def resume(
        self, node_id: str, node_data: Any, context: ExecutionContext, wake: Wake
    ) -> NodeExecutionResult:
        if wake.children is None or wake.reason == "timeout":
            return took_too_long(wake)
        (child,) = wake.children.results()
        return success(child.output) if child.status is ExecutionStatus.COMPLETED else child_failure(child)


def workflow_id(node_data: Mapping[str, Any]) -> str | None:
    """Return the evaluated id of a workflow; None for a body. Raises ValueError if it is not text."""
    name = node_data.get("workflow")
    if name is not None and (not isinstance(name, str) or not name):
        raise ValueError(f"workflow: must be the id of a workflow, but is {short_repr(name)}")
    return name


def child_failure(child: ChildResult) -> NodeExecutionResult:
    """Return the failure of a node whose child did not complete."""
    about = child.failure
    if child.status is ExecutionStatus.CANCELLED:
        return failure("CHILD_CANCELLED", f"its child, execution {child.execution_id}, was cancelled", about)
    message = f"its child, execution {child.execution_id}, has failed: {about['message']}"
    return failure("CHILD_FAILED", message, about)


def took_too_long(wake: Wake) -> NodeExecutionResult:
    """Return the failure of a node whose children did not end within its timeout."""
    return failure("TIMEOUT", f"its children have not ended within its timeout, {wake.waited:.3g} s")


NODE_TYPE = NodeType(
    "logic",
    "sub-workflow",
    SubWorkflow(),
    SubWorkflowConfig,
    verbatim=frozenset({"body", "trigger", "version", "onParentEnd"}),
    unrecorded=frozenset({"body"}),
    description="Runs a workflow, or a group of nodes, as a child execution; holds no worker.",
)
