"""The form with which a workflow is started, made from the schema of its trigger.

Properties of simple types get a field of their own; any other property, and data without a schema of an
object, is written as JSON. What the fields hold is checked by `start`, as for any other caller.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from workflow_engine.errors import InvalidValue

WHOLE = "data"
"""The name of the field that holds the data as a whole."""

PREFIX = "field:"

INPUTS = {"string": "text", "integer": "number", "number": "number", "boolean": "boolean"}


@dataclass(frozen=True)
class FormField:
    """A field of the form."""

    name: str
    """In the form."""
    label: str
    input: str
    """`text`, `number`, `boolean`, `choice` or `json`."""
    is_required: bool
    choices: tuple[str, ...] = ()
    """The texts of the values to choose from, as JSON."""
    description: str = ""
    value: str = ""
    """What the field holds at first, or held when it was refused."""
    step: str = "any"


def fields_of(schema: Any, given: Mapping[str, str] | None = None) -> list[FormField]:
    """Return the fields for a schema, the required ones first; `given` is what a refused form held."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or not properties or len(properties) > 50:
        value = (given or {}).get(WHOLE, "{}")
        return [FormField(WHOLE, "Data, as JSON", "json", True, value=value)]
    required = schema.get("required")
    names = required if isinstance(required, list) else []
    fields = [_field(name, each, name in names, given) for name, each in properties.items()]
    return sorted(fields, key=lambda field: not field.is_required)


def data_of(schema: Any, given: Mapping[str, str]) -> Any:
    """Return the data that a form holds. Raises `InvalidValue`."""
    fields = fields_of(schema, given)
    if fields[0].name == WHOLE:
        return _json(given.get(WHOLE, ""), "data")
    data: dict[str, Any] = {}
    for field in fields:
        text = given.get(field.name, "")
        if text or (field.input == "text" and field.is_required):
            data[field.label] = READERS[field.input](text, f"data.{field.label}")
    return data


def _field(name: str, schema: Any, is_required: bool, given: Mapping[str, str] | None) -> FormField:
    schema = schema if isinstance(schema, dict) else {}
    kind = schema.get("type")
    choices = schema.get("enum")
    field_name = PREFIX + name
    shape = INPUTS.get(kind, "json") if isinstance(kind, str) else "json"
    if isinstance(choices, list) and 0 < len(choices) <= 100:
        shape = "choice"
    elif kind == "string" and schema.get("maxLength", 0) and schema["maxLength"] > 200:
        shape = "text"
    value = (given or {}).get(field_name)
    if value is None:
        value = _first_text(schema.get("default"), shape) if "default" in schema else ""
    description = schema.get("description")
    return FormField(
        name=field_name,
        label=name,
        input=shape,
        is_required=is_required,
        choices=tuple(json.dumps(each, ensure_ascii=False) for each in choices) if shape == "choice" else (),
        description=description if isinstance(description, str) else "",
        value=value,
        step="1" if kind == "integer" else "any",
    )


def _first_text(value: Any, shape: str) -> str:
    return value if shape == "text" and isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _json(text: str, path: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidValue(path, f"it is no JSON: {error}") from None


def _number(text: str, path: str) -> Any:
    value = _json(text, path)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidValue(path, f"{text!r:.60} is no number")
    return value


READERS: dict[str, Callable[[str, str], Any]] = {
    "text": lambda text, path: text,
    "number": _number,
    "boolean": _json,
    "choice": _json,
    "json": _json,
}
"""How the text of a field becomes a value."""
