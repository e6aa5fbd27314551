"""Workers with a timekeeper that the test plays, and what must hold of every tree of executions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.broker import Broker, Workers
from support.parents import MISCOUNTED, ORPHANS, WAITING_FOR_NOTHING
from workflow_engine.engine.assembly import Engine
from workflow_engine.maintenance.timekeeper import Timekeeping

Sql = Callable[..., Any]


@pytest.fixture
def timekeeping(engine: Engine) -> Timekeeping:
    """Return a worker's timekeeper."""
    return Timekeeping(engine)


@pytest.fixture
def settle(
    workers: Workers, broker: Broker, timekeeping: Timekeeping, time_passes: Callable[[float], None]
) -> Callable[..., None]:
    """Return a function that serves all messages and lets time pass until nothing happens any more."""

    def settle(rounds: int = 20, seconds: float = 60) -> None:
        for _ in range(rounds):
            workers.drain()
            time_passes(seconds)
            timekeeping.round()
            if not broker.queue:
                return

    return settle


@pytest.fixture(autouse=True)
def _trees_are_sound(request: pytest.FixtureRequest, sql: Sql) -> Any:
    """Check after every test that no parent waits for nothing, and no child runs under an ended parent."""
    yield
    assert sql(WAITING_FOR_NOTHING) == []
    assert sql(ORPHANS) == []
    assert sql(MISCOUNTED) == []
