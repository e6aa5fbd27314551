"""Many starts from asyncio are what `start_many` makes of them, and part of the caller's session."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from support.broker import Workers
from support.caller_database import Kept, Order, Witness
from workflow_engine import Settings, Start, StartsRefused, TriggerDataInvalid, WorkflowClient
from workflow_engine.engine.starts.starting import BATCH

pytestmark = pytest.mark.usefixtures("database")


def test_each_runs_with_its_own_data_in_the_order_of_the_call(
    client: WorkflowClient, broker: Witness, workers: Workers
) -> None:
    starts = (Start({"number": number}) for number in range(BATCH + 1))

    started = asyncio.run(client.start_many_async("order", starts))

    assert broker.published == [each.id for each in started]
    assert all(each.is_new for each in started)
    workers.drain()
    ends = [client.get(started[place].id).result for place in (0, BATCH - 1, BATCH)]
    assert ends == [{"number": 0}, {"number": BATCH - 1}, {"number": BATCH}]


def test_a_repeated_call_returns_those_that_exist_in_their_places(
    client: WorkflowClient, broker: Witness
) -> None:
    def keyed(*numbers: int) -> list[Start]:
        return [Start({"number": each}, idempotency_key=f"order-{each}") for each in numbers]

    async def twice() -> None:
        first = await client.start_many_async("order", keyed(1, 2))
        again = await client.start_many_async("order", keyed(3, 2, 1, 2))
        assert [each.is_new for each in again] == [True, False, False, False]
        assert [each.id for each in again[1:]] == [first[1].id, first[0].id, first[1].id]

    asyncio.run(twice())

    assert len(broker.published) == 3


def test_one_that_is_refused_refuses_all_and_is_named(client: WorkflowClient, kept: Kept) -> None:
    with pytest.raises(StartsRefused) as refused:
        asyncio.run(client.start_many_async("order", [Start({}), Start("no object")]))

    assert {place: type(error) for place, error in refused.value.refusals.items()} == {1: TriggerDataInvalid}
    assert kept() == ([], [])


@pytest.mark.parametrize("commits", [True, False], ids=["committed", "rolled back"])
def test_in_a_session_they_commit_or_roll_back_with_the_callers_rows(
    client: WorkflowClient, settings: Settings, broker: Witness, kept: Kept, commits: bool
) -> None:
    async def place() -> list[str]:
        engine = create_async_engine(make_url(settings.database_url).set(drivername="postgresql+asyncpg"))
        async with AsyncSession(engine) as session:
            session.add(Order(customer="Ada"))
            await session.flush()
            started = await client.start_many_async("order", [Start(), Start()], session=session)
            assert broker.published == []
            await (session.commit() if commits else session.rollback())
        await engine.dispose()
        return [each.id for each in started]

    ids = asyncio.run(place())

    assert kept() == ((["Ada"], ids) if commits else ([], []))
    assert broker.published == (ids if commits else [])


def test_other_tasks_of_the_loop_go_on_meanwhile(client: WorkflowClient) -> None:
    async def both() -> int:
        starting = asyncio.create_task(client.start_many_async("order", [Start()] * (2 * BATCH)))
        turns = 0
        while not starting.done():
            await asyncio.sleep(0)
            turns += 1
        assert len(await starting) == 2 * BATCH
        return turns

    assert asyncio.run(both()) > 10
