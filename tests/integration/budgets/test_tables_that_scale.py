"""The tables are ready for many executions: hops stay in their page, indexes are read, ids tell the time."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.broker import Broker, Workers
from support.polling import poll
from support.workflows import line
from workflow_engine import ExecutionStatus, WorkflowBuilder, WorkflowClient, node, waiting
from workflow_engine.engine.assembly import Engine
from workflow_engine.postgres.executions.stalled import Front
from workflow_engine.postgres.limits import HeldSlots

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


def asks(context: Any) -> Any:
    return waiting(events=["paid"], correlation_id="order-7") if context.wake is None else None


def done() -> int:
    return 1


# -- what a hop changes --------------------------------------------------------------------------------------


@pytest.fixture
def updates(sql: Sql) -> Callable[[], tuple[int, int]]:
    """Return the number of updates of `executions`, and of those that stayed in their page (HOT)."""

    def read() -> tuple[int, int]:
        sql("SELECT pg_stat_force_next_flush()")
        ((updated, hot),) = sql(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'executions'::regclass"
        )
        return updated, hot

    return read


@pytest.fixture
def no_autovacuum(sql: Sql) -> Iterator[None]:
    """Keep autovacuum away from the tables: while its snapshot lasts, dead rows stay in their pages."""
    tables = [name for (name,) in sql("SELECT relid::regclass::text FROM pg_stat_user_tables")]
    for table in tables:
        sql(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
    running = "SELECT FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'"
    poll(lambda: not sql(running), "autovacuum has ended")
    yield
    for table in tables:
        sql(f"ALTER TABLE {table} RESET (autovacuum_enabled)")


@pytest.mark.parametrize("at_once", [1, 40], ids="{} executions at once".format)
def test_every_commit_between_the_first_and_the_last_stays_in_its_page_and_leaves_the_indexes_alone(
    client: WorkflowClient,
    broker: Broker,
    engine: Engine,
    updates: Callable[[], tuple[int, int]],
    no_autovacuum: None,
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
    "workflow_events_pkey",
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
    engine: Engine,
    workers: Workers,
    sql: Sql,
    time_passes: Callable[[float], None],
    wake_due: Callable[[], list[str]],
) -> str:
    """Create executions in every state of rest, and one that has stalled. Return the id of the latter."""
    client.deploy(line(pauses, done, id="finished"))
    client.deploy(line(pauses, id="timed"))
    client.deploy(line(asks, done, id="asked"))
    client.deploy(line(done, id="rare"))
    parent = WorkflowBuilder("parent")
    parent.trigger("start") >> parent.sub_workflow("child", "timed")
    client.deploy(parent.build())
    limited = WorkflowBuilder("limited", settings={"timeout": 86_400})
    limited.trigger("start") >> limited.delay("pause", duration=1, unit="hours")
    client.deploy(limited.build())
    slotted = WorkflowBuilder("slotted", limits=[{"key": "calls", "concurrency": 2, "rate": "100/min"}])
    slotted.trigger("start") >> slotted.function("done", 1)
    client.deploy(slotted.build())
    lacking = WorkflowBuilder("lacking")
    lacking.trigger("start") >> lacking.python("missing", "test.in_no_release")
    engine.deployments.deploy(lacking.build())  # unchecked, as by a release that has it
    originals = [client.start("finished", idempotency_key="first").id]
    workers.drain()
    time_passes(HOUR)
    wake_due()
    workers.drain()
    originals += [client.start(workflow).id for workflow in ("timed", "asked", "limited", "lacking")]
    workers.drain()
    for original in originals:
        sql(COPY.format(many=MANY), original, original, original)
    sql(f"""
        INSERT INTO execution_events (type, name, correlation_id, event_id)
        SELECT 'EVENT', 'sent', 'correlation-' || n, 'event-' || n FROM generate_series(1, {MANY}) AS n
    """)
    sql(f"""
        INSERT INTO triggers (workflow_id, node_id, sub_type, config, queue, next_due)
        SELECT 'timed', 'trigger' || n, 'scheduler', '{{}}', 'workflow', now() + interval '1 day'
        FROM generate_series(1, {MANY}) AS n
    """)
    sql("""
        UPDATE execution_wait_states SET details = jsonb_set(details, '{events}', '["rare"]')
        WHERE execution_id IN (SELECT id FROM executions WHERE workflow_id = 'asked' LIMIT 3)
    """)
    # Some hold slots, for good or as a lease, and others wait for them.
    sql("""
        INSERT INTO limit_slots (execution_id, node_id, key, concurrency, status, is_in_line, leased_until)
        SELECT e.id, each.node_id, 'key-' || e.number || each.node_id, 1, each.status,
            each.status = 'LIMITED', now() + each.lease * interval '1 second'
        FROM (SELECT id, row_number() OVER () AS number FROM executions WHERE workflow_id = 'timed') e
        CROSS JOIN (VALUES ('', 'HELD', NULL), ('a', 'HELD', 60), ('b', 'LIMITED', NULL))
            AS each (node_id, status, lease)
    """)
    sql(f"""
        INSERT INTO limit_windows SELECT 'key-' || n, 60, n, '{{1}}', now() + interval '1 hour'
        FROM generate_series(1, {MANY}) n
    """)
    sql(f"""
        INSERT INTO limit_overrides (key, concurrency) SELECT 'key-' || n, 1 FROM generate_series(1, {MANY}) n
    """)
    # Some are sent to their queues for a limited time, and some have done a part of their work.
    sql("""
        INSERT INTO queue_deadlines (execution_id, node_id, seconds, expires_at, look_at)
        SELECT id, 'a', 3600, now() + interval '1 hour', now() + interval '1 hour'
        FROM executions WHERE workflow_id = 'timed'
    """)
    sql("""
        INSERT INTO node_parts (execution_id, node_id, visit, place, token, attempt, value)
        SELECT id, 'a', 1, 0, 'token', 1, '1' FROM executions WHERE workflow_id = 'timed'
    """)
    # Some are children of others.
    sql("""
        UPDATE executions SET parent_execution_id = root.id, parent_seq = 2, parent_index = 0,
            root_execution_id = root.id, depth = 1
        FROM (SELECT id FROM executions WHERE workflow_id = 'finished' LIMIT 10) root
        WHERE workflow_id = 'timed' AND right(executions.id::text, 1) = right(root.id::text, 1)
    """)
    sql("ANALYZE")
    return client.start("finished").id


@pytest.fixture
def scans(sql: Sql) -> Callable[[], Counter[str]]:
    """Return how often each index has been read so far."""

    def read() -> Counter[str]:
        sql("SELECT pg_stat_force_next_flush()")
        return Counter(
            dict(
                sql(
                    "SELECT indexrelname, idx_scan FROM pg_stat_user_indexes "
                    "WHERE schemaname = current_schema()"
                )
            )
        )

    return read


def test_every_index_has_a_reader_among_the_engines_own_statements_or_keeps_something_unique(
    engine: Engine,
    client: WorkflowClient,
    broker: Broker,
    many_executions: str,
    scans: Callable[[], Counter[str]],
    sql: Sql,
) -> None:
    due_times = engine.due_times
    operations: dict[str, Callable[[], object]] = {
        "hops": Workers(broker, engine).drain,
        "show": lambda: (client.get(many_executions), client.history(many_executions)),
        "children": lambda: client.children(many_executions),
        "a child": lambda: (client.start("parent"), Workers(broker, engine).drain()),
        "list of a workflow": lambda: client.list("rare"),
        "list with children": lambda: client.list(statuses=["WAITING"], children=True),
        "list by a note": lambda: client.list(where={"metadata.order": 7}),
        "list by a tag": lambda: client.list(tags=["vip"]),
        "list by words of an error": lambda: client.list(text="declined"),
        "list of what failed": lambda: client.list(statuses=[ExecutionStatus.FAILED]),
        "the timekeeper's look": lambda: due_times.next(engine.registry.names),
        "waits that are over": lambda: engine.waits.claim_due(known=engine.registry.names),
        "executions past their timeout": engine.timeouts.end,
        "schedules that are due": engine.triggers.claim_due,
        "executions that stand still": lambda: list(
            engine.stalled.pages(30, 10, lambda queue, priority: Front(None))
        ),
        "a wait for an event": lambda: (client.start("asked"), Workers(broker, engine).drain()),
        "an event": lambda: client.send_event("order-7", "paid", {}, event_id="event-of-order-7"),
        "executions that wait for an event": lambda: client.list(text="rare"),
        "limits": lambda: (
            [client.start("slotted") for _ in range(3)],
            engine.limits.renew([HeldSlots(many_executions, "no", str(uuid.uuid4()))]),
            engine.limits.look(),
            client.control.limits.set("calls", rate="5/min"),
            Workers(broker, engine).drain(),
        ),
        "cancel": lambda: client.control.cancel(many_executions),
        "purge": lambda: client.purge(older_than=-60),
    }
    readers: dict[str, list[str]] = {name: [] for name in scans() if name != "workflow_engine_version_pkc"}
    for name, operation in operations.items():
        before = scans()
        operation()
        for index in scans() - before:
            readers[index].append(name)

    assert {index for index, found in readers.items() if not found} <= KEEP_UNIQUE, readers
    unique = {name for (name,) in sql("SELECT indexrelid::regclass::text FROM pg_index WHERE indisunique")}
    assert unique >= KEEP_UNIQUE


# -- what dividing the tables by time requires ---------------------------------------------------------------


def test_what_stands_still_is_explained_without_reading_whole_tables(
    client: WorkflowClient, many_executions: str, sql: Sql
) -> None:
    tables = "('executions', 'execution_wait_states', 'execution_events', 'node_executions')"
    read = f"SELECT relname, seq_scan FROM pg_stat_user_tables WHERE relname IN {tables}"

    def whole_reads() -> dict[str, int]:
        sql("SELECT pg_stat_force_next_flush()")
        return dict(sql(read))

    before = whole_reads()
    overview = client.explain_all(limit=50)
    for group in overview.groups:
        client.explain(group.oldest[0])

    assert overview.examined == 50
    assert whole_reads() == before


def test_ids_of_executions_sort_by_the_time_of_their_start(client: WorkflowClient, sql: Sql) -> None:
    client.deploy(line(done))
    started = [client.start("line").id for _ in range(200)]

    def milliseconds(ids: list[str]) -> list[int]:
        return [int(id.replace("-", "")[:12], 16) for id in ids]

    in_order = [id for (id,) in sql("SELECT id::text FROM executions ORDER BY id")]
    assert sorted(started) == in_order
    assert milliseconds(started) == milliseconds(in_order)
    assert len(set(milliseconds(started))) > 1


def test_what_is_unique_in_the_two_large_tables_is_so_within_an_execution(sql: Sql) -> None:
    """Each part of tables divided by the execution's id can then keep it unique by itself."""
    unique = sql("""
        SELECT t.relname, array_agg(a.attname::text)
        FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid
        JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = ANY(i.indkey)
        WHERE i.indisunique AND t.oid IN ('executions'::regclass, 'node_executions'::regclass)
        GROUP BY t.relname, i.indexrelid
    """)

    assert len(unique) == 3
    for table, columns in unique:
        assert ("id" if table == "executions" else "execution_id") in columns


def test_idempotency_keys_outlive_the_rows_of_their_executions_and_are_freed_by_a_range_of_ids(
    client: WorkflowClient, workers: Workers, sql: Sql
) -> None:
    client.deploy(line(done))
    first = client.start("line", idempotency_key="order-7").id
    workers.drain()
    second = client.start("line", idempotency_key="order-8").id

    sql("DELETE FROM executions WHERE id < %s", second)  # as dropping their part of the table does
    assert sql("SELECT execution_id::text FROM idempotency_keys ORDER BY key") == [(first,), (second,)]

    sql("DELETE FROM idempotency_keys WHERE execution_id < %s", second)
    assert client.start("line", idempotency_key="order-7").id > second
    assert client.start("line", idempotency_key="order-8").id == second
