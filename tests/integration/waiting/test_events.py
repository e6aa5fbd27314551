"""Events and the waits for them never miss each other, and nothing counts twice."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from workflow_engine import ExecutionStatus, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import ExecutionNotFound, InvalidValue
from workflow_engine.execution.records import DueWait
from workflow_engine.postgres.events import Events, SentEvent, lock_events, take_kept

Sql = Callable[..., list[tuple[Any, ...]]]

OPEN_WAIT = """
INSERT INTO execution_wait_states (execution_id, node_id, seq, wait_type, correlation_id, details)
VALUES (%(execution_id)s, %(node_id)s, %(seq)s, 'EVENTS', %(correlation_id)s, %(details)s)
"""


@pytest.fixture
def events(engine: Engine) -> Events:
    return engine.events


@pytest.fixture
def start(client: WorkflowClient) -> Callable[[], str]:
    """Return a function that starts executions, which no worker runs."""
    flow = WorkflowBuilder("orders")
    flow.trigger("placed") >> flow.function("charge", 1)
    client.deploy(flow.build())
    return lambda: client.start("orders").id


@pytest.fixture
def execution(start: Callable[[], str]) -> str:
    return start()


Required = str | list[str]


def open_wait(
    engine: Engine,
    execution_id: str,
    names: list[str],
    required: Required = "all",
    *,
    correlation_id: str = "order-7",
    node_id: str = "hear",
    seq: int = 1,
) -> bool:
    """Begin to wait as a commit does: the lock first, then the wait, then what has been kept for it."""
    details = json.dumps({"events": names, "required": required})
    with engine.database.transaction() as transaction:
        lock_events(transaction, execution_id, correlation_id)
        transaction.rows(
            OPEN_WAIT,
            execution_id=execution_id,
            node_id=node_id,
            seq=seq,
            correlation_id=correlation_id,
            details=details,
        )
        return take_kept(transaction, execution_id, node_id, lease=30)


def waits_of(sql: Sql, execution_id: str) -> list[tuple[Any, ...]]:
    """Return status and received events of the waits of an execution, in their order."""
    return sql(
        "SELECT status, received_events FROM execution_wait_states WHERE execution_id = %s ORDER BY seq",
        execution_id,
    )


def woken_by(answer: SentEvent) -> tuple[str, ...]:
    """Return the executions that can go on, after checking that an event wakes only its receivers."""
    woken = tuple(each.execution_id for each in answer.woken)
    assert set(woken) <= set(answer.executions)
    return woken


def requests_a_wake(sql: Sql, execution_id: str) -> bool:
    return bool(sql("SELECT wake_requested FROM executions WHERE id = %s", execution_id)[0][0])


# -- the wait is there first -------------------------------------------------------------------------------


def test_the_last_event_that_is_needed_wakes_the_wait(
    engine: Engine, events: Events, execution: str, sql: Sql
) -> None:
    open_wait(engine, execution, ["paid", "shipped"])

    first = events.send("paid", {"amount": 42}, correlation_id="order-7")
    before = requests_a_wake(sql, execution)
    second = events.send("shipped", None, correlation_id="order-7")

    assert first == SentEvent("delivered", (execution,))
    woken = DueWait(execution, "orders", 1, "hear", 1, None, queue=engine.settings.queue)
    assert second == SentEvent("delivered", (execution,), (woken,))
    assert waits_of(sql, execution) == [("RESUMING", {"paid": {"amount": 42}, "shipped": None})]
    assert (before, requests_a_wake(sql, execution)) == (False, True)
    ((leased,),) = sql("SELECT claimed_until BETWEEN now() AND now() + '31 s' FROM execution_wait_states")
    assert leased


@pytest.mark.parametrize(
    ("required", "sent", "is_woken"),
    [
        ("any", ["b"], True),
        ("all", ["a", "b"], False),
        ("all", ["c", "b", "a"], True),
        (["a", "c"], ["a", "b"], False),
        (["a", "c"], ["c", "a"], True),
    ],
)
def test_a_wait_is_woken_by_the_events_it_requires(
    engine: Engine,
    events: Events,
    execution: str,
    required: Required,
    sent: list[str],
    is_woken: bool,
) -> None:
    open_wait(engine, execution, ["a", "b", "c"], required)

    answers = [events.send(name, correlation_id="order-7") for name in sent]

    assert [bool(answer.woken) for answer in answers] == [False] * (len(sent) - 1) + [is_woken]


def test_of_several_events_of_one_name_the_first_counts(
    engine: Engine, events: Events, execution: str, sql: Sql
) -> None:
    open_wait(engine, execution, ["paid", "shipped"])

    events.send("paid", 1, correlation_id="order-7")
    again = events.send("paid", 2, correlation_id="order-7")

    assert again == SentEvent("duplicate", (execution,))
    assert waits_of(sql, execution) == [("WAITING", {"paid": 1})]


def test_the_same_event_id_twice_is_one_event(
    engine: Engine, events: Events, execution: str, sql: Sql
) -> None:
    open_wait(engine, execution, ["paid"], "any")

    first = events.send("paid", 1, correlation_id="order-7", event_id="e-1")
    second = events.send("paid", 1, correlation_id="order-7", event_id="e-1")

    assert (first.accepted, second) == ("delivered", SentEvent("duplicate", (execution,)))
    assert sql("SELECT count(*) FROM execution_events") == [(1,)]


def test_an_event_goes_to_every_wait_for_it_and_is_in_the_history_of_each(
    engine: Engine, events: Events, start: Callable[[], str], sql: Sql
) -> None:
    started = sorted(start() for _ in range(3))
    for each in started:
        open_wait(engine, each, ["paid"])

    answer = events.send("paid", 1, correlation_id="order-7", event_id="e-1", actor="till")

    assert (answer.accepted, answer.executions) == ("delivered", tuple(started))
    assert woken_by(answer) == tuple(started)
    history = sql(
        "SELECT execution_id::text, name, payload, actor, consumed_at IS NOT NULL FROM execution_events "
        "ORDER BY execution_id"
    )
    assert history == [(each, "paid", 1, "till", True) for each in started]


def test_an_event_reaches_only_the_waits_of_its_name_and_correlation_id(
    engine: Engine, events: Events, execution: str, sql: Sql
) -> None:
    open_wait(engine, execution, ["paid"])

    assert events.send("paid", correlation_id="order-8").accepted == "kept"
    assert events.send("shipped", correlation_id="order-7").accepted == "kept"
    assert waits_of(sql, execution) == [("WAITING", {})]


def test_an_event_sent_to_an_execution_reaches_its_waits_whatever_their_correlation_id(
    engine: Engine, events: Events, start: Callable[[], str], sql: Sql
) -> None:
    first, second = start(), start()
    open_wait(engine, first, ["paid"])
    open_wait(engine, second, ["paid"])

    answer = events.send("paid", 1, execution_id=first)

    assert (answer.accepted, woken_by(answer)) == ("delivered", (first,))
    assert waits_of(sql, second) == [("WAITING", {})]


# -- the event is there first ------------------------------------------------------------------------------


def test_an_event_that_came_early_is_kept_and_wakes_the_wait_as_it_begins(
    engine: Engine, events: Events, execution: str, sql: Sql
) -> None:
    assert events.send("paid", 1, correlation_id="order-7") == SentEvent("kept")

    assert open_wait(engine, execution, ["paid"])

    assert waits_of(sql, execution) == [("RESUMING", {"paid": 1})]
    assert requests_a_wake(sql, execution)
    assert sql("SELECT execution_id::text, seq FROM execution_events") == [(execution, 1)]


def test_an_early_event_that_is_not_enough_is_there_when_the_rest_comes(
    engine: Engine, events: Events, execution: str, sql: Sql
) -> None:
    events.send("paid", 1, correlation_id="order-7")
    events.send("paid", 2, correlation_id="order-7")

    is_enough = open_wait(engine, execution, ["paid", "shipped"])
    rest = events.send("shipped", 3, correlation_id="order-7")

    assert not is_enough
    assert woken_by(rest) == (execution,)
    assert waits_of(sql, execution) == [("RESUMING", {"paid": 1, "shipped": 3})]


def test_a_kept_event_goes_to_one_wait_only(engine: Engine, events: Events, start: Callable[[], str]) -> None:
    events.send("paid", 1, correlation_id="order-7")

    assert open_wait(engine, start(), ["paid"])
    assert not open_wait(engine, start(), ["paid"])


def test_an_early_event_for_one_execution_is_left_alone_by_the_others(
    engine: Engine, events: Events, start: Callable[[], str]
) -> None:
    first, second = start(), start()
    assert events.send("paid", 1, execution_id=first).accepted == "kept"

    assert not open_wait(engine, second, ["paid"])
    assert open_wait(engine, first, ["paid"])


def test_a_commit_that_is_repeated_finds_its_wait_woken(
    engine: Engine, events: Events, execution: str
) -> None:
    events.send("paid", 1, correlation_id="order-7")
    open_wait(engine, execution, ["paid"])

    with engine.database.transaction() as transaction:
        assert take_kept(transaction, execution, "hear", lease=30)


# -- waiting again -----------------------------------------------------------------------------------------


def test_an_event_that_comes_while_the_node_is_woken_is_there_when_it_waits_again(
    engine: Engine, events: Events, execution: str, sql: Sql
) -> None:
    open_wait(engine, execution, ["a", "b", "c"], "any")
    events.send("a", 1, correlation_id="order-7")

    between = events.send("b", 2, correlation_id="order-7")
    repeated = events.send("a", 9, correlation_id="order-7")
    sql("UPDATE execution_wait_states SET status = 'COMPLETED'")
    sql(
        "INSERT INTO node_executions (execution_id, seq, node_id, type, sub_type, status, token, started_at) "
        "VALUES (%s, 2, 'hear', 'logic', 'wait-events', 'WAITING', gen_random_uuid(), now())",
        execution,
    )
    is_woken = open_wait(engine, execution, ["b", "c"], "any", seq=2)

    assert between == SentEvent("kept", (execution,))
    assert repeated.accepted == "duplicate"
    assert is_woken
    assert waits_of(sql, execution)[1] == ("RESUMING", {"a": 1, "b": 2})


# -- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status", [ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.CANCELLED]
)
def test_an_event_for_an_execution_that_has_ended_is_reported_and_not_stored(
    engine: Engine, events: Events, execution: str, sql: Sql, status: ExecutionStatus
) -> None:
    engine.state.update_execution_status(execution, status)

    assert events.send("paid", execution_id=execution) == SentEvent("finished", (execution,))
    assert sql("SELECT count(*) FROM execution_events WHERE type = 'EVENT'") == [(0,)]


def test_an_event_for_a_paused_execution_is_taken(
    engine: Engine, events: Events, execution: str, sql: Sql
) -> None:
    open_wait(engine, execution, ["paid"])
    engine.state.update_execution_status(execution, ExecutionStatus.PAUSED)

    assert events.send("paid", 1, correlation_id="order-7").accepted == "delivered"
    assert waits_of(sql, execution) == [("RESUMING", {"paid": 1})]


def test_an_event_for_an_execution_that_is_not_there_is_refused(events: Events) -> None:
    with pytest.raises(ExecutionNotFound):
        events.send("paid", execution_id=str(uuid.uuid4()))


@pytest.mark.parametrize(
    ("name", "payload", "address", "path"),
    [
        ("", 1, {"correlation_id": "order-7"}, "name"),
        ("paid", float("nan"), {"correlation_id": "order-7"}, "payload"),
        ("paid", "x" * 2_000_000, {"correlation_id": "order-7"}, "payload"),
        ("paid", 1, {"correlation_id": "order\x007"}, "correlation_id"),
        ("paid", 1, {}, "correlation_id"),
        ("paid", 1, {"correlation_id": "order-7", "execution_id": str(uuid.uuid4())}, "correlation_id"),
        ("paid", 1, {"correlation_id": "order-7", "event_id": "e" * 201}, "event_id"),
    ],
    ids=["name", "nan", "large", "zero", "nowhere", "both", "id"],
)
def test_an_event_that_cannot_be_stored_says_why(
    events: Events, sql: Sql, name: str, payload: Any, address: dict[str, str], path: str
) -> None:
    with pytest.raises(InvalidValue) as refusal:
        events.send(name, payload, **address)  # type: ignore[arg-type]

    assert refusal.value.path == path
    assert sql("SELECT count(*) FROM execution_events") == [(0,)]


# -- both at once ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["correlation_id", "execution_id"])
def test_an_event_and_the_wait_for_it_at_the_same_instant_never_miss_each_other(
    engine: Engine,
    second_engine: Engine,
    start: Callable[[], str],
    sql: Sql,
    by: str,
) -> None:
    sender = second_engine.events
    executions = [start() for _ in range(150)]
    at_once = threading.Barrier(2)
    answers: list[str] = []

    def wait() -> None:
        for each in executions:
            at_once.wait(30)
            open_wait(engine, each, ["paid"], correlation_id=f"order-{each}")

    def send() -> None:
        for each in executions:
            at_once.wait(30)
            address = each if by == "execution_id" else f"order-{each}"
            answers.append(sender.send("paid", 1, **{by: address}).accepted)  # type: ignore[arg-type]

    with ThreadPoolExecutor(2) as threads:
        for thread in [threads.submit(wait), threads.submit(send)]:
            thread.result(60)

    assert sql("SELECT status, received_events, count(*) FROM execution_wait_states GROUP BY 1, 2") == [
        ("RESUMING", {"paid": 1}, len(executions))
    ]
    assert sql("SELECT count(*) FROM executions WHERE wake_requested") == [(len(executions),)]
    assert set(answers) <= {"delivered", "kept"}


def test_many_senders_to_the_same_waits_never_stand_in_each_others_way(
    new_engine: Callable[..., Engine], start: Callable[[], str], sql: Sql
) -> None:
    engines = [new_engine() for _ in range(3)]
    executions = [start() for _ in range(10)]
    names = [f"event-{number}" for number in range(12)]
    for each in executions:
        open_wait(engines[0], each, names)

    def send(number: int) -> None:
        sender = engines[number].events
        for name in names[number::3]:
            sender.send(name, number, correlation_id="order-7")
            for each in executions:
                sender.send(name, number, execution_id=each)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(send, range(3)))

    woken = sql("SELECT count(*) FROM execution_wait_states WHERE status = 'RESUMING'")
    assert woken == [(len(executions),)]
