"""Many starts in one call are what single starts would make of them, or nothing if one of them is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from support.broker import Broker, Workers
from support.redis_keys import let_redis_remember
from support.rescues import rescue
from workflow_engine import (
    ExecutionStatus,
    IdempotencyConflict,
    InvalidValue,
    Start,
    StartsRefused,
    TriggerDataInvalid,
    TriggerPaused,
    Workflow,
    WorkflowBuilder,
    WorkflowClient,
    WorkflowInactive,
    WorkflowNotFound,
)
from workflow_engine.engine.assembly import Engine
from workflow_engine.engine.starts.starting import BATCH

Sql = Callable[..., list[tuple[Any, ...]]]

COUNT = "SELECT count(*) FROM executions"


def orders(**options: Any) -> Workflow:
    flow = WorkflowBuilder("orders", variables={"currency": "EUR"}, **options)
    placed = flow.trigger("placed", schema={"properties": {"id": {"type": "integer"}}})
    placed >> flow.function("charge", "{{ [_trigger.id | default(0), currency] }}")
    return flow.build()


@pytest.fixture(autouse=True)
def _deployed(client: WorkflowClient) -> None:
    client.deploy(orders())


def test_each_runs_with_its_own_data_in_the_order_of_the_call(
    client: WorkflowClient, broker: Broker, workers: Workers
) -> None:
    started = client.start_many("orders", (Start({"id": number}) for number in range(BATCH + 3)))

    assert [message.execution_id for message in broker.messages] == [each.id for each in started]
    workers.drain()
    assert client.get(started[0].id).result == [0, "EUR"]
    assert client.get(started[-1].id).result == [BATCH + 2, "EUR"]
    assert all(each.is_new for each in started)


def test_every_argument_of_a_start_is_kept(client: WorkflowClient, broker: Broker, workers: Workers) -> None:
    full = Start(
        {"id": 7},
        trigger="placed",
        variables={"currency": "CHF"},
        idempotency_key="order-7",
        priority=2,
        queue="slow",
        metadata={"region": "south"},
        tags=["vip"],
    )

    started = client.start_many("orders", [Start(), full])

    assert [(each.queue, each.priority) for each in broker.queue][1] == ("slow", 2)
    workers.drain()
    plain, execution = (client.get(each.id) for each in started)
    assert (plain.result, execution.result) == ([0, "EUR"], [7, "CHF"])
    (found,) = client.list(where={"metadata.region": "south"}, tags=["vip"])
    assert found.id == execution.id
    assert client.start("orders", {"id": 7}, variables={"currency": "CHF"}, idempotency_key="order-7").id == (
        execution.id
    )


WRITTEN = """
SELECT to_jsonb(e) - '{id,fence,idempotency_key,context,metadata,created_at,updated_at,expires_at}'::text[],
    e.context - 'executionId' #- '{metadata,startedAt}', e.context->>'executionId' = e.id::text,
    e.metadata - 'startedAt', e.context->'metadata' = e.metadata,
    left(e.metadata->>'startedAt', 19) = to_char(e.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS'),
    e.expires_at - e.created_at, e.updated_at = e.created_at,
    (k.execution_id, k.workflow_id) = (e.id, e.workflow_id), k.fingerprint,
    to_jsonb(n) - '{execution_id,token,started_at,completed_at}'::text[],
    (n.token, n.started_at, n.completed_at) = (e.fence, e.created_at, e.created_at)
FROM executions e JOIN node_executions n ON n.execution_id = e.id
LEFT JOIN idempotency_keys k ON k.key = e.idempotency_key
WHERE e.id = %s
"""


@pytest.mark.parametrize(
    "start",
    [
        Start(),
        Start(None),
        Start([], variables={"currency": None}),
        Start(
            {"id": 1},
            trigger="begin",
            priority=0,
            queue="slow",
            metadata={"a": {"b": None}},
            tags=["x", 'y"'],
        ),
    ],
    ids=["nothing given", "null", "a variable", "all that can be given"],
)
@pytest.mark.parametrize("keys", [(None, None), ("one", "many")], ids=["without keys", "with keys"])
def test_a_start_among_many_writes_what_a_single_one_writes(
    client: WorkflowClient, sql: Sql, start: Start, keys: tuple[str | None, str | None]
) -> None:
    flow = WorkflowBuilder("anything", variables={"currency": "EUR"}, settings={"timeout": 600})
    flow.trigger("begin", label="Begin") >> flow.function("end", 1, queue="own", priority=3)
    client.deploy(flow.build())
    given = {field.name: getattr(start, field.name) for field in fields(start)}

    single = client.start("anything", **{**given, "idempotency_key": keys[0]})
    _, among_many = client.start_many("anything", [Start(), replace(start, idempotency_key=keys[1])])

    assert sql(WRITTEN, among_many.id) == sql(WRITTEN, single.id)
    assert sql(WRITTEN, single.id)


def test_each_batch_is_one_statement_and_its_messages_one_call(
    client: WorkflowClient, broker: Broker, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    published: list[int] = []
    execute, publish = engine.database._execute, broker.publish
    client.start("orders")  # reads the definition, which each process does once

    def record(statement: str, parameters: Any) -> Any:
        statements.append(statement)
        return execute(statement, parameters)

    def count(dispatches: Any) -> None:
        published.append(len(dispatches))
        publish(dispatches)

    monkeypatch.setattr(engine.database, "_execute", record)
    monkeypatch.setattr(broker, "publish", count)
    client.start_many("orders", [Start()] * (2 * BATCH + 1))

    assert len(statements) == 1 + 3, "what is deployed, and three batches"
    assert published == [BATCH, BATCH, 1]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (Start({"id": "seven"}), TriggerDataInvalid),
        (Start({"id": float("nan")}), InvalidValue),
        (Start(priority=10), InvalidValue),
        (Start(idempotency_key=""), InvalidValue),
        (Start(variables={"charge": 1}), InvalidValue),
        (Start(tags=["a", ""]), InvalidValue),
        (Start(metadata={"1": 1}), InvalidValue),
        (Start(trigger="elsewhere"), WorkflowNotFound),
        (Start({"id": 2}, idempotency_key="used"), IdempotencyConflict),
    ],
    ids=["schema", "not JSON", "priority", "key", "variable", "tag", "metadata", "trigger", "used key"],
)
def test_a_start_that_is_refused_refuses_all_and_is_named(
    client: WorkflowClient, broker: Broker, sql: Sql, bad: Start, error: type[Exception]
) -> None:
    client.start("orders", {"id": 1}, idempotency_key="used")
    broker.queue.clear()

    with pytest.raises(
        StartsRefused, match=r"2 of 602 starts of 'orders' are refused, nothing was started"
    ) as caught:
        client.start_many("orders", [*[Start()] * 600, bad, bad])

    assert [(index, type(each)) for index, each in caught.value.refusals.items()] == [
        (600, error),
        (601, error),
    ]
    assert "[600]" in str(caught.value)
    assert sql(COUNT) == [(1,)]
    assert not broker.queue


def test_many_refusals_are_named_in_a_few_lines(client: WorkflowClient) -> None:
    with pytest.raises(StartsRefused) as caught:
        client.start_many("orders", [Start({"id": ""})] * 3000)

    assert len(caught.value.refusals) == 3000
    assert str(caught.value).endswith("and 2,995 more")
    assert len(str(caught.value)) < 1500


def test_what_operators_have_closed_starts_nothing(client: WorkflowClient, sql: Sql) -> None:
    client.control.workflows.pause_trigger("orders", "placed")
    with pytest.raises(StartsRefused) as caught:
        client.start_many("orders", [Start()])
    assert isinstance(caught.value.refusals[0], TriggerPaused)

    client.control.workflows.resume_trigger("orders", "placed")
    client.control.workflows.deactivate("orders")
    with pytest.raises(StartsRefused) as caught:
        client.start_many("orders", [Start()])
    assert isinstance(caught.value.refusals[0], WorkflowInactive)
    with pytest.raises(WorkflowNotFound):
        client.start_many("unknown", [Start()])
    assert sql(COUNT) == [(0,)]


def test_none_at_all_is_no_error(client: WorkflowClient, broker: Broker) -> None:
    assert list(client.start_many("orders", [])) == []
    assert not broker.queue


# -- idempotency keys ------------------------------------------------------------------------------------


def keyed(numbers: range) -> list[Start]:
    return [Start({"id": number}, idempotency_key=f"order-{number}") for number in numbers]


def test_a_repeated_call_starts_only_what_is_missing(client: WorkflowClient, broker: Broker) -> None:
    first = client.start_many("orders", keyed(range(3)))
    broker.queue.clear()

    again = client.start_many("orders", keyed(range(BATCH + 1)))

    assert [each.id for each in again[:3]] == [each.id for each in first]
    assert [each.is_new for each in again] == [False] * 3 + [True] * (BATCH - 2)
    assert [message.execution_id for message in broker.messages] == [each.id for each in again[3:]]


def test_a_key_that_is_given_twice_starts_once(client: WorkflowClient, sql: Sql) -> None:
    one = Start({"id": 1}, idempotency_key="order-1")

    started = client.start_many("orders", [one, Start(), one])

    assert started[0].id == started[2].id
    assert [each.is_new for each in started] == [True, True, False]
    assert sql(COUNT) == [(2,)]
    with pytest.raises(StartsRefused, match=r"\[1\] idempotency_key: an earlier start of this call"):
        client.start_many("orders", [Start({"id": i}, idempotency_key="order-2") for i in range(2)])


def test_a_used_key_counts_although_its_data_does_not_fit_what_is_deployed_by_now(
    client: WorkflowClient,
) -> None:
    (first,) = client.start_many("orders", [Start({"id": 1}, idempotency_key="order-1")])
    flow = WorkflowBuilder("orders")
    flow.trigger("received", schema={"required": ["customer"]}) >> flow.function("charge", 1)
    client.deploy(flow.build())

    (again,) = client.start_many("orders", [Start({"id": 1}, idempotency_key="order-1")])

    assert (again.id, again.is_new) == (first.id, False)


def test_calls_with_the_same_keys_at_the_same_time_start_each_once(
    client: WorkflowClient, new_engine: Callable[..., Engine], sql: Sql
) -> None:
    """Each gives its keys in another order, which must not let them wait for one another for ever."""
    clients = [WorkflowClient(engine=new_engine()) for _ in range(3)]
    orders_ = [keyed(range(300)), keyed(range(300))[::-1], keyed(range(150, 300)) + keyed(range(150))]
    results: list[set[str]] = []
    together = threading.Barrier(3)

    def start(client: WorkflowClient, starts: list[Start]) -> None:
        client.workflow("orders")
        together.wait(30)
        results.append({each.id for each in client.start_many("orders", starts)})

    threads = [threading.Thread(target=start, args=pair) for pair in zip(clients, orders_, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(results) == 3
    assert results[0] == results[1] == results[2]
    assert sql(COUNT) == [(300,)]


def test_a_key_used_with_other_data_in_the_same_moment_refuses_its_whole_batch(
    client: WorkflowClient, engine: Engine, monkeypatch: pytest.MonkeyPatch, sql: Sql
) -> None:
    starts = keyed(range(BATCH + 10))
    monkeypatch.setattr(engine.state, "used_keys", lambda *_: {})  # as if it was not used yet
    other = client.start("orders", {"id": -1}, idempotency_key=f"order-{BATCH + 5}").id

    with pytest.raises(StartsRefused, match="500 were started before") as caught:
        client.start_many("orders", starts)

    assert list(caught.value.refusals) == [BATCH + 5]
    assert other in str(caught.value)
    assert len(caught.value.started) == BATCH
    assert sql(COUNT) == [(BATCH + 1,)]


# -- with a transaction of the caller's, limits, breakpoints and broken servers ------------------------------


@pytest.mark.parametrize("commits", [True, False])
def test_in_a_callers_session_all_commit_or_none(
    client: WorkflowClient, engine: Engine, broker: Broker, workers: Workers, sql: Sql, commits: bool
) -> None:
    database = create_engine(engine.settings.database_url)
    with Session(database) as session:
        started = client.start_many("orders", keyed(range(BATCH + 1)), session=session)
        assert sql(COUNT) == [(0,)]
        assert not broker.queue
        session.commit() if commits else session.rollback()
    database.dispose()

    if commits:
        assert [message.execution_id for message in broker.messages] == [each.id for each in started]
        workers.drain()
        assert client.get(started[-1].id).status is ExecutionStatus.COMPLETED
    else:
        assert sql(COUNT) == [(0,)]
        assert not broker.queue


def test_limits_hold_as_for_single_starts(client: WorkflowClient, broker: Broker, workers: Workers) -> None:
    client.deploy(orders(limits=[{"key": "tenant:{{ placed.id }}", "concurrency": 2}]))

    started = client.start_many("orders", [Start({"id": number % 2}) for number in range(8)])

    assert {message.execution_id for message in broker.messages} == {each.id for each in started[:4]}
    order = []
    while broker.queue:
        order.append(workers.hop().execution_id)
        assert len({message.execution_id for message in broker.messages}) <= 4
    assert [each for each in order if each in [one.id for one in started[::2]]] == [
        one.id for one in started[::2]
    ]
    assert {client.get(each.id).status for each in started} == {ExecutionStatus.COMPLETED}


def test_a_breakpoint_holds_each(client: WorkflowClient, workers: Workers) -> None:
    client.control.workflows.pause_before("orders", "charge")

    started = client.start_many("orders", [Start(), Start()])
    workers.drain()

    assert {client.get(each.id).status for each in started} == {ExecutionStatus.PAUSED}


def test_those_without_a_node_complete_at_once(client: WorkflowClient, broker: Broker) -> None:
    flow = WorkflowBuilder("nothing")
    flow.trigger("begin")
    client.deploy(flow.build())

    started = client.start_many("nothing", [Start(), Start()])

    assert {client.get(each.id).status for each in started} == {ExecutionStatus.COMPLETED}
    assert not broker.queue


def test_without_a_broker_they_exist_and_are_rescued(
    client: WorkflowClient, broker: Broker, engine: Engine, sql: Sql
) -> None:
    broker.is_away = True
    started = client.start_many("orders", [Start(), Start()])
    broker.is_away = False

    assert {client.get(each.id).status for each in started} == {ExecutionStatus.PENDING}
    sql("UPDATE executions SET updated_at = updated_at - interval '1 hour'")
    let_redis_remember(engine.settings)
    assert rescue(engine) == 2
