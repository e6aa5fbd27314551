"""A connection to Postgres that was ended while it was idle is replaced silently."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest

from support.broker import Broker, Workers
from support.wire import Wire, read_postgres_messages
from workflow_engine import ExecutionStatus, Settings, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import DatabaseUnavailable
from workflow_engine.postgres.database import PooledDatabase
from workflow_engine.postgres.driver_errors import engine_errors

END = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""

BACKEND = "SELECT pg_backend_pid()"


@pytest.fixture
def end_connections(shared_database: psycopg2.extensions.connection) -> Callable[[], None]:
    """Return a function that ends all other connections to the database, as a restart or a pooler does."""

    def end() -> None:
        with shared_database.cursor() as cursor:
            cursor.execute(END)
            assert cursor.rowcount, "there was none to end"

    return end


@pytest.fixture
def database(settings: Settings) -> Iterator[PooledDatabase]:
    database = PooledDatabase(settings.model_copy(update={"database_pool_size": 4}))
    yield database
    database.dispose()


def by_rows(database: PooledDatabase) -> int:
    return int(database.rows(BACKEND)[0][0])


def beside_another(database: PooledDatabase) -> int:
    """Run a statement on the second connection, while the first is in use."""
    with database.transaction():
        return by_rows(database)


def in_a_transaction(database: PooledDatabase) -> int:
    with database.transaction() as transaction:
        return int(transaction.rows(BACKEND)[0][0])


WAYS = [by_rows, beside_another, in_a_transaction]

Ask = Callable[[PooledDatabase], int]


@pytest.mark.parametrize("before", WAYS)
@pytest.mark.parametrize("ask", WAYS)
def test_the_next_statement_has_another_connection(
    database: PooledDatabase, end_connections: Callable[[], None], before: Ask, ask: Ask
) -> None:
    ended = before(database)
    end_connections()

    assert ask(database) not in (ended, 0)


@pytest.mark.parametrize("ask", WAYS)
def test_so_has_every_thread_of_a_process(
    database: PooledDatabase, end_connections: Callable[[], None], ask: Ask
) -> None:
    together = threading.Barrier(4)

    def connect_at_once(_: int) -> None:
        with database.transaction():
            together.wait(30)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(connect_at_once, range(4)))
        end_connections()
        assert all(threads.map(lambda _: ask(database), range(40)))


def test_a_connection_that_a_pooler_closes_silently_is_replaced(settings: Settings) -> None:
    wire = Wire(settings.database_url.replace("+psycopg2", ""), read_postgres_messages)
    database = PooledDatabase(settings.model_copy(update={"database_url": with_driver(wire.url)}))
    try:
        before = by_rows(database)
        wire.hang_up()
        assert in_a_transaction(database) != before
    finally:
        database.dispose()
        wire.close()


@pytest.mark.parametrize("call", ["start", "send_event", "deploy", "list", "purge"])
def test_the_first_call_of_an_idle_producer_succeeds(
    client: WorkflowClient, end_connections: Callable[[], None], call: str
) -> None:
    client.deploy(two_waits())
    client.start("orders")
    end_connections()

    calls: dict[str, Callable[[], Any]] = {
        "start": lambda: client.start("orders"),
        "send_event": lambda: client.send_event("order-7", "approved"),
        "deploy": lambda: client.deploy(two_waits()),
        "list": client.list,
        "purge": lambda: client.purge(3600),
    }
    calls[call]()


def test_no_hop_notices(
    client: WorkflowClient,
    workers: Workers,
    broker: Broker,
    end_connections: Callable[[], None],
    log_lines: Callable[[], list[str]],
) -> None:
    client.deploy(two_waits())
    started = client.start("orders").id
    for _ in range(2):
        end_connections()
        workers.drain()  # the node that begins to wait
        end_connections()
        client.send_event("order-7", "approved")
    end_connections()
    workers.drain()

    assert client.get(started).status is ExecutionStatus.COMPLETED
    assert [row.attempt for row in client.journal(started)] == [1, 1, 1, 1, 1]
    assert log_lines() == []


def test_what_ends_within_a_transaction_is_an_outage_and_leaves_nothing(
    database: PooledDatabase, end_connections: Callable[[], None]
) -> None:
    def change() -> None:
        with database.transaction() as transaction:
            transaction.rows("CREATE TABLE left_behind ()")
            end_connections()
            transaction.rows(BACKEND)

    with pytest.raises(DatabaseUnavailable):
        change()

    assert database.rows("SELECT to_regclass('left_behind')") == [(None,)]


def test_a_transaction_that_fails_leaves_its_connection_in_order(database: PooledDatabase) -> None:
    before = by_rows(database)

    def change() -> None:
        with database.transaction() as transaction:
            transaction.rows("CREATE TABLE left_behind ()")
            raise KeyError

    with pytest.raises(KeyError):
        change()

    assert database.rows("SELECT to_regclass('left_behind'), pg_backend_pid()") == [(None, before)]


def test_a_connection_that_is_closed_under_a_statement_is_an_outage(database: PooledDatabase) -> None:
    def use() -> None:
        with engine_errors():
            connection = database.pool.lend()
            connection.close()
            connection.set_session(readonly=True)

    with pytest.raises(DatabaseUnavailable, match="closed"):
        use()


def test_no_statement_is_for_a_session(
    settings: Settings, new_engine: Callable[..., Engine], broker: Broker
) -> None:
    wire = Wire(settings.database_url.replace("+psycopg2", ""), read_postgres_messages)
    try:
        with wire.recorded() as traffic:
            engine = new_engine(database_url=with_driver(wire.url))
            client, workers = WorkflowClient(engine=engine), Workers(broker, engine)
            client.deploy(two_waits())
            started = client.start("orders", idempotency_key="order-7").id
            for _ in range(2):
                workers.drain()
                client.send_event("order-7", "approved")
            workers.drain()
            client.purge(0)
        assert client.list() == []
    finally:
        wire.close()

    words = {request.split()[1].upper() for request in traffic.requests if request.startswith(b"Q ")}
    assert started
    assert {b"WITH", b"BEGIN", b"COMMIT"} <= words
    assert not words & {b"SET", b"RESET", b"PREPARE", b"LISTEN", b"DISCARD"}


def two_waits() -> Any:
    flow = WorkflowBuilder("orders")
    last = flow.trigger("placed")
    for name in ("first", "second"):
        last = last >> flow.wait_events(name, ["approved"], correlation_id="order-7")
    return flow.build()


def with_driver(url: str) -> str:
    return url.replace("postgresql:", "postgresql+psycopg2:")
