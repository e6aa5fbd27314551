"""A start takes the connections it can use, costs them one statement, and refuses the others at once."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from psycopg2.errors import InFailedSqlTransaction, SerializationFailure
from sqlalchemy import Connection, Engine, create_engine, event, insert, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from support.broker import Workers
from support.caller_database import Order, Witness
from support.polling import poll
from workflow_engine import (
    ExecutionNotFound,
    IdempotencyConflict,
    InvalidValue,
    SessionRefused,
    StartedExecution,
    TriggerDataInvalid,
    WorkflowClient,
)

Sql = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def in_transaction(database: Engine) -> Iterator[Connection]:
    """Yield a connection of the caller on which something was written, and roll it back afterwards."""
    with database.connect() as connection:
        connection.execute(insert(Order).values(customer="Ada"))
        yield connection


# -- bare connections ------------------------------------------------------------------------------------


def test_a_start_on_a_connection_is_published_by_the_caller_after_the_commit(
    client: WorkflowClient, database: Engine, broker: Witness, workers: Workers
) -> None:
    with database.begin() as connection:
        execution = client.start("order", {"orderId": 1}, session=connection)
    assert broker.published == []

    execution.publish()
    assert broker.published == [execution.id]
    assert broker.queue[0].committed_at == execution.created_at
    workers.drain()

    assert client.get(execution.id).result == {"orderId": 1}


def test_what_has_not_committed_cannot_be_published(
    client: WorkflowClient, in_transaction: Connection, broker: Witness
) -> None:
    execution = client.start("order", session=in_transaction)
    with pytest.raises(ExecutionNotFound):
        execution.publish()
    in_transaction.rollback()
    with pytest.raises(ExecutionNotFound):
        execution.publish()

    assert broker.published == []


def test_publishing_what_has_begun_does_nothing(
    client: WorkflowClient, database: Engine, broker: Witness, workers: Workers
) -> None:
    with database.begin() as connection:
        execution = client.start("order", session=connection)
    execution.publish()
    workers.drain()

    execution.publish()
    client.start("order").publish()

    assert execution.id not in broker.published
    assert len(broker.published) == 1


def test_publishing_a_start_that_was_made_before_sends_what_that_one_began(
    client: WorkflowClient, database: Engine, broker: Witness, workers: Workers
) -> None:
    first = client.start("order", idempotency_key="once")
    broker.queue.clear()
    with database.begin() as connection:
        again = client.start("order", idempotency_key="once", session=connection)
    again.publish()

    assert (again.id, again.is_new) == (first.id, False)
    assert broker.published == [first.id]


@pytest.mark.parametrize("mode", ["create_savepoint", "rollback_only"])
def test_a_session_that_joined_a_transaction_from_outside_does_not_publish_at_its_own_commit(
    client: WorkflowClient, database: Engine, broker: Witness, mode: Any
) -> None:
    with database.connect() as connection:
        outside = connection.begin()
        with Session(connection, join_transaction_mode=mode) as session:
            undone = client.start("order", session=session)
            session.commit()
        outside.rollback()
        with connection.begin(), Session(connection, join_transaction_mode=mode) as session:
            execution = client.start("order", session=session)
            session.commit()
    assert broker.published == []

    execution.publish()
    with pytest.raises(ExecutionNotFound):
        undone.publish()

    assert broker.published == [execution.id]


def test_a_session_that_was_given_a_connection_of_its_own_publishes_at_its_commit(
    client: WorkflowClient, database: Engine, broker: Witness
) -> None:
    with database.connect() as connection, Session(connection) as session:
        execution = client.start("order", session=session)
        session.commit()

    assert broker.published == [execution.id]


# -- what is refused -------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(database_url: str) -> Iterator[Engine]:
    """Return a database with the same tables on the same server."""
    engine = create_engine(database_url)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("is_session", [True, False], ids=["session", "connection"])
def test_another_database_is_refused_before_anything_is_written(
    client: WorkflowClient, elsewhere: Engine, is_session: bool, broker: Witness
) -> None:
    with elsewhere.connect() as connection:
        given = Session(connection) if is_session else connection
        for _ in range(2):
            with pytest.raises(SessionRefused, match="another database than the engine's"):
                client.start("order", session=given)
        assert connection.execute(text("SELECT count(*) FROM executions")).scalar() == 0

    assert broker.published == []


class AsyncSession:
    """Stands for SQLAlchemy's, which needs a package that is not always installed."""

    __module__ = "sqlalchemy.ext.asyncio.session"


