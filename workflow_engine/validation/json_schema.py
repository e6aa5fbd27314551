"""The JSON Schema of definitions, for editors that check and complete as an author types.

It describes each part by itself; only `validation` decides whether a definition makes sense as a whole.
`workflow-engine schema` prints the file `workflow.schema.json` beside this module.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from workflow_engine.definition.problems import check_model
from workflow_engine.definition.workflow import Workflow
from workflow_engine.json_values import LARGEST_INTEGER
from workflow_engine.nodes.contract import NodeType
from workflow_engine.nodes.registry import NodeRegistry, RegisteredFunction
from workflow_engine.validation.unsupported import NOT_IN_THIS_RELEASE

DIALECT = "https://json-schema.org/draft/2020-12/schema"

JsonSchema = dict[str, Any]


def workflow_json_schema(registry: NodeRegistry) -> JsonSchema:
    """Return the schema (draft 2020-12) of a definition that uses the node types of this registry.

    Functions that were registered with `@node` are left out: any other subType of `action` is allowed.
    """
    node_types = [
        node_type
        for node_type in map(registry.get, registry.kinds)
        if not isinstance(node_type.executor, RegisteredFunction)
    ]
    models: list[type[BaseModel]] = [Workflow, *dict.fromkeys(each.config_model for each in node_types)]
    references, shared = models_json_schema([(model, "validation") for model in models], by_alias=True)
    parts = _tidy(shared["$defs"])
    _remove_unsupported(parts)
    parts["Node"]["allOf"] = [
        *_sub_types(node_types),
        *(_config_rule(each, references[each.config_model, "validation"]) for each in node_types),
    ]
    workflow = parts.pop("Workflow")
    workflow["required"] = ["id", "nodes"]
    workflow["properties"]["nodes"]["contains"] = _where(type="trigger")
    workflow["properties"]["variables"]["propertyNames"] = {"pattern": "^(?!_)"}
    return _without_unused_parts({"$schema": DIALECT, "title": "Workflow", **workflow, "$defs": parts})


def schema_text(registry: NodeRegistry) -> str:
    """Return the schema as the text of a file."""
    return json.dumps(workflow_json_schema(registry), indent=2, ensure_ascii=False) + "\n"


# -- node types ------------------------------------------------------------------------------------------


def _sub_types(node_types: Sequence[NodeType]) -> Iterator[JsonSchema]:
    """Yield a rule for the subTypes of each type; those of `action` are only suggestions."""
    for family in dict.fromkeys(node_type.type for node_type in node_types):
        known: JsonSchema = {"enum": [each.sub_type for each in node_types if each.type == family]}
        allowed = {"anyOf": [known, {"type": "string"}]} if family == "action" else known
        yield {"if": _where(type=family), "then": {"properties": {"subType": allowed}}}


def _config_rule(node_type: NodeType, config: JsonSchema) -> JsonSchema:
    then: JsonSchema = {"properties": {"config": config}}
    if check_model(node_type.config_model, {})[0] is None:
        then["required"] = ["config"]
    return {
        "if": _where(type=node_type.type, subType=node_type.sub_type),
        "then": {"description": node_type.description, **then},
    }


def _where(**constants: str) -> JsonSchema:
    """Return the schema of objects that have these values."""
    properties = {key: {"const": value} for key, value in constants.items()}
    return {"type": "object", "properties": properties, "required": list(constants)}


# -- parts of pydantic's schema that are left out ----------------------------------------------------------


def _remove_unsupported(parts: JsonSchema) -> None:
    for part, model in (("node", "Node"), ("settings", "WorkflowSettings")):
        properties = parts[model]["properties"]
        for key, accepted in NOT_IN_THIS_RELEASE[part].items():
            if accepted:
                described = {name: properties[key][name] for name in ("description", "default")}
                properties[key] = {"enum": list(accepted), **described}
            else:
                del properties[key]


def _tidy(parts: JsonSchema) -> JsonSchema:
    """Drop titles that only repeat a name, defaults that are null and bounds of the storage."""
    noise = ("title", str), ("default", type(None))
    tidied: JsonSchema = {}
    for key, value in parts.items():
        if any(key == name and isinstance(value, type_) for name, type_ in noise) or value == LARGEST_INTEGER:
            continue
        if isinstance(value, dict):
            tidied[key] = _tidy(value)
        elif isinstance(value, list):
            tidied[key] = [_tidy(item) if isinstance(item, dict) else item for item in value]
        else:
            tidied[key] = value
    return tidied


def _without_unused_parts(schema: JsonSchema) -> JsonSchema:
    text = json.dumps(schema)
    used = {name: part for name, part in schema["$defs"].items() if f'"#/$defs/{name}"' in text}
    return {**schema, "$defs": used}
