"""Whether this machine can reach, and write to, the servers that a worker needs.

Supervisors ask every few seconds, so a question is a single statement or command, and what takes long to
import is left out: `workflow-engine doctor` asks more, and says what to do.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from importlib import resources
from urllib.parse import parse_qsl, urlencode, urlsplit

import psycopg2
import psycopg2.errors

from workflow_engine.errors import DatabaseOutdated, DatabaseUnavailable
from workflow_engine.inquiry import Inquiry
from workflow_engine.redis_connection import connect_impatiently, redis_errors
from workflow_engine.settings import Settings, redis_place

STATE = """
SELECT version_num, pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'
FROM {s}.alembic_version
"""

REDIS_SCHEMES = ("redis://", "rediss://", "unix://")


def ask_servers(settings: Settings, timeout: float) -> Iterator[tuple[str, str | Exception]]:
    """Each server, and what it is fit for or why it is not; all are asked at once, for `timeout` seconds."""
    deadline = time.monotonic() + timeout
    asked = [(name, Inquiry(ask)) for name, ask in _questions(settings, timeout)]
    for name, inquiry in asked:
        yield name, inquiry.answer(deadline)


def _questions(settings: Settings, timeout: float) -> Iterator[tuple[str, Callable[[], str]]]:
    database = urlsplit(settings.database_url)
    yield (
        f"Postgres at {database.netloc.rpartition('@')[2]}{database.path}",
        partial(_ask_postgres, settings, timeout),
    )
    yield f"Redis at {redis_place(settings.redis_url)}", partial(_ask_redis, settings, timeout)
    if settings.lock_urls:
        yield "Lock servers", partial(_ask_lock_servers, settings.lock_urls, timeout)
    broker = settings.effective_broker_url
    if broker != settings.redis_url:
        place = urlsplit(broker).netloc.rpartition("@")[2]
        yield f"Broker at {place}", partial(_ask_broker, settings, broker, timeout)


def _ask_postgres(settings: Settings, timeout: float) -> str:
    try:
        connection = psycopg2.connect(
            libpq_url(settings.database_url), connect_timeout=max(2, round(timeout))
        )
        with closing(connection), connection.cursor() as cursor:
            cursor.execute(STATE.format(s=settings.database_schema))
            revision, is_read_only = cursor.fetchone() or (None, False)
    except psycopg2.errors.UndefinedTable:
        revision, is_read_only = None, False
    if is_read_only:
        raise DatabaseUnavailable("it is a standby or read-only")
    *older, newest = revisions()
    if revision is None or revision in older:  # any other is of a newer release, and serves this one as well
        raise DatabaseOutdated(
            f"the tables are at {revision}, not {newest}; run `workflow-engine db upgrade`"
        )
    return f"writable, tables at {revision}"


def _ask_redis(settings: Settings, timeout: float) -> str:
    return _write(settings.redis_url, settings.key_prefix, timeout)


def _ask_broker(settings: Settings, url: str, timeout: float) -> str:
    if url.startswith(REDIS_SCHEMES):
        return _write(url, settings.key_prefix, timeout)
    from workflow_engine.dispatch import connect_to_broker

    connect_to_broker(settings, timeout)
    return "accepts connections"


def _ask_lock_servers(urls: Sequence[str], timeout: float) -> str:
    deadline = time.monotonic() + timeout * 0.9
    asked = [Inquiry(partial(_write, url, "", timeout)) for url in urls]
    answers = [inquiry.answer(deadline) for inquiry in asked]
    failures = [answer for answer in answers if isinstance(answer, Exception)]
    told = f"{len(urls) - len(failures)} of {len(urls)} are writable"
    if len(failures) > len(urls) // 2:
        raise ConnectionError(f"{told}; {failures[0]}")
    return told


def _write(url: str, key_prefix: str, timeout: float) -> str:
    # A full or read-only Redis answers a PING as if nothing were wrong.
    with redis_errors(), connect_impatiently(url, timeout) as client:
        client.set(f"{key_prefix}health", 1, px=1000)
    return "writable"


def libpq_url(url: str) -> str:
    """SQLAlchemy's URL as libpq reads it: several hosts, `?host=a:5432&host=b:5432`, are lists there."""
    parts = urlsplit(url.replace("+psycopg2", "", 1))
    query = parse_qsl(parts.query)
    hosts = [value for name, value in query if name == "host"]
    if len(hosts) > 1:
        query = [(name, value) for name, value in query if name not in ("host", "port")]
        query.append(("host", ",".join(host.partition(":")[0] for host in hosts)))
        query.append(("port", ",".join(host.partition(":")[2] or "5432" for host in hosts)))
    return parts._replace(query=urlencode(query)).geturl()


def revisions() -> list[str]:
    """The revisions of the tables that this release knows, the oldest first; Alembic is not imported."""
    follows = {}
    for file in resources.files("workflow_engine").joinpath("migrations", "versions").iterdir():
        if file.name.endswith(".py") and (
            found := re.search(
                r'^revision = "(.+)"\n^down_revision = (?:None|"(.+)")', file.read_text(), re.M
            )
        ):
            follows[found[2]] = found[1]
    ordered: list[str] = []
    while (after := ordered[-1] if ordered else None) in follows:
        ordered.append(follows[after])
    return ordered
