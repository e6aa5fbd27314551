"""An upgrade builds new indexes of large tables while workers go on writing to them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from support.polling import poll
from workflow_engine import Settings, WorkflowBuilder, WorkflowClient
from workflow_engine.errors import WorkflowEngineError
from workflow_engine.postgres import migrations
from workflow_engine.postgres.migrations.online_indexes import build_missing

Sql = Callable[..., list[tuple[Any, ...]]]

INDEX = "executions_children_at_rest"
VALID = f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{INDEX}')"
BUILDING = "SELECT FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%'"


@pytest.fixture
def without_index(sql: Sql) -> Iterator[None]:
    """Drop the index, as in a database of an older release."""
    sql(f"DROP INDEX {INDEX}")
    yield
    assert sql(VALID) == [(True,)]


@pytest.fixture
def writer(settings: Settings) -> Iterator[psycopg2.extensions.connection]:
    """Return a connection for a transaction that has written and goes on."""
    with closing(psycopg2.connect(settings.database_url.replace("+psycopg2", ""))) as connection:
        yield connection


def deployed(client: WorkflowClient) -> None:
    flow = WorkflowBuilder("line")
    flow.trigger("begin") >> flow.function("done", 1)
    client.deploy(flow.build())


def test_starts_go_on_while_an_index_is_built(
    client: WorkflowClient,
    settings: Settings,
    sql: Sql,
    without_index: None,
    writer: psycopg2.extensions.connection,
) -> None:
    deployed(client)
    writer.cursor().execute("UPDATE executions SET seq = seq WHERE false")  # which takes the lock of writers
    upgrade = threading.Thread(target=migrations.upgrade, args=[settings.database_url])
    upgrade.start()
    poll(lambda: sql(BUILDING), "the index is being built")

    started = [client.start("line").id for _ in range(3)]
    assert sql(VALID) == [(False,)]
    writer.commit()
    upgrade.join(30)

    assert not upgrade.is_alive()
    assert sql(VALID) == [(True,)]
    assert {each.id for each in client.list(children=True)} == set(started)


def test_an_index_whose_build_was_interrupted_is_built_by_the_next_upgrade(
    settings: Settings, sql: Sql, without_index: None, writer: psycopg2.extensions.connection
) -> None:
    writer.cursor().execute("UPDATE executions SET seq = seq WHERE false")
    ended: list[BaseException] = []

    def interrupted() -> None:
        try:
            migrations.upgrade(settings.database_url)
        except WorkflowEngineError as error:
            ended.append(error)

    upgrade = threading.Thread(target=interrupted)
    upgrade.start()
    poll(lambda: sql(BUILDING), "the index is being built")
    sql(f"SELECT pg_cancel_backend(pid) FROM ({BUILDING.replace('FROM', 'pid FROM', 1)}) AS building")
    upgrade.join(30)
    writer.commit()
    assert ended
    assert sql(VALID) == [(False,)]

    migrations.upgrade(settings.database_url)

    assert sql(VALID) == [(True,)]


def test_two_upgrades_at_once_build_an_index_once(
    settings: Settings, sql: Sql, without_index: None, writer: psycopg2.extensions.connection
) -> None:
    writer.cursor().execute("UPDATE executions SET seq = seq WHERE false")
    # Two processes: in one, `upgrade` has a lock of its own.
    database = create_engine(settings.database_url, poolclass=NullPool)
    upgrades = [threading.Thread(target=build_missing, args=[database, "public"]) for _ in range(2)]
    for upgrade in upgrades:
        upgrade.start()
    poll(lambda: sql(BUILDING), "the index is being built")
    assert len(sql(BUILDING)) == 1
    writer.commit()
    for upgrade in upgrades:
        upgrade.join(30)

    assert not any(upgrade.is_alive() for upgrade in upgrades)
