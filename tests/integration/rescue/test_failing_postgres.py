"""An outage of Postgres is waited out; content that Postgres never accepts is not retried."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg2
import psycopg2.extensions
import pytest

from workflow_engine import Settings
from workflow_engine.embedded import EmbeddedPostgres
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import DatabaseOutdated, DatabaseUnavailable, InvalidValue
from workflow_engine.postgres.database import PooledDatabase

DEADLINE = 0.5

Execute = Callable[[PooledDatabase, str], Any]
"""Executes a statement and returns the first value of its result."""


def by_itself(database: PooledDatabase, text: str) -> Any:
    row = database.first(text)
    return row and row[0]


def in_a_transaction(database: PooledDatabase, text: str) -> Any:
    with database.transaction() as transaction:
        row = transaction.first(text)
    return row and row[0]


@pytest.fixture(params=[by_itself, in_a_transaction], ids=lambda way: way.__name__)
def execute(request: pytest.FixtureRequest) -> Execute:
    """Return either of the engine's two ways to execute statements: both raise the same errors."""
    way: Execute = request.param
    return way


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[EmbeddedPostgres]:
    """Start a Postgres that may be frozen."""
    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture
def database(own_postgres: EmbeddedPostgres) -> Iterator[PooledDatabase]:
    """Return a database that waits half a second for a reply."""
    settings = Settings(database_url=own_postgres.url, database_deadline=DEADLINE, database_timeout=2)
    database = PooledDatabase(settings)
    yield database
    database.dispose()


@contextmanager
def frozen(server: EmbeddedPostgres) -> Iterator[None]:
    """Freeze all processes of a server: the kernel accepts connections and data, and nothing replies."""
    postmaster = psutil.Process(server.pid)
    processes = [postmaster, *postmaster.children()]
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # the session of a closed connection, on its way out
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


@pytest.mark.parametrize(
    "code",
    {
        "read-only": "25006",
        "serialization failure": "40001",
        "deadlock": "40P01",
        "disk full": "53100",
        "out of memory": "53200",
        "too many connections": "53300",
        "lock not available": "55P03",
        "cancelled by the administrator": "57014",
        "shut down": "57P01",
        "crash of another session": "57P02",
        "starting up": "57P03",
        "input or output": "58030",
        "internal": "XX000",
        "no right": "42501",
    }.items(),
    ids=lambda item: item[0],
)
def test_what_passes_is_an_outage(code: tuple[str, str], engine: Engine, execute: Execute) -> None:
    with pytest.raises(DatabaseUnavailable, match="raised by the test"):
        fail_with(engine, code[1], execute)


@pytest.mark.parametrize("code", ["22003", "22P05", "54000", "54001"])
def test_content_that_postgres_refuses_is_an_invalid_value(
    code: str, engine: Engine, execute: Execute
) -> None:
    with pytest.raises(InvalidValue, match="raised by the test"):
        fail_with(engine, code, execute)


@pytest.mark.parametrize("code", ["42P01", "42703", "42883"])
def test_tables_of_another_release_are_reported(code: str, engine: Engine, execute: Execute) -> None:
    with pytest.raises(DatabaseOutdated, match="workflow-engine db upgrade"):
        fail_with(engine, code, execute)


@pytest.mark.parametrize("code", ["23505", "42601", "25P02", "P0001"])
def test_a_mistake_of_a_statement_is_no_outage(code: str, engine: Engine, execute: Execute) -> None:
    with pytest.raises(psycopg2.Error, match="raised by the test"):
        fail_with(engine, code, execute)


def test_an_index_entry_that_is_too_large_is_not_waited_for(sql: Callable[..., Any]) -> None:
    sql("CREATE TEMPORARY TABLE narrow (key text PRIMARY KEY)")
    noise = "SELECT string_agg(md5(i::text), '') FROM generate_series(1, 1000) i"

    with pytest.raises(InvalidValue, match="index row"):
        sql(f"INSERT INTO narrow {noise}")


