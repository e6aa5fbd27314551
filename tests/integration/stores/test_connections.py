"""A process has a connection to Postgres for each thread that asks at the same time, and no more."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from support.polling import poll
from workflow_engine import Settings
from workflow_engine.errors import InvalidValue
from workflow_engine.postgres.database import PooledDatabase

BACKEND = "SELECT pg_backend_pid()"


@pytest.fixture
def database(settings: Settings) -> Iterator[PooledDatabase]:
    database = PooledDatabase(settings.model_copy(update={"database_pool_size": 1}))
    yield database
    database.dispose()


def backend_of_rows(database: PooledDatabase) -> int:
    ((pid,),) = database.rows(BACKEND)
    return int(pid)


def backend_of_the_first_row(database: PooledDatabase) -> int:
    row = database.first(BACKEND)
    assert row is not None
    return int(row[0])


def backend_of_a_transaction(database: PooledDatabase) -> int:
    with database.transaction() as transaction:
        ((pid,),) = transaction.rows(BACKEND)
    return int(pid)


def test_a_thread_has_one_connection_however_it_asks(database: PooledDatabase) -> None:
    ways = [backend_of_rows, backend_of_the_first_row, backend_of_a_transaction] * 2

    assert len({ask(database) for ask in [*ways, *reversed(ways)]}) == 1


def test_a_statement_within_a_transaction_is_not_part_of_it(database: PooledDatabase) -> None:
    database.rows(BACKEND)
    with database.transaction() as transaction:
        ((within,),) = transaction.rows(BACKEND)
        assert backend_of_rows(database) != within

    assert database.rows("SELECT pg_current_xact_id_if_assigned() IS NULL") == [(True,)]


def test_a_statement_that_fails_costs_no_connection(database: PooledDatabase) -> None:
    backend = backend_of_rows(database)
    with pytest.raises(InvalidValue):
        database.rows("SELECT 1 / %(zero)s", zero=0)

    assert backend_of_rows(database) == backend


def test_threads_share_what_the_pool_has_and_leave_nothing_behind(database: PooledDatabase) -> None:
    def ask(number: int) -> bool:
        way = (backend_of_rows, backend_of_the_first_row, backend_of_a_transaction)[number % 3]
        backends.add(way(database))
        return database.rows("SELECT %(number)s::int", number=number) == [(number,)]

    backends: set[int] = set()
    with ThreadPoolExecutor(12) as threads:
        assert all(threads.map(ask, range(600)))

    assert database.pool.idle == 1, "the rest were for the rush"


def test_a_connection_outlives_the_thread_that_made_it(database: PooledDatabase) -> None:
    made: list[int] = []
    thread = threading.Thread(target=lambda: made.append(backend_of_rows(database)))
    thread.start()
    thread.join()

    assert [backend_of_rows(database)] == made


@pytest.mark.parametrize("ask", [backend_of_rows, backend_of_the_first_row])
def test_a_forked_process_has_its_own_connections(
    database: PooledDatabase, ask: Callable[[PooledDatabase], int]
) -> None:
    backend = backend_of_rows(database)
    child = os.fork()
    if child == 0:
        with suppress(BaseException):  # the child must not go on with the tests
            is_its_own = ask(database) != backend and backend_of_rows(database) != backend
            database.dispose()
            os._exit(0 if is_its_own else 1)
        os._exit(2)

    assert os.waitpid(child, 0)[1] == 0
    assert backend_of_rows(database) == backend


def test_what_is_disposed_of_is_closed(database: PooledDatabase, settings: Settings) -> None:
    backend = backend_of_rows(database)
    database.dispose()

    other = PooledDatabase(settings)
    session = "SELECT 1 FROM pg_stat_activity WHERE pid = %(pid)s"
    poll(lambda: not other.rows(session, pid=backend), "its session is gone")
    other.dispose()
