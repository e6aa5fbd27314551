"""The trigger node types: where an execution starts, and which data it may start with.

The data is checked by `check_trigger_data` before anything is stored, and becomes the trigger node's output.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from workflow_engine.errors import Problem
from workflow_engine.execution.context import ExecutionContext
from workflow_engine.nodes.contract import Config, NodeType
from workflow_engine.nodes.results import NodeExecutionResult, success

VERBATIM = frozenset({"schema", "description"})
"""A schema describes data, and in a pattern or an example `{{` is text like any other."""


def check_trigger_data(config: Mapping[str, Any], data: Any) -> list[Problem]:
    """Return the problems that the trigger's schema finds in this data, each with its path in `data`.

    `config` is the trigger node's, as it was deployed. Empty if the trigger has no schema.
    """
    if (schema := config.get("schema")) is None:
        return []
    from workflow_engine.nodes.trigger.json_schemas import check_data  # see `_is_schema`

    return check_data(schema, data, "data")


# -- configs -------------------------------------------------------------------------------------------


def _is_schema(schema: dict[str, Any] | bool) -> dict[str, Any] | bool:
    # With `jsonschema`, which weighs 3 MB, and which the workers of most teams never need.
    from workflow_engine.nodes.trigger.json_schemas import check_schema

    if problems := check_schema(schema):
        raise ValueError("; ".join(map(str, problems)))
    return schema


class TriggerConfig(Config):
    """Config of a trigger."""

    data_schema: Annotated[dict[str, Any], AfterValidator(_is_schema)] | None = Field(
        None, alias="schema", description="JSON Schema (2020-12) that the data of a start must match"
    )
    description: str | None = Field(None, description="what starts this workflow, for readers")


class LaterTriggerConfig(TriggerConfig):
    """Config of a trigger that, in this release, only people or the client can start."""

    @model_validator(mode="before")
    @classmethod
    def _only_what_there_is(cls, config: Any) -> Any:
        if isinstance(config, dict) and (later := [key for key in config if key not in VERBATIM]):
            raise ValueError(f"not in this release: {', '.join(later)}; `schema` and `description` are")
        return config


class Trigger:
    """Returns the data that the execution was started with."""

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        return success(context.trigger_data)


def _trigger(sub_type: str, config_model: type[TriggerConfig], description: str) -> NodeType:
    return NodeType("trigger", sub_type, Trigger(), config_model, verbatim=VERBATIM, description=description)


NODE_TYPES = (
    _trigger("manual", TriggerConfig, "Started by a person or a program."),
    _trigger("api-call", TriggerConfig, "Started by a request."),
    _trigger("event", LaterTriggerConfig, "Started by an event."),
)
