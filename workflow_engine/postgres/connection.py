"""Makes connections to Postgres, pools them, and detects those that have ended.

Connections are in autocommit mode, so a single statement costs a single round trip and works behind a
connection pooler in transaction mode. A connection that the server or a pooler has ended while it was idle is
replaced before it is used.
"""

from __future__ import annotations

import select

import orjson
import psycopg2
from sqlalchemy import Engine, ExceptionContext, PoolProxiedConnection, create_engine, event
from sqlalchemy.exc import DisconnectionError

from workflow_engine.json_values import decode_jsonb
from workflow_engine.postgres.deadline import connection_factory
from workflow_engine.postgres.driver_errors import READ_ONLY, sqlstate
from workflow_engine.settings import Settings

UTF8 = {"client_encoding": "UTF8"}
"""Set as connections begin: the environment or the user's role may name another encoding."""


def connect_engine(settings: Settings) -> Engine:
    """Make SQLAlchemy's engine of a process, which connects when it is first used."""
    engine = create_engine(
        settings.database_url,
        isolation_level="AUTOCOMMIT",
        pool_size=settings.database_pool_size,
        max_overflow=4,
        pool_timeout=settings.database_timeout,
        use_native_hstore=False,  # or every connection would begin with a query for its type
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=decode_jsonb,
        connect_args={
            **UTF8,
            "connection_factory": connection_factory(deadline=settings.database_deadline),
            "connect_timeout": max(2, round(settings.database_timeout)),
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
        },
    )
    event.listen(engine, "checkout", _replace_if_ended)
    event.listen(engine, "handle_error", _invalidate_on_standby)
    return engine


def has_ended(connection: PoolProxiedConnection) -> bool:
    """Return whether the server has closed an idle connection, by polling its socket; send nothing.

    Between statements a server sends only the reason for closing. After a notice, which is rare, a usable
    connection is replaced.
    """
    return _driver_has_ended(connection.driver_connection)  # type: ignore[arg-type]


def breaks_connection(engine: Engine, connection: PoolProxiedConnection, error: BaseException) -> bool:
    """Return whether an error leaves its connection unusable.

    After a failover a connection to the former primary may live on, although that is a standby now.
    """
    if not isinstance(error, psycopg2.Error):
        return False
    is_disconnect = engine.dialect.is_disconnect(error, connection, None)  # type: ignore[arg-type]
    return is_disconnect or sqlstate(error) == READ_ONLY


def _invalidate_on_standby(context: ExceptionContext) -> None:
    if sqlstate(context.original_exception) == READ_ONLY:
        context.is_disconnect = True


def _replace_if_ended(connection: psycopg2.extensions.connection, *_: object) -> None:
    """Have the pool replace a connection that it is about to hand out."""
    if _driver_has_ended(connection):
        raise DisconnectionError("the server has closed it")


def _driver_has_ended(connection: psycopg2.extensions.connection) -> bool:
    if connection.closed:
        return True
    if not hasattr(select, "poll"):  # eventlet takes it away
        return bool(select.select([connection], [], [], 0)[0])
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
