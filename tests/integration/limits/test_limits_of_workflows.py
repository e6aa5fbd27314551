"""Of the executions with one key, as many run at a time as it allows, in the order of their starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from support.broker import Broker, Workers
from workflow_engine import ExecutionStatus, InvalidValue, Settings, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.execution.states import SlotStatus
from workflow_engine.maintenance.timekeeper import Timekeeping
from workflow_engine.postgres.executions.stalled import Front

PER_TENANT: list[dict[str, Any]] = [{"key": "tenant:{{ begin.tenant }}", "concurrency": 2}]


def flow(limits: Any = PER_TENANT, id: str = "limited", **options: Any) -> WorkflowBuilder:
    """Return a workflow of two nodes: the first fails if its data says so."""
    builder = WorkflowBuilder(id, limits=limits, **options)
    begin = builder.trigger("begin")
    begin >> builder.function("first", "{{ 1 / begin.divisor }}") >> builder.function("second", "{{ 2 }}")
    return builder


def start(client: WorkflowClient, tenant: str, count: int = 1, workflow: str = "limited") -> list[str]:
    return [client.start(workflow, {"tenant": tenant, "divisor": 1}).id for _ in range(count)]


def in_queue(broker: Broker) -> list[str]:
    return [message.execution_id for message in broker.messages]


def test_starts_beyond_the_limit_wait_without_a_message_and_follow_in_their_order(
    client: WorkflowClient, broker: Broker, workers: Workers
) -> None:
    client.deploy(flow().build())

    ids = start(client, "a", 5)

    assert in_queue(broker) == ids[:2]
    order = []
    while broker.queue:
        order.append(workers.hop().execution_id)
    assert list(dict.fromkeys(order)) == ids
    assert workers.hops == 10, "no message was dropped"
    assert {client.get(each).status for each in ids} == {ExecutionStatus.COMPLETED}


def test_a_key_that_is_full_does_not_delay_another(client: WorkflowClient, broker: Broker) -> None:
    client.deploy(flow().build())
    start(client, "a", 5)
    broker.queue.clear()

    other = start(client, "b")

    assert in_queue(broker) == other


@pytest.mark.parametrize("operation", ["cancel", "timeout"])
def test_every_end_of_an_execution_frees_its_slot(
    client: WorkflowClient, engine: Engine, broker: Broker, sql: Callable[..., Any], operation: str
) -> None:
    client.deploy(flow(settings={"timeout": 60}).build())
    ids = start(client, "a", 3)
    broker.queue.clear()

    if operation == "cancel":
        client.control.cancel(ids[0])
    else:
        sql("UPDATE executions SET expires_at = now() WHERE id = %s::uuid", ids[0])
        Timekeeping(engine).round()

    assert ids[2] in in_queue(broker)
    assert [slot.status for slot in client.control.limits.standing(ids[2])] == [SlotStatus.HELD]


def test_one_that_is_cancelled_in_line_is_passed_over(
    client: WorkflowClient, broker: Broker, workers: Workers
) -> None:
    client.deploy(flow().build())
    ids = start(client, "a", 4)

    client.control.cancel(ids[2])
    workers.drain()

    assert client.get(ids[3]).status is ExecutionStatus.COMPLETED
    assert client.control.limits.list() == []


def test_one_that_is_paused_in_line_lets_others_pass_and_goes_on_when_it_is_resumed(
    client: WorkflowClient, broker: Broker, workers: Workers, tick: Callable[[], float]
) -> None:
    client.deploy(flow().build())
    ids = start(client, "a", 4)
    client.control.pause(ids[2])

    workers.drain()
    assert [client.get(each).status.value for each in ids[2:]] == ["PAUSED", "COMPLETED"]

    client.control.resume(ids[2])
    tick()
    workers.drain()
    assert client.get(ids[2]).status is ExecutionStatus.COMPLETED


def test_one_in_line_is_neither_rescued_nor_run_by_a_stray_message(
    client: WorkflowClient, engine: Engine, broker: Broker, workers: Workers, sql: Callable[..., Any]
) -> None:
    client.deploy(flow().build())
    ids = start(client, "a", 3)
    first = broker.messages[0]
    broker.queue.clear()
    sql(
        "UPDATE executions SET updated_at = now() - interval '1 hour', created_at = now() - interval '1 hour'"
    )

    found = [each.id for page in engine.stalled.pages(30, 5, lambda *_: Front(None)) for each in page]
    assert found == ids[:2]
    assert engine.executor.resume_execution(ids[2]) is False
    stray = type(first)(ids[2], first.workflow, first.version, first.node_id, first.seq)
    engine.executor.continue_execution(stray)
    assert client.get(ids[2]).status is ExecutionStatus.PENDING
    assert not broker.queue


def test_its_timeout_begins_with_its_slot(
    client: WorkflowClient, workers: Workers, sql: Callable[..., Any]
) -> None:
    client.deploy(flow([{"key": "one", "concurrency": 1}], settings={"timeout": 60}).build())
    ids = start(client, "a", 2)
    expiry = "SELECT timeout_left, expires_at - now() FROM executions WHERE id = %s::uuid"

    assert sql(expiry, ids[1]) == [(60.0, None)]
    while client.get(ids[0]).status is not ExecutionStatus.COMPLETED:
        workers.hop()
    ((left, expires_in),) = sql(expiry, ids[1])
    assert left is None
    assert 50 < expires_in.total_seconds() <= 60


def test_a_retry_waits_for_a_slot_like_a_start(
    client: WorkflowClient, broker: Broker, workers: Workers
) -> None:
    client.deploy(flow([{"key": "one", "concurrency": 1}]).build())
    failed = client.start("limited", {"divisor": 0}).id
    workers.drain()
    assert client.get(failed).status is ExecutionStatus.FAILED
    (running,) = start(client, "a")

    client.control.retry(failed)

    while client.get(running).status is not ExecutionStatus.COMPLETED:
        message = workers.hop()
        assert message.execution_id == running or client.journal(failed)[-1].status.value == "FAILED"
    workers.drain()
    assert [row.status.value for row in client.journal(failed) if row.node_id == "first"] == ["FAILED"] * 2
    assert client.control.limits.list() == []


def test_the_rate_admits_so_many_within_its_time(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    sql: Callable[..., Any],
    tick: Callable[[], float],
) -> None:
    client.deploy(flow([{"key": "calls", "rate": "3/hour"}]).build())
    ids = start(client, "a", 5)

    workers.drain()
    tick()
    assert [client.get(each).status.value for each in ids] == ["COMPLETED"] * 3 + ["PENDING"] * 2

    sql("UPDATE limit_windows SET part = part - 9")
    tick()
    assert not broker.queue
    sql("UPDATE limit_windows SET part = part - 2")
    tick()
    assert in_queue(broker) == ids[3:]


def test_an_owner_of_several_keys_takes_all_its_slots_or_none(
    client: WorkflowClient, broker: Broker, workers: Workers
) -> None:
    both = [*PER_TENANT, {"key": "all", "concurrency": 3}]
    client.deploy(flow(both).build())

    a, b, c = start(client, "a", 6), start(client, "b", 2), start(client, "c", 1)

    assert in_queue(broker) == [*a[:2], b[0]]
    order = []
    while broker.queue:
        order.append(workers.hop().execution_id)
        now_held = {use.key: use.held for use in client.control.limits.list()}
        assert now_held.get("all", 0) <= 3
        assert now_held.get("tenant:a", 0) <= 2
    assert {client.get(each).status for each in [*a, *b, *c]} == {ExecutionStatus.COMPLETED}
    first_hop = list(dict.fromkeys(order))
    assert [each for each in first_hop if each in a] == a
    assert first_hop.index(c[0]) < first_hop.index(a[5]), "a full key holds up no other"


def test_a_start_in_a_callers_transaction_takes_its_slot_after_the_commit(
    client: WorkflowClient, settings: Settings, broker: Broker
) -> None:
    client.deploy(flow([{"key": "one", "concurrency": 1}]).build())
    database = create_engine(settings.database_url)
    with Session(database) as session, session.begin():
        mine = client.start("limited", {"divisor": 1}, session=session).id
        (other,) = start(client, "a")  # does not wait for the open transaction
        assert in_queue(broker) == [other]

    assert in_queue(broker) == [other]
    assert [slot.position for slot in client.control.limits.standing(mine)] == [1]
    database.dispose()


def test_what_a_dead_process_left_ungranted_is_found(
    client: WorkflowClient, engine: Engine, broker: Broker, tick: Callable[[], float], monkeypatch: Any
) -> None:
    client.deploy(flow().build())
    with monkeypatch.context() as dying:
        dying.setattr(engine.limits, "grant", lambda keys: None)
        ids = start(client, "a", 3)
    assert not broker.queue

    tick()

    assert in_queue(broker) == ids[:2]


def test_the_children_of_a_loop_run_as_many_at_a_time_as_their_workflow_allows(
    client: WorkflowClient, broker: Broker, workers: Workers
) -> None:
    client.deploy(flow([{"key": "tenant:{{ begin.tenant }}", "concurrency": 1}]).build())
    parent = WorkflowBuilder("parent")
    items = [{"tenant": "a", "divisor": 1}] * 3
    parent.trigger("go") >> parent.loop("each", items, workflow="limited", config={"concurrency": 3})
    client.deploy(parent.build())

    execution = client.start("parent").id
    while broker.queue:
        workers.hop()
        assert all(use.held <= 1 for use in client.control.limits.list())

    assert client.get(execution).status is ExecutionStatus.COMPLETED
    assert client.control.limits.list() == []


def test_a_child_does_not_wait_for_a_slot_that_its_parent_holds(
    client: WorkflowClient, workers: Workers
) -> None:
    one = [{"key": "one", "concurrency": 1}]
    client.deploy(flow(one).build())
    parent = WorkflowBuilder("parent", limits=one)
    parent.trigger("go") >> parent.sub_workflow("child", "limited", data={"divisor": 1})
    client.deploy(parent.build())

    ids = [client.start("parent").id for _ in range(2)]
    workers.drain()

    assert {client.get(each).status for each in ids} == {ExecutionStatus.COMPLETED}


def test_a_key_that_cannot_be_evaluated_refuses_the_start_and_fails_a_child(
    client: WorkflowClient, workers: Workers, sql: Callable[..., Any]
) -> None:
    client.deploy(flow().build())
    parent = WorkflowBuilder("parent")
    parent.trigger("go") >> parent.sub_workflow("child", "limited", data={"divisor": 1})
    client.deploy(parent.build())

    with pytest.raises(InvalidValue, match=r"limits\[0\]\.key: .*tenant"):
        client.start("limited", {"divisor": 1})
    assert sql("SELECT count(*) FROM executions") == [(0,)]
    execution = client.start("parent").id
    workers.drain()
    assert client.get(execution).status is ExecutionStatus.FAILED
    assert "limits[0].key" in str(client.children(execution)[0].error)


def test_an_execution_keeps_its_slot_while_it_waits(client: WorkflowClient, workers: Workers) -> None:
    builder = WorkflowBuilder("limited", limits=[{"key": "one", "concurrency": 1}])
    builder.trigger("begin") >> builder.delay("pause", duration=1, unit="hours")
    client.deploy(builder.build())

    ids = [client.start("limited").id for _ in range(2)]
    workers.drain()

    assert [client.get(each).status.value for each in ids] == ["WAITING", "PENDING"]
    client.control.cancel(ids[0])
    workers.drain()
    assert client.get(ids[1]).status is ExecutionStatus.WAITING
