"""What may be given as data: JSON, what the project's encoder makes of other values, no model instance."""

from __future__ import annotations

from collections.abc import Mapping
from json import JSONEncoder
from typing import Any

from django.db.models import Manager, Model, QuerySet
from django.utils.functional import Promise

from workflow_engine.errors import InvalidValue

PLAIN = (str, int, float, bool, type(None))


def encoded(value: Any, encoder: JSONEncoder, path: str) -> Any:
    """Return a value in which the encoder has replaced everything that JSON does not know.

    Raises `InvalidValue` for what the encoder refuses, and for model instances whatever it makes of them.
    """
    refuse_models(value, path)
    return _encoded(value, encoder, path)


def _encoded(value: Any, encoder: JSONEncoder, path: str) -> Any:
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Mapping):
        return {key: _encoded(item, encoder, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(item, encoder, f"{path}[{index}]") for index, item in enumerate(value)]
    try:
        replaced = encoder.default(value)
    except TypeError as error:
        raise InvalidValue(path, f"the encoder {type(encoder).__name__} refuses it: {error}") from error
    return _encoded(replaced, encoder, path)


def refuse_models(value: Any, path: str) -> None:
    """Raise `InvalidValue` for a model instance or query inside a value, with the advice to give keys."""
    if isinstance(value, Model):
        label = value._meta.label
        raise InvalidValue(
            path,
            f"a model instance ({label}) is not JSON, and would be outdated when a node reads it; give its "
            f"key, `{value._meta.model_name}.pk`, and query for it in the node",
        )
    if isinstance(value, QuerySet | Manager):
        raise InvalidValue(
            path,
            f"a query ({value.model._meta.label}) is not JSON; give keys, "
            "`list(query.values_list('pk', flat=True))`",
        )
    if isinstance(value, Promise):
        raise InvalidValue(path, "a lazy translation is not JSON; give its text, `str(value)`")
    if isinstance(value, Mapping):
        for key, item in value.items():
            refuse_models(item, f"{path}.{key}")
    elif isinstance(value, list | tuple | set | frozenset):
        for index, item in enumerate(value):
            refuse_models(item, f"{path}[{index}]")
