"""Fields of a config as they are written, before anything is evaluated.

Whether something is a constant or an expression decides more than it seems: `field: order.total` without
braces is a text that never changes, and a node that branches on it would always go the same way.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema

from workflow_engine.errors import ExpressionError
from workflow_engine.expressions import check_template
from workflow_engine.expressions.syntax import compile_source
from workflow_engine.model_problems import shown


def has_expression(value: Any) -> bool:
    """Whether `{{ … }}` stands anywhere in a config value."""
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
    """The source between the braces of a string that is one expression; None for anything else."""
    text = value.strip() if isinstance(value, str) else ""
    if not (text.startswith("{{") and text.endswith("}}")):
        return None
    try:
        return compile_source(text[2:-2]).source  # of `{{ a }} {{ b }}` the inner part does not compile
    except ExpressionError:
        return None


def evaluated(value: Any) -> Any:
    """The value itself. Raises ValueError if there is no expression in it."""
    if not has_expression(value):
        hint = f"{{{{ {value} }}}}" if isinstance(value, str) else "{{ order.total }}"
        raise ValueError(f"{value!r:.60} never changes; write an expression, as in {hint!r:.60}")
    return value


def _constant(value: str) -> str:
    if has_expression(value):
        raise ValueError("may not be an expression: it has to be known before the workflow runs")
    return value


Evaluated = Annotated[Any, AfterValidator(evaluated)]
"""Any value with at least one expression in it."""

ConstantText = Annotated[str, AfterValidator(_constant)]
"""Text without expressions."""


LONGEST_WAIT = 100 * 365 * 86_400
"""Seconds, a hundred years: what is longer is a mistake in the unit."""


def _number_or_expression(value: Any) -> Any:
    if isinstance(value, str) and whole_expression(value) is not None:
        return value
    if isinstance(value, str) and check_template(value):
        return value  # reported as an expression that does not compile, with every other one
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number or one expression that is a number, not {shown(value)}")
    if value < 0:
        raise ValueError(f"must not be negative, as {shown(value)} is")
    return value


Amount = Annotated[
    Any, AfterValidator(_number_or_expression), WithJsonSchema({"type": ["number", "string"], "minimum": 0})
]
"""A number that is not negative, or one expression that is a number."""


def seconds_of(value: Any, what: str, seconds_per_unit: float = 1) -> float:
    """An evaluated amount of time in seconds. Raises ValueError, in which `what` names it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{what}: must be a number, but is {shown(value)}")
    if abs(value) * seconds_per_unit > LONGEST_WAIT:
        raise ValueError(f"{what}: {shown(value)} is more than a hundred years")
    return value * seconds_per_unit
