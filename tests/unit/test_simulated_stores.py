"""The stores in memory, on which fleets are simulated, keep the contract of the real ones."""

from __future__ import annotations

import pytest
from simulation.postgres_in_memory import PostgresInMemory, StateInMemory, WaitsInMemory
from simulation.redis_contract import RedisContract
from simulation.redis_in_memory import RedisClient, RedisInMemory
from simulation.state_contract import StateContract, WaitsContract
from simulation.steps import Clock
from simulation.stores import WORKFLOW, Stores
from simulation.worker import SETTINGS, Locks

from workflow_engine.context_cache import ExecutionContextCache
from workflow_engine.lock_servers import OneServer


@pytest.fixture
def stores() -> Stores:
    clock, client = Clock(), RedisClient(RedisInMemory())
    database, servers = PostgresInMemory(clock), OneServer(client, expiry_ms=30_000)
    database.definitions[WORKFLOW.id, 1] = WORKFLOW.to_dict()
    state = StateInMemory(database)
    return Stores(
        state=state,
        waits=WaitsInMemory(database, SETTINGS),
        cache=ExecutionContextCache(client, servers, state, SETTINGS),
        locks=Locks(client, servers, SETTINGS),
        other_locks=Locks(client, servers, SETTINGS),
        redis=client,
        settings=SETTINGS,
        pass_time=clock.pass_by,
        trigger_id="01890000-0000-7000-8000-0000000000aa",
    )


class TestStateInMemory(StateContract):
    pass


class TestWaitsInMemory(WaitsContract):
    pass


class TestRedisInMemory(RedisContract):
    pass