def test_what_is_no_synchronous_session_is_refused_with_what_to_do(
    client: WorkflowClient, database: Engine, broker: Witness
) -> None:
    of_no_database = Session()
    for given, advice in [
        (database, r"with engine\.begin\(\) as connection"),
        (AsyncSession(), r"await client\.start_async"),
        (sessionmaker(database), "must be a Session or a Connection"),
        (of_no_database, r"session\.connection\(bind_arguments=…\)"),
        (Session(create_engine("sqlite://")), "connected to sqlite"),
    ]:
        with pytest.raises(SessionRefused, match=advice):
            client.start("order", session=given)  # type: ignore[arg-type]

    assert broker.published == []


def test_a_connection_in_autocommit_mode_is_refused(
    client: WorkflowClient, database: Engine, sql: Sql
) -> None:
    with (
        database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        pytest.raises(SessionRefused, match="autocommit"),
    ):
        client.start("order", session=connection)

    assert sql("SELECT count(*) FROM executions") == [(0,)]


# -- failures leave the transaction as Postgres would -----------------------------------------------------


def test_a_start_that_is_refused_leaves_the_callers_transaction_unharmed(
    client: WorkflowClient, database: Engine, sql: Sql
) -> None:
    with Session(database) as session:
        session.add(Order(customer="Ada"))
        session.flush()
        started = client.start("order", {"orderId": 1}, idempotency_key="once", session=session)
        for error, data, options in [
            (IdempotencyConflict, {"orderId": 2}, {"idempotency_key": "once"}),
            (TriggerDataInvalid, [], {}),
            (InvalidValue, {"orderId": float("nan")}, {}),
            (InvalidValue, {}, {"idempotency_key": "zero \x00"}),
            (InvalidValue, {}, {"idempotency_key": ""}),
            (InvalidValue, {}, {"idempotency_key": "k" * 501}),
            (InvalidValue, {}, {"variables": {"placed": 1}}),
        ]:
            with pytest.raises(error):
                client.start("order", data, session=session, **options)  # type: ignore[arg-type]
        session.commit()

    assert sql("SELECT customer FROM callers_orders") == [("Ada",)]
    assert sql("SELECT id::text FROM executions") == [(started.id,)]


def test_the_longest_idempotency_key_can_be_kept(client: WorkflowClient, database: Engine) -> None:
    key = "".join(chr(0x1F600 + number * 7919 % 1000) for number in range(500))
    with database.begin() as connection:
        first = client.start("order", idempotency_key=key, session=connection)

    assert client.start("order", idempotency_key=key).id == first.id


@pytest.mark.parametrize("is_known", [False, True], ids=["first use", "later"])
def test_an_aborted_transaction_is_reported_by_the_callers_own_error(
    client: WorkflowClient, database: Engine, is_known: bool
) -> None:
    with database.connect() as connection:
        if is_known:
            client.start("order", session=connection)
        with pytest.raises(DBAPIError):
            connection.execute(text("SELECT 1 / 0"))
        with pytest.raises(DBAPIError) as error:
            client.start("order", session=connection)

    assert isinstance(error.value.orig, InFailedSqlTransaction)


# -- idempotency keys -------------------------------------------------------------------------------------


