"""logic/condition goes one of two ways, and fails for a value that is neither true nor false."""

from __future__ import annotations

from typing import Any

import pytest

from support.node_runs import error_of, problems, run
from workflow_engine.errors import ExpressionError
from workflow_engine.nodes.logic.condition import NODE_TYPE, OPERATORS, Operator
from workflow_engine.nodes.results import success

ORDER = {
    "order": {
        "total": 120,
        "note": "",
        "nothing": None,
        "country": "DE",
        "tags": ["new", 1, True],
        "address": {"city": "Bonn"},
        "no": False,
        "zero": 0,
    }
}


def comparison(field: str, operator: str, *value: Any) -> dict[str, Any]:
    """Make a condition; without `value` if none is given."""
    condition = {"field": f"{{{{ {field} }}}}", "operator": operator}
    return {**condition, "value": value[0]} if value else condition


def answer(condition: dict[str, Any]) -> Any:
    result = run(NODE_TYPE, {"conditions": condition}, ORDER)
    assert result.kind == "success", result.error
    assert result == success(result.output, handle="true" if result.output else "false")
    return result.output


# -- expression --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("expression", "way"), [("order.total > 100", True), ("order.total > 200", False)])
def test_an_expression_chooses_the_handle_and_is_the_output(expression: str, way: bool) -> None:
    result = run(NODE_TYPE, {"expression": f" {{{{ {expression} }}}} "}, ORDER)

    assert result == success(way, handle=str(way).lower())


@pytest.mark.parametrize(
    ("expression", "shown"),
    [("order.total", "120"), ("order.country", "'DE'"), ("order.nothing", "null"), ("order.tags", "a list")],
)
def test_an_expression_that_is_no_boolean_fails_the_node(expression: str, shown: str) -> None:
    error = error_of(run(NODE_TYPE, {"expression": f"{{{{ {expression} }}}}"}, ORDER))

    assert error.type == "NOT_A_BOOLEAN"
    assert error.message == f"expression: must be true or false, but is {shown}"


def test_both_ways_out_are_known_for_every_config() -> None:
    assert NODE_TYPE.handles({}) == ("true", "false")


# -- operators ---------------------------------------------------------------------------------------

ANSWERS = [
    (comparison("order.total", "equals", 120.0), True),
    (comparison("order.total", "equals", "120"), False),
    (comparison("1", "equals", True), False),
    (comparison("order.address", "equals", {"city": "{{ 'Bonn' }}"}), True),
    (comparison("order.total", "notEquals", "120"), True),
    (comparison("order.total", "greaterThan", 119.5), True),
    (comparison("order.total", "greaterThan", 120), False),
    (comparison("order.total", "greaterOrEqual", 120), True),
    (comparison("order.total", "lessThan", 120), False),
    (comparison("order.total", "lessThan", "{{ order.total + 1 }}"), True),
    (comparison("order.total", "lessOrEqual", 120), True),
    (comparison("order.country", "lessThan", "FR"), True),
    (comparison("order.country", "contains", "D"), True),
    (comparison("order.tags", "contains", "new"), True),
    (comparison("order.tags", "contains", 1.0), True),
    (comparison("order.tags", "contains", "1"), False),
    (comparison("[1]", "contains", True), False),
    (comparison("order.address", "contains", "city"), True),
    (comparison("order.address", "contains", "Bonn"), False),
    (comparison("order.tags", "notContains", "old"), True),
    (comparison("order.country", "startsWith", "D"), True),
    (comparison("order.country", "startsWith", "E"), False),
    (comparison("order.country", "endsWith", "E"), True),
    (comparison("order.country", "in", ["FR", "DE"]), True),
    (comparison("order.country", "in", []), False),
    (comparison("order.country", "notIn", ["FR"]), True),
    (comparison("order.country", "in", "DE, FR"), True),
    (comparison("order.nothing", "isEmpty"), True),
    (comparison("order.note", "isEmpty"), True),
    (comparison("[]", "isEmpty"), True),
    (comparison("{}", "isEmpty"), True),
    (comparison("order.zero", "isEmpty"), False),
    (comparison("order.no", "isEmpty"), False),
    (comparison("order.country", "isNotEmpty"), True),
    (comparison("order.note", "isNotEmpty"), False),
    (comparison("order.total", "exists"), True),
    (comparison("order.nothing", "exists"), True),
    (comparison("order.total", "notExists"), False),
]


@pytest.mark.parametrize(("condition", "expected"), ANSWERS, ids=str)
def test_an_operator_does_what_its_name_says(condition: dict[str, Any], expected: bool) -> None:
    assert answer(condition) is expected


