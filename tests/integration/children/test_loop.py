"""`logic/loop` over items: a child for each, as many at a time as wanted, with results in their order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.broker import Broker, Workers
from support.parents import body, function, line, loop
from workflow_engine import ExecutionStatus, WorkflowClient
from workflow_engine.engine.assembly import Engine

Sql = Callable[..., Any]

SQUARE = body(function("square", "{{ item * item }}"))
PICKY = body(function("inverse", "{{ 12 / item }}"))


def run(client: WorkflowClient, workers: Workers, *nodes: dict[str, Any], data: Any = None) -> str:
    client.deploy(line("parent", *nodes))
    execution = client.start("parent", data or {}).id
    workers.drain()
    return execution


def test_its_output_has_the_order_of_the_items(client: WorkflowClient, workers: Workers) -> None:
    execution = run(
        client,
        workers,
        loop("each", items="{{ start.numbers }}", body=SQUARE, concurrency=3),
        data={"numbers": [3, 1, 2, 5, 4]},
    )

    assert client.get(execution).result == [9, 1, 4, 25, 16]


def test_a_parent_has_two_rows_for_any_number_of_items(client: WorkflowClient, workers: Workers) -> None:
    execution = run(client, workers, loop("each", items=list(range(40)), body=SQUARE, concurrency=8))

    assert [row.node_id for row in client.journal(execution)] == ["start", "each", "each"]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_children_run_than_wanted(
    client: WorkflowClient, workers: Workers, sql: Sql, concurrency: int
) -> None:
    client.deploy(line("parent", loop("each", items=list(range(9)), body=SQUARE, concurrency=concurrency)))
    client.start("parent")
    most = 0

    while workers.broker.queue:
        workers.hop()
        ((running,),) = sql(
            "SELECT count(*) FROM executions WHERE parent_execution_id IS NOT NULL AND completed_at IS NULL"
        )
        most = max(most, running)

    assert most == concurrency


@pytest.mark.parametrize("collect", ["results", "failures", "none"])
def test_no_items_are_done_at_once(client: WorkflowClient, workers: Workers, collect: str) -> None:
    execution = run(client, workers, loop("each", items=[], body=SQUARE, collect=collect))

    expected: Any = {"total": 0, "completed": 0, "failed": 0}
    if collect == "failures":
        expected["failures"] = []
    assert client.get(execution).result == ([] if collect == "results" else expected)
    assert client.children(execution) == []


def test_a_body_knows_the_position_of_its_item(client: WorkflowClient, workers: Workers) -> None:
    inner = body(function("named", "{{ [letter, place, _index] }}"))
    execution = run(
        client,
        workers,
        loop("each", items=["a", "b"], itemVariable="letter", indexVariable="place", body=inner),
    )

    assert client.get(execution).result == [["a", 0, 0], ["b", 1, 1]]


def test_a_workflow_gets_its_item_as_its_data(client: WorkflowClient, workers: Workers) -> None:
    client.deploy(line("triple", function("three", "{{ _trigger * 3 }}")))

    execution = run(client, workers, loop("each", items=[1, 2], workflow="triple"))

    assert client.get(execution).result == [3, 6]


def test_a_batch_gets_its_items_as_a_list_and_gives_a_result_for_each(
    client: WorkflowClient, workers: Workers
) -> None:
    inner = body(function("squares", "{{ item | map('string') | list }}"))
    execution = run(client, workers, loop("each", items=[1, 2, 3, 4, 5], batch=2, body=inner))

    assert client.get(execution).result == ["1", "2", "3", "4", "5"]
    assert len(client.children(execution)) == 3


def test_failures_that_are_tolerated_stand_in_the_place_of_their_items(
    client: WorkflowClient, workers: Workers
) -> None:
    execution = run(client, workers, loop("each", items=[1, 0, 3], body=PICKY, tolerate=1))

    first, failed, last = client.get(execution).result
    assert (first, last) == (12, 4)
    assert failed["error"]["nodeId"] == "inverse"
    assert failed["error"]["executionId"] == client.children(execution)[1].id


@pytest.mark.parametrize(("tolerate", "is_enough"), [(1, False), (2, True), ("39%", False), ("40%", True)])
def test_a_loop_fails_if_more_children_fail_than_tolerated(
    client: WorkflowClient, workers: Workers, tolerate: Any, is_enough: bool
) -> None:
    items = [1, 0, 0, 4, 6]
    execution = run(client, workers, loop("each", items=items, body=PICKY, tolerate=tolerate, concurrency=5))

    ended = client.get(execution)
    assert (ended.status is ExecutionStatus.COMPLETED) == is_enough
    if not is_enough:
        details = (ended.error_details or {})["details"]
        assert (details["total"], details["completed"], details["failed"]) == (5, 3, 2)
        assert [each["index"] for each in details["failures"]] == [1, 2]


def test_after_too_many_failures_no_further_child_starts(client: WorkflowClient, workers: Workers) -> None:
    execution = run(client, workers, loop("each", items=[0, *range(1, 50)], body=PICKY))

    assert client.get(execution).status is ExecutionStatus.FAILED
    assert len(client.children(execution)) == 1


@pytest.mark.parametrize(("collect", "listed"), [("none", False), ("failures", True)])
def test_results_need_not_be_collected(
    client: WorkflowClient, workers: Workers, collect: str, listed: bool
) -> None:
    execution = run(client, workers, loop("each", items=[1, 0], body=PICKY, tolerate=1, collect=collect))

    result = client.get(execution).result
    assert (result["total"], result["completed"], result["failed"]) == (2, 1, 1)
    assert [each["index"] for each in result.get("failures", [])] == ([1] if listed else [])


def test_results_that_are_too_large_fail_the_node_with_a_way_out(
    client: WorkflowClient, workers: Workers
) -> None:
    large = body(function("large", "{{ 'x' * 600000 }}"))
    execution = run(client, workers, loop("each", items=[1, 2, 3, 4, 5], body=large))

    assert "write `collect: none`, and read them by `client.children(…)`" in (
        client.get(execution).error or ""
    )


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"items": "{{ start }}"}, "items: must be a list"),
        ({"items": "{{ range(9) | list }}", "maxItems": 8}, "9 are more than `maxItems`, 8"),
    ],
)
def test_items_that_cannot_be_gone_through_fail_the_node(
    client: WorkflowClient, workers: Workers, config: dict[str, Any], why: str
) -> None:
    execution = run(client, workers, loop("each", body=SQUARE, **config))

    assert why in (client.get(execution).error or "")


def test_the_workers_limit_the_items_of_all_loops(
    client: WorkflowClient, new_engine: Callable[..., Engine], broker: Broker
) -> None:
    client.deploy(line("parent", loop("each", items="{{ range(9) | list }}", body=SQUARE)))
    execution = client.start("parent").id

    Workers(broker, new_engine(max_items=8)).drain()

    ended = client.get(execution)
    assert (ended.error_details or {})["type"] == "CHILDREN_REFUSED"
    assert "9 items are more than the 8 allowed (WORKFLOW_ENGINE_MAX_ITEMS)" in (ended.error or "")


def test_a_loop_in_a_loop_sees_both_items(client: WorkflowClient, workers: Workers) -> None:
    inner = loop(
        "inner",
        items="{{ row.cells }}",
        itemVariable="cell",
        body=body(function("cell_of", "{{ [row.name, cell] }}")),
    )
    outer = loop("outer", items="{{ start.rows }}", itemVariable="row", body=body(inner))

    execution = run(
        client, workers, outer, data={"rows": [{"name": "a", "cells": [1, 2]}, {"name": "b", "cells": []}]}
    )

    assert client.get(execution).result == [[["a", 1], ["a", 2]], []]


def test_a_child_of_a_loop_is_walked_by_one_worker(client: WorkflowClient, workers: Workers) -> None:
    client.deploy(
        line(
            "parent",
            loop("each", items=[1], body=body(function("a", "{{ item }}"), function("b", "{{ a }}"))),
        )
    )
    client.start("parent")

    hops = workers.drain()

    assert hops == 3  # the loop twice, and one message for both nodes of its child


def test_a_body_sets_variables_maps_outputs_and_fails_on_purpose_like_any_workflow(
    client: WorkflowClient, workers: Workers
) -> None:
    check = {
        "id": "check",
        "type": "logic",
        "subType": "condition",
        "config": {"expression": "{{ half < 5 }}"},
    }
    inner = {
        "nodes": [
            {
                "id": "sets",
                "type": "logic",
                "subType": "set",
                "config": {"variables": {"half": "{{ item / 2 }}"}},
                "output": "{{ _response.half }}",
            },
            check,
            function("done", "{{ [sets, half] }}") | {"output": {"sum": "{{ _response | sum }}"}},
            {
                "id": "large",
                "type": "logic",
                "subType": "fail",
                "config": {"type": "TOO_LARGE", "message": "{{ item }}", "details": {"half": "{{ half }}"}},
            },
        ],
        "edges": [
            {"source": "sets", "target": "check"},
            {"source": "check", "target": "done", "sourceHandle": "true"},
            {"source": "check", "target": "large", "sourceHandle": "false"},
        ],
    }
    each = loop("each", items=[4, 12], body=inner, tolerate=1) | {"output": {"items": "{{ _response }}"}}
    execution = run(client, workers, each)

    first, second = client.get(execution).result["items"]
    assert first == {"sum": 4.0}
    assert (second["error"]["type"], second["error"]["message"]) == ("TOO_LARGE", "12")
