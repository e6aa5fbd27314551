"""The stores in memory, on which fleets are simulated, keep the contract of the real ones."""

from __future__ import annotations

import pytest

from contracts.children_contract import ChildrenContract
from contracts.moves_contract import EndsContract, MovesContract
from contracts.redis_contract import RedisContract
from contracts.siblings_contract import PlacesContract, SharedCommitsContract
from contracts.state_contract import StateContract, WaitsContract
from contracts.stores import WORKFLOW, Shown, Stores
from simulation.moves_in_memory import MovesInMemory, TimeoutsInMemory
from simulation.postgres_in_memory import PostgresInMemory, StateInMemory
from simulation.redis_in_memory import RedisClient, RedisInMemory
from simulation.steps import Clock
from simulation.waits_in_memory import ChildrenInMemory, WaitsInMemory
from simulation.worker import SETTINGS, Locks
from workflow_engine.engine.context_cache import ExecutionContextCache
from workflow_engine.redis.lock_servers import OneServer


@pytest.fixture
def stores() -> Stores:
    clock, client = Clock(), RedisClient(RedisInMemory())
    database, servers = PostgresInMemory(clock), OneServer(client, expiry_ms=30_000)
    database.definitions[WORKFLOW.id, 1] = WORKFLOW.to_dict()
    state, locks = StateInMemory(database), Locks(client, servers, SETTINGS)

    def show(execution_id: str) -> Shown:
        row = database.row(execution_id)
        waits = [(wait.node_id, wait.status) for wait in row.waits]
        times = (row.started_at, row.completed_at, row.duration_ms)
        return Shown(row.status, row.error, *times, row.context, waits, row.history)

    return Stores(
        state=state,
        moves=MovesInMemory(database),
        timeouts=TimeoutsInMemory(database),
        waits=WaitsInMemory(database, SETTINGS),
        children=ChildrenInMemory(database),
        cache=ExecutionContextCache(client, servers, locks, state, SETTINGS),
        locks=locks,
        other_locks=Locks(client, servers, SETTINGS),
        redis=client,
        settings=SETTINGS,
        pass_time=clock.pass_by,
        show=show,
        trigger_id="01890000-0000-7000-8000-0000000000aa",
    )


class TestChildrenInMemory(ChildrenContract):
    pass


class TestStateInMemory(StateContract):
    pass


class TestEndsInMemory(EndsContract):
    pass


class TestMovesInMemory(MovesContract):
    pass


class TestWaitsInMemory(WaitsContract):
    pass


class TestRedisInMemory(RedisContract):
    pass


class TestSharedCommitsInMemory(SharedCommitsContract):
    pass


class TestPlacesInMemory(PlacesContract):
    pass
