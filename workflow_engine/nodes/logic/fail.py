"""`logic/fail`: an end that fails on purpose, with an error that its author writes."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from workflow_engine.definition.problems import short_repr
from workflow_engine.execution.bounded_texts import LONGEST_LABEL
from workflow_engine.execution.context import ExecutionContext
from workflow_engine.json_values import encode
from workflow_engine.nodes.config_fields import ObjectOrExpression
from workflow_engine.nodes.contract import Config, NodeType, always_pure, no_way_out
from workflow_engine.nodes.results import NodeExecutionResult, failure


class FailConfig(Config):
    """Config of `logic/fail`."""

    type: str = Field(
        min_length=1,
        description=f"what kind of failure it is, such as OUT_OF_STOCK; {LONGEST_LABEL} characters at most",
    )
    message: str = Field(min_length=1, description="what has happened and what to do, for people")
    details: ObjectOrExpression | None = Field(
        None, description="an object for those who handle the failure, or an expression that is one"
    )


class Fail:
    """Returns the failure that its config describes."""

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        kind, message, details = node_data["type"], node_data["message"], node_data.get("details")
        # As inside text, where other values than strings stand as JSON.
        text = message if isinstance(message, str) else encode(message).decode()
        if not isinstance(kind, str) or not 0 < len(kind) <= LONGEST_LABEL:
            problem = f"type: must be text of 1 to {LONGEST_LABEL} characters, not {short_repr(kind)}"
        elif details is not None and not isinstance(details, dict):
            problem = f"details: must be an object, not {short_repr(details)}"
        else:
            return failure(kind, text, details)
        return failure("INVALID_FAILURE", f"{problem}; the message is: {text}")


NODE_TYPE = NodeType(
    "logic",
    "fail",
    Fail(),
    FailConfig,
    handles=no_way_out,
    is_pure=always_pure,
    description="Fails on purpose; an end.",
)
