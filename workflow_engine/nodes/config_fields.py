"""Fields of a config as they are written, before anything is evaluated.

Whether a field is a constant or an expression decides more than it seems. `field: order.total` without
braces is a text that never changes, and a node that branches on it would always go the same way.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema

from workflow_engine.definition.problems import short_repr
from workflow_engine.definition.workflow import LONGEST_WAIT
from workflow_engine.expressions import check_template, compile_template, template


def has_expression(value: Any) -> bool:
    """Return whether a config value contains `{{ … }}` anywhere."""
    match value:
        case str():
            return "{{" in value
        case dict():
            return any(map(has_expression, value.values()))
        case list():
            return any(map(has_expression, value))
        case _:
            return False


def whole_expression(value: Any) -> str | None:
    """Return the source between the braces of a string that is one expression; None for anything else."""
    return template.whole_expression(value) if isinstance(value, str) else None


def require_expression(value: Any) -> Any:
    """Return the value itself. Raises ValueError if there is no expression in it."""
    if not has_expression(value):
        hint = f"{{{{ {value} }}}}" if isinstance(value, str) else "{{ order.total }}"
        raise ValueError(f"{value!r:.60} never changes; write an expression, as in {hint!r:.60}")
    return value


def readable_later(value: Any) -> Any:
    """Return a value that is evaluated once the node has begun. Raises ValueError if it cannot be."""
    if problems := check_template(value):
        raise ValueError("; ".join(map(str, problems)))
    if "_secrets" in compile_template(value).names:
        raise ValueError("may not read secrets: its value is stored")
    return value


def can_be_boolean(value: str) -> str:
    """Return one whole expression that is evaluated later. Raises ValueError for any other text."""
    require_expression(value)
    readable_later(value)
    if whole_expression(value) is None:
        raise ValueError("can never be true or false; write one expression without anything around it")
    return value


def _constant(value: str) -> str:
    if has_expression(value):
        raise ValueError("may not be an expression: its value has to be known before the workflow runs")
    return value


Evaluated = Annotated[Any, AfterValidator(require_expression)]
"""Any value with at least one expression in it."""

ConstantText = Annotated[str, AfterValidator(_constant)]
"""Text without expressions."""


def _object_or_expression(value: Any) -> Any:
    if isinstance(value, dict) or (isinstance(value, str) and has_expression(value)):
        return value
    raise ValueError("must be an object of names and values, or an expression that is one")


ObjectOrExpression = Annotated[
    Any, AfterValidator(_object_or_expression), WithJsonSchema({"type": ["object", "string"]})
]
"""An object, or one expression that is an object."""


def _number_or_expression(value: Any) -> Any:
    if isinstance(value, str) and whole_expression(value) is not None:
        return value
    if isinstance(value, str) and check_template(value):
        return value  # reported as an expression that does not compile, with every other one
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number or one expression that is a number, not {short_repr(value)}")
    if value < 0:
        raise ValueError(f"must not be negative, as {short_repr(value)} is")
    return value


Amount = Annotated[
    Any, AfterValidator(_number_or_expression), WithJsonSchema({"type": ["number", "string"], "minimum": 0})
]
"""A number that is not negative, or one expression that is a number."""


def seconds_of(value: Any, what: str, seconds_per_unit: float = 1) -> float:
    """Return an evaluated amount of time in seconds. Raises ValueError, in which `what` names it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{what}: must be a number, but is {short_repr(value)}")
    if abs(value) * seconds_per_unit > LONGEST_WAIT:
        raise ValueError(f"{what}: {short_repr(value)} is more than a hundred years")
    return value * seconds_per_unit
