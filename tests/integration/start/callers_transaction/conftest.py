"""A caller with a table of its own, who starts executions of the workflow `order` in its transactions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg2.extensions
import pytest
import sqlalchemy

from support.caller_database import Base, Kept, Witness, order_workflow
from workflow_engine import Settings, WorkflowClient
from workflow_engine.engine.assembly import Engine


@pytest.fixture
def broker(shared_database: psycopg2.extensions.connection) -> Iterator[Witness]:
    """Return a broker that fails the test if a message comes before the commit of its transaction."""
    witness = Witness(shared_database)
    yield witness
    assert witness.premature == [], "these were published before their transaction had committed"


@pytest.fixture
def database(settings: Settings) -> Iterator[sqlalchemy.Engine]:
    """Return the caller's own engine, with the caller's own table."""
    engine = sqlalchemy.create_engine(settings.database_url)
    Base.metadata.create_all(engine)
    yield engine
    Base.metadata.drop_all(engine)
    engine.dispose()


@pytest.fixture
def client(engine: Engine) -> WorkflowClient:
    client = WorkflowClient(engine=engine)
    client.deploy(order_workflow())
    return client


@pytest.fixture
def kept(sql: Callable[..., list[tuple[Any, ...]]]) -> Kept:
    """Return a function that reads which customers and executions Postgres has, in order of creation."""

    def rows() -> tuple[list[str], list[str]]:
        customers = sql("SELECT customer FROM callers_orders ORDER BY id")
        executions = sql("SELECT id::text FROM executions ORDER BY created_at")
        return [row[0] for row in customers], [row[0] for row in executions]

    return rows
