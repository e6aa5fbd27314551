"""Postgres and Redis keep the contract by which fleets are simulated without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from contracts.children_contract import ChildrenContract
from contracts.moves_contract import EndsContract, MovesContract
from contracts.redis_contract import RedisContract
from contracts.siblings_contract import PlacesContract, SharedCommitsContract
from contracts.state_contract import StateContract, WaitsContract
from contracts.stores import WORKFLOW, Shown, Stores
from workflow_engine import WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.execution.states import WaitStatus


@pytest.fixture
def stores(
    client: WorkflowClient,
    engine: Engine,
    second_engine: Engine,
    redis_client: Any,
    time_passes: Callable[[float], None],
    sql: Callable[..., Any],
) -> Stores:
    def pass_time(seconds: float) -> None:
        time_passes(seconds)
        sql("UPDATE executions SET expires_at = expires_at - %s * interval '1 second'", seconds)

    def show(execution_id: str) -> Shown:
        ((context,),) = sql("SELECT context FROM executions WHERE id = %s", execution_id)
        waits = sql(
            "SELECT node_id, status FROM execution_wait_states WHERE execution_id = %s ORDER BY seq",
            execution_id,
        )
        execution = engine.queries.get(execution_id)
        return Shown(
            execution.status,
            execution.error,
            execution.started_at,
            execution.completed_at,
            execution.duration_ms,
            context,
            [(node_id, WaitStatus(status)) for node_id, status in waits],
            [(event.type, event.actor, event.reason) for event in engine.moves.events(execution_id)],
        )

    client.deploy(WORKFLOW)
    _, triggers = engine.deployments.starting_point(WORKFLOW.id)
    return Stores(
        state=engine.state,
        moves=engine.moves,
        timeouts=engine.timeouts,
        waits=engine.waits,
        children=engine.children,
        cache=engine.cache,
        locks=engine.locks,
        other_locks=second_engine.locks,
        redis=redis_client,
        settings=engine.settings,
        pass_time=pass_time,
        show=show,
        trigger_id=triggers["start"],
    )


class TestStateInPostgres(StateContract):
    pass


class TestEndsInPostgres(EndsContract):
    pass


class TestMovesInPostgres(MovesContract):
    pass


class TestChildrenInPostgres(ChildrenContract):
    pass


class TestWaitsInPostgres(WaitsContract):
    pass


class TestRedis(RedisContract):
    pass


class TestSharedCommitsInPostgres(SharedCommitsContract):
    pass


class TestPlacesInRedis(PlacesContract):
    pass
