"""Kept data does not slow the engine down: each statement reads about as many rows as it handles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from support.broker import Broker, Workers
from support.wire import Wire, read_postgres_messages
from support.workflows import line
from workflow_engine import ExecutionStatus, WorkflowBuilder, WorkflowClient, waiting
from workflow_engine.engine.assembly import Engine
from workflow_engine.postgres.retention import Purged

Sql = Callable[..., list[tuple[Any, ...]]]

DAY = 86_400
KEPT = 3_000
FEW = 60
"""The number of rows that may be read at most, however many are kept."""

COPY = f"""
WITH copies AS (SELECT gen_random_uuid() AS id FROM generate_series(1, {KEPT}))
INSERT INTO {{table}} SELECT copy.* FROM {{table}} original, copies,
    LATERAL jsonb_populate_record(original, jsonb_build_object('id', copies.id, 'status', 'COMPLETED')) copy
WHERE original.{{key}} = %s
"""

READ = """
SELECT sum(seq_tup_read) + (
    SELECT sum(idx_tup_read) FROM pg_stat_user_indexes i WHERE i.relid = ANY(array_agg(t.relid)))
FROM pg_stat_user_tables t WHERE schemaname = 'public' AND relname = ANY(%s)
"""


@dataclass
class Rows:
    """The rows and index entries that were read in a block."""

    read: int = 0


@pytest.fixture
def counted(sql: Sql) -> Callable[..., Any]:
    """Return a counter of the rows that the engine's one connection reads from some tables."""

    def read(tables: tuple[str, ...]) -> int:
        sql("SELECT pg_stat_force_next_flush()")
        return int(sql(READ, list(tables))[0][0])  # type: ignore[call-overload]

    @contextmanager
    def count(*tables: str) -> Iterator[Rows]:
        sql(f"VACUUM (ANALYZE) {', '.join(tables)}")  # what the tests before have left behind
        rows, before = Rows(), read(tables)
        yield rows
        rows.read = read(tables) - before

    return count


@pytest.fixture
def finished(client: WorkflowClient, workers: Workers, sql: Sql) -> str:
    """Return one of many executions that have just completed."""
    client.deploy(line(done))
    execution = client.start("line").id
    workers.drain()
    sql(COPY.format(table="executions", key="id"), execution)
    return execution


def done() -> int:
    return 1


def polls(context: Any) -> Any:
    return waiting(seconds=1)


# -- purge -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dry_run", [False, True], ids=["purge", "dry run"])
def test_a_purge_does_not_read_the_executions_that_stay(
    client: WorkflowClient,
    workers: Workers,
    finished: str,
    sql: Sql,
    counted: Callable[..., Any],
    dry_run: bool,
) -> None:
    old = [client.start("line").id for _ in range(5)]
    workers.drain()
    sql("UPDATE executions SET completed_at = completed_at - interval '2 days' WHERE id::text = ANY(%s)", old)

    with counted("executions") as rows:
        purged = client.purge(DAY, dry_run=dry_run)

    assert purged == Purged(executions=5, events=0)
    assert rows.read <= FEW


@pytest.mark.parametrize("dry_run", [False, True], ids=["purge", "dry run"])
def test_a_purge_does_not_read_the_events_that_stay(
    client: WorkflowClient, finished: str, sql: Sql, counted: Callable[..., Any], dry_run: bool
) -> None:
    sql(
        "INSERT INTO execution_events (execution_id, type, name, consumed_at) "
        f"SELECT %s, 'EVENT', 'paid', now() FROM generate_series(1, {KEPT})",
        finished,
    )
    sql(
        "INSERT INTO execution_events (type, name, correlation_id) "
        f"SELECT 'EVENT', 'paid', 'order-7' FROM generate_series(1, {KEPT})"
    )
    sql(
        "INSERT INTO execution_events (type, name, correlation_id, created_at) "
        "SELECT 'EVENT', 'paid', 'order-8', now() - interval '8 days' FROM generate_series(1, 5)"
    )

    with counted("execution_events") as rows:
        purged = client.purge(DAY, dry_run=dry_run)

    assert purged == Purged(executions=0, events=5)
    assert rows.read <= FEW


def test_a_purge_in_batches_reads_nothing_twice(
    engine: Engine, finished: str, counted: Callable[..., Any]
) -> None:
    with counted("executions") as rows:
        purged = engine.retention.purge(-60, batch=100)

    assert purged.executions == KEPT + 1
    assert rows.read <= 3 * KEPT + FEW, "once to be chosen, and once to be deleted"


