"""`logic/set`: sets variables of the execution."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from workflow_engine.execution.context import ExecutionContext
from workflow_engine.nodes.contract import Config, NodeType, always_pure
from workflow_engine.nodes.results import NodeExecutionResult, success


class SetConfig(Config):
    """Config of `logic/set`."""

    variables: dict[str, Any] = Field(
        min_length=1,
        description="the variables by name, each a value with expressions; all see the values from before",
        json_schema_extra={"propertyNames": {"pattern": "^(?!_)"}},
    )


class SetVariables:
    """Sets the variables; they are the output, too."""

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        return success(node_data["variables"], variables=node_data["variables"])


NODE_TYPE = NodeType(
    "logic", "set", SetVariables(), SetConfig, is_pure=always_pure, description="Sets variables."
)
