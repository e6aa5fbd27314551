"""Django's connections around nodes: those that have ended or are too old are closed, as around a request.

A worker may idle for hours between two nodes, while Postgres or a pooler closes its connection. Django would
find out by an error, unless `CONN_HEALTH_CHECKS` is set; here the socket is polled, which sends nothing.
"""

from __future__ import annotations

import select
from typing import Any

from django.db import connections, utils
from django.db.backends.base.base import BaseDatabaseWrapper


def close_unusable_connections() -> None:
    """Close this thread's connections that have ended, have failed or are older than `CONN_MAX_AGE`."""
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block:  # of a test
            continue
        close_if_ended(connection)
        try:
            connection.close_if_unusable_or_obsolete()
        except utils.Error:  # it cannot even be asked
            connection.close()


def close_if_ended(connection: BaseDatabaseWrapper) -> None:
    """Close a connection that its server has closed, so that the next statement opens another."""
    if (
        connection.connection is not None
        and not connection.in_atomic_block
        and _has_ended(connection.connection)
    ):
        connection.close()


def _has_ended(in_driver: Any) -> bool:
    """Return whether the server has ended a connection; between statements it sends nothing else."""
    if getattr(in_driver, "closed", False):
        return True
    if not hasattr(in_driver, "fileno"):  # not of Postgres
        return False
    if not hasattr(select, "poll"):  # eventlet takes it away
        return bool(select.select([in_driver], [], [], 0)[0])
    poll = select.poll()
    poll.register(in_driver.fileno(), select.POLLIN)
    return bool(poll.poll(0))
