"""logic/switch goes the way of the first case that equals the field, else the default way."""

from __future__ import annotations

from typing import Any

import pytest

from support.node_runs import problems, run
from workflow_engine.nodes.logic.switch import NODE_TYPE
from workflow_engine.nodes.results import success


def switch(field: str, *values: Any) -> dict[str, Any]:
    """Make a switch on an expression; the case of `values[i]` has the handle `case-i`."""
    cases = [{"value": value, "handle": f"case-{i}"} for i, value in enumerate(values)]
    return {"field": f"{{{{ {field} }}}}", "cases": cases}


@pytest.mark.parametrize(
    ("config", "output", "handle"),
    [
        (switch("order.country", "FR", "DE"), "DE", "case-1"),
        (switch("order.total", "1", True, 1), 1, "case-2"),
        (switch("order.address", {"zip": 1.0, "city": "Bonn"}), {"zip": 1.0, "city": "Bonn"}, "case-0"),
        (switch("order.country", "{{ order.home }}", "DE"), "DE", "case-0"),
        (switch("order.nothing", False, 0, "", None), None, "case-3"),
        (switch("order.country", "FR"), "DE", "default"),
        (switch("order.paid", 1), True, "default"),
    ],
    ids=str,
)
def test_the_first_case_that_is_equal_as_json_decides(
    config: dict[str, Any], output: Any, handle: str
) -> None:
    order = {
        "country": "DE",
        "home": "DE",
        "total": 1.0,
        "paid": True,
        "nothing": None,
        "address": {"city": "Bonn", "zip": 1},
    }

    result = run(NODE_TYPE, config, {"order": order})

    assert result == success(output, handle=handle)


def test_the_ways_out_are_the_handles_of_the_cases_once_and_the_default() -> None:
    cases = [{"value": value, "handle": handle} for value, handle in [(1, "few"), (2, "few"), (9, "many")]]

    assert NODE_TYPE.handles({"field": "{{ n }}", "cases": cases}) == ("few", "many", "default")


@pytest.mark.parametrize(
    ("config", "path", "message"),
    [
        ({"field": "{{ a }}", "cases": []}, "cases", "must not be empty"),
        ({"cases": [{"value": 1, "handle": "x"}]}, "field", "is required"),
        (
            {**switch("a", 1), "field": "a"},
            "field",
            "'a' never changes; write an expression, as in '{{ a }}'",
        ),
        ({"field": "{{ a }}", "cases": [{"handle": "x"}]}, "cases[0].value", "is required"),
        ({"field": "{{ a }}", "cases": [{"value": 1, "handle": ""}]}, "cases[0].handle", "must not be empty"),
        (
            {"field": "{{ a }}", "cases": [{"value": 1, "handle": "{{ b }}"}]},
            "cases[0].handle",
            "may not be an expression: its value has to be known before the workflow runs",
        ),
        (
            {"field": "{{ a }}", "cases": [{"value": 1, "handle": "error"}]},
            "cases[0].handle",
            "'error' is the handle of failures; choose another name",
        ),
        (switch("a", 1, "1", 1.0), "", "cases[2] can never match: cases[0] has the same value 1"),
    ],
    ids=str,
)
def test_a_config_is_refused_with_what_to_do(config: dict[str, Any], path: str, message: str) -> None:
    (problem,) = problems(NODE_TYPE, config)

    assert problem.path == path
    assert message in problem.message


def test_cases_with_the_same_expression_are_not_called_unreachable() -> None:
    assert problems(NODE_TYPE, switch("a", "{{ now() }}", "{{ now() }}")) == []
