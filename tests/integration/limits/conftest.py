"""A timekeeper that the test plays, and the node types whose attempts hold slots."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from workflow_engine.engine.assembly import Engine
from workflow_engine.maintenance.timekeeper import Timekeeping


@pytest.fixture
def tick(new_engine: Callable[..., Engine], redis_client: redis.Redis) -> Callable[[], float]:
    """Return a function that plays a round of a worker that has just started, and whose turn it is."""
    engine = new_engine()

    def tick() -> float:
        for lease in redis_client.scan_iter("*lease*"):
            redis_client.delete(lease)
        return Timekeeping(engine).round()

    return tick
