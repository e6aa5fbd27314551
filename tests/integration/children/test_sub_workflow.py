"""`logic/sub-workflow`: a parent waits for its child without a worker, and goes on with its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.broker import Workers
from support.parents import body, delay, function, line, sub_workflow
from workflow_engine import ExecutionStatus, WorkflowClient

Sql = Callable[..., Any]


@pytest.fixture
def double(client: WorkflowClient) -> None:
    """Deploy a workflow that doubles a number; it fails for 0."""
    client.deploy(line("double", function("twice", "{{ _trigger.n * 2 if 1 / _trigger.n else 0 }}")))


def journal(client: WorkflowClient, execution: str, node: str) -> list[str]:
    return [row.status.value for row in client.journal(execution) if row.node_id == node]


def test_its_output_is_the_result_of_its_child(
    client: WorkflowClient, workers: Workers, double: None
) -> None:
    call = sub_workflow("call", workflow="double", data={"n": "{{ start.n }}"})
    client.deploy(line("parent", call, function("after", "{{ call + 1 }}")))
    execution = client.start("parent", {"n": 20}).id

    workers.drain()

    ended = client.get(execution)
    assert (ended.status, ended.result) == (ExecutionStatus.COMPLETED, 41)
    assert journal(client, execution, "call") == ["WAITING", "COMPLETED"]


def test_while_it_waits_nothing_of_the_parent_is_queued(client: WorkflowClient, workers: Workers) -> None:
    client.deploy(line("slow", delay("cool", 60)))
    client.deploy(line("parent", sub_workflow("call", workflow="slow")))
    execution = client.start("parent").id

    workers.drain()

    assert client.get(execution).status is ExecutionStatus.WAITING
    assert not workers.broker.queue


def test_a_child_that_fails_fails_the_node_and_says_where(
    client: WorkflowClient, workers: Workers, double: None
) -> None:
    client.deploy(line("parent", sub_workflow("call", workflow="double", data={"n": 0})))
    execution = client.start("parent").id

    workers.drain()

    ended = client.get(execution)
    details = ended.error_details or {}
    assert ended.status is ExecutionStatus.FAILED
    assert (details["nodeId"], details["type"]) == ("call", "CHILD_FAILED")
    (child,) = client.children(execution)
    assert child.id in (ended.error or "")
    assert details["details"]["executionId"] == child.id
    assert details["details"]["nodeId"] == "twice"


def test_the_error_edge_of_the_node_leads_on(client: WorkflowClient, workers: Workers, double: None) -> None:
    call = sub_workflow("call", {"onError": "continue"}, workflow="double", data={"n": 0})
    client.deploy(line("parent", call, function("after", "{{ call.error.type }}")))
    execution = client.start("parent").id

    workers.drain()

    assert client.get(execution).result == "CHILD_FAILED"


def test_each_attempt_has_a_child_of_its_own(client: WorkflowClient, workers: Workers, double: None) -> None:
    again = {"retry": {"maxAttempts": 3, "waitDuration": 0}}
    client.deploy(line("parent", sub_workflow("call", again, workflow="double", data={"n": 0})))
    execution = client.start("parent").id

    workers.drain()

    assert client.get(execution).status is ExecutionStatus.FAILED
    assert len(client.children(execution)) == 3


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"workflow": "missing"}, "is not deployed"),
        ({"workflow": "double", "version": 7}, "has no version 7"),
        ({"workflow": "double", "trigger": "other"}, "has no trigger 'other'"),
        ({"workflow": "strict", "data": {"n": "many"}}, "n:"),
        (
            {"workflow": "double", "variables": {"twice": 1}},
            "may not start with _ nor have the name of a node",
        ),
    ],
)
def test_a_child_that_is_refused_fails_its_node_at_once(
    client: WorkflowClient, workers: Workers, double: None, config: dict[str, Any], why: str
) -> None:
    strict = line("strict", function("one", "{{ 1 }}"))
    schema = {"type": "object", "properties": {"n": {"type": "number"}}}
    client.deploy(
        {**strict, "nodes": [{**strict["nodes"][0], "config": {"schema": schema}}, *strict["nodes"][1:]]}
    )
    client.deploy(line("parent", sub_workflow("call", **config)))
    execution = client.start("parent").id

    workers.drain()

    ended = client.get(execution)
    assert ended.status is ExecutionStatus.FAILED
    assert (ended.error_details or {})["type"] == "CHILDREN_REFUSED"
    assert why in (ended.error or "")
    assert client.children(execution) == []


def test_recursion_ends_at_the_greatest_depth(client: WorkflowClient, workers: Workers, sql: Sql) -> None:
    client.deploy(line("again", sub_workflow("call", workflow="again")))
    root = client.start("again").id

    workers.drain()

    assert client.get(root).status is ExecutionStatus.FAILED
    assert sql("SELECT count(*), max(depth) FROM executions WHERE root_execution_id = %s", root) == [(10, 10)]
    (deepest,) = sql("SELECT error, error_details->>'type' FROM executions WHERE depth = 10")
    assert deepest[1] == "CHILDREN_REFUSED"
    assert "at most 10 are allowed (WORKFLOW_ENGINE_MAX_DEPTH)" in deepest[0]
    assert root in deepest[0]


def test_a_child_without_any_node_ends_at_once(client: WorkflowClient, workers: Workers) -> None:
    client.deploy(line("empty"))
    client.deploy(line("parent", sub_workflow("call", workflow="empty", data=[1, 2])))
    execution = client.start("parent").id

    workers.drain()

    assert client.get(execution).result == [1, 2]


def test_the_version_of_its_child_is_the_current_one_when_it_begins(
    client: WorkflowClient, workers: Workers
) -> None:
    client.deploy(line("child", function("one", "{{ 1 }}")))
    client.deploy(line("parent", sub_workflow("call", workflow="child")))
    execution = client.start("parent").id
    client.deploy(line("child", function("one", "{{ 2 }}")))

    workers.drain()

    assert client.get(execution).result == 2


def test_a_group_sees_the_values_around_it_and_keeps_its_variables(
    client: WorkflowClient, workers: Workers
) -> None:
    inner = body(
        function("sum", "{{ _trigger.n + first + rate + extra }}"),
        function("both", "{{ [sum, first, _nodeOutputs['first']] }}"),
        variables={"extra": 1000},
    )
    client.deploy(
        line(
            "parent",
            function("first", "{{ 10 }}"),
            sub_workflow("group", body=inner),
            function("after", "{{ [group, extra | default('none')] }}"),
            variables={"rate": 100},
        )
    )
    execution = client.start("parent", {"n": 1}).id

    workers.drain()

    assert client.get(execution).result == [[1111, 10, 10], "none"]


def test_a_group_copies_only_the_values_that_it_reads(
    client: WorkflowClient, workers: Workers, sql: Sql
) -> None:
    client.deploy(
        line(
            "parent",
            function("large", "{{ 'x' * 10 }}"),
            function("small", "{{ 1 }}"),
            sub_workflow("group", body=body(function("one", "{{ small }}"))),
            variables={"unused": 1},
        )
    )
    execution = client.start("parent").id

    workers.drain()

    ((data, variables),) = sql(
        "SELECT e.trigger_data, n.variables FROM executions e JOIN node_executions n "
        "ON n.execution_id = e.id AND n.seq = 1 WHERE e.parent_execution_id = %s",
        execution,
    )
    assert data == {"outputs": {"small": 1}}
    assert variables == {}


def test_one_timeout_covers_a_group(
    client: WorkflowClient, workers: Workers, settle: Callable[..., None], sql: Sql
) -> None:
    group = sub_workflow("group", {"timeout": 30}, body=body(delay("a", 20), delay("b", 100)))
    client.deploy(line("parent", group))
    execution = client.start("parent").id

    settle()

    ended = client.get(execution)
    assert (ended.status, (ended.error_details or {})["type"]) == (ExecutionStatus.FAILED, "TIMEOUT")
    (child,) = client.children(execution)
    assert child.status is ExecutionStatus.CANCELLED


def test_groups_inside_groups_read_what_is_around_both(client: WorkflowClient, workers: Workers) -> None:
    inner = body(function("deep", "{{ outer_value + middle + _trigger.n }}"))
    middle = body(function("middle", "{{ 20 }}"), sub_workflow("inner", body=inner))
    client.deploy(line("parent", function("outer_value", "{{ 100 }}"), sub_workflow("outer", body=middle)))
    execution = client.start("parent", {"n": 3}).id

    workers.drain()

    assert client.get(execution).result == 123
