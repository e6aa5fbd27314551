"""Can this machine reach, and write to, the servers that a worker needs?

Supervisors ask every few seconds, so each check is a single statement or command and imports nothing slow.
`workflow-engine doctor` checks more, and gives advice.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import psycopg2.errors

from workflow_engine.addresses.postgres import libpq_url
from workflow_engine.addresses.redis import RedisAddress
from workflow_engine.errors import DatabaseOutdated, DatabaseUnavailable
from workflow_engine.health.probe import Probe
from workflow_engine.redis.client import connect_without_retries, redis_errors
from workflow_engine.redis.cluster.nodes import key_on_each
from workflow_engine.settings import Settings

STATE = """
SELECT version_num, pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'
FROM {s}.workflow_engine_version
"""


def ask_servers(settings: Settings, timeout: float, app: Any = None) -> Iterator[tuple[str, str | Exception]]:
    """Yield each server with its state, or with the error that makes it unfit.

    All servers are asked at once, for `timeout` seconds. The broker is that of the team's Celery app, if
    there is one.
    """
    deadline = time.monotonic() + timeout
    probes = [(name, Probe(ask)) for name, ask in _checks(settings, timeout, app)]
    for name, probe in probes:
        yield name, probe.result(deadline)


def _checks(settings: Settings, timeout: float, app: Any) -> Iterator[tuple[str, Callable[[], str]]]:
    database = urlsplit(settings.database_url)
    yield (
        f"Postgres at {database.netloc.rpartition('@')[2]}{database.path}",
        partial(_ask_postgres, settings, timeout),
    )
    yield f"Redis at {settings.redis_address.place}", partial(_ask_redis, settings, timeout)
    if settings.lock_urls:
        yield "Lock servers", partial(_ask_lock_servers, settings.lock_addresses, timeout)
    place, broker, prefix = _broker(settings, app)
    if broker is None:
        yield f"Broker at {place}", partial(_ask_broker, settings, timeout, app)
    elif not broker.is_same_database(settings.redis_address):
        yield f"Broker at {place}", partial(_write, broker, prefix, timeout)


def _broker(settings: Settings, app: Any) -> tuple[str, RedisAddress | None, str]:
    """Return the broker's place, its address if it is a single Redis, and the prefix of its keys."""
    if app is None:
        url, address, prefix = settings.effective_broker_url, settings.broker_address, settings.key_prefix
    else:
        from workflow_engine.broker.dispatcher import broker_address  # it imports Celery, as the app has

        url, address = app.connection_for_write().as_uri(), broker_address(app)
        prefix = (app.conf.broker_transport_options or {}).get("global_keyprefix", "")
    return address.place if address else urlsplit(url).netloc.rpartition("@")[2], address, prefix


def _ask_postgres(settings: Settings, timeout: float) -> str:
    try:
        connection = psycopg2.connect(
            libpq_url(settings.database_url), connect_timeout=max(2, round(timeout))
        )
        with closing(connection), connection.cursor() as cursor:
            cursor.execute(STATE.format(s=settings.quoted_schema))
            revision, is_read_only = cursor.fetchone() or (None, False)
    except psycopg2.errors.UndefinedTable:
        revision, is_read_only = None, False
    if is_read_only:
        raise DatabaseUnavailable("it is a standby or read-only")
    *older, newest = revisions()
    if revision is None or revision in older:  # any other is of a newer release, which serves this one too
        raise DatabaseOutdated(
            f"the tables are at {revision}, not {newest}; run `workflow-engine db upgrade`"
        )
    return f"writable, tables at {revision}"


def _ask_redis(settings: Settings, timeout: float) -> str:
    return _write(settings.redis_address, settings.key_prefix, timeout)


def _ask_broker(settings: Settings, timeout: float, app: Any) -> str:
    from workflow_engine.broker.inspection import connect_to_broker

    connect_to_broker(settings, timeout, app)
    return "accepts connections"


def _ask_lock_servers(addresses: Sequence[RedisAddress], timeout: float) -> str:
    deadline = time.monotonic() + timeout * 0.9
    probes = [Probe(partial(_write, address, "", timeout)) for address in addresses]
    results = [probe.result(deadline) for probe in probes]
    failures = [result for result in results if isinstance(result, Exception)]
    share = f"{len(addresses) - len(failures)} of {len(addresses)} are writable"
    if len(failures) > len(addresses) // 2:
        raise ConnectionError(f"{share}; {failures[0]}")
    return share


def _write(address: RedisAddress, key_prefix: str, timeout: float) -> str:
    # A full or read-only Redis replies to a PING as if nothing were wrong.
    with redis_errors(), connect_without_retries(address, timeout) as client:
        for key in key_on_each(client, f"{key_prefix}health").values():
            client.set(key, 1, px=1000)
    return "writable"


def revisions() -> list[str]:
    """Return the revisions of the tables that this release knows, oldest first, without importing Alembic."""
    follows = {}
    for file in resources.files("workflow_engine.postgres").joinpath("migrations", "versions").iterdir():
        if file.name.endswith(".py") and (
            found := re.search(
                r'^revision = "(.+)"\n^down_revision = (?:None|"(.+)")',
                file.read_text(encoding="utf-8"),
                re.M,
            )
        ):
            follows[found[2]] = found[1]
    ordered: list[str] = []
    while (after := ordered[-1] if ordered else None) in follows:
        ordered.append(follows[after])
    return ordered
