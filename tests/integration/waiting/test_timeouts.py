"""A node or an execution past its timeout fails, and the time of a pause does not count."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded

from support.broker import Broker, Workers
from support.workflows import line
from workflow_engine import ExecutionStatus, NodeStatus, WorkflowBuilder, WorkflowClient, waiting
from workflow_engine.definition.workflow import Workflow, WorkflowSettings
from workflow_engine.engine.assembly import Engine
from workflow_engine.maintenance.timekeeper import Timekeeping

Sql = Callable[..., list[tuple[object, ...]]]


def within(seconds: float, workflow: Workflow) -> Workflow:
    settings = WorkflowSettings(timeout=seconds)
    return Workflow.from_stored({**workflow.to_dict(), "settings": settings.model_dump(exclude_unset=True)})


def test_a_node_past_its_timeout_fails_and_the_failure_says_which_timeout(
    client: WorkflowClient, workers: Workers
) -> None:
    def slow() -> None:
        time.sleep(30)

    client.deploy(line(slow, timeout=0.5))
    execution_id = client.start("line").id

    workers.drain()

    execution = client.get(execution_id)
    assert execution.status is ExecutionStatus.FAILED
    assert execution.error == "the node ran for longer than its timeout of 0.5 s"
    assert execution.error_details["type"] == "TIMEOUT"
    # Where it was when its time was over.
    assert "    time.sleep(30)\n" in execution.error_details["traceback"]


def test_a_node_past_its_timeout_is_tried_again_if_it_has_a_retry(
    client: WorkflowClient, workers: Workers
) -> None:
    def slow_at_first(context: object) -> str:
        if context.attempt == 1:  # type: ignore[attr-defined]
            time.sleep(30)
        return "done"

    client.deploy(line(slow_at_first, timeout=1, retry={"waitDuration": 0, "retryOn": ["TIMEOUT"]}))
    execution_id = client.start("line").id

    workers.drain()

    statuses = [row.status for row in client.journal(execution_id)][1:]
    assert statuses == [NodeStatus.RETRYING, NodeStatus.COMPLETED]


@pytest.fixture
def timekeeping(engine: Engine) -> Timekeeping:
    return Timekeeping(engine)


def test_an_execution_past_its_timeout_fails_wherever_it_stands(
    client: WorkflowClient, workers: Workers, timekeeping: Timekeeping, sql: Sql, engine: Engine
) -> None:
    def nap() -> object:
        return waiting(seconds=3600)

    client.deploy(within(60, line(nap)))
    execution_id = client.start("line").id
    workers.drain()
    assert client.get(execution_id).status is ExecutionStatus.WAITING
    timekeeping.round()
    assert client.get(execution_id).status is ExecutionStatus.WAITING

    sql("UPDATE executions SET expires_at = now()")
    timekeeping.round()

    execution = client.get(execution_id)
    assert execution.status is ExecutionStatus.FAILED
    assert execution.error == "the execution took longer than its timeout of 60 s"
    assert sql("SELECT status FROM execution_wait_states") == [("CANCELLED",)]
    assert sql("SELECT type, actor FROM execution_events") == [("TIMED_OUT", "timekeeper")]
    assert engine.waits.claim_due() == []


def test_a_node_that_runs_while_its_execution_times_out_is_refused(
    client: WorkflowClient, workers: Workers, timekeeping: Timekeeping, sql: Sql
) -> None:
    def late() -> str:
        sql("UPDATE executions SET expires_at = now()")
        timekeeping.round()
        return "too late"

    client.deploy(within(60, line(late)))
    execution_id = client.start("line").id

    workers.drain()

    assert client.get(execution_id).status is ExecutionStatus.FAILED
    assert [row.node_id for row in client.journal(execution_id)] == ["start"]


def test_an_execution_that_is_retried_after_its_timeout_has_the_whole_of_it_again(
    client: WorkflowClient, workers: Workers, timekeeping: Timekeeping, sql: Sql
) -> None:
    def nap() -> object:
        return waiting(seconds=3600)

    client.deploy(within(60, line(nap)))
    execution_id = client.start("line").id
    workers.drain()
    sql("UPDATE executions SET expires_at = now()")
    timekeeping.round()

    client.control.retry(execution_id)

    assert sql(
        "SELECT expires_at BETWEEN now() + interval '50 s' AND now() + interval '60 s' FROM executions"
    ) == [(True,)]
    assert client.get(execution_id).status is ExecutionStatus.WAITING


def nap() -> object:
    return waiting(seconds=3600)


def test_the_time_of_an_execution_stands_still_while_it_is_paused(
    client: WorkflowClient, workers: Workers, timekeeping: Timekeeping, sql: Sql
) -> None:
    client.deploy(within(60, line(nap)))
    execution_id = client.start("line").id
    workers.drain()
    sql("UPDATE executions SET expires_at = now() + interval '3 s'")
    client.control.pause(execution_id)

    time.sleep(3.1)
    timekeeping.round()
    assert client.get(execution_id).status is ExecutionStatus.PAUSED
    client.control.resume(execution_id)
    timekeeping.round()
    assert client.get(execution_id).status is ExecutionStatus.WAITING

    deadline = time.monotonic() + 30
    while not client.get(execution_id).is_finished:
        assert time.monotonic() < deadline, "what was left of its time is never over"
        timekeeping.round()
    assert client.get(execution_id).error == "the execution took longer than its timeout of 60 s"


def test_a_paused_execution_gives_the_timekeeper_nothing_to_do(
    client: WorkflowClient, engine: Engine, sql: Sql
) -> None:
    client.deploy(within(60, line(nap)))
    client.control.pause(client.start("line").id)

    assert engine.due_times.next().timeout == math.inf
    assert sql("SELECT timeout_left BETWEEN 50 AND 60 FROM executions") == [(True,)]


def test_a_paused_execution_that_is_run_again_has_the_whole_of_its_time_once_it_is_resumed(
    client: WorkflowClient, workers: Workers, sql: Sql
) -> None:
    client.deploy(within(60, line(nap)))
    execution_id = client.start("line").id
    workers.drain()
    sql("UPDATE executions SET expires_at = now() + interval '5 s'")
    client.control.pause(execution_id)

    client.control.rerun(execution_id, "nap")
    assert sql("SELECT expires_at, timeout_left FROM executions") == [(None, 60)]
    client.control.resume(execution_id)

    assert sql("SELECT expires_at > now() + interval '50 s', timeout_left FROM executions") == [(True, None)]


def test_a_soft_time_limit_of_celery_s_is_named(client: WorkflowClient, workers: Workers) -> None:
    def outruns_it() -> None:
        try:
            raise SoftTimeLimitExceeded
        except SoftTimeLimitExceeded as error:
            raise ValueError("could not finish") from error

    client.deploy(line(outruns_it))
    execution_id = client.start("line").id

    workers.drain()

    execution = client.get(execution_id)
    assert execution.error_details["type"] == "SoftTimeLimitExceeded"
    assert execution.error == (
        "the node ran for longer than Celery's soft time limit (`task_soft_time_limit`, or "
        "`soft_time_limit` of the task that it runs)"
    )


def test_what_a_node_makes_of_its_timeout_is_a_timeout(client: WorkflowClient, workers: Workers) -> None:
    def wraps() -> None:
        try:
            time.sleep(30)
        except Exception as error:
            raise ValueError("could not finish") from error

    client.deploy(line(wraps, timeout=0.5))
    execution_id = client.start("line").id

    workers.drain()

    assert client.get(execution_id).error == "the node ran for longer than its timeout of 0.5 s"


FAR_OFF = {
    "a time that is past year 9999 elsewhere": ({"until": datetime.max.replace(tzinfo=UTC)}, "until must be"),
    "a time before year 1 elsewhere": ({"until": datetime.min.replace(tzinfo=UTC)}, "until must be"),
    "too many seconds": ({"seconds": 1e12}, "seconds: 1e+12 s are more than a hundred years"),
    "too long for events": (
        {"events": ["paid"], "correlation_id": "a", "timeout": 1e12},
        "timeout: 1e+12 s are more than a hundred years",
    ),
}


@pytest.mark.parametrize(("wait", "message"), FAR_OFF.values(), ids=FAR_OFF)
def test_a_wait_whose_end_is_out_of_range_fails_its_node(
    client: WorkflowClient, workers: Workers, wait: dict[str, Any], message: str
) -> None:
    def waits() -> object:
        return waiting(**wait)

    client.deploy(line(waits))
    execution_id = client.start("line").id

    workers.drain()

    assert message in (client.get(execution_id).error or "")


@pytest.mark.parametrize(
    ("until", "status"),
    [
        ("9999-12-29T23:00:00Z", ExecutionStatus.WAITING),
        ("9999-12-31T23:59:59-14:00", ExecutionStatus.FAILED),
        ("0001-01-02T00:00:00Z", ExecutionStatus.COMPLETED),
        ("0001-01-01T00:00:00+14:00", ExecutionStatus.FAILED),
    ],
)
def test_a_time_at_either_end_of_the_calendar_can_be_shown(
    client: WorkflowClient, workers: Workers, until: str, status: ExecutionStatus
) -> None:
    flow = WorkflowBuilder("far-off")
    flow.trigger("start") >> flow.delay("rest", until="{{ start.at }}")
    client.deploy(flow.build())
    execution_id = client.start("far-off", {"at": until}).id

    workers.drain()

    assert client.get(execution_id).status is status
    assert [row.node_id for row in client.journal(execution_id)][:2] == ["start", "rest"]


def test_a_time_that_is_past_goes_on_at_once_by_the_clock_of_the_database(
    client: WorkflowClient, workers: Workers, sql: Sql
) -> None:
    flow = WorkflowBuilder("past")
    flow.trigger("start") >> flow.delay("rest", until="{{ start.at }}") >> flow.function("after", "{{ 1 }}")
    client.deploy(flow.build())
    [[now]] = sql("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')")

    execution_id = client.start("past", {"at": now}).id
    workers.drain()

    assert client.get(execution_id).status is ExecutionStatus.COMPLETED
    assert [row.status for row in client.journal(execution_id)] == [
        NodeStatus.COMPLETED,
        NodeStatus.WAITING,
        NodeStatus.COMPLETED,
        NodeStatus.COMPLETED,
    ]


def test_a_wait_that_is_over_when_it_begins_is_woken_again_if_its_message_is_lost(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    time_passes: Callable[[float], None],
    wake_due: Callable[[], list[str]],
) -> None:
    flow = WorkflowBuilder("past")
    flow.trigger("start") >> flow.delay("rest", until="2001-01-01T00:00:00Z")
    client.deploy(flow.build())
    execution_id = client.start("past").id
    workers.hop()
    broker.queue.clear()

    assert wake_due() == []
    time_passes(60)
    assert wake_due() == ["rest"]
    workers.drain()

    assert client.get(execution_id).status is ExecutionStatus.COMPLETED