def test_a_key_used_twice_in_one_transaction_is_one_start(
    client: WorkflowClient, database: Engine, broker: Witness
) -> None:
    with Session(database) as session:
        first = client.start("order", idempotency_key="once", session=session)
        again = client.start("order", idempotency_key="once", session=session)
        session.commit()

    assert (again.id, again.is_new, again.created_at) == (first.id, False, first.created_at)
    assert broker.published == [first.id]


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("in_own_transaction", [True, False], ids=["in a session", "without"])
def test_a_key_used_by_a_start_that_has_not_committed_is_waited_for(
    client: WorkflowClient,
    database: Engine,
    broker: Witness,
    sql: Sql,
    commits: bool,
    in_own_transaction: bool,
) -> None:
    started: list[StartedExecution] = []

    def start() -> None:
        if in_own_transaction:
            with Session(database) as session, session.begin():
                started.append(client.start("order", idempotency_key="once", session=session))
        else:
            started.append(client.start("order", idempotency_key="once"))

    with Session(database) as session:
        first = client.start("order", idempotency_key="once", session=session)
        second = threading.Thread(target=start)
        second.start()
        _wait_for_a_lock(sql)
        assert started == []
        session.commit() if commits else session.rollback()
        second.join()

    assert started[0].is_new is not commits
    assert (started[0].id == first.id) is commits
    assert set(broker.published) == {started[0].id}


def test_a_key_that_a_snapshot_cannot_see_is_a_serialization_failure_of_the_caller(
    client: WorkflowClient, database: Engine
) -> None:
    with database.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(text("SELECT count(*) FROM callers_orders"))
        client.start("order", idempotency_key="once")
        with pytest.raises(DBAPIError) as error:
            client.start("order", idempotency_key="once", session=connection)

    assert isinstance(error.value.orig, SerializationFailure)


def _wait_for_a_lock(sql: Sql) -> None:
    waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = %s"
    poll(lambda: sql(waiting, "Lock"), "a session waits for a lock")


# -- the statement ---------------------------------------------------------------------------------------


@pytest.fixture
def statements(database: Engine) -> list[tuple[str, dict[str, Any]]]:
    """Return the list of statements sent over the caller's connections, with their parameters."""
    sent: list[tuple[str, dict[str, Any]]] = []

    @event.listens_for(database, "before_cursor_execute")
    def remember(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    return sent


@pytest.mark.parametrize("key", [None, "once"])
def test_a_start_costs_the_callers_connection_one_statement_once_its_database_is_known(
    client: WorkflowClient, database: Engine, statements: list[tuple[str, Any]], key: str | None
) -> None:
    with Session(database) as session:
        client.start("order", session=session)
        statements.clear()
        client.start("order", session=session, idempotency_key=key)
        session.commit()

    ((statement, _),) = statements
    assert "start_execution" in statement


@pytest.mark.parametrize("key", [None, "once"])
def test_the_statement_holds_on_drivers_that_leave_the_types_of_parameters_to_postgres(
    client: WorkflowClient,
    database: Engine,
    statements: list[tuple[str, dict[str, Any]]],
    sql: Sql,
    key: str | None,
) -> None:
    """psycopg 3 and asyncpg send $1, $2, … and the values apart, as PREPARE and EXECUTE do."""
    with Session(database) as session:
        client.start("order", {"orderId": 1}, session=session, idempotency_key=key)
        session.rollback()
    statement, parameters = statements[-1]
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
    for number, name in enumerate(names, 1):
        statement = statement.replace(f"%({name})s", f"${number}")

    with closing(database.raw_connection()) as connection:
        cursor = connection.cursor()
        cursor.execute(f"PREPARE start AS {statement}")
        places = ", ".join(f"%({name})s" for name in names)
        cursor.execute(f"EXECUTE start ({places})", parameters)
        connection.commit()
        cursor.execute("DEALLOCATE start")

    assert sql("SELECT trigger_data, idempotency_key FROM executions") == [({"orderId": 1}, key)]


def test_the_callers_search_path_and_time_zone_do_not_matter(
    client: WorkflowClient, database: Engine, workers: Workers, sql: Sql
) -> None:
    with Session(database) as session:
        session.execute(text("SET LOCAL search_path = pg_catalog"))
        session.execute(text("SET LOCAL timezone = 'Asia/Kathmandu'"))
        session.execute(text("SET LOCAL datestyle = 'German'"))
        execution = client.start("order", session=session)
        session.commit()
    workers.drain()

    created_at = f"{execution.created_at:%Y-%m-%dT%H:%M:%S.%f}"[:-3]
    assert client.context(execution.id).metadata["startedAt"] == f"{created_at}Z"
    assert sql("SELECT created_at FROM executions") == [(execution.created_at,)]
