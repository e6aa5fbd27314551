"""A Django project in the test's own process, on the database and with the broker of the test."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from urllib.parse import urlsplit

import psycopg2
import psycopg2.extensions
import pytest
from django.conf import settings as django_settings
from django.db import connections

from support.broker import Broker
from support.caller_database import Witness, order_workflow
from support.django_shop import leave_the_project
from support.django_shop import settings as project
from support.django_shop.models import Order
from workflow_engine import Settings
from workflow_engine.canvas.clients import use_client_of_project
from workflow_engine.django import client, project_client
from workflow_engine.django.configuration import engine_settings
from workflow_engine.django.connections import close_unusable_connections
from workflow_engine.runner.surroundings import CALLED_AROUND_NODES
from workflow_engine.settings import read_project_settings


@pytest.fixture(scope="session")
def other_database(postgres_server: str) -> Iterator[str]:
    """Return the URL of a database without the engine's tables."""
    name = f"django_other_{uuid.uuid4().hex[:8]}"
    with closing(psycopg2.connect(postgres_server.replace("+psycopg2", ""))) as server:
        server.autocommit = True
        server.cursor().execute(f"CREATE DATABASE {name}")
        yield urlsplit(postgres_server)._replace(path=f"/{name}").geturl()
        server.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def django_is_connected(
    postgres_server: str, shared_database: psycopg2.extensions.connection, other_database: str
) -> None:
    """Have Django use the databases of the tests, and make its own table in them."""
    ours = urlsplit(postgres_server)._replace(path=f"/{shared_database.info.dbname}").geturl()
    for alias, url in (("default", ours), ("other", other_database)):
        connections[alias].settings_dict.update(project.database(url))
        with connections[alias].schema_editor() as editor:
            editor.create_model(Order)


@pytest.fixture(autouse=True)
def _project(django_is_connected: None, settings: Settings) -> Iterator[None]:
    """Let the engine use the project's settings during the test."""
    django_settings.WORKFLOW_ENGINE = {"REDIS_URL": settings.redis_url}
    read_project_settings(engine_settings)
    use_client_of_project(client)
    CALLED_AROUND_NODES.append(close_unusable_connections)
    yield
    for connection in connections.all():
        assert not connection.in_atomic_block
        connection.set_autocommit(True)
        Order.objects.using(connection.alias).all().delete()
        connection.close()
    client.cache_clear()
    leave_the_project()


@pytest.fixture
def broker(shared_database: psycopg2.extensions.connection) -> Iterator[Witness]:
    """Return a broker that fails the test if a message comes before the commit of its transaction."""
    witness = Witness(shared_database)
    yield witness
    assert witness.premature == [], "these were published before their transaction had committed"


@pytest.fixture(autouse=True)
def _messages_of_the_project(_project: None, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the messages of the project's client to the broker of the test."""
    monkeypatch.setattr(project_client, "CeleryDispatcher", lambda *_: broker)


@pytest.fixture
def deployed(_messages_of_the_project: None) -> None:
    client().deploy(order_workflow())


@pytest.fixture
def kept(shared_database: psycopg2.extensions.connection) -> Callable[[], tuple[list[str], list[str]]]:
    """Return the customers and the executions that Postgres has kept, in the order of their creation."""

    def rows() -> tuple[list[str], list[str]]:
        cursor = shared_database.cursor()
        cursor.execute("SELECT customer FROM django_shop_order ORDER BY id")
        customers = [row[0] for row in cursor.fetchall()]
        cursor.execute("SELECT id::text FROM executions ORDER BY created_at")
        return customers, [row[0] for row in cursor.fetchall()]

    return rows