# -- list --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workflow", [None, "line"], ids=["all workflows", "one workflow"])
@pytest.mark.parametrize(
    "statuses", [[ExecutionStatus.FAILED], [ExecutionStatus.FAILED, ExecutionStatus.PAUSED]], ids=len
)
def test_a_list_of_a_rare_status_does_not_read_the_others(
    client: WorkflowClient,
    engine: Engine,
    finished: str,
    counted: Callable[..., Any],
    workflow: str | None,
    statuses: list[ExecutionStatus],
) -> None:
    failed = [client.start("line").id for _ in range(3)]
    for each in failed:
        engine.state.update_execution_status(each, ExecutionStatus.FAILED, error="no")

    with counted("executions") as rows:
        listed = client.list(workflow, statuses)

    assert [each.id for each in listed] == failed[::-1]
    assert rows.read <= FEW


@pytest.mark.parametrize("workflow", [None, "line"], ids=["all workflows", "one workflow"])
def test_a_page_of_a_list_costs_the_same_wherever_it_begins(
    client: WorkflowClient, finished: str, sql: Sql, counted: Callable[..., Any], workflow: str | None
) -> None:
    ((middle,),) = sql(f"SELECT id::text FROM executions ORDER BY id OFFSET {KEPT // 2} LIMIT 1")

    with counted("executions") as rows:
        listed = client.list(workflow, limit=20, before=middle)

    assert [each.id for each in listed] == [
        id for (id,) in sql("SELECT id::text FROM executions WHERE id < %s ORDER BY id DESC LIMIT 20", middle)
    ]
    assert rows.read <= FEW


# -- waits -------------------------------------------------------------------------------------------------


def test_a_node_that_polls_costs_the_same_however_often_it_has(
    client: WorkflowClient,
    broker: Broker,
    engine: Engine,
    sql: Sql,
    wake_due: Callable[[], list[str]],
    counted: Callable[..., Any],
) -> None:
    client.deploy(line(polls))
    execution = client.start("line").id
    Workers(broker, engine).drain()
    sql(COPY.format(table="execution_wait_states", key="execution_id"), execution)

    with counted("execution_wait_states", "node_executions") as rows:
        for _ in range(3):
            sql("UPDATE execution_wait_states SET resume_at = now() WHERE status = 'WAITING'")
            assert wake_due() == ["polls"]
            Workers(broker, engine).drain()

    assert sql("SELECT count(*) FROM node_executions WHERE status = 'WAITING'") == [(4,)]
    assert rows.read <= 3 * FEW


def test_a_wait_does_not_read_the_events_kept_for_others(
    client: WorkflowClient, broker: Broker, engine: Engine, sql: Sql, counted: Callable[..., Any]
) -> None:
    flow = WorkflowBuilder("orders")
    flow.trigger("placed") >> flow.wait_events("hear", ["paid", "shipped"], correlation_id="order-7")
    client.deploy(flow.build())
    execution = client.start("orders").id
    for name, correlation_id in (("paid", "order-8"), ("rated", "order-7"), ("paid", "order-7")):
        sql(
            "INSERT INTO execution_events (type, name, correlation_id, payload) "
            f"SELECT 'EVENT', %s, %s, to_jsonb(n) FROM generate_series(1, {KEPT}) AS n",
            name,
            correlation_id,
        )
    sql(
        "INSERT INTO execution_events (execution_id, type, name, consumed_at) "
        f"SELECT %s, 'EVENT', 'paid', now() FROM generate_series(1, {KEPT})",
        execution,
    )

    with counted("execution_events") as rows:
        Workers(broker, engine).drain()

    assert sql("SELECT received_events FROM execution_wait_states") == [({"paid": 1},)]
    assert rows.read <= FEW


# -- recovery ----------------------------------------------------------------------------------------------


def test_learning_what_is_due_reads_no_outputs(
    client: WorkflowClient, workers: Workers, broker: Broker, new_engine: Callable[..., Engine]
) -> None:
    def first() -> str:
        return "x" * 500_000

    def second() -> int:
        return 2

    client.deploy(line(first, second))
    execution = client.start("line", variables={"text": "y" * 500_000}).id
    workers.hop()
    broker.queue.clear()
    settings = new_engine().settings
    wire = Wire(settings.database_url.replace("+psycopg2", ""), read_postgres_messages)
    rescuer = new_engine(database_url=wire.url.replace("postgresql:", "postgresql+psycopg2:"))
    try:
        rescuer.workflows.get("line", 1)
        with wire.recorded() as traffic:
            assert rescuer.executor.resume_execution(execution)
    finally:
        wire.close()

    assert traffic.bytes_received < 20_000
    assert [message.node_id for message in broker.messages] == ["second"]
    workers.drain()
    assert client.get(execution).status is ExecutionStatus.COMPLETED
