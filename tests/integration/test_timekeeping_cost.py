"""A round of the timekeeper costs one round trip when nothing is due, however many executions there are.

Every worker looks at least once a second, for ever; what one look costs is what waiting costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fleet_in_process import Broker, Workers, line
from sqlalchemy import event
from wire import Wire, read_postgres_messages

from workflow_engine import Settings, WorkflowBuilder, WorkflowClient, waiting
from workflow_engine.database import autocommit
from workflow_engine.engine import Engine
from workflow_engine.timekeeping import LONGEST_PAUSE, Timekeeping

HOUR = 3600.0
MANY = 3_000

COPY = """
WITH copies AS (SELECT gen_random_uuid() AS id FROM generate_series(1, {many})),
executions AS (
    INSERT INTO executions SELECT copy.* FROM executions e, copies,
        LATERAL jsonb_populate_record(e, jsonb_build_object('id', copies.id)) copy WHERE e.id = %s)
INSERT INTO execution_wait_states SELECT copy.* FROM execution_wait_states w, copies,
    LATERAL jsonb_populate_record(w,
        jsonb_build_object('execution_id', copies.id, 'id', gen_random_uuid())) copy
WHERE w.execution_id = %s
"""

Sql = Callable[..., list[tuple[Any, ...]]]


def pauses(context: Any) -> Any:
    return waiting(seconds=HOUR) if context.wake is None else None


def asks() -> Any:
    return waiting(events=["paid"], correlation_id="order-7")


@pytest.fixture
def many_executions(
    client: WorkflowClient,
    workers: Workers,
    sql: Sql,
    time_passes: Callable[[float], None],
    wake_due: Callable[[], list[str]],
) -> None:
    """Thousands that wait for a time, for an event, with a timeout, and that have finished after a wait."""
    client.deploy(line(pauses, id="finished"))
    client.deploy(line(pauses, id="timed"))
    client.deploy(line(asks, id="asked"))
    overdue = WorkflowBuilder("limited", settings={"timeout": 86_400})
    overdue.trigger("start") >> overdue.delay("pause", duration=1, unit="hours")
    client.deploy(overdue.build())
    originals = [client.start("finished").id]
    workers.drain()
    time_passes(HOUR)
    wake_due()
    workers.drain()
    originals += [client.start(workflow).id for workflow in ("timed", "asked", "limited")]
    workers.drain()
    for original in originals:
        sql(COPY.format(many=MANY), original, original)
    sql("ANALYZE")


@pytest.fixture
def wired_engine(settings: Settings, new_engine: Callable[..., Engine]) -> Iterator[tuple[Engine, Wire]]:
    """A worker that reaches Postgres over a wire."""
    wire = Wire(settings.database_url.replace("+psycopg2", ""), read_postgres_messages)
    yield new_engine(database_url=wire.url), wire
    wire.close()


def test_a_round_with_nothing_due_is_one_round_trip(
    many_executions: None, wired_engine: tuple[Engine, Wire], broker: Broker
) -> None:
    engine, wire = wired_engine
    timekeeping = Timekeeping(engine)
    timekeeping.round()  # connects

    with wire.recorded() as traffic:
        assert timekeeping.round() == LONGEST_PAUSE

    assert [request[:1] for request in traffic.requests] == [b"Q"]
    assert traffic.round_trips == 1
    assert broker.messages == []


def test_what_a_round_reads_does_not_grow_with_the_number_of_executions(
    many_executions: None, engine: Engine, sql: Sql
) -> None:
    a_wait, limited, a_trigger = (
        "UPDATE execution_wait_states SET resume_at = now() WHERE id = "
        "(SELECT id FROM execution_wait_states WHERE status = 'WAITING' AND wait_type = 'DELAY' LIMIT 1)",
        "UPDATE executions SET expires_at = now() WHERE id = "
        "(SELECT id FROM executions WHERE workflow_id = 'limited' LIMIT 1)",
        "UPDATE triggers SET sub_type = 'scheduler', next_due = now(), config = '{\"cron\": \"0 0 1 1 *\"}' "
        "WHERE workflow_id = 'asked'",
    )
    for makes_due in (a_wait, limited, a_trigger):
        sql(makes_due)
    statements = said_in_a_round(engine)

    assert len(statements) >= 4, "a look, and a claim of each kind"
    read = {statement: rows_read(engine, statement, parameters) for statement, parameters in statements}
    assert {statement: rows for statement, rows in read.items() if rows > 20} == {}


def said_in_a_round(engine: Engine) -> list[tuple[str, Any]]:
    """The statements with which a timekeeper looks and claims, as they reach Postgres."""
    said: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "WHERE status" in statement or "SKIP LOCKED" in statement:
            said.append((statement, parameters))

    event.listen(engine.state.engine, "before_cursor_execute", note)
    try:
        Timekeeping(engine).round()
    finally:
        event.remove(engine.state.engine, "before_cursor_execute", note)
    return said


def rows_read(engine: Engine, statement: str, parameters: Any) -> float:
    """How many rows of tables and indexes a statement looks at."""
    with autocommit(engine.state.engine) as connection:
        explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"
        (plan,) = connection.exec_driver_sql(explain, parameters or None).scalar_one()
    return _rows_of(plan["Plan"])


def _rows_of(node: dict[str, Any]) -> float:
    below = sum(map(_rows_of, node.get("Plans", [])))
    if "Relation Name" not in node or "Scan" not in node["Node Type"]:
        return below
    seen = sum(node.get(key, 0) for key in ("Actual Rows", "Rows Removed by Filter"))
    return below + float(seen * node["Actual Loops"])
