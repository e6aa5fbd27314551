"""Nodes find usable connections of Django's, after a worker was idle and whatever a node before did."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg2.extensions
import pytest
from django.db import connection, transaction

from support.broker import Workers
from support.django_shop.models import Order
from workflow_engine import ExecutionStatus, WorkflowBuilder, node
from workflow_engine.django import client, start


@pytest.fixture(autouse=True)
def _persistent_connections() -> Iterator[None]:
    """Keep connections open, without the health checks that Django makes on request."""
    connection.settings_dict.update(CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=False)
    yield
    connection.settings_dict.update(CONN_MAX_AGE=0, CONN_HEALTH_CHECKS=False)


@pytest.fixture
def end_connections(shared_database: psycopg2.extensions.connection) -> Callable[[], None]:
    """Return a function that ends all connections to the database but its own, as a restart does."""

    def end() -> None:
        shared_database.cursor().execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    return end


ended: list[Callable[[], None]] = []


@node("django_connections.count")
def count() -> int:
    """Use the project's table."""
    return Order.objects.count()


@node("django_connections.lose_it")
def lose_the_connection() -> int:
    """Count, and have the server close the connection afterwards, as if Postgres restarted."""
    counted = Order.objects.count()
    ended[0]()
    return counted


@node("django_connections.break_it")
def break_the_connection() -> None:
    """Fail in the database, and leave a connection that Django has seen fail."""
    ended[0]()
    Order.objects.count()


def flow_of(*functions: str, hops: str) -> str:
    flow = WorkflowBuilder("connections", settings={"hops": hops})
    last = flow.trigger("asked")
    for number, function in enumerate(functions):
        following = flow.python(f"node{number}", f"django_connections.{function}", onError="continue")
        last >> following
        last = following
    client().deploy(flow.build())
    return "connections"


@pytest.mark.parametrize("hops", ["spread", "inline"])
@pytest.mark.parametrize("before", ["lose_it", "break_it"])
def test_a_node_works_after_one_whose_connection_was_lost(
    workers: Workers, end_connections: Callable[[], None], hops: str, before: str
) -> None:
    ended[:] = [end_connections]
    execution = start(flow_of(before, "count", hops=hops))

    workers.drain()

    done = client().get(execution.id)
    assert (done.status, done.result) == (ExecutionStatus.COMPLETED, 0)


def test_a_node_works_after_postgres_has_restarted_while_the_worker_was_idle(
    workers: Workers, end_connections: Callable[[], None]
) -> None:
    workflow = flow_of("count", hops="spread")
    start(workflow)
    workers.drain()
    assert connection.connection is not None, "it is kept open"

    execution = start(workflow)
    end_connections()
    workers.drain()

    assert client().get(execution.id).result == 0


def test_a_start_outside_of_a_transaction_needs_no_second_try(end_connections: Callable[[], None]) -> None:
    workflow = flow_of("count", hops="spread")
    assert connection.connection is not None

    end_connections()

    assert start(workflow).is_new


def test_the_connection_of_an_open_transaction_is_left_alone(workers: Workers) -> None:
    with transaction.atomic():
        before = connection.connection
        client().workflows()
        assert connection.connection is before


def test_a_connection_that_is_too_old_is_closed_after_the_node(workers: Workers) -> None:
    connection.close()
    connection.settings_dict["CONN_MAX_AGE"] = 0
    start(flow_of("count", hops="spread"))
    connection.close()

    workers.drain()

    assert connection.connection is None
