"""A busy process sends commits over a connection of its own, and gives it back when it is quiet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from workflow_engine import Settings
from workflow_engine.errors import DatabaseUnavailable, InvalidValue
from workflow_engine.postgres.connections import sender as module
from workflow_engine.postgres.connections.sender import AwaitedRows, Sender
from workflow_engine.postgres.database import PooledDatabase

BACKEND = "SELECT pg_backend_pid()"
HALF_A_MINUTE = 30.0


@pytest.fixture
def database(settings: Settings) -> Iterator[PooledDatabase]:
    database = PooledDatabase(settings)
    yield database
    database.dispose()


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list of seconds that have passed for the sender beside those that really have."""
    passed: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + sum(passed))
    monkeypatch.setattr(module, "time", clock)
    return passed


@pytest.fixture
def refused(database: PooledDatabase, settings: Settings) -> Iterator[tuple[Settings, str]]:
    """Return settings with a role that Postgres refuses, and the statement that admits it."""
    role = f"sender_{uuid4().hex}"
    database.rows(f"CREATE ROLE {role} NOLOGIN PASSWORD 'sent'")
    parts = urlsplit(settings.database_url)
    place = f"{role}:sent@{parts.netloc.rpartition('@')[2]}"
    url = parts._replace(netloc=place).geturl()
    yield settings.model_copy(update={"database_url": url}), f"ALTER ROLE {role} LOGIN"
    database.rows(f"DROP ROLE {role}")


def sent(sender: Sender, statement: str = BACKEND) -> AwaitedRows:
    awaited = sender.send(statement, {})
    assert awaited is not None
    return awaited


def backends(database: PooledDatabase, pid: int) -> int:
    return len(database.rows("SELECT FROM pg_stat_activity WHERE pid = %(pid)s", pid=pid))


def test_a_sender_that_could_not_connect_leaves_statements_to_others_for_half_a_minute(
    database: PooledDatabase, refused: tuple[Settings, str], passing: list[float]
) -> None:
    settings, admit = refused
    sender = Sender(settings)
    with pytest.raises(DatabaseUnavailable):
        sender.send(BACKEND, {})
    database.rows(admit)
    assert sender.send(BACKEND, {}) is None, "it has only just failed"
    passing.append(HALF_A_MINUTE / 2)
    assert sender.send(BACKEND, {}) is None

    passing.append(HALF_A_MINUTE / 2)

    assert len(sent(sender).rows()) == 1
    sender.rest()


def test_a_sender_that_fails_again_pauses_again(refused: tuple[Settings, str], passing: list[float]) -> None:
    sender = Sender(refused[0])
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable):
            sender.send(BACKEND, {})
        assert sender.send(BACKEND, {}) is None
        passing.append(HALF_A_MINUTE)


def test_a_statement_that_fails_is_followed_by_no_pause(settings: Settings) -> None:
    sender = Sender(settings)
    with pytest.raises(InvalidValue):
        sent(sender, "SELECT 1 / 0").rows()

    assert len(sent(sender).rows()) == 1
    sender.rest()


def test_a_connection_that_has_ended_is_replaced_without_a_pause(
    database: PooledDatabase, settings: Settings
) -> None:
    sender = Sender(settings)
    ((pid,),) = sent(sender).rows()
    database.rows("SELECT pg_terminate_backend(%(pid)s, 5000)", pid=pid)

    assert sent(sender).rows() != [(pid,)]
    sender.rest()


def test_a_sender_at_rest_holds_no_connection_until_it_is_used_again(
    database: PooledDatabase, settings: Settings
) -> None:
    sender = Sender(settings)
    ((pid,),) = sent(sender).rows()
    assert backends(database, pid) == 1

    sender.rest()

    database.rows("SELECT pg_terminate_backend(%(pid)s, 5000)", pid=pid)  # waits for its end
    assert backends(database, pid) == 0
    assert sent(sender).rows() != [(pid,)]
    sender.rest()


def test_a_result_that_is_awaited_is_not_lost_by_a_rest(settings: Settings) -> None:
    sender = Sender(settings)
    awaited = sent(sender, "SELECT 'kept' FROM pg_sleep(0.05)")

    sender.rest()

    assert sender.send(BACKEND, {}) is None, "there is one connection"
    assert awaited.rows() == [("kept",)]
    sender.rest()
