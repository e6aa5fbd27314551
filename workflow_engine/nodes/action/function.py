"""`action/function`: the node's output is an expression, or any JSON value with expressions in it."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from workflow_engine.execution.context import ExecutionContext
from workflow_engine.nodes.contract import Config, NodeType, always_pure
from workflow_engine.nodes.results import NodeExecutionResult, success


class FunctionConfig(Config):
    """Config of `action/function`."""

    expression: Any = Field(
        description="the output: an expression, or an object, list or text with expressions in it"
    )


class FunctionNode:
    """Returns the value of its expression."""

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        return success(node_data["expression"])


NODE_TYPE = NodeType(
    "action",
    "function",
    FunctionNode(),
    FunctionConfig,
    is_pure=always_pure,
    description="Computes a value with an expression.",
)
