"""A start from asyncio commits or rolls back with the caller's session, and never blocks the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import psycopg2.extensions
import pytest
from celery import Celery, chain, current_app
from sqlalchemy import Engine, insert, make_url
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, sessionmaker

from support import shop
from support.broker import Workers
from support.caller_database import Kept, Order, Witness
from workflow_engine import SessionRefused, Settings, WorkflowClient, durable
from workflow_engine.engine.assembly import Engine as WorkflowEngine

Sql = Callable[..., list[tuple[Any, ...]]]
Act = Callable[[AsyncEngine], Awaitable[Any]]
Run = Callable[[Act], Any]

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(params=["asyncpg", "psycopg"])
def run(request: pytest.FixtureRequest, settings: Settings) -> Run:
    """Return a function that runs a coroutine with an engine of the caller's, for each driver."""
    url = make_url(settings.database_url).set(drivername=f"postgresql+{request.param}")

    def run(act: Act) -> Any:
        async def main() -> Any:
            engine = create_async_engine(url)
            try:
                return await act(engine)
            finally:
                await engine.dispose()

        return asyncio.run(main())

    return run


@pytest.fixture
def teams_app() -> Iterator[None]:
    """Make the app of the team's tasks the current one, as it is in its worker."""
    before: Celery = current_app._get_current_object()
    shop.app.set_current()
    yield
    before.set_current()


# -- both or neither --------------------------------------------------------------------------------------


def test_order_and_execution_commit_together_and_the_message_follows(
    client: WorkflowClient, run: Run, broker: Witness, workers: Workers, kept: Kept
) -> None:
    async def place(engine: AsyncEngine) -> str:
        async with AsyncSession(engine) as session:
            session.add(order := Order(customer="Ada"))
            await session.flush()
            execution = await client.start_async("order", {"orderId": order.id}, session=session)
            assert kept() == ([], [])
            assert broker.published == []
            await session.commit()
        return execution.id

    execution_id = run(place)

    assert kept() == (["Ada"], [execution_id])
    assert broker.published == [execution_id]
    workers.drain()
    assert isinstance(client.get(execution_id).result["orderId"], int)


