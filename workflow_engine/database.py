"""How this process reaches Postgres: one engine, no sessions of its own, errors in the engine's words.

Connections are in autocommit mode, so a single statement costs a single round trip and works behind a
connection pooler in transaction mode. Where several statements belong together, `transaction` says so.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import psycopg2
from sqlalchemy import Connection, Engine, ExceptionContext, PoolProxiedConnection, create_engine, event
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from workflow_engine.errors import (
    DatabaseOutdated,
    DatabaseUnavailable,
    InvalidValue,
    WorkflowEngineError,
)
from workflow_engine.outages import outages
from workflow_engine.settings import Settings
from workflow_engine.statement_deadline import connecting

UNDEFINED_TABLE = "42P01"
UNDEFINED_COLUMN = "42703"
UNDEFINED_FUNCTION = "42883"
INSUFFICIENT_PRIVILEGE = "42501"
READ_ONLY = "25006"
TOO_MUCH = "54"
"""Class of errors about limits of Postgres that a value exceeds, such as the size of an index entry."""
INTERNAL = "XX"

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

AT_HAND = "workflow_engine_at_hand"
"""The engine's option that holds the connection of the last statement that was executed by itself."""

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
_of_parent: list[Any] = []
"""Connections that were at hand. Giving one back would need a lock of its pool, which the parent may hold."""


def _forget_connections_of_parent() -> None:
    for engine in _engines:
        at_hand = engine.get_execution_options()[AT_HAND]
        _of_parent.extend(at_hand)
        at_hand.clear()
        engine.dispose(close=False)


# A connection used by parent and child gives each the other's answers.
os.register_at_fork(after_in_child=_forget_connections_of_parent)


def connect_engine(settings: Settings) -> Engine:
    """An engine for this process; it connects at the first use and again after a fork."""
    engine = create_engine(
        settings.database_url,
        isolation_level="AUTOCOMMIT",
        pool_size=settings.database_pool_size,
        max_overflow=4,
        pool_timeout=settings.database_timeout,
        use_native_hstore=False,  # or every connection would begin with a question for its type
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        execution_options={AT_HAND: deque()},
        connect_args={
            "connection_factory": connecting(deadline=settings.database_deadline),
            "connect_timeout": max(2, round(settings.database_timeout)),
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
        },
    )
    event.listen(engine, "handle_error", _leave_a_standby)
    event.listen(engine, "engine_disposed", _close_at_hand)
    _engines.add(engine)
    return engine


@contextmanager
def engine_errors() -> Iterator[None]:
    """Turn a driver's errors into the engine's.

    Raises `DatabaseUnavailable` where repeating the statement may help, `DatabaseOutdated` where a
    table or column is missing, `InvalidValue` for content that Postgres refuses. What is left is a mistake
    of the statement, and keeps its error.
    """
    try:
        yield
    except PoolTimeoutError as error:
        raise DatabaseUnavailable(f"no connection to Postgres became free: {error}") from error
    except DBAPIError as error:
        if (translated := _translated(error)) is None:
            raise
        raise translated from error
    outages.answered(DatabaseUnavailable)


def _translated(error: DBAPIError) -> WorkflowEngineError | None:
    code = _sqlstate(error.orig) or ""
    if isinstance(error, DataError) or code.startswith(TOO_MUCH):
        return InvalidValue("data", f"Postgres refuses it: {_first_line(error)}")
    if code == INSUFFICIENT_PRIVILEGE:
        return DatabaseUnavailable(f"Postgres refuses this user: {_first_line(error)}")
    if code in (UNDEFINED_TABLE, UNDEFINED_COLUMN, UNDEFINED_FUNCTION):
        return DatabaseOutdated(
            f"the tables are not those of this release ({_first_line(error)}); "
            "run `workflow-engine db upgrade`"
        )
    if not code and isinstance(error, OperationalError | InterfaceError):
        return DatabaseUnavailable(f"Postgres does not answer: {_first_line(error)}")
    # By psycopg2's classes: no disk, memory or connection left, shut down, cancelled, deadlock, and the like.
    if isinstance(error, OperationalError) or code == READ_ONLY or code.startswith(INTERNAL):
        return DatabaseUnavailable(f"Postgres cannot do it now: {_first_line(error)}")
    return None


def _sqlstate(error: BaseException | None) -> str | None:
    """Postgres's code for an error of psycopg2; None if it did not come from the server."""
    return getattr(error, "pgcode", None)


def _leave_a_standby(context: ExceptionContext) -> None:
    """After a failover a connection may live on to what was the primary, and is a standby now."""
    if _sqlstate(context.original_exception) == READ_ONLY:
        context.is_disconnect = True


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__


def execute(engine: Engine, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """The rows that a statement answers with, which is a transaction of its own, as in `autocommit`.

    For what every hop does: it goes to the driver's own cursor, on a connection that stays at hand between
    two statements, because SQLAlchemy's way to execute, and its pool, take longer than the rest of the call.
    """
    try:
        rows = _executed_at_hand(engine, statement, parameters)
    except psycopg2.Error as error:
        with engine_errors():
            # SQLAlchemy wraps no errors of the connections that it hands out, nor of connecting them.
            raise DBAPIError.instance(None, None, error, psycopg2.Error) from error
    except SQLAlchemyError:
        with engine_errors():
            raise
    outages.answered(DatabaseUnavailable)
    return rows


def _executed_at_hand(engine: Engine, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    at_hand = engine.get_execution_options()[AT_HAND]
    try:
        connection = at_hand.pop()
    except IndexError:
        connection = engine.raw_connection()
    try:
        with connection.driver_connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            rows = cursor.fetchall() if cursor.description else []
    except BaseException as error:
        if isinstance(error, psycopg2.Error) and _is_to_be_left(engine, connection, error):
            connection.invalidate(error)
        connection.close()
        raise
    if at_hand:
        connection.close()
    else:
        at_hand.append(connection)
    return rows


def _is_to_be_left(engine: Engine, connection: PoolProxiedConnection, error: psycopg2.Error) -> bool:
    is_disconnect = engine.dialect.is_disconnect(error, connection, None)  # type: ignore[arg-type]
    return is_disconnect or _sqlstate(error) == READ_ONLY


def _connect(engine: Engine) -> Connection:
    """A connection of the pool, to which goes back what is at hand: one thread needs one connection."""
    for connection in _taken_from_hand(engine):
        connection.close()
    return engine.connect()


def _close_at_hand(engine: Engine) -> None:
    for connection in _taken_from_hand(engine):
        connection.invalidate()


def _taken_from_hand(engine: Engine) -> Iterator[PoolProxiedConnection]:
    at_hand = engine.get_execution_options()[AT_HAND]
    with suppress(IndexError):  # another thread may be faster
        while at_hand:
            yield at_hand.pop()


@contextmanager
def autocommit(engine: Engine) -> Iterator[Connection]:
    """A connection on which every statement is a transaction of its own."""
    with engine_errors(), _connect(engine) as connection:
        yield connection


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """A connection on which all statements commit together, or none does."""
    with (
        engine_errors(),
        _connect(engine).execution_options(isolation_level="READ COMMITTED") as connection,
        connection.begin(),
    ):
        yield connection


def to_jsonb(value: Any) -> str | None:
    """A value as the text of a `jsonb` parameter; None is SQL's NULL, so JSON's null is given as bytes."""
    if value is None:
        return None
    return value.decode() if isinstance(value, bytes) else orjson.dumps(value).decode()


def instant(microseconds: int) -> datetime:
    """A time that Postgres has told in microseconds since 1970."""
    return EPOCH + timedelta(microseconds=microseconds)
