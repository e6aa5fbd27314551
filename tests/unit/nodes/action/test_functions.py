"""action/function gives a value, action/python what a registered function returns."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from support.node_runs import error_of, problems, run
from workflow_engine.errors import UnknownNodeType
from workflow_engine.execution.context import ExecutionContext
from workflow_engine.nodes.action import function
from workflow_engine.nodes.action.python import NODE_TYPE, PythonFunction
from workflow_engine.nodes.contract import NodeType
from workflow_engine.nodes.registry import NodeRegistry, RegisteredFunction
from workflow_engine.nodes.results import NodeExecutionResult, success

# -- action/function ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "output"),
    [
        ("{{ placed.orderId }}", 42),
        ("order {{ placed.orderId }}", "order 42"),
        ({"later": ["{{ placed.orderId }}", 1]}, {"later": [42, 1]}),
        (None, None),
    ],
    ids=str,
)
def test_the_value_of_the_expression_is_the_output(expression: Any, output: Any) -> None:
    result = run(function.NODE_TYPE, {"expression": expression}, {"placed": {"orderId": 42}})

    assert result == success(output)


def test_a_function_node_needs_its_expression() -> None:
    (problem,) = problems(function.NODE_TYPE, {"expresion": 1, "expression": 1})
    assert (problem.path, problem.message) == ("expresion", "unknown key; did you mean 'expression'?")

    (problem,) = problems(function.NODE_TYPE, {})
    assert (problem.path, problem.message) == ("expression", "is required; add it")


# -- action/python -----------------------------------------------------------------------------------


def charge(order_id: int, context: ExecutionContext, currency: str = "EUR") -> dict[str, Any]:
    return {"receipt": f"{context.current_node_id}-{order_id}", "currency": currency}


def approve(total: int) -> NodeExecutionResult:
    return success(total, handle="yes" if total < 100 else "no")


@pytest.fixture
def python() -> NodeType:
    """Return action/python of a process where these two functions are registered."""
    functions = NodeRegistry()
    functions.add_function(RegisteredFunction("shop.charge", charge))
    functions.add_function(RegisteredFunction("shop.approve", approve, ("yes", "no")))
    executor = PythonFunction(functions)
    return dataclasses.replace(NODE_TYPE, executor=executor, handles=executor.handles)


def test_the_function_is_called_with_its_evaluated_arguments(python: NodeType) -> None:
    config = {"function": "shop.charge", "arguments": {"order_id": "{{ _trigger.orderId }}"}}

    result = run(python, config, {"placed": {"orderId": 42}})

    assert result == success({"receipt": "n-42", "currency": "EUR"})


def test_the_arguments_may_be_one_expression_that_is_an_object(python: NodeType) -> None:
    config = {"function": "shop.approve", "arguments": "{{ _trigger }}"}

    assert run(python, config, {"placed": {"total": 120}}) == success(120, handle="no")


def test_arguments_that_turn_out_to_be_no_object_fail_the_node(python: NodeType) -> None:
    error = error_of(
        run(python, {"function": "shop.approve", "arguments": "{{ _trigger.x }}"}, {"placed": {"x": 1}})
    )

    assert error.type == "WRONG_ARGUMENTS"
    assert error.message == "arguments must be an object of names and values, not 1"


def test_arguments_that_the_function_does_not_have_fail_the_node(python: NodeType) -> None:
    error = error_of(run(python, {"function": "shop.approve", "arguments": {"sum": 1}}))

    assert error.type == "WRONG_ARGUMENTS"
    assert error.message.startswith("shop.approve(total: ")
    assert "missing a required argument: 'total'" in error.message


def test_a_function_that_is_not_loaded_is_no_failure_of_the_node(python: NodeType) -> None:
    with pytest.raises(UnknownNodeType, match=r"no function is registered as 'shop\.refund'"):
        run(python, {"function": "shop.refund"})


def test_the_ways_out_are_those_of_the_function(python: NodeType) -> None:
    assert python.handles({"function": "shop.approve"}) == ("yes", "no")
    assert python.handles({"function": "shop.charge"}) == ("",)
    assert python.handles({"function": "not.loaded.here"}) == ("",)


@pytest.mark.parametrize(
    ("config", "path", "message"),
    [
        ({}, "function", "is required"),
        ({"function": "{{ name }}"}, "function", "may not be an expression"),
        ({"function": "f", "arguments": [1]}, "arguments", "must be an object of names and values"),
        ({"function": "f", "arguments": "order"}, "arguments", "must be an object of names and values"),
        ({"function": "f", "args": {}}, "args", "unknown key"),
    ],
    ids=str,
)
def test_a_config_is_refused_with_what_to_do(config: dict[str, Any], path: str, message: str) -> None:
    (problem,) = problems(NODE_TYPE, config)

    assert problem.path == path
    assert message in problem.message
