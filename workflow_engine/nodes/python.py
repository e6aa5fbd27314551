"""`action/python`: calls a Python function that was registered with `@node`.

Which functions there are differs between processes: a producer has none loaded, a worker that is not
yet updated lacks the newest. So the config is checked without looking the function up, and a worker
that lacks it raises `UnknownNodeType`, which is no failure of the node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, WithJsonSchema

from workflow_engine.context import ExecutionContext
from workflow_engine.errors import UnknownNodeType
from workflow_engine.model_problems import shown
from workflow_engine.node_types import (
    Config,
    NodeExecutionResult,
    NodeRegistry,
    NodeType,
    failure,
    one_way_out,
    registry,
)
from workflow_engine.nodes.config_fields import ConstantText, has_expression


def _object_or_expression(arguments: Any) -> Any:
    if isinstance(arguments, dict) or (isinstance(arguments, str) and has_expression(arguments)):
        return arguments
    raise ValueError("must be an object of names and values, or an expression that is one")


class PythonConfig(Config):
    """Config of `action/python`."""

    function: ConstantText = Field(
        min_length=1,
        max_length=100,
        description="the name under which the function was registered with @node",
    )
    arguments: Annotated[
        Any,
        AfterValidator(_object_or_expression),
        WithJsonSchema({"type": ["object", "string"]}),
    ] = Field(
        default_factory=dict,
        description="its keyword arguments by name, with expressions, or one expression that is an object",
    )


class PythonFunction:
    """Calls the function its config names with the arguments given there."""

    def __init__(self, functions: NodeRegistry) -> None:
        self._functions = functions

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        function = self._functions.function(node_data["function"])
        arguments = node_data.get("arguments", {})
        if not isinstance(arguments, dict):
            return failure(
                "WRONG_ARGUMENTS", f"arguments must be an object of names and values, not {shown(arguments)}"
            )
        return function.call(arguments, context)

    def handles(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """The ways out that the function was registered with; one where it is not loaded."""
        try:
            return self._functions.function(config["function"]).handles
        except UnknownNodeType:
            return one_way_out(config)


_executor = PythonFunction(registry)

NODE_TYPE = NodeType(
    "action",
    "python",
    _executor,
    PythonConfig,
    handles=_executor.handles,
    description="Calls a registered Python function.",
)
