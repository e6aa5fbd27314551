"""A workflow fails on purpose, sets variables, and keeps of a node's answer only what its author wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from support.broker import Workers
from support.workflows import calling
from workflow_engine import ExecutionStatus, WorkflowBuilder, WorkflowClient, failure
from workflow_engine.engine.assembly import Engine

Sql = Callable[..., list[tuple[Any, ...]]]


def checks_stock() -> WorkflowBuilder:
    """Return a workflow with one end that fails, and one whose output is the result."""
    flow = WorkflowBuilder("checks")
    in_stock = flow.condition("inStock", expression="{{ start.stock > 0 }}")
    flow.trigger("start") >> in_stock
    in_stock["true"] >> flow.function("sent", "{{ start.stock }}")
    in_stock["false"] >> flow.fail(
        "soldOut", "OUT_OF_STOCK", "no {{ start.sku }} left", details={"sku": "{{ start.sku }}"}
    )
    return flow


def test_a_failure_on_purpose_ends_the_execution_with_its_type_message_and_details(
    client: WorkflowClient, workers: Workers
) -> None:
    client.deploy(checks_stock().build())
    execution = client.start("checks", {"sku": "cup", "stock": 0}).id
    workers.drain()

    failed = client.get(execution)
    assert (failed.status, failed.error) == (ExecutionStatus.FAILED, "no cup left")
    assert failed.error_details == {"nodeId": "soldOut", "type": "OUT_OF_STOCK", "details": {"sku": "cup"}}


def test_an_end_that_fails_is_no_part_of_the_result_of_others(
    client: WorkflowClient, workers: Workers
) -> None:
    client.deploy(checks_stock().build())
    execution = client.start("checks", {"sku": "cup", "stock": 3}).id
    workers.drain()

    assert client.get(execution).result == 3


def test_an_error_route_may_end_in_the_failure_that_it_began_with(
    client: WorkflowClient, workers: Workers
) -> None:
    def charges() -> Any:
        return failure("DECLINED", "no funds", {"code": 51}, status=402)

    flow = WorkflowBuilder("routed")
    charge = calling(flow, charges)
    refund = flow.function("refund", 1)
    flow.trigger("start") >> charge
    (
        charge.on_error
        >> refund
        >> flow.fail(
            "end",
            "{{ charges.error.type }}",
            "{{ charges.error.message }} ({{ charges.error.status }})",
            details="{{ charges.error.details }}",
        )
    )
    client.deploy(flow.build())
    execution = client.start("routed").id
    workers.drain()

    failed = client.get(execution)
    assert failed.error == "no funds (402)"
    assert failed.error_details == {"nodeId": "end", "type": "DECLINED", "details": {"code": 51}}


@pytest.mark.parametrize("hops", ["spread", "inline"])
def test_variables_that_a_node_sets_are_read_by_those_after_it(
    client: WorkflowClient, workers: Workers, redis_client: redis.Redis, hops: str
) -> None:
    flow = WorkflowBuilder("sets", variables={"net": 1, "tax": 2}, settings={"hops": hops})
    first = flow.set("first", {"net": "{{ start.net }}", "sum": "{{ net + tax }}"})
    second = flow.set("second", {"sum": "{{ sum * net }}"})
    flow.trigger("start") >> first >> second >> flow.function("end", "{{ [net, tax, sum, first, second] }}")
    client.deploy(flow.build())
    execution = client.start("sets", {"net": 50}).id
    workers.hop()
    redis_client.flushdb()  # they are in the journal
    workers.drain()

    assert client.get(execution).result == [50, 2, 150, {"net": 50, "sum": 3}, {"sum": 150}]


def test_nothing_but_the_output_is_stored_of_what_a_node_returns(
    client: WorkflowClient, workers: Workers, engine: Engine, sql: Sql, redis_client: redis.Redis
) -> None:
    def answers() -> Any:
        return {"id": 7, "card": "4111-1111", "rest": "x" * (engine.settings.output_limit + 1)}

    flow = WorkflowBuilder("maps")
    asked = calling(flow, answers, output={"id": "{{ _response.id }}", "for": "{{ start.order }}"})
    flow.trigger("start") >> asked >> flow.function("end", "{{ answers }}")
    client.deploy(flow.build())
    execution = client.start("maps", {"order": 1}).id
    workers.hop()
    cached = b"".join(
        b"".join(redis_client.hgetall(key).values())
        for key in redis_client.keys("*")
        if redis_client.type(key) == b"hash"
    )
    workers.drain()

    assert client.get(execution).result == {"id": 7, "for": 1}
    assert b'"id":7' in cached
    assert b"4111" not in cached
    assert "4111" not in str(sql("SELECT to_jsonb(n)::text FROM node_executions n"))
