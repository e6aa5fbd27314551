"""`action/function`: an expression, or any JSON value with expressions in it, becomes the node's output."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from workflow_engine.context import ExecutionContext
from workflow_engine.node_types import Config, NodeExecutionResult, NodeType, success


class FunctionConfig(Config):
    """Config of `action/function`."""

    expression: Any = Field(
        description="the output: an expression, or an object, list or text with expressions in it"
    )


class FunctionNode:
    """Answers with the value of its expression."""

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        return success(node_data["expression"])


NODE_TYPE = NodeType(
    "action", "function", FunctionNode(), FunctionConfig, description="Computes a value with an expression."
)
