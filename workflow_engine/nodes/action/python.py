"""`action/python`: calls a Python function that was registered with `@node`.

Processes differ in the functions they have: a producer has loaded none, a worker that is not yet updated
lacks the newest. So the config is checked without looking the function up, and a worker that lacks it raises
`UnknownNodeType`, which is no failure of the node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from workflow_engine.definition.problems import short_repr
from workflow_engine.errors import UnknownNodeType
from workflow_engine.execution.context import ExecutionContext
from workflow_engine.nodes.config_fields import ConstantText, ObjectOrExpression
from workflow_engine.nodes.contract import Config, NodeType, one_way_out
from workflow_engine.nodes.registry import NodeRegistry, registry
from workflow_engine.nodes.results import NodeExecutionResult, failure


class PythonConfig(Config):
    """Config of `action/python`."""

    function: ConstantText = Field(
        min_length=1,
        max_length=100,
        description="the name under which the function was registered with @node",
    )
    arguments: ObjectOrExpression = Field(
        default_factory=dict,
        description="its keyword arguments by name, with expressions, or one expression that is an object",
    )


class PythonFunction:
    """Calls the function that its config names, with the arguments given there."""

    def __init__(self, functions: NodeRegistry) -> None:
        self._functions = functions

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        function = self._functions.function(node_data["function"])
        arguments = node_data.get("arguments", {})
        if not isinstance(arguments, dict):
            return failure(
                "WRONG_ARGUMENTS",
                f"arguments must be an object of names and values, not {short_repr(arguments)}",
            )
        return function.call(arguments, context)

    def handles(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the ways out that the function was registered with; one if it is not loaded."""
        try:
            return self._functions.function(config["function"]).handles
        except UnknownNodeType:
            return one_way_out(config)

    def is_pure(self, config: Mapping[str, Any]) -> bool:
        """Return whether the function was registered as pure. Raises `UnknownNodeType`."""
        return self._functions.function(config["function"]).is_pure


_executor = PythonFunction(registry)

NODE_TYPE = NodeType(
    "action",
    "python",
    _executor,
    PythonConfig,
    handles=_executor.handles,
    is_pure=_executor.is_pure,
    description="Calls a registered Python function.",
)
