"""Postgres and Redis keep the contract by which fleets are simulated without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from simulation.redis_contract import RedisContract
from simulation.state_contract import StateContract, WaitsContract
from simulation.stores import WORKFLOW, Stores

from workflow_engine import WorkflowClient
from workflow_engine.engine import Engine


@pytest.fixture
def stores(
    client: WorkflowClient,
    engine: Engine,
    second_engine: Engine,
    redis_client: Any,
    time_passes: Callable[[float], None],
) -> Stores:
    client.deploy(WORKFLOW)
    _, triggers = engine.deployments.starting_point(WORKFLOW.id)
    return Stores(
        state=engine.state,
        waits=engine.waits,
        cache=engine.cache,
        locks=engine.locks,
        other_locks=second_engine.locks,
        redis=redis_client,
        settings=engine.settings,
        pass_time=time_passes,
        trigger_id=triggers["start"],
    )


class TestStateInPostgres(StateContract):
    pass


class TestWaitsInPostgres(WaitsContract):
    pass


class TestRedis(RedisContract):
    pass