def test_order_and_execution_roll_back_together(
    client: WorkflowClient, run: Run, broker: Witness, kept: Kept
) -> None:
    async def place(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session:
            session.add(Order(customer="Ada"))
            await client.start_async("order", session=session)
            await session.rollback()
        async with AsyncSession(engine) as left_open:
            left_open.add(Order(customer="Grace"))
            await client.start_async("order", session=left_open)
        async with AsyncSession(engine) as session, session.begin():
            session.add(Order(customer="Edith"))
            await client.start_async("order", session=session)
            raise ConnectionError("the bank does not answer")

    with pytest.raises(ConnectionError):
        run(place)

    assert kept() == ([], [])
    assert broker.published == []


def test_what_began_in_a_savepoint_that_is_rolled_back_is_gone(
    client: WorkflowClient, run: Run, broker: Witness, kept: Kept
) -> None:
    async def place(engine: AsyncEngine) -> str:
        async with AsyncSession(engine) as session, session.begin():
            savepoint = await session.begin_nested()
            await client.start_async("order", session=session)
            await savepoint.rollback()
            async with session.begin_nested():
                execution = await client.start_async("order", session=session)
            assert broker.published == []
        return execution.id

    execution_id = run(place)

    assert kept() == ([], [execution_id])
    assert broker.published == [execution_id]


def test_a_cancelled_request_leaves_neither(
    client: WorkflowClient, run: Run, broker: Witness, kept: Kept
) -> None:
    has_started = asyncio.Event()

    async def place(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session, session.begin():
            session.add(Order(customer="Ada"))
            await client.start_async("order", session=session)
            has_started.set()
            await asyncio.Event().wait()

    async def cancel(engine: AsyncEngine) -> None:
        request = asyncio.create_task(place(engine))
        await has_started.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    run(cancel)

    assert kept() == ([], [])
    assert broker.published == []


def test_equal_starts_within_one_loop_are_one_execution(
    client: WorkflowClient, run: Run, broker: Witness, kept: Kept
) -> None:
    async def place(engine: AsyncEngine, customer: str) -> str:
        async with AsyncSession(engine) as session, session.begin():
            session.add(Order(customer=customer))
            return (await client.start_async("order", idempotency_key="once", session=session)).id

    async def race(engine: AsyncEngine) -> set[str]:
        return set(await asyncio.gather(*(place(engine, f"customer {number}") for number in range(8))))

    [execution_id] = run(race)

    assert len(kept()[0]) == 8
    assert kept()[1] == [execution_id] == broker.published


# -- what can be passed, and what is started --------------------------------------------------------------


def test_without_a_session_a_start_is_a_transaction_of_its_own(
    client: WorkflowClient, run: Run, broker: Witness
) -> None:
    started = run(lambda _: client.start_async("order", {"orderId": 1}, tags=["vip"]))

    assert broker.published == [started.id]
    assert client.get(started.id).tags == ("vip",)


def test_the_session_of_a_task_may_be_passed_by_its_registry(
    client: WorkflowClient, run: Run, broker: Witness, kept: Kept
) -> None:
    async def place(engine: AsyncEngine) -> str:
        scoped = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
        scoped.add(Order(customer="Ada"))
        execution = await client.start_async("order", session=scoped)
        await scoped.commit()
        await scoped.remove()
        return execution.id

    execution_id = run(place)

    assert kept() == (["Ada"], [execution_id])
    assert broker.published == [execution_id]


def test_a_start_on_a_connection_is_published_by_the_caller_after_the_commit(
    client: WorkflowClient, run: Run, broker: Witness, kept: Kept
) -> None:
    async def place(engine: AsyncEngine) -> str:
        async with engine.begin() as connection:
            await connection.execute(insert(Order).values(customer="Ada"))
            execution = await client.start_async("order", session=connection)
        assert broker.published == []
        await asyncio.to_thread(execution.publish)
        return execution.id

    execution_id = run(place)

    assert kept() == (["Ada"], [execution_id])
    assert broker.published == [execution_id]


def test_a_function_of_run_sync_starts_with_the_session_it_is_given(
    client: WorkflowClient, run: Run, broker: Witness, kept: Kept
) -> None:
    async def place(engine: AsyncEngine) -> str:
        async with AsyncSession(engine) as session, session.begin():
            execution = await session.run_sync(lambda given: client.start("order", session=given))
        return execution.id

    assert [run(place)] == kept()[1] == broker.published


def test_tasks_and_canvases_start_in_the_session_as_well(
    client: WorkflowClient, run: Run, broker: Witness, workers: Workers, teams_app: None
) -> None:
    shop.app.finalize()

    async def place(engine: AsyncEngine) -> list[str]:
        sum_of_six = durable(chain(shop.add.s(1, 2), shop.add.s(3)), client=client)
        async with AsyncSession(engine) as session, session.begin():
            started = [
                await client.start_task_async("shop.add", [2, 2], session=session),
                await sum_of_six.start_async(session=session),
            ]
            assert broker.published == []
        return [each.id for each in started]

    execution_ids = run(place)

    assert broker.published == execution_ids
    workers.drain()
    assert [client.get(each).result for each in execution_ids] == [4, 6]


def test_what_is_not_for_asyncio_is_refused_with_what_to_do(
    client: WorkflowClient, run: Run, database: Engine, kept: Kept
) -> None:
    async def pass_them(engine: AsyncEngine) -> None:
        for given in (
            Session(database),
            database,
            sessionmaker(database),
            engine,
            async_sessionmaker(engine),
        ):
            with pytest.raises(SessionRefused, match="pass an AsyncSession or an AsyncConnection"):
                await client.start_async("order", session=given)  # type: ignore[arg-type]
        async with AsyncSession(engine) as session, engine.connect() as connection:
            for waiting in (session, connection):
                with pytest.raises(SessionRefused, match=r"await client\.start_async"):
                    client.start("order", session=waiting)  # type: ignore[arg-type]
        async with AsyncSession() as of_no_database:
            with pytest.raises(SessionRefused, match=r"session\.connection\(bind_arguments=…\)"):
                await client.start_async("order", session=of_no_database)
        autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        async with AsyncSession(autocommit) as session:
            with pytest.raises(SessionRefused, match="autocommit"):
                await client.start_async("order", session=session)

    run(pass_them)

    assert kept() == ([], [])


# -- the event loop goes on -------------------------------------------------------------------------------


@pytest.fixture
def lock_on_workflows(
    shared_database: psycopg2.extensions.connection, settings: Settings
) -> Iterator[psycopg2.extensions.connection]:
    """Lock the table that a start reads on the engine's own connection; a rollback unlocks it."""
    connection = psycopg2.connect(settings.database_url.replace("+psycopg2", ""))
    connection.cursor().execute("LOCK TABLE workflows IN ACCESS EXCLUSIVE MODE")
    yield connection
    connection.close()


@pytest.mark.parametrize("with_session", [True, False])
def test_other_requests_go_on_while_the_engine_waits_for_postgres(
    client: WorkflowClient,
    run: Run,
    lock_on_workflows: psycopg2.extensions.connection,
    shared_database: psycopg2.extensions.connection,
    with_session: bool,
) -> None:
    """What unlocks the table is another coroutine of the same loop: a loop that waits would wait for ever."""

    def is_waited_for() -> bool:
        cursor = shared_database.cursor()
        cursor.execute(
            "SELECT FROM pg_locks WHERE NOT granted AND relation = 'workflows'::regclass "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        return cursor.rowcount > 0

    async def start(engine: AsyncEngine) -> str:
        if not with_session:
            return (await client.start_async("order")).id
        async with AsyncSession(engine) as session, session.begin():
            return (await client.start_async("order", session=session)).id

    async def race(engine: AsyncEngine) -> str:
        starting = asyncio.create_task(start(engine))
        while not is_waited_for():
            assert not starting.done()
            await asyncio.sleep(0.02)
        lock_on_workflows.rollback()
        return await starting

    assert client.get(run(race)).workflow_id == "order"


def test_other_requests_go_on_while_a_commit_waits_for_the_broker(
    client: WorkflowClient, run: Run, broker: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, may_end, waited = threading.Event(), threading.Event(), []
    publish = broker.publish

    def slow(dispatches: Any) -> None:
        began.set()
        waited.append(may_end.wait(30))
        publish(dispatches)

    monkeypatch.setattr(broker, "publish", slow)
    monkeypatch.setattr("workflow_engine.postgres.caller_transaction.LONGEST_DELAY", 60)

    async def place(engine: AsyncEngine) -> str:
        async with AsyncSession(engine) as session, session.begin():
            return (await client.start_async("order", session=session)).id

    async def race(engine: AsyncEngine) -> str:
        placing = asyncio.create_task(place(engine))
        while not began.is_set():
            await asyncio.sleep(0.02)
        assert not placing.done(), "the commit waits for its message"
        may_end.set()
        return await placing

    execution_id = run(race)

    assert waited == [True]
    assert broker.published == [execution_id]


def test_a_broker_that_is_away_fails_no_commit(
    client: WorkflowClient, run: Run, broker: Witness, kept: Kept
) -> None:
    broker.is_away = True

    async def place(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session, session.begin():
            session.add(Order(customer="Ada"))
            await client.start_async("order", session=session)

    run(place)

    assert len(kept()[0]) == len(kept()[1]) == 1


def test_a_client_assembles_itself_beside_the_event_loop(
    settings: Settings, client: WorkflowClient, run: Run, monkeypatch: pytest.MonkeyPatch, broker: Witness
) -> None:
    """A client reads its settings and imports modules of nodes at its first call, which may take long."""
    assembled_in: list[threading.Thread] = []
    assemble = WorkflowEngine.assemble

    def noting(*given: Any, **options: Any) -> WorkflowEngine:
        assembled_in.append(threading.current_thread())
        return assemble(*given, dispatcher=broker, **options)

    monkeypatch.setattr(WorkflowEngine, "assemble", noting)
    unused = WorkflowClient(settings)

    async def place(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session, session.begin():
            await unused.start_async("order", session=session)

    run(place)
    unused._engine.database.dispose()

    assert len(assembled_in) == 1
    assert assembled_in[0] is not threading.main_thread()
