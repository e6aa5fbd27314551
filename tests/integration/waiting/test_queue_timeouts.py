"""A node that no worker begins within its `queueTimeout` fails, and one that was begun in time does not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from support.broker import Workers
from support.workflows import calling, line
from workflow_engine import ExecutionStatus, NodeStatus, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.maintenance.timekeeper import Timekeeping

Sql = Callable[..., list[tuple[Any, ...]]]

NOTED = "SELECT node_id, seconds FROM queue_deadlines ORDER BY node_id"


def first() -> str:
    return "first"


def second() -> str:
    return "second"


def third() -> str:
    return "third"


@pytest.fixture
def timekeeping(engine: Engine) -> Timekeeping:
    return Timekeeping(engine)


@pytest.fixture
def time_is_over(sql: Sql) -> Callable[[], None]:
    """Return a function that lets the time of all nodes in their queues pass."""

    def over() -> None:
        sql(
            "UPDATE queue_deadlines SET expires_at = expires_at - seconds * interval '1 second', "
            "look_at = look_at - seconds * interval '1 second' RETURNING 1"
        )

    return over


def start(client: WorkflowClient, *steps: Callable[..., Any], **options: Any) -> str:
    client.deploy(line(*(steps or (first, second)), queue_timeout=60, **options))
    return client.start("line").id


def last_error(client: WorkflowClient, execution: str) -> Any:
    return (client.get(execution).error_details or {}).get("type")


def test_a_node_that_begins_in_time_runs_and_leaves_nothing(
    client: WorkflowClient, workers: Workers, sql: Sql
) -> None:
    execution = start(client)
    assert sql(NOTED) == [("first", 60.0)]
    workers.hop()
    assert sql(NOTED) == [("second", 60.0)]
    workers.drain()

    assert client.get(execution).result == "second"
    assert sql(NOTED) == []


def test_a_node_that_no_worker_takes_fails_by_itself(
    client: WorkflowClient,
    workers: Workers,
    timekeeping: Timekeeping,
    time_is_over: Callable[[], None],
    sql: Sql,
) -> None:
    execution = start(client)
    workers.hop()
    timekeeping.round()
    assert client.get(execution).status is ExecutionStatus.RUNNING

    time_is_over()
    timekeeping.round()

    found = client.get(execution)
    assert (found.status, last_error(client, execution)) == (ExecutionStatus.FAILED, "QUEUE_TIMEOUT")
    assert "no worker began the node within its queueTimeout of 60 s" in str(found.error)
    assert sql(NOTED) == []
    workers.drain()  # its message comes too late
    assert [row.node_id for row in client.journal(execution)] == ["start", "first", "second"]


def test_a_worker_that_takes_the_message_too_late_does_not_run_the_node(
    client: WorkflowClient, workers: Workers, time_is_over: Callable[[], None]
) -> None:
    ran = []

    def late() -> None:
        ran.append(1)

    execution = start(client, late)
    time_is_over()
    workers.drain()

    assert last_error(client, execution) == "QUEUE_TIMEOUT"
    assert ran == []


def test_its_failure_goes_the_way_of_any_other_and_is_not_retried(
    client: WorkflowClient, workers: Workers, time_is_over: Callable[[], None], timekeeping: Timekeeping
) -> None:
    flow = WorkflowBuilder("handled")
    late = calling(flow, first, queue_timeout=5, retry={"maxAttempts": 3, "waitDuration": 0})
    flow.trigger("start") >> late
    late.on_error >> calling(flow, second)
    client.deploy(flow.build())
    execution = client.start("handled").id
    time_is_over()
    timekeeping.round()
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED
    statuses = [(row.node_id, row.status) for row in client.journal(execution)][1:]
    assert statuses == [("first", NodeStatus.FAILED), ("second", NodeStatus.COMPLETED)]


def test_a_node_that_has_begun_and_lost_its_process_is_not_late(
    client: WorkflowClient,
    workers: Workers,
    engine: Engine,
    time_is_over: Callable[[], None],
    timekeeping: Timekeeping,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    execution = start(client)
    with monkeypatch.context() as process:
        process.setattr(engine.state, "update_execution", lambda _: sys.exit(1))
        with pytest.raises(SystemExit):
            workers.hop()
    time_is_over()
    timekeeping.round()
    engine.executor.resume_execution(execution)
    workers.drain()

    assert client.get(execution).result == "second"


def test_a_retry_may_stand_in_the_queue_for_any_time(
    client: WorkflowClient, workers: Workers, time_is_over: Callable[[], None], timekeeping: Timekeeping
) -> None:
    def fails_once(context: Any) -> str:
        if context.attempt == 1:
            raise ValueError("once")
        return "done"

    execution = start(client, fails_once, retry={"waitDuration": 0})
    workers.hop()
    time_is_over()
    timekeeping.round()
    workers.drain()

    assert client.get(execution).result == "done"


def test_the_time_of_a_pause_does_not_count(
    client: WorkflowClient, workers: Workers, time_is_over: Callable[[], None], timekeeping: Timekeeping
) -> None:
    execution = start(client)
    client.control.pause(execution)
    time_is_over()
    timekeeping.round()
    client.control.resume(execution)
    timekeeping.round()
    workers.drain()

    assert client.get(execution).result == "second"


def test_only_nodes_in_a_queue_are_counted_and_not_those_behind_their_siblings(
    client: WorkflowClient, workers: Workers, sql: Sql
) -> None:
    flow = WorkflowBuilder("branches")
    begin = flow.trigger("start")
    for step in (first, second, third):
        begin >> calling(flow, step, queue_timeout=9)
    client.deploy(flow.build())
    execution = client.start("branches").id

    seen = []
    while workers.broker.queue:
        seen.append([node_id for node_id, _ in sql(NOTED)])
        workers.hop()
    assert seen == [["first"], ["second"], ["third"]]
    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_siblings_at_the_same_time_are_counted_each_for_itself(
    client: WorkflowClient, workers: Workers, sql: Sql
) -> None:
    flow = WorkflowBuilder("branches", settings={"concurrency": 2})
    begin = flow.trigger("start")
    for step in (first, second, third):
        begin >> calling(flow, step, queue_timeout=9)
    client.deploy(flow.build())
    client.start("branches")

    assert [node_id for node_id, _ in sql(NOTED)] == ["first", "second"]
    workers.hop()
    assert [node_id for node_id, _ in sql(NOTED)] == ["second", "third"]
    workers.drain()
    assert sql(NOTED) == []


def test_an_execution_that_stands_in_line_for_a_slot_stands_in_no_queue(
    client: WorkflowClient, workers: Workers, time_is_over: Callable[[], None], timekeeping: Timekeeping
) -> None:
    flow = WorkflowBuilder("limited", limits=[{"key": "all", "concurrency": 1}])
    flow.trigger("start") >> calling(flow, first, queue_timeout=9)
    client.deploy(flow.build())
    executions = [client.start("limited").id for _ in range(2)]
    workers.broker.queue.clear()
    time_is_over()
    timekeeping.round()

    statuses = [client.get(each).status for each in executions]
    assert statuses == [ExecutionStatus.FAILED, ExecutionStatus.PENDING]
    workers.drain()
    assert client.get(executions[1]).status is ExecutionStatus.COMPLETED


def test_what_an_end_leaves_behind_is_forgotten(
    client: WorkflowClient, time_is_over: Callable[[], None], timekeeping: Timekeeping, sql: Sql
) -> None:
    client.control.cancel(start(client))
    time_is_over()
    timekeeping.round()

    assert sql(NOTED) == []


# -- where pure nodes run in the hop before them -----------------------------------------------------------


def deploy_pure(client: WorkflowClient, act: Callable[..., Any], **settings: Any) -> str:
    """Start `pure1`, `pure2`, `act` and `pure3` in a row, each with a time in its queue."""
    flow = WorkflowBuilder("pure", settings={"pure": "inline", **settings})
    last: Any = flow.trigger("start")
    for name in ("pure1", "pure2"):
        last = last >> flow.function(name, "{{ 1 }}", queue_timeout=60)
    last = last >> calling(flow, act, queue_timeout=60)
    last >> flow.function("pure3", "{{ act }}", queue_timeout=60)
    client.deploy(flow.build())
    return client.start("pure").id


@pytest.mark.parametrize("hops", ["spread", "inline"])
def test_what_a_worker_runs_by_itself_stands_in_no_queue_and_leaves_nothing(
    client: WorkflowClient, workers: Workers, sql: Sql, hops: str
) -> None:
    noted: list[Any] = []

    def act() -> str:
        noted.append(sql(NOTED))
        return "acted"

    execution = deploy_pure(client, act, hops=hops)
    assert sql(NOTED) == [("pure1", 60.0)]

    workers.drain()

    assert client.get(execution).result == "acted"
    assert noted == [[]]
    assert sql(NOTED) == []


def test_a_node_behind_pure_ones_that_is_sent_to_its_queue_may_be_late_there(
    client: WorkflowClient,
    workers: Workers,
    sql: Sql,
    timekeeping: Timekeeping,
    time_is_over: Callable[[], None],
) -> None:
    ran: list[int] = []

    def act() -> None:
        ran.append(1)

    execution = deploy_pure(client, act)
    workers.hop()
    assert [row.node_id for row in client.journal(execution)] == ["start", "pure1", "pure2"]
    assert sql(NOTED) == [("act", 60.0)]

    time_is_over()
    timekeeping.round()
    workers.drain()

    assert (last_error(client, execution), ran, sql(NOTED)) == ("QUEUE_TIMEOUT", [], [])
