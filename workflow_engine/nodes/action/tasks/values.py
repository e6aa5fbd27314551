"""Values that JSON does not know, in the form that kombu gives them: datetimes, UUIDs, Decimals, bytes."""

from __future__ import annotations

from typing import Any

import orjson
from kombu.utils import json as kombu_json

from workflow_engine.errors import InvalidValue


def with_kombus_types(value: Any, path: str = "output") -> Any:
    """Return a value as JSON in which kombu has marked what JSON does not know.

    Raises `InvalidValue` for what kombu does not know, either.
    """
    try:
        return orjson.loads(kombu_json.dumps(value))
    except (TypeError, ValueError) as error:  # json.JSONDecodeError and orjson's are ValueErrors
        raise InvalidValue(path, f"kombu cannot write it as JSON: {error}") from None


def from_kombus_types(value: Any) -> Any:
    """Return a JSON value with what kombu has marked in it as it was before."""
    return kombu_json.loads(orjson.dumps(value).decode())
