"""`send-event` reaches the executions that wait, and `purge` removes what has ended long ago."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from support import command_line
from workflow_engine import ExecutionStatus, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine

Sql = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def execution(client: WorkflowClient) -> str:
    flow = WorkflowBuilder("orders")
    flow.trigger("placed") >> flow.function("charge", 1)
    client.deploy(flow.build())
    return client.start("orders").id


def run(*arguments: str, status: int = 0) -> str:
    result = command_line.run(*arguments)
    assert result.exit_code == status, result.output
    return result.output


def test_an_event_is_sent_and_its_delivery_is_reported(execution: str, sql: Sql) -> None:
    sql(
        "INSERT INTO execution_wait_states (execution_id, node_id, seq, wait_type, correlation_id, details) "
        "VALUES (%s, 'charge', 1, 'EVENTS', 'order-7', %s)",
        execution,
        '{"events": ["paid"], "required": "all"}',
    )
    payload = ("--payload", '{"amount": 42}', "--event-id", "e-1")

    kept = run("send-event", "rated", "--correlation-id", "order-7")
    delivered = json.loads(run("send-event", "paid", "--correlation-id", "order-7", *payload, "--json"))
    again = run("send-event", "paid", "--execution", execution, *payload)

    assert kept == "Kept: no node waits for it yet.\n"
    assert delivered == {"accepted": "delivered", "executions": [execution]}
    assert again == "Ignored: an event with this id or name was received before.\n"
    assert sql("SELECT received_events FROM execution_wait_states") == [({"paid": {"amount": 42}},)]


def test_an_event_for_an_execution_that_has_ended_is_ignored_with_status_1(
    engine: Engine, execution: str
) -> None:
    engine.state.update_execution_status(execution, ExecutionStatus.CANCELLED)

    output = run("send-event", "paid", "--execution", execution, status=1)

    assert output == f"Ignored: execution {execution} has ended.\n"


@pytest.mark.parametrize("to", [(), ("--correlation-id", "order-7", "--execution", "e-1")])
def test_an_event_needs_one_address(to: tuple[str, ...]) -> None:
    assert "either --correlation-id or --execution" in run("send-event", "paid", *to, status=2)


def test_a_purge_says_how_much_it_removes(engine: Engine, execution: str, sql: Sql) -> None:
    engine.state.update_execution_status(execution, ExecutionStatus.CANCELLED)
    sql("UPDATE executions SET completed_at = now() - interval '3 days'")

    assert run("purge", "--older-than", "4d") == "Removed 0 executions and 0 events.\n"
    assert run("purge", "--older-than", "48h", "--dry-run") == "1 execution and 0 events would be removed.\n"
    assert json.loads(run("purge", "--older-than", "2d", "--json")) == {
        "executions": 1,
        "events": 0,
        "dryRun": False,
    }


@pytest.mark.parametrize("age", ["180", "half a year", "-1d"])
def test_an_age_without_a_unit_removes_nothing(age: str) -> None:
    assert "is not a time span; write a number and s, min, h or d" in run(
        "purge", "--older-than", age, status=2
    )
