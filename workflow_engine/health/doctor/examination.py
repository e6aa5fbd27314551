"""Asks all servers and workers at once, and puts the findings in order."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from workflow_engine.addresses.redis import RedisAddress
from workflow_engine.broker.dispatcher import broker_address
from workflow_engine.broker.inspection import WorkerReport, ask_workers
from workflow_engine.health.doctor import postgres, redis_cluster, redis_server, workers
from workflow_engine.health.doctor.code import judge_code, judge_imports
from workflow_engine.health.doctor.encryption import judge_postgres_encryption, judge_redis_encryption
from workflow_engine.health.doctor.finding import Finding
from workflow_engine.health.doctor.secrets import judge_secrets
from workflow_engine.health.probe import Probe
from workflow_engine.settings import ENVIRONMENT_PREFIX, Settings

TIMEOUT = 8.0
"""Seconds after which a server that has not responded is reported as unresponsive."""

SERVER_TIMEOUT = 2.0
"""Seconds that a server or worker has to respond to one question."""

Ask = Callable[[Settings, RedisAddress, str], Any]
Judge = Callable[[Any], Iterator[Finding]]


@dataclass(frozen=True)
class RedisServer:
    """One of the Redis servers that are examined."""

    title: str
    variable: str
    """The setting that names it."""
    address: RedisAddress
    key_prefix: str
    judge: Judge = redis_server.judge_redis
    ask: Ask = redis_server.ask_redis


def examine(settings: Settings, timeout: float = TIMEOUT, *, app: Any = None) -> dict[str, list[Finding]]:
    """Return all findings, by topic.

    `app` is the team's Celery app, whose broker and options lead to its workers; without one, the broker of
    the settings is asked. Takes `timeout` seconds at most, plus the time of the imports.
    """
    hurried = settings.model_copy(
        update={
            "database_timeout": min(settings.database_timeout, SERVER_TIMEOUT),
            "redis_timeout": min(settings.redis_timeout, SERVER_TIMEOUT),
        }
    )
    imports = list(judge_imports(settings.imports))  # first, since importing would slow down the probes
    deadline = time.monotonic() + timeout
    of_postgres = Probe(partial(postgres.ask_postgres, hurried))
    of_redis = [
        (server, Probe(partial(server.ask, hurried, server.address, server.key_prefix)))
        for server in _redis_servers(settings, app)
    ]
    of_workers = Probe(partial(ask_workers, hurried, SERVER_TIMEOUT, app))
    findings: dict[str, list[Finding]] = {}
    facts = of_postgres.result(deadline)
    findings[f"Postgres at {postgres.place(settings.database_url)}"] = list(_of_postgres(facts, settings))
    for server, probe in of_redis:
        findings[server.title] = list(_of_redis(probe.result(deadline), server))
    findings["Workers"] = list(
        _of_workers(of_workers.result(deadline), settings, facts, _name_of_broker(settings, app))
    )
    code = facts.code_in_use if isinstance(facts, postgres.PostgresFacts) else None
    findings["Code of workflows"] = [*imports, *([judge_code(code)] if code is not None else [])]
    findings["Secrets"] = [judge_secrets(os.environ)]
    return findings


def _redis_servers(settings: Settings, app: Any) -> Iterator[RedisServer]:
    """Yield the Redis of the contexts, and those of the broker and the locks if they are others."""
    contexts, prefix = settings.redis_address, settings.key_prefix
    ask: Ask = redis_cluster.ask_cluster if contexts.is_cluster else redis_server.ask_redis
    judge: Judge = redis_cluster.judge_cluster if contexts.is_cluster else redis_server.judge_contexts
    title = f"{'Redis Cluster' if contexts.is_cluster else 'Redis'} at {contexts.label}"
    yield RedisServer(title, "WORKFLOW_ENGINE_REDIS_URL", contexts, prefix, judge, ask)
    if app is not None:
        broker = broker_address(app)
        brokers_prefix = (app.conf.broker_transport_options or {}).get("global_keyprefix", "")
    else:
        broker, brokers_prefix = settings.broker_address, prefix
    if broker is not None and not broker.is_same_database(contexts):
        title, variable = f"Redis (broker) at {broker.label}", _name_of_broker(settings, app)
        yield RedisServer(title, variable, broker, brokers_prefix)
    judge_lock = partial(redis_server.judge_lock_server, lock_expiry=settings.lock_expiry)
    for lock in settings.lock_addresses:
        title = f"Redis (locks) at {lock.label}"
        yield RedisServer(title, "WORKFLOW_ENGINE_LOCK_URLS", lock, prefix, judge_lock)


def _name_of_broker(settings: Settings, app: Any) -> str:
    """Return the setting that names the broker."""
    if app is not None:
        return "broker_url of the Celery app"
    return f"{ENVIRONMENT_PREFIX}{'BROKER' if settings.broker_url else 'REDIS'}_URL"


def _of_postgres(facts: postgres.PostgresFacts | Exception, settings: Settings) -> Iterator[Finding]:
    if isinstance(facts, Exception):
        yield postgres.unreachable(facts)
    else:
        yield from postgres.judge_postgres(facts)
        yield judge_postgres_encryption(settings.database_url)


def _of_redis(facts: Any, server: RedisServer) -> Iterator[Finding]:
    if isinstance(facts, Exception):
        yield redis_server.unreachable(facts, server.variable)
    else:
        yield from server.judge(facts)
        yield judge_redis_encryption(server.address, server.variable)


def _of_workers(
    reports: Sequence[WorkerReport] | Exception,
    settings: Settings,
    facts: postgres.PostgresFacts | Exception,
    broker: str,
) -> Iterator[Finding]:
    if isinstance(reports, Exception):
        yield workers.unreachable(reports, broker)
    elif isinstance(facts, Exception):
        yield from workers.judge_workers(reports, settings, None)
    else:
        yield from workers.judge_workers(reports, settings, facts.code_in_use, facts.skew)
