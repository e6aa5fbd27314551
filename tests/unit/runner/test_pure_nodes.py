"""A node is pure only if nothing that it uses could come out otherwise the next time."""

from __future__ import annotations

from typing import Any

import pytest

from workflow_engine import ExecutionContext, Workflow, WorkflowBuilder, node
from workflow_engine.expressions.filters import FILTERS, FUNCTIONS, METHODS, UNREPEATABLE
from workflow_engine.nodes.registry import registry
from workflow_engine.runner.compiled import CompiledNode, CompiledWorkflow


@node("test.adds", pure=True)
def adds(number: int) -> int:
    return number + 1


@node("test.looks_around", pure=True)
def looks_around(context: ExecutionContext) -> int:
    return len(context.variables)


@node("test.sends")
def sends(number: int = 0) -> None: ...


def compiled(workflow: Workflow, node_id: str = "node") -> CompiledNode:
    return CompiledWorkflow.of(workflow, 1, registry).node(node_id)


def of_expression(expression: Any, **options: Any) -> CompiledNode:
    flow = WorkflowBuilder("one", variables={"rate": 2})
    flow.trigger("start") >> flow.function("before", 1) >> flow.function("node", expression, **options)
    return compiled(flow.build())


@pytest.mark.parametrize(
    "expression",
    [
        "{{ before + 1 }}",
        "{{ rate }}",
        {"list": ["{{ _trigger.id | upper }}"]},
        7,
        "{{ _metadata.startedAt }}",
    ],
    ids=str,
)
def test_an_expression_of_what_the_execution_has_is_pure(expression: Any) -> None:
    assert of_expression(expression).is_pure


@pytest.mark.parametrize(
    "expression",
    [
        "{{ now() }}",
        "{{ today() }}",
        "at {{ uuid() }}",
        {"deep": [{"in": "{{ [before, now()] | first }}"}]},
        "{{ before | string | regex_replace('1', '2') }}",
        "{{ _secrets.TOKEN }}",
    ],
    ids=str,
)
def test_an_expression_that_may_come_out_otherwise_is_not(expression: Any) -> None:
    assert not of_expression(expression).is_pure


@pytest.mark.parametrize(
    "options",
    [
        {"output": "{{ [_response, now()] }}"},
        {"on_crash": "fail"},
        {"limits": [{"key": "x", "concurrency": 1}]},
    ],
    ids=str,
)
def test_neither_is_a_node_with_an_option_that_makes_a_difference(options: dict[str, Any]) -> None:
    assert not of_expression("{{ before }}", **options).is_pure


def test_each_operation_of_expressions_was_looked_at() -> None:
    """Fails for a new function, until its author has decided: does it belong to `UNREPEATABLE`?"""
    assert {name for name, each in FUNCTIONS.items() if each not in UNREPEATABLE} == {"range"}
    assert {name for name, each in (FILTERS | METHODS).items() if each in UNREPEATABLE} == {"regex_replace"}


@pytest.mark.parametrize(
    ("function", "is_pure"), [("test.adds", True), ("test.looks_around", True), ("test.sends", False)]
)
def test_a_function_is_pure_if_its_author_says_so(function: str, is_pure: bool) -> None:
    flow = WorkflowBuilder("one")
    arguments = {"number": "{{ start.n }}"} if function != "test.looks_around" else None
    flow.trigger("start") >> flow.python("node", function, arguments=arguments)

    assert compiled(flow.build()).is_pure is is_pure


@pytest.mark.parametrize("sub_type", registry.kinds)
def test_no_node_that_waits_or_acts_is_pure(sub_type: str) -> None:
    pure = {"logic/condition", "logic/switch", "logic/merge", "logic/set", "logic/fail", "action/function"}
    is_built_in = sub_type.startswith(("logic/", "action/")) and "." not in sub_type
    if is_built_in and sub_type != "action/python":
        assert registry.get(sub_type).is_pure({}) is (sub_type in pure)


@pytest.mark.parametrize(
    ("expression", "reads_the_past"),
    [
        ("{{ before + 1 }}", True),
        ("{{ _trigger.id }}", True),
        ("{{ rate }}", False),
        ("{{ _vars.rate }}", False),
        ("{{ beside | default(0) }}", False),
        ("{{ _nodeOutputs[before] | default(0) }}", False),
        ("{{ _metadata.executionPath }}", False),
    ],
)
def test_a_node_reads_the_past_if_no_other_branch_can_change_what_it_reads(
    expression: str, reads_the_past: bool
) -> None:
    flow = WorkflowBuilder("two", variables={"rate": 2})
    start = flow.trigger("start")
    start >> flow.function("before", 1) >> flow.function("node", expression)
    start >> flow.function("beside", 1)

    assert compiled(flow.build()).reads_the_past is reads_the_past


def test_merges_that_depend_on_the_order_of_arrival_do_not() -> None:
    for config, reads_the_past in (({}, True), ({"strategy": "first"}, False), ({"join": "any"}, False)):
        flow = WorkflowBuilder("two")
        merge = flow.merge("node", **config)
        start = flow.trigger("start")
        start >> flow.function("one", 1) >> merge
        start >> flow.function("two", 2) >> merge
        assert compiled(flow.build()).reads_the_past is reads_the_past


def test_functions_that_take_the_context_do_not() -> None:
    for function, arguments in (("test.adds", {"number": 1}), ("test.looks_around", None)):
        flow = WorkflowBuilder("one")
        flow.trigger("start") >> flow.python("node", function, arguments=arguments)
        assert compiled(flow.build()).reads_the_past is (function == "test.adds")


@pytest.mark.parametrize("settings", [{"hops": "inline"}, {"pure": "inline"}], ids=str)
def test_only_one_node_at_a_time_is_run_inline(settings: dict[str, Any]) -> None:
    flow = WorkflowBuilder("one", settings=settings)
    flow.trigger("start") >> flow.function("node", 1)
    workflow = CompiledWorkflow.of(flow.build(), 1, registry)

    assert workflow.is_pure_inline
    assert workflow.is_inline is ("hops" in settings)
