"""An execution of three nodes that count their calls, and processes that serve messages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from support.nodes.line_of_three import calls, start_three_nodes
from support.pool_process import PoolProcess
from workflow_engine import Settings, WorkflowClient


@pytest.fixture(autouse=True)
def _no_calls_yet() -> None:
    calls.clear()


@pytest.fixture
def execution(client: WorkflowClient) -> str:
    """Return the id of an execution of three nodes, just started."""
    return start_three_nodes(client)


@pytest.fixture
def process(settings: Settings, redis_client: redis.Redis) -> Iterator[PoolProcess]:
    process = PoolProcess(settings, redis_client)
    yield process
    process.close()


@pytest.fixture
def other(settings: Settings, redis_client: redis.Redis) -> Iterator[PoolProcess]:
    """Yield a process of another worker."""
    process = PoolProcess(settings, redis_client)
    yield process
    process.close()
