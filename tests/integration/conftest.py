"""An engine on servers of its own, for each test, with the messages in the test's hands."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis
from fleet_in_process import Broker, Workers

from workflow_engine import Settings, WorkflowClient
from workflow_engine.database import autocommit
from workflow_engine.engine import Engine


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    return Settings(database_url=database_url, redis_url=redis_url, commit_patience=2)


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
        engine.state.engine.dispose()


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
