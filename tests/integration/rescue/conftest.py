"""Executions that stand still, and a worker that looks for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from support.broker import Broker
from support.redis_keys import let_redis_remember
from support.rescues import one, rescue, two
from support.workflows import line
from workflow_engine import Settings, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.maintenance.recovery import TURN
from workflow_engine.redis.keys import Keys

Sql = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def redis_has_kept_its_data(settings: Settings) -> None:
    """Begin with a Redis that has had its data for long."""
    let_redis_remember(settings)


@pytest.fixture
def stand_still(sql: Sql) -> Callable[..., None]:
    """Return a function that lets seconds pass in which executions do not move."""

    def by(seconds: float, *executions: str) -> None:
        earlier = ", ".join(
            f"{time} = {time} - interval '{seconds} seconds'" for time in ("updated_at", "recovered_at")
        )
        where = f"WHERE id IN ({', '.join(f'{id!r}' for id in executions)})" if executions else ""
        sql(f"UPDATE executions SET {earlier} {where}")

    return by


@pytest.fixture
def look(engine: Engine, redis_client: redis.Redis) -> Callable[[], int]:
    """Play a worker whose turn it is to look."""

    def look() -> int:
        redis_client.delete(Keys.of(engine.settings).lease(TURN))
        return rescue(engine)

    return look


@pytest.fixture
def execution(client: WorkflowClient, broker: Broker) -> str:
    """Return an execution that has begun, and whose message is lost."""
    client.deploy(line(one, two))
    execution = client.start("line").id
    broker.queue.clear()
    return execution
