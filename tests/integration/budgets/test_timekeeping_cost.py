"""A round of the timekeeper costs one round trip when nothing is due, however many executions there are.

Every worker looks at least once a second, for ever; what one look costs is what waiting costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.broker import Broker, Workers
from support.wire import Wire, read_postgres_messages
from support.workflows import line
from workflow_engine import Settings, WorkflowBuilder, WorkflowClient, waiting
from workflow_engine.engine.assembly import Engine
from workflow_engine.maintenance.timekeeper import LONGEST_PAUSE, Timekeeping

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
    """Create thousands of executions that wait for a time or an event, have a timeout, or have finished."""
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
    """Return a worker that reaches Postgres over a wire."""
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
    many_executions: None, wired_engine: tuple[Engine, Wire], sql: Sql
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
    statements = said_in_a_round(*wired_engine)

    assert len(statements) >= 4, "a look, and a claim of each kind"
    read = {statement: rows_read(sql, statement) for statement in statements}
    assert {statement: rows for statement, rows in read.items() if rows > 20} == {}


def said_in_a_round(engine: Engine, wire: Wire) -> list[str]:
    """Return the statements with which a timekeeper looks and claims, as they reach Postgres."""
    with wire.recorded() as traffic:
        Timekeeping(engine).round()
    queries = [request for request in traffic.requests if request.startswith(b"Q ")]
    said = [query.removeprefix(b"Q ").rstrip(b"\0").decode() for query in queries]
    return [statement for statement in said if "WHERE status" in statement or "SKIP LOCKED" in statement]


def rows_read(sql: Sql, statement: str) -> float:
    """Return how many rows of tables and indexes a statement reads."""
    (((plan,),),) = sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}")
    return _rows_of(plan["Plan"])


def _rows_of(node: dict[str, Any]) -> float:
    below = sum(map(_rows_of, node.get("CompiledWorkflows", [])))
    if "Relation Name" not in node or "Scan" not in node["Node Type"]:
        return below
    seen = sum(node.get(key, 0) for key in ("Actual Rows", "Rows Removed by Filter"))
    return below + float(seen * node["Actual Loops"])
