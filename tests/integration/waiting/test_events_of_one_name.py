"""Of several events of one name each wait takes one, the oldest; none is lost, none comes after its time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.broker import Broker, Workers
from support.workflows import calling
from workflow_engine import ExecutionStatus, Settings, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine

Sql = Callable[..., list[tuple[Any, ...]]]

AGE = "UPDATE execution_events SET created_at = created_at - interval '8 days' WHERE type = 'EVENT'"


@pytest.fixture
def waits(client: WorkflowClient) -> str:
    """Return the id of a workflow that waits for `approved` of order 7, and then again."""
    flow = WorkflowBuilder("approvals")
    first = flow.wait_events("first", ["approved"], correlation_id="order-7")
    second = flow.wait_events("second", ["approved"], correlation_id="order-7")
    flow.trigger("placed") >> first >> second >> flow.function("end", "{{ [first, second] }}")
    client.deploy(flow.build())
    return "approvals"


def send(client: WorkflowClient, payload: Any, **options: Any) -> str:
    address = {} if "execution_id" in options else {"correlation_id": "order-7"}
    return client.send_event(name="approved", payload=payload, **address, **options).accepted


def result_of(client: WorkflowClient, execution_id: str) -> Any:
    execution = client.get(execution_id)
    assert execution.status is ExecutionStatus.COMPLETED, (execution.status, execution.error)
    return execution.result


def test_two_waits_take_two_early_events_in_their_order(
    client: WorkflowClient, workers: Workers, waits: str
) -> None:
    answers = [send(client, name) for name in ("ada", "bob", "cid")]
    first, second = client.start(waits).id, client.start(waits).id
    workers.drain()
    answers.append(send(client, "dan"))
    workers.drain()

    assert answers == ["kept"] * 3 + ["delivered"]
    given = [client.journal(each)[-1].output_data for each in (first, second)]
    assert {"approved": "ada"} in client.context(first).node_outputs.values()
    assert result_of(client, first) == [{"approved": "ada"}, {"approved": "cid"}], given
    assert result_of(client, second) == [{"approved": "bob"}, {"approved": "dan"}], given


def test_the_oldest_goes_first_however_it_was_addressed(
    client: WorkflowClient, workers: Workers, waits: str
) -> None:
    send(client, "by correlation id")
    execution = client.start(waits).id
    send(client, "by execution", execution_id=execution)
    workers.drain()

    assert result_of(client, execution) == [{"approved": "by correlation id"}, {"approved": "by execution"}]


def test_a_node_that_waits_again_leaves_others_the_events_whose_name_it_has(
    client: WorkflowClient, workers: Workers
) -> None:
    flow = WorkflowBuilder("orders")
    condition = "{{ events.shipped | default(0) == 1 }}"
    both = flow.wait_events(
        "both", ["approved", "shipped"], correlation_id="order-7", strategy="custom", condition=condition
    )
    after = flow.wait_events("after", ["approved"], correlation_id="order-7")
    flow.trigger("placed") >> both >> after
    client.deploy(flow.build())
    send(client, "ada")
    send(client, "bob")
    execution = client.start("orders").id
    workers.drain()  # woken by ada, and waits for the rest
    client.send_event("order-7", "shipped", 1)
    workers.drain()

    assert result_of(client, execution) == {"approved": "bob"}
    assert client.context(execution).node_outputs["both"] == {"approved": "ada", "shipped": 1}


# -- retention ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["correlation id", "execution"])
def test_an_event_past_its_retention_is_not_delivered_though_nothing_has_purged_it(
    client: WorkflowClient, workers: Workers, waits: str, sql: Sql, by: str
) -> None:
    execution = client.start(waits).id
    address = {"execution_id": execution} if by == "execution" else {}
    send(client, "old", **address)
    sql(AGE)
    send(client, "young", **address)
    workers.drain()

    first, second = sql("SELECT received_events FROM execution_wait_states ORDER BY seq")
    assert (first, second) == (({"approved": "young"},), ({},))
    assert client.purge(3600).events == 1


def test_an_event_past_its_retention_does_not_keep_its_id(
    client: WorkflowClient, workers: Workers, waits: str, sql: Sql
) -> None:
    send(client, "old", event_id="e-1")
    sql(AGE)
    answers = [send(client, "new", event_id="e-1"), send(client, "again", event_id="e-1")]
    execution = client.start(waits).id
    workers.drain()

    assert answers == ["kept", "duplicate"]
    assert client.control.audit(execution)[0].payload == "new"
    sql(AGE)
    assert send(client, "late", event_id="e-1") == "duplicate", "a wait has taken it"


def test_an_event_that_a_retry_takes_back_is_kept_from_then_on(
    client: WorkflowClient, workers: Workers, sql: Sql
) -> None:
    flow = WorkflowBuilder("orders")
    output = {"by": "{{ events.none }}"}  # which fails the node
    hear = flow.wait_events("hear", ["approved"], correlation_id="order-7", output=output)
    flow.trigger("placed") >> hear
    client.deploy(flow.build())
    send(client, "ada")
    execution = client.start("orders").id
    workers.drain()
    assert client.get(execution).status is ExecutionStatus.FAILED
    sql(AGE)

    client.control.retry(execution)
    assert client.purge(365 * 86_400).events == 0
    workers.drain()

    assert client.get(execution).error_details
    assert sql("SELECT received_events FROM execution_wait_states ORDER BY seq") == [
        ({"approved": "ada"},),
        ({"approved": "ada"},),
    ]


# -- waits that were closed, and are opened again ----------------------------------------------------------


def test_an_event_that_came_while_a_wait_was_closed_is_there_when_it_is_opened_again(
    client: WorkflowClient, workers: Workers, broker: Broker
) -> None:
    broken = [True]

    def charge() -> int:
        if broken:
            raise RuntimeError("no")
        return 1

    flow = WorkflowBuilder("orders")
    start, end = flow.trigger("placed"), flow.merge("end")
    start >> flow.wait_events("hear", ["approved"], correlation_id="order-7") >> end
    start >> calling(flow, charge) >> end
    client.deploy(flow.build())
    execution = client.start("orders").id
    workers.drain()
    assert client.get(execution).status is ExecutionStatus.FAILED

    answer = send(client, "ada")
    broken.clear()
    client.control.retry(execution)
    workers.drain()

    assert answer == "kept"
    assert result_of(client, execution) == {"hear": {"approved": "ada"}, "charge": 1}


# -- the broker is away ------------------------------------------------------------------------------------


def test_an_event_is_delivered_while_the_broker_is_away_and_the_message_follows(
    client: WorkflowClient,
    workers: Workers,
    broker: Broker,
    waits: str,
    time_passes: Callable[[float], None],
    wake_due: Callable[[], list[str]],
    log_lines: Callable[[], list[str]],
) -> None:
    execution = client.start(waits).id
    workers.drain()
    broker.is_away = True

    answer = client.send_event("order-7", "approved", "ada")

    assert (answer.accepted, answer.executions) == ("delivered", (execution,))
    assert log_lines() == ["the broker is away; waiting to enqueue the nodes that an event woke"]
    broker.is_away = False
    time_passes(31)
    assert wake_due() == ["first"]
    workers.drain()
    assert client.context(execution).node_outputs["first"] == {"approved": "ada"}


def test_an_event_is_delivered_where_no_broker_answers(
    client: WorkflowClient, workers: Workers, waits: str, settings: Settings
) -> None:
    execution = client.start(waits).id
    workers.drain()
    sender = Engine.assemble(settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"}))

    answer = WorkflowClient(engine=sender).send_event("order-7", "approved", "ada")

    sender.database.dispose()
    assert (answer.accepted, answer.executions) == ("delivered", (execution,))
