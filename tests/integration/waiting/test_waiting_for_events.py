"""logic/wait-events counts events that come before they are waited for, in time or too late."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.broker import Broker, Workers
from workflow_engine import ExecutionStatus, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine

Sql = Callable[..., list[tuple[Any, ...]]]
Start = Callable[..., str]


@pytest.fixture
def start(client: WorkflowClient, workers: Workers) -> Start:
    """Return a function that starts an execution which waits for events of order 7, and runs it so far."""

    def start(*events: Any, **options: Any) -> str:
        flow = WorkflowBuilder("orders")
        hear = flow.wait_events("hear", events, correlation_id="order-{{ placed.id }}", **options)
        flow.trigger("placed") >> hear >> flow.function("end", "{{ hear }}")
        client.deploy(flow.build())
        execution_id = client.start("orders", {"id": 7}).id
        workers.drain()
        return execution_id

    return start


def result_of(client: WorkflowClient, execution_id: str) -> Any:
    execution = client.get(execution_id)
    assert execution.status is ExecutionStatus.COMPLETED, (execution.error, execution.error_details)
    return execution.result


def let_time_pass(sql: Sql, engine: Engine, workers: Workers, seconds: float) -> None:
    """Return a function that sets the beginning of every wait back by some seconds, and wakes what is due."""
    sql(
        "UPDATE execution_wait_states SET created_at = created_at - %s * interval '1 second', "
        "expires_at = expires_at - %s * interval '1 second' WHERE status = 'WAITING'",
        seconds,
        seconds,
    )
    engine.publisher.wake(engine.waits.claim_due())
    workers.drain()


def test_an_execution_goes_on_when_its_events_have_arrived(
    client: WorkflowClient, workers: Workers, broker: Broker, start: Start
) -> None:
    execution = start("paid", "shipped")
    waiting = client.get(execution).status

    client.send_event("order-7", "paid", {"amount": 42})
    workers.drain()
    still_waiting = client.get(execution).status
    client.send_event("order-7", "shipped")
    workers.drain()

    assert (waiting, still_waiting) == (ExecutionStatus.WAITING, ExecutionStatus.WAITING)
    assert result_of(client, execution) == {"paid": {"amount": 42}, "shipped": None}


def test_an_event_that_came_before_the_execution_is_there_for_it(
    client: WorkflowClient, start: Start
) -> None:
    client.send_event("order-7", "paid", 1)

    assert result_of(client, start("paid")) == {"paid": 1}


def test_an_event_that_is_sent_to_the_execution_needs_no_correlation_id(
    client: WorkflowClient, workers: Workers, start: Start
) -> None:
    execution = start("paid")

    client.send_event(execution_id=execution, name="paid", payload=1)
    workers.drain()

    assert result_of(client, execution) == {"paid": 1}


def test_a_custom_condition_is_asked_again_until_it_holds(
    client: WorkflowClient, workers: Workers, start: Start
) -> None:
    votes = "(events.ann | default(0)) + (events.bob | default(0)) + (events.cid | default(0))"
    execution = start("ann", "bob", "cid", strategy="custom", condition=f"{{{{ {votes} >= 2 }}}}")

    for name in ("ann", "cid"):
        client.send_event("order-7", name, 1)
        workers.drain()

    assert result_of(client, execution) == {"ann": 1, "cid": 1}


def test_events_that_come_while_the_node_looks_at_others_are_not_missed(
    client: WorkflowClient, workers: Workers, start: Start
) -> None:
    condition = "{{ (events.bob | default(0)) + (events.cid | default(0)) >= 2 }}"
    execution = start("ann", "bob", "cid", strategy="custom", condition=condition)

    for name in ("ann", "bob", "cid"):  # and no worker moves in between
        client.send_event("order-7", name, 1)
    workers.drain()

    assert result_of(client, execution) == {"ann": 1, "bob": 1, "cid": 1}


def test_an_execution_goes_on_with_what_there_is_when_the_time_is_up(
    client: WorkflowClient, engine: Engine, workers: Workers, start: Start, sql: Sql
) -> None:
    execution = start("paid", "shipped", wait_timeout=60, on_timeout="continue_with_partial")
    client.send_event("order-7", "paid", 1)

    let_time_pass(sql, engine, workers, 59)
    before = client.get(execution).status
    let_time_pass(sql, engine, workers, 2)

    assert before is ExecutionStatus.WAITING
    assert result_of(client, execution) == {"paid": 1}


def test_a_time_limit_of_one_event_drops_it_and_the_rest_goes_on(
    client: WorkflowClient, engine: Engine, workers: Workers, start: Start, sql: Sql
) -> None:
    execution = start("paid", {"name": "cancelled", "timeout": 60}, strategy="any", wait_timeout=600)

    let_time_pass(sql, engine, workers, 61)
    late = client.send_event("order-7", "cancelled")
    client.send_event("order-7", "paid", 1)
    workers.drain()

    assert late.accepted == "kept"
    assert result_of(client, execution) == {"paid": 1}


def test_an_execution_fails_with_what_is_missing_when_the_time_is_up(
    client: WorkflowClient, engine: Engine, workers: Workers, start: Start, sql: Sql
) -> None:
    execution = start("paid", wait_timeout=60)

    let_time_pass(sql, engine, workers, 61)

    failed = client.get(execution)
    assert failed.status is ExecutionStatus.FAILED
    assert "no 'paid' within" in str(failed.error)
    assert client.send_event(execution_id=execution, name="paid").accepted == "finished"
