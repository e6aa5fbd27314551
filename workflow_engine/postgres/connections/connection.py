"""Makes connections to Postgres, and detects those that have ended or are unusable.

Connections are in autocommit mode, so a single statement costs a single round trip and works behind a
connection pooler in transaction mode.
"""

from __future__ import annotations

import select
from typing import Any

import psycopg2
from psycopg2 import extras
from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class, in spite of its name

from workflow_engine.addresses.postgres import libpq_url
from workflow_engine.json_values import decode_jsonb
from workflow_engine.postgres.connections.deadline import connection_factory
from workflow_engine.postgres.driver_errors import READ_ONLY, sqlstate
from workflow_engine.settings import Settings

UTF8 = {"client_encoding": "UTF8"}
"""Set as connections begin: the environment or the user's role may name another encoding."""


def connect(settings: Settings) -> Connection:
    """Return a new connection to the database of the settings. Raises `psycopg2.Error`."""
    connection: Connection = psycopg2.connect(
        libpq_url(settings.database_url),
        connection_factory=connection_factory(deadline=settings.database_deadline),
        **_options(settings),
    )
    connection.autocommit = True
    return _reading_json(connection)


def connect_without_blocking(settings: Settings) -> Connection:
    """Return a connection that is being made, and never blocks: `sender.wait` waits for it.

    Its statements commit by themselves, too. Raises `psycopg2.Error`.
    """
    return _reading_json(
        psycopg2.connect(libpq_url(settings.database_url), async_=True, **_options(settings))
    )


def _options(settings: Settings) -> dict[str, Any]:
    return {
        **UTF8,
        "connect_timeout": max(2, round(settings.database_timeout)),
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }


def _reading_json(connection: Connection) -> Connection:
    extras.register_default_json(connection, loads=decode_jsonb)
    extras.register_default_jsonb(connection, loads=decode_jsonb)
    return connection


def has_ended(connection: Connection) -> bool:
    """Return whether the server has closed an idle connection, by polling its socket; send nothing.

    Between statements a server sends only the reason for closing. After a notice, which is rare, a usable
    connection is replaced.
    """
    if connection.closed:
        return True
    if not hasattr(select, "poll"):  # eventlet takes it away
        return bool(select.select([connection], [], [], 0)[0])
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def breaks_connection(connection: Connection, error: BaseException) -> bool:
    """Return whether an error leaves its connection unusable.

    After a failover a connection to the former primary may live on, although that is a standby now.
    """
    if connection.closed or connection.get_transaction_status() != TRANSACTION_STATUS_IDLE:
        return True
    if isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError) and sqlstate(error) is None:
        return True  # no server has sent it: what the connection would deliver next is unknown
    return sqlstate(error) == READ_ONLY
