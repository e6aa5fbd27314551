"""`logic/merge`: joins branches. When a merge is due is decided by the walk; here is only what it answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from workflow_engine.context import ExecutionContext
from workflow_engine.node_types import Config, NodeExecutionResult, NodeType, success


class MergeConfig(Config):
    """Config of `logic/merge`."""

    join: Literal["all", "any"] = Field(
        "all",
        description="`all` waits for every branch that can still arrive, `any` goes on with the first "
        "and has its output",
    )
    strategy: Literal["all", "first", "last"] = Field(
        "all",
        description="the output with `join: all`: the outputs of `all` branches by the id of their last "
        "node, or that of the `first` or `last` branch to arrive",
    )


class Merge:
    """Answers with the outputs of the sources that led here; a branch that was not taken is left out.

    A source that failed and came by its `error` edge has `{"error": …}` as its output, as everywhere.
    """

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        arrivals = context.arrivals
        assert arrivals, f"merge {node_id!r} was run although nothing has arrived"
        match node_data:
            case {"join": "any"} | {"strategy": "first"}:
                return success(context.node_outputs[arrivals[0]])
            case {"strategy": "last"}:
                return success(context.node_outputs[arrivals[-1]])
            case _:
                return success({source: context.node_outputs[source] for source in arrivals})


NODE_TYPE = NodeType("logic", "merge", Merge(), MergeConfig, description="Joins branches.")