def test_a_frozen_postgres_is_given_up_after_the_deadline(
    own_postgres: EmbeddedPostgres, database: PooledDatabase, execute: Execute
) -> None:
    assert execute(database, "SELECT 1") == 1
    with frozen(own_postgres):
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match=r"no response within 0\.5 s"):
            execute(database, "SELECT 1")
        assert DEADLINE <= time.monotonic() - began < 5 * DEADLINE

    assert execute(database, "SELECT 1") == 1


def test_connecting_to_a_frozen_postgres_is_given_up(
    own_postgres: EmbeddedPostgres, database: PooledDatabase, execute: Execute
) -> None:
    with frozen(own_postgres), pytest.raises(DatabaseUnavailable, match=r"timeout expired|no response"):
        execute(database, "SELECT 1")


def test_a_postgres_that_refuses_connections_is_an_outage(execute: Execute) -> None:
    unreachable = PooledDatabase(Settings(database_url="postgresql+psycopg2://postgres@127.0.0.1:1/none"))

    with pytest.raises(DatabaseUnavailable, match="refused"):
        execute(unreachable, "SELECT 1")


def test_a_transaction_that_freezes_as_it_commits_is_given_up(
    own_postgres: EmbeddedPostgres, database: PooledDatabase
) -> None:
    def change() -> None:
        with database.transaction() as transaction:
            transaction.rows("CREATE TABLE IF NOT EXISTS changed ()")
            freezing.enter_context(frozen(own_postgres))

    with ExitStack() as freezing, pytest.raises(DatabaseUnavailable, match="no response"):
        change()

    assert answer(database) == 1


def test_a_statement_that_takes_its_time_is_not_disturbed_by_its_predecessors(
    database: PooledDatabase,
) -> None:
    until = time.monotonic() + 3 * DEADLINE
    while time.monotonic() < until:
        database.rows("SELECT pg_sleep(0.2)")


def test_one_late_reply_costs_no_other_thread_its_connection(database: PooledDatabase) -> None:
    failures: list[Exception] = []

    def short_statements() -> None:
        while slow.is_alive():
            try:
                answer(database)
            except DatabaseUnavailable as error:
                failures.append(error)

    slow = threading.Thread(target=overdue, args=(database,))
    others = [threading.Thread(target=short_statements) for _ in range(3)]
    for thread in (slow, *others):
        thread.start()
    for thread in (slow, *others):
        thread.join()

    assert failures == []


def test_the_deadline_is_not_for_the_teams_own_connections(
    own_postgres: EmbeddedPostgres, database: PooledDatabase
) -> None:
    assert answer(database) == 1
    with closing(psycopg2.connect(own_postgres.url.replace("+psycopg2", ""))) as own:
        own.cursor().execute("SELECT pg_sleep(%s)", [2 * DEADLINE])
        own.commit()

    assert psycopg2.extensions.get_wait_callback() is None


def test_a_forked_process_keeps_the_deadline(database: PooledDatabase) -> None:
    assert answer(database) == 1
    child = os.fork()
    if child == 0:
        try:
            overdue(database)
        except BaseException:  # noqa: BLE001 - the child must not go on with the tests
            os._exit(1)
        os._exit(0)

    assert os.waitpid(child, 0)[1] == 0


def test_a_connection_to_what_is_a_standby_after_a_failover_is_not_used_again(
    own_postgres: EmbeddedPostgres, database: PooledDatabase, execute: Execute
) -> None:
    name = urlsplit(own_postgres.url).path[1:]
    database.rows("SET default_transaction_read_only = on")  # as a demoted server says

    with pytest.raises(DatabaseUnavailable, match="read-only transaction"):
        execute(database, f"COMMENT ON DATABASE {name} IS 'written'")

    execute(database, f"COMMENT ON DATABASE {name} IS 'written'")


def answer(database: PooledDatabase) -> int:
    return int(database.rows("SELECT 1")[0][0])


def overdue(database: PooledDatabase) -> None:
    with pytest.raises(DatabaseUnavailable):
        database.rows("SELECT pg_sleep(60)")


def fail_with(engine: Engine, code: str, execute: Execute) -> None:
    execute(
        engine.database,
        f"DO $$ BEGIN RAISE EXCEPTION 'raised by the test' USING ERRCODE = '{code}'; END $$",
    )
