"""The trigger node types: where an execution starts, and which data it may start with.

The data is checked by `check_trigger_data` before anything is stored, and becomes the trigger node's output.
JSON Schema lets a schema refer to others by URL; here nothing is ever fetched, since whoever may deploy
a workflow could otherwise make the engine's machines request any address.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import referencing.exceptions
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import best_match
from pydantic import AfterValidator, Field, model_validator
from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY

from workflow_engine.context import ExecutionContext
from workflow_engine.errors import Problem
from workflow_engine.node_types import Config, NodeExecutionResult, NodeType, success
from workflow_engine.problem_paths import at

DIALECT = "https://json-schema.org/draft/2020-12/schema"

VERBATIM = frozenset({"schema", "description"})
"""A schema describes data, and in a pattern or an example `{{` is text like any other."""


# -- schemas -------------------------------------------------------------------------------------------


def check_schema(schema: Any) -> list[Problem]:
    """What is wrong with a JSON Schema (2020-12), with paths inside the schema; empty if nothing is.

    References other than to the schema itself (`#/$defs/…`, `#anchor`) are problems.
    """
    meta = Draft202012Validator(
        Draft202012Validator.META_SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER
    )
    if invalid := [_problem(error, "") for error in meta.iter_errors(schema)]:
        return sorted(invalid, key=lambda problem: problem.path)  # the order of keywords is not fixed
    return list(_unusable(schema))


def _unusable(schema: Any) -> Iterator[Problem]:
    resolver = EMPTY_REGISTRY.with_resource("", DRAFT202012.create_resource(schema)).resolver()
    for path, key, value in _keywords(schema):
        if key in ("$ref", "$dynamicRef"):
            if not value.startswith("#"):
                yield Problem(
                    path, f"{value!r} lies outside the schema and is not fetched; copy it into $defs"
                )
                continue
            try:
                resolver.lookup(value)
            except referencing.exceptions.Unresolvable:
                yield Problem(path, f"{value!r} leads nowhere in this schema")
        elif key == "$schema" and value.rstrip("#") != DIALECT:
            yield Problem(
                path, f"only JSON Schema 2020-12 is supported; leave $schema out or make it {DIALECT!r}"
            )
        elif key == "$id" and path != at("", "$id"):
            yield Problem(
                path, "schemas with an $id of their own inside a schema are not supported; use $defs"
            )


def _keywords(schema: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Every key whose value is text, with its path.

    A `$ref` in an example is found as well: to refuse it does less harm than to overlook a reference.
    """
    if isinstance(schema, dict):
        for key, value in schema.items():
            if isinstance(value, str):
                yield at(path, key), key, value
            yield from _keywords(value, at(path, key))
    elif isinstance(schema, list):
        for index, value in enumerate(schema):
            yield from _keywords(value, at(path, index))


def check_trigger_data(config: Mapping[str, Any], data: Any) -> list[Problem]:
    """What the trigger's schema has against this data: every problem at once, each with its path in `data`.

    `config` is the trigger node's, as it was deployed. Empty if the trigger has no schema. `format` is an
    annotation, as the standard has it: it is not checked.
    """
    if (schema := config.get("schema")) is None:
        return []
    validator = Draft202012Validator(schema, registry=EMPTY_REGISTRY)
    try:
        return [_problem(_innermost(error), "data") for error in validator.iter_errors(data)]
    except RecursionError:
        return [Problem("data", "the trigger's schema refers to itself without end; correct its $ref")]


def _innermost(error: ValidationError) -> ValidationError:
    """Of an `anyOf` or `oneOf` that nothing fits, the part that says most about what to change."""
    return best_match([error]) or error


def _problem(error: ValidationError, path: str) -> Problem:
    message = (
        error.message if len(error.message) <= 300 else f"{error.message[:150]} … {error.message[-150:]}"
    )
    return Problem(at(path, *error.absolute_path), message)


# -- configs -------------------------------------------------------------------------------------------


def _is_schema(schema: dict[str, Any] | bool) -> dict[str, Any] | bool:
    if problems := check_schema(schema):
        raise ValueError("; ".join(map(str, problems)))
    return schema


class TriggerConfig(Config):
    """Config of a trigger."""

    data_schema: Annotated[dict[str, Any], AfterValidator(_is_schema)] | None = Field(
        None, alias="schema", description="JSON Schema (2020-12) that the data of a start must fit"
    )
    description: str | None = Field(None, description="what starts this workflow, for readers")


class LaterTriggerConfig(TriggerConfig):
    """Config of a trigger that, in this release, is started by hand or through the client only."""

    @model_validator(mode="before")
    @classmethod
    def _only_what_there_is(cls, config: Any) -> Any:
        if isinstance(config, dict) and (later := [key for key in config if key not in VERBATIM]):
            raise ValueError(f"not in this release: {', '.join(later)}; `schema` and `description` are")
        return config


class Trigger:
    """Answers with the data the execution was started with."""

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        return success(context.trigger_data)


def _trigger(sub_type: str, config_model: type[TriggerConfig], description: str) -> NodeType:
    return NodeType("trigger", sub_type, Trigger(), config_model, verbatim=VERBATIM, description=description)


NODE_TYPES = (
    _trigger("manual", TriggerConfig, "Started by a person or a program."),
    _trigger("api-call", TriggerConfig, "Started by a request."),
    _trigger("event", LaterTriggerConfig, "Started by an event."),
)