def test_every_operator_of_the_format_is_tested_and_has_code() -> None:
    tested = {condition["operator"] for condition, _expected in ANSWERS}

    assert tested == set(OPERATORS) == set(Operator.__args__)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "field", ["order.discount", "order.discount.percent", "missing", "missing.deeper[0]"]
)
@pytest.mark.parametrize(
    ("operator", "expected"),
    [("exists", False), ("notExists", True), ("isEmpty", True), ("isNotEmpty", False)],
)
def test_what_is_not_there_can_be_asked_for(field: str, operator: str, expected: bool) -> None:
    assert answer(comparison(field, operator)) is expected


def test_asking_for_existence_keeps_the_meaning_of_the_whole_expression() -> None:
    assert answer(comparison("missing if order.no else order.total", "exists")) is True
    assert answer(comparison("order.note or missing", "exists")) is False


def test_other_operators_refuse_what_is_not_there_and_name_it() -> None:
    with pytest.raises(ExpressionError, match=r"order\.discount"):
        run(NODE_TYPE, {"conditions": comparison("order.discount", "equals", None)}, ORDER)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (
            comparison("order.country", "greaterThan", 3),
            "conditions: greaterThan compares two numbers or two strings, not 'DE' with 3",
        ),
        (
            comparison("order.no", "lessThan", 3),
            "conditions: lessThan compares two numbers or two strings, not false with 3",
        ),
        (
            comparison("order.total", "lessOrEqual", None),
            "conditions: lessOrEqual compares two numbers or two strings, not 120 with null",
        ),
        (
            comparison("order.tags", "greaterOrEqual", []),
            "conditions: greaterOrEqual compares two numbers or two strings, not a list with a list",
        ),
        (
            comparison("order.total", "startsWith", "1"),
            "conditions: startsWith compares two strings, not 120 with '1'",
        ),
        (
            comparison("order.country", "contains", 1),
            "conditions: contains looks for a string in a string, any value in a list or a key in an object, "
            "not for 1 in 'DE'",
        ),
        (
            comparison("order.country", "notIn", None),
            "conditions: notIn looks for a string in a string, any value in a list or a key in an object, "
            "not for 'DE' in null",
        ),
    ],
    ids=str,
)
def test_values_that_cannot_be_compared_fail_the_node(condition: dict[str, Any], message: str) -> None:
    error = error_of(run(NODE_TYPE, {"conditions": condition}, ORDER))

    assert (error.type, error.message) == ("INCOMPARABLE", message)


# -- groups ------------------------------------------------------------------------------------------

TRUE = comparison("order.total", "equals", 120)
FALSE = comparison("order.total", "equals", 0)
INCOMPARABLE = comparison("order.total", "startsWith", "1")


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ({"all": [TRUE, TRUE]}, True),
        ({"all": [TRUE, FALSE]}, False),
        ({"any": [FALSE, TRUE]}, True),
        ({"any": [FALSE, FALSE]}, False),
        ({"all": [TRUE, {"any": [FALSE, {"all": [TRUE]}]}]}, True),
        ({"any": [FALSE, {"all": [TRUE, {"any": [FALSE]}]}]}, False),
    ],
    ids=str,
)
def test_groups_nest(group: dict[str, Any], expected: bool) -> None:
    assert answer(group) is expected


def test_existence_can_be_asked_for_inside_groups() -> None:
    assert answer({"all": [TRUE, {"any": [comparison("missing", "exists"), comparison("x.y", "isEmpty")]}]})


def test_a_group_stops_at_the_first_condition_that_decides_it() -> None:
    assert answer({"all": [FALSE, INCOMPARABLE]}) is False
    assert answer({"any": [TRUE, INCOMPARABLE]}) is True


def test_a_condition_inside_groups_is_named_by_its_path() -> None:
    group = {"all": [TRUE, {"any": [FALSE, INCOMPARABLE]}]}

    error = error_of(run(NODE_TYPE, {"conditions": group}, ORDER))

    assert error.message.startswith("conditions.all[1].any[1]: startsWith compares two strings")


