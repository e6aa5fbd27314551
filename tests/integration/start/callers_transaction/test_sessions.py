"""A start in the caller's session commits or rolls back with it; its message follows the outermost commit."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import hypothesis
import psycopg2.extensions
import pytest
from hypothesis import strategies
from sqlalchemy import Engine, create_engine, insert, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from support.broker import Workers
from support.caller_database import Kept, Order, Witness, order_workflow
from support.polling import poll
from workflow_engine import ExecutionStatus, Settings, WorkflowClient
from workflow_engine.embedded import EmbeddedPostgres
from workflow_engine.engine import assembly as engine_parts
from workflow_engine.postgres import caller_transaction
from workflow_engine.postgres.migrations import upgrade

Sql = Callable[..., list[tuple[Any, ...]]]


# -- both or neither -----------------------------------------------------------------------------------


def test_order_and_execution_commit_together_and_the_message_follows(
    client: WorkflowClient, database: Engine, broker: Witness, workers: Workers, kept: Kept
) -> None:
    with Session(database) as session:
        session.add(order := Order(customer="Ada"))
        session.flush()
        execution = client.start("order", {"orderId": order.id}, session=session)
        assert kept() == ([], [])
        assert broker.published == []
        session.commit()
        assert broker.published == [execution.id]
        workers.drain()

        assert client.get(execution.id).result == {"orderId": order.id}
    assert kept() == (["Ada"], [execution.id])


def roll_back(session: Session) -> None:
    session.rollback()


def close(session: Session) -> None:
    session.close()


def invalidate(session: Session) -> None:
    session.invalidate()


def raise_in_the_block(session: Session) -> None:
    with suppress(ZeroDivisionError), session:
        raise ZeroDivisionError


def fail_to_flush(session: Session) -> None:
    session.add(Order(customer="Ada"))
    with pytest.raises(IntegrityError):
        session.commit()
    session.rollback()


def lose_the_connection(session: Session) -> None:
    pid = session.scalar(text("SELECT pg_backend_pid()"))
    with session.get_bind().connect() as other:  # type: ignore[union-attr]
        other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    with pytest.raises(OperationalError):
        session.commit()
    session.rollback()


@pytest.mark.parametrize(
    "end",
    [roll_back, close, invalidate, raise_in_the_block, fail_to_flush, lose_the_connection],
    ids=lambda end: end.__name__,
)
def test_without_a_commit_there_is_neither_order_nor_execution_nor_message(
    client: WorkflowClient, database: Engine, broker: Witness, kept: Kept, end: Callable[[Session], None]
) -> None:
    session = Session(database)
    session.add(Order(customer="Ada"))
    session.flush()
    client.start("order", session=session)

    end(session)
    session.add(Order(customer="Grace"))
    session.commit()
    session.close()

    assert kept() == (["Grace"], [])
    assert broker.published == []


def test_an_exception_in_a_begin_block_undoes_the_start(
    client: WorkflowClient, database: Engine, broker: Witness, kept: Kept
) -> None:
    with suppress(ZeroDivisionError), sessionmaker(database).begin() as session:
        session.add(Order(customer="Ada"))
        client.start("order", session=session)
        raise ZeroDivisionError

    assert kept() == ([], [])
    assert broker.published == []


def test_every_way_to_commit_a_session_is_a_commit(
    client: WorkflowClient, database: Engine, broker: Witness
) -> None:
    expected = []
    with Session(database) as session, session.begin():
        expected.append(client.start("order", session=session).id)
    with sessionmaker(database).begin() as session:
        expected.append(client.start("order", session=session).id)
    registry = scoped_session(sessionmaker(database))
    expected.append(client.start("order", session=registry).id)
    registry.commit()
    registry.remove()

    assert broker.published == expected


def test_starts_of_one_transaction_are_published_in_their_order_and_its_session_can_be_reused(
    client: WorkflowClient, database: Engine, broker: Witness
) -> None:
    with Session(database) as session:
        together = [client.start("order", session=session).id for _ in range(3)]
        session.commit()
        assert broker.published == together
        later = client.start("order", session=session).id
        assert broker.published == together
        session.commit()
        session.commit()

        assert broker.published == [*together, later]


@hypothesis.given(
    strategies.lists(
        strategies.sampled_from(["start", "savepoint", "release", "undo", "flush", "commit", "rollback"]),
        max_size=14,
    )
)
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.example(["savepoint", "start", "release", "commit"])
@hypothesis.example(["savepoint", "start", "undo", "start", "commit"])
@hypothesis.example(["start", "savepoint", "undo", "commit"])
@hypothesis.example(["start", "savepoint", "commit"])
@hypothesis.example(["savepoint", "savepoint", "start", "release", "undo", "commit"])
@hypothesis.example(["savepoint", "start", "release", "rollback", "start", "commit"])
def test_exactly_what_a_session_committed_is_published(
    client: WorkflowClient, database: Engine, broker: Witness, sql: Sql, steps: list[str]
) -> None:
    sql("DELETE FROM executions")
    broker.queue.clear()
    savepoints: list[Any] = []
    with Session(database) as session:
        for step in steps:
            if step == "start":
                client.start("order", session=session)
            elif step == "savepoint":
                savepoints.append(session.begin_nested())
            elif step in ("release", "undo") and savepoints:
                savepoint = savepoints.pop()
                savepoint.commit() if step == "release" else savepoint.rollback()
            elif step == "flush":
                session.execute(insert(Order).values(customer=str(time.monotonic_ns())))
            elif step in ("commit", "rollback"):
                savepoints.clear()
                session.commit() if step == "commit" else session.rollback()
            committed = [row[0] for row in sql("SELECT id::text FROM executions ORDER BY created_at")]
            assert broker.published == committed


def test_a_commit_of_both_phases_publishes(
    broker: Witness, redis_url: str, request: pytest.FixtureRequest
) -> None:
    with EmbeddedPostgres() as server:
        database = create_engine(server.url)
        with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ALTER SYSTEM SET max_prepared_transactions = 5"))
        server.restart()
        database.dispose()
        upgrade(server.url)
        with psycopg2.connect(server.url.replace("+psycopg2", "")) as elsewhere:
            elsewhere.autocommit = True
            witness = Witness(elsewhere)
            engine = engine_parts.Engine.assemble(
                Settings(database_url=server.url, redis_url=redis_url), dispatcher=witness
            )
            client = WorkflowClient(engine=engine)
            client.deploy(order_workflow())

            with Session(database, twophase=True) as session:
                undone = client.start("order", session=session)
                session.prepare()
                session.rollback()
                execution = client.start("order", session=session)
                session.prepare()
                assert witness.published == []
                session.commit()

            assert undone.id != execution.id
            assert (witness.published, witness.premature) == ([execution.id], [])
        elsewhere.close()
        database.dispose()
        engine.database.dispose()


# -- what a session that lives on keeps ----------------------------------------------------------------


def test_a_session_closed_without_commit_leaves_nothing_behind(
    client: WorkflowClient, database: Engine
) -> None:
    session = Session(database)
    client.start("order", session=session)
    session.close()
    gone = weakref.ref(session)
    del session
    gc.collect()

    assert gone() is None


def test_a_session_used_for_many_starts_has_no_more_listeners_than_after_the_first(
    client: WorkflowClient, database: Engine
) -> None:
    def listeners() -> list[int]:
        return [len(session.dispatch.after_commit), len(session.dispatch.after_transaction_end)]

    with Session(database) as session:
        client.start("order", session=session)
        session.commit()
        after_the_first = listeners()
        for _ in range(5):
            client.start("order", session=session)
            client.start("order", session=session)
            session.commit()
            client.start("order", session=session)
            session.rollback()

        assert listeners() == after_the_first == [1, 1]


# -- a broker that fails ---------------------------------------------------------------------------------


def test_a_broker_that_is_away_does_not_fail_the_commit_and_is_logged_once(
    client: WorkflowClient,
    engine: engine_parts.Engine,
    database: Engine,
    broker: Witness,
    workers: Workers,
    log_lines: Callable[[], list[str]],
) -> None:
    broker.is_away = True
    with Session(database) as session:
        executions = [client.start("order", session=session).id for _ in range(2)]
        session.commit()
        executions.append(client.start("order", session=session).id)
        session.commit()
    broker.is_away = False

    assert log_lines() == [f"the broker is away; waiting to enqueue noted of execution {executions[0]}"]
    assert {client.get(execution).status for execution in executions} == {ExecutionStatus.PENDING}
    for execution in executions:
        assert engine.executor.resume_execution(execution)
    workers.drain()
    assert {client.get(execution).status for execution in executions} == {ExecutionStatus.COMPLETED}


def test_a_broker_that_hangs_delays_one_commit_for_a_moment_and_others_not_at_all(
    client: WorkflowClient,
    database: Engine,
    broker: Witness,
    monkeypatch: pytest.MonkeyPatch,
    log_lines: Callable[[], list[str]],
) -> None:
    monkeypatch.setattr(caller_transaction, "LONGEST_DELAY", 1.5)
    hangs, publish = threading.Event(), broker.publish
    monkeypatch.setattr(broker, "publish", lambda dispatches: (hangs.wait(20), publish(dispatches)))

    def seconds_to_commit() -> tuple[str, float]:
        with Session(database) as session:
            execution = client.start("order", session=session)
            began = time.monotonic()
            session.commit()
            return execution.id, time.monotonic() - began

    kept, delay = seconds_to_commit()
    _, next_delay = seconds_to_commit()
    hangs.set()
    while broker.published != [kept]:
        time.sleep(0.01)

    assert 1.4 < delay < 10
    assert next_delay < 1.4
    assert len(log_lines()) == 1
    monkeypatch.setattr(caller_transaction, "LONGEST_DELAY", 20)
    poll(lambda: seconds_to_commit()[0] in broker.published, "messages are published again")


def test_the_commit_succeeds_though_its_message_fails_in_any_way(
    client: WorkflowClient, database: Engine, broker: Witness, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Session(database) as session:
        first = client.start("order", session=session)
        second = client.start("order", session=session)
        whole = broker.publish
        broken = iter([ValueError("a bug")])

        def publish(dispatches: Any) -> None:
            if (error := next(broken, None)) is not None:
                raise error
            whole(dispatches)

        monkeypatch.setattr(broker, "publish", publish)
        session.commit()

    assert kept() == ([], [first.id, second.id])
    assert broker.published == [second.id]


# -- the times -------------------------------------------------------------------------------------------


def test_an_execution_was_created_when_it_was_started_and_not_when_its_transaction_began(
    client: WorkflowClient, database: Engine, broker: Witness, sql: Sql
) -> None:
    with Session(database) as session:
        began = session.scalar(text("SELECT now()"))
        session.execute(text("SELECT pg_sleep(0.05)"))
        execution = client.start("order", session=session)
        session.commit()

    assert (execution.created_at - began).total_seconds() >= 0.05
    assert sql("SELECT DISTINCT created_at FROM executions") == [(execution.created_at,)]


def test_the_first_message_carries_the_time_of_its_start(
    client: WorkflowClient, database: Engine, broker: Witness
) -> None:
    alone = client.start("order")
    with Session(database) as session:
        together = client.start("order", session=session)
        session.commit()

    committed_at = [dispatch.committed_at for dispatch in broker.queue]
    assert committed_at == [alone.created_at, together.created_at]
