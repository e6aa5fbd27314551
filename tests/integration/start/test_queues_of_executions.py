"""Every message of an execution goes to the queue that it was started on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.broker import Broker
from support.redis_keys import let_redis_remember
from support.rescues import rescue
from support.workflows import line
from workflow_engine import NodeExecutionResult, WorkflowBuilder, WorkflowClient, failure, waiting
from workflow_engine.engine.assembly import Engine
from workflow_engine.maintenance.timekeeper import Timekeeping

Sql = Callable[..., list[tuple[Any, ...]]]


def one() -> int:
    return 1


def two() -> int:
    return 2


@pytest.fixture
def shop(new_engine: Callable[..., Engine]) -> Engine:
    """Return the engine of a team's app."""
    return new_engine(queue="shop")


@pytest.fixture
def bank(new_engine: Callable[..., Engine]) -> Engine:
    """Return the engine of another team's app on the same tables, with a queue of its own."""
    return new_engine(queue="bank")


@pytest.fixture
def shop_client(shop: Engine) -> WorkflowClient:
    return WorkflowClient(engine=shop)


@pytest.fixture
def bank_client(bank: Engine) -> WorkflowClient:
    return WorkflowClient(engine=bank)


def only_queue(broker: Broker) -> str:
    (queue,) = {each.queue for each in broker.queue}
    return queue


def serve(broker: Broker, engine: Engine) -> None:
    engine.executor.continue_execution(broker.take())


def test_a_hop_and_the_next(shop: Engine, shop_client: WorkflowClient, bank: Engine, broker: Broker) -> None:
    shop_client.deploy(line(one, two))
    execution = shop_client.start("line").id
    assert only_queue(broker) == "shop"

    serve(broker, bank)
    assert only_queue(broker) == "shop"
    serve(broker, shop)
    assert shop_client.get(execution).result == 2


def test_a_start_may_name_another_queue_and_a_node_its_own(
    shop: Engine, shop_client: WorkflowClient, broker: Broker
) -> None:
    flow = WorkflowBuilder("mixed")
    flow.trigger("start") >> flow.function("here", 1) >> flow.function("there", 2, queue="gpu")
    shop_client.deploy(flow.build())
    shop_client.start("mixed", queue="night")
    assert only_queue(broker) == "night"

    serve(broker, shop)
    assert only_queue(broker) == "gpu"


def test_a_wait_that_another_app_wakes(
    shop: Engine, shop_client: WorkflowClient, bank: Engine, broker: Broker, time_passes: Callable[..., None]
) -> None:
    flow = WorkflowBuilder("patient")
    flow.trigger("start") >> flow.delay("coolOff", duration=60, unit="seconds") >> flow.function("after", 1)
    shop_client.deploy(flow.build())
    execution = shop_client.start("patient").id
    serve(broker, shop)
    time_passes(61)

    Timekeeping(bank).round()

    assert only_queue(broker) == "shop"
    serve(broker, shop)
    serve(broker, shop)
    assert shop_client.get(execution).result == 1


def test_an_event_that_another_app_sends(
    shop: Engine, shop_client: WorkflowClient, bank_client: WorkflowClient, broker: Broker
) -> None:
    def listens() -> NodeExecutionResult:
        return waiting(events=["paid"], correlation_id="order-7")

    shop_client.deploy(line(listens))
    shop_client.start("line")
    serve(broker, shop)

    bank_client.send_event("order-7", "paid", {})

    assert only_queue(broker) == "shop"


def test_a_retry_that_another_app_wakes_and_one_that_it_orders(
    shop: Engine,
    shop_client: WorkflowClient,
    bank: Engine,
    bank_client: WorkflowClient,
    broker: Broker,
    time_passes: Callable[..., None],
) -> None:
    def fails() -> NodeExecutionResult:
        return failure("BROKEN", "again")

    shop_client.deploy(line(fails, retry={"maxAttempts": 2, "waitDuration": 5000}))
    execution = shop_client.start("line").id
    serve(broker, shop)
    time_passes(6)
    Timekeeping(bank).round()
    assert only_queue(broker) == "shop"
    serve(broker, shop)

    bank_client.control.retry(execution)
    assert only_queue(broker) == "shop"
    bank_client.control.rerun(execution, "fails")
    assert only_queue(broker) == "shop"


def test_a_pause_that_another_app_ends(
    shop_client: WorkflowClient, bank_client: WorkflowClient, broker: Broker
) -> None:
    shop_client.deploy(line(one))
    execution = shop_client.start("line").id
    broker.queue.clear()
    bank_client.control.pause(execution)
    bank_client.control.resume(execution)

    assert only_queue(broker) == "shop"


def test_an_execution_that_another_app_rescues(
    shop_client: WorkflowClient, bank: Engine, broker: Broker, sql: Sql
) -> None:
    shop_client.deploy(line(one))
    shop_client.start("line")
    broker.queue.clear()
    sql("UPDATE executions SET updated_at = updated_at - interval '1 hour'")

    let_redis_remember(bank.settings)
    assert rescue(bank) == 1
    assert only_queue(broker) == "shop"


def test_a_schedule_that_another_app_fires(
    shop_client: WorkflowClient, bank: Engine, broker: Broker, sql: Sql
) -> None:
    flow = WorkflowBuilder("nightly")
    flow.trigger("tick", sub_type="scheduler", config={"cron": "0 0 1 1 *"}) >> flow.function("work", 1)
    shop_client.deploy(flow.build())
    sql("UPDATE triggers SET next_due = now() - interval '1 second' WHERE next_due IS NOT NULL")

    Timekeeping(bank).round()

    assert only_queue(broker) == "shop"
    assert sql("SELECT queue FROM executions") == [("shop",)]


def test_a_second_start_with_the_same_key(
    shop_client: WorkflowClient, bank_client: WorkflowClient, broker: Broker
) -> None:
    shop_client.deploy(line(one))
    shop_client.start("line", idempotency_key="order-7")
    broker.queue.clear()

    bank_client.start("line", idempotency_key="order-7")

    assert only_queue(broker) == "shop"
