"""`logic/merge`: joins branches. The walk decides when a merge is due; this module builds its output.

Whether enough branches have arrived for its `require` is decided by `engine.preconditions.joins`, which can
say why others have not.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from workflow_engine.definition.problems import short_repr
from workflow_engine.execution.context import ExecutionContext
from workflow_engine.json_values import LARGEST_INTEGER
from workflow_engine.nodes.contract import Config, NodeType
from workflow_engine.nodes.results import NodeExecutionResult, success


def _is_count(value: Any, least: int) -> bool:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return is_whole and least <= value <= LARGEST_INTEGER


def _join(value: Any) -> Any:
    if value in ("all", "any") or _is_count(value, 2):
        return value
    raise ValueError(f"must be 'all', 'any' or a whole number of branches from 2 on, not {short_repr(value)}")


def _require(value: Any) -> Any:
    if value is None or value == "all" or _is_count(value, 1):
        return value
    raise ValueError(f"must be 'all' or a whole number of branches from 1 on, not {short_repr(value)}")


class MergeConfig(Config):
    """Config of `logic/merge`."""

    join: Annotated[
        Any,
        AfterValidator(_join),
        WithJsonSchema({"anyOf": [{"enum": ["all", "any"]}, {"type": "integer", "minimum": 2}]}),
    ] = Field(
        "all",
        description="`all` waits for every branch that can still arrive, `any` goes on with the first "
        "and has its output, a number goes on with as many",
    )
    require: Annotated[
        Any,
        AfterValidator(_require),
        WithJsonSchema({"anyOf": [{"const": "all"}, {"type": "integer", "minimum": 1}]}),
    ] = Field(
        None,
        description="how many branches must have arrived, otherwise than by an `error` edge; fewer and the "
        "merge fails with JOIN_INCOMPLETE",
    )
    strategy: Literal["all", "first", "last"] = Field(
        "all",
        description="the output, unless `join` is `any`: the outputs of `all` branches by the id of their "
        "last node, or that of the `first` or `last` branch to arrive",
    )

    @model_validator(mode="after")
    def _can_be_met(self) -> MergeConfig:
        enough = 1 if self.join == "any" else self.join
        if enough == "all" or self.require is None:
            return self
        if self.require == "all" or self.require > enough:
            raise ValueError(
                f"`join: {self.join}` goes on before {short_repr(self.require)} have arrived, which "
                "`require` asks for; give `join` as many, or leave it out"
            )
        return self


class Merge:
    """Returns the outputs of the sources that led here; a branch that was not taken is left out.

    A source that failed and came by its `error` edge has the output `{"error": …}`, as everywhere. With a
    number as `join`, branches that arrive after as many are left out.
    """

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        arrivals = context.arrivals
        assert arrivals, f"merge {node_id!r} was run although nothing has arrived"
        join = node_data.get("join")
        if isinstance(join, int):
            arrivals = arrivals[:join]
        if join == "any" or node_data.get("strategy") == "first":
            return success(context.node_outputs[arrivals[0]])
        if node_data.get("strategy") == "last":
            return success(context.node_outputs[arrivals[-1]])
        return success({source: context.node_outputs[source] for source in arrivals})


NODE_TYPE = NodeType(
    "logic",
    "merge",
    Merge(),
    MergeConfig,
    # What `require` finds missing is explained from the journal.
    is_pure=lambda config: config.get("require") is None,
    description="Joins branches.",
)