# -- configs that are refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "path", "message"),
    [
        ({}, "", "give either `expression` or `conditions`"),
        ({"expression": "{{ a }}", "conditions": TRUE}, "", "give either `expression` or `conditions`"),
        (
            {"expression": "order.total > 1"},
            "expression",
            "write an expression, as in '{{ order.total > 1 }}'",
        ),
        ({"expression": "is {{ a }}"}, "expression", "can never be true or false; write one expression"),
        ({"expression": ["{{ a }}"]}, "expression", "can never be true or false; write one expression"),
        ({"conditions": None}, "", "give either `expression` or `conditions`"),
        ({"expression": "{{ a }}", "conditions": None}, "", "give either `expression` or `conditions`"),
        ({"conditions": {"all": None}}, "conditions.all", "must be a list, not null"),
        ({"conditions": {"field": "{{ a }}", "operator": None}}, "conditions", "`operator` is missing"),
        ({"conditions": {}}, "conditions", "give either `field` and `operator`, or `all`, or `any`"),
        (
            {"conditions": {"all": [TRUE], "any": [TRUE]}},
            "conditions",
            "give either `field` and `operator`, or `all`, or `any`; nest groups for more",
        ),
        ({"conditions": {**TRUE, "all": [TRUE]}}, "conditions", "give either `field` and `operator`, or"),
        ({"conditions": {"all": []}}, "conditions.all", "must not be empty"),
        ({"conditions": {"any": [{"operator": "exists"}]}}, "conditions.any[0]", "`field` is missing"),
        ({"conditions": {"field": "{{ a }}", "value": 1}}, "conditions", "`operator` is missing"),
        ({"conditions": comparison("a", "equals")}, "conditions", "equals needs a `value`"),
        ({"conditions": comparison("a", "exists", 1)}, "conditions", "exists takes no `value`"),
        ({"conditions": comparison("a", "equal", 1)}, "conditions.operator", "did you mean 'equals'?"),
        (
            {"conditions": {"field": "order.total", "operator": "equals", "value": 1}},
            "conditions.field",
            "'order.total' never changes; write an expression, as in '{{ order.total }}'",
        ),
        (
            {"conditions": {"field": "no. {{ a }}", "operator": "exists"}},
            "conditions",
            "exists looks at one expression: `field` has no text around it",
        ),
        (
            {"conditions": {"field": "{{ a }}{{ b }}", "operator": "isEmpty"}},
            "conditions",
            "isEmpty looks at one expression",
        ),
    ],
    ids=str,
)
def test_a_config_is_refused_with_what_to_do(config: dict[str, Any], path: str, message: str) -> None:
    (problem,) = problems(NODE_TYPE, config)

    assert problem.path == path
    assert message in problem.message


def test_a_bad_expression_is_left_to_the_check_of_expressions() -> None:
    config = {"conditions": comparison("a | nonsense", "exists")}

    assert problems(NODE_TYPE, config) == []
    assert NODE_TYPE.prepare(config) == config


def test_preparing_leaves_the_config_as_it_was() -> None:
    config = {"conditions": {"all": [comparison("a.b", "exists")]}}

    prepared = NODE_TYPE.prepare(config)

    assert prepared == {"conditions": {"all": [{"field": "{{ (a.b) is defined }}", "operator": "exists"}]}}
    assert config == {"conditions": {"all": [comparison("a.b", "exists")]}}


# -- conditions that stand in the config itself ------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "country", "answer"),
    [(120, "DE", True), (120, "FR", False), (80, "DE", False), (120, None, True)],
)
def test_conditions_may_stand_in_the_config_itself(total: int, country: str | None, answer: bool) -> None:
    config = {
        "all": [
            {"field": "{{ order.total }}", "operator": "greaterThan", "value": 100},
            {
                "any": [
                    {"field": "{{ order.country }}", "operator": "in", "value": ["DE", "AT"]},
                    {"field": "{{ order.country }}", "operator": "equals", "value": None},
                    {"field": "{{ order.coupon }}", "operator": "exists"},
                ]
            },
        ]
    }

    result = run(NODE_TYPE, config, {"order": {"total": total, "country": country}})

    assert result == success(answer, handle="true" if answer else "false")


def test_one_comparison_may_be_the_config() -> None:
    config = {"field": "{{ order.coupon }}", "operator": "notExists"}

    assert run(NODE_TYPE, config, {"order": {}}) == success(True, handle="true")


def test_values_that_cannot_be_compared_are_reported_with_their_path_in_the_config() -> None:
    comparison = {"field": "{{ order.total }}", "operator": "greaterThan", "value": 100}

    for config, where in (({"any": [comparison]}, "any[0]: "), (comparison, "")):
        result = run(NODE_TYPE, config, {"order": {"total": "many"}})
        assert result.error is not None
        assert result.error.message.startswith(f"{where}greaterThan compares two numbers or two strings")


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"all": [], "expression": "{{ a }}"},
        {"conditions": {"field": "{{ a }}", "operator": "exists"}, "field": "{{ a }}", "operator": "exists"},
        {
            "all": [{"field": "{{ a }}", "operator": "exists"}],
            "any": [{"field": "{{ a }}", "operator": "exists"}],
        },
    ],
)
def test_two_questions_or_none_are_refused(config: dict[str, Any]) -> None:
    assert problems(NODE_TYPE, config)
