"""`logic/condition`: an expression, or conditions under `all` and `any`, decides between two ways out.

All expressions of a node are evaluated before it runs, and an undefined path is an error there. To make
`exists` possible, `prepare` rewrites such fields beforehand. `{{ E }}` becomes `{{ (E) is defined }}`, or
for `isEmpty`, where undefined counts as empty, `{{ (E) | default(none) }}`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from workflow_engine.definition.problems import short_repr
from workflow_engine.execution.context import ExecutionContext
from workflow_engine.expressions import check_template
from workflow_engine.json_values import equal
from workflow_engine.nodes.config_fields import Evaluated, require_expression, whole_expression
from workflow_engine.nodes.contract import Config, NodeType, always_pure
from workflow_engine.nodes.results import NodeExecutionResult, failure, success
from workflow_engine.paths import at

Operator = Literal[
    "equals",
    "notEquals",
    "greaterThan",
    "greaterOrEqual",
    "lessThan",
    "lessOrEqual",
    "contains",
    "notContains",
    "startsWith",
    "endsWith",
    "in",
    "notIn",
    "isEmpty",
    "isNotEmpty",
    "exists",
    "notExists",
]

WITHOUT_VALUE = frozenset({"isEmpty", "isNotEmpty", "exists", "notExists"})
ALLOWS_UNDEFINED = {
    "exists": "{{{{ ({}) is defined }}}}",
    "notExists": "{{{{ ({}) is defined }}}}",
    "isEmpty": "{{{{ ({}) | default(none) }}}}",
    "isNotEmpty": "{{{{ ({}) | default(none) }}}}",
}


# -- the config as it is written -----------------------------------------------------------------------


class Condition(Config):
    """One comparison (`field`, `operator`, `value`), or several under `all` or `any`."""

    field: Evaluated = Field(None, description="value to test, an expression such as {{ order.total }}")
    operator: Operator | None = Field(None, description="how `field` is compared")
    value: Any = Field(None, description="what `field` is compared with, with expressions")
    all: list[Condition] = Field(
        default_factory=list, min_length=1, description="true if each of these is true"
    )
    any: list[Condition] = Field(
        default_factory=list, min_length=1, description="true if one of these is true"
    )

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        self._check_form()
        return self

    def _check_form(self) -> None:
        given = self.model_fields_set
        match len(given & {"all", "any"}), bool(given & {"field", "operator", "value"}):
            case (1, False):
                return
            case (0, True):
                self._is_a_comparison()
            case _:
                raise ValueError(
                    "give either `field` and `operator`, or `all`, or `any`; nest groups for more"
                )

    def _is_a_comparison(self) -> None:
        given = self.model_fields_set
        if missing := [name for name in ("field", "operator") if getattr(self, name) is None]:
            raise ValueError(f"`{missing[0]}` is missing")
        if self.operator in WITHOUT_VALUE and "value" in given:
            raise ValueError(f"{self.operator} takes no `value`")
        if self.operator not in WITHOUT_VALUE and "value" not in given:
            raise ValueError(f"{self.operator} needs a `value`")
        if self.operator in ALLOWS_UNDEFINED and not _is_one_expression(self.field):
            raise ValueError(
                f"{self.operator} looks at one expression: `field` has no text around it, as in "
                "'{{ order.total }}'"
            )


def _is_one_expression(field: Any) -> bool:
    """Return whether the field is one expression, or one that does not compile and is reported as such."""
    return whole_expression(field) is not None or bool(check_template(field))


def _can_be_boolean(expression: Any) -> Any:
    if isinstance(expression, bool):
        return expression
    if not _is_one_expression(require_expression(expression)):
        raise ValueError("can never be true or false; write one expression without anything around it")
    return expression


_BOOLEAN_OR_TEXT = WithJsonSchema({"type": ["boolean", "string"]})


class ConditionConfig(Condition):
    """Config of `logic/condition`: an expression, or conditions, which may be in the config itself."""

    expression: Annotated[Any, AfterValidator(_can_be_boolean), _BOOLEAN_OR_TEXT] = Field(
        None, description="an expression that is true or false"
    )
    conditions: Condition | None = Field(None, description="comparisons, in place of an expression")

    def _check_form(self) -> None:
        given = self.model_fields_set
        if given and given.isdisjoint({"expression", "conditions"}):
            super()._check_form()
        elif (self.expression is None) == (self.conditions is None) or len(given) != 1:
            raise ValueError("give either `expression` or `conditions`")


def prepare(config: dict[str, Any]) -> dict[str, Any]:
    """Rewrite fields that may be undefined, so that evaluating them is no error."""
    if "conditions" in config:
        return {**config, "conditions": _allow_undefined(config["conditions"])}
    return config if "expression" in config else _allow_undefined(config)


def _allow_undefined(condition: Mapping[str, Any]) -> dict[str, Any]:
    if "operator" not in condition:
        return {group: [_allow_undefined(inner) for inner in members] for group, members in condition.items()}
    wrap, source = ALLOWS_UNDEFINED.get(condition["operator"]), whole_expression(condition["field"])
    if wrap is None or source is None:
        return dict(condition)
    return {**condition, "field": wrap.format(source)}


# -- deciding ------------------------------------------------------------------------------------------


class IncomparableError(Exception):
    """Two values were compared that have no order, or do not contain each other."""


def holds(condition: Mapping[str, Any], path: str) -> bool:
    """Return whether a condition whose expressions have been evaluated is true; stop once that is certain.

    Raises `IncomparableError`, with the path of the condition, if its operator has no meaning for the values.
    """
    for group, decide in (("all", all), ("any", any)):
        if group in condition:
            return decide(holds(inner, at(path, group, i)) for i, inner in enumerate(condition[group]))
    try:
        return OPERATORS[condition["operator"]](condition["field"], condition.get("value"))
    except IncomparableError as error:
        where = f"{path}: " if path else ""
        raise IncomparableError(f"{where}{condition['operator']} {error}") from None


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compare_in_order(field: Any, value: Any) -> bool:
        kinds = {_kind(field), _kind(value)}
        if kinds not in ({"number"}, {"string"}):
            raise IncomparableError(
                f"compares two numbers or two strings, not {short_repr(field)} with {short_repr(value)}"
            )
        return compare(field, value)

    return compare_in_order


def _contains(container: Any, item: Any) -> bool:
    match container, item:
        case str(), str():
            return item in container
        case list(), _:
            return any(equal(element, item) for element in container)
        case dict(), str():
            return item in container
        case _:
            raise IncomparableError(
                "looks for a string in a string, any value in a list or a key in an object, "
                f"not for {short_repr(item)} in {short_repr(container)}"
            )


def _of_strings(compare: Callable[[str, str], bool]) -> Callable[[Any, Any], bool]:
    def compare_strings(field: Any, value: Any) -> bool:
        if not (isinstance(field, str) and isinstance(value, str)):
            raise IncomparableError(f"compares two strings, not {short_repr(field)} with {short_repr(value)}")
        return compare(field, value)

    return compare_strings


def _is_empty(field: Any) -> bool:
    return field is None or (isinstance(field, str | list | dict) and not field)


OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "equals": equal,
    "notEquals": lambda field, value: not equal(field, value),
    "greaterThan": _ordered(lambda field, value: field > value),
    "greaterOrEqual": _ordered(lambda field, value: field >= value),
    "lessThan": _ordered(lambda field, value: field < value),
    "lessOrEqual": _ordered(lambda field, value: field <= value),
    "contains": _contains,
    "notContains": lambda field, value: not _contains(field, value),
    "startsWith": _of_strings(str.startswith),
    "endsWith": _of_strings(str.endswith),
    "in": lambda field, value: _contains(value, field),
    "notIn": lambda field, value: not _contains(value, field),
    "isEmpty": lambda field, _value: _is_empty(field),
    "isNotEmpty": lambda field, _value: not _is_empty(field),
    "exists": lambda is_defined, _value: is_defined is True,
    "notExists": lambda is_defined, _value: is_defined is False,
}


def _kind(value: Any) -> str:
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "list", dict: "object"}
    return names.get(type(value), "null")


# -- the node type -------------------------------------------------------------------------------------


class ConditionNode:
    """Returns the boolean, and leaves by the handle of that name."""

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        if "expression" in node_data:
            verdict = node_data["expression"]
            if not isinstance(verdict, bool):
                return failure(
                    "NOT_A_BOOLEAN", f"expression: must be true or false, but is {short_repr(verdict)}"
                )
        else:
            is_nested = "conditions" in node_data
            try:
                verdict = holds(node_data["conditions"], "conditions") if is_nested else holds(node_data, "")
            except IncomparableError as error:
                return failure("INCOMPARABLE", str(error))
        return success(verdict, handle="true" if verdict else "false")


NODE_TYPE = NodeType(
    "logic",
    "condition",
    ConditionNode(),
    ConditionConfig,
    handles=lambda _config: ("true", "false"),
    prepare=prepare,
    is_pure=always_pure,
    description="Goes one of two ways.",
)
