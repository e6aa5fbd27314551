"""Which connections to Postgres a process has: one for each thread that asks at the same time, no more."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import sqlalchemy

from workflow_engine import Settings
from workflow_engine.database import autocommit, connect_engine, execute, transaction
from workflow_engine.errors import InvalidValue

BACKEND = "SELECT pg_backend_pid()"


@pytest.fixture
def database(settings: Settings) -> Iterator[sqlalchemy.Engine]:
    engine = connect_engine(settings.model_copy(update={"database_pool_size": 1}))
    yield engine
    engine.dispose()


def backend_by_the_driver(database: sqlalchemy.Engine) -> int:
    ((pid,),) = execute(database, BACKEND)
    return int(pid)


def backend_by_sqlalchemy(database: sqlalchemy.Engine) -> int:
    with autocommit(database) as connection:
        return int(connection.exec_driver_sql(BACKEND).scalar_one())


def backend_of_a_transaction(database: sqlalchemy.Engine) -> int:
    with transaction(database) as connection:
        return int(connection.exec_driver_sql(BACKEND).scalar_one())


def test_a_thread_has_one_connection_however_it_asks(database: sqlalchemy.Engine) -> None:
    ways = [backend_by_the_driver, backend_by_sqlalchemy, backend_of_a_transaction] * 2

    assert len({ask(database) for ask in [*ways, *reversed(ways)]}) == 1


def test_a_statement_within_a_transaction_is_not_part_of_it(database: sqlalchemy.Engine) -> None:
    execute(database, BACKEND)
    with transaction(database) as connection:
        within = connection.exec_driver_sql(BACKEND).scalar_one()
        assert backend_by_the_driver(database) != within

    assert execute(database, "SELECT pg_current_xact_id_if_assigned() IS NULL") == [(True,)]


def test_a_statement_that_fails_costs_no_connection(database: sqlalchemy.Engine) -> None:
    backend = backend_by_the_driver(database)
    with pytest.raises(InvalidValue):
        execute(database, "SELECT 1 / %s", (0,))

    assert backend_by_the_driver(database) == backend


def test_threads_share_what_the_pool_has_and_leave_nothing_behind(database: sqlalchemy.Engine) -> None:
    def ask(number: int) -> bool:
        way = (backend_by_the_driver, backend_by_sqlalchemy, backend_of_a_transaction)[number % 3]
        backends.add(way(database))
        return execute(database, "SELECT %s::int", (number,)) == [(number,)]

    backends: set[int] = set()
    with ThreadPoolExecutor(12) as threads:
        assert all(threads.map(ask, range(600)))

    assert isinstance(database.pool, sqlalchemy.QueuePool)
    backend_by_sqlalchemy(database)
    assert database.pool.checkedout() == 0
    assert database.pool.checkedin() == 1, "the rest were for the rush"


def test_a_connection_outlives_the_thread_that_made_it(database: sqlalchemy.Engine) -> None:
    made: list[int] = []
    thread = threading.Thread(target=lambda: made.append(backend_by_the_driver(database)))
    thread.start()
    thread.join()

    assert [backend_by_the_driver(database)] == made


@pytest.mark.parametrize("ask", [backend_by_the_driver, backend_by_sqlalchemy])
def test_a_forked_process_has_its_own_connections(
    database: sqlalchemy.Engine, ask: Callable[[sqlalchemy.Engine], int]
) -> None:
    backend = backend_by_the_driver(database)
    child = os.fork()
    if child == 0:
        with suppress(BaseException):  # the child must not go on with the tests
            is_its_own = ask(database) != backend and backend_by_the_driver(database) != backend
            database.dispose()
            os._exit(0 if is_its_own else 1)
        os._exit(2)

    assert os.waitpid(child, 0)[1] == 0
    assert backend_by_the_driver(database) == backend


def test_what_is_disposed_of_is_closed(database: sqlalchemy.Engine, settings: Settings) -> None:
    backend = backend_by_the_driver(database)
    database.dispose()

    other = connect_engine(settings)
    deadline = threading.Event()
    for _ in range(50):
        if not execute(other, "SELECT 1 FROM pg_stat_activity WHERE pid = %s", (backend,)):
            break
        deadline.wait(0.1)
    else:
        pytest.fail("its session is still there")
    other.dispose()
