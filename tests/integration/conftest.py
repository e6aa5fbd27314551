"""An engine on servers of its own, for each test, with the messages in the test's hands."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import psycopg2.extensions
import pytest
import redis
from fleet_in_process import Broker, Workers

from workflow_engine import Settings, WorkflowClient
from workflow_engine.database import autocommit
from workflow_engine.engine import Engine
from workflow_engine.lock import DistributedLockService
from workflow_engine.lock_servers import connect_lock_servers
from workflow_engine.outages import outages
from workflow_engine.redis_connection import connect_redis

EMPTY = """
    DELETE FROM executions; DELETE FROM idempotency_keys; DELETE FROM execution_events;
    DELETE FROM triggers; DELETE FROM workflow_versions; DELETE FROM workflows
"""


@pytest.fixture(scope="session")
def shared_database(postgres_server: str, migrated_template: str) -> Iterator[psycopg2.extensions.connection]:
    """A connection to a database that many tests use in turn: emptying it is faster than making another."""
    name = f"{migrated_template}_shared"
    with closing(psycopg2.connect(postgres_server.replace("+psycopg2", ""))) as server:
        server.autocommit = True
        server.cursor().execute(f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
        url = urlsplit(postgres_server.replace("+psycopg2", ""))._replace(path=f"/{name}").geturl()
        with closing(psycopg2.connect(url)) as connection:
            connection.autocommit = True
            yield connection
        server.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def settings(
    postgres_server: str, shared_database: psycopg2.extensions.connection, redis_url: str
) -> Settings:
    """An empty database and an empty Redis."""
    shared_database.cursor().execute(EMPTY)
    url = urlsplit(postgres_server)._replace(path=f"/{shared_database.info.dbname}").geturl()
    return Settings(database_url=url, redis_url=redis_url, commit_patience=2)


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def new_engine(settings: Settings, broker: Broker) -> Iterator[Callable[..., Engine]]:
    """Makes engines, which stand for processes: each has its own connections and its own caches."""
    engines: list[Engine] = []

    def make(**changes: object) -> Engine:
        changed = Settings.model_validate({**settings.model_dump(), **changes})
        engines.append(Engine.assemble(changed, dispatcher=broker))
        return engines[-1]

    yield make
    for engine in engines:
        engine.locks.abandon()
        engine.state.engine.dispose()


@pytest.fixture
def connect_locks() -> Iterator[Callable[[Settings], DistributedLockService]]:
    """Makes lock services, which stand for processes: what they hold is renewed until the test is over."""
    services: list[DistributedLockService] = []

    def connect(settings: Settings) -> DistributedLockService:
        client = connect_redis(settings)
        services.append(DistributedLockService(client, connect_lock_servers(client, settings), settings))
        return services[-1]

    yield connect
    for service in services:
        service.abandon()


@pytest.fixture
def engine(new_engine: Callable[..., Engine]) -> Engine:
    """A worker, whose engine the client shares."""
    return new_engine()


@pytest.fixture
def second_engine(new_engine: Callable[..., Engine]) -> Engine:
    """Another worker."""
    return new_engine()


@pytest.fixture
def client(engine: Engine) -> WorkflowClient:
    return WorkflowClient(engine=engine)


@pytest.fixture
def workers(broker: Broker, engine: Engine, second_engine: Engine) -> Workers:
    """Two workers, so that no hop finds anything in the memory of the one before."""
    return Workers(broker, engine, second_engine)


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def sql(engine: Engine) -> Callable[..., list[tuple[object, ...]]]:
    """Runs a statement in the engine's database and gives its rows."""

    def run(statement: str, *parameters: object) -> list[tuple[object, ...]]:
        with autocommit(engine.state.engine) as connection:
            result = connection.exec_driver_sql(statement, parameters or None)
            return [tuple(row) for row in result] if result.returns_rows else []

    return run


@pytest.fixture
def time_passes(sql: Callable[..., Any]) -> Callable[[float], None]:
    """Lets seconds pass for the waits in the database, so that no test has to sleep."""

    def by(seconds: float) -> None:
        earlier = ", ".join(
            f"{time} = {time} - %(seconds)s * interval '1 second'"
            for time in ("resume_at", "expires_at", "claimed_until", "created_at")
        )
        sql(f"UPDATE execution_wait_states SET {earlier.replace('%(seconds)s', str(float(seconds)))}")

    return by


@pytest.fixture
def wake_due(engine: Engine) -> Callable[[], list[str]]:
    """Plays the timekeeper of a worker; gives the nodes that it woke."""

    def wake() -> list[str]:
        due = engine.waits.claim_due()
        engine.enqueuer.wake(due)
        return [wait.node_id for wait in due]

    return wake


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the engine has logged since it was last asked."""
    caplog.set_level(logging.INFO, "workflow_engine")
    outages.forget()

    def lines() -> list[str]:
        own = [record for record in caplog.records if record.name.startswith("workflow_engine")]
        caplog.clear()
        return [record.getMessage() for record in own]

    return lines
