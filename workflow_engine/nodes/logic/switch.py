"""`logic/switch`: compares a value with several cases and leaves by the handle of the first equal one."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from workflow_engine.definition.problems import short_repr
from workflow_engine.definition.workflow import ERROR
from workflow_engine.execution.context import ExecutionContext
from workflow_engine.json_values import equal
from workflow_engine.nodes.config_fields import ConstantText, Evaluated, has_expression
from workflow_engine.nodes.contract import Config, NodeType, always_pure
from workflow_engine.nodes.results import NodeExecutionResult, success

DEFAULT = "default"
"""The way out if no case is equal; without an edge from it the branch ends."""


def _not_reserved(handle: str) -> str:
    if handle == ERROR:
        raise ValueError(f"{ERROR!r} is the handle of failures; choose another name")
    return handle


class Case(Config):
    """A value, and where to go when `field` is equal to it."""

    value: Any = Field(description="compared with `field` as JSON: 1 equals 1.0, but not '1' and not true")
    handle: Annotated[ConstantText, AfterValidator(_not_reserved)] = Field(
        min_length=1, max_length=100, description="the way out, `sourceHandle` of an edge"
    )


class SwitchConfig(Config):
    """Config of `logic/switch`."""

    field: Evaluated = Field(description="value to compare, an expression such as {{ order.country }}")
    cases: list[Case] = Field(min_length=1, description="tried in this order; the first that is equal wins")

    @model_validator(mode="after")
    def _every_case_can_match(self) -> SwitchConfig:
        constants = [
            (index, case.value) for index, case in enumerate(self.cases) if not has_expression(case.value)
        ]
        for (earlier, value), (later, same) in combinations(constants, 2):
            if equal(value, same):
                raise ValueError(
                    f"cases[{later}] can never match: cases[{earlier}] has the same value {short_repr(value)}"
                )
        return self


class Switch:
    """Returns the value that matched, or that of `field` if none did."""

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        field = node_data["field"]
        for case in node_data["cases"]:
            if equal(field, case["value"]):
                return success(case["value"], handle=case["handle"])
        return success(field, handle=DEFAULT)


def handles(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the handle of each case, once, and `default`."""
    return tuple(dict.fromkeys([*(case["handle"] for case in config["cases"]), DEFAULT]))


NODE_TYPE = NodeType(
    "logic",
    "switch",
    Switch(),
    SwitchConfig,
    handles=handles,
    is_pure=always_pure,
    description="Goes one of several ways, by the value of an expression.",
)
