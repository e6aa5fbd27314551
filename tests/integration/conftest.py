"""An engine on servers of its own, for each test, with a broker that the test plays."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import psycopg2.extensions
import pytest
import redis
from click.testing import Result

from support.broker import Broker, Workers
from support.command_line import run
from workflow_engine import Settings, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.outages import outages
from workflow_engine.settings import get_settings

EMPTY = """
    DELETE FROM executions; DELETE FROM idempotency_keys; DELETE FROM execution_events;
    DELETE FROM limit_overrides; DELETE FROM limit_windows;
    DELETE FROM triggers; DELETE FROM workflow_events; DELETE FROM workflow_versions; DELETE FROM workflows
"""


@pytest.fixture(scope="session")
def shared_database(postgres_server: str, migrated_template: str) -> Iterator[psycopg2.extensions.connection]:
    """Connect to a database that tests share in turn: to empty it is faster than to create another."""
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
def empty_database_url(postgres_server: str) -> Iterator[str]:
    """Return the URL of a database without any table."""
    name = "workflow_engine_test_migrations"
    connection = psycopg2.connect(postgres_server.replace("+psycopg2", ""))
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute(f"CREATE DATABASE {name}")
    yield postgres_server.rpartition("/")[0] + f"/{name}"
    cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
    connection.close()


@pytest.fixture
def run_on(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> Iterator[Callable[..., Result]]:
    """Return a function that runs a command with a database: `run_on(url, "db", "status")`."""

    def run_on(url: str, *arguments: str) -> Result:
        monkeypatch.setenv("WORKFLOW_ENGINE_DATABASE_URL", url)
        monkeypatch.setenv("WORKFLOW_ENGINE_REDIS_URL", redis_url)
        get_settings.cache_clear()
        return run(*arguments)

    yield run_on
    get_settings.cache_clear()


@pytest.fixture
def commands_use_the_servers(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Iterator[None]:
    """Make commands that run in this process use the servers of the test."""
    monkeypatch.setenv("WORKFLOW_ENGINE_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("WORKFLOW_ENGINE_REDIS_URL", settings.redis_url)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.fixture
def settings(
    postgres_server: str, shared_database: psycopg2.extensions.connection, redis_url: str
) -> Settings:
    """Return the settings of an empty database and an empty Redis."""
    shared_database.cursor().execute(EMPTY)
    url = urlsplit(postgres_server)._replace(path=f"/{shared_database.info.dbname}").geturl()
    return Settings(database_url=url, redis_url=redis_url, commit_retry_timeout=2)


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def new_engine(settings: Settings, broker: Broker) -> Iterator[Callable[..., Engine]]:
    """Return a factory of engines, which stand for processes: each has its own connections and caches."""
    engines: list[Engine] = []

    def make(**changes: object) -> Engine:
        changed = Settings.model_validate({**settings.model_dump(), **changes})
        engines.append(Engine.assemble(changed, dispatcher=broker))
        return engines[-1]

    yield make
    for engine in engines:
        engine.locks.stop_all_renewing()
        engine.database.dispose()


@pytest.fixture
def engine(new_engine: Callable[..., Engine]) -> Engine:
    """Return a worker, whose engine the client shares."""
    return new_engine()


@pytest.fixture
def second_engine(new_engine: Callable[..., Engine]) -> Engine:
    """Return another worker."""
    return new_engine()


@pytest.fixture
def client(engine: Engine) -> WorkflowClient:
    return WorkflowClient(engine=engine)


@pytest.fixture
def workers(broker: Broker, engine: Engine, second_engine: Engine) -> Workers:
    """Return two workers, so that no hop finds anything in the memory of the one before."""
    return Workers(broker, engine, second_engine)


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def sql(engine: Engine) -> Callable[..., list[tuple[object, ...]]]:
    """Return a function that runs a statement and returns its rows; parameters are written `%s`."""

    def run(statement: str, *parameters: object) -> list[tuple[object, ...]]:
        named = {f"parameter{number}": value for number, value in enumerate(parameters)}
        names = iter(named)
        return engine.database.rows(re.sub("%s", lambda _: f"%({next(names)})s", statement), **named)

    return run


@pytest.fixture
def time_passes(sql: Callable[..., Any]) -> Callable[[float], None]:
    """Return a function that lets seconds pass for the waits in the database, so that no test sleeps."""

    def by(seconds: float) -> None:
        earlier = ", ".join(
            f"{time} = {time} - %(seconds)s * interval '1 second'"
            for time in ("resume_at", "expires_at", "claimed_until", "children_due", "created_at")
        )
        sql(f"UPDATE execution_wait_states SET {earlier.replace('%(seconds)s', str(float(seconds)))}")

    return by


@pytest.fixture
def wake_due(engine: Engine) -> Callable[[], list[str]]:
    """Return a function that plays a worker's timekeeper and returns the nodes that it woke."""

    def wake() -> list[str]:
        due = engine.waits.claim_due(known=engine.code)
        engine.publisher.wake(due)
        WorkflowClient(engine=engine).control.descendants.see_to_due()
        return [wait.node_id for wait in due]

    return wake


@pytest.fixture
def log_lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return a function that returns what the engine has logged since its last call."""
    caplog.set_level(logging.INFO, "workflow_engine")
    outages.reset()

    def lines() -> list[str]:
        own = [record for record in caplog.records if record.name.startswith("workflow_engine")]
        caplog.clear()
        return [record.getMessage() for record in own]

    return lines
