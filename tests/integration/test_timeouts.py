"""Nodes and executions that take longer than they may."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from fleet_in_process import Workers, line

from workflow_engine import ExecutionStatus, NodeStatus, WorkflowClient, waiting
from workflow_engine.definition import Workflow, WorkflowSettings
from workflow_engine.engine import Engine
from workflow_engine.timekeeping import Timekeeping

Sql = Callable[..., list[tuple[object, ...]]]


def within(seconds: float, workflow: Workflow) -> Workflow:
    settings = WorkflowSettings(timeout=seconds)
    return Workflow.from_stored({**workflow.to_dict(), "settings": settings.model_dump(exclude_unset=True)})


def test_a_node_past_its_timeout_fails_and_the_failure_says_which_timeout(
    client: WorkflowClient, workers: Workers
) -> None:
    def slow() -> None:
        time.sleep(30)

    client.deploy(line(slow, timeout=0.1))
    execution_id = client.start("line").id

    workers.drain()

    execution = client.get(execution_id)
    assert execution.status is ExecutionStatus.FAILED
    assert execution.error == "the node ran for longer than its timeout of 0.1 s"
    assert execution.error_details["type"] == "TIMEOUT"


def test_a_node_past_its_timeout_is_tried_again_if_it_has_a_retry(
    client: WorkflowClient, workers: Workers
) -> None:
    def slow_at_first(context: object) -> str:
        if context.attempt == 1:  # type: ignore[attr-defined]
            time.sleep(30)
        return "done"

    client.deploy(line(slow_at_first, timeout=0.2, retry={"waitDuration": 0, "retryOn": ["TIMEOUT"]}))
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

    client.retry(execution_id)

    assert sql(
        "SELECT expires_at BETWEEN now() + interval '50 s' AND now() + interval '60 s' FROM executions"
    ) == [(True,)]
    assert client.get(execution_id).status is ExecutionStatus.WAITING
