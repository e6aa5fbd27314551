"""A purge removes what ended long ago with all that belongs to it, and nothing else."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from workflow_engine import ExecutionStatus, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import ExecutionNotFound
from workflow_engine.execution.ids import new_execution_id
from workflow_engine.maintenance.timekeeper import Timekeeping
from workflow_engine.postgres.retention import Purged, Retention

Sql = Callable[..., list[tuple[Any, ...]]]
Start = Callable[..., str]

DAY = 86_400
HANGING_ON = ("node_executions", "execution_wait_states", "execution_events")


@pytest.fixture
def retention(engine: Engine) -> Retention:
    return engine.retention


@pytest.fixture
def start(client: WorkflowClient, engine: Engine, sql: Sql) -> Start:
    """Return a function that starts an execution which got this status days ago, with a wait and an event."""
    flow = WorkflowBuilder("orders")
    flow.trigger("placed") >> flow.function("charge", 1)
    client.deploy(flow.build())

    def start(status: ExecutionStatus = ExecutionStatus.COMPLETED, days: float = 0, **options: Any) -> str:
        execution_id = client.start("orders", **options).id
        engine.state.update_execution_status(execution_id, status)
        sql(
            "UPDATE executions SET completed_at = completed_at - %s * interval '1 day' WHERE id = %s",
            days,
            execution_id,
        )
        sql(
            "INSERT INTO execution_wait_states (execution_id, node_id, seq, wait_type, status) "
            "VALUES (%s, 'hear', 1, 'EVENTS', 'COMPLETED')",
            execution_id,
        )
        sql("INSERT INTO execution_events (execution_id, type) VALUES (%s, 'PAUSED')", execution_id)
        return execution_id

    return start


def test_executions_that_ended_long_ago_go_with_everything_that_belongs_to_them(
    client: WorkflowClient, start: Start, sql: Sql
) -> None:
    old = [start(status, days=200) for status in ExecutionStatus if status.is_finished]
    young = start(days=100)

    purged = client.purge(180 * DAY)

    assert purged == Purged(executions=3, events=0)
    assert sql("SELECT id::text FROM executions") == [(young,)]
    for table in HANGING_ON:
        assert sql(f"SELECT DISTINCT execution_id::text FROM {table}") == [(young,)]
    with pytest.raises(ExecutionNotFound):
        client.get(old[0])


@pytest.mark.parametrize("status", [ExecutionStatus.RUNNING, ExecutionStatus.PAUSED, ExecutionStatus.WAITING])
def test_an_execution_that_is_not_over_stays_however_old_it_is(
    client: WorkflowClient, start: Start, sql: Sql, status: ExecutionStatus
) -> None:
    execution = start(status)
    sql("UPDATE executions SET created_at = now() - interval '9 years'")

    assert client.purge(0) == Purged(0, 0)
    assert client.get(execution).status is status


def test_a_purge_goes_on_batch_by_batch_and_reports_its_progress(
    retention: Retention, start: Start, sql: Sql
) -> None:
    for _ in range(5):
        start(days=2)
    totals: list[int] = []

    retention.purge(DAY, batch=2, progress=lambda purged: totals.append(purged.executions))

    assert totals[:3] == [2, 4, 5]
    assert sql("SELECT count(*) FROM executions") == [(0,)]


def test_the_idempotency_key_of_a_removed_execution_may_start_another(
    client: WorkflowClient, start: Start
) -> None:
    old = start(days=2, idempotency_key="order-7")
    young = start(idempotency_key="order-8")

    client.purge(DAY)

    again = client.start("orders", idempotency_key="order-7")
    assert again.is_new
    assert again.id != old
    assert client.start("orders", idempotency_key="order-8").id == young


def test_events_that_nothing_waited_for_go_after_their_retention(
    client: WorkflowClient, engine: Engine, start: Start, sql: Sql
) -> None:
    client.send_event("order-7", "paid", event_id="old")
    sql("UPDATE execution_events SET created_at = created_at - interval '8 days'")
    client.send_event("order-7", "paid", event_id="young")
    waiting = start(ExecutionStatus.WAITING)
    client.send_event(execution_id=waiting, name="rated", event_id="consumed")
    sql(
        "UPDATE execution_events SET consumed_at = now(), created_at = created_at - interval '8 days' "
        "WHERE event_id = 'consumed'"
    )

    purged = client.purge(365 * DAY)

    assert purged == Purged(executions=0, events=1)
    left = sql("SELECT event_id FROM execution_events WHERE type = 'EVENT' ORDER BY 1")
    assert left == [("consumed",), ("young",)]


def test_a_dry_run_counts_and_removes_nothing(client: WorkflowClient, start: Start, sql: Sql) -> None:
    start(days=2)
    start(days=0.5)
    client.send_event("order-7", "paid")
    sql("UPDATE execution_events SET created_at = created_at - interval '8 days' WHERE type = 'EVENT'")

    assert client.purge(DAY, dry_run=True) == Purged(executions=1, events=1)
    assert client.purge(DAY) == Purged(executions=1, events=1)


def test_an_execution_that_is_being_moved_is_left_for_the_next_purge(
    client: WorkflowClient, engine: Engine, second_engine: Engine, start: Start
) -> None:
    execution, other = start(days=2), start(days=2)

    with second_engine.database.transaction() as operator:
        operator.rows("SELECT 1 FROM executions WHERE id = %(id)s FOR UPDATE", id=execution)
        first = client.purge(DAY)

    assert first.executions == 1
    assert client.get(execution).id == execution
    assert client.purge(DAY).executions == 1
    with pytest.raises(ExecutionNotFound):
        client.get(other)


def test_a_child_stays_while_its_parent_is_not_over(client: WorkflowClient, start: Start, sql: Sql) -> None:
    parent, child = start(ExecutionStatus.WAITING), start(days=2)
    sql("UPDATE executions SET parent_execution_id = %s WHERE id = %s", parent, child)

    assert client.purge(DAY).executions == 0


def test_what_a_workflow_keeps_no_longer_goes_by_itself_in_bounded_batches(
    client: WorkflowClient, engine: Engine, sql: Sql, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_for_ever = start(days=500)
    parent = WorkflowBuilder("kept", settings={"keep": {"completed": "30d", "failed": "90d"}})
    parent.trigger("begin") >> parent.sub_workflow("child", "orders")
    client.deploy(parent.build())
    now = uuid.UUID(new_execution_id())

    def ended(status: ExecutionStatus, days: int) -> str:
        then = str(uuid.UUID(int=now.int - (days * DAY * 1000 << 80) + days))
        monkeypatch.setattr("workflow_engine.engine.starts.starting.new_execution_id", lambda: then)
        client.start("kept")
        engine.state.update_execution_status(then, status)
        sql("UPDATE executions SET completed_at = now() - %s * interval '1 day' WHERE id = %s", days, then)
        return then

    parents = [ended(ExecutionStatus.COMPLETED, 31), ended(ExecutionStatus.FAILED, 91)]
    stays = [
        ended(ExecutionStatus.COMPLETED, 29),
        ended(ExecutionStatus.FAILED, 89),
        ended(ExecutionStatus.CANCELLED, 500),
    ]
    monkeypatch.undo()
    child = start(days=31)
    sql(
        "UPDATE executions SET root_execution_id = %s, parent_execution_id = %s WHERE id = %s",
        parents[0],
        parents[0],
        child,
    )

    removed = [engine.retention.remove_outlived(batch=1)]
    timekeeping = Timekeeping(engine)
    for _ in range(3):
        timekeeping.round()

    assert removed == [1]
    assert {str(id) for (id,) in sql("SELECT id FROM executions")} == {kept_for_ever, *stays}
    assert sql("SELECT count(*) FROM node_executions") == [(len(stays) + 1,)]
