"""How this process reaches Postgres: one engine, no sessions of its own, errors in the engine's words.

Connections are in autocommit mode, so a single statement costs a single round trip and works behind a
connection pooler in transaction mode. Where several statements belong together, `transaction` says so.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from workflow_engine.errors import DatabaseOutdated, DatabaseUnavailable, InvalidValue
from workflow_engine.settings import Settings

UNDEFINED_TABLE = "42P01"
UNDEFINED_COLUMN = "42703"
INSUFFICIENT_PRIVILEGE = "42501"

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _forget_connections_of_parent() -> None:
    for engine in _engines:
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
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        connect_args={
            "connect_timeout": max(2, round(settings.database_timeout)),
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
        },
    )
    _engines.add(engine)
    return engine


@contextmanager
def engine_errors() -> Iterator[None]:
    """Turn a driver's errors into the engine's.

    Raises `DatabaseUnavailable` where repeating the statement may help, `DatabaseOutdated` where a
    table or column is missing, `InvalidValue` for content that Postgres refuses.
    """
    try:
        yield
    except PoolTimeoutError as error:
        raise DatabaseUnavailable(f"no connection to Postgres became free: {error}") from error
    except DataError as error:
        raise InvalidValue("data", f"Postgres refuses it: {_first_line(error)}") from error
    except ProgrammingError as error:
        code = getattr(error.orig, "pgcode", None)
        if code == INSUFFICIENT_PRIVILEGE:
            raise DatabaseUnavailable(f"Postgres refuses this user: {_first_line(error)}") from error
        if code in (UNDEFINED_TABLE, UNDEFINED_COLUMN):
            raise DatabaseOutdated(
                f"the tables are not those of this release ({_first_line(error)}); "
                "run `workflow-engine db upgrade`"
            ) from error
        raise
    except (OperationalError, InterfaceError, InternalError) as error:
        raise DatabaseUnavailable(f"Postgres does not answer: {_first_line(error)}") from error


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__


@contextmanager
def autocommit(engine: Engine) -> Iterator[Connection]:
    """A connection on which every statement is a transaction of its own."""
    with engine_errors(), engine.connect() as connection:
        yield connection


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """A connection on which all statements commit together, or none does."""
    with (
        engine_errors(),
        engine.connect().execution_options(isolation_level="READ COMMITTED") as connection,
        connection.begin(),
    ):
        yield connection


def to_jsonb(value: Any) -> str | None:
    """A value as the text of a `jsonb` parameter; None is SQL's NULL, so JSON's null is given as bytes."""
    if value is None:
        return None
    return value.decode() if isinstance(value, bytes) else orjson.dumps(value).decode()
