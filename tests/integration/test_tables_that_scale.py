"""The tables are ready for many executions: hops stay in their page, indexes earn their keep, ids tell the time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fleet_in_process import Broker, Workers, line
from sqlalchemy import event

from workflow_engine import ExecutionStatus, WorkflowBuilder, WorkflowClient, node, waiting
from workflow_engine.agenda import Agenda
from workflow_engine.engine import Engine

Sql = Callable[..., list[tuple[Any, ...]]]

NODES = 50
MANY = 2_000
HOUR = 3600.0

COPY = """
WITH copies AS (SELECT gen_random_uuid() AS id FROM generate_series(1, {many})),
executions AS (
    INSERT INTO executions SELECT copy.* FROM executions e, copies,
        LATERAL jsonb_populate_record(e, jsonb_build_object('id', copies.id)) copy WHERE e.id = %s),
journal AS (
    INSERT INTO node_executions SELECT copy.* FROM node_executions n, copies,
        LATERAL jsonb_populate_record(n, jsonb_build_object('execution_id', copies.id)) copy
    WHERE n.execution_id = %s)
INSERT INTO execution_wait_states SELECT copy.* FROM execution_wait_states w, copies,
    LATERAL jsonb_populate_record(w,
        jsonb_build_object('execution_id', copies.id, 'id', gen_random_uuid(),
            'correlation_id', copies.id::text)) copy
WHERE w.execution_id = %s
"""


def pauses(context: Any) -> Any:
    return waiting(seconds=HOUR) if context.wake is None else None


def asks() -> Any:
    return waiting(events=["paid"], correlation_id="order-7")


def done() -> int:
    return 1


# -- what a hop changes --------------------------------------------------------------------------------------


@pytest.fixture
def updates(sql: Sql) -> Callable[[], tuple[int, int]]:
    """How many updates of `executions` there have been, and how many of them stayed in the page (HOT)."""

    def read() -> tuple[int, int]:
        sql("SELECT pg_stat_force_next_flush()")
        ((updated, hot),) = sql(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'executions'"
        )
        return updated, hot

    return read


@pytest.mark.parametrize("at_once", [1, 40], ids="{} executions at once".format)
def test_every_commit_between_the_first_and_the_last_stays_in_its_page_and_leaves_the_indexes_alone(
    client: WorkflowClient,
    broker: Broker,
    engine: Engine,
    updates: Callable[[], tuple[int, int]],
    at_once: int,
) -> None:
    node("test.text")(lambda length: "x" * length)
    flow = WorkflowBuilder("long")
    last = flow.trigger("start")
    for number in range(NODES):
        last = last >> flow.python(f"node{number}", "test.text", arguments={"length": 1_000})
    client.deploy(flow.build())
    workers = Workers(broker, engine)
    for _ in range(at_once):
        client.start("long")
    for _ in range(at_once):
        workers.hop()
    before = updates()

    for _ in range(at_once * (NODES - 2)):
        workers.hop()

    updated, hot = (after - earlier for after, earlier in zip(updates(), before, strict=True))
    assert updated == at_once * (NODES - 2)
    assert hot == updated
    assert workers.drain() == at_once
    assert client.count() == {ExecutionStatus.COMPLETED: at_once}


# -- what indexes are for ------------------------------------------------------------------------------------

KEEP_UNIQUE = {
    "workflows_pkey",
    "workflow_versions_pkey",
    "workflow_versions_content",
    "triggers_pkey",
    "triggers_node",
    "idempotency_keys_pkey",
    "executions_pkey",
    "node_executions_pkey",
    "node_executions_final",
    "execution_wait_states_pkey",
    "execution_wait_states_open",
    "execution_events_pkey",
    "execution_events_id",
}
"""Indexes that would be needed without any reader, because they keep something unique."""


@pytest.fixture
def many_executions(
    client: WorkflowClient,
    workers: Workers,
    sql: Sql,
    time_passes: Callable[[float], None],
    wake_due: Callable[[], list[str]],
) -> str:
    """As many finished after a wait as wait for times and for events, and one that stands still; its id."""
    client.deploy(line(pauses, done, id="finished"))
    client.deploy(line(pauses, id="timed"))
    client.deploy(line(asks, done, id="asked"))
    limited = WorkflowBuilder("limited", settings={"timeout": 86_400})
    limited.trigger("start") >> limited.delay("pause", duration=1, unit="hours")
    client.deploy(limited.build())
    originals = [client.start("finished", idempotency_key="first").id]
    workers.drain()
    time_passes(HOUR)
    wake_due()
    workers.drain()
    originals += [client.start(workflow).id for workflow in ("timed", "asked", "limited")]
    workers.drain()
    for original in originals:
        sql(COPY.format(many=MANY), original, original, original)
    for number in range(MANY):
        sql(
            "INSERT INTO execution_events (type, name, correlation_id, event_id) VALUES ('EVENT', 'sent', %s, %s)",
            f"order-{number}",
            f"event-{number}",
        )
    sql("ANALYZE")
    return client.start("finished").id


@pytest.fixture
def readers(engine: Engine, client: WorkflowClient, many_executions: str) -> dict[str, list[str]]:
    """By index, the operations of the engine that read it; as Postgres counts it."""
    agenda = Agenda(engine.state.engine, engine.settings)
    operations: dict[str, Callable[[], object]] = {
        "a hop": lambda: Workers(engine.dispatcher, engine).drain(),  # type: ignore[arg-type]
        "show": lambda: (client.get(many_executions), client.history(many_executions)),
        "list of a workflow": lambda: client.list("timed"),
        "the timekeeper's look": agenda.look,
        "waits that are over": engine.waits.claim_due,
        "executions past their timeout": engine.overdue.end,
        "schedules that are due": engine.schedules.claim_due,
        "executions that stand still": lambda: list(engine.stalled.find(30, 10)),
        "an event": lambda: client.send_event("paid", correlation_id="order-7", event_id="event-7"),
        "cancel": lambda: client.cancel(many_executions),
        "purge": lambda: client.purge(older_than=-60),
    }
    return {}
